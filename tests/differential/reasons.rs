//! Why the sidecar differs: hand-written, by class.
//!
//! A class begins with `# NAME`; a name that begins with `fault:` is one of the sidecar's. Lines `@ CASE / WHAT` say
//! which differences belong to it, with `*` for anything; the first class that fits has it. The rest is the reason.

use std::collections::BTreeSet;

use crate::{table::Row, text::matches};

#[derive(Debug)]
pub(crate) struct Reasons(pub(crate) Vec<Reason>);

#[derive(Debug, Default)]
pub(crate) struct Reason {
    pub(crate) name: String,
    pub(crate) text: String,
    rules: Vec<(String, String)>,
}

impl Reasons {
    pub(crate) fn parse(text: &str) -> Self {
        let mut reasons: Vec<Reason> = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("# ") {
                reasons.push(Reason { name: name.to_owned(), ..Reason::default() });
                continue;
            }
            // What comes before the first class is about the file.
            let Some(reason) = reasons.last_mut() else { continue };
            match line.strip_prefix("@ ") {
                Some(rule) => {
                    let (case, what) = rule.split_once(" / ").unwrap_or_else(|| panic!("no `CASE / WHAT`: {line}"));
                    reason.rules.push((case.to_owned(), what.to_owned()));
                }
                None if line.is_empty() => {}
                None => {
                    reason.text.push_str(if reason.text.is_empty() { "" } else { "\n" });
                    reason.text.push_str(line);
                }
            }
        }
        Self(reasons)
    }

    /// The class of a difference.
    pub(crate) fn find(&self, case: &str, what: &str) -> Option<&Reason> {
        self.0.iter().find(|reason| reason.covers(case, what))
    }

    /// Differences without a class, and rules without a difference.
    pub(crate) fn complaints(&self, rows: &[Row]) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut used = BTreeSet::new();
        for row in rows {
            let rules = self.0.iter().flat_map(|reason| &reason.rules);
            match rules.into_iter().find(|(case, what)| matches(case, &row.case) && matches(what, &row.what)) {
                Some(rule) => drop(used.insert(rule)),
                None => complaints.push(format!("a difference without a reason: {row}")),
            }
        }
        for rule in self.0.iter().flat_map(|reason| &reason.rules).filter(|rule| !used.contains(rule)) {
            complaints.push(format!("a rule without a difference: @ {} / {}", rule.0, rule.1));
        }
        for reason in self.0.iter().filter(|reason| reason.text.is_empty()) {
            complaints.push(format!("a class without its reason: {}", reason.name));
        }
        complaints
    }
}

impl Reason {
    /// Whether the sidecar does wrong here, and is to be mended.
    pub(crate) fn is_fault(&self) -> bool {
        self.name.starts_with("fault:")
    }

    fn covers(&self, case: &str, what: &str) -> bool {
        self.rules.iter().any(|(cases, whats)| matches(cases, case) && matches(whats, what))
    }
}
