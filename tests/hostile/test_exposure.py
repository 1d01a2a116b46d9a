"""What can be seen of the sidecar from outside: its ports, its words, and what the kernel tells of the process."""

from __future__ import annotations

import base64
import json
import os
import time

import http2
from api import Answer as ApiAnswer
from api import Api, ok
from caller import Answer, ask, send
from canaries import leaks
from certificates import Authority
from kernel import own_inodes, readable, sockets
from neighbour import PROVIDER, Neighbour
from server import Conversation, Request
from sidecar import Configuration, Process, Sidecar, wait_for

_AUTHORIZATION, _COOKIE, _FIELD = "the caller's Authorization", "the caller's cookie", "the API's field"
_SECRETS = {
    "the client's secret": "canary-client-secret-p4Xc7Lm2Qw",
    "the code": "canary-code-Rt9Zb3Ky6Vn",
    "the refresh token": "canary-refresh-token-Hd8Gf5Js1Ta",
    "the required header": "canary-required-header-Uo2Pe7Wi4Yx",
    _AUTHORIZATION: "canary-callers-token-Mz6Nq9Bv3Ck",
    _COOKIE: "canary-cookie-Ls5Dj8Fh2Ga",
    "the query": "canary-query-Xr7Ty4Ue9Io",
    "the caller's body": "canary-body-Qa1Ws6Ed3Rf",
    "the API's body": "canary-answer-Zx8Cv5Bn2Mk",
    _FIELD: "canary-field-Lp3Ok7Ij4Uh",
}
#: This one must be found: paths are logged.
_LEAKED = "canary-path-Vg9Tf6Rd2Es"


class Exposure(Neighbour):
    """Somebody on the same host, who looks."""

    def test_only_two_loopback_ports_are_open_and_nothing_on_udp(self) -> None:
        """By the kernel's tables: the local port and the admin port, both on loopback, and nothing else."""
        before = {socket.inode for socket in sockets()}
        sidecar = self.sidecar()
        sidecar.ask("/x")
        inodes = own_inodes(sidecar)
        # Where only root may look at its descriptors, what is new on this host, and not the test's own servers.
        found = [one for one in sockets() if (one.inode in inodes if inodes is not None else one.inode not in before)]
        listening = sorted((one.host, one.port) for one in found if one.state == "listening")
        udp = [one for one in found if one.kind != "tcp"]
        expected = sorted([sidecar.port, sidecar.admin])
        self.attack(
            "a port scan",
            f"{expected} alone",
            f"{listening}, {len(udp)} on UDP",
            listening == expected and not udp and all(host == "127.0.0.1" for host, _ in listening),
        )

    def test_no_planted_secret_is_in_anything_that_can_be_seen(self) -> None:
        """Every grant's secrets, on every way and every failure: not in outputs, answers, arguments or environment."""
        authority = Authority(self.directory / "clients", "clients")
        client = authority.certificate("DNS:client.example")
        api = self.opened(Api(PROVIDER.server_context(client_authority=authority.pem)))
        self._program(api)
        key_lines = client.key.read_text().splitlines()[1:-1]
        secrets = _SECRETS | {f"line {number} of the key": line for number, line in enumerate(key_lines)}
        der = base64.b64decode("".join(key_lines))
        secrets["the key's own number"] = base64.b64encode(der[36:68]).decode()
        self.tokens.refresh_token, self.tokens.lifetime = _SECRETS["the refresh token"], 2
        configuration = self._loud(api).set("token.grant", "authorization_code")
        configuration.set_file("token.code_file", _SECRETS["the code"]).set(
            "token.redirect_uri", "https://app.example/"
        )
        configuration.set("token.state_file", str(configuration.directory / "state.json"))
        configuration.set_file("upstream.client_cert_file", client.chain.read_text())
        configuration.set_file("upstream.client_key_file", client.key.read_text())
        sidecar = self.running(configuration)
        wait_for("a token", lambda: self._ask(sidecar, "/api").status == 200)
        # A code is presented once; what is refused is its refresh token.
        self.tokens.answers["/token"] = self._refuses_once
        seen = self._go_through(sidecar)
        wait_for("two refreshes", lambda: len(self.tokens.issued) >= 3)
        self.assertTrue(sidecar.logged("the access token could not be refreshed"))
        self._look(sidecar, secrets, seen, "a data recipient with mTLS")
        told = self.tokens.received
        for name in ["the client's secret", "the code", "the refresh token"]:
            self.attack(
                f"the control: {name} at the token endpoint",
                "was sent there, so that it could have leaked",
                "",
                bool(leaks({name: _SECRETS[name]}, told)),
            )
        self.attack(
            "the control: the API",
            "was reached with the client's certificate",
            f"{len(api.requests)} requests",
            len(api.requests) > 5,
        )

    def test_no_secret_of_a_partner_is_in_anything_that_can_be_seen(self) -> None:
        """The same for client credentials in a form, over HTTP/2 and with forwarded fields."""
        self._program(self.api)
        self.tokens.answers["/token"] = self._refuses_once
        configuration = self._loud(self.api).set("token.client_auth", "body").set("token.body", "form")
        configuration.set("upstream.forwarded", "forwarded")
        sidecar = self.running(configuration)
        wait_for("a token", lambda: self._ask(sidecar, "/api").status == 200)
        seen = self._go_through(sidecar)
        own = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", f"/{_LEAKED}?q={_SECRETS['the query']}"),
            ("x-valet", _SECRETS["the required header"]),
            ("authorization", _SECRETS[_AUTHORIZATION]),
            ("cookie", _SECRETS[_COOKIE]),
        ]
        self.assertEqual(http2.ask(sidecar.port, own).status, 200)
        self._look(sidecar, _SECRETS, seen, "a partner")

    def test_a_secret_of_the_environment_is_where_the_readme_says_and_nowhere_else(self) -> None:
        """The positive control: the same search finds it in /proc/PID/environ, and in nothing that was written."""
        secret = {"the secret of the environment": "canary-environment-Yh6Bg3Nt8Jm"}
        configuration = self.configuration().unset("token.client_secret_file").set("log.level", "trace")
        configuration.variable("TOKEN_VALET__TOKEN__CLIENT_SECRET", next(iter(secret.values())))
        sidecar = self.running(configuration)
        sidecar.wait_for_a_token()
        pages = b"".join(self._pages(sidecar))
        written = leaks(secret, sidecar.written + pages + sidecar.proc("cmdline").read_bytes())
        self.attack("a secret by the environment", "in nothing that was written or answered", written, not written)
        environment = readable(sidecar.proc("environ"))
        found = environment is None or bool(leaks(secret, environment))
        self.attack(
            "the control: /proc/PID/environ",
            "the search finds it there, or the kernel refuses to show it",
            "refused" if environment is None else f"found: {found}",
            found,
        )

    def test_no_caller_and_no_api_forges_a_line_of_the_log(self) -> None:
        """Line ends, escape sequences and JSON in all that is logged of others: one line for each event."""
        odd = '\x1b[31m\x07\x85\u2028 "level":"ERROR" forged'
        for kind in ["text", "json"]:
            self.api.answers["/id"] = self._answers_oddly
            configuration = self.configuration().set("log.format", kind).set("log.access", "all")
            sidecar = self.running(configuration.set("log.level", "debug"))
            sidecar.wait_for_a_token()
            for raw in [
                f"GET /id?{odd} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {odd}\r\n\r\n",
                f"GET /x HTTP/1.1\r\nHost: {odd}\r\n\r\n",
                f"GET /{odd} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                f"GET /x HTTP/1.1\r\nHost: localhost\r\nOrigin: {odd}\r\n\r\n",
                f"{odd} /x HTTP/1.1\r\n\r\n",
                "GET /%0a%0d%1b%5b31mforged HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /id HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /\u2028forged\u202e HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ]:
                send(sidecar.port, raw.encode())
            sidecar.terminate()
            lines = sidecar.stderr.rstrip("\n").split("\n")
            begins = "{" if kind == "json" else "20"
            bad = [
                line for line in lines if not line.startswith(begins) or any(ord(c) < 32 or ord(c) == 127 for c in line)
            ]
            self.attack(
                f"odd words in all that is logged, as {kind}",
                "no forged line, no control character",
                f"{bad} of {len(lines)} lines",
                not bad and len(lines) > 6,
            )

    @staticmethod
    def _answers_oddly(conversation: Conversation, _request: Request) -> bool:
        conversation.send(ok(b"", "ob-correlation-id: a\x1b[31m\tforged", "ob-trace-id: \u00e9 forged", status="500 X"))
        return True

    def test_the_search_finds_what_is_leaked(self) -> None:
        """The control of the search itself: each spelling of a secret in the middle of other text is found."""
        secret = {"one": 'canary "quoted" +/=&\u00e9 Kp4Lw9Zr7Xs2'}
        text = next(iter(secret.values()))
        for name, data in {
            "as it is": text.encode(),
            "in base64": base64.b64encode(b"id:" + text.encode() + b"x"),
            "in base64, shifted": base64.b64encode(b"i:" + text.encode()),
            "in hex": text.encode().hex().encode(),
            "in JSON": json.dumps({"a": text}).encode(),
            "in JSON in JSON": json.dumps(json.dumps(text)).encode(),
            "in a form": b"a=canary+%22quoted%22+%2B%2F%3D%26%C3%A9+Kp4Lw9Zr7Xs2&b=c",
            "cut": text.encode()[:20],
            "its end": text.encode()[-17:],
            "as numbers": str(list(text.encode())).encode(),
        }.items():
            self.attack(
                f"the control: a secret {name}",
                "found",
                leaks(secret, b"before " + data + b" after"),
                leaks(secret, b"before " + data + b" after") == ["one"],
            )
        self.attack("the control: other text", "not found", leaks(secret, b"canary"), not leaks(secret, b"canary"))

    def test_other_processes_of_its_user_cannot_read_its_memory(self) -> None:
        """It is not dumpable: its files in /proc belong to root, and its core size is 0."""
        sidecar = self.sidecar()
        owner = sidecar.proc("mem").stat().st_uid
        limits = sidecar.proc("limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size")).split()[4:6]
        dumpable = os.geteuid() == 0 or owner == 0
        self.attack(
            "the memory of the process",
            "root's, and no core file",
            f"owner {owner}, core {core}",
            dumpable and core == ["0", "0"],
        )

    def test_the_admin_port_takes_no_orders_of_web_pages_and_tells_no_secret(self) -> None:
        """Pages of others get 403, unknown paths 404, other methods 405, odd heads 400; and no answer shows a secret."""
        configuration = self.configuration().set_file("token.client_secret_file", _SECRETS["the client's secret"])
        configuration.set("listen.require_header", f"X-Valet: {_SECRETS['the required header']}")
        sidecar = self.running(configuration.variable("UNRELATED", "canary-unrelated-Fr5Gt2Hy8Ju"))
        sidecar.wait_for_a_token()
        sidecar.ask(f"/{_LEAKED}", f"X-Valet: {_SECRETS['the required header']}")
        secrets = _SECRETS | {"the environment": "canary-unrelated-Fr5Gt2Hy8Ju", "a token": self.tokens.issued[0]}
        for page in ["/livez", "/startupz", "/readyz", "/metrics"]:
            for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"]:
                answer = ask(sidecar.admin, page, method=method)
                self._tells_nothing(f"{method} {page} of the admin port", answer, secrets, 400, 405)
        for page in ["/", "/status"]:
            seen = secrets | {"a path": _LEAKED}
            self._tells_nothing(f"GET {page} of the admin port", ask(sidecar.admin, page), seen, 200)
            for field in ["Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Host: evil.example"]:
                answer = ask(sidecar.admin, page, field)
                self._tells_nothing(f"GET {page} of the admin port with {field}", answer, secrets, 403)
        for page in [
            "/config",
            "/env",
            "/environ",
            "/debug/pprof/",
            "/../../etc/passwd",
            "/%2e%2e/metrics",
            "/readyz/../metrics",
            "//metrics",
            "/metrics/",
            "/METRICS",
            "/api/fdx/5/accounts",
            "*",
            "http://evil.example/nothing",
            f"/proc/{sidecar.id}/environ",
        ]:
            for method in ["GET", "POST"]:
                self._tells_nothing(
                    f"{method} {page} of the admin port",
                    ask(sidecar.admin, page, method=method),
                    secrets,
                    400,
                    403,
                    404,
                    405,
                )
        for method, page in [
            ("POST", "/refresh"),
            ("POST", "/reload"),
            ("PUT", "/log-level?trace"),
            ("POST", "/quitquitquit"),
        ]:
            for what, head in [
                ("a page's", "Host: localhost\r\nOrigin: https://evil.example"),
                ("a rebound page's", "Host: evil.example"),
                ("a sandboxed frame's", "Host: localhost\r\nOrigin: null"),
                ("a browser's", "Host: localhost\r\nSec-Fetch-Site: same-origin"),
            ]:
                raw = f"{method} {page} HTTP/1.1\r\n{head}\r\nContent-Length: 0\r\n\r\n".encode()
                self._tells_nothing(f"{what} {method} {page} at the admin port", send(sidecar.admin, raw), secrets, 403)
            answer = ask(sidecar.admin, page, method="GET")
            self._tells_nothing(f"GET {page} of the admin port", answer, secrets, 405)
        raw = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n"
        self._tells_nothing("a malformed head at the admin port", send(sidecar.admin, raw), secrets, 400)
        large = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"
        self._tells_nothing("a large head at the admin port", send(sidecar.admin, large), secrets, 431, 0)
        metrics = ask(sidecar.admin, "/metrics")
        self._tells_nothing("the metrics", metrics, secrets | {"a path": _LEAKED}, 200)
        self.attack(
            "all that at the admin port",
            "no request to anybody, and still serving",
            f"{len(self.api.requests)} at the API",
            len(self.api.requests) == 1 and sidecar.is_running and len(self.tokens.exchanges) == 1,
        )

    def _tells_nothing(self, tried: str, answer: Answer, secrets: dict[str, str], *statuses: int) -> None:
        shown = leaks(secrets, answer.head + answer.body)
        self.attack(
            tried,
            f"{' or '.join(map(str, statuses))}, and no secret",
            f"{answer}, shown: {shown}",
            answer.status in statuses and not shown,
        )

    def _loud(self, api: Api) -> Configuration:
        """Everything logged that can be."""
        configuration = (
            self.configuration().set("upstream.url", api.url).set("log.level", "trace").set("log.access", "all")
        )
        configuration.set_file("token.client_secret_file", _SECRETS["the client's secret"])
        configuration.set("upstream.response_timeout", "500ms").set("token.wait", "5s")
        return configuration.set("listen.require_header", f"X-Valet: {_SECRETS['the required header']}")

    @staticmethod
    def _program(api: Api) -> None:
        """An API that fails in several ways, each with something that is not to be logged."""
        body, value = _SECRETS["the API's body"].encode(), f"X: {_SECRETS[_FIELD]}"

        def silence(conversation: Conversation, _request: Request) -> bool:
            time.sleep(1)
            return False

        def answers(data: bytes) -> ApiAnswer:
            def answer(conversation: Conversation, _request: Request) -> bool:
                conversation.send(data)
                return False

            return answer

        api.answers |= {
            "/api": answers(ok(body, value)),
            "/failed": answers(ok(body, value, f"ob-trace-id: {'x' * 200}", status="500 Failed")),
            "/rejected": answers(ok(body, value, status="401 No")),
            "/cut": answers(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n" + value.encode() + b"\r\n\r\n" + body),
            "/garbage": answers(body + b"\r\n\r\n"),
            "/bad-field": answers(b"HTTP/1.1 200 OK\r\n" + value.encode() + b"\0\r\n\r\n"),
            "/silence": silence,
        }

    def _refuses_once(self, conversation: Conversation, request: Request) -> None:
        """Repeats the request in an error, which is not to be logged; grants from then on."""
        del self.tokens.answers["/token"]
        told = {"error": "server_error", "error_description": request.body.decode() + " " + str(request.fields)}
        conversation.send(ok(json.dumps(told).encode(), status="503 No"))

    def _ask(self, sidecar: Sidecar, path: str, *fields: str) -> Answer:
        return sidecar.ask(
            f"{path}?q={_SECRETS['the query']}",
            f"X-Valet: {_SECRETS['the required header']}",
            f"Authorization: Bearer {_SECRETS[_AUTHORIZATION]}",
            f"Cookie: session={_SECRETS[_COOKIE]}",
            *fields,
            method="POST",
            body=_SECRETS["the caller's body"].encode(),
        )

    def _go_through(self, sidecar: Sidecar) -> bytes:
        """Every way through the proxy; gives what the sidecar itself said to callers and probes."""
        said: list[bytes] = []
        for path in ["/api", "/failed", "/rejected", "/cut", "/garbage", "/bad-field", "/silence", f"/{_LEAKED}"]:
            answer = self._ask(sidecar, path)
            if answer.reason is not None:
                said.append(answer.head + answer.body)
        authorization = f"Authorization: {_SECRETS[_AUTHORIZATION]}"
        for answer in [
            self._ask(sidecar, "/api", "Origin: https://evil.example"),
            self._ask(sidecar, "/api", f"X-Valet: {_SECRETS['the required header']}"),
            sidecar.ask("/api", authorization, f"X-Valet: {_SECRETS['the required header']}x"),
            sidecar.ask("/api", authorization, f"X-Valet: {_SECRETS['the required header']}", method="TRACE"),
            send(sidecar.port, f"no HTTP {_SECRETS['the required header']}\r\n{authorization}\r\n\r\n".encode()),
            send(sidecar.port, f"GET /x HTTP/1.1\r\nHost: localhost\r\n{authorization}\0\r\n\r\n".encode()),
            send(sidecar.port, f"GET /x HTTP/1.1\r\n{authorization}\r\nX: {'y' * 50_000}\r\n\r\n".encode()),
        ]:
            said.append(answer.head + answer.body)
        return b"\n".join(said + self._pages(sidecar))

    @staticmethod
    def _pages(sidecar: Sidecar) -> list[bytes]:
        pages = ["/livez", "/startupz", "/readyz", "/readyz?verbose", "/metrics", "/status", "/", "/nothing"]
        answers = [ask(sidecar.admin, page) for page in pages]
        return [answer.head + answer.body for answer in answers]

    def _look(self, sidecar: Sidecar, secrets: dict[str, str], seen: bytes, whose: str) -> None:
        """Searches everything, and for the controls what must be found."""
        secrets = secrets | {f"access token {number}": token for number, token in enumerate(self.tokens.issued)}
        arguments, environment = sidecar.proc("cmdline").read_bytes(), readable(sidecar.proc("environ")) or b""
        said = run_check(sidecar.configuration)
        seen += b"\n".join(self._pages(sidecar))
        self.assertEqual(sidecar.terminate(), 0)
        for place, text in {
            "its outputs at trace": sidecar.written,
            "its own answers": seen,
            "its arguments": arguments,
            "its environment": environment,
            "what `check` says": said,
        }.items():
            found = leaks(secrets, text)
            self.attack(
                f"{len(secrets)} planted secrets of {whose} in {place}",
                "none",
                f"{found} in {len(text)} bytes",
                not found,
            )
        self.attack(
            f"the control: a path of {whose} in its outputs at trace",
            "found, by the same search",
            "",
            leaks({"path": _LEAKED}, sidecar.written) == ["path"] and b'"level":"DEBUG"' in sidecar.written,
        )


def run_check(configuration: Configuration) -> bytes:
    """All that `check` writes about the same configuration."""
    again = Configuration(configuration.directory / "again")
    again.values = configuration.values | {"listen.idle_timeout": "never"}
    process = Process(again, "check")
    process.exit_code()
    return process.written
