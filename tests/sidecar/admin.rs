//! What operators can have done at the admin port, and who cannot.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use http::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use token_valet::{config::TokenFault, sandbox::Settings};

use crate::{
    harness::{ACCOUNTS, AtEnd, Connection, Response, Setup, Sidecar, provider, seconds, wait_for, wait_until},
    metrics::{scraped, value},
};

const ACTS: [(&str, &str); 3] = [("POST", "/refresh"), ("PUT", "/log-level?debug"), ("POST", "/quitquitquit")];

fn ask(sidecar: &Sidecar, method: &str, page: &str, fields: &[(&str, &str)]) -> Response {
    Connection::open(sidecar.admin).ask(method, page, fields, b"").expect("an answer")
}

fn said(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).trim_end().to_owned()
}

#[test]
fn a_refresh_that_is_asked_for_brings_another_token() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    sidecar.wait_until_it_serves();
    assert_eq!(ask(&sidecar, "POST", "/refresh", &[]).status, 202);
    wait_until("another token", || value(&scraped(&sidecar), "token_generation") == 2.0);
    let counted = value(&scraped(&sidecar), r#"token_refreshes_total{cause="asked",result="success",oauth_error=""}"#);
    assert_eq!(counted, 1.0);
    sidecar.get(ACCOUNTS).assert_accounts();

    let refused = wait_for("the bound", || {
        let answer = ask(&sidecar, "POST", "/refresh", &[]);
        (answer.status != 202).then_some(answer)
    });
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), Some("10"));
}

#[test]
fn the_log_s_level_can_be_set_while_it_runs() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    sidecar.wait_until_it_serves();
    let debugged = || sidecar.process.log().iter().filter(|line| line["level"] == "DEBUG").count();
    let no_http = || sidecar.connect().send(b"no HTTP at all\r\n\r\n").expect("it listens");
    no_http();
    sidecar.get(ACCOUNTS).assert_accounts();
    assert_eq!(debugged(), 0);
    let set = ask(&sidecar, "PUT", "/log-level?debug", &[]);
    assert_eq!(
        (set.status, &*said(&set)),
        (200, "the log's level is debug until the next start, or another one in the configuration")
    );
    no_http();
    wait_until("more to be logged", || debugged() > 0);

    for word in ["/log-level?loud", "/log-level", "/log-level?"] {
        let refused = ask(&sidecar, "PUT", word, &[]);
        assert_eq!(refused.status, 400);
        assert_eq!(said(&refused), "expected ?off, ?error, ?warn, ?info, ?debug or ?trace");
    }
}

#[test]
fn the_process_drains_and_ends_when_asked_if_the_configuration_permits_it() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let refused = ask(&sidecar, "POST", "/quitquitquit", &[]);
    assert_eq!((refused.status, &*said(&refused)), (403, "only with `admin.quit = true` in the configuration"));

    let mut permitted = Setup::partner(&provider).set("admin.quit", true).start();
    permitted.wait_until_it_serves();
    assert_eq!(ask(&permitted, "POST", "/quitquitquit", &[]).status, 200);
    assert_eq!(permitted.process.exit_code(), 0);
    permitted.process.logged("ending, as asked at the admin port");
}

#[test]
fn nothing_is_done_for_browsers_nor_by_a_get() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("admin.quit", true).start();
    sidecar.wait_until_it_serves();
    for (method, page) in ACTS {
        for field in [("Origin", "http://localhost:9901"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")] {
            let refused = ask(&sidecar, method, page, &[field]);
            assert_eq!((refused.status, &*said(&refused)), (403, "not for browsers"), "{page} {field:?}");
        }
        let got = ask(&sidecar, "GET", page, &[]);
        assert_eq!((got.status, got.header("allow")), (405, Some(method)), "{page}");

        let mut rebound = Connection::open(sidecar.admin);
        rebound.send(format!("{method} {page} HTTP/1.1\r\nHost: evil.example\r\n\r\n").as_bytes()).expect("it listens");
        let refused = rebound.response(method).expect("an answer");
        let expected = "only for callers that name an IP address or localhost as the host";
        assert_eq!((refused.status, &*said(&refused)), (403, expected), "{page}");
    }
    let told = sidecar.process.logged("a request to the admin port was refused");
    assert_eq!((&told["path"], &told["error"]), (&"/refresh".into(), &"not for browsers".into()));
    assert_eq!(value(&scraped(&sidecar), "token_generation"), 1.0);
    sidecar.get(ACCOUNTS).assert_accounts();
}

/// Whoever can reach the admin port can keep it busy, but nothing else.
#[test]
fn a_flood_at_the_admin_port_keeps_no_request_and_no_token_waiting() {
    let provider = provider(Settings { token_life: seconds(2), ..Settings::default() });
    let sidecar = Setup::partner(&provider).start();
    sidecar.wait_until_it_serves();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = AtEnd(&is_over);
        for _ in 0..100 {
            scope.spawn(|| {
                let flood = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
                while !is_over.load(Relaxed) {
                    let mut caller = Connection::open(sidecar.admin);
                    // Never read. Its end is an error, and another takes its place.
                    for _ in 0..1_000 {
                        if is_over.load(Relaxed) || caller.0.get_mut().write_all(flood.as_bytes()).is_err() {
                            break;
                        }
                    }
                }
            });
        }
        let before = provider.exchanges().len();
        while provider.exchanges().len() < before + 3 {
            sidecar.get(ACCOUNTS).assert_accounts();
        }
    });
    wait_until("probes to be answered again", || sidecar.probe("/readyz") == 200);
}

#[test]
fn probes_are_answered_also_when_all_places_are_taken() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("admin.max_connections", 2).start();
    sidecar.wait_until_it_serves();
    let taken: Vec<_> = (0..2).map(|_| Connection::open(sidecar.admin)).collect();
    wait_until("the places to be taken", || ask(&sidecar, "GET", "/metrics", &[]).status == 503);
    for page in ["/livez", "/readyz", "/startupz"] {
        let answer = ask(&sidecar, "GET", page, &[]);
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{page}");
    }
    drop(taken);
    wait_until("a place to be free", || ask(&sidecar, "GET", "/metrics", &[]).status == 200);
}

/// What a probe tells with `?verbose`; its status and first word must be those that it has without.
fn reasons(sidecar: &Sidecar, page: &str) -> (u16, Value) {
    wait_for("a probe to be the same in both forms", || {
        let plain = ask(sidecar, "GET", page, &[]);
        let answer = ask(sidecar, "GET", &format!("{page}?verbose"), &[]);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let told = answer.json();
        assert_eq!(told["ok"], answer.status == 200, "{told}");
        // The state may change between the two.
        (plain.status == answer.status && told["reason"] == said(&plain)).then_some((answer.status, told))
    })
}

#[track_caller]
fn wait_for_reasons(sidecar: &Sidecar, status: u16, condition: &Value) -> Value {
    let has_all = |told: &Value| {
        let fields = condition.as_object().expect("an object");
        fields.iter().all(|(name, value)| told[name] == *value)
    };
    wait_for(&format!("{condition}"), || {
        let (found, told) = reasons(sidecar, "/readyz");
        let is_told = found == status && told["conditions"].as_array().expect("a list").iter().any(has_all);
        is_told.then_some(told)
    })
}

#[test]
fn a_probe_tells_each_condition_that_decides() {
    let provider = provider(Settings::default());
    let sidecar = Setup::by_code(&provider).set("listen.threads", 2).start();
    sidecar.wait_until_it_serves();
    let (status, mut told) = reasons(&sidecar, "/readyz");
    let due = told["conditions"][1]["next_attempt_in_s"].take().as_u64().expect("seconds");
    assert!((1..299).contains(&due), "{due}");
    let conditions = json!([
        { "name": "not_ending", "holds": true, "decides": true },
        { "name": "token_valid", "holds": true, "decides": true, "last_error": null, "next_attempt_in_s": null },
    ]);
    assert_eq!((status, told), (200, json!({ "ok": true, "reason": "ready", "conditions": conditions })));

    let (status, told) = reasons(&sidecar, "/startupz");
    assert_eq!((status, &told["conditions"][0]["name"]), (200, &"first_token".into()), "{told}");

    let (status, told) = reasons(&sidecar, "/livez");
    assert_eq!((status, &told["reason"]), (200, &"alive".into()));
    let parts = told["conditions"].as_array().expect("a list");
    let names: Vec<_> = parts.iter().map(|part| &part["name"]).collect();
    assert_eq!(names, ["thread", "thread", "refresher"]);
    for part in parts {
        assert!(part["age_s"].as_u64() < part["limit_s"].as_u64() && part["holds"] == true, "{part}");
    }

    for query in ["?", "?quiet", "?verbosely", "?x=verbose"] {
        assert_eq!(said(&ask(&sidecar, "GET", &format!("/readyz{query}"), &[])), "ready", "{query}");
    }
    for query in ["?verbose=", "?verbose=1", "?exclude=x&verbose"] {
        assert_eq!(ask(&sidecar, "GET", &format!("/readyz{query}"), &[]).json()["ok"], true, "{query}");
    }
}

#[test]
fn a_probe_tells_who_is_to_blame_and_when_it_is_tried_again_while_there_is_no_token() {
    let provider = provider(Settings { token_life: seconds(3), ..Settings::default() });
    provider.set_token_fault(Some(TokenFault::ServerError));
    let sidecar = Setup::partner(&provider).set("token.wait", "0s").set("token.retry_max", "5s").start();
    let failing = json!({ "name": "token_valid", "holds": false, "last_error": "transient" });
    let told = wait_for_reasons(&sidecar, 503, &failing);
    assert_eq!(told["reason"], "no valid access token");
    assert!(told["conditions"][1]["next_attempt_in_s"].as_u64() <= Some(5), "{told}");
    let (status, started) = reasons(&sidecar, "/startupz");
    assert_eq!((status, &started["reason"]), (503, &"waiting for the first access token".into()));
    assert_eq!(started["conditions"][0]["last_error"], "transient");

    provider.set_token_fault(None);
    wait_for_reasons(&sidecar, 200, &json!({ "name": "token_valid", "holds": true, "last_error": null }));
    provider.set_token_error(Some((StatusCode::UNAUTHORIZED, "invalid_client")));
    // The token that it has is still good.
    wait_for_reasons(&sidecar, 200, &json!({ "name": "token_valid", "holds": true, "last_error": "configuration" }));
    wait_for_reasons(&sidecar, 503, &json!({ "name": "token_valid", "holds": false, "last_error": "configuration" }));
}

#[test]
fn a_probe_tells_that_the_consent_is_gone_and_nothing_of_whose_it_was() {
    let provider = provider(Settings { token_life: seconds(3), ..Settings::default() });
    let sidecar = Setup::by_code(&provider).start();
    sidecar.wait_until_it_serves();
    let claims = ask(&sidecar, "GET", "/status", &[]).json()["token"]["claims"].take();
    provider.set_token_error(Some((StatusCode::BAD_REQUEST, "invalid_grant")));
    wait_for_reasons(&sidecar, 503, &json!({ "name": "token_valid", "holds": false, "last_error": "grant_gone" }));
    for page in ["/livez", "/startupz", "/readyz"] {
        let told = reasons(&sidecar, page).1.to_string();
        let hidden = claims.as_object().expect("claims").values().filter_map(Value::as_str);
        for hidden in hidden.chain(["invalid_grant", "The script says so."]) {
            assert!(!told.contains(hidden), "{hidden}: {told}");
        }
    }
}

#[test]
fn a_probe_tells_that_the_process_ends_and_a_token_only_where_it_decides_nothing() {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::ServerError));
    let setup = Setup::partner(&provider).set("admin.readiness", "serving").set("admin.startup", "serving");
    let mut sidecar = setup.set("shutdown.linger", "1h").start();
    wait_for_reasons(&sidecar, 200, &json!({ "name": "token_valid", "holds": false, "decides": false }));
    assert_eq!(reasons(&sidecar, "/startupz").1["reason"], "started");

    sidecar.process.signal(Signal::TERM);
    let told = wait_for_reasons(&sidecar, 503, &json!({ "name": "not_ending", "holds": false, "decides": true }));
    assert_eq!(told["reason"], "the process ends");
    sidecar.process.signal(Signal::TERM);
    assert_eq!(sidecar.process.exit_code(), 0);
}
