//! Bounds: connections, requests, heads, and how long either side may take.

use std::{
    io::{self, BufRead, Write},
    thread,
    time::Duration,
};

use serde_json::json;

use crate::{
    harness::{Connection, wait_until},
    raw_api::{GET, RawApi, timed},
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// As many connections as are open at once just to be refused.
const SURPLUS: usize = 64;

/// Asks on a connection, answers as the API on its own, and checks that the answer is there.
#[track_caller]
fn assert_served(caller: &mut Connection, upstream: &mut Connection) {
    caller.say(GET);
    upstream.asked();
    upstream.say(OK);
    assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
}

// Connections.

#[test]
fn connections_over_the_limit_are_refused_in_words_and_those_far_over_it_without() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("listen.max_connections", 2));
    let mut honest = [sidecar.connect(), sidecar.connect()];
    honest[0].say(GET);
    let (mut upstream, _) = api.asked();
    upstream.say(OK);
    assert_eq!(honest[0].response("GET").expect("an answer").body, b"ok");
    // Accepted in turn: the other has its place before any of these.
    let mut surplus: Vec<_> = (0..SURPLUS).map(|_| sidecar.connect()).collect();
    let mut beyond = sidecar.connect();
    let (_, took) = timed(|| beyond.assert_ended());
    assert!(took < Duration::from_millis(900), "{took:?}");
    for caller in &mut honest {
        assert_served(caller, &mut upstream);
    }
    let (refused, took) = timed(|| {
        surplus[SURPLUS - 1].say(GET);
        surplus[SURPLUS - 1].response("GET").expect("an answer")
    });
    refused.assert_problem(503, "overloaded");
    assert_eq!((refused.header("retry-after"), refused.header("connection")), (Some("1"), Some("close")));
    assert!(took < Duration::from_millis(900), "{took:?}");
    surplus[SURPLUS - 1].assert_ended();
    // The others have a second or two to say what is to be refused.
    let (_, took) = timed(|| surplus.iter_mut().for_each(Connection::assert_ended));
    assert!(took < Duration::from_secs(4), "{took:?}");
    sidecar.get("/").assert_problem(503, "overloaded");
    for caller in &mut honest {
        assert_served(caller, &mut upstream);
    }
    assert!(api.accepted().is_none());
    drop(honest);
    wait_until("a place to be free", || sidecar.ask("TRACE", "/", &[], b"").status == 405);
}

#[test]
fn a_refused_connection_cannot_keep_its_place_by_sending_its_head_slowly() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("listen.max_connections", 1));
    let mut first = sidecar.connect();
    first.say("TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(first.response("TRACE").expect("an answer").status, 405);
    let mut slow = sidecar.connect();
    slow.say("GET / HTTP/1.1\r\nHo");
    let (_, took) = timed(|| slow.assert_ended());
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn requests_over_the_limit_are_refused_until_an_answer_has_been_read() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("upstream.max_in_flight", 2));
    let mut callers = [sidecar.connect(), sidecar.connect(), sidecar.connect()];
    callers[0].say(GET);
    let (mut one, _) = api.asked();
    callers[1].say(GET);
    let (mut two, _) = api.asked();
    for _ in 0..2 {
        // The connection goes on: the caller may try again.
        callers[2].say(GET);
        let refused = callers[2].response("GET").expect("an answer");
        refused.assert_problem(503, "overloaded");
        assert_eq!(refused.header("connection"), None);
    }
    // The head of an answer alone gives no place back.
    one.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    assert_eq!(callers[0].head().expect("a head").status, 200);
    callers[2].say(GET);
    callers[2].response("GET").expect("an answer").assert_problem(503, "overloaded");
    one.say("k");
    callers[0].assert_hears("ok");
    two.say(OK);
    assert_eq!(callers[1].response("GET").expect("an answer").body, b"ok");
    wait_until("a place to be free", || sidecar.ask("TRACE", "/", &[], b"").status == 405);
    let [.., last] = &mut callers;
    last.say(GET);
    let mut upstream = [one, two].into_iter().find(|link| {
        let peeked = |link: &Connection| link.0.get_ref().peek(&mut [0]).is_ok();
        link.0.get_ref().set_read_timeout(Some(Duration::from_millis(500))).is_ok() && peeked(link)
    });
    let upstream = upstream.as_mut().expect("an idle connection is used again");
    upstream.asked();
    upstream.say(OK);
    assert_eq!(last.response("GET").expect("an answer").body, b"ok");
}

// Heads.

#[test]
fn heads_that_are_too_large_are_refused_and_those_at_the_limit_are_not() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("listen.max_header_bytes", "8KiB"));
    let fields = |count: usize| (0..count).map(|nth| format!("X-{nth}: 1\r\n")).collect::<String>();
    let long = |count: usize| format!("X-Long: {}\r\n", "x".repeat(count));
    for (what, request, status) in [
        ("a long field", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", long(9_000)), 431),
        ("many long fields", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", long(1_000).repeat(9)), 431),
        ("a head without an end", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}", long(1_000).repeat(9)), 431),
        ("more than 100 fields", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", fields(100)), 431),
        ("a long target", format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(70_000)), 414),
        ("a target larger than a head", format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(9_000)), 431),
    ] {
        let mut caller = sidecar.connect();
        let _ = caller.send(request.as_bytes());
        let answer = caller.head().expect(what);
        // A target that does not fit into a head may be called either.
        let is_right = answer.status == status || (status == 414 && answer.status == 431);
        assert!(is_right, "{what}: {answer:?}");
        let _ = caller.rest(&mut Vec::new());
    }
    assert!(api.accepted().is_none(), "nothing reached the API");
    for request in [
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", fields(99)),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", long(7_000)),
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(7_000)),
    ] {
        let mut caller = sidecar.connect();
        caller.say(request);
        let mut upstream = api.accept();
        upstream.asked();
        upstream.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
    }
}

#[test]
fn a_target_that_no_server_takes_is_414() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("listen.max_header_bytes", "1MiB"));
    let mut caller = sidecar.connect();
    caller.say(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(70_000)));
    assert_eq!(caller.head().expect("an answer").status, 414);
    assert!(api.accepted().is_none());
}

// Half-closed callers.

#[test]
fn a_caller_that_closes_its_side_is_served_where_so_configured() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("listen.half_close", true));
    for request in [GET.to_owned(), "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi".to_owned()] {
        let mut caller = sidecar.connect();
        caller.say(&request);
        caller.half_close();
        let mut upstream = api.accept();
        upstream.asked();
        if request.ends_with("hi") {
            upstream.assert_hears("hi");
        }
        upstream.assert_silent_for(Duration::from_millis(300));
        upstream.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
        caller.assert_ended();
    }
}

#[test]
fn a_caller_that_closes_its_side_has_gone_by_default() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    caller.say(GET);
    let (mut upstream, _) = api.asked();
    caller.half_close();
    upstream.assert_ended();
    caller.assert_ended();
}

#[test]
fn a_caller_that_closes_its_side_has_gone_though_it_has_asked_for_more() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    caller.say(GET.repeat(2));
    let (mut upstream, _) = api.asked();
    caller.half_close();
    upstream.assert_ended();
    caller.assert_ended();
}

#[test]
fn a_body_that_ends_early_is_never_made_whole() {
    for half_close in [true, false] {
        let api = RawApi::start();
        let (_provider, sidecar) = api.sidecar(|setup| setup.set("listen.half_close", half_close));
        for (framing, sent) in [("Content-Length: 10", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n")] {
            let mut caller = sidecar.connect();
            caller.say(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n{sent}"));
            let (mut upstream, _) = api.asked();
            upstream.assert_hears(sent);
            caller.half_close();
            upstream.assert_ended();
            caller.response("POST").expect("an answer").assert_problem(400, "bad_request");
        }
    }
}

#[test]
fn half_an_answer_never_looks_whole_to_a_caller_that_closes_its_side() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    caller.say("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let (mut upstream, _) = api.asked();
    upstream.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(caller.0.read_line(&mut head).expect("a head") > 0, "{head}");
    }
    caller.assert_hears("hello");
    caller.half_close();
    upstream.assert_ended();
    // Over HTTP/1.0 an end in order would be the answer's.
    assert_eq!(caller.rest(&mut Vec::new()).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_caller_that_closes_its_side_and_reads_no_more_has_gone() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    caller.say(GET);
    let (mut upstream, _) = api.asked();
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
    upstream.0.get_ref().set_write_timeout(Some(Duration::from_millis(500))).expect("a socket");
    // Until it has been taken nothing of for a while.
    while upstream.0.get_mut().write_all(&[7; 65_536]).is_ok() {}
    caller.half_close();
    let ((), took) = timed(|| upstream.assert_ended());
    // Long before `upstream.idle_body_timeout`.
    assert!(took < Duration::from_secs(30), "{took:?}");
}

// Time.

#[test]
fn an_api_that_takes_nothing_of_an_upload_is_504() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("upstream.idle_body_timeout", "500ms"));
    let mut caller = sidecar.connect();
    caller.say("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n");
    let (upstream, _) = api.asked();
    let sender = caller.0.get_ref().try_clone().expect("a descriptor");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut sender = sender;
            // It ends when the sidecar has closed the connection.
            while sender.write_all(&[7; 65_536]).is_ok() {}
        });
        let (answer, took) = timed(|| caller.response("POST"));
        answer.expect("an answer").assert_problem(504, "body_timeout");
        assert!(took > Duration::from_millis(400), "{took:?}");
        drop(caller);
    });
    drop(upstream);
    let line = sidecar.process.logged("a request was not served");
    assert_eq!((&line["reason"], &line["status"]), (&json!("body_timeout"), &json!(504)));
}

#[test]
fn an_api_that_does_not_accept_is_504_after_the_time_to_connect() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_hole, address) = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let listener = socket.listen(0).expect("it can listen");
        let mut queued = Vec::new();
        // Until the kernel lets connections wait.
        let soon = Duration::from_millis(250);
        while let Ok(stream) = tokio::time::timeout(soon, tokio::net::TcpStream::connect(address)).await {
            queued.push(stream);
        }
        ((listener, queued), address)
    });
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| {
        setup.set("upstream.url", format!("http://{address}")).set("upstream.connect_timeout", "300ms")
    });
    let (answer, took) = timed(|| sidecar.get("/"));
    answer.assert_problem(504, "connect_timeout");
    assert!(took >= Duration::from_millis(300), "{took:?}");
}

// Connections to the API.

#[test]
fn an_api_is_found_by_its_name_and_by_an_address_of_either_family() {
    for (address, host) in [("127.0.0.1:0", "localhost"), ("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]")] {
        let api = RawApi::on(address);
        let port = api.address().port();
        let (_provider, sidecar) = api.sidecar(|setup| setup.set("upstream.url", format!("http://{host}:{port}")));
        let mut caller = sidecar.connect();
        caller.say(GET);
        let (mut upstream, asked) = api.asked();
        assert_eq!(asked.all("host"), [format!("{host}:{port}").as_str()]);
        upstream.say(OK);
        assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
    }
}

#[test]
fn an_idle_connection_that_the_api_has_closed_costs_no_request_of_any_kind() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    for method in ["GET", "POST", "DELETE"] {
        for farewell in ["", "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"] {
            caller.say(GET);
            let (mut upstream, _) = api.asked();
            upstream.say(OK);
            assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
            // Some servers say why they close an idle connection.
            upstream.say(farewell);
            upstream.half_close();
            upstream.assert_ended();
            caller.say(format!("{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            let (mut upstream, asked) = api.asked();
            assert_eq!(asked.line, format!("{method} / HTTP/1.1"));
            upstream.say(OK);
            assert_eq!(caller.response(method).expect("an answer").body, b"ok");
            upstream.half_close();
            upstream.assert_ended();
        }
    }
}
