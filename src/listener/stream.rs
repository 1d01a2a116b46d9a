//! How long a caller may keep a connection without sending a request on it, how long a request's head
//! may take once it has begun, and how long an answer may go unread.
//!
//! hyper has one time-out for both. Short, it would close an idle connection just as the application
//! sends a POST on it; long, it would give slow senders of heads all the time in the world. So the
//! connection's bytes are watched: only their coming, not what they say.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop::has_budget_remaining,
    time::{Instant, Sleep},
};

use super::{
    HalfClose, HttpLimits,
    caller::{Phase, State, Watch},
    socket::Stream,
};
use crate::patience::Patience;

/// A connection that ends with an error of kind `TimedOut` when its caller is too slow.
#[derive(Debug)]
pub(super) struct WatchedStream {
    stream: Stream,
    watch: Watch,
    half_close: HalfClose,
    idle_timeout: Duration,
    header_timeout: Duration,
    /// For what the caller does not read.
    write_patience: Patience,
    timer: Timer,
    /// The state that the timer was set in.
    timed: State,
}

impl WatchedStream {
    pub(super) fn new(stream: Stream, watch: Watch, limits: &HttpLimits) -> Self {
        let HttpLimits { half_close, idle_timeout, header_timeout, write_timeout, .. } = *limits;
        let timer = Timer::new(idle_timeout);
        let write_patience = Patience::new(write_timeout);
        let timed = watch.state();
        Self { stream, watch, half_close, idle_timeout, header_timeout, write_patience, timer, timed }
    }

    /// The caller has sent nothing new: has it had its time?
    ///
    /// To save a timer for each request, the one for idle connections is not set anew when one
    /// becomes idle, but when it runs out and there was a request meanwhile. So an idle connection
    /// is closed after its time, and before twice that.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.watch.state();
        if self.timed != state {
            if state.phase == Phase::Head {
                self.set_timer(state, self.header_timeout);
            } else if self.timed.phase == Phase::Head {
                // The head has come, or it was HTTP/2's preface: its time says nothing any more.
                self.set_timer(state, self.idle_timeout);
            }
        }
        loop {
            ready!(self.timer.poll_over(cx));
            let is_over = match state.phase {
                Phase::Idle => self.watch.is_idle(),
                Phase::Head => true,
                Phase::Request => false,
            };
            if self.timed == state && is_over && !self.watch.tire() {
                return Poll::Ready(());
            }
            self.set_timer(state, self.idle_timeout);
        }
    }

    /// The result of a write, unless the caller has gone or has read nothing for too long.
    fn patiently<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.watch.note_unread(written.is_pending());
        if written.is_pending() {
            self.check_presence(cx)?;
        }
        self.write_patience.with_write(cx, written)
    }

    /// An error if the caller has gone before its answer; the task is woken once it does.
    ///
    /// hyper would find out by reading on, for which it takes a new buffer: the last one is in use as long as the request's
    /// head is. So it is told that callers who close their side may wait for their answers.
    fn check_presence(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.half_close == HalfClose::Waiting || !self.watch.awaits_answer() {
            return Ok(());
        }
        match self.stream.poll_at_end(cx)? {
            Poll::Ready(true) => Err(io::ErrorKind::UnexpectedEof.into()),
            // What comes next is read in its turn.
            Poll::Ready(false) | Poll::Pending => Ok(()),
        }
    }

    fn set_timer(&mut self, state: State, span: Duration) {
        self.timed = state;
        self.timer.set(span);
    }
}

/// A timer that is polled with each read and hardly ever runs out: between, that costs a look at it.
#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Whom it will wake.
    told: Option<Waker>,
}

impl Timer {
    fn new(span: Duration) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(span)), told: None }
    }

    fn set(&mut self, span: Duration) {
        self.sleep.as_mut().reset(Instant::now() + span);
        self.told = None;
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_told = self.told.as_ref().is_some_and(|told| told.will_wake(cx.waker()));
        if is_told && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        let over = self.sleep.as_mut().poll(cx);
        // A task that has used up its turn is not told, but polled again.
        self.told = (over.is_pending() && has_budget_remaining()).then(|| cx.waker().clone());
        over
    }
}

impl Drop for WatchedStream {
    fn drop(&mut self) {
        if self.watch.is_torn() {
            // Closed by a reset, not in order. An error means that the connection has ended by itself.
            let _ = self.stream.reset_on_close();
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            // Empty lines before a request are nothing (RFC 9112 section 2.2).
            let begins = buf.filled()[before..].iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
            if begins {
                this.watch.heard();
            }
            return Poll::Ready(result);
        }
        this.poll_patience(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.patiently(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.patiently(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_presence(cx)?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use tokio::{
        task::coop::consume_budget,
        time::{Instant, sleep, timeout},
    };

    use super::Timer;

    const SPAN: Duration = Duration::from_secs(60);

    /// How long it takes to run out.
    async fn span_of(timer: &mut Timer) -> Duration {
        let start = Instant::now();
        let over = poll_fn(|cx| timer.poll_over(cx));
        timeout(10 * SPAN, over).await.expect("whoever polled it last is woken");
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_runs_out_in_its_time_for_whoever_polled_it_last_and_again_once_it_is_set() {
        let mut timer = Timer::new(SPAN);
        // An upgraded connection goes over to another task.
        assert!(timer.poll_over(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(span_of(&mut timer).await.as_secs(), SPAN.as_secs());
        timer.set(2 * SPAN);
        assert_eq!(span_of(&mut timer).await.as_secs(), 2 * SPAN.as_secs());
        // It has run out, and nobody has looked.
        timer.set(SPAN);
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_over(cx))).await.is_pending());
        sleep(2 * SPAN).await;
        timer.set(SPAN);
        assert_eq!(span_of(&mut timer).await.as_secs(), SPAN.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_of_a_task_that_has_used_up_its_turn_runs_out_all_the_same() {
        let mut timer = Timer::new(SPAN);
        let mut is_first = true;
        let over = poll_fn(|cx| {
            while is_first && pin!(consume_budget()).poll(cx).is_ready() {}
            is_first = false;
            timer.poll_over(cx)
        });
        timeout(10 * SPAN, over).await.expect("it wakes the task");
    }
}
