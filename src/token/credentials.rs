//! What is presented at the next exchange: the client's secret, and the code, refresh token or
//! nothing more. Everything that comes from a file is read anew each time.
//!
//! The state file is locked from before it is read until the answer is stored, so that replicas on
//! one host take turns, and none presents what another has used up.

use std::time::{Duration, SystemTime};

use prometheus_client::metrics::{counter::Counter, family::Family};

use super::{
    FetchError,
    reread::Rereader,
    store::{CodeRecord, CodeState, Fingerprint, Locked, Record, Store, StoreError},
};
use crate::{clock::Clock, config, metrics::Outcome, report::Report, secret::Secret};

/// How many codes are remembered beside the last one, in memory.
const MAX_SPENT: usize = 32;
/// An unchanged record is written again this often, so that it tells when the grant was last used.
const TOUCH_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

/// What is presented to the token endpoint.
#[derive(Clone, Debug)]
pub struct Presented {
    pub(super) client_secret: Secret,
    pub(super) grant: PresentedGrant,
}

/// The grant itself (RFC 6749 section 1.3).
#[derive(Clone, Debug)]
pub(super) enum PresentedGrant {
    /// The client alone.
    ClientCredentials,
    /// The code of the callback, with the redirect URI that it was issued for.
    Code { code: Secret, redirect_uri: String },
    /// A refresh token.
    RefreshToken(Secret),
}

impl Presented {
    /// Returns true if `text`, which came back, repeats a secret that was sent.
    pub(super) fn is_repeated_by(&self, text: &str) -> bool {
        let of_grant = match &self.grant {
            PresentedGrant::ClientCredentials => None,
            PresentedGrant::Code { code, .. } => Some(code),
            PresentedGrant::RefreshToken(token) => Some(token),
        };
        of_grant.into_iter().chain([&self.client_secret]).any(|secret| text.contains(secret.expose()))
    }
}

/// Keeps what the provider gave, and knows what the files held when they were last read.
#[derive(Debug)]
pub(super) struct Credentials {
    client_secret: Rereader,
    grant: Grant,
    held: Held,
}

#[derive(Debug)]
enum Grant {
    ClientCredentials,
    /// A code is presented once; from then on, what it gave.
    Code {
        code: Rereader,
        redirect_uri: String,
    },
    /// The file's refresh token, or what replaced it.
    RefreshToken {
        file: Rereader,
    },
}

/// What is known of the grant: in memory, and in the state file if there is one.
#[derive(Debug)]
struct Held {
    record: Record,
    store: Option<Store>,
    /// Held from before an exchange until its answer is stored.
    turn: Option<Locked>,
    /// Whether this exchange presents the record's code, rather than a refresh token.
    is_spending: bool,
    /// Codes that were presented before the record's.
    spent: Vec<CodeRecord>,
    persistence: Persistence,
    /// More recent than what the record says, which is not written for this alone.
    used_at: Option<SystemTime>,
    clock: Clock,
}

/// How the record in memory stands to the one in the state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Persistence {
    Same,
    /// The last write failed; it is tried again, under the same lock.
    Unpersisted,
}

impl Credentials {
    pub(super) fn new(
        config: &config::Token,
        store: Option<Store>,
        clock: Clock,
        reloads: &Family<Outcome, Counter>,
    ) -> Self {
        let reread = |source| Rereader::new(source, reloads);
        let grant = match config.grant.clone() {
            config::Grant::ClientCredentials => Grant::ClientCredentials,
            config::Grant::AuthorizationCode { code, redirect_uri } => Grant::Code { code: reread(code), redirect_uri },
            config::Grant::RefreshToken { refresh_token } => Grant::RefreshToken { file: reread(refresh_token) },
        };
        let held = Held {
            record: Record::default(),
            store,
            turn: None,
            is_spending: false,
            spent: Vec::new(),
            persistence: Persistence::Same,
            used_at: None,
            clock,
        };
        Self { client_secret: reread(config.client_secret.clone()), grant, held }
    }

    /// What to present now. Takes the state file's lock, to be released by [`accepted`](Self::accepted)
    /// or [`refused`](Self::refused).
    pub(super) async fn present(&mut self) -> Result<Presented, FetchError> {
        let client_secret = self.client_secret.read()?;
        let grant = match &mut self.grant {
            Grant::ClientCredentials => PresentedGrant::ClientCredentials,
            Grant::Code { code, redirect_uri } => {
                let code = code.read();
                self.held.begin().await?;
                match self.held.unused(code)? {
                    Some(code) => {
                        self.held.spend(&code).await?;
                        PresentedGrant::Code { code, redirect_uri: redirect_uri.clone() }
                    }
                    None => PresentedGrant::RefreshToken(self.held.refresh_token().ok_or(FetchError::CodeUsed)?),
                }
            }
            Grant::RefreshToken { file } => {
                let seed = file.read();
                self.held.begin().await?;
                self.held.seed_from(seed)?;
                PresentedGrant::RefreshToken(self.held.refresh_token().expect("the file has just given one"))
            }
        };
        self.held.prove_writable().await;
        Ok(Presented { client_secret, grant })
    }

    /// The exchange succeeded and gave this refresh token; `None` keeps the old one. Stores what is new.
    pub(super) async fn accepted(&mut self, issued: Option<Secret>) {
        // RFC 6749 section 4.4.3: a client's own credentials should give none, and do not need one.
        if self.may_rotate() {
            self.held.adopt(issued).await;
        }
    }

    /// The exchange failed. If nothing was sent, a code in it is as good as new.
    pub(super) async fn refused(&mut self, error: &FetchError) {
        if error.is_unsent() {
            self.held.unspend().await;
        }
        self.held.end();
    }

    /// Returns true if nothing is left to be presented, so that only a new code helps.
    pub(super) fn are_used_up(&self) -> bool {
        matches!(self.grant, Grant::Code { .. })
            && self.held.record.code.is_some()
            && self.held.refresh_token().is_none()
    }

    /// There will be no exchange after all.
    pub(super) async fn withdraw(&mut self) {
        self.held.unspend().await;
        self.held.end();
    }

    /// Stores what could not be stored so far. Returns true if nothing is left to be stored.
    pub(super) async fn persist(&mut self) -> bool {
        if self.held.persistence == Persistence::Unpersisted {
            self.held.persist().await;
            self.held.end();
        }
        self.is_persisted()
    }

    /// When the refresh token was last used with success, as far as is known.
    pub(super) fn used_at(&self) -> Option<SystemTime> {
        self.held.used_at
    }

    /// Returns true unless the newest record is in memory only although there is a state file.
    pub(super) fn is_persisted(&self) -> bool {
        self.held.persistence == Persistence::Same
    }

    /// Returns true if an exchange may give a refresh token that replaces the one presented.
    pub(super) fn may_rotate(&self) -> bool {
        !matches!(self.grant, Grant::ClientCredentials)
    }

    /// Returns true if a file now holds something else than when it was last read.
    pub(super) fn have_changed(&self) -> bool {
        let of_grant = match &self.grant {
            Grant::ClientCredentials => false,
            Grant::Code { code, .. } => code.has_changed(),
            Grant::RefreshToken { file } => file.has_changed(),
        };
        of_grant || self.client_secret.has_changed()
    }
}

impl Held {
    /// Takes the lock and reads what another process may have stored meanwhile.
    ///
    /// If the state file cannot be used any more, a refresh token in memory is presented all the same:
    /// without it, there would soon be no access token for sure.
    async fn begin(&mut self) -> Result<(), FetchError> {
        self.is_spending = false;
        match self.take_turn().await {
            Ok(()) => Ok(()),
            Err(error @ StoreError::Locked { .. }) => Err(error.into()),
            Err(error) if self.record.refresh_token.is_some() => {
                warn_unwritable(&error);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn take_turn(&mut self) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        if self.turn.is_none() {
            self.turn = Some(store.lock().await?);
        }
        if let (Some(turn), Persistence::Same) = (&self.turn, self.persistence) {
            let stored = turn.read()?;
            if stored == Record::default() && self.record != stored {
                // Somebody removed the file: what is known of the grant is not forgotten with it.
                self.persistence = Persistence::Unpersisted;
            } else {
                self.record = stored;
            }
            self.used_at = self.used_at.max(self.record.used_at);
        }
        Ok(())
    }

    /// The code, if it has not been presented yet. A file that is gone or unreadable is no matter
    /// once the code has given a refresh token.
    fn unused(&self, code: Result<Secret, FetchError>) -> Result<Option<Secret>, FetchError> {
        match code {
            Ok(code) if self.record.code.iter().chain(&self.spent).any(|used| used.matches(&code)) => Ok(None),
            Ok(code) => Ok(Some(code)),
            Err(_) if self.record.refresh_token.is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes note of the code before it is sent: after a crash nobody knows whether it was. A refresh
    /// token from an earlier code is kept until this one has given another.
    async fn spend(&mut self, code: &Secret) -> Result<(), FetchError> {
        // In memory first: if the write fails half-way, taking it back repairs the file too.
        self.spent.extend(self.record.code.replace(CodeRecord::of(code, CodeState::Exchanging)));
        if self.spent.len() > MAX_SPENT {
            self.spent.remove(0);
        }
        self.is_spending = true;
        Ok(self.write().await?)
    }

    /// The code of this exchange, if it has one, was not sent after all.
    async fn unspend(&mut self) {
        if std::mem::take(&mut self.is_spending) {
            self.record.code = self.spent.pop();
            self.persist().await;
        }
    }

    /// Starts from the configured refresh token, unless the record's descends from it.
    fn seed_from(&mut self, seed: Result<Secret, FetchError>) -> Result<(), FetchError> {
        match seed {
            Ok(seed) if self.descends_from(&seed) => Ok(()),
            Ok(seed) => {
                let fingerprint = Some(Fingerprint::of(&seed));
                self.record = Record { refresh_token: Some(seed), seed: fingerprint, ..Record::default() };
                Ok(())
            }
            Err(_) if self.record.refresh_token.is_some() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn descends_from(&self, seed: &Secret) -> bool {
        self.record.refresh_token.is_some() && self.record.seed.is_some_and(|known| known.matches(seed))
    }

    fn refresh_token(&self) -> Option<Secret> {
        self.record.refresh_token.clone()
    }

    /// Finds out before an exchange uses up the old refresh token. The exchange is made all the same:
    /// without it, there would soon be no token for sure.
    async fn prove_writable(&mut self) {
        if let Some(Err(error)) = match &mut self.turn {
            Some(turn) => Some(turn.prove_writable().await),
            None => None,
        } {
            warn_unwritable(&error);
        }
    }

    async fn adopt(&mut self, issued: Option<Secret>) {
        let (now, before) = (self.clock.wall(), self.record.clone());
        if let Some(code) = self.record.code.as_mut().filter(|_| std::mem::take(&mut self.is_spending)) {
            code.state = CodeState::Exchanged;
            // What there was before this code is void, also if it gave nothing.
            self.record.refresh_token = None;
            self.record.seed = None;
        }
        if let Some(issued) = issued {
            if before.refresh_token.as_ref() != Some(&issued) {
                self.record.obtained_at = Some(now);
            }
            self.record.refresh_token = Some(issued);
        }
        self.used_at = Some(now);
        let is_fresh = |used| now.duration_since(used).is_ok_and(|age| age < TOUCH_INTERVAL);
        if self.record != before || !before.used_at.is_some_and(is_fresh) {
            self.record.used_at = Some(now);
            self.persist().await;
        }
        self.end();
    }

    /// Writes the record. If that fails the lock is kept: another process would present what is used up.
    async fn persist(&mut self) {
        match self.write().await {
            Ok(()) => {
                if self.persistence == Persistence::Unpersisted {
                    tracing::info!("the refresh token is stored again");
                }
                self.persistence = Persistence::Same;
            }
            Err(error) => {
                // Told once, not each second.
                if self.persistence == Persistence::Same {
                    warn_unwritable(&error);
                }
                self.persistence = Persistence::Unpersisted;
            }
        }
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        if self.turn.is_none() {
            self.turn = Some(store.lock().await?);
        }
        match &mut self.turn {
            Some(turn) => turn.write(&self.record).await,
            None => Ok(()),
        }
    }

    fn end(&mut self) {
        if self.persistence == Persistence::Same {
            self.turn = None;
        }
    }
}

fn warn_unwritable(error: &StoreError) {
    tracing::error!(
        error = %Report(error),
        hint = error.hint(),
        "the refresh token cannot be stored; if it is replaced now, a restart loses it"
    );
}
