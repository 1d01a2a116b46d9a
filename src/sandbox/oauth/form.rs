//! A token request, read with no more goodwill than the documentation promises.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use super::super::{
    Settings,
    book::{Book, InvalidGrant, Issued},
    urlencoded,
};
use crate::config::{BodyFormat, ClientAuth};

/// What a user consents to, as the provider of this sandbox grants it.
const DATA_SCOPE: &str = "ACCOUNT_BASIC ACCOUNT_DETAILED TRANSACTIONS STATEMENTS";

type Fields = BTreeMap<String, String>;

/// Why an exchange was refused.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: &'static str,
    pub(super) description: String,
}

impl Refusal {
    /// All documented errors that a client can cause are a 400, `invalid_client` too.
    fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description: description.into() }
    }

    fn invalid_request(description: impl Into<String>) -> Self {
        Self::new("invalid_request", description)
    }
}

impl From<InvalidGrant> for Refusal {
    fn from(InvalidGrant(reason): InvalidGrant) -> Self {
        Self::new("invalid_grant", reason)
    }
}

/// The parts of a token request.
pub(super) struct Form {
    pub(super) content_type: Option<String>,
    pub(super) basic: Option<(String, String)>,
    pub(super) fields: Result<Fields, Refusal>,
    /// The encoding of the fields, if it is one that there is.
    format: Option<BodyFormat>,
}

impl Form {
    pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        let (format, fields) = if essence.eq_ignore_ascii_case("application/json") {
            (Some(BodyFormat::Json), json_fields(body))
        } else if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            (Some(BodyFormat::Form), form_fields(body))
        } else {
            (None, Err(unsupported_media_type()))
        };
        let content_type = content_type.map(str::to_owned);
        Self { content_type, basic: basic(headers), fields, format }
    }

    /// Checks the encoding and the client, and leaves the fields of the grant.
    pub(super) fn authenticated(&self, settings: &Settings) -> Result<Fields, Refusal> {
        if settings.token_body.is_some_and(|wanted| self.format != Some(wanted)) {
            return Err(unsupported_media_type());
        }
        let mut fields = self.fields.clone()?;
        let (id, secret) = (fields.remove("client_id"), fields.remove("client_secret"));
        let known = match (&self.basic, id, secret, settings.client_auth) {
            (Some((id, secret)), None, None, None | Some(ClientAuth::Basic)) => {
                settings.owns(id, secret) || settings.owns(&urlencoded::decoded(id), &urlencoded::decoded(secret))
            }
            (None, Some(id), Some(secret), None | Some(ClientAuth::Body)) => settings.owns(&id, &secret),
            // Nothing, half of it, at the wrong place, or twice (RFC 6749 section 2.3).
            _ => {
                return Err(Refusal::invalid_request("The client must authenticate, in one way."));
            }
        };
        if known { Ok(fields) } else { Err(Refusal::new("invalid_client", "The client id or secret is wrong.")) }
    }
}

impl Settings {
    fn owns(&self, client_id: &str, client_secret: &str) -> bool {
        client_id == self.client_id && client_secret == self.client_secret
    }
}

/// What is asked for, with exactly the fields that belong to it.
pub(super) enum Grant {
    ClientCredentials { scope: Option<String> },
    AuthorizationCode { code: String, redirect_uri: String },
    RefreshToken { refresh_token: String },
}

impl Grant {
    pub(super) fn read(mut fields: Fields) -> Result<Self, Refusal> {
        if let Some(name) = fields.iter().find_map(|(name, value)| value.is_empty().then_some(name)) {
            return Err(Refusal::invalid_request(format!("The field {name} is empty.")));
        }
        let mut take = |name: &str| {
            fields.remove(name).ok_or_else(|| Refusal::invalid_request(format!("The field {name} is missing.")))
        };
        let grant = match take("grant_type")?.as_str() {
            "client_credentials" => Self::ClientCredentials { scope: take("scope").ok() },
            "authorization_code" => {
                Self::AuthorizationCode { code: take("code")?, redirect_uri: take("redirect_uri")? }
            }
            "refresh_token" => Self::RefreshToken { refresh_token: take("refresh_token")? },
            _ => {
                return Err(Refusal::new("unsupported_grant_type", "There is no such grant."));
            }
        };
        match fields.keys().next() {
            None => Ok(grant),
            Some(name) => Err(Refusal::invalid_request(format!("The field {name} does not belong to this grant."))),
        }
    }

    /// Returns the tokens and their scope.
    pub(super) fn exchange<'a>(self, settings: &'a Settings, book: &mut Book) -> Result<(Issued, &'a str), Refusal> {
        match self {
            Self::ClientCredentials { scope: Some(scope) } if scope != settings.scope => {
                Err(Refusal::new("invalid_scope", "The client may not have this scope."))
            }
            Self::ClientCredentials { .. } => Ok((book.by_client_credentials(settings), &settings.scope)),
            Self::AuthorizationCode { code, redirect_uri } => {
                Ok((book.by_code(settings, &code, &redirect_uri)?, DATA_SCOPE))
            }
            Self::RefreshToken { refresh_token } => Ok((book.by_refresh_token(settings, &refresh_token)?, DATA_SCOPE)),
        }
    }
}

fn unsupported_media_type() -> Refusal {
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Refusal { status, ..Refusal::invalid_request("The body is not of the type that this endpoint takes.") }
}

fn json_fields(body: &[u8]) -> Result<Fields, Refusal> {
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
        return Err(Refusal::invalid_request("The body is not a JSON object."));
    };
    object
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(value) => Ok((name, value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(Refusal::invalid_request(format!("The field {name} is not a string.")))
            }
        })
        .collect()
}

fn form_fields(body: &[u8]) -> Result<Fields, Refusal> {
    let body = str::from_utf8(body).map_err(|_| Refusal::invalid_request("The body is not UTF-8."))?;
    let mut fields = Fields::new();
    for (name, value) in urlencoded::pairs(body) {
        if fields.contains_key(&name) {
            return Err(Refusal::invalid_request(format!("The field {name} is there twice.")));
        }
        fields.insert(name, value);
    }
    Ok(fields)
}

/// The credentials of HTTP Basic (RFC 7617). RFC 6749 section 2.3.1 has each half encoded like a form's
/// field before that; as not all clients do so, both readings are tried when they are compared.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, credentials) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
    let (id, secret) = credentials.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}
