//! An API that refuses requests, or says goodbye: what it has not processed is sent again, nothing else.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use futures_util::{StreamExt, stream};

use super::{
    api::{Api, Call},
    before, before_address,
    caller::Caller,
    frames::{CANCEL, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, Wire},
    run,
};
use crate::harness::Sidecar;

/// Bodies of the requests as they came, in order.
type Seen = Arc<Mutex<Vec<String>>>;

fn note(seen: &Seen, body: &[u8]) -> usize {
    let mut seen = seen.lock().expect("no holder panics");
    seen.push(String::from_utf8_lossy(body).into_owned());
    seen.len()
}

fn seen(seen: &Seen) -> Vec<String> {
    seen.lock().expect("no holder panics").clone()
}

/// An API that does `first` to its first requests, `count` of them, and answers the others.
fn refusing(
    count: usize,
    first: impl Fn(&mut Wire, u32) -> std::io::Result<()> + Clone + Send + 'static,
) -> (SocketAddr, Seen) {
    let record = Seen::default();
    let address = Wire::api({
        let record = Arc::clone(&record);
        move |_, wire| {
            loop {
                let (stream, body) = wire.request()?;
                if note(&record, &body) <= count { first(wire, stream)? } else { wire.answer(stream, b"ok")? }
            }
        }
    });
    (address, record)
}

#[test]
fn a_refused_request_is_sent_once_more_whatever_its_method() {
    let (address, record) = refusing(1, |wire, stream| wire.reset(stream, REFUSED_STREAM));
    let (_provider, sidecar) = before_address(address);
    assert_eq!(sidecar.ask("POST", "/", &[], b"a small body").status, 200);
    assert_eq!(seen(&record), ["a small body", "a small body"]);
}

#[test]
fn a_request_that_is_refused_for_ever_is_sent_twice() {
    let (address, record) = refusing(usize::MAX, |wire, stream| wire.reset(stream, REFUSED_STREAM));
    let (_provider, sidecar) = before_address(address);
    sidecar.ask("POST", "/", &[], b"1").assert_problem(502, "upstream_broken");
    assert_eq!(seen(&record), ["1", "1"]);
    sidecar.get("/").assert_problem(502, "upstream_broken");
    assert_eq!(seen(&record), ["1", "1", "", ""]);
}

#[test]
fn a_request_that_is_reset_for_another_reason_is_not_sent_again() {
    for code in [INTERNAL_ERROR, CANCEL, NO_ERROR] {
        let (address, record) = refusing(1, move |wire, stream| wire.reset(stream, code));
        let (_provider, sidecar) = before_address(address);
        sidecar.ask("POST", "/", &[], b"1").assert_problem(502, "upstream_broken");
        // The connection is as good as before.
        assert_eq!(sidecar.ask("POST", "/", &[], b"2").status, 200);
        assert_eq!(seen(&record), ["1", "2"], "{code}");
    }
}

#[test]
fn a_request_that_a_goodbye_leaves_out_is_sent_on_a_new_connection() {
    let (address, record) = refusing(1, |wire, _| {
        wire.go_away(0, NO_ERROR)?;
        wire.drain();
        Ok(())
    });
    let (_provider, sidecar) = before_address(address);
    assert_eq!(sidecar.ask("POST", "/", &[], b"a small body").status, 200);
    assert_eq!(seen(&record), ["a small body", "a small body"]);
}

#[test]
fn a_request_that_a_goodbye_includes_is_not_sent_again() {
    for code in [NO_ERROR, INTERNAL_ERROR] {
        let (address, record) = refusing(1, move |wire, stream| {
            wire.go_away(stream, code)?;
            Err(std::io::ErrorKind::ConnectionAborted.into())
        });
        let (_provider, sidecar) = before_address(address);
        sidecar.ask("POST", "/", &[], b"1").assert_problem(502, "upstream_broken");
        assert_eq!(sidecar.ask("POST", "/", &[], b"2").status, 200);
        assert_eq!(seen(&record), ["1", "2"], "{code}");
    }
}

#[test]
fn a_request_under_way_at_a_goodbye_is_answered_and_the_next_goes_to_a_new_connection() {
    let connections = Arc::new(Mutex::new(Vec::new()));
    let address = Wire::api({
        let connections = Arc::clone(&connections);
        move |number, wire| {
            loop {
                let (stream, _) = wire.request()?;
                connections.lock().expect("no holder panics").push(number);
                if number == 0 {
                    wire.go_away(stream, NO_ERROR)?;
                }
                wire.answer(stream, b"ok")?;
            }
        }
    });
    let (_provider, sidecar) = before_address(address);
    for _ in 0..3 {
        assert_eq!(sidecar.ask("POST", "/", &[], b"x").body, b"ok");
    }
    assert_eq!(*connections.lock().expect("no holder panics"), [0, 1, 1]);
}

/// So many requests, up to `at_once` at a time; gives how many were not answered with 200.
fn losses(sidecar: &Sidecar, count: usize, at_once: usize) -> Vec<String> {
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        let asked = stream::iter(0..count).map(|_| caller.get("/")).buffer_unordered(at_once);
        let lost = asked.filter_map(|answer| async {
            match answer {
                Ok(answer) if answer.status == 200 => None,
                other => Some(format!("{other:?}")),
            }
        });
        lost.collect().await
    })
}

#[test]
fn nothing_is_lost_while_the_api_says_goodbye_again_and_again() {
    for (every, at_once) in [(50, 20), (50, 100), (5, 100)] {
        let api = Api::start(move |mut call: Call| async move {
            if call.number % every == every - 1 {
                call.goodbye.notify_one();
            }
            call.answer(200, &[], "ok");
        });
        let (_provider, sidecar) = before(&api);
        let lost = losses(&sidecar, 500, at_once);
        assert!(lost.is_empty(), "{every} {at_once}: {} {}", lost.len(), lost[0]);
        let connections = api.record().connections.len();
        assert!(connections > 1, "{every} {at_once}: {connections}");
    }
}

/// As nginx does at the end of `keepalive_requests`: a goodbye at once, and no word to what comes after it.
#[test]
fn nothing_is_lost_while_the_api_takes_fifty_requests_a_connection_and_leaves_out_the_rest() {
    let (served, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let address = Wire::api({
        let (served, connections) = (Arc::clone(&served), Arc::clone(&connections));
        move |_, wire| {
            connections.fetch_add(1, SeqCst);
            for number in 1..=50 {
                let (stream, _) = wire.request()?;
                if number == 50 {
                    wire.go_away(stream, NO_ERROR)?;
                }
                wire.answer(stream, b"ok")?;
                served.fetch_add(1, SeqCst);
            }
            wire.drain();
            Ok(())
        }
    });
    let (_provider, sidecar) = before_address(address);
    let lost = losses(&sidecar, 500, 20);
    assert!(lost.is_empty(), "{}: {}", lost.len(), lost[0]);
    assert_eq!(served.load(SeqCst), 500);
    assert!(connections.load(SeqCst) >= 10);
}

#[test]
fn an_api_that_vanishes_is_noticed_and_its_connection_not_used_again() {
    let address = Wire::api(|number, wire| {
        let (stream, _) = wire.request()?;
        if number == 0 {
            // Takes what comes, and says nothing, not even to a ping.
            wire.ignore();
        }
        wire.answer(stream, b"ok")?;
        wire.drain();
        Ok(())
    });
    let (_provider, sidecar) = before_address(address);
    // Pinged after ten seconds, given up ten seconds later; long before the minute of `response_timeout`.
    let answer = run(async {
        let caller = Caller::connect(sidecar.address).await;
        caller.get("/").await.expect("an answer")
    });
    assert_eq!((answer.status, answer.reason()), (502, Some("upstream_broken")));
    assert_eq!(sidecar.get("/").status, 200);
}
