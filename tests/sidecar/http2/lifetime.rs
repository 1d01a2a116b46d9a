//! How long a caller's connection lasts.

use rustix::process::Signal;
use token_valet::sandbox::Settings;
use tokio::time::sleep;

use super::{
    api::{Api, Call, reset_of},
    caller::{Caller, answer, request},
    eventually,
    frames::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, Wire, get},
    run, setup,
};
use crate::harness::{POLL, provider, seconds, wait_until};

/// Answers `/slow` after a second, anything else at once.
async fn slow(mut call: Call) {
    if call.head.uri.path() == "/slow" {
        sleep(seconds(1)).await;
    }
    call.answer(200, &[], "ok");
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let api = Api::start(slow);
    let provider = provider(Settings::default());
    let sidecar = setup(&provider, &api).set("listen.idle_timeout", "200ms").start();
    run(async {
        let (busy, idle) = (Caller::connect(sidecar.address).await, Caller::connect(sidecar.address).await);
        assert_eq!(idle.get("/").await.expect("an answer").status, 200);
        assert_eq!(busy.get("/slow").await.expect("an answer").status, 200);
        assert!(idle.driver.is_finished(), "it was idle for five times as long as it may be");
        eventually("the other to be closed too", || busy.driver.is_finished()).await;
    });
}

#[test]
fn a_connection_without_any_request_is_closed() {
    let api = Api::start(slow);
    let provider = provider(Settings::default());
    let sidecar = setup(&provider, &api).set("listen.header_timeout", "200ms").start();
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        eventually("it to be closed", || caller.driver.is_finished()).await;
    });
}

#[test]
fn a_drain_lets_requests_end_and_says_goodbye() {
    let api = Api::start(slow);
    let provider = provider(Settings::default());
    let mut sidecar = setup(&provider, &api).start();
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        let head = request("GET", "/slow").body(()).expect("a head");
        let (response, _) = caller.send(head, true).await.expect("it listens");
        eventually("the request to arrive", || api.record().requests.len() == 1).await;
        sidecar.process.signal(Signal::TERM);
        let answer = answer(response).await.expect("it is answered all the same");
        assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
        eventually("the connection to be closed", || caller.driver.is_finished()).await;
    });
    assert_eq!(sidecar.process.exit_code(), 0);
}

#[test]
fn a_drain_closes_idle_connections_with_a_goodbye() {
    let api = Api::start(slow);
    let provider = provider(Settings::default());
    let mut sidecar = setup(&provider, &api).start();
    let mut wire = Wire::connect(sidecar.address);
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, &get()).expect("it listens");
    while !wire.next().expect("an answer").ends_stream() {}
    sidecar.process.signal(Signal::TERM);
    let frame = wire.next().expect("a goodbye");
    assert_eq!((frame.kind, frame.code()), (GOAWAY, 0));
    wire.drain();
    assert_eq!(sidecar.process.exit_code(), 0);
}

#[test]
fn an_idle_connection_is_told_goodbye_before_it_is_closed() {
    let api = Api::start(slow);
    let provider = provider(Settings::default());
    let sidecar = setup(&provider, &api).set("listen.idle_timeout", "200ms").start();
    let mut wire = Wire::connect(sidecar.address);
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, &get()).expect("it listens");
    while !wire.next().expect("an answer").ends_stream() {}
    let frame = wire.next().expect("a goodbye");
    assert_eq!((frame.kind, frame.code()), (GOAWAY, 0));
}

#[test]
fn an_answer_that_its_caller_leaves_unread_gives_its_place_up_and_the_others_go_on() {
    const LARGE: usize = 4 * 1024 * 1024;
    let api = Api::start(|mut call: Call| async move {
        let large = call.head.uri.path() == "/large";
        call.answer(200, &[], vec![b'x'; if large { LARGE } else { 10 }]);
        let _ = reset_of(&mut call.respond).await;
    });
    let provider = provider(Settings::default());
    let sidecar =
        setup(&provider, &api).set("upstream.idle_body_timeout", "300ms").set("upstream.max_in_flight", 1).start();
    run(async {
        // One answer does not use up the window of the others.
        let mut settings = h2::client::Builder::new();
        settings.initial_connection_window_size(1 << 20);
        let caller = Caller::with(sidecar.address, &settings).await;
        let head = request("GET", "/large").body(()).expect("a head");
        let (response, _) = caller.send(head, true).await.expect("it listens");
        let unread = response.await.expect("a head");
        assert_eq!(unread.status(), 200);
        assert_eq!(caller.get("/").await.expect("an answer").status, 503, "the only place is taken");
        while caller.get("/").await.expect("an answer").status != 200 {
            sleep(POLL).await;
        }
        // What was left out is not passed off as the end.
        let mut body = unread.into_body();
        let mut read = 0;
        while let Some(part) = body.data().await {
            let Ok(part) = part else { return };
            read += part.len();
            let _ = body.flow_control().release_capacity(part.len());
        }
        panic!("{read} bytes look like all of them");
    });
}

#[test]
fn a_drain_does_not_wait_for_an_idle_caller_to_hear_the_goodbye() {
    let api = Api::start(slow);
    let provider = provider(Settings::default());
    // Longer than the test waits for the end.
    let mut sidecar = setup(&provider, &api).set("shutdown.grace", "60s").start();
    let mut wire = Wire::connect(sidecar.address);
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, &get()).expect("it listens");
    while !wire.next().expect("an answer").ends_stream() {}
    sidecar.process.signal(Signal::TERM);
    // Nothing is read, nor said, until the process has ended.
    assert_eq!(sidecar.process.exit_code(), 0);
}

#[test]
fn a_connection_over_the_limit_is_told_goodbye_however_busy_it_is() {
    let api = Api::start(slow);
    let provider = provider(Settings::default());
    let sidecar = setup(&provider, &api).set("listen.max_connections", 1).start();
    let mut first = sidecar.connect();
    assert_eq!(first.ask("GET", "/", &[], b"").expect("an answer").status, 200);
    run(async {
        let surplus = Caller::connect(sidecar.address).await;
        while !surplus.driver.is_finished() {
            // An error means that the end has come in between.
            if let Ok(answer) = surplus.get("/").await {
                assert_eq!(answer.status, 503);
            }
            sleep(POLL).await;
        }
    });
}

#[test]
fn an_upload_that_the_api_leaves_standing_after_its_answer_gives_all_it_has_up() {
    let api = Api::start(|mut call: Call| async move {
        call.answer(200, &[], "ok");
        if call.head.method == "POST" {
            // The upload is neither read nor reset.
            sleep(seconds(3_600)).await;
        }
    });
    let provider = provider(Settings::default());
    let sidecar = setup(&provider, &api)
        .set("upstream.idle_body_timeout", "400ms")
        .set("upstream.pool_idle_timeout", "400ms")
        .set("listen.idle_timeout", "200ms")
        .set("listen.max_connections", 1)
        .start();
    run(async {
        let uploader = Caller::connect(sidecar.address).await;
        let head = request("POST", "/").body(()).expect("a head");
        let (response, mut upload) = uploader.send(head, false).await.expect("it listens");
        // More than the API's window and the sidecar's buffer take.
        upload.send_data(vec![b'x'; 2 * 1024 * 1024].into(), false).expect("it listens");
        assert_eq!(answer(response).await.expect("an answer").status, 200);
        eventually("the connection to count as idle", || uploader.driver.is_finished()).await;
    });
    wait_until("the place to be free", || sidecar.get("/").status == 200);
    // hyper would hold what it has of the upload for as long as the connection lives.
    wait_until("the connections to the API to be closed", || {
        let record = api.record();
        record.ended == record.connections.len()
    });
}
