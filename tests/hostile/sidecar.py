"""The program under attack: its configuration, and its process."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from caller import Address, Answer, ask
from server import DEADLINE

ROOT = Path(__file__).resolve().parents[2]
_POLL = 0.02
#: As JSON and as text.
_LISTENING = re.compile(r"listening.*?address\W+([\d.]+):(\d+)\W.*?admin\W+([\d.]+):(\d+)\W")

T = TypeVar("T")


def binary() -> Path:
    """`TOKEN_VALET_BIN`, or the release build."""
    path = Path(os.environ.get("TOKEN_VALET_BIN") or ROOT / "target/release/token-valet").absolute()
    if not path.is_file():
        raise SystemExit(
            f"error: there is no program `{path}`\n\nhint: run `cargo build --release`, or set TOKEN_VALET_BIN"
        )
    return path


def wait_for(what: str, probe: Callable[[], T | None], patience: float = DEADLINE) -> T:
    """Waits until the probe finds something true."""
    start = time.monotonic()
    while not (found := probe()):
        if time.monotonic() - start > patience:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(_POLL)
    return found


def toml(value: object) -> str:
    """A value as TOML, with every control character escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml(str(key))} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, str):
        escaped = (f"\\u{ord(c):04x}" if c in '"\\' or ord(c) < 32 or 127 <= ord(c) < 160 else c for c in value)
        return '"' + "".join(escaped) + '"'
    return str(value)


class Configuration:
    """A TOML file to be, in a directory of its own, with the files that it names."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.values: dict[str, object] = {}
        self.environment: dict[str, str] = {}

    def set(self, key: str, value: object) -> Configuration:
        self.values[key] = value
        return self

    def unset(self, key: str) -> Configuration:
        del self.values[key]
        return self

    def set_file(self, key: str, content: str | bytes, mode: int = 0o600) -> Configuration:
        """Sets a key to the path of a new file."""
        path = self.directory / key
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return self.set(key, str(path))

    def variable(self, name: str, value: str) -> Configuration:
        self.environment[name] = value
        return self

    def text(self) -> str:
        tables: dict[str, list[str]] = {}
        for name, value in self.values.items():
            table, _, key = name.partition(".")
            tables.setdefault(table, []).append(f"{key} = {toml(value)}")
        return "\n".join("\n".join([f"[{table}]", *lines]) for table, lines in tables.items()) + "\n"

    def write(self) -> Path:
        path = self.directory / "valet.toml"
        path.write_text(self.text())
        return path


class Process:
    """A started program. Leaving the context kills it, and it alone."""

    def __init__(self, configuration: Configuration, command: str = "run") -> None:
        self.configuration = configuration
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKEN_VALET")}
        environment |= configuration.environment
        self._out, self._err = configuration.directory / "stdout", configuration.directory / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._child = subprocess.Popen(
                [binary(), command, "-c", configuration.write()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
            )
        # Where a run is interrupted, no test's own cleaning takes place.
        atexit.register(self.kill)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def id(self) -> int:
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def terminate(self) -> int:
        """Has it end, and gives its exit code."""
        self.interrupt()
        return self.exit_code()

    def interrupt(self) -> None:
        """Asks it to end."""
        self._child.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        """Waits for its end."""
        try:
            return self._child.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end\n{self.stderr}") from None

    @property
    def written(self) -> bytes:
        """All that it wrote, on both outputs."""
        return self._out.read_bytes() + b"\n" + self._err.read_bytes()

    @property
    def stderr(self) -> str:
        return self._err.read_bytes().decode("utf-8", "replace")

    @property
    def log(self) -> list[dict[str, object]]:
        """The lines that are JSON and complete."""
        lines: list[dict[str, object]] = []
        for line in self.stderr.splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def logged(self, message: str) -> list[dict[str, object]]:
        """The lines with this message."""
        return [line for line in self.log if line.get("message") == message]

    def proc(self, name: str) -> Path:
        """A file of the kernel's about the process."""
        return Path(f"/proc/{self.id}/{name}")

    @property
    def peak_memory(self) -> int:
        """The most memory that it ever had, in MiB."""
        status = self.proc("status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) // 1024


class Sidecar(Process):
    """A sidecar that runs, with its ports open."""

    def __init__(self, configuration: Configuration, command: str = "run") -> None:
        super().__init__(configuration, command)
        self.port: Address = ("", 0)
        self.admin: Address = ("", 0)

    def __enter__(self) -> Sidecar:
        def listening() -> re.Match[str] | None:
            if not self.is_running:
                raise AssertionError(f"it ended instead of running\n{self.stderr}")
            return _LISTENING.search(self.stderr)

        told = wait_for("the ports to be open", listening)
        self.port, self.admin = (told[1], int(told[2])), (told[3], int(told[4]))
        return self

    def ask(self, target: str, *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
        return ask(self.port, target, *fields, method=method, body=body)

    def wait_for_a_token(self) -> None:
        """Waits without a request, so that what the API sees is the test's alone."""
        wait_for("a token", lambda: ask(self.admin, "/readyz").status == 200)
