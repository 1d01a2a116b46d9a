//! The task that drives an HTTP/1.1 connection, and what it need not be woken for.
//!
//! hyper wakes it whenever a part of a response's body is taken, as it may have to read the next. After the last part of
//! a body of known length there is nothing to do: it has ended the message before, and waits for the next request. Nor has
//! it to be woken for small parts of a large body, see [`LowWater`](super::low_water::LowWater).

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Wake, Waker},
};

/// Wakes a connection's driver, but can be held meanwhile.
///
/// All on one thread: the atomics make it fit for a [`Waker`], and cost what plain memory does.
#[derive(Debug, Default)]
pub(super) struct DriverWaker {
    /// The driver's, which stays the same; set by its first turn.
    task: OnceLock<Waker>,
    is_held: AtomicBool,
    is_due: AtomicBool,
    awaited: AtomicU64,
}

impl DriverWaker {
    /// Does not wake it until [`Self::release`].
    pub(super) fn hold(&self) {
        self.is_held.store(true, Relaxed);
    }

    /// Wakes it if that was due meanwhile, unless it `has_ended` the message.
    pub(super) fn release(&self, has_ended: bool) {
        self.is_held.store(false, Relaxed);
        let is_due = self.is_due.load(Relaxed);
        self.is_due.store(false, Relaxed);
        if is_due && !has_ended {
            self.wake_task();
        }
    }

    /// So many bytes are to come of a body, of which whoever takes them has found no more; 0 where that is not known. Once
    /// the driver finds nothing to read either, none of them is on its way through it. They count until it has read on.
    pub(super) fn expect(&self, bytes: u64) {
        self.awaited.store(bytes, Relaxed);
    }

    /// What was last expected.
    pub(super) fn awaited(&self) -> u64 {
        self.awaited.load(Relaxed)
    }

    fn wake_task(&self) {
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

impl Wake for DriverWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_held.load(Relaxed) {
            self.is_due.store(true, Relaxed);
        } else {
            self.wake_task();
        }
    }
}

/// Drives a `connection` to its end, woken by `by` alone. To be spawned, as it must stay in one task.
pub(super) async fn drive<T>(connection: impl Future<Output = T>, by: Arc<DriverWaker>) -> T {
    let mut connection = pin!(connection);
    let waker = Waker::from(Arc::clone(&by));
    poll_fn(|cx| {
        by.task.get_or_init(|| cx.waker().clone());
        connection.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::poll_fn,
        rc::Rc,
        sync::Arc,
        task::{Poll, Waker},
    };

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::{DriverWaker, drive};

    /// Counts the turns of a driver; tells by which waker it is woken.
    async fn driven(test: impl AsyncFnOnce(&DriverWaker, &Waker, &Cell<u32>)) {
        let (waker, turns) = (Arc::<DriverWaker>::default(), Rc::<Cell<u32>>::default());
        let counted = Rc::clone(&turns);
        let connection = poll_fn(move |_| {
            counted.set(counted.get() + 1);
            Poll::<()>::Pending
        });
        let run = async {
            spawn_local(drive(connection, Arc::clone(&waker)));
            yield_now().await;
            test(&waker, &Waker::from(Arc::clone(&waker)), &turns).await;
        };
        LocalSet::new().run_until(run).await;
    }

    #[tokio::test]
    async fn a_driver_is_woken_at_once_while_its_waker_is_not_held() {
        driven(async |_, hyper, turns| {
            assert_eq!(turns.get(), 1);
            hyper.wake_by_ref();
            yield_now().await;
            assert_eq!(turns.get(), 2);
        })
        .await;
    }

    #[tokio::test]
    async fn a_wake_up_that_was_held_follows_once_unless_the_message_has_ended() {
        driven(async |waker, hyper, turns| {
            for (has_ended, expected) in [(false, 2), (true, 2), (false, 3)] {
                waker.hold();
                hyper.wake_by_ref();
                yield_now().await;
                waker.release(has_ended);
                yield_now().await;
                assert_eq!(turns.get(), expected);
            }
            // None was due.
            waker.hold();
            waker.release(false);
            yield_now().await;
            assert_eq!(turns.get(), 3);
        })
        .await;
    }
}
