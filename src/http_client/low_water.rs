//! How much has to come of a large body before its connection's driver is woken.
//!
//! An origin sends it in parts, each of which costs the driver and whoever passes it on a turn, and several system calls.
//! Where it is known how much is still to come, the kernel can be told not to wake anyone for less (socket(7),
//! `SO_RCVLOWAT`); it does all the same when the connection ends or fails, and when it has no room for more. Told to wake
//! for less while something is there, it does so from Linux 4.18 on, and before that with the next part.

use std::{
    os::fd::AsFd,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use nix::{
    libc, setsockopt_impl,
    sys::socket::{SetSockOpt, sockopt::SetUsize},
};

use super::driver::DriverWaker;
use crate::patience::Patience;

/// How much the driver waits for, in bytes, if more is to follow. An origin goes on sending meanwhile, into the rest of the
/// room that the kernel gives it. Nobody waits for less, as to wait costs a system call too.
const PART: u64 = 16 * 1_024;
/// What is no more than this is waited for as a whole: there is room for it from the first.
const MOST: u64 = 64 * 1_024;
/// How long what has come may wait for more: an origin may pause amid a body, or send it slowly, and until it is read, there
/// is less room for what follows. The runtime's clock adds up to 1 ms.
const LIMIT: Duration = Duration::from_millis(1);

// By the name `libc`, which the macro uses too.
#[derive(Clone)]
struct ReceiveLowWater;
setsockopt_impl!(ReceiveLowWater, libc::SOL_SOCKET, libc::SO_RCVLOWAT, usize, SetUsize);

/// The low-water mark of one connection.
#[derive(Debug)]
pub(super) struct LowWater {
    driver: Arc<DriverWaker>,
    /// As the socket has it, in bytes.
    mark: u64,
    patience: Patience,
}

impl LowWater {
    /// For a connection that is driven by this.
    pub(super) fn new(driver: Arc<DriverWaker>) -> Self {
        Self { driver, mark: 1, patience: Patience::new(LIMIT) }
    }

    /// Returns true if nothing large is waited for, nor was: there is nothing to note.
    pub(super) fn is_idle(&self) -> bool {
        self.mark == 1 && self.driver.awaited() < PART
    }

    /// After each read from the `socket`, unless it [is idle](Self::is_idle). Of what is to come of a body, `held` bytes have
    /// come, and were not passed on.
    pub(super) fn note<T>(&mut self, cx: &mut Context<'_>, read: &Poll<T>, socket: impl AsFd, held: usize) {
        if read.is_ready() {
            self.driver.expect(0);
            self.patience.progressed();
            return;
        }
        // What is encrypted is longer, never shorter.
        let to_come = self.driver.awaited().saturating_sub(held as u64);
        let may_wait = to_come >= PART && self.patience.poll_over(cx).is_pending();
        let mark = match to_come {
            _ if !may_wait => 1,
            ..=MOST => to_come,
            _ => PART,
        };
        // Where the kernel refuses, the driver is woken for everything.
        if mark != self.mark && ReceiveLowWater.set(&socket, &(mark as usize)).is_ok() {
            self.mark = mark;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io::{Read, Write},
        net::{Shutdown, TcpListener, TcpStream},
        rc::Rc,
        sync::{Arc, mpsc},
        task::{Context, Poll, Waker},
        thread,
        time::Duration,
    };

    use bytes::Bytes;
    use futures_util::FutureExt;
    use http::Request;
    use http_body_util::{BodyExt, Empty};
    use mio::{Events, Interest, Token};
    use rustix::io::ioctl_fionread;
    use tokio::{
        sync::mpsc::unbounded_channel,
        task::{LocalSet, spawn_blocking, yield_now},
        time::{Instant, timeout},
    };

    use super::{
        super::{Connector, Kept, Need, Pool},
        DriverWaker, LIMIT, LowWater, PART,
    };
    use crate::{
        config::{HttpVersion, Origin, Roots, Scheme, TlsVersion, Trust},
        tls::client_config,
    };

    /// For what has no reason to take long.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Of connections to this machine.
    fn pool(port: u16) -> Rc<Pool<Empty<Bytes>>> {
        let origin = Origin { scheme: Scheme::Http, host: "127.0.0.1".to_owned(), port };
        let trust = Trust { roots: Roots::Bundled, ca_file: None, extra: Vec::new(), tls_min: TlsVersion::Tls12 };
        let tls = client_config(&trust).expect("built-in roots");
        let connector = Connector::new(&origin, &tls, HttpVersion::Http1, PATIENCE, PATIENCE).expect("an address");
        Rc::new(Pool::new(connector, Kept { idle: 1, of_burst: 0 }, Arc::default()))
    }

    /// A connection, and the origin's end of it.
    struct World {
        driver: Arc<DriverWaker>,
        low_water: LowWater,
        socket: TcpStream,
        origin: TcpStream,
    }

    impl World {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let socket = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
            let (origin, _) = listener.accept().expect("a connection");
            let driver = Arc::<DriverWaker>::default();
            Self { low_water: LowWater::new(Arc::clone(&driver)), driver, socket, origin }
        }

        /// The driver finds nothing to read while so much is to come, of which it holds some.
        fn finds_nothing(&mut self, to_come: u64, held: usize) {
            self.driver.expect(to_come);
            let cx = &mut Context::from_waker(Waker::noop());
            self.low_water.note(cx, &Poll::<()>::Pending, &self.socket, held);
        }

        fn sends(&mut self, count: u64) {
            let there = ioctl_fionread(&self.socket).expect("it is a socket");
            self.origin.write_all(&vec![b'x'; count as usize]).expect("there is room");
            while ioctl_fionread(&self.socket).expect("it is a socket") < there + count {
                thread::yield_now();
            }
        }

        /// The driver reads so much.
        fn reads(&mut self, count: u64) {
            self.socket.read_exact(&mut vec![0; count as usize]).expect("it has come");
            self.low_water.note(&mut Context::from_waker(Waker::noop()), &Poll::Ready(()), &self.socket, 0);
        }

        fn is_woken(&self) -> bool {
            self.is_woken_within(Duration::ZERO)
        }

        fn is_woken_within(&self, time: Duration) -> bool {
            let mut poll = mio::Poll::new().expect("one more");
            let socket = self.socket.try_clone().expect("one more");
            let mut socket = mio::net::TcpStream::from_std(socket);
            poll.registry().register(&mut socket, Token(0), Interest::READABLE).expect("it is a socket");
            let mut events = Events::with_capacity(1);
            poll.poll(&mut events, Some(time)).expect("no signal comes");
            !events.is_empty()
        }

        #[track_caller]
        fn assert_woken_by(&mut self, count: u64) {
            self.sends(count - 1);
            assert!(!self.is_woken(), "by less than {count}");
            self.sends(1);
            assert!(self.is_woken(), "not by {count}");
        }
    }

    #[tokio::test]
    async fn a_driver_is_woken_by_no_less_than_is_to_come_of_a_large_body() {
        let mut world = World::new();
        world.finds_nothing(20_000, 0);
        world.assert_woken_by(20_000);
    }

    #[tokio::test]
    async fn a_driver_is_woken_by_less_than_all_of_a_very_large_body() {
        let mut world = World::new();
        world.finds_nothing(10_000_000, 0);
        world.assert_woken_by(PART);
    }

    #[tokio::test]
    async fn what_has_come_of_a_record_is_not_waited_for() {
        let mut world = World::new();
        world.finds_nothing(30_000, 12_000);
        world.assert_woken_by(18_000);
    }

    #[tokio::test]
    async fn a_driver_is_woken_by_each_byte_of_what_is_small_or_of_unknown_length() {
        for to_come in [0, 1, PART - 1] {
            let mut world = World::new();
            world.finds_nothing(to_come, 0);
            world.assert_woken_by(1);
        }
    }

    #[tokio::test]
    async fn a_driver_is_woken_by_the_end_of_a_connection_whatever_is_to_come() {
        let mut world = World::new();
        world.finds_nothing(20_000, 0);
        world.sends(1);
        assert!(!world.is_woken());
        world.origin.shutdown(Shutdown::Write).expect("it is open");
        assert!(world.is_woken_within(PATIENCE));
    }

    #[tokio::test]
    async fn a_driver_is_woken_by_each_byte_of_what_follows_a_large_body() {
        let mut world = World::new();
        world.finds_nothing(20_000, 0);
        world.sends(20_000);
        world.reads(20_000);
        let cx = &mut Context::from_waker(Waker::noop());
        world.low_water.note(cx, &Poll::<()>::Pending, &world.socket, 0);
        world.assert_woken_by(1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_come_waits_for_the_rest_no_longer_than_it_may_and_so_does_each_part_after_it() {
        let mut world = World::new();
        for to_come in [20_000, 19_999, 19_998] {
            world.finds_nothing(to_come, 0);
            world.sends(1);
            assert!(!world.is_woken());
            let start = Instant::now();
            let woken = poll_fn(|cx| {
                world.low_water.note(cx, &Poll::<()>::Pending, &world.socket, 0);
                if world.is_woken() { Poll::Ready(()) } else { Poll::Pending }
            });
            timeout(10 * LIMIT, woken).await.expect("it is woken");
            assert!((LIMIT..LIMIT + Duration::from_millis(2)).contains(&start.elapsed()), "{:?}", start.elapsed());
            world.reads(1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_read_the_start_of_a_large_body_gets_no_more_of_it_until_much_has_come() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (go_on, told) = mpsc::channel();
        let (says, mut said) = unbounded_channel();
        // While it is at work, no time passes. Its end stays open, or its close would be a reset, as it reads no request.
        let _open = spawn_blocking(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            for part in ["HTTP/1.1 200 OK\r\nContent-Length: 20001\r\n\r\nx", &"x".repeat(19_999), "x"] {
                told.recv().expect("it goes on");
                stream.write_all(part.as_bytes()).expect("it is read");
                says.send(()).expect("it is heard");
            }
            stream
        });
        let read = async {
            let connection = pool(port).checkout(Need::Any).await.expect("it listens");
            go_on.send(()).expect("it listens");
            let response = connection.send(Request::new(Empty::<Bytes>::new()), |body| body).await.expect("an answer");
            let mut body = response.into_body();
            assert_eq!(body.frame().await.expect("a part").expect("no error").data_ref().map(Bytes::len), Some(1));
            // Before the driver has its turn, as whoever passes a body on does.
            assert!(body.frame().now_or_never().is_none());
            said.recv().await;
            // All but a byte comes, and then that.
            for _ in 0..2 {
                for _ in 0..100 {
                    assert!(body.frame().now_or_never().is_none());
                    yield_now().await;
                }
                go_on.send(()).expect("it listens");
                said.recv().await;
            }
            assert_eq!(body.collect().await.expect("no error").to_bytes().len(), 20_000);
        };
        LocalSet::new().run_until(read).await;
    }
}
