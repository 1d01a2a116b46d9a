//! Callers that go away: what they asked the API for is given up, and what they had not sent is not made up.

use std::{
    io::{BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Mutex,
        mpsc::{Receiver, channel},
    },
};

use crate::{
    harness::{Connection, DEADLINE, Sidecar, reset},
    scripted_api::ScriptedApi,
};

/// How a caller goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Close,
    /// The end of what it sends; it would still read.
    HalfClose,
    Reset,
}

const ALL: [How; 3] = [How::Close, How::HalfClose, How::Reset];

impl How {
    /// Returns what can still be read from.
    fn leave(self, caller: Connection) -> Option<Connection> {
        match self {
            Self::Close => {
                drop(caller);
                None
            }
            Self::HalfClose => {
                caller.stream().shutdown(Shutdown::Write).expect("an open connection");
                Some(caller)
            }
            Self::Reset => {
                reset(caller.into_stream());
                None
            }
        }
    }
}

/// What the API tells of a request.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// Its head has come.
    Begun,
    /// Its connection has ended, after these bytes of a body.
    Ended(Vec<u8>),
}

/// An API that says the start of an answer, then as much as it can of the rest, and takes whatever comes.
fn api(start: &'static str, rest: &'static str) -> (ScriptedApi, Receiver<Event>) {
    let (events, received) = channel();
    let events = Mutex::new(events);
    let api = ScriptedApi::start(move |mut stream: BufReader<TcpStream>| {
        let tell = |event| events.lock().expect("no holder panics").send(event);
        let _ = stream.get_mut().write_all(start.as_bytes());
        let _ = tell(Event::Begun);
        while !rest.is_empty() && stream.get_mut().write_all(rest.as_bytes()).is_ok() {}
        let mut body = Vec::new();
        let _ = stream.read_to_end(&mut body);
        let _ = tell(Event::Ended(body));
    });
    (api, received)
}

#[track_caller]
fn assert_begun(events: &Receiver<Event>) {
    assert_eq!(events.recv_timeout(DEADLINE), Ok(Event::Begun));
}

/// Waits for the end of the request at the API; gives the body that came.
#[track_caller]
fn ended(events: &Receiver<Event>, why: &str) -> Vec<u8> {
    match events.recv_timeout(DEADLINE) {
        Ok(Event::Ended(body)) => body,
        other => panic!("{why}: {other:?}"),
    }
}

/// Sends a GET and goes away: as soon as the API has it, or `in_answer`, once some of the answer is there.
fn ask_and_leave(sidecar: &Sidecar, events: &Receiver<Event>, how: How, in_answer: bool) {
    let mut caller = sidecar.connect();
    caller.send_head("GET", "/", &[]).expect("it listens");
    assert_begun(events);
    if in_answer {
        assert_eq!(caller.head().expect("a head").status, 200);
        assert!(caller.read_some().expect("some of it") > 0);
    }
    let open = how.leave(caller);
    assert_eq!(ended(events, &format!("{how:?}")), b"", "{how:?}");
    if let Some(mut caller) = open {
        let mut rest = Vec::new();
        // An error is as good an end.
        let _ = caller.rest(&mut rest);
        assert!(in_answer || rest.is_empty(), "nobody answered: {rest:?}");
        assert!(!rest.ends_with(b"0\r\n\r\n"), "the answer has no end");
    }
}

#[test]
fn a_request_is_given_up_when_its_caller_goes_away_before_the_answer() {
    let (api, events) = api("", "");
    let (_provider, sidecar) = api.sidecar();
    for how in ALL {
        ask_and_leave(&sidecar, &events, how, false);
    }
}

#[test]
fn a_request_is_given_up_when_its_caller_goes_away_within_a_slow_answer() {
    let (api, events) = api("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstart\r\n", "");
    let (_provider, sidecar) = api.sidecar();
    for how in ALL {
        ask_and_leave(&sidecar, &events, how, true);
    }
}

#[test]
fn a_request_is_given_up_when_its_caller_goes_away_within_a_long_answer() {
    let (api, events) =
        api("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstart\r\n", "10\r\n0123456789abcdef\r\n");
    let (_provider, sidecar) = api.sidecar();
    for how in ALL {
        ask_and_leave(&sidecar, &events, how, true);
    }
}

#[test]
fn an_upload_that_breaks_off_never_looks_whole_at_the_api() {
    let (api, events) = api("", "");
    let (_provider, sidecar) = api.sidecar();
    for how in ALL {
        for (framing, sent) in [
            (("Content-Length", "8"), "1234567"),
            (("Transfer-Encoding", "chunked"), "7\r\n1234567\r\n"),
            (("Transfer-Encoding", "chunked"), "7\r\n1234567\r\n0\r\n"),
            (("Transfer-Encoding", "chunked"), "8\r\n1234567"),
        ] {
            let mut caller = sidecar.connect();
            caller.send_head("POST", "/", &[framing]).expect("it listens");
            caller.send(sent.as_bytes()).expect("it listens");
            assert_begun(&events);
            let open = how.leave(caller);
            let body = ended(&events, &format!("{how:?}, {framing:?}"));
            let is_whole = if framing.0 == "Content-Length" { body.len() == 8 } else { body.ends_with(b"0\r\n\r\n") };
            assert!(!is_whole, "{how:?}, {framing:?}: {}", String::from_utf8_lossy(&body));
            if let Some(mut caller) = open {
                let mut rest = Vec::new();
                let _ = caller.rest(&mut rest);
                assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&rest));
            }
        }
    }
}
