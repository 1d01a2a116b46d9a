"""A port that keeps every byte that it is sent, and answers with whatever bytes a test wants."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

#: How long anything may take before it counts as a failure: far longer than it needs on a busy machine.
DEADLINE = 20.0
_READ = 65_536


class Garbled(Exception):
    """What came is not a request of RFC 9112, or it broke off."""


@dataclass
class Request:
    """One request, read strictly."""

    head: bytes
    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """Those of the fields with this name, in order."""
        return [value for key, value in self.fields if key.lower() == name.lower()]


@dataclass
class Conversation:
    """A connection that was taken: what came on it, and a way to answer."""

    stream: socket.socket
    received: bytearray = field(default_factory=bytearray)
    _unread: bytearray = field(default_factory=bytearray)

    def send(self, data: bytes) -> None:
        """Sends; raises OSError once the sidecar has gone."""
        self.stream.sendall(data)

    def send_for_ever(self, data: bytes) -> None:
        """Sends this again and again, until the sidecar has gone."""
        while True:
            self.stream.sendall(data)

    def wait_for_the_end(self) -> None:
        """Waits until the sidecar closes the connection, or for the deadline."""
        with contextlib.suppress(OSError):
            while self._more():
                pass

    def request(self) -> Request | None:
        """The next request; None at an orderly end."""
        while b"\r\n\r\n" not in self._unread:
            if not self._more():
                if self._unread:
                    raise Garbled(bytes(self._unread))
                return None
        head, _, rest = bytes(self._unread).partition(b"\r\n\r\n")
        self._unread = bytearray(rest)
        request = _parse_head(head)
        request.body = self._body(request)
        return request

    def _body(self, request: Request) -> bytes:
        codings, lengths = request.values("transfer-encoding"), request.values("content-length")
        if codings and (codings != ["chunked"] or lengths):
            raise Garbled(f"{codings} {lengths}".encode())
        if codings:
            return self._chunks(request.trailers)
        if len(lengths) > 1:
            raise Garbled(f"{lengths}".encode())
        return self._take(int(lengths[0])) if lengths else b""

    def _chunks(self, trailers: list[bytes]) -> bytes:
        body = b""
        while True:
            size = int(self._line(), 16)
            if size == 0:
                while line := self._line():
                    trailers.append(line)
                return body
            body += self._take(size)
            if self._line():
                raise Garbled(b"a chunk is longer than it says")

    def _line(self) -> bytes:
        while b"\r\n" not in self._unread:
            self._need()
        line, _, rest = bytes(self._unread).partition(b"\r\n")
        self._unread = bytearray(rest)
        return line

    def _take(self, count: int) -> bytes:
        while len(self._unread) < count:
            self._need()
        taken, self._unread = bytes(self._unread[:count]), self._unread[count:]
        return taken

    def _need(self) -> None:
        if not self._more():
            raise Garbled(b"it broke off")

    def _more(self) -> bool:
        data = self.stream.recv(_READ)
        self.received += data
        self._unread += data
        return bool(data)


def _parse_head(head: bytes) -> Request:
    first, *lines = head.split(b"\r\n")
    words = first.decode("latin-1").split(" ")
    if len(words) != 3 or b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b""):
        raise Garbled(head)
    fields = []
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name or name != name.strip():
            raise Garbled(head)
        fields.append((name, value.strip()))
    return Request(head, words[0], words[1], fields)


class Server:
    """Takes connections on a free loopback port until it is closed; each has a thread."""

    def __init__(self, serve: Callable[[Conversation], None], tls: ssl.SSLContext | None = None) -> None:
        self._serve, self._tls = serve, tls
        self._lock = threading.Lock()
        self._conversations: list[Conversation] = []
        self._connections = 0
        self._garbled: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        """How many connections were made to it, be it that TLS came about or not."""
        with self._lock:
            return self._connections

    @property
    def received(self) -> bytes:
        """Every byte that it was sent, after TLS."""
        with self._lock:
            return b"\n--\n".join(bytes(one.received) for one in self._conversations)

    @property
    def garbled(self) -> list[str]:
        """What came and was no request."""
        with self._lock:
            return list(self._garbled)

    def close(self) -> None:
        """Takes no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections += 1
            threading.Thread(target=self._talk, args=(stream,), daemon=True).start()

    def _talk(self, stream: socket.socket) -> None:
        stream.settimeout(DEADLINE * 2)
        # An error here is the sidecar's going away, or its refusing the certificate: both are looked at elsewhere.
        with contextlib.suppress(OSError), stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = self._tls.wrap_socket(stream, server_side=True) if self._tls else stream
            conversation = Conversation(secured)
            with self._lock:
                self._conversations.append(conversation)
            with secured:
                try:
                    self._serve(conversation)
                except (Garbled, ValueError) as error:
                    with self._lock:
                        self._garbled.append(repr(error))
