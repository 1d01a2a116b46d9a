//! A client's certificate that may be replaced while the process runs.

use prometheus_client::metrics::{counter::Counter, family::Family};

use crate::{
    clock::Clock,
    config::{ClientIdentity, Identity, IdentityFiles, IdentityText},
    metrics::Outcome,
    report::Report,
    secret::OpenFileWarning,
};

/// Looks for another certificate in the configured files, by their content.
#[derive(Debug)]
pub struct Rotation {
    files: IdentityFiles,
    /// What the client shows.
    used: IdentityText,
    /// What was found last, if it was not that and of no use; `None` within stands for files that
    /// cannot be read. It has been warned of.
    rejected: Option<Option<IdentityText>>,
    /// Of the key's file; the certificate is no secret.
    warning: OpenFileWarning,
    clock: Clock,
    reloads: Family<Outcome, Counter>,
}

impl Rotation {
    /// Warns if others may read the key. `reloads` counts replaced and useless certificates.
    #[must_use]
    pub fn new(identity: &Identity, clock: Clock, reloads: &Family<Outcome, Counter>) -> Self {
        let (files, used) = (identity.files.clone(), identity.text.clone());
        let mut warning = OpenFileWarning::default();
        warning.look(&files.key);
        Self { files, used, rejected: None, warning, clock, reloads: reloads.clone() }
    }

    /// The new certificate, once, if there is one. Files that are of no use, as while they are being
    /// replaced one after the other, are warned of once and change nothing.
    pub fn look(&mut self) -> Option<ClientIdentity> {
        let (text, parsed) = match self.files.read() {
            Ok(text) if text == self.used => {
                self.rejected = None;
                return None;
            }
            Ok(text) if self.rejected == Some(Some(text.clone())) => return None,
            Ok(text) => (Some(text.clone()), text.parse(self.clock.wall())),
            Err(_) if self.rejected == Some(None) => return None,
            Err(error) => (None, Err(error)),
        };
        match (parsed, text) {
            (Ok(identity), Some(text)) => {
                self.warning.look(&self.files.key);
                self.used = text;
                self.rejected = None;
                self.count("success");
                Some(identity)
            }
            (Ok(_), None) => None,
            (Err(error), text) => {
                self.rejected = Some(text);
                self.count("failure");
                tracing::warn!(
                    key = error.key(),
                    error = %Report(&error),
                    "the client's new certificate is of no use; the last good one is shown"
                );
                None
            }
        }
    }

    fn count(&self, result: &'static str) {
        self.reloads.get_or_create(&Outcome { result }).inc();
    }
}
