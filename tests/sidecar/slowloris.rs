//! Callers that send a head a byte now and then, and never its end: they cost nobody else anything.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use token_valet::sandbox::Settings;

use crate::harness::{ACCOUNTS, Setup, holds_for, is_full_drill, provider, raise_descriptor_limit, seconds};

/// For closing hundreds of connections, and for being late to look, on a busy machine.
const SLACK: Duration = seconds(5);
/// How long an honest caller may wait for its answer.
const PROMPT: Duration = seconds(2);
/// Between two bytes of a slow head, so that it would take minutes.
const PACE: Duration = Duration::from_millis(500);
const HEAD: &[u8] = b"GET /api/fdx/5/accounts HTTP/1.1\r\nHost: localhost\r\nX-Padding: and so on and so on and so on";

/// A connection that never has a whole head.
struct Slow {
    stream: TcpStream,
    begun: Instant,
    sent: usize,
    /// How long it took until the sidecar had enough.
    closed: Option<Duration>,
}

impl Slow {
    /// Sends the next byte.
    fn crawl(&mut self) {
        // An error means that the connection is closed, which is looked for elsewhere.
        let _ = self.stream.write(&HEAD[self.sent..=self.sent]);
        self.sent = (self.sent + 1).min(HEAD.len() - 1);
    }

    fn look(&mut self) {
        let mut bytes = [0; 512];
        match self.stream.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // An answer such as 408 may come first.
            Ok(1..) => {}
            Ok(0) | Err(_) => self.closed = Some(self.begun.elapsed()),
        }
    }
}

#[test]
fn slow_heads_keep_nobody_waiting_and_are_given_up_in_time() {
    raise_descriptor_limit();
    let (count, header_timeout) = if is_full_drill() { (1_000, seconds(10)) } else { (200, seconds(3)) };
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider)
        .set("listen.max_connections", 1_100)
        .set("listen.header_timeout", format!("{}s", header_timeout.as_secs()))
        .start();
    let mut kept = sidecar.connect();
    kept.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    let idle = Instant::now();

    let mut slow: Vec<Slow> = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = TcpStream::connect(sidecar.address).expect("it listens");
        stream.set_nonblocking(true).expect("it is a socket");
        let mut connection = Slow { stream, begun: Instant::now(), sent: 0, closed: None };
        connection.crawl();
        slow.push(connection);
    }
    let opened = slow[0].begun.elapsed();
    assert!(opened < header_timeout, "all are open at once: {opened:?}");

    let honest = Instant::now();
    sidecar.get(ACCOUNTS).assert_accounts();
    let answered = honest.elapsed();
    assert!(answered < PROMPT, "answered after {answered:?}");

    let mut crawled = Instant::now();
    let mut slowest = answered;
    while slow.iter().any(|connection| connection.closed.is_none()) {
        let longest = slow.iter().filter(|c| c.closed.is_none()).map(|c| c.begun.elapsed()).max();
        assert!(longest < Some(header_timeout + SLACK), "one is still open after {longest:?}");
        let crawls = crawled.elapsed() >= PACE;
        if crawls {
            crawled = Instant::now();
        }
        for connection in slow.iter_mut().filter(|connection| connection.closed.is_none()) {
            connection.look();
            if crawls {
                connection.crawl();
            }
        }
        if crawls {
            // All along.
            let honest = Instant::now();
            sidecar.get(ACCOUNTS).assert_accounts();
            slowest = slowest.max(honest.elapsed());
        }
        // The pace of looking.
        thread::sleep(Duration::from_millis(20));
    }
    assert!(slowest < PROMPT, "answered after {slowest:?}");
    // Idle connections are closed before twice their time, and this is not theirs.
    let twice = (2 * header_timeout + seconds(1)).saturating_sub(idle.elapsed());
    kept.stream().set_nonblocking(true).expect("it is a socket");
    holds_for(twice, "the honest connection is open", || {
        kept.stream().peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    });
    kept.stream().set_nonblocking(false).expect("it is a socket");
    kept.ask("GET", ACCOUNTS, &[], b"").expect("its connection is still open").assert_accounts();

    let took = || slow.iter().filter_map(|connection| connection.closed);
    let (first, last) = (took().min().expect("one at least"), took().max().expect("one at least"));
    #[expect(clippy::print_stdout, reason = "the figures are what the drill is run for")]
    {
        println!(
            "{count} slow heads, opened in {opened:.1?}, closed after {first:.1?} to {last:.1?}; \
             honest requests answered within {slowest:.1?}"
        );
    }
    assert!(first + Duration::from_millis(200) > header_timeout, "one was closed after {first:?}");
}
