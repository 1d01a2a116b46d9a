"""Secret files and state files that others can read, plant or replace."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from caller import Caller
from neighbour import PROVIDER, Neighbour
from sidecar import Configuration, Process, Sidecar, wait_for

_REFRESH_TOKEN = "refresh-token-of-files-Vn8xD"
#: A user that is not this one.
_NOBODY = 65_534
#: In seconds: how long a process may take to do what takes it none.
_PATIENCE = 5


class Files(Neighbour):
    """Another user of the same host, or a careless mount."""

    def _recipient(self) -> Configuration:
        configuration = self.configuration().set("token.grant", "refresh_token")
        return configuration.set_file("token.refresh_token_file", _REFRESH_TOKEN)

    def test_a_secret_that_others_can_read_is_used_with_one_warning_that_names_it(self) -> None:
        """Mode 0644: it works, and the log says once which file is readable by others."""
        configuration = self._recipient()
        paths = [
            Path(str(configuration.values[key])) for key in ("token.client_secret_file", "token.refresh_token_file")
        ]
        for path in paths:
            path.chmod(0o644)
        self.tokens.lifetime = 2
        sidecar = self.running(configuration.set("token.state_file", str(configuration.directory / "state.json")))
        sidecar.wait_for_a_token()
        # Read anew for each exchange, but told once.
        self._until(lambda: len(self.tokens.exchanges) > 3)
        for path in paths:
            told = self._warnings(sidecar, path)
            self.attack(
                f"{path.name} with mode 0644",
                "used, and one warning `readable by others`",
                f"{len(told)} warnings after {len(self.tokens.exchanges)} exchanges",
                len(told) == 1 and sidecar.ask("/x").status == 200,
            )

    def test_a_secret_as_kubernetes_mounts_it_is_used_without_a_warning(self) -> None:
        """Mode 0440 behind two symbolic links, replaced by swapping one: read anew, and nothing to warn of."""
        configuration = self.configuration()
        mount = configuration.directory / "mount"
        for version in ("..v1", "..v2"):
            (mount / version).mkdir(parents=True)
            (mount / version / "secret").write_text(f"mounted-{version[2:]}")
            (mount / version / "secret").chmod(0o440)
        (mount / "..data").symlink_to("..v1")
        (mount / "secret").symlink_to("..data/secret")
        self.tokens.lifetime = 2
        sidecar = self.running(configuration.set("token.client_secret_file", str(mount / "secret")))
        sidecar.wait_for_a_token()
        (mount / "..next").symlink_to("..v2")
        (mount / "..next").rename(mount / "..data")
        seen = len(self.tokens.exchanges)
        self._until(lambda: len(self.tokens.exchanges) > seen + 1)
        first, last = (one.values("authorization") for one in (self.tokens.exchanges[0], self.tokens.exchanges[-1]))
        told = self._warnings(sidecar, mount / "secret")
        self.attack(
            "a secret with mode 0440 behind links that are swapped",
            "read anew, without a warning",
            f"{len(told)} warnings",
            first != last and not told and sidecar.ask("/x").status == 200,
        )

    def test_a_state_file_that_is_not_safe_ends_the_start_with_78_and_a_way_out(self) -> None:
        """A link, a foreign owner, access for others, no regular file: 78, a hint, nothing sent."""
        place = self.directory / "place"
        place.mkdir()
        good = place / "good.json"
        good.write_text("{}")
        good.chmod(0o600)
        (place / "link").symlink_to(good)
        (place / "dangling").symlink_to(place / "nowhere")
        for name, mode in {"for-all": 0o604, "writable-for-all": 0o602, "executable-for-all": 0o601}.items():
            (place / name).write_text("{}")
            (place / name).chmod(mode)
        os.mkfifo(place / "fifo", 0o600)
        (place / "directory").mkdir(mode=0o700)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place / "socket"))
        self.addCleanup(listener.close)
        cases = {
            "a symbolic link": (place / "link", "name the file"),
            "a link to nothing": (place / "dangling", "name the file"),
            "a file that others may read": (place / "for-all", "chmod 600"),
            "a file that others may write": (place / "writable-for-all", "chmod 600"),
            "a file that others may execute": (place / "executable-for-all", "chmod 600"),
            "a FIFO": (place / "fifo", "regular file"),
            "a directory": (place / "directory", "regular file"),
            "a socket": (place / "socket", "regular file"),
            "a device": (Path("/dev/null"), ""),
            # Who cannot give a file away is stopped earlier, by the directory.
            "a file of another user": (self._foreign(place), "chown" if os.geteuid() == 0 else "writable"),
            "garbage": (self._written(place / "garbage", b"\0\xff{"), "move"),
            "100 KiB": (self._written(place / "large", b" " * 102_400), "move"),
            "JSON 30,000 deep": (self._written(place / "deep", b"[" * 30_000), "move"),
            "a directory that is not there": (place / "missing" / "state.json", "create"),
            "a path below a file": (good / "state.json", ""),
        }
        for tried, (path, hint) in cases.items():
            process = Process(self._recipient().set("token.state_file", str(path)))
            self.addCleanup(process.kill)
            code, said = process.exit_code(), process.stderr
            holds = (
                code == 78
                and "`token.state_file`" in said
                and hint in said
                and (not hint or "hint: " in said)
                and _REFRESH_TOKEN not in said
            )
            self.attack(
                f"a state file that is {tried}", f"78, with the hint `{hint}`", f"{code}: {said.strip()}", holds
            )
        came = self.tokens.connections
        self.attack("the token endpoint meanwhile", "no connection", f"{came} connections", came == 0)

    def test_a_lock_or_a_temporary_file_that_was_planted_is_not_followed(self) -> None:
        """Links in place of the files beside the state file: refused or replaced, and not followed."""
        for suffix in [".lock", ".tmp"]:
            place = self.directory / f"planted{suffix}"
            place.mkdir()
            victim = self._written(place / "victim", b"precious")
            (place / f"state.json{suffix}").symlink_to(victim)
            process = Sidecar(self._recipient().set("token.state_file", str(place / "state.json")))
            self.addCleanup(process.kill)
            seen = len(self.tokens.exchanges)
            self._until(partial(self._ended_or_asked, process, seen))
            code = None if process.is_running else process.exit_code()
            self.attack(
                f"a link to another file in place of state.json{suffix}",
                "78, or that file left as it was",
                f"exit code {code}",
                code in (None, 78) and victim.read_bytes() == b"precious" and victim.stat().st_mode & 0o777 == 0o600,
            )
            process.kill()

    def test_secret_files_that_are_no_secrets_are_faults_that_name_them(self) -> None:
        """Empty, binary, too long, a directory, a device without an end: 78 at the start, and nothing of them shown."""
        place = self.directory / "secrets"
        place.mkdir()
        for tried, path in {
            "empty": self._written(place / "empty", b""),
            "a line end": self._written(place / "line", b"\n"),
            "binary": self._written(place / "binary", b"planted\xff\xfe"),
            "too long": self._written(place / "long", b"planted" * 10_000),
            "a directory": place,
            "without an end": Path("/dev/zero"),
            "not there": place / "missing",
        }.items():
            process = Process(self.configuration().set("token.client_secret_file", str(path)))
            self.addCleanup(process.kill)
            code, said = process.exit_code(), process.stderr
            self.attack(
                f"a secret file that is {tried}",
                "78, and its key",
                f"{code}: {said.strip()}",
                code == 78 and "`token.client_secret_file`" in said and "planted" not in said,
            )

    def test_a_pipe_in_place_of_a_file_ends_the_start(self) -> None:
        """A FIFO that nobody writes to: 78 that names the key, and not a process that hangs."""
        place = self.directory / "pipes"
        place.mkdir()
        processes: dict[str, Process] = {}
        for key in [
            "token.client_secret_file",
            "token.refresh_token_file",
            "token.ca_file",
            "upstream.ca_file",
            "upstream.client_cert_file",
            "upstream.client_key_file",
        ]:
            pipe = place / key
            os.mkfifo(pipe, 0o600)
            configuration = self._recipient().set("upstream.client_cert_file", str(PROVIDER.chain))
            configuration.set("upstream.client_key_file", str(PROVIDER.key))
            processes[key] = Process(configuration.set(key, str(pipe)))
            self.addCleanup(processes[key].kill)
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and any(process.is_running for process in processes.values()):
            time.sleep(0.05)
        for key, process in processes.items():
            said = "it hangs" if process.is_running else f"{process.exit_code()}: {process.stderr.strip()}"
            self.attack(f"a FIFO as {key}", "78, and its key", said, said.startswith("78") and f"`{key}`" in said)

    def test_a_pipe_in_place_of_a_secret_stops_nothing_but_the_refresh(self) -> None:
        """A secret that becomes a FIFO while it runs: probes and requests are answered, and SIGTERM is heeded."""
        self.tokens.lifetime = 4
        configuration = self.configuration().set("shutdown.grace", "1s")
        sidecar = self.running(configuration)
        sidecar.wait_for_a_token()
        secret = Path(str(configuration.values["token.client_secret_file"]))
        os.mkfifo(secret.with_suffix(".new"), 0o600)
        secret.with_suffix(".new").rename(secret)
        # Longer than until the next refresh.
        time.sleep(4)
        with Caller(sidecar.admin, timeout=2) as caller:
            caller.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = caller.answer()
        self.attack("a secret that becomes a FIFO", "/livez is answered", answer, answer.status == 200)
        sidecar.interrupt()
        end = time.monotonic() + _PATIENCE
        while sidecar.is_running and time.monotonic() < end:
            time.sleep(0.05)
        self.attack(
            "SIGTERM after that",
            f"the process ends within {_PATIENCE} s",
            "it runs" if sidecar.is_running else sidecar.exit_code(),
            not sidecar.is_running,
        )

    def _ended_or_asked(self, process: Process, count: int) -> bool:
        return not process.is_running or len(self.tokens.exchanges) > count

    def _foreign(self, place: Path) -> Path:
        """A file of another user: one that is given away, or for a user who cannot do that, one of root's."""
        if os.geteuid() != 0:
            return Path("/etc/passwd")
        path = self._written(place / "foreign", b"{}")
        os.chown(path, _NOBODY, _NOBODY)
        return path

    @staticmethod
    def _written(path: Path, content: bytes) -> Path:
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    @staticmethod
    def _warnings(sidecar: Sidecar, path: Path) -> list[dict[str, object]]:
        return [line for line in sidecar.log if "readable by others" in str(line) and str(path) in str(line)]

    @staticmethod
    def _until(condition: Callable[[], bool]) -> None:
        wait_for("the next exchange", condition)
