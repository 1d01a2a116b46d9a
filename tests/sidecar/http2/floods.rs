//! Callers that mean harm, or look like it.

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use super::{
    api::{Api, Call},
    before,
    caller::{Caller, request},
    drill::peak,
    eventually,
    frames::{
        CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, REFUSED_STREAM, RST_STREAM, Wire, frame,
        get,
    },
    run,
};
use crate::harness::Sidecar;

async fn ok(mut call: Call) {
    call.answer(200, &[], "ok");
}

async fn is_served(sidecar: &Sidecar) {
    let caller = Caller::connect(sidecar.address).await;
    assert_eq!(caller.get("/honest").await.expect("an answer").status, 200);
}

/// Whether the sidecar has ended the connection, said goodbye or not.
fn is_over(wire: &mut Wire) -> bool {
    loop {
        match wire.next() {
            Ok(frame) if frame.kind == GOAWAY => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn requests_that_are_reset_at_once_end_their_connection_and_no_other() {
    let api = Api::start(ok);
    let (_provider, sidecar) = before(&api);
    let mut wire = Wire::connect(sidecar.address);
    let mut flood = Vec::new();
    for number in 0..5_000 {
        let stream = 2 * number + 1;
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get()));
        flood.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
    }
    // An error means that the connection is closed already.
    let _ = wire.send_bytes(&flood);
    run(is_served(&sidecar));
    assert!(is_over(&mut wire));
    run(is_served(&sidecar));
    let reached = api.record().requests.iter().filter(|head| head.uri.path() == "/").count();
    assert!(reached < 1_000, "{reached} of 5000 requests reached the API");
}

#[test]
fn a_head_without_end_is_cut_off_in_bounded_memory() {
    let api = Api::start(ok);
    let (_provider, sidecar) = before(&api);
    run(is_served(&sidecar));
    let before = peak(&sidecar.process);
    let mut wire = Wire::connect(sidecar.address);
    wire.send(HEADERS, END_STREAM, 1, &get()).expect("it listens");
    // A frame full of one field, literal, never indexed; over and over, 64 MiB.
    let mut field = vec![0x10, 1, b'a', 0x7f, 0xfb, 0x7e];
    field.resize(16 * 1024, b'x');
    let continuation = frame(CONTINUATION, 0, 1, &field);
    let sent = (0..4_096).take_while(|_| wire.send_bytes(&continuation).is_ok()).count();
    assert!(sent < 4_096 || is_over(&mut wire));
    run(is_served(&sidecar));
    let after = peak(&sidecar.process);
    assert!(after < before + 4 * 1024, "VmHWM {before} KiB, then {after} KiB");
}

#[test]
fn empty_continuations_without_end_are_cut_off() {
    let api = Api::start(ok);
    let (_provider, sidecar) = before(&api);
    let mut wire = Wire::connect(sidecar.address);
    wire.send(HEADERS, END_STREAM, 1, &get()).expect("it listens");
    let continuations = frame(CONTINUATION, 0, 1, &[]).repeat(100);
    let sent = (0..10_000).take_while(|_| wire.send_bytes(&continuations).is_ok()).count();
    assert!(sent < 10_000 || is_over(&mut wire));
    run(is_served(&sidecar));
}

#[test]
fn a_head_that_is_too_large_is_refused_and_not_forwarded() {
    let api = Api::start(ok);
    let (_provider, sidecar) = before(&api);
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        let large = request("GET", "/large").header("x-large", "x".repeat(40 * 1024));
        match caller.ask(large, b"").await {
            Ok(answer) => assert_eq!(answer.status, 431),
            Err(error) => assert!(error.is_remote() || error.is_library(), "{error:?}"),
        }
        let fits = request("GET", "/fits").header("x-large", "x".repeat(30 * 1024));
        let again = Caller::connect(sidecar.address).await;
        assert_eq!(again.ask(fits, b"").await.expect("an answer").status, 200);
    });
    let paths: Vec<_> = api.record().requests.iter().map(|head| head.uri.path().to_owned()).collect();
    assert_eq!(paths, ["/fits"]);
}

#[test]
fn more_requests_at_once_than_allowed_are_refused_and_the_others_served() {
    let is_open = Arc::new(AtomicBool::new(false));
    let api = Api::start({
        let is_open = Arc::clone(&is_open);
        move |mut call: Call| {
            let is_open = Arc::clone(&is_open);
            async move {
                eventually("the test to go on", || is_open.load(SeqCst)).await;
                call.answer(200, &[], "ok");
            }
        }
    });
    let (_provider, sidecar) = before(&api);
    let mut wire = Wire::connect(sidecar.address);
    for number in 0..200 {
        wire.send(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &get()).expect("it listens");
    }
    let (mut refused, mut answered) = (0, 0);
    while refused + answered < 200 {
        let frame = wire.next().expect("an answer to each");
        match frame.kind {
            RST_STREAM => {
                assert_eq!(frame.code(), REFUSED_STREAM);
                refused += 1;
                is_open.store(refused == 72, SeqCst);
            }
            DATA if frame.ends_stream() => answered += 1,
            GOAWAY => panic!("the connection is to go on"),
            _ => {}
        }
    }
    assert_eq!((refused, answered), (72, 128));
    assert_eq!(api.record().requests.len(), 128);
}
