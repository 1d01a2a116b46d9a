//! The upstream: records every request as it came, and answers as the case has it.

use std::{
    io::{self, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::{case::Answer, message::Message, text::show};

/// How long a request may stay unfinished after its caller's connection has ended.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// An upstream of one proxy, which sends it one case at a time.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    round: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    round: Mutex<Round>,
    changed: Condvar,
}

/// What happens during one case.
#[derive(Debug, Default)]
struct Round {
    answer: Option<Answer>,
    requests: Vec<Message>,
    /// Requests that have begun and not ended, on all connections.
    unfinished: usize,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let round = Arc::<Shared>::default();
        let shared = Arc::clone(&round);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                // An error means that the proxy ended the connection, in the midst of a request or not.
                thread::spawn(move || stream.and_then(|stream| shared.serve(stream)));
            }
        });
        Self { address, round }
    }

    /// A new case begins, with this answer to its first request.
    pub(crate) fn begin(&self, answer: Option<Answer>) {
        let mut round = self.round.lock();
        round.answer = answer;
        round.requests.clear();
    }

    /// The case is over: the requests that came, once all of them have ended. `None` if one does not.
    pub(crate) fn end(&self) -> Option<Vec<Message>> {
        let round = self.round.lock();
        let (mut round, waited) = self
            .round
            .changed
            .wait_timeout_while(round, SETTLED_WITHIN, |round| round.unfinished > 0)
            .unwrap_or_else(PoisonError::into_inner);
        (!waited.timed_out()).then(|| std::mem::take(&mut round.requests))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = BufReader::new(stream.try_clone()?);
        let mut output = stream;
        loop {
            if io::BufRead::fill_buf(&mut input)?.is_empty() {
                return Ok(());
            }
            self.lock().unfinished += 1;
            let outcome = self.exchange(&mut input, &mut output);
            self.lock().unfinished -= 1;
            self.changed.notify_all();
            if outcome? == Next::Close {
                // What was not read must not take the answer with it.
                output.shutdown(std::net::Shutdown::Write)?;
                io::copy(&mut input, &mut io::sink())?;
                return Ok(());
            }
        }
    }

    fn exchange(&self, input: &mut BufReader<TcpStream>, output: &mut TcpStream) -> io::Result<Next> {
        let mut message = match Message::head(input) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Next::Close),
            Err(error) => {
                self.lock().requests.push(Message::default());
                return Err(error);
            }
        };
        let answer = self.answer_to(&message);
        if answer.early {
            output.write_all(&answer.bytes)?;
        }
        let read = message.request_body(input);
        let closes = message.values("connection").iter().any(|value| value.eq_ignore_ascii_case(b"close"));
        // Whoever may read on in another way than this reader must not do so.
        let is_odd = !message.oddities.is_empty();
        self.lock().requests.push(message);
        read?;
        if !answer.early {
            output.write_all(&answer.bytes)?;
        }
        Ok(if answer.close || closes || is_odd { Next::Close } else { Next::Request })
    }

    /// The case's answer to the first request, and the usual one to all others.
    fn answer_to(&self, request: &Message) -> Answer {
        let [method, target, _] = request.words();
        let taken = if target == crate::client::NEXT_TARGET { None } else { self.lock().answer.take() };
        match taken {
            Some(answer) if answer.bytes.is_empty() => Answer { bytes: usual_answer(method, target), ..answer },
            Some(answer) => answer,
            None => Answer { bytes: usual_answer(method, target), ..Answer::default() },
        }
    }
}

#[derive(PartialEq, Eq)]
enum Next {
    Request,
    Close,
}

/// An answer that says what it is the answer to.
pub(crate) fn usual_answer(method: &[u8], target: &[u8]) -> Vec<u8> {
    let request = format!("{} {}", show(method), show(target));
    let body = format!("answer to {request}");
    let head = format!("HTTP/1.1 200 OK\r\nX-Upstream: {request}\r\nContent-Length: {}\r\n\r\n", body.len());
    let body = if method == b"HEAD" { "" } else { &body };
    format!("{head}{body}").into_bytes()
}
