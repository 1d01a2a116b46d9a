//! What several targets read their input with.

use http::{HeaderMap, HeaderName, HeaderValue};

/// As many fields as hyper takes of one message.
const MOST_FIELDS: usize = 100;

/// The first line of `data`, and what follows it.
pub fn line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|b| *b == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[]),
    }
}

/// Reads `name: value` lines up to an empty one, and returns what follows that. Lines that no parser
/// of HTTP would let through are nothing.
pub fn fields(mut data: &[u8]) -> (HeaderMap, &[u8]) {
    let mut fields = HeaderMap::new();
    while !data.is_empty() {
        let (field, rest) = line(data);
        data = rest;
        if field.is_empty() {
            break;
        }
        let mut halves = field.splitn(2, |b| *b == b':');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else { continue };
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value)
            && fields.len() < MOST_FIELDS
        {
            fields.append(name, value);
        }
    }
    (fields, data)
}
