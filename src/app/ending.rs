//! When the run is over: at a signal, as asked at the admin port, or with the command that it is for.

use std::{cell::RefCell, convert::Infallible, future::pending};

use tokio::sync::Notify;

use crate::{
    config,
    errand::{Errand, ErrandError, first_token},
    reload::{Outcome, Reloader},
    shutdown::{End, Request, Requests, Signals},
    token::Renewal,
};

/// What is listened to while the sidecar runs.
pub(super) struct Control<'a> {
    pub(super) signals: &'a mut Signals,
    pub(super) requests: &'a mut Requests,
    /// Told at the admin port.
    pub(super) quit: &'a Notify,
    pub(super) reloader: Option<&'a RefCell<Reloader>>,
    pub(super) renewal: &'a Renewal,
}

impl Control<'_> {
    /// Waits until the run is over, and gives the exit code: that of the command, if there is one. One that was not
    /// started by then was not done: the code is that of a process that the signal ended, and never 0.
    ///
    /// # Errors
    /// When there is a command that does not run.
    pub(super) async fn until_over(
        self,
        errand: Option<Errand>,
        shutdown: &config::Shutdown,
    ) -> Result<u8, ErrandError> {
        let Self { signals, requests, quit, reloader, renewal } = self;
        let (linger_s, grace_s) = (shutdown.linger.as_secs(), shutdown.grace.as_secs());
        let due = async { if errand.is_some() { first_token(renewal.follow()).await } else { pending().await } };
        let end = tokio::select! {
            end = signals.end() => {
                tracing::info!(signal = end.name(), linger_s, grace_s, "ending");
                Some(end)
            }
            () = quit.notified() => {
                tracing::info!(linger_s, grace_s, "ending, as asked at the admin port");
                Some(End::Term)
            }
            never = heed(requests, reloader, renewal) => match never {},
            () = due => None,
        };
        match (errand, end) {
            (Some(errand), None) => errand.run(signals, requests, quit).await,
            (Some(_), Some(end)) => {
                tracing::warn!("the command was not started");
                Ok(end.exit_code())
            }
            (None, _) => Ok(0),
        }
    }
}

/// Does what SIGHUP and SIGUSR1 ask for.
async fn heed(requests: &mut Requests, reloader: Option<&RefCell<Reloader>>, renewal: &Renewal) -> Infallible {
    loop {
        match requests.next().await {
            Request::Reload => match reloader.map(|reloader| reloader.borrow_mut().look()) {
                Some(Outcome::Unchanged) => tracing::info!("nothing of the configuration has changed"),
                Some(Outcome::Reloaded | Outcome::Refused) => {}
                None => tracing::info!("this configuration cannot change"),
            },
            Request::Refresh => {
                if let Err(error) = renewal.ask() {
                    tracing::warn!(%error, "a refresh that was asked for is not made");
                }
            }
        }
    }
}
