//! A listening socket that systemd opened beforehand (sd_listen_fds(3)), and keeps.

use std::{
    env,
    ffi::OsStr,
    io,
    net::{SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr as UnixAddr, UnixListener},
        },
    },
    path::PathBuf,
    process,
};

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;

use super::socket::Bound;
use crate::config::{Address, Listen, is_exposed};

/// Why none is taken from systemd.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// The process was not started by a socket.
    #[error("no socket was passed to this process")]
    Nothing,
    /// A program between systemd and this one was to have them.
    #[error("the sockets were passed to the process {0}, and this is another")]
    Others(u32),
    /// What `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` say is not what they can say.
    #[error("the variables LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES make no sense")]
    Variables(#[source] io::Error),
    /// There are some, of other names.
    #[error("no socket of that name was passed")]
    Unknown {
        /// Theirs.
        passed: Vec<String>,
    },
    /// It is not clear which one is meant, and the others would keep their callers waiting.
    #[error("{0} sockets of that name were passed")]
    Several(usize),
    /// It is for datagrams, a pipe, or a file.
    #[error("it is neither a TCP socket nor a Unix stream socket")]
    Kind,
    /// It is a connection, or was never told to listen.
    #[error("it does not listen")]
    NotListening,
    /// Whoever reaches it uses the token.
    #[error("its address is {0}, expected a loopback address")]
    Exposed(SocketAddr),
    /// TCP knows no users.
    #[error("it is a TCP port, for which `listen.allow_uids` cannot be checked")]
    Users,
    /// The kernel does not tell of it.
    #[error("it cannot be used")]
    Socket(#[from] io::Error),
}

impl PassedError {
    /// What an operator can do.
    pub(super) fn hint(&self, name: &str) -> String {
        match self {
            Self::Nothing => format!(
                "start it by a socket unit: one of the service's own name, or that its `Sockets=` names, with \
                 `FileDescriptorName={name}`"
            ),
            Self::Others(_) => "start it by systemd itself, or by `exec` in a script".to_owned(),
            Self::Variables(_) => "they are systemd's: nothing else may set them".to_owned(),
            Self::Unknown { passed } => format!(
                "{} passed: set `listen.address` to one of these, such as \"systemd:{}\", or `FileDescriptorName={name}` \
                 in the socket unit",
                listed(passed),
                passed.first().map_or(name, String::as_str)
            ),
            Self::Several(_) => {
                "have one `ListenStream=` in the socket unit, and a unit and a name for each other".to_owned()
            }
            Self::Kind => "use `ListenStream=` in the socket unit, with a port or a path".to_owned(),
            Self::NotListening => "set `Accept=no` in the socket unit".to_owned(),
            Self::Exposed(address) => format!(
                "whoever reaches this port uses your token: set `ListenStream=127.0.0.1:{}` in the socket unit, or \
                 `listen.allow_non_loopback = true` and `listen.allowed_hosts`",
                address.port()
            ),
            Self::Users => {
                "set `ListenStream=` in the socket unit to a path, or leave out `listen.allow_uids`".to_owned()
            }
            Self::Socket(_) => "look at the socket unit by `systemctl status`".to_owned(),
        }
    }
}

/// Takes the socket of this name, with its address. No program that the process starts has it, nor any other that
/// was passed.
///
/// Must be called while there are no other threads, as it changes the environment.
pub(super) fn take(name: &str, listen: &Listen) -> Result<(Bound, Address), PassedError> {
    let names = names()?;
    let places: Vec<usize> = (0..names.len()).filter(|place| names[*place] == name).collect();
    let place = match places[..] {
        [] => return Err(PassedError::Unknown { passed: names }),
        [place] => place,
        [..] => return Err(PassedError::Several(places.len())),
    };
    warn_of(names.iter().filter(|other| *other != name));
    let mut sockets = ListenFd::from_env();
    if let Ok(Some(tcp)) = sockets.take_tcp_listener(place) {
        return of_tcp(tcp, listen);
    }
    match sockets.take_unix_listener(place) {
        Ok(Some(unix)) => of_unix(unix),
        Ok(None) | Err(_) => Err(PassedError::Kind),
    }
}

/// Has those that were passed in vain told.
pub(super) fn leave() {
    match names() {
        Ok(names) => warn_of(names.iter()),
        Err(PassedError::Variables(error)) => {
            tracing::warn!(%error, "what tells of passed sockets makes no sense: nobody is served there");
        }
        // There are none, or they are not for this process.
        Err(_) => {}
    }
}

/// The names of all that were passed, in their order. All are closed in programs that the process starts, from now on.
fn names() -> Result<Vec<String>, PassedError> {
    // Of a variable that is no number, the next call has the fault.
    let whose = env::var("LISTEN_PID").map_err(|_| PassedError::Nothing)?.parse();
    if let Some(other) = whose.ok().filter(|pid| *pid != process::id()) {
        return Err(PassedError::Others(other));
    }
    // Not systemd's: names count from 3, and the sockets would from elsewhere.
    if env::var_os("LISTEN_FDS_FIRST_FD").is_some() {
        return Err(PassedError::Variables(io::Error::other("LISTEN_FDS_FIRST_FD is set")));
    }
    let passed = sd_notify::listen_fds_with_names().map_err(PassedError::Variables)?;
    let names: Vec<String> = passed.map(|(_, name)| name).collect();
    if names.is_empty() { Err(PassedError::Nothing) } else { Ok(names) }
}

fn warn_of<'a>(names: impl Iterator<Item = &'a String>) {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if !names.is_empty() {
        tracing::warn!(
            names = names.join(", "),
            "sockets were passed that `listen.address` does not name: nobody is served there"
        );
    }
}

fn listed(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "was" } else { "were" })
}

fn of_tcp(tcp: TcpListener, listen: &Listen) -> Result<(Bound, Address), PassedError> {
    if !socket_acceptconn(&tcp).map_err(io::Error::from)? {
        return Err(PassedError::NotListening);
    }
    let address = tcp.local_addr()?;
    if is_exposed(&address) && !listen.allow_non_loopback {
        return Err(PassedError::Exposed(address));
    }
    if !listen.allow_uids.is_empty() {
        return Err(PassedError::Users);
    }
    tcp.set_nonblocking(true)?;
    Ok((Bound::Tcp(tcp), Address::Tcp(address)))
}

fn of_unix(unix: UnixListener) -> Result<(Bound, Address), PassedError> {
    if !socket_acceptconn(&unix).map_err(io::Error::from)? {
        return Err(PassedError::NotListening);
    }
    let address = Address::Unix(path(&unix.local_addr()?));
    unix.set_nonblocking(true)?;
    // Its file stays, for whoever is started by it next.
    Ok((Bound::Unix(unix, None), address))
}

/// The name of an abstract one begins with an `@`, as systemd writes it.
fn path(address: &UnixAddr) -> PathBuf {
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => path.to_owned(),
        (None, name) => OsStr::from_bytes(&[b"@", name.unwrap_or_default()].concat()).into(),
    }
}
