//! Bodies that break off: none may look whole, whichever way it goes.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

use bytes::Bytes;
use h2::Reason;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use token_valet::sandbox::Settings;

use super::{
    api::{Api, Call},
    before, before_address,
    caller::{Caller, request},
    eventually,
    frames::{CANCEL, DATA, END_HEADERS, END_STREAM, HEADERS, INTERNAL_ERROR, NO_ERROR, STATUS_200, Wire},
    run,
};
use crate::{
    harness::{Setup, provider, wait_until},
    metrics::scraped,
};

/// How an answer of an unknown length breaks off after its first part.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Close,
    Reset(u32),
    GoAway { last_stream: u32, code: u32 },
}

#[test]
fn a_whole_answer_without_a_length_ends_in_order_for_a_slow_caller_with_http_1_0() {
    const PART: [u8; 16_000] = [b'x'; 16_000];
    let address = Wire::api(move |_, wire| {
        loop {
            let (stream, _) = wire.request()?;
            wire.send(HEADERS, END_HEADERS, stream, STATUS_200)?;
            for flags in [0, 0, END_STREAM] {
                wire.send(DATA, flags, stream, &PART)?;
            }
        }
    });
    let (_provider, sidecar) = before_address(address);
    let mut caller = sidecar.connect();
    // Most of the answer waits in the sidecar's socket, where a reset would throw it away.
    set_socket_recv_buffer_size(caller.0.get_ref(), 4_096).expect("a socket");
    caller.send(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("it listens");
    wait_until("the answer to be over", || {
        let told = scraped(&sidecar);
        told.lines().any(|line| line.starts_with("token_valet_http_requests_total") && line.ends_with(" 1"))
    });
    let mut answer = Vec::new();
    caller.rest(&mut answer).expect("an end, and no reset");
    assert!(answer.ends_with(&PART.repeat(3)), "{} bytes", answer.len());
}

#[test]
fn an_answer_that_breaks_off_never_looks_whole() {
    for cut in [
        Cut::Close,
        Cut::Reset(INTERNAL_ERROR),
        Cut::Reset(CANCEL),
        Cut::Reset(NO_ERROR),
        Cut::GoAway { last_stream: 1, code: NO_ERROR },
        Cut::GoAway { last_stream: 0, code: NO_ERROR },
        Cut::GoAway { last_stream: 1, code: INTERNAL_ERROR },
    ] {
        let address = Wire::api(move |_, wire| {
            loop {
                let (stream, _) = wire.request()?;
                wire.send(HEADERS, END_HEADERS, stream, STATUS_200)?;
                wire.send(DATA, 0, stream, b"half")?;
                match cut {
                    Cut::Close => return Ok(()),
                    Cut::Reset(code) => wire.reset(stream, code)?,
                    Cut::GoAway { last_stream, code } => return wire.go_away(last_stream, code),
                }
            }
        });
        let (_provider, sidecar) = before_address(address);
        let mut old = sidecar.connect();
        old.send_head("GET", "/", &[]).expect("it listens");
        // It may break off before its head goes out.
        let answer = old.head().and_then(|head| old.body(&head, &mut Vec::new()).map(|()| head.status));
        let kind = answer.map_err(|error| error.kind());
        let is_broken = matches!(kind, Ok(502) | Err(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset));
        assert!(is_broken, "{cut:?}: {kind:?}");
        run(async {
            let answer = Caller::connect(sidecar.address).await.get("/").await;
            match answer {
                Ok(answer) => assert_eq!(answer.status, 502, "{cut:?}: {answer:?}"),
                Err(error) => assert!(error.is_reset(), "{cut:?}: {error:?}"),
            }
        });
    }
}

#[test]
fn an_answer_shorter_or_longer_than_it_says_does_not_look_whole() {
    for body in ["four", "sixsix"] {
        let address = Wire::api(move |_, wire| {
            loop {
                let (stream, _) = wire.request()?;
                // `content-length: 5` (RFC 7541 appendix A: name 28).
                wire.send(HEADERS, END_HEADERS, stream, &[0x88, 0x0f, 0x0d, 1, b'5'])?;
                wire.send(DATA, END_STREAM, stream, body.as_bytes())?;
            }
        });
        let (_provider, sidecar) = before_address(address);
        let old = sidecar.connect().ask("GET", "/", &[], b"");
        assert!(old.as_ref().map_or(true, |answer| answer.status == 502), "{body}: {old:?}");
        run(async {
            let new = Caller::connect(sidecar.address).await.get("/").await;
            assert!(new.as_ref().map_or(true, |answer| answer.status == 502), "{body}: {new:?}");
        });
    }
}

/// What became of an upload at the API.
type Ends = Arc<Mutex<Vec<Result<usize, Option<Reason>>>>>;

/// An API that answers at once, and then reads the body to whatever end it has.
fn answering_early() -> (Api, Ends) {
    let ends = Ends::default();
    let api = Api::start({
        let ends = Arc::clone(&ends);
        move |mut call: Call| {
            let ends = Arc::clone(&ends);
            async move {
                let mut stream = call.begin(200, &[]);
                stream.send_data(Bytes::from_static(b"so far"), false).expect("it listens");
                let end = call.read().await;
                ends.lock().expect("no holder panics").push(end.map(|(body, _)| body.len()).map_err(|e| e.reason()));
            }
        }
    });
    (api, ends)
}

#[test]
fn an_upload_that_its_caller_gives_up_never_looks_whole_to_an_http2_api() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        let (api, ends) = answering_early();
        let (_provider, sidecar) = before(&api);
        run(async {
            let caller = Caller::connect(sidecar.address).await;
            let head = request("POST", "/").body(()).expect("a head");
            let (response, mut upload) = caller.send(head, false).await.expect("it listens");
            upload.send_data(Bytes::from_static(b"half"), false).expect("it listens");
            let mut answer = response.await.expect("an early answer").into_body();
            answer.data().await.expect("a first part").expect("it is there");
            upload.send_reset(reason);
            eventually("the upload to end", || !ends.lock().expect("no holder panics").is_empty()).await;
        });
        let ends = ends.lock().expect("no holder panics");
        assert!(ends[0].is_err(), "{reason:?}: {ends:?}");
    }
}

#[test]
fn an_upload_that_its_caller_gives_up_never_looks_whole_to_an_http1_api() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let api = thread::spawn(move || {
            let mut stream = listener.accept().expect("the sidecar connects").0;
            let mut seen = Vec::new();
            while !seen.ends_with(b"half\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("half a request");
                seen.push(byte[0]);
            }
            let early = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nso far\r\n";
            stream.write_all(early).expect("it listens");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            let _ = stream.shutdown(Shutdown::Both);
            rest
        });
        let provider = provider(Settings::default());
        let sidecar = Setup::partner(&provider).set("upstream.url", format!("http://{address}")).start();
        run(async {
            let caller = Caller::connect(sidecar.address).await;
            let head = request("POST", "/").body(()).expect("a head");
            let (response, mut upload) = caller.send(head, false).await.expect("it listens");
            upload.send_data(Bytes::from_static(b"half"), false).expect("it listens");
            let mut answer = response.await.expect("an early answer").into_body();
            answer.data().await.expect("a first part").expect("it is there");
            upload.send_reset(reason);
            eventually("the connection to the API to end", || api.is_finished()).await;
        });
        let rest = api.join().expect("the API saw what it should");
        assert_eq!(String::from_utf8_lossy(&rest), "", "{reason:?}: the last chunk is not for a body that broke off");
    }
}

#[test]
fn an_upload_over_http1_that_breaks_off_is_reset_at_the_api() {
    let (api, ends) = answering_early();
    let (_provider, sidecar) = before(&api);
    let mut caller = sidecar.connect();
    caller.send_head("POST", "/", &[("Content-Length", "10")]).expect("it listens");
    caller.send(b"half").expect("it listens");
    assert_eq!(caller.head().expect("an early answer").status, 200);
    drop(caller);
    run(eventually("the upload to end", || !ends.lock().expect("no holder panics").is_empty()));
    assert!(ends.lock().expect("no holder panics")[0].is_err());
}
