//! A request's way to the API and back: what passes, what is changed, what ends here.

use std::io;

use serde_json::json;
use token_valet::sandbox::{ApiFault, Certificate, Provider, Settings};

use crate::harness::{ACCOUNTS, Connection, ECHO, SINK, Setup, Sidecar, provider, sha256, wait_for, wait_until};

fn start() -> (Provider, Sidecar) {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    (provider, sidecar)
}

fn last_target(provider: &Provider) -> Option<String> {
    provider.requests().last().map(|seen| seen.target.clone())
}

/// Some megabytes that no two pieces of are alike.
fn megabytes(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..count * 256 * 1024).flat_map(|_| next()).collect()
}

/// Checks that a body broke off in a way that its reader cannot take for its end, or for patience.
#[track_caller]
fn assert_broken(result: io::Result<()>) {
    let error = result.expect_err("a body that broke off must not look whole");
    let kind = error.kind();
    assert!(matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{error:?}");
}

// What passes.

#[test]
fn methods_pass_as_they_are() {
    let (_provider, sidecar) = start();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "brew"] {
        let echo = sidecar.ask(method, ECHO, &[], b"").json();
        assert_eq!(echo["method"], method);
    }
    let echo = sidecar.ask("POST", ECHO, &[], "{\"a\": \"é\"}".as_bytes()).json();
    assert_eq!(echo["body"], "{\"a\": \"é\"}");
}

#[test]
fn paths_and_queries_pass_byte_for_byte() {
    let (provider, sidecar) = start();
    let mut caller = sidecar.connect();
    for target in [
        "/",
        "//",
        "/?",
        "/a//b/../c/./d;v=1",
        "/%2F%2e%fF?x=%00&y=a+b%20c&&z",
        "/sandbox/echo?next=https://elsewhere.example/?a=b",
        "/api/fdx/5/accounts?accountId=1&accountId=2&resultType=",
    ] {
        caller.ask("GET", target, &[], b"").expect("an answer");
        assert_eq!(last_target(&provider).as_deref(), Some(target));
    }
    // RFC 9112 section 3.2.2: the absolute form of a target, as callers send it that take this for a proxy.
    caller.ask("GET", "http://localhost/a?b", &[], b"").expect("an answer");
    assert_eq!(last_target(&provider).as_deref(), Some("/a?b"));
}

#[test]
fn path_of_the_upstream_url_comes_first() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider).set("upstream.url", format!("{}/sandbox/", provider.api_url()));
    let sidecar = setup.start();
    assert_eq!(sidecar.get("/echo?a=%2F").json()["target"], "/sandbox/echo?a=%2F");
    // Out of it, by whatever name.
    for path in ["/../x", "/%2e%2e/x", "/a//b", "/a;b"] {
        sidecar.get(path).assert_problem(403, "forbidden");
    }
    assert_eq!(last_target(&provider).as_deref(), Some("/sandbox/echo?a=%2F"));
}

#[test]
fn api_gets_the_token_and_its_own_host_and_nothing_of_the_callers_connection() {
    let (provider, sidecar) = start();
    let fields = [
        ("Authorization", "Bearer the-callers-own"),
        ("Authorization", "Basic dTpw"),
        ("Accept", "application/json"),
        ("X-Kept", "first"),
        ("X-Kept", "second"),
        ("X-Kept", "first"),
        ("Cookie", "a=b"),
        ("X-Fapi-Interaction-Id", "42"),
        ("Connection", "keep-alive, X-Private"),
        ("X-Private", "for the sidecar alone"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic dTpw"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "gzip, trailers"),
    ];
    let echo = sidecar.ask("GET", ECHO, &fields, b"");
    assert_eq!(echo.echoed("x-kept"), ["first", "second", "first"]);

    let mut got: Vec<(String, String)> = serde_json::from_value(echo.json()["headers"].clone()).expect("pairs");
    got.sort();
    let token = format!("Bearer {}", provider.issued_secrets()[0]);
    let host = provider.address().to_string();
    let mut expected = [
        ("accept", "application/json"),
        ("authorization", token.as_str()),
        // The wish for trailers goes on, as this hop's own.
        ("connection", "te"),
        ("te", "trailers"),
        ("cookie", "a=b"),
        ("host", host.as_str()),
        ("x-fapi-interaction-id", "42"),
        ("x-kept", "first"),
        ("x-kept", "first"),
        ("x-kept", "second"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    expected.sort();
    assert_eq!(got, expected, "nothing is added, and nothing else is lost");
}

#[test]
fn head_has_the_fields_of_get_and_no_body() {
    let (_provider, sidecar) = start();
    let mut caller = sidecar.connect();
    let got = caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer");
    let head = caller.ask("HEAD", ACCOUNTS, &[], b"").expect("an answer");
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/json")));
    assert_eq!(head.header("content-length"), Some(got.body.len().to_string().as_str()));
    // A body would be read as the head of this.
    caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
}

#[test]
fn connection_of_a_caller_serves_request_after_request() {
    let (provider, sidecar) = start();
    let mut caller = sidecar.connect();
    for number in 0..20 {
        let target = format!("/sandbox/bytes/{}", number * 100);
        assert_eq!(caller.ask("GET", &target, &[], b"").expect("an answer").body.len(), number * 100);
        caller.ask("POST", SINK, &[], b"body").expect("an answer");
    }
    caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    assert_eq!(provider.tally().valid, 41);
}

#[test]
fn connection_close_is_heeded() {
    let (_provider, sidecar) = start();
    let mut caller = sidecar.connect();
    let answer = caller.ask("GET", ACCOUNTS, &[("Connection", "close")], b"").expect("an answer");
    answer.assert_accounts();
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(caller.read_some().expect("an orderly end"), 0);
}

#[test]
fn caller_that_expects_100_continue_gets_it_once_there_is_a_token() {
    let (_provider, sidecar) = start();
    let mut caller = sidecar.connect();
    caller.send_head("POST", SINK, &[("Expect", "100-continue"), ("Content-Length", "5")]).expect("it listens");
    assert_eq!(caller.head().expect("an interim answer").status, 100);
    caller.send(b"hello").expect("it listens");
    let answer = caller.response("POST").expect("an answer");
    assert_eq!(answer.json(), json!({ "bytes": 5, "sha256": sha256(b"hello") }));
}

#[test]
fn answers_of_the_api_pass_unchanged_even_when_they_are_errors() {
    let (provider, sidecar) = start();
    for (fault, status, code) in [
        (ApiFault::ConsentRevoked, 401, 602),
        (ApiFault::TooManyRequests, 429, 1207),
        (ApiFault::Maintenance, 503, 503),
    ] {
        provider.set_api_fault(Some(fault));
        let answer = sidecar.get(ACCOUNTS);
        assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)));
        assert_eq!(answer.header("x-token-valet-error"), None);
        assert_eq!(answer.header("retry-after").is_some(), status == 429);
        assert!(answer.header("ob-correlation-id").is_some());
        if status == 503 {
            let line = sidecar.process.logged("the API failed a request");
            assert_eq!(line["ob_correlation_id"].as_str(), answer.header("ob-correlation-id"));
            assert_eq!((&line["path"], &line["status"]), (&json!(ACCOUNTS), &json!(503)));
        }
    }
    assert_eq!(provider.exchanges().len(), 1, "the API's own errors cost no token");
}

// Bodies.

#[test]
fn upload_arrives_whole_and_before_its_end() {
    let (provider, sidecar) = start();
    let body = megabytes(4);
    let expected = json!({ "bytes": body.len(), "sha256": sha256(&body) });
    let (first, second) = body.split_at(body.len() / 2);

    let mut caller = sidecar.connect();
    let length = body.len().to_string();
    caller.send_head("POST", SINK, &[("Content-Length", &length)]).expect("it listens");
    caller.send(&first[..1]).expect("it listens");
    wait_until("the API to have the request", || provider.requests().len() == 1);
    caller.send(&first[1..]).expect("it listens");
    caller.send(second).expect("it listens");
    assert_eq!(caller.response("POST").expect("an answer").json(), expected);

    caller.send_head("POST", SINK, &[("Transfer-Encoding", "chunked")]).expect("it listens");
    for piece in [&first[..1], &first[1..], second] {
        caller.send(format!("{:x}\r\n", piece.len()).as_bytes()).expect("it listens");
        caller.send(piece).expect("it listens");
        caller.send(b"\r\n").expect("it listens");
    }
    wait_until("the API to have the request", || provider.requests().len() == 2);
    caller.send(b"0\r\n\r\n").expect("it listens");
    assert_eq!(caller.response("POST").expect("an answer").json(), expected);
}

#[test]
fn download_arrives_whole_in_either_framing() {
    let (_provider, sidecar) = start();
    let count = 5_000_000;
    let expected = sha256(&vec![b'x'; count]);
    let mut caller = sidecar.connect();
    for (kind, framing) in [("bytes", "content-length"), ("chunked", "transfer-encoding")] {
        let answer = caller.ask("GET", &format!("/sandbox/{kind}/{count}"), &[], b"").expect("an answer");
        assert!(answer.header(framing).is_some(), "{:?}", answer.headers);
        assert_eq!((answer.body.len(), sha256(&answer.body)), (count, expected.clone()));
    }
}

#[test]
fn download_arrives_before_its_end() {
    let (_provider, sidecar) = start();
    let mut caller = sidecar.connect();
    // The second byte is an hour away.
    caller.send_head("GET", "/sandbox/drip/2/3600000", &[]).expect("it listens");
    assert_eq!(caller.head().expect("a head").status, 200);
    assert!(caller.read_some().expect("the first byte") > 0);
}

#[test]
fn answer_that_breaks_off_at_the_api_breaks_off_here() {
    let (provider, sidecar) = start();
    provider.set_api_fault(Some(ApiFault::DieInBody));
    let mut caller = sidecar.connect();
    caller.send_head("GET", ACCOUNTS, &[]).expect("it listens");
    let head = caller.head().expect("a head");
    assert_eq!(head.status, 200);
    let mut got = Vec::new();
    assert_broken(caller.body(&head, &mut got));
    assert!(got.len() >= 64 * 1024, "what came before is passed on: {}", got.len());
    assert_eq!(sidecar.process.logged("an answer broke off")["path"], ACCOUNTS);
    provider.set_api_fault(None);

    // Chunked: only the last chunk tells the end from a loss.
    let mut caller = sidecar.connect();
    caller.send_head("GET", "/sandbox/drip/100000/20", &[]).expect("it listens");
    let head = caller.head().expect("a head");
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert!(caller.read_some().expect("some of it") > 0);
    provider.go_down();
    // Reading starts anywhere in a chunk, so the raw bytes are looked at.
    let mut rest = Vec::new();
    let end = caller.rest(&mut rest);
    match end {
        Ok(()) => assert!(!rest.ends_with(b"0\r\n\r\n"), "a clean end after a loss"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error:?}"),
    }
}

#[test]
fn bodies_that_stand_still_are_given_up() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("upstream.idle_body_timeout", "300ms").start();
    let mut caller = sidecar.connect();
    caller.send_head("GET", "/sandbox/drip/2/3600000", &[]).expect("it listens");
    let head = caller.head().expect("a head");
    assert_broken(caller.body(&head, &mut io::sink()));

    let mut caller = sidecar.connect();
    caller.send_head("POST", SINK, &[("Content-Length", "10")]).expect("it listens");
    caller.send(b"half ").expect("it listens");
    caller.response("POST").expect("an answer").assert_problem(408, "body_timeout");
}

// What fails.

#[test]
fn api_that_refuses_connections_is_502_and_served_again_when_it_is_back() {
    let (provider, sidecar) = start();
    sidecar.get(ACCOUNTS).assert_accounts();
    provider.go_down();
    for _ in 0..3 {
        sidecar.get(ACCOUNTS).assert_problem(502, "upstream_connect");
    }
    let line = sidecar.process.logged("a request was not served");
    assert_eq!((&line["level"], &line["reason"]), (&json!("WARN"), &json!("upstream_connect")));
    provider.come_back();
    sidecar.get(ACCOUNTS).assert_accounts();
    assert_eq!(provider.exchanges().len(), 1);
}

#[test]
fn idle_connection_that_the_api_closed_costs_no_request() {
    let (provider, sidecar) = start();
    for _ in 0..10 {
        sidecar.get(ACCOUNTS).assert_accounts();
        provider.go_down();
        provider.come_back();
        // Even one that must not be sent twice.
        assert_eq!(sidecar.ask("POST", SINK, &[], b"once").status, 200);
    }
    assert_eq!(provider.tally().valid, 20);
}

#[test]
fn api_with_a_certificate_that_is_not_believed_is_502_and_gets_no_token() {
    let provider = provider(Settings::default());
    for certificate in [Certificate::Expired, Certificate::OtherHost, Certificate::Valid] {
        let impostor = self::provider(Settings { certificate, ..Settings::default() });
        // The valid one is signed by an authority that is not believed.
        let ca = if certificate == Certificate::Valid { provider.ca_pem() } else { impostor.ca_pem() };
        let setup = Setup::partner(&provider).set("upstream.url", impostor.api_url());
        let sidecar = setup.set_file("upstream.ca_file", ca).start();
        sidecar.get(ACCOUNTS).assert_problem(502, "upstream_tls");
        assert!(impostor.requests().is_empty() && impostor.exchanges().is_empty());
        assert!(provider.requests().is_empty());
    }
    assert!(provider.exchanges().len() >= 3);
}

#[test]
fn api_that_does_not_answer_in_time_is_504() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("upstream.response_timeout", "500ms").start();
    sidecar.get("/sandbox/slow/3600000").assert_problem(504, "response_timeout");
    assert_eq!(provider.requests()[0].status, None);
}

#[test]
fn connect_is_refused() {
    let (provider, sidecar) = start();
    sidecar.ask("CONNECT", "elsewhere.example:443", &[], b"").assert_problem(405, "method_not_allowed");
    assert!(provider.requests().is_empty());
}

#[test]
fn what_is_not_http_is_400_and_a_large_head_431() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("listen.max_header_bytes", "8KiB").start();
    let mut caller = sidecar.connect();
    caller.send(b"\x16\x03\x01 this is TLS\r\n\r\n").expect("it listens");
    assert_eq!(caller.response("GET").expect("an answer").status, 400);

    let padding = "x".repeat(9_000);
    let mut caller = sidecar.connect();
    caller.send_head("GET", ACCOUNTS, &[("X-Padding", &padding)]).expect("it listens");
    assert_eq!(caller.head().expect("an answer").status, 431);
    assert!(provider.requests().is_empty());
}

#[test]
fn requests_over_the_limit_are_503_until_a_caller_goes_away() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("upstream.max_in_flight", 1).start();
    let mut first = sidecar.connect();
    // An hour: its place is free again only because its caller went away.
    first.send_head("GET", "/sandbox/slow/3600000", &[]).expect("it listens");
    wait_until("the API to have the request", || provider.requests().len() == 1);

    let refused = sidecar.get(ACCOUNTS);
    refused.assert_problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));

    drop(first);
    wait_for("the place to be free", || {
        let answer = sidecar.get(ACCOUNTS);
        (answer.status == 200).then_some(answer)
    })
    .assert_accounts();
    assert_eq!(provider.requests()[0].status, None);
}

#[test]
fn connections_over_the_limit_are_503_at_once_until_one_is_closed() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("listen.max_connections", 1).start();
    let mut first = sidecar.connect();
    first.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    let mut second = Connection::open(sidecar.address);
    let refused = second.ask("GET", ACCOUNTS, &[], b"").expect("an answer");
    refused.assert_problem(503, "overloaded");
    assert_eq!((refused.header("retry-after"), refused.header("connection")), (Some("1"), Some("close")));
    assert_eq!(second.read_some().expect("an orderly end"), 0);
    first.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    assert_eq!(provider.requests().len(), 2, "nothing of it reached the API");
    drop(first);
    wait_until("the place to be free", || sidecar.get(ACCOUNTS).status == 200);
}

#[test]
fn heads_that_servers_may_read_differently_are_refused_and_the_connection_closed() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    sidecar.wait_until_it_serves();
    let before = provider.requests().len();
    for head in [
        "Host: a\r\nHost: a\r\n",
        "Host:\r\n",
        "X-None: 1\r\n",
        "Host: a\r\nTransfer-Encoding: chunked, chunked\r\n",
        "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
    ] {
        let mut caller = sidecar.connect();
        caller.send(format!("POST {SINK} HTTP/1.1\r\n{head}\r\n").as_bytes()).expect("an open connection");
        let answer = caller.head().expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{head}");
        caller.rest(&mut Vec::new()).expect("the connection is closed");
    }
    assert_eq!(provider.requests().len(), before, "nothing reached the API");
}

#[test]
fn a_caller_that_stops_sending_is_told_so_also_when_the_api_may_take_as_long() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider)
        .set("upstream.idle_body_timeout", "500ms")
        .set("upstream.response_timeout", "500ms")
        .start();
    let mut caller = sidecar.connect();
    caller.send_head("POST", SINK, &[("Content-Length", "10")]).expect("it listens");
    caller.send(b"half ").expect("it listens");
    caller.response("POST").expect("an answer").assert_problem(408, "body_timeout");
}
