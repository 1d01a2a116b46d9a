//! The configuration changes while requests are served.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use token_valet::sandbox::{Provider, Settings};

use crate::{
    harness::{
        ACCOUNTS, AtEnd, Connection, Process, Setup, Sidecar, is_full_drill, provider, seconds, wait_until, with_mount,
    },
    metrics::{scraped, value},
};

/// Looks only when it is told to.
fn start() -> (Provider, Sidecar) {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("reload.watch", false).start();
    sidecar.wait_until_it_serves();
    (provider, sidecar)
}

/// What it says to `POST /reload`.
#[track_caller]
fn reload(sidecar: &Sidecar) -> (u16, String) {
    let answer = Connection::open(sidecar.admin).ask("POST", "/reload", &[], b"").expect("an answer");
    (answer.status, String::from_utf8_lossy(&answer.body).trim_end().to_owned())
}

const RELOADED: (u16, &str) = (200, "reloaded; the log names what changed");

#[track_caller]
fn assert_reloaded(sidecar: &Sidecar) {
    let (status, said) = reload(sidecar);
    assert_eq!((status, &*said), RELOADED);
}

/// Waits for the line that says so: it may be read some time after the answer.
#[track_caller]
fn assert_told_of(process: &Process, keys: &str) {
    let tells = |line: &serde_json::Value| line["message"] == "the configuration was reloaded" && line["keys"] == keys;
    wait_until("the reload to be told", || process.log().iter().any(tells));
}

#[test]
fn rules_and_fields_and_the_log_change_for_the_next_request() {
    let (provider, mut sidecar) = start();
    let mut caller = sidecar.connect();
    caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    assert_eq!(reload(&sidecar), (200, "nothing has changed".to_owned()));

    sidecar.setup.rewrite("upstream.allow", json!(["POST /sandbox/**"]));
    sidecar.setup.rewrite("upstream.set_headers", json!({ "X-Api-Version": "6" }));
    sidecar.setup.rewrite("log.access", "all");
    assert_reloaded(&sidecar);
    assert_told_of(&sidecar.process, "upstream.set_headers, upstream.allow, log.access");
    // It waits for its turn on the thread that serves.
    wait_until("the rule to hold", || caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").status == 403);
    assert_eq!(caller.ask("POST", "/sandbox/echo", &[], b"x").expect("an answer").status, 200);
    sidecar.process.logged("a request was forwarded");
    let seen = provider.requests().into_iter().next_back().expect("a request");
    assert_eq!(seen.headers.get("x-api-version").map(|value| value.as_bytes()), Some(&b"6"[..]));

    sidecar.setup.rewrite("log.format", "text");
    assert_reloaded(&sidecar);
    wait_until("text", || sidecar.process.stderr().contains("INFO the configuration was reloaded keys=\"log.format\""));
}

#[test]
fn a_sighup_has_it_looked_at_and_so_has_the_clock() {
    let (_provider, mut sidecar) = start();
    sidecar.setup.rewrite("upstream.allow", json!(["GET /nothing"]));
    sidecar.process.signal(Signal::HUP);
    wait_until("the rule to hold", || sidecar.get(ACCOUNTS).status == 403);

    let provider = provider(Settings::default());
    let mut watching = Setup::partner(&provider).set("reload.poll", "100ms").start();
    watching.wait_until_it_serves();
    watching.setup.rewrite("upstream.allow", json!(["GET /nothing"]));
    wait_until("the rule to hold", || watching.get(ACCOUNTS).status == 403);
}

#[test]
fn a_sigusr1_has_the_token_refreshed() {
    let (provider, sidecar) = start();
    let before = provider.exchanges().len();
    sidecar.process.signal(Signal::USR1);
    wait_until("another token", || provider.exchanges().len() > before);
}

#[test]
fn a_faulty_configuration_is_refused_as_a_whole_and_the_last_good_one_goes_on() {
    let (_provider, mut sidecar) = start();
    let successful = |sidecar: &Sidecar| value(&scraped(sidecar), "config_last_reload_successful");
    assert_eq!(successful(&sidecar), 1.0);
    sidecar.setup.rewrite("upstream.allow", json!(["GET /nothing"]));
    sidecar.setup.rewrite("upstream.response_timeout", "soon");
    assert_eq!(reload(&sidecar), (422, "it has faults, which the log tells".to_owned()));
    let told = sidecar.process.logged("the changed configuration has faults; the last good one goes on");
    let faults = told["faults"].as_str().expect("text");
    assert!(faults.contains("`upstream.response_timeout` is \"soon\"") && faults.contains("valet.toml:"), "{faults}");
    assert_eq!(successful(&sidecar), 0.0);
    sidecar.get(ACCOUNTS).assert_accounts();
    // Told once.
    assert_eq!(reload(&sidecar).0, 422);
    assert_eq!(value(&scraped(&sidecar), r#"config_reloads_total{result="failure"}"#), 1.0);

    sidecar.setup.rewrite("upstream.response_timeout", "30s");
    assert_reloaded(&sidecar);
    assert_eq!(successful(&sidecar), 1.0);
    wait_until("the rule to hold", || sidecar.get(ACCOUNTS).status == 403);
    let told = sidecar.process.logged("the configuration was changed where only a restart has an effect");
    assert_eq!(told["keys"], "upstream.response_timeout");
}

#[test]
fn a_change_of_what_is_never_shown_is_told_all_the_same() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider).set("reload.watch", false).set("listen.require_header", "X-Valet: first");
    let mut sidecar = setup.set("upstream.set_headers", json!({ "X-Key": "first" })).start();
    sidecar.setup.rewrite("listen.require_header", "X-Valet: second");
    assert_reloaded(&sidecar);
    let told = sidecar.process.logged("the configuration was changed where only a restart has an effect");
    assert_eq!(told["keys"], "listen.require_header");
    sidecar.setup.rewrite("upstream.set_headers", json!({ "X-Key": "second" }));
    assert_reloaded(&sidecar);
    assert_told_of(&sidecar.process, "upstream.set_headers");
    assert!(!sidecar.process.stderr().contains("second"));
}

#[test]
fn a_level_that_was_set_while_it_runs_outlasts_a_change_of_other_keys() {
    let (_provider, mut sidecar) = start();
    Connection::open(sidecar.admin).ask("PUT", "/log-level?debug", &[], b"").expect("an answer");
    sidecar.setup.rewrite("upstream.allow", json!(["GET /api/fdx/5/**"]));
    assert_reloaded(&sidecar);
    sidecar.connect().send(b"no HTTP at all\r\n\r\n").expect("it listens");
    sidecar.process.logged("a connection ended early");
}

#[test]
fn another_authority_is_believed_and_the_former_no_longer() {
    let provider = provider(Settings::default());
    let other = self::provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("reload.poll", "100ms").set_file("upstream.ca_file", other.ca_pem());
    let sidecar = sidecar.start();
    wait_until("a token", || sidecar.probe("/readyz") == 200);
    sidecar.get(ACCOUNTS).assert_problem(502, "upstream_tls");
    sidecar.setup.replace_file("upstream.ca_file", provider.ca_pem());
    sidecar.wait_until_it_serves();
    sidecar.setup.replace_file("upstream.ca_file", other.ca_pem());
    wait_until("a connection to be made anew", || sidecar.get(ACCOUNTS).status == 502);

    sidecar.setup.replace_file("upstream.ca_file", provider.ca_pem());
    sidecar.setup.replace_file("token.ca_file", other.ca_pem());
    sidecar.wait_until_it_serves();
    provider.revoke_tokens();
    wait_until("the endpoint not to be believed", || {
        sidecar.get(ACCOUNTS).status == 401
            && sidecar.process.log().iter().any(|line| line["look_at"] == "token.ca_file")
    });
}

/// As the kubelet replaces a mounted ConfigMap: a link to a directory is swapped, on which no watch on the
/// file would tell anything.
#[test]
fn a_mounted_configuration_is_found_behind_its_swapped_link() {
    let provider = provider(Settings::default());
    let mount = tempfile::tempdir().expect("a temporary directory");
    let setup = Setup::partner(&provider).set("reload.poll", "100ms");
    let publish = |setup: &Setup, version: &str| {
        let directory = mount.path().join(version);
        fs::create_dir(&directory).expect("a writable directory");
        fs::copy(setup.write(), directory.join("config.toml")).expect("a writable directory");
        symlink(version, mount.path().join("..data.new")).expect("a free name");
        fs::rename(mount.path().join("..data.new"), mount.path().join("..data")).expect("a writable directory");
    };
    publish(&setup, "..first");
    let link = mount.path().join("config.toml");
    symlink(Path::new("..data/config.toml"), &link).expect("a free name");
    let mut process = Process::spawn(&["run", "-c", link.to_str().expect("UTF-8")], &[]);
    let (address, _) = process.addresses();
    let ask = || Connection::open(address).ask("GET", ACCOUNTS, &[], b"").expect("an answer").status;
    wait_until("requests to be served", || ask() == 200);

    let setup = setup.set("upstream.allow", json!(["GET /nothing"]));
    publish(&setup, "..second");
    fs::remove_dir_all(mount.path().join("..first")).expect("a writable directory");
    wait_until("the rule to hold", || ask() == 403);
}

/// What Kubernetes does for `subPath`, and Docker for a file.
#[test]
fn a_configuration_that_is_mounted_by_itself_is_found_when_written_to_and_warned_of() {
    const WARNING: &str =
        "the configuration is mounted as a single file: it is found when it is written to, not when it is replaced";
    let provider = provider(Settings::default());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [outside, inside] = ["outside.toml", "inside.toml"].map(|name| directory.path().join(name));
    let mut setup = Setup::partner(&provider).set("reload.poll", "100ms");
    fs::copy(setup.write(), &outside).expect("a writable directory");
    fs::write(&inside, "").expect("a writable directory");
    let arguments = ["run", "-c", inside.to_str().expect("UTF-8")];
    let mut process = with_mount(&outside, &inside, &arguments);
    let (address, admin) = process.addresses();
    assert_eq!(process.logged(WARNING)["file"], inside.to_str().expect("UTF-8"));
    let ask = || Connection::open(address).ask("GET", ACCOUNTS, &[], b"").expect("an answer").status;
    wait_until("requests to be served", || ask() == 200);
    setup.rewrite("upstream.allow", json!(["GET /nothing"]));
    fs::copy(setup.write(), &outside).expect("a writable directory");
    wait_until("the rule to hold", || ask() == 403);

    setup.rewrite("upstream.allow", json!(["GET /**"]));
    fs::rename(setup.write(), &outside).expect("a writable directory");
    let told = Connection::open(admin).ask("POST", "/reload", &[], b"").expect("an answer");
    assert_eq!(String::from_utf8_lossy(&told.body).trim_end(), "nothing has changed");
    assert_eq!(ask(), 403);
    let warnings = process.log().iter().filter(|line| line["message"] == WARNING).count();
    assert_eq!(warnings, 1, "it is told once");

    // Who does not watch needs no warning.
    let unwatched = setup.set("reload.watch", false);
    fs::copy(unwatched.write(), &outside).expect("a writable directory");
    let mut process = with_mount(&outside, &inside, &arguments);
    let (address, _) = process.addresses();
    wait_until("requests to be served", || {
        Connection::open(address).ask("GET", ACCOUNTS, &[], b"").is_ok_and(|answer| answer.status == 200)
    });
    assert!(process.log().iter().all(|line| line["message"] != WARNING));
}

/// Ten reloads a second beside a load of requests: 30 s at 2,000 a second as a drill.
#[test]
fn no_request_fails_while_the_configuration_changes_again_and_again() {
    const CALLERS: u32 = 8;
    let (span, rate) = if is_full_drill() { (seconds(30), 2_000) } else { (seconds(2), 200) };
    let provider = provider(Settings { memory: 1_000, ..Settings::default() });
    let setup = Setup::partner(&provider).set("reload.poll", "100ms").set("listen.threads", 2);
    let mut sidecar = setup.start();
    sidecar.wait_until_it_serves();
    let (is_over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (address, first, second) = (sidecar.address, provider.ca_pem().to_owned(), provider.ca_pem().repeat(2));
    thread::scope(|scope| {
        let _end = AtEnd(&is_over);
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let pause = Duration::from_secs(1) * CALLERS / rate;
                let mut caller = Connection::open(address);
                let mut due = Instant::now();
                while !is_over.load(Relaxed) {
                    caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
                    served.fetch_add(1, Relaxed);
                    due += pause;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            });
        }
        let start = Instant::now();
        let mut version = 0;
        while start.elapsed() < span {
            version += 1;
            let rules = json!([format!("GET /version/{version}"), "GET /api/fdx/5/**"]);
            sidecar.setup.rewrite("upstream.allow", rules);
            sidecar.setup.rewrite("upstream.set_headers", json!({ "X-Version": version.to_string() }));
            sidecar.setup.replace_file("upstream.ca_file", if version % 2 == 0 { &first } else { &second });
            thread::sleep(Duration::from_millis(100));
        }
    });
    let reloads = value(&scraped(&sidecar), r#"config_reloads_total{result="success"}"#);
    #[expect(clippy::print_stderr, reason = "the figures of a drill")]
    {
        eprintln!("{} requests, all served; {reloads} reloads", served.load(Relaxed));
    }
    assert!(reloads >= 5.0, "{reloads} reloads");
}
