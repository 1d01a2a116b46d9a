//! Paths for tests, under `/sandbox/` and behind the same gate: bodies of any size and pace, and mirrors.
//!
//! | path | answer |
//! | --- | --- |
//! | `bytes/{n}` | n bytes, with a `Content-Length` |
//! | `chunked/{n}` | n bytes, without |
//! | `drip/{n}/{ms}` | n bytes, one at a time, with so many milliseconds between them |
//! | `sink` | how many bytes the request's body had, and their SHA-256 |
//! | `echo` | the request; its body as text, of 64 KiB at most (else 413) |
//! | `slow/{ms}` | after so many milliseconds |
//! | `status/{code}` | with this status, and no body |

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::reply::{self, Pieces, Reply};

/// Where these paths begin.
pub(super) const PREFIX: &str = "/sandbox/";

const MAX_ECHO_BYTES: usize = 64 * 1024;

pub(super) async fn answer(request: Request<Incoming>) -> Reply {
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["echo"] => echo(request).await,
        ["sink"] => sink(request.into_body()).await,
        [kind, numbers @ ..] => match numbered(kind, numbers).await {
            Some(reply) => reply,
            None => nothing(),
        },
        [] => nothing(),
    }
}

async fn numbered(kind: &str, numbers: &[&str]) -> Option<Reply> {
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().ok()).collect::<Option<_>>()?;
    match (kind, numbers.as_slice()) {
        ("bytes", &[count]) => Some(reply::streamed(Pieces::of(count).announced())),
        ("chunked", &[count]) => Some(reply::streamed(Pieces::of(count))),
        ("drip", &[count, pause]) => Some(reply::streamed(Pieces::dripping(count, Duration::from_millis(pause)))),
        ("slow", &[pause]) => {
            sleep(Duration::from_millis(pause)).await;
            Some(reply::json(StatusCode::OK, &json!({ "slept_ms": pause })))
        }
        ("status", &[code]) => {
            let status = StatusCode::from_u16(u16::try_from(code).ok()?).ok()?;
            // An informational status is no answer.
            (code >= 200).then(|| reply::bare(status))
        }
        _ => None,
    }
}

fn nothing() -> Reply {
    reply::fdx_error(StatusCode::NOT_FOUND, 601, "There is nothing at this path")
}

async fn echo(request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_ECHO_BYTES).collect().await else {
        return reply::bare(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<Value> =
        head.headers.iter().map(|(name, value)| json!([name.as_str(), text(value.as_bytes())])).collect();
    let body = json!({
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "headers": headers,
        "body": text(&body.to_bytes()),
    });
    reply::json(StatusCode::OK, &body)
}

async fn sink(mut body: Incoming) -> Reply {
    let mut digest = Sha256::new();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return reply::bare(StatusCode::BAD_REQUEST);
        };
        let data = frame.into_data().unwrap_or_else(|_| Bytes::new());
        bytes += data.len() as u64;
        digest.update(&data);
    }
    let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    reply::json(StatusCode::OK, &json!({ "bytes": bytes, "sha256": digest }))
}
