//! From start to end: ports, probes, threads, signals and the drain.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
};

use rustix::process::Signal;
use serde_json::json;
use token_valet::{
    config::TokenFault,
    sandbox::{Provider, Settings},
};

use crate::harness::{ACCOUNTS, Connection, DEADLINE, Setup, Sidecar, provider, seconds, wait_until};

/// Sends a request that takes so long, and waits until the API has it.
fn in_flight(sidecar: &Sidecar, provider: &Provider, millis: u32) -> Connection {
    let mut caller = sidecar.connect();
    let target = format!("/sandbox/slow/{millis}");
    caller.send_head("GET", &target, &[]).expect("it listens");
    wait_until("the API to have the request", || provider.requests().iter().any(|seen| seen.target == target));
    caller
}

/// A drain that waits for something it need not wait for lasts longer than any test.
fn patient(provider: &Provider) -> Sidecar {
    Setup::partner(provider).set("shutdown.grace", "1h").set("listen.idle_timeout", "1h").start()
}

const AN_HOUR: u32 = 3_600_000;

// Signals.

#[test]
fn request_in_flight_is_finished_after_sigterm_while_no_new_one_is_taken() {
    let provider = provider(Settings::default());
    let mut sidecar = patient(&provider);
    let mut caller = in_flight(&sidecar, &provider, 2_000);
    sidecar.process.signal(Signal::TERM);
    assert_eq!(sidecar.process.logged("ending")["signal"], "SIGTERM");
    wait_until("the port to be closed", || {
        TcpStream::connect(sidecar.address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    let answer = caller.response("GET").expect("an answer");
    assert_eq!((answer.status, answer.json()), (200, json!({ "slept_ms": 2_000 })));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(sidecar.process.exit_code(), 0);
    sidecar.process.logged("drained");
}

#[test]
fn body_in_flight_is_finished_after_sigterm() {
    let provider = provider(Settings::default());
    let mut sidecar = patient(&provider);
    let mut caller = sidecar.connect();
    caller.send_head("GET", "/sandbox/drip/100/20", &[]).expect("it listens");
    let head = caller.head().expect("a head");
    sidecar.process.signal(Signal::TERM);
    let mut body = Vec::new();
    caller.body(&head, &mut body).expect("a whole body");
    assert_eq!(body.len(), 100);
    assert_eq!(sidecar.process.exit_code(), 0);
}

#[test]
fn idle_connections_do_not_delay_the_end() {
    let provider = provider(Settings::default());
    for signal in [Signal::TERM, Signal::INT] {
        let mut sidecar = patient(&provider);
        let mut caller = sidecar.connect();
        caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
        let mut probe = Connection::open(sidecar.admin);
        assert_eq!(probe.ask("GET", "/livez", &[], b"").expect("an answer").status, 200);
        sidecar.process.signal(signal);
        assert_eq!(sidecar.process.exit_code(), 0);
        sidecar.process.logged("drained");
        assert_eq!(caller.read_some().expect("an orderly end"), 0);
    }
}

#[test]
fn connection_that_never_sent_a_request_does_not_delay_the_end() {
    let provider = provider(Settings::default());
    let mut sidecar = patient(&provider);
    let _silent = sidecar.connect();
    // Accepted in turn: once this is answered, so is the one before.
    sidecar.get(ACCOUNTS).assert_accounts();
    sidecar.process.signal(Signal::TERM);
    assert_eq!(sidecar.process.exit_code(), 0);
}

#[test]
fn waiting_for_a_provider_that_is_down_ends_at_once_on_sigint() {
    let provider = provider(Settings::default());
    provider.go_down();
    let mut sidecar = patient(&provider);
    sidecar.process.logged("the access token could not be refreshed");
    sidecar.process.signal(Signal::INT);
    assert_eq!(sidecar.process.exit_code(), 0);
    assert_eq!(sidecar.process.logged("ending")["signal"], "SIGINT");
}

#[test]
fn second_sigterm_ends_at_once() {
    let provider = provider(Settings::default());
    let mut sidecar = patient(&provider);
    let mut caller = in_flight(&sidecar, &provider, AN_HOUR);
    sidecar.process.signal(Signal::TERM);
    sidecar.process.logged("ending");
    sidecar.process.signal(Signal::TERM);
    assert_eq!(sidecar.process.exit_code(), 0);
    assert_eq!(sidecar.process.logged("requests were cut off by a second signal")["level"], "WARN");
    assert!(caller.response("GET").is_err());
}

#[test]
fn request_that_outlasts_the_grace_is_cut_off_with_a_warning() {
    let provider = provider(Settings::default());
    let mut sidecar = Setup::partner(&provider).set("shutdown.grace", "500ms").start();
    let mut caller = in_flight(&sidecar, &provider, AN_HOUR);
    sidecar.process.signal(Signal::TERM);
    assert_eq!(sidecar.process.exit_code(), 0);
    let line = sidecar.process.logged("requests were cut off: `shutdown.grace` is over");
    assert_eq!(line["level"], "WARN");
    assert!(caller.response("GET").is_err());
}

// Probes.

#[test]
fn probes_tell_the_first_token_and_whether_one_is_valid() {
    let provider = provider(Settings { token_life: seconds(3), ..Settings::default() });
    provider.go_down();
    let sidecar = Setup::partner(&provider).start();
    let probes = || ["/livez", "/startupz", "/readyz"].map(|page| sidecar.probe(page));
    assert_eq!(probes(), [200, 503, 503]);

    provider.come_back();
    wait_until("the first token", || sidecar.probe("/readyz") == 200);
    assert_eq!([sidecar.probe("/livez"), sidecar.probe("/startupz")], [200, 200]);

    provider.set_token_fault(Some(TokenFault::ServerError));
    wait_until("the token to expire", || sidecar.probe("/readyz") == 503);
    assert_eq!(probes(), [200, 200, 503]);

    provider.set_token_fault(None);
    wait_until("another token", || sidecar.probe("/readyz") == 200);
}

#[test]
fn probes_do_not_wait_for_a_token_where_so_configured() {
    let provider = provider(Settings::default());
    provider.go_down();
    let setup = Setup::partner(&provider).set("admin.startup", "serving").set("admin.readiness", "serving");
    let sidecar = setup.start();
    assert_eq!(["/livez", "/startupz", "/readyz"].map(|page| sidecar.probe(page)), [200; 3]);
}

#[test]
fn admin_port_has_its_own_pages_and_no_others() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    sidecar.wait_until_it_serves();
    for page in [ACCOUNTS, "/livez/", "/metricz"] {
        assert_eq!(sidecar.probe(page), 404, "{page}");
    }
    let mut caller = Connection::open(sidecar.admin);
    let refused = caller.ask("POST", "/livez", &[], b"").expect("an answer");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(caller.ask("HEAD", "/livez", &[], b"").expect("an answer").status, 200);
    // Nor does the other port have these.
    assert_eq!(sidecar.get("/livez").json()["code"], 601);
    assert!(provider.requests().iter().any(|seen| seen.target == "/livez"));
}

// Ports and threads.

#[test]
fn port_in_use_ends_with_69_and_is_named() {
    let provider = provider(Settings::default());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    for key in ["listen.address", "admin.address"] {
        let setup = Setup::partner(&provider).set(key, address.as_str());
        let mut process = setup.spawn("run");
        assert_eq!(process.exit_code(), 69);
        let message = process.stderr();
        assert!(message.contains(&format!("error: cannot listen on {address}: ")), "{message}");
        assert!(message.contains("\nhint: ") && message.contains(key), "{message}");
    }
    assert!(provider.exchanges().is_empty());
}

/// How many connections are open to this address, which only a sidecar connects to.
fn connections_to(address: SocketAddr) -> usize {
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("a table of the kernel's");
    // The number of the line, the local address, the remote address, the state: 01 is established.
    let fields = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields.len() > 3 && fields[2].ends_with(&port) && fields[3] == "01").count()
}

#[test]
fn each_thread_serves_with_a_connection_of_its_own() {
    for threads in [1, 2] {
        let provider = provider(Settings::default());
        let sidecar = Setup::partner(&provider).set("listen.threads", threads).start();
        let mut callers = [sidecar.connect(), sidecar.connect()];
        for _ in 0..10 {
            for caller in &mut callers {
                // One at a time, so that a thread never needs a second connection.
                caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
            }
        }
        wait_until(&format!("{threads} connections to the API"), || connections_to(provider.address()) == threads);
    }
}

#[test]
fn a_head_that_does_not_come_to_its_end_is_given_up_and_an_idle_connection_is_not() {
    let provider = provider(Settings::default());
    let sidecar =
        Setup::partner(&provider).set("listen.header_timeout", "300ms").set("listen.idle_timeout", "1h").start();
    sidecar.wait_until_it_serves();
    let mut idle = sidecar.connect();
    idle.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    let mut slow = sidecar.connect();
    slow.send(b"GET / HTTP/1.1\r\nHost: local").expect("an open connection");
    let mut said = Vec::new();
    slow.rest(&mut said).expect("the connection is closed");
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    // It has been idle for longer than a head may take.
    idle.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    // The same for a head after another request.
    idle.send(b"GET / HT").expect("an open connection");
    idle.rest(&mut said).expect("the connection is closed");
}

#[test]
fn a_connection_without_a_request_is_closed_after_its_time() {
    let provider = provider(Settings::default());
    let sidecar =
        Setup::partner(&provider).set("listen.header_timeout", "1m").set("listen.idle_timeout", "300ms").start();
    sidecar.wait_until_it_serves();
    let mut never = sidecar.connect();
    let mut once = sidecar.connect();
    once.ask("GET", "/sandbox/slow/900", &[], b"").expect("an answer however long it takes");
    let mut said = Vec::new();
    never.rest(&mut said).expect("the connection is closed");
    once.rest(&mut said).expect("the connection is closed");
    assert!(said.is_empty());
}

#[test]
fn the_process_leaves_no_core_file_and_may_open_as_many_files_as_permitted() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", sidecar.process.id())).expect("it runs");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    let files = limit("Max open files");
    assert_eq!(files[0], files[1]);
}

#[test]
fn connections_are_still_taken_while_it_lingers_and_it_is_not_ready() {
    let provider = provider(Settings::default());
    let mut sidecar = Setup::partner(&provider).set("shutdown.linger", "2s").start();
    sidecar.wait_until_it_serves();
    sidecar.process.signal(Signal::TERM);
    sidecar.process.logged("ending");
    sidecar.get(ACCOUNTS).assert_accounts();
    assert_eq!((sidecar.probe("/readyz"), sidecar.probe("/livez")), (503, 200));
    assert_eq!(sidecar.process.exit_code(), 0);
    sidecar.process.logged("drained");

    let mut sidecar = Setup::partner(&provider).set("shutdown.linger", "1h").start();
    sidecar.process.signal(Signal::TERM);
    sidecar.process.logged("ending");
    sidecar.process.signal(Signal::TERM);
    assert_eq!(sidecar.process.exit_code(), 0);
}

#[test]
fn systemd_is_told_of_the_first_token_of_failures_and_of_the_end() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a free path");
    socket.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    // In whatever order they come, until this one.
    let told = |expected: &str| {
        let mut seen = Vec::new();
        loop {
            let mut message = [0; 512];
            let count = socket.recv(&mut message).unwrap_or_else(|e| panic!("{expected} was not told: {e}: {seen:?}"));
            let message = String::from_utf8_lossy(&message[..count]).trim_end().to_owned();
            if message == expected {
                return seen;
            }
            seen.push(message);
        }
    };
    let provider = provider(Settings { token_life: seconds(2), ..Settings::default() });
    provider.set_token_fault(Some(TokenFault::ServerError));
    let setup = Setup::partner(&provider).variable("NOTIFY_SOCKET", path.to_str().expect("UTF-8"));
    let mut sidecar = setup.variable("WATCHDOG_USEC", "200000").start();
    let before = told("STATUS=the access token cannot be refreshed at the moment");
    assert!(!before.contains(&"READY=1".to_owned()), "{before:?}");
    provider.set_token_fault(None);
    told("READY=1");
    told("STATUS=serving");
    told("WATCHDOG=1");
    sidecar.process.signal(Signal::TERM);
    told("STOPPING=1");
    assert_eq!(sidecar.process.exit_code(), 0);
}

/// Each attempt changes the status; the watchdog must hear of it all the same.
#[test]
fn systemd_s_watchdog_is_fed_while_the_provider_fails_more_often_than_it_wants_to_hear() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a free path");
    socket.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::ServerError));
    let setup = Setup::partner(&provider).variable("NOTIFY_SOCKET", path.to_str().expect("UTF-8"));
    let _sidecar = setup.variable("WATCHDOG_USEC", "6000000").start();
    let (mut fed, mut attempts) = (0, 0);
    while fed < 3 {
        let mut message = [0; 512];
        let count = socket.recv(&mut message).expect("something is told");
        match String::from_utf8_lossy(&message[..count]).trim_end() {
            "WATCHDOG=1" => fed += 1,
            told => attempts += usize::from(told.starts_with("STATUS=")),
        }
        assert!(attempts < 60, "{attempts} attempts, and the watchdog was fed {fed} times");
    }
    assert!(attempts > 3, "{attempts} attempts");
}
