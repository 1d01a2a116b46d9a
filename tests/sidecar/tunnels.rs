//! The life of a tunnel, once both sides have agreed to change the protocol.

use std::{
    io::{Read, Write},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    harness::{Connection, Setup, Sidecar, holds_for, wait_until},
    raw_api::{RawApi, timed},
    upgrades::{HANDSHAKE, SWITCH},
};

const SHORT: Duration = Duration::from_millis(300);

/// A tunnel: the caller's end and the API's.
#[track_caller]
fn tunnel(api: &RawApi, sidecar: &Sidecar) -> (Connection, Connection) {
    let mut caller = sidecar.connect();
    caller.say(HANDSHAKE);
    let (mut upstream, _) = api.asked();
    upstream.say(SWITCH);
    assert_eq!(caller.head().expect("an answer").status, 101);
    (caller, upstream)
}

/// Checks that bytes pass both ways.
#[track_caller]
fn assert_joined(caller: &mut Connection, upstream: &mut Connection) {
    caller.say("up");
    upstream.assert_hears("up");
    upstream.say("down");
    caller.assert_hears("down");
}

/// Some megabytes of which no two pieces are alike.
fn noise(mut state: u32, megabytes: usize) -> Vec<u8> {
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..megabytes * 256 * 1024).flat_map(|_| next()).collect()
}

#[test]
fn megabytes_both_ways_at_once_arrive_byte_for_byte() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (caller, upstream) = tunnel(&api, &sidecar);
    let (up, down) = (noise(1, 8), noise(2, 8));
    thread::scope(|scope| {
        for (end, sent, expected) in [(&caller, &up, &down), (&upstream, &down, &up)] {
            let stream = end.0.get_ref();
            scope.spawn(move || {
                let mut stream = stream;
                stream.write_all(sent).expect("an open tunnel");
            });
            scope.spawn(move || {
                let mut got = vec![0; expected.len()];
                let mut stream = stream;
                stream.read_exact(&mut got).expect("all of it");
                assert!(got == *expected, "it is not what was sent");
            });
        }
    });
}

#[test]
fn an_end_that_has_said_all_still_hears_the_other() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    for callers_first in [true, false] {
        let (caller, upstream) = tunnel(&api, &sidecar);
        let (mut first, mut second) = if callers_first { (caller, upstream) } else { (upstream, caller) };
        first.say("last words");
        first.half_close();
        second.assert_hears("last words");
        second.assert_ended();
        second.say(noise(3, 1));
        second.say("goodbye");
        assert!(first.exactly(1024 * 1024) == noise(3, 1));
        first.assert_hears("goodbye");
        drop(second);
        first.assert_ended();
    }
}

#[test]
fn an_end_that_goes_away_ends_the_other() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, upstream) = tunnel(&api, &sidecar);
    drop(upstream);
    caller.assert_ended();
    let (caller, mut upstream) = tunnel(&api, &sidecar);
    drop(caller);
    upstream.assert_ended();
    // With bytes that it has not read: the kernel resets the connection.
    for callers in [true, false] {
        let (caller, upstream) = tunnel(&api, &sidecar);
        let (mut leaving, mut staying) = if callers { (caller, upstream) } else { (upstream, caller) };
        staying.say("unread");
        wait_until("bytes to be there", || leaving.0.get_ref().peek(&mut [0]).is_ok());
        leaving.say("half a mess");
        drop(leaving);
        let mut heard = Vec::new();
        let _ = staying.rest(&mut heard);
        assert!(b"half a mess".starts_with(&heard), "{heard:?}");
    }
}

#[test]
fn several_tunnels_are_kept_apart() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("listen.threads", 2));
    let mut tunnels: Vec<_> = (0..20).map(|_| tunnel(&api, &sidecar)).collect();
    for round in 0..3 {
        for (nth, (caller, upstream)) in tunnels.iter_mut().enumerate() {
            caller.say(format!("up {round} {nth};"));
            upstream.say(format!("down {round} {nth};"));
        }
        for (nth, (caller, upstream)) in tunnels.iter_mut().enumerate().rev() {
            caller.assert_hears(format!("down {round} {nth};"));
            upstream.assert_hears(format!("up {round} {nth};"));
        }
    }
}

// Time.

#[test]
fn a_silent_tunnel_is_closed_after_its_time_and_a_busy_one_is_not() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("upstream.tunnel_idle_timeout", "600ms"));
    let (mut silent, mut silent_upstream) = tunnel(&api, &sidecar);
    let (mut busy, mut busy_upstream) = tunnel(&api, &sidecar);
    let (_, closed_after) = timed(|| {
        // One way is enough, whichever; the busy one outlives four times its time.
        for nth in 0..24 {
            thread::sleep(Duration::from_millis(100));
            let (from, to) = if nth < 12 { (&mut busy, &mut busy_upstream) } else { (&mut busy_upstream, &mut busy) };
            from.say("tick");
            to.assert_hears("tick");
        }
    });
    assert!(closed_after > Duration::from_millis(2_400));
    silent.assert_ended();
    silent_upstream.assert_ended();
    assert_joined(&mut busy, &mut busy_upstream);
    let (_, took) = timed(|| busy.assert_ended());
    assert!(took > Duration::from_millis(500), "{took:?}");
}

#[test]
fn times_of_requests_and_connections_are_not_the_tunnels() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| {
        setup
            .set("listen.idle_timeout", "300ms")
            .set("listen.header_timeout", "300ms")
            .set("upstream.idle_body_timeout", "300ms")
            .set("upstream.pool_idle_timeout", "300ms")
    });
    let (mut caller, mut upstream) = tunnel(&api, &sidecar);
    caller.assert_silent_for(Duration::from_millis(1_200));
    assert_joined(&mut caller, &mut upstream);
    // Nor is what looks like the start of a request.
    caller.say("GET / HTTP/1.1\r\nHo");
    upstream.assert_hears("GET / HTTP/1.1\r\nHo");
    caller.assert_silent_for(Duration::from_millis(900));
    assert_joined(&mut caller, &mut upstream);
}

// Places.

#[test]
fn a_tunnel_keeps_its_places_until_it_ends() {
    let api = RawApi::start();
    for (key, target) in [("listen.max_connections", "/"), ("upstream.max_in_flight", "/")] {
        let (_provider, sidecar) = api.sidecar(|setup: Setup| setup.set(key, 1));
        let (caller, mut upstream) = tunnel(&api, &sidecar);
        holds_for(SHORT, "its place is taken", || {
            let refused = sidecar.get(target);
            refused.assert_problem(503, "overloaded");
            true
        });
        drop(caller);
        upstream.assert_ended();
        drop(upstream);
        wait_until("the place to be free", || {
            let mut caller = sidecar.connect();
            caller.say("TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            caller.response("TRACE").expect("an answer").status == 405
        });
    }
}

// The drain.

#[test]
fn the_drain_waits_for_a_tunnel_to_end() {
    let api = RawApi::start();
    let (_provider, mut sidecar) = api.sidecar(|setup| setup.set("shutdown.grace", "1h"));
    let (mut caller, mut upstream) = tunnel(&api, &sidecar);
    sidecar.process.signal(Signal::TERM);
    sidecar.process.logged("ending");
    caller.assert_silent_for(SHORT);
    assert_joined(&mut caller, &mut upstream);
    assert!(!sidecar.process.stderr().contains("drained"));
    drop(upstream);
    caller.assert_ended();
    drop(caller);
    assert_eq!(sidecar.process.exit_code(), 0);
    sidecar.process.logged("drained");
}

#[test]
fn a_tunnel_that_outlasts_the_grace_is_cut_off() {
    let api = RawApi::start();
    let (_provider, mut sidecar) = api.sidecar(|setup| setup.set("shutdown.grace", "500ms"));
    let (mut caller, mut upstream) = tunnel(&api, &sidecar);
    sidecar.process.signal(Signal::TERM);
    assert_eq!(sidecar.process.exit_code(), 0);
    sidecar.process.logged("requests were cut off: `shutdown.grace` is over");
    caller.assert_ended();
    upstream.assert_ended();
}

#[test]
fn an_upgrade_under_way_when_the_drain_begins_is_still_granted() {
    let api = RawApi::start();
    let (_provider, mut sidecar) = api.sidecar(|setup| setup.set("shutdown.grace", "1h"));
    let mut caller = sidecar.connect();
    caller.say(HANDSHAKE);
    let (mut upstream, _) = api.asked();
    sidecar.process.signal(Signal::TERM);
    sidecar.process.logged("ending");
    wait_until("the port to be closed", || std::net::TcpStream::connect(sidecar.address).is_err());
    upstream.say(SWITCH);
    let answer = caller.head().expect("an answer");
    // `close` may stand beside it: of HTTP there is nothing to come (RFC 9110 section 7.8).
    let connection = answer.header("connection").expect("the option");
    assert!(answer.status == 101 && connection.split(", ").any(|option| option == "upgrade"), "{answer:?}");
    assert_joined(&mut caller, &mut upstream);
    drop(caller);
    upstream.assert_ended();
    drop(upstream);
    assert_eq!(sidecar.process.exit_code(), 0);
}
