//! The file and the environment as one, read key by key.
//!
//! Each read makes its key known, checks the value and, if that is bad, notes a fault and goes on
//! with a stand-in, so that one pass finds every fault. What was never read is an unknown key.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use config::{Value, ValueKind};
use sha2::{Digest, Sha256};

use super::{
    environment::{dotted, is_ours, merge, variable},
    error::{ConfigError, Fault, Place},
    file::{Written, names_written},
    suggest,
    values::{Mismatch, Parsed, Raw},
};
use crate::secret::Secret;

/// Keys that only the environment can give: they bypass the file, `config` and every message.
const SECRETS: [&str; 1] = ["token.client_secret"];

/// Keys whose value may be a secret: checked like any other, and not shown.
const CONFIDENTIAL: [&str; 1] = ["listen.require_header"];
/// What is shown instead.
const REDACTED: &str = "redacted";

/// A key, its value in force and where that comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The dotted name, such as `token.timeout`.
    pub key: &'static str,
    /// What holds if nobody sets the key, as an environment variable would spell it.
    pub default: Option<&'static str>,
    /// What holds now, spelt likewise; `redacted` for a secret, none for a key without a value.
    pub value: Option<String>,
    /// Who decided that.
    pub layer: Layer,
    /// The hash of the whole value, also where that is not shown: tells whether it has changed.
    digest: [u8; 32],
}

/// Who decided a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Nobody: it is the default, or nothing at all.
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
}

/// The merged view, and the faults found in it so far.
pub(super) struct Source {
    file: PathBuf,
    /// Every table and key of the file by its dotted name.
    written: BTreeMap<String, Written>,
    /// The `TOKEN_VALET__*` variables' names.
    variables: BTreeSet<String>,
    secrets: BTreeMap<&'static str, Secret>,
    merged: config::Map<String, Value>,
    entries: Vec<Entry>,
    faults: Vec<Fault>,
}

impl Source {
    /// Merges the file's `text` with those of the variables that start with `TOKEN_VALET__`. Of
    /// variables with one name the last counts.
    pub(super) fn new(
        file: &Path,
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let written = names_written(file, text)?;
        let mut secrets = BTreeMap::new();
        let mut settings = BTreeMap::new();
        for (name, value) in variables {
            if let Some(key) = SECRETS.into_iter().find(|key| variable(key) == name) {
                secrets.insert(key, Secret::new(value));
            } else if is_ours(&name) {
                settings.insert(name, value);
            }
        }
        Ok(Self {
            file: file.to_owned(),
            written,
            variables: settings.keys().cloned().collect(),
            secrets,
            merged: merge(file, text, settings)?,
            entries: Vec::new(),
            faults: Vec::new(),
        })
    }

    /// Reads a key that has a default, written as an environment variable would spell it.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        default: &'static str,
        parse: impl Fn(&Raw<'_>) -> Parsed<T>,
    ) -> T {
        let value = self.read(key, Some(default), &parse);
        value.unwrap_or_else(|| stand_in(default, &parse))
    }

    /// Reads a key that may be left out.
    pub(super) fn optional<T>(&mut self, key: &'static str, parse: impl Fn(&Raw<'_>) -> Parsed<T>) -> Option<T> {
        self.read(key, None, &parse)
    }

    /// Reads a key that must be given. The example is for the hint, and stands in for a bad value.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        example: &'static str,
        parse: impl Fn(&Raw<'_>) -> Parsed<T>,
    ) -> T {
        let value = self.read(key, None, &parse);
        if !self.is_set(key) {
            self.missing(key, expected, example);
        }
        value.unwrap_or_else(|| stand_in(example, &parse))
    }

    /// Reads a key that only the environment can give.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Secret> {
        let secret = self.secrets.remove(key);
        let layer = secret.as_ref().map_or(Layer::Default, |_| Layer::Environment);
        let value = secret.as_ref().map(|_| REDACTED.to_owned());
        // The environment of a process does not change.
        self.entries.push(Entry { key, default: None, value, layer, digest: [0; 32] });

        if self.written.contains_key(key) {
            let hint = format!("set `{}` or `{key}_file`", variable(key));
            let mismatch = Mismatch::statement("is a secret, which the file must not hold");
            self.refuse(key, mismatch.hint(hint));
        }
        if secret.as_ref().is_some_and(|secret| secret.expose().is_empty()) {
            self.push(key, Place::Variable(variable(key)), empty());
        }
        secret
    }

    /// What a key says, unchecked.
    pub(super) fn peek(&self, key: &str) -> Option<String> {
        self.found(key).map(|raw| raw.spelt())
    }

    /// Whether the file or the environment gives the key, be it a good value or a bad one.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.found(key).is_some()
    }

    /// Whether no fault was found with the key so far.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        self.faults.iter().all(|fault| fault.key.as_deref() != Some(key))
    }

    /// Notes that a key must be given and is not.
    pub(super) fn missing(&mut self, key: &str, expected: &str, example: &str) {
        let (table, name) = split(key);
        let value = key.strip_suffix("_file").filter(|value| SECRETS.contains(value));
        let variable = variable(value.unwrap_or(key));
        let hint = format!("write `{name} = {example:?}` in `[{table}]`, or set `{variable}`");
        let problem = format!("is missing, expected {expected}");
        self.refuse(key, Mismatch::statement(problem).hint(hint));
    }

    /// The same for a list.
    pub(super) fn missing_list(&mut self, key: &str, expected: &str, example: &[&str]) {
        let (table, name) = split(key);
        let hint = format!("write `{name} = {example:?}` in `[{table}]`, or set `{}`", variable(key));
        let problem = format!("is missing, expected {expected}");
        self.refuse(key, Mismatch::statement(problem).hint(hint));
    }

    /// Notes what is wrong with a key's value.
    pub(super) fn refuse(&mut self, key: &str, mismatch: Mismatch) {
        let place = self.place(key);
        self.push(key, place, mismatch);
    }

    /// Ends the pass: all that was read is known, whatever else was given is a fault.
    pub(super) fn finish(mut self) -> Result<Vec<Entry>, ConfigError> {
        self.refuse_unknown_names();
        self.refuse_unknown_variables();
        if self.faults.is_empty() { Ok(self.entries) } else { Err(ConfigError::new(self.faults)) }
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        default: Option<&'static str>,
        parse: &impl Fn(&Raw<'_>) -> Parsed<T>,
    ) -> Option<T> {
        let layer = self.layer(key);
        let parsed = self.found(key).map(|raw| (raw.spelt(), parse_given(&raw, parse)));
        let (value, parsed) = match parsed {
            Some((spelt, parsed)) => (Some(spelt), Some(parsed)),
            None => (default.map(str::to_owned), None),
        };
        let digest = Sha256::digest(self.found(key).map(|raw| raw.in_full()).unwrap_or_default()).into();
        let is_confidential = CONFIDENTIAL.contains(&key);
        let shown = value.map(|value| if is_confidential { REDACTED.to_owned() } else { value });
        self.entries.push(Entry { key, default, value: shown, layer, digest });
        match parsed? {
            Ok(value) => Some(value),
            Err(mismatch) => {
                self.refuse(key, mismatch);
                None
            }
        }
    }

    fn found(&self, key: &str) -> Option<Raw<'_>> {
        let (table, name) = split(key);
        let ValueKind::Table(table) = &self.merged.get(table)?.kind else {
            return None;
        };
        let kind = &table.get(name)?.kind;
        Some(match (kind, self.layer(key)) {
            (ValueKind::String(text), Layer::Environment) => Raw::Text(text),
            _ => Raw::Typed(kind),
        })
    }

    fn layer(&self, key: &str) -> Layer {
        if self.variables.contains(&variable(key)) {
            Layer::Environment
        } else if self.written.contains_key(key) {
            Layer::File
        } else {
            Layer::Default
        }
    }

    fn place(&self, key: &str) -> Place {
        match self.layer(key) {
            Layer::Environment => Place::Variable(variable(key)),
            Layer::File | Layer::Default => {
                let line = self.written.get(key).map(|written| written.line());
                Place::file(&self.file, line)
            }
        }
    }

    fn push(&mut self, key: &str, place: Place, mismatch: Mismatch) {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        let default = entry.and_then(|entry| entry.default).map(Raw::Text);
        let found = self.found(key).or(default).map(|raw| raw.to_string());
        let problem = mismatch.problem(&found.unwrap_or_default());
        let (key, hint) = (Some(key.to_owned()), mismatch.hint);
        self.faults.push(Fault { key, problem, place, hint });
    }

    fn refuse_unknown_names(&mut self) {
        let keys: Vec<&str> = self.entries.iter().map(|entry| entry.key).collect();
        let tables: BTreeSet<&str> = keys.iter().map(|key| split(key).0).collect();
        let keys_of_files: Vec<&str> = keys.iter().copied().filter(|key| !SECRETS.contains(key)).collect();
        for (name, written) in &self.written {
            let is_known_table = |table: &str| tables.contains(table);
            let (problem, hint) = match written {
                Written::Table { .. } if is_known_table(name) => continue,
                Written::Table { .. } => ("is not a known table", suggest::table(name, &tables)),
                Written::Key { table: Some(table), .. } if !is_known_table(table) => continue,
                Written::Key { table: Some(_), .. } if keys.contains(&name.as_str()) => continue,
                Written::Key { table: None, .. } if is_known_table(name) => {
                    let hint = format!("begin it with `[{name}]`");
                    ("is a table, but is written as a key", Some(hint))
                }
                Written::Key { .. } => ("is not a known key", suggest::key(name, &keys_of_files)),
            };
            self.faults.push(Fault {
                key: Some(name.clone()),
                problem: problem.into(),
                place: Place::file(&self.file, Some(written.line())),
                hint,
            });
        }
    }

    fn refuse_unknown_variables(&mut self) {
        let keys: Vec<&str> = self.entries.iter().map(|entry| entry.key).collect();
        let known: Vec<String> = keys.iter().map(|key| variable(key)).collect();
        for name in self.variables.iter().filter(|name| !known.contains(name)) {
            self.faults.push(Fault {
                key: Some(dotted(name)),
                problem: "is not a known key".into(),
                place: Place::Variable(name.clone()),
                hint: suggest::variable(&dotted(name), &keys),
            });
        }
    }
}

/// A dotted name's table and key.
fn split(key: &str) -> (&str, &str) {
    key.split_once('.').unwrap_or(("", key))
}

/// What a default or an example means.
fn stand_in<T>(text: &str, parse: &impl Fn(&Raw<'_>) -> Parsed<T>) -> T {
    parse(&Raw::Text(text)).unwrap_or_else(|_| panic!("`{text}` is a good value of its own key"))
}

/// Text that is empty never means the default: a deployment's template left it without a value.
fn parse_given<T>(raw: &Raw<'_>, parse: &impl Fn(&Raw<'_>) -> Parsed<T>) -> Parsed<T> {
    match raw {
        Raw::Text("") => Err(empty()),
        Raw::Text(_) | Raw::Typed(_) => parse(raw),
    }
}

fn empty() -> Mismatch {
    Mismatch::statement("is empty").hint("give the variable a value, or unset it")
}
