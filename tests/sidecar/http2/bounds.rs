//! An API over HTTP/2 that says more than it may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use token_valet::sandbox::Settings;

use super::{
    api::{Api, Call, reset_of},
    before, before_address,
    caller::{Caller, answer, request},
    drill::peak,
    frames::{END_HEADERS, END_STREAM, HEADERS, NO_ERROR, Wire, frame, get},
    run,
};
use crate::harness::{Setup, provider, seconds, wait_until};

const KIB: usize = 1024;

fn long(size: usize) -> String {
    "x".repeat(size)
}

#[test]
fn a_head_of_an_answer_over_its_bound_is_502_and_one_at_it_passes() {
    let api = Api::start(|mut call: Call| async move {
        let size = if call.head.uri.path() == "/fits" { 60 * KIB } else { 65 * KIB };
        call.answer(200, &[("x-long", &long(size))], "ok");
    });
    let (_provider, sidecar) = before(&api);
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        for (path, status, reason) in [("/fits", 200, None), ("/large", 502, Some("upstream_broken"))] {
            let answer = caller.get(path).await.expect("an answer");
            assert_eq!((answer.status, answer.reason()), (status, reason), "{path}");
        }
    });
}

fn trailers(size: usize) -> HeaderMap {
    let value = HeaderValue::try_from(long(size)).expect("a value");
    HeaderMap::from_iter([(HeaderName::from_static("x-long"), value)])
}

#[test]
fn trailers_over_their_bound_are_left_out_both_ways() {
    let api = Api::start(|mut call: Call| async move {
        let (_, heard) = call.read().await.expect("a whole request");
        let heard = heard.unwrap_or_default().get("x-long").map_or(0, HeaderValue::len).to_string();
        let size = if call.head.uri.path() == "/fits" { 60 * KIB } else { 65 * KIB };
        let mut stream = call.begin(200, &[("x-heard", &heard)]);
        let _ = stream.send_data("ok".into(), false).and_then(|()| stream.send_trailers(trailers(size)));
    });
    let (_provider, sidecar) = before(&api);
    run(async {
        for (path, sent, heard, answered) in [
            ("/fits", 30 * KIB, 30 * KIB, trailers(60 * KIB)),
            ("/fits", 33 * KIB, 0, trailers(60 * KIB)),
            ("/large", 30 * KIB, 30 * KIB, HeaderMap::new()),
        ] {
            let caller = Caller::connect(sidecar.address).await;
            let head = request("POST", path).header("te", "trailers").body(()).expect("a sound head");
            let (response, mut upload) = caller.send(head, false).await.expect("it listens");
            upload.send_data("hi".into(), false).expect("it listens");
            upload.send_trailers(trailers(sent)).expect("it listens");
            let answer = answer(response).await.expect("a whole answer");
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
            assert_eq!(answer.headers["x-heard"], heard.to_string(), "{path} {sent}");
            assert!(answer.trailers == Some(answered), "{path} {sent}");
        }
    });
}

#[test]
fn interim_answers_without_end_take_no_longer_than_an_answer_may_and_no_memory() {
    let address = Wire::api(|_, wire| {
        let (stream, _) = wire.request()?;
        // `:status: 103`, a literal without indexing.
        let hints = frame(HEADERS, END_HEADERS, stream, &[0x08, 3, b'1', b'0', b'3']).repeat(1_000);
        loop {
            wire.send_bytes(&hints)?;
        }
    });
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider)
        .set("upstream.url", format!("http://{address}"))
        .set("upstream.http", "2")
        .set("upstream.response_timeout", "3s")
        .start();
    assert_eq!(sidecar.ask("TRACE", "/", &[], b"").status, 405);
    let (before, start) = (peak(&sidecar.process), Instant::now());
    sidecar.get("/").assert_problem(504, "response_timeout");
    assert!(start.elapsed() < seconds(15), "{:?}", start.elapsed());
    let after = peak(&sidecar.process);
    // As many as come at once, which are read before anybody looks at them.
    assert!(after < before + 32 * 1024, "VmHWM {before} KiB, then {after} KiB");
}

#[test]
fn a_request_meets_a_bounded_number_of_goodbyes() {
    let sent = Arc::new(AtomicUsize::new(0));
    let address = Wire::api({
        let sent = Arc::clone(&sent);
        move |_, wire| {
            wire.request()?;
            sent.fetch_add(1, SeqCst);
            // None of its streams was looked at.
            wire.go_away(0, NO_ERROR)?;
            wire.drain();
            Ok(())
        }
    });
    let (_provider, sidecar) = before_address(address);
    sidecar.get("/").assert_problem(502, "upstream_broken");
    assert_eq!(sent.load(SeqCst), 9, "once, and again after each of 8 goodbyes");
}

#[test]
fn a_caller_that_says_nothing_to_a_ping_ends_with_its_requests() {
    let was_reset = Arc::new(AtomicUsize::new(0));
    let api = Api::start({
        let was_reset = Arc::clone(&was_reset);
        move |mut call: Call| {
            let was_reset = Arc::clone(&was_reset);
            async move {
                reset_of(&mut call.respond).await;
                was_reset.fetch_add(1, SeqCst);
            }
        }
    });
    let (_provider, sidecar) = before(&api);
    let mut wire = Wire::connect(sidecar.address);
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, &get()).expect("it listens");
    let start = Instant::now();
    wire.ignore();
    wait_until("the request to end", || was_reset.load(SeqCst) == 1);
    let took = start.elapsed();
    assert!(took > seconds(30) && took < seconds(55), "{took:?}");
}
