//! What of the configuration may change while requests are served.

use http::{HeaderName, HeaderValue};

use super::{access::AccessLog, allow::Allow};
use crate::config::Config;

/// As it is for the requests that come now; those under way keep what they began with.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) allow: Allow,
    pub(super) set_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) access: AccessLog,
}

impl Live {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            allow: Allow::new(config),
            set_headers: config.upstream.set_headers.clone(),
            access: AccessLog::new(&config.log),
        }
    }
}
