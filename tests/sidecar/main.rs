//! The sidecar as its users meet it: the real binary, before an imitation of the provider.
//!
//! Each test runs a process of its own on free ports, and a provider in this process that does
//! what the test's script says. `TOKEN_VALET_BIN` names another binary to test, such as the release.

#![allow(clippy::disallowed_methods, reason = "tests wait by the clock that their provider uses")]

mod commands;
mod expect;
mod forwarded;
mod grants;
mod harness;
mod layering;
mod lifecycle;
mod limits;
mod memory;
mod metrics;
mod odd_answers;
mod outage;
mod proxying;
mod raw_api;
mod rejections;
mod secrets;
mod stale;
mod state_file;
mod steady;
mod token_failures;
mod tunnels;
mod upgrades;
