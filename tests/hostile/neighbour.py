"""What every attack has: a place to happen, a line for the operator who reads, and a verdict."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from api import Api
from caller import Answer
from certificates import Authority, require_openssl
from server import Server
from sidecar import Configuration, Sidecar, binary
from token_endpoint import TokenEndpoint

require_openssl()
binary()

#: Of the client in every test that does not bring its own.
CLIENT_SECRET = "neighbours-want-this-secret-4tRk9"
LOOPBACK = "DNS:localhost,IP:127.0.0.1"

_place = Path(tempfile.mkdtemp(prefix="hostile-"))
atexit.register(shutil.rmtree, _place, ignore_errors=True)

#: The provider's authority, which `ca_file` names, and a certificate of the provider's.
AUTHORITY = Authority(_place / "authority", "provider")
PROVIDER = AUTHORITY.certificate(LOOPBACK)


S = TypeVar("S", bound=Server)


class Tally:
    """What there was, for the last line of a run."""

    attacks = 0
    faults = 0


class Neighbour(unittest.TestCase):
    """Attacks that share a hostile API and a hostile token endpoint, new for each test."""

    def setUp(self) -> None:
        self._faults: list[str] = []
        self._directories = 0
        self.directory = Path(tempfile.mkdtemp(dir=_place))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.api = self.opened(Api(PROVIDER.server_context()))
        self.tokens = self.opened(TokenEndpoint(PROVIDER.server_context()))

    def tearDown(self) -> None:
        if self._faults:
            self.fail("\n".join(self._faults))

    def opened(self, server: S) -> S:
        """Closes a server when the test is over."""
        self.addCleanup(server.close)
        return server

    def configuration(self) -> Configuration:
        """A partner's, with everything else as by default but the ports, which are free ones."""
        self._directories += 1
        configuration = Configuration(self.directory / f"sidecar{self._directories}")
        for key, value in {
            "listen.address": "127.0.0.1:0",
            "admin.address": "127.0.0.1:0",
            "log.format": "json",
            "upstream.url": self.api.url,
            "upstream.ca_file": str(AUTHORITY.pem),
            "upstream.connect_timeout": "15s",
            "token.url": self.tokens.url,
            "token.ca_file": str(AUTHORITY.pem),
            "token.grant": "client_credentials",
            "token.client_id": "neighbour",
            "token.wait": "0s",
            "token.retry_max": "1s",
        }.items():
            configuration.set(key, value)
        return configuration.set_file("token.client_secret_file", CLIENT_SECRET)

    def sidecar(self, set: Callable[[Configuration], object] = lambda _: None) -> Sidecar:
        """A sidecar with a changed configuration, which has a token and is killed when the test is over."""
        configuration = self.configuration()
        set(configuration)
        sidecar = self.running(configuration)
        sidecar.wait_for_a_token()
        return sidecar

    def running(self, configuration: Configuration) -> Sidecar:
        """A sidecar with its ports open, which is killed when the test is over."""
        sidecar = Sidecar(configuration)
        self.addCleanup(sidecar.kill)
        return sidecar.__enter__()

    def attack(self, tried: str, expected: str, happened: object, holds: bool) -> None:
        """Tells one attack, and notes a fault if it did not end as expected."""
        Tally.attacks += 1
        room = self.__class__.__name__
        verdict = "held " if holds else "FAULT"
        line = f"{verdict} {room}: {_printable(tried)} | expected: {expected} | happened: {_printable(str(happened))}"
        print(line, flush=True)
        if not holds:
            Tally.faults += 1
            self._faults.append(line)

    def refused(self, tried: str, answer: Answer, *statuses: int, api: Api | None = None, seen: int = 0) -> None:
        """One attack that must get one of these statuses from the sidecar, and nothing through to the API."""
        api = api or self.api
        came = len(api.requests) - seen
        holds = answer.status in statuses and came == 0 and not api.garbled
        expected = f"{' or '.join(map(str, statuses))}, and nothing at the API"
        self.attack(tried, expected, f"{answer}, {came} at the API", holds)


def _printable(text: str) -> str:
    """On one line, and not too long for it."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown if len(shown) <= 300 else f"{shown[:300]}..."
