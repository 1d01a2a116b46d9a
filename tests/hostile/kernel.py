"""What the kernel tells anybody of the sockets on this host."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sidecar import Process

_TABLES = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6")
_STATES = {"01": "established", "0A": "listening"}


@dataclass(frozen=True)
class Socket:
    """A row of /proc/net: `tcp`, or another table's name; the own address; and for TCP its state."""

    kind: str
    host: str
    port: int
    state: str
    inode: str


def sockets() -> list[Socket]:
    """All sockets of the host that can have an address."""
    found: list[Socket] = []
    for table in _TABLES:
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            words = line.split()
            host, _, port = words[1].partition(":")
            address = ".".join(str(byte) for byte in reversed(bytes.fromhex(host))) if len(host) == 8 else host
            kind = "tcp" if table.startswith("tcp") else table
            found.append(Socket(kind, address, int(port, 16), _STATES.get(words[3], words[3]), words[9]))
    return found


def own_inodes(process: Process) -> set[str] | None:
    """The inodes of a process's sockets; None where the kernel lets only root look."""
    try:
        links = [os.readlink(entry) for entry in process.proc("fd").iterdir()]
    except PermissionError:
        return None
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}


def readable(path: Path) -> bytes | None:
    """A file's content; None where the kernel lets only root look."""
    try:
        return path.read_bytes()
    except PermissionError:
        return None
