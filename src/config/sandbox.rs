//! What the imitation provider of `token-valet sandbox` does.

use std::{ops::Range, time::Duration};

use super::values::{Mismatch, Parsed, Raw, choose, duration, string};

/// `[sandbox]`
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// How long the imitation provider's tokens live.
    pub token_life: Duration,
    /// What its token endpoint does wrong, and when.
    pub faults: Vec<SandboxFault>,
}

/// One entry of `sandbox.faults`, such as `"down 10s..25s"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxFault {
    /// What goes wrong.
    pub fault: TokenFault,
    /// When, counted from the sandbox's start.
    pub during: Range<Duration>,
}

/// What an imitation token endpoint can do instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// `down`: connections are refused, those to the API too.
    Down,
    /// `hang`: takes the request and never answers.
    Hang,
    /// `reset`: takes the request and resets the connection.
    Reset,
    /// `empty`: 200 without a body.
    Empty,
    /// `malformed`: 200 with JSON that is cut off.
    Malformed,
    /// `html`: 200 with a web page.
    Html,
    /// `500`: `server_error`.
    ServerError,
    /// `429`: too many requests, with `Retry-After: 5`.
    TooManyRequests,
    /// `302`: a redirect to another host.
    Redirect,
    /// `slow`: the right answer after 2 s.
    Slow,
}

/// A fault and its time, such as `"down 10s..25s"`.
pub(super) fn fault(raw: &Raw<'_>) -> Parsed<SandboxFault> {
    const FAULTS: &[(&str, TokenFault)] = &[
        ("down", TokenFault::Down),
        ("hang", TokenFault::Hang),
        ("reset", TokenFault::Reset),
        ("empty", TokenFault::Empty),
        ("malformed", TokenFault::Malformed),
        ("html", TokenFault::Html),
        ("500", TokenFault::ServerError),
        ("429", TokenFault::TooManyRequests),
        ("302", TokenFault::Redirect),
        ("slow", TokenFault::Slow),
    ];
    let expected = "a fault and its time, such as \"down 10s..25s\"";
    let mismatch = || Mismatch::expected(expected);
    let (fault, during) = string(raw, expected)?.split_once(' ').ok_or_else(mismatch)?;
    let fault = choose(fault, FAULTS)?;
    let (start, end) = during.split_once("..").ok_or_else(mismatch)?;
    let moment = |text| duration("0s", "24h")(&Raw::Text(text)).map_err(|_| mismatch());
    let during = moment(start)?..moment(end)?;
    if during.is_empty() {
        return Err(mismatch().hint("the end must come after the start"));
    }
    Ok(SandboxFault { fault, during })
}
