//! Answers of an API that is slow, breaks off or contradicts itself, byte by byte.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use token_valet::sandbox::{Provider, Settings};

use crate::harness::{Setup, Sidecar, provider, wait_until};

/// An API that reads the head of one request on each connection, and leaves the rest to a script.
struct Api(SocketAddr);

impl Api {
    fn start(script: impl Fn(BufReader<TcpStream>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let api = Self(listener.local_addr().expect("it is bound"));
        let script = Arc::new(script);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let script = Arc::clone(&script);
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    while stream.read_line(&mut line).is_ok_and(|count| count > 2) {
                        line.clear();
                    }
                    script(stream);
                });
            }
        });
        api
    }

    fn sidecar(&self, change: impl FnOnce(Setup) -> Setup) -> (Provider, Sidecar) {
        let provider = provider(Settings::default());
        let setup = Setup::partner(&provider).set("upstream.url", format!("http://{}", self.0));
        (provider, change(setup).start())
    }
}

/// Sends the parts, each a while after the one before.
fn say(stream: &mut BufReader<TcpStream>, parts: &[&str]) {
    for (nth, part) in parts.iter().enumerate() {
        if nth > 0 {
            // Longer than the sidecar looks at an answer before it is passed on.
            thread::sleep(Duration::from_millis(1_300));
        }
        // An error means that the sidecar has gone, which the test will notice.
        let _ = stream.get_mut().write_all(part.as_bytes());
    }
}

#[test]
fn a_rejection_that_comes_slowly_is_passed_on_byte_for_byte() {
    for (parts, body) in [
        (
            ["HTTP/1.1 401 Unauthorized\r\nContent-Length: 20\r\n\r\n{\"mes", "sage\": \"no good\"}"],
            "{\"message\": \"no good\"}",
        ),
        (
            [
                "HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"mes\r\n",
                "7\r\nsage\":1\r\n1\r\n}\r\n0\r\n\r\n",
            ],
            "{\"message\":1}",
        ),
    ] {
        let head = parts[0].replace("Content-Length: 20", &format!("Content-Length: {}", body.len()));
        let rest = parts[1].to_owned();
        let api = Api::start(move |mut stream| say(&mut stream, &[&head, &rest]));
        let (_provider, sidecar) = api.sidecar(|setup| setup);
        let answer = sidecar.get("/");
        assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).as_ref()), (401, body));
    }
}

#[test]
fn a_rejection_that_breaks_off_never_looks_complete() {
    for head in ["Transfer-Encoding: chunked\r\n\r\n5\r\n{\"mes\r\n", "Content-Length: 20\r\n\r\n{\"mes"] {
        let answer = format!("HTTP/1.1 401 Unauthorized\r\n{head}");
        let api = Api::start(move |mut stream| say(&mut stream, &[&answer]));
        let (_provider, sidecar) = api.sidecar(|setup| setup);
        let mut caller = sidecar.connect();
        caller.ask("GET", "/", &[], b"").expect_err("it breaks off here too");
    }
}

#[test]
fn a_length_beside_chunks_is_not_believed() {
    let api = Api::start(|mut stream| {
        say(
            &mut stream,
            &["HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n0\r\n\r\n"],
        );
    });
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let answer = sidecar.get("/");
    assert_eq!(answer.body, b"12345678");
}

#[test]
fn an_upload_goes_on_after_an_early_answer_however_slow_it_is() {
    let (send, received) = std::sync::mpsc::channel();
    let send = std::sync::Mutex::new(send);
    let api = Api::start(move |mut stream| {
        say(&mut stream, &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]);
        let mut body = [0; 60];
        let read = stream.read_exact(&mut body);
        let _ = send.lock().expect("no holder panics").send(read.is_ok());
    });
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("listen.header_timeout", "300ms"));
    let mut caller = sidecar.connect();
    caller.send_head("POST", "/", &[("Content-Length", "60")]).expect("an open connection");
    assert_eq!(caller.response("POST").expect("an early answer").body, b"ok");
    for _ in 0..6 {
        // Longer in all than the head of another request could take.
        thread::sleep(Duration::from_millis(150));
        caller.send(&[7; 10]).expect("an open connection");
    }
    assert_eq!(received.recv_timeout(crate::harness::DEADLINE), Ok(true), "the API got all of it");
}

#[test]
fn a_caller_that_does_not_read_gives_its_place_up_after_a_while() {
    let api = Api::start(|mut stream| {
        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        while stream.get_mut().write_all(&[7; 65_536]).is_ok() {}
    });
    let (_provider, sidecar) =
        api.sidecar(|setup| setup.set("upstream.max_in_flight", 1).set("upstream.idle_body_timeout", "500ms"));
    let mut lazy = sidecar.connect();
    lazy.send_head("GET", "/", &[]).expect("an open connection");
    wait_until("the place to be taken", || {
        sidecar.connect().ask("TRACE", "/", &[], b"").expect("an answer").status == 503
    });
    wait_until("the place to be free", || {
        sidecar.connect().ask("TRACE", "/", &[], b"").expect("an answer").status == 405
    });
    drop(lazy);
}
