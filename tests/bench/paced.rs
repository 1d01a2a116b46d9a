//! A load of so many requests a second, evenly spread over connections that have turns. Prints of each answer the
//! microseconds since the start and those that it took, a line each.
//!
//! It never sleeps, so that it is never late by itself: to be run at the lowest priority, and not where the program is
//! that is measured.
//!
//! `paced ADDRESS PATH CONNECTIONS RATE SECONDS [FIELD: VALUE]`

#![expect(clippy::disallowed_methods, reason = "nothing here outlives a suspend")]

use std::{
    collections::VecDeque,
    env,
    error::Error,
    fmt::Write as _,
    io::{self, ErrorKind, Read as _, Write as _},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

type Failure = Box<dyn Error>;

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, path, connections, rate, seconds, fields @ ..] = &arguments[..] else {
        return Err("usage: paced ADDRESS PATH CONNECTIONS RATE SECONDS [FIELD: VALUE]".into());
    };
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n");
    let (connections, rate, seconds): (usize, u32, u32) = (connections.parse()?, rate.parse()?, seconds.parse()?);

    let mut poll = Poll::new()?;
    let mut open =
        (0..connections).map(|turn| Connection::open(address, turn, &poll)).collect::<io::Result<Vec<_>>>()?;
    let period = Duration::from_secs(1) / rate;
    let mut lines = String::new();
    let mut events = Events::with_capacity(connections);
    // Those without a request, the longest idle first.
    let mut idle: VecDeque<usize> = (0..connections).collect();
    let begin = Instant::now();
    let end = begin + Duration::from_secs(1) * seconds;
    let mut due = begin;
    loop {
        let now = Instant::now();
        // When all are busy it is late, and this counts; what would be later than the end is not sent.
        if due <= now
            && now < end
            && let Some(turn) = idle.pop_front()
        {
            open[turn].send(request.as_bytes(), due)?;
            due += period;
        }
        if now >= end && idle.len() == connections {
            break;
        }
        if now > end + PATIENCE {
            return Err("an answer takes too long".into());
        }
        poll.poll(&mut events, Some(Duration::ZERO))?;
        for event in &events {
            let Token(turn) = event.token();
            if let Some(due) = open[turn].receive()? {
                writeln!(lines, "{} {}", (due - begin).as_micros(), due.elapsed().as_micros())?;
                idle.push_back(turn);
            }
        }
    }
    io::stdout().write_all(lines.as_bytes())?;
    Ok(())
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// When the request was to be sent whose answer is waited for.
    due: Option<Instant>,
}

impl Connection {
    fn open(address: &str, turn: usize, poll: &Poll) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(turn), Interest::READABLE)?;
        Ok(Self { stream, received: Vec::new(), due: None })
    }

    fn send(&mut self, request: &[u8], due: Instant) -> Result<(), Failure> {
        self.due = Some(due);
        // It is small, and nothing else is on its way.
        if self.stream.write(request)? < request.len() {
            return Err("a request was not taken".into());
        }
        Ok(())
    }

    /// When the request was due whose answer is all there now.
    fn receive(&mut self) -> Result<Option<Instant>, Failure> {
        let mut part = [0; 16 * 1_024];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return Err("a connection was closed".into()),
                Ok(read) => self.received.extend_from_slice(&part[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        if !is_whole(&self.received)? {
            return Ok(None);
        }
        self.received.clear();
        Ok(self.due.take())
    }
}

/// Whether all of the answer is there. It has to be a 200 with a length.
fn is_whole(received: &[u8]) -> Result<bool, Failure> {
    let Some(head) = received.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(false) };
    let text = str::from_utf8(&received[..head])?;
    if !text.starts_with("HTTP/1.1 200 ") {
        return Err(format!("answered {text:?}").into());
    }
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    Ok(received.len() >= head + 4 + length.ok_or("an answer without a length")??)
}
