//! Steady use over several lives of the token: nobody notices that it changes.

use std::{
    thread,
    time::{Duration, Instant},
};

use token_valet::sandbox::Settings;

use crate::harness::{ACCOUNTS, Setup, is_full_drill, provider, seconds};

const CALLERS: usize = 4;
/// Of each caller: about 50 requests a second in all.
const PAUSE: Duration = Duration::from_millis(80);
const LIFE: Duration = seconds(3);
/// A token of 3 s is sent for 2.25 s, and refreshed after 70 % of that at the earliest.
const SHORTEST_INTERVAL: f64 = 2.25 * 0.7;

#[test]
fn no_request_fails_or_carries_an_expired_token_while_tokens_come_and_go() {
    let provider = provider(Settings { token_life: LIFE, ..Settings::default() });
    let sidecar = Setup::partner(&provider).start();
    sidecar.wait_until_it_serves();
    let (start, duration) = (Instant::now(), if is_full_drill() { seconds(60) } else { seconds(8) });
    let served: u32 = thread::scope(|scope| {
        let call = || {
            let mut caller = sidecar.connect();
            let mut served = 0;
            while start.elapsed() < duration {
                caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer").assert_accounts();
                served += 1;
                // The pace, not a wait for something.
                thread::sleep(PAUSE);
            }
            served
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(call)).collect();
        callers.into_iter().map(|caller| caller.join().expect("every request is served")).sum()
    });

    let tally = provider.tally();
    assert_eq!((tally.expired, tally.revoked, tally.unknown, tally.missing), (0, 0, 0, 0), "{tally:?}");
    assert!(tally.valid > u64::from(served), "the first request came before: {served}, {tally:?}");
    assert!(served as usize > 10 * CALLERS, "it was no steady use: {served}");

    let exchanges = provider.exchanges();
    let all = exchanges.last().expect("one at least").at - exchanges[0].at;
    let lives = exchanges.len() - 1;
    let fewest = (duration.as_secs_f64() / LIFE.as_secs_f64()) as usize;
    let most = (all.as_secs_f64() / SHORTEST_INTERVAL).ceil() as usize;
    #[expect(clippy::print_stdout, reason = "the figures are what the drill is run for")]
    {
        println!("{served} requests in {duration:?}, {lives} refreshes, {tally:?}");
    }
    assert!((fewest..=most).contains(&lives), "{lives} refreshes in {all:?}, expected {fewest} to {most}");
}
