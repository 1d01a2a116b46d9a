//! How long requests may wait for the head of their answer: one timer a thread for all of them. It runs until the first
//! of those that wait at the moment has had its time, so that most come and go without it.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{ProxyError, upload::UploadWatch};

/// The requests of a thread that wait, and until when.
#[derive(Debug)]
pub(super) struct ResponseTimeouts {
    span: Duration,
    waits: RefCell<Slab<Wait>>,
    /// When they are looked at next.
    next: Cell<Instant>,
    /// That has to be earlier.
    sooner: Notify,
}

#[derive(Debug)]
struct Wait {
    deadline: Instant,
    waker: Waker,
    is_over: bool,
}

/// A place among those that wait, given back when it is dropped.
struct Waiting<'a> {
    timeouts: &'a ResponseTimeouts,
    key: Option<usize>,
}

impl ResponseTimeouts {
    /// `span` is `upstream.response_timeout`.
    pub(super) fn new(span: Duration) -> Self {
        Self { span, waits: RefCell::default(), next: Cell::new(Instant::now()), sooner: Notify::new() }
    }

    /// Waits for the head of a response: for the span from now on, or from the last progress of the upload. It needs
    /// [`Self::keep`] to be running.
    ///
    /// # Errors
    /// [`ProxyError::ResponseTimeout`].
    pub(super) async fn head_of<T>(
        &self,
        mut response: Pin<&mut impl Future<Output = T>>,
        watch: &UploadWatch,
    ) -> Result<T, ProxyError> {
        let mut deadline = Instant::now() + self.span;
        loop {
            match self.before(deadline, response.as_mut()).await {
                Some(response) => return Ok(response),
                None if watch.waits_for_caller() => deadline = Instant::now() + self.span,
                None => match watch.last_moved().map(|moved| moved + self.span) {
                    Some(later) if later > deadline => deadline = later,
                    Some(_) | None => return Err(ProxyError::ResponseTimeout),
                },
            }
        }
    }

    /// Waits for the `answer`; `None` if there is none at the `deadline`.
    async fn before<F: Future>(&self, deadline: Instant, mut answer: Pin<&mut F>) -> Option<F::Output> {
        let mut waiting = Waiting { timeouts: self, key: None };
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => waiting.poll_over(cx, deadline).map(|()| None),
        })
        .await
    }

    /// Wakes those that have had their time. Never completes; to be spawned once.
    pub(super) async fn keep(&self) {
        loop {
            self.wake_overdue();
            // Whoever begins to wait meanwhile has its whole span, which ends later, or tells that it has less.
            let _ = timeout_at(self.next.get(), self.sooner.notified()).await;
        }
    }

    fn wake_overdue(&self) {
        let now = Instant::now();
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
    }
}

impl Waiting<'_> {
    fn poll_over(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let Self { timeouts, key } = self;
        let mut waits = timeouts.waits.borrow_mut();
        match key.and_then(|key| waits.get_mut(key)) {
            Some(wait) if wait.is_over => return Poll::Ready(()),
            Some(wait) => wait.waker.clone_from(cx.waker()),
            None => {
                *key = Some(waits.insert(Wait { deadline, waker: cx.waker().clone(), is_over: false }));
                if deadline < timeouts.next.get() {
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

    use super::ResponseTimeouts;

    const SPAN: Duration = Duration::from_secs(30);

    async fn with_timeouts(test: impl AsyncFnOnce(Rc<ResponseTimeouts>)) {
        let timeouts = Rc::new(ResponseTimeouts::new(SPAN));
        let kept = Rc::clone(&timeouts);
        let tested = async {
            spawn_local(async move { kept.keep().await });
            test(Rc::clone(&timeouts)).await;
        };
        LocalSet::new().run_until(tested).await;
        assert!(timeouts.waits.borrow().is_empty(), "whoever waits no more is not known any more");
    }

    /// How long a request may wait that begins to do so after `pause`.
    async fn waited(timeouts: &ResponseTimeouts, pause: Duration) -> Duration {
        sleep(pause).await;
        let start = Instant::now();
        let never = pin!(pending::<()>());
        assert!(timeout(10 * SPAN, timeouts.before(start + SPAN, never)).await.expect("it is woken").is_none());
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
            let waits = pauses.map(|pause| waited(&timeouts, pause));
            for (waited, pause) in futures_util::future::join_all(waits).await.into_iter().zip(pauses) {
                assert!(is_exact(waited, SPAN), "{waited:?} after {pause:?}");
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_before_all_others_is_kept_too() {
        with_timeouts(async |timeouts| {
            // The next look is 30 s from here.
            sleep(Duration::from_secs(1)).await;
            let start = Instant::now();
            let soon = start + Duration::from_secs(3);
            let short = async {
                let never = pin!(pending::<()>());
                assert!(timeout(10 * SPAN, timeouts.before(soon, never)).await.expect("it is woken").is_none());
                start.elapsed()
            };
            let (short, long) = tokio::join!(short, waited(&timeouts, Duration::ZERO));
            assert!(is_exact(short, Duration::from_secs(3)), "{short:?}");
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
            assert_eq!(timeouts.before(Instant::now() + SPAN, pin!(late)).await, Some("late"));
            assert_eq!(timeouts.before(Instant::now() + SPAN, pin!(ready("at once"))).await, Some("at once"));
            let never = pin!(pending::<()>());
            let given_up = timeouts.before(Instant::now() + SPAN, never);
            assert!(timeout(SPAN / 2, given_up).await.is_err());
        })
        .await;
    }
}
