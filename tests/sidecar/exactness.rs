//! What HTTP says of particular messages, byte by byte, between a caller and an API that both mean it.

use std::io::Write;

use crate::{
    harness::{Connection, Sidecar},
    scripted_api::ScriptedApi,
};

/// Everything that comes until the connection ends.
fn rest(caller: &mut Connection) -> String {
    let mut rest = Vec::new();
    caller.rest(&mut rest).expect("an orderly end");
    String::from_utf8_lossy(&rest).into_owned()
}

/// Everything that a request is answered with until the connection ends.
fn answered(sidecar: &Sidecar, request: &str) -> (String, String) {
    let mut caller = sidecar.connect();
    caller.send(request.as_bytes()).expect("it listens");
    let answer = rest(&mut caller);
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn lines_of_set_cookie_stay_lines_in_their_order() {
    let api =
        ScriptedApi::answering(&["HTTP/1.1 200 OK\r\nSet-Cookie: b=2; Expires=Wed, 09 Jun 2027 10:18:14 GMT\r\n\
         Vary: a\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nVary: b\r\nContent-Length: 0\r\n\r\n"]);
    let (_provider, sidecar) = api.sidecar();
    let answer = sidecar.get("/");
    let cookies: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "set-cookie").collect();
    let cookies: Vec<_> = cookies.into_iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(cookies, ["b=2; Expires=Wed, 09 Jun 2027 10:18:14 GMT", "a=1", "b=2"]);
}

#[test]
fn a_range_is_asked_for_and_comes_back_as_the_part_that_it_is() {
    let api =
        ScriptedApi::answering(&["HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/10\r\nETag: \"e\"\r\n\
         Content-Length: 3\r\n\r\ncde"]);
    let (_provider, sidecar) = api.sidecar();
    let answer = sidecar.ask("GET", "/", &[("Range", "bytes=2-4"), ("If-Range", "\"e\"")], b"");
    assert_eq!((answer.status, answer.header("content-range")), (206, Some("bytes 2-4/10")));
    assert_eq!((answer.header("etag"), answer.body.as_slice()), (Some("\"e\""), &b"cde"[..]));
    let head = api.heads()[0].iter().map(|line| line.to_ascii_lowercase()).collect::<Vec<_>>();
    assert!(head.contains(&"range: bytes=2-4".to_owned()) && head.contains(&"if-range: \"e\"".to_owned()), "{head:?}");
}

#[test]
fn answers_that_have_no_body_leave_the_connection_in_step() {
    let api = ScriptedApi::answering(&[
        "HTTP/1.1 204 No Content\r\nX-Number: 1\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nX-Number: 2\r\nETag: \"e\"\r\nContent-Length: 1000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Number: 3\r\nContent-Length: 1000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Number: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Number: 5\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Number: 6\r\nContent-Length: 4\r\n\r\nbody",
    ]);
    let (_provider, sidecar) = api.sidecar();
    let mut caller = sidecar.connect();
    for (number, method, status, body) in [
        ("1", "DELETE", 204, ""),
        ("2", "GET", 304, ""),
        ("3", "HEAD", 200, ""),
        ("4", "HEAD", 200, ""),
        ("5", "GET", 200, ""),
        ("6", "GET", 200, "body"),
    ] {
        caller.send_head(method, "/", &[]).expect("it listens");
        let mut answer = caller.head().expect("an answer");
        assert_eq!((answer.header("x-number"), answer.status), (Some(number), status), "{answer:?}");
        match number {
            // Not known, or that of the body it stands for.
            "2" => assert!(answer.header("content-length").is_none_or(|length| length == "1000"), "{answer:?}"),
            "3" => assert_eq!(answer.header("content-length"), Some("1000"), "{answer:?}"),
            "4" => assert_eq!(answer.header("content-length"), None, "{answer:?}"),
            _ => {
                let mut got = Vec::new();
                caller.body(&answer, &mut got).expect("a whole body");
                answer.body = got;
            }
        }
        assert_eq!(answer.body, body.as_bytes(), "{answer:?}");
    }
}

#[test]
fn a_caller_of_http_1_0_gets_no_chunks_and_the_end_by_the_connection_s() {
    let api = ScriptedApi::start(|mut stream| {
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n3\r\n, 2\r\n0\r\n\r\n";
        let _ = stream.get_mut().write_all(answer.as_bytes());
    });
    let (_provider, sidecar) = api.sidecar();
    for fields in ["", "Connection: close\r\n", "Host: localhost\r\nTE: trailers\r\n"] {
        let (head, body) = answered(&sidecar, &format!("GET /a HTTP/1.0\r\n{fields}\r\n"));
        assert!(head.starts_with("http/1.0 200 ") || head.starts_with("http/1.1 200 "), "{head}");
        assert!(!head.contains("\r\ntransfer-encoding:"), "{head}");
        assert!(!head.contains("\r\nconnection: keep-alive"), "{head}");
        assert_eq!(body, "body, 2", "{head}");
    }
    assert_eq!(api.request_lines(), ["GET /a HTTP/1.1"; 3]);
}

#[test]
fn a_caller_of_http_1_0_keeps_its_connection_if_it_says_so_and_is_told_so() {
    let api = ScriptedApi::start(|mut stream| {
        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody");
    });
    let (_provider, sidecar) = api.sidecar();
    let (head, body) = answered(&sidecar, "GET / HTTP/1.0\r\n\r\n");
    assert!(!head.contains("\r\nconnection: keep-alive"), "{head}");
    assert_eq!(body, "body");

    // The second request of the two says nothing, so its answer is the last.
    let mut caller = sidecar.connect();
    caller.send(b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect("it listens");
    let mut first = String::new();
    while !first.ends_with("\r\n\r\nbody") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut caller.stream(), &mut byte).expect("an open connection");
        first.push(char::from(byte[0]));
    }
    assert!(first.to_ascii_lowercase().contains("\r\nconnection: keep-alive\r\n"), "{first}");
    caller.send(b"GET /2 HTTP/1.0\r\n\r\n").expect("an open connection");
    let second = rest(&mut caller);
    assert!(second.ends_with("\r\n\r\nbody"), "{second}");
    assert!(!second.to_ascii_lowercase().contains("\r\nconnection: keep-alive"), "{second}");
}

#[test]
fn the_target_s_form_is_undone_but_for_the_asterisk_s() {
    let api = ScriptedApi::start(|mut stream| {
        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let (_provider, sidecar) = api.sidecar();
    let mut caller = sidecar.connect();
    let cases = [
        ("OPTIONS", "*", "*"),
        ("OPTIONS", "/", "/"),
        ("GET", "http://localhost", "/"),
        ("GET", "http://localhost?a=b", "/?a=b"),
        ("GET", "http://localhost/?", "/?"),
        ("GET", "https://LOCALHOST.:81//a?", "//a?"),
    ];
    for (method, target, _) in cases {
        let answer = caller.ask(method, target, &[], b"").expect("an answer");
        assert_eq!(answer.status, 200, "{method} {target}: {answer:?}");
    }
    assert_eq!(api.request_lines(), cases.map(|(method, _, target)| format!("{method} {target} HTTP/1.1")));
    for head in api.heads() {
        let hosts: Vec<_> = head.iter().filter(|line| line.to_ascii_lowercase().starts_with("host:")).collect();
        assert!(hosts.len() == 1 && hosts[0].contains("127.0.0.1:"), "{head:?}");
    }
}
