//! The port for probes, Prometheus and operators: is the process alive, has it started, can it serve, how
//! does it do; and what it is to do.

mod guard;
mod page;
mod probe;
mod status;
mod traffic;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::Full;
use tokio::sync::Notify;

pub use self::traffic::Traffic;
use self::{guard::Purpose, probe::Verdict, status::Report};
use crate::{
    clock::{Clock, Moment, Pulse},
    config::{self, Gate, log_level},
    listener::Peer,
    metrics::Metrics,
    reload::{Outcome, Reloader},
    telemetry::LogControl,
    token::{Renewal, TokenCell},
};

/// A part without which the process is of no use.
#[derive(Clone, Debug)]
pub struct Vital {
    /// One word, for `/livez?verbose`.
    pub name: &'static str,
    /// Its sign of life.
    pub pulse: Pulse,
    /// How old that may be.
    pub limit: Duration,
    /// What is said of it otherwise.
    pub complaint: &'static str,
}

impl Vital {
    fn is_still(&self) -> bool {
        self.pulse.age() > self.limit
    }
}

/// What the process can be told to do at the admin port.
#[derive(Debug)]
pub struct Orders {
    /// What is logged from now on.
    pub log: LogControl,
    /// Told to drain and end; `None` if that is not permitted.
    pub quit: Option<Rc<Notify>>,
    /// Looks at the configuration; `None` if it cannot change.
    pub reloader: Option<Rc<RefCell<Reloader>>>,
    /// Set once the end has begun, though connections may still be taken: it is not ready any more.
    pub ending: Rc<Cell<bool>>,
}

/// What it tells of; it only reads what the others write.
#[derive(Debug)]
pub struct Sources {
    /// Where the token is.
    pub tokens: TokenCell,
    /// What the refresher is at.
    pub renewal: Renewal,
    /// All of them.
    pub metrics: Metrics,
    /// Of the last minutes.
    pub traffic: Traffic,
    /// Without which it is not alive.
    pub vital: Vec<Vital>,
}

/// Answers probes and scrapes, and takes orders.
#[derive(Debug)]
pub struct Admin {
    startup: Gate,
    readiness: Gate,
    sources: Sources,
    clock: Clock,
    started_at: Moment,
    orders: Orders,
}

impl Admin {
    /// By `[admin]`.
    #[must_use]
    pub fn new(config: &config::Admin, sources: Sources, clock: Clock, orders: Orders) -> Self {
        let started_at = clock.now();
        Self { startup: config.startup, readiness: config.readiness, sources, clock, started_at, orders }
    }

    /// Answers one request of this peer's; the body of it is not read.
    #[must_use]
    pub fn handle<B>(&self, request: &Request<B>, peer: Peer) -> Response<Full<Bytes>> {
        let Some(page) = PAGES.iter().find(|page| page.path == request.uri().path()) else {
            let paths: Vec<&str> = PAGES.iter().map(|page| page.path).collect();
            return text(StatusCode::NOT_FOUND, &format!("no such page: {}", paths.join(", ")));
        };
        if !page.methods.iter().any(|method| method == request.method()) {
            let methods: Vec<&str> = page.methods.iter().map(Method::as_str).collect();
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, &format!("{} only", methods.join(" or ")));
            let allow = HeaderValue::try_from(methods.join(", ")).expect("methods are a header's value");
            refusal.headers_mut().insert(ALLOW, allow);
            return refusal;
        }
        if let Err(refusal) = guard::admit(request, peer, page.purpose) {
            tracing::warn!(%peer, path = page.path, error = %refusal, "a request to the admin port was refused");
            return text(StatusCode::FORBIDDEN, &refusal.to_string());
        }
        (page.answer)(self, request.uri().query())
    }

    /// Answers a request on a connection that is one too many, and the last on it: probes all the same, or
    /// whoever takes all places would have the process taken for dead.
    #[must_use]
    pub fn handle_surplus<B>(&self, request: &Request<B>, peer: Peer) -> Response<Full<Bytes>> {
        let is_probe = PROBES.contains(&request.uri().path());
        let mut answer = if is_probe {
            self.handle(request, peer)
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, "too many connections are open")
        };
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    }

    fn status(&self) -> Response<Full<Bytes>> {
        let report = serde_json::to_string(&Report::of(self)).expect("text and numbers are JSON");
        answer(StatusCode::OK, "application/json", report)
    }

    fn refresh(&self) -> Response<Full<Bytes>> {
        match self.sources.renewal.ask() {
            Ok(()) => text(StatusCode::ACCEPTED, "the access token is refreshed as soon as the provider may be asked"),
            Err(too_often) => {
                let mut refusal = text(StatusCode::TOO_MANY_REQUESTS, &too_often.to_string());
                refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
                refusal
            }
        }
    }

    fn reload(&self) -> Response<Full<Bytes>> {
        match self.orders.reloader.as_ref().map(|reloader| reloader.borrow_mut().look()) {
            Some(Outcome::Unchanged) => text(StatusCode::OK, "nothing has changed"),
            Some(Outcome::Reloaded) => text(StatusCode::OK, "reloaded; the log names what changed"),
            // They may show what the environment holds.
            Some(Outcome::Refused) => text(StatusCode::UNPROCESSABLE_ENTITY, "it has faults, which the log tells"),
            None => text(StatusCode::FORBIDDEN, "this configuration cannot change"),
        }
    }

    fn set_log_level(&self, word: &str) -> Response<Full<Bytes>> {
        match log_level(word) {
            Some(level) => {
                self.orders.log.set_level(level);
                tracing::info!(level = word, "the log's level was set at the admin port");
                text(
                    StatusCode::OK,
                    &format!("the log's level is {word} until the next start, or another one in the configuration"),
                )
            }
            None => text(StatusCode::BAD_REQUEST, "expected ?off, ?error, ?warn, ?info, ?debug or ?trace"),
        }
    }

    fn quit(&self) -> Response<Full<Bytes>> {
        match &self.orders.quit {
            Some(quit) => {
                quit.notify_one();
                text(StatusCode::OK, "draining")
            }
            None => text(StatusCode::FORBIDDEN, "only with `admin.quit = true` in the configuration"),
        }
    }

    /// All metrics, with those that tell a state as it is now.
    fn scraped(&self) -> String {
        let (gauges, status, now) = (&self.sources.metrics.token, self.sources.renewal.status(), self.clock.now());
        let seconds = |moment| seconds_of(self.clock.wall_at(moment));
        gauges.valid.set(self.sources.tokens.time_left(now).is_some().into());
        gauges.generation.set(i64::try_from(status.generation).unwrap_or(i64::MAX));
        gauges.expiry.set(status.hard_expiry.map_or(0, seconds));
        gauges.last_success.set(status.issued_at.map_or(0, seconds));
        gauges.next_attempt.set(seconds(status.next_attempt.unwrap_or(now)));
        gauges.consecutive_failures.set(status.failures.into());
        gauges.breaker_open.set(self.sources.renewal.is_breaker_open().into());
        gauges.refresh_token_unpersisted.set((!status.persistent).into());
        let age = status.refresh_token_used_at.and_then(|used| self.clock.wall().duration_since(used).ok());
        gauges.refresh_token_age.set(age.map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
        self.sources.metrics.render()
    }
}

/// A page of the admin port.
struct Page {
    path: &'static str,
    methods: &'static [Method],
    purpose: Purpose,
    /// By the query.
    answer: fn(&Admin, Option<&str>) -> Response<Full<Bytes>>,
}

impl Page {
    const fn look(path: &'static str, answer: fn(&Admin, Option<&str>) -> Response<Full<Bytes>>) -> Self {
        Self { path, methods: &[Method::GET, Method::HEAD], purpose: Purpose::Look, answer }
    }

    const fn probe(path: &'static str, answer: fn(&Admin, Option<&str>) -> Response<Full<Bytes>>) -> Self {
        Self { path, methods: &[Method::GET, Method::HEAD], purpose: Purpose::Probe, answer }
    }
}

/// What keeps an orchestrator from ending the process.
const PROBES: [&str; 3] = ["/livez", "/startupz", "/readyz"];

static PAGES: [Page; 10] = [
    Page::look("/", |admin, _| page::of(&Report::of(admin))),
    Page::look("/status", |admin, _| admin.status()),
    Page::probe("/livez", |admin, query| Verdict::alive(admin).answer(query)),
    Page::probe("/startupz", |admin, query| Verdict::started(admin).answer(query)),
    Page::probe("/readyz", |admin, query| Verdict::ready(admin).answer(query)),
    Page::probe("/metrics", |admin, _| answer(StatusCode::OK, OPEN_METRICS, admin.scraped())),
    Page { path: "/refresh", methods: &[Method::POST], purpose: Purpose::Act, answer: |admin, _| admin.refresh() },
    Page { path: "/reload", methods: &[Method::POST], purpose: Purpose::Act, answer: |admin, _| admin.reload() },
    Page {
        path: "/log-level",
        methods: &[Method::PUT],
        purpose: Purpose::Act,
        answer: |admin, level| admin.set_log_level(level.unwrap_or_default()),
    },
    Page { path: "/quitquitquit", methods: &[Method::POST], purpose: Purpose::Act, answer: |admin, _| admin.quit() },
];

/// The version of the format that [`Metrics::render`] writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn seconds_of(wall: SystemTime) -> i64 {
    wall.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::{Pulse, Vital};

    #[tokio::test(start_paused = true)]
    async fn a_part_stands_still_once_its_last_sign_of_life_is_older_than_its_limit() {
        let (limit, complaint) = (Duration::from_secs(60), "it stands still");
        let part = Vital { name: "part", pulse: Pulse::default(), limit, complaint };
        advance(Duration::from_secs(60)).await;
        assert!(!part.is_still());
        advance(Duration::from_secs(2)).await;
        assert!(part.is_still());
        part.pulse.beat();
        assert!(!part.is_still());
    }
}
