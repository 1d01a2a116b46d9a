//! The tokens that the provider gave out, and what each is worth.

use std::{
    collections::{HashMap, HashSet},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::Settings;

/// What a request's access token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenState {
    /// It is good.
    Valid,
    /// Its life is over.
    Expired,
    /// It was revoked within its life.
    Revoked,
    /// This provider never issued it.
    Unknown,
    /// The request has none.
    Missing,
}

/// Whether the end user agrees to what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consent {
    Given,
    Withdrawn,
}

/// What an exchange gives.
pub(super) struct Issued {
    pub(super) access_token: String,
    pub(super) refresh_token: Option<String>,
}

/// Why an exchange gives nothing: an `invalid_grant`, and its description.
pub(super) struct InvalidGrant(pub(super) &'static str);

/// The tokens and what they came of.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) consent: Consent,
    /// Every token issued, in order.
    pub(super) issued: Vec<String>,
    access: HashMap<String, Access>,
    refresh: HashMap<String, Refresh>,
    code: Use,
    /// All that came of these is void.
    void: HashSet<Origin>,
}

#[derive(Debug)]
struct Access {
    until: Instant,
    origin: Origin,
    revoked: bool,
}

#[derive(Debug)]
struct Refresh {
    origin: Origin,
    r#use: Use,
    /// The one that is good until this one is presented.
    replaces: Option<String>,
}

/// Whether something that is good once has been exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Fresh,
    Spent,
}

/// What a token came of, maybe by way of further tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    ClientCredentials,
    Code,
    FirstRefreshToken,
}

impl Book {
    pub(super) fn new(settings: &Settings) -> Self {
        let first = Refresh { origin: Origin::FirstRefreshToken, r#use: Use::Fresh, replaces: None };
        Self {
            consent: Consent::Given,
            issued: Vec::new(),
            access: HashMap::new(),
            refresh: HashMap::from([(settings.refresh_token.clone(), first)]),
            code: Use::Fresh,
            void: HashSet::new(),
        }
    }

    /// What the access token is worth now.
    pub(super) fn state(&self, access_token: &str) -> TokenState {
        match self.access.get(access_token) {
            None => TokenState::Unknown,
            Some(access) if Instant::now() >= access.until => TokenState::Expired,
            Some(access) if access.revoked || self.void.contains(&access.origin) => TokenState::Revoked,
            Some(_) => TokenState::Valid,
        }
    }

    pub(super) fn revoke_tokens(&mut self) {
        for access in self.access.values_mut() {
            access.revoked = true;
        }
    }

    pub(super) fn revoke_consent(&mut self) {
        self.consent = Consent::Withdrawn;
    }

    /// The exchange of RFC 6749 section 4.4.
    pub(super) fn by_client_credentials(&mut self, settings: &Settings) -> Issued {
        Issued { access_token: self.issue_access(settings, Origin::ClientCredentials), refresh_token: None }
    }

    /// The exchange of RFC 6749 section 4.1.3.
    pub(super) fn by_code(
        &mut self,
        settings: &Settings,
        code: &str,
        redirect_uri: &str,
    ) -> Result<Issued, InvalidGrant> {
        self.consented()?;
        if code != settings.code {
            return Err(InvalidGrant("The code is not known."));
        }
        if self.code == Use::Spent {
            // Two know the code, so one of them stole it (RFC 6749 section 4.1.2).
            self.void.insert(Origin::Code);
            return Err(InvalidGrant("The code was exchanged before."));
        }
        if redirect_uri != settings.redirect_uri {
            return Err(InvalidGrant("The redirect URI is not that of the authorization request."));
        }
        self.code = Use::Spent;
        Ok(Issued {
            access_token: self.issue_access(settings, Origin::Code),
            refresh_token: Some(self.issue_refresh(Origin::Code, None)),
        })
    }

    /// The exchange of RFC 6749 section 6.
    pub(super) fn by_refresh_token(
        &mut self,
        settings: &Settings,
        refresh_token: &str,
    ) -> Result<Issued, InvalidGrant> {
        self.consented()?;
        let Some(refresh) = self.refresh.get_mut(refresh_token) else {
            return Err(InvalidGrant("The refresh token is not known."));
        };
        let origin = refresh.origin;
        if refresh.r#use == Use::Spent {
            if settings.punish_reuse {
                self.void.insert(origin);
            }
            return Err(InvalidGrant("The refresh token was replaced."));
        }
        if self.void.contains(&origin) {
            return Err(InvalidGrant("The refresh token was revoked."));
        }
        let rotated = settings.rotate_refresh_tokens;
        let graced = rotated && settings.rotation_grace;
        if rotated && !graced {
            refresh.r#use = Use::Spent;
        }
        if let Some(before) = refresh.replaces.take().and_then(|before| self.refresh.get_mut(&before)) {
            before.r#use = Use::Spent;
        }
        Ok(Issued {
            access_token: self.issue_access(settings, origin),
            refresh_token: rotated.then(|| self.issue_refresh(origin, graced.then(|| refresh_token.to_owned()))),
        })
    }

    fn consented(&self) -> Result<(), InvalidGrant> {
        match self.consent {
            Consent::Given => Ok(()),
            Consent::Withdrawn => Err(InvalidGrant("The end user has withdrawn the consent.")),
        }
    }

    fn issue_access(&mut self, settings: &Settings, origin: Origin) -> String {
        let token = match origin {
            Origin::Code | Origin::FirstRefreshToken if settings.jwt => jwt(settings),
            Origin::Code | Origin::FirstRefreshToken | Origin::ClientCredentials => opaque(),
        };
        let access = Access { until: Instant::now() + settings.token_life, origin, revoked: false };
        self.access.insert(token.clone(), access);
        self.issued.push(token.clone());
        token
    }

    fn issue_refresh(&mut self, origin: Origin, replaces: Option<String>) -> String {
        let token = opaque();
        self.refresh.insert(token.clone(), Refresh { origin, r#use: Use::Fresh, replaces });
        self.issued.push(token.clone());
        token
    }
}

/// 256 random bits.
fn opaque() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// A JWT (RFC 7519) with the claims that the provider documents. Its signature is random: nobody but
/// the provider may check it, and the provider knows its tokens by heart.
fn jwt(settings: &Settings) -> String {
    let part = |claims: serde_json::Value| URL_SAFE_NO_PAD.encode(claims.to_string());
    let until = SystemTime::now() + settings.token_life;
    let header = part(json!({ "alg": "HS256", "typ": "JWT" }));
    let claims = part(json!({
        "client_id": settings.client_id,
        "sub": "c0a7e1d4-88f2-4b0e-9d35-2f6b1a7c9e10",
        "exp": until.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    }));
    format!("{header}.{claims}.{}", opaque())
}
