//! The port, open or closed as the script has it, and the connections that it took.

use std::{
    convert::Infallible,
    future, io,
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, mpsc as async_mpsc, watch},
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tokio_rustls::TlsAcceptor;

use super::{State, api, locked, oauth, reply::Reply};

/// How many connections the kernel queues. Load tests open many at once.
const BACKLOG: u32 = 1024;

/// How long to leave an accept alone that failed, e.g. for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a port that was just closed is tried, and how long it is left alone between.
const BIND_TRIES: u32 = 200;
const BIND_PAUSE: Duration = Duration::from_millis(5);

/// What the provider's handle asks of its thread.
#[derive(Debug)]
pub(super) enum Order {
    /// Bring the port in line with the script, then say so.
    Settle(mpsc::Sender<()>),
    /// End.
    Stop,
}

/// Serves until told to stop.
pub(super) async fn run(
    state: Arc<State>,
    listener: std::net::TcpListener,
    tls: Arc<ServerConfig>,
    mut orders: async_mpsc::UnboundedReceiver<Order>,
) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(tls);
    let listener = TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let mut port = Port::open(listener);
    loop {
        let (presence, change) = locked(&state.script).presence(state.started.elapsed());
        port = port.bring(presence, address).await?;
        let change = async {
            match change {
                Some(offset) => sleep_until((state.started + offset).into()).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Settle(done)) => {
                    // The script may have changed since the top of this round.
                    let (presence, _) = locked(&state.script).presence(state.started.elapsed());
                    port = port.bring(presence, address).await?;
                    let _ = done.send(());
                }
                Some(Order::Stop) | None => return Ok(()),
            },
            () = change => {}
            () = port.serve(&acceptor, &state) => {}
        }
    }
}

/// Whether the provider is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It takes connections.
    Up,
    /// It refuses them.
    Down,
}

/// The port that the provider listens on, or would.
enum Port {
    Open {
        listener: TcpListener,
        connections: JoinSet<()>,
        /// Dropped to reset all connections.
        alive: watch::Sender<()>,
    },
    /// Bound but not listening: the kernel refuses connections and gives the port to nobody else.
    Closed(TcpSocket),
}

impl Port {
    fn open(listener: TcpListener) -> Self {
        Self::Open { listener, connections: JoinSet::new(), alive: watch::Sender::new(()) }
    }

    /// Opens or closes, if it is not so already.
    async fn bring(self, presence: Presence, address: SocketAddr) -> io::Result<Self> {
        match (self, presence) {
            (Self::Open { listener, mut connections, alive }, Presence::Down) => {
                drop(listener);
                let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                // The connections that are about to end still occupy the port.
                socket.set_reuseaddr(true)?;
                bind(&socket, address).await?;
                drop(alive);
                while connections.join_next().await.is_some() {}
                Ok(Self::Closed(socket))
            }
            (Self::Closed(socket), Presence::Up) => Ok(Self::open(socket.listen(BACKLOG)?)),
            (port, Presence::Up | Presence::Down) => Ok(port),
        }
    }

    /// Takes one connection, or buries one.
    async fn serve(&mut self, acceptor: &TlsAcceptor, state: &Arc<State>) {
        let Self::Open { listener, connections, alive } = self else {
            return future::pending().await;
        };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(acceptor.clone(), stream, Arc::clone(state), alive.subscribe()));
                }
                Err(error) => {
                    tracing::warn!(target: "sandbox", %error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Binds to the port of a listener that was just closed. A child process that another thread is
/// starting has a copy of that until its own program runs, so it may take a moment.
async fn bind(socket: &TcpSocket, address: SocketAddr) -> io::Result<()> {
    for _ in 0..BIND_TRIES {
        match socket.bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => sleep(BIND_PAUSE).await,
            other => return other,
        }
    }
    socket.bind(address)
}

/// Serves one connection until it ends, is cut by a fault, or the provider goes down.
async fn converse(acceptor: TlsAcceptor, stream: TcpStream, state: Arc<State>, mut alive: watch::Receiver<()>) {
    // Without it a small response would wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let stream = tokio::select! {
        shaken = acceptor.accept(stream) => match shaken {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(target: "sandbox", %error, "a TLS handshake failed");
                return;
            }
        },
        _ = alive.changed() => return,
    };

    let cut = Arc::new(Notify::new());
    let service = service_fn(|request| {
        let (state, cut) = (Arc::clone(&state), Arc::clone(&cut));
        async move { Ok::<_, Infallible>(answer(&state, &cut, request).await) }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // An error is the client's going away, or a body that the script breaks off.
        _ = &mut connection => {}
        () = cut.notified() => reset(connection.into_parts().io.into_inner().into_inner().0),
        _ = alive.changed() => reset(connection.into_parts().io.into_inner().into_inner().0),
    }
}

/// Closes with RST instead of FIN, as a crash or a firewall does.
#[expect(clippy::needless_pass_by_value, reason = "dropping the stream is what closes it")]
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn answer(state: &State, cut: &Notify, request: Request<Incoming>) -> Reply {
    if request.uri().path() == oauth::PATH {
        oauth::answer(state, cut, request).await
    } else {
        api::answer(state, request).await
    }
}
