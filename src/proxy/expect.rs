//! `Expect: 100-continue`, end to end: a body is held back until the API wants it (RFC 9110 section 10.1.1).

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode, Version, header::EXPECT};
use tokio::time::Sleep;

use super::headers::has;

/// How long the API may take to say so; after it the body is sent unasked.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes the expectation out of a request's fields; returns whether its body is to wait. It does not
/// if there is none, or if the caller speaks HTTP/1.0, which does not know the word.
pub(super) fn take(headers: &mut HeaderMap, version: Version, has_body: bool) -> bool {
    if !has(headers, &EXPECT) {
        return false;
    }
    let is_expected = headers[EXPECT].as_bytes().eq_ignore_ascii_case(b"100-continue");
    if is_expected {
        headers.remove(EXPECT);
    }
    is_expected && has_body && version > Version::HTTP_10
}

/// What a body waits at.
#[derive(Debug)]
pub(super) struct Gate {
    keeper: Gatekeeper,
    /// Runs from when the body is first wanted: a slow connection must not use its time up.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Opens the gate, or not. hyper tells of a `100 Continue` by a callback that must be [`Send`], hence no `Rc`.
#[derive(Clone, Debug)]
pub(super) struct Gatekeeper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    waiting: AtomicWaker,
}

/// The API has said nothing.
const CLOSED: u8 = 0;
/// It wants the body, or has had its time.
const OPEN: u8 = 1;
/// It has answered without the body, which must not begin while the answer is passed on.
const ANSWERED: u8 = 2;
/// The answer has been passed on.
const OVER: u8 = 3;

/// What to do with the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// Send it.
    Free,
    /// End the connection: nobody wants it.
    Unwanted,
}

impl Gate {
    /// Closed.
    pub(super) fn new() -> Self {
        let shared = Shared { state: AtomicU8::new(CLOSED), waiting: AtomicWaker::new() };
        Self { keeper: Gatekeeper(Arc::new(shared)), timer: None }
    }

    pub(super) fn keeper(&self) -> Gatekeeper {
        self.keeper.clone()
    }

    pub(super) fn poll_passage(&mut self, cx: &mut Context<'_>) -> Poll<Passage> {
        let Shared { state, waiting } = &*self.keeper.0;
        // In this order, or a change in between would wake nobody.
        waiting.register(cx.waker());
        match state.load(Relaxed) {
            OPEN => Poll::Ready(Passage::Free),
            OVER => Poll::Ready(Passage::Unwanted),
            ANSWERED => Poll::Pending,
            _closed => {
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
                timer.as_mut().poll(cx).map(|()| {
                    state.store(OPEN, Relaxed);
                    Passage::Free
                })
            }
        }
    }
}

impl Gatekeeper {
    /// Has a `100 Continue` open the gate.
    pub(super) fn watch<B>(&self, request: &mut Request<B>) {
        let keeper = self.clone();
        hyper::ext::on_informational(request, move |interim| {
            if interim.status() == StatusCode::CONTINUE {
                keeper.open();
            }
        });
    }

    pub(super) fn open(&self) {
        self.turn(OPEN);
    }

    /// The API has answered. Returns a guard if the body had not begun by then, and now never will.
    pub(super) fn answered(&self) -> Option<Withheld> {
        let was_closed = self.0.state.compare_exchange(CLOSED, ANSWERED, Relaxed, Relaxed).is_ok();
        was_closed.then(|| Withheld(self.clone()))
    }

    fn turn(&self, state: u8) {
        self.0.state.store(state, Relaxed);
        self.0.waiting.wake();
    }
}

/// Ends the connection whose request was answered without its body; to be dropped after the answer.
#[derive(Debug)]
pub(super) struct Withheld(Gatekeeper);

impl Drop for Withheld {
    fn drop(&mut self) {
        self.0.turn(OVER);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use http::{HeaderMap, HeaderValue, Version, header::EXPECT};
    use tokio::time::{Instant, timeout};

    use super::{Gate, PATIENCE, Passage, take};

    #[test]
    fn a_body_waits_only_where_there_is_one_and_the_caller_knows_the_word() {
        for (value, version, has_body, waits, passes_on) in [
            ("100-continue", Version::HTTP_11, true, true, false),
            ("100-Continue", Version::HTTP_2, true, true, false),
            ("100-continue", Version::HTTP_11, false, false, false),
            ("100-continue", Version::HTTP_10, true, false, false),
            ("something-else", Version::HTTP_11, true, false, true),
        ] {
            let mut headers = HeaderMap::from_iter([(EXPECT, HeaderValue::from_static(value))]);
            assert_eq!(take(&mut headers, version, has_body), waits, "{value} {version:?}");
            assert_eq!(headers.contains_key(EXPECT), passes_on, "{value}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_gate_opens_when_told_to_or_after_a_second() {
        let (mut asked, mut unasked) = (Gate::new(), Gate::new());
        let start = Instant::now();
        asked.keeper().open();
        assert_eq!(poll_fn(|cx| asked.poll_passage(cx)).await, Passage::Free);
        assert!(start.elapsed() < PATIENCE);
        assert_eq!(poll_fn(|cx| unasked.poll_passage(cx)).await, Passage::Free);
        assert!(start.elapsed() >= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_begins_when_the_head_has_been_sent() {
        let mut gate = Gate::new();
        tokio::time::sleep(PATIENCE * 3).await;
        let start = Instant::now();
        assert_eq!(poll_fn(|cx| gate.poll_passage(cx)).await, Passage::Free);
        assert!(start.elapsed() >= PATIENCE, "it was used up by the connection's making");
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_answer_the_body_never_begins_and_the_connection_ends_with_the_answer() {
        let mut gate = Gate::new();
        let withheld = gate.keeper().answered().expect("the body had not begun");
        let passage = timeout(Duration::from_secs(60), poll_fn(|cx| gate.poll_passage(cx))).await;
        assert!(passage.is_err(), "the second is over, but the answer has come first");
        drop(withheld);
        assert_eq!(poll_fn(|cx| gate.poll_passage(cx)).await, Passage::Unwanted);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_a_body_that_has_begun_changes_nothing() {
        let mut gate = Gate::new();
        gate.keeper().open();
        assert!(gate.keeper().answered().is_none());
        assert_eq!(poll_fn(|cx| gate.poll_passage(cx)).await, Passage::Free);
    }
}
