"""A process of its own: an API without TLS that answers everything with 401, as fast as it can.

It prints its port, and at the end of its input how many requests came and how many of them had a token.
"""

from __future__ import annotations

import selectors
import socket
import sys

BODY = b'{"message":"the token is not good"}'
_ANSWER = (
    b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: "
    + str(len(BODY)).encode()
    + b"\r\n\r\n"
    + BODY
)
_END = b"\r\n\r\n"


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    unread: dict[socket.socket, bytes] = {}
    requests = stamped = 0
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                print(requests, stamped, flush=True)
                return
            if key.fileobj is listener:
                taken, _ = listener.accept()
                taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(taken, selectors.EVENT_READ)
                unread[taken] = b""
                continue
            stream = key.fileobj
            assert isinstance(stream, socket.socket)
            try:
                data = stream.recv(65_536)
            except OSError:
                data = b""
            if not data:
                selector.unregister(stream)
                stream.close()
                del unread[stream]
                continue
            data = unread[stream] + data
            count = data.count(_END)
            if count:
                requests += count
                stamped += data.lower().count(b"authorization: bearer ")
                data = data[data.rindex(_END) + len(_END) :]
                stream.sendall(_ANSWER * count)
            unread[stream] = data


if __name__ == "__main__":
    main()
