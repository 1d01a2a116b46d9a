//! What is spoken on a connection, and who decides.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    thread,
};

use token_valet::sandbox::Settings;

use super::{
    api::Api,
    before_address,
    caller::{Caller, request},
    frames::{END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, Wire, frame, get},
    run, setup,
};
use crate::harness::{ACCOUNTS, DEADLINE, ECHO, Setup, provider};

fn offering(offers: &[&[u8]]) -> Api {
    Api::with(Some(offers), h2::server::Builder::new(), |mut call| async move { call.answer(200, &[], "ok") })
}

#[test]
fn callers_of_both_protocols_are_served_side_by_side_on_one_port() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let mut old = sidecar.connect();
    run(async {
        let new = Caller::connect(sidecar.address).await;
        for _ in 0..3 {
            old.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
            let answer = new.get(ACCOUNTS).await.expect("an answer");
            assert_eq!((answer.status, answer.json()["accounts"].as_array().map(Vec::len)), (200, Some(3)));
        }
    });
}

#[test]
fn curl_is_served_over_http2() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let body = "x".repeat(100_000);
    let url = format!("http://{}/sandbox/sink", sidecar.address);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--http2-prior-knowledge", "--write-out", " %{http_version} %{http_code}"]);
    let output = curl.args(["--data-binary", &body, &url]).output().expect("curl is there");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("100000") && text.ends_with(" 2 200"), "{text} {output:?}");
}

#[test]
fn a_preface_that_comes_byte_by_byte_is_http2() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let mut stream = TcpStream::connect(sidecar.address).expect("an open port");
    stream.set_nodelay(true).expect("it is TCP");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &get()));
    for byte in bytes {
        stream.write_all(&[byte]).expect("it listens");
        // Time for others, so that the bytes do not come together.
        assert_eq!(sidecar.probe("/livez"), 200);
    }
    let mut head = [0; 9];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(head[3], SETTINGS, "the first frame of HTTP/2");
}

#[test]
fn half_a_preface_gets_no_longer_than_any_head() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("listen.header_timeout", "200ms").start();
    let mut stream = TcpStream::connect(sidecar.address).expect("an open port");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
    stream.write_all(&PREFACE[..10]).expect("it listens");
    assert_eq!(stream.read(&mut [0; 16]).expect("it is closed, not reset"), 0);
}

#[test]
fn what_begins_like_the_preface_and_is_not_is_http1() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let echo = sidecar.ask("PRINT", ECHO, &[], b"");
    assert_eq!((echo.status, echo.json()["method"].as_str()), (200, Some("PRINT")));

    let before = provider.requests().len();
    let mut stream = TcpStream::connect(sidecar.address).expect("an open port");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
    stream.write_all(b"PRI * HTTP/2.0\r\nHost: localhost\r\n\r\n").expect("it listens");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it is closed");
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(provider.requests().len(), before);
}

#[test]
fn the_protocol_is_the_best_that_both_the_configuration_and_the_api_allow() {
    for (http, offers, spoken) in [
        ("1.1", &[&b"h2"[..], b"http/1.1"][..], "http/1.1"),
        ("2", &[b"http/1.1", b"h2"], "h2"),
        ("auto", &[b"h2", b"http/1.1"], "h2"),
        ("auto", &[b"http/1.1"], "http/1.1"),
        ("auto", &[], "http/1.1"),
    ] {
        let api = offering(offers);
        let provider = provider(Settings::default());
        let sidecar = setup(&provider, &api).set("upstream.http", http).start();
        for _ in 0..3 {
            assert_eq!(sidecar.get("/").status, 200, "{http} {offers:?}");
        }
        let connections = api.record().connections.clone();
        assert!(connections.iter().all(|&one| one == spoken), "{http} {offers:?}: {connections:?}");
        assert_eq!(connections.len(), if spoken == "h2" { 1 } else { 3 }, "{http} {offers:?}");
    }
}

#[test]
fn an_api_without_the_http2_that_is_demanded_gets_no_request() {
    // One says so in the handshake, the other says nothing.
    for offers in [&[&b"http/1.1"[..]][..], &[]] {
        let api = offering(offers);
        let provider = provider(Settings::default());
        let sidecar = setup(&provider, &api).start();
        sidecar.get("/").assert_problem(502, "upstream_connect");
        assert!(api.record().requests.is_empty());
    }
}

#[test]
fn an_upgrade_finds_http1_beside_http2() {
    let api = offering(&[b"h2", b"http/1.1"]);
    let provider = provider(Settings::default());
    let sidecar = setup(&provider, &api).start();
    assert_eq!(sidecar.get("/").status, 200);
    let fields = [("Connection", "upgrade"), ("Upgrade", "websocket")];
    assert_eq!(sidecar.ask("GET", "/", &fields, b"").status, 200, "it was not granted");
    assert_eq!(sidecar.get("/").status, 200);
    assert_eq!(api.record().connections, ["h2", "http/1.1"]);
}

#[test]
fn an_api_that_answers_the_preface_in_http1_gets_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (seen, record) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut preface = [0; 24];
            let _ = stream.read_exact(&mut preface);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.shutdown(Shutdown::Write);
            let mut rest = preface.to_vec();
            let _ = stream.read_to_end(&mut rest);
            let _ = seen.send(rest);
        }
    });
    let (provider, sidecar) = before_address(address);
    sidecar.get("/").assert_problem(502, "upstream_connect");
    let seen = record.recv_timeout(DEADLINE).expect("a connection");
    let token = &provider.issued_secrets()[0];
    assert!(!seen.windows(token.len()).any(|part| part == token.as_bytes()));
    // Nor any other head.
    assert!(seen.len() < 200, "{} bytes", seen.len());
}

#[test]
fn an_api_that_takes_the_connection_and_says_nothing_runs_out_of_time() {
    let address = Wire::api(|_, wire| {
        wire.drain();
        Ok(())
    });
    let provider = provider(Settings::default());
    let url = format!("http://{address}");
    let setup = Setup::partner(&provider).set("upstream.url", url).set("upstream.http", "2");
    let sidecar = setup.set("upstream.response_timeout", "300ms").start();
    run(async {
        let caller = Caller::connect(sidecar.address).await;
        let answer = caller.ask(request("POST", "/"), b"x").await.expect("an answer");
        assert_eq!((answer.status, answer.reason()), (504, Some("response_timeout")));
    });
}
