//! Upgrades, such as to WebSocket (RFC 9110 section 7.8): once both sides agree, a tunnel.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};
use http_body::Body;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    time::sleep,
};

use super::{ProxyError, ResponseBody, headers, in_flight::InFlight};
use crate::{listener::RequestBody, report::Report};

/// What is buffered each way, in bytes.
const BUFFER: usize = 8 * 1_024;

/// A caller's wish to change to another protocol.
#[derive(Debug)]
pub(super) struct Upgrade {
    protocols: HeaderValue,
    caller: OnUpgrade,
    /// Has the connection counted as busy.
    body: RequestBody,
}

impl Upgrade {
    /// Takes the wish out of a request; gives the body back if there is none that can be granted.
    ///
    /// None is granted over HTTP/1.0 or HTTP/2, or to a request with a body. Nor is one to `h2c` or to
    /// TLS (RFC 2817): requests inside it would be seen by nobody here.
    pub(super) fn take(head: &mut Parts, body: RequestBody) -> Result<Self, RequestBody> {
        let is_wished = head.version == Version::HTTP_11 && headers::connection_names(&head.headers, "upgrade");
        if !is_wished || !body.is_end_stream() {
            return Err(body);
        }
        match (sole(&head.headers).cloned(), head.extensions.remove()) {
            (Some(protocols), Some(caller)) if may_be_granted(&protocols) => Ok(Self { protocols, caller, body }),
            _ => Err(body),
        }
    }

    /// Makes the wish this hop's own.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        state(headers, self.protocols.clone());
    }

    /// The protocol that the API has changed to, if it is one of those that were asked for.
    pub(super) fn granted(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        sole(headers).filter(|protocol| names(&self.protocols, protocol.as_bytes())).cloned()
    }

    /// Answers that the protocol changes, and joins both sides once it has.
    ///
    /// # Errors
    /// When the API's connection cannot be had.
    pub(super) fn switch(
        self,
        mut response: Response<ResponseBody>,
        protocol: HeaderValue,
        idle_timeout: Duration,
        in_flight: InFlight,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let api: OnUpgrade = response.extensions_mut().remove().ok_or(ProxyError::Malformed)?;
        let (mut head, body) = response.into_parts();
        headers::to_client(&mut head.headers);
        let mut answer = Response::from_parts(head, ResponseBody::own(""));
        state(answer.headers_mut(), protocol);
        let Self { caller, body: busy, .. } = self;
        tokio::task::spawn_local(async move {
            let ended = async {
                let joined = tokio::try_join!(caller, api);
                // hyper gives it up of itself.
                drop(body.into_connection());
                let (caller, api) = joined.map_err(io::Error::other)?;
                join(caller, api, idle_timeout).await
            };
            if let Err(error) = ended.await {
                tracing::debug!(error = %Report(&error), "a tunnel ended early");
            }
            drop((busy, in_flight));
        });
        Ok(answer)
    }
}

/// `Connection` and `Upgrade` of a message that changes the protocol.
fn state(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// The value of `Upgrade`, where there is exactly one line of it.
fn sole(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(UPGRADE).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether a list of protocols has one, and none that carries HTTP.
fn may_be_granted(protocols: &HeaderValue) -> bool {
    let carries_http = |protocol: &[u8]| {
        let name = protocol.split(|b| *b == b'/').next().unwrap_or_default();
        [&b"h2c"[..], b"h2", b"tls", b"http"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    headers::list(protocols).any(|protocol| !protocol.is_empty()) && !headers::list(protocols).any(carries_http)
}

/// Whether a list of protocols has this one, with the same version.
fn names(protocols: &HeaderValue, protocol: &[u8]) -> bool {
    let protocol = protocol.trim_ascii();
    // Lists may have empty elements, which name nothing (RFC 9110 section 5.6.1.2).
    !protocol.is_empty() && headers::list(protocols).any(|one| one.eq_ignore_ascii_case(protocol))
}

/// Whether an answer changes the protocol.
pub(super) fn is_switch(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
}

/// Copies both ways until both sides have ended, or neither has said anything for `idle_timeout`; it
/// is noticed before twice that.
async fn join(caller: Upgraded, api: Upgraded, idle_timeout: Duration) -> io::Result<()> {
    let read = Rc::new(Cell::new(0_u64));
    let mut caller = Counted { io: TokioIo::new(caller), read: Rc::clone(&read) };
    let mut api = Counted { io: TokioIo::new(api), read: Rc::clone(&read) };
    let idle = async {
        loop {
            let before = read.get();
            sleep(idle_timeout).await;
            if read.get() == before {
                return;
            }
        }
    };
    tokio::select! {
        ended = copy_bidirectional_with_sizes(&mut caller, &mut api, BUFFER, BUFFER) => ended.map(drop),
        () = idle => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Counts what is read of it.
struct Counted {
    io: TokioIo<Upgraded>,
    read: Rc<Cell<u64>>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.read.set(self.read.get() + 1);
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
