//! A TCP connection to one of several addresses, whichever takes it first ("happy eyeballs", RFC 8305).

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{net::TcpStream, time::sleep};

/// How long an address is tried alone before the next one is tried beside it (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How many addresses of a name are tried: a resolver may give thousands.
const MAX_ADDRESSES: usize = 16;

/// Tries the first few addresses in turn, the families alternating, each as soon as the one before has
/// failed or had its head start. `None` if there is none.
///
/// # Errors
/// The last failure, when all have failed.
///
/// # Cancel safety
/// Dropping the future closes what was open.
pub(super) async fn any_of(addresses: impl IntoIterator<Item = SocketAddr>) -> Option<io::Result<TcpStream>> {
    let mut waiting = alternating(addresses).into_iter().take(MAX_ADDRESSES);
    let mut attempts = FuturesUnordered::new();
    attempts.push(TcpStream::connect(waiting.next()?));
    loop {
        let next_may_start = waiting.len() > 0;
        tokio::select! {
            biased;
            done = attempts.next() => match done {
                Some(Err(error)) => match (waiting.next(), attempts.is_empty()) {
                    (Some(address), _) => attempts.push(TcpStream::connect(address)),
                    (None, true) => return Some(Err(error)),
                    (None, false) => {}
                },
                connected => return connected,
            },
            () = sleep(HEAD_START), if next_may_start => attempts.extend(waiting.next().map(TcpStream::connect)),
        }
    }
}

/// In the resolver's order, but for a change of family from each to the next while both last (RFC 8305 section 4).
fn alternating(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut preferred: Vec<SocketAddr> = addresses.into_iter().collect();
    let Some(first) = preferred.first().copied() else { return preferred };
    let others: Vec<_> = preferred.extract_if(.., |address| address.is_ipv4() != first.is_ipv4()).collect();
    let mut order = Vec::with_capacity(preferred.len() + others.len());
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    loop {
        let before = order.len();
        order.extend(preferred.next());
        order.extend(others.next());
        if order.len() == before {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use tokio::{net::TcpSocket, time::Instant};

    use super::{HEAD_START, MAX_ADDRESSES, alternating, any_of};

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn families_alternate_and_nothing_is_lost() {
        let order = alternating(["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"].map(address));
        assert_eq!(order, ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"].map(address));
        assert!(alternating([]).is_empty());
    }

    /// A port with a full queue: the kernel lets connections to it wait.
    async fn black_hole() -> (impl Sized, SocketAddr) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(address("127.0.0.1:0")).expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let listener = socket.listen(0).expect("it can listen");
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(HEAD_START, tokio::net::TcpStream::connect(address)).await {
            queued.push(stream);
        }
        ((listener, queued), address)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_up_the_next_by_its_head_start_only() {
        let (_hole, silent) = black_hole().await;
        let good = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let good = good.local_addr().map(|address| (good, address)).expect("it is bound");
        let start = Instant::now();
        let stream = any_of([silent, good.1]).await.expect("there are addresses").expect("one takes it");
        assert_eq!(stream.peer_addr().expect("it is connected"), good.1);
        assert!(start.elapsed() >= HEAD_START);
    }

    #[tokio::test]
    async fn an_address_that_refuses_holds_up_nothing_and_the_last_refusal_is_the_reason() {
        let refused = |listener: TcpListener| listener.local_addr().expect("it is bound");
        let closed = refused(TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let good = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let good = (good.local_addr().expect("it is bound"), good);
        let stream = any_of([closed, good.0]).await.expect("there are addresses").expect("one takes it");
        assert_eq!(stream.peer_addr().expect("it is connected"), good.0);
        let failure = any_of([closed, closed]).await.expect("there are addresses").expect_err("none takes it");
        assert_eq!(failure.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(any_of([]).await.is_none());
    }

    #[tokio::test]
    async fn of_very_many_addresses_the_first_few_are_tried() {
        let bound = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        let closed = bound(&TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let good = TcpListener::bind("127.0.0.1:0").expect("a free port");
        for (position, is_tried) in [(MAX_ADDRESSES, true), (MAX_ADDRESSES + 1, false)] {
            let addresses = std::iter::repeat_n(closed, position - 1).chain([bound(&good)]);
            let tried = any_of(addresses).await.expect("there are addresses");
            assert_eq!(tried.is_ok(), is_tried, "{position}");
        }
    }
}
