//! The file's part: how it is read, which names stand on which lines, and whether it is TOML at all.

use std::{collections::BTreeMap, io, path::Path};

use toml_edit::{Document, TomlError};

use super::error::{ConfigError, Fault, Place};
use crate::regular_file;

/// The largest configuration, and the largest file of authorities, in bytes: 1 MiB.
pub const MAX_FILE_BYTES: u64 = 1_024 * 1_024;

/// All that is in a file. More than [`MAX_FILE_BYTES`] is an error.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    regular_file::read(path, MAX_FILE_BYTES)
}

/// Where in the file a name stands, and what for.
pub(super) enum Written {
    /// It begins a table.
    Table { line: usize },
    /// It is a key of `table`, or of none.
    Key { table: Option<String>, line: usize },
}

impl Written {
    pub(super) fn line(&self) -> usize {
        match self {
            Self::Table { line } | Self::Key { line, .. } => *line,
        }
    }
}

/// Every table and every key by its dotted name. What a key's value holds is not looked into.
pub(super) fn names_written(file: &Path, text: &str) -> Result<BTreeMap<String, Written>, ConfigError> {
    let document = Document::parse(text).map_err(|e| syntax_fault(file, text, &e))?;
    let root = document.as_table();
    let mut names = BTreeMap::new();
    for (key, item) in root.iter().filter_map(|(name, _)| root.get_key_value(name)) {
        let table = bare(key.get());
        let start = item.as_table().and_then(|table| table.span()).or_else(|| key.span());
        let line = start.map_or(1, |span| position(text, span.start).0);
        let Some(keys) = item.as_table_like() else {
            names.insert(table, Written::Key { table: None, line });
            continue;
        };
        for (key, _) in keys.iter().filter_map(|(name, _)| keys.get_key_value(name)) {
            let line = key.span().map_or(line, |span| position(text, span.start).0);
            let name = format!("{table}.{}", bare(key.get()));
            names.insert(name, Written::Key { table: Some(table.clone()), line });
        }
        names.insert(table, Written::Table { line });
    }
    Ok(names)
}

/// A key as TOML writes it: one with a dot of its own is quoted, and so cannot pass for two.
fn bare(key: &str) -> String {
    let is_bare = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_bare { key.to_owned() } else { format!("{key:?}") }
}

/// The line and the column of a byte, both from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// Says what the parser says, but shows nothing of the line: it may hold a secret.
fn syntax_fault(file: &Path, text: &str, error: &TomlError) -> ConfigError {
    let (line, column) = error.span().map(|span| position(text, span.start)).unzip();
    let place = Place::File { path: file.to_owned(), line, column };
    let problem = format!("this is not TOML: {}", error.message());
    Fault { key: None, problem, place, hint: None }.into()
}
