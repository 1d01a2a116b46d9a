//! The sidecar as its users meet it: the real binary, before an imitation of the provider.
//!
//! Each test runs a process of its own on free ports, and a provider in this process that does
//! what the test's script says. `TOKEN_VALET_BIN` names another binary to test, such as the release.

#![allow(clippy::disallowed_methods, reason = "tests wait by the clock that their provider uses")]

mod admin;
mod bounds;
mod canaries;
mod commands;
mod confinement;
mod documents;
mod exactness;
mod exec;
mod expect;
mod fin;
mod forwarded;
mod grants;
mod guard;
mod harness;
mod http2;
mod json_schema;
mod large_answers;
mod large_uploads;
mod layering;
mod lifecycle;
mod limits;
mod memory;
#[path = "../wipe/memory.rs"]
mod memory_search;
mod metrics;
mod mixup;
mod odd_answers;
mod old_messages;
mod online;
mod open_secrets;
mod outage;
mod process_memory;
mod proxying;
mod raw_api;
mod rejections;
mod reload;
mod schema;
mod scripted_api;
mod secrets;
mod slowloris;
mod socket_activation;
mod stale;
mod state_file;
mod status;
mod steady;
mod threat_model;
mod tls;
mod token_failures;
mod trailers;
mod tunnels;
mod unix_socket;
mod upgrades;
