//! A caller that speaks HTTP/2 from the first byte.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request};
use tokio::{net::TcpStream, task::JoinHandle};

use super::api::read;

/// What a caller gets.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(super) fn reason(&self) -> Option<&str> {
        self.headers.get("x-token-valet-error").and_then(|value| value.to_str().ok())
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Caller {
    sender: SendRequest<Bytes>,
    pub(super) driver: JoinHandle<Result<(), h2::Error>>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(super) fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://localhost{path}"))
}

impl Caller {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &h2::client::Builder::new()).await
    }

    pub(super) async fn with(address: SocketAddr, settings: &h2::client::Builder) -> Self {
        let tcp = TcpStream::connect(address).await.expect("an open port");
        tcp.set_nodelay(true).expect("it is TCP");
        let (sender, connection) = settings.handshake(tcp).await.expect("it speaks HTTP/2");
        Self { sender, driver: tokio::spawn(connection) }
    }

    /// Sends a request's head; its body may follow.
    pub(super) async fn send(
        &self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sender.clone().ready().await?.send_request(request, ends)
    }

    /// Sends a request, and reads its whole answer.
    pub(super) async fn ask(&self, request: http::request::Builder, body: &[u8]) -> Result<Answer, h2::Error> {
        let (response, mut upload) = self.send(request.body(()).expect("a sound head"), body.is_empty()).await?;
        if !body.is_empty() {
            upload.send_data(Bytes::copy_from_slice(body), true)?;
        }
        answer(response).await
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, h2::Error> {
        self.ask(request("GET", path), b"").await
    }
}

/// Reads a whole answer.
pub(super) async fn answer(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let (body, trailers) = read(&mut body).await?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
}
