//! How many requests there were of late, by the minute.

use std::{cell::RefCell, collections::VecDeque, convert::Infallible, rc::Rc, time::Duration};

use tokio::time::sleep;

use crate::metrics::{HttpMetrics, Totals};

/// How long back it goes.
const MINUTES: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// The requests of the last ten whole minutes, and of the one that is not over.
#[derive(Clone, Debug)]
pub struct Traffic {
    http: HttpMetrics,
    /// The totals at the end of each minute, and at the start.
    marks: Rc<RefCell<VecDeque<Totals>>>,
}

impl Traffic {
    /// From now on.
    #[must_use]
    pub fn new(http: HttpMetrics) -> Self {
        let marks = Rc::new(RefCell::new([http.totals()].into()));
        Self { http, marks }
    }

    /// Notes each minute's end. Never completes; to be spawned once.
    pub async fn keep(self) -> Infallible {
        loop {
            sleep(MINUTE).await;
            self.note();
        }
    }

    fn note(&self) {
        let mut marks = self.marks.borrow_mut();
        if marks.len() > MINUTES {
            marks.pop_front();
        }
        marks.push_back(self.http.totals());
    }

    /// Of each minute, the oldest first; the last is not over.
    pub(super) fn minutes(&self) -> Vec<Totals> {
        let marks = self.marks.borrow();
        let now = self.http.totals();
        let ends = marks.iter().skip(1).chain([&now]);
        let since = |(begin, end): (&Totals, &Totals)| Totals {
            requests: end.requests - begin.requests,
            errors: end.errors - begin.errors,
        };
        marks.iter().zip(ends).map(since).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, StatusCode};

    use super::{MINUTES, Traffic};
    use crate::metrics::{Answerer, HttpMetrics, MethodLabel};

    #[test]
    fn each_minute_has_its_own_and_only_the_last_ones_are_kept() {
        let http = HttpMetrics::default();
        let counts = http.of_this_thread();
        let serve = |status: StatusCode| {
            let answer = Some((status, Answerer::Upstream));
            counts.left(MethodLabel::of(&Method::GET), answer, Duration::ZERO, None);
        };
        let traffic = Traffic::new(http.clone());
        serve(StatusCode::OK);
        serve(StatusCode::BAD_GATEWAY);
        traffic.note();
        serve(StatusCode::NOT_FOUND);
        let shown: Vec<_> = traffic.minutes().iter().map(|minute| (minute.requests, minute.errors)).collect();
        assert_eq!(shown, [(2, 1), (1, 0)]);
        for _ in 0..100 {
            traffic.note();
        }
        let minutes = traffic.minutes();
        assert_eq!(minutes.len(), MINUTES + 1);
        assert!(minutes.iter().all(|minute| minute.requests == 0));
    }
}
