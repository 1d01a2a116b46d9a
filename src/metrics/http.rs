//! The metrics of requests. Each thread that serves them writes its own, without a lock or an atomic
//! operation that others could hold up; a scrape adds them up.

use std::{
    fmt,
    rc::Rc,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::SECONDS;

/// Known by name; any other is `_OTHER`, so that callers cannot make labels.
static METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
const OTHER_METHOD: &str = "_OTHER";
const METHOD_COUNT: usize = METHODS.len() + 1;
/// Statuses have three digits, from 100.
const STATUSES: usize = 900;
/// The caller went away before it had its answer: a status that is never sent.
const GONE: u16 = 499;

/// A method, as metrics tell it.
#[derive(Clone, Copy, Debug)]
pub struct MethodLabel(usize);

impl MethodLabel {
    /// That of a request.
    #[must_use]
    pub fn of(method: &Method) -> Self {
        Self(METHODS.iter().position(|known| known == method).unwrap_or(METHODS.len()))
    }

    fn as_str(self) -> &'static str {
        METHODS.get(self.0).map_or(OTHER_METHOD, Method::as_str)
    }
}

/// Who made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answerer {
    /// The API.
    Upstream,
    /// This process.
    Sidecar,
}

const ANSWERERS: [(Answerer, &str); 2] = [(Answerer::Upstream, "upstream"), (Answerer::Sidecar, "sidecar")];

/// Why a request did not get the API's answer.
pub const UPSTREAM_ERRORS: [&str; 6] =
    ["upstream_connect", "upstream_tls", "upstream_broken", "connect_timeout", "response_timeout", "body_timeout"];

/// Why a request was sent again on another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The API said goodbye to the connection, or had closed it, before it had the request.
    GoAway,
    /// The API refused the stream.
    Refused,
    /// The API closed an idle connection as the request was sent.
    Closed,
}

const RETRIES: [(Retry, &str); 3] = [(Retry::GoAway, "goaway"), (Retry::Refused, "refused"), (Retry::Closed, "closed")];

/// A count that one thread writes and others read.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How long something took.
#[derive(Debug, Default)]
struct Spans {
    /// By the bounds of [`SECONDS`], and beyond.
    buckets: [Count; SECONDS.len() + 1],
    nanos: Count,
}

impl Spans {
    fn observe(&self, span: Duration) {
        let seconds = span.as_secs_f64();
        let bucket = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
        self.buckets[bucket].add(1);
        self.nanos.add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// By status; only for methods that occur.
type ByStatus = OnceLock<Box<[Count; STATUSES]>>;

/// A thread's connections to the API.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicI64,
    idle: AtomicI64,
}

/// Counts a connection while it is open.
#[derive(Debug)]
pub struct OpenConnection(Arc<Connections>);

impl Connections {
    /// One more is open, until what is returned is dropped.
    #[must_use]
    pub fn opened(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Relaxed);
        OpenConnection(Arc::clone(self))
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        usize::try_from(self.open.load(Relaxed)).unwrap_or(0)
    }

    /// So many serve no request now, and may serve the next.
    pub fn set_idle(&self, count: usize) {
        self.idle.store(i64::try_from(count).unwrap_or(i64::MAX), Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// What one thread counted.
#[derive(Debug, Default)]
struct Shard {
    connections: Arc<Connections>,
    requests: [[ByStatus; ANSWERERS.len()]; METHOD_COUNT],
    spans: [Spans; METHOD_COUNT],
    upstream_spans: [Spans; METHOD_COUNT],
    entered: Count,
    left: Count,
    request_bytes: Count,
    response_bytes: Count,
    errors: [Count; UPSTREAM_ERRORS.len()],
    retries: [Count; RETRIES.len()],
}

/// Of all threads.
#[derive(Clone, Debug, Default)]
pub struct HttpMetrics(Arc<Mutex<Vec<Arc<Shard>>>>);

/// The calling thread's own: no other may write to it.
#[derive(Clone, Debug)]
#[expect(clippy::redundant_allocation, reason = "a clone costs no atomic operation, and cannot leave the thread")]
pub struct HttpCounts(Rc<Arc<Shard>>);

/// Requests since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// All that are over.
    pub requests: u64,
    /// Those that were answered 5xx, by whomever.
    pub errors: u64,
}

impl HttpMetrics {
    /// Of all threads.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let counted = shards.iter().flat_map(|shard| shard.requests.iter().flatten().filter_map(OnceLock::get));
        counted.fold(Totals::default(), |totals, by_status| {
            let sum = |counts: &[Count]| counts.iter().map(Count::get).sum::<u64>();
            Totals {
                requests: totals.requests + sum(&by_status[..]),
                errors: totals.errors + sum(&by_status[400..500]),
            }
        })
    }

    /// Counts for the calling thread; once a thread.
    #[must_use]
    pub fn of_this_thread(&self) -> HttpCounts {
        let shard = Arc::<Shard>::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shard));
        HttpCounts(Rc::new(shard))
    }
}

impl HttpCounts {
    /// The connections to the API.
    #[must_use]
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.0.connections)
    }

    /// A request has come.
    pub fn entered(&self) {
        self.0.entered.add(1);
    }

    /// A request is over after `span`, of which the API had `upstream`; `None` for the answer if its
    /// caller went away before.
    pub fn left(
        &self,
        method: MethodLabel,
        answer: Option<(StatusCode, Answerer)>,
        span: Duration,
        upstream: Option<Duration>,
    ) {
        let shard = &**self.0;
        let (status, answerer) =
            answer.map_or((GONE, Answerer::Sidecar), |(status, answerer)| (status.as_u16(), answerer));
        let by_status = shard.requests[method.0][answerer as usize].get_or_init(new_by_status);
        by_status[usize::from(status).saturating_sub(100).min(STATUSES - 1)].add(1);
        shard.spans[method.0].observe(span);
        if let Some(upstream) = upstream {
            shard.upstream_spans[method.0].observe(upstream);
        }
        shard.left.add(1);
    }

    /// A part of a request's body has come.
    pub fn received(&self, bytes: usize) {
        self.0.request_bytes.add(bytes as u64);
    }

    /// A part of an answer's body goes out.
    pub fn sent(&self, bytes: usize) {
        self.0.response_bytes.add(bytes as u64);
    }

    /// A request did not get the API's answer, for this of [`UPSTREAM_ERRORS`]; other reasons are not the API's.
    pub fn failed(&self, reason: &str) {
        if let Some(number) = UPSTREAM_ERRORS.iter().position(|known| *known == reason) {
            self.0.errors[number].add(1);
        }
    }

    /// A request is sent again.
    pub fn retried(&self, retry: Retry) {
        self.0.retries[retry as usize].add(1);
    }
}

fn new_by_status() -> Box<[Count; STATUSES]> {
    let counts: Vec<Count> = (0..STATUSES).map(|_| Count::default()).collect();
    counts.try_into().expect("as many as there are")
}

impl Collector for HttpMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sum = |count: fn(&Shard) -> &Count| shards.iter().map(|shard| count(shard).get()).sum::<u64>();
        let e = &mut encoder;

        encode_requests(&shards, e.encode_descriptor("http_requests", "Requests", None, MetricType::Counter)?)?;
        let unit = Some(&Unit::Seconds);
        let kind = MetricType::Histogram;
        let help = "Time from a request's head to the last byte of its answer";
        encode_spans(&shards, |s| &s.spans, e.encode_descriptor("http_request_duration", help, unit, kind)?)?;
        let help = "The API's part of it, from when the request was sent";
        encode_spans(&shards, |s| &s.upstream_spans, e.encode_descriptor("upstream_duration", help, unit, kind)?)?;

        let in_flight = sum(|s| &s.entered).saturating_sub(sum(|s| &s.left));
        let in_flight = i64::try_from(in_flight).unwrap_or(i64::MAX);
        e.encode_descriptor("http_requests_in_flight", "Requests under way", None, MetricType::Gauge)?
            .encode_gauge(&in_flight)?;
        for (name, help, count) in [
            ("http_request_body", "Bytes of requests' bodies", sum(|s| &s.request_bytes)),
            ("http_response_body", "Bytes of answers' bodies", sum(|s| &s.response_bytes)),
        ] {
            e.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Counter)?
                .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }

        let help = "Requests that did not get the API's answer";
        let mut errors = e.encode_descriptor("upstream_errors", help, None, MetricType::Counter)?;
        for (number, reason) in UPSTREAM_ERRORS.iter().enumerate() {
            let count = shards.iter().map(|shard| shard.errors[number].get()).sum::<u64>();
            encode_count(&mut errors, &[("reason", *reason)], count)?;
        }
        let help = "Connections to the API, and of them those over HTTP/1.1 without a request";
        let mut connections = e.encode_descriptor("upstream_connections", help, None, MetricType::Gauge)?;
        let now = |of: fn(&Connections) -> &AtomicI64| shards.iter().map(|s| of(&s.connections).load(Relaxed)).sum();
        for (state, count) in [("open", now(|c| &c.open)), ("idle", now(|c| &c.idle))] {
            let count: i64 = count;
            connections.encode_family(&[("state", state)])?.encode_gauge(&count)?;
        }
        let help = "Requests sent again on another connection";
        let mut retries = e.encode_descriptor("upstream_retries", help, None, MetricType::Counter)?;
        for (retry, reason) in RETRIES {
            let count = shards.iter().map(|shard| shard.retries[retry as usize].get()).sum::<u64>();
            encode_count(&mut retries, &[("reason", reason)], count)?;
        }
        Ok(())
    }
}

fn encode_count(
    encoder: &mut MetricEncoder<'_>,
    labels: &[(&'static str, &str)],
    count: u64,
) -> Result<(), fmt::Error> {
    encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)
}

fn methods() -> impl Iterator<Item = MethodLabel> {
    (0..METHOD_COUNT).map(MethodLabel)
}

fn encode_requests(shards: &[Arc<Shard>], mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    for (method, (answerer, source)) in methods().flat_map(|method| ANSWERERS.map(|answerer| (method, answerer))) {
        let counted: Vec<_> = shards.iter().filter_map(|s| s.requests[method.0][answerer as usize].get()).collect();
        if counted.is_empty() {
            continue;
        }
        for status in 0..STATUSES {
            let count = counted.iter().map(|by_status| by_status[status].get()).sum::<u64>();
            if count > 0 {
                let code = (status + 100).to_string();
                let labels = [("method", method.as_str()), ("code", &*code), ("source", source)];
                encode_count(&mut encoder, &labels, count)?;
            }
        }
    }
    Ok(())
}

fn encode_spans(
    shards: &[Arc<Shard>],
    of: fn(&Shard) -> &[Spans; METHOD_COUNT],
    mut encoder: MetricEncoder<'_>,
) -> Result<(), fmt::Error> {
    for method in methods() {
        let spans = || shards.iter().map(|shard| &of(shard)[method.0]);
        let bounds = SECONDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.enumerate().map(|(n, bound)| (bound, spans().map(|s| s.buckets[n].get()).sum())).collect();
        let count = buckets.iter().map(|(_, count)| count).sum::<u64>();
        if count == 0 {
            continue;
        }
        let nanos = spans().map(|s| s.nanos.get()).fold(0, u64::wrapping_add);
        let seconds = Duration::from_nanos(nanos).as_secs_f64();
        let labels = &[("method", method.as_str())][..];
        encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use http::{Method, StatusCode};

    use super::{Answerer, HttpMetrics, MethodLabel};
    use crate::metrics::Metrics;

    fn serve(metrics: &HttpMetrics, method: &Method, status: u16, millis: u64) {
        let counts = metrics.of_this_thread();
        counts.entered();
        counts.received(10);
        let status = StatusCode::from_u16(status).expect("a status");
        let span = Duration::from_millis(millis);
        counts.left(MethodLabel::of(method), Some((status, Answerer::Upstream)), span, Some(span / 2));
    }

    #[test]
    fn what_threads_count_is_added_up_and_methods_make_no_labels() {
        let metrics = Metrics::default();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| serve(&metrics.http, &Method::GET, 200, 3));
            }
        });
        let odd = Method::from_bytes(b"X-ODD").expect("a method");
        serve(&metrics.http, &odd, 999, 60_000);
        metrics.http.of_this_thread().entered();
        let text = metrics.render();
        for line in [
            r#"token_valet_http_requests_total{method="GET",code="200",source="upstream"} 2"#,
            r#"token_valet_http_requests_total{method="_OTHER",code="999",source="upstream"} 1"#,
            r#"token_valet_http_request_duration_seconds_bucket{le="0.0025",method="GET"} 0"#,
            r#"token_valet_http_request_duration_seconds_bucket{le="0.005",method="GET"} 2"#,
            r#"token_valet_http_request_duration_seconds_bucket{le="+Inf",method="_OTHER"} 1"#,
            r#"token_valet_http_request_duration_seconds_sum{method="_OTHER"} 60.0"#,
            r#"token_valet_upstream_duration_seconds_sum{method="GET"} 0.003"#,
            r#"token_valet_http_requests_in_flight 1"#,
            r#"token_valet_http_request_body_bytes_total 30"#,
            r#"token_valet_upstream_errors_total{reason="upstream_tls"} 0"#,
            r#"token_valet_upstream_retries_total{reason="goaway"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("X-ODD"));
    }
}
