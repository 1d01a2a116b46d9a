//! The last token requests, for people.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::FetchError;
use crate::{clock::Moment, report::Report};

/// How many are remembered.
const MOST: usize = 32;

/// One token request, and how it ended.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it was started.
    pub at: Moment,
    /// How long it took.
    pub took: Duration,
    /// Why it was made, as metrics tell it.
    pub cause: &'static str,
    /// `success`, `transient`, `configuration` or `grant_gone`.
    pub result: &'static str,
    /// What went wrong; nothing that the provider wrote.
    pub error: Option<String>,
    /// The configuration keys to look at.
    pub look_at: Option<&'static str>,
    /// How long the token that it gave may be sent.
    pub life: Option<Duration>,
}

impl Attempt {
    pub(super) fn failed(at: Moment, took: Duration, cause: &'static str, error: &FetchError) -> Self {
        let (result, look_at) = (error.class().as_str(), error.keys());
        Self { at, took, cause, result, error: Some(Report(error).to_string()), look_at, life: None }
    }

    pub(super) fn succeeded(at: Moment, took: Duration, cause: &'static str, life: Duration) -> Self {
        Self { at, took, cause, result: "success", error: None, look_at: None, life: Some(life) }
    }
}

/// Written by the refresher, read by whoever shows it.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<VecDeque<Attempt>>>);

impl History {
    pub(super) fn note(&self, attempt: Attempt) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() == MOST {
            attempts.pop_front();
        }
        attempts.push_back(attempt);
    }

    /// The oldest first.
    pub(super) fn attempts(&self) -> Vec<Attempt> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
