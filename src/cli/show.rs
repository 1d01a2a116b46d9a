//! `token-valet config show`: the values in force, and where each comes from.

use std::path::Path;

use super::{CliError, environment};
use crate::{
    config::{Entry, Layer},
    reload::Origin,
};

pub(super) fn run(file: &Path) -> Result<(), CliError> {
    let origin = Origin { file: file.to_owned(), environment: environment() };
    let (_, entries) = origin.load()?;
    print!("{}", table(&entries));
    Ok(())
}

/// A line for each key, under its table.
fn table(entries: &[Entry]) -> String {
    let mut text = String::new();
    let mut table = "";
    let width = entries.iter().map(|entry| line(entry).len()).filter(|len| *len <= 60).max().unwrap_or(0);
    for entry in entries {
        let (of, _) = entry.key.split_once('.').unwrap_or_default();
        if of != table {
            let gap = if table.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}[{of}]\n"));
            table = of;
        }
        let layer = match entry.layer {
            Layer::Default => "default",
            Layer::File => "file",
            Layer::Environment => "environment",
        };
        text.push_str(&format!("{:width$}  # {layer}\n", line(entry)));
    }
    text
}

/// The value as a variable would spell it; nothing where there is none.
fn line(entry: &Entry) -> String {
    let (_, name) = entry.key.split_once('.').unwrap_or_default();
    match &entry.value {
        Some(value) => format!("{name} = {value:?}"),
        None => format!("{name} ="),
    }
}
