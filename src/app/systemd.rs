//! What systemd is told, where it asks for it (sd_notify(3)): ready, stopping, how it stands, still alive.

use std::convert::Infallible;

use sd_notify::NotifyState;
use tokio::{sync::watch, time::sleep};

use crate::{
    config::Gate,
    token::{Class, State, Status},
};

/// Tells how the token stands, with each change; that the service is ready, once; and that it is alive, as
/// often as the watchdog wants. By `startup` it is ready with the first token, or at once.
pub(super) async fn report(mut status: watch::Receiver<Status>, startup: Gate) -> Infallible {
    let mut is_ready = false;
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
        // Half of its time (sd_watchdog_enabled(3)).
        let watchdog = sd_notify::watchdog_enabled().map(|time| time / 2);
        loop {
            tokio::select! {
                changed = status.changed() => match changed {
                    Ok(()) => break,
                    // The refresher has ended, and the process will.
                    Err(_) => std::future::pending().await,
                },
                () = sleep(watchdog.unwrap_or_default()), if watchdog.is_some() => tell(&NotifyState::Watchdog),
            }
        }
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
