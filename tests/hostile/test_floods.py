"""Too much of everything: rejections, connections and slow heads. Others are answered, and nothing grows."""

from __future__ import annotations

import contextlib
import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import http2
from caller import Address, Answer, Caller, ask
from kernel import sockets
from neighbour import Neighbour
from sidecar import Sidecar, wait_for

_HERE = Path(__file__).resolve().parent
_REQUESTS = 100_000
_CONNECTIONS, _AHEAD = 32, 16
#: In MiB.
_MOST_MEMORY = 48
#: In seconds: the whole flood of rejections, on a busy machine.
_LONGEST = 40
#: The hold of the breaker, as the README's "then a pause".
_HOLD = 30


@contextlib.contextmanager
def crowd(address: Address, count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that say this, no more, and stay."""
    streams: list[socket.socket] = []
    try:
        for _ in range(count):
            with contextlib.suppress(OSError):
                stream = socket.create_connection(address, timeout=5)
                streams.append(stream)
                stream.sendall(said)
        yield streams
    finally:
        for stream in streams:
            stream.close()


def try_to_ask(address: Address, target: str) -> Answer:
    """An answer, or none where the connection is closed or refused."""
    try:
        return ask(address, target)
    except OSError:
        return Answer()


class Floods(Neighbour):
    """Callers and an API that want the sidecar to fall, or to have the provider fall."""

    def _flood_api(self) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-B", _HERE / "flood_api.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    def test_a_hundred_thousand_rejections_cost_two_token_requests_in_thirty_seconds(self) -> None:
        """An API that answers everything with 401: every caller gets its answer, the provider is left in peace."""
        flood_api, port = self._flood_api()
        sidecar = self.sidecar(lambda c: c.set("upstream.url", f"http://127.0.0.1:{port}").set("token.wait", "10s"))
        first = len(self.tokens.exchanges)
        start = time.monotonic()
        caller = subprocess.run(
            [
                sys.executable,
                "-B",
                _HERE / "flood_caller.py",
                str(sidecar.port[1]),
                str(_REQUESTS),
                str(_CONNECTIONS),
                str(_AHEAD),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
        )
        took = time.monotonic() - start
        answers, exchanges = int(caller.stdout), len(self.tokens.exchanges) - first
        told = flood_api.communicate("", timeout=20)[0].split()
        requests, stamped = map(int, told)
        most = 2 * math.ceil(took / _HOLD)
        memory = sidecar.peak_memory
        self.attack(
            f"{_REQUESTS} requests that are all answered 401",
            f"every answer within {_LONGEST} s",
            f"{answers} answers in {took:.1f} s",
            answers == _REQUESTS and took < _LONGEST,
        )
        self.attack("what that cost the provider", f"{most} token requests at most", exchanges, exchanges <= most)
        self.attack(
            "what the API saw",
            "each request with a token, and hardly one twice",
            f"{requests} requests, {stamped} with a token",
            requests == stamped and _REQUESTS <= requests <= _REQUESTS + 2 * _CONNECTIONS,
        )
        self.attack("the memory that it took", f"below {_MOST_MEMORY} MiB", f"{memory} MiB", memory < _MOST_MEMORY)

    def test_slow_heads_below_the_limit_keep_nobody_waiting(self) -> None:
        """Sixty callers that never finish their heads, on either port: others are served meanwhile."""
        sidecar = self.sidecar()
        for name, address, target in [("local", sidecar.port, "/x"), ("admin", sidecar.admin, "/readyz")]:
            for said in [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"POST /x HTTP/1.1\r\n"]:
                with crowd(address, 60, said):
                    answers = [try_to_ask(address, target).status for _ in range(10)]
                self.attack(
                    f"60 connections to the {name} port that say {said!r} and no more",
                    "others are served",
                    answers,
                    answers == [200] * 10,
                )

    def test_a_flood_of_the_local_port_is_told_in_words_and_over_when_its_heads_are_given_up(self) -> None:
        """Far more slow heads than places: 503 or a close meanwhile; served again though the callers stay."""
        sidecar = self.sidecar(lambda c: c.set("listen.max_connections", 64).set("listen.header_timeout", "1s"))
        with crowd(sidecar.port, 400, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "):
            meanwhile = {str(try_to_ask(sidecar.port, "/x")) for _ in range(5)}
            probe = try_to_ask(sidecar.admin, "/livez").status
            allowed = {"503 overloaded", "no answer", "200"}
            self.attack(
                "a request beside 400 slow heads for 64 places",
                "503 overloaded, a close, or served",
                meanwhile,
                meanwhile <= allowed,
            )
            self.attack("the probe meanwhile", "200", probe, probe == 200)
            wait_for("a place", lambda: try_to_ask(sidecar.port, "/x").status == 200)
            self.attack("a request once the heads are given up, the callers still there", "served", 200, True)
        memory = sidecar.peak_memory
        self.attack("the memory that it took", f"below {_MOST_MEMORY} MiB", f"{memory} MiB", memory < _MOST_MEMORY)

    def test_a_flood_of_the_admin_port_leaves_the_local_port_alone(self) -> None:
        """Far more connections than places at the admin port: requests are served, and probes again soon."""
        sidecar = self.sidecar()
        with crowd(sidecar.admin, 400, b"GET /livez HTTP/1.1\r\nX: "):
            answers = [try_to_ask(sidecar.port, "/x").status for _ in range(20)]
            self.attack(
                "20 requests beside 400 slow heads at the admin port", "all served", answers, answers == [200] * 20
            )
            meanwhile = {try_to_ask(sidecar.admin, "/livez").status for _ in range(5)}
            self.attack("probes meanwhile", "503, a close, or 200", meanwhile, meanwhile <= {0, 200, 503})
            wait_for("a probe", lambda: try_to_ask(sidecar.admin, "/livez").status == 200)
            self.attack("a probe once the heads are given up, the callers still there", "200", 200, True)

    def test_connections_that_come_and_go_leave_nothing_behind(self) -> None:
        """Thousands of connections, half of them reset: none is kept open, and memory is bounded."""
        sidecar = self.sidecar()
        sidecar.ask("/x")
        for number in range(3_000):
            with contextlib.suppress(OSError), socket.create_connection(sidecar.port, timeout=5) as stream:
                stream.sendall(b"GET /x HTTP/1.1\r\n"[: number % 20])
                if number % 2:
                    # Closing is then a reset.
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        wait_for("the connections to be closed", lambda: self._connections(sidecar) == 0)
        answer, memory = sidecar.ask("/x"), sidecar.peak_memory
        self.attack(
            "3,000 connections that come and go",
            f"served after them, below {_MOST_MEMORY} MiB",
            f"{answer}, {memory} MiB",
            answer.status == 200 and memory < _MOST_MEMORY,
        )

    def test_floods_of_frames_end_their_own_connection(self) -> None:
        """Rapid resets, heads without an end, pings, settings: others are served, memory is bounded."""
        sidecar = self.sidecar()
        fields = http2.block(
            [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/flood")]
        )
        streams = range(1, 20_001, 2)
        both = http2.END_HEADERS | http2.END_STREAM
        filler = http2.block([("x-filler", "y" * 16_000)])
        for tried, frames in {
            "the control: 100 requests at once, no more than may be": b"".join(
                http2.frame(http2.HEADERS, both, number, fields) for number in streams[:100]
            ),
            "10,000 requests that are reset at once": b"".join(
                http2.frame(http2.HEADERS, both, number, fields)
                + http2.frame(http2.RST_STREAM, 0, number, b"\0\0\0\x08")
                for number in streams
            ),
            "10,000 requests that nobody waits for": b"".join(
                http2.frame(http2.HEADERS, both, number, fields) for number in streams
            ),
            "a head of 64 MB": http2.frame(http2.HEADERS, http2.END_STREAM, 1, fields)
            + http2.frame(http2.CONTINUATION, 0, 1, filler) * 4_000,
            "a head of 100,000 empty pieces": http2.frame(http2.HEADERS, http2.END_STREAM, 1, fields)
            + http2.frame(http2.CONTINUATION, 0, 1, b"") * 100_000,
            "200,000 pings": http2.frame(http2.PING, 0, 0, b"12345678") * 200_000,
            "100,000 settings": http2.frame(http2.SETTINGS, 0, 0, b"") * 100_000,
            "100,000 windows": http2.frame(http2.WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 100_000,
            "100,000 empty pieces of a body": http2.frame(http2.HEADERS, http2.END_HEADERS, 1, fields)
            + http2.frame(http2.DATA, 0, 1, b"") * 100_000,
        }.items():
            with Caller(sidecar.port, timeout=2) as caller:
                # Nothing of what comes back is read.
                caller.send(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, b"") + frames)
                start = time.monotonic()
                answer = sidecar.ask("/other")
                took, memory = time.monotonic() - start, sidecar.peak_memory
                if tried.startswith("the control"):
                    wait_for("all of them at the API", lambda: len(self.api.to("/flood")) == 100)
            came = len(self.api.to("/flood"))
            self.attack(
                tried,
                f"others are served within 2 s, below {_MOST_MEMORY} MiB, few at the API",
                f"{answer} after {took:.2f} s, {memory} MiB, {came} at the API",
                answer.status == 200 and took < 2 and memory < _MOST_MEMORY and came < 1_000,
            )

    @staticmethod
    def _connections(sidecar: Sidecar) -> int:
        """Those of the local port that are open on the sidecar's side."""
        return sum(one.port == sidecar.port[1] and one.state == "established" for one in sockets())
