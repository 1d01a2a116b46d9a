//! What systemd is told, where it asks for it (sd_notify(3)): ready, stopping, how it stands, still alive.

use std::convert::Infallible;

use sd_notify::NotifyState;
use tokio::{
    sync::watch,
    time::{Interval, interval},
};

use crate::{
    config::Gate,
    token::{Class, State, Status},
};

/// Tells how the token stands, with each change; that the service is ready, once; and that it is alive, as
/// often as the watchdog wants. By `startup` it is ready with the first token, or at once.
pub(super) async fn report(mut status: watch::Receiver<Status>, startup: Gate) -> Infallible {
    let mut is_ready = false;
    // Half of its time (sd_watchdog_enabled(3)), whatever else is told meanwhile.
    let mut watchdog = sd_notify::watchdog_enabled().map(|time| interval(time / 2));
    loop {
        let (state, has_token) = {
            let status = status.borrow_and_update();
            (status.state, status.generation > 0)
        };
        if !is_ready && (has_token || startup == Gate::Serving) {
            is_ready = true;
            tell(&NotifyState::Ready);
        }
        tell(&NotifyState::Status(summary(state)));
        while !next(&mut status, watchdog.as_mut()).await {
            tell(&NotifyState::Watchdog);
        }
    }
}

/// Returns true if the status has changed, false if the watchdog wants a sign of life.
async fn next(status: &mut watch::Receiver<Status>, watchdog: Option<&mut Interval>) -> bool {
    let tick = async {
        match watchdog {
            Some(watchdog) => watchdog.tick().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // First, or a status that changes all the time would keep it waiting.
        biased;
        _ = tick => false,
        // An error means that the refresher has ended, and the process will.
        changed = status.changed() => match changed {
            Ok(()) => true,
            Err(_) => std::future::pending().await,
        },
    }
}

/// The service drains.
pub(super) fn stopping() {
    tell(&NotifyState::Stopping);
    tell(&NotifyState::Status("draining"));
}

fn summary(state: State) -> &'static str {
    match state {
        State::Starting => "waiting for the first access token",
        State::Fresh => "serving",
        State::Failing(Class::Transient) => "the access token cannot be refreshed at the moment",
        State::Failing(Class::Configuration) => "the provider refuses the configuration: see the log",
        State::Failing(Class::GrantGone) => "the user must authorize again",
        State::Doubtful => "the provider says that the user's authorization is gone",
    }
}

/// Nothing, where nobody listens.
fn tell(state: &NotifyState<'_>) {
    // An error means that whoever started the process does not listen any more.
    let _ = sd_notify::notify(std::slice::from_ref(state));
}
