//! How many requests are on their way at once, over all threads.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::ProxyError;

/// The bound of `upstream.max_in_flight`. Lock-free; clones share the count.
#[derive(Clone, Debug)]
pub(super) struct InFlightLimit {
    count: Arc<AtomicUsize>,
    max: usize,
}

impl InFlightLimit {
    /// Lets at most `max` requests in.
    pub(super) fn new(max: usize) -> Self {
        Self { count: Arc::default(), max }
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> Result<InFlight, ProxyError> {
        let before = self.count.fetch_add(1, Relaxed);
        let guard = InFlight(Rc::clone(self));
        if before < self.max { Ok(guard) } else { Err(ProxyError::Overloaded) }
    }
}

/// A request on its way, until the last byte of its answer.
#[derive(Debug)]
pub(super) struct InFlight(Rc<InFlightLimit>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::InFlightLimit;

    #[test]
    fn one_more_than_allowed_is_refused_until_another_leaves() {
        let limit = Rc::new(InFlightLimit::new(2));
        let first = limit.enter().expect("room");
        let _second = limit.enter().expect("room");
        assert!(limit.enter().is_err());
        drop(first);
        assert!(limit.enter().is_ok());
    }
}
