//! `token-valet exec`: a command beside the sidecar, in one container; and the last words of a container.

use std::{fs, net::TcpListener, path::Path, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;
use token_valet::sandbox::Settings;

use crate::harness::{
    ACCOUNTS, Connection, Process, Setup, binary, holds_for, provider, seconds, wait_for, wait_until,
};

/// Starts `sh -c SCRIPT` as the command.
fn exec(setup: &Setup, script: &str, environment: &[(&str, &str)]) -> Process {
    exec_words(setup, &["sh", "-c", script], environment)
}

fn exec_words(setup: &Setup, words: &[&str], environment: &[(&str, &str)]) -> Process {
    let file = setup.write();
    let arguments = [&["exec", "-c", file.to_str().expect("UTF-8"), "--"], words].concat();
    Process::spawn(&arguments, environment)
}

/// A port that is free, for a command that has to know it beforehand.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound").to_string()
}

fn file_in(directory: &TempDir, name: &str) -> String {
    directory.path().join(name).to_str().expect("UTF-8").to_owned()
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn was_started(process: &Process) -> bool {
    process.log().iter().any(|line| line["message"] == "the command was started")
}

/// Runs a script to its end, and gives what it printed.
#[track_caller]
fn printed(setup: &Setup, script: &str, environment: &[(&str, &str)]) -> String {
    let mut process = exec(setup, script, environment);
    assert_eq!(process.exit_code(), 0, "{}", process.stderr());
    process.stdout()
}

/// A script that names each signal it gets, and ends with code 3 at the last of them.
const TELLS_SIGNALS: &str = "for s in INT QUIT HUP USR1 USR2; do trap \"echo $s\" $s; done; \
                             trap 'n=$((n+1)); echo TERM; [ $n = 2 ] && exit 3' TERM; \
                             echo ready; while :; do sleep 0.02; done";

// The command and its end.

#[test]
fn the_command_has_its_answers_and_its_exit_code_is_the_sidecar_s_after_a_drain() {
    let provider = provider(Settings::default());
    let port = free_port();
    let setup = Setup::partner(&provider).set("listen.address", port.as_str());
    let mut process = exec(&setup, &format!("curl --silent --show-error http://{port}{ACCOUNTS}; exit 7"), &[]);
    assert_eq!(process.exit_code(), 7);
    assert!(process.stdout().contains("\"accounts\""), "{}", process.stdout());
    assert_eq!(process.logged("the command has ended")["code"], 7);
    process.logged("drained");
}

#[test]
fn requests_in_flight_are_finished_when_the_command_has_ended() {
    let provider = provider(Settings::default());
    let place = directory();
    let enough = file_in(&place, "enough");
    let setup = Setup::partner(&provider);
    let mut process = exec(&setup, &format!("until [ -e {enough} ]; do sleep 0.02; done; exit 6"), &[]);
    let (address, _) = process.addresses();
    let mut caller = Connection::open(address);
    caller.send_head("GET", "/sandbox/slow/1500", &[]).expect("it listens");
    wait_until("the API to have it", || provider.requests().iter().any(|seen| seen.target == "/sandbox/slow/1500"));
    fs::write(&enough, "").expect("a writable directory");
    process.logged("the command has ended");
    assert_eq!(caller.response("GET").expect("an answer").status, 200);
    assert_eq!(process.exit_code(), 6);
    process.logged("drained");
}

#[test]
fn a_command_that_a_signal_ends_gives_128_and_its_number() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider);
    assert_eq!(exec(&setup, "kill -KILL $$", &[]).exit_code(), 137);
}

#[test]
fn the_command_waits_for_the_first_token_however_long_the_provider_is_down() {
    let provider = provider(Settings::default());
    provider.go_down();
    let setup = Setup::partner(&provider);
    let mut process = exec(&setup, "exit 5", &[]);
    process.logged("the access token could not be refreshed");
    holds_for(seconds(1), "the command waits", || !was_started(&process));
    provider.come_back();
    assert_eq!(process.exit_code(), 5);
    assert!(was_started(&process));
}

// Signals.

#[test]
fn signals_are_the_command_s_each_time_and_the_sidecar_serves_until_it_has_ended() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider);
    let mut process = exec(&setup, TELLS_SIGNALS, &[]);
    let told = |process: &Process, line: &str| wait_until(line, || process.stdout().ends_with(&format!("{line}\n")));
    told(&process, "ready");
    for (signal, name) in [
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::TERM, "TERM"),
    ] {
        process.signal(signal);
        told(&process, name);
    }
    let (address, _) = process.addresses();
    Connection::open(address).ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    assert_eq!(provider.exchanges().len(), 1, "SIGUSR1 was the command's");
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), 3);
    let log = process.log();
    assert!(log.iter().any(|line| line["message"] == "drained"), "no signal is left to cut the drain off");
}

#[test]
fn a_signal_before_the_command_has_it_not_started_and_is_no_success() {
    let provider = provider(Settings::default());
    provider.go_down();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let setup = Setup::partner(&provider);
        let mut process = exec(&setup, "exit 5", &[]);
        process.logged("the access token could not be refreshed");
        process.signal(signal);
        assert_eq!(process.exit_code(), code);
        process.logged("the command was not started");
        assert!(!was_started(&process));
    }
}

#[test]
fn before_the_command_sighup_and_sigusr1_are_the_sidecar_s_and_sigusr2_does_nothing() {
    let provider = provider(Settings::default());
    provider.go_down();
    let setup = Setup::partner(&provider);
    let mut process = exec(&setup, "exit 5", &[]);
    process.logged("the access token could not be refreshed");
    process.signal(Signal::USR2);
    process.signal(Signal::USR1);
    process.signal(Signal::HUP);
    process.logged("nothing of the configuration has changed");
    process.logged("a refresh of the access token was asked for");
    provider.come_back();
    assert_eq!(process.exit_code(), 5);
}

#[test]
fn the_quit_of_the_admin_port_is_a_sigterm_for_the_command() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider).set("admin.quit", true);
    let mut process = exec(&setup, "trap 'exit 4' TERM; echo ready; while :; do sleep 0.02; done", &[]);
    wait_until("the command", || process.stdout() == "ready\n");
    let (_, admin) = process.addresses();
    let asked = Connection::open(admin).ask("POST", "/quitquitquit", &[], b"").expect("an answer");
    assert!(asked.status < 300, "{asked:?}");
    assert_eq!(process.exit_code(), 4);
}

// What cannot be run.

#[test]
fn a_command_that_is_missing_or_not_executable_is_told_before_a_token_is_asked_for() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider);
    for (command, code, message) in [
        ("no-such-command", 127, "error: the command \"no-such-command\" is not found\n"),
        ("/no/such/command", 127, "error: the command \"/no/such/command\" is not found\n"),
        (
            "/etc/passwd",
            126,
            "error: the command \"/etc/passwd\" cannot be executed: Permission denied (os error 13)\n",
        ),
    ] {
        let mut process = exec_words(&setup, &[command], &[]);
        assert_eq!((process.exit_code(), process.stderr().as_str()), (code, message));
    }
    assert!(provider.exchanges().is_empty());
}

#[test]
fn a_script_without_its_interpreter_is_told_after_a_drain() {
    let provider = provider(Settings::default());
    let place = directory();
    let script = file_in(&place, "script");
    fs::write(&script, "#!/no/such/interpreter\n").expect("a writable directory");
    make_executable(&script);
    let setup = Setup::partner(&provider);
    let mut process = exec_words(&setup, &[&script], &[]);
    assert_eq!(process.exit_code(), 127);
    process.logged("drained");
    assert!(process.stderr().ends_with("is not found\n"), "{}", process.stderr());
}

fn make_executable(path: impl AsRef<Path>) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

#[test]
fn exec_without_a_command_is_wrong_usage() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider);
    let mut process = exec_words(&setup, &[], &[]);
    assert_eq!(process.exit_code(), 2);
}

// What the command inherits.

#[test]
fn the_command_has_the_environment_without_the_client_secret() {
    let provider = provider(Settings::default());
    let secret = Settings::default().client_secret;
    let environment = [
        ("TOKEN_VALET__TOKEN__CLIENT_SECRET", secret.as_str()),
        ("LISTEN_FDS_FIRST_FD", "4"),
        ("OF_THE_COMMAND", "its own"),
    ];
    let setup = Setup::partner(&provider).unset("token.client_secret_file");
    let variables = printed(&setup, "env", &environment);
    assert!(variables.contains("\nOF_THE_COMMAND=its own\n") || variables.starts_with("OF_THE_COMMAND=its own\n"));
    assert!(!variables.contains("CLIENT_SECRET") && !variables.contains(&secret), "{variables}");
    assert!(!variables.contains("LISTEN_"), "{variables}");
}

#[test]
fn the_command_has_the_limits_and_privileges_that_the_sidecar_was_started_with() {
    let provider = provider(Settings::default());
    let tell = "cat /proc/self/limits; grep NoNewPrivs /proc/self/status; ls / >/dev/null && echo everywhere";
    let file = Setup::partner(&provider);
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -Sn 300; {tell}; exec \"$@\""), "sh"])
        .arg(binary())
        .args(["exec", "-c", file.write().to_str().expect("UTF-8"), "--", "sh", "-c", tell])
        .output()
        .expect("a shell");
    let text = String::from_utf8(output.stdout).expect("text");
    let (before, within) = text.split_at(text.len() / 2);
    assert_eq!(before, within);
    assert!(within.contains("\nNoNewPrivs:\t") && within.ends_with("everywhere\n"), "{text} {:?}", output.status);
    let line = within.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    assert_eq!(line.split_ascii_whitespace().next(), Some("300"));
}

#[test]
fn beside_a_command_the_sidecar_is_not_confined_and_keeps_its_memory_private() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider);
    let mut process = exec(&setup, "trap 'exit 0' TERM; while :; do sleep 0.02; done", &[]);
    process.logged("the command was started");
    assert_eq!(process.logged("listening")["confinement"], "none");
    wait_until("its own limits", || {
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).expect("it runs");
        let fields = |name: &str| -> Vec<String> {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
            line.split_ascii_whitespace().map(str::to_owned).collect()
        };
        let (files, core) = (fields("Max open files"), fields("Max core file size"));
        files[0] == files[1] && core[..2] == ["0", "0"]
    });
    process.signal(Signal::TERM);
    process.exit_code();
}

// Last words.

#[test]
fn a_fatal_end_is_told_in_the_termination_log_on_one_line_without_hints() {
    let provider = provider(Settings::default());
    let place = directory();
    let log = file_in(&place, "termination-log");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    fs::write(&log, "what an earlier one left, which may be much longer than what is said this time")
        .expect("writable");
    let in_use = Setup::partner(&provider).set("listen.address", address.as_str());
    let two_faults = Setup::partner(&provider).set("token.timeout", "20").set("listen.threads", 0);
    for (setup, code) in [(in_use, 69), (two_faults, 78)] {
        let file = setup.write();
        let arguments = ["run", "-c", file.to_str().expect("UTF-8")];
        let mut process = Process::spawn(&arguments, &[("TOKEN_VALET_TERMINATION_LOG", &log)]);
        assert_eq!(process.exit_code(), code);
        let said = fs::read_to_string(&log).expect("it is there");
        assert!(said.starts_with("error: ") && !said.contains('\n') && !said.contains("hint"), "{said}");
        for line in process.stderr().lines().filter(|line| line.starts_with("error: ")) {
            assert!(said.contains(line), "{line:?} in {said:?}");
        }
    }
}

#[test]
fn the_termination_log_is_left_alone_where_there_is_none_and_where_nothing_is_wrong() {
    let provider = provider(Settings::default());
    let place = directory();
    let (missing, present) = (file_in(&place, "missing"), file_in(&place, "present"));
    let setup = Setup::partner(&provider);
    let mut process = exec_words(&setup, &["no-such-command"], &[("TOKEN_VALET_TERMINATION_LOG", missing.as_str())]);
    assert_eq!(process.exit_code(), 127);
    assert!(!Path::new(&missing).exists());
    fs::write(&present, "the command's").expect("a writable directory");
    let environment = [("TOKEN_VALET_TERMINATION_LOG", present.as_str())];
    let setup = Setup::partner(&provider);
    assert_eq!(exec(&setup, "exit 1", &environment).exit_code(), 1);
    let said = wait_for("the file", || fs::read_to_string(&present).ok());
    assert_eq!(said, "the command's");
}
