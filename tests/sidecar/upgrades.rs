//! Upgrades: which requests ask for one, and what becomes of the API's answer.

use crate::{
    harness::{Connection, Setup, Sidecar, wait_until},
    raw_api::{Asked, RawApi},
};

/// A handshake as browsers send it (RFC 6455 section 1.3), with a token of the caller's own.
pub(crate) const HANDSHAKE: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: localhost\r\n\
    Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer the-callers-own\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
/// The answer to it.
pub(crate) const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends a request, and gives both connections and what the API got of it.
#[track_caller]
fn ask(api: &RawApi, sidecar: &Sidecar, request: &str) -> (Connection, Connection, Asked) {
    let mut caller = sidecar.connect();
    caller.say(request);
    let (upstream, asked) = api.asked();
    (caller, upstream, asked)
}

fn get(fields: &str) -> String {
    format!("GET /chat HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

fn handshake_for(protocols: &str) -> String {
    HANDSHAKE.replace("Upgrade: websocket", &format!("Upgrade: {protocols}"))
}

/// Checks that a caller's connection goes on: with another request, and the API's answer on any connection.
#[track_caller]
fn assert_serves(api: &RawApi, caller: &mut Connection, upstream: Option<&mut Connection>) {
    caller.say(get(""));
    match upstream {
        Some(upstream) => {
            upstream.asked();
            upstream.say(OK);
        }
        None => api.asked().0.say(OK),
    }
    assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
}

#[test]
fn a_handshake_reaches_the_api_with_the_token_and_its_answer_the_caller() {
    let api = RawApi::start();
    let (provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, asked) = ask(&api, &sidecar, HANDSHAKE);
    assert_eq!(asked.line, "GET /chat?room=1 HTTP/1.1");
    let token = format!("Bearer {}", provider.issued_secrets()[0]);
    assert_eq!(asked.all("authorization"), [token.as_str()]);
    assert_eq!(asked.all("host"), [api.address().to_string().as_str()]);
    assert_eq!((asked.all("connection"), asked.all("upgrade")), (vec!["upgrade"], vec!["websocket"]));
    for (name, value) in [
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ] {
        assert_eq!(asked.all(name), [value]);
    }
    upstream.say(SWITCH);
    let answer = caller.head().expect("an answer");
    assert_eq!(
        (answer.status, answer.header("connection"), answer.header("upgrade")),
        (101, Some("upgrade"), Some("websocket"))
    );
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("sec-websocket-protocol"), Some("chat"));
    caller.say("up");
    upstream.assert_hears("up");
    upstream.say("down");
    caller.assert_hears("down");
}

#[test]
fn a_switch_tells_the_caller_nothing_of_the_apis_connection() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, _) = ask(&api, &sidecar, HANDSHAKE);
    let more = "Connection: Upgrade, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 1";
    upstream.say(SWITCH.replace("Connection: Upgrade", more));
    let answer = caller.head().expect("an answer");
    assert_eq!(
        (answer.status, answer.header("x-kept"), answer.header("connection")),
        (101, Some("1"), Some("upgrade"))
    );
    for name in ["x-private", "keep-alive"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    upstream.say("down");
    caller.assert_hears("down");
}

#[test]
fn a_switch_with_a_length_or_a_coding_still_begins_the_tunnel_at_once() {
    for framing in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
        let api = RawApi::start();
        let (_provider, sidecar) = api.sidecar(|setup| setup);
        let (mut caller, mut upstream, _) = ask(&api, &sidecar, HANDSHAKE);
        upstream.say(SWITCH.replace("Connection: Upgrade", &format!("Connection: Upgrade\r\n{framing}")));
        let answer = caller.head().expect("an answer");
        if answer.status != 101 {
            // Refusing it is as good: it says what it must not (RFC 9110 section 8.6).
            let mut body = Vec::new();
            caller.body(&answer, &mut body).expect("a whole answer");
            assert_eq!(answer.header("x-token-valet-error"), Some("upstream_broken"), "{framing}");
            continue;
        }
        assert_eq!((answer.header("content-length"), answer.header("transfer-encoding")), (None, None), "{framing}");
        upstream.say("down");
        caller.assert_hears("down");
    }
}

#[test]
fn bytes_right_behind_either_head_are_the_tunnels() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, _) = ask(&api, &sidecar, &format!("{HANDSHAKE}early"));
    upstream.say(format!("{SWITCH}first\0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"));
    assert_eq!(caller.head().expect("an answer").status, 101);
    caller.assert_hears("first\0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
    upstream.assert_hears("early");
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer_and_both_connections_go_on() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, _) = ask(&api, &sidecar, HANDSHAKE);
    for (nth, (status, fields)) in
        [("200 OK", ""), ("400 Bad Request", ""), ("426 Upgrade Required", "Upgrade: h2c\r\nConnection: upgrade\r\n")]
            .into_iter()
            .enumerate()
    {
        if nth > 0 {
            caller.say(HANDSHAKE);
            upstream = api.asked().0;
        }
        upstream.say(format!("HTTP/1.1 {status}\r\n{fields}Sec-WebSocket-Version: 13\r\nContent-Length: 2\r\n\r\nno"));
        let answer = caller.response("GET").expect("an answer");
        assert_eq!((answer.status.to_string().as_str(), answer.body.as_slice()), (&status[..3], &b"no"[..]));
        assert_eq!((answer.header("sec-websocket-version"), answer.header("upgrade")), (Some("13"), None));
    }
    assert_serves(&api, &mut caller, Some(&mut upstream));
}

#[test]
fn a_401_to_an_upgrade_is_passed_on_and_the_token_replaced_for_the_next() {
    let api = RawApi::start();
    let (provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, _) = ask(&api, &sidecar, HANDSHAKE);
    upstream.say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
    let answer = caller.response("GET").expect("an answer");
    assert_eq!((answer.status, answer.body.as_slice()), (401, &b"no"[..]));
    wait_until("another token", || provider.exchanges().len() == 2 && provider.issued_secrets().len() >= 2);
    upstream.assert_silent_for(std::time::Duration::from_millis(200));
    assert!(api.accepted().is_none(), "it was sent once");
}

#[test]
fn a_switch_to_what_was_not_asked_for_is_502_and_the_caller_goes_on() {
    for (asked, granted) in [
        ("websocket", "Upgrade: other\r\n"),
        ("websocket", ""),
        ("websocket", "Upgrade: websocket/13\r\n"),
        ("websocket", "Upgrade: websocket\r\nUpgrade: websocket\r\n"),
        ("websocket,", "Upgrade: \r\n"),
        ("websocket, other", "Upgrade: websocket, other\r\n"),
    ] {
        let api = RawApi::start();
        let (_provider, sidecar) = api.sidecar(|setup| setup);
        let (mut caller, mut upstream, _) = ask(&api, &sidecar, &handshake_for(asked));
        upstream.say(SWITCH.replace("Upgrade: websocket\r\n", granted));
        caller.response("GET").expect("an answer").assert_problem(502, "upstream_broken");
        assert_serves(&api, &mut caller, None);
        upstream.assert_ended();
    }
}

#[test]
fn one_of_several_protocols_may_be_granted_in_any_case_of_letters() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, asked) = ask(&api, &sidecar, &handshake_for("other/2, WebSocket"));
    assert_eq!(asked.all("upgrade"), ["other/2, WebSocket"]);
    upstream.say(SWITCH);
    let answer = caller.head().expect("an answer");
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
}

#[test]
fn a_101_that_nobody_asked_for_is_502_and_its_connection_is_not_used_again() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    for request in [get(""), get("Content-Length: 2\r\n").replace("GET", "POST") + "hi"] {
        let (mut caller, mut upstream, _) = ask(&api, &sidecar, &request);
        upstream.say(SWITCH);
        caller.response("GET").expect("an answer").assert_problem(502, "upstream_broken");
        assert_serves(&api, &mut caller, None);
    }
}

#[test]
fn wishes_that_cannot_be_granted_are_taken_out_and_the_request_goes_on() {
    let websocket = "Upgrade: websocket\r\n";
    for (what, request) in [
        ("h2c", get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n")),
        ("h2", get("Connection: Upgrade\r\nUpgrade: h2\r\n")),
        ("h2c in a list", get("Connection: Upgrade\r\nUpgrade: websocket, H2C\r\n")),
        ("h2c behind an upgrade", get("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n")),
        ("h2c before an upgrade", get("Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n")),
        ("TLS", get("Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/1.1\r\n")),
        ("nothing named", get("Connection: Upgrade\r\nUpgrade: ,\r\n")),
        ("not named by Connection", get(websocket)),
        ("nothing but the option", get("Connection: upgrade\r\n")),
        ("HTTP/1.0", get(&format!("Connection: upgrade\r\n{websocket}")).replace("HTTP/1.1", "HTTP/1.0")),
        ("a body", get(&format!("Connection: upgrade\r\n{websocket}Content-Length: 2\r\n")) + "hi"),
        (
            "a body in chunks",
            get(&format!("Connection: upgrade\r\n{websocket}Transfer-Encoding: chunked\r\n")) + "2\r\nhi\r\n0\r\n\r\n",
        ),
    ] {
        let api = RawApi::start();
        let (_provider, sidecar) = api.sidecar(|setup| setup);
        let (mut caller, mut upstream, asked) = ask(&api, &sidecar, &request);
        assert_eq!(asked.line, "GET /chat HTTP/1.1", "{what}");
        for name in ["upgrade", "connection", "http2-settings"] {
            assert!(!asked.has(name), "{what}: {asked:?}");
        }
        if asked.has("content-length") {
            upstream.assert_hears("hi");
        } else if asked.has("transfer-encoding") {
            upstream.assert_hears("2\r\nhi\r\n0\r\n\r\n");
        }
        upstream.say(OK);
        let mut said = vec![0; 15];
        std::io::Read::read_exact(&mut caller.0, &mut said).expect("an answer");
        assert!(said.starts_with(b"HTTP/1.") && said.ends_with(b" 200 OK"), "{what}: {said:?}");
    }
}

#[test]
fn an_upgrade_is_never_sent_on_an_idle_connection_that_the_api_may_be_closing() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, _) = ask(&api, &sidecar, &get(""));
    upstream.say(OK);
    assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
    caller.say(HANDSHAKE);
    let (mut fresh, _) = api.asked();
    fresh.say(SWITCH);
    assert_eq!(caller.head().expect("an answer").status, 101);
    // The idle one is still there for others.
    assert_serves(&api, &mut sidecar.connect(), Some(&mut upstream));
}

#[test]
fn an_upgrade_expects_nothing_for_a_body_that_it_has_not() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let request = HANDSHAKE.replace("Upgrade: websocket", "Upgrade: websocket\r\nExpect: 100-continue");
    let (mut caller, mut upstream, asked) = ask(&api, &sidecar, &request);
    assert!(asked.has("upgrade") && !asked.has("expect"), "{asked:?}");
    upstream.say(SWITCH);
    assert_eq!(caller.head().expect("an answer").status, 101);
}

#[test]
fn an_upgrade_is_logged_like_any_request() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup: Setup| setup.set("log.access", "all"));
    let (mut caller, mut upstream, _) = ask(&api, &sidecar, HANDSHAKE);
    upstream.say(SWITCH);
    assert_eq!(caller.head().expect("an answer").status, 101);
    let line = sidecar.process.logged("a request was forwarded");
    assert_eq!((&line["path"], &line["status"]), (&"/chat".into(), &101.into()));
}
