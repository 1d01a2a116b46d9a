//! Planted secrets are looked for in all that a process shows of itself: its log, its pages and
//! answers, its messages, its command line and environment, and a core file.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use token_valet::sandbox::{ApiFault, Provider, Settings};

use crate::harness::{
    ACCOUNTS, Connection, DEADLINE, Response, Setup, Sidecar, binary, provider, wait_for, wait_until,
};

const CLIENT_SECRET: &str = "planted-client-secret-tY6bN";
const CODE: &str = "planted-code-Hq3Zm";
const GUARD: &str = "planted-guard-Rw8Kc";
/// This one must be found: paths are logged.
const PATH: &str = "planted-path-Vd1Xs";
const PLANTED: &str = "planted-control-Oe7Ju";

/// In a key's PKCS #8 form (RFC 5208): the private number of P-256 (RFC 5915).
const PRIVATE_NUMBER: std::ops::Range<usize> = 36..68;

/// What must not be found, with what it is.
struct Canaries(Vec<(&'static str, Vec<u8>)>);

impl Canaries {
    fn new(key: &KeyPair) -> Self {
        let pair = BASE64_STANDARD.encode(format!("{}:{CLIENT_SECRET}", Settings::default().client_id));
        let mut canaries = vec![
            ("the client secret", CLIENT_SECRET.into()),
            ("the credentials of HTTP Basic", pair.into()),
            ("the code", CODE.into()),
            ("the value of `listen.require_header`", GUARD.into()),
        ];
        let pem = key.serialize_pem();
        let lines = pem.lines().filter(|line| !line.starts_with('-'));
        canaries.extend(lines.map(|line| ("a line of the key's PEM", line[line.len() - 16..].into())));
        for piece in key.serialized_der()[PRIVATE_NUMBER].chunks(16) {
            let hex: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
            let list = format!("{piece:?}");
            canaries.push(("the key's bytes", piece.into()));
            canaries.push(("the key's bytes in hexadecimal", hex.into()));
            canaries.push(("the key's bytes as a list", list.trim_matches(['[', ']']).into()));
        }
        Self(canaries)
    }

    /// The ends of all tokens that were issued: their starts are much the same.
    fn with_tokens(mut self, provider: &Provider) -> Self {
        let tokens = provider.issued_secrets();
        assert!(!tokens.is_empty());
        self.0.extend(tokens.iter().map(|token| ("a token", token[token.len() - 16..].into())));
        self
    }

    #[track_caller]
    fn assert_absent(&self, place: &str, shown: &[u8]) {
        for (what, canary) in &self.0 {
            assert!(!contains(shown, canary), "{what} is in {place}: {}", String::from_utf8_lossy(shown));
        }
    }
}

fn contains(shown: &[u8], canary: &[u8]) -> bool {
    shown.windows(canary.len()).any(|window| window == canary)
}

/// A data recipient's, with every secret that there is, and all logged that can be.
fn setup(provider: &Provider, key: &KeyPair) -> Setup {
    let certificate = CertificateParams::new(vec!["client.example".to_owned()]).expect("a sound name");
    let certificate = certificate.self_signed(key).expect("a certificate");
    Setup::by_code(provider)
        .set_file("token.client_secret_file", CLIENT_SECRET)
        .set_file("token.code_file", CODE)
        .set_file("upstream.client_cert_file", &certificate.pem())
        .set_file("upstream.client_key_file", &key.serialize_pem())
        .set("listen.require_header", format!("X-Guard: {GUARD}"))
        .set("log.level", "trace")
        .set("log.access", "all")
}

fn planted_provider() -> Provider {
    let settings = Settings { client_secret: CLIENT_SECRET.to_owned(), code: CODE.to_owned(), ..Settings::default() };
    provider(Settings { rotate_refresh_tokens: true, ..settings })
}

fn ask(sidecar: &Sidecar, target: &str) -> Response {
    sidecar.ask("GET", target, &[("X-Guard", GUARD)], b"")
}

fn whole(response: &Response) -> Vec<u8> {
    let mut shown = format!("{} {:?}\n", response.status, response.headers).into_bytes();
    shown.extend_from_slice(&response.body);
    shown
}

fn page(sidecar: &Sidecar, method: &str, target: &str) -> Response {
    Connection::open(sidecar.admin).ask(method, target, &[], b"").expect("an answer")
}

#[test]
fn planted_secrets_are_not_in_the_log_the_pages_the_answers_and_what_the_kernel_tells_of_the_process() {
    let provider = planted_provider();
    let key = KeyPair::generate().expect("a key");
    let mut sidecar = setup(&provider, &key).start();
    wait_until("requests to be served", || ask(&sidecar, ACCOUNTS).status == 200);
    provider.revoke_tokens();
    ask(&sidecar, ACCOUNTS).assert_accounts();
    ask(&sidecar, &format!("/{PATH}"));

    let mut answers = vec![
        (403, sidecar.get(ACCOUNTS)),
        (403, sidecar.ask("GET", ACCOUNTS, &[("X-Guard", "another")], b"")),
        (405, sidecar.ask("CONNECT", "elsewhere.example:443", &[("X-Guard", GUARD)], b"")),
        (400, sidecar.ask("GET", ACCOUNTS, &[("X-Guard", GUARD), ("Host", "twice")], b"")),
    ];
    provider.go_down();
    answers.push((502, ask(&sidecar, ACCOUNTS)));
    provider.come_back();
    provider.revoke_consent();
    provider.set_api_fault(Some(ApiFault::AlwaysUnauthorized));
    ask(&sidecar, ACCOUNTS);

    sidecar.connect().send(format!("no HTTP {GUARD}\r\n\r\n").as_bytes()).expect("it listens");
    sidecar.process.logged("a connection ended early");

    let canaries = Canaries::new(&key).with_tokens(&provider);
    for (status, answer) in &answers {
        assert_eq!(answer.status, *status, "{answer:?}");
        canaries.assert_absent("an answer", &whole(answer));
    }
    for target in ["/metrics", "/livez", "/readyz", "/readyz?verbose", "/startupz", "/status", "/", "/no/such/page"] {
        canaries.assert_absent(target, &whole(&page(&sidecar, "GET", target)));
        canaries.assert_absent(target, &whole(&page(&sidecar, "POST", target)));
    }
    // The same search finds what is there.
    assert!(contains(&whole(&page(&sidecar, "GET", "/metrics")), b"token_valet_token_generation"));

    let of_process = |file: &str| fs::read(format!("/proc/{}/{file}", sidecar.process.id())).expect("it runs");
    for file in ["cmdline", "environ"] {
        canaries.assert_absent(file, &of_process(file));
    }
    assert!(contains(&of_process("cmdline"), b"valet.toml"));

    sidecar.process.signal(Signal::TERM);
    assert_eq!(sidecar.process.exit_code(), 0);
    let written = sidecar.process.stdout() + &sidecar.process.stderr();
    assert!(contains(written.as_bytes(), PATH.as_bytes()), "the path was not logged: the search proves nothing");
    assert!(written.contains("\"level\":\"TRACE\"") || written.contains("\"level\":\"DEBUG\""), "it is not verbose");
    canaries.assert_absent("the log", written.as_bytes());
}

#[test]
fn secret_given_by_the_environment_is_found_in_environ_and_nowhere_in_the_log() {
    let provider = planted_provider();
    let setup = Setup::partner(&provider).variable("TOKEN_VALET__TOKEN__CLIENT_SECRET", CLIENT_SECRET);
    let sidecar = setup.set("log.level", "trace").start();
    sidecar.wait_until_it_serves();
    let environment = fs::read(format!("/proc/{}/environ", sidecar.process.id())).expect("it runs");
    assert!(contains(&environment, CLIENT_SECRET.as_bytes()), "the search for it proves nothing elsewhere");
    assert!(!sidecar.process.stderr().contains(CLIENT_SECRET));
}

#[test]
fn check_tells_the_faults_of_secrets_in_wrong_places_without_showing_them() {
    let provider = planted_provider();
    let key = KeyPair::generate().expect("a key");
    let canaries = Canaries::new(&key);
    let good = || setup(&provider, &key);
    let cases = [
        (good().set("token.client_secret", CLIENT_SECRET), "`token.client_secret` is a secret"),
        (good().set("listen.require_header", GUARD), "`listen.require_header` cannot be read"),
        (good().set("listen.require_header", format!("X Guard: {GUARD}")), "`listen.require_header` cannot be read"),
        (good().set_file("upstream.ca_file", &key.serialize_pem()), "`upstream.ca_file` is "),
        (good().set_file("token.ca_file", CLIENT_SECRET), "`token.ca_file` is "),
        (good().set_file("upstream.client_cert_file", &key.serialize_pem()), "`upstream.client_cert_file` holds no"),
        (good().set_file("upstream.client_key_file", CODE), "`upstream.client_key_file` holds no"),
        (
            good().set_file("token.client_secret_file", &CLIENT_SECRET.repeat(3_000)),
            "`token.client_secret_file` gives no",
        ),
        (good().set_file("token.state_file", CODE), "no fault found"),
    ];
    for (setup, told) in cases {
        let mut process = setup.spawn("check");
        process.exit_code();
        let shown = process.stdout() + &process.stderr();
        assert!(shown.contains(told), "{told}: {shown}");
        canaries.assert_absent("a message", shown.as_bytes());
    }
}

/// A process in a directory of its own that may leave a core file there, however large.
struct Doomed {
    child: Child,
    directory: TempDir,
}

impl Doomed {
    fn start(command: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let child = Command::new("sh")
            .args(["-c", "ulimit -c unlimited && exec \"$0\" \"$@\"", command])
            .args(arguments)
            .current_dir(directory.path())
            .env("PLANTED", PLANTED)
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        Self { child, directory }
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        // Rust's own handler of SIGSEGV is only put out of the way by the first one that is sent.
        let status = wait_for("the process to end", || {
            let _ = kill_process(Pid::from_child(&self.child), signal);
            self.child.try_wait().expect("it can be waited for")
        });
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status}");
        status
    }

    fn core_file(&self) -> Option<Vec<u8>> {
        let mut entries = fs::read_dir(self.directory.path()).expect("it is there").flatten();
        let core = entries.find(|entry| entry.file_name().as_encoded_bytes().starts_with(b"core"))?;
        Some(fs::read(core.path()).expect("it can be read"))
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a core file comes to lie where the process is, or is given to a program that nothing here knows.
fn cores_are_files() -> bool {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("Linux");
    !pattern.starts_with('|') && !pattern.contains('/')
}

#[test]
fn the_sidecar_dumps_no_core_where_another_process_leaves_its_secrets_in_one() {
    for signal in [Signal::ABORT, Signal::SEGV] {
        // The control: without it, the rest proves nothing.
        let mut plain = Doomed::start("sleep", &["60"]);
        let executable = format!("/proc/{}/comm", plain.child.id());
        wait_until("sleep to run", || fs::read_to_string(&executable).is_ok_and(|name| name.trim() == "sleep"));
        let status = plain.end(signal);
        assert!(
            status.core_dumped(),
            "this machine lets nothing dump its core, so nothing can be shown here: {status}"
        );
        // Where a program takes the cores, that the kernel says so of one and not of the other is the proof.
        if cores_are_files() {
            let core = plain.core_file().expect("the core file of `sleep`");
            assert!(contains(&core, PLANTED.as_bytes()), "the control's core file holds its environment");
        }

        let provider = planted_provider();
        let setup = Setup::partner(&provider).set_file("token.client_secret_file", CLIENT_SECRET);
        let configuration = setup.write();
        let program = Path::new(&binary()).canonicalize().expect("it is there");
        let arguments = ["run", "-c", configuration.to_str().expect("UTF-8")];
        let mut sidecar = Doomed::start(program.to_str().expect("UTF-8"), &arguments);
        let mut log = BufReader::new(sidecar.child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        let start = std::time::Instant::now();
        while !line.contains("the access token was refreshed") {
            assert!(start.elapsed() < DEADLINE, "no token");
            line.clear();
            assert!(log.read_line(&mut line).expect("text") > 0, "it ended early");
        }
        let status = sidecar.end(signal);
        assert!(!status.core_dumped(), "{status}");
        assert!(sidecar.core_file().is_none(), "there is a core file");
        let mut rest = String::new();
        log.read_to_string(&mut rest).expect("text");
        assert!(!rest.contains(CLIENT_SECRET));
    }
}
