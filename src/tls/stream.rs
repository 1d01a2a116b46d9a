//! A connection over TLS, from the client's side, by rustls's interface without buffers.
//!
//! In buffers of its own, rustls reads each record in pieces of 4 KiB, into memory that grows with every piece and is given
//! back after the record. Here, what is received lies in memory that the thread's connections share until it is
//! decrypted, which is at once; a connection keeps the beginning of a record that has not come whole, and of what it has
//! decrypted what its reader has no room for yet. The copy that rustls makes of each decrypted record remains.

use std::{
    cell::Cell,
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use rustls::{
    ClientConfig, CommonState, InvalidMessage,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::ServerName,
    unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// The most bytes that a record carries (RFC 8446 section 5.1).
const MAX_CONTENT: usize = 16 * 1_024;
/// The most that a record takes, with its header and with what its encryption adds (RFC 5246 section 6.2.3).
const MAX_RECORD: usize = 5 + MAX_CONTENT + 2_048;
/// How many bytes are received at once, at most, together with those before them of a handshake message that is not whole.
const MAX_RECEIVED: usize = 4 * MAX_RECORD;
/// How many bytes are taken to be sent at once, at most.
const MAX_TAKEN: usize = 2 * MAX_CONTENT;
/// No more are taken while more than this many wait to be sent.
const MAX_UNSENT: usize = MAX_CONTENT;
/// What encryption and header add to a record, as a guess that is good for today's ciphers.
const OVERHEAD: usize = 5 + 8 + 1 + 16;

thread_local! {
    /// What is being decrypted, or put together to be encrypted. Nothing stays in it, as there are tokens among it.
    static MEMORY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection over TLS whose handshake is done. Without an end that is said in TLS, reading fails with an error of kind
/// `UnexpectedEof`: what has come may be cut off (RFC 8446 section 6.1). Once TLS has failed, what came before is read,
/// and then the error; writes fail with one of kind `BrokenPipe` at once.
pub struct TlsStream<S> {
    inner: S,
    session: UnbufferedClientConnection,
    /// Received, and no whole record, or no whole handshake message.
    partial: BytesMut,
    /// Decrypted, and not read.
    unread: BytesMut,
    /// Encrypted, and not sent.
    unsent: BytesMut,
    /// The peer has said that nothing more comes.
    has_ended: bool,
    has_said_goodbye: bool,
    /// Why nothing more is decrypted, or encrypted.
    failure: Option<rustls::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands with who is to be `name`.
    ///
    /// # Errors
    /// Those of `inner`; in those of TLS there is a [`rustls::Error`].
    ///
    /// # Cancel safety
    /// Dropping the future closes `inner`.
    pub async fn connect(config: Arc<ClientConfig>, name: ServerName<'static>, inner: S) -> io::Result<Self> {
        let mut stream = Self {
            inner,
            session: UnbufferedClientConnection::new(config, name).map_err(failed)?,
            partial: BytesMut::new(),
            unread: BytesMut::new(),
            unsent: BytesMut::new(),
            has_ended: false,
            has_said_goodbye: false,
            failure: None,
        };
        let all_unread = &mut ReadBuf::new(&mut []);
        stream.decrypt(&mut [], all_unread).map_err(failed)?;
        stream.flush().await?;
        while stream.session.is_handshaking() {
            poll_fn(|cx| stream.poll_receive(cx, all_unread)).await?;
            stream.flush().await?;
        }
        Ok(stream)
    }

    /// What it is spoken on.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// How many bytes have come of a record, or of a handshake message, that is not whole.
    pub fn partial_len(&self) -> usize {
        self.partial.len()
    }

    /// What was agreed on.
    pub fn agreed(&self) -> &CommonState {
        &self.session
    }

    /// Waits for something to be received, and decrypts it. An error is for the next time, if something could be decrypted.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(failure) = &self.failure {
            return Poll::Ready(Err(failed(failure.clone())));
        }
        with_memory(|memory| {
            let kept = self.partial.len();
            let wanted = encrypted_len(buf.remaining()).max(kept + MAX_RECORD).min(memory.len());
            if kept == wanted {
                return Poll::Ready(Err(failed(InvalidMessage::HandshakePayloadTooLarge.into())));
            }
            let mut read = ReadBuf::new(&mut memory[kept..wanted]);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read))?;
            let count = read.filled().len();
            if count == 0 {
                let cut_off =
                    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended, and TLS on it did not");
                return Poll::Ready(Err(cut_off));
            }
            let received = &mut memory[..kept + count];
            received[..kept].copy_from_slice(&self.partial);
            let (room, may_send) = (buf.remaining(), self.unsent.is_empty());
            let decrypted = self.decrypt(received, buf);
            if let Ok(done) = decrypted {
                self.partial = BytesMut::from(&received[done..]);
            }
            received.fill(0);
            // An alert, or a word of the handshake. Whoever waits to send something else is woken for that, and not this task.
            // What cannot be sent, whoever writes next is told.
            if may_send {
                let _ = self.poll_send(cx);
            }
            if let Err(error) = decrypted {
                self.failure = Some(error.clone());
                if buf.remaining() == room && self.unread.is_empty() {
                    return Poll::Ready(Err(failed(error)));
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Decrypts the whole records at the start of `received` into `buf`, and into `unread` what finds no room there. Returns
    /// how long they are.
    fn decrypt(&mut self, received: &mut [u8], buf: &mut ReadBuf<'_>) -> Result<usize, rustls::Error> {
        let length = received.len();
        let mut done = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(&mut received[done..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        let record = record?;
                        let (now, later) = record.payload.split_at(record.payload.len().min(buf.remaining()));
                        buf.put_slice(now);
                        if !later.is_empty() {
                            // At once, as growing leaves copies behind.
                            self.unread.reserve(length - done);
                            self.unread.extend_from_slice(later);
                        }
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    append(&mut self.unsent, 0, |room| message.encode(room))?;
                }
                Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
                Ok(ConnectionState::PeerClosed) => self.has_ended = true,
                // What comes after the end is of no use.
                Ok(_) => return Ok(if self.has_ended { length } else { done + discard }),
                Err(error) => {
                    // What is to be said of that, and what was to be said before it.
                    while self.session.wants_write() {
                        let next = self.session.process_tls_records(&mut received[done + discard..]).state;
                        let Ok(ConnectionState::EncodeTlsData(mut message)) = next else { break };
                        let _ = append(&mut self.unsent, 0, |room| message.encode(room));
                    }
                    return Err(error);
                }
            }
            done += discard;
        }
    }

    /// Has `write` write to the end of what is to be sent, where it has room for a guess of `size` bytes, and if it asks for
    /// more for that.
    fn encrypt(
        &mut self,
        size: usize,
        mut write: impl FnMut(&mut WriteTraffic<'_, ClientConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), rustls::Error> {
        loop {
            // All whole records were decrypted as they came, so that none is discarded here.
            match self.session.process_tls_records(&mut self.partial).state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    return append(&mut self.unsent, size, |room| write(&mut traffic, room));
                }
                ConnectionState::EncodeTlsData(mut message) => {
                    append(&mut self.unsent, 0, |room| message.encode(room))?;
                }
                ConnectionState::TransmitTlsData(message) => message.done(),
                _ => return Err(rustls::Error::General("nothing can be sent any more".to_owned())),
            }
        }
    }

    /// Sends all that is to be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send_but(cx, 0)
    }

    /// Sends what is to be sent until no more than so many bytes are left.
    fn poll_send_but(&mut self, cx: &mut Context<'_>, few: usize) -> Poll<io::Result<()>> {
        while self.unsent.len() > few {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            consume(&mut self.unsent, sent);
        }
        Poll::Ready(Ok(()))
    }
}

/// Lends memory of [`MAX_RECEIVED`] bytes, all 0. It is to be left so.
fn with_memory<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut memory = MEMORY.take();
    memory.resize(MAX_RECEIVED, 0);
    let worked = work(&mut memory);
    MEMORY.set(memory);
    worked
}

/// How long the records with so many bytes are, as a guess.
fn encrypted_len(length: usize) -> usize {
    length + length.div_ceil(MAX_CONTENT) * OVERHEAD
}

/// Takes bytes off the start. Nothing is held by what is empty.
fn consume(bytes: &mut BytesMut, count: usize) {
    bytes.advance(count);
    if bytes.is_empty() {
        *bytes = BytesMut::new();
    }
}

/// Why rustls has not written.
enum Refusal {
    TooSmall(InsufficientSizeError),
    Failed(rustls::Error),
}

impl From<EncodeError> for Refusal {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(error) => Self::TooSmall(error),
            EncodeError::AlreadyEncoded => Self::Failed(rustls::Error::General(error.to_string())),
        }
    }
}

impl From<EncryptError> for Refusal {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(error) => Self::TooSmall(error),
            EncryptError::EncryptExhausted => Self::Failed(rustls::Error::EncryptError),
        }
    }
}

/// Has `write` write to the end of `bytes`, where it has room for `size` bytes, and if it asks for more for that.
fn append<E: Into<Refusal>>(
    bytes: &mut BytesMut,
    mut size: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), rustls::Error> {
    let start = bytes.len();
    loop {
        bytes.resize(start + size, 0);
        let written = write(&mut bytes[start..]).map_err(Into::into);
        bytes.truncate(start + written.as_ref().copied().unwrap_or(0));
        match written {
            Ok(_) => return Ok(()),
            Err(Refusal::TooSmall(InsufficientSizeError { required_size })) if required_size > size => {
                size = required_size;
            }
            Err(Refusal::TooSmall(_)) => return Err(rustls::Error::EncryptError),
            Err(Refusal::Failed(error)) => return Err(error),
        }
    }
}

fn failed(error: rustls::Error) -> io::Error {
    let kind = match error {
        // The keys have been used as often as they may be, and TLS 1.2 has no new ones: the connection is at its end.
        rustls::Error::EncryptError => io::ErrorKind::UnexpectedEof,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = buf.remaining();
        while this.unread.is_empty() && buf.remaining() == room && room > 0 && !this.has_ended {
            ready!(this.poll_receive(cx, buf))?;
        }
        if !this.unread.is_empty() {
            let count = this.unread.len().min(buf.remaining());
            buf.put_slice(&this.unread[..count]);
            this.unread[..count].fill(0);
            consume(&mut this.unread, count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(failure) = &this.failure {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, failure.clone())));
        }
        if this.has_said_goodbye {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        ready!(this.poll_send_but(cx, MAX_UNSENT))?;
        let taken = &buf[..buf.len().min(MAX_TAKEN)];
        this.encrypt(encrypted_len(taken.len()), |traffic, room| traffic.encrypt(taken, room)).map_err(failed)?;
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken.len())),
        }
    }

    /// Puts parts together into one record, unless the first fills one.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(part) = parts.first().filter(|part| parts.len() == 1 || part.len() >= MAX_CONTENT) {
            return self.poll_write(cx, part);
        }
        with_memory(|memory| {
            let mut length = 0;
            for part in parts {
                let count = part.len().min(MAX_CONTENT - length);
                memory[length..length + count].copy_from_slice(&part[..count]);
                length += count;
            }
            let written = self.poll_write(cx, &memory[..length]);
            memory[..length].fill(0);
            written
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    /// Says in TLS that nothing more comes, and closes `inner` for writes.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.has_said_goodbye && this.failure.is_none() {
            this.has_said_goodbye = true;
            let _ = this.encrypt(encrypted_len(2), |traffic, room| traffic.queue_close_notify(room));
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, IoSlice},
        sync::Arc,
    };

    use futures_util::FutureExt;
    use proptest::prelude::*;
    use rustls::{
        AlertDescription, ClientConfig, InvalidMessage, RootCertStore, ServerConfig, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
        version::{TLS12, TLS13},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, copy, duplex, split},
        runtime,
        task::yield_now,
        try_join,
    };
    use tokio_rustls::{TlsAcceptor, server};

    use super::{MAX_RECEIVED, MAX_TAKEN, MAX_UNSENT, MEMORY, TlsStream};

    type Client = TlsStream<DuplexStream>;
    type Server = server::TlsStream<DuplexStream>;

    /// Looks like a record.
    const FORGED: &[u8] = &[
        23, 3, 3, 0, 24, //
        7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    ];

    struct Setup {
        version: &'static SupportedProtocolVersion,
        /// How many bytes the pipe holds.
        capacity: usize,
        /// How many times the server shows its certificate.
        certificates: usize,
        max_fragment_size: Option<usize>,
    }

    impl Default for Setup {
        fn default() -> Self {
            Self { version: &TLS13, capacity: 1_000_000, certificates: 1, max_fragment_size: None }
        }
    }

    impl Setup {
        /// The two ends of a pipe, that shake hands with each other.
        fn ends(self) -> (impl Future<Output = io::Result<Client>>, impl Future<Output = io::Result<Server>>) {
            let Self { version, capacity, certificates, max_fragment_size } = self;
            let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
            let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[version])
                .expect("a version of the provider")
                .with_no_client_auth()
                .with_single_cert(vec![own.cert.der().clone(); certificates], key)
                .expect("its own key");
            server.max_fragment_size = max_fragment_size;
            let mut roots = RootCertStore::empty();
            roots.add(own.cert.der().clone()).expect("a certificate");
            let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[version])
                .expect("a version of the provider")
                .with_root_certificates(roots)
                .with_no_client_auth();
            let (ours, theirs) = duplex(capacity);
            let name = ServerName::try_from("localhost").expect("a name");
            (TlsStream::connect(Arc::new(client), name, ours), TlsAcceptor::from(Arc::new(server)).accept(theirs))
        }

        async fn connected(self) -> io::Result<(Client, Server)> {
            let (client, server) = self.ends();
            try_join!(client, server)
        }
    }

    async fn made(version: &'static SupportedProtocolVersion) -> (Client, Server) {
        Setup { version, ..Setup::default() }.connected().await.expect("they believe each other")
    }

    /// As two parts of which the first is short.
    async fn write_in_parts(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
        let (head, body) = bytes.split_at(bytes.len().min(9));
        let mut parts = &mut [IoSlice::new(head), IoSlice::new(body)][..];
        while parts.iter().any(|part| !part.is_empty()) {
            let written = stream.write_vectored(parts).await.expect("it is taken");
            assert!(written > 0);
            IoSlice::advance_slices(&mut parts, written);
        }
    }

    /// What the peer has sent, as it is on the wire.
    fn on_the_wire(server: &mut Server) -> Vec<u8> {
        let mut bytes = vec![0; 1_000_000];
        let count = server.get_mut().0.read(&mut bytes).now_or_never().expect("something").expect("no end");
        bytes.truncate(count);
        bytes
    }

    fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
        error.get_ref()?.downcast_ref()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn bytes_arrive_whole_however_they_are_cut(
            is_new in any::<bool>(),
            capacity in 1_usize..40_000,
            lengths in prop::collection::vec(0_usize..40_000, 1..6),
            room in 1_usize..40_000,
        ) {
            let version = if is_new { &TLS13 } else { &TLS12 };
            runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
                let (client, server) = Setup { version, capacity, ..Setup::default() }.ends();
                let sent: Vec<u8> = (0..lengths.iter().sum()).map(|at| (at % 251) as u8).collect();
                let asks = async {
                    let (mut reader, mut writer) = split(client.await?);
                    let writes = async {
                        let mut left = &sent[..];
                        for length in &lengths {
                            let (now, later) = left.split_at(*length);
                            write_in_parts(&mut writer, now).await;
                            left = later;
                        }
                        writer.shutdown().await
                    };
                    let reads = async {
                        let (mut received, mut buf) = (Vec::new(), vec![0; room]);
                        loop {
                            match reader.read(&mut buf).await? {
                                0 => return Ok(received),
                                count => received.extend_from_slice(&buf[..count]),
                            }
                        }
                    };
                    try_join!(writes, reads).map(|((), received)| received)
                };
                let echoes = async {
                    let (mut reader, mut writer) = split(server.await?);
                    copy(&mut reader, &mut writer).await?;
                    writer.shutdown().await
                };
                let (received, ()) = try_join!(asks, echoes).expect("nothing fails");
                assert!(received == sent);
            });
        }
    }

    #[tokio::test]
    async fn only_an_end_that_is_said_in_tls_is_one() {
        for version in [&TLS12, &TLS13] {
            let (mut client, mut server) = made(version).await;
            server.write_all(b"all of it").await.expect("it is taken");
            server.shutdown().await.expect("it is taken");
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.expect("an end");
            assert_eq!(all, b"all of it");
            assert_eq!(client.read(&mut [0]).await.expect("it stays one"), 0);
            client.write_all(b"an answer").await.expect("it is taken");
            assert_eq!(server.read(&mut [0; 100]).await.expect("it is decrypted"), 9);

            let (mut client, mut server) = made(version).await;
            server.write_all(b"some of it").await.expect("it is taken");
            server.flush().await.expect("it is taken");
            drop(server);
            let mut some = Vec::new();
            let error = client.read_to_end(&mut some).await.expect_err("it is cut off");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(some, b"some of it");
        }
    }

    #[tokio::test]
    async fn a_forged_record_is_an_error_after_what_came_before_it_and_the_peer_is_told() {
        for (version, room) in [(&TLS12, 1), (&TLS12, 1_000), (&TLS13, 1), (&TLS13, 1_000)] {
            let (mut client, mut server) = made(version).await;
            if version == &TLS13 {
                // The answer to this is to be sent first.
                server.get_mut().1.refresh_traffic_keys().expect("TLS 1.3 has new keys");
            }
            server.write_all(&[1; 20]).await.expect("it is taken");
            server.flush().await.expect("it is taken");
            server.get_mut().0.write_all(FORGED).await.expect("it is taken");
            let (mut received, mut buf) = (Vec::new(), vec![0; room]);
            let error = loop {
                match client.read(&mut buf).await {
                    Ok(count) => received.extend_from_slice(&buf[..count]),
                    Err(error) => break error,
                }
                let unheard = client.write(b"more").await.expect_err("nothing more is encrypted");
                assert_eq!(unheard.kind(), io::ErrorKind::BrokenPipe);
            };
            assert_eq!(received, [1; 20]);
            let error_again = client.read(&mut buf).await.expect_err("nothing more is decrypted");
            for error in [error, error_again] {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert_eq!(tls_error(&error), Some(&rustls::Error::DecryptError));
            }
            let told = server.read(&mut [0]).await.expect_err("there is an alert");
            assert_eq!(tls_error(&told), Some(&rustls::Error::AlertReceived(AlertDescription::BadRecordMac)));
            client.shutdown().await.expect("there is nothing to say");
        }
    }

    #[tokio::test]
    async fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
        for version in [&TLS12, &TLS13] {
            let (client, server) = Setup { version, ..Setup::default() }.ends();
            let server = async {
                let mut server = server.await?;
                server.write_all(b"at once").await?;
                server.flush().await.map(|()| server)
            };
            let (mut client, _server) = try_join!(client, server).expect("they believe each other");
            assert_eq!(client.read(&mut [0; 100]).await.expect("it is decrypted"), 7);
        }
    }

    #[tokio::test]
    async fn who_waits_to_write_is_woken_whatever_another_task_reads() {
        let (client, mut server) =
            Setup { capacity: 1_000, ..Setup::default() }.connected().await.expect("they believe each other");
        let (mut reader, mut writer) = split(client);
        let writes = tokio::spawn(async move {
            writer.write_all(&[3; 100_000]).await?;
            writer.flush().await
        });
        let reads = tokio::spawn(async move { reader.read_exact(&mut [0; 10]).await.map(|_| ()) });
        yield_now().await;
        server.write_all(&[4; 10]).await.expect("it is taken");
        server.flush().await.expect("it is taken");
        reads.await.expect("no panic").expect("it is decrypted");
        server.read_exact(&mut [0; 100_000]).await.expect("it is decrypted");
        writes.await.expect("no panic").expect("it is taken");
    }

    #[tokio::test]
    async fn new_keys_are_taken_and_answered() {
        let (mut client, mut server) = made(&TLS13).await;
        for _ in 0..2 {
            server.get_mut().1.refresh_traffic_keys().expect("TLS 1.3 has them");
            server.write_all(b"with new keys").await.expect("it is taken");
            server.flush().await.expect("it is taken");
            assert_eq!(client.read(&mut [0; 100]).await.expect("it is decrypted"), 13);
            client.write_all(b"so are these").await.expect("it is taken");
            client.flush().await.expect("it is taken");
            assert_eq!(server.read(&mut [0; 100]).await.expect("it is decrypted"), 12);
        }
    }

    #[tokio::test]
    async fn what_the_peer_does_not_take_is_taken_up_to_a_bound_only() {
        let (mut client, mut server) =
            Setup { capacity: 10_000, ..Setup::default() }.connected().await.expect("they believe each other");
        let bytes = vec![5; 1_000_000];
        let mut taken = 0;
        while let Some(count) = client.write(&bytes).now_or_never() {
            taken += count.expect("it is taken");
            assert!(taken <= 10_000 + MAX_UNSENT + MAX_TAKEN, "{taken}");
        }
        assert!(taken > MAX_UNSENT, "{taken}");
        let mut received = vec![0; taken];
        let (_, ()) = try_join!(server.read_exact(&mut received), client.flush()).expect("nothing fails");
        assert!(received.iter().all(|&byte| byte == 5));
        assert_eq!(client.unsent.capacity(), 0);
    }

    #[tokio::test]
    async fn goodbye_is_said_in_tls_and_answers_are_still_read() {
        for version in [&TLS12, &TLS13] {
            let (mut client, mut server) = made(version).await;
            client.write_all(b"all of it").await.expect("it is taken");
            client.shutdown().await.expect("it is taken");
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.expect("an end");
            assert_eq!(all, b"all of it");
            client.shutdown().await.expect("it was done");
            server.write_all(b"an answer").await.expect("it is taken");
            assert_eq!(client.read(&mut [0; 100]).await.expect("an answer"), 9);
        }
    }

    #[tokio::test]
    async fn nothing_is_taken_after_goodbye_even_before_that_is_sent() {
        let (mut client, mut server) =
            Setup { capacity: 10_000, ..Setup::default() }.connected().await.expect("they believe each other");
        let taken = client.write(&[1; 20_000]).await.expect("it is taken");
        assert!(client.shutdown().now_or_never().is_none(), "the pipe is full");
        let error = client.write(b"more").await.expect_err("it was the end");
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        let mut all = Vec::new();
        let (_, ()) = try_join!(server.read_to_end(&mut all), client.shutdown()).expect("an end");
        assert_eq!(all.len(), taken);
    }

    #[tokio::test]
    async fn what_comes_after_the_end_is_neither_read_nor_kept() {
        let (mut client, mut server) = made(&TLS13).await;
        server.get_mut().1.send_close_notify();
        server.flush().await.expect("it is taken");
        server.get_mut().0.write_all(FORGED).await.expect("it is taken");
        assert_eq!(client.read(&mut [0; 100]).await.expect("an end"), 0);
        assert_eq!(client.partial.capacity(), 0);
    }

    #[tokio::test]
    async fn short_parts_go_out_in_one_record() {
        let (mut client, mut server) = made(&TLS13).await;
        write_in_parts(&mut client, &[1; 5_000]).await;
        let sent = on_the_wire(&mut server);
        assert_eq!(usize::from(u16::from_be_bytes([sent[3], sent[4]])), sent.len() - 5);
    }

    #[tokio::test]
    async fn nothing_is_held_of_what_was_read_or_written() {
        let (mut client, mut server) = made(&TLS13).await;
        server.write_all(&[1; 50_000]).await.expect("it is taken");
        server.flush().await.expect("it is taken");
        client.read_exact(&mut [0; 50_000]).await.expect("it is decrypted");
        write_in_parts(&mut client, &[2; 5_000]).await;
        let held = [&client.partial, &client.unread, &client.unsent].map(|bytes| bytes.capacity());
        assert_eq!(held, [0; 3]);
        let memory = MEMORY.take();
        assert_eq!(memory.len(), MAX_RECEIVED);
        assert!(memory.iter().all(|&byte| byte == 0));
    }

    #[tokio::test]
    async fn a_handshake_message_may_take_several_records_and_has_a_bound() {
        for version in [&TLS12, &TLS13] {
            let setup = |certificates| Setup { version, certificates, ..Setup::default() };
            setup(100).connected().await.expect("40 KB of certificates are taken");
            let too_large = Some(rustls::Error::from(InvalidMessage::HandshakePayloadTooLarge));
            let error = setup(250).connected().await.expect_err("100 KB are not");
            assert_eq!(tls_error(&error), too_large.as_ref());
        }
        let setup = Setup { certificates: 150, max_fragment_size: Some(32), ..Setup::default() };
        let error = setup.connected().await.expect_err("nor are 60 KB in very small records");
        assert_eq!(tls_error(&error), Some(&InvalidMessage::HandshakePayloadTooLarge.into()));
    }
}
