//! Connections to the API that it has closed, or closes as a request is sent on them.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use token_valet::sandbox::Settings;

use crate::harness::{Setup, Sidecar, provider};

/// An API that serves `per_connection` requests on each connection, takes one more, and closes without
/// an answer.
struct Closing {
    address: SocketAddr,
    /// The request lines, as they came.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Closing {
    fn start(per_connection: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let record = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let record = Arc::clone(&record);
                thread::spawn(move || serve(&stream, per_connection, &record));
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no holder panics").clone()
    }
}

fn serve(stream: &TcpStream, count: usize, record: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    for served in 0..=count {
        let Some(request) = lines.next() else { return };
        // The requests of these tests have no body, or one of a line's length that is not read.
        while lines.next().is_some_and(|line| !line.is_empty()) {}
        record.lock().expect("no holder panics").push(request);
        if served < count {
            let mut stream = stream;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    }
}

fn before(api: &Closing) -> (token_valet::sandbox::Provider, Sidecar) {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("upstream.url", format!("http://{}", api.address)).start();
    (provider, sidecar)
}

#[test]
fn a_safe_request_on_a_connection_that_is_being_closed_is_sent_once_more() {
    let api = Closing::start(1);
    let (_provider, sidecar) = before(&api);
    for path in ["/1", "/2", "/3"] {
        assert_eq!(sidecar.get(path).status, 200, "{path}");
    }
    let gets: Vec<_> = ["/1", "/2", "/2", "/3", "/3"].map(|path| format!("GET {path} HTTP/1.1")).into();
    assert_eq!(api.seen(), gets);
}

#[test]
fn a_request_that_may_change_something_is_never_sent_twice() {
    let api = Closing::start(1);
    let (_provider, sidecar) = before(&api);
    assert_eq!(sidecar.get("/1").status, 200);
    sidecar.ask("POST", "/2", &[], b"").assert_problem(502, "upstream_broken");
    assert_eq!(api.seen(), ["GET /1 HTTP/1.1", "POST /2 HTTP/1.1"]);
}

#[test]
fn an_api_that_never_answers_gets_a_request_once() {
    let api = Closing::start(0);
    let (_provider, sidecar) = before(&api);
    sidecar.get("/1").assert_problem(502, "upstream_broken");
    assert_eq!(api.seen(), ["GET /1 HTTP/1.1"]);
}
