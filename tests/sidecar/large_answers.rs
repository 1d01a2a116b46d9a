//! Large answers: the sidecar waits until much of them has come from the API, but not for long.

use std::io::Write;

use crate::{
    harness::Connection,
    raw_api::{GET, RawApi},
};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n";

/// Answers a request at the API in parts, of which each is sent once the caller has the one before it.
#[track_caller]
pub(crate) fn assert_comes_in_parts(caller: &mut Connection, upstream: &mut impl Write) {
    let answer: Vec<u8> = (0..200_000_u32).map(|byte| byte.to_le_bytes()[1]).collect();
    upstream.write_all(HEAD.as_bytes()).expect("it listens");
    assert_eq!(caller.head().expect("a head").status, 200);
    let mut rest = &answer[..];
    for count in [30_000, 1, 70_000, 20_000, 20_000, 44_000, 15_998, 1] {
        let part = rest.split_off(..count).expect("as many are left");
        upstream.write_all(part).expect("it listens");
        upstream.flush().expect("it listens");
        caller.assert_hears(part);
    }
    assert!(rest.is_empty());
}

#[test]
fn a_large_answer_comes_as_far_as_the_api_has_sent_it_and_a_small_one_after_it() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    caller.say(GET);
    let (mut upstream, _) = api.asked();
    for _ in 0..2 {
        assert_comes_in_parts(&mut caller, upstream.0.get_mut());
        caller.say(GET);
        upstream.asked();
        upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
        caller.say(GET);
        upstream.asked();
    }
}

#[test]
fn what_has_come_of_a_large_answer_that_breaks_off_is_passed_on() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    for count in [20_000, 150_000] {
        let mut caller = sidecar.connect();
        caller.say(GET);
        let (mut upstream, _) = api.asked();
        upstream.say(HEAD);
        upstream.say("x".repeat(10_000));
        assert_eq!(caller.head().expect("a head").status, 200);
        caller.assert_hears("x".repeat(10_000));
        upstream.say("x".repeat(count));
        drop(upstream);
        let mut passed_on = Vec::new();
        let ended = caller.rest(&mut passed_on);
        assert!(ended.as_ref().is_ok_and(|()| passed_on.len() == count), "{ended:?} after {}", passed_on.len());
    }
}
