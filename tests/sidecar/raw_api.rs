//! An API whose every byte is the test's, and both ends of a connection as plain bytes.

use std::{
    io::{self, Read},
    net::{Shutdown, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use token_valet::sandbox::{Provider, Settings};

use crate::harness::{Connection, DEADLINE, Setup, Sidecar, provider, wait_for};

/// A request without anything that is not needed.
pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The sidecar's connections are taken one by one, when the test wants them.
pub(crate) struct RawApi(TcpListener);

impl RawApi {
    pub(crate) fn start() -> Self {
        Self::on("127.0.0.1:0")
    }

    pub(crate) fn on(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        listener.set_nonblocking(true).expect("it is TCP");
        Self(listener)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    /// A sidecar before it.
    pub(crate) fn sidecar(&self, change: impl FnOnce(Setup) -> Setup) -> (Provider, Sidecar) {
        let provider = provider(Settings::default());
        let setup = Setup::partner(&provider).set("upstream.url", format!("http://{}", self.address()));
        (provider, change(setup).start())
    }

    /// The next connection.
    #[track_caller]
    pub(crate) fn accept(&self) -> Connection {
        wait_for("a connection to the API", || self.accepted())
    }

    /// The next connection, if there is one.
    pub(crate) fn accepted(&self) -> Option<Connection> {
        let (stream, _) = self.0.accept().ok()?;
        stream.set_nonblocking(false).expect("it is TCP");
        Some(Connection::of(stream))
    }

    /// The next connection, and the head of the first request on it.
    #[track_caller]
    pub(crate) fn asked(&self) -> (Connection, Asked) {
        let mut connection = self.accept();
        let asked = connection.asked();
        (connection, asked)
    }
}

/// The head of a request. Names of fields are in lower case.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Asked {
    /// The values of all fields of one name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }
}

impl Connection {
    /// Reads the head of a request.
    #[track_caller]
    pub(crate) fn asked(&mut self) -> Asked {
        let line = self.line().expect("a request line");
        let mut fields = Vec::new();
        loop {
            let field = self.line().expect("a field");
            if field.is_empty() {
                return Asked { line, fields };
            }
            let (name, value) = field.split_once(':').expect("a colon in a field");
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    #[track_caller]
    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.send(bytes.as_ref()).expect("an open connection");
    }

    /// Reads so many bytes.
    #[track_caller]
    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("as many bytes");
        bytes
    }

    /// Checks that these bytes come next.
    #[track_caller]
    pub(crate) fn assert_hears(&mut self, bytes: impl AsRef<[u8]>) {
        let heard = self.exactly(bytes.as_ref().len());
        assert!(heard == bytes.as_ref(), "{:?}", String::from_utf8_lossy(&heard));
    }

    /// Watches for a while that nothing comes.
    #[track_caller]
    pub(crate) fn assert_silent_for(&mut self, while_: Duration) {
        self.0.get_ref().set_read_timeout(Some(while_)).expect("it is TCP");
        let mut byte = [0];
        let read = self.0.read(&mut byte);
        self.0.get_ref().set_read_timeout(Some(DEADLINE)).expect("it is TCP");
        let is_silent = read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        assert!(is_silent, "{read:?}: {byte:?}");
    }

    /// Checks that the other side ends the connection, in whatever way, and says nothing before.
    #[track_caller]
    pub(crate) fn assert_ended(&mut self) {
        let mut said = Vec::new();
        if let Err(error) = self.rest(&mut said) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error:?}");
        }
        assert!(said.is_empty(), "{:?}", String::from_utf8_lossy(&said));
    }

    /// Says that no more will be sent.
    pub(crate) fn half_close(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).expect("an open connection");
    }
}

/// How long something took.
pub(crate) fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let outcome = what();
    (outcome, start.elapsed())
}
