"""Requests hidden in requests: whatever is sent here, the API gets what was counted, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import http2
from api import ok
from caller import Answer, Caller
from neighbour import PROVIDER, Neighbour
from server import Conversation, Request, Server
from sidecar import Sidecar, wait_for

_HOST = b"Host: localhost\r\n"
#: What must never be a request of its own at the API.
_HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\nX: "


@dataclass(frozen=True)
class Attempt:
    """Bytes that hide something, and how many of them may get through to the API, as what."""

    tried: str
    raw: bytes
    #: The bodies of the requests that the API may get.
    bodies: tuple[bytes, ...] = ()


def post(tried: str, fields: bytes, body: bytes = b"", *bodies: bytes) -> Attempt:
    """A request that begins well."""
    return Attempt(tried, b"POST /counted HTTP/1.1\r\n" + _HOST + fields + b"\r\n" + body, bodies)


_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_REFUSED = [
    # Lengths.
    post("two different lengths", b"Content-Length: 5\r\nContent-Length: 50\r\n", b"hello" + _HIDDEN),
    post("a list of lengths", b"Content-Length: 5, 5\r\n", b"hello"),
    post("a length with a sign", b"Content-Length: +5\r\n", b"hello"),
    post("a negative length", b"Content-Length: -5\r\n", b"hello"),
    post("a hexadecimal length", b"Content-Length: 0x5\r\n", b"hello"),
    post("a length with a fraction", b"Content-Length: 5.0\r\n", b"hello"),
    post("a length of two words", b"Content-Length: 5 6\r\n", b"hello"),
    post("an empty length", b"Content-Length:\r\n", b"hello"),
    post("a length over 64 bits", b"Content-Length: 18446744073709551621\r\n", b"hello" + _HIDDEN),
    post("a length with a vertical tab", b"Content-Length: \x0b5\r\n", b"hello"),
    post("a length behind a folded line", b"Content-Length:\r\n 5\r\n", b"hello"),
    post("a space before the colon", b"Content-Length : 5\r\n", b"hello"),
    # Codings.
    post("a coding beside chunked", b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("chunked twice", b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("two codings", _CHUNKED + b"Transfer-Encoding: identity\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("chunked in two fields", _CHUNKED + _CHUNKED, b"0\r\n\r\n" + _HIDDEN),
    post("identity", b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", b"hello"),
    post("chunked, then identity", b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("xchunked with a length", b"Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n", b"hello"),
    post("chunkedx", b"Transfer-Encoding: chunkedx\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("a quoted coding", b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n" + _HIDDEN),
    post("a coding with a parameter", b"Transfer-Encoding: chunked;q=1\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("a coding with a vertical tab", b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("a coding with a NUL", b"Transfer-Encoding: chunked\0\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("a coding on a folded line", b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("a coding, its name before a space", b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("a coding behind a bare CR", b"X: y\rTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + _HIDDEN),
    post("an empty coding with a length", b"Transfer-Encoding:\r\nContent-Length: 5\r\n", b"hello"),
    Attempt("chunks in HTTP/1.0", b"POST /counted HTTP/1.0\r\n" + _HOST + _CHUNKED + b"\r\n0\r\n\r\n" + _HIDDEN),
    # Chunks.
    post("a size over 64 bits", _CHUNKED, b"10000000000000005\r\nhello\r\n0\r\n\r\n" + _HIDDEN),
    post("a size of many digits", _CHUNKED, b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n" + _HIDDEN),
    post("a negative size", _CHUNKED, b"-1\r\nhello\r\n0\r\n\r\n" + _HIDDEN),
    post("a size with a sign", _CHUNKED, b"+5\r\nhello\r\n0\r\n\r\n" + _HIDDEN),
    post("a size with 0x", _CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n" + _HIDDEN),
    post("an empty size", _CHUNKED, b"\r\nhello\r\n0\r\n\r\n" + _HIDDEN),
    post("a size of two words", _CHUNKED, b"5 5\r\nhello\r\n0\r\n\r\n" + _HIDDEN),
    post("a size that ends with LF", _CHUNKED, b"5\nhello\r\n0\r\n\r\n" + _HIDDEN),
    post("a size that ends with CR", _CHUNKED, b"5\rhello\r\n0\r\n\r\n" + _HIDDEN),
    post("an extension with a LF", _CHUNKED, b"5;a\nhello\r\n0\r\n\r\n" + _HIDDEN),
    post("an extension with a CR", _CHUNKED, b"5;a\rb\r\nhello\r\n0\r\n\r\n" + _HIDDEN),
    post("a quoted line end in an extension", _CHUNKED, b'5;a="\nb"\r\nhello\r\n0\r\n\r\n' + _HIDDEN),
    post("an extension without an end", _CHUNKED, b"5;" + b"a" * 200_000),
    post("data longer than its size", _CHUNKED, b"5\r\nhello you\r\n0\r\n\r\n" + _HIDDEN),
    post("data that ends with LF", _CHUNKED, b"5\r\nhello\n0\r\n\r\n" + _HIDDEN),
    post("data without an end", _CHUNKED, b"5\r\nhello0\r\n\r\n" + _HIDDEN),
    # Heads.
    post("a folded line", b"X: a\r\n Transfer-Encoding: chunked\r\n", b""),
    post("a line that begins with a tab", b"X: a\r\n\tContent-Length: 5\r\n", b""),
    post("a bare CR in a value", b"X: a\rX-Injected: b\r\n", b""),
    post("a CR, CR, LF", b"X: a\r\r\nX-Injected: b\r\n", b""),
    post("a NUL in a value", b"X: a\0b\r\n", b""),
    post("a control character in a value", b"X: a\x01b\r\n", b""),
    post("a NUL in a name", b"X\0: a\r\n", b""),
    post("a line without a colon", b"Injected\r\n", b""),
    post("a line without a name", b": a\r\n", b""),
    post("a name with a space", b"X Y: a\r\n", b""),
    post("a name beyond ASCII", b"X\xc3\xa9: a\r\n", b""),
    Attempt("a space before the first field", b"GET /counted HTTP/1.1\r\n " + _HOST + b"X: y\r\n\r\n"),
    Attempt("a version of its own", b"GET /counted HTTP/1.2\r\n" + _HOST + b"\r\n"),
    Attempt("HTTP/2.0 in words", b"GET /counted HTTP/2.0\r\n" + _HOST + b"\r\n"),
    Attempt("HTTP/0.9", b"GET /counted\r\n\r\n"),
    Attempt("four words", b"GET /counted HTTP/1.1 HTTP/1.1\r\n" + _HOST + b"\r\n"),
    Attempt("two spaces", b"GET  /counted HTTP/1.1\r\n" + _HOST + b"\r\n"),
    Attempt("a tab for a space", b"GET\t/counted\tHTTP/1.1\r\n" + _HOST + b"\r\n"),
    Attempt("a CR in the method", b"G\rET /counted HTTP/1.1\r\n" + _HOST + b"\r\n"),
    Attempt("a method with a colon", b"Host: /counted HTTP/1.1\r\n" + _HOST + b"\r\n"),
    Attempt(
        "a second request line as a field", b"GET /counted HTTP/1.1\r\nGET /smuggled HTTP/1.1\r\n" + _HOST + b"\r\n"
    ),
]

#: What may be served as what it says to a strict reader: RFC 9112 leaves no doubt where it ends.
_SERVED = [
    post("a request as a body", b"Content-Length: 44\r\n", _HIDDEN[:44].ljust(44), _HIDDEN[:44].ljust(44)),
    # RFC 9110 section 8.6: one takes the place of both.
    post("the same length twice", b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello", b"hello"),
    post("a length with zeros in front", b"Content-Length: 0005\r\n", b"hello", b"hello"),
    post(
        "chunked beside a length, which chunked overrides",
        _CHUNKED + b"Content-Length: 60\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    post("a length beside chunked", b"Content-Length: 3\r\n" + _CHUNKED, b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    post("CHUNKED in capitals", b"tRANSFER-eNCODING: CHUNKED\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    post("chunked behind a tab", b"Transfer-Encoding:\tchunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    post("an extension that is one", _CHUNKED, b"5;a=b\r\nhello\r\n0\r\n\r\n", b"hello"),
    post(
        "trailers that are no fields of a request",
        _CHUNKED,
        b"5\r\nhello\r\n0\r\nContent-Length: 50\r\nHost: evil\r\nTransfer-Encoding: x\r\nAuthorization: Bearer x\r\n"
        b"Connection: close\r\nUpgrade: h2c\r\nTE: trailers\r\n\r\n",
        b"hello",
    ),
    post(
        "the same trailers, announced",
        _CHUNKED + b"TE: trailers\r\nTrailer: Content-Length, Host, Transfer-Encoding, Authorization, Connection\r\n",
        b"5\r\nhello\r\n0\r\nContent-Length: 50\r\nHost: evil\r\nTransfer-Encoding: x\r\nAuthorization: Bearer x\r\n"
        b"Connection: close\r\n\r\n",
        b"hello",
    ),
    post(
        "Connection that names the length", b"Connection: Content-Length\r\nContent-Length: 5\r\n", b"hello", b"hello"
    ),
    post(
        "Connection that names the coding",
        b"Connection: Transfer-Encoding\r\n" + _CHUNKED,
        b"5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    post(
        "Connection that names Host and Authorization",
        b"Connection: Host, Authorization, close\r\nContent-Length: 5\r\n",
        b"hello",
        b"hello",
    ),
    post("a name like a framing field's", b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", b"hello", b"hello"),
    Attempt(
        "two requests in one packet",
        b"GET /counted HTTP/1.1\r\n" + _HOST + b"\r\n" + b"GET /counted HTTP/1.1\r\n" + _HOST + b"\r\n",
        (b"", b""),
    ),
    Attempt(
        "a body and a request in one packet",
        b"POST /counted HTTP/1.1\r\n"
        + _HOST
        + b"Content-Length: 5\r\n\r\n"
        + b"helloGET /counted HTTP/1.1\r\n"
        + _HOST
        + b"\r\n",
        (b"hello", b""),
    ),
    Attempt(
        "lines that end with LF", b"POST /counted HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello", (b"hello",)
    ),
    Attempt(
        "an offer of h2c",
        b"POST /counted HTTP/1.1\r\n" + _HOST + b"Connection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 5\r\n\r\nhello",
        (b"hello",),
    ),
]


class Smuggling(Neighbour):
    """A caller that hides a request, before an API that counts and reads strictly."""

    def _try(self, sidecar: Sidecar, attempt: Attempt) -> tuple[list[Answer], list[bytes], bool]:
        """Gives the answers, the bodies of the API's requests, and whether the API understood them all."""
        before, garbled = len(self.api.requests), len(self.api.garbled)
        answers: list[Answer] = []
        with Caller(sidecar.port) as caller:
            caller.send(attempt.raw)
            caller.say_no_more()
            while (answer := caller.answer()).status:
                answers.append(answer)
        came = self.api.requests[before:]
        is_clear = len(self.api.garbled) == garbled and all(
            one.target == "/counted" and not one.trailers for one in came
        )
        token = f"Bearer {self.tokens.issued[-1]}"
        is_stamped = all(one.values("authorization") == [token] and len(one.values("host")) == 1 for one in came)
        return answers, [one.body for one in came], is_clear and is_stamped

    def test_heads_and_bodies_that_servers_read_differently_are_refused(self) -> None:
        """400, the connection closed, and nothing of it a whole request at the API."""
        sidecar = self.sidecar(lambda c: c.set("listen.half_close", True).set("upstream.idle_body_timeout", "2s"))
        for attempt in _REFUSED:
            begun = len(self.api.requests)
            answers, bodies, _ = self._try(sidecar, attempt)
            statuses = [answer.status for answer in answers]
            holds = statuses == [400] and not bodies and len(self.api.requests) == begun
            self.attack(
                attempt.tried, "400 alone, and no request at the API", f"{statuses}, {len(bodies)} at the API", holds
            )
        self._nothing_was_smuggled()

    def test_what_is_served_is_framed_anew_and_ends_where_it_says(self) -> None:
        """The API gets exactly the requests that a strict reader counts, each with one token and one Host."""
        sidecar = self.sidecar(lambda c: c.set("listen.half_close", True))
        for attempt in _SERVED:
            answers, bodies, is_sound = self._try(sidecar, attempt)
            statuses = [answer.status for answer in answers]
            holds = statuses == [200] * len(attempt.bodies) and tuple(bodies) == attempt.bodies and is_sound
            self.attack(
                attempt.tried,
                f"{len(attempt.bodies)} at the API, with its own framing and the token",
                f"{statuses}, {bodies} at the API",
                holds,
            )
        self._nothing_was_smuggled()

    def test_a_length_beside_chunks_ends_the_connection(self) -> None:
        """RFC 9112 section 6.3: chunked wins, and what follows on the connection is not served."""
        sidecar = self.sidecar(lambda c: c.set("listen.half_close", True))
        hidden = b"GET /smuggled HTTP/1.1\r\n" + _HOST + b"\r\n"
        attempt = post(
            "a request behind chunks beside a length",
            _CHUNKED + b"Content-Length: 60\r\n",
            b"5\r\nhello\r\n0\r\n\r\n" + hidden,
        )
        answers, _, _ = self._try(sidecar, attempt)
        targets = [request.target for request in self.api.requests]
        self.attack(
            attempt.tried,
            "one answer, then the end",
            f"{[a.status for a in answers]}, {targets} at the API",
            len(answers) == 1 and targets in (["/counted"], []),
        )

    def test_what_is_left_of_an_upload_is_never_the_next_request(self) -> None:
        """The API answers before it has the body: the rest of that body is no request."""

        def early(conversation: Conversation) -> None:
            # At the head alone, as a server does that refuses an upload; the rest is taken and kept.
            while b"\r\n\r\n" not in conversation.received:
                conversation.received += conversation.stream.recv(1)
            conversation.send(ok(b"early"))
            conversation.wait_for_the_end()

        api = self.opened(Server(early, PROVIDER.server_context()))
        sidecar = self.sidecar(
            lambda c: c.set("listen.half_close", True).set("upstream.url", f"https://127.0.0.1:{api.port}")
        )
        hidden = b"GET /smuggled HTTP/1.1\r\n" + _HOST + b"\r\n"
        length = str(len(hidden) * 100).encode()
        with Caller(sidecar.port) as caller:
            caller.send(b"POST /early HTTP/1.1\r\n" + _HOST + b"Content-Length: " + length + b"\r\n\r\n" + hidden)
            answer = caller.answer()
            caller.send(hidden * 99)
            caller.say_no_more()
            rest = caller.rest()
        stamps = api.received.lower().count(b"authorization: bearer")
        self.attack(
            "a body of a hundred requests, answered at its head",
            "one answer, and one request with the token",
            f"{answer}, then {len(rest)} bytes, {stamps} with the token",
            answer.status == 200 and not rest and stamps == 1,
        )

    def test_no_upgrade_hides_requests_in_a_tunnel(self) -> None:
        """HTTP/2 and TLS are not upgraded to, in whatever spelling: the API is not asked, its 101 is not believed."""
        sidecar = self.sidecar()

        def grants(conversation: Conversation, request: Request) -> bool:
            asked = ", ".join(request.values("upgrade")) or "h2c"
            conversation.send(f"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: {asked}\r\n\r\n".encode())
            conversation.wait_for_the_end()
            return False

        self.api.answers["/tunnel"] = grants
        hidden = b"GET /smuggled HTTP/1.1\r\n" + _HOST + b"\r\n"
        for fields in [
            ["Upgrade: h2c"],
            ["Upgrade: H2C"],
            ["Upgrade: h2c, websocket"],
            ["Upgrade: websocket, h2c"],
            ["Upgrade: websocket", "Upgrade: h2c"],
            ["Upgrade: h2"],
            ["Upgrade: HTTP/2.0"],
            ["Upgrade: HTTP/1.1"],
            ["Upgrade: TLS/1.2"],
            ["Upgrade: ,h2c"],
            ["Upgrade: h2c/1"],
            ["Upgrade:\th2c"],
        ]:
            seen = len(self.api.requests)
            lines = ["GET /tunnel HTTP/1.1", "Host: localhost", "Connection: Upgrade", *fields]
            with Caller(sidecar.port) as caller:
                caller.send("\r\n".join(lines).encode() + b"\r\n\r\n")
                answer = caller.answer()
                if answer.status == 101:
                    caller.send(hidden)
                asked = [one.values("upgrade") for one in self.api.requests[seen:]]
            self.attack(
                "; ".join(fields), "no tunnel", f"{answer}, the API was asked for {asked}", answer.status != 101
            )

    def test_a_request_that_breaks_off_leaves_nothing_for_the_next_caller(self) -> None:
        """A caller that goes in the middle of its body: the next caller's request is its own, and so is its answer."""
        sidecar = self.sidecar()
        for path, fields, body in [
            (b"/length", b"Content-Length: 500\r\n", _HIDDEN),
            (b"/chunk", _CHUNKED, b"50\r\n" + _HIDDEN),
        ]:
            with Caller(sidecar.port) as caller:
                caller.send(b"POST " + path + b" HTTP/1.1\r\n" + _HOST + fields + b"\r\n" + body)
                wait_for("the API to see the beginning", partial(self._has_begun, b"POST " + path))
            answer = sidecar.ask("/next")
            self.attack(
                f"a caller that goes after {body[:20]!r}",
                "the next caller gets its own answer",
                answer.body.decode(),
                b'"/next"' in answer.body,
            )
        self._nothing_was_smuggled()

    def test_frames_of_http2_become_no_fields_of_http1(self) -> None:
        """Line ends in fields, framing fields, a body beyond its length: reset or 400, and nothing injected."""
        sidecar = self.sidecar()
        own = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/counted")]
        for tried, fields in {
            "CR LF in a value": [*own, ("x", "a\r\nx-injected: 1")],
            "LF in a value": [*own, ("x", "a\nx-injected: 1")],
            "NUL in a value": [*own, ("x", "a\0b")],
            "CR LF in a name": [*own, ("x: 1\r\nx-injected", "1")],
            "a colon in a name": [*own, ("x-injected: 1", "1")],
            "a name in capitals": [*own, ("X-Injected", "1")],
            "Transfer-Encoding": [*own, ("transfer-encoding", "chunked")],
            "Connection": [*own, ("connection", "keep-alive")],
            "a length without a body": [*own, ("content-length", "50")],
            "two lengths": [*own, ("content-length", "0"), ("content-length", "5")],
            "a method of two words": [(":method", "GET /smuggled HTTP/1.1"), *own[1:]],
            "a late pseudo field": [*own[:3], ("x", "y"), (":path", "/smuggled")],
            "an unknown pseudo field": [*own, (":x-injected", "1")],
        }.items():
            seen = len(self.api.requests)
            answer = http2.ask(sidecar.port, fields)
            came = [one for one in self.api.requests[seen:] if one.values("x-injected") or one.target != "/counted"]
            self.attack(
                f"HTTP/2 with {tried}",
                "reset or refused",
                f"{answer}, {len(came)} injected",
                answer.status in (0, 400) and not came,
            )
        self._nothing_was_smuggled()

    def _has_begun(self, line: bytes) -> bool:
        return line in self.api.received

    def _nothing_was_smuggled(self) -> None:
        hidden = [one.target for one in self.api.requests if "smuggled" in one.target or one.values("x-injected")]
        self.attack("what the API has seen in all", "no hidden request, no injected field", hidden, not hidden)
