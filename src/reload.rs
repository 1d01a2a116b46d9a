//! The configuration as it changes while the process runs. The truth is the content of its files, looked
//! at now and then, and when somebody asks: a watch on a file goes dead when Kubernetes swaps the link
//! that leads to it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::{
    config::{Config, ConfigError, Entry, MAX_FILE_BYTES},
    metrics::ReloadMetrics,
    regular_file,
    telemetry::LogControl,
    tls,
};

/// What may change without a restart. The client's certificate and the secrets are read again by themselves.
const LIVE: [&str; 8] = [
    "upstream.ca_file",
    "upstream.set_headers",
    "upstream.allow",
    "token.ca_file",
    "log.level",
    "log.format",
    "log.access",
    "log.slow",
];

/// What may be behind it.
const CONFINED: &str = "a file in a directory that is new to the running process needs a restart (`process.confine`)";

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// What overrides it: this process's own environment, which cannot change.
    pub environment: Vec<(String, String)>,
}

impl Origin {
    /// Reads all of it, and where each value comes from.
    ///
    /// # Errors
    /// With every fault that was found.
    pub fn load(&self) -> Result<(Config, Vec<Entry>), ConfigError> {
        Config::load_with_entries(&self.file, self.environment.clone())
    }
}

/// How a look at the files ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They are as they were.
    Unchanged,
    /// What may change has.
    Reloaded,
    /// They have faults, and the last good configuration goes on. The log tells them.
    Refused,
}

/// Reads the configuration anew, and tells those who follow it.
#[derive(Debug)]
pub struct Reloader {
    origin: Origin,
    entries: Vec<Entry>,
    /// Of what was last looked at, good or bad.
    seen: Fingerprint,
    /// What was wrong with it.
    faults: Option<String>,
    current: watch::Sender<Arc<Config>>,
    log: LogControl,
    metrics: ReloadMetrics,
}

impl Reloader {
    /// Beside a receiver of every good configuration from now on, the present one first.
    #[must_use]
    pub fn new(
        origin: Origin,
        config: Arc<Config>,
        entries: Vec<Entry>,
        log: LogControl,
        metrics: ReloadMetrics,
    ) -> (Self, watch::Receiver<Arc<Config>>) {
        if config.reload.watch && regular_file::is_mounted(&origin.file) {
            let hint = "mount its directory instead, to have it found when it is replaced";
            tracing::warn!(
                file = %origin.file.display(),
                hint,
                "the configuration is mounted as a single file: it is found when it is written to, not when it is replaced"
            );
        }
        let seen = Fingerprint::of(&origin.file, &config);
        let (current, follow) = watch::channel(config);
        metrics.last_successful.set(1);
        (Self { origin, entries, seen, faults: None, current, log, metrics }, follow)
    }

    /// The beginning of the hash of what was last looked at: tells one configuration from another.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.seen.0.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reloads what has changed. Blocks for as long as the files take to be read.
    pub fn look(&mut self) -> Outcome {
        let seen = Fingerprint::of(&self.origin.file, &self.current.borrow());
        // Files that a bad configuration names may be mended without a change of its own.
        if std::mem::replace(&mut self.seen, seen) == self.seen && self.faults.is_none() {
            return Outcome::Unchanged;
        }
        match self.origin.load().map_err(|error| error.to_string()).and_then(usable) {
            Ok((config, entries)) => {
                self.faults = None;
                self.take(config, entries);
                // It may name other files.
                self.seen = Fingerprint::of(&self.origin.file, &self.current.borrow());
                Outcome::Reloaded
            }
            Err(faults) => {
                if self.faults.as_ref() != Some(&faults) {
                    self.metrics.count("failure");
                    let hint = faults.contains("Permission denied").then_some(CONFINED);
                    tracing::error!(faults, hint, "the changed configuration has faults; the last good one goes on");
                }
                self.faults = Some(faults);
                Outcome::Refused
            }
        }
    }

    fn take(&mut self, config: Config, entries: Vec<Entry>) {
        let changed: Vec<&str> =
            entries.iter().filter(|new| self.entries.iter().all(|old| old != *new)).map(|entry| entry.key).collect();
        let (live, dead): (Vec<&str>, Vec<&str>) = changed.into_iter().partition(|key| LIVE.contains(key));
        if !dead.is_empty() {
            let keys = dead.join(", ");
            tracing::warn!(keys, "the configuration was changed where only a restart has an effect");
        }
        if live.iter().any(|key| key.starts_with("log.")) {
            self.log.set(&config.log);
        }
        // Another authority's file of the same name is a change that no value shows.
        tracing::info!(keys = live.join(", "), "the configuration was reloaded");
        self.metrics.count("success");
        // What needs a restart stays named at each reload until there is one.
        self.entries.retain(|old| !LIVE.contains(&old.key));
        self.entries.extend(entries.into_iter().filter(|new| LIVE.contains(&new.key)));
        self.current.send_replace(Arc::new(config));
    }
}

/// A configuration whose authorities can be believed.
fn usable((config, entries): (Config, Vec<Entry>)) -> Result<(Config, Vec<Entry>), String> {
    for trust in [&config.upstream.trust, &config.token.trust] {
        tls::client_config(trust).map_err(|error| error.to_string())?;
    }
    Ok((config, entries))
}

/// The hash of the content of all files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(file: &Path, config: &Config) -> Self {
        let authorities = [&config.upstream.trust, &config.token.trust].map(|trust| trust.ca_file.as_deref());
        let mut hash = Sha256::new();
        for path in [Some(file)].into_iter().chain(authorities).flatten() {
            // A file that cannot be read is like no other; what is wrong is told by whoever reads it then.
            match regular_file::read(path, MAX_FILE_BYTES) {
                Ok(content) => {
                    hash.update(content.len().to_le_bytes());
                    hash.update(&content);
                }
                Err(error) => hash.update(error.to_string()),
            }
        }
        Self(hash.finalize().into())
    }
}
