//! The port for probes and Prometheus: is the process alive, has it started, can it serve, how does it do.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE},
};
use http_body_util::Full;

use crate::{
    clock::Clock,
    config::{self, Gate},
    metrics::Metrics,
    token::{Renewal, TokenCell},
};

/// Answers probes and scrapes.
#[derive(Debug)]
pub struct Admin {
    startup: Gate,
    readiness: Gate,
    tokens: TokenCell,
    renewal: Renewal,
    clock: Clock,
    metrics: Metrics,
}

impl Admin {
    /// It only reads what the others write.
    #[must_use]
    pub fn new(config: &config::Admin, tokens: TokenCell, renewal: Renewal, clock: Clock, metrics: Metrics) -> Self {
        Self { startup: config.startup, readiness: config.readiness, tokens, renewal, clock, metrics }
    }

    /// Answers one request; the body of it is not read.
    #[must_use]
    pub fn handle<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let page = match request.uri().path() {
            "/livez" => probe(Ok("alive")),
            "/startupz" => probe(self.started()),
            "/readyz" => probe(self.ready()),
            "/metrics" => answer(StatusCode::OK, OPEN_METRICS, self.scraped()),
            _ => return text(StatusCode::NOT_FOUND, "no such page: /livez, /startupz, /readyz, /metrics"),
        };
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD only");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        page
    }

    /// Answers a request on a connection that is one too many.
    #[must_use]
    pub fn refuse(&self) -> Response<Full<Bytes>> {
        let mut refusal = text(StatusCode::SERVICE_UNAVAILABLE, "too many connections are open");
        refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        refusal
    }

    fn started(&self) -> Result<&'static str, &'static str> {
        match self.startup {
            Gate::Token if self.renewal.status().generation == 0 => Err("waiting for the first access token"),
            Gate::Token | Gate::Serving => Ok("started"),
        }
    }

    fn ready(&self) -> Result<&'static str, &'static str> {
        match self.readiness {
            Gate::Token if self.tokens.time_left(self.clock.now()).is_none() => Err("no valid access token"),
            Gate::Token | Gate::Serving => Ok("ready"),
        }
    }

    /// All metrics, with those that tell a state as it is now.
    fn scraped(&self) -> String {
        let (gauges, status, now) = (&self.metrics.token, self.renewal.status(), self.clock.now());
        let seconds = |moment| seconds_of(self.clock.wall_at(moment));
        gauges.valid.set(self.tokens.time_left(now).is_some().into());
        gauges.generation.set(i64::try_from(status.generation).unwrap_or(i64::MAX));
        gauges.expiry.set(status.hard_expiry.map_or(0, seconds));
        gauges.last_success.set(status.issued_at.map_or(0, seconds));
        gauges.next_attempt.set(seconds(status.next_attempt.unwrap_or(now)));
        gauges.consecutive_failures.set(status.failures.into());
        gauges.breaker_open.set(self.renewal.is_breaker_open().into());
        gauges.refresh_token_unpersisted.set((!status.persistent).into());
        let age = status.refresh_token_used_at.and_then(|used| self.clock.wall().duration_since(used).ok());
        gauges.refresh_token_age.set(age.map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
        self.metrics.render()
    }
}

/// The version of the format that [`Metrics::render`] writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn seconds_of(wall: SystemTime) -> i64 {
    wall.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
}

fn probe(outcome: Result<&'static str, &'static str>) -> Response<Full<Bytes>> {
    match outcome {
        Ok(line) => text(StatusCode::OK, line),
        Err(line) => text(StatusCode::SERVICE_UNAVAILABLE, line),
    }
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
