//! When a request whose sending failed is sent once more.

use http::Method;

use super::{
    ProxyError,
    upload::{Upload, UploadWatch},
};
use crate::{
    http_client::{ConnectError, SendError},
    metrics::{HttpCounts, Retry},
};

/// How many goodbyes of the API one request may meet. Each ends a connection that has done its work, so
/// that an API which often says goodbye makes no storm.
const MAX_GOAWAYS: u32 = 8;

/// What of its repetitions a request has had.
#[derive(Debug)]
pub(super) struct Retries<'a> {
    counts: &'a HttpCounts,
    goaways: u32,
    was_repeated: bool,
}

impl<'a> Retries<'a> {
    pub(super) fn new(counts: &'a HttpCounts) -> Self {
        Self { counts, goaways: 0, was_repeated: false }
    }

    /// The body to be sent again after this failure, on a connection that was new or not.
    ///
    /// What the API surely has not processed is sent again (RFC 9113 section 8.7), and so is a request
    /// that changes nothing if the API closed a connection that had lain idle, most likely just as the
    /// request was sent on it (RFC 9110 section 9.2.2). Either once, but after a goodbye.
    ///
    /// # Errors
    /// When it is not to be sent again, or its body was not kept.
    pub(super) fn after(
        &mut self,
        failure: SendError<Upload>,
        is_new: bool,
        method: &Method,
        watch: &UploadWatch,
    ) -> Result<Upload, ProxyError> {
        let (retry, error) = match failure {
            // It may yet go out for the first time.
            SendError::Unsent(body, _) if self.is_another_goaway() => {
                self.counts.retried(Retry::GoAway);
                return Ok(*body);
            }
            SendError::Unsent(_, error) => (None, error),
            SendError::GoAway(error) => (self.is_another_goaway().then_some(Retry::GoAway), error),
            SendError::Refused(error) => (self.is_first().then_some(Retry::Refused), error),
            SendError::Closed(error) => {
                let may_retry = !is_new && method.is_safe() && self.is_first();
                (may_retry.then_some(Retry::Closed), error)
            }
            SendError::Stalled(error) => return Err(ProxyError::Stalled(error)),
            SendError::Certificate(error) => return Err(ConnectError::Tls(error).into()),
            SendError::Broken(error) => (None, error),
        };
        match retry.and_then(|retry| Some((retry, watch.again()?))) {
            Some((retry, body)) => {
                self.counts.retried(retry);
                Ok(body)
            }
            None => Err(ProxyError::broken(error, watch.fault())),
        }
    }

    fn is_another_goaway(&mut self) -> bool {
        self.goaways += 1;
        self.goaways <= MAX_GOAWAYS
    }

    fn is_first(&mut self) -> bool {
        !std::mem::replace(&mut self.was_repeated, true)
    }
}
