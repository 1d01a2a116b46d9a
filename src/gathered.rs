//! Sockets that send the parts of a small message together.
//!
//! send(2) takes one buffer and costs less than writev(2), by more than it costs to put a head and a short
//! body into one buffer.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Up to how many bytes are put together.
const SMALL: usize = 4 * 1_024;

thread_local! {
    /// Where they are put together, so that no message needs memory of its own. Nothing stays in it, as there are
    /// tokens among them.
    static TOGETHER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Writes some or all of `parts`, as [`AsyncWrite::poll_write_vectored`] does.
pub fn poll_write_parts<S: AsyncWrite>(
    socket: Pin<&mut S>,
    cx: &mut Context<'_>,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [part] = parts {
        return socket.poll_write(cx, part);
    }
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length > SMALL {
        return socket.poll_write_vectored(cx, parts);
    }
    let mut together = TOGETHER.take();
    // At once, as growing leaves copies behind.
    together.reserve_exact(SMALL);
    for part in parts {
        together.extend_from_slice(part);
    }
    let written = socket.poll_write(cx, &together);
    together.fill(0);
    together.clear();
    TOGETHER.set(together);
    written
}

/// A socket that does so.
#[derive(Debug)]
pub struct Gathered<S>(pub S);

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_parts(Pin::new(&mut self.get_mut().0), cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io::{self, IoSlice},
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::AsyncWrite;

    use super::{Gathered, SMALL};

    /// What each call was given.
    #[derive(Debug, Default)]
    struct Calls(Vec<(&'static str, Vec<u8>)>);

    impl AsyncWrite for Calls {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(("one", buf.to_vec()));
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.0.push(("many", parts.iter().flat_map(|part| part.iter().copied()).collect()));
            Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn call_for(parts: &[&[u8]]) -> &'static str {
        let mut socket = Gathered(Calls::default());
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let written = poll_fn(|cx| Pin::new(&mut socket).poll_write_vectored(cx, &slices)).await.expect("it takes all");
        let [(call, bytes)] = &socket.0.0[..] else { panic!("more calls than one") };
        assert_eq!((written, bytes), (parts.concat().len(), &parts.concat()));
        call
    }

    #[tokio::test]
    async fn small_parts_go_out_together_in_their_order_and_large_ones_as_they_are() {
        assert_eq!(call_for(&[b"head"]).await, "one");
        assert_eq!(call_for(&[b"head", b"", b"body"]).await, "one");
        let large = vec![b'x'; SMALL];
        assert_eq!(call_for(&[&large]).await, "one");
        assert_eq!(call_for(&[&large[1..], b"x"]).await, "one");
        assert_eq!(call_for(&[&large, b"x"]).await, "many");
        assert_eq!(call_for(&[]).await, "one");
    }
}
