//! A bound on how long something that is polled may stand still, without a timer for what does not.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Runs out when there was no progress for its limit. Costs a timer only once something is waited for.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    /// Kept from one wait to the next; counts only while `waiting`.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Patience {
    /// Has not begun to wait.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, timer: None, waiting: false }
    }

    /// The outcome of a write: an error of kind `TimedOut` once nothing was taken for the limit.
    pub fn with_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.progressed();
            return written;
        }
        self.poll_over(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// There was progress: the wait, if there was one, is over.
    pub fn progressed(&mut self) {
        self.waiting = false;
    }

    /// There is none: ready once that has been so for the limit.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = match &mut self.timer {
            Some(timer) => {
                if !self.waiting {
                    timer.as_mut().reset(Instant::now() + self.limit);
                }
                timer
            }
            empty => empty.insert(Box::pin(tokio::time::sleep(self.limit))),
        };
        self.waiting = true;
        timer.as_mut().poll(cx)
    }
}
