//! The access log: a line for each request, or only for those that failed.

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderName, Response, request::Parts};

use super::{ProxyError, ResponseBody, forwarded};
use crate::{config, report::Report};

/// The fields by which the provider's support finds a request.
const CORRELATION_ID: HeaderName = HeaderName::from_static("ob-correlation-id");
const TRACE_ID: HeaderName = HeaderName::from_static("ob-trace-id");
/// The longest id that is logged, in bytes. It comes from others.
const MAX_ID: usize = 128;

/// Which requests get a line; `log.access` and `log.slow`.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccessLog {
    choice: config::AccessLog,
    /// Zero for none.
    slow: Duration,
}

impl AccessLog {
    pub(super) fn new(config: &config::Log) -> Self {
        Self { choice: config.access, slow: config.slow }
    }

    /// Whether there are any lines at all.
    pub(super) fn is_on(self) -> bool {
        self.choice != config::AccessLog::Off
    }

    fn is_slow(self, elapsed: impl FnOnce() -> Duration) -> bool {
        !self.slow.is_zero() && elapsed() >= self.slow
    }

    /// Writes the line of one request. The query stays out of it: it may hold what is personal.
    pub(super) fn log(
        self,
        head: &Parts,
        outcome: &Result<Response<ResponseBody>, ProxyError>,
        elapsed: impl Fn() -> Duration,
    ) {
        let method = head.method.as_str();
        let path = head.uri.path();
        match (self.choice, outcome) {
            (config::AccessLog::Off, _) => {}
            (_, Err(error)) => tracing::warn!(
                method,
                path,
                status = error.status().as_u16(),
                request_id = %request_id(head),
                reason = error.reason(),
                error = %Report(error),
                look_at = error.keys(),
                elapsed_ms = millis(elapsed()),
                "a request was not served"
            ),
            (_, Ok(response)) if response.status().is_server_error() => tracing::warn!(
                method,
                path,
                status = response.status().as_u16(),
                request_id = %request_id(head),
                ob_correlation_id = id(response.headers(), &CORRELATION_ID),
                ob_trace_id = id(response.headers(), &TRACE_ID),
                elapsed_ms = millis(elapsed()),
                "the API failed a request"
            ),
            (config::AccessLog::All, Ok(response)) => tracing::info!(
                method,
                path,
                status = response.status().as_u16(),
                request_id = %request_id(head),
                ob_correlation_id = id(response.headers(), &CORRELATION_ID),
                ob_trace_id = id(response.headers(), &TRACE_ID),
                elapsed_ms = millis(elapsed()),
                "a request was forwarded"
            ),
            (config::AccessLog::Errors, Ok(response)) if self.is_slow(&elapsed) => tracing::info!(
                method,
                path,
                status = response.status().as_u16(),
                request_id = %request_id(head),
                ob_correlation_id = id(response.headers(), &CORRELATION_ID),
                ob_trace_id = id(response.headers(), &TRACE_ID),
                elapsed_ms = millis(elapsed()),
                "a request took long"
            ),
            (config::AccessLog::Errors, Ok(_)) => {}
        }
    }
}

/// The caller's, or one that stands for this line alone.
fn request_id(head: &Parts) -> Cow<'_, str> {
    id(&head.headers, &forwarded::REQUEST_ID).map_or_else(|| forwarded::new_request_id().into(), Cow::Borrowed)
}

/// An id in a field, if it is fit for a log.
fn id<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let text = headers.get(name)?.to_str().ok()?;
    ((1..=MAX_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())).then_some(text)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
