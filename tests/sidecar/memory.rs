//! What a large body costs in memory: nothing that grows with it.

use std::{fs, io};

use serde_json::json;
use token_valet::sandbox::Settings;

use crate::harness::{ACCOUNTS, Process, SINK, Setup, provider};

const BODY: usize = 100 * 1024 * 1024;
/// Of the whole process, in KiB.
const LIMIT: u64 = 32 * 1024;

/// A value of `/proc/PID/status`, in KiB.
fn status(process: &Process, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a known name");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
}

#[test]
fn hundred_megabytes_up_and_down_stay_within_32_mib() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let mut caller = sidecar.connect();
    caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();

    let piece = vec![b'x'; 1024 * 1024];
    caller.send_head("POST", SINK, &[("Content-Length", &BODY.to_string())]).expect("it listens");
    for _ in 0..BODY / piece.len() {
        caller.send(&piece).expect("it listens");
    }
    assert_eq!(caller.response("POST").expect("an answer").json()["bytes"], json!(BODY));
    let (up, peak_up) = (status(&sidecar.process, "VmRSS:"), status(&sidecar.process, "VmHWM:"));

    caller.send_head("GET", &format!("/sandbox/chunked/{BODY}"), &[]).expect("it listens");
    let head = caller.head().expect("a head");
    let mut count = Count(0);
    caller.body(&head, &mut count).expect("a whole body");
    assert_eq!(count.0, BODY);
    let (down, peak) = (status(&sidecar.process, "VmRSS:"), status(&sidecar.process, "VmHWM:"));

    // Both are there, and of a process that does something.
    assert!(up > 1024 && peak_up >= up, "VmRSS {up} KiB, VmHWM {peak_up} KiB");
    assert!(peak < LIMIT, "VmRSS {up} then {down} KiB, VmHWM {peak_up} then {peak} KiB");
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
