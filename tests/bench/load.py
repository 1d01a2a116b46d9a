"""The load: as much as goes through by `wrk`, and a fixed rate by `paced.rs`. On the processors that the caller may use."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from upstream import TOKEN

_AUTHORIZATION = f"Authorization: Bearer {TOKEN}"
_ROOT = Path(__file__).resolve().parents[2]
_PACED = _ROOT / "target/release/examples/paced"


class NoAnswers(Exception):
    """Too much went wrong for what went well to be compared."""


@dataclass(frozen=True)
class Target:
    """Whom to ask: with the token, where nobody on the way adds one."""

    url: str
    with_token: bool = False

    @property
    def arguments(self) -> list[str]:
        return [*(("-H", _AUTHORIZATION) if self.with_token else ()), self.url]


def build() -> None:
    """Builds the load of a fixed rate."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(_ROOT / "target")}
    subprocess.run(["cargo", "build", "--locked", "--release", "--example", "paced"], cwd=_ROOT, env=environment, check=True)


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Answered:
    """Requests that were answered 200, and how long that went on."""

    requests: int
    seconds: float


def saturate(target: Target, connections: int, seconds: int) -> Answered:
    """What was answered while each connection sent the next request as soon as it had its answer.

    What fails does not count, and is told; where more than a twentieth does, there is nothing to compare.
    """
    out = _run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", *target.arguments])
    answered = int(re.search(r"(\d+) requests in", out).group(1))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    failed = int(refused.group(1)) if refused else 0
    lost = sum(int(count) for count in broken.groups()) if broken else 0
    if 20 * (failed + lost) > answered or answered == 0:
        raise NoAnswers(f"{target.url} was not answered 200\n\n{out}")
    if failed + lost:
        print(f"{target.url}: {failed + lost} of {answered} requests failed", file=sys.stderr)
    # It looks at the time every tenth of a second only, and goes on until then.
    rate = float(re.search(r"Requests/sec: +([\d.]+)", out).group(1))
    return Answered(answered - failed, answered / rate)


def warm_up(target: Target, connections: int) -> None:
    """Until connections to the upstream are there; whatever becomes of the requests."""
    _run(["wrk", "-t1", f"-c{connections}", "-d3s", "--timeout", "10s", *target.arguments])


@dataclass(frozen=True)
class Latencies:
    """In microseconds."""

    p50: float
    p99: float
    p999: float


#: Each is looked at alone, in microseconds: a machine that is shared stands still for milliseconds now and then, which
#: says nothing of a program, and would be all that a p99 of seconds shows.
_SPAN = 250_000


def at_rate(address: str, path: str, with_token: bool, connections: int, rate: int, seconds: int) -> Latencies | None:
    """How long answers took at so many requests a second in all; `None` if that rate was not reached.

    Of each quarter second, and the median of these.
    """
    fields = [_AUTHORIZATION] if with_token else []

    def give_way() -> None:
        # It never sleeps, and is to leave the processor to the upstream.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    command = [_PACED, address, path, str(connections), str(rate), str(seconds), *fields]
    ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=give_way)
    if ended.returncode:
        raise NoAnswers(f"http://{address}{path}: {ended.stderr.strip()}")
    spans: dict[int, list[int]] = {}
    for line in ended.stdout.splitlines():
        due, took = map(int, line.split())
        spans.setdefault(due // _SPAN, []).append(took)
    if sum(map(len, spans.values())) < 0.97 * rate * seconds:
        return None
    for took in spans.values():
        took.sort()
    at = lambda share: statistics.median(took[int(share * len(took))] for took in spans.values())  # noqa: E731
    return Latencies(at(0.5), at(0.99), at(0.999))


@contextlib.contextmanager
def idle_connections(port: int, path: str, with_token: bool, count: int) -> Iterator[None]:
    """Connections that have each had an answer, and wait."""
    fields = f"{_AUTHORIZATION}\r\n" if with_token else ""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{fields}\r\n".encode()
    with contextlib.ExitStack() as all_of_them:
        for _ in range(count):
            connection = all_of_them.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"x" * 1_024):
                part = connection.recv(65_536)
                if not part:
                    raise SystemExit("error: a connection was closed before its answer was whole")
                answer += part
        yield
