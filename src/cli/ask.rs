//! `token-valet health` and `token-valet quit`: what a running sidecar is asked at its admin port, where
//! there is no other program to do so.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use clap::ValueEnum;
use http::{HeaderValue, Method, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::spawn_local, time::timeout};

use super::{CliError, Programs, environment, on_control_thread};
use crate::config::Config;

/// How long the whole answer may take; shorter than a probe's usual patience times three.
const PATIENCE: Duration = Duration::from_secs(3);
/// An answer is a line.
const MAX_ANSWER_BYTES: usize = 4_096;

/// What is asked for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Probe {
    /// Is the process alive
    Live,
    /// Has it had its first token
    Startup,
    /// Has it a valid token
    Ready,
}

/// Why the sidecar does not say that all is well.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("nothing answers at {0}")]
    Silent(SocketAddr),
    #[error("{0}")]
    Refused(String),
}

pub(super) fn health(file: &Path, probe: Probe) -> Result<(), CliError> {
    let page = match probe {
        Probe::Live => "/livez",
        Probe::Startup => "/startupz",
        Probe::Ready => "/readyz",
    };
    ask(file, Method::GET, page)
}

pub(super) fn quit(file: &Path) -> Result<(), CliError> {
    ask(file, Method::POST, "/quitquitquit")
}

fn ask(file: &Path, method: Method, page: &'static str) -> Result<(), CliError> {
    on_control_thread(Programs::None, |_| async move {
        let address = admin_address(file)?;
        let answer = timeout(PATIENCE, answer(address, method, page)).await.ok().flatten();
        let (status, line) = answer.ok_or(AskError::Silent(address))?;
        if status.is_success() {
            println!("{line}");
            Ok(())
        } else {
            Err(AskError::Refused(line).into())
        }
    })
}

/// That of the configuration, whatever else is in it or wrong with it: a secret may be gone by now.
fn admin_address(file: &Path) -> Result<SocketAddr, CliError> {
    let written = Config::peek(file, &Config::text(file)?, environment(), "admin.address")?;
    let address = written.and_then(|text| text.parse().ok()).unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 9901)));
    // Every address of the machine is this one too.
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, address.port()))
}

/// The status and the line of an answer, if there is one.
async fn answer(address: SocketAddr, method: Method, page: &'static str) -> Option<(StatusCode, String)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    spawn_local(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = page.parse().ok()?;
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let response = sender.send_request(request).await.ok()?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).trim_end().to_owned()))
}
