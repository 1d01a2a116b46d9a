"""An API that answers with malice: callers get its answers and nothing else, and the sidecar keeps its head."""

from __future__ import annotations

import time
import zlib

import http2
from api import Answer, Api, ok
from caller import Caller
from neighbour import CLIENT_SECRET, PROVIDER, Neighbour
from server import Conversation, Request, Server
from sidecar import Sidecar, wait_for
from token_endpoint import TokenEndpoint

#: In MiB: what a sidecar may ever have had, whatever it was sent.
_MOST_MEMORY = 64
_HEAD = b"HTTP/1.1 200 OK\r\n"
_MEBIBYTE = 1 << 20


def gzip_bomb() -> bytes:
    """A gibibyte of zeros, compressed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first = packer.compress(bytes(_MEBIBYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(_MEBIBYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * 1_023 + packer.flush()


class HostileApi(Neighbour):
    """A bank's API that was taken over, or something in front of it."""

    def _sidecar(self) -> Sidecar:
        return self.sidecar(
            lambda c: (
                c.set("log.level", "trace")
                .set("log.access", "all")
                .set("token.wait", "10s")
                .set("upstream.response_timeout", "2s")
                .set("upstream.idle_body_timeout", "2s")
            )
        )

    def _says(self, path: str, data: bytes, ends: bool = False) -> None:
        """Has the API answer a path with raw bytes, and then close the connection or not."""

        def answer(conversation: Conversation, _request: Request) -> bool:
            conversation.send(data)
            return not ends

        self.api.answers[path] = answer

    def _serves_on(self, sidecar: Sidecar, after: str) -> None:
        """The next request gets its own answer."""
        answer = sidecar.ask("/next")
        memory = sidecar.peak_memory
        self.attack(
            f"the next request after {after}",
            f"its own answer, below {_MOST_MEMORY} MiB",
            f"{answer}, {memory} MiB",
            b'"target": "/next"' in answer.body and memory < _MOST_MEMORY,
        )

    def test_a_reflected_token_goes_to_the_caller_and_into_no_log(self) -> None:
        """Authorization in body, fields, reason, trailers and interim answers, whole or split: never logged."""
        sidecar = self._sidecar()
        stamp = f"Bearer {self.tokens.issued[0]}"
        spread = "; ".join(self.tokens.issued[0])
        trailers = (
            _HEAD
            + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\n"
            + f"X-Sum: {stamp}\r\n\r\n".encode()
        )
        reflections = {
            "/in-body": ok(stamp.encode()),
            "/in-fields": ok(b"x", f"X-Reflected: {stamp}", f"Set-Cookie: t={stamp}", f"WWW-Authenticate: {stamp}"),
            "/in-names": ok(b"x", f"{self.tokens.issued[0]}: yes"),
            "/in-reason": ok(b"x", status=f"200 {stamp}"),
            "/in-error": ok(stamp.encode(), f"ob-correlation-id: {spread}", status=f"500 {stamp}"),
            "/in-rejection": ok(f'{{"code":602,"message":"{stamp}"}}'.encode(), f"X: {stamp}", status="401 No"),
            "/in-trailers": trailers,
            "/in-location": ok(b"", f"Location: /{self.tokens.issued[0]}", status="302 Found"),
            "/in-interim": f"HTTP/1.1 103 {stamp}\r\nLink: {stamp}\r\n\r\n".encode() + ok(stamp.encode()),
            "/in-garbage": f"{stamp}\r\n\r\n".encode(),
            "/in-bad-head": _HEAD + f"{stamp}\0: {stamp}\r\n\r\n".encode(),
            "/in-bad-length": _HEAD + f"Content-Length: {stamp}\r\n\r\n".encode(),
            "/in-bad-chunk": _HEAD + f"Transfer-Encoding: chunked\r\n\r\n{stamp}\r\n".encode(),
            "/in-bad-coding": _HEAD + f"Transfer-Encoding: {stamp}\r\n\r\n".encode(),
            "/in-switch": f"HTTP/1.1 101 {stamp}\r\nUpgrade: {stamp}\r\nConnection: upgrade\r\n\r\n".encode(),
            "/cut-off": _HEAD + b"Content-Length: 5000\r\n\r\n" + stamp.encode(),
        }
        for path, data in reflections.items():
            self._says(path, data, ends=path in ("/in-garbage", "/cut-off"))
            answer = sidecar.ask(path)
            expected = 502 if path.startswith(("/in-bad", "/in-garbage", "/in-switch")) else int(data.split(b" ")[1])
            if path == "/in-bad-chunk":
                self.attack("the token in a bad chunk", "no whole answer", answer, not answer.is_whole)
                continue
            if path == "/in-interim":
                expected = 200
            self.attack(f"the token {path[1:].replace('-', ' ')}", str(expected), answer, answer.status == expected)
        answer = sidecar.ask("/in-body")
        self.attack(
            "the control: what the caller got of /in-body", "the reflection", answer, answer.body == stamp.encode()
        )
        sidecar.terminate()
        told = sidecar.stderr
        self.attack(
            "the control: what the log has at trace",
            "each path",
            f"{len(told)} bytes",
            all(path in told for path in reflections) and '"level":"DEBUG"' in told,
        )
        self.attack(
            "the token in the log",
            "nothing of it",
            "",
            self.tokens.issued[0] not in told and self.tokens.issued[0][:16] not in told and spread not in told,
        )

    def test_a_reflected_token_over_http2_goes_into_no_log(self) -> None:
        """The same in the frames of HTTP/2, whose library would tell much of them."""
        fields: list[tuple[str, str]] = [(":status", "200"), ("x-reflected", "")]
        body = bytearray()
        context = PROVIDER.server_context()
        context.set_alpn_protocols(["h2"])
        served = self.opened(Server(lambda talk: http2.serve(talk, fields, bytes(body)), context))
        sidecar = self.sidecar(
            lambda c: (
                c.set("upstream.url", f"https://127.0.0.1:{served.port}")
                .set("upstream.http", "2")
                .set("log.level", "trace")
                .set("log.access", "all")
            )
        )
        stamp = f"Bearer {self.tokens.issued[0]}"
        fields[1] = ("x-reflected", stamp)
        body += stamp.encode()
        answer = sidecar.ask("/over-http2", "Authorization: Bearer callers-own-token-Dw7yP", "Cookie: c=crumb-R5nGa")
        shown = [
            secret
            for secret in (self.tokens.issued[0], "callers-own-token-Dw7yP", "crumb-R5nGa")
            if secret in sidecar.stderr
        ]
        self.attack(
            "the token in a field and a body over HTTP/2",
            "to the caller, and nothing in the log at trace",
            f"{answer}, {len(shown)} shown",
            answer.body == bytes(body)
            and answer.value("x-reflected") == stamp
            and not shown
            and "a request was forwarded" in sidecar.stderr,
        )

    def test_an_answer_is_one_answer_whatever_its_fields_hold(self) -> None:
        """Splitting by bare CR, LF, NUL, folds: 502 or fields of one answer, and the connection serves on rightly."""
        sidecar = self._sidecar()
        inner = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-Split: yes\r\n\r\npoisoned"
        for number, odd in enumerate(
            [
                b"X: a\rX-Split: yes\r\n",
                b"X: a\nX-Other: yes\r\n",
                b"X: a\0b\r\n",
                b"X: a\r\n folded\r\n",
                b"X a: b\r\n",
                b"X: a\x0bb\r\n",
                b": b\r\n",
                b"X\r\n",
                b"X: \xc3\xa9\xff\r\n",
                b"X: %0d%0aX-Split:%20yes\r\n",
                b"X : b\r\n",
                b"Content-Length: 2\r\nContent-Length: 99\r\n",
                b"Content-Length: 2, 99\r\n",
                b"Transfer-Encoding: gzip\r\n",
                b"Transfer-Encoding: gzip, chunked\r\n",
                b"Transfer-Encoding: chunked, chunked\r\n",
                b"X: a\r\n\r\n" + inner.encode() + b"\r\n",
            ]
        ):
            path = f"/split/{number}"
            self._says(
                path,
                _HEAD + odd + (b"" if b"Length" in odd or b"Transfer" in odd else b"Content-Length: 2\r\n") + b"\r\nok",
                ends=True,
            )
            with Caller(sidecar.port) as caller:
                caller.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                answer = caller.answer()
                names = [name.lower() for name, _ in answer.fields]
                caller.send(b"GET /after HTTP/1.1\r\nHost: localhost\r\n\r\n")
                after = caller.answer()
            is_own = after.status == 0 or b'"target": "/after"' in after.body
            is_one = answer.status in (200, 502) and "x-split" not in names and is_own
            self.attack(
                f"an answer with {odd[:60]!r}", "one answer, and the next one right", f"{answer}, then {after}", is_one
            )
        self._serves_on(sidecar, "answers that split")

    def test_bytes_behind_an_answer_are_never_another_caller_s_answer(self) -> None:
        """A second answer that nobody asked for, at once or late: dropped with its connection."""
        sidecar = self._sidecar()
        poison = ok(b'{"target": "poison"}')
        poison_was_sent: list[bool] = []
        self._says("/twice", ok(b"first") + poison)
        self._says("/short", _HEAD + b"Content-Length: 2\r\n\r\nokmore than it said" + poison)
        self._says("/head", _HEAD + b"Content-Length: 20\r\n\r\n" + b'{"target": "poison"}')
        self._says("/none", b"HTTP/1.1 204 No Content\r\n\r\n" + poison)
        self._says(
            "/not-modified", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 20\r\n\r\n" + b'{"target": "poison"}'
        )

        def late(conversation: Conversation, _request: Request) -> bool:
            conversation.send(ok(b"first"))
            # Once the caller has its answer and the connection is in the pool.
            time.sleep(0.2)
            conversation.send(poison)
            poison_was_sent.append(True)
            return True

        self.api.answers["/late"] = late
        for path, method in [
            ("/twice", "GET"),
            ("/short", "GET"),
            ("/late", "GET"),
            ("/head", "HEAD"),
            ("/none", "GET"),
            ("/not-modified", "GET"),
        ]:
            first = sidecar.ask(path, method=method)
            if path == "/late":
                wait_for("the second answer to be sent", lambda: poison_was_sent)
            answers = [sidecar.ask("/next") for _ in range(4)]
            right = [b'"target": "/next"' in answer.body for answer in answers]
            self.attack(
                f"more than one answer to {method} {path}",
                "the next callers get their own",
                f"{first}, then {[str(answer) for answer in answers]}",
                first.status != 0 and all(right),
            )

    def test_heads_without_measure_are_given_up(self) -> None:
        """10,000 fields, endless heads and interim answers, silence, drips: 502 or 504 in time, in bounded memory."""
        sidecar = self._sidecar()
        self._says("/fields", _HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n")
        self._says("/large", _HEAD + b"X: " + b"y" * 2_000_000 + b"\r\n\r\n")

        def endless(data: bytes, pause: float = 0.0) -> Answer:
            def answer(conversation: Conversation, _request: Request) -> bool:
                conversation.send(b"" if data.startswith(b"HTTP") else _HEAD)
                while True:
                    conversation.send(data)
                    time.sleep(pause)

            return answer

        self.api.answers |= {
            "/endless-head": endless(b"X-Filler: " + b"y" * 60_000 + b"\r\n"),
            "/endless-field": endless(b"X: " + b"y" * 65_536),
            "/endless-1xx": endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000),
            "/endless-103": endless(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 2_000),
            "/dripping-head": endless(b"X: y\r\n", 0.05),
            "/silence": endless(b"", 0.05),
        }
        for path in ["/fields", "/large", *[path for path in self.api.answers if path.startswith(("/e", "/d", "/s"))]]:
            start = time.monotonic()
            answer = sidecar.ask(path)
            took = time.monotonic() - start
            self.attack(
                f"an API with {path[1:]}",
                "502 or 504 within the time-out of 2 s and a bit",
                f"{answer} after {took:.1f} s",
                answer.status in (502, 504) and took < 8,
            )
        self._serves_on(sidecar, "heads without measure")

    def test_others_are_served_while_an_api_sends_interim_answers_without_end(self) -> None:
        """One request that is flooded with 1xx does not hold up the thread for the others."""
        sidecar = self.sidecar(lambda c: c.set("upstream.response_timeout", "3s"))

        def flood(conversation: Conversation, _request: Request) -> bool:
            conversation.send_for_ever(b"HTTP/1.1 102 Processing\r\n\r\n" * 2_000)
            return False

        self.api.answers["/flooded"] = flood
        with Caller(sidecar.port) as caller:
            caller.send(b"GET /flooded HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for("the flood", lambda: self.api.to("/flooded"))
            slowest = 0.0
            for _ in range(20):
                start = time.monotonic()
                answer = sidecar.ask("/other")
                slowest = max(slowest, time.monotonic() - start)
                if answer.status != 200:
                    break
            self.attack(
                "20 requests beside a flood of 1xx",
                "all served, each within 2 s",
                f"{answer}, the slowest {slowest:.2f} s",
                answer.status == 200 and slowest < 2,
            )

    def test_bodies_pass_in_bounded_memory_and_lies_about_them_show(self) -> None:
        """A bomb passes as it is; a body that is cut looks cut; one without an end can be left."""
        sidecar = self._sidecar()
        bomb = gzip_bomb()
        self._says("/bomb", ok(bomb, "Content-Encoding: gzip"))
        answer = sidecar.ask("/bomb", "Accept-Encoding: gzip")
        self.attack(
            f"a gzip bomb of 1 GiB in {len(bomb)} bytes",
            "passed byte for byte, not inflated",
            f"{answer}, {len(answer.body)} bytes",
            answer.body == bomb and answer.value("content-encoding") == "gzip",
        )

        def endless(conversation: Conversation, _request: Request) -> bool:
            conversation.send(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            conversation.send_for_ever(b"10000\r\n" + bytes(65_536) + b"\r\n")
            return False

        self.api.answers["/endless"] = endless
        with Caller(sidecar.port) as caller:
            caller.send(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            count = 0
            while count < 50 * _MEBIBYTE and (data := caller.stream.recv(_MEBIBYTE)):
                count += len(data)
        self.attack(
            "a body without an end",
            "streamed for as long as the caller reads",
            f"{count >> 20} MiB",
            count >= 50 * _MEBIBYTE,
        )
        for path, data in {
            "/longer": _HEAD + b"Content-Length: 5000\r\n\r\nshort",
            "/chunks-cut": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "/chunk-cut": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n50\r\nhello",
            "/chunk-garbage": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX\r\n0\r\n\r\n",
            "/chunk-overflow": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
        }.items():
            self._says(path, data, ends=True)
            answer = sidecar.ask(path)
            self.attack(
                f"an answer that is {path[1:]}",
                "cut off for the caller too, never whole",
                answer,
                answer.status == 502 or not answer.is_whole,
            )
        self._serves_on(sidecar, "bodies")

    def test_what_is_no_http_1_1_answer_is_502(self) -> None:
        """HTTP/0.9, TLS alerts, HTTP/2 unasked, a switch that nobody asked for, status lines that are none."""
        sidecar = self._sidecar()
        for number, data in enumerate(
            [
                b"<html>HTTP/0.9</html>\r\n",
                b"\x15\x03\x03\x00\x02\x02\x28",
                http2.frame(http2.SETTINGS, 0, 0, b""),
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nframes",
                b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
                b"HTTP/1.1\r\n\r\n",
                b"HTTP/1.1 2000 OK\r\n\r\n",
                b"HTTP/1.1 -20 OK\r\n\r\n",
                b"HTTP/1.1 abc OK\r\n\r\n",
                b"HTTP/9.9 200 OK\r\n\r\n",
                b"HTTP/1.1 099 OK\r\n\r\n",
                b"ICY 200 OK\r\n\r\n",
                b"SSH-2.0-OpenSSH\r\n",
                b"\0" * 100,
                b"",
            ]
        ):
            path = f"/odd/{number}"
            self._says(path, data, ends=True)
            # What may have been acted on is not sent again, so that each attempt is seen once.
            answer = sidecar.ask(path, method="POST", body=b"x")
            self.attack(
                f"the answer {data[:50]!r}",
                "502 upstream_broken",
                answer,
                answer.status == 502 and answer.reason == "upstream_broken",
            )
        self._serves_on(sidecar, "what is no HTTP")

    def test_a_switch_that_was_asked_for_is_only_to_what_was_asked_for(self) -> None:
        """A caller that asks for a WebSocket, an API that switches to something else: 502."""
        sidecar = self._sidecar()
        for upgrade in ["h2c", "tls/1.0", "websocket2", "websocket, h2c", ""]:
            self._says(
                "/switch", f"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: {upgrade}\r\n\r\nframes".encode(), True
            )
            answer = sidecar.ask("/switch", "Connection: upgrade", "Upgrade: websocket")
            self.attack(f"a switch to `{upgrade}`", "502", answer, answer.status == 502)

    def test_redirects_are_passed_on_and_not_followed(self) -> None:
        """The caller gets 30x as it is; the host that it names sees nothing; no answer brings the token there."""
        sidecar = self._sidecar()
        elsewhere = self.opened(Api(PROVIDER.server_context()))
        plain = self.opened(Api())
        for status in ["300 X", "301 X", "302 X", "303 X", "305 X", "307 X", "308 X", "401 X", "511 X"]:
            for url in [elsewhere.url, plain.url]:
                fields = [f"Location: {url}/x", f"Refresh: 0;url={url}/x", f'Alt-Svc: h2="{url[8:]}"', f"Link: <{url}>"]
                body = b'{"code":1}'
                self._says("/redirect", ok(body, *fields, status=status))
                answer = sidecar.ask("/redirect")
                self.attack(
                    f"{status[:3]} to {url}",
                    "passed on",
                    answer,
                    answer.status == int(status[:3]) and answer.value("location") == f"{url}/x" and answer.body == body,
                )
        came = elsewhere.connections + plain.connections
        self.attack("the hosts that were named", "no connection", f"{came} connections", came == 0)

    def test_cookies_are_the_caller_s_and_fields_of_the_connection_end_here(self) -> None:
        """Set-Cookie passes and is not kept; what `Connection` names, and framing, stays on that side."""
        sidecar = self._sidecar()
        self._says("/cookie", ok(b"x", "Set-Cookie: hostile=1; Path=/", "Set-Cookie: other=2"))
        answer = sidecar.ask("/cookie")
        cookies = [value for name, value in answer.fields if name.lower() == "set-cookie"]
        sidecar.ask("/without")
        sent = self.api.to("/without")[0].values("cookie")
        self.attack(
            "Set-Cookie",
            "to the caller, and not back to the API by itself",
            f"{cookies}, then {sent}",
            len(cookies) == 2 and not sent,
        )
        self._says(
            "/connection",
            ok(
                b"hello",
                "Connection: X-Inner, Content-Length, Content-Type, close",
                "X-Inner: 1",
                "Content-Type: text/x",
                "Keep-Alive: timeout=9",
                "Proxy-Connection: x",
                "Upgrade: h2c",
                "Proxy-Authenticate: Basic",
                "Trailer: Host",
            ),
        )
        answer = sidecar.ask("/connection")
        names = {name.lower() for name, _ in answer.fields}
        left = names & {"x-inner", "content-type", "keep-alive", "proxy-connection", "upgrade", "proxy-authenticate"}
        self.attack(
            "Connection that names fields",
            "they end here, and the body is whole",
            f"{answer}, {left} left",
            not left and answer.body == b"hello" and answer.is_whole,
        )

    def test_no_answer_of_the_api_passes_for_the_sidecar_s_own(self) -> None:
        """`X-Token-Valet-Error` tells an operator who has answered, so that it does not come from the API."""
        sidecar = self._sidecar()
        self._says("/impersonates", ok(b"x", "X-Token-Valet-Error: forbidden", status="403 X"))
        answer = sidecar.ask("/impersonates")
        self.attack(
            "an API that uses the sidecar's own field",
            "nobody takes its answer for the sidecar's",
            f"{answer.reason}",
            answer.reason is None,
        )

    def test_a_rejection_without_end_costs_no_storm(self) -> None:
        """401 with a slow, endless or enormous body: passed on or given up, and at most two more token requests."""
        sidecar = self._sidecar()

        def endless(conversation: Conversation, _request: Request) -> bool:
            conversation.send(b"HTTP/1.1 401 X\r\nTransfer-Encoding: chunked\r\n\r\n")
            conversation.send_for_ever(b"10000\r\n" + b" " * 65_536 + b"\r\n")
            return False

        self.api.answers["/endless-401"] = endless
        self._says("/deep-401", ok(b'{"a":' + b"[" * 1_000_000, status="401 X"))
        for path in ["/endless-401", "/deep-401"]:
            with Caller(sidecar.port) as caller:
                caller.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                caller.stream.settimeout(10)
                data = caller.stream.recv(65_536)
            self.attack(f"an API with {path[1:]}", "passed on as 401", data[:20], data.startswith(b"HTTP/1.1 401"))
        count = len(self.tokens.exchanges)
        self.attack("the token requests that it cost", "three in all at most", count, count <= 3)
        self._serves_on(sidecar, "rejections")

    def test_no_caller_of_a_hostile_api_brings_it_the_client_s_secret(self) -> None:
        """Whatever it answers, the API has the token and never the client's secret."""
        tokens = self.opened(TokenEndpoint(PROVIDER.server_context()))
        sidecar = self.sidecar(lambda c: c.set("token.url", tokens.url))
        challenge = ok(
            b"",
            "WWW-Authenticate: Basic realm=x",
            f"WWW-Authenticate: Bearer authorization_uri={self.api.url}",
            status="401 X",
        )
        self._says("/challenge", challenge)
        answer = sidecar.ask("/challenge")
        told = CLIENT_SECRET.encode() in self.api.received or b"Basic " in self.api.received
        self.attack("a challenge for Basic", "passed on, and no secret sent", answer, answer.status == 401 and not told)
