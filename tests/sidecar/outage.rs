//! The outage drill: steady requests while the token endpoint fails in each of its ways and comes back.
//!
//! In short by default; `TOKEN_VALET_DRILL=full` takes a minute and 100 requests a second for each
//! fault. The table of outcomes is printed (`--nocapture`).

use std::{
    collections::BTreeMap,
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use token_valet::{
    config::TokenFault,
    sandbox::{Provider, Settings},
};

use crate::harness::{ACCOUNTS, Setup, is_full_drill, provider, seconds};

const LIFE: Duration = seconds(4);
/// A token of 4 s is sent for 3 s.
const USABLE: Duration = seconds(3);
const WAIT: Duration = seconds(2);
/// For threads that start late and clocks that are read twice, on a busy machine.
const SLACK: Duration = Duration::from_millis(700);

/// When what happens, from the start of the requests.
#[derive(Clone, Copy)]
struct Plan {
    down: Duration,
    back: Duration,
    end: Duration,
    per_second: u32,
}

fn plan() -> Plan {
    if is_full_drill() {
        Plan { down: seconds(10), back: seconds(25), end: seconds(60), per_second: 100 }
    } else {
        Plan { down: seconds(3), back: seconds(9), end: seconds(15), per_second: 25 }
    }
}

/// How one request went.
struct Outcome {
    start: Duration,
    took: Duration,
    status: u16,
    reason: String,
    retry_after: Option<u64>,
}

#[test]
fn an_endpoint_that_refuses_connections_costs_requests_only_while_no_token_is_left() {
    drill("refused", Fault::Refused, seconds(3));
}

#[test]
fn an_endpoint_that_hangs_costs_requests_only_while_no_token_is_left() {
    drill("hang", Fault::Scripted(TokenFault::Hang), seconds(3));
}

#[test]
fn an_endpoint_that_resets_connections_costs_requests_only_while_no_token_is_left() {
    drill("reset", Fault::Scripted(TokenFault::Reset), seconds(3));
}

#[test]
fn an_endpoint_that_says_nothing_costs_requests_only_while_no_token_is_left() {
    drill("empty 200", Fault::Scripted(TokenFault::Empty), seconds(3));
}

#[test]
fn an_endpoint_that_breaks_off_its_json_costs_requests_only_while_no_token_is_left() {
    drill("malformed JSON", Fault::Scripted(TokenFault::Malformed), seconds(3));
}

#[test]
fn an_endpoint_that_shows_a_web_page_costs_requests_only_while_no_token_is_left() {
    drill("HTML 200", Fault::Scripted(TokenFault::Html), seconds(3));
}

#[test]
fn an_endpoint_that_fails_costs_requests_only_while_no_token_is_left() {
    drill("500", Fault::Scripted(TokenFault::ServerError), seconds(3));
}

#[test]
fn an_endpoint_that_is_too_busy_is_left_alone_as_long_as_it_asks() {
    // 5 s and a tenth from the last refusal, which may have come just before the end.
    drill(
        "429, Retry-After 5",
        Fault::Scripted(TokenFault::TooManyRequests),
        Duration::from_millis(5_500) + seconds(1),
    );
}

#[test]
fn an_endpoint_that_redirects_for_a_while_costs_requests_only_while_no_token_is_left() {
    drill("302", Fault::Scripted(TokenFault::Redirect), seconds(3));
}

#[derive(Clone, Copy)]
enum Fault {
    Refused,
    Scripted(TokenFault),
}

fn drill(name: &str, fault: Fault, recovery: Duration) {
    let plan = plan();
    let provider = provider(Settings { token_life: LIFE, ..Settings::default() });
    let mut relay = Relay::to(provider.address());
    let sidecar = Setup::partner(&provider)
        .set("token.url", provider.token_url().replace(&provider.address().to_string(), &relay.address.to_string()))
        .set("token.retry_max", "1s")
        .set("token.timeout", "1s")
        .set("token.wait", "2s")
        .start();
    sidecar.wait_until_it_serves();

    let begin = Instant::now();
    let pace = Duration::from_secs(1) / plan.per_second;
    let (outcomes, last_token) = thread::scope(|scope| {
        let requests = scope.spawn(|| {
            let (done, outcomes) = mpsc::channel();
            let mut started = 0;
            while begin.elapsed() < plan.end {
                // The pace, whatever becomes of the requests before.
                thread::sleep((pace * started).saturating_sub(begin.elapsed()));
                started += 1;
                let (done, sidecar) = (done.clone(), &sidecar);
                // Not to be joined: thousands of threads that have ended would keep their stacks.
                scope.spawn(move || {
                    let start = begin.elapsed();
                    let response = sidecar.get(ACCOUNTS);
                    let outcome = Outcome {
                        start,
                        took: begin.elapsed() - start,
                        status: response.status,
                        reason: response.header("x-token-valet-error").unwrap_or_default().to_owned(),
                        retry_after: response.header("retry-after").and_then(|text| text.parse().ok()),
                    };
                    done.send(outcome).expect("somebody waits for it");
                });
            }
            drop(done);
            let outcomes: Vec<_> = outcomes.iter().collect();
            assert_eq!(outcomes.len(), started as usize, "every request was answered");
            outcomes
        });
        thread::sleep(plan.down.saturating_sub(begin.elapsed()));
        match fault {
            Fault::Refused => relay.close(),
            Fault::Scripted(fault) => provider.set_token_fault(Some(fault)),
        }
        let last_token = last_token(&provider) - begin;
        thread::sleep(plan.back.saturating_sub(begin.elapsed()));
        match fault {
            Fault::Refused => relay.open(),
            Fault::Scripted(_) => provider.set_token_fault(None),
        }
        (requests.join().expect("no panic"), last_token)
    });

    show(name, &outcomes);
    let tally = provider.tally();
    assert_eq!((tally.expired, tally.revoked, tally.unknown, tally.missing), (0, 0, 0, 0), "{tally:?}");
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.status != 200).collect();
    assert!(!failed.is_empty(), "the outage was longer than the token's life");
    for outcome in failed {
        let answer = (outcome.status, outcome.reason.as_str());
        assert_eq!(answer, (503, "token_unavailable"), "at {:?}", outcome.start);
        assert!(outcome.retry_after.is_some_and(|wait| wait <= 6), "{:?}", outcome.retry_after);
        assert!(outcome.took < WAIT + seconds(1) + SLACK, "answered after {:?}", outcome.took);
        assert!(outcome.start + outcome.took + SLACK > last_token + USABLE, "at {:?} the token lived", outcome.start);
        assert!(outcome.start < plan.back + recovery, "at {:?} the endpoint had long been back", outcome.start);
    }
}

fn last_token(provider: &Provider) -> Instant {
    provider.exchanges().iter().rfind(|exchange| exchange.lifetime.is_some()).expect("one at least").at
}

/// How the requests of each second went.
fn show(name: &str, outcomes: &[Outcome]) {
    let mut table = BTreeMap::<u64, BTreeMap<String, usize>>::new();
    for outcome in outcomes {
        let kind = format!("{} {}", outcome.status, outcome.reason);
        *table.entry(outcome.start.as_secs()).or_default().entry(kind).or_default() += 1;
    }
    let mut text = format!("{name}\n");
    for (second, kinds) in table {
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} x {}", kind.trim())).collect();
        text.push_str(&format!("{second:>4} s  {}\n", kinds.join(", ")));
    }
    #[expect(clippy::print_stdout, reason = "the table is what the drill is run for")]
    {
        println!("{text}");
    }
}

/// A byte relay before the token endpoint, so that this can be down while the API is not.
struct Relay {
    address: SocketAddr,
    target: SocketAddr,
    open: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Relay {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut relay = Self { address: listener.local_addr().expect("it is bound"), target, open: None };
        relay.serve(listener);
        relay
    }

    fn serve(&mut self, listener: TcpListener) {
        let (closing, target) = (Arc::new(AtomicBool::new(false)), self.target);
        let seen = Arc::clone(&closing);
        let thread = thread::spawn(move || {
            for inbound in listener.incoming().map_while(Result::ok) {
                if seen.load(Relaxed) {
                    return;
                }
                let Ok(outbound) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&inbound, &outbound), (&outbound, &inbound)] {
                    let (mut from, mut to) = (from.try_clone().expect("open"), to.try_clone().expect("open"));
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        self.open = Some((closing, thread));
    }

    fn close(&mut self) {
        if let Some((closing, thread)) = self.open.take() {
            closing.store(true, Relaxed);
            // Wakes it.
            let _ = TcpStream::connect(self.address);
            thread.join().expect("no panic");
        }
    }

    fn open(&mut self) {
        // The standard library sets SO_REUSEADDR, so connections of the time before do not matter.
        self.serve(TcpListener::bind(self.address).expect("the port is still free"));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.close();
    }
}
