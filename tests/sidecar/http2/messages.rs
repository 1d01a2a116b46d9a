//! What passes, and how it looks on the other side.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use token_valet::sandbox::{ApiFault, Settings};

use super::{
    api::{Api, Call},
    before,
    caller::{Answer, Caller, answer, request},
    frames::{END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Wire},
    run, setup,
};
use crate::harness::{ACCOUNTS, ECHO, Setup, Sidecar, provider};

async fn ok(mut call: Call) {
    call.answer(200, &[], "ok");
}

fn ask(sidecar: &Sidecar, request: http::request::Builder, body: &[u8]) -> Answer {
    run(async { Caller::connect(sidecar.address).await.ask(request, body).await.expect("an answer") })
}

fn lines(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII").to_owned()).collect()
}

#[test]
fn api_gets_the_token_and_its_own_authority_and_nothing_of_the_callers_connection() {
    let api = Api::start(ok);
    let (provider, sidecar) = before(&api);
    let fields = [
        ("Authorization", "Bearer the-callers-own"),
        ("Connection", "keep-alive, te, X-Private"),
        ("X-Private", "for the sidecar alone"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "gzip, trailers"),
        ("X-Kept", "first"),
        ("X-Kept", "second"),
    ];
    assert_eq!(sidecar.ask("GET", "/a?b", &fields, b"").status, 200);
    let over_http2 = request("GET", "/a?b")
        .header("authorization", "Bearer the-callers-own")
        .header("te", "trailers")
        .header("x-kept", "first")
        .header("x-kept", "second");
    assert_eq!(ask(&sidecar, over_http2, b"").status, 200);

    let record = api.record();
    assert_eq!(record.requests.len(), 2);
    for head in &record.requests {
        assert_eq!(head.uri.to_string(), format!("http://{}/a?b", api.authority()));
        let mut got: Vec<_> = head.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().expect("ASCII"))).collect();
        got.sort_unstable();
        let token = format!("Bearer {}", provider.issued_secrets()[0]);
        let expected =
            [("authorization", token.as_str()), ("te", "trailers"), ("x-kept", "first"), ("x-kept", "second")];
        assert_eq!(got, expected);
    }
}

#[test]
fn crumbs_of_a_cookie_are_one_line_for_an_http1_api() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let crumbs = request("GET", ECHO).header("cookie", "a=1").header("cookie", "b=2").header("cookie", "c=3");
    let echo = ask(&sidecar, crumbs, b"").json();
    let fields = echo["headers"].as_array().expect("an echo");
    let cookies: Vec<_> = fields.iter().filter(|field| field[0] == "cookie").map(|field| &field[1]).collect();
    assert_eq!(cookies, ["a=1; b=2; c=3"]);
    let hosts = fields.iter().filter(|field| field[0] == "host").map(|field| &field[1]);
    assert_eq!(hosts.collect::<Vec<_>>(), [&provider.address().to_string()]);
}

#[test]
fn lines_of_set_cookie_stay_separate() {
    let api = Api::start(|mut call: Call| async move {
        call.answer(200, &[("set-cookie", "a=1"), ("set-cookie", "b=2; Path=/")], "ok");
    });
    let (_provider, sidecar) = before(&api);
    let old = sidecar.get("/");
    let cookies: Vec<_> = old.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, v)| v).collect();
    assert_eq!(cookies, ["a=1", "b=2; Path=/"]);
    let new = ask(&sidecar, request("GET", "/"), b"");
    assert_eq!(lines(&new.headers, "set-cookie"), ["a=1", "b=2; Path=/"]);
}

/// Uploads with a trailer.
async fn ask_with_trailer(sidecar: &Sidecar) -> Answer {
    let caller = Caller::connect(sidecar.address).await;
    let head = request("POST", "/").header("te", "trailers").header("trailer", "x-sum");
    let (response, mut upload) = caller.send(head.body(()).expect("a head"), false).await.expect("it listens");
    upload.send_data(Bytes::from_static(b"body"), false).expect("it listens");
    let sum = [("x-sum".parse().expect("a name"), HeaderValue::from_static("up"))];
    upload.send_trailers(HeaderMap::from_iter(sum)).expect("it listens");
    answer(response).await.expect("an answer")
}

#[test]
fn trailers_pass_both_ways_over_http2() {
    let api = Api::start(|mut call: Call| async move {
        let (body, trailers) = call.read().await.expect("a whole body");
        let mut stream = call.begin(200, &[("trailer", "x-sum")]);
        stream.send_data(body.into(), false).expect("it listens");
        let mut trailers = trailers.expect("there are trailers");
        trailers.append("x-sum", HeaderValue::from_static("down"));
        stream.send_trailers(trailers).expect("it listens");
    });
    let (_provider, sidecar) = before(&api);
    let answer = run(ask_with_trailer(&sidecar));
    assert_eq!((answer.status, &answer.body[..]), (200, &b"body"[..]));
    assert_eq!(lines(&answer.trailers.expect("there are trailers"), "x-sum"), ["up", "down"]);
}

#[test]
fn trailers_pass_both_ways_to_an_http1_api() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let api = thread::spawn(move || {
        let mut stream = listener.accept().expect("the sidecar connects").0;
        let mut seen = Vec::new();
        let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
        while !seen.ends_with(b"x-sum: up\r\n\r\n") {
            assert_ne!(
                reader.read_until(b'\n', &mut seen).expect("a request"),
                0,
                "{}",
                String::from_utf8_lossy(&seen)
            );
        }
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: down\r\n\r\n";
        stream.write_all(answer).expect("it listens");
    });
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("upstream.url", format!("http://{address}")).start();
    let answer = run(ask_with_trailer(&sidecar));
    assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
    assert_eq!(lines(&answer.trailers.expect("there are trailers"), "x-sum"), ["down"]);
    api.join().expect("the API saw what it should");
}

#[test]
fn answers_without_a_body_have_none_and_keep_their_length() {
    let api = Api::start(|mut call: Call| async move {
        match (call.head.method.as_str(), call.head.uri.path()) {
            ("HEAD", _) => call.answer(200, &[("content-length", "1234")], ""),
            (_, "/204") => call.answer(204, &[], ""),
            (_, "/304") => call.answer(304, &[("etag", "\"a\"")], ""),
            _ => call.answer(200, &[("content-length", "5")], "hello"),
        }
    });
    let (_provider, sidecar) = before(&api);
    for (method, path, status, length, body) in [
        ("HEAD", "/", 200, Some("1234"), ""),
        ("GET", "/204", 204, None, ""),
        ("GET", "/304", 304, None, ""),
        ("GET", "/", 200, Some("5"), "hello"),
    ] {
        let old = sidecar.ask(method, path, &[], b"");
        let case = format!("{method} {path}: {old:?}");
        let got = (old.status, old.header("content-length"), String::from_utf8_lossy(&old.body));
        assert_eq!(got, (status, length, body.into()), "{case}");
        let new = ask(&sidecar, request(method, path), b"");
        let new_length = new.headers.get("content-length").map(|value| value.to_str().expect("ASCII"));
        assert_eq!((new.status, new_length, &new.body[..]), (status, length, body.as_bytes()), "{new:?}");
    }
}

#[test]
fn methods_and_targets_pass_byte_for_byte() {
    let api = Api::start(ok);
    let (_provider, sidecar) = before(&api);
    let targets = ["/", "//", "/?", "/a//b/../c/./d;v=1", "/%2F%2e%fF?x=%00&y=a+b%20c&&z", "/a?next=https://b/?c=d"];
    for target in targets {
        assert_eq!(sidecar.get(target).status, 200);
        assert_eq!(ask(&sidecar, request("brew", target), b"").status, 200);
    }
    assert_eq!(sidecar.ask("OPTIONS", "*", &[], b"").status, 200);
    let record = api.record();
    let seen: Vec<_> = record.requests.iter().map(|head| (head.method.as_str(), &head.uri)).collect();
    for (pair, target) in seen.chunks(2).zip(targets) {
        for ((method, uri), expected) in pair.iter().zip(["GET", "brew"]) {
            assert_eq!((*method, uri.to_string()), (expected, format!("http://{}{target}", api.authority())));
        }
    }
    let (method, uri) = seen.last().expect("there were requests");
    assert_eq!((*method, uri.path()), ("OPTIONS", "*"), "{uri:?}");
}

#[test]
fn what_makes_no_sense_is_refused_and_not_forwarded() {
    let api = Api::start(ok);
    let (_provider, sidecar) = before(&api);
    let elsewhere = ask(&sidecar, request("GET", "/").header("host", "elsewhere"), b"");
    assert_eq!((elsewhere.status, elsewhere.reason()), (400, Some("bad_request")));
    let connect = http::Request::builder().method("CONNECT").uri("elsewhere:443");
    let connect = ask(&sidecar, connect, b"");
    assert_eq!((connect.status, connect.reason()), (405, Some("method_not_allowed")));
    let trace = ask(&sidecar, request("TRACE", "/"), b"");
    assert_eq!((trace.status, trace.reason()), (405, Some("method_not_allowed")));
    assert!(api.record().requests.is_empty());
}

#[test]
fn interim_answers_come_before_the_answer_and_do_not_take_its_place() {
    let api = Api::start(|mut call: Call| async move {
        let hints = http::Response::builder().status(103).body(()).expect("a head");
        call.respond.send_informational(hints).expect("it listens");
        call.answer(200, &[], "ok");
    });
    let (_provider, sidecar) = before(&api);
    assert_eq!(sidecar.get("/").body, b"ok");
    assert_eq!(ask(&sidecar, request("GET", "/"), b"").body, b"ok");
}

#[test]
fn a_rejected_token_is_replaced_and_the_request_sent_again_with_its_body() {
    let api = Api::start(|mut call: Call| async move {
        let (body, _) = call.read().await.expect("a whole body");
        if call.number == 0 { call.answer(401, &[], "") } else { call.answer(200, &[], body) }
    });
    let (provider, sidecar) = before(&api);
    let answer = ask(&sidecar, request("POST", "/"), b"a body that is kept");
    assert_eq!((answer.status, &answer.body[..]), (200, &b"a body that is kept"[..]));
    let tokens = provider.issued_secrets();
    let sent: Vec<_> = api.record().requests.iter().map(|head| lines(&head.headers, "authorization")).collect();
    assert_eq!(sent, [[format!("Bearer {}", tokens[0])], [format!("Bearer {}", tokens[1])]]);
}

#[test]
fn a_revoked_consent_passes_to_a_caller_over_http2() {
    let provider = provider(Settings::default());
    provider.set_api_fault(Some(ApiFault::ConsentRevoked));
    let sidecar = Setup::partner(&provider).start();
    let answer = ask(&sidecar, request("GET", ACCOUNTS), b"");
    assert_eq!((answer.status, answer.reason(), answer.json()["code"].to_string()), (401, None, "602".into()));
    assert_eq!(provider.requests().len(), 1);
}

/// The library that reads HTTP/2 would log it, before any code of ours could keep it out.
#[test]
fn a_path_that_cannot_be_read_is_not_in_the_log_at_any_level() {
    let api = Api::start(ok);
    let provider = provider(Settings::default());
    let sidecar = setup(&provider, &api).set("log.level", "trace").start();
    let mut wire = Wire::connect(sidecar.address);
    let path = b"/accounts?iban=DE89 3704";
    // Literal, by the name of the fourth entry of the static table (RFC 7541 appendix A).
    let mut block = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).expect("short")];
    block.extend_from_slice(path);
    block.extend_from_slice(&[0x01, 9]);
    block.extend_from_slice(b"localhost");
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, &block).expect("it listens");
    while wire.next().is_ok_and(|frame| frame.kind != RST_STREAM) {}
    sidecar.process.signal(rustix::process::Signal::TERM);
    sidecar.process.logged("drained");
    assert!(!sidecar.process.stderr().contains("iban"), "{}", sidecar.process.stderr());
    assert!(api.record().requests.is_empty());
}
