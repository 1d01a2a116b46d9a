//! Messages that few send any more: a body of a GET, and callers that speak HTTP/1.0.

use std::{
    io::{Read, Write},
    sync::{Mutex, mpsc::channel},
    thread,
};

use crate::{harness::DEADLINE, raw_api::RawApi, scripted_api::ScriptedApi};

#[test]
fn a_chunked_body_of_a_get_or_head_arrives_at_the_api() {
    const CHUNKED: &str = "4\r\nbody\r\n0\r\n\r\n";
    let (send, received) = channel();
    let send = Mutex::new(send);
    let api = ScriptedApi::start(move |mut stream| {
        // An answer before it would end it.
        let mut body = [0; CHUNKED.len()];
        let _ = stream.read_exact(&mut body);
        let mut body = String::from_utf8_lossy(&body).into_owned();
        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.get_ref().shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_string(&mut body);
        let _ = send.lock().expect("no holder panics").send(body);
    });
    let (_provider, sidecar) = api.sidecar();
    for method in ["PATCH", "GET", "HEAD"] {
        let mut caller = sidecar.connect();
        caller.send_head(method, "/", &[("Transfer-Encoding", "chunked")]).expect("it listens");
        caller.send(CHUNKED.as_bytes()).expect("it listens");
        assert_eq!(caller.head().expect("an answer").status, 200);
        drop(caller);
        let body = received.recv_timeout(DEADLINE);
        assert_eq!(body.as_deref(), Ok(CHUNKED), "{method}: {:?}", api.heads().last());
    }
}

#[test]
fn a_caller_of_http_1_0_is_not_told_of_a_connection_that_is_kept_and_closed() {
    let api = ScriptedApi::answering(&["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"]);
    let (_provider, sidecar) = api.sidecar();
    let mut caller = sidecar.connect();
    caller.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect("it listens");
    let mut answer = Vec::new();
    caller.rest(&mut answer).expect("an orderly end");
    let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    assert!(!answer.contains("\r\nconnection: keep-alive"), "{answer}");
}

#[test]
fn a_part_of_an_answer_does_not_look_whole_to_a_caller_of_http_1_0() {
    let api = ScriptedApi::start(|mut stream| {
        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n");
    });
    let (_provider, sidecar) = api.sidecar();
    let mut caller = sidecar.connect();
    caller.send(b"GET / HTTP/1.0\r\n\r\n").expect("it listens");
    let mut answer = Vec::new();
    let end = caller.rest(&mut answer);
    assert!(end.is_err(), "{}", String::from_utf8_lossy(&answer));
}

/// hyper would speak HTTP/1.0 on it from then on, in which a body without a length cannot be sent.
#[test]
fn a_connection_of_an_api_that_answers_by_http_1_0_is_not_used_again() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    thread::scope(|scope| {
        let caller = scope.spawn(|| sidecar.get("/"));
        let (mut upstream, _) = api.asked();
        upstream.say("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(caller.join().expect("no panic").body, b"hello");
        upstream.assert_ended();

        let mut caller = sidecar.connect();
        caller.send_head("POST", "/", &[("Transfer-Encoding", "chunked")]).expect("it listens");
        caller.send(b"4\r\nbody\r\n0\r\n\r\n").expect("it listens");
        let (mut upstream, asked) = api.asked();
        assert!(asked.line.ends_with(" HTTP/1.1"), "{asked:?}");
        upstream.assert_hears("4\r\nbody\r\n0\r\n\r\n");
        upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(caller.response("POST").expect("an answer").status, 200);
    });
}
