//! "did you mean": the known names nearest to one that is unknown.

use std::{collections::BTreeSet, fmt::Display};

use strsim::osa_distance;

use super::environment;

/// A hint with the keys that `unknown`, a dotted name in the file, was probably meant to be.
pub(super) fn key(unknown: &str, known: &[&str]) -> Option<String> {
    did_you_mean(keys(unknown, known))
}

/// The same for an environment variable, given as the dotted name that it spells.
pub(super) fn variable(unknown: &str, known: &[&str]) -> Option<String> {
    did_you_mean(keys(unknown, known).iter().map(|key| environment::variable(key)))
}

/// A hint with the table that `unknown` was probably meant to be.
pub(super) fn table(unknown: &str, known: &BTreeSet<&str>) -> Option<String> {
    did_you_mean(nearest(unknown, known.iter().copied()).map(|table| format!("[{table}]")))
}

/// A hint with the word, one of a few, that `unknown` was probably meant to be.
pub(super) fn word<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    did_you_mean(nearest(unknown, known))
}

/// A key of that name in another table comes first, as nobody mistypes one whole word as another;
/// then the nearest key of the same table; then the nearest dotted name.
fn keys(unknown: &str, known: &[&str]) -> Vec<String> {
    let (table, name) = unknown.split_once('.').unwrap_or(("", unknown));
    let pairs = || known.iter().copied().filter_map(|key| key.split_once('.'));
    let dotted = |(table, name): (&str, &str)| format!("{table}.{name}");

    let elsewhere: Vec<String> = pairs().filter(|(_, n)| *n == name).map(dotted).collect();
    if !elsewhere.is_empty() {
        return elsewhere;
    }
    let neighbours = pairs().filter(|(t, _)| *t == table).map(|(_, n)| n);
    let neighbour = nearest(name, neighbours).map(|near| dotted((table, near)));
    neighbour.or_else(|| nearest(unknown, known.iter().copied()).map(str::to_owned)).into_iter().collect()
}

fn did_you_mean(names: impl IntoIterator<Item = impl Display>) -> Option<String> {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| format!("did you mean {}?", names.join(" or ")))
}

/// At most one letter in three may differ: more would be guessing.
fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    known
        .into_iter()
        .map(|name| (osa_distance(&unknown, name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
