"""HTTP/2 by hand, without TLS and with prior knowledge: one request, and what comes back (RFC 9113, RFC 7541)."""

from __future__ import annotations

import contextlib
import json
import socket
import struct

from caller import Address, Answer, Caller
from server import Conversation

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
#: Indexed fields of HPACK's static table (RFC 7541 appendix A).
_STATUSES = {0x88: 200, 0x8C: 400, 0x8D: 404, 0x8E: 500}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(fields: list[tuple[str, str]]) -> bytes:
    """A header block of literals that are not indexed and not compressed."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    data = text.encode("latin-1")
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, number = len(data) - 127, bytearray([127])
    while rest >= 128:
        number.append(rest % 128 + 128)
        rest //= 128
    return bytes([*number, rest]) + data


def ask(address: Address, fields: list[tuple[str, str]]) -> Answer:
    """One request. The answer's body is whole, its status is the body's or, without one, that of the static table."""
    answer = Answer()
    with Caller(address) as caller:
        caller.send(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(fields)))
        while (got := _read(caller.stream)) is not None:
            kind, flags, stream, payload = got
            if kind == SETTINGS and not flags & ACK:
                caller.send(frame(SETTINGS, ACK, 0, b""))
            elif stream == 1 and kind in (HEADERS, DATA):
                if kind == HEADERS:
                    answer.head += payload
                    answer.status = answer.status or _STATUSES.get(payload[0], 0)
                else:
                    answer.body += payload
                if flags & END_STREAM:
                    answer.is_whole = True
                    break
            elif kind == GOAWAY or (kind == RST_STREAM and stream == 1):
                break
    with contextlib.suppress(ValueError, KeyError):
        told = json.loads(answer.body)
        answer.status = told.get("status", answer.status)
        answer.fields = [("x-token-valet-error", told["reason"])]
    return answer


def serve(conversation: Conversation, fields: list[tuple[str, str]], body: bytes) -> None:
    """Answers every request of an HTTP/2 caller alike, whatever it asks."""
    conversation.send(frame(SETTINGS, 0, 0, b""))
    read_exactly(conversation, len(PREFACE))
    while True:
        head = read_exactly(conversation, 9)
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        read_exactly(conversation, int.from_bytes(head[:3], "big"))
        if kind == SETTINGS and not flags & ACK:
            conversation.send(frame(SETTINGS, ACK, 0, b""))
        elif kind == HEADERS:
            conversation.send(
                frame(HEADERS, END_HEADERS, stream, block(fields)) + frame(DATA, END_STREAM, stream, body)
            )


def read_exactly(conversation: Conversation, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = conversation.stream.recv(count - len(data))
        if not piece:
            raise OSError("the caller has gone")
        conversation.received += piece
        data += piece
    return data


def _read(stream: socket.socket) -> tuple[int, int, int, bytes] | None:
    head = _exactly(stream, 9)
    if head is None:
        return None
    payload = _exactly(stream, int.from_bytes(head[:3], "big"))
    return None if payload is None else (head[3], head[4], int.from_bytes(head[5:], "big"), payload)


def _exactly(stream: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        try:
            piece = stream.recv(count - len(data))
        except OSError:
            return None
        if not piece:
            return None
        data += piece
    return data
