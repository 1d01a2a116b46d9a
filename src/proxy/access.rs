//! The access log: a line for each request, or only for those that failed.

use std::time::Duration;

use http::{HeaderMap, Response, request::Parts};

use super::{ProxyError, ResponseBody};
use crate::{config, report::Report};

/// The fields by which the provider's support finds a request.
const CORRELATION_ID: &str = "ob-correlation-id";

/// Which requests get a line; `log.access`.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccessLog(config::AccessLog);

impl AccessLog {
    pub(super) fn new(choice: config::AccessLog) -> Self {
        Self(choice)
    }

    /// Writes the line of one request. The query stays out of it: it may hold what is personal.
    pub(super) fn log(
        self,
        head: &Parts,
        outcome: &Result<Response<ResponseBody>, ProxyError>,
        elapsed: impl FnOnce() -> Duration,
    ) {
        let method = head.method.as_str();
        let path = head.uri.path();
        match (self.0, outcome) {
            (config::AccessLog::Off, _) => {}
            (_, Err(error)) => tracing::warn!(
                method,
                path,
                status = error.status().as_u16(),
                reason = error.reason(),
                error = %Report(error),
                elapsed_ms = millis(elapsed()),
                "a request was not served"
            ),
            (_, Ok(response)) if response.status().is_server_error() => tracing::warn!(
                method,
                path,
                status = response.status().as_u16(),
                ob_correlation_id = correlation_id(response.headers()),
                elapsed_ms = millis(elapsed()),
                "the API failed a request"
            ),
            (config::AccessLog::All, Ok(response)) => tracing::info!(
                method,
                path,
                status = response.status().as_u16(),
                ob_correlation_id = correlation_id(response.headers()),
                elapsed_ms = millis(elapsed()),
                "a request was forwarded"
            ),
            (config::AccessLog::Errors, Ok(_)) => {}
        }
    }
}

fn correlation_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(CORRELATION_ID).and_then(|id| id.to_str().ok())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
