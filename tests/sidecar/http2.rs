//! HTTP/2 on either side, and on both.

mod api;
mod bounds;
mod caller;
mod callers;
mod cuts;
mod drill;
mod floods;
mod frames;
mod goodbye;
mod lifetime;
mod messages;
mod negotiation;
mod sharing;

use std::{future::Future, time::Instant};

use token_valet::sandbox::{Provider, Settings};
use tokio::time::{sleep, timeout};

use self::api::Api;
use crate::harness::{DEADLINE, POLL, Setup, Sidecar, provider};

/// Runs a test on this thread; the API has one of its own.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(3 * DEADLINE, test).await.expect("the test has not hung") })
}

/// Waits until the condition holds, while the tasks of the test go on.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let start = Instant::now();
    async move {
        while !condition() {
            assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
            sleep(POLL).await;
        }
    }
}

/// A sidecar's configuration before this API, which it talks HTTP/2 to.
fn setup(provider: &Provider, api: &Api) -> Setup {
    let setup = Setup::partner(provider).set("upstream.url", api.url()).set("upstream.http", "2");
    match api.ca_pem() {
        Some(ca_pem) => setup.set_file("upstream.ca_file", ca_pem),
        None => setup,
    }
}

fn before(api: &Api) -> (Provider, Sidecar) {
    let provider = provider(Settings::default());
    let sidecar = setup(&provider, api).start();
    (provider, sidecar)
}

/// Before an API that is no more than an address.
fn before_address(address: std::net::SocketAddr) -> (Provider, Sidecar) {
    let provider = provider(Settings::default());
    let url = format!("http://{address}");
    let sidecar = Setup::partner(&provider).set("upstream.url", url).set("upstream.http", "2").start();
    (provider, sidecar)
}
