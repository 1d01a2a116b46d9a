//! Is an answer the API's own, or does it say that the token is not good?
//!
//! The API's own refusals carry an FDX `code` (602: the consent is gone; 1207: too many requests),
//! and another token would not change them. A refusal without one is about the token
//! (docs.flinks.com, `authorize/fdx/fdx-errors`).

use std::{borrow::Cow, io::Read, time::Duration};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{
    HeaderMap, Method, Response, StatusCode,
    header::{CONTENT_ENCODING, WWW_AUTHENTICATE},
};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use serde_json::Value;

use super::body::{ResponseBody, Start};

/// How much of a body is looked at: 8 KiB. No refusal about a token is longer.
const MAX_PEEK: usize = 8 * 1_024;
/// How long the body may take to arrive whole.
const PEEK_TIMEOUT: Duration = Duration::from_secs(1);
/// How much a compressed body may grow to.
const MAX_DECODED: u64 = 64 * 1_024;

/// Who is meant by an answer.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The caller: it is passed on.
    Answer(Response<ResponseBody>),
    /// Probably the token. Its body is complete.
    Suspect(Response<ResponseBody>),
}

/// Judges an answer whose status is one of `token.rejection_statuses`. What was looked at of its
/// body is still there, byte for byte.
pub(super) async fn judge(response: Response<ResponseBody>, method: &Method) -> Verdict {
    let (head, mut body) = response.into_parts();
    // A body that is known to be too long need not be held up.
    if method != Method::HEAD && body.size_hint().lower() > MAX_PEEK as u64 {
        return Verdict::Answer(Response::from_parts(head, body));
    }
    let mut start = Start::default();
    let whole = tokio::time::timeout(PEEK_TIMEOUT, peek(&mut body, &mut start)).await.unwrap_or(false);
    let suspect = whole && is_about_the_token(head.status, &head.headers, &start.data, method == Method::HEAD);
    let response = Response::from_parts(head, body.starting_with(start));
    if suspect { Verdict::Suspect(response) } else { Verdict::Answer(response) }
}

/// Reads the body into `start`; returns true if that was all of it.
///
/// # Cancel safety
/// What was read so far is in `start`.
async fn peek(body: &mut ResponseBody, start: &mut Start) -> bool {
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(part)) => start.data.extend_from_slice(&part),
            Ok(Err(frame)) => start.trailers = frame.into_trailers().ok(),
            Err(error) => {
                start.error = Some(error);
                return false;
            }
        }
        if start.data.len() > MAX_PEEK {
            return false;
        }
    }
    true
}

/// Whether a complete answer says that the token is expired or invalid.
pub(crate) fn is_about_the_token(status: StatusCode, headers: &HeaderMap, body: &[u8], is_head: bool) -> bool {
    if status == StatusCode::UNAUTHORIZED && challenges(headers, "invalid_token") {
        return true;
    }
    if is_head {
        return status == StatusCode::UNAUTHORIZED;
    }
    let Some(body) = decoded(headers, body) else { return false };
    let object = match serde_json::from_slice(&body) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    };
    let is_fdx = object.as_ref().and_then(|object| object.get("code")).is_some_and(|code| !code.is_null());
    if is_fdx {
        return false;
    }
    // A 401 says what it is about. A 403 or 400 may have any reason; without a word from the API it is left alone.
    let lacks_scope = challenges(headers, "insufficient_scope")
        || object.as_ref().and_then(|object| object.get("error")).is_some_and(|error| error == "insufficient_scope");
    status == StatusCode::UNAUTHORIZED || (object.is_some() && !lacks_scope)
}

/// Whether `WWW-Authenticate` names this error (RFC 6750 section 3.1).
fn challenges(headers: &HeaderMap, error: &str) -> bool {
    headers.get_all(WWW_AUTHENTICATE).iter().any(|value| value.to_str().is_ok_and(|text| text.contains(error)))
}

/// The body without its content coding; `None` for one that cannot be undone or grows too large.
fn decoded<'a>(headers: &HeaderMap, body: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(coding) = codings.next() else { return Some(body.into()) };
    if codings.next().is_some() {
        return None;
    }
    match coding.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
        b"" | b"identity" => Some(body.into()),
        b"gzip" | b"x-gzip" => bounded(MultiGzDecoder::new(body)),
        // The name means zlib (RFC 9110 section 8.4.1.2), but some servers leave the wrapper out.
        b"deflate" => bounded(ZlibDecoder::new(body)).or_else(|| bounded(DeflateDecoder::new(body))),
        _ => None,
    }
}

fn bounded<'a>(decoder: impl Read) -> Option<Cow<'a, [u8]>> {
    let mut plain = Vec::new();
    let read = decoder.take(MAX_DECODED + 1).read_to_end(&mut plain).ok()?;
    (read as u64 <= MAX_DECODED).then(|| plain.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::Bytes;
    use flate2::{Compression, write};
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

    use super::is_about_the_token;

    fn about_the_token(status: u16, fields: &[(&'static str, &'static str)], body: impl Into<Bytes>) -> bool {
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        is_about_the_token(StatusCode::from_u16(status).expect("a status"), &headers, &body.into(), false)
    }

    const FDX_602: &str = r#"{"code":602,"message":"Customer not authorized","debugMessage":"x"}"#;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn a_401_without_an_fdx_code_is_about_the_token() {
        for body in ["", "{}", r#"{"message":"expired"}"#, "<html>", "[]", r#"{"code":null}"#, "\u{0}"] {
            assert!(about_the_token(401, &[], body), "{body}");
        }
    }

    #[test]
    fn an_fdx_code_is_the_api_s_own_answer_at_any_status() {
        for status in [400, 401, 403] {
            for body in [FDX_602, r#"{"code":"602"}"#, r#"{"message":"x","code":0}"#] {
                assert!(!about_the_token(status, &[], body), "{status} {body}");
            }
        }
    }

    #[test]
    fn a_compressed_code_is_found_and_a_compressed_refusal_without_one_too() {
        assert!(!about_the_token(401, &[("content-encoding", "gzip")], gzip(FDX_602.as_bytes())));
        assert!(about_the_token(401, &[("content-encoding", "GZIP")], gzip(b"{}")));
        let mut zlib = write::ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(FDX_602.as_bytes()).expect("memory");
        assert!(!about_the_token(401, &[("content-encoding", "deflate")], zlib.finish().expect("memory")));
        let mut raw = write::DeflateEncoder::new(Vec::new(), Compression::default());
        raw.write_all(FDX_602.as_bytes()).expect("memory");
        assert!(!about_the_token(401, &[("content-encoding", "deflate")], raw.finish().expect("memory")));
    }

    #[test]
    fn what_cannot_be_read_is_passed_on() {
        assert!(!about_the_token(401, &[("content-encoding", "br")], "{}"));
        assert!(!about_the_token(401, &[("content-encoding", "gzip, gzip")], "{}"));
        assert!(!about_the_token(401, &[("content-encoding", "gzip")], "not gzip"));
        assert!(!about_the_token(401, &[("content-encoding", "gzip")], gzip(&vec![b' '; 100_000])));
    }

    #[test]
    fn a_403_or_400_is_about_the_token_only_if_a_json_object_says_no_more() {
        for status in [400, 403] {
            assert!(about_the_token(status, &[], r#"{"message":"expired"}"#));
            for body in ["", "<html>", "[]", r#""text""#, r#"{"error":"insufficient_scope"}"#] {
                assert!(!about_the_token(status, &[], body), "{status} {body}");
            }
            let scope = [("www-authenticate", r#"Bearer error="insufficient_scope""#)];
            assert!(!about_the_token(status, &scope, "{}"));
        }
    }

    #[test]
    fn a_challenge_that_names_the_token_needs_no_body() {
        let invalid = [("www-authenticate", r#"Bearer realm="x", error="invalid_token""#)];
        assert!(about_the_token(401, &invalid, FDX_602));
        assert!(!about_the_token(403, &invalid, FDX_602));
    }

    #[test]
    fn without_a_body_by_nature_only_a_401_is_about_the_token() {
        let nothing = (HeaderMap::new(), Bytes::new());
        assert!(is_about_the_token(StatusCode::UNAUTHORIZED, &nothing.0, &nothing.1, true));
        assert!(!is_about_the_token(StatusCode::FORBIDDEN, &nothing.0, &nothing.1, true));
    }
}
