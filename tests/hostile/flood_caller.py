"""A process of its own: sends so many requests to a port, on connections that are kept, some ahead on each.

Arguments: port, requests, connections, and how many a connection has under way. It prints how many of the hostile
API's answers came.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from dataclasses import dataclass

from flood_api import BODY

_REQUEST = b"GET /api/fdx/5/accounts HTTP/1.1\r\nHost: localhost\r\n\r\n"
_TIMEOUT = 60.0


@dataclass
class Connection:
    stream: socket.socket
    #: Requests that are not sent yet, and those without an answer yet.
    unsent: int
    waiting: int = 0
    unread: bytes = b""

    def send(self, ahead: int) -> None:
        count = min(self.unsent, ahead - self.waiting)
        if count > 0:
            self.stream.sendall(_REQUEST * count)
            self.unsent -= count
            self.waiting += count

    def read(self) -> int | None:
        """How many answers came; None at the end of the connection."""
        data = self.stream.recv(1 << 18)
        if not data:
            return None
        self.unread += data
        count = self.unread.count(BODY)
        if count:
            self.unread = self.unread[self.unread.rindex(BODY) + len(BODY) :]
            self.waiting -= count
        return count


def main() -> None:
    port, total, connections, ahead = map(int, sys.argv[1:])
    selector = selectors.DefaultSelector()
    for number in range(connections):
        stream = socket.create_connection(("127.0.0.1", port))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(stream, total // connections + (number < total % connections))
        connection.send(ahead)
        selector.register(stream, selectors.EVENT_READ, connection)
    answers, end = 0, time.monotonic() + _TIMEOUT
    while selector.get_map() and time.monotonic() < end:
        for key, _ in selector.select(1):
            connection = key.data
            count = connection.read()
            answers += count or 0
            connection.send(ahead)
            if count is None or connection.unsent == connection.waiting == 0:
                selector.unregister(connection.stream)
                connection.stream.close()
    print(answers, flush=True)


if __name__ == "__main__":
    main()
