//! Fields that every request to the API has.

use config::ValueKind;
use http::{
    HeaderName, HeaderValue,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
};

use super::values::{Mismatch, Parsed, Raw};

/// Those that the sidecar or HTTP itself decides.
const TAKEN: [HeaderName; 13] = [
    AUTHORIZATION,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// How many there may be.
const MOST: usize = 32;

/// A table of names and values. What is wrong is told by the name; a value may be a secret.
pub(super) fn set_headers(raw: &Raw<'_>) -> Parsed<Vec<(HeaderName, HeaderValue)>> {
    let expected = "a table of header fields, such as { \"X-Api-Version\" = \"5\" }";
    let table = match raw {
        Raw::Typed(ValueKind::Table(table)) => table,
        Raw::Text(_) => {
            return Err(Mismatch::statement(format!("cannot be given by the environment, expected {expected}")));
        }
        Raw::Typed(_) => return Err(Mismatch::statement(format!("is not {expected}"))),
    };
    if table.len() > MOST {
        return Err(Mismatch::statement(format!("has more than {MOST} fields")));
    }
    let mut fields = Vec::with_capacity(table.len());
    for (name, value) in table {
        let fault = |problem: &str| Mismatch::statement(format!("has the entry {name:?}, {problem}"));
        let field: HeaderName = name.parse().map_err(|_| fault("which is no field's name"))?;
        if TAKEN.contains(&field) {
            return Err(fault("which the sidecar sets itself"));
        }
        let ValueKind::String(text) = &value.kind else { return Err(fault("whose value is not text")) };
        let is_sound =
            text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') && text.trim() == text && !text.is_empty();
        let value = HeaderValue::try_from(text.as_str()).ok().filter(|_| is_sound);
        let mut value = value.ok_or_else(|| fault("whose value is not visible ASCII, or empty"))?;
        value.set_sensitive(true);
        fields.push((field, value));
    }
    Ok(fields)
}
