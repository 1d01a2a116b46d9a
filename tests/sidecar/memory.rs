//! What large bodies cost in memory: nothing that grows with them.

use std::{io, thread};

use serde_json::json;
use token_valet::sandbox::Settings;

use crate::harness::{ACCOUNTS, Connection, SINK, Setup, Sidecar, is_full_drill, provider};

const MEGABYTES: usize = 1024 * 1024;
/// How many bodies each way are on their way at once.
const PARALLEL: usize = 8;

#[test]
fn hundred_megabytes_up_and_down_stay_within_32_mib() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let mut caller = sidecar.connect();
    caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();

    let body = 100 * MEGABYTES;
    upload(&mut caller, body);
    let (up, peak_up) = (sidecar.process.memory("VmRSS"), sidecar.process.memory("VmHWM"));
    download(&mut caller, body);
    let (down, peak) = (sidecar.process.memory("VmRSS"), sidecar.process.memory("VmHWM"));

    // Both are there, and of a process that does something.
    assert!(up > 1024 && peak_up >= up, "VmRSS {up} KiB, VmHWM {peak_up} KiB");
    assert!(peak < 32 * 1024, "VmRSS {up} then {down} KiB, VmHWM {peak_up} then {peak} KiB");
}

#[test]
fn eight_bodies_up_and_eight_down_at_once_stay_within_48_mib() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let body = if is_full_drill() { 100 * MEGABYTES } else { 25 * MEGABYTES };
    assert_stays_within(48 * 1024, &sidecar, body);
}

/// Moves bodies both ways, each on a connection of its own and all at once.
#[track_caller]
fn assert_stays_within(limit: u64, sidecar: &Sidecar, body: usize) {
    sidecar.get(ACCOUNTS).assert_accounts();
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| upload(&mut sidecar.connect(), body));
            scope.spawn(|| download(&mut sidecar.connect(), body));
        }
    });
    let (now, peak) = (sidecar.process.memory("VmRSS"), sidecar.process.memory("VmHWM"));
    #[expect(clippy::print_stdout, reason = "the figures are what the drill is run for")]
    {
        println!("{PARALLEL} bodies of {body} bytes each way: VmRSS {now} KiB, VmHWM {peak} KiB");
    }
    assert!(peak < limit, "VmRSS {now} KiB, VmHWM {peak} KiB");
}

fn upload(caller: &mut Connection, body: usize) {
    let piece = vec![b'x'; MEGABYTES];
    caller.send_head("POST", SINK, &[("Content-Length", &body.to_string())]).expect("it listens");
    for _ in 0..body / piece.len() {
        caller.send(&piece).expect("it listens");
    }
    assert_eq!(caller.response("POST").expect("an answer").json()["bytes"], json!(body));
}

fn download(caller: &mut Connection, body: usize) {
    caller.send_head("GET", &format!("/sandbox/chunked/{body}"), &[]).expect("it listens");
    let head = caller.head().expect("a head");
    let mut count = Count(0);
    caller.body(&head, &mut count).expect("a whole body");
    assert_eq!(count.0, body);
}

/// Counts what it is given, and keeps none of it.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
