//! HTTP/2 by hand, frame by frame (RFC 9113 section 4.1), for what no library would send.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use crate::harness::DEADLINE;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const NO_ERROR: u32 = 0;
pub(super) const INTERNAL_ERROR: u32 = 2;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const CANCEL: u32 = 8;

/// `:status: 200` (RFC 7541 appendix A).
pub(super) const STATUS_200: &[u8] = &[0x88];

/// The field block of `GET /` at `localhost` over plain text.
pub(super) fn get() -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84, 0x01, 9];
    block.extend_from_slice(b"localhost");
    block
}

#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The code of a `RST_STREAM`, or of a `GOAWAY`.
    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// One side of a connection.
#[derive(Debug)]
pub(super) struct Wire(TcpStream);

impl Wire {
    /// As a caller.
    pub(super) fn connect(address: SocketAddr) -> Self {
        let mut wire = Self::of(TcpStream::connect(address).expect("an open port"));
        wire.0.write_all(PREFACE).expect("it listens");
        wire.send(SETTINGS, 0, 0, &[]).expect("it listens");
        wire
    }

    /// An API of which each connection does as `script` says, given its number from 0.
    pub(super) fn api(script: impl Fn(usize, &mut Self) -> io::Result<()> + Clone + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let script = script.clone();
                thread::spawn(move || {
                    let mut wire = Self::of(stream);
                    // An error is the end that the test wants, or it misses something.
                    let _ = wire.greet().and_then(|()| script(number, &mut wire));
                });
            }
        });
        address
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(2 * DEADLINE)).expect("a deadline can be set");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline can be set");
        stream.set_nodelay(true).expect("it is TCP");
        Self(stream)
    }

    fn greet(&mut self) -> io::Result<()> {
        self.0.read_exact(&mut [0; PREFACE.len()])?;
        self.send(SETTINGS, 0, 0, &[])
    }

    pub(super) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.0.write_all(&frame(kind, flags, stream, payload))
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(super) fn reset(&mut self, stream: u32, code: u32) -> io::Result<()> {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes())
    }

    pub(super) fn go_away(&mut self, last_stream: u32, code: u32) -> io::Result<()> {
        let mut payload = last_stream.to_be_bytes().to_vec();
        payload.extend_from_slice(&code.to_be_bytes());
        self.send(GOAWAY, 0, 0, &payload)
    }

    /// Answers with 200 and this body.
    pub(super) fn answer(&mut self, stream: u32, body: &[u8]) -> io::Result<()> {
        self.send(HEADERS, END_HEADERS, stream, STATUS_200)?;
        self.send(DATA, END_STREAM, stream, body)
    }

    /// The next frame but for those that only keep the connection going, which are answered.
    pub(super) fn next(&mut self) -> io::Result<Frame> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload)?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let frame = Frame { kind: head[3], flags: head[4], stream, payload };
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[])?,
                PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload)?,
                DATA | HEADERS | RST_STREAM | GOAWAY => return Ok(frame),
                _ => {}
            }
        }
    }

    /// Reads a request to its end; gives its stream and its body.
    pub(super) fn request(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut body = Vec::new();
        loop {
            let frame = self.next()?;
            if frame.kind == DATA {
                body.extend_from_slice(&frame.payload);
            }
            if frame.ends_stream() {
                return Ok((frame.stream, body));
            }
        }
    }

    /// Reads whatever comes and answers nothing, until the other side closes the connection.
    pub(super) fn ignore(&mut self) {
        let _ = io::copy(&mut self.0, &mut io::sink());
    }

    /// Waits until the other side closes the connection.
    pub(super) fn drain(&mut self) {
        while self.next().is_ok() {}
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}
