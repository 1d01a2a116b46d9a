//! `Expect: 100-continue` from end to end: a body is on its way only once the API wants it.

use std::time::Duration;

use crate::{
    harness::{Connection, Response},
    raw_api::{Asked, RawApi, timed},
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Less than the second after which a body is sent unasked.
const SHORT: Duration = Duration::from_millis(400);

/// The head of a request whose body is `hello`, and these fields.
fn post(fields: &str) -> String {
    format!("POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n{fields}\r\n")
}

const EXPECTANT: &str = "Expect: 100-continue\r\n";

/// A caller that waits for leave to send its body, and the API that has its request.
#[track_caller]
fn expectant(api: &RawApi, sidecar: &crate::harness::Sidecar) -> (Connection, Connection, Asked) {
    // So that the second is not spent on the first token.
    let mut caller = sidecar.connect();
    caller.say(post(EXPECTANT));
    let (upstream, asked) = api.asked();
    (caller, upstream, asked)
}

/// Checks that a caller was answered without its body, and that nothing it sends can be taken for another request.
#[track_caller]
fn assert_over(caller: &mut Connection, api: &RawApi, upstream: &mut Connection) {
    // The body after all, or another request in its place: neither may reach the API as a request.
    let _ = caller.send(b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n");
    caller.assert_ended();
    upstream.assert_ended();
    assert!(api.accepted().is_none(), "no other request was made of it");
}

#[test]
fn a_body_is_held_back_until_the_api_asks_for_it() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, asked) = expectant(&api, &sidecar);
    assert_eq!(asked.all("expect"), ["100-continue"]);
    assert_eq!(asked.all("content-length"), ["5"]);
    caller.assert_silent_for(SHORT);
    upstream.assert_silent_for(Duration::from_millis(1));
    upstream.say("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(caller.head().expect("an interim answer").status, 100);
    caller.say("hello");
    upstream.assert_hears("hello");
    upstream.say(OK);
    assert_eq!(caller.response("POST").expect("an answer").body, b"ok");
    // Both connections go on.
    caller.say(post(EXPECTANT));
    assert_eq!(upstream.asked().all("expect"), ["100-continue"]);
    upstream.say("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(caller.head().expect("an interim answer").status, 100);
    caller.say("again");
    upstream.assert_hears("again");
    upstream.say(OK);
    assert_eq!(caller.response("POST").expect("an answer").body, b"ok");
}

#[test]
fn a_body_that_comes_unasked_is_held_back_all_the_same() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    caller.say(post(EXPECTANT) + "hello");
    let (mut upstream, _) = api.asked();
    upstream.assert_silent_for(SHORT);
    upstream.say("HTTP/1.1 100 Continue\r\n\r\n");
    upstream.assert_hears("hello");
    upstream.say(OK);
    let answer = final_answer(&mut caller);
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
}

/// The next answer that is not 100, which a caller that has sent its body may get or not (RFC 9110 section 10.1.1).
fn final_answer(caller: &mut Connection) -> Response {
    let mut answer = caller.head().expect("an answer");
    if answer.status == 100 {
        return caller.response("POST").expect("an answer");
    }
    let mut body = Vec::new();
    caller.body(&answer, &mut body).expect("a whole body");
    answer.body = body;
    answer
}

#[test]
fn an_api_that_never_says_100_gets_the_body_after_a_second() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, _) = expectant(&api, &sidecar);
    let (interim, took) = timed(|| caller.head().expect("an interim answer"));
    assert_eq!(interim.status, 100);
    assert!(took > Duration::from_millis(700) && took < Duration::from_secs(10), "{took:?}");
    caller.say("hello");
    upstream.assert_hears("hello");
    upstream.say(OK);
    assert_eq!(caller.response("POST").expect("an answer").body, b"ok");
}

#[test]
fn a_final_answer_instead_of_100_is_passed_on_and_the_api_never_sees_the_body() {
    for (answer, status) in [
        ("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno", 417),
        ("HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 413),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 12\r\n\r\n{\"code\":602}", 401),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", 401),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", 413),
    ] {
        let api = RawApi::start();
        let (_provider, sidecar) = api.sidecar(|setup| setup);
        let (mut caller, mut upstream, _) = expectant(&api, &sidecar);
        upstream.say(answer);
        let got = caller.response("POST").expect("an answer, and no 100 before it");
        assert_eq!(got.status, status);
        assert_eq!(got.header("x-token-valet-error"), None);
        let body = answer.split_once("\r\n\r\n").expect("a head").1;
        assert!(got.body.is_empty() || body.contains(std::str::from_utf8(&got.body).expect("text")), "{got:?}");
        assert_eq!(got.body.is_empty(), body.is_empty());
        assert_over(&mut caller, &api, &mut upstream);
    }
}

#[test]
fn a_large_answer_instead_of_100_arrives_whole_however_slowly_it_is_read() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, _) = expectant(&api, &sidecar);
    let body: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|nth| (nth % 251) as u8).collect();
    let mut writer = Connection::of(upstream.0.get_ref().try_clone().expect("a descriptor"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.say(format!("HTTP/1.1 413 Content Too Large\r\nContent-Length: {}\r\n\r\n", body.len()));
            writer.say(&body);
        });
        let head = caller.head().expect("an answer");
        assert_eq!((head.status, head.header("content-length")), (413, Some("4194304")));
        let mut got = Vec::new();
        for piece in 0..16 {
            if piece < 8 {
                // In all, longer than the second after which a body is sent unasked.
                std::thread::sleep(Duration::from_millis(200));
            }
            got.extend(caller.exactly(256 * 1024));
        }
        assert!(got == body, "it is not what was sent");
    });
    assert_over(&mut caller, &api, &mut upstream);
}

#[test]
fn interim_answers_other_than_100_end_here_and_do_not_let_the_body_pass() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, _) = expectant(&api, &sidecar);
    upstream.say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n");
    caller.assert_silent_for(SHORT);
    upstream.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(caller.response("POST").expect("an answer").status, 413);
    assert_over(&mut caller, &api, &mut upstream);
}

#[test]
fn a_caller_that_gives_up_waiting_and_goes_away_ends_the_request_at_the_api() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (caller, mut upstream, _) = expectant(&api, &sidecar);
    drop(caller);
    upstream.assert_ended();
}

#[test]
fn a_caller_that_does_not_send_what_the_api_asked_for_is_408() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("upstream.idle_body_timeout", "300ms"));
    let (mut caller, mut upstream, _) = expectant(&api, &sidecar);
    upstream.say("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(caller.head().expect("an interim answer").status, 100);
    caller.response("POST").expect("an answer").assert_problem(408, "body_timeout");
    upstream.assert_ended();
}

#[test]
fn a_held_back_body_that_the_api_never_answers_is_504() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("upstream.response_timeout", "300ms"));
    let (mut caller, mut upstream, _) = expectant(&api, &sidecar);
    caller.response("POST").expect("an answer").assert_problem(504, "response_timeout");
    upstream.assert_ended();
    caller.assert_ended();
}

#[test]
fn a_caller_of_http_1_0_is_not_made_to_wait() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    caller.say(post(EXPECTANT).replace("HTTP/1.1", "HTTP/1.0") + "hello");
    let (mut upstream, asked) = api.asked();
    assert!(!asked.has("expect"), "{asked:?}");
    upstream.assert_hears("hello");
    upstream.say(OK);
    let mut said = Vec::new();
    caller.rest(&mut said).expect("an answer, and the end");
    let said = String::from_utf8_lossy(&said);
    assert!(said.starts_with("HTTP/1.0 200 OK\r\n") && said.ends_with("\r\n\r\nok"), "{said}");
}

#[test]
fn an_expectation_without_a_body_ends_here() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    for request in [
        "GET / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n",
    ] {
        let mut caller = sidecar.connect();
        caller.say(request);
        let mut upstream = api.accept();
        assert!(!upstream.asked().has("expect"));
        upstream.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(caller.response("POST").expect("an answer").body, b"ok");
        caller.assert_silent_for(Duration::from_millis(50));
    }
}

#[test]
fn an_expectation_that_is_not_known_here_passes_and_holds_nothing_back() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    caller.say(post("Expect: something-else\r\n") + "hello");
    let (mut upstream, asked) = api.asked();
    assert_eq!(asked.all("expect"), ["something-else"]);
    upstream.assert_hears("hello");
    upstream.say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(caller.response("POST").expect("an answer").status, 417);
}

#[test]
fn a_body_in_chunks_is_held_back_too() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    caller.say(post("Expect: 100-Continue\r\n").replace("Content-Length: 5", "Transfer-Encoding: chunked"));
    let (mut upstream, asked) = api.asked();
    assert_eq!((asked.all("expect"), asked.all("transfer-encoding")), (vec!["100-continue"], vec!["chunked"]));
    caller.assert_silent_for(SHORT);
    upstream.say("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(caller.head().expect("an interim answer").status, 100);
    caller.say("5\r\nhello\r\n0\r\n\r\n");
    upstream.assert_hears("5\r\nhello\r\n0\r\n\r\n");
    upstream.say(OK);
    assert_eq!(caller.response("POST").expect("an answer").body, b"ok");
}

#[test]
fn a_401_after_the_body_has_been_let_through_is_replayed_with_it() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let (mut caller, mut upstream, first) = expectant(&api, &sidecar);
    upstream.say("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(caller.head().expect("an interim answer").status, 100);
    caller.say("hello");
    upstream.assert_hears("hello");
    upstream.say("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno");
    drop(upstream);
    let (mut upstream, second) = api.asked();
    assert_ne!(first.all("authorization"), second.all("authorization"));
    upstream.assert_hears("hello");
    upstream.say(OK);
    assert_eq!(caller.response("POST").expect("an answer").body, b"ok");
}
