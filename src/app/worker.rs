//! The threads that serve requests, each with a runtime and a proxy of its own.

use std::{io, rc::Rc, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, watch},
    task::spawn_local,
    time::sleep,
};

use crate::{
    clock::Pulse,
    config::Config,
    listener::{Accepted, Detached, HttpLimits, Listener, Places},
    proxy::Proxy,
    shutdown::Drain,
};

/// How often a thread shows that it is alive.
const BEAT: Duration = Duration::from_secs(10);

/// All of them.
#[derive(Debug)]
pub(super) struct Workers {
    /// Each thread sends how it ended, and nothing before.
    ends: mpsc::Receiver<io::Result<()>>,
}

impl Workers {
    /// Starts a thread for each of the `pulses`, of which there is one at least. The first accepts and hands connections out in turn, so that
    /// each gets as many as the others however quickly they come.
    pub(super) fn start(
        pulses: &[Pulse],
        port: Listener,
        limits: HttpLimits,
        drain: &Drain,
        new_proxy: impl Fn() -> Proxy + Clone + Send + 'static,
        config: &watch::Receiver<Arc<Config>>,
    ) -> io::Result<Self> {
        let count = pulses.len();
        let (ended, ends) = mpsc::channel(count);
        let places = port.places();
        let spawn = |number: usize, source: Source| {
            let (ended, places, drain, new_proxy) = (ended.clone(), places.clone(), drain.clone(), new_proxy.clone());
            let (config, pulse) = (config.clone(), pulses[number].clone());
            thread::Builder::new().name(format!("proxy-{number}")).spawn(move || {
                let mut end = End { ended, how: Err(io::Error::other("a thread panicked")) };
                end.how = work(source, new_proxy, config, pulse, limits, &places, drain);
            })
        };
        let mut lanes = Vec::with_capacity(count - 1);
        for number in 1..count {
            // Never full, as each connection in it has its place.
            let (lane, inbox) = mpsc::channel(places.count());
            lanes.push(lane);
            spawn(number, Source::Lane(inbox))?;
        }
        spawn(0, Source::Port(port, lanes))?;
        Ok(Self { ends })
    }

    /// Completes when a thread ends although no drain has begun.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing, unless it had completed.
    pub(super) async fn failed(&mut self) -> io::Error {
        match self.ends.recv().await {
            Some(Err(error)) => error,
            Some(Ok(())) | None => io::Error::other("a thread ended on its own"),
        }
    }

    /// Completes when the last connection is closed and the threads have ended.
    pub(super) async fn drained(&mut self) {
        while self.ends.recv().await.is_some() {}
    }
}

/// Tells how a thread ended, also if it panics.
struct End {
    ended: mpsc::Sender<io::Result<()>>,
    how: io::Result<()>,
}

impl Drop for End {
    fn drop(&mut self) {
        // An error means that nobody waits any more.
        let _ = self.ended.try_send(std::mem::replace(&mut self.how, Ok(())));
    }
}

/// Where a thread's connections come from.
enum Source {
    /// The port itself; all but every so-manieth go to the other threads.
    Port(Listener, Vec<mpsc::Sender<Detached>>),
    /// The thread that has the port.
    Lane(mpsc::Receiver<Detached>),
}

/// Serves until the drain has begun and no connection is left.
fn work(
    source: Source,
    new_proxy: impl FnOnce() -> Proxy,
    config: watch::Receiver<Arc<Config>>,
    pulse: Pulse,
    limits: HttpLimits,
    places: &Places,
    drain: Drain,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let served = runtime.block_on(async move {
        let proxy = Rc::new(new_proxy());
        spawn_local(proxy.sweeps_pool());
        spawn_local(proxy.keeps_response_timeouts());
        spawn_local(follow(config, Rc::clone(&proxy)));
        spawn_local(beats(pulse));
        let serve = |accepted: Accepted| {
            let proxy = Rc::clone(&proxy);
            spawn_local(
                accepted
                    .serve(limits, drain.clone(), move |head, body, reply| Rc::clone(&proxy).handle(head, body, reply)),
            );
        };
        match source {
            Source::Port(port, lanes) => {
                let mut turn = 0;
                port.accept(drain.clone(), |accepted| {
                    turn = (turn + 1) % (lanes.len() + 1);
                    match turn.checked_sub(1) {
                        None => serve(accepted),
                        // An error closes the connection: its thread is gone, and so will be this one.
                        Some(lane) => drop(accepted.detach().map(|detached| lanes[lane].try_send(detached))),
                    }
                })
                .await?;
            }
            Source::Lane(mut inbox) => {
                while let Some(detached) = inbox.recv().await {
                    match detached.attach() {
                        Ok(accepted) => serve(accepted),
                        Err(error) => tracing::warn!(%error, "a connection cannot be served"),
                    }
                }
            }
        }
        places.all_free().await;
        Ok(())
    });
    // Not to wait for a name's look-up that hangs.
    runtime.shutdown_background();
    served
}

/// Has the proxy go by each newer configuration.
async fn follow(mut config: watch::Receiver<Arc<Config>>, proxy: Rc<Proxy>) {
    while config.changed().await.is_ok() {
        proxy.reconfigure(&config.borrow_and_update());
    }
}

/// Shows that the thread has its turns. Never completes.
async fn beats(pulse: Pulse) {
    loop {
        pulse.beat();
        sleep(BEAT).await;
    }
}
