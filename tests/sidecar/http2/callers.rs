//! Callers that go away, hurry ahead, or do not read.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use token_valet::sandbox::Settings;
use tokio::time::sleep;

use super::{
    api::{Api, Call, reset_of},
    before,
    caller::{Caller, answer, request},
    eventually, run,
};
use crate::{
    harness::{Setup, provider},
    scripted_api::ScriptedApi,
};

/// An API that never answers, and counts the streams that are reset instead.
fn waiting() -> (Api, Arc<AtomicUsize>) {
    let resets = Arc::new(AtomicUsize::new(0));
    let api = Api::start({
        let resets = Arc::clone(&resets);
        move |mut call: Call| {
            let resets = Arc::clone(&resets);
            async move {
                if reset_of(&mut call.respond).await == Some(Reason::CANCEL) {
                    resets.fetch_add(1, SeqCst);
                }
            }
        }
    });
    (api, resets)
}

#[test]
fn a_request_that_its_caller_resets_ends_at_the_api() {
    let (api, resets) = waiting();
    let (_provider, sidecar) = before(&api);
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        let (response, mut stream) =
            caller.send(request("GET", "/").body(()).expect("a head"), true).await.expect("it listens");
        eventually("the request to arrive", || api.record().requests.len() == 1).await;
        stream.send_reset(Reason::CANCEL);
        drop(response);
        eventually("the request to end", || resets.load(SeqCst) == 1).await;
        // The connections on both sides are as good as before.
        assert!(!caller.driver.is_finished());
    });
    assert_eq!(api.record().connections.len(), 1);
}

#[test]
fn all_requests_of_a_caller_that_goes_away_end_at_the_api() {
    let (api, resets) = waiting();
    let (_provider, sidecar) = before(&api);
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        let mut pending = Vec::new();
        for _ in 0..5 {
            let head = request("GET", "/").body(()).expect("a head");
            pending.push(caller.send(head, true).await.expect("it listens"));
        }
        eventually("the requests to arrive", || api.record().requests.len() == 5).await;
        drop(caller);
        eventually("the requests to end", || resets.load(SeqCst) == 5).await;
    });
}

#[test]
fn an_answer_during_an_upload_arrives_and_ends_it() {
    let api = Api::start(|mut call: Call| async move {
        // Dropping the rest resets the stream with `NO_ERROR` after the answer (RFC 9113 section 8.1).
        call.answer(413, &[], "too much");
    });
    let (_provider, sidecar) = before(&api);
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        let head = request("POST", "/").body(()).expect("a head");
        let (response, mut upload) = caller.send(head, false).await.expect("it listens");
        upload.send_data(Bytes::from_static(&[0; 1024]), false).expect("it listens");
        let answer = answer(response).await.expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (413, &b"too much"[..]));
    });
}

/// What callers leave unread must not stop what others are waiting for.
#[test]
fn callers_that_do_not_read_do_not_hold_up_those_that_do() {
    const LARGE: usize = 8 * 1024 * 1024;
    let api = Api::start(|mut call: Call| async move {
        let size = if call.head.uri.path() == "/large" { LARGE } else { 100 * 1024 };
        let mut stream = call.begin(200, &[]);
        // An error means that the caller has gone.
        let _ = stream.send_data(vec![b'x'; size].into(), true);
        let _ = reset_of(&mut call.respond).await;
    });
    let (_provider, sidecar) = before(&api);
    run(async {
        let mut idle = Vec::new();
        for _ in 0..8 {
            let caller = Caller::connect(sidecar.address).await;
            let head = request("GET", "/large").body(()).expect("a head");
            let (response, stream) = caller.send(head, true).await.expect("it listens");
            let response = response.await.expect("a head");
            idle.push((caller, response, stream));
        }
        let caller = Caller::connect(sidecar.address).await;
        for _ in 0..3 {
            assert_eq!(caller.get("/").await.expect("an answer").body.len(), 100 * 1024);
        }
    });
}

#[test]
fn uploads_that_the_api_does_not_take_do_not_hold_up_those_that_it_does() {
    let mut settings = h2::server::Builder::new();
    settings.initial_connection_window_size(1 << 24);
    let api = Api::with(None, settings, |mut call: Call| async move {
        if call.head.uri.path() == "/never" {
            let _ = reset_of(&mut call.respond).await;
        } else {
            let (body, _) = call.read().await.expect("a whole body");
            call.answer(200, &[], body.len().to_string());
        }
    });
    let (_provider, sidecar) = before(&api);
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        let mut idle = Vec::new();
        for _ in 0..16 {
            let head = request("POST", "/never").body(()).expect("a head");
            let (response, mut upload) = caller.send(head, false).await.expect("it listens");
            upload.send_data(vec![b'x'; 1024 * 1024].into(), true).expect("it listens");
            idle.push((response, upload));
        }
        eventually("the uploads to begin", || api.record().requests.len() == 16).await;
        let answer = caller.ask(request("POST", "/"), &[b'x'; 300 * 1024]).await.expect("an answer");
        assert_eq!(answer.body, (300 * 1024).to_string().as_bytes());
    });
}

#[test]
fn a_caller_that_reads_slowly_but_steadily_gets_all_of_its_answer() {
    const SIZE: usize = 1024 * 1024;
    let api = ScriptedApi::start(|mut stream| {
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n");
        // An error means that the sidecar has gone, which the test will notice.
        let _ = stream.get_mut().write_all(head.as_bytes()).and_then(|()| stream.get_mut().write_all(&[b'x'; SIZE]));
    });
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider).set("upstream.url", format!("http://{}", api.address()));
    let sidecar = setup.set("upstream.idle_body_timeout", "1s").start();
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        let head = request("GET", "/").body(()).expect("a head");
        let (response, _) = caller.send(head, true).await.expect("it listens");
        let mut body = response.await.expect("a head").into_body();
        let mut read = 0;
        while let Some(part) = body.data().await {
            let part = part.unwrap_or_else(|error| panic!("{read} bytes, then {error}"));
            read += part.len();
            // 160 KB a second, which is what is tested.
            sleep(Duration::from_micros(part.len() as u64 * 6)).await;
            body.flow_control().release_capacity(part.len()).expect("it was read");
        }
        assert_eq!(read, SIZE);
    });
}
