//! What operators can have done at the admin port, and who cannot.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use token_valet::sandbox::Settings;

use crate::{
    harness::{ACCOUNTS, Connection, Response, Setup, Sidecar, provider, seconds, wait_for, wait_until},
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
        is_over.store(true, Relaxed);
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
