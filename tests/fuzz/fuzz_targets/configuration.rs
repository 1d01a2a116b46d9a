//! The configuration. Input: a TOML file; then, behind a line `---`, variables as `TABLE__KEY=value`,
//! a line each.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use token_valet::config::{Config, ConfigError, Place};
use toml_edit::{Document, Item, Value};

/// Nothing of an input, and never to be shown.
const IN_FILE: &str = "5ecret-of-the-file";
const IN_ENVIRONMENT: &str = "5ecret-of-the-environment";

fuzz_target!(|data: &[u8]| {
    let Ok(data) = str::from_utf8(data) else { return };
    // What would not end when it is read as a file, and what is looked for.
    if ["dev", "proc", "5ecret"].iter().any(|word| data.contains(word)) {
        return;
    }
    let (text, variables) = data.split_once("\n---\n").unwrap_or((data, ""));
    let mut environment: Vec<(String, String)> = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (format!("TOKEN_VALET__{name}"), value.to_owned()))
        .collect();

    parsed(text, &[]);
    environment.push(("TOKEN_VALET__TOKEN__CLIENT_SECRET".to_owned(), IN_ENVIRONMENT.to_owned()));
    parsed(text, &environment);

    // A secret where it must not be: well written, without quotes, or with half of them.
    let lines: Vec<&str> = text.split('\n').collect();
    let choice: usize = data.bytes().map(usize::from).sum();
    let (quote, unquote) = [("\"", "\""), ("", ""), ("\"", ""), ("'''", "'''")][choice % 4];
    let secret = format!("client_secret = {quote}{IN_FILE}{unquote}");
    let (before, after) = lines.split_at(choice / 4 % (lines.len() + 1));
    let text = [before, &[&secret], after].concat().join("\n");
    let shown = parsed(&text, &environment);
    let is_elsewhere = Document::parse(text.as_str()).is_ok_and(|document| is_elsewhere(document.as_item(), ""));
    assert!(is_elsewhere || !shown.contains(IN_FILE), "{shown}");
});

/// All that can be seen of a configuration or of its faults, which make sense.
fn parsed(text: &str, environment: &[(String, String)]) -> String {
    let name = Path::new("fuzz.toml");
    let shown = match Config::parse(name, text, environment.to_vec()) {
        Ok(config) => {
            assert_bounds(&config);
            format!("{config:?}")
        }
        Err(error) => {
            assert_places(&error, name, text);
            format!("{error}\n{error:?}")
        }
    };
    assert!(!shown.contains(IN_ENVIRONMENT), "{shown}");
    shown
}

fn assert_places(error: &ConfigError, name: &Path, text: &str) {
    assert!(!error.faults().is_empty(), "a refusal has a reason");
    for fault in error.faults() {
        assert!(fault.to_string().starts_with("error: ") && !fault.problem.is_empty(), "{fault}");
        match &fault.place {
            Place::File { path, line, column } => {
                assert_eq!(path, name);
                let text = line.map(|line| text.split('\n').nth(line - 1).expect("a line of the file"));
                if let Some(column) = column {
                    let text = text.expect("a column is of a line");
                    assert!((1..=text.chars().count() + 1).contains(column), "{fault}");
                }
            }
            Place::Variable(name) => assert!(name.starts_with("TOKEN_VALET__"), "{fault}"),
        }
    }
}

/// What the rest of the program relies on.
fn assert_bounds(config: &Config) {
    assert!(!config.upstream.origin.host_header().is_empty() && !config.token.origin.host_header().is_empty());
    let prefix = &config.upstream.prefix;
    assert!(prefix.is_empty() || (prefix.starts_with('/') && !prefix.ends_with('/')), "{prefix}");
    assert!(!prefix.contains(['?', '#']), "{prefix}");
    let refresh_at = &config.token.refresh_at;
    assert!(0.1 <= refresh_at.start && refresh_at.start <= refresh_at.end && refresh_at.end <= 0.95, "{refresh_at:?}");
    assert!((1..=64).contains(&config.listen.threads));
    assert!((8 * 1024..=1024 * 1024).contains(&config.listen.max_header_bytes));
    assert!(!config.token.client_id.is_empty() && !config.token.client_id.contains(['\r', '\n', '\0']));
    assert!(config.token.rejection_statuses.iter().all(|status| [400, 401, 403].contains(&status.as_u16())));
    assert!(!config.token.timeout.is_zero() && !config.token.retry_max.is_zero());
}

/// Whether the file's secret is, or is part of, something else than the value of a `client_secret`.
fn is_elsewhere(item: &Item, key: &str) -> bool {
    if key.contains(IN_FILE) {
        return true;
    }
    match item {
        Item::None => false,
        Item::Value(value) => is_elsewhere_in(value, key),
        Item::Table(table) => table.iter().any(|(key, item)| is_elsewhere(item, key)),
        Item::ArrayOfTables(tables) => {
            tables.iter().any(|table| table.iter().any(|(key, item)| is_elsewhere(item, key)))
        }
    }
}

fn is_elsewhere_in(value: &Value, key: &str) -> bool {
    match value {
        Value::String(text) => key != "client_secret" && text.value().contains(IN_FILE),
        Value::Array(values) => values.iter().any(|value| is_elsewhere_in(value, key)),
        Value::InlineTable(table) => {
            table.iter().any(|(key, value)| key.contains(IN_FILE) || is_elsewhere_in(value, key))
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => false,
    }
}
