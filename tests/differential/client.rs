//! The caller: sends the bytes of a case and collects whatever comes back.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    case::{Case, Then},
    message::{Framing, Message},
};

/// Everything must be answered or closed by then. The proxies' own time-outs are a second.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long the caller waits for an interim answer before it goes on.
const INTERIM: Duration = Duration::from_secs(2);

pub(crate) const NEXT_TARGET: &[u8] = b"/next";
/// What follows a case on its connection.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Where a proxy listens.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) answers: Vec<Message>,
    /// What follows them and is none.
    pub(crate) garbage: Vec<u8>,
    /// What follows a change to another protocol.
    pub(crate) tunnel: Vec<u8>,
    pub(crate) has_ended: bool,
}

/// Sends a case on a connection of its own, and reads to the connection's end.
pub(crate) fn send(door: &Door, case: &Case) -> Reply {
    let mut stream = door.open();
    let mut bytes = Vec::new();
    let (last, first) = case.parts.split_last().expect("a case has a part");
    for part in first {
        // Errors of sending mean that the proxy has heard enough; what it said is still there to be read.
        let _ = stream.write_all(part);
        wait_for_some(&mut stream, &mut bytes);
    }
    let last = if case.then == Then::Next { [last, NEXT].concat() } else { last.clone() };
    let _ = stream.write_all(&last);
    if case.then == Then::End {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let has_ended = read_to_end(&mut stream, &mut bytes);
    reply(&bytes, case, has_ended)
}

impl Door {
    fn open(&self) -> TcpStream {
        let stream = match self {
            Self::Tcp(address) => TcpStream::connect(address).expect("the proxy listens"),
            // The calls on either kind of stream are the same.
            Self::Unix(path) => TcpStream::from(OwnedFd::from(UnixStream::connect(path).expect("the proxy listens"))),
        };
        stream.set_write_timeout(Some(DEADLINE)).expect("it is a socket");
        stream
    }
}

fn wait_for_some(stream: &mut TcpStream, bytes: &mut Vec<u8>) {
    stream.set_read_timeout(Some(INTERIM)).expect("it is a socket");
    let mut some = [0; 4_096];
    let count = stream.read(&mut some).unwrap_or(0);
    bytes.extend_from_slice(&some[..count]);
}

/// Returns true if the end came in time. A reset is an end.
fn read_to_end(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    let start = Instant::now();
    let mut some = [0; 65_536];
    loop {
        let Some(left) = DEADLINE.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else { return false };
        stream.set_read_timeout(Some(left)).expect("it is a socket");
        match stream.read(&mut some) {
            Ok(0) => return true,
            Ok(count) => bytes.extend_from_slice(&some[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
}

/// Takes the bytes apart.
fn reply(bytes: &[u8], case: &Case, has_ended: bool) -> Reply {
    let mut reply = Reply { has_ended, ..Reply::default() };
    let mut rest = bytes;
    let is_head = case.bytes().starts_with(b"HEAD ");
    if case.bytes().starts_with(b"PRI ") && is_http2(bytes) {
        return Reply { tunnel: b"HTTP/2".to_vec(), ..reply };
    }
    let mut is_first = true;
    while !rest.is_empty() {
        let before = rest;
        let Ok(Some(mut answer)) = Message::head(&mut rest) else {
            reply.garbage = before.to_vec();
            break;
        };
        if !answer.start.starts_with(b"HTTP/1.") {
            reply.garbage = before.to_vec();
            break;
        }
        let method: &[u8] = if is_first && is_head { b"HEAD" } else { b"GET" };
        is_first = is_first && answer.status() < 200;
        let outcome: io::Result<()> = answer.response_body(&mut rest, method);
        // Only a body that ends with the connection takes all that follows.
        let is_last = outcome.is_err() || answer.framing == Framing::UntilClose;
        let is_switch = answer.status() == 101;
        // Whether the head of an answer goes out before its end is noticed is a matter of microseconds.
        if !answer.is_whole && answer.body.is_empty() && rest.is_empty() {
            break;
        }
        reply.answers.push(answer);
        if is_switch {
            reply.tunnel = rest.to_vec();
            break;
        }
        if is_last {
            break;
        }
    }
    reply
}

/// Whether these are frames, beginning with SETTINGS as they must (RFC 9113 section 3.4), and nothing else.
fn is_http2(mut bytes: &[u8]) -> bool {
    if bytes.get(3) != Some(&4) {
        return false;
    }
    while let Some((&[a, b, c, ..], rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        match rest.get(length..) {
            Some(next) => bytes = next,
            None => return false,
        }
    }
    bytes.is_empty()
}
