//! Trailers, both ways: those that may pass do, and those that could change their message do not.

use std::{
    io::{BufRead, Read, Write},
    sync::{Mutex, mpsc::channel},
};

use token_valet::sandbox::Settings;

use crate::{
    harness::{DEADLINE, ECHO, Setup, Sidecar, provider},
    scripted_api::{ScriptedApi, lines},
};

/// Trailers of which the first alone may pass: hyper drops the next four by itself, not the last two.
const TRAILERS: &str = "X-Sum: abc\r\nAuthorization: Bearer stolen\r\nHost: elsewhere\r\nContent-Length: 3\r\n\
     Transfer-Encoding: gzip\r\nProxy-Authorization: Basic eA==\r\nKeep-Alive: timeout=5\r\n";
const DECLARED: &str =
    "Trailer: X-Sum, Authorization, Host, Content-Length, Transfer-Encoding, Proxy-Authorization, Keep-Alive\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

#[test]
fn trailers_of_a_request_arrive_at_the_api_without_those_that_could_change_it() {
    let (send, received) = channel();
    let send = Mutex::new(send);
    let api = ScriptedApi::start(move |mut stream| {
        let mut body = String::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a chunk");
            let size = usize::from_str_radix(line.trim_end(), 16).expect("the size of a chunk");
            if size == 0 {
                break;
            }
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).expect("a chunk");
            body.push_str(&String::from_utf8_lossy(&chunk[..size]));
        }
        let _ = send.lock().expect("no holder panics").send((body, lines(&mut stream)));
        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let (_provider, sidecar) = api.sidecar();
    let mut caller = sidecar.connect();
    let body = "4\r\nbody\r\n3\r\n, 2\r\n0\r\n";
    let request = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{CHUNKED}{DECLARED}\r\n{body}{TRAILERS}\r\n");
    caller.send(request.as_bytes()).expect("it listens");
    assert_eq!(caller.response("POST").expect("an answer").status, 200);

    let (body, trailers) = received.recv_timeout(DEADLINE).expect("a whole request");
    assert_eq!(body, "body, 2");
    let trailers: Vec<_> = trailers.iter().map(|line| line.to_ascii_lowercase()).collect();
    assert_eq!(trailers, ["x-sum: abc"]);
    let head = api.heads()[0].iter().map(|line| line.to_ascii_lowercase()).collect::<Vec<_>>();
    assert!(head.iter().any(|line| line.starts_with("trailer: x-sum")), "{head:?}");
    assert!(!head.iter().any(|line| line.contains("stolen")), "{head:?}");
}

/// Everything of an answer with trailers, to a caller that sends these fields.
fn answered(sidecar: &Sidecar, fields: &str) -> String {
    let mut caller = sidecar.connect();
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    caller.send(request.as_bytes()).expect("it listens");
    let mut answer = Vec::new();
    caller.rest(&mut answer).expect("an orderly end");
    String::from_utf8_lossy(&answer).to_ascii_lowercase()
}

#[test]
fn trailers_of_an_answer_reach_callers_that_take_them() {
    let api = ScriptedApi::start(|mut stream| {
        let answer = format!("HTTP/1.1 200 OK\r\n{CHUNKED}{DECLARED}\r\n4\r\nbody\r\n0\r\n{TRAILERS}\r\n");
        let _ = stream.get_mut().write_all(answer.as_bytes());
    });
    let (_provider, sidecar) = api.sidecar();

    let answer = answered(&sidecar, "Connection: close, TE\r\nTE: trailers\r\n");
    assert!(answer.ends_with("\r\n\r\n4\r\nbody\r\n0\r\nx-sum: abc\r\n\r\n"), "{answer}");
    assert!(api.heads()[0].iter().any(|line| line.eq_ignore_ascii_case("te: trailers")), "{:?}", api.heads());

    // Who does not say so may take them for the start of the next answer.
    let answer = answered(&sidecar, "Connection: close\r\n");
    assert!(answer.ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n"), "{answer}");
}

/// hyper reads trailers that end with a bare line feed on into the next head: what follows a body whose
/// trailers are still to come must not be taken for a request.
#[test]
fn nothing_that_follows_a_chunked_body_which_nobody_reads_is_taken_for_a_request() {
    let api = ScriptedApi::answering(&["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]);
    let (_provider, sidecar) = api.sidecar();
    let hidden = "GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let length = hidden.len();
    let mut caller = sidecar.connect();
    let requests = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n{CHUNKED}\r\n5\r\nhello\r\n0\r\n\
         X: y\r\n\nPOST /second HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{hidden}"
    );
    caller.send(requests.as_bytes()).expect("it listens");
    let refused = caller.response("POST").expect("an answer");
    refused.assert_problem(403, "forbidden");
    assert_eq!(refused.header("connection"), Some("close"));
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = caller.rest(&mut rest);
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    assert!(api.heads().is_empty(), "{:?}", api.heads());
}

#[test]
fn a_connection_goes_on_after_a_chunked_body_that_was_read_to_its_end() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    sidecar.wait_until_it_serves();
    let mut caller = sidecar.connect();
    for _ in 0..3 {
        let request = format!("POST {ECHO} HTTP/1.1\r\nHost: localhost\r\n{CHUNKED}\r\n5\r\nhello\r\n0\r\n\r\n");
        caller.send(request.as_bytes()).expect("it listens");
        let answer = caller.response("POST").expect("an answer on the same connection");
        assert_eq!((answer.status, answer.header("connection")), (200, None), "{answer:?}");
    }
}
