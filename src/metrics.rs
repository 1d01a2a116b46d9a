//! Every metric, declared once; `docs` of each is the text that Prometheus shows.
//!
//! Counters and histograms are written as things happen. Gauges are set when they are scraped, by
//! whoever knows the state: see [`crate::admin`]; those of certificates, when these are read.

mod http;
mod process;

use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

pub use self::http::{
    Answerer, Connections, HttpCounts, HttpMetrics, MethodLabel, OpenConnection, Retry, Totals, UPSTREAM_ERRORS,
};
use self::process::Process;

/// The bounds of what takes from a millisecond to half a minute, in seconds.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// All of them, and the way to show them. Clones of the parts write to the same values.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Of the process: their names are those of all Prometheus clients.
    unprefixed: Registry,
    /// Of requests.
    pub http: HttpMetrics,
    /// Of the token's life.
    pub token: TokenMetrics,
    /// When certificates of the configuration are no longer valid.
    pub certificate_expiry: Family<Certificate, Gauge>,
    /// Of changed configurations.
    pub reload: ReloadMetrics,
}

/// The metrics of changed configurations.
#[derive(Clone, Debug, Default)]
pub struct ReloadMetrics {
    reloads: Family<Outcome, Counter>,
    /// Whether the configuration on disk is the one in use, but for what needs a restart.
    pub last_successful: Gauge,
}

impl ReloadMetrics {
    /// One more was read; `result` is `success` or `failure`.
    pub fn count(&self, result: &'static str) {
        self.reloads.get_or_create(&Outcome { result }).inc();
        self.last_successful.set((result == "success").into());
    }
}

/// The names of certificates.
const CERTIFICATES: [&str; 3] = ["client", "upstream_ca", "token_ca"];

/// A certificate of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Certificate {
    /// `client`, `upstream_ca` or `token_ca`; of several in a file, that which ends first.
    pub cert: &'static str,
}

/// How a token request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refresh {
    /// Why it was made: `start`, `scheduled`, `retry`, `rejected`, `secret` or `asked`.
    pub cause: &'static str,
    /// `success`, `transient`, `configuration` or `grant_gone`.
    pub result: &'static str,
    /// One of the known values of `error`, `other`, or empty.
    pub oauth_error: &'static str,
}

/// An answer of the API that says that the token is not good.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Rejection {
    /// The answer's status.
    pub status: u16,
    /// What was done about it: `replay` or `pass_on`.
    pub action: &'static str,
}

/// How something went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// One word.
    pub result: &'static str,
}

/// Why something did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// One word.
    pub reason: &'static str,
}

/// The metrics of the token's life.
#[derive(Clone, Debug)]
pub struct TokenMetrics {
    /// Token requests.
    pub refreshes: Family<Refresh, Counter>,
    /// How long they took.
    pub refresh_duration: Histogram,
    /// Tokens whose response stated no lifetime.
    pub lifetime_unknown: Counter,
    /// Requests that wait for a token now.
    pub waiting: Gauge,
    /// How long requests waited.
    pub wait: Histogram,
    /// Requests that failed for want of a token.
    pub unavailable: Family<Reason, Counter>,
    /// Tokens that the API rejected.
    pub rejections: Family<Rejection, Counter>,
    /// Requests that were sent again.
    pub replays: Family<Outcome, Counter>,
    /// Secret files that were found changed, or could not be read.
    pub secret_reloads: Family<Outcome, Counter>,
    /// Whether a token can be sent.
    pub valid: Gauge,
    /// The number of the newest token.
    pub generation: Gauge,
    /// When the newest token can no longer be sent.
    pub expiry: Gauge,
    /// When the newest token was obtained.
    pub last_success: Gauge,
    /// Failed token requests since.
    pub consecutive_failures: Gauge,
    /// When the next token request starts.
    pub next_attempt: Gauge,
    /// Whether rejections are passed on without a token request.
    pub breaker_open: Gauge,
    /// Whether a refresh token is in memory only.
    pub refresh_token_unpersisted: Gauge,
    /// How long ago the refresh token was last used or replaced.
    pub refresh_token_age: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("token_valet");
        let mut unprefixed = Registry::default();
        unprefixed.register_collector(Box::new(Process::new()));
        registry.register("build", "What runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let http = HttpMetrics::default();
        registry.register_collector(Box::new(http.clone()));
        let token = TokenMetrics::register(&mut registry);
        let reload = ReloadMetrics::default();
        registry.register("config_reloads", "Changed configurations", reload.reloads.clone());
        registry.register(
            "config_last_reload_successful",
            "Whether the last changed configuration was good",
            reload.last_successful.clone(),
        );
        let certificate_expiry = Family::default();
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            "When a certificate of the configuration is no longer valid",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        Self { registry, unprefixed, http, token, certificate_expiry, reload }
    }
}

impl Metrics {
    /// When each of the configuration's certificates ends, in seconds of Unix time.
    #[must_use]
    pub fn certificates(&self) -> Vec<(&'static str, u64)> {
        let ends = CERTIFICATES.into_iter().filter_map(|cert| {
            let end = self.certificate_expiry.get(&Certificate { cert })?.get();
            Some((cert, u64::try_from(end).unwrap_or(0)))
        });
        ends.collect()
    }

    /// The text that Prometheus scrapes (OpenMetrics 1.0).
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let written = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &self.unprefixed))
            .and_then(|()| encode_eof(&mut text));
        written.expect("a string takes everything");
        text
    }
}

impl TokenMetrics {
    fn register(registry: &mut Registry) -> Self {
        let this = Self {
            refreshes: Family::default(),
            refresh_duration: Histogram::new(SECONDS),
            lifetime_unknown: Counter::default(),
            waiting: Gauge::default(),
            wait: Histogram::new(SECONDS),
            unavailable: Family::default(),
            rejections: Family::default(),
            replays: Family::default(),
            secret_reloads: Family::default(),
            valid: Gauge::default(),
            generation: Gauge::default(),
            expiry: Gauge::default(),
            last_success: Gauge::default(),
            consecutive_failures: Gauge::default(),
            next_attempt: Gauge::default(),
            breaker_open: Gauge::default(),
            refresh_token_unpersisted: Gauge::default(),
            refresh_token_age: Gauge::default(),
        };
        let r = registry;
        r.register("token_refreshes", "Token requests", this.refreshes.clone());
        r.register_with_unit(
            "token_refresh_duration",
            "Time that token requests took",
            Unit::Seconds,
            this.refresh_duration.clone(),
        );
        r.register("token_lifetime_unknown", "Tokens without a stated lifetime", this.lifetime_unknown.clone());
        r.register("token_waiting_requests", "Requests that wait for a token", this.waiting.clone());
        r.register_with_unit("token_wait", "Time that requests waited for a token", Unit::Seconds, this.wait.clone());
        r.register("token_unavailable", "Requests that failed for want of a token", this.unavailable.clone());
        r.register("token_rejections", "Answers that reject the token", this.rejections.clone());
        r.register("token_replays", "Requests sent again with a newer token", this.replays.clone());
        r.register("secret_reloads", "Secret files found changed or unreadable", this.secret_reloads.clone());
        r.register("token_valid", "Whether a token can be sent", this.valid.clone());
        r.register("token_generation", "Number of the newest token", this.generation.clone());
        r.register_with_unit(
            "token_expiry_timestamp",
            "When the newest token can no longer be sent",
            Unit::Seconds,
            this.expiry.clone(),
        );
        r.register_with_unit(
            "token_last_success_timestamp",
            "When the newest token was obtained",
            Unit::Seconds,
            this.last_success.clone(),
        );
        r.register(
            "token_consecutive_failures",
            "Failed token requests since the last token",
            this.consecutive_failures.clone(),
        );
        r.register_with_unit(
            "token_next_attempt_timestamp",
            "When the next token request starts",
            Unit::Seconds,
            this.next_attempt.clone(),
        );
        r.register("token_breaker_open", "Whether rejections are passed on", this.breaker_open.clone());
        r.register(
            "refresh_token_unpersisted",
            "Whether a refresh token is in memory only",
            this.refresh_token_unpersisted.clone(),
        );
        r.register_with_unit(
            "refresh_token_age",
            "Time since the refresh token was last used",
            Unit::Seconds,
            this.refresh_token_age.clone(),
        );
        this
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use http::{Method, StatusCode};

    use super::{Answerer, Certificate, MethodLabel, Metrics, Outcome, Reason, Refresh, Rejection};

    /// Each with a series, as those without any are not shown.
    fn all() -> Metrics {
        let metrics = Metrics::default();
        let token = &metrics.token;
        token.refreshes.get_or_create(&Refresh { cause: "start", result: "success", oauth_error: "" }).inc();
        token.unavailable.get_or_create(&Reason { reason: "transient" }).inc();
        token.rejections.get_or_create(&Rejection { status: 401, action: "replay" }).inc();
        token.replays.get_or_create(&Outcome { result: "accepted" }).inc();
        token.secret_reloads.get_or_create(&Outcome { result: "success" }).inc();
        metrics.reload.count("success");
        metrics.certificate_expiry.get_or_create(&Certificate { cert: "client" }).set(1);
        let answer = Some((StatusCode::OK, Answerer::Upstream));
        let span = Duration::from_millis(1);
        metrics.http.of_this_thread().left(MethodLabel::of(&Method::GET), answer, span, Some(span));
        metrics
    }

    #[test]
    fn the_readme_s_table_has_every_metric_and_no_other() {
        let text = all().render();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let names: BTreeSet<String> = types
            .map(|(name, kind)| match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            })
            .collect();
        let readme = include_str!("../README.md").split_once("\n### Metrics\n").expect("a section of them").1;
        let table = readme.split("\n[").next().expect("it begins");
        let told: BTreeSet<String> = table
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.starts_with("token_valet_") || word.starts_with("process_"))
            .map(str::to_owned)
            .collect();
        assert_eq!(names, told);
    }
}
