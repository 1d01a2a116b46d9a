//! The local port as a socket that systemd opened: the test is systemd.

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    process::{Command, Stdio},
};

use rustix::{
    fs::fstat,
    process::{Signal, getuid},
};
use serde_json::json;
use token_valet::sandbox::{Provider, Settings};

use crate::harness::{ACCOUNTS, Connection, DEADLINE, Process, Setup, binary, provider, wait_until};

/// What a service is started with.
struct Unit<'a> {
    /// One or two.
    sockets: Vec<OwnedFd>,
    names: &'a str,
    /// As shell text; `$$` is the process's own.
    pid: &'a str,
}

/// Unless a test is about its fault.
fn unit(sockets: impl IntoIterator<Item = impl Into<OwnedFd>>, names: &str) -> Unit<'_> {
    Unit { sockets: sockets.into_iter().map(Into::into).collect(), names, pid: "$$" }
}

impl Unit<'_> {
    /// Starts the sidecar as systemd does. The first socket comes as stdin of a shell and the second as stdout, so that
    /// nothing else that the tests start has them.
    fn start(self, setup: &Setup, command: &[&str], after: &[&str]) -> Process {
        let count = self.sockets.len();
        let mut sockets = self.sockets.into_iter();
        let (moved, stdout) = match (sockets.next(), sockets.next()) {
            (Some(first), None) => (first, None),
            (Some(first), Some(second)) => (first, Some(second)),
            (None, _) => panic!("there is no socket to pass"),
        };
        let places = if stdout.is_some() { "3<&0 4<&1 >/dev/null" } else { "3<&0" };
        let script = format!(
            "exec {places} </dev/null; export LISTEN_PID={} LISTEN_FDS={count} LISTEN_FDNAMES={}; exec \"$@\"",
            self.pid, self.names
        );
        let file = setup.write();
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).arg(binary()).args(command).arg("-c").arg(file).args(after);
        shell.stdin(Stdio::from(moved)).stdout(stdout.map_or_else(Stdio::piped, Stdio::from));
        Process::start(shell, &[])
    }

    fn run(self, setup: &Setup) -> Process {
        self.start(setup, &["run"], &[])
    }

    /// Tries to, and gives what it says.
    #[track_caller]
    fn refused(self, setup: &Setup) -> String {
        let mut process = self.run(setup);
        assert_eq!(process.exit_code(), 69, "{}", process.stderr());
        process.stderr()
    }
}

fn setup(provider: &Provider) -> Setup {
    Setup::partner(provider).set("listen.address", "systemd:token-valet")
}

fn port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

/// The same socket, for another.
fn passed(port: &TcpListener) -> OwnedFd {
    port.try_clone().expect("a free descriptor").into()
}

/// A socket as `/proc/PID/fd` shows it.
fn place(socket: impl AsFd) -> String {
    format!("socket:[{}]", fstat(socket).expect("it is open").st_ino)
}

/// What a process has open.
fn open_files(process: &Process) -> String {
    let files = fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs, and this is root's or its user's");
    files
        .flatten()
        .filter_map(|file| Some(fs::read_link(file.path()).ok()?.to_string_lossy().into_owned() + "\n"))
        .collect()
}

#[track_caller]
fn end(mut process: Process) {
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), 0);
}

/// Sends a request that closes its connection.
fn send(stream: &mut (impl Write + ?Sized), host: &str) {
    let request = format!("GET {ACCOUNTS} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it listens");
}

#[track_caller]
fn answer(mut stream: impl Read) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[track_caller]
fn assert_served(stream: impl Read) {
    let answer = answer(stream);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"accounts\""), "{answer}");
}

#[test]
fn who_connects_before_and_between_sidecars_is_served_by_the_next_one() {
    let provider = provider(Settings::default());
    let port = port();
    let address = port.local_addr().expect("it is bound");
    for threads in [1, 2] {
        // Nobody runs yet, or any more.
        let mut waiting = TcpStream::connect(address).expect("the port is systemd's");
        waiting.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        send(&mut waiting, "localhost");
        let setup = setup(&provider).set("listen.threads", threads);
        let mut process = unit([passed(&port)], "token-valet").run(&setup);
        assert_served(waiting);
        assert_eq!(process.addresses().0, address);
        assert_eq!(process.logged("listening")["confinement"], "whole", "this needs Linux 6.10");
        // It is a TCP port like any other.
        let mut foreign = TcpStream::connect(address).expect("it listens");
        send(&mut foreign, "evil.example");
        assert!(answer(foreign).starts_with("HTTP/1.1 403 "));
        end(process);
    }
}

#[test]
fn a_drain_leaves_new_callers_to_the_next_one_and_finishes_its_own() {
    let provider = provider(Settings::default());
    let port = port();
    let address = port.local_addr().expect("it is bound");
    let setup = setup(&provider);
    let mut process = unit([passed(&port)], "token-valet").run(&setup);
    let mut caller = Connection::open(address);
    wait_until("a token", || caller.ask("GET", ACCOUNTS, &[], b"").is_ok_and(|answer| answer.status == 200));
    caller.send_head("GET", "/sandbox/slow/1500", &[]).expect("it listens");
    wait_until("the API to have it", || provider.requests().iter().any(|seen| seen.target == "/sandbox/slow/1500"));
    assert!(open_files(&process).contains(&place(&port)));
    process.signal(Signal::TERM);
    // By this process alone.
    wait_until("the port to be closed", || !open_files(&process).contains(&place(&port)));
    let mut waiting = TcpStream::connect(address).expect("the port is systemd's");
    waiting.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    send(&mut waiting, "localhost");
    assert_eq!(caller.response("GET").expect("an answer").status, 200);
    assert_eq!(process.exit_code(), 0);
    let next = unit([passed(&port)], "token-valet").run(&setup);
    assert_served(waiting);
    end(next);
}

#[test]
fn a_unix_socket_keeps_its_file_and_is_guarded_by_its_callers_users() {
    let provider = provider(Settings::default());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("api.sock");
    let socket = UnixListener::bind(&path).expect("a free path");
    fs::set_permissions(&path, Permissions::from_mode(0o604)).expect("it is ours");
    let start = |setup: &Setup| unit([socket.try_clone().expect("a free descriptor")], "token-valet").run(setup);
    let connect = || {
        let mut stream = UnixStream::connect(&path).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        send(&mut stream, "whatever.example");
        stream
    };
    let own = getuid().as_raw();
    let setup = setup(&provider).set("listen.allow_uids", json!([own])).set("listen.unix_mode", "0666");
    let ours = start(&setup);
    assert_served(connect());
    assert_eq!(ours.logged("listening")["address"], format!("unix:{}", path.display()));
    end(ours);
    assert_eq!(fs::symlink_metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o604);

    let setup = setup.set("listen.allow_uids", json!([own + 1]));
    let others = start(&setup);
    let answer = answer(connect());
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("`listen.allow_uids`"), "{answer}");
    end(others);
    assert!(path.exists());
}

#[test]
fn an_abstract_socket_is_told_as_systemd_writes_it() {
    let provider = provider(Settings::default());
    let name = format!("token-valet-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let socket = UnixListener::bind_addr(&address).expect("a free name");
    let setup = setup(&provider);
    let process = unit([socket], "token-valet").run(&setup);
    assert_eq!(process.logged("listening")["address"], format!("unix:@{name}"));
    let mut stream = UnixStream::connect_addr(&address).expect("it listens");
    send(&mut stream, "whatever.example");
    assert_served(stream);
}

#[test]
fn the_one_of_the_name_is_taken_and_the_others_are_told() {
    let provider = provider(Settings::default());
    let (other, port) = (port(), port());
    let setup = setup(&provider);
    let mut process = unit([passed(&other), passed(&port)], "metrics:token-valet").run(&setup);
    assert_eq!(process.addresses().0, port.local_addr().expect("it is bound"));
    let told = "sockets were passed that `listen.address` does not name: nobody is served there";
    assert_eq!(process.logged(told)["names"], "metrics");
    end(process);

    // Also by who does not know of any.
    let setup = Setup::partner(&provider);
    let process = unit([passed(&port)], "token-valet").run(&setup);
    assert_eq!(process.logged(told)["names"], "token-valet");
    end(process);
    let process = Unit { pid: "none", ..unit([passed(&port)], "token-valet") }.run(&setup);
    let error =
        process.logged("what tells of passed sockets makes no sense: nobody is served there")["error"].to_string();
    assert!(error.contains("invalid LISTEN_PID"), "{error}");
    end(process);
}

#[test]
fn without_the_one_socket_of_the_name_it_does_not_start_and_says_what_helps() {
    let provider = provider(Settings::default());
    let setup = setup(&provider);
    let mut alone = setup.spawn("run");
    assert_eq!(alone.exit_code(), 69);
    for (said, words) in [
        (alone.stderr(), ["no socket was passed to this process", "`FileDescriptorName=token-valet`"]),
        (
            Unit { pid: "1", ..unit([port()], "token-valet") }.refused(&setup),
            ["passed to the process 1, and this is another", "by `exec` in a script"],
        ),
        (
            Unit { pid: "none", ..unit([port()], "token-valet") }.refused(&setup),
            ["LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES make no sense", "invalid LISTEN_PID"],
        ),
        (
            Unit { pid: "$$ LISTEN_FDS_FIRST_FD=4", ..unit([port(), port()], "token-valet:other") }.refused(&setup),
            ["LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES make no sense", "LISTEN_FDS_FIRST_FD is set"],
        ),
        (
            unit([port(), port()], "token-valet").refused(&setup),
            ["LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES make no sense", "invalid LISTEN_FDNAMES"],
        ),
        (
            unit([port(), port()], "web:metrics").refused(&setup),
            [
                "no socket of that name was passed",
                "`web`, `metrics` were passed: set `listen.address` to one of these, such as \"systemd:web\"",
            ],
        ),
        (
            unit([port(), port()], "token-valet:token-valet").refused(&setup),
            ["2 sockets of that name were passed", "have one `ListenStream=` in the socket unit"],
        ),
    ] {
        assert!(said.contains("error: cannot listen on systemd:token-valet: "), "{said}");
        for words in words {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}

#[test]
fn what_is_no_listening_stream_socket_is_refused() {
    let provider = provider(Settings::default());
    let setup = setup(&provider);
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let said = unit([datagrams], "token-valet").refused(&setup);
    assert!(said.contains("it is neither a TCP socket nor a Unix stream socket"), "{said}");
    let file = tempfile::tempfile().expect("a temporary file");
    let said = unit([file], "token-valet").refused(&setup);
    assert!(said.contains("it is neither a TCP socket nor a Unix stream socket"), "{said}");
    // As with `Accept=yes`.
    let port = port();
    let connected = TcpStream::connect(port.local_addr().expect("it is bound")).expect("it listens");
    let (one, _other) = UnixStream::pair().expect("free descriptors");
    for socket in [OwnedFd::from(connected), one.into()] {
        let said = unit([socket], "token-valet").refused(&setup);
        assert!(said.contains("it does not listen") && said.contains("set `Accept=no`"), "{said}");
    }
}

#[test]
fn the_rules_for_addresses_and_users_hold_for_what_is_passed() {
    let provider = provider(Settings::default());
    for address in ["0.0.0.0:0", "[::]:0"] {
        let open = TcpListener::bind(address).expect("a free port");
        let here = open.local_addr().expect("it is bound");
        let said = unit([passed(&open)], "token-valet").refused(&setup(&provider));
        assert!(said.contains(&format!("its address is {here}, expected a loopback address")), "{said}");
        assert!(said.contains("`listen.allow_non_loopback = true` and `listen.allowed_hosts`"), "{said}");

        let allowed = setup(&provider).set("listen.allow_non_loopback", true);
        let mut process = unit([passed(&open)], "token-valet").run(&allowed);
        assert_eq!(process.exit_code(), 78);
        assert!(process.stderr().contains("`listen.allowed_hosts` is missing"), "{}", process.stderr());

        let allowed = allowed.set("listen.allowed_hosts", json!(["valet.example"]));
        let mut process = unit([passed(&open)], "token-valet").run(&allowed);
        let mut caller = TcpStream::connect(("localhost", here.port())).expect("it listens");
        send(&mut caller, "valet.example");
        assert_served(caller);
        assert_eq!(process.addresses().0, here);
        end(process);
    }
    let said = unit([port()], "token-valet").refused(&setup(&provider).set("listen.allow_uids", json!([1_000])));
    assert!(said.contains("it is a TCP port, for which `listen.allow_uids` cannot be checked"), "{said}");
}

#[test]
fn a_command_gets_neither_the_sockets_nor_what_tells_of_them() {
    let provider = provider(Settings::default());
    // Also where they are nobody's.
    for setup in [setup(&provider), Setup::partner(&provider)] {
        let ports = [port(), port()];
        let places = ports.each_ref().map(place);
        let script = "exec >&2; env; ls -l /proc/self/fd; echo told";
        let sockets = unit(ports, "token-valet:other");
        let mut process = sockets.start(&setup, &["exec"], &["--", "sh", "-c", script]);
        assert_eq!(process.exit_code(), 0);
        let told = process.stderr();
        assert!(told.contains("\ntold\n") && !told.contains("LISTEN_"), "{told}");
        assert!(places.iter().all(|place| !told.contains(place)), "{places:?} {told}");
    }
}

#[test]
fn a_name_is_checked_without_the_socket() {
    let provider = provider(Settings::default());
    let setup = setup(&provider);
    let mut process = setup.spawn("check");
    assert_eq!(process.exit_code(), 0, "{}", process.stderr());
    let setup = setup.set("listen.address", "systemd:a:b");
    let mut process = setup.spawn("check");
    assert_eq!(process.exit_code(), 78);
    let said = process.stderr();
    assert!(said.contains("`listen.address` is \"systemd:a:b\", expected `systemd:` and a name"), "{said}");
}
