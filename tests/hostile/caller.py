"""A program on this host that speaks to the sidecar's ports, byte by byte."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass, field

from server import DEADLINE

Address = tuple[str, int]


@dataclass
class Answer:
    """What came back, as far as it came."""

    status: int = 0
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    #: Whether it ended where it said that it would.
    is_whole: bool = False
    head: bytes = b""

    def value(self, name: str) -> str | None:
        """The first value of a field."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)

    @property
    def reason(self) -> str | None:
        """The sidecar's word for why it answers in the API's place."""
        return self.value("x-token-valet-error")

    @property
    def detail(self) -> str:
        """The sidecar's sentence for people."""
        try:
            return str(json.loads(self.body).get("detail", ""))
        except (ValueError, AttributeError):
            return ""

    def __str__(self) -> str:
        if self.status == 0:
            return "no answer"
        words = [str(self.status), self.reason or "", "" if self.is_whole else "cut off"]
        return " ".join(word for word in words if word)


class Caller:
    """One connection."""

    def __init__(self, address: Address, timeout: float = DEADLINE) -> None:
        self.stream = socket.create_connection(address, timeout=timeout)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def send(self, data: bytes) -> None:
        """Sends; that the sidecar has closed already is no error, the answer will tell."""
        with contextlib.suppress(OSError):
            self.stream.sendall(data)

    def say_no_more(self) -> None:
        """Closes this side of the connection."""
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_WR)

    def answer(self, method: str = "GET", keep: int | None = None) -> Answer:
        """The next answer. Of a long body only `keep` bytes are kept."""
        answer = Answer()
        while b"\r\n\r\n" not in self._unread:
            if not self._more():
                answer.head = self._unread
                return answer
        answer.head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        first, *lines = answer.head.decode("latin-1").split("\r\n")
        answer.status = int(first.split(" ")[1])
        answer.fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        if method == "HEAD" or answer.status in (101, 204, 304):
            answer.is_whole = True
        elif answer.value("transfer-encoding") is not None:
            answer.is_whole = self._chunks(answer)
        elif (length := answer.value("content-length")) is not None:
            answer.is_whole = self._take(int(length), answer, keep)
        else:
            while self._more():
                pass
            answer.body, self._unread, answer.is_whole = self._unread, b"", True
        return answer

    def rest(self) -> bytes:
        """All that comes until the sidecar closes, or until it keeps silent for the connection's time-out."""
        while self._more():
            pass
        return self._unread

    def _chunks(self, answer: Answer) -> bool:
        while True:
            while b"\r\n" not in self._unread:
                if not self._more():
                    return False
            size, _, self._unread = self._unread.partition(b"\r\n")
            if not self._take(int(size, 16), answer, None):
                return False
            while b"\r\n" not in self._unread:
                if not self._more():
                    return False
            _, _, self._unread = self._unread.partition(b"\r\n")
            if int(size, 16) == 0:
                return True

    def _take(self, count: int, answer: Answer, keep: int | None) -> bool:
        """Reads so many bytes of the body; tells whether they came."""
        pieces: list[bytes] = []
        kept = 0
        while count > 0:
            if not self._unread and not self._more():
                break
            piece, self._unread = self._unread[:count], self._unread[count:]
            count -= len(piece)
            if keep is None or kept < keep:
                pieces.append(piece)
                kept += len(piece)
        answer.body += b"".join(pieces)
        return count == 0

    def _more(self) -> bool:
        try:
            data = self.stream.recv(1 << 18)
        except OSError:
            return False
        self._unread = self._unread + data if self._unread else data
        return bool(data)


def send(address: Address, raw: bytes, method: str = "GET") -> Answer:
    """One message on a connection of its own, and its answer."""
    with Caller(address) as caller:
        caller.send(raw)
        return caller.answer(method)


def ask(address: Address, target: str, *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
    """One well-formed request on a connection of its own."""
    lines = [f"{method} {target} HTTP/1.1", *fields]
    if not any(line.lower().startswith("host:") for line in fields):
        lines.insert(1, "Host: localhost")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return send(address, "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body, method)
