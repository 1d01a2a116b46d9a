"""The hostile API: it records every request, and answers some paths as no API should."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable

from server import Conversation, Request, Server

Answer = Callable[[Conversation, Request], bool | None]


def ok(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    """A well-formed answer."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Api(Server):
    """Answers each request with its method, target and number, unless its path has another answer."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self._requests: list[Request] = []
        self._own = threading.Lock()
        super().__init__(self._answer, tls)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """All that came, in the order of their arrival."""
        with self._own:
            return list(self._requests)

    def to(self, path: str) -> list[Request]:
        """Those whose path this is."""
        return [request for request in self.requests if request.target.partition("?")[0] == path]

    def _answer(self, conversation: Conversation) -> None:
        while (request := conversation.request()) is not None:
            with self._own:
                self._requests.append(request)
                number = len(self._requests)
            answer = self.answers.get(request.target.partition("?")[0])
            if answer is None:
                told = {"method": request.method, "target": request.target, "number": number}
                body = b"" if request.method == "HEAD" else json.dumps(told).encode()
                conversation.send(ok(body, "Content-Type: application/json"))
            elif not answer(conversation, request):
                return
