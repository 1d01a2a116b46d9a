//! The access log: a line for each request, or only for those that failed.

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderName, Response, request::Parts};

use super::{ProxyError, ResponseBody, fields::Fields, forwarded};
use crate::{
    config,
    report::{Report, shortened},
};

/// The fields by which the provider's support finds a request.
const CORRELATION_ID: HeaderName = HeaderName::from_static("ob-correlation-id");
const OB_TRACE_ID: HeaderName = HeaderName::from_static("ob-trace-id");
/// Where a request belongs in the traces of its caller (W3C Trace Context, section 3.2).
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// The longest id that is logged, in bytes. It comes from others.
const MAX_ID: usize = 128;
/// How much of a method and of a path is logged, in bytes. They come from others too.
const MAX_METHOD: usize = 32;
const MAX_PATH: usize = 1_024;

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

    /// Writes the line of one request, if it gets one, without its query. `sent` has the fields that it went out with,
    /// if it did.
    pub(super) fn log(
        self,
        head: &mut Parts,
        sent: &Fields,
        outcome: &Result<Response<ResponseBody>, ProxyError>,
        elapsed: impl Fn() -> Duration,
    ) {
        if !self.tells_of(outcome, &elapsed) {
            return;
        }
        sent.restore(&mut head.headers);
        let (method, path) = (&*shortened(head.method.as_str(), MAX_METHOD), &*short_path(head.uri.path()));
        match outcome {
            Err(error) => tracing::warn!(
                method,
                path,
                status = error.status().as_u16(),
                request_id = %request_id(head),
                trace_id = trace_id(&head.headers),
                reason = error.reason(),
                error = %Report(error),
                look_at = error.keys(),
                elapsed_ms = millis(elapsed()),
                "a request was not served"
            ),
            Ok(response) if response.status().is_server_error() => tracing::warn!(
                method,
                path,
                status = response.status().as_u16(),
                request_id = %request_id(head),
                trace_id = trace_id(&head.headers),
                ob_correlation_id = id(response.headers(), &CORRELATION_ID),
                ob_trace_id = id(response.headers(), &OB_TRACE_ID),
                elapsed_ms = millis(elapsed()),
                "the API failed a request"
            ),
            Ok(response) if self.choice == config::AccessLog::All => tracing::info!(
                method,
                path,
                status = response.status().as_u16(),
                request_id = %request_id(head),
                trace_id = trace_id(&head.headers),
                ob_correlation_id = id(response.headers(), &CORRELATION_ID),
                ob_trace_id = id(response.headers(), &OB_TRACE_ID),
                elapsed_ms = millis(elapsed()),
                "a request was forwarded"
            ),
            Ok(response) => tracing::info!(
                method,
                path,
                status = response.status().as_u16(),
                request_id = %request_id(head),
                trace_id = trace_id(&head.headers),
                ob_correlation_id = id(response.headers(), &CORRELATION_ID),
                ob_trace_id = id(response.headers(), &OB_TRACE_ID),
                elapsed_ms = millis(elapsed()),
                "a request took long"
            ),
        }
    }

    /// Whether a request gets a line.
    fn tells_of(
        self,
        outcome: &Result<Response<ResponseBody>, ProxyError>,
        elapsed: impl FnOnce() -> Duration,
    ) -> bool {
        match (self.choice, outcome) {
            (config::AccessLog::Off, _) => false,
            (config::AccessLog::All, _) | (config::AccessLog::Errors, Err(_)) => true,
            (config::AccessLog::Errors, Ok(response)) => response.status().is_server_error() || self.is_slow(elapsed),
        }
    }

    fn is_slow(self, elapsed: impl FnOnce() -> Duration) -> bool {
        !self.slow.is_zero() && elapsed() >= self.slow
    }
}

/// A path, fit for a log. The query stays out of it: it may hold what is personal.
pub(super) fn short_path(path: &str) -> Cow<'_, str> {
    shortened(path, MAX_PATH)
}

/// The caller's, or one that stands for this line alone.
fn request_id(head: &Parts) -> Cow<'_, str> {
    id(&head.headers, &forwarded::REQUEST_ID).map_or_else(|| forwarded::new_request_id().into(), Cow::Borrowed)
}

/// The id of the trace, if the one `traceparent` is well formed (W3C Trace Context, section 3.2.2).
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(&TRACE_PARENT).iter();
    let text = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let mut parts = text.split('-');
    let mut part = |length| parts.next().filter(|part| part.len() == length && part.bytes().all(is_lower_hex));
    let (version, trace_id, parent_id, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    // Versions to come may have more behind it; `ff` will never be one.
    let is_known = version != "ff" && (version != "00" || parts.next().is_none());
    let is_id = |id: &str| id.bytes().any(|digit| digit != b'0');
    (is_known && is_id(trace_id) && is_id(parent_id)).then_some(trace_id)
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// An id in a field, if it is fit for a log.
fn id<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let text = headers.get(name)?.to_str().ok()?;
    ((1..=MAX_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())).then_some(text)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{TRACE_PARENT, trace_id};

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn of(values: &[&str]) -> Option<String> {
        let value = |text: &&str| (TRACE_PARENT, HeaderValue::from_str(text).expect("a value"));
        let mut headers = HeaderMap::new();
        headers.extend(values.iter().map(value));
        trace_id(&headers).map(str::to_owned)
    }

    #[test]
    fn trace_s_id_is_that_of_a_well_formed_traceparent() {
        for good in [
            format!("00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-ff"),
            format!("01-{TRACE}-{PARENT}-00"),
            format!("cc-{TRACE}-{PARENT}-00-what-comes"),
        ] {
            assert_eq!(of(&[&good]).as_deref(), Some(TRACE), "{good}");
        }
    }

    #[test]
    fn traceparent_that_is_malformed_or_not_alone_has_no_id() {
        let (no_trace, no_parent) = ("0".repeat(32), "0".repeat(16));
        for bad in [
            String::new(),
            TRACE.to_owned(),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-1"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("00-{TRACE}-{PARENT}-01-"),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}0-{PARENT}-01"),
            format!("00-{no_trace}-{PARENT}-01"),
            format!("00-{TRACE}-{no_parent}-01"),
            format!("0x-{TRACE}-{PARENT}-01"),
            format!("00_{TRACE}_{PARENT}_01"),
            format!("00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01"),
        ] {
            assert_eq!(of(&[&bad]), None, "{bad}");
        }
        let good = format!("00-{TRACE}-{PARENT}-01");
        assert_eq!(of(&[&good, &good]), None, "none of two can be meant");
        assert_eq!(of(&[]), None);
    }
}
