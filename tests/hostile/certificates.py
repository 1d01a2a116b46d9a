"""Certificates of the hostile servers, made by the `openssl` command line: good ones, and impostors'."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_CA_SETTINGS = """
[ca]
default_ca = own
[own]
database = {directory}/index.txt
new_certs_dir = {directory}
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
[any]
commonName = supplied
"""


def require_openssl() -> None:
    """Ends the run with a clear message where `openssl` is missing: nothing is ever skipped."""
    if shutil.which("openssl") is None:
        raise SystemExit("error: `openssl` is not in PATH\n\nhint: apt-get install openssl")


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(arguments)}: {done.stderr}")


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    chain: Path
    key: Path

    def server_context(self, client_authority: Path | None = None) -> ssl.SSLContext:
        """For a server that shows it and, with `client_authority`, demands one of the caller."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        if client_authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_authority)
        return context


class Authority:
    """An authority with its files in a directory of its own."""

    def __init__(self, directory: Path, name: str) -> None:
        require_openssl()
        directory.mkdir()
        self._directory = directory
        self.pem, self._key = directory / "ca.pem", directory / "ca.key"
        self._issued = 0
        (directory / "index.txt").touch()
        (directory / "ca.cnf").write_text(_CA_SETTINGS.format(directory=directory))
        _make_key(self._key)
        _openssl(
            "req", "-x509", "-new", "-key", str(self._key), "-subj", f"/CN={name}", "-days", "2", "-out", str(self.pem)
        )

    def certificate(self, names: str, start: str = "", end: str = "") -> Certificate:
        """One for `names`, such as `DNS:localhost,IP:127.0.0.1`; from `start` to `end` (YYYYMMDDHHMMSSZ), or now."""
        self._issued += 1
        stem = self._directory / f"leaf{self._issued}"
        key, request, chain = (stem.with_suffix(suffix) for suffix in (".key", ".csr", ".pem"))
        _make_key(key)
        _openssl(
            "req",
            "-new",
            "-key",
            str(key),
            "-subj",
            f"/CN=leaf{self._issued}",
            "-addext",
            f"subjectAltName={names}",
            "-out",
            str(request),
        )
        validity = ["-startdate", start, "-enddate", end] if start else ["-days", "2"]
        _openssl(
            "ca",
            "-batch",
            "-notext",
            "-config",
            str(self._directory / "ca.cnf"),
            "-cert",
            str(self.pem),
            "-keyfile",
            str(self._key),
            "-in",
            str(request),
            "-out",
            str(chain),
            *validity,
        )
        return Certificate(chain, key)


def self_signed(directory: Path, names: str) -> Certificate:
    """A server's certificate that nobody else has signed."""
    directory.mkdir()
    key, chain = directory / "self.key", directory / "self.pem"
    _make_key(key)
    _openssl(
        "req",
        "-x509",
        "-new",
        "-key",
        str(key),
        "-subj",
        "/CN=self",
        "-days",
        "2",
        "-addext",
        f"subjectAltName={names}",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-out",
        str(chain),
    )
    return Certificate(chain, key)


def _make_key(path: Path) -> None:
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(path))
