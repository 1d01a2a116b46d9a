//! What the tests share: the sidecar as a process, its configuration, waiting, and a small HTTP client.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    net::sockopt::set_socket_linger,
    process::{Pid, Resource, Rlimit, Signal, geteuid, getrlimit, kill_process, setrlimit},
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use token_valet::sandbox::{Provider, Settings};

/// How long anything may take before a test fails: far longer than it needs, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// What most tests ask for.
pub(crate) const ACCOUNTS: &str = "/api/fdx/5/accounts";
pub(crate) const ECHO: &str = "/sandbox/echo";
pub(crate) const SINK: &str = "/sandbox/sink";

pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Waits until the probe finds something.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        thread::sleep(POLL);
    }
}

/// Waits until the condition holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Sets it at the end of a test's part, also of one that fails: a scope would wait for ever for threads that are not told.
pub(crate) struct AtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Watches for a while that the condition holds all along.
#[track_caller]
pub(crate) fn holds_for(while_: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < while_ {
        assert!(condition(), "it no longer holds that {what}");
        thread::sleep(POLL);
    }
}

/// Whether the drills take as long as they do in an acceptance run: `TOKEN_VALET_DRILL=full`.
pub(crate) fn is_full_drill() -> bool {
    env::var("TOKEN_VALET_DRILL").is_ok_and(|drill| drill == "full")
}

/// Lets this process, and what it starts, have as many descriptors as it may.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the maximum it may");
}

/// Closes a connection by a reset.
pub(crate) fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("it is a socket");
    drop(stream);
}

pub(crate) fn provider(settings: Settings) -> Provider {
    Provider::start(settings).expect("a free port")
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Starts the binary under test where `from` is mounted at `to`, for it alone: both files, or both directories.
pub(crate) fn with_mount(from: &Path, to: &Path, arguments: &[&str]) -> Process {
    let mut command = Command::new("unshare");
    // Users may mount what they see in a user namespace of their own.
    command.args(if geteuid().is_root() { &["--mount"][..] } else { &["--mount", "--map-root-user"] });
    command.args(["sh", "-ec", "mount --bind \"$1\" \"$2\"; shift 2; exec \"$@\"", "sh"]);
    command.args([from, to]).arg(binary()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Process::start(command, &[])
}

/// A configuration, with the directory of the files that it names.
#[derive(Debug)]
pub(crate) struct Setup {
    directory: TempDir,
    /// By dotted name.
    values: BTreeMap<String, Value>,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// A partner's, with client credentials, before a provider that has the default settings' client.
    pub(crate) fn partner(provider: &Provider) -> Self {
        let settings = Settings::default();
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { directory, values: BTreeMap::new(), environment: Vec::new() }
            .set("listen.address", "127.0.0.1:0")
            .set("admin.address", "127.0.0.1:0")
            .set("log.format", "json")
            .set("upstream.url", provider.api_url())
            .set_file("upstream.ca_file", provider.ca_pem())
            .set("token.url", provider.token_url())
            .set_file("token.ca_file", provider.ca_pem())
            .set("token.grant", "client_credentials")
            .set("token.client_id", settings.client_id)
            .set_file("token.client_secret_file", &settings.client_secret)
            .set("token.retry_max", "1s")
            // On a busy machine the first token takes its time, and so do a thousand handshakes.
            .set("token.wait", "15s")
            .set("upstream.connect_timeout", "15s")
    }

    /// A data recipient's first start.
    pub(crate) fn by_code(provider: &Provider) -> Self {
        let settings = Settings::default();
        Self::partner(provider)
            .set("token.grant", "authorization_code")
            .set_file("token.code_file", &settings.code)
            .set("token.redirect_uri", settings.redirect_uri)
            .set_path("token.state_file")
    }

    /// A data recipient's with a refresh token at hand.
    pub(crate) fn by_refresh_token(provider: &Provider) -> Self {
        Self::partner(provider)
            .set("token.grant", "refresh_token")
            .set_file("token.refresh_token_file", &Settings::default().refresh_token)
    }

    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.values.insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn unset(mut self, key: &str) -> Self {
        self.values.remove(key);
        self
    }

    /// Sets a key to the path of a file with this content.
    pub(crate) fn set_file(self, key: &str, content: &str) -> Self {
        let path = self.replace_file(key, content);
        self.set(key, path)
    }

    /// Sets a key to the path of a file that does not exist yet.
    fn set_path(self, key: &str) -> Self {
        let path = self.directory.path().join(key);
        self.set(key, path.to_str().expect("the path of a temporary directory is UTF-8"))
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces the content of a key's file in one step, as a mounted secret is replaced. Returns its path.
    pub(crate) fn replace_file(&self, key: &str, content: &str) -> String {
        let path = self.directory.path().join(key);
        let new = path.with_extension("new");
        fs::write(&new, content).expect("a writable directory");
        fs::rename(new, &path).expect("a writable directory");
        path.to_str().expect("the path of a temporary directory is UTF-8").to_owned()
    }

    /// The configuration as TOML, which writes such values as JSON does, but for tables.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut current = "";
        for (name, value) in &self.values {
            let (table, key) = name.split_once('.').expect("a dotted name");
            if table != current {
                text.push_str(&format!("[{table}]\n"));
                current = table;
            }
            let value = match value {
                Value::Object(table) => {
                    let fields: Vec<_> = table.iter().map(|(name, value)| format!("{name:?} = {value}")).collect();
                    format!("{{ {} }}", fields.join(", "))
                }
                value => value.to_string(),
            };
            text.push_str(&format!("{key} = {value}\n"));
        }
        text
    }

    /// Writes the configuration in one step, and says where.
    pub(crate) fn write(&self) -> PathBuf {
        let path = self.directory.path().join("valet.toml");
        let new = path.with_extension("new");
        fs::write(&new, self.text()).expect("a writable directory");
        fs::rename(new, &path).expect("a writable directory");
        path
    }

    /// Sets a key of a configuration that may be in use.
    pub(crate) fn rewrite(&mut self, key: &str, value: impl Into<Value>) {
        self.values.insert(key.to_owned(), value.into());
        self.write();
    }

    /// Starts a command with the configuration, without waiting for anything.
    pub(crate) fn spawn(&self, command: &str) -> Process {
        let path = self.write();
        let environment: Vec<_> = self.environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        Process::spawn(&[command, "-c", path.to_str().expect("as above")], &environment)
    }

    /// Runs the sidecar, and waits until its ports are open.
    pub(crate) fn start(self) -> Sidecar {
        let mut process = self.spawn("run");
        let (address, admin) = process.addresses();
        Sidecar { process, address, admin, setup: self }
    }
}

/// The binary under test.
pub(crate) fn binary() -> OsString {
    env::var_os("TOKEN_VALET_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_token-valet").into())
}

/// The binary under test, running with these arguments and, beside the test's own environment, these variables.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    pub(crate) fn spawn(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        Self::start(command, environment)
    }

    /// The same by another command, which becomes the binary under test and has its own stdin and stdout.
    pub(crate) fn start(mut command: Command, environment: &[(&str, &str)]) -> Self {
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TOKEN_VALET")) {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary can be started");
        let stdout = match child.stdout.take() {
            Some(stdout) => Lines::of(stdout),
            None => Lines::of(io::empty()),
        };
        let stderr = Lines::of(child.stderr.take().expect("it is piped"));
        Self { child, stdout, stderr }
    }

    /// Where it listens for requests and for probes.
    #[track_caller]
    pub(crate) fn addresses(&mut self) -> (SocketAddr, SocketAddr) {
        let line = wait_for("the ports to be open", || {
            let ended = self.child.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "it ended instead of running: {ended:?}\n{}", self.stderr());
            self.log().into_iter().find(|line| line["message"] == "listening")
        });
        let address = |field: &str| line[field].as_str().and_then(|text| text.parse().ok()).expect("an address");
        (address("address"), address("admin"))
    }

    /// Waits for its end; gives the exit code.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> i32 {
        let status = wait_for("the process to end", || self.child.try_wait().expect("it can be waited for"));
        self.stdout.join();
        self.stderr.join();
        status.code().unwrap_or_else(|| panic!("a signal ended it: {status}"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it runs").count()
    }

    /// A value of `/proc/PID/status` in KiB, such as `VmRSS`.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.expect("a known name").trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// The log so far, without what is not JSON.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.stderr().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The first line of the log with this message, waited for.
    #[track_caller]
    pub(crate) fn logged(&self, message: &str) -> Value {
        wait_for(&format!("the log to say `{message}`"), || {
            self.log().into_iter().find(|line| line["message"] == message)
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.stdout.join();
            self.stderr.join();
            #[expect(clippy::print_stderr, reason = "a failed test shows what the sidecar said")]
            {
                eprintln!("stdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr());
            }
        }
    }
}

/// What a process writes, collected on a thread.
#[derive(Debug)]
struct Lines {
    text: Arc<Mutex<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    fn of(source: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let thread = thread::spawn({
            let text = Arc::clone(&text);
            move || {
                let mut source = BufReader::new(source);
                let mut line = Vec::new();
                while source.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                    text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            }
        });
        Self { text, thread: Some(thread) }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A sidecar that serves. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Keeps the files that it reads again.
    pub(crate) setup: Setup,
}

impl Sidecar {
    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        self.connect().ask(method, target, fields, body).expect("an answer")
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Response {
        self.ask("GET", target, &[], b"")
    }

    /// The status of a page of the admin port.
    #[track_caller]
    pub(crate) fn probe(&self, page: &str) -> u16 {
        Connection::open(self.admin).ask("GET", page, &[], b"").expect("an answer").status
    }

    /// Waits until requests are answered by the API.
    #[track_caller]
    pub(crate) fn wait_until_it_serves(&self) {
        wait_until("requests to be served", || self.get(ACCOUNTS).status == 200);
    }
}

/// A caller's connection, or from the other end the API's.
#[derive(Debug)]
pub(crate) struct Connection(pub(crate) BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).expect("an open port"))
    }

    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline can be set");
        stream.set_nodelay(true).expect("it is TCP");
        Self(BufReader::new(stream))
    }

    /// Sends one request and reads its response.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let length = body.len().to_string();
        let mut fields = fields.to_vec();
        if !body.is_empty() {
            fields.push(("Content-Length", &length));
        }
        self.send_head(method, target, &fields)?;
        self.send(body)?;
        self.response(method)
    }

    pub(crate) fn send_head(&mut self, method: &str, target: &str, fields: &[(&str, &str)]) -> io::Result<()> {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").as_bytes())
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Reads a whole response.
    pub(crate) fn response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.head()?;
        if method != "HEAD" {
            let mut body = Vec::new();
            self.body(&response, &mut body)?;
            response.body = body;
        }
        Ok(response)
    }

    /// Reads the head of a response; its body stays behind.
    pub(crate) fn head(&mut self) -> io::Result<Response> {
        let start = self.line()?;
        let status = start.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status line: {start}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("no field: {line}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads the body that belongs to a head. An end before its end is an `UnexpectedEof`.
    pub(crate) fn body(&mut self, head: &Response, sink: &mut impl Write) -> io::Result<()> {
        if head.header("transfer-encoding") == Some("chunked") {
            return self.chunks(sink);
        }
        match head.header("content-length") {
            Some(length) => self.bytes(length.parse().map_err(io::Error::other)?, sink),
            None if head.status == 204 || head.status == 304 => Ok(()),
            None => io::copy(&mut self.0, sink).map(drop),
        }
    }

    fn chunks(&mut self, sink: &mut impl Write) -> io::Result<()> {
        loop {
            let size = self.line()?;
            let size = u64::from_str_radix(&size, 16).map_err(io::Error::other)?;
            self.bytes(size, sink)?;
            let end = self.line()?;
            if !end.is_empty() {
                return Err(io::Error::other(format!("a chunk or a trailer goes on: {end}")));
            }
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn bytes(&mut self, count: u64, sink: &mut impl Write) -> io::Result<()> {
        let copied = io::copy(&mut self.0.by_ref().take(count), sink)?;
        if copied < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(line.to_owned())
    }

    /// Reads some bytes of a body as they come, chunk sizes and all.
    pub(crate) fn read_some(&mut self) -> io::Result<usize> {
        self.0.read(&mut [0; 4_096])
    }

    /// The connection itself, with what was not read of it lost.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.0.into_inner()
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Reads whatever comes until the end.
    pub(crate) fn rest(&mut self, sink: &mut Vec<u8>) -> io::Result<()> {
        self.0.read_to_end(sink).map(drop)
    }
}

/// A response. Names of fields are in lower case.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Holds what was echoed as the API's list of the fields of one name.
    #[track_caller]
    pub(crate) fn echoed(&self, name: &str) -> Vec<String> {
        let echoed = self.json();
        let fields = echoed["headers"].as_array().expect("an echo");
        let of_name = fields.iter().filter(|field| field[0] == name);
        of_name.map(|field| field[1].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Checks everything about an answer of the sidecar's own.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, reason: &str) {
        assert_eq!((self.status, self.header("x-token-valet-error")), (status, Some(reason)), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:token-valet:error:{reason}"));
        assert_eq!((&problem["status"], &problem["reason"]), (&status.into(), &reason.into()));
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
    }

    /// Checks that the API's accounts are there.
    #[track_caller]
    pub(crate) fn assert_accounts(&self) {
        assert_eq!((self.status, self.header("x-token-valet-error")), (200, None), "{self:?}");
        assert_eq!(self.json()["accounts"].as_array().map(Vec::len), Some(3), "{self:?}");
    }
}
