//! Secrets that an operator may replace while the process runs.

use prometheus_client::metrics::{counter::Counter, family::Family};

use super::FetchError;
use crate::{
    metrics::Outcome,
    report::Report,
    secret::{OpenFileWarning, Secret, SecretSource},
};

/// A secret that is read anew before each exchange; the last good value serves while that fails.
#[derive(Debug)]
pub(super) struct Rereader {
    source: SecretSource,
    last_good: Option<Secret>,
    /// The last attempt to read it failed, and there was no value from before.
    is_missing: bool,
    warning: OpenFileWarning,
    reloads: Family<Outcome, Counter>,
}

impl Rereader {
    /// `reloads` counts replaced and unreadable secrets.
    pub(super) fn new(source: SecretSource, reloads: &Family<Outcome, Counter>) -> Self {
        Self {
            source,
            last_good: None,
            is_missing: false,
            warning: OpenFileWarning::default(),
            reloads: reloads.clone(),
        }
    }

    /// The secret as it is now, or as it was when it could last be read.
    pub(super) fn read(&mut self) -> Result<Secret, FetchError> {
        match (self.source.read(), &self.last_good) {
            (Ok(secret), last) => {
                if last.as_ref().is_some_and(|last| *last != secret) {
                    self.count("success");
                }
                if let Some(file) = self.source.file() {
                    self.warning.look(file);
                }
                self.is_missing = false;
                self.last_good = Some(secret.clone());
                Ok(secret)
            }
            (Err(error), Some(last)) => {
                self.count("failure");
                tracing::warn!(error = %Report(&error), "a secret cannot be read; its last good value is used");
                Ok(last.clone())
            }
            (Err(error), None) => {
                self.is_missing = true;
                Err(FetchError::Secret(error))
            }
        }
    }

    /// Returns true if the secret is another one than when it was last read.
    pub(super) fn has_changed(&self) -> bool {
        // Unreadable is not another value: a mount in the middle of its swap looks like that.
        let is_other = |secret| self.last_good.as_ref().map_or(self.is_missing, |last| *last != secret);
        self.source.read().is_ok_and(is_other)
    }

    fn count(&self, result: &'static str) {
        self.reloads.get_or_create(&Outcome { result }).inc();
    }
}
