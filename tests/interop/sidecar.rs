//! The process under test.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{self, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use http::{Request, header::HOST};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    server::{Client, OAuthServer, exchange},
    wait::eventually,
};

/// Long enough for a loaded machine; a healthy one needs a fraction of it.
const SOON: Duration = Duration::from_secs(20);

/// A running `token-valet`; it ends with this value.
pub(crate) struct Sidecar {
    process: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Sidecar {
    /// Starts it in front of the server's API. `token` is what its table of that name says beyond what all tests share.
    pub(crate) async fn start(server: &OAuthServer, client: Client, token: &[(&str, &str)]) -> Self {
        Self::start_in(directory(), server, client, token).await
    }

    /// The same with one more secret, in the file of that name.
    pub(crate) async fn start_with_file(
        server: &OAuthServer,
        client: Client,
        token: &[(&str, &str)],
        (name, content): (&str, &str),
    ) -> Self {
        let directory = directory();
        fs::write(directory.path().join(name), content).expect("the directory is writable");
        let key = format!("{name}_file");
        let token: Vec<_> = token.iter().copied().chain([(key.as_str(), name)]).collect();
        Self::start_in(directory, server, client, &token).await
    }

    async fn start_in(directory: TempDir, server: &OAuthServer, client: Client, token: &[(&str, &str)]) -> Self {
        let write = |name, content: &str| {
            fs::write(directory.path().join(name), content).expect("the directory is writable");
        };
        write("ca.pem", &server.ca_pem());
        write("client_secret", client.secret);
        write("config.toml", &configuration(server, client, token));
        let log = File::create(directory.path().join("log")).expect("the directory is writable");
        let program = std::env::var_os("TOKEN_VALET_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_token-valet").into());
        let process = Command::new(path::absolute(program).expect("the path is not empty"))
            .args(["run", "-c", "config.toml"])
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary can be started");
        let mut sidecar = Self { process, address: SocketAddr::from(([127, 0, 0, 1], 0)), directory };
        sidecar.address = eventually("open port", SOON, async || sidecar.address_in_log()).await;
        sidecar
    }

    fn address_in_log(&self) -> Result<SocketAddr, String> {
        let log = self.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find_map(|line| line.get("address")?.as_str()?.parse().ok()).ok_or(log)
    }

    /// The application's request, and its answer: the status, and the sidecar's reason if it is the sidecar's own.
    pub(crate) async fn get(&self) -> String {
        let request = Request::get("/accounts").header(HOST, "localhost").body(String::new()).expect("valid");
        let stream = TcpStream::connect(self.address).await.expect("the sidecar accepts connections");
        let answer = exchange(stream, request).await;
        match answer.headers().get("x-token-valet-error") {
            Some(reason) => format!("{} {}", answer.status().as_u16(), reason.to_str().expect("a word")),
            None => answer.status().as_u16().to_string(),
        }
    }

    /// Waits until requests are answered like this.
    pub(crate) async fn answers(&self, expected: &str) {
        self.answers_within(SOON, expected).await;
    }

    /// The same for what takes its time.
    pub(crate) async fn answers_within(&self, within: Duration, expected: &str) {
        eventually(&format!("answer {expected}"), within, async || {
            let answer = self.get().await;
            if answer == expected { Ok(()) } else { Err(format!("{answer}; the log:\n{}", self.log())) }
        })
        .await;
    }

    /// Replaces a secret file in one step.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let next = self.file("next");
        fs::write(&next, content).expect("the directory is writable");
        fs::rename(next, self.file(name)).expect("the directory is writable");
    }

    /// Waits until an operator finds this key in the log.
    pub(crate) async fn log_names(&self, key: &str) {
        eventually(&format!("`{key}` in the log"), SOON, async || {
            let log = self.log();
            if log.contains(key) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).expect("the log is text")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A refresh comes early in a token's life, so that a test sees several, and a slow machine has time for each.
fn configuration(server: &OAuthServer, client: Client, token: &[(&str, &str)]) -> String {
    let origin = server.origin();
    let mut settings = vec![
        ("url", format!("{origin}/token")),
        ("ca_file", "ca.pem".to_owned()),
        ("client_id", client.id.to_owned()),
        ("client_secret_file", "client_secret".to_owned()),
        ("wait", "10s".to_owned()),
    ];
    settings.extend(token.iter().map(|(key, value)| (*key, (*value).to_owned())));
    if token.iter().all(|(key, _)| *key != "body") {
        settings.push(("body", "form".to_owned()));
    }
    let token: String = settings.iter().map(|(key, value)| format!("{key} = {value:?}\n")).collect();
    format!(
        r#"
        [listen]
        address = "127.0.0.1:0"
        [admin]
        address = "127.0.0.1:0"
        [upstream]
        url = "{origin}/api"
        ca_file = "ca.pem"
        [log]
        format = "json"
        access = "off"
        [token]
        refresh_at = [0.4, 0.45]
        {token}"#
    )
}
