//! The mix-up test: hundreds of callers at once, bodies of all sizes, both ends breaking off at random.
//! No answer may be wrong, another request's, or silently short, and nothing may be left over.
//!
//! In short by default; `TOKEN_VALET_DRILL=full` takes 256 callers and 200,000 requests. The outcomes
//! are printed (`--nocapture`). `MIXUP_SEED` repeats the requests of a run that failed.

mod api;
mod caller;
mod plan;
mod wire;

use std::{
    collections::hash_map::RandomState,
    env,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use token_valet::sandbox::Settings;

use self::{api::Book, caller::Caller, plan::Plan};
use crate::harness::{Setup, Sidecar, is_full_drill, provider, raise_descriptor_limit, wait_until};

/// How many rounds come first: the most that is in use after one of them is the level to return to.
const WARM_UPS: u32 = 3;
/// How many more small rounds are sent while the memory in use is above its level: what the allocator
/// happens to keep differs by some MiB from round to round, but a leak only grows.
const MORE_ROUNDS: u32 = 5;

/// How much is sent.
struct Load {
    callers: usize,
    warm_up: u32,
    requests: u32,
    /// What the allocator may still come to keep after so short a warm-up, in KiB.
    slack: u64,
}

#[test]
fn no_answer_is_wrong_mixed_up_or_short_and_nothing_is_left_over() {
    raise_descriptor_limit();
    let Load { callers, warm_up, requests, slack } = if is_full_drill() {
        Load { callers: 256, warm_up: 20_000, requests: 200_000, slack: 0 }
    } else {
        Load { callers: 64, warm_up: 700, requests: 5_000, slack: 8 * 1024 }
    };
    let seed = env::var("MIXUP_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    show(&format!("MIXUP_SEED={seed}"));
    let book = Arc::new(Book::new(seed, requests + (WARM_UPS + MORE_ROUNDS) * warm_up));
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider)
        .set("upstream.url", format!("http://{}", api::start(&book)))
        .set("upstream.pool_idle_timeout", "1s")
        .set("log.access", "off")
        .start();
    wait_until("the sidecar to be ready", || sidecar.probe("/readyz") == 200);
    let next = AtomicU32::new(0);
    let round = |count| round(&sidecar, &book, callers, &next, count);

    let before = sidecar.process.descriptors();
    let warm_up_once = |_| {
        round(warm_up);
        Usage::once_idle(&sidecar, before)
    };
    let warm: Vec<_> = (0..WARM_UPS).map(warm_up_once).collect();
    let most = warm.iter().max_by_key(|usage| usage.memory).expect("one at least");
    let level = Usage { memory: most.memory + slack, ..*most };
    let start = Instant::now();
    round(requests);
    let (took, peak) = (start.elapsed(), sidecar.process.memory("VmHWM"));
    assert_sound(&book, &next, seed);
    show(&format!("{requests} requests of {callers} callers in {took:.1?}, VmHWM {peak} KiB"));

    let mut end = Usage::once_idle(&sidecar, before);
    show(&format!("after the warm-ups {warm:?}, at the end {end:?}"));
    for _ in 0..MORE_ROUNDS {
        if end.is_within(&level) {
            break;
        }
        round(warm_up);
        end = Usage::once_idle(&sidecar, before);
        show(&format!("after {warm_up} more {end:?}"));
    }
    assert!(end.is_within(&level), "after the warm-ups {warm:?}, at the end {end:?}");
    assert_sound(&book, &next, seed);
}

/// What the sidecar has in use.
#[derive(Debug)]
struct Usage {
    descriptors: usize,
    /// In KiB.
    memory: u64,
}

impl Usage {
    /// Waits until it has closed the pool's connections too: until it has no more open than `before`.
    fn once_idle(sidecar: &Sidecar, before: usize) -> Self {
        let process = &sidecar.process;
        wait_until("the descriptors to be closed", || process.descriptors() <= before);
        Self { descriptors: process.descriptors(), memory: process.memory("VmRSS") }
    }

    fn is_within(&self, level: &Self) -> bool {
        let is_within = |now: u64, level: u64| now <= level + level / 10;
        is_within(self.memory, level.memory) && is_within(self.descriptors as u64, level.descriptors as u64)
    }
}

/// Shows what became of the requests so far, in which nothing may be wrong.
#[track_caller]
fn assert_sound(book: &Book, sent: &AtomicU32, seed: u64) {
    let (tally, violations) = (book.tally(), book.violations());
    for (outcome, count) in &tally {
        show(&format!("{count:>7} {outcome}"));
    }
    let some: Vec<_> = violations.iter().take(20).map(|what| format!("{what}\n")).collect();
    assert!(violations.is_empty(), "MIXUP_SEED={seed}, {} faults:\n{}", violations.len(), some.concat());
    let whole: u64 = tally.iter().filter(|(outcome, _)| outcome.ends_with(": whole")).map(|(_, count)| count).sum();
    let sent = u64::from(sent.load(Relaxed));
    assert_eq!(tally.values().sum::<u64>(), sent, "MIXUP_SEED={seed}");
    assert!(whole > sent * 7 / 10, "MIXUP_SEED={seed}: only {whole} of {sent} were answered");
}

#[expect(clippy::print_stdout, reason = "the figures are what the test is run for")]
fn show(text: &str) {
    println!("{text}");
}

/// Sends the next so many requests, and ends with all callers gone.
fn round(sidecar: &Sidecar, book: &Book, callers: usize, next: &AtomicU32, count: u32) {
    let left = AtomicU32::new(count);
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                let mut caller = Caller { address: sidecar.address, book, link: None, early: None };
                while left.try_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    caller.call(&Plan::of(book.seed, next.fetch_add(1, Relaxed)));
                }
            });
        }
    });
}
