//! The two kinds of sockets that applications connect to: TCP and Unix.

use std::{
    fmt,
    fs::{self, Permissions},
    io,
    net::SocketAddr,
    os::{
        linux::fs::MetadataExt,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::UnixStream as StdUnixStream,
        },
    },
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::sockopt::{set_socket_linger, set_tcp_congestion};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream},
};

use crate::{config::is_exposed, socket::Socket};

/// How many connections the kernel completes before they are accepted.
const BACKLOG: u32 = 1_024;

/// Who is at the other end of a connection, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP socket with this address.
    Tcp(SocketAddr),
    /// A process of the user with this id, by a Unix socket (unix(7), `SO_PEERCRED`).
    Unix {
        /// As it was when the process connected.
        uid: u32,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { uid } => write!(f, "uid {uid}"),
        }
    }
}

/// Has what goes to callers on this machine sent as it comes. There is no path whose pace has to be found, which is what
/// hosts have BBR for; connections are accepted with what their port has (tcp(7), `TCP_CONGESTION`).
fn unpace(port: &std::net::TcpListener, address: &SocketAddr) {
    if !is_exposed(address) {
        // An error means that the kernel does not have it: all are served by what it has.
        let _ = set_tcp_congestion(port, "reno");
    }
}

/// An open socket that belongs to no runtime yet.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(std::net::TcpListener),
    /// With its file, unless that is another's.
    Unix(std::os::unix::net::UnixListener, Option<SocketFile>),
}

/// The same under a runtime.
#[derive(Debug)]
pub(super) enum Port {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "its end removes the file")] Option<SocketFile>),
}

impl Bound {
    /// Must be called within a runtime. Returns the address with the port that the kernel chose too.
    pub(super) fn tcp(address: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A predecessor's connections may linger; its port is free all the same.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let tcp = socket.listen(BACKLOG)?.into_std()?;
        let address = tcp.local_addr()?;
        unpace(&tcp, &address);
        Ok((Self::Tcp(tcp), address))
    }

    /// Must be called within a runtime. Replaces the socket of a predecessor that did not end in order.
    pub(super) fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        let socket = UnixSocket::new_stream()?;
        if is_abandoned(path)? {
            fs::remove_file(path)?;
        }
        socket.bind(path)?;
        let file = SocketFile::new(path)?;
        // Nobody can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(Self::Unix(socket.listen(BACKLOG)?.into_std()?, Some(file)))
    }

    pub(super) fn attach(self) -> io::Result<Port> {
        Ok(match self {
            Self::Tcp(tcp) => Port::Tcp(TcpListener::from_std(tcp)?),
            Self::Unix(unix, file) => Port::Unix(UnixListener::from_std(unix)?, file),
        })
    }
}

/// Whether there is a socket at `path` that nobody listens to.
fn is_abandoned(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match StdUnixStream::connect(path) {
            Err(error) => Ok(error.kind() == io::ErrorKind::ConnectionRefused),
            Ok(_) => Ok(false),
        },
        // Not to be removed, whatever it is: its name is taken.
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A socket's name in the file system, which is removed with this.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.st_dev(), inode: found.st_ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have put its own there.
        let is_ours = |found: &fs::Metadata| (found.st_dev(), found.st_ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(is_ours) {
            // What is left behind is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Port {
    /// # Cancel safety
    /// Dropping the future loses no connection.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(tcp) => {
                tcp.accept().await.map(|(stream, peer)| (Stream::Tcp(Socket::new(stream)), Peer::Tcp(peer)))
            }
            Self::Unix(unix, _) => {
                let (stream, _) = unix.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok((Stream::Unix(Socket::new(stream)), Peer::Unix { uid }))
            }
        }
    }
}

/// A connection's bytes.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(Socket<TcpStream>),
    Unix(Socket<UnixStream>),
}

/// The same while it belongs to no runtime.
#[derive(Debug)]
pub(super) enum StdStream {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

impl Stream {
    pub(super) fn into_std(self) -> io::Result<StdStream> {
        Ok(match self {
            Self::Tcp(tcp) => StdStream::Tcp(tcp.into_inner().into_std()?),
            Self::Unix(unix) => StdStream::Unix(unix.into_inner().into_std()?),
        })
    }

    pub(super) fn from_std(stream: StdStream) -> io::Result<Self> {
        Ok(match stream {
            StdStream::Tcp(tcp) => Self::Tcp(Socket::new(TcpStream::from_std(tcp)?)),
            StdStream::Unix(unix) => Self::Unix(Socket::new(UnixStream::from_std(unix)?)),
        })
    }

    /// Waits for something to read, and tells whether it is the end. Nothing is taken.
    pub(super) fn poll_at_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_at_end(cx),
            Self::Unix(unix) => unix.poll_at_end(cx),
        }
    }

    /// Sends what is written at once, as Unix sockets always do.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.get_ref().set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Has its close be a reset, not an end in order. Unix sockets know no such thing.
    pub(super) fn reset_on_close(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => Ok(set_socket_linger(tcp.get_ref(), Some(Duration::ZERO))?),
            Self::Unix(_) => Ok(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        // Both kinds can.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel has it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};

    use rustix::net::sockopt::tcp_congestion;
    use tokio::net::TcpSocket;

    use super::{Bound, Port};

    /// What a caller at this address is served by.
    async fn congestion_control(address: &str) -> String {
        let (port, address) = Bound::tcp(address.parse().expect("an address")).expect("a free port");
        let Port::Tcp(port) = port.attach().expect("it can be watched") else { panic!("another kind of port") };
        let _caller = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], address.port()))).expect("it listens");
        let (accepted, _) = port.accept().await.expect("there is a caller");
        tcp_congestion(&accepted).expect("it has one")
    }

    #[tokio::test]
    async fn callers_are_served_without_pacing_where_only_this_machine_can_call() {
        assert_eq!(congestion_control("127.0.0.1:0").await, "reno");
        let host_s_own = tcp_congestion(TcpSocket::new_v4().expect("a socket")).expect("it has one");
        assert_eq!(congestion_control("0.0.0.0:0").await, host_s_own);
    }
}
