//! `token-valet config schema`: it says of a configuration file what the program itself says, as far as a schema can.

use std::{collections::BTreeMap, fs, path::Path};

use config::{File, FileFormat};
use serde_json::{Value, json};
use token_valet::config::{Config, Entry};

use crate::{harness::Process, json_schema::faults};

const REFERENCE: &str = include_str!("../../config/token-valet.toml");

/// Every required key, by the environment, so that a file in a test holds only what it is about.
const REQUIRED: [(&str, &str); 5] = [
    ("TOKEN_VALET__UPSTREAM__URL", "https://api.example.com"),
    ("TOKEN_VALET__TOKEN__URL", "https://auth.example.com/token"),
    ("TOKEN_VALET__TOKEN__GRANT", "client_credentials"),
    ("TOKEN_VALET__TOKEN__CLIENT_ID", "partner"),
    ("TOKEN_VALET__TOKEN__CLIENT_SECRET", "planted-secret"),
];

/// Values as the file has them, good for some keys and bad for others; those that the schema itself names are tried too.
const SAMPLES: [(&str, &str); 9] = [
    ("text", r#""" | "no-such-word" | "a\u0007b" | " " | "true" | "1" | "2""#),
    (
        "types",
        r#"true | false | 0 | -1 | 2 | 20 | 432 | 1.5 | 0.5 | [] | {} | [true] | [1.5] | ["x"] | [[]] | { a = 1 }"#,
    ),
    (
        "durations",
        r#""2s" | "20" | "1m 30s" | "1m30s" | " 2 s " | "2.5s" | "0.5m" | "2sec" | "2 minutes" | "s" | "-2s" | "1 2s"
           "2000000µs" | "1000000h" | "1s" | "0s" | "2S" | "2 s 3" | "1h2" | "3M" | "2.s""#,
    ),
    (
        "sizes",
        r#""64KiB" | "64 KiB" | "64kib" | "64K" | "0.5MiB" | "32000" | "32000B" | "KiB" | "-1KiB" | "1000000GiB" | "100KB"
           "64KiBB" | "64ZiB""#,
    ),
    (
        "addresses, modes, URLs",
        r#""127.0.0.1:0" | "[::1]:8080" | "unix:/run/valet.sock" | "unix:/run/" | "unix:valet.sock" | "localhost:8080"
           ":8080" | "0.0.0.0:1" | "[fe80::1%2]:1" | "0660" | "600" | "4755" | "0888" | "https://api.example.com"
           "HTTPS://API.example.com:8443/v1/" | "http://localhost:9000/token?a=b" | "https://api.example.com?a=b"
           "https://a@api.example.com" | "https://api.example.com#a" | "ftp://api" | "api.example.com" | "https://"
           "https://a b" | "https://[::1]/" | "https://api.example.com/?a=@""#,
    ),
    (
        "users, hosts, origins",
        r#"[0] | [1000, 1001] | [4294967294] | [4294967295] | [-1] | ["1000"] | ["localhost", "[::1]"] | ["valet.example."]
           ["*"] | ["localhost:80"] | ["::1"] | ["a b"] | ["http://localhost:3000"] | ["http://localhost/"] | ["null"]
           ["chrome-extension://abc"]"#,
    ),
    (
        "header fields",
        r#""X-Token-Valet: true" | "X-Token-Valet:true" | "X-Token-Valet:" | "X Y: z" | ": a" | { "X-Api-Version" = "5" }
           { X-A = "a b", X-B = "c" } | { "X Y" = "5" } | { X-A = 5 } | { X-A = " 5" } | { X-A = "" } | { X-A = "é" }
           { Host = "a" }"#,
    ),
    (
        "rules",
        r#"["GET /api/fdx/5/**"] | ["* /"] | ["PUT /a/*/c", "GET /a;b=c,d"] | ["GET api"] | ["GET /a?b"] | ["GET /a**"]
           ["GET /**/a"] | ["/api"] | ["GET /a b"] | ["GET /a//b/"] | ["GET /a#b"]"#,
    ),
    (
        "numbers, faults of the sandbox",
        r#"[0.1, 0.95] | [0.7, 0.7] | [0.7] | [0.7, 0.8, 0.9] | [0.05, 0.8] | [0.7, 1.0] | ["0.7", "0.8"]
           [400] | [402] | ["401"] | [400, 401, 403] | ["down 10s..25s"] | ["429 0s..1m 30s", "slow 2s..3s"] | ["down"]
           ["sleep 1s..2s"] | ["down 10..25"]"#,
    ),
];

/// What a schema cannot tell: it is between keys, in files, or in the spans that descriptions tell.
const BEYOND_A_SCHEMA: [&str; 11] = [
    "a loopback address",
    "allows too much",
    "another port than",
    "cannot be checked for a TCP port",
    "cannot be read",
    "gives no secret",
    "has a `*` among names",
    "has no meaning",
    "is missing",
    "is plain http",
    "which the sidecar sets itself",
];

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut process = Process::spawn(arguments, environment);
    (process.exit_code(), process.stdout(), process.stderr())
}

/// As the command prints it.
fn schema() -> Value {
    let (code, text, stderr) = run(&["config", "schema"], &[]);
    assert_eq!((code, &*stderr), (0, ""));
    serde_json::from_str(&text).expect("JSON")
}

/// What it says of each key, by the dotted name.
fn keys(schema: &Value) -> BTreeMap<String, Value> {
    let tables = schema["properties"].as_object().expect("tables");
    let keys = tables.iter().flat_map(|(table, of_table)| {
        let keys = of_table["properties"].as_object().expect("keys");
        keys.iter().map(move |(name, of_key)| (format!("{table}.{name}"), of_key.clone()))
    });
    keys.collect()
}

fn from_toml(text: &str) -> Value {
    let parsed = config::Config::builder().add_source(File::from_str(text, FileFormat::Toml)).build();
    parsed.and_then(config::Config::try_deserialize).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What the program says of a file: the faults of each key.
fn check(text: &str, environment: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("valet.toml");
    fs::write(&file, text).expect("a writable directory");
    let (code, stdout, stderr) = run(&["check", "-c", file.to_str().expect("UTF-8")], environment);
    assert_eq!(code, if stderr.is_empty() { 0 } else { 78 }, "{stdout}{stderr}");
    let mut faults: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in stderr.lines().filter_map(|line| line.strip_prefix("error: ")) {
        let key = line.strip_prefix('`').and_then(|line| line.split_once("` "));
        let (key, problem) = key.unwrap_or_else(|| panic!("of no key: {line}"));
        faults.entry(key.to_owned()).or_default().push(problem.to_owned());
    }
    faults
}

/// The same of a file in which every one of these keys has this value.
fn check_all(keys: &BTreeMap<String, Value>, value: &str) -> BTreeMap<String, Vec<String>> {
    let text: String = keys.keys().map(|key| format!("{key} = {value}\n")).collect();
    check(&text, &[])
}

/// All keys as the program knows them, but for the secret.
fn entries() -> Vec<Entry> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("empty.toml");
    fs::write(&file, "").expect("a writable directory");
    let environment = REQUIRED.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (_, mut entries) = Config::load_with_entries(&file, environment).expect("what is required is there");
    entries.retain(|entry| entry.key != "token.client_secret");
    entries
}

/// As an environment variable would spell it.
fn spelt(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(spelt).collect::<Vec<_>>().join(","),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

#[test]
fn it_has_every_key_with_its_default_and_no_other() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let keys = keys(&schema);
    let entries = entries();
    let of_schema: Vec<&str> = keys.keys().map(String::as_str).collect();
    let mut of_program: Vec<&str> = entries.iter().map(|entry| entry.key).collect();
    of_program.sort_unstable();
    assert_eq!(of_schema, of_program);
    for entry in entries {
        let default = keys[entry.key].get("default");
        assert_eq!(default.map(spelt).as_deref(), entry.default, "{}", entry.key);
        if let Some(default) = default {
            assert_eq!(faults(&keys[entry.key], default), [""; 0], "{}", entry.key);
        }
    }
}

#[test]
fn it_says_of_every_value_what_the_program_says() {
    let keys = keys(&schema());
    let samples = SAMPLES.iter().flat_map(|(_, samples)| samples.split(['|', '\n']));
    let mut samples: Vec<String> = samples.map(|sample| sample.trim().to_owned()).collect();
    for of_key in keys.values() {
        let whole = |name: &str| of_key.get(name).and_then(Value::as_i64);
        let bounds = [whole("minimum"), whole("maximum")].into_iter().flatten();
        samples.extend(bounds.flat_map(|bound| [bound - 1, bound, bound + 1]).map(|number| number.to_string()));
        let words = of_key.get("enum").and_then(Value::as_array).into_iter().flatten();
        samples.extend(words.chain(of_key.get("default")).map(Value::to_string));
    }
    samples.sort_unstable();
    samples.dedup();
    for sample in samples {
        let value = &from_toml(&format!("it = {sample}"))["it"];
        let told = check_all(&keys, &sample);
        for (key, of_key) in &keys {
            let by_schema = faults(of_key, value);
            let by_program = told.get(key).map_or(&[][..], Vec::as_slice);
            assert!(by_schema.is_empty() || !by_program.is_empty(), "`{key} = {sample}` is good, but {by_schema:?}");
            for problem in by_program.iter().filter(|_| by_schema.is_empty()) {
                let is_beyond = BEYOND_A_SCHEMA.iter().any(|beyond| problem.contains(beyond));
                assert!(is_beyond || span(problem).is_some(), "`{key} = {sample}` {problem}, which the schema accepts");
            }
        }
    }
}

/// The least and the most that a duration or a size may be, told of one that is neither.
fn span(problem: &str) -> Option<&str> {
    let (_, span) = problem.split_once("expected ")?;
    let (least, most) = span.split_once(" to ")?;
    [least, most].iter().all(|bound| bound.starts_with(|c: char| c.is_ascii_digit())).then_some(span)
}

#[test]
fn it_has_all_words_of_a_choice_and_describes_all_spans() {
    let keys = keys(&schema());
    let (mut choices, mut spans) = (0, 0);
    for (key, problems) in check_all(&keys, "\"no-such-word\"") {
        let (_, expected) = problems[0].split_once("expected ").unwrap_or_default();
        if expected.starts_with('"') {
            let words: Vec<&str> = expected.split('"').skip(1).step_by(2).collect();
            assert_eq!(keys[&key]["enum"], json!(words), "{key}");
            choices += 1;
        }
    }
    for too_much in ["\"1000000h\"", "\"1000000GiB\""] {
        for (key, problems) in check_all(&keys, too_much) {
            if let Some(span) = span(&problems[0]) {
                let description = keys[&key]["description"].as_str().expect("text");
                assert!(description.contains(span), "`{key}`: {span}: {description}");
                spans += 1;
            }
        }
    }
    assert_eq!(choices, keys.values().filter(|of_key| of_key.get("enum").is_some()).count());
    assert!(spans > 0, "the program tells spans in other words");
}

#[test]
fn its_descriptions_are_the_first_sentences_of_the_reference() {
    let schema = schema();
    let mut comment = String::new();
    let mut of_keys = BTreeMap::new();
    let mut table = "";
    for line in REFERENCE.lines() {
        let name = line.trim_start_matches("# ").split_once(" = ").map(|(name, _)| name);
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            table = name;
            of_keys.insert(table.to_owned(), std::mem::take(&mut comment));
        } else if let Some(name) = name.filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) {
            // Two keys may share a paragraph.
            of_keys.insert(format!("{table}.{name}"), comment.clone());
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
        } else {
            comment.clear();
        }
    }
    let tables = schema["properties"].as_object().expect("tables");
    for (name, described) in keys(&schema).iter().chain(tables) {
        let description = described["description"].as_str().unwrap_or_else(|| panic!("{name} has no description"));
        // The reference may tell a span later.
        let ends_with_span = |(_, last): &(&str, &str)| last.contains(" to ") && last.len() < 20;
        let sentence = description.rsplit_once(". ").filter(ends_with_span).map_or(description, |(first, _)| first);
        let comment = of_keys.get(name).map_or("", |comment| comment.trim_start());
        let rest = comment.strip_prefix(sentence.trim_end_matches('.'));
        let ends = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ':']));
        assert!(ends && description.ends_with('.'), "{name}: {description}\nThe reference has: {comment}");
    }
}

#[test]
fn the_files_that_come_with_it_are_valid() {
    let schema = schema();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("config/token-valet.toml"), root.join("config/sandbox.toml")];
    let overlays = fs::read_dir(root.join("deploy/kustomize/overlays")).expect("overlays");
    files.extend(overlays.map(|overlay| overlay.expect("an overlay").path().join("config.toml")));
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{e}: {}", file.display()));
        assert_eq!(faults(&schema, &from_toml(&text)), [""; 0], "{}", file.display());
        // And so they are with every key that is commented out.
        let live = |line: &str| {
            let setting = line.strip_prefix("# ").filter(|rest| rest.contains(" = ") && !rest.starts_with(' '));
            let name = setting.and_then(|rest| rest.split_once(" = ")).map_or("", |(name, _)| name);
            let is_key = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            setting.filter(|_| is_key).unwrap_or(line).to_owned()
        };
        if file.ends_with("token-valet.toml") {
            let text: Vec<String> = text.lines().map(live).collect();
            assert_eq!(faults(&schema, &from_toml(&text.join("\n"))), [""; 0], "{}", file.display());
        }
    }
}

#[test]
fn what_the_program_does_not_know_neither_does_it() {
    let schema = schema();
    for (text, key) in [
        ("[listen]\nthread = 2\n", "listen.thread"),
        ("[server]\nport = 1\n", "server"),
        ("port = 1\n", "port"),
        ("listen = 1\n", "listen"),
        ("[token]\nclient_secret = \"s\"\n", "token.client_secret"),
    ] {
        assert_eq!(check(text, &REQUIRED).into_keys().collect::<Vec<_>>(), [key]);
        assert_eq!(faults(&schema, &from_toml(text)).len(), 1, "{text}");
    }
}

#[test]
fn a_file_may_name_its_schema_in_its_first_line() {
    let text = "#:schema ./token-valet.schema.json\n[log]\nlevel = \"debug\"\n";
    assert_eq!(check(text, &REQUIRED), BTreeMap::new());
    assert!(include_str!("../../README.md").contains(text.lines().next().expect("a line")));
}
