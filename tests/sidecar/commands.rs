//! The commands, as a shell meets them: what is printed where, and the exit code.

use std::{fs, path::Path, process::Command};

use serde_json::json;
use tempfile::TempDir;
use token_valet::sandbox::Settings;

use crate::harness::{ACCOUNTS, Connection, Process, Setup, binary, provider, wait_for};

/// Where commands are given what they need.
struct Shell {
    directory: TempDir,
}

/// What a command left behind.
#[derive(Debug)]
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Shell {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, content).expect("a writable directory");
        path.to_str().expect("the path of a temporary directory is UTF-8").to_owned()
    }
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Done {
    let mut process = Process::spawn(arguments, environment);
    let code = process.exit_code();
    Done { code, stdout: process.stdout(), stderr: process.stderr() }
}

/// Without a fault, and without a file but itself.
const GOOD: &str = r#"
[upstream]
url = "https://api.example.com"

[token]
url = "https://auth.example.com/oauth/token"
grant = "client_credentials"
client_id = "partner"
"#;
const SECRET: (&str, &str) = ("TOKEN_VALET__TOKEN__CLIENT_SECRET", "planted-secret");

/// With faults in the lines 2, 5, 9 and 11.
const BAD: &str = r#"[listen]
thread = 2

[upstream]
url = "http://api.example.com"

[token]
url = "https://auth.example.com/oauth/token"
grant = "client_credential"
client_id = "partner"
timeout = 20
"#;

/// What is to be said about that file.
fn faults(file: &str) -> String {
    format!(
        r#"error: `listen.thread` is not a known key
  in {file}:2

hint: did you mean `listen.threads`?

error: `upstream.url` is plain http to `api.example.com`, expected https, or http to this machine
  in {file}:5

hint: the token would cross the network unencrypted: write `https://`, or set `upstream.allow_plaintext = true`

error: `token.grant` is "client_credential", expected "client_credentials", "authorization_code" or "refresh_token"
  in {file}:9

hint: did you mean `client_credentials`?

error: `token.timeout` is 20, expected a duration with its unit
  in {file}:11

hint: write "20s"
"#
    )
}

#[test]
fn check_and_run_tell_every_fault_at_once_with_its_line() {
    let shell = Shell::new();
    let file = shell.file("valet.toml", BAD);
    for command in ["check", "run"] {
        let done = run(&[command, "-c", &file], &[SECRET]);
        assert_eq!((done.code, done.stdout.as_str()), (78, ""), "{command}");
        assert_eq!(done.stderr, faults(&file), "{command}");
    }
}

#[test]
fn check_of_a_good_file_is_0_and_says_so() {
    let shell = Shell::new();
    let file = shell.file("valet.toml", GOOD);
    let done = run(&["check", "--config", &file], &[SECRET]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert_eq!(done.stdout, format!("{file}: no fault found\n"));
}

#[test]
fn check_of_the_files_that_come_with_it_finds_no_fault_of_theirs() {
    let file = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let reference = file("token-valet.toml");
    let done = run(&["check", "-c", reference.to_str().expect("UTF-8")], &[SECRET]);
    assert_eq!(done.code, 0, "{done:?}");
}

#[test]
fn check_never_shows_a_secret() {
    let shell = Shell::new();
    let file = shell.file("valet.toml", &format!("{GOOD}client_secret = \"planted-in-the-file\"\nbroken = \n"));
    let done = run(&["check", "-c", &file], &[SECRET]);
    assert_eq!(done.code, 78);
    assert!(done.stderr.contains(&format!("{file}:10")), "{done:?}");
    let file = shell.file("valet.toml", &format!("{GOOD}client_secret = \"planted-in-the-file\"\n"));
    let done_too = run(&["check", "-c", &file], &[("TOKEN_VALET__LISTEN__CLIENT_SECRET", "planted-secret")]);
    assert_eq!(done_too.code, 78);
    assert!(done_too.stderr.contains("`token.client_secret` "), "{done_too:?}");
    for done in [done, done_too] {
        assert!(!format!("{done:?}").contains("planted"), "{done:?}");
    }
}

#[test]
fn missing_file_is_78_with_a_way_out() {
    let shell = Shell::new();
    let file = shell.directory.path().join("none.toml");
    for command in ["check", "run"] {
        let done = run(&[command, "-c", file.to_str().expect("UTF-8")], &[]);
        assert_eq!((done.code, done.stdout.as_str()), (78, ""));
        assert!(done.stderr.starts_with("error: the configuration cannot be read: "), "{done:?}");
        assert!(done.stderr.contains(file.to_str().expect("UTF-8")), "{done:?}");
        assert!(done.stderr.contains("\nhint: ") && done.stderr.contains("TOKEN_VALET_CONFIG"), "{done:?}");
    }
}

#[test]
fn file_can_be_named_by_the_environment_and_the_argument_wins() {
    let shell = Shell::new();
    let (good, bad) = (shell.file("good.toml", GOOD), shell.file("bad.toml", BAD));
    let done = run(&["check"], &[SECRET, ("TOKEN_VALET_CONFIG", &good)]);
    assert_eq!((done.code, done.stdout), (0, format!("{good}: no fault found\n")));
    let done = run(&["check", "-c", &bad], &[SECRET, ("TOKEN_VALET_CONFIG", &good)]);
    assert_eq!((done.code, done.stderr), (78, faults(&bad)));
}

#[test]
fn variables_override_the_file_and_are_named_when_they_are_wrong() {
    let shell = Shell::new();
    let file = shell.file("valet.toml", &format!("[log]\nlevel = \"wrong\"\n{GOOD}"));
    let check = |environment: &[_]| run(&["check", "-c", &file], environment);
    assert_eq!(check(&[SECRET]).code, 78);
    assert_eq!(check(&[SECRET, ("TOKEN_VALET__LOG__LEVEL", "debug")]).code, 0);

    let done = check(&[SECRET, ("TOKEN_VALET__LOG__LEVEL", "lots"), ("TOKEN_VALET__LOG__LEVVEL", "debug")]);
    assert_eq!(done.code, 78);
    let expected = "error: `log.level` is \"lots\", expected \"off\", \"error\", \"warn\", \"info\", \"debug\" or \
                    \"trace\"\n  in environment variable `TOKEN_VALET__LOG__LEVEL`\n\nerror: `log.levvel` is not a \
                    known key\n  in environment variable `TOKEN_VALET__LOG__LEVVEL`\n\nhint: did you mean \
                    `TOKEN_VALET__LOG__LEVEL`?\n";
    assert_eq!(done.stderr, expected);
    // Kubernetes sets such variables for a service of that name.
    assert_eq!(check(&[SECRET, ("TOKEN_VALET__LOG__LEVEL", "info"), ("TOKEN_VALET_SERVICE_PORT", "80")]).code, 0);
}

#[test]
fn variables_override_the_file_of_a_running_sidecar() {
    let provider = provider(Settings::default());
    let secret = Settings::default().client_secret;
    let sidecar = Setup::partner(&provider)
        .set_file("token.client_secret_file", "wrong")
        .variable("TOKEN_VALET__TOKEN__CLIENT_SECRET", &secret)
        .set("token.scope", "wrong")
        .variable("TOKEN_VALET__TOKEN__SCOPE", "client:admin")
        .start();
    sidecar.get(ACCOUNTS).assert_accounts();
    assert_eq!(provider.exchanges()[0].fields["scope"], "client:admin");
}

#[test]
fn wrong_usage_is_2_with_a_way_to_the_usage_on_standard_error() {
    for arguments in [&["fly"][..], &["run", "--fast"], &["check", "-c"], &[]] {
        let done = run(arguments, &[]);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(done.stderr.contains("--help"), "{arguments:?}: {done:?}");
    }
}

#[test]
fn help_names_the_commands_and_version_the_version() {
    let help = run(&["--help"], &[]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for command in ["run", "exec", "check", "health", "quit", "config", "sandbox", "completions", "man"] {
        let is_named = help.stdout.lines().any(|line| line.trim_start().split(' ').next() == Some(command));
        assert!(is_named, "{command}: {help:?}");
    }
    let version = run(&["--version"], &[]);
    assert_eq!((version.code, version.stdout), (0, format!("token-valet {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn sandbox_serves_accounts_without_any_configuration() {
    let environment = [
        ("TOKEN_VALET__LISTEN__ADDRESS", "127.0.0.1:0"),
        ("TOKEN_VALET__ADMIN__ADDRESS", "127.0.0.1:0"),
        ("TOKEN_VALET__LOG__FORMAT", "json"),
        ("TOKEN_VALET__TOKEN__WAIT", "15s"),
    ];
    for grant in ["client_credentials", "authorization_code", "refresh_token"] {
        let shell = Shell::new();
        let file = shell.file("sandbox.toml", &format!("[token]\ngrant = \"{grant}\"\nclient_id = \"me\"\n"));
        let mut process = Process::spawn(&["sandbox", "-c", &file], &environment);
        let (address, _) = process.addresses();
        Connection::open(address).ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    }

    let mut process = Process::spawn(&["sandbox"], &environment);
    let (address, admin) = process.addresses();
    Connection::open(address).ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
    let welcome = wait_for("the welcome", || Some(process.stdout()).filter(|text| text.contains("/readyz")));
    assert!(welcome.contains(&format!("curl http://{address}{ACCOUNTS}")), "{welcome}");
    assert!(welcome.contains(&format!("http://{admin}/readyz")), "{welcome}");
    process.signal(rustix::process::Signal::INT);
    assert_eq!(process.exit_code(), 0);
}

#[test]
fn sandbox_takes_no_socket_from_systemd_and_says_so() {
    let shell = Shell::new();
    let token = "[token]\ngrant = \"client_credentials\"\nclient_id = \"me\"\n";
    let file = shell.file("sandbox.toml", &format!("{token}[listen]\naddress = \"systemd:valet\"\n"));
    let by_variable = [("TOKEN_VALET__LISTEN__ADDRESS", "systemd:valet")];
    for (arguments, environment, place) in [
        (&["sandbox", "-c", &file][..], &[][..], file.as_str()),
        (&["sandbox"], &by_variable, "environment variable `TOKEN_VALET__LISTEN__ADDRESS`"),
    ] {
        let done = run(arguments, environment);
        assert_eq!(done.code, 78, "{done:?}");
        let told = format!(
            "error: `listen.address` is \"systemd:valet\", expected an address that the sandbox can open itself\n  in {place}\n"
        );
        assert!(done.stderr.starts_with(&told), "{done:?}");
    }
}

#[test]
fn the_readme_s_configurations_have_no_fault_once_their_files_exist() {
    let readme = include_str!("../../README.md");
    let examples: Vec<&str> =
        readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().expect("a block ends")).collect();
    assert_eq!(examples.len(), 2, "a partner's and a data recipient's");
    for example in examples {
        assert!(example.lines().filter(|line| !line.is_empty()).count() <= 10, "ten lines");
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("secrets")).expect("a writable directory");
        for name in ["client_secret", "code"] {
            fs::write(directory.path().join("secrets").join(name), "x\n").expect("a writable directory");
        }
        let file = directory.path().join("config.toml");
        let secrets = directory.path().join("secrets");
        let text = example.replace("/run/secrets", secrets.to_str().expect("UTF-8"));
        fs::write(&file, text).expect("a writable directory");
        let mut process = Process::spawn(&["check", "-c", file.to_str().expect("UTF-8")], &[]);
        assert_eq!(process.exit_code(), 0, "{}", process.stderr());
    }
}

#[test]
fn the_readme_s_table_has_every_key_of_the_reference_and_no_other() {
    let keys_of_readme: Vec<&str> = include_str!("../../README.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | ").map(|(key, _)| key))
        .filter(|key| key.contains('.') && !key.contains(' '))
        .collect();
    let mut table = "";
    let mut keys_of_reference = Vec::new();
    for line in include_str!("../../config/token-valet.toml").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name;
        } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        {
            keys_of_reference.push(format!("{table}.{key}"));
        }
    }
    let (mut readme, mut reference) = (keys_of_readme.clone(), keys_of_reference.clone());
    readme.sort_unstable();
    reference.sort_unstable();
    reference.dedup();
    assert_eq!(readme, reference);
}

#[test]
fn check_refuses_limits_that_the_process_may_not_reach() {
    let shell = Shell::new();
    let file = shell.file("valet.toml", GOOD);
    let check_with = |hard_limit: &str, environment: &[(&str, &str)]| {
        let done = Command::new("sh")
            .args(["-c", "ulimit -n \"$0\" && exec \"$@\"", hard_limit])
            .arg(binary())
            .args(["check", "-c", &file])
            .env(SECRET.0, SECRET.1)
            .envs(environment.iter().copied())
            .output()
            .expect("a shell");
        (done.status.code(), String::from_utf8(done.stderr).expect("text"))
    };
    let check = |hard_limit: &str| check_with(hard_limit, &[]);
    assert_eq!(check("4096"), (Some(0), String::new()));
    let (code, told) = check("1024");
    assert_eq!(code, Some(78));
    assert!(told.starts_with("error: `listen.max_connections` allows too much"), "{told}");
    assert!(told.contains("the process may have 1024") && told.contains("LimitNOFILE"), "{told}");
    // All threads together keep a burst's connections, and each some more; of none that they keep, none is a burst's.
    for (threads, idle, needed) in [("1", "64", 3_396), ("4", "64", 3_396 + 3 * (64 + 4)), ("4", "0", 2_320)] {
        let environment = [("TOKEN_VALET__LISTEN__THREADS", threads), ("TOKEN_VALET__UPSTREAM__POOL_MAX_IDLE", idle)];
        let (_, told) = check_with("1024", &environment);
        assert!(told.contains(&format!("it comes to {needed} open files")), "{threads} threads: {told}");
    }
}

#[test]
fn config_show_tells_each_value_and_where_it_comes_from_and_no_secret() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider)
        .set("listen.require_header", "X-Token-Valet: open-sesame")
        .set("upstream.set_headers", json!({ "X-Key": "planted-key" }));
    let path = setup.write();
    let path = path.to_str().expect("UTF-8");
    let environment = [("TOKEN_VALET__TOKEN__WAIT", "3s"), ("TOKEN_VALET__TOKEN__CLIENT_SECRET", "planted-secret")];
    let shown = run(&["config", "show", "-c", path], &environment);
    assert_eq!((shown.code, &*shown.stderr), (0, ""));
    for line in [
        ("wait = \"3s\"", "environment"),
        ("timeout = \"10s\"", "default"),
        ("grant = \"client_credentials\"", "file"),
        ("client_secret = \"redacted\"", "environment"),
        ("require_header = \"redacted\"", "file"),
        ("set_headers = \"X-Key\"", "file"),
        ("state_file =", "default"),
    ] {
        let is_there = shown.stdout.lines().any(|one| one.split("  # ").map(str::trim_end).eq([line.0, line.1]));
        assert!(is_there, "{line:?}:\n{}", shown.stdout);
    }
    assert!(shown.stdout.starts_with("[listen]\naddress = ") && shown.stdout.contains("\n\n[token]\n"));
    for secret in ["open-sesame", "planted-key", "planted-secret"] {
        assert!(!shown.stdout.contains(secret));
    }
    let faulty = run(&["config", "show", "-c", path], &[("TOKEN_VALET__TOKEN__WAIT", "soon")]);
    assert_eq!(faulty.code, 78);
}

#[test]
fn health_and_quit_ask_the_running_sidecar_and_say_what_it_says() {
    let provider = provider(Settings::default());
    let mut sidecar = Setup::partner(&provider).set("admin.quit", true).start();
    sidecar.wait_until_it_serves();
    let path = sidecar.setup.write();
    let path = path.to_str().expect("UTF-8").to_owned();
    let admin = sidecar.admin.to_string();
    // The port was chosen by the kernel; the secret is gone, which is none of their business.
    let environment =
        [("TOKEN_VALET__ADMIN__ADDRESS", &*admin), ("TOKEN_VALET__TOKEN__CLIENT_SECRET_FILE", "/nowhere/secret")];
    let ask = |arguments: &[&str]| run(&[arguments, &["-c", &path]].concat(), &environment);
    for (probe, said) in [(None, "alive\n"), (Some("startup"), "started\n"), (Some("ready"), "ready\n")] {
        let arguments: Vec<&str> = ["health"].into_iter().chain(probe).collect();
        let answer = ask(&arguments);
        assert_eq!((answer.code, &*answer.stdout), (0, said), "{answer:?}");
    }
    let answer = ask(&["quit"]);
    assert_eq!((answer.code, &*answer.stdout), (0, "draining\n"), "{answer:?}");
    assert_eq!(sidecar.process.exit_code(), 0);
    let answer = ask(&["health", "ready"]);
    assert_eq!((answer.code, answer.stderr), (1, format!("error: nothing answers at {admin}\n")));

    let sidecar = Setup::partner(&provider).start();
    let admin = sidecar.admin.to_string();
    let answer = run(&["quit", "-c", &path], &[("TOKEN_VALET__ADMIN__ADDRESS", &*admin)]);
    let hint = "error: only with `admin.quit = true` in the configuration\n";
    assert_eq!((answer.code, &*answer.stderr), (1, hint));
}
