//! A sidecar that gives a legacy application's requests a fresh OAuth access token on their way to
//! the Flinks Open Banking API.
//!
//! Two ways lead through it. Read either from its first module on:
//!
//! - **A request** comes in at [`listener`] and goes through [`proxy`], from top to bottom of
//!   [`proxy::Proxy::handle`]: its target and fields are made fit for the API, the current token is
//!   loaded from the [`token::TokenCell`] without a lock, and [`http_client`] sends it on. The answer
//!   streams back the same way. What fails becomes one [`proxy::ProxyError`].
//! - **A token** begins in [`config`], as a grant. The background task [`token::Refresher`] exchanges
//!   it, publishes the token in the cell, sleeps until it is time for the next, and so on for as long
//!   as the process runs. A request that finds no token waits at a [`token::Renewal`], briefly.
//!
//! [`app`] puts the parts together, [`cli`] is what the terminal sees, [`sandbox`] imitates the provider.

pub mod admin;
pub mod app;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod confinement;
pub mod errand;
pub mod executor;
pub mod http_client;
pub mod listener;
pub mod metrics;
#[cfg(any(fuzzing, feature = "parts"))]
pub mod parts;
pub mod patience;
pub mod process;
pub mod proxy;
#[cfg(test)]
mod readme;
pub mod received;
pub mod regular_file;
pub mod reload;
pub mod report;
pub mod sandbox;
pub mod secret;
pub mod shutdown;
pub mod socket;
pub mod telemetry;
pub mod tls;
pub mod token;
