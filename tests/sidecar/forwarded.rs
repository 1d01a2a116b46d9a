//! What the API and the log are told of where a request comes from.

use serde_json::{Value, json};
use token_valet::sandbox::Provider;

use crate::{
    harness::{Sidecar, wait_for},
    raw_api::{Asked, RawApi},
};

const INTRODUCTIONS: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "via", "x-request-id"];

fn start(choice: Option<&str>) -> (RawApi, Provider, Sidecar) {
    let api = RawApi::start();
    let (provider, sidecar) = api.sidecar(|setup| {
        let setup = setup.set("log.access", "all");
        match choice {
            Some(choice) => setup.set("upstream.forwarded", choice),
            None => setup,
        }
    });
    (api, provider, sidecar)
}

/// Makes a request with these fields; gives what the API got of it.
#[track_caller]
fn introduced(api: &RawApi, sidecar: &Sidecar, fields: &str) -> Asked {
    answered(api, sidecar, &format!("GET /a?secret=1 HTTP/1.1\r\nHost: localhost:81\r\n{fields}\r\n"), "")
}

/// The same for a whole request, answered with these fields.
#[track_caller]
fn answered(api: &RawApi, sidecar: &Sidecar, request: &str, fields: &str) -> Asked {
    let mut caller = sidecar.connect();
    caller.say(request);
    let (mut upstream, asked) = api.asked();
    upstream.say(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}Content-Length: 2\r\n\r\nok"));
    assert_eq!(caller.response("GET").expect("an answer").body, b"ok");
    asked
}

/// The line of the newest of so many requests.
#[track_caller]
fn line(sidecar: &Sidecar, count: usize) -> Value {
    wait_for("the line of a request", || {
        let log = sidecar.process.log();
        let lines: Vec<_> = log.into_iter().filter(|line| line["message"] == "a request was forwarded").collect();
        lines.get(count - 1).cloned()
    })
}

#[test]
fn nothing_is_added_by_default_and_what_the_caller_says_passes() {
    for choice in [None, Some("off")] {
        let (api, _provider, sidecar) = start(choice);
        let asked = introduced(&api, &sidecar, "");
        let mut names: Vec<_> = asked.fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "host"]);

        let own = "Forwarded: for=10.0.0.1\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Host: h\r\n\
                   X-Forwarded-Proto: https\r\nVia: 1.0 before\r\nX-Request-Id: mine\r\n";
        let asked = introduced(&api, &sidecar, own);
        let said = INTRODUCTIONS.map(|name| asked.all(name).join("|"));
        assert_eq!(said, ["for=10.0.0.1", "10.0.0.1", "h", "https", "1.0 before", "mine"]);
    }
}

#[test]
fn x_forwarded_says_who_asked_and_under_what_name() {
    let (api, _provider, sidecar) = start(Some("x-forwarded"));
    let asked = introduced(&api, &sidecar, "");
    let [forwarded, address, host, proto, via, id] = INTRODUCTIONS.map(|name| asked.all(name));
    assert_eq!((address, host, proto), (vec!["127.0.0.1"], vec!["localhost:81"], vec!["http"]));
    assert_eq!((via, forwarded.len()), (vec!["1.1 token-valet"], 0));
    assert!(id.len() == 1 && id[0].len() == 32, "{id:?}");
    assert_eq!(line(&sidecar, 1)["request_id"], id[0], "one id in both logs");

    let own = "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX-Forwarded-Host: first\r\n\
               X-Forwarded-Proto: https\r\nVia: 1.0 before\r\nX-Request-Id: mine\r\n";
    let asked = introduced(&api, &sidecar, own);
    let said = INTRODUCTIONS.map(|name| asked.all(name).join("|"));
    assert_eq!(said, ["", "10.0.0.1, 10.0.0.2, 127.0.0.1", "first", "https", "1.0 before, 1.1 token-valet", "mine"]);
    assert_eq!(asked.all("host"), [api.address().to_string().as_str()]);
}

#[test]
fn forwarded_says_it_in_the_form_of_the_standard() {
    let (api, _provider, sidecar) = start(Some("forwarded"));
    let asked = introduced(&api, &sidecar, "Forwarded: for=10.0.0.1\r\n");
    assert_eq!(asked.all("forwarded"), ["for=10.0.0.1, for=127.0.0.1;host=\"localhost:81\";proto=http"]);
    assert_eq!(asked.all("via"), ["1.1 token-valet"]);
    assert!(!asked.has("x-forwarded-for") && asked.has("x-request-id"));
}

#[test]
fn fields_that_the_caller_names_as_its_connections_own_are_said_anew() {
    let (api, _provider, sidecar) = start(Some("x-forwarded"));
    let own = "Connection: x-forwarded-for, via, x-request-id\r\nX-Forwarded-For: 10.0.0.1\r\nVia: 1.0 a\r\n\
               X-Request-Id: mine\r\n";
    let asked = introduced(&api, &sidecar, own);
    assert_eq!((asked.all("x-forwarded-for"), asked.all("via")), (vec!["127.0.0.1"], vec!["1.1 token-valet"]));
    assert_ne!(asked.all("x-request-id"), ["mine"]);
}

// The log.

#[test]
fn lines_have_the_ids_by_which_others_know_a_request_and_never_the_query() {
    let (api, _provider, sidecar) = start(None);
    let request = "GET /a?secret=1 HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine-1\r\n\r\n";
    answered(&api, &sidecar, request, "OB-Correlation-Id: c-1\r\nOB-Trace-Id: t-1\r\n");
    let line = line(&sidecar, 1);
    assert_eq!([&line["request_id"], &line["ob_correlation_id"], &line["ob_trace_id"]], ["mine-1", "c-1", "t-1"]);
    assert_eq!((&line["path"], &line["status"], &line["method"]), (&json!("/a"), &json!(200), &json!("GET")));
    // The absolute form has a query too; and so has a request that fails.
    answered(&api, &sidecar, "GET http://localhost/a?secret=2 HTTP/1.1\r\nHost: localhost\r\n\r\n", "");
    self::line(&sidecar, 2);
    sidecar.ask("TRACE", "/a?secret=3", &[], b"").assert_problem(405, "method_not_allowed");
    sidecar.process.logged("a request was not served");
    // One that fails after it was sent.
    let mut caller = sidecar.connect();
    caller.say("GET /a?secret=4 HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine-4\r\n\r\n");
    drop(api.asked());
    assert_eq!(caller.response("GET").expect("an answer").status, 502);
    let failed = |line: &Value| line["message"] == "a request was not served" && line["request_id"] == "mine-4";
    wait_for("its line", || sidecar.process.log().into_iter().find(failed));
    assert!(!sidecar.process.stderr().contains("secret="), "a query was logged");
}

#[test]
fn ids_that_are_not_fit_for_a_log_are_not_in_it() {
    let (api, _provider, sidecar) = start(None);
    let long = "x".repeat(129);
    for (nth, bad) in [long.as_str(), "a b", "a\tb", "\u{e9}", ""].into_iter().enumerate() {
        let request = format!("GET /a HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {bad}\r\n\r\n");
        let fields = format!("OB-Correlation-Id: {bad}\r\nOB-Trace-Id: {bad}\r\n");
        let asked = answered(&api, &sidecar, &request, &fields);
        assert_eq!(asked.all("x-request-id"), [bad], "it passes all the same");
        let line = line(&sidecar, nth + 1);
        assert!(line.get("ob_correlation_id").is_none() && line.get("ob_trace_id").is_none(), "{line}");
        let made = line["request_id"].as_str().expect("an id made for this line");
        assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
    }
    let edge = "y".repeat(128);
    answered(&api, &sidecar, &format!("GET /a HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {edge}\r\n\r\n"), "");
    assert_eq!(line(&sidecar, 6)["request_id"], edge.as_str());
}

#[test]
fn traceparent_passes_as_it_is_and_lines_have_the_trace_s_id_if_it_is_well_formed() {
    let (api, _provider, sidecar) = start(Some("x-forwarded"));
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let asked = introduced(&api, &sidecar, &format!("traceparent: {good}\r\ntracestate: a=1,b=2\r\n"));
    assert_eq!((asked.all("traceparent"), asked.all("tracestate")), (vec![good], vec!["a=1,b=2"]));
    assert_eq!(line(&sidecar, 1)["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");

    let bad = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
    let asked = introduced(&api, &sidecar, &format!("traceparent: {bad}\r\n"));
    assert_eq!(asked.all("traceparent"), [bad], "it passes all the same");
    assert!(!introduced(&api, &sidecar, "").has("traceparent"), "none is made up");
    assert!((2..=3).all(|nth| line(&sidecar, nth).get("trace_id").is_none()));

    sidecar.ask("TRACE", "/a", &[("traceparent", good)], b"").assert_problem(405, "method_not_allowed");
    let refused = sidecar.process.logged("a request was not served");
    assert_eq!(refused["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[test]
fn fields_of_the_configuration_are_set_whatever_the_caller_says() {
    let api = RawApi::start();
    let fields = json!({ "X-Api-Version": "5", "Accept": "application/json", "X-Request-Id": "ours" });
    let (_provider, sidecar) =
        api.sidecar(|setup| setup.set("upstream.set_headers", fields).set("upstream.forwarded", "forwarded"));
    let said = "Accept: text/html\r\nAccept: */*\r\nX-Request-Id: theirs\r\nConnection: X-Api-Version\r\n";
    let asked = introduced(&api, &sidecar, said);
    for (name, value) in [("x-api-version", "5"), ("accept", "application/json"), ("x-request-id", "ours")] {
        assert_eq!(asked.all(name), [value], "{asked:?}");
    }
}
