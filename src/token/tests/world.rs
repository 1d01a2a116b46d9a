//! The simulation: its time, the parts under test, and the requests that use them.

use std::{
    cell::{Cell, RefCell},
    fmt,
    path::Path,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    runtime::{Builder, LocalOptions},
    task::{JoinHandle, spawn_local},
    time::{Instant, sleep},
};

use super::{Ask, Provider, Reply};
use crate::{
    clock::{Clock, fake::Fake},
    config::{self, Config},
    metrics::{Metrics, TokenMetrics},
    shutdown::{self, Trigger},
    token::{Bearer, Refresher, Renewal, Store, TokenCell, Unavailable},
};

/// The configuration that an operator gets by default, changed as a test needs it.
pub(super) fn config(change: impl FnOnce(&mut config::Token)) -> config::Token {
    let text = r#"
        [upstream]
        url = "https://api.example.com"
        [token]
        url = "https://auth.example.com/token"
        grant = "client_credentials"
        client_id = "partner"
    "#;
    let secret = ("TOKEN_VALET__TOKEN__CLIENT_SECRET".to_owned(), "hunter2".to_owned());
    let mut token = Config::parse(Path::new("valet.toml"), text, [secret]).expect("a valid configuration").token;
    change(&mut token);
    token
}

/// Runs a scenario on a thread of its own time.
pub(super) fn simulate<T>(scenario: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build_local(LocalOptions::default());
    runtime.expect("a runtime needs no more than memory").block_on(scenario)
}

/// The true time since the start, suspends included, whatever the clock under test shows.
#[derive(Clone)]
pub(super) struct Time {
    fake: Fake,
    start: Instant,
    suspended: Rc<Cell<Duration>>,
}

impl Time {
    pub(super) fn new() -> Self {
        Self { fake: Fake::new(), start: Instant::now(), suspended: Rc::default() }
    }

    /// The clock under test.
    pub(super) fn clock(&self) -> Clock {
        self.fake.clock()
    }

    pub(super) fn now(&self) -> Duration {
        self.start.elapsed() + self.suspended.get()
    }

    /// The machine sleeps.
    pub(super) fn suspend(&self, span: Duration) {
        self.fake.suspend(span);
        self.suspended.set(self.suspended.get() + span);
    }

    /// Somebody sets the wall clock.
    pub(super) fn step_wall(&self, seconds: i64) {
        self.fake.step_wall(seconds);
    }

    pub(super) async fn sleep_until(&self, at: Duration) {
        sleep(at.saturating_sub(self.now())).await;
    }
}

/// A request as it left for the API.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) at: Duration,
    /// The number of the exchange that gave its token.
    pub(super) token: usize,
}

/// A refresher at work, and what surrounds it.
pub(super) struct World {
    pub(super) time: Time,
    pub(super) clock: Clock,
    pub(super) provider: Provider,
    pub(super) cell: TokenCell,
    pub(super) renewal: Renewal,
    pub(super) metrics: TokenMetrics,
    pub(super) stamps: RefCell<Vec<Stamp>>,
    pub(super) refresher: JoinHandle<()>,
    /// Whatever else is under way.
    tasks: RefCell<Vec<JoinHandle<()>>>,
    pub(super) trigger: Trigger,
}

impl World {
    /// Must be called within [`simulate`].
    pub(super) fn start(
        config: &config::Token,
        seed: u64,
        time: Time,
        script: impl FnMut(Ask) -> Reply + 'static,
    ) -> Rc<Self> {
        Self::start_with(config, None, seed, time, script)
    }

    /// The same with a state file.
    pub(super) fn start_with(
        config: &config::Token,
        store: Option<Store>,
        seed: u64,
        time: Time,
        script: impl FnMut(Ask) -> Reply + 'static,
    ) -> Rc<Self> {
        let provider = Provider::new(time.clone(), script);
        let (clock, metrics) = (time.clock(), Metrics::default().token);
        let dice = StdRng::seed_from_u64(seed);
        let (refresher, cell, renewal) =
            Refresher::new(config, provider.clone(), store, clock.clone(), dice, metrics.clone());
        let (trigger, drain) = shutdown::channel();
        let refresher = spawn_local(refresher.run(drain));
        Rc::new(Self {
            time,
            clock,
            provider,
            cell,
            renewal,
            metrics,
            stamps: RefCell::default(),
            refresher,
            tasks: RefCell::default(),
            trigger,
        })
    }

    /// Starts a task that [`finish`](Self::finish) waits for.
    pub(super) fn spawn<F: Future>(self: &Rc<Self>, task: impl FnOnce(Rc<Self>) -> F + 'static) {
        let world = Rc::clone(self);
        let task = spawn_local(async move { drop(task(world).await) });
        self.tasks.borrow_mut().push(task);
    }

    /// Waits for all of them. Fails if one has failed: a task keeps its panic to itself.
    pub(super) async fn finish(&self) {
        for task in self.tasks.take() {
            task.await.expect("a task that does not panic");
        }
    }

    /// The current token, as the proxy gets it: from the cell, or else by waiting.
    pub(super) async fn bearer(&self) -> Result<Bearer, Unavailable> {
        match self.cell.load(self.clock.now()) {
            Some(bearer) => Ok(bearer),
            None => self.renewal.token().await,
        }
    }

    /// A request's way to the API: it takes the token, once more after connecting, and is stamped.
    pub(super) async fn request(&self, connecting: Option<Duration>) -> Result<Bearer, Unavailable> {
        let mut bearer = self.bearer().await?;
        if let Some(connecting) = connecting {
            sleep(connecting).await;
            bearer = self.bearer().await?;
        }
        self.stamps.borrow_mut().push(Stamp { at: self.time.now(), token: exchange_of(&bearer) });
        Ok(bearer)
    }

    /// Returns true if a request would find a token now.
    pub(super) fn is_valid(&self) -> bool {
        self.cell.load(self.clock.now()).is_some()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("now", &self.time.now())
            .field("calls", &self.provider.calls())
            .field("status", &self.renewal.status())
            .finish_non_exhaustive()
    }
}

/// The number of the exchange that gave this token.
pub(super) fn exchange_of(bearer: &Bearer) -> usize {
    let text = bearer.authorization.to_str().expect("visible ASCII");
    text.strip_prefix("Bearer token-").and_then(|nth| nth.parse().ok()).expect("a token of the scripted provider")
}

/// Polls a future so many times at most, then drops it where it stands.
pub(super) struct Impatient<F> {
    future: Option<Pin<Box<F>>>,
    polls: usize,
}

impl<F: Future> Impatient<F> {
    pub(super) fn new(future: F, polls: usize) -> Self {
        Self { future: Some(Box::pin(future)), polls }
    }
}

impl<F: Future> Future for Impatient<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { future, polls } = &mut *self;
        if let Some(running) = future.as_mut().filter(|_| *polls > 0) {
            if let Poll::Ready(output) = running.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            *polls -= 1;
        }
        if *polls == 0 {
            *future = None;
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}
