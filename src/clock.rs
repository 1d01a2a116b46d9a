//! Time that is fit for deadlines: it runs on while the machine is suspended, and nobody can set it.
//!
//! `std::time::Instant` and tokio's timers stop during a suspend, and the wall clock is stepped by
//! operators and NTP. A token expires all the same, so its life is measured by `CLOCK_BOOTTIME`.

use std::{
    ops::Add,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// The longest single timer of [`Clock::sleep_until`]: how late a wake-up can be after a suspend.
const SLICE: Duration = Duration::from_secs(15);

/// A moment of boot time: comparable within one boot of the machine, meaningless beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// Tells whether something that goes round still does. By a clock that stops during a suspend, in which
/// nothing can.
#[derive(Clone, Debug)]
pub struct Pulse {
    start: Instant,
    /// Seconds since then.
    beat: Arc<AtomicU64>,
}

impl Default for Pulse {
    /// With a first beat.
    fn default() -> Self {
        Self { start: Instant::now(), beat: Arc::default() }
    }
}

impl Pulse {
    /// It goes round.
    pub fn beat(&self) {
        self.beat.store(self.start.elapsed().as_secs(), Relaxed);
    }

    /// How long ago the last beat was, in whole seconds.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_secs(self.start.elapsed().as_secs().saturating_sub(self.beat.load(Relaxed)))
    }
}

/// Where the time comes from: the kernel, or in tests a fake.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    #[cfg(test)]
    fake: Option<fake::Fake>,
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    pub fn kernel() -> Self {
        Self::default()
    }

    /// Boot time: one call into the vDSO, no system call.
    #[must_use]
    pub fn now(&self) -> Moment {
        #[cfg(test)]
        if let Some(fake) = &self.fake {
            return fake.now();
        }
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has it since 2.6.39");
        Moment(now.into())
    }

    /// Wall time: for people and for what is kept over a restart, never for a deadline.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    pub fn wall(&self) -> SystemTime {
        #[cfg(test)]
        if let Some(fake) = &self.fake {
            return fake.wall();
        }
        SystemTime::now()
    }

    /// What the wall clock shows, as it is set now, at another moment. For people only.
    #[must_use]
    pub fn wall_at(&self, moment: Moment) -> SystemTime {
        let now = self.now();
        let (ahead, behind) = (moment.saturating_since(now), now.saturating_since(moment));
        let wall = self.wall();
        (wall + ahead).checked_sub(behind).unwrap_or(wall)
    }

    /// Sleeps until `deadline`, looking at the clock at least every 15 s, so that a suspend
    /// delays the wake-up by no more than that.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn sleep_until(&self, deadline: Moment) {
        loop {
            let left = deadline.saturating_since(self.now());
            if left.is_zero() {
                return;
            }
            // The timer's wheel turns in milliseconds and rounds up; never less than one of them.
            tokio::time::sleep(left.min(SLICE)).await;
        }
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! Simulated time over tokio's paused clock: boot and wall time move with it, and each can be moved alone.

    use std::{
        sync::{Arc, Mutex},
        time::{Duration, SystemTime},
    };

    use super::{Clock, Moment};

    #[derive(Clone, Debug)]
    pub(crate) struct Fake {
        start: tokio::time::Instant,
        shifts: Arc<Mutex<Shifts>>,
    }

    #[derive(Debug, Default)]
    struct Shifts {
        boot: Duration,
        wall_seconds: i64,
    }

    impl Fake {
        /// Must be made within a runtime whose time is paused.
        pub(crate) fn new() -> Self {
            Self { start: tokio::time::Instant::now(), shifts: Arc::default() }
        }

        pub(crate) fn clock(&self) -> Clock {
            Clock { fake: Some(self.clone()) }
        }

        /// The machine sleeps: boot and wall time go on, timers do not.
        pub(crate) fn suspend(&self, span: Duration) {
            let mut shifts = self.shifts.lock().expect("no holder panics");
            shifts.boot += span;
            shifts.wall_seconds += i64::try_from(span.as_secs()).expect("a short span");
        }

        /// Somebody sets the wall clock.
        pub(crate) fn step_wall(&self, seconds: i64) {
            self.shifts.lock().expect("no holder panics").wall_seconds += seconds;
        }

        pub(super) fn now(&self) -> Moment {
            let boot = self.shifts.lock().expect("no holder panics").boot;
            Moment(Duration::from_secs(1_000) + self.start.elapsed() + boot)
        }

        pub(super) fn wall(&self) -> SystemTime {
            let elapsed = self.start.elapsed().as_secs();
            let shift = self.shifts.lock().expect("no holder panics").wall_seconds;
            let seconds = 1_800_000_000_i64 + i64::try_from(elapsed).expect("short") + shift;
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Clock, SLICE, fake::Fake};

    #[test]
    fn boot_time_moves_forward() {
        let clock = Clock::kernel();
        let (first, second) = (clock.now(), clock.now());
        assert!(second >= first);
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspend_delays_a_wake_up_by_one_slice_at_most() {
        let fake = Fake::new();
        let clock = fake.clock();
        let before = tokio::time::Instant::now();
        let deadline = clock.now() + Duration::from_secs(3_600);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(deadline).await }
        });
        tokio::task::yield_now().await;
        fake.suspend(Duration::from_secs(3_600));
        sleeper.await.expect("no panic");
        assert!(before.elapsed() <= SLICE + Duration::from_millis(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_of_the_wall_clock_moves_no_deadline() {
        let fake = Fake::new();
        let clock = fake.clock();
        let (moment, wall) = (clock.now(), clock.wall());
        fake.step_wall(-86_400);
        assert_eq!(clock.now(), moment);
        assert!(clock.wall() < wall);
    }
}
