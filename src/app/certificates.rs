//! The certificates of the configuration: when they end, and the client's when it is replaced.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::metrics::{family::Family, gauge::Gauge};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};

use crate::{
    certificate::earliest_end,
    config::{ClientIdentity, Config, Trust},
    http_client::Connector,
    metrics::Certificate,
    report::Report,
    tls::{self, Rotation},
};

/// The labels of certificates.
const CLIENT: &str = "client";
const UPSTREAM_CA: &str = "upstream_ca";
const TOKEN_CA: &str = "token_ca";

/// When certificates end, as metrics.
#[derive(Clone, Debug)]
pub(super) struct Expiries(Family<Certificate, Gauge>);

impl Expiries {
    /// Sets those of the files that are read at the start.
    pub(super) fn new(config: &Config, gauges: &Family<Certificate, Gauge>) -> Self {
        let this = Self(gauges.clone());
        let (upstream, token) = (&config.upstream, &config.token);
        if let Some(identity) = &upstream.identity {
            this.set(CLIENT, identity.client.end);
        }
        this.set_authorities(UPSTREAM_CA, &upstream.trust);
        this.set_authorities(TOKEN_CA, &token.trust);
        this
    }

    fn set_authorities(&self, cert: &'static str, trust: &Trust) {
        match earliest_end(&trust.extra) {
            Some(end) => self.set(cert, end),
            None => drop(self.0.remove(&Certificate { cert })),
        }
    }

    fn set(&self, cert: &'static str, end: SystemTime) {
        let seconds = end.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.0.get_or_create(&Certificate { cert }).set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}

/// Whom the connections to the provider believe, and who they say they are, as files change.
#[derive(Debug)]
pub(super) struct Certificates {
    /// Looks for another client's certificate, if there is one at all.
    pub(super) rotation: Option<Rotation>,
    /// What the client shows,
    pub(super) identity: Option<ClientIdentity>,
    /// and what it is to show instead.
    pub(super) to_show: Option<ClientIdentity>,
    pub(super) api: Connector,
    pub(super) token: Connector,
    pub(super) expiries: Expiries,
}

impl Certificates {
    /// Has new connections of all threads go by the `changes`, and by the files of the client's
    /// certificate, looked at every `interval`.
    pub(super) async fn follow(mut self, mut changes: watch::Receiver<Arc<Config>>, interval: Duration) -> Infallible {
        let mut trust = changes.borrow().upstream.trust.clone();
        let mut token_trust = changes.borrow().token.trust.clone();
        // Whatever changes meanwhile.
        let mut looks = interval_at(Instant::now() + interval, interval);
        // What was missed while the host slept is one look.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    if let Some(identity) = self.rotation.as_mut().and_then(Rotation::look) {
                        self.to_show = Some(identity);
                    }
                    self.show_new(&trust);
                }
                // An error means that nothing changes any more.
                Ok(()) = changes.changed() => {
                    let config = Arc::clone(&changes.borrow_and_update());
                    if config.upstream.trust.extra != trust.extra {
                        trust.extra.clone_from(&config.upstream.trust.extra);
                        if renew(&self.api, &trust, self.identity.as_ref()) {
                            self.expiries.set_authorities(UPSTREAM_CA, &trust);
                        }
                    }
                    if config.token.trust.extra != token_trust.extra {
                        token_trust.extra.clone_from(&config.token.trust.extra);
                        if renew(&self.token, &token_trust, None) {
                            self.expiries.set_authorities(TOKEN_CA, &token_trust);
                        }
                    }
                }
            }
        }
    }

    /// Has the client's new certificate shown, if there is one; else, the next time.
    fn show_new(&mut self, trust: &Trust) {
        if self.to_show.is_some() && renew(&self.api, trust, self.to_show.as_ref()) {
            self.identity = self.to_show.take();
            if let Some(identity) = &self.identity {
                self.expiries.set(CLIENT, identity.end);
            }
            tracing::info!("new connections show the client's new certificate");
        }
    }
}

/// Returns whether new connections are made by these.
fn renew(connector: &Connector, trust: &Trust, identity: Option<&ClientIdentity>) -> bool {
    match tls::client_config(trust) {
        Ok(plain) => {
            let tls = identity.map(|identity| tls::with_identity(&plain, identity));
            connector.replace_tls(tls.as_ref().unwrap_or(&plain));
            true
        }
        Err(error) => {
            tracing::error!(error = %Report(&error), "the new certificates are of no use; the last good ones are");
            false
        }
    }
}
