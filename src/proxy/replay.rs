//! The copy of a request's body that is kept while it streams, should the request have to be sent again.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;

/// How much all copies together may take: `token.max_replay_memory`. Lock-free; clones share it.
#[derive(Clone, Debug)]
pub(super) struct ReplayMemory {
    left: Arc<AtomicUsize>,
    max_body: usize,
}

impl ReplayMemory {
    /// `max_body` bounds a single copy, `max_all` all of them; both in bytes.
    pub(super) fn new(max_body: usize, max_all: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(max_all)), max_body }
    }

    fn take(&self, bytes: usize) -> bool {
        self.left.try_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Relaxed);
    }
}

/// What was kept of one body.
#[derive(Debug)]
pub(super) struct Copy {
    state: State,
    memory: ReplayMemory,
    taken: usize,
}

#[derive(Debug)]
enum State {
    Growing(Vec<u8>),
    Whole(Bytes),
    /// Too long, or there was no room: the request will not be sent again.
    GivenUp,
}

impl Copy {
    pub(super) fn new(memory: ReplayMemory) -> Self {
        Self { state: State::Growing(Vec::new()), memory, taken: 0 }
    }

    /// Keeps the next part of the body, if there is room for it.
    pub(super) fn push(&mut self, part: &[u8]) {
        let State::Growing(bytes) = &mut self.state else { return };
        if bytes.len() + part.len() <= self.memory.max_body && self.memory.take(part.len()) {
            self.taken += part.len();
            bytes.extend_from_slice(part);
        } else {
            self.give_up();
        }
    }

    /// The body has come to its end.
    pub(super) fn finish(&mut self) {
        if let State::Growing(bytes) = &mut self.state {
            self.state = State::Whole(std::mem::take(bytes).into());
        }
    }

    /// The body cannot be kept.
    pub(super) fn give_up(&mut self) {
        self.state = State::GivenUp;
        self.memory.give_back(std::mem::take(&mut self.taken));
    }

    /// The body, if all of it was kept.
    pub(super) fn whole(&self) -> Option<Bytes> {
        match &self.state {
            State::Whole(bytes) => Some(bytes.clone()),
            State::Growing(_) | State::GivenUp => None,
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.memory.give_back(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::{Copy, ReplayMemory};

    #[test]
    fn a_body_is_kept_byte_for_byte_once_it_has_ended() {
        let mut copy = Copy::new(ReplayMemory::new(8, 100));
        copy.push(b"abc");
        copy.push(b"defgh");
        assert_eq!(copy.whole(), None);
        copy.finish();
        assert_eq!(copy.whole().as_deref(), Some(&b"abcdefgh"[..]));
    }

    #[test]
    fn a_body_over_either_bound_is_not_kept_and_frees_its_room() {
        let memory = ReplayMemory::new(8, 10);
        let mut long = Copy::new(memory.clone());
        long.push(b"12345678");
        long.push(b"9");
        long.finish();
        assert_eq!(long.whole(), None);
        assert_eq!(memory.left.load(Relaxed), 10);

        let mut first = Copy::new(memory.clone());
        first.push(b"12345678");
        let mut second = Copy::new(memory.clone());
        second.push(b"123");
        second.finish();
        assert_eq!(second.whole(), None, "there was no room");
        drop(first);
        assert_eq!(memory.left.load(Relaxed), 10);
    }
}
