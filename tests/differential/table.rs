//! The table of differences, as it is checked in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{Outcome, observation::Observation, reasons::Reasons};

/// What breaks a rule that holds for the sidecar alone.
pub(crate) const VIOLATION: &str = "violation";

/// One difference.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) what: String,
    ours: String,
    nginx: String,
    haproxy: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells =
            [&self.case, &self.what, &self.ours, &self.nginx, &self.haproxy].map(|cell| cell.replace('|', "\\|"));
        write!(f, "| {} |", cells.join(" | "))
    }
}

/// Every difference between the sidecar and a peer, and every violation.
pub(crate) fn rows(outcomes: &[Outcome]) -> Vec<Row> {
    let mut rows = Vec::new();
    for Outcome { case, ours, nginx, haproxy } in outcomes {
        let mut add = |what: &str, ours: String, nginx: String, haproxy: String| {
            rows.push(Row { case: case.name.clone(), what: what.to_owned(), ours, nginx, haproxy });
        };
        for violation in &ours.violations {
            add(VIOLATION, violation.clone(), String::new(), String::new());
        }
        let is_steady = |peer: &str| case.unsteady.as_deref() != Some(peer);
        let [nginx, haproxy] =
            [(nginx, "nginx"), (haproxy, "haproxy")].map(|(seen, peer)| is_steady(peer).then_some(seen));
        let outcomes =
            [nginx, haproxy].map(|peer| peer.map_or("unsteady", |peer| same_or(&peer.outcome, &ours.outcome)));
        if outcomes.iter().any(|outcome| !["=", "unsteady"].contains(outcome)) {
            add("outcome", ours.outcome.clone(), outcomes[0].to_owned(), outcomes[1].to_owned());
        }
        // Details of peers that did something else altogether say nothing.
        let same = |peer: &&Observation| peer.outcome == ours.outcome;
        let peers = [nginx, haproxy].map(|peer| peer.filter(same).map(|peer| &peer.details));
        let names: BTreeSet<_> =
            peers.iter().flatten().chain([&&ours.details]).flat_map(|details| details.keys()).collect();
        for name in names {
            let [nginx, haproxy] = peers.map(|peer| compared(&ours.details, peer, name));
            if [&nginx, &haproxy].iter().any(|cell| !["=", "other outcome"].contains(&cell.as_str())) {
                add(name, cell(ours.details.get(name)), nginx, haproxy);
            }
        }
    }
    rows
}

fn same_or<'a>(peers: &'a str, ours: &str) -> &'a str {
    if peers == ours { "=" } else { peers }
}

fn compared(ours: &BTreeMap<String, String>, peer: Option<&BTreeMap<String, String>>, name: &str) -> String {
    match peer {
        None => "other outcome".to_owned(),
        Some(details) if details.get(name) == ours.get(name) => "=".to_owned(),
        Some(details) => cell(details.get(name)),
    }
}

fn cell(value: Option<&String>) -> String {
    match value {
        None => "absent".to_owned(),
        Some(value) if value.is_empty() => "empty".to_owned(),
        Some(value) => format!("`{value}`"),
    }
}

/// The table, by class.
pub(crate) fn render(rows: &[Row], reasons: &Reasons, cases: usize) -> String {
    let differing: BTreeSet<_> = rows.iter().map(|row| &row.case).collect();
    let mut text = format!(
        "# Where token-valet differs from nginx and HAProxy\n\n\
         Written by `TOKEN_VALET_BLESS=1 cargo test --test differential`; the reasons come from `reasons.txt`.\n\
         The peers are Debian 12's nginx 1.22.1-9+deb12u11 and HAProxy 2.6.12-1+deb12u4: what a security update changes\n\
         is to be written anew. Their settings are in `proxies.rs`.\n\
         Of {cases} cases, {} differ. `=` is what token-valet does; a case is to be found by its name in `cases/`.\n",
        differing.len()
    );
    for reason in &reasons.0 {
        let own: Vec<_> = rows
            .iter()
            .filter(|row| reasons.find(&row.case, &row.what).is_some_and(|found| found.name == reason.name))
            .collect();
        text.push_str(&format!("\n## {}\n\n{}\n\n", reason.name, reason.text));
        text.push_str("| case | what | token-valet | nginx | HAProxy |\n| --- | --- | --- | --- | --- |\n");
        for row in own {
            text.push_str(&format!("{row}\n"));
        }
    }
    text
}

/// The lines of either text that the other lacks.
pub(crate) fn changes(there: &str, now: &str) -> Vec<String> {
    let lacking = |sign: &str, all: &str, other: &str| -> Vec<String> {
        let other: BTreeSet<_> = other.lines().collect();
        all.lines().filter(|line| !other.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    [lacking("-", there, now), lacking("+", now, there)].concat()
}
