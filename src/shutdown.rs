//! The way down: a signal starts the drain, everyone who serves sees it.

use std::{
    future::{pending, poll_fn},
    io,
    pin::pin,
    task::{Poll, Waker},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::unconstrained,
};

/// The end of the line at which the drain is started. Held by `app` alone.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Tells whether the drain has begun. Cheap to clone, usable on any thread and runtime.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<bool>);

/// Makes both ends. Dropping the trigger starts the drain as well.
#[must_use]
pub fn channel() -> (Trigger, Drain) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Drain(receiver))
}

impl Trigger {
    /// Starts the drain; a second call changes nothing.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    /// Returns true once the drain has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Completes once the drain has begun. Cheap to poll again, as a connection does with each of its events: the
    /// lock that all threads share is taken once for a waker.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn begun(&mut self) {
        let look = self.0.clone();
        // It would else now and then not wait for anything, but ask to be polled again.
        let mut begun = pin!(unconstrained(self.0.wait_for(|begun| *begun)));
        let mut waiting = None::<Waker>;
        poll_fn(|cx| {
            // An error means that the trigger is gone, which is a drain too.
            let is_waited_for = waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            if is_waited_for && matches!(look.has_changed(), Ok(false)) {
                return Poll::Pending;
            }
            waiting = Some(cx.waker().clone());
            begun.as_mut().poll(cx).map(drop)
        })
        .await;
    }
}

/// A signal that ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGTERM
    Term,
    /// SIGINT
    Int,
    /// SIGQUIT
    Quit,
}

impl End {
    /// As in signal(7).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Quit => "SIGQUIT",
        }
    }

    /// What a shell tells of a process that it ended: 128 and its number.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Term => 143,
            Self::Int => 130,
            Self::Quit => 131,
        }
    }
}

/// What a signal asks for, short of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGHUP: look at the configuration.
    Reload,
    /// SIGUSR1: refresh the token.
    Refresh,
}

/// The signals that end the process: SIGTERM and SIGINT, and SIGQUIT where it was [added](Signals::add_quit).
///
/// Made first thing, because process 1 of a container ignores every signal that it has no handler for.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
    quit: Option<Signal>,
}

/// The signals that [ask for something](Request).
#[derive(Debug)]
pub struct Requests {
    hup: Signal,
    usr1: Signal,
}

impl Signals {
    /// Installs the handlers; needs to be called within a runtime.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn install() -> io::Result<(Self, Requests)> {
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let ends = Self { term, int, quit: None };
        Ok((ends, Requests { hup: signal(SignalKind::hangup())?, usr1: signal(SignalKind::user_defined1())? }))
    }

    /// Has SIGQUIT end the process like the others, as the images of some servers have themselves ended by it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_quit(&mut self) -> io::Result<()> {
        self.quit = Some(signal(SignalKind::quit())?);
        Ok(())
    }

    /// Waits for the next that ends the process.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: a signal that came in between is seen by the next call.
    pub async fn end(&mut self) -> End {
        tokio::select! {
            _ = self.term.recv() => End::Term,
            _ = self.int.recv() => End::Int,
            () = received(self.quit.as_mut()) => End::Quit,
        }
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    }
}

impl Requests {
    /// Waits for the next request.
    ///
    /// # Cancel safety
    /// As for [`Signals::end`].
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.hup.recv() => Request::Reload,
            _ = self.usr1.recv() => Request::Refresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future as _,
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Context, Wake, Waker},
        time::Duration,
    };

    use tokio::{
        task::coop::{consume_budget, has_budget_remaining},
        time::timeout,
    };

    use super::channel;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_looked_last_is_told_of_the_drain_however_often_they_looked() {
        let (trigger, mut drain) = channel();
        let mut begun = pin!(drain.begun());
        let (first, last) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        for woken in [&first, &first, &last, &last] {
            assert!(begun.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(woken)))).is_pending());
        }
        trigger.start();
        assert_eq!(last.0.load(Ordering::Relaxed), 1);
        assert!(begun.poll(&mut Context::from_waker(&Waker::from(last))).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_seen_by_a_task_that_first_looked_at_the_end_of_its_turn() {
        let (trigger, mut drain) = channel();
        let task = tokio::spawn(async move {
            while has_budget_remaining() {
                consume_budget().await;
            }
            drain.begun().await;
        });
        // It is asked to look again, and has done so.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        trigger.start();
        timeout(Duration::from_secs(1), task).await.expect("it is seen").expect("nothing panics");
    }
}
