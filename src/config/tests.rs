//! What an operator sees: values in force, and whole messages.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path, time::Duration};

use super::{
    Address, AllowedHosts, Config, ConfigError, Entry, Grant, Layer, Scheme, Socket, TokenFault, read::read,
    source::Source,
};
use crate::secret::SecretSource;

const REFERENCE: &str = include_str!("../../config/token-valet.toml");
const SANDBOX: &str = include_str!("../../config/sandbox.toml");
const SECRET: (&str, &str) = ("TOKEN_VALET__TOKEN__CLIENT_SECRET", "hunter2");

/// Every required key, through the environment, so that a file in a test holds only what it is about.
const REQUIRED: [(&str, &str); 5] = [
    ("TOKEN_VALET__UPSTREAM__URL", "https://api.example.com"),
    ("TOKEN_VALET__TOKEN__URL", "https://auth.example.com/token"),
    ("TOKEN_VALET__TOKEN__GRANT", "client_credentials"),
    ("TOKEN_VALET__TOKEN__CLIENT_ID", "partner"),
    SECRET,
];

fn source(text: &str, variables: &[(&str, &str)]) -> Result<Source, ConfigError> {
    let owned = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Source::new(Path::new("valet.toml"), text, owned)
}

/// The outcome of `text` and `variables` over the required keys.
fn config(text: &str, variables: &[(&str, &str)]) -> Result<(Config, Vec<Entry>), ConfigError> {
    source(text, &[&REQUIRED, variables].concat()).and_then(read)
}

fn good(text: &str, variables: &[(&str, &str)]) -> Config {
    config(text, variables).unwrap_or_else(|e| panic!("{e}")).0
}

fn message(text: &str, variables: &[(&str, &str)]) -> String {
    config(text, variables).err().unwrap_or_else(|| panic!("{text} is accepted")).to_string()
}

/// The message for `table.key = value` in the file.
fn message_for(key: &str, value: &str) -> String {
    message(&format!("{key} = {value}"), &[])
}

/// The fault's sentence: the first line, without its head.
fn sentence_for(key: &str, value: &str) -> String {
    let message = message_for(key, value);
    assert_eq!(message.matches("error: ").count(), 1, "{message}");
    let first = message.lines().next().expect("a message has a line");
    first.trim_start_matches("error: ").to_owned()
}

/// Keys of the reference with their values, those that are commented out too, and whether they are.
fn reference() -> BTreeMap<String, (String, bool)> {
    let mut keys = BTreeMap::new();
    let mut table = "";
    for line in REFERENCE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            table = name;
        }
        let (live, setting) = match line.strip_prefix("# ") {
            Some(setting) => (false, setting),
            None => (true, line),
        };
        let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if let Some((name, value)) = setting.split_once(" = ").filter(|(name, _)| is_name(name)) {
            let before = keys.insert(format!("{table}.{name}"), (value.to_owned(), live));
            assert_eq!(before, None, "{table}.{name} stands there twice");
        }
    }
    keys
}

#[test]
fn the_reference_names_every_key_and_no_other() {
    let (_, entries) = config("", &[]).expect("the required keys suffice");
    let mut known: Vec<&str> = entries.iter().map(|entry| entry.key).collect();
    known.retain(|key| *key != "token.client_secret");
    known.sort_unstable();
    assert_eq!(reference().into_keys().collect::<Vec<_>>(), known);
}

#[test]
fn the_reference_shows_every_default_in_force() {
    let reference = reference();
    let (_, entries) = config("", &[]).expect("the required keys suffice");
    let defaults: Vec<&Entry> = entries.iter().filter(|entry| entry.default.is_some()).collect();
    let mut text = String::new();
    for entry in &defaults {
        let (value, live) = &reference[entry.key];
        assert!(!live, "{} has a default and is not commented out", entry.key);
        writeln!(text, "{} = {value}", entry.key).expect("a string takes all");
    }
    let (_, written) = config(&text, &[]).unwrap_or_else(|e| panic!("{e}"));
    for entry in defaults {
        let written = written.iter().find(|other| other.key == entry.key).expect("same keys");
        assert_eq!(written.value.as_deref(), entry.default, "{}", entry.key);
        assert_eq!((entry.layer, written.layer), (Layer::Default, Layer::File), "{}", entry.key);
    }
}

#[test]
fn the_reference_as_it_is_can_be_used() {
    let parsed = source(REFERENCE, &[SECRET]).and_then(read);
    let (config, _) = parsed.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.token.path.as_str(), "/oauth/token");
}

#[test]
fn the_sandbox_file_works_with_what_the_command_supplies() {
    let variables = [
        ("TOKEN_VALET__UPSTREAM__URL", "https://localhost:4000"),
        ("TOKEN_VALET__TOKEN__URL", "https://localhost:4001/token"),
        SECRET,
    ];
    let parsed = source(SANDBOX, &variables).and_then(read);
    let (config, _) = parsed.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.sandbox.token_life, Duration::from_secs(20));
    for line in SANDBOX.lines().filter_map(|line| line.strip_prefix("# faults")) {
        good(&format!("sandbox.faults{line}"), &[]);
    }
}

#[test]
fn several_faults_are_reported_at_once_each_with_its_line() {
    let text = "\
[listen]
threads = \"2\"
connect_timeout = \"3s\"

[token]
timeout = 20
client_secret = \"hunter3\"
";
    let expected = "\
error: `token.url` is missing, expected an https URL
  in valet.toml

hint: write `url = \"https://auth.example.com/oauth/token\"` in `[token]`, or set `TOKEN_VALET__TOKEN__URL`

error: `listen.threads` is \"2\", expected a whole number from 1 to 64
  in valet.toml:2

error: `listen.connect_timeout` is not a known key
  in valet.toml:3

hint: did you mean `upstream.connect_timeout`?

error: `token.timeout` is 20, expected a duration with its unit
  in valet.toml:6

hint: write \"20s\"

error: `token.client_secret` is a secret, which the file must not hold
  in valet.toml:7

hint: set `TOKEN_VALET__TOKEN__CLIENT_SECRET` or `token.client_secret_file`

error: `log.level` is \"inof\", expected \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"
  in environment variable `TOKEN_VALET__LOG__LEVEL`

hint: did you mean `info`?";
    let variables = [
        ("TOKEN_VALET__UPSTREAM__URL", "https://api.example.com"),
        ("TOKEN_VALET__TOKEN__GRANT", "client_credentials"),
        ("TOKEN_VALET__TOKEN__CLIENT_ID", "partner"),
        ("TOKEN_VALET__LOG__LEVEL", "inof"),
    ];
    let error = source(text, &variables).and_then(read).expect_err("six faults");
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.faults().len(), 6);
}

#[test]
fn every_required_key_is_named_when_it_is_missing() {
    let message = source("", &[]).and_then(read).expect_err("nothing is there").to_string();
    for key in ["upstream.url", "token.url", "token.grant", "token.client_id"] {
        assert!(message.contains(&format!("error: `{key}` is missing, expected ")), "{message}");
    }
    assert!(message.contains("`token.client_secret_file` is missing"), "{message}");
    assert!(message.contains("or set `TOKEN_VALET__TOKEN__CLIENT_SECRET`"), "{message}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    let error = Config::load(Path::new("/nowhere/valet.toml"), []).expect_err("no such file");
    let expected = "\
error: the configuration cannot be read: No such file or directory (os error 2)
  in /nowhere/valet.toml

hint: name another file with `-c` or with `TOKEN_VALET_CONFIG`";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn broken_toml_is_one_fault_that_shows_nothing_of_the_line() {
    let message = message("[token]\nclient_secret = \"hunter3\n", &[]);
    assert!(message.starts_with("error: this is not TOML: "), "{message}");
    assert!(message.contains("\n  in valet.toml:2:"), "{message}");
    assert!(!message.contains("hunter3"), "{message}");
}

#[test]
fn the_environment_overrides_the_file_and_the_last_variable_counts() {
    let variables = [
        ("TOKEN_VALET__LISTEN__THREADS", "3"),
        ("TOKEN_VALET__LISTEN__THREADS", "4"),
        ("TOKEN_VALET__TOKEN__REFRESH_AT", "0.5, 0.5"),
        ("TOKEN_VALET__SANDBOX__FAULTS", "hang 1s..2s,slow 3s..4s"),
    ];
    let (config, entries) = config("listen.threads = 2", &variables).expect("good");
    assert_eq!(config.listen.threads, 4);
    assert_eq!(config.token.refresh_at, 0.5..0.5);
    assert_eq!(config.sandbox.faults[1].fault, TokenFault::Slow);
    let entry = entries.iter().find(|entry| entry.key == "listen.threads").expect("known");
    assert_eq!((entry.value.as_deref(), entry.layer), (Some("4"), Layer::Environment));
}

#[test]
fn variables_that_only_resemble_ours_are_ignored() {
    good(
        "",
        &[
            ("TOKEN_VALET_CONFIG", "/etc/valet.toml"),
            ("TOKEN_VALET_SERVICE_PORT", "8080"),
            ("TOKEN_VALET_TOKEN__WAIT", "nonsense"),
            ("PATH", "/bin"),
        ],
    );
}

#[test]
fn an_empty_variable_is_a_fault_and_not_the_default() {
    for name in ["TOKEN_VALET__LISTEN__THREADS", "TOKEN_VALET__SANDBOX__FAULTS", SECRET.0] {
        let message = message("", &[(name, "")]);
        let place = format!("is empty\n  in environment variable `{name}`");
        assert!(message.contains(&place), "{message}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_what_was_probably_meant() {
    for (key, hint) in [
        ("listen.thread", "\n\nhint: did you mean `listen.threads`?"),
        ("listen.scope", "\n\nhint: did you mean `token.scope`?"),
        ("admin.ca_file", "\n\nhint: did you mean `upstream.ca_file` or `token.ca_file`?"),
        ("token.client_secert", "\n\nhint: did you mean `token.client_secret_file`?"),
        ("grant", "\n\nhint: did you mean `token.grant`?"),
        ("listen.colour", ""),
    ] {
        let expected = format!("error: `{key}` is not a known key\n  in valet.toml:1{hint}");
        assert_eq!(message_for(key, "1"), expected);
    }
}

#[test]
fn an_unknown_variable_is_refused_with_what_was_probably_meant() {
    for (name, hint) in [
        ("TOKEN_VALET__TOKEN__CLIENT_IDD", "TOKEN_VALET__TOKEN__CLIENT_ID"),
        ("TOKEN_VALET__TOKEN_WAIT", "TOKEN_VALET__TOKEN__WAIT"),
        ("TOKEN_VALET__token__wait", "TOKEN_VALET__TOKEN__WAIT"),
        ("TOKEN_VALET__TOKEN__CLIENT_SECERT", "TOKEN_VALET__TOKEN__CLIENT_SECRET"),
    ] {
        let message = message("", &[(name, "hunter3")]);
        assert!(message.contains(&format!("in environment variable `{name}`")), "{message}");
        assert!(message.ends_with(&format!("hint: did you mean `{hint}`?")), "{message}");
        assert!(!message.contains("hunter3"), "{message}");
    }
}

#[test]
fn a_variable_cannot_replace_a_table() {
    for name in ["TOKEN_VALET__LISTEN", "TOKEN_VALET__LISTEN__THREADS__X", "TOKEN_VALET__LISTEN__THREADS[0]"] {
        let message = message("listen.threads = 2", &[(name, "1")]);
        assert_eq!(message.matches("error: ").count(), 1, "{message}");
        assert!(message.contains("is not a known key"), "{message}");
    }
}

#[test]
fn an_unknown_table_is_one_fault() {
    let expected = "\
error: `upstreams` is not a known table
  in valet.toml:2

hint: did you mean `[upstream]`?";
    assert_eq!(message("\n[upstreams]\nurl = 1\nca_file = 2\n", &[]), expected);
}

#[test]
fn a_value_in_place_of_a_table_is_a_fault() {
    let first = message("listen = 8080", &[]);
    assert!(first.starts_with("error: `listen` is a table, but is written as a key\n"), "{first}");
    let second = message("[[listen]]\nthreads = 2", &[]);
    assert!(second.ends_with("in valet.toml:1\n\nhint: begin it with `[listen]`"), "{second}");
}

#[test]
fn a_quoted_key_with_a_dot_does_not_pass_for_two() {
    assert!(message("\"listen.threads\" = 2", &[]).contains("is not a known key"));
    assert!(message("[listen]\n\"a.threads\" = 2", &[]).contains("is not a known key"));
}

#[test]
fn types_of_the_file_are_not_converted() {
    for (key, value, problem) in [
        ("listen.threads", "1.0", "is 1.0, expected a whole number from 1 to 64"),
        ("listen.threads", "true", "is true, expected a whole number from 1 to 64"),
        ("listen.threads", "[1]", "is a list, expected a whole number from 1 to 64"),
        ("listen.allow_non_loopback", "\"true\"", "is \"true\", expected true or false"),
        ("listen.max_header_bytes", "32768", "is 32768, expected a size with its unit"),
        ("log.level", "false", "is false, expected \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\""),
        (
            "log.level",
            "{ a = 1 }",
            "is a table, expected \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        ),
        ("sandbox.faults", "\"hang 1s..2s\"", "is \"hang 1s..2s\", expected a list"),
        ("token.scope", "\"\"", "is \"\", expected text without control characters, and not empty"),
        ("token.scope", "\"a\\nb\"", "is \"a\\nb\", expected text without control characters, and not empty"),
    ] {
        assert_eq!(sentence_for(key, value), format!("`{key}` {problem}"));
    }
}

#[test]
fn values_out_of_bounds_are_refused_with_the_bounds() {
    for (key, value, expected) in [
        ("listen.threads", "0", "a whole number from 1 to 64"),
        ("listen.threads", "65", "a whole number from 1 to 64"),
        ("listen.max_connections", "-1", "a whole number from 1 to 65536"),
        ("listen.max_header_bytes", "\"4KiB\"", "8KiB to 1MiB"),
        ("token.timeout", "\"61s\"", "1s to 60s"),
        ("token.retry_max", "\"0s\"", "1s to 5m"),
        ("token.wait", "\"0\"", "a duration with its unit"),
        ("token.wait", "\"2 parsecs\"", "a duration with its unit"),
    ] {
        assert_eq!(sentence_for(key, value), format!("`{key}` is {value}, expected {expected}"));
    }
    good("token.wait = \"0s\"\ntoken.timeout = \"60s\"\nlisten.max_header_bytes = \"8KiB\"", &[]);
}

#[test]
fn refresh_at_takes_two_numbers_in_order() {
    for value in ["[0.8, 0.7]", "[0.7]", "[0.7, 0.8, 0.9]", "[]"] {
        let sentence = sentence_for("token.refresh_at", value);
        assert!(sentence.ends_with("does not have two numbers, the lower first"), "{sentence}");
    }
    for value in ["[0.05, 0.8]", "[0.7, 0.96]", "[nan, 0.8]"] {
        let sentence = sentence_for("token.refresh_at", value);
        assert!(sentence.ends_with("expected a number from 0.1 to 0.95"), "{sentence}");
    }
}

#[test]
fn sandbox_faults_need_a_known_word_and_a_span() {
    for value in ["\"dwon 1s..2s\"", "\"down\"", "\"down 2s\"", "\"down 2s..1s\"", "\"down 1..2\"", "1"] {
        let sentence = sentence_for("sandbox.faults", &format!("[{value}]"));
        assert!(sentence.contains(&format!("has the entry {value}, expected ")), "{sentence}");
    }
    let faults = good("sandbox.faults = [\"down 10s..25s\"]", &[]).sandbox.faults;
    assert_eq!(faults[0].fault, TokenFault::Down);
    assert_eq!(faults[0].during, Duration::from_secs(10)..Duration::from_secs(25));
}

#[test]
fn listening_beyond_this_machine_must_be_allowed() {
    let text = "listen.address = \"0.0.0.0:8080\"";
    assert!(message(text, &[]).contains("is \"0.0.0.0:8080\", expected a loopback address"));
    let allowed = ("TOKEN_VALET__LISTEN__ALLOW_NON_LOOPBACK", "true");
    assert!(message(text, &[allowed]).contains("`listen.allowed_hosts` is missing"));
    let config = good(text, &[allowed, ("TOKEN_VALET__LISTEN__ALLOWED_HOSTS", "valet.example, localhost.")]);
    assert_eq!(config.listen.allowed_hosts, AllowedHosts::Only(vec!["valet.example".into(), "localhost".into()]));
    assert_eq!(good("listen.allowed_hosts = [\"*\"]", &[]).listen.allowed_hosts, AllowedHosts::Any);
    assert!(message("listen.allowed_hosts = [\"*\", \"localhost\"]", &[]).contains("which only stands alone"));
    good("listen.address = \"[::1]:8080\"\nadmin.address = \"0.0.0.0:9901\"", &[]);
}

#[test]
fn an_address_that_is_none_is_refused_with_one_that_is() {
    for (value, hint) in [
        ("\"localhost:80\"", "write \"127.0.0.1:80\""),
        ("\"127.0.0.1\"", "write it as \"127.0.0.1:8080\" or \"[::1]:8080\""),
    ] {
        let message = message_for("listen.address", value);
        assert!(message.contains("expected an IP address and a port"), "{message}");
        assert!(message.ends_with(&format!("hint: {hint}")), "{message}");
    }
}

#[test]
fn users_are_checked_at_a_unix_socket_or_refused_as_a_key() {
    let socket = "listen.address = \"unix:/run/valet.sock\"\nlisten.unix_mode = \"0600\"\nlisten.allow_uids = [1000]";
    let listen = good(socket, &[]).listen;
    assert_eq!(listen.address, Socket::Own(Address::Unix("/run/valet.sock".into())));
    assert_eq!((listen.unix_mode, listen.allow_uids), (0o600, vec![1_000]));
    let refused = message("listen.allow_uids = [1000]", &[]);
    assert!(refused.contains("cannot be checked for a TCP port"), "{refused}");
    let message = message_for("listen.address", "\"unix:valet.sock\"");
    assert!(
        message.contains("expected an IP address and a port, `unix:` and an absolute path, or `systemd:`"),
        "{message}"
    );
}

#[test]
fn fields_for_the_api_are_refused_by_name_and_never_shown() {
    let text = "upstream.set_headers = { \"X-Api-Version\" = \"5\", X-Key = \"s3cret\" }";
    let fields = good(text, &[]).upstream.set_headers;
    let mut shown: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    shown.sort_unstable();
    assert_eq!(shown, [("x-api-version", &b"5"[..]), ("x-key", b"s3cret")]);
    assert!(!format!("{fields:?}").contains("s3cret"));

    for (table, problem) in [
        ("{ \"X Y\" = \"s3cret\" }", "has the entry \"X Y\", which is no field's name"),
        ("{ \"X-A\" = \"s3cret\\r\\nX-B: 1\" }", "has the entry \"X-A\", whose value is not visible ASCII, or empty"),
        ("{ \"X-A\" = \" s3cret\" }", "whose value is not visible ASCII, or empty"),
        ("{ \"X-A\" = \"\" }", "whose value is not visible ASCII, or empty"),
        ("{ \"X-A\" = 5 }", "whose value is not text"),
        ("{ Authorization = \"s3cret\" }", "which the sidecar sets itself"),
        ("{ Transfer-Encoding = \"chunked\" }", "which the sidecar sets itself"),
        ("\"X-A: s3cret\"", "is not a table of header fields"),
    ] {
        let message = message_for("upstream.set_headers", table);
        assert!(message.contains(problem), "{table}: {message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
    let variable = ("TOKEN_VALET__UPSTREAM__SET_HEADERS", "X-A: s3cret");
    let message = message("", &[variable]);
    assert!(message.contains("cannot be given by the environment") && !message.contains("s3cret"), "{message}");
}

#[test]
fn two_listeners_on_one_port_are_refused() {
    for (listen, admin) in [("127.0.0.1:9000", "127.0.0.1:9000"), ("127.0.0.1:9000", "0.0.0.0:9000")] {
        let text = format!("listen.address = {listen:?}\nadmin.address = {admin:?}");
        assert!(message(&text, &[]).contains("expected another port than that of `listen.address`"));
    }
    let message = message_for("listen.address", "\"127.0.0.1:9901\"");
    assert!(message.contains("`admin.address` is \"127.0.0.1:9901\", expected another"), "{message}");
    good("listen.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"", &[]);
}

fn upstream(url: &str) -> String {
    message("", &[("TOKEN_VALET__UPSTREAM__URL", url)])
}

#[test]
fn an_upstream_url_is_taken_apart() {
    for (url, scheme, host, port, prefix) in [
        ("https://API.example.com", Scheme::Https, "api.example.com", 443, ""),
        ("https://api.example.com:8443/", Scheme::Https, "api.example.com", 8443, ""),
        ("https://api.example.com/fdx/v5/", Scheme::Https, "api.example.com", 443, "/fdx/v5"),
        ("http://localhost/x", Scheme::Http, "localhost", 80, "/x"),
        ("http://127.8.9.1:81", Scheme::Http, "127.8.9.1", 81, ""),
        ("http://[::1]:82", Scheme::Http, "::1", 82, ""),
    ] {
        let upstream = good("", &[("TOKEN_VALET__UPSTREAM__URL", url)]).upstream;
        let origin = (upstream.origin.scheme, upstream.origin.host.as_str(), upstream.origin.port);
        assert_eq!((origin, upstream.prefix.as_str()), ((scheme, host, port), prefix), "{url}");
    }
}

#[test]
fn a_url_that_no_server_can_be_called_by_is_refused() {
    for url in [
        "api.example.com",
        "ftp://api.example.com",
        "https://",
        "https://:443",
        "https://api.example.com:",
        "https://api.example.com:99999",
        "https://api.example.com:0",
        "https://api..example.com",
        "https://api example.com",
        "https://bücher.example",
        "/path",
    ] {
        let message = upstream(url);
        assert!(message.contains(&format!("is {url:?}, expected an https URL")), "{message}");
    }
}

#[test]
fn parts_of_a_url_that_would_be_lost_are_refused_and_not_shown() {
    for (url, problem) in [
        ("https://user:hunter3@api.example.com", "has a user name or a password"),
        ("https://api.example.com/?key=hunter3", "has a query"),
        ("https://api.example.com/#hunter3", "has a fragment"),
    ] {
        let message = upstream(url);
        assert!(message.contains(problem) && !message.contains("hunter3"), "{message}");
    }
}

#[test]
fn plain_http_to_another_machine_must_be_allowed_and_never_for_the_token() {
    let variable = ("TOKEN_VALET__UPSTREAM__URL", "http://api.example.com");
    assert!(upstream(variable.1).contains("is plain http to `api.example.com`, expected https"));
    good("upstream.allow_plaintext = true", &[variable]);

    let variable = ("TOKEN_VALET__TOKEN__URL", "http://auth.example.com/token?key=hunter3");
    let message = message("upstream.allow_plaintext = true", &[variable]);
    assert!(message.contains("`token.url` is plain http to `auth.example.com`"), "{message}");
    assert!(!message.contains("hunter3"), "{message}");
}

#[test]
fn a_token_url_keeps_its_query_and_may_have_no_path() {
    for (url, path) in [
        ("https://auth.example.com/oauth/token?env=test", "/oauth/token?env=test"),
        ("https://auth.example.com", "/"),
        ("http://localhost:9000/token", "/token"),
    ] {
        let token = good("", &[("TOKEN_VALET__TOKEN__URL", url)]).token;
        assert_eq!(token.path.as_str(), path);
    }
}

#[test]
fn certificates_are_read_at_load_and_a_bad_file_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("ca.pem");
    let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let set = |content: &str| fs::write(&file, content).expect("writable");
    let text = format!("upstream.ca_file = {file:?}");

    let missing = message(&text, &[]);
    assert!(missing.contains("which cannot be read: No such file"), "{missing}");
    for content in ["", "hunter3", "-----BEGIN CERTIFICATE-----\naHVudGVyMw==\n-----END CERTIFICATE-----\n"] {
        set(content);
        let message = message(&text, &[]);
        assert!(message.contains("expected a PEM file of valid certificates"), "{message}");
        assert!(!message.contains("hunter3"), "{message}");
    }
    set(&authority.cert.pem());
    assert_eq!(good(&text, &[]).upstream.trust.extra, [authority.cert.der().clone()]);
}

#[test]
fn a_secret_file_is_read_once_to_know_that_it_can_be() {
    let mut variables = REQUIRED.to_vec();
    variables.retain(|variable| *variable != SECRET);
    let read_file = |path: &Path| source(&format!("token.client_secret_file = {path:?}"), &variables).and_then(read);
    let message = read_file(Path::new("/nowhere/s")).expect_err("no such file").to_string();
    let expected =
        "`token.client_secret_file` gives no secret: secret file \"/nowhere/s\" cannot be read: No such file";
    assert!(message.contains(expected), "{message}");

    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), "hunter2\n").expect("writable");
    let (config, entries) = read_file(file.path()).expect("good");
    assert!(matches!(config.token.client_secret, SecretSource::File(_)));
    assert!(!format!("{config:?}{entries:?}").contains("hunter2"));
}

#[test]
fn a_secret_variable_wins_over_the_file_and_is_never_shown() {
    let (config, entries) = config("token.client_secret_file = \"/nowhere/s\"", &[]).expect("the file is not opened");
    assert_eq!(config.token.client_secret.read().expect("a value").expose(), "hunter2");
    assert!(!format!("{config:?}{entries:?}").contains("hunter2"));
    let entry = entries.iter().find(|entry| entry.key == "token.client_secret").expect("known");
    assert_eq!(entry.value.as_deref(), Some("redacted"));

    let message = message("token.client_secret = \"hunter2\"\nlisten.threads = 0", &[]);
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn each_grant_requires_its_keys() {
    for (grant, keys) in [
        ("authorization_code", &["token.code_file", "token.redirect_uri", "token.state_file"][..]),
        ("refresh_token", &["token.refresh_token_file"]),
    ] {
        let message = message("", &[("TOKEN_VALET__TOKEN__GRANT", grant)]);
        assert_eq!(message.matches("error: ").count(), keys.len(), "{message}");
        for key in keys {
            assert!(message.contains(&format!("error: `{key}` is missing, expected ")), "{message}");
        }
    }
}

#[test]
fn each_grant_refuses_keys_that_it_would_ignore() {
    let expected = "\
error: `token.redirect_uri` has no meaning for the grant `client_credentials`
  in valet.toml:1

hint: remove it, or set `token.grant = \"authorization_code\"`";
    assert_eq!(message_for("token.redirect_uri", "\"https://app.example.com\""), expected);

    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), "r3fresh").expect("writable");
    let refresh = [("TOKEN_VALET__TOKEN__GRANT", "refresh_token")];
    let text = format!("token.refresh_token_file = {:?}", file.path());
    let config = good(&text, &refresh);
    assert!(matches!(config.token.grant, Grant::RefreshToken { .. }));
    let message = message(&format!("{text}\ntoken.scope = \"a\""), &refresh);
    assert!(message.contains("`token.scope` has no meaning for the grant `refresh_token`"), "{message}");
}

#[test]
fn an_unknown_grant_is_not_held_against_the_keys_of_grants() {
    let variable = ("TOKEN_VALET__TOKEN__GRANT", "authorisation_code");
    let message = message("token.redirect_uri = \"https://app.example.com\"", &[variable]);
    assert_eq!(message.matches("error: ").count(), 1, "{message}");
    assert!(message.ends_with("hint: did you mean `authorization_code`?"), "{message}");
}
