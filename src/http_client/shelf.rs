//! Where a pool's connections lie: idle ones over HTTP/1.1, the most recently used last, and shared ones
//! over HTTP/2.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::client::conn::http2;
use tokio::sync::{Notify, oneshot};

use super::{
    carried::{Carried, Outlasting, Streams},
    connection::{Carrier, Exclusive, Ticket},
    pool::{Http2Parts, MAX_STREAMS},
    stream::Control,
};
use crate::metrics::Connections;

/// How often those that were of no use meanwhile are closed, when there are more than are kept: a burst's are for one
/// to two of these. Requests that come in waves would else make the same connections anew with each wave.
const SETTLING: Duration = Duration::from_secs(1);

/// Where connections lie.
#[derive(Debug)]
pub(super) struct Shelf<B> {
    idle: RefCell<Vec<Idle<B>>>,
    multiplexed: RefCell<Vec<Rc<Multiplexed<B>>>>,
    pub(super) outlasting: Rc<Outlasting<B>>,
    /// Counts the sweeps: an age without a clock read per request.
    sweep: Cell<u64>,
    /// The fewest idle ones since the last trim: so many are of no use.
    fewest: Cell<usize>,
    /// Counts the trims.
    trim: Cell<u64>,
    /// There are more idle ones than are kept, or some that no request has used.
    surplus: Notify,
    /// Requests that wait for one over HTTP/1.1, by their arrival: while there are any, none is idle.
    queue: RefCell<BTreeMap<u64, oneshot::Sender<Idle<B>>>>,
    arrivals: Cell<u64>,
    making: Rc<InTheMaking>,
    /// One that was being made for nobody will not come.
    pub(super) lost: Notify,
    kept: Kept,
    pub(super) connections: Arc<Connections>,
}

/// How many connections a pool keeps.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Those that serve one request at a time, while they serve none.
    pub idle: usize,
    /// While no more than these and `idle` together are open, those of a burst are kept too, until it is over.
    pub of_burst: usize,
}

#[derive(Debug)]
struct Idle<B> {
    exclusive: Exclusive<B>,
    since_sweep: u64,
    /// Before which trim it came here, if it has not served any request.
    unused_since_trim: Option<u64>,
    /// See [`Link`](super::Link).
    generation: u64,
}

/// Connections that are being made for those in the queue, or for whoever has left it with another one.
#[derive(Debug, Default)]
struct InTheMaking {
    all: Cell<usize>,
    /// Of them, those that were relied on in vain.
    overdue: Cell<usize>,
}

/// An HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Multiplexed<B> {
    pub(super) sender: http2::SendRequest<Carried<B>>,
    /// Requests on it.
    pub(super) streams: Rc<Streams>,
    /// Set when it is to serve no other request: the origin says goodbye, or leaves uploads standing.
    pub(super) retired: Cell<bool>,
    control: Arc<Control>,
    /// As many as the origin allows.
    max_streams: Rc<Cell<usize>>,
    pub(super) outlasting: Rc<Outlasting<B>>,
    /// Since the last sweep.
    pub(super) was_used: Cell<bool>,
    used_by_sweep: Cell<u64>,
    /// See [`Link`](super::Link).
    generation: u64,
}

impl<B> Shelf<B> {
    pub(super) fn new(kept: Kept, connections: Arc<Connections>) -> Self {
        Self {
            idle: RefCell::default(),
            multiplexed: RefCell::default(),
            outlasting: Rc::default(),
            sweep: Cell::new(0),
            fewest: Cell::new(0),
            trim: Cell::new(0),
            surplus: Notify::new(),
            queue: RefCell::default(),
            arrivals: Cell::new(0),
            making: Rc::default(),
            lost: Notify::new(),
            kept,
            connections,
        }
    }

    /// The last used one; those of a generation before the `current` one are closed.
    pub(super) fn take(&self, current: u64) -> Option<(Exclusive<B>, u64)> {
        let mut idle = self.idle.borrow_mut();
        let taken = std::iter::from_fn(|| idle.pop()).find(|idle| idle.generation >= current);
        self.connections.set_idle(idle.len());
        self.fewest.set(self.fewest.get().min(idle.len()));
        taken.map(|idle| (idle.exclusive, idle.generation))
    }

    pub(super) fn put(&self, carrier: Carrier<B>, generation: u64) {
        // A stream's ticket needs no more than to be dropped.
        let Carrier::Http1(exclusive) = carrier else { return };
        if !exclusive.sender.is_closed() {
            self.lay(Idle { exclusive, since_sweep: self.sweep.get(), unused_since_trim: None, generation });
        }
    }

    /// One that has not served any request. Closed soon: an origin may wait less for the first one than for another.
    pub(super) fn put_unused(&self, exclusive: Exclusive<B>, generation: u64) {
        let (since_sweep, unused_since_trim) = (self.sweep.get(), Some(self.trim.get()));
        self.lay(Idle { exclusive, since_sweep, unused_since_trim, generation });
        self.surplus.notify_one();
    }

    fn lay(&self, connection: Idle<B>) {
        let is_awaited = !self.queue.borrow().is_empty();
        if is_awaited {
            return self.hand_to_first(connection);
        }
        let mut idle = self.idle.borrow_mut();
        let Kept { idle: kept, of_burst } = self.kept;
        if idle.len() < kept || self.connections.open() + self.spare() <= kept + of_burst {
            idle.push(connection);
            self.connections.set_idle(idle.len());
            // The first that is; the rest are seen by whoever was told of it.
            if idle.len() == kept + 1 {
                self.surplus.notify_one();
            }
        }
    }

    fn hand_to_first(&self, connection: Idle<B>) {
        let first = self.queue.borrow_mut().pop_first();
        let (_, first) = first.expect("somebody waits");
        // Whoever is in the queue listens, as a place that is dropped leaves it.
        let _ = first.send(connection);
    }

    /// Whether any is ever kept.
    pub(super) fn keeps_any(&self) -> bool {
        self.kept.idle > 0
    }

    /// The place of a request in the order of their arrival.
    pub(super) fn arrive(&self) -> u64 {
        let arrival = self.arrivals.get();
        self.arrivals.set(arrival + 1);
        arrival
    }

    /// Waits for the next one, behind those who came before. There must be no idle one.
    pub(super) fn next(&self, arrival: u64) -> Place<'_, B> {
        let (sender, given) = oneshot::channel();
        self.queue.borrow_mut().insert(arrival, sender);
        Place { shelf: self, arrival, given }
    }

    /// One more is being made, until what is returned is dropped.
    pub(super) fn making(&self) -> Making {
        self.making.all.set(self.making.all.get() + 1);
        Making(Rc::clone(&self.making))
    }

    /// How many more are being made than are waited for.
    fn spare(&self) -> usize {
        self.making.all.get().saturating_sub(self.queue.borrow().len())
    }

    /// Whether there is one more of those than were relied on in vain.
    pub(super) fn has_promising_spare(&self) -> bool {
        self.spare() > self.making.overdue.get()
    }

    /// It has not come in time.
    pub(super) fn despair_of_one(&self) {
        self.making.overdue.set(self.making.overdue.get() + 1);
    }

    /// Whether all that are being made for nobody would be kept.
    pub(super) fn has_room_for_spare(&self) -> bool {
        let (Kept { idle, of_burst }, spare) = (self.kept, self.spare());
        self.idle.borrow().len() + spare <= idle || self.connections.open() + spare <= idle + of_burst
    }

    pub(super) async fn trims(&self) {
        loop {
            self.surplus.notified().await;
            self.fewest.set(self.idle.borrow().len());
            while self.has_surplus() {
                tokio::time::sleep(SETTLING).await;
                self.trim();
            }
        }
    }

    fn has_surplus(&self) -> bool {
        let idle = self.idle.borrow();
        idle.len() > self.kept.idle || idle.iter().any(|idle| idle.unused_since_trim.is_some())
    }

    /// Drops the longest idle of those that were of no use since the last trim, down to as many as are kept, and those
    /// that have not served any request since before it.
    fn trim(&self) {
        let this = self.trim.get() + 1;
        self.trim.set(this);
        let mut idle = self.idle.borrow_mut();
        let of_no_use = self.fewest.get().min(idle.len());
        idle.drain(..of_no_use.saturating_sub(self.kept.idle));
        idle.retain(|idle| idle.unused_since_trim.is_none_or(|since| since + 1 >= this));
        self.fewest.set(idle.len());
        self.connections.set_idle(idle.len());
    }

    pub(super) fn share(
        &self,
        Http2Parts { sender, max_streams, control }: Http2Parts<B>,
        generation: u64,
    ) -> Ticket<B> {
        let connection = Rc::new(Multiplexed {
            sender,
            streams: Rc::default(),
            retired: Cell::new(false),
            control,
            max_streams,
            outlasting: Rc::clone(&self.outlasting),
            was_used: Cell::new(false),
            used_by_sweep: Cell::new(self.sweep.get()),
            generation,
        });
        let ticket = Ticket::of(&connection);
        self.multiplexed.borrow_mut().push(connection);
        ticket
    }

    /// A stream of a connection that has one left, and is not of a generation before the `current`
    /// one: those end with their last stream.
    pub(super) fn ticket(&self, current: u64) -> Option<(Ticket<B>, u64)> {
        let mut connections = self.multiplexed.borrow_mut();
        connections.retain(|connection| {
            !connection.retired.get() && !connection.sender.is_closed() && connection.generation >= current
        });
        let connection = connections.iter().find(|connection| connection.has_room())?;
        Some((Ticket::of(connection), connection.generation))
    }

    /// Drops what has lain here since before the last sweep: idle for one to two intervals.
    pub(super) fn sweep(&self) {
        let this = self.sweep.get() + 1;
        self.sweep.set(this);
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|idle| idle.since_sweep + 1 >= this && !idle.exclusive.sender.is_closed());
        // They were of no use, as those are that a trim looks for.
        self.fewest.set(self.fewest.get().saturating_sub(before - idle.len()));
        self.connections.set_idle(idle.len());
        drop(idle);
        self.multiplexed.borrow_mut().retain(|connection| {
            if connection.was_used.replace(false) || connection.streams.open() > 0 {
                connection.used_by_sweep.set(this);
            }
            connection.used_by_sweep.get() + 1 >= this
        });
    }
}

/// A connection that is being made.
#[derive(Debug)]
pub(super) struct Making(Rc<InTheMaking>);

impl Drop for Making {
    fn drop(&mut self) {
        let InTheMaking { all, overdue } = &*self.0;
        all.set(all.get() - 1);
        overdue.set(overdue.get().min(all.get()));
    }
}

/// A place in the queue for a connection. What comes too late for whoever drops it is for the next.
pub(super) struct Place<'a, B> {
    shelf: &'a Shelf<B>,
    arrival: u64,
    given: oneshot::Receiver<Idle<B>>,
}

impl<B> Future for Place<'_, B> {
    /// As of [`Shelf::take`].
    type Output = (Exclusive<B>, u64);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let given = ready!(Pin::new(&mut self.given).poll(cx)).expect("nobody leaves the queue without");
        Poll::Ready((given.exclusive, given.generation))
    }
}

impl<B> Drop for Place<'_, B> {
    fn drop(&mut self) {
        self.shelf.queue.borrow_mut().remove(&self.arrival);
        if let Ok(connection) = self.given.try_recv() {
            self.shelf.lay(connection);
        }
    }
}

impl<B> Multiplexed<B> {
    fn has_room(&self) -> bool {
        self.streams.open() < self.max_streams.get().min(MAX_STREAMS as usize)
    }

    /// Closes the connection, and returns true, if it is of no use but to uploads that were given up.
    pub(super) fn end_if_abandoned(&self) -> bool {
        let is_over = self.streams.are_all_abandoned();
        if is_over {
            self.control.sever();
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, sync::Arc, time::Duration};

    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use http_body_util::Empty;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt as _, DuplexStream},
        task::{LocalSet, spawn_local},
        time::{sleep, timeout},
    };

    use super::{Carrier, Exclusive, Kept, SETTLING, Shelf};
    use crate::metrics::{Connections, OpenConnection};

    type Body = Empty<Bytes>;

    /// A pool's connections, and the origin's ends of them.
    struct World {
        shelf: Rc<Shelf<Body>>,
        connections: Arc<Connections>,
        ends: Vec<(DuplexStream, OpenConnection)>,
    }

    impl World {
        fn of(kept: Kept) -> Self {
            let connections = Arc::<Connections>::default();
            let shelf = Rc::new(Shelf::new(kept, Arc::clone(&connections)));
            let trimmed = Rc::clone(&shelf);
            spawn_local(async move { trimmed.trims().await });
            Self { shelf, connections, ends: Vec::new() }
        }

        async fn open(&mut self) -> Carrier<Body> {
            let (ours, end) = tokio::io::duplex(1_024);
            self.ends.push((end, self.connections.opened()));
            let (sender, driver) = http1::handshake(TokioIo::new(ours)).await.expect("nothing is sent");
            spawn_local(driver);
            Carrier::Http1(Exclusive { sender, driver: Arc::default() })
        }

        async fn return_new(&mut self, count: usize) {
            let mut taken = Vec::new();
            for _ in 0..count {
                taken.push(self.open().await);
            }
            self.give_back(taken);
        }

        fn take(&self, count: usize) -> Vec<Carrier<Body>> {
            let take = || Carrier::Http1(self.shelf.take(0).expect("there are as many").0);
            std::iter::repeat_with(take).take(count).collect()
        }

        fn give_back(&self, carriers: Vec<Carrier<Body>>) {
            for carrier in carriers {
                self.shelf.put(carrier, 0);
            }
        }

        /// By the order in which they were made.
        async fn are_open(&mut self) -> Vec<bool> {
            let mut open = Vec::new();
            for (end, _) in &mut self.ends {
                open.push(timeout(Duration::from_millis(1), end.read_u8()).await.is_err());
            }
            open
        }

        async fn open_count(&mut self) -> usize {
            self.are_open().await.into_iter().filter(|is_open| *is_open).count()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_requests_that_come_in_waves_are_used_again_and_closed_once_the_waves_end() {
        let waves = async {
            let mut world = World::of(Kept { idle: 1, of_burst: 3 });
            world.return_new(4).await;
            for _ in 0..5 {
                sleep(Duration::from_millis(700)).await;
                world.give_back(world.take(3));
            }
            assert_eq!(world.are_open().await, [true; 4]);
            // Of those that two at a time leave, one is kept anyway.
            for _ in 0..5 {
                sleep(Duration::from_millis(700)).await;
                world.give_back(world.take(2));
            }
            assert_eq!(world.open_count().await, 3);
            sleep(Duration::from_millis(2_100)).await;
            assert_eq!(world.open_count().await, 1);
        };
        LocalSet::new().run_until(waves).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_amid_the_waves_closes_none_that_they_use() {
        let waves = async {
            let mut world = World::of(Kept { idle: 1, of_burst: 9 });
            world.return_new(10).await;
            sleep(SETTLING / 2).await;
            world.give_back(world.take(5));
            world.shelf.sweep();
            world.give_back(world.take(5));
            // Those that lie here since before the last one.
            world.shelf.sweep();
            assert_eq!(world.open_count().await, 5);
            sleep(SETTLING).await;
            assert_eq!(world.open_count().await, 5, "all had been used since the last trim");
        };
        LocalSet::new().run_until(waves).await;
    }

    #[tokio::test(start_paused = true)]
    async fn connections_beyond_the_bound_of_a_burst_are_closed_at_once() {
        let burst = async {
            let mut world = World::of(Kept { idle: 1, of_burst: 2 });
            world.return_new(4).await;
            assert_eq!(world.are_open().await, [true, false, false, false]);
            world.ends.truncate(1);
            world.return_new(2).await;
            assert_eq!(world.are_open().await, [true; 3]);
        };
        LocalSet::new().run_until(burst).await;
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_room_for_what_is_made_for_nobody_as_far_as_it_would_be_kept() {
        let made = async {
            let mut world = World::of(Kept { idle: 1, of_burst: 2 });
            let shelf = Rc::clone(&world.shelf);
            world.return_new(1).await;
            let in_use = world.take(1);
            let _made = [shelf.making(), shelf.making()];
            assert!(shelf.has_room_for_spare());
            let third = shelf.making();
            assert!(!shelf.has_room_for_spare());
            let waits = shelf.next(shelf.arrive());
            assert!(shelf.has_room_for_spare(), "one of them is for this one");
            drop((waits, third));
            world.give_back(in_use);
            world.return_new(1).await;
            assert_eq!(world.are_open().await, [true, false], "there are two to come");
        };
        LocalSet::new().run_until(made).await;
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_for_those_who_wait_the_first_first_and_not_for_whoever_has_left() {
        let queue = async {
            let mut world = World::of(Kept { idle: 9, of_burst: 0 });
            let shelf = Rc::clone(&world.shelf);
            let [first, leaves, third] = [(); 3].map(|()| shelf.next(shelf.arrive()));
            drop(leaves);
            world.return_new(3).await;
            // What is taken is dropped.
            assert!(shelf.take(0).is_some() && shelf.take(0).is_none(), "two of three had been waited for");
            assert!(first.now_or_never().is_some());
            assert_eq!(world.are_open().await, [false, true, false]);
            drop(third);
            assert!(shelf.take(0).is_some(), "it had not been used");
        };
        LocalSet::new().run_until(queue).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_no_request_uses_soon_is_closed() {
        let unused = async {
            let mut world = World::of(Kept { idle: 9, of_burst: 0 });
            for _ in 0..2 {
                let Carrier::Http1(exclusive) = world.open().await else { unreachable!("it is opened so") };
                world.shelf.put_unused(exclusive, 0);
            }
            world.give_back(world.take(1));
            sleep(SETTLING * 9 / 10).await;
            assert_eq!(world.are_open().await, [true; 2]);
            sleep(SETTLING * 12 / 10).await;
            assert_eq!(world.are_open().await, [false, true]);
            sleep(SETTLING * 3).await;
            assert_eq!(world.are_open().await, [false, true], "a request has used it");
        };
        LocalSet::new().run_until(unused).await;
    }

    #[test]
    fn one_that_is_overdue_is_not_relied_on_until_it_is_made() {
        let shelf = Shelf::<Body>::new(Kept { idle: 9, of_burst: 0 }, Arc::default());
        let overdue = shelf.making();
        assert!(shelf.has_promising_spare());
        shelf.despair_of_one();
        assert!(!shelf.has_promising_spare());
        let another = shelf.making();
        assert!(shelf.has_promising_spare());
        drop((overdue, another));
        let _next = shelf.making();
        assert!(shelf.has_promising_spare());
    }
}
