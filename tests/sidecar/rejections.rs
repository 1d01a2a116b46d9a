//! What happens when the API rejects a token, and when it only seems to.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use token_valet::sandbox::{ApiFault, Provider, Settings};

use crate::harness::{ACCOUNTS, Response, SINK, Setup, Sidecar, is_full_drill, provider, seconds, sha256};

/// A sidecar whose token the API will reject.
fn served(provider: &Provider) -> Sidecar {
    let sidecar = Setup::partner(provider).start();
    sidecar.wait_until_it_serves();
    sidecar
}

/// How long a state is watched: long enough to see a storm, or the whole first hold of the breaker.
fn while_watched(mut each: impl FnMut()) {
    let (start, span) = (Instant::now(), if is_full_drill() { seconds(29) } else { seconds(4) });
    while start.elapsed() < span {
        each();
        // The pace.
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_thousand_simultaneous_rejections_cost_one_token_request_and_no_request() {
    let provider = provider(Settings::default());
    let sidecar = served(&provider);
    let before = provider.exchanges().len();
    let barrier = Barrier::new(1_000);
    provider.revoke_tokens();
    thread::scope(|scope| {
        // Connected here: one that fails within its thread would never come to the barrier.
        let connections: Vec<_> = (0..1_000).map(|_| sidecar.connect()).collect();
        let callers: Vec<_> = connections
            .into_iter()
            .map(|mut caller| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
                })
            })
            .collect();
        for caller in callers {
            caller.join().expect("every request is served");
        }
    });
    assert_eq!(provider.exchanges().len(), before + 1);
    assert!(provider.tally().revoked > 0, "no request was rejected");
}

#[test]
fn requests_under_way_when_the_token_is_revoked_are_served_with_one_token_request() {
    let provider = provider(Settings::default());
    let sidecar = served(&provider);
    let before = provider.exchanges().len();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..100)
            .map(|_| scope.spawn(|| (0..5).map(|_| sidecar.get(ACCOUNTS).status).collect::<Vec<_>>()))
            .collect();
        provider.revoke_tokens();
        for caller in callers {
            assert_eq!(caller.join().expect("no panic"), [200; 5]);
        }
    });
    assert_eq!(provider.exchanges().len(), before + 1);
}

#[test]
fn an_api_that_rejects_every_token_costs_two_token_requests_and_is_passed_on() {
    let provider = provider(Settings::default());
    let sidecar = served(&provider);
    let before = provider.exchanges().len();
    provider.set_api_fault(Some(ApiFault::AlwaysUnauthorized));
    while_watched(|| {
        let response = sidecar.get(ACCOUNTS);
        assert_eq!((response.status, response.header("x-token-valet-error")), (401, None));
    });
    let cost = provider.exchanges().len() - before;
    assert!((1..=2).contains(&cost), "{cost} token requests");
}

#[test]
fn a_revoked_consent_is_the_api_s_own_answer_and_costs_no_token_request() {
    for (fault, coding) in [(ApiFault::ConsentRevoked, None), (ApiFault::ConsentRevokedGzip, Some("gzip"))] {
        let provider = provider(Settings::default());
        let sidecar = served(&provider);
        let before = provider.exchanges().len();
        provider.set_api_fault(Some(fault));
        while_watched(|| {
            let response = sidecar.ask("GET", ACCOUNTS, &[("Accept-Encoding", "gzip")], b"");
            assert_eq!((response.status, response.header("content-encoding")), (401, coding));
            assert_eq!(code(&response), 602);
        });
        assert_eq!(provider.exchanges().len(), before);
    }
}

fn code(response: &Response) -> u64 {
    let body = match response.header("content-encoding") {
        Some(_) => {
            let mut plain = Vec::new();
            std::io::copy(&mut flate2::read::GzDecoder::new(&response.body[..]), &mut plain).expect("gzip");
            plain
        }
        None => response.body.clone(),
    };
    let body: serde_json::Value = serde_json::from_slice(&body).expect("FDX");
    body["code"].as_u64().expect("a code")
}

#[test]
fn one_path_that_always_says_401_beside_healthy_ones_costs_two_token_requests() {
    let provider = provider(Settings::default());
    let sidecar = served(&provider);
    let before = provider.exchanges().len();
    while_watched(|| {
        sidecar.get(ACCOUNTS).assert_accounts();
        assert_eq!(sidecar.get("/sandbox/status/401").status, 401);
    });
    let cost = provider.exchanges().len() - before;
    assert!((1..=2).contains(&cost), "{cost} token requests");
}

#[test]
fn a_short_body_is_sent_again_byte_for_byte_and_a_long_one_is_not() {
    let provider = provider(Settings::default());
    let sidecar = served(&provider);
    let short: Vec<u8> = (0..60_000_u32).map(|i| (i % 251) as u8).collect();
    provider.revoke_tokens();
    let response = sidecar.ask("POST", SINK, &[], &short);
    assert_eq!(response.status, 200);
    assert_eq!(response.json()["sha256"], sha256(&short));

    provider.revoke_tokens();
    let long = vec![7; 70_000];
    assert_eq!(sidecar.ask("POST", SINK, &[], &long).status, 401);
    sidecar.wait_until_it_serves();
    assert_eq!(sidecar.ask("POST", SINK, &[], &long).status, 200);
}

#[test]
fn what_is_sent_again_is_the_same_request_but_for_its_token() {
    let provider = provider(Settings::default());
    let sidecar = served(&provider);
    provider.revoke_tokens();
    let fields =
        [("X-Kept", "first"), ("X-Kept", "second"), ("Cookie", "a=b"), ("TE", "trailers"), ("Range", "bytes=0-")];
    assert_eq!(sidecar.ask("POST", SINK, &fields, b"twice").status, 200);

    let mut requests: Vec<_> = provider.requests().into_iter().filter(|seen| seen.target == SINK).collect();
    let tokens: Vec<_> = requests.iter_mut().map(|seen| seen.headers.remove("authorization")).collect();
    let [first, second] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((&first.method, &first.headers), (&second.method, &second.headers));
    assert_eq!(first.headers.get_all("x-kept").iter().collect::<Vec<_>>(), ["first", "second"]);
    assert_ne!(tokens[0], tokens[1]);
}

#[test]
fn after_a_403_only_a_safe_request_is_sent_again() {
    let provider = provider(Settings { refusal: http::StatusCode::FORBIDDEN, ..Settings::default() });
    let sidecar = served(&provider);
    provider.revoke_tokens();
    sidecar.get(ACCOUNTS).assert_accounts();

    provider.revoke_tokens();
    assert_eq!(sidecar.ask("POST", SINK, &[], b"once only").status, 403);
    sidecar.wait_until_it_serves();
    assert_eq!(sidecar.ask("POST", SINK, &[], b"once only").status, 200);
}

#[test]
fn a_head_request_is_sent_again_after_a_401() {
    let provider = provider(Settings::default());
    let sidecar = served(&provider);
    provider.revoke_tokens();
    assert_eq!(sidecar.ask("HEAD", ACCOUNTS, &[], b"").status, 200);
}

#[test]
fn without_rejection_statuses_a_401_is_passed_on_and_costs_nothing() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("token.rejection_statuses", Vec::<u16>::new()).start();
    sidecar.wait_until_it_serves();
    let before = provider.exchanges().len();
    provider.revoke_tokens();
    while_watched(|| assert_eq!(sidecar.get(ACCOUNTS).status, 401));
    assert_eq!(provider.exchanges().len(), before);
}

#[test]
fn when_the_token_endpoint_fails_too_the_rejection_is_passed_on_until_it_heals() {
    let provider = provider(Settings::default());
    let sidecar = served(&provider);
    provider.set_token_error(Some((http::StatusCode::INTERNAL_SERVER_ERROR, "server_error")));
    provider.revoke_tokens();
    assert_eq!(sidecar.get(ACCOUNTS).status, 401);
    provider.set_token_error(None);
    sidecar.wait_until_it_serves();
}
