//! HTTP/1.1 as both ends of the test speak it: piece by piece, and down to the byte.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use super::plan::{Dice, Framing, How};
use crate::harness::reset;

/// How long nothing may move before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Into how many pieces a body is cut at most, each a chunk or a write.
const PIECES: u64 = 8;

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    stream: BufReader<TcpStream>,
    dice: Dice,
}

/// The start line and the fields of a message, names in lower case.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) start: String,
    pub(super) fields: Vec<(String, String)>,
}

impl Head {
    /// The values of a field.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// How its body ends, and how long it is, if that is stated.
    pub(super) fn framing(&self) -> (Framing, Option<usize>) {
        let length = self.first("content-length").and_then(|length| length.parse().ok());
        match self.first("transfer-encoding") {
            Some(_) => (Framing::Chunked, None),
            None if length.is_some() => (Framing::Length, length),
            None => (Framing::Close, None),
        }
    }
}

impl Link {
    pub(super) fn new(stream: TcpStream, seed: u64) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), dice: Dice::new(seed) })
    }

    /// Waits for the first byte of a message, however long it takes. Returns false if none comes.
    pub(super) fn is_open(&mut self) -> bool {
        let mut wait = || {
            self.stream.get_ref().set_read_timeout(None)?;
            let is_open = self.first_byte()?;
            self.stream.get_ref().set_read_timeout(Some(PATIENCE))?;
            io::Result::Ok(is_open)
        };
        wait().unwrap_or(false)
    }

    /// Waits for the first byte of a message. Returns false if the connection has ended instead.
    pub(super) fn first_byte(&mut self) -> io::Result<bool> {
        Ok(!self.stream.fill_buf()?.is_empty())
    }

    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(text.as_bytes())
    }

    /// Writes a body in its framing; only the first bytes of it, and no end, if there is an `until`.
    pub(super) fn write_body(
        &mut self,
        body: &[u8],
        framing: Framing,
        until: Option<usize>,
        slow: bool,
    ) -> io::Result<()> {
        let mut left = &body[..until.unwrap_or(body.len())];
        while !left.is_empty() {
            let most = (body.len() as u64).div_ceil(PIECES) * 2;
            let size = (self.dice.below(most) as usize + 1).min(left.len());
            let (piece, rest) = left.split_at(size);
            left = rest;
            if slow {
                self.pause();
            }
            if framing == Framing::Chunked {
                self.write(&format!("{size:x}\r\n"))?;
                self.stream.get_mut().write_all(piece)?;
                self.write("\r\n")?;
            } else {
                self.stream.get_mut().write_all(piece)?;
            }
        }
        if framing == Framing::Chunked && until.is_none() { self.write("0\r\n\r\n") } else { Ok(()) }
    }

    pub(super) fn head(&mut self) -> io::Result<Head> {
        let start = self.line()?;
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Head { start, fields });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(line.clone()))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads a body to its end; an end before that is an `UnexpectedEof`.
    pub(super) fn body(&mut self, (framing, length): (Framing, Option<usize>), slow: bool) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        match framing {
            Framing::Length => self.bytes(length.unwrap_or(0), &mut body, slow)?,
            Framing::Close => self.stream.read_to_end(&mut body).map(drop)?,
            Framing::Chunked => loop {
                let size = self.line()?;
                let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
                self.bytes(size, &mut body, slow)?;
                if !self.line()?.is_empty() {
                    return Err(io::Error::other("a chunk goes on"));
                }
                if size == 0 {
                    break;
                }
            },
        }
        Ok(body)
    }

    /// Reads some of the bytes that come.
    pub(super) fn skip(&mut self, count: usize) -> io::Result<()> {
        io::copy(&mut self.stream.by_ref().take(count as u64), &mut io::sink()).map(drop)
    }

    pub(super) fn end(self, how: How) -> Option<Self> {
        match how {
            How::Close => None,
            How::Reset => {
                reset(self.stream.into_inner());
                None
            }
            How::HalfClose => {
                // An error means that the other side has closed it.
                let _ = self.stream.get_ref().shutdown(Shutdown::Write);
                Some(self)
            }
        }
    }

    fn bytes(&mut self, count: usize, body: &mut Vec<u8>, slow: bool) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            let part = if slow { left.min(count / 4 + 1) } else { left };
            if slow {
                self.pause();
            }
            if self.stream.by_ref().take(part as u64).read_to_end(body)? < part {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= part;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(line.to_owned())
    }

    /// Being slow is what is tested here; nothing is waited for.
    fn pause(&self) {
        thread::sleep(Duration::from_millis(self.dice.below(6)));
    }
}

/// Whether an error means that nothing moved for far too long.
pub(super) fn is_stuck(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
