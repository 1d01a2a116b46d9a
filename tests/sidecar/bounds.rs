//! What may grow, and what may take long: each has its bound, and beyond it everything else goes on.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, ErrorKind, Write},
    net::TcpStream,
    sync::Mutex,
    thread,
    time::Duration,
};

use http::StatusCode;
use rustix::process::Signal;
use token_valet::{config::TokenFault, sandbox::Settings};

use crate::{
    harness::{ACCOUNTS, Connection, Process, Setup, provider, raise_descriptor_limit, seconds, wait_until},
    metrics::{scraped, value},
    raw_api::{GET, RawApi, timed},
    scripted_api::ScriptedApi,
    threat_model::check_claims,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const KIB: usize = 1024;

fn fields(count: usize) -> String {
    (0..count).map(|nth| format!("X-{nth}: 1\r\n")).collect()
}

fn field(size: usize) -> String {
    format!("X-Long: {}\r\n", "x".repeat(size))
}

// What is said of them.

#[test]
fn each_row_of_the_bounds_names_tests_that_exist() {
    check_claims("Bounds", 30);
}

/// Whether a value of the reference is a number, a time or a size.
fn is_bound(value: &str) -> bool {
    let (number, unit) = match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        Some(text) => text.split_at(text.trim_end_matches(char::is_alphabetic).len()),
        None => (value, "count"),
    };
    !unit.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

#[test]
fn each_key_that_bounds_something_is_in_the_table_of_bounds() {
    let readme = include_str!("../../README.md");
    let bounds = readme.split_once("\n### Bounds\n").and_then(|(_, rest)| rest.split_once("\n#"));
    let (bounds, _) = bounds.expect("a section of them");
    let mut table = "";
    for line in include_str!("../../config/token-valet.toml").lines() {
        table = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(table);
        let Some((key, value)) = line.strip_prefix("# ").and_then(|line| line.split_once(" = ")) else { continue };
        // What is only told, or imitated, is no bound.
        if is_bound(value) && !["log", "sandbox"].contains(&table) {
            assert!(bounds.contains(&format!("`{table}.{key}`")), "`{table}.{key}` is not in the table");
        }
    }
    assert!(is_bound("64") && is_bound("\"64KiB\"") && is_bound("\"1s\""));
    assert!(!is_bound("\"1.1\"") && !is_bound("\"0660\"") && !is_bound("false") && !is_bound("\"text\""));
}

// Files.

/// What `check` says of a configuration that it refuses.
fn refused(mut process: Process) -> String {
    assert_eq!(process.exit_code(), 78, "{}", process.stderr());
    process.stderr()
}

#[test]
fn files_over_their_bounds_are_refused_and_those_at_them_are_not() {
    let provider = provider(Settings::default());
    let good = || Setup::partner(&provider);
    let setup = good().set_file("token.client_secret_file", &"x".repeat(64 * KIB));
    assert_eq!(setup.spawn("check").exit_code(), 0);
    let setup = good().set_file("token.client_secret_file", &"x".repeat(64 * KIB + 1));
    let said = refused(setup.spawn("check"));
    assert!(said.contains("token.client_secret_file") && said.contains("is over 64 KiB"), "{said}");

    let filled = |size: usize| {
        let pem = provider.ca_pem();
        format!("{pem}{}", "\n".repeat(size - pem.len()))
    };
    for key in ["upstream.ca_file", "token.ca_file"] {
        assert_eq!(good().set_file(key, &filled(KIB * KIB)).spawn("check").exit_code(), 0, "{key}");
        let setup = good().set_file(key, &filled(KIB * KIB + 1));
        let said = refused(setup.spawn("check"));
        assert!(said.contains(key) && said.contains("is over 1 MiB"), "{said}");
    }
}

#[test]
fn a_configuration_over_its_bound_is_refused_and_one_at_it_is_not() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider);
    let path = setup.write();
    let text = fs::read_to_string(&path).expect("it was written");
    let check = |size: usize| {
        let text = format!("{text}#{}\n", "x".repeat(size - text.len() - 2));
        fs::write(&path, text).expect("a writable directory");
        Process::spawn(&["check", "-c", path.to_str().expect("UTF-8")], &[])
    };
    assert_eq!(check(KIB * KIB).exit_code(), 0);
    let said = refused(check(KIB * KIB + 1));
    assert!(said.contains("the configuration cannot be read: it is over 1 MiB"), "{said}");
}

#[test]
fn a_state_file_over_its_bound_is_refused() {
    let provider = provider(Settings::default());
    let setup = Setup::by_refresh_token(&provider).set_file("token.state_file", &" ".repeat(64 * KIB + 1));
    let file = setup.replace_file("token.state_file", &" ".repeat(64 * KIB + 1));
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
    let said = refused(setup.spawn("run"));
    assert!(said.contains("is over 64 KiB"), "{said}");
}

// Callers.

/// Asks for what is answered without the API.
fn is_served(caller: &mut Connection) -> bool {
    caller.ask("TRACE", "/", &[], b"").is_ok_and(|answer| answer.status == 405)
}

#[test]
fn connections_are_counted_over_all_threads() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("listen.threads", 3).set("listen.max_connections", 4));
    let mut honest = [(); 4].map(|()| sidecar.connect());
    assert!(honest.iter_mut().all(is_served));
    let mut surplus: Vec<_> = (0..64).map(|_| sidecar.connect()).collect();
    sidecar.connect().assert_ended();
    // The one that has had the least of its second.
    let last = surplus.last_mut().expect("there are several");
    last.say(GET);
    last.response("GET").expect("an answer").assert_problem(503, "overloaded");
    assert!(honest.iter_mut().all(is_served));
}

#[test]
fn trailers_of_a_request_over_their_bound_end_it_and_no_api_takes_it_for_whole() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    for trailers in [field(20 * KIB), fields(101)] {
        let mut caller = sidecar.connect();
        caller.say("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
        let (mut upstream, _) = api.asked();
        upstream.assert_hears("2\r\nhi\r\n");
        // An error means that the connection is closed already.
        let _ = caller.send(format!("0\r\n{trailers}\r\n").as_bytes());
        upstream.assert_ended();
        assert_eq!(caller.head().expect("an answer").status, 400);
    }
    let mut caller = sidecar.connect();
    caller.say(format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-Long\r\n\r\n0\r\n{}\r\n",
        field(15 * KIB)
    ));
    let (mut upstream, _) = api.asked();
    upstream.assert_hears("0\r\nx-long: ");
    upstream.exactly(15 * KIB + 4);
    upstream.say(OK);
    assert_eq!(caller.response("POST").expect("an answer").body, b"ok");
}

#[test]
fn extensions_of_chunks_are_bounded() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    for (size, is_sound) in [(15 * KIB, true), (17 * KIB, false)] {
        let mut caller = sidecar.connect();
        caller.say("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
        let (mut upstream, _) = api.asked();
        // An error means that the connection is closed already.
        let _ = caller.send(format!("2;{}\r\nhi\r\n0\r\n\r\n", "x".repeat(size)).as_bytes());
        if is_sound {
            upstream.assert_hears("2\r\nhi\r\n0\r\n\r\n");
            upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        } else {
            upstream.assert_ended();
        }
        let status = if is_sound { 200 } else { 400 };
        assert_eq!(caller.head().expect("an answer").status, status, "{size}");
    }
}

#[test]
fn connections_that_are_not_accepted_yet_wait_in_a_bounded_queue() {
    raise_descriptor_limit();
    let most = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("the kernel tells");
    let most = most.trim().parse::<usize>().expect("a number").min(1_024);
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    sidecar.process.signal(Signal::STOP);
    wait_until("all threads to stop", || {
        let threads = fs::read_dir(format!("/proc/{}/task", sidecar.process.id())).expect("it runs");
        let mut states = threads.map(|thread| fs::read_to_string(thread.expect("it runs").path().join("status")));
        states.all(|status| status.is_ok_and(|status| status.contains("State:\tT")))
    });
    let connect = |_| TcpStream::connect_timeout(&sidecar.address, Duration::from_millis(500)).ok();
    let queued: Vec<_> = (0..2 * most).map_while(connect).collect();
    sidecar.process.signal(Signal::CONT);
    // The kernel lets one more in (listen(2)).
    assert!((most..=most + 1).contains(&queued.len()), "{} of {most}", queued.len());
}

#[test]
fn a_body_that_nobody_wants_is_read_for_a_few_seconds_only() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let mut caller = sidecar.connect();
    caller.say("POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000000000000\r\n\r\n");
    let (error, took) = timed(|| {
        loop {
            // The pace of a slow caller, whose body would take days.
            thread::sleep(Duration::from_millis(10));
            if let Err(error) = caller.send(&[b'x'; KIB]) {
                return error;
            }
        }
    });
    assert_ne!(error.kind(), ErrorKind::WouldBlock, "it was not let go");
    assert!(took > seconds(3) && took < seconds(15), "{took:?}");
}

// Connections to the API.

#[test]
fn unused_connections_over_their_bound_are_closed() {
    for most in [0, 1] {
        let api = RawApi::start();
        let (_provider, sidecar) = api.sidecar(|setup| setup.set("upstream.pool_max_idle", most));
        let mut callers = [sidecar.connect(), sidecar.connect()];
        let mut links = callers.each_mut().map(|caller| {
            caller.say(GET);
            api.asked().0
        });
        for (caller, link) in callers.iter_mut().zip(&mut links) {
            link.say(OK);
            assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
        }
        let [surplus, kept] = &mut links;
        surplus.assert_ended();
        callers[0].say(GET);
        if most == 0 {
            kept.assert_ended();
            api.asked().0.say(OK);
        } else {
            kept.asked();
            kept.say(OK);
        }
        assert_eq!(callers[0].response("GET").expect("an answer").body, b"ok");
    }
}

#[test]
fn an_unused_connection_is_closed_after_its_time() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("upstream.pool_idle_timeout", "1s"));
    let mut caller = sidecar.connect();
    caller.say(GET);
    let (mut link, _) = api.asked();
    link.say(OK);
    assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
    let ((), took) = timed(|| link.assert_ended());
    assert!(took > Duration::from_millis(400) && took < seconds(5), "{took:?}");
}

// Answers of the API.

#[test]
fn heads_of_answers_over_their_bounds_are_502_and_those_at_them_pass() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let answered = |fields: &str| {
        let mut caller = sidecar.connect();
        caller.say(GET);
        let (mut link, _) = api.asked();
        // An error means that the connection is closed already.
        let _ = link
            .send(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\nConnection: close\r\n\r\nok").as_bytes());
        caller.response("GET").expect("an answer")
    };
    for sound in [field(63 * KIB), fields(98)] {
        let answer = answered(&sound);
        assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
    }
    for excess in [field(65 * KIB), field(KIB).repeat(65), fields(99), field(300 * KIB)] {
        answered(&excess).assert_problem(502, "upstream_broken");
    }
}

#[test]
fn a_rejection_longer_than_is_looked_at_is_passed_on() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    let rejection = |size: usize| {
        let body = format!("{{{}}}", " ".repeat(size - 2));
        format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: {size}\r\n\r\n{body}")
    };
    let mut caller = sidecar.connect();
    caller.say(GET);
    let (mut link, _) = api.asked();
    link.say(rejection(8 * KIB + 1));
    let answer = caller.response("GET").expect("an answer");
    assert_eq!((answer.status, answer.body.len()), (401, 8 * KIB + 1));
    caller.say(GET);
    link.asked();
    link.say(rejection(8 * KIB));
    link.asked();
    link.say(OK);
    assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
}

#[test]
fn trailers_of_an_answer_over_their_bounds_break_it_off() {
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup);
    for trailers in [field(65 * KIB), fields(101)] {
        let mut caller = sidecar.connect();
        caller.say(GET);
        let (mut link, _) = api.asked();
        link.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n");
        let _ = link.send(format!("{trailers}\r\n").as_bytes());
        assert_eq!(caller.head().expect("a head").status, 200);
        let mut rest = Vec::new();
        let _ = caller.rest(&mut rest);
        assert_eq!(rest, b"2\r\nok\r\n", "{}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn interim_answers_without_end_take_no_longer_than_an_answer_may_and_no_memory() {
    let api = ScriptedApi::start(|mut stream| {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n".repeat(1_000);
        // It ends when the sidecar has closed the connection.
        while stream.get_mut().write_all(hints.as_bytes()).is_ok() {}
    });
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider)
        .set("upstream.url", format!("http://{}", api.address()))
        .set("upstream.response_timeout", "1s")
        .start();
    assert!(is_served(&mut sidecar.connect()));
    let before = sidecar.process.memory("VmHWM");
    let (answer, took) = timed(|| sidecar.get("/"));
    answer.assert_problem(504, "response_timeout");
    assert!(took < seconds(10), "{took:?}");
    let after = sidecar.process.memory("VmHWM");
    assert!(after < before + 4 * 1024, "VmHWM {before} KiB, then {after} KiB");
}

// Tokens.

#[test]
fn requests_that_wait_for_a_token_are_bounded_and_the_next_is_refused_at_once() {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::Hang));
    let sidecar = Setup::partner(&provider).set("token.max_waiters", 2).set("token.timeout", "2s").start();
    let mut waiting = [sidecar.connect(), sidecar.connect()];
    for caller in &mut waiting {
        caller.send_head("GET", ACCOUNTS, &[]).expect("it listens");
    }
    wait_until("two requests to wait", || value(&scraped(&sidecar), "token_waiting_requests") == 2.0);
    let (refused, took) = timed(|| sidecar.get(ACCOUNTS));
    refused.assert_problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(took < seconds(1), "{took:?}");
    provider.set_token_fault(None);
    for caller in &mut waiting {
        caller.response("GET").expect("an answer").assert_accounts();
    }
}

#[test]
fn bodies_that_are_kept_to_be_sent_again_share_their_memory() {
    const REJECTED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let api = RawApi::start();
    let (_provider, sidecar) = api.sidecar(|setup| setup.set("token.max_replay_memory", "64KiB"));
    let body = "x".repeat(40 * KIB);
    let request = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut callers = [sidecar.connect(), sidecar.connect()];
    let [mut kept, mut surplus] = callers.each_mut().map(|caller| {
        caller.say(&request);
        let (mut link, _) = api.asked();
        link.assert_hears(&body);
        link
    });
    let [first, second] = &mut callers;
    surplus.say(REJECTED);
    assert_eq!(second.response("POST").expect("an answer").status, 401, "there was no room for its body");
    kept.say(REJECTED);
    // On the connection that was used last.
    kept.asked();
    kept.assert_hears(&body);
    kept.say(OK);
    assert_eq!(first.response("POST").expect("an answer").body, b"ok");
}

/// A token endpoint that gives each of these answers once.
fn token_endpoint(answers: Vec<String>) -> ScriptedApi {
    let answers = Mutex::new(answers.into_iter());
    ScriptedApi::start(move |mut stream| {
        stream.read_until(b'}', &mut Vec::new()).expect("a token request");
        let answer = answers.lock().expect("no holder panics").next().expect("no more requests");
        // An error means that the sidecar wants no more of it.
        let _ = stream.get_mut().write_all(answer.as_bytes());
    })
}

fn token_answer(fields: &str, filler: usize) -> String {
    let body = format!(r#"{{"access_token":"t","expires_in":299,"filler":"{}"}}"#, "x".repeat(filler));
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn token_answers_over_their_bounds_are_tried_again_and_those_at_them_give_a_token() {
    let endpoint = token_endpoint(vec![
        token_answer("", 64 * KIB),
        token_answer(&field(65 * KIB), 0),
        token_answer(&fields(101), 0),
        token_answer("", 63 * KIB),
    ]);
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider).set("token.url", format!("http://{}/token", endpoint.address()));
    // Else failures that are like the first are not told.
    let sidecar = setup.set("log.level", "debug").start();
    wait_until("a token", || sidecar.probe("/readyz") == 200);
    let log = sidecar.process.log();
    let failed: Vec<_> =
        log.iter().filter(|line| line["message"] == "the access token could not be refreshed").collect();
    assert_eq!(failed.len(), 3, "{failed:?}");
    assert_eq!(failed[0]["error"], "the token endpoint's answer is over 64 KiB");
    assert!(failed.iter().all(|line| line["look_at"].is_null()), "transient, all of them: {failed:?}");
}

#[test]
fn the_last_token_request_is_waited_for_and_not_for_ever() {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::Hang));
    let mut sidecar = Setup::by_refresh_token(&provider).set("token.timeout", "60s").start();
    wait_until("a token request", || !provider.exchanges().is_empty());
    sidecar.process.signal(Signal::TERM);
    let (code, took) = timed(|| sidecar.process.exit_code());
    assert_eq!(code, 0);
    assert!(took > seconds(8) && took < seconds(18), "{took:?}");
    sidecar.process.logged("a token request was cut off");
}

// The admin port.

#[test]
fn heads_at_the_admin_port_are_bounded() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    for (fields, status) in [(field(7 * KIB), 200), (field(17 * KIB), 431), (fields(100), 431)] {
        let mut caller = Connection::open(sidecar.admin);
        let _ = caller.send(format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").as_bytes());
        assert_eq!(caller.head().expect("an answer").status, status);
    }
}

#[test]
fn who_dawdles_at_the_admin_port_is_let_go() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let ended = |connection: &mut Connection| {
        connection.stream().set_read_timeout(Some(seconds(70))).expect("it is TCP");
        timed(|| connection.assert_ended()).1
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let took = ended(&mut Connection::open(sidecar.admin));
            assert!(took > seconds(4) && took < seconds(30), "without a request: {took:?}");
        });
        scope.spawn(|| {
            let mut caller = Connection::open(sidecar.admin);
            caller.say("GET /livez HTTP/1.1\r\nHo");
            let took = ended(&mut caller);
            assert!(took > seconds(4) && took < seconds(20), "half a head: {took:?}");
        });
        scope.spawn(|| {
            let mut caller = Connection::open(sidecar.admin);
            let scrapes = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1_000);
            let error = (0..100_000).find_map(|_| caller.send(scrapes.as_bytes()).err()).expect("an end");
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "it was not let go");
        });
    });
}

// What others say, in the log and in metrics.

#[test]
fn words_of_others_in_the_log_are_cut_short() {
    let long = "w".repeat(20_000);
    let api = ScriptedApi::start({
        let long = long.clone();
        move |mut stream| {
            let answer = format!("HTTP/1.1 500 {long}\r\nOb-Correlation-Id: {long}\r\nOb-Trace-Id: {long}\r\n");
            let _ = stream.get_mut().write_all(format!("{answer}Content-Length: 10\r\n\r\nbroken").as_bytes());
        }
    });
    let (_provider, sidecar) = api.sidecar();
    let says = |method: &str, fields: &str| {
        let mut caller = sidecar.connect();
        let request = format!("{method} /{long} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        caller.send(request.as_bytes()).expect("it listens");
        let _ = caller.rest(&mut Vec::new());
    };
    says("GET", "Connection: close\r\n");
    says(&long[..9_000], "Connection: close\r\n");
    says("GET", &format!("Connection: close\r\nOrigin: http://{}\r\n", &long[..9_000]));
    for message in ["the API failed a request", "an answer broke off", "a request was not served"] {
        sidecar.process.logged(message);
    }
    for line in sidecar.process.stderr().lines() {
        assert!(line.len() < 2 * KIB, "{} bytes: {line}", line.len());
    }
    let failed = sidecar.process.logged("the API failed a request");
    let path = failed["path"].as_str().expect("a path");
    assert!(path.starts_with("/www") && path.ends_with("w[...]"), "{path}");
    assert!(failed.get("ob_correlation_id").is_none(), "{failed}");
}

/// Everything between quotes.
fn labels(metrics: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| line.split('"').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn labels_of_metrics_are_words_of_our_own_whatever_others_say() {
    let provider = provider(Settings::default());
    provider.set_token_error(Some((StatusCode::INTERNAL_SERVER_ERROR, "made_up")));
    let sidecar = Setup::partner(&provider).set("token.wait", "0s").start();
    let series = |metrics: &str| metrics.lines().filter(|line| !line.starts_with('#')).count();
    wait_until("a failure", || scraped(&sidecar).contains(r#"oauth_error="other""#));
    provider.set_token_error(None);
    sidecar.wait_until_it_serves();
    // All methods that are not known are one.
    sidecar.ask("METHOD", "/path", &[], b"");
    let before = series(&scraped(&sidecar));
    for number in 0..50 {
        let method = format!("METHOD{number}");
        sidecar.ask(&method, &format!("/path/{number}?query={number}"), &[("X-Request-Id", &method)], b"");
    }
    let text = scraped(&sidecar);
    assert_eq!(series(&text), before, "{text}");
    for label in labels(&text) {
        assert!(label.len() < 32 && !label.contains("made_up") && !label.contains("METHOD"), "{label}");
    }
}
