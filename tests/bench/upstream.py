"""The upstream of all: an nginx that answers with as many bytes as the path says, and gives tokens."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PLAIN_PORT, TLS_PORT, HTTP2_PORT = 18080, 18443, 18444
#: What everyone but those with a client for OAuth has in its configuration.
TOKEN = "t" * 64
_ANSWER = f'{{"access_token":"{TOKEN}","token_type":"Bearer","expires_in":3600}}'

#: Bytes of the answer at `/SIZE`.
SMALL, LARGE = 1_024, 102_400


class Upstream:
    """Its configuration and its certificate, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = directory / "ca.pem"
        self._certificates()
        # A copy, or what it shares in memory with the nginx that is measured would count for half.
        self._program = directory / "upstream-nginx"
        shutil.copy(shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), self._program)
        (directory / str(LARGE)).write_text("x" * LARGE)
        (directory / "upstream.conf").write_text(
            f"""worker_processes 1; master_process off; daemon off; pid {directory}/upstream.pid; error_log {directory}/upstream.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type application/json; keepalive_requests 100000000; keepalive_timeout 600s;
  open_file_cache max=10; output_buffers 2 128k; tcp_nodelay on;
  server {{
    listen 127.0.0.1:{PLAIN_PORT} backlog=4096; listen 127.0.0.1:{TLS_PORT} ssl backlog=4096;
    listen 127.0.0.1:{HTTP2_PORT} ssl http2 backlog=4096;
    ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.key; ssl_protocols TLSv1.3;
    location = /token {{ return 200 '{_ANSWER}'; }}
    location = /{SMALL} {{ if ($http_authorization != "Bearer {TOKEN}") {{ return 401; }} return 200 '{"x" * SMALL}'; }}
    location = /{LARGE} {{ if ($http_authorization != "Bearer {TOKEN}") {{ return 401; }} root {directory}; }}
  }}
}}
"""
        )

    @property
    def command(self) -> list[str]:
        return [str(self._program), "-c", str(self.directory / "upstream.conf"), "-p", str(self.directory)]

    def _certificates(self) -> None:
        def openssl(*arguments: str) -> None:
            subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True)

        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
        authority = ("-subj", "/CN=authority", "-addext", "basicConstraints=critical,CA:TRUE")
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", *authority)
        openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
        (self.directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
        sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", "server.csr", *sign, "-out", "server.pem")
