//! Large bodies over HTTP/2 on both sides: what they cost in memory, and in time.

use std::{fs, time::Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use h2::{RecvStream, SendStream};
use token_valet::sandbox::Settings;

use super::{
    api::{Api, Call},
    before,
    caller::{Caller, request},
    run, setup,
};
use crate::harness::{Process, Sidecar, is_full_drill, provider};

const MIB: usize = 1024 * 1024;
const PIECE: usize = 64 * 1024;
/// Of the whole process, in KiB.
const LIMIT: u64 = 48 * 1024;

/// The most memory that a process has had, in KiB.
pub(super) fn peak(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a known name");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
}

/// Sends so many bytes, as fast as they are taken.
async fn pour(stream: &mut SendStream<Bytes>, mut count: usize) -> Result<(), h2::Error> {
    let piece = Bytes::from(vec![b'x'; PIECE]);
    while count > 0 {
        stream.reserve_capacity(PIECE.min(count));
        let Some(capacity) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Err(h2::Reason::CANCEL.into());
        };
        let part = capacity?.min(count).min(PIECE);
        stream.send_data(piece.slice(..part), false)?;
        count -= part;
    }
    stream.send_data(Bytes::new(), true)
}

async fn count(body: &mut RecvStream) -> Result<usize, h2::Error> {
    let mut count = 0;
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
        count += length;
    }
    Ok(count)
}

fn wide() -> h2::server::Builder {
    let mut settings = h2::server::Builder::new();
    settings.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    settings
}

/// `GET /<bytes>` answers with so many; anything else is counted.
async fn source_and_sink(mut call: Call) {
    if let Ok(bytes) = call.head.uri.path()[1..].parse() {
        let mut stream = call.begin(200, &[]);
        // An error means that the caller has gone, and finds out.
        let _ = pour(&mut stream, bytes).await;
    } else {
        let counted = count(&mut call.body).await.map_or_else(|error| error.to_string(), |count| count.to_string());
        call.answer(200, &[], counted);
    }
}

async fn caller(sidecar: &Sidecar) -> Caller {
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    Caller::with(sidecar.address, &settings).await
}

async fn upload(caller: &Caller, bytes: usize) {
    let head = request("POST", "/sink").body(()).expect("a head");
    let (response, mut stream) = caller.send(head, false).await.expect("it listens");
    pour(&mut stream, bytes).await.expect("it listens");
    let answer = super::caller::answer(response).await.expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer.body), bytes.to_string());
}

async fn download(caller: &Caller, bytes: usize) {
    let head = request("GET", &format!("/{bytes}")).body(()).expect("a head");
    let (response, _) = caller.send(head, true).await.expect("it listens");
    let mut body = response.await.expect("a head").into_body();
    assert_eq!(count(&mut body).await.expect("a whole body"), bytes);
}

#[test]
fn eight_large_bodies_at_once_each_way_stay_within_48_mib() {
    let bytes = if is_full_drill() { 100 } else { 25 } * MIB;
    let api = Api::with(None, wide(), source_and_sink);
    let (_provider, sidecar) = before(&api);
    run(async {
        // Half of them on one connection, and half on one each.
        let shared = caller(&sidecar).await;
        let mut own = Vec::new();
        for _ in 0..4 {
            own.push(caller(&sidecar).await);
        }
        let callers: Vec<_> = own.iter().chain([&shared, &shared, &shared, &shared]).collect();
        join_all(callers.iter().map(|caller| upload(caller, bytes))).await;
        join_all(callers.iter().map(|caller| download(caller, bytes))).await;
    });
    let peak = peak(&sidecar.process);
    assert!((1024..LIMIT).contains(&peak), "VmHWM {peak} KiB");
    report(&format!("VmHWM {peak} KiB"));
}

#[test]
fn one_large_body_is_not_slowed_by_the_windows() {
    let bytes = if is_full_drill() { 100 } else { 25 } * MIB;
    let api = Api::with(None, wide(), source_and_sink);
    let provider = provider(Settings::default());
    let sidecar = setup(&provider, &api).start();
    let timed = |path: &'static str| {
        run(async {
            let caller = caller(&sidecar).await;
            let start = Instant::now();
            if path == "up" {
                upload(&caller, bytes).await
            } else {
                download(&caller, bytes).await
            }
            start.elapsed()
        })
    };
    let mut old = sidecar.connect();
    let start = Instant::now();
    old.send_head("GET", &format!("/{bytes}"), &[]).expect("it listens");
    let head = old.head().expect("a head");
    old.body(&head, &mut std::io::sink()).expect("a whole body");
    let old = start.elapsed();
    report(&format!(
        "{bytes} bytes: down {:?}, up {:?}; down over HTTP/1.1 to the caller {old:?}",
        timed("down"),
        timed("up")
    ));
}

#[expect(clippy::print_stderr, reason = "figures for whoever asks with --nocapture")]
fn report(figures: &str) {
    eprintln!("{figures}");
}
