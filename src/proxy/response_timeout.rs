//! How long requests may wait for the head of their answer: one timer a thread for all of them. It runs until the first
//! of those that wait at the moment has had its time, so that most come and go without it. Time that the machine is
//! suspended counts: the connection has hardly outlived it.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use slab::Slab;
use tokio::{sync::Notify, time::timeout};

use super::{ProxyError, upload::UploadWatch};
use crate::clock::{Clock, Moment};

/// The requests of a thread that wait, and until when.
#[derive(Debug)]
pub(super) struct ResponseTimeouts {
    span: Duration,
    clock: Clock,
    waits: RefCell<Slab<Wait>>,
    /// When they are looked at next.
    next: Cell<Moment>,
    /// That has to be earlier.
    sooner: Notify,
}

#[derive(Debug)]
struct Wait {
    deadline: Moment,
    waker: Waker,
    is_over: bool,
}

/// A place among those that wait, given back when it is dropped.
struct Waiting<'a> {
    timeouts: &'a ResponseTimeouts,
    deadline: Moment,
    key: Option<usize>,
}

impl ResponseTimeouts {
    /// `span` is `upstream.response_timeout`.
    pub(super) fn new(span: Duration, clock: Clock) -> Self {
        let next = Cell::new(clock.now());
        Self { span, clock, waits: RefCell::default(), next, sooner: Notify::new() }
    }

    /// Waits for the head of a response: for the span from when its request was `sent`, or from the last progress of
    /// the upload. It needs [`Self::keep`] to be running.
    ///
    /// # Errors
    /// [`ProxyError::ResponseTimeout`].
    pub(super) fn head_of<T>(
        &self,
        mut response: Pin<&mut impl Future<Output = T>>,
        watch: &UploadWatch,
        sent: Moment,
    ) -> impl Future<Output = Result<T, ProxyError>> {
        let mut waiting = self.until(sent + self.span);
        poll_fn(move |cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            while waiting.poll_over(cx).is_ready() {
                match self.later(watch, waiting.deadline) {
                    Some(deadline) => waiting = self.until(deadline),
                    None => return Poll::Ready(Err(ProxyError::ResponseTimeout)),
                }
            }
            Poll::Pending
        })
    }

    fn until(&self, deadline: Moment) -> Waiting<'_> {
        Waiting { timeouts: self, deadline, key: None }
    }

    /// A deadline after this one, if the upload gives reason for it.
    fn later(&self, watch: &UploadWatch, deadline: Moment) -> Option<Moment> {
        if watch.waits_for_caller() {
            return Some(self.clock.now() + self.span);
        }
        watch.last_moved().map(|moved| moved + self.span).filter(|later| *later > deadline)
    }

    /// Wakes those that have had their time. Never completes; to be spawned once.
    pub(super) async fn keep(&self) {
        loop {
            let quiet = self.wake_overdue();
            // Whoever begins to wait meanwhile has its whole span, which ends later, or tells that it has less.
            let _ = timeout(quiet, self.sooner.notified()).await;
        }
    }

    /// Returns how long there is nothing to do.
    fn wake_overdue(&self) -> Duration {
        let now = self.clock.now();
        let mut next = now + self.span;
        for (_, wait) in &mut *self.waits.borrow_mut() {
            if wait.deadline > now {
                next = next.min(wait.deadline);
            } else if !wait.is_over {
                wait.is_over = true;
                wait.waker.wake_by_ref();
            }
        }
        self.next.set(next);
        next.saturating_since(now)
    }
}

impl Waiting<'_> {
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { timeouts, deadline, key } = self;
        let mut waits = timeouts.waits.borrow_mut();
        match key.and_then(|key| waits.get_mut(key)) {
            Some(wait) if wait.is_over => return Poll::Ready(()),
            Some(wait) => wait.waker.clone_from(cx.waker()),
            None => {
                *key = Some(waits.insert(Wait { deadline: *deadline, waker: cx.waker().clone(), is_over: false }));
                if *deadline < timeouts.next.get() {
                    timeouts.sooner.notify_one();
                }
            }
        }
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // Dropped when it is no more borrowed, as its waker is others' code.
            let _wait = self.timeouts.waits.borrow_mut().remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        pin::pin,
        rc::Rc,
        time::Duration,
    };

    use tokio::{
        task::{LocalSet, spawn_local},
        time::{Instant, sleep, timeout},
    };

    use super::{ProxyError, ResponseTimeouts, UploadWatch};
    use crate::clock::{Moment, fake::Fake};

    const SPAN: Duration = Duration::from_secs(30);

    async fn with_timeouts(test: impl AsyncFnOnce(Rc<ResponseTimeouts>)) {
        let timeouts = Rc::new(ResponseTimeouts::new(SPAN, Fake::new().clock()));
        let kept = Rc::clone(&timeouts);
        let tested = async {
            spawn_local(async move { kept.keep().await });
            test(Rc::clone(&timeouts)).await;
        };
        LocalSet::new().run_until(tested).await;
        assert!(timeouts.waits.borrow().is_empty(), "whoever waits no more is not known any more");
    }

    async fn head_of<T>(
        timeouts: &ResponseTimeouts,
        response: impl Future<Output = T>,
        sent: Moment,
    ) -> Result<T, ProxyError> {
        timeouts.head_of(pin!(response), &UploadWatch::NoBody, sent).await
    }

    /// How long a request waits that was sent then, and gets no answer.
    async fn waited(timeouts: &ResponseTimeouts, sent: Moment) -> Duration {
        let start = Instant::now();
        let outcome = timeout(10 * SPAN, head_of(timeouts, pending::<()>(), sent)).await.expect("it is woken");
        assert!(matches!(outcome, Err(ProxyError::ResponseTimeout)), "{outcome:?}");
        start.elapsed()
    }

    fn is_exact(span: Duration, expected: Duration) -> bool {
        // The timer's wheel turns in milliseconds.
        span >= expected && span <= expected + Duration::from_millis(2)
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_many_has_its_own_time_to_the_millisecond() {
        with_timeouts(async |timeouts| {
            let pauses = [0, 1, 10_000, 10_001, 29_999, 30_000, 30_001, 45_000, 100_000].map(Duration::from_millis);
            let waits = pauses.map(async |pause| {
                sleep(pause).await;
                waited(&timeouts, timeouts.clock.now()).await
            });
            for (waited, pause) in futures_util::future::join_all(waits).await.into_iter().zip(pauses) {
                assert!(is_exact(waited, SPAN), "{waited:?} after {pause:?}");
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_before_all_others_is_kept_too() {
        with_timeouts(async |timeouts| {
            let early = timeouts.clock.now();
            // The next look is 30 s from here.
            sleep(SPAN - Duration::from_secs(3)).await;
            timeouts.sooner.notify_one();
            sleep(Duration::from_millis(1)).await;
            let (short, long) = tokio::join!(waited(&timeouts, early), waited(&timeouts, timeouts.clock.now()));
            assert!(is_exact(short, Duration::from_millis(2_999)), "{short:?}");
            assert!(is_exact(long, SPAN), "{long:?}");
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_is_the_outcome_and_one_that_is_given_up_leaves_nothing() {
        with_timeouts(async |timeouts| {
            let late = async {
                sleep(SPAN - Duration::from_millis(2)).await;
                "late"
            };
            let start = timeouts.clock.now();
            assert_eq!(head_of(&timeouts, late, start).await.expect("in time"), "late");
            assert_eq!(head_of(&timeouts, ready("at once"), start).await.expect("in time"), "at once");
            let given_up = head_of(&timeouts, pending::<()>(), timeouts.clock.now());
            assert!(timeout(SPAN / 2, given_up).await.is_err());
        })
        .await;
    }
}
