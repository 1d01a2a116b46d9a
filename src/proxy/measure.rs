//! How long a request takes, and what becomes of it.

use std::cell::Cell;

use http::{Method, StatusCode};
use prometheus_client::metrics::{counter::Counter, family::Family};

use super::ProxyError;
use crate::{
    clock::{Clock, Moment},
    metrics::{Answerer, HttpCounts, HttpMetrics, MethodLabel, Metrics, Rejection},
};

/// The metrics that the proxies of all threads write.
#[derive(Clone, Debug)]
pub struct ProxyMetrics {
    pub(super) http: HttpMetrics,
    pub(super) rejections: Family<Rejection, Counter>,
}

impl ProxyMetrics {
    /// Of all metrics.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self { http: metrics.http.clone(), rejections: metrics.token.rejections.clone() }
    }
}

/// Measures one request, until it is dropped with the last byte of the answer.
#[derive(Debug)]
pub(super) struct Measure {
    counts: HttpCounts,
    clock: Clock,
    method: MethodLabel,
    began: Moment,
    sent: Cell<Option<Moment>>,
    answer: Cell<Option<(StatusCode, Answerer)>>,
}

impl Measure {
    /// Of a request whose head came at `began`.
    pub(super) fn begin(counts: &HttpCounts, clock: &Clock, method: &Method, began: Moment) -> Self {
        counts.entered();
        Self {
            counts: counts.clone(),
            clock: clock.clone(),
            method: MethodLabel::of(method),
            began,
            sent: Cell::new(None),
            answer: Cell::new(None),
        }
    }

    /// The request goes out to the API, with what was good `now`; of several times the first counts.
    pub(super) fn sent(&self, now: Moment) {
        self.sent.set(self.sent.get().or(Some(now)));
    }

    /// The head of its answer is known.
    pub(super) fn answered(&self, status: StatusCode, answerer: Answerer) {
        self.answer.set(Some((status, answerer)));
    }

    /// There is no answer of the API's, but this one.
    pub(super) fn failed(&self, error: &ProxyError) {
        let status = error.status();
        // Callers are to blame for the others.
        if status.is_server_error() {
            self.counts.failed(error.reason());
        }
        self.answered(status, Answerer::Sidecar);
    }

    /// A part of the answer goes out.
    pub(super) fn passed(&self, bytes: usize) {
        self.counts.sent(bytes);
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        let now = self.clock.now();
        let upstream = self.sent.get().map(|sent| now.saturating_since(sent));
        self.counts.left(self.method, self.answer.get(), now.saturating_since(self.began), upstream);
    }
}
