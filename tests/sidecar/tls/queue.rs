//! Requests that wait for a connection to an API that takes its time to shake hands.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use token_valet::sandbox::Provider;

use super::api::{ALL, Authority, server};
use crate::{
    harness::{Connection, Sidecar, holds_for, wait_until},
    metrics::{scraped, value},
    raw_api::RawApi,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Of `connect_timeout`: for so long one that is being made for nobody is relied on.
const QUARTER: Duration = Duration::from_secs(4);
/// For what must not happen to happen.
const A_WHILE: Duration = Duration::from_millis(300);

/// An API that shakes hands when the test says so, and a sidecar that answers 504 if that is never.
struct World {
    api: RawApi,
    config: Arc<ServerConfig>,
    sidecar: Sidecar,
    _provider: Provider,
}

/// The API's end of a connection, after the handshake.
struct Upstream(StreamOwned<ServerConnection, std::net::TcpStream>);

impl World {
    fn new() -> Self {
        Self::with("upstream.pool_max_idle", 64)
    }

    fn with(name: &str, value: impl Into<Value>) -> Self {
        let (authority, api) = (Authority::new(), RawApi::start());
        let mut config = server(&authority.server(), ALL, None);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let url = format!("https://{}", api.address());
        let (provider, sidecar) = api.sidecar(|setup| {
            let setup = setup.set("upstream.url", url).set_file("upstream.ca_file", &authority.pem);
            setup.set("upstream.connect_timeout", "16s").set(name, value)
        });
        Self { api, config: Arc::new(config), sidecar, _provider: provider }
    }

    /// Asks for this on a connection of its own.
    fn ask(&self, path: &str) -> Connection {
        let mut caller = self.sidecar.connect();
        caller.send_head("GET", path, &[]).expect("an open connection");
        caller
    }

    fn shake(&self, stalled: Connection) -> Upstream {
        let session = ServerConnection::new(Arc::clone(&self.config)).expect("a sound configuration");
        Upstream(StreamOwned::new(session, stalled.into_stream()))
    }

    /// Has the API asked for this on a connection of which it takes the handshake.
    fn asked(&self, path: &str) -> (Connection, Upstream) {
        let caller = self.ask(path);
        let mut upstream = self.shake(self.api.accept());
        upstream.assert_asked(path);
        (caller, upstream)
    }

    /// Has this asked for, and returns the connection that is begun for it.
    fn begun(&self, path: &str) -> (Connection, Connection) {
        let caller = self.ask(path);
        (caller, self.api.accept())
    }

    /// Has a request under way at the API, and another connection begun that it does not need any more.
    fn with_one_made_for_nobody(&self) -> ((Connection, Upstream), Connection) {
        let (first, mut upstream) = self.asked("/first");
        let (second, stalled) = self.begun("/second");
        upstream.answer();
        assert_answered(first);
        upstream.assert_asked("/second");
        ((second, upstream), stalled)
    }

    #[track_caller]
    fn assert_begins_none(&self) {
        holds_for(A_WHILE, "no other connection", || self.api.accepted().is_none());
    }

    fn wait_for_idle(&self, count: u32) {
        let name = r#"upstream_connections{state="idle"}"#;
        wait_until("connections", || value(&scraped(&self.sidecar), name) == f64::from(count));
    }
}

impl Upstream {
    /// Reads the head of a request for this; returns its token.
    #[track_caller]
    fn assert_asked(&mut self, path: &str) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("a request");
            head.extend(byte);
        }
        let head = String::from_utf8(head).expect("a text");
        assert!(head.starts_with(&format!("GET {path} ")), "not {path}: {head}");
        let field = head.lines().find(|line| line.starts_with("authorization:")).expect("a token");
        field.to_owned()
    }

    #[track_caller]
    fn assert_ended(&mut self) {
        assert_eq!(self.0.read(&mut [0]).expect("an orderly end"), 0);
    }

    fn answer(&mut self) {
        self.0.write_all(OK.as_bytes()).expect("it listens");
        self.0.flush().expect("it listens");
    }
}

#[track_caller]
fn assert_answered(mut caller: Connection) {
    assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
}

#[test]
fn requests_take_what_others_have_done_with_before_their_own_is_made_the_first_first() {
    let world = World::new();
    let (first, mut upstream) = world.asked("/first");
    let (second, _stalled) = world.begun("/second");
    let (third, _stalled_too) = world.begun("/third");
    upstream.answer();
    assert_answered(first);
    for (path, caller) in [("/second", second), ("/third", third)] {
        upstream.assert_asked(path);
        upstream.answer();
        assert_answered(caller);
    }
}

#[test]
fn a_connection_that_is_not_needed_any_more_is_made_for_those_who_come_next() {
    let world = World::new();
    let ((second, mut upstream), stalled) = world.with_one_made_for_nobody();
    let third = world.ask("/third");
    world.assert_begins_none();
    let mut stalled = world.shake(stalled);
    stalled.assert_asked("/third");
    for (upstream, caller) in [(&mut stalled, third), (&mut upstream, second)] {
        upstream.answer();
        assert_answered(caller);
    }
    world.wait_for_idle(2);
}

#[test]
fn a_connection_that_is_not_needed_any_more_and_fails_is_followed_by_another_for_those_who_wait() {
    let world = World::new();
    let ((second, mut upstream), stalled) = world.with_one_made_for_nobody();
    let began = Instant::now();
    let third = world.ask("/third");
    world.assert_begins_none();
    drop(stalled);
    let another = world.api.accept();
    assert!(began.elapsed() < QUARTER, "it relied on one that had failed");
    let mut another = world.shake(another);
    another.assert_asked("/third");
    another.answer();
    assert_answered(third);
    upstream.answer();
    assert_answered(second);
}

#[test]
fn requests_that_wait_to_learn_what_the_api_speaks_take_what_others_have_done_with_once_that_is_http_1() {
    let world = World::with("upstream.http", "auto");
    let (first, stalled) = world.begun("/first");
    let second = world.ask("/second");
    world.assert_begins_none();
    let mut upstream = world.shake(stalled);
    upstream.assert_asked("/first");
    let _stalled = world.api.accept();
    upstream.answer();
    assert_answered(first);
    upstream.assert_asked("/second");
    upstream.answer();
    assert_answered(second);
}

#[test]
fn a_request_that_has_waited_for_a_connection_goes_out_with_the_newest_token() {
    let world = World::new();
    let (first, mut upstream) = world.asked("/first");
    upstream.answer();
    assert_answered(first);
    let first = world.ask("/first");
    let old = upstream.assert_asked("/first");
    let (second, _stalled) = world.begun("/second");
    let mut admin = Connection::open(world.sidecar.admin);
    assert_eq!(admin.ask("POST", "/refresh", &[], b"").expect("an answer").status, 202);
    wait_until("another token", || value(&scraped(&world.sidecar), "token_generation") == 2.0);
    upstream.answer();
    assert_answered(first);
    assert_ne!(upstream.assert_asked("/second"), old);
    upstream.answer();
    assert_answered(second);
}

#[test]
fn a_request_that_is_given_up_takes_the_connection_that_is_made_for_it_along() {
    // Longer than anything is waited for here.
    let world = World::with("upstream.connect_timeout", "60s");
    let (second, mut stalled) = world.begun("/second");
    drop(second);
    let mut hello = Vec::new();
    stalled.rest(&mut hello).expect("an orderly end");
}

#[test]
fn one_connection_that_is_not_made_in_time_holds_up_one_request() {
    let world = World::new();
    let ((second, mut upstream), _stuck) = world.with_one_made_for_nobody();
    let third = world.ask("/third");
    world.assert_begins_none();
    let _stalled = world.api.accept();
    let began = Instant::now();
    let (fourth, _stalled_too) = world.begun("/fourth");
    assert!(began.elapsed() < QUARTER, "it relied on one that had not come for another");
    upstream.answer();
    assert_answered(second);
    for (path, caller) in [("/third", third), ("/fourth", fourth)] {
        upstream.assert_asked(path);
        upstream.answer();
        assert_answered(caller);
    }
}

#[test]
fn where_none_is_kept_each_request_has_a_connection_of_its_own() {
    let world = World::with("upstream.pool_max_idle", 0);
    let (first, mut upstream) = world.asked("/first");
    let (second, stalled) = world.begun("/second");
    upstream.answer();
    assert_answered(first);
    upstream.assert_ended();
    let mut stalled = world.shake(stalled);
    stalled.assert_asked("/second");
    stalled.answer();
    assert_answered(second);
}
