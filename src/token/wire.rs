//! The bodies of the token endpoint, both ways, as Flinks documents them
//! (docs.flinks.com, `api/outbound/endpoints/authorize/token` and `.../errors`).

use std::{fmt, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::{config::BodyFormat, secret::Secret};

/// No token is believed to live longer than a day, whatever its response states.
pub(super) const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// The fields of a token request, in order.
///
/// Each grant has exactly the fields that the provider documents for it: it may refuse others.
pub(super) struct Fields<'a>(pub(super) Vec<(&'static str, &'a str)>);

impl Fields<'_> {
    /// The body, in memory that is zeroed after use.
    pub(super) fn encode(&self, format: BodyFormat) -> Zeroizing<Vec<u8>> {
        // Room for every byte escaped as `\u0000`: a buffer that grows would leave copies behind it.
        let room = self.0.iter().map(|(name, value)| 6 * (name.len() + value.len()) + 8).sum();
        let mut body = Zeroizing::new(Vec::with_capacity(room));
        match format {
            BodyFormat::Json => {
                serde_json::to_writer(&mut *body, self).expect("strings are JSON, and a vector takes them");
            }
            BodyFormat::Form => {
                for (name, value) in &self.0 {
                    if !body.is_empty() {
                        body.push(b'&');
                    }
                    body.extend_from_slice(name.as_bytes());
                    body.push(b'=');
                    form_encode(value, &mut body);
                }
            }
        }
        body
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Appends `value` in `application/x-www-form-urlencoded`.
pub(super) fn form_encode(value: &str, into: &mut Vec<u8>) {
    for piece in form_urlencoded::byte_serialize(value.as_bytes()) {
        into.extend_from_slice(piece.as_bytes());
    }
}

/// What a token endpoint's body says, whatever its status.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    access_token: Option<&'a RawValue>,
    token_type: Option<String>,
    #[serde(borrow)]
    expires_in: Option<&'a RawValue>,
    #[serde(borrow)]
    refresh_token: Option<&'a RawValue>,
    error: Option<String>,
    #[serde(borrow)]
    error_description: Option<&'a RawValue>,
}

/// A body that was understood.
pub(crate) enum Answer {
    /// An access token.
    Grant(Grant),
    /// An OAuth error (RFC 6749 section 5.2), at whatever status, with its description as it came.
    Error(OAuthError, Option<Zeroizing<String>>),
    /// An object that is neither.
    Other,
}

/// What a successful exchange gave.
pub(crate) struct Grant {
    pub(crate) access_token: Secret,
    /// Stated by `expires_in`; `None` if that is missing, not above zero, or not a number.
    pub(crate) expires_in: Option<Duration>,
    /// Present and not empty.
    pub(super) refresh_token: Option<Secret>,
    pub(super) token_type: TokenType,
}

/// What `token_type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenType {
    /// `Bearer`, in any case.
    Bearer,
    Missing,
    Other,
}

/// Reads a body; `None` if it is not a JSON object with fields of the documented types.
pub(crate) fn parse(body: &[u8]) -> Option<Answer> {
    let body: Body<'_> = serde_json::from_slice(body).ok()?;
    if let Some(error) = body.error {
        return Some(Answer::Error(OAuthError::from_wire(&error), body.error_description.and_then(description)));
    }
    let (access_token, refresh_token) = (secret(body.access_token)?, secret(body.refresh_token)?);
    let Some(access_token) = access_token else { return Some(Answer::Other) };
    Some(Answer::Grant(Grant {
        access_token,
        expires_in: body.expires_in.and_then(|raw| lifetime(raw.get())),
        refresh_token,
        token_type: match body.token_type {
            None => TokenType::Missing,
            Some(name) if name.eq_ignore_ascii_case("bearer") => TokenType::Bearer,
            Some(_) => TokenType::Other,
        },
    }))
}

/// The token that a field holds, if the field is there and not empty; `None` without it is for what is no string.
fn secret(field: Option<&RawValue>) -> Option<Option<Secret>> {
    let Some(field) = field else { return Some(None) };
    let text = unescaped(field.get())?;
    Some((!text.is_empty()).then(|| Secret::new(text)))
}

/// The text of a JSON string that was found to be well formed. `serde_json` would leave a copy of one with
/// escapes behind it, and .NET writes `+` as one, PHP `/`. There is no token with a character that takes two.
fn unescaped(json: &str) -> Option<String> {
    let mut rest = json.strip_prefix('"')?.strip_suffix('"')?;
    // As long as it will get: a buffer that grows would leave copies behind it.
    let mut text = Zeroizing::new(String::with_capacity(rest.len()));
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let (code, length) = match escape.chars().next()? {
            'u' => (char::from_u32(u32::from_str_radix(escape.get(1..5)?, 16).ok()?)?, 5),
            'b' => ('\u{8}', 1),
            'f' => ('\u{c}', 1),
            'n' => ('\n', 1),
            'r' => ('\r', 1),
            't' => ('\t', 1),
            itself => (itself, itself.len_utf8()),
        };
        text.push(code);
        rest = escape.get(length..)?;
    }
    text.push_str(rest);
    Some(std::mem::take(&mut *text))
}

/// `expires_in` as an integer, a float (rounded down) or a string with one of them, at most [`MAX_LIFETIME`].
fn lifetime(raw: &str) -> Option<Duration> {
    let seconds: f64 = raw.trim_matches('"').trim().parse().ok()?;
    let seconds = seconds.floor();
    (seconds.is_finite() && seconds >= 1.0).then(|| Duration::from_secs_f64(seconds.min(MAX_LIFETIME.as_secs_f64())))
}

fn description(raw: &RawValue) -> Option<Zeroizing<String>> {
    serde_json::from_str(raw.get()).ok().map(Zeroizing::new)
}

/// What of a description may be logged: up to 200 printable ASCII characters, which is enough for an
/// operator and cannot forge a log line. A word too long for prose may be a secret, and is left out.
pub(crate) fn printable(description: &str) -> Option<String> {
    const MOST: usize = 200;
    const LONGEST_WORD: usize = 24;
    let mut text = String::new();
    for word in description.split(|c: char| !c.is_ascii_graphic()).filter(|word| !word.is_empty()) {
        let word = if word.len() > LONGEST_WORD { "[...]" } else { word };
        if text.len() + 1 + word.len() > MOST {
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    (!text.is_empty()).then_some(text)
}

/// The claim `exp` of a JWT, in seconds of Unix time. Its signature is the API's business, not ours.
pub(super) fn jwt_expiry(access_token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Expiry {
        exp: f64,
    }
    let Expiry { exp } = serde_json::from_slice(&jwt_payload(access_token)?).ok()?;
    // A float holds whole seconds exactly for the next 200 million years; the cast saturates.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked on this line")]
    (exp.is_finite() && exp > 0.0).then_some(exp as u64)
}

/// What a JWT says that it is for (RFC 9068 section 2.2), each cut to 128 printable characters.
#[derive(Debug, Deserialize, Serialize)]
pub struct Claims {
    /// Whom it acts for: of a data recipient's, the bank's customer.
    #[serde(default, deserialize_with = "shown", skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Whom it was given to.
    #[serde(default, deserialize_with = "shown", skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// What it permits.
    #[serde(default, deserialize_with = "shown", skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// Those of a JWT.
pub(super) fn jwt_claims(access_token: &str) -> Option<Claims> {
    serde_json::from_slice(&jwt_payload(access_token)?).ok()
}

/// Text that is fit to be shown, and nothing for what is no text.
fn shown<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    const MOST: usize = 128;
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().map(|text| text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MOST).collect()))
}

fn jwt_payload(token: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok().map(Zeroizing::new)
}

/// The values of `error` that are known; only these are ever logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OAuthError {
    /// The client's id or secret is wrong.
    InvalidClient,
    /// The code or refresh token is expired, revoked or replaced.
    InvalidGrant,
    /// The request lacks something or has too much.
    InvalidRequest,
    /// The scope is unknown, or client authentication is missing.
    InvalidScope,
    /// The client may not use this grant.
    UnauthorizedClient,
    /// The endpoint does not know this grant.
    UnsupportedGrantType,
    /// Of the authorization endpoint.
    UnsupportedResponseType,
    /// Of the revocation endpoint.
    UnsupportedTokenType,
    /// The owner or the server said no.
    AccessDenied,
    /// The server failed.
    ServerError,
    /// The server is busy or being maintained.
    TemporarilyUnavailable,
    /// None of these.
    Other,
}

impl OAuthError {
    fn from_wire(text: &str) -> Self {
        match text {
            "invalid_client" => Self::InvalidClient,
            "invalid_grant" => Self::InvalidGrant,
            "invalid_request" => Self::InvalidRequest,
            "invalid_scope" => Self::InvalidScope,
            "unauthorized_client" => Self::UnauthorizedClient,
            "unsupported_grant_type" => Self::UnsupportedGrantType,
            "unsupported_response_type" => Self::UnsupportedResponseType,
            "unsupported_token_type" => Self::UnsupportedTokenType,
            "access_denied" => Self::AccessDenied,
            "server_error" => Self::ServerError,
            "temporarily_unavailable" => Self::TemporarilyUnavailable,
            _ => Self::Other,
        }
    }

    /// The value on the wire; `other` for one that is not known.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidScope => "invalid_scope",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::UnsupportedTokenType => "unsupported_token_type",
            Self::AccessDenied => "access_denied",
            Self::ServerError => "server_error",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for OAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    use super::{Answer, BodyFormat, Claims, Fields, OAuthError, TokenType, jwt_claims, jwt_expiry, parse, printable};

    fn expires_in(json: &str) -> Option<Duration> {
        let body = format!(r#"{{"access_token":"t","expires_in":{json}}}"#);
        match parse(body.as_bytes()) {
            Some(Answer::Grant(grant)) => grant.expires_in,
            _ => panic!("not a grant: {body}"),
        }
    }

    #[test]
    fn a_lifetime_is_an_integer_a_float_or_a_string_and_never_eternal() {
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(expires_in("299"), seconds(299));
        assert_eq!(expires_in("\"299\""), seconds(299));
        assert_eq!(expires_in("299.9"), seconds(299));
        assert_eq!(expires_in("2147483648"), seconds(86_400));
        assert_eq!(expires_in("18446744073709551615"), seconds(86_400));
        for unknown in ["0", "-1", "0.5", "null", "\"\"", "\"NaN\"", "\"inf\"", "1e400", "true", "[]", "{}"] {
            assert_eq!(expires_in(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn an_error_beats_a_token_in_the_same_body() {
        let body = br#"{"access_token":"t","error":"invalid_client","error_description":"bad\nsecret"}"#;
        let Some(Answer::Error(error, description)) = parse(body) else { panic!("not an error") };
        assert_eq!(error, OAuthError::InvalidClient);
        assert_eq!(description.as_deref().map(String::as_str), Some("bad\nsecret"));
    }

    #[test]
    fn a_description_is_cut_to_200_printable_characters_and_loses_long_words() {
        assert_eq!(printable("the client\u{1b}[31m is\r\ndisabled é").as_deref(), Some("the client [31m is disabled"));
        let secret = "s".repeat(25);
        assert_eq!(printable(&format!("bad secret {secret}!")).as_deref(), Some("bad secret [...]"));
        let long = printable(&"ab ".repeat(200)).expect("something");
        assert!(long.len() <= 200 && long.len() > 190, "{}", long.len());
        assert_eq!(printable("\u{0}é"), None);
    }

    #[test]
    fn tokens_are_unescaped_as_json_has_it() {
        let token = |json: &str| match parse(format!(r#"{{"access_token":{json}}}"#).as_bytes()) {
            Some(Answer::Grant(grant)) => Some(grant.access_token.expose().to_owned()),
            _ => None,
        };
        for json in
            [r#""plain""#, r#""a\u002Bb\/c""#, r#""\"\\\b\f\n\r\t\u00e9\u0041""#, r#""\\u0041""#, "\"\u{e9}\\\\\""]
        {
            assert_eq!(token(json), Some(serde_json::from_str(json).expect("a JSON string")), "{json}");
        }
        for json in [r#""\ud83d\ude00""#, r#""\x""#, r#""\u12""#, r#""\u+041""#, "7", "[\"a\"]", "\"a\nb\""] {
            assert_eq!(token(json), None, "{json}");
        }
    }

    #[test]
    fn a_description_may_be_of_any_type() {
        assert!(matches!(
            parse(br#"{"error":"x","error_description":{"a":1}}"#),
            Some(Answer::Error(OAuthError::Other, None))
        ));
    }

    #[test]
    fn what_is_not_a_token_response_is_told_apart() {
        assert!(parse(b"").is_none());
        assert!(parse(b"{\"access_token\":\"cut").is_none());
        assert!(parse(b"<html></html>").is_none());
        assert!(parse(b"{\"access_token\":7}").is_none());
        assert!(matches!(parse(b"{}"), Some(Answer::Other)));
        assert!(matches!(parse(b"{\"access_token\":\"\"}"), Some(Answer::Other)));
    }

    #[test]
    fn what_a_jwt_is_for_is_shown_in_printable_characters_and_of_other_tokens_nothing() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let long = "x".repeat(500);
        let claims = jwt_claims(&jwt(&format!(r#"{{"sub":"u-1\nforged","client_id":7,"scope":"{long}","exp":1}}"#)));
        let Claims { sub, client_id, scope } = claims.expect("a JWT");
        assert_eq!((sub.as_deref(), client_id), (Some("u-1forged"), None));
        assert_eq!(scope.map(|scope| scope.len()), Some(128));
        assert!(jwt_claims("opaque").is_none() && jwt_claims("a.b.c").is_none() && jwt_claims(&jwt("7")).is_none());
    }

    #[test]
    fn an_empty_refresh_token_is_none_and_a_type_is_known_in_any_case() {
        let body = br#"{"access_token":"t","refresh_token":"","token_type":"bEaReR"}"#;
        let Some(Answer::Grant(grant)) = parse(body) else { panic!("not a grant") };
        assert!(grant.refresh_token.is_none());
        assert_eq!(grant.token_type, TokenType::Bearer);
    }

    #[test]
    fn bodies_are_encoded_so_that_no_value_can_become_a_field() {
        let fields = Fields(vec![("grant_type", "refresh_token"), ("refresh_token", "a\"&b=c d\u{e9}")]);
        assert_eq!(
            std::str::from_utf8(&fields.encode(BodyFormat::Json)).expect("UTF-8"),
            "{\"grant_type\":\"refresh_token\",\"refresh_token\":\"a\\\"&b=c d\u{e9}\"}"
        );
        assert_eq!(
            std::str::from_utf8(&fields.encode(BodyFormat::Form)).expect("UTF-8"),
            "grant_type=refresh_token&refresh_token=a%22%26b%3Dc+d%C3%A9"
        );
    }

    #[test]
    fn the_expiry_of_a_jwt_is_read_and_other_tokens_have_none() {
        // {"alg":"none"} . {"exp":1700000299,"sub":"u"}
        assert_eq!(jwt_expiry("eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDAwMDAyOTksInN1YiI6InUifQ.c2ln"), Some(1_700_000_299));
        for other in ["opaque", "a.b", "a.b.c", "eyJhbGciOiJub25lIn0.e30.x", "..."] {
            assert_eq!(jwt_expiry(other), None, "{other}");
        }
    }
}
