//! The same requests, byte for byte, through the sidecar, nginx and HAProxy to one recording upstream.
//!
//! `cases/*.txt` holds the requests: good, odd and hostile ones, and answers to match. What the sidecar
//! does otherwise than its peers is in `DIFFERENCES.md`, each with a reason from `reasons.txt`; the
//! test fails on a difference that is not there, and on one that is there and no longer exists.
//! `TOKEN_VALET_BLESS=1` writes the table anew. Some things hold in every case, whatever the peers do:
//! see `observation::violations`. `TOKEN_VALET_BIN` names another binary to test, such as the release.

#![allow(clippy::disallowed_methods, reason = "deadlines of a test that never outlasts a suspend")]

mod case;
mod client;
mod message;
mod observation;
mod proxies;
mod reasons;
mod run;
mod table;
mod text;
mod upstream;

use std::{env, fs, path::Path, sync::LazyLock};

use case::Case;
use observation::Observation;
use reasons::Reasons;

/// What one case looked like through each proxy.
#[derive(Debug)]
struct Outcome {
    case: Case,
    ours: Observation,
    nginx: Observation,
    haproxy: Observation,
}

/// All cases are run once, for both tests.
static OUTCOMES: LazyLock<Vec<Outcome>> = LazyLock::new(|| run::all(case::all(&here("cases"))));

fn here(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(here(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn no_case_breaks_what_must_always_hold() {
    let faults = Reasons::parse(&read("reasons.txt"));
    let broken: Vec<_> = OUTCOMES
        .iter()
        .flat_map(|outcome| outcome.ours.violations.iter().map(|text| (outcome.case.name.as_str(), text)))
        .filter(|(case, _)| !faults.find(case, table::VIOLATION).is_some_and(|reason| reason.is_fault()))
        .map(|(case, text)| format!("{case}: {text}"))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn differences_from_nginx_and_haproxy_are_those_of_the_table() {
    let reasons = Reasons::parse(&read("reasons.txt"));
    let rows = table::rows(&OUTCOMES);
    let complaints = reasons.complaints(&rows);
    let table = table::render(&rows, &reasons, OUTCOMES.len());
    if env::var_os("TOKEN_VALET_BLESS").is_some() {
        fs::write(here("DIFFERENCES.md"), &table).expect("the source is writable");
    }
    assert!(complaints.is_empty(), "reasons.txt:\n{}", complaints.join("\n"));
    let changes = table::changes(&read("DIFFERENCES.md"), &table);
    assert!(
        changes.is_empty(),
        "DIFFERENCES.md says otherwise (- there, + now); give new ones a reason, then TOKEN_VALET_BLESS=1:\n{}",
        changes.join("\n")
    );
}

#[test]
fn there_are_some_hundred_cases_with_names_of_their_own() {
    let cases = case::all(&here("cases"));
    assert!(cases.len() >= 250, "{}", cases.len());
    for pair in cases.windows(2) {
        assert!(pair[0].name < pair[1].name, "two cases are called {}", pair[0].name);
    }
}
