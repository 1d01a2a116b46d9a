//! A caller: sends request after request, some of them not to the end, and believes no answer.

use std::{
    fmt,
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use super::{
    api::Book,
    plan::{Framing, How, Leave, Plan, digest},
    wire::{Head, Link, is_stuck},
};
use crate::harness::wait_until;

/// A caller, with its connection if that can take another request.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    pub(super) address: SocketAddr,
    pub(super) book: &'a Book,
    pub(super) link: Option<Link>,
    /// The request before, if it was answered while its body may still be on its way.
    pub(super) early: Option<u32>,
}

/// What a caller saw of a request.
enum Outcome {
    /// The right answer, all of it. The connection may be said to end with it.
    Whole { closes: bool },
    /// The sidecar's own answer.
    Problem(String),
    /// No answer, or a part of one.
    Broken,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { .. } => f.write_str("whole"),
            Self::Problem(problem) => write!(f, "problem {problem}"),
            Self::Broken => f.write_str("broken"),
        }
    }
}

/// What both ends do, for the tally.
fn name(plan: &Plan) -> String {
    let first_word = |text: String| text.split(['(', ' ']).next().unwrap_or_default().to_owned();
    let fault = first_word(format!("{:?}", plan.fault));
    match plan.leave {
        Leave::Never => format!("caller stays, API fault {fault}"),
        leave => {
            format!("caller leaves in {} by {:?}, API fault {fault}", first_word(format!("{leave:?}")), plan.leave_how)
        }
    }
}

impl Caller<'_> {
    /// One request.
    pub(super) fn call(&mut self, plan: &Plan) {
        let link = self.link.take().map_or_else(|| self.connect(), Some);
        let Some(mut link) = link else {
            return self.book.violated(format!("the sidecar takes no connection: {plan:?}"));
        };
        let sent = send(&mut link, plan);
        let read = read_before_leaving(&mut link, plan);
        for error in [&sent, &read].into_iter().filter_map(|result| result.as_ref().err()) {
            if is_stuck(error) {
                self.book.violated(format!("nothing moved: {plan:?}"));
            }
        }
        if let Some(id) = self.early.take().filter(|_| plan.leave != Leave::Never) {
            // A reset would take with it what was sent before this request.
            wait_until("the API to have all of an upload", || self.book.is_read(id));
        }
        let link = if plan.leave == Leave::Never { Some(link) } else { link.end(plan.leave_how) };
        let Some(mut link) = link else {
            return self.book.count(format!("{}: gone", name(plan)));
        };
        match receive(&mut link, plan) {
            Ok(outcome) => {
                self.book.count(format!("{}: {outcome}", name(plan)));
                if let Some(what) = objection(plan, &outcome) {
                    self.book.violated(format!("{what}: {plan:?}"));
                }
                let is_reusable =
                    matches!(outcome, Outcome::Whole { closes: false }) && sent.is_ok() && plan.is_whole();
                self.early = (is_reusable && plan.answers_early() && plan.upload.is_some()).then_some(plan.id);
                self.link = Some(link).filter(|_| is_reusable);
            }
            Err(what) => self.book.violated(format!("{what}: {plan:?}")),
        }
    }

    fn connect(&self) -> Option<Link> {
        TcpStream::connect(self.address).and_then(|stream| Link::new(stream, self.book.connection())).ok()
    }
}

/// An error means that the sidecar takes no more of it; there may be an answer all the same.
fn send(link: &mut Link, plan: &Plan) -> std::io::Result<()> {
    let framing = match plan.upload {
        None => String::new(),
        Some(shape) if shape.framing == Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Some(shape) => format!("Content-Length: {}\r\n", shape.bytes().len()),
    };
    let Plan { method, id, .. } = plan;
    link.write(&format!("{method} /mixup/{id} HTTP/1.1\r\nHost: localhost\r\nX-Id: {id}\r\n{framing}\r\n"))?;
    let until = if let Leave::Upload(until) = plan.leave { Some(until) } else { None };
    match plan.upload {
        Some(shape) => link.write_body(shape.bytes(), shape.framing, until, plan.slow_caller),
        None => Ok(()),
    }
}

/// What a caller that is about to go away still takes. An error means that there is less of it.
fn read_before_leaving(link: &mut Link, plan: &Plan) -> std::io::Result<()> {
    match plan.leave {
        Leave::Never | Leave::Upload(_) => Ok(()),
        Leave::Wait => {
            // Somewhere in the API's work.
            thread::sleep(Duration::from_micros(u64::from(plan.id) % 5 * 500));
            Ok(())
        }
        // All of it will be read.
        Leave::Answer(_) if plan.leave_how == How::HalfClose => link.first_byte().map(drop),
        Leave::Answer(count) => {
            let head = link.head()?;
            // The sidecar's own answers are shorter, and HEAD has none.
            let most = if plan.method == "HEAD" { Some(0) } else { head.framing().1 };
            link.skip(most.map_or(count, |most| most.min(count)))
        }
    }
}

/// Reads an answer, and says what is wrong with it.
fn receive(link: &mut Link, plan: &Plan) -> Result<Outcome, String> {
    let head = match link.head() {
        Ok(head) => head,
        Err(error) if is_stuck(&error) => return Err("no answer came".to_owned()),
        Err(_) => return Ok(Outcome::Broken),
    };
    let framing = head.framing();
    let has_body = plan.method != "HEAD";
    if has_body && framing.0 == Framing::Close {
        return Err(format!("the end of an answer is not stated: {head:?}"));
    }
    let body = if has_body { link.body(framing, plan.slow_caller) } else { Ok(Vec::new()) };
    let body = match body {
        Ok(body) => body,
        Err(error) if is_stuck(&error) => return Err("an answer stood still".to_owned()),
        Err(_) => {
            // Even so it is this request's.
            return own(&head, plan).map(|()| Outcome::Broken);
        }
    };
    match head.start.split(' ').nth(1) {
        Some("200") => {
            own(&head, plan)?;
            whole(&head, &body, plan)?;
            Ok(Outcome::Whole { closes: head.first("connection") == Some("close") })
        }
        Some(status) => match head.first("x-token-valet-error") {
            Some(reason) if head.first("content-type") == Some("application/problem+json") => {
                Ok(Outcome::Problem(format!("{status} {reason}")))
            }
            _ => Err(format!("an answer that nobody gave: {head:?}")),
        },
        None => Err(format!("no status: {head:?}")),
    }
}

/// Whether an answer of the API's is to this request.
fn own(head: &Head, plan: &Plan) -> Result<(), String> {
    let is_own = head.all("x-id") == [plan.id.to_string()] || head.first("x-token-valet-error").is_some();
    if is_own { Ok(()) } else { Err(format!("the answer to another request: {head:?}")) }
}

/// Whether what looks like the whole answer is.
fn whole(head: &Head, body: &[u8], plan: &Plan) -> Result<(), String> {
    if plan.has_no_answer() {
        return Err(format!("a part of an answer looks whole: {head:?}"));
    }
    let expected = plan.download.bytes();
    if plan.method == "HEAD" {
        let (framing, length) = head.framing();
        let is_right = framing != Framing::Length || length == Some(expected.len());
        return if is_right { Ok(()) } else { Err(format!("another length: {head:?}")) };
    }
    let sent = plan.upload.map(|shape| digest(shape.bytes()));
    let sent = sent.unwrap_or_else(|| digest(b""));
    let is_sent = plan.answers_early() || head.all("x-digest") == [sent];
    if !is_sent {
        Err(format!("the answer to another body: {head:?}"))
    } else if body != expected {
        Err(format!("{} other bytes: {head:?}", body.len()))
    } else {
        Ok(())
    }
}

/// What should not have come of this plan.
fn objection(plan: &Plan, outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Whole { .. } => None,
        Outcome::Problem(_) | Outcome::Broken if plan.must_be_answered() => Some("a sound request failed"),
        Outcome::Problem(problem) => match problem.as_str() {
            "502 upstream_broken" => None,
            "400 bad_request" if matches!(plan.leave, Leave::Upload(_)) => None,
            _ => Some("a problem that there was not"),
        },
        // Its 502 may be lost on a caller that still sends.
        Outcome::Broken if plan.is_whole() && plan.upload.is_none() => Some("a sound request got no answer"),
        Outcome::Broken => None,
    }
}
