"""The hostile token endpoint: it records every exchange, and grants a token unless a path has another answer."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
from collections.abc import Callable

from api import ok
from server import Conversation, Request, Server

Answer = Callable[[Conversation, Request], None]


class TokenEndpoint(Server):
    """One exchange on each connection, as the sidecar has it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        #: By path: what is answered there instead of a token, until the entry is removed.
        self.answers: dict[str, Answer] = {}
        #: What a good answer says beside `access_token`.
        self.lifetime = 299
        self.refresh_token: str | None = None
        self._exchanges: list[Request] = []
        self._issued: list[str] = []
        self._own = threading.Lock()
        super().__init__(self._answer, tls)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/token"

    @property
    def exchanges(self) -> list[Request]:
        """All token requests, in the order of their arrival."""
        with self._own:
            return list(self._exchanges)

    @property
    def issued(self) -> list[str]:
        """All access tokens that were granted."""
        with self._own:
            return list(self._issued)

    def at(self, path: str) -> str:
        """The URL of a path."""
        return self.url.removesuffix("/token") + path

    def to(self, path: str) -> int:
        """How many exchanges there were at a path."""
        return sum(request.target == path for request in self.exchanges)

    def grant(self) -> bytes:
        """A good answer, with a token that no other has."""
        token = f"at-{secrets.token_hex(24)}"
        with self._own:
            self._issued.append(token)
        told = {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime}
        if self.refresh_token is not None:
            told["refresh_token"] = self.refresh_token
        return ok(json.dumps(told).encode(), "Content-Type: application/json")

    def _answer(self, conversation: Conversation) -> None:
        request = conversation.request()
        if request is None:
            return
        with self._own:
            self._exchanges.append(request)
        answer = self.answers.get(request.target)
        if answer is None:
            conversation.send(self.grant())
        else:
            answer(conversation, request)
