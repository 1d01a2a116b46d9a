"""Who gets in at the local port: names that lead here, and pages of other sites."""

from __future__ import annotations

import http2
from caller import send
from neighbour import Neighbour

_PATH = "/api/fdx/5/accounts"


class LocalPort(Neighbour):
    """A browser on this host, led here by a hostile page."""

    def test_a_name_that_was_made_to_lead_here_is_refused_and_told_the_key(self) -> None:
        """Any Host but the allowed ones, in whatever spelling: 403 that names host and key, and nothing at the API."""
        sidecar = self.sidecar()
        port = sidecar.port[1]
        for host in [
            "evil.example",
            f"evil.example:{port}",
            "EVIL.EXAMPLE",
            "evil.example.",
            "localhost.evil.example",
            "evil.example.localhost",
            "127.0.0.1.evil.example",
            f"127.0.0.1.evil.example:{port}",
            "localhost..",
            "localhost%00.evil.example",
            "localhost%2eevil.example",
            "xn--localhost-",
            "0.0.0.0",
            "127.1",
            "127.0.0.2",
            "2130706433",
            "0x7f000001",
            "[::]",
            "[::2]",
            "::1",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "localhost, evil.example",
            "localhost evil.example",
            "localhost/evil.example",
            "*",
            ".",
            ":80",
            "[",
            "l\xf6calhost",
            "localhost\xff",
            "x" * 5_000,
        ]:
            answer = sidecar.ask(_PATH, f"Host: {host}")
            self.refused(f"Host: {host}", answer, 403)
            names = answer.reason == "forbidden" and "`listen.allowed_hosts`" in answer.detail
            self.attack(
                f"what the 403 for Host: {host} says",
                "the key, and nothing of 200 characters or more",
                answer.detail,
                names and len(answer.detail) < 200,
            )
        self.assertIn("evil.example", sidecar.stderr, "the operator is told")

    def test_a_host_that_begins_like_an_allowed_one_is_no_allowed_one(self) -> None:
        """What no browser would send, but servers read in more ways than one, is refused with 400 or 403."""
        sidecar = self.sidecar()
        for host in [
            "localhost@evil.example",
            "localhost:80@evil.example",
            "user@localhost",
            "user:password@localhost",
            "localhost:evil.example",
            "127.0.0.1:80.evil.example",
            "[::1].evil.example",
            "[::1]evil.example",
            "[::1]:80@evil.example",
            "localhost:",
            "localhost:80:80",
            "localhost:99999",
            "localhost:-1",
        ]:
            seen = len(self.api.requests)
            answer = sidecar.ask(_PATH, f"Host: {host}")
            if host == "localhost:":
                # RFC 3986 section 3.2.3: a port may be empty.
                self.attack(f"Host: {host}", "served", answer, answer.status == 200)
            else:
                self.refused(f"Host: {host}", answer, 400, 403, seen=seen)

    def test_a_target_that_names_another_host_is_refused_whatever_host_says(self) -> None:
        """The authority of an absolute target counts, and one with a user name is malformed."""
        sidecar = self.sidecar()
        for target in [
            f"http://evil.example{_PATH}",
            f"https://evil.example{_PATH}",
            f"http://evil.example:80{_PATH}",
            f"http://localhost.evil.example{_PATH}",
            f"http://localhost@evil.example{_PATH}",
            f"http://user:password@localhost{_PATH}",
            f"http://localhost:80@evil.example{_PATH}",
            f"ftp://evil.example{_PATH}",
            "evil.example:443",
            f"//evil.example{_PATH}@localhost/",
        ]:
            answer = sidecar.ask(target, "Host: localhost")
            if target.startswith("//"):
                # A path like any other (RFC 9112 section 3.2.1): it goes to the one API there is.
                mine = [one for one in self.api.requests if one.target == target]
                self.attack(
                    f"GET {target}", "served as a path of the API", answer, answer.status == 200 and len(mine) == 1
                )
            else:
                self.refused(f"GET {target} with Host: localhost", answer, 400, 403)

    def test_a_head_without_one_clear_host_is_refused_but_for_http_1_0(self) -> None:
        """None, two, or an empty one: 400. HTTP/1.0 had no such field, and no browser speaks it: served."""
        sidecar = self.sidecar()
        for tried, lines in {
            "HTTP/1.1 without Host": ["HTTP/1.1"],
            "an empty Host": ["HTTP/1.1", "Host:"],
            "a Host of spaces": ["HTTP/1.1", "Host:   "],
            "two Hosts, the good one first": ["HTTP/1.1", "Host: localhost", "Host: evil.example"],
            "two Hosts, the good one last": ["HTTP/1.1", "Host: evil.example", "Host: localhost"],
            "the same Host twice": ["HTTP/1.1", "Host: localhost", "Host: localhost"],
            "two Hosts in HTTP/1.0": ["HTTP/1.0", "Host: localhost", "Host: localhost"],
            "a Host that is folded": ["HTTP/1.1", "Host: localhost", " evil.example"],
            "a Host with a space before its colon": ["HTTP/1.1", "Host : localhost"],
        }.items():
            answer = send(sidecar.port, f"GET {_PATH} ".encode() + "\r\n".join(lines).encode() + b"\r\n\r\n")
            self.refused(tried, answer, 400)
        answer = send(sidecar.port, f"GET {_PATH} HTTP/1.0\r\nHost: evil.example\r\n\r\n".encode())
        self.refused("HTTP/1.0 with a foreign Host", answer, 403)
        answer = send(sidecar.port, f"GET {_PATH} HTTP/1.0\r\n\r\n".encode())
        self.attack("HTTP/1.0 without Host", "served", answer, answer.status == 200 and len(self.api.requests) == 1)

    def test_a_foreign_authority_over_http2_is_refused(self) -> None:
        """The same by frames: a foreign `:authority`, none, or one that `host` contradicts."""
        sidecar = self.sidecar()
        own = [(":method", "GET"), (":scheme", "http"), (":path", _PATH)]
        for tried, fields in {
            "foreign": [*own, (":authority", "evil.example")],
            "foreign with a port": [*own, (":authority", f"evil.example:{sidecar.port[1]}")],
            "foreign, host allowed": [*own, (":authority", "evil.example"), ("host", "localhost")],
            "allowed, host foreign": [*own, (":authority", "localhost"), ("host", "evil.example")],
            "none, host foreign": [*own, ("host", "evil.example")],
            "none at all": own,
            "with a user name": [*own, (":authority", "user@localhost")],
            "that only begins well": [*own, (":authority", "localhost.evil.example")],
            "twice": [*own, (":authority", "localhost"), (":authority", "evil.example")],
        }.items():
            answer = http2.ask(sidecar.port, fields)
            # Without a status the stream or the connection was reset, which is a refusal too.
            self.refused(f":authority {tried}", answer, 400, 403, 0)
        answer = http2.ask(sidecar.port, [*own, (":authority", "localhost")])
        self.attack(":authority localhost", "served", answer, answer.status == 200 and len(self.api.requests) == 1)

    def test_what_a_page_of_another_site_sends_is_refused_in_whatever_shape(self) -> None:
        """Origin, Fetch Metadata, forms and WebSockets: 403 without any `Access-Control` field, nothing at the API."""
        sidecar = self.sidecar()
        form = "Content-Type: text/plain"
        upgrade = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
        for method, fields in [
            ("GET", ["Origin: https://evil.example"]),
            ("GET", ["Origin: null"]),
            ("GET", ["Origin:"]),
            ("GET", ["Origin: http://localhost"]),
            ("GET", ["Origin: http://localhost:8080"]),
            ("GET", [f"Origin: http://127.0.0.1:{sidecar.port[1]}"]),
            ("GET", ["Origin: file://"]),
            ("POST", ["Origin: https://evil.example", form]),
            ("POST", ["Origin: null", "Content-Type: application/x-www-form-urlencoded"]),
            ("DELETE", ["Origin: https://evil.example"]),
            ("OPTIONS", ["Origin: https://evil.example", "Access-Control-Request-Method: GET"]),
            (
                "OPTIONS",
                [
                    "Origin: https://evil.example",
                    "Access-Control-Request-Method: DELETE",
                    "Access-Control-Request-Headers: authorization",
                    "Access-Control-Request-Private-Network: true",
                ],
            ),
            ("GET", ["Sec-Fetch-Site: cross-site"]),
            ("GET", ["Sec-Fetch-Site: same-site"]),
            ("GET", ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"]),
            ("GET", ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"]),
            ("GET", ["Sec-Fetch-Site: something-new"]),
            ("GET", ["Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"]),
            ("GET", ["sEc-fEtCh-sItE: cross-site"]),
            ("GET", ["Origin: https://evil.example", "Sec-Fetch-Site: same-origin"]),
            ("GET", ["Origin: https://evil.example", *upgrade]),
        ]:
            body = b"amount=1" if method == "POST" else b""
            answer = sidecar.ask(_PATH, *fields, method=method, body=body)
            self.refused(f"{method} with {'; '.join(fields)}", answer, 403)
            told = [name for name, _ in answer.fields if name.lower().startswith("access-control")]
            self.attack("what a browser learns from that", "no Access-Control field", told, not told)

    def test_an_allowed_origin_lets_in_that_page_and_no_page_that_looks_like_it(self) -> None:
        """With `listen.allow_origins`, origins that merely resemble one are refused with 403."""
        sidecar = self.sidecar(lambda c: c.set("listen.allow_origins", ["http://localhost:3000"]))
        for fields in [
            ["Origin: http://localhost:30001"],
            ["Origin: http://localhost:3000.evil.example"],
            ["Origin: https://localhost:3000"],
            ["Origin: http://evil.example?http://localhost:3000"],
            ["Origin: http://localhost:3000/"],
            ["Origin: http://localhost:3000 http://evil.example"],
            ["Origin: http://localhost:3000", "Origin: https://evil.example"],
            ["Origin: null"],
        ]:
            self.refused("; ".join(fields), sidecar.ask(_PATH, *fields), 403)
        answer = sidecar.ask(_PATH, "Origin: http://localhost:3000", "Sec-Fetch-Site: same-site")
        self.attack("the allowed page", "served", answer, answer.status == 200 and len(self.api.requests) == 1)

    def test_the_required_header_is_a_secret_that_is_not_guessed_told_or_passed_on(self) -> None:
        """Near misses are 403; the value is in no answer, and the field does not get to the API."""
        secret = "open-sesame-u8Wq2"
        sidecar = self.sidecar(lambda c: c.set("listen.require_header", f"X-Valet: {secret}"))
        for fields in [
            [],
            ["X-Valet:"],
            [f"X-Valet: {secret[:-1]}"],
            [f"X-Valet: {secret}x"],
            [f"X-Valet: {secret.upper()}"],
            [f"X-Valet: {secret}", f"X-Valet: {secret}"],
            [f"X-Valet: {secret}, {secret}"],
            [f"X_Valet: {secret}"],
            [f"X-Other: {secret}"],
            [f"Connection: X-Valet\r\nX-Other: {secret}"],
        ]:
            answer = sidecar.ask(_PATH, *fields)
            self.refused(f"with {fields}", answer, 403)
            shown = answer.head + answer.body
            self.attack("what the refusal shows", "nothing of the value", answer, secret.encode() not in shown)
        answer = sidecar.ask(_PATH, f"x-valet: {secret}")
        passed = secret.encode() in self.api.received
        self.attack(
            "the right value", "served, and the field kept from the API", answer, answer.status == 200 and not passed
        )
