//! Sockets that cost the kernel and the runtime less.
//!
//! send(2) takes one buffer and costs less than writev(2), by more than it costs to put a head and a short
//! body into one buffer.
//!
//! hyper tries to read several times for each message that there is. When there is nothing, the runtime notes whom to
//! wake, under a lock; once is enough until there is something.
//!
//! Around a call that may wait, the C library lets the thread be cancelled (pthreads(7)), at a cost each time. send(2) goes
//! to the kernel without it, and so does recv(2) into memory that holds something already: that is TLS's way to read, and
//! tunnels', but not plain HTTP's.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
    task::coop::has_budget_remaining,
};

/// Up to how many bytes are put together.
const SMALL: usize = 4 * 1_024;

thread_local! {
    /// Where they are put together, so that no message needs memory of its own. Nothing stays in it, as there are
    /// tokens among them.
    static TOGETHER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What the runtime has heard of whether a socket can be read (there are bytes, an end or an error) and written (there is
/// room). After it has ended it hears nothing; no task is there to ask.
pub trait Readiness: AsFd {
    /// Waits until it can be read, and has only the last task woken that did.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Waits until it can be written, and has only the last task woken that did.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Makes this call if the socket can be read or written: it no longer can once that is an error of kind `WouldBlock`.
    ///
    /// # Errors
    /// That kind if it cannot, and those of `call`.
    fn attempt<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T>;
}

impl Readiness for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }

    fn attempt<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.try_io(interest, call)
    }
}

impl Readiness for UnixStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }

    fn attempt<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.try_io(interest, call)
    }
}

/// Moves up to `most` bytes by this call once the runtime hears that it can be made, and tells how many were moved.
fn poll_io<S: Readiness>(
    socket: &S,
    cx: &mut Context<'_>,
    interest: Interest,
    most: usize,
    mut call: impl FnMut() -> rustix::io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(if interest.is_readable() { socket.poll_readable(cx) } else { socket.poll_writable(cx) })?;
        let mut moved = None;
        let tried = socket.attempt(interest, || {
            let count = call()?;
            moved = Some(count);
            // Fewer bytes mean that there are no more, or that there is no more room. The runtime takes note, and hears of the
            // next ones, as it has epoll(7) tell of each change.
            if (1..most).contains(&count) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (moved, tried) {
            (Some(count), _) => return Poll::Ready(Ok(count)),
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
            (None, _) => {}
        }
    }
}

fn poll_send<S: Readiness>(socket: &S, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    poll_io(socket, cx, Interest::WRITABLE, bytes.len(), || send(socket, bytes, SendFlags::NOSIGNAL))
}

/// A socket of which small parts go out together, and that is not asked again for what it does not have.
#[derive(Debug)]
pub struct Socket<S> {
    inner: S,
    /// Whom the runtime wakes once there is something to read, if that `is_awaited`.
    reader: Waker,
    is_awaited: bool,
    /// There are bytes that have not been read, as a look ahead has found.
    has_more: bool,
}

impl<S> Socket<S> {
    /// Nobody else may poll it for something to read.
    pub fn new(inner: S) -> Self {
        Self { inner, reader: Waker::noop().clone(), is_awaited: false, has_more: false }
    }

    /// The socket itself.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The same, for others.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Readiness> Socket<S> {
    /// Waits for something to read, and tells whether it is the end. Nothing is taken.
    pub fn poll_at_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.has_more {
            return Poll::Ready(Ok(false));
        }
        let length = ready!(self.poll_once(cx, |socket, cx| {
            poll_io(socket, cx, Interest::READABLE, 1, || Ok(recv(&*socket, &mut [0; 1], RecvFlags::PEEK)?.1))
        }))?;
        self.has_more = length > 0;
        Poll::Ready(Ok(!self.has_more))
    }

    /// Polls for something to read, unless there is nothing and the task is to be woken once there is.
    fn poll_once<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { inner, reader, is_awaited, .. } = self;
        if *is_awaited && reader.will_wake(cx.waker()) && inner.attempt(Interest::READABLE, || Ok(())).is_err() {
            return Poll::Pending;
        }
        let polled = poll(inner, cx);
        // Of a task that has used up its turn nothing is noted, but it is polled again.
        *is_awaited = polled.is_pending() && has_budget_remaining();
        if *is_awaited {
            reader.clone_from(cx.waker());
        }
        polled
    }
}

impl<S: AsyncRead + Readiness + Unpin> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.has_more = false;
        this.poll_once(cx, |socket, cx| {
            // Only the runtime may write to memory that holds nothing yet.
            if buf.initialized().len() < buf.capacity() {
                return Pin::new(socket).poll_read(cx, buf);
            }
            let room = buf.initialize_unfilled();
            let most = room.len();
            let read =
                poll_io(socket, cx, Interest::READABLE, most, || Ok(recv(&*socket, &mut *room, RecvFlags::empty())?.1));
            buf.advance(ready!(read)?);
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: AsyncWrite + Readiness + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        poll_send(&self.inner, cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut self.get_mut().inner;
        if let [part] = parts {
            return poll_send(inner, cx, part);
        }
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > SMALL {
            return Pin::new(inner).poll_write_vectored(cx, parts);
        }
        let mut together = TOGETHER.take();
        // At once, as growing leaves copies behind.
        together.reserve_exact(SMALL);
        for part in parts {
            together.extend_from_slice(part);
        }
        let written = poll_send(inner, cx, &together);
        together.fill(0);
        together.clear();
        TOGETHER.set(together);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::poll_fn,
        io::{self, IoSlice, Read, Write},
        mem::MaybeUninit,
        os::fd::{AsFd, BorrowedFd},
        pin::{Pin, pin},
        task::{Context, Poll},
        time::Duration,
    };

    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf},
        net::UnixStream,
        task::{coop::consume_budget, spawn, yield_now},
        time::{sleep, timeout},
    };

    use super::{Readiness, SMALL, Socket};

    /// Has what its peer has sent, and counts how it is asked and used.
    #[derive(Debug)]
    struct Counting {
        is_readable: Cell<bool>,
        is_writable: Cell<bool>,
        asked: Cell<u32>,
        /// How many calls of writev(2) there would have been.
        vectored: u32,
        inner: std::os::unix::net::UnixStream,
    }

    impl Counting {
        fn socket(is_readable: bool) -> (Socket<Self>, std::os::unix::net::UnixStream) {
            let (inner, peer) = std::os::unix::net::UnixStream::pair().expect("a pair");
            inner.set_nonblocking(true).expect("a socket can be");
            let (is_readable, is_writable, asked) = (Cell::new(is_readable), Cell::new(true), Cell::new(0));
            (Socket::new(Self { is_readable, is_writable, asked, vectored: 0, inner }), peer)
        }

        fn poll(&self, ready: &Cell<bool>) -> Poll<io::Result<()>> {
            self.asked.set(self.asked.get() + 1);
            if ready.get() { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
    }

    impl Readiness for Counting {
        fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll(&self.is_readable)
        }

        fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll(&self.is_writable)
        }

        fn attempt<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
            let ready = if interest.is_readable() { &self.is_readable } else { &self.is_writable };
            let tried = if ready.get() { call() } else { Err(io::ErrorKind::WouldBlock.into()) };
            ready.set(!matches!(&tried, Err(error) if error.kind() == io::ErrorKind::WouldBlock));
            tried
        }
    }

    impl AsFd for Counting {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.inner.as_fd()
        }
    }

    impl AsyncRead for Counting {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            unreachable!("the memory has been used")
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            unreachable!("it is sent")
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.vectored += 1;
            Poll::Ready(self.inner.write_vectored(parts))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Whether it was by writev(2), after all has come.
    async fn is_vectored(parts: &[&[u8]]) -> bool {
        let (mut socket, mut peer) = Counting::socket(false);
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let written = poll_fn(|cx| Pin::new(&mut socket).poll_write_vectored(cx, &slices)).await.expect("it takes all");
        let is_vectored = socket.get_ref().vectored > 0;
        drop(socket);
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).expect("it ends");
        assert_eq!((written, &heard), (heard.len(), &parts.concat()));
        is_vectored
    }

    #[tokio::test]
    async fn small_parts_go_out_together_in_their_order_and_large_ones_as_they_are() {
        assert!(!is_vectored(&[b"head"]).await);
        assert!(!is_vectored(&[b"head", b"", b"body"]).await);
        let large = vec![b'x'; SMALL];
        assert!(!is_vectored(&[&large]).await);
        assert!(!is_vectored(&[&large[1..], b"x"]).await);
        assert!(is_vectored(&[&large, b"x"]).await);
        assert!(!is_vectored(&[]).await);
    }

    /// Long enough on any machine; a test that needs it has failed.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn pair() -> (Socket<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (Socket::new(ours), theirs)
    }

    fn finds_nothing<S: AsyncRead + Readiness + Unpin>(socket: &mut Socket<S>, cx: &mut Context<'_>) -> bool {
        Pin::new(socket).poll_read(cx, &mut ReadBuf::new(&mut [0; 8])).is_pending()
    }

    /// What comes of reading, by nobody's waking but the socket's.
    async fn woken<T>(read: impl Future<Output = io::Result<T>>) -> T {
        tokio::select! {
            biased;
            () = sleep(PATIENCE) => panic!("it is not woken"),
            read = read => read.expect("no error"),
        }
    }

    #[tokio::test]
    async fn whoever_has_found_nothing_several_times_is_woken_by_what_comes_and_by_the_end() {
        let (mut socket, mut peer) = pair();
        let reader = spawn(async move {
            let mut heard = Vec::new();
            loop {
                let mut byte = [0; 1];
                let read = poll_fn(|cx| {
                    for _ in 0..3 {
                        let mut buf = ReadBuf::new(&mut byte);
                        if let Poll::Ready(read) = Pin::new(&mut socket).poll_read(cx, &mut buf) {
                            return Poll::Ready(read.map(|()| buf.filled().len()));
                        }
                    }
                    Poll::Pending
                });
                match woken(read).await {
                    0 => return heard,
                    _ => heard.push(byte[0]),
                }
            }
        });
        for byte in b"abc" {
            yield_now().await;
            peer.write_u8(*byte).await.expect("it is read");
        }
        yield_now().await;
        drop(peer);
        assert_eq!(reader.await.expect("no panic"), b"abc");
    }

    #[tokio::test]
    async fn another_task_that_goes_on_reading_is_woken_in_place_of_the_first() {
        let (mut socket, mut peer) = pair();
        assert!(poll_fn(|cx| Poll::Ready(finds_nothing(&mut socket, cx))).await);
        let reader = spawn(async move { woken(socket.read_u8()).await });
        yield_now().await;
        peer.write_u8(7).await.expect("it is read");
        assert_eq!(reader.await.expect("no panic"), 7);
    }

    #[tokio::test]
    async fn a_task_that_had_used_up_its_turn_is_woken_all_the_same() {
        let (mut socket, mut peer) = pair();
        let reader = spawn(async move {
            let first = poll_fn(|cx| {
                while pin!(consume_budget()).poll(cx).is_ready() {}
                Poll::Ready(finds_nothing(&mut socket, cx))
            });
            assert!(first.await);
            woken(socket.read_u8()).await
        });
        yield_now().await;
        yield_now().await;
        peer.write_u8(7).await.expect("it is read");
        assert_eq!(reader.await.expect("no panic"), 7);
    }

    #[tokio::test]
    async fn what_came_meanwhile_is_found_without_being_woken() {
        let (mut socket, mut peer) = pair();
        assert!(poll_fn(|cx| Poll::Ready(finds_nothing(&mut socket, cx))).await);
        peer.write_u8(7).await.expect("it is read");
        let found = async {
            while poll_fn(|cx| Poll::Ready(finds_nothing(&mut socket, cx))).await {
                yield_now().await;
            }
        };
        timeout(PATIENCE, found).await.expect("the runtime hears of it");
    }

    fn is_at_end(socket: &mut Socket<UnixStream>, cx: &mut Context<'_>) -> Option<bool> {
        match socket.poll_at_end(cx) {
            Poll::Ready(told) => Some(told.expect("no error")),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn whoever_looks_for_the_end_is_woken_by_it() {
        let (mut socket, peer) = pair();
        let looker = spawn(async move {
            woken(poll_fn(|cx| {
                for _ in 0..3 {
                    if let Poll::Ready(told) = socket.poll_at_end(cx) {
                        return Poll::Ready(told);
                    }
                }
                Poll::Pending
            }))
            .await
        });
        yield_now().await;
        drop(peer);
        assert!(looker.await.expect("no panic"));
    }

    #[tokio::test]
    async fn bytes_are_no_end_and_are_there_to_be_read() {
        let (mut socket, mut peer) = pair();
        assert_eq!(poll_fn(|cx| Poll::Ready(is_at_end(&mut socket, cx))).await, None);
        for byte in b"abc" {
            peer.write_u8(*byte).await.expect("it is read");
            for _ in 0..2 {
                assert!(!woken(poll_fn(|cx| socket.poll_at_end(cx))).await);
            }
            assert_eq!(woken(socket.read_u8()).await, *byte);
        }
        drop(peer);
        for _ in 0..2 {
            assert!(woken(poll_fn(|cx| socket.poll_at_end(cx))).await);
        }
        assert_eq!(woken(socket.read(&mut [0; 8])).await, 0);
    }

    #[tokio::test]
    async fn whoever_has_found_nothing_by_reading_is_woken_for_the_end_too() {
        let (mut socket, peer) = pair();
        let looker = spawn(async move {
            assert!(poll_fn(|cx| Poll::Ready(finds_nothing(&mut socket, cx))).await);
            woken(poll_fn(|cx| socket.poll_at_end(cx))).await
        });
        yield_now().await;
        drop(peer);
        assert!(looker.await.expect("no panic"));
    }

    #[tokio::test]
    async fn a_task_that_had_used_up_its_turn_is_woken_for_the_end_all_the_same() {
        let (mut socket, peer) = pair();
        let looker = spawn(async move {
            let first = poll_fn(|cx| {
                while pin!(consume_budget()).poll(cx).is_ready() {}
                Poll::Ready(is_at_end(&mut socket, cx))
            });
            assert_eq!(first.await, None);
            woken(poll_fn(|cx| socket.poll_at_end(cx))).await
        });
        yield_now().await;
        yield_now().await;
        drop(peer);
        assert!(looker.await.expect("no panic"));
    }

    #[tokio::test]
    async fn a_socket_that_has_nothing_is_asked_once() {
        let (mut socket, _peer) = Counting::socket(false);
        for _ in 0..3 {
            assert!(poll_fn(|cx| Poll::Ready(finds_nothing(&mut socket, cx))).await);
            assert!(poll_fn(|cx| Poll::Ready(socket.poll_at_end(cx).is_pending())).await);
        }
        assert_eq!(socket.get_ref().asked.get(), 1);
    }

    #[tokio::test]
    async fn a_socket_with_bytes_that_nobody_reads_is_looked_at_once() {
        let (mut socket, mut peer) = Counting::socket(true);
        peer.write_all(b"more").expect("it is open");
        for _ in 0..3 {
            assert!(!woken(poll_fn(|cx| socket.poll_at_end(cx))).await);
        }
        assert_eq!(socket.get_ref().asked.get(), 1);
    }

    /// Bytes that the buffer has never held: only then does the runtime itself read.
    #[tokio::test]
    async fn what_comes_is_read_into_memory_that_has_been_used_and_that_has_not() {
        let (mut socket, mut peer) = pair();
        for byte in b"abc" {
            peer.write_all(&[*byte; 3]).await.expect("it is read");
            let (mut used, mut fresh) = ([b'-'; 5], [MaybeUninit::uninit(); 5]);
            let mut buf = if *byte == b'b' { ReadBuf::uninit(&mut fresh) } else { ReadBuf::new(&mut used) };
            buf.put_slice(b"-");
            woken(poll_fn(|cx| Pin::new(&mut socket).poll_read(cx, &mut buf))).await;
            assert_eq!(buf.filled(), [b'-', *byte, *byte, *byte]);
        }
    }

    #[tokio::test]
    async fn after_less_than_there_was_room_for_nothing_more_is_asked_of_the_kernel() {
        let (mut socket, mut peer) = Counting::socket(true);
        for (sent, is_asked_again) in [(&b"full"[..], true), (b"few", false)] {
            peer.write_all(sent).expect("it is open");
            assert_eq!(woken(socket.read(&mut [0; 4])).await, sent.len());
            assert_eq!(socket.get_ref().is_readable.get(), is_asked_again);
        }
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_waits_until_there_is_and_comes_whole() {
        let (socket, mut peer) = pair();
        let sent: Vec<_> = (0..=u8::MAX).cycle().take(4_000_000).collect();
        let writer = spawn({
            let (mut socket, sent) = (socket, sent.clone());
            async move { timeout(PATIENCE, socket.write_all(&sent)).await.expect("it is woken") }
        });
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).await.expect("it ends");
        writer.await.expect("no panic").expect("no error");
        assert!(heard == sent);
    }

    #[tokio::test]
    async fn after_less_than_was_to_be_written_nothing_more_is_asked_of_the_kernel() {
        let (mut socket, mut peer) = Counting::socket(false);
        let large = vec![b'x'; 4_000_000];
        let written = socket.write(&large).await.expect("there is some room");
        assert!(0 < written && written < large.len());
        peer.read_exact(&mut vec![0; written]).expect("it has come");
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut socket).poll_write(cx, b"more").is_pending())).await);
        socket.get_ref().is_writable.set(true);
        assert_eq!(socket.write(b"more").await.expect("there is room"), 4);
        assert!(socket.get_ref().is_writable.get());
    }

    #[tokio::test]
    async fn writing_to_whoever_has_left_is_an_error() {
        let (mut socket, peer) = pair();
        drop(peer);
        let error = socket.write_all(b"more").await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
