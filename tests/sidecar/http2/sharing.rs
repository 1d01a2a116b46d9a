//! Connections that many requests share.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{sync::Semaphore, time::sleep};

use super::{
    api::Api,
    before,
    caller::{Caller, answer, request},
    eventually, run,
};
use crate::harness::{DEADLINE, Sidecar};

/// So many requests at once, all of which must be answered with 200.
async fn all_at_once(sidecar: &Sidecar, count: usize) {
    let mut callers = Vec::new();
    for _ in 0..count.div_ceil(100) {
        callers.push(Caller::connect(sidecar.address).await);
    }
    let answers = join_all((0..count).map(|number| callers[number / 100].get("/"))).await;
    for answer in answers {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[test]
fn two_hundred_first_requests_at_once_open_few_connections() {
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(250);
    let api = Api::with(None, settings, |mut call| async move {
        sleep(Duration::from_millis(50)).await;
        call.answer(200, &[], "ok");
    });
    let (_provider, sidecar) = before(&api);
    run(all_at_once(&sidecar, 200));
    let connections = api.record().connections.len();
    // At most 64 requests each, whatever the API allows.
    assert!(connections <= 4, "{connections}");
    // And those that are there are used again.
    run(all_at_once(&sidecar, 100));
    assert_eq!(api.record().connections.len(), connections);
}

#[test]
fn requests_at_once_share_a_connection() {
    let gate = Arc::new(Semaphore::new(0));
    let api = Api::start({
        let gate = Arc::clone(&gate);
        move |mut call| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("it is open").forget();
                call.answer(200, &[], "ok");
            }
        }
    });
    let (_provider, sidecar) = before(&api);
    run(async {
        let all = all_at_once(&sidecar, 50);
        let open = async {
            eventually("all to be there at once", || api.record().open.first().is_some_and(|open| open.0 == 50)).await;
            gate.add_permits(50);
        };
        tokio::join!(all, open);
    });
    assert_eq!(api.record().connections, ["h2"]);
}

#[test]
fn more_requests_than_a_connection_may_carry_are_all_served() {
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(10);
    let api = Api::with(None, settings, |mut call| async move {
        sleep(Duration::from_millis(10)).await;
        call.answer(200, &[], "ok");
    });
    let (_provider, sidecar) = before(&api);
    for _ in 0..3 {
        run(all_at_once(&sidecar, 100));
    }
    let record = api.record();
    assert_eq!(record.requests.len(), 300);
    assert!(record.open.iter().all(|(_, most)| *most <= 10), "{:?}", record.open);
    assert!(record.connections.len() <= 11, "{}", record.connections.len());
}

#[test]
fn an_api_that_allows_one_request_at_a_time_gets_as_many_connections() {
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(1);
    let api = Api::with(None, settings, |mut call| async move { call.answer(200, &[], "ok") });
    let (_provider, sidecar) = before(&api);
    run(all_at_once(&sidecar, 20));
    run(all_at_once(&sidecar, 20));
    assert_eq!(api.record().requests.len(), 40);
}

/// Or a request would wait inside the connection for a stream, with a token that grows old.
#[test]
fn a_stream_whose_upload_outlasts_its_answer_is_not_given_to_another_request() {
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(1);
    let api = Api::with(None, settings, |mut call| async move {
        call.answer(200, &[], "ok");
        if call.head.method == "POST" {
            // The upload is neither read nor reset.
            sleep(3 * DEADLINE).await;
        }
    });
    let (_provider, sidecar) = before(&api);
    run(async {
        let uploader = Caller::connect(sidecar.address).await;
        let head = request("POST", "/").body(()).expect("a head");
        let (response, _upload) = uploader.send(head, false).await.expect("it listens");
        assert_eq!(answer(response).await.expect("an answer").status, 200);
        let caller = Caller::connect(sidecar.address).await;
        assert_eq!(caller.get("/").await.expect("an answer").status, 200);
    });
    assert_eq!(api.record().connections.len(), 2);
}
