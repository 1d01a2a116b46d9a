//! A provider, a directory with the sidecar's files, and the sidecar itself as a process.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;
use token_valet::sandbox::{Provider, Settings};

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(20);

/// Waits for a condition.
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(DEADLINE, condition), "not within {DEADLINE:?}: {what}");
}

/// Returns false if the condition does not hold in time.
fn within(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if condition() {
            return true;
        }
        sleep(POLL);
    }
    false
}

/// What the sidecar starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    Code,
    RefreshToken,
}

/// One grant, from its beginning to its end.
pub(crate) struct Scene {
    pub(crate) provider: Provider,
    grant: Grant,
    directory: TempDir,
}

impl Scene {
    /// Nothing runs yet but the provider.
    pub(crate) fn new(grant: Grant, settings: Settings) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).expect("an empty directory takes a file");
            path
        };
        fs::create_dir(directory.path().join("state")).expect("an empty directory takes another");
        let (client_id, redirect_uri) = (settings.client_id.clone(), settings.redirect_uri.clone());
        write("client_secret", &settings.client_secret);
        write("code", &settings.code);
        write("refresh_token", &settings.refresh_token);
        let provider = Provider::start(settings).expect("a free port");
        let ca = write("ca.pem", provider.ca_pem());
        let of_grant = match grant {
            Grant::Code => format!(
                "grant = \"authorization_code\"\ncode_file = {:?}\nredirect_uri = {redirect_uri:?}",
                directory.path().join("code")
            ),
            Grant::RefreshToken => {
                format!("grant = \"refresh_token\"\nrefresh_token_file = {:?}", directory.path().join("refresh_token"))
            }
        };
        let scene = Self { provider, grant, directory };
        let config = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n\
             [upstream]\nurl = {:?}\nca_file = {ca:?}\n\
             [token]\nurl = {:?}\nca_file = {ca:?}\n{of_grant}\nstate_file = {:?}\n\
             client_id = {client_id:?}\nclient_secret_file = {:?}\ntimeout = \"1s\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\n\
             [log]\nformat = \"json\"\nlevel = \"debug\"\n",
            scene.provider.api_url(),
            scene.provider.token_url(),
            scene.state_file(),
            scene.directory.path().join("client_secret"),
        );
        write_new(&scene.path("config.toml"), &config);
        scene
    }

    /// A file of this scene, outside the state directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn state_directory(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.path("state/state.json")
    }

    /// The command line of the sidecar.
    pub(crate) fn command_line(&self) -> [PathBuf; 4] {
        let binary = std::env::var_os("TOKEN_VALET_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_token-valet").into());
        [binary.into(), "run".into(), "--config".into(), self.path("config.toml")]
    }

    /// Starts the sidecar, and does not wait for anything.
    pub(crate) fn start(&self) -> Sidecar {
        let [binary, arguments @ ..] = self.command_line();
        let mut command = Command::new(binary);
        command.args(arguments);
        self.spawn(command)
    }

    /// Starts a command that runs the sidecar.
    pub(crate) fn spawn(&self, mut command: Command) -> Sidecar {
        let log = self.path("log");
        let stderr = File::create(&log).expect("a writable directory");
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // A group of its own: a tracer that is killed alone leaves its child running.
        let child = command.process_group(0).spawn().expect("the binary exists");
        Sidecar { child, log }
    }

    /// What the state file says; `None` if there is none. Panics unless it is a whole record, in a
    /// file that nobody else can read, with a refresh token that the provider issued.
    pub(crate) fn record(&self) -> Option<Record> {
        let bytes = fs::read(self.state_file()).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("torn ({e}): {text:?}"));
        let mode = fs::metadata(self.state_file()).map(|file| file.permissions().mode() & 0o777);
        assert_eq!(mode.ok(), Some(0o600), "the state file's permissions");
        assert_eq!(json["version"], 1, "{text}");
        let refresh_token = json["refresh_token"].as_str().map(str::to_owned);
        let is_known = |token| Settings::default().refresh_token == token || self.issued().contains(&token);
        assert!(refresh_token.clone().is_none_or(is_known), "{text}");
        Some(Record { refresh_token, code: json["code"]["state"].as_str().map(str::to_owned) })
    }

    /// Every token that the provider issued, oldest first.
    pub(crate) fn issued(&self) -> Vec<String> {
        self.provider.issued_secrets()
    }

    /// Returns true if the state file holds the refresh token that was issued last.
    pub(crate) fn newest_is_stored(&self) -> bool {
        let stored = self.record().and_then(|record| record.refresh_token);
        stored.is_some() && stored == self.issued().last().cloned()
    }

    /// How often the code was presented.
    pub(crate) fn codes_presented(&self) -> usize {
        let of_code = |e: &&_| grant_type(e) == Some("authorization_code");
        self.provider.exchanges().iter().filter(of_code).count()
    }

    /// The grant is alive: a new start brings a token, the newest refresh token is stored, nothing
    /// is left over, and no exchange was ever refused.
    pub(crate) fn assert_alive(&self, after: &str) {
        let sidecar = self.start();
        sidecar.answers(&Answer::Ok, after);
        eventually(&format!("the newest refresh token stored after {after}"), || self.newest_is_stored());
        drop(sidecar);
        for exchange in self.provider.exchanges() {
            let status = exchange.status.map(|status| status.as_u16());
            assert!(matches!(status, Some(200) | None), "after {after}: an exchange was answered {status:?}");
        }
        let may_stay = ["state.json", "state.json.lock", "state.json.tmp"];
        for entry in fs::read_dir(self.state_directory()).expect("it exists") {
            let name = entry.expect("readable").file_name();
            assert!(may_stay.iter().any(|known| name == *known), "left after {after}: {name:?}");
        }
        assert!(self.grant == Grant::RefreshToken || self.codes_presented() == 1, "the code was presented again");
    }
}

fn grant_type(exchange: &token_valet::sandbox::Exchange) -> Option<&str> {
    exchange.grant_type.as_deref()
}

fn write_new(path: &Path, text: &str) {
    fs::write(path, text).expect("a writable directory");
}

/// The part of the state file that matters here.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) refresh_token: Option<String>,
    /// How far the code got.
    pub(crate) code: Option<String>,
}

/// What a request through the sidecar brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200.
    Ok,
    /// The sidecar's own answer: its status and reason.
    Refused(String, String),
    /// None, or another one.
    Other,
}

/// The sidecar as a process, killed when this is dropped.
pub(crate) struct Sidecar {
    child: Child,
    log: PathBuf,
}

impl Sidecar {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns true unless it has ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// `kill -9`. Panics if it had ended by itself.
    pub(crate) fn kill(mut self) {
        assert!(self.is_running(), "it ended by itself: {}", self.log());
    }

    /// Returns true as soon as something else has killed it. Panics if it ends in another way.
    pub(crate) fn is_killed_within(&mut self, patience: Duration) -> bool {
        within(patience, || {
            let status = self.child.try_wait().expect("our own child");
            status.inspect(|status| assert_eq!(status.signal(), Some(9), "{status}: {}", self.log())).is_some()
        })
    }

    /// Waits until a request through it is answered like that.
    pub(crate) fn answers(&self, wanted: &Answer, after: &str) {
        let answered = within(DEADLINE, || self.get() == *wanted);
        assert!(answered, "no {wanted:?} after {after}: {}", self.log());
    }

    /// Waits until so many token requests have failed.
    pub(crate) fn fails(&self, count: usize) {
        let failed = within(DEADLINE, || self.log().matches("could not be refreshed").count() >= count);
        assert!(failed, "no {count} failures: {}", self.log());
    }

    /// One request through it.
    pub(crate) fn get(&self) -> Answer {
        self.try_get().unwrap_or(Answer::Other)
    }

    fn try_get(&self) -> Option<Answer> {
        let log = self.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let address = lines.find(|line| line["message"] == "listening")?["address"].as_str()?.to_owned();
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        let request = "GET /api/fdx/5/accounts HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1)?;
        let reason = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("x-token-valet-error").then(|| value.trim().to_owned())
        });
        Some(match (status, reason) {
            ("200", _) => Answer::Ok,
            (status, Some(reason)) => Answer::Refused(status.to_owned(), reason),
            (_, None) => Answer::Other,
        })
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Errors mean that it is gone.
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
