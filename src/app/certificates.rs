//! The certificates of the configuration: when they end, and the client's when it is replaced.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::metrics::{family::Family, gauge::Gauge};
use rustls::ClientConfig;
use tokio::time::sleep;

use crate::{
    certificate::earliest_end,
    config::Config,
    http_client::Connector,
    metrics::Certificate,
    tls::{self, Rotation},
};

/// The label of the client's certificate.
const CLIENT: &str = "client";

/// When certificates end, as metrics.
#[derive(Clone, Debug)]
pub(super) struct Expiries(Family<Certificate, Gauge>);

impl Expiries {
    /// Sets those of the files that are read at the start.
    pub(super) fn new(config: &Config, gauges: &Family<Certificate, Gauge>) -> Self {
        let this = Self(gauges.clone());
        let (upstream, token) = (&config.upstream, &config.token);
        let ends = [
            (CLIENT, upstream.identity.as_ref().map(|identity| identity.client.end)),
            ("upstream_ca", earliest_end(&upstream.trust.extra)),
            ("token_ca", earliest_end(&token.trust.extra)),
        ];
        for (cert, end) in ends {
            if let Some(end) = end {
                this.set(cert, end);
            }
        }
        this
    }

    fn set(&self, cert: &'static str, end: SystemTime) {
        let seconds = end.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.0.get_or_create(&Certificate { cert }).set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}

/// Has new connections of all threads show the client's certificate as it is in its files, looked at
/// every `interval`. `plain` are the settings without it.
pub(super) async fn rotate(
    mut rotation: Rotation,
    plain: ClientConfig,
    connector: Connector,
    expiries: Expiries,
    interval: Duration,
) -> Infallible {
    loop {
        sleep(interval).await;
        if let Some(identity) = rotation.look() {
            connector.replace_tls(&tls::with_identity(&plain, &identity));
            expiries.set(CLIENT, identity.end);
            tracing::info!("new connections show the client's new certificate");
        }
    }
}
