"""A program that is measured: started on chosen processors, and what it has used so far."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_DEADLINE = 30.0


@dataclass(frozen=True)
class Used:
    """Processor time since the start, in seconds."""

    user: float
    system: float

    def since(self, before: Used) -> Used:
        return Used(self.user - before.user, self.system - before.system)

    @property
    def total(self) -> float:
        return self.user + self.system


def _seconds(stat: str) -> Used:
    fields = stat.rpartition(")")[2].split()
    return Used(int(fields[11]) / _TICKS, int(fields[12]) / _TICKS)


class Process:
    """A started program; its output goes to a file."""

    def __init__(self, command: list[str], cpus: set[int], log: Path, environment: dict[str, str] | None = None) -> None:
        self._log = log
        # Inherited: nothing stands between us and the program's own start.
        ours = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)
        self.started_at = time.monotonic()
        try:
            with log.open("ab") as out:
                self._child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(environment or {})}
                )
        finally:
            os.sched_setaffinity(0, ours)

    @staticmethod
    def require_free(port: int) -> None:
        """Ends the run if somebody else has the port, who would be measured in its place."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            raise SystemExit(f"error: something listens on port {port}\n\nhint: end it first")

    def until_listening(self, port: int) -> float:
        """Seconds from the start until the port took a connection."""
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return time.monotonic() - self.started_at
            if self._child.poll() is not None or time.monotonic() - self.started_at > _DEADLINE:
                raise SystemExit(f"error: nothing listens on port {port}\n\n{self._log.read_text()[-2000:]}")
            time.sleep(0.0002)

    def used(self) -> Used:
        return _seconds(Path(f"/proc/{self._child.pid}/stat").read_text())

    def used_by_thread(self) -> dict[str, Used]:
        """By the threads' names."""
        tasks = Path(f"/proc/{self._child.pid}/task").iterdir()
        return {(task / "comm").read_text().strip(): _seconds((task / "stat").read_text()) for task in tasks}

    def memory(self) -> float:
        """Proportional set size, in MiB."""
        lines = Path(f"/proc/{self._child.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1_024

    def pause(self) -> None:
        self._child.send_signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def resumed(self) -> Iterator[None]:
        """Has its turn, and is stopped again."""
        self._child.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()

    def drain(self) -> None:
        """Lets it end in its own way."""
        self._child.send_signal(signal.SIGTERM)
        self._child.wait(_DEADLINE)

    def end(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()


@contextlib.contextmanager
def running(command: list[str], cpus: set[int], log: Path, environment: dict[str, str] | None = None) -> Iterator[Process]:
    process = Process(command, cpus, log, environment)
    try:
        yield process
    finally:
        process.end()
