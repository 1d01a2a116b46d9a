//! All cases through all proxies.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    case::Case,
    client::{self, Door},
    message::Message,
    observation::{Expected, Observation},
    proxies::Proxy,
    upstream::{Upstream, usual_answer},
};

/// How many cases are with one proxy at once, each alone with an upstream. Many wait for a time-out.
const LANES: usize = 6;
/// How long the next caller may be answered with an error, because the upstream has just closed a connection.
const HEALED_WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn all(cases: Vec<Case>) -> Vec<Outcome> {
    let (ours, nginx, haproxy) = thread::scope(|scope| {
        let nginx = scope.spawn(|| through(Proxy::nginx, &cases));
        let haproxy = scope.spawn(|| through(Proxy::haproxy, &cases));
        let ours = through(Proxy::token_valet, &cases);
        (ours, nginx.join().expect("nginx was observed"), haproxy.join().expect("HAProxy was observed"))
    });
    let observed = ours.into_iter().zip(nginx).zip(haproxy);
    cases
        .into_iter()
        .zip(observed)
        .map(|(case, ((ours, nginx), haproxy))| Outcome { case, ours, nginx, haproxy })
        .collect()
}

fn through(start: impl Fn(&[SocketAddr]) -> Proxy, cases: &[Case]) -> Vec<Observation> {
    let upstreams: Vec<_> = (0..LANES).map(|_| Upstream::start()).collect();
    let mut proxy = start(&upstreams.iter().map(|upstream| upstream.address).collect::<Vec<_>>());
    let observations = Mutex::new(Vec::new());
    let taken = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (upstream, door) in upstreams.iter().zip(&proxy.doors) {
            let (observations, taken, is_token) = (&observations, &taken, |token: &str| proxy.is_token(token));
            scope.spawn(move || {
                let lane = Lane { upstream, door, expected: Expected { host: upstream.address, is_token: &is_token } };
                // From here on there is an idle connection to the upstream, in every case.
                lane.next_caller();
                while let Some(case) = cases.get(taken.fetch_add(1, Relaxed)) {
                    let observation = lane.observe(case);
                    observations.lock().unwrap_or_else(PoisonError::into_inner).push((&case.name, observation));
                }
            });
        }
    });
    proxy.assert_alive();
    let mut observations = observations.into_inner().unwrap_or_else(PoisonError::into_inner);
    observations.sort_by_key(|(name, _)| *name);
    observations.into_iter().map(|(_, observation)| observation).collect()
}

/// A door of a proxy, and the upstream behind it.
struct Lane<'a> {
    upstream: &'a Upstream,
    door: &'a Door,
    expected: Expected<'a>,
}

impl Lane<'_> {
    fn observe(&self, case: &Case) -> Observation {
        self.upstream.begin(case.answer.clone());
        let reply = client::send(self.door, case);
        let requests = self.upstream.end();
        let mut observation = Observation::new(case, &reply, requests.as_deref().unwrap_or_default(), &self.expected);
        if requests.is_none() {
            observation.violations.push("the upstream was left with half a request".to_owned());
        }
        observation.violations.extend(self.next_caller());
        observation
    }

    /// Another caller, on a connection of its own, must get its own answer, and the upstream its request alone.
    fn next_caller(&self) -> Option<String> {
        let case = Case { parts: vec![Vec::new()], ..Case::default() };
        let start = Instant::now();
        loop {
            self.upstream.begin(None);
            let reply = client::send(self.door, &case);
            let mut requests = self.upstream.end().unwrap_or_default();
            // Of a request that was given up, the rest may come late.
            requests.retain(|request| request.is_whole);
            if let ([answer], [request]) = (reply.answers.as_slice(), requests.as_slice())
                && answer.status() == 200
                && is_own(answer, request)
            {
                return None;
            }
            // Its connection to the upstream may have been closed at this moment; nothing else is forgiven.
            let is_refused = reply.answers.first().is_none_or(|answer| answer.status() >= 500);
            if !is_refused || !requests.is_empty() || start.elapsed() > HEALED_WITHIN {
                let starts: Vec<_> = requests.iter().map(|request| request.start.escape_ascii().to_string()).collect();
                let got = reply.answers.first().map(|answer| answer.start.escape_ascii().to_string());
                return Some(format!("the next caller got {got:?}, the upstream {starts:?}"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn is_own(answer: &Message, request: &Message) -> bool {
    let [method, target, _] = request.words();
    target == client::NEXT_TARGET && answer.is_whole && usual_answer(method, target).ends_with(&answer.body)
}
