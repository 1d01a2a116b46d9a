//! Answers to requests whose body nobody wants, or not all of it, to callers that first send all.

use std::{io::Write, thread, time::Duration};

use rustix::net::sockopt::set_socket_linger;
use token_valet::{config::TokenFault, sandbox::Settings};

use crate::{
    harness::{ACCOUNTS, SINK, Setup, provider, seconds},
    raw_api::RawApi,
};

/// More than the kernel buffers on both sides.
const BODY: usize = 16 * 1024 * 1024;

#[test]
fn a_refusal_reaches_a_caller_that_sends_all_of_its_body_first() {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::ServerError));
    let sidecar = Setup::partner(&provider).set("token.wait", "0s").start();
    for _ in 0..5 {
        sidecar.ask("POST", SINK, &[], &vec![b'x'; BODY]).assert_problem(503, "token_unavailable");
    }
    let foreign = [("Origin", "https://evil.example")];
    sidecar.ask("POST", SINK, &foreign, &vec![b'x'; BODY]).assert_problem(403, "forbidden");
}

#[test]
fn an_early_answer_of_an_api_that_closes_reaches_a_caller_that_sends_all_of_its_body_first() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    for _ in 0..5 {
        let answer = thread::scope(|scope| {
            let caller = scope.spawn(|| sidecar.ask("POST", "/", &[], &vec![b'x'; BODY]));
            let (mut upstream, _) = api.asked();
            let early = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig";
            upstream.0.get_mut().write_all(early.as_bytes()).expect("it listens");
            // With much unread, so that the kernel resets it.
            drop(upstream);
            caller.join().expect("no panic")
        });
        assert_eq!((answer.status, &answer.body[..]), (413, &b"big"[..]), "{answer:?}");
    }
}

/// What hyper still holds of an answer when its last byte has come from the API is the caller's too.
#[test]
fn a_caller_that_pauses_for_longer_than_a_connection_may_be_idle_gets_all_of_its_answer() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("listen.idle_timeout", "200ms").start();
    thread::scope(|scope| {
        // Somewhere among these, all has left the API and not all has left the sidecar.
        for step in 0..64 {
            let sidecar = &sidecar;
            scope.spawn(move || {
                let count = 2_500_000 + step * 50_000;
                let mut caller = sidecar.connect();
                caller.send_head("GET", &format!("/sandbox/bytes/{count}"), &[]).expect("it listens");
                let head = caller.head().expect("a head");
                // The pause is what is tested.
                thread::sleep(seconds(2));
                let mut body = Vec::new();
                caller.body(&head, &mut body).expect("a whole body");
                assert_eq!(body.len(), count);
            });
        }
    });
}

/// Only the connection's end tells that such an answer is whole, and a reset is no end.
#[test]
fn an_early_answer_that_is_cut_off_by_a_reset_never_looks_whole() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    for _ in 0..10 {
        let answer = thread::scope(|scope| {
            let caller = scope.spawn(|| sidecar.connect().ask("POST", "/", &[], &vec![b'x'; BODY]));
            let (mut upstream, _) = api.asked();
            let part = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nthe first part";
            upstream.0.get_mut().write_all(part.as_bytes()).expect("it listens");
            set_socket_linger(upstream.0.get_ref(), Some(Duration::ZERO)).expect("it is TCP");
            drop(upstream);
            caller.join().expect("no panic")
        });
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 502), "{answer:?}");
    }
}

/// The rest of a refused body is no head that has begun.
#[test]
fn a_connection_is_kept_after_a_refused_upload_for_as_long_as_any_idle_one() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider).set("listen.header_timeout", "300ms").set("listen.idle_timeout", "1h");
    let sidecar = setup.start();
    sidecar.wait_until_it_serves();
    let mut caller = sidecar.connect();
    let fields = [("Origin", "https://evil.example"), ("Content-Length", "300000")];
    caller.send_head("POST", SINK, &fields).expect("it listens");
    caller.response("POST").expect("an answer").assert_problem(403, "forbidden");
    for _ in 0..3 {
        caller.send(&[b'x'; 100_000]).expect("it listens");
        // Each part for itself, and slower than a head may be.
        thread::sleep(Duration::from_millis(500));
    }
    thread::sleep(Duration::from_millis(500));
    caller.ask("GET", ACCOUNTS, &[], b"").expect("the connection is still there").assert_accounts();
}
