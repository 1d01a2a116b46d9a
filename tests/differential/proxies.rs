//! The three proxies as processes, each with a static or a fresh token and the same time-outs.

use std::{
    env,
    fmt::Write,
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use token_valet::sandbox::{Provider, Settings};

use crate::client::Door;

/// How long a start may take on a busy machine.
const STARTED_WITHIN: Duration = Duration::from_secs(20);
/// The token of the proxies that fetch none.
const STATIC_TOKEN: &str = "static-token-of-the-peers";

/// A proxy with one door for each upstream.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) doors: Vec<Door>,
    processes: Vec<Process>,
    /// Who issues the sidecar's tokens; the peers have a static one.
    provider: Option<Provider>,
    /// What the processes read, and the peers' doors.
    _directory: TempDir,
}

impl Proxy {
    /// The sidecar, a process for each upstream.
    pub(crate) fn token_valet(upstreams: &[SocketAddr]) -> Self {
        let provider = Provider::start(Settings::default()).expect("a free port");
        let settings = Settings::default();
        let directory = directory();
        write(directory.path(), "ca.pem", provider.ca_pem());
        write(directory.path(), "secret", &settings.client_secret);
        let binary = env::var_os("TOKEN_VALET_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_token-valet").into());
        let binary = std::path::absolute(binary).expect("a path");
        let start = |(number, upstream): (usize, &SocketAddr)| {
            let (url, id) = (provider.token_url(), &settings.client_id);
            let config = format!(
                r#"
                [listen]
                address = "127.0.0.1:0"
                allowed_hosts = ["*"]
                idle_timeout = "1s"
                header_timeout = "1s"
                [admin]
                address = "127.0.0.1:0"
                [upstream]
                url = "http://{upstream}"
                idle_body_timeout = "1s"
                response_timeout = "3s"
                [token]
                url = "{url}"
                ca_file = "ca.pem"
                grant = "client_credentials"
                client_id = "{id}"
                client_secret_file = "secret"
                wait = "20s"
                [log]
                format = "json"
                access = "off"
                "#
            );
            let name = format!("token-valet-{number}");
            write(directory.path(), &name, &config);
            let mut command = Command::new(&binary);
            for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TOKEN_VALET")) {
                command.env_remove(name);
            }
            Process::start(command.args(["run", "-c", &name]), directory.path(), &format!("{name}.log"))
        };
        let mut processes: Vec<_> = upstreams.iter().enumerate().map(start).collect();
        let doors = processes.iter_mut().map(|process| Door::Tcp(process.logged_address())).collect();
        Self { doors, processes, provider: Some(provider), _directory: directory }
    }

    pub(crate) fn nginx(upstreams: &[SocketAddr]) -> Self {
        let directory = directory();
        let mut servers = String::new();
        for (number, upstream) in upstreams.iter().enumerate() {
            writeln!(
                servers,
                r#"
                upstream api{number} {{ server {upstream}; keepalive 8; }}
                server {{
                    listen unix:{door};
                    location / {{
                        proxy_pass http://api{number};
                        proxy_set_header Host {upstream};
                        proxy_set_header Authorization "Bearer {STATIC_TOKEN}";
                        proxy_set_header Connection "";
                    }}
                }}"#,
                door = socket(directory.path(), number).display(),
            )
            .expect("memory");
        }
        let config = format!(
            r#"
            daemon off;
            master_process off;
            pid nginx.pid;
            error_log stderr;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path body;
                proxy_temp_path proxy;
                fastcgi_temp_path fastcgi;
                uwsgi_temp_path uwsgi;
                scgi_temp_path scgi;
                client_header_timeout 1s;
                client_body_timeout 1s;
                keepalive_timeout 1s;
                proxy_read_timeout 3s;
                proxy_http_version 1.1;
                proxy_request_buffering off;
                proxy_buffering off;
                {servers}
            }}"#
        );
        write(directory.path(), "nginx.conf", &config);
        let prefix = directory.path().to_str().expect("the path of a temporary directory is UTF-8").to_owned();
        let arguments = ["-p", &prefix, "-e", "stderr", "-c", "nginx.conf"];
        Self::peer("nginx", &arguments, directory, upstreams.len())
    }

    pub(crate) fn haproxy(upstreams: &[SocketAddr]) -> Self {
        let directory = directory();
        let mut config = "
            global
                nbthread 1
            defaults
                mode http
                timeout connect 3s
                timeout client 1s
                timeout server 3s
                timeout http-request 1s
                timeout http-keep-alive 1s
            "
        .to_owned();
        for (number, upstream) in upstreams.iter().enumerate() {
            writeln!(
                config,
                "
                listen api{number}
                    bind unix@{door}
                    http-request set-header Authorization \"Bearer {STATIC_TOKEN}\"
                    http-request set-header Host {upstream}
                    server api {upstream}",
                door = socket(directory.path(), number).display(),
            )
            .expect("memory");
        }
        write(directory.path(), "haproxy.cfg", &config);
        Self::peer("haproxy", &["-db", "-f", "haproxy.cfg"], directory, upstreams.len())
    }

    fn peer(name: &str, arguments: &[&str], directory: TempDir, doors: usize) -> Self {
        let mut command = Command::new(program(name));
        let mut process = Process::start(command.args(arguments), directory.path(), "log");
        let paths: Vec<_> = (0..doors).map(|number| socket(directory.path(), number)).collect();
        process.wait_for("its doors to open", |_| {
            paths.iter().all(|path| UnixStream::connect(path).is_ok()).then_some(())
        });
        Self {
            doors: paths.into_iter().map(Door::Unix).collect(),
            processes: vec![process],
            provider: None,
            _directory: directory,
        }
    }

    /// Fails if a process has ended.
    pub(crate) fn assert_alive(&mut self) {
        for process in &mut self.processes {
            process.assert_alive();
        }
    }

    /// Whether a bearer token is one that this proxy sends.
    pub(crate) fn is_token(&self, token: &str) -> bool {
        match &self.provider {
            Some(provider) => provider.issued_secrets().iter().any(|issued| issued == token),
            None => token == STATIC_TOKEN,
        }
    }
}

/// A process that is killed with this value.
#[derive(Debug)]
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, directory: &Path, log: &str) -> Self {
        let log = directory.join(log);
        let output = File::create(&log).expect("the directory is writable");
        let child = command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn();
        Self { child: child.expect("the program can be started"), log }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("it can be waited for");
        assert!(ended.is_none(), "a proxy ended: {ended:?}\n{}", self.log());
    }

    fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            self.assert_alive();
            assert!(start.elapsed() < STARTED_WITHIN, "waited in vain for {what}:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn logged_address(&mut self) -> SocketAddr {
        self.wait_for("the port to be open", |process| {
            let log = process.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            lines.find_map(|line| line.get("address")?.as_str()?.parse().ok())
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the program is: Debian has it outside of an ordinary user's path.
fn program(name: &str) -> PathBuf {
    let found = [PathBuf::from(name), Path::new("/usr/sbin").join(name)].into_iter().find(|program| {
        let started = Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
        !started.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    });
    found.unwrap_or_else(|| panic!("there is no {name} on this machine: apt-get install nginx-light haproxy"))
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn write(directory: &Path, name: &str, content: &str) {
    fs::write(directory.join(name), content).expect("the directory is writable");
}

fn socket(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("door{number}"))
}
