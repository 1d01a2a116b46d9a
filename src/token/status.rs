//! What the refresher is at, for requests without a token, probes and people.

use std::{sync::Arc, time::SystemTime};

use super::{Class, wire::Claims};
use crate::clock::Moment;

/// How it stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// How the last exchange ended.
    pub state: State,
    /// When the next one starts; `None` while one is under way.
    pub next_attempt: Option<Moment>,
    /// The number of the newest token; 0 before the first.
    pub generation: u64,
    /// Failed exchanges since the last token.
    pub failures: u32,
    /// What the newest token says that it is for; `None` if it says nothing that is understood.
    pub claims: Option<Arc<Claims>>,
    /// When the newest token was asked for.
    pub issued_at: Option<Moment>,
    /// When the newest token can no longer be sent.
    pub hard_expiry: Option<Moment>,
    /// When the refresh token, if there is one, was last used with success.
    pub refresh_token_used_at: Option<SystemTime>,
    /// False while a refresh token is in memory only although there is a state file.
    pub persistent: bool,
}

impl Status {
    pub(super) fn starting(now: Moment) -> Self {
        Self {
            state: State::Starting,
            next_attempt: Some(now),
            generation: 0,
            failures: 0,
            claims: None,
            issued_at: None,
            hard_expiry: None,
            refresh_token_used_at: None,
            persistent: true,
        }
    }
}

/// How the last exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There was none yet.
    Starting,
    /// With a token.
    Fresh,
    /// Without. A token from before may still be valid.
    Failing(Class),
    /// The provider says that the grant is gone, for the first time: one more exchange will tell.
    Doubtful,
}

impl State {
    /// What a failure makes of it. `final_word`: there is nothing that could be presented once more.
    pub(super) fn after(self, class: Class, final_word: bool) -> Self {
        let doubted = match self {
            Self::Doubtful | Self::Failing(Class::GrantGone) => true,
            Self::Starting | Self::Fresh | Self::Failing(Class::Transient | Class::Configuration) => false,
        };
        match class {
            Class::GrantGone if !doubted && !final_word => Self::Doubtful,
            class => Self::Failing(class),
        }
    }
}
