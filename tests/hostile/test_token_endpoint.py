"""A token endpoint that answers with malice: no token of its goes out damaged, nothing is followed, nothing grows."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping

from api import ok
from caller import Answer
from neighbour import CLIENT_SECRET, PROVIDER, Neighbour
from server import Conversation, Request, Server
from sidecar import Sidecar, wait_for
from token_endpoint import TokenEndpoint

#: More than a sidecar ever needs to read 64 KiB, and far less than any of the bombs. In MiB.
_MOST_MEMORY = 48
_HOSTILE = "hostile-token-Zk3vQ"
_JSON = "Content-Type: application/json"

Malice = Callable[[Conversation, Request], None] | bytes


def granted(token: str, rest: str = "") -> bytes:
    """An answer whose `access_token` is this JSON."""
    return ok(f'{{"access_token":{token},"token_type":"Bearer","expires_in":299{rest}}}'.encode(), _JSON)


def quoted(token: str) -> bytes:
    return granted(json.dumps(token))


def bomb(window: int) -> bytes:
    """A gibibyte of spaces and a token behind them, compressed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, window)
    mebibyte = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return mebibyte + again * 1_023 + packer.compress(b'{"access_token":"x"}') + packer.flush()


class Endpoint(Neighbour):
    """One sidecar for each kind of malice, all at once; each kind has a path of its own."""

    def _meet(self, answers: Mapping[str, Malice]) -> dict[str, Sidecar]:
        """Starts a sidecar for each answer, and waits until each has met it and says so."""
        sidecars: dict[str, Sidecar] = {}
        for number, (tried, answer) in enumerate(answers.items()):
            path = f"/malice/{number}"
            if isinstance(answer, bytes):
                data = answer

                def send(conversation: Conversation, _request: Request, data: bytes = data) -> None:
                    conversation.send(data)

                self.tokens.answers[path] = send
            else:
                self.tokens.answers[path] = answer
            configuration = self.configuration().set("token.url", self.tokens.at(path)).set("token.timeout", "1s")
            sidecars[tried] = self.running(configuration.set("log.level", "trace"))
        return sidecars

    def _is_refused(self, tried: str, sidecar: Sidecar, expected: str) -> None:
        """It has said why, its callers get 503, and its memory is small."""
        line = wait_for(
            f"the log to tell of {tried}", lambda: sidecar.logged("the access token could not be refreshed")
        )[0]
        answer: Answer = sidecar.ask("/probe")
        memory = sidecar.peak_memory
        told = str(line.get("error"))
        holds = (
            answer.status in (502, 503)
            and expected in told
            and memory < _MOST_MEMORY
            and _HOSTILE not in sidecar.stderr
            and not self.api.requests
        )
        self.attack(
            tried,
            f"the log says `{expected}`, callers 503, below {_MOST_MEMORY} MiB",
            f"{told}; {answer}; {memory} MiB",
            holds,
        )

    def _all_heal(self, sidecars: dict[str, Sidecar]) -> None:
        """Once the endpoint answers well, every one of them serves, with a token that was granted."""
        self.tokens.answers.clear()
        for tried, sidecar in sidecars.items():
            sidecar.wait_for_a_token()
            answer = sidecar.ask("/healed")
            self.attack(f"after {tried}", "served once the endpoint answers well", answer, answer.status == 200)
        stamps = {value for one in self.api.requests for value in one.values("authorization")}
        odd = stamps - {f"Bearer {token}" for token in self.tokens.issued}
        self.attack("the tokens that the API saw", "only those of good answers", f"{len(odd)} others", not odd)
        self.assertEqual({one.target for one in self.api.requests}, {"/healed"})

    def test_a_token_that_is_none_is_never_sent(self) -> None:
        """Line ends, controls, other types, other kinds, no token at all: refused, and healed by a good answer."""
        forged = '\\u001b[31m\\r\\n{\\"level\\":\\"ERROR\\"}'
        error = f'{{"error":"invalid_client\\r\\nX-Injected: 1","error_description":"{forged}"}}'
        cases = {
            "CR LF in the token": (quoted(f"{_HOSTILE}\r\nX-Injected: yes"), "characters"),
            "LF in the token": (quoted(f"{_HOSTILE}\nX-Injected: yes"), "characters"),
            "CR in the token": (quoted(f"{_HOSTILE}\rX-Injected: yes"), "characters"),
            "NUL in the token": (quoted(f"{_HOSTILE}\0"), "characters"),
            "DEL in the token": (quoted(f"{_HOSTILE}\x7f"), "characters"),
            "a request in the token": (quoted(f"{_HOSTILE}\r\n\r\nDELETE /api/v1/revoke HTTP/1.1\r\n"), "characters"),
            "a token beyond ASCII": (quoted(f"{_HOSTILE}\u00e9\u4e2d"), "characters"),
            "a token beyond the first plane": (quoted(f"{_HOSTILE}\U0001f600"), "not with a token response"),
            "a lone surrogate as the token": (granted('"\\ud800"'), "not with a token response"),
            "an empty token": (quoted(""), "not with a token response"),
            "a number as the token": (granted("7"), "not with a token response"),
            "true as the token": (granted("true"), "not with a token response"),
            "null as the token": (granted("null"), "not with a token response"),
            "a list as the token": (granted(f'["{_HOSTILE}"]'), "not with a token response"),
            "a token of 1 MB": (quoted(_HOSTILE + "x" * 1_000_000), "64 KiB"),
            "the token twice": (granted(f'"{_HOSTILE}","access_token":"{_HOSTILE}"'), "not with a token response"),
            "another token type": (granted(f'"{_HOSTILE}"').replace(b"Bearer", b"DPoPxx"), "not Bearer"),
            "a token type with a line end": (granted(f'"{_HOSTILE}"').replace(b"Bearer", b"Bear\\n"), "not Bearer"),
            "a number as token type": (
                ok(f'{{"access_token":"{_HOSTILE}","token_type":7}}'.encode()),
                "token response",
            ),
            "a token beside an error": (granted(f'"{_HOSTILE}"', ',"error":"server_error"'), "server_error"),
            "a token at status 500": (granted(f'"{_HOSTILE}"').replace(b"200 OK", b"500 No"), "status 500"),
            "a token at status 201": (granted(f'"{_HOSTILE}"').replace(b"200 OK", b"201 OK"), "status 201"),
            "an error that forges a log line": (ok(error.encode(), status="503 No"), "refuses: `other`"),
            "a list of tokens": (ok(f'[{{"access_token":"{_HOSTILE}"}}]'.encode()), "not with a token response"),
            "JSON 100,000 deep": (ok(b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}"), "not with a token response"),
            "objects 100,000 deep": (ok(b'{"a":' * 100_000), "64 KiB"),
            "what is no UTF-8": (ok(b'{"access_token":"\xff\xfe"}'), "not with a token response"),
            "HTML": (ok(b"<html>hello</html>", "Content-Type: text/html"), "not with a token response"),
        }
        sidecars = self._meet({tried: answer for tried, (answer, _) in cases.items()})
        for tried, (_, expected) in cases.items():
            self._is_refused(tried, sidecars[tried], expected)
        raw = [s for s in sidecars.values() if any(c in s.stderr for c in "\x1b\x00")]
        lines = [line for s in sidecars.values() for line in s.stderr.splitlines() if not line.startswith("{")]
        self.attack(
            "what was logged of all that",
            "no raw control character, no forged line",
            f"{len(raw)} {lines}",
            not raw and not lines,
        )
        self._all_heal(sidecars)

    def test_an_answer_without_measure_is_given_up(self) -> None:
        """Bombs, endless bodies and heads, slow drips: within the time-out, in bounded memory, and healed."""
        head = b"HTTP/1.1 200 OK\r\n"

        def endless_chunks(conversation: Conversation, _request: Request) -> None:
            conversation.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
            conversation.send_for_ever(b"10000\r\n" + b" " * 65_536 + b"\r\n")

        def endless_to_the_end(conversation: Conversation, _request: Request) -> None:
            conversation.send(head + b"\r\n")
            conversation.send_for_ever(b" " * 65_536)

        def a_hundred_megabytes(conversation: Conversation, _request: Request) -> None:
            conversation.send(head + b"Content-Length: 100000000\r\n\r\n")
            conversation.send_for_ever(b" " * 65_536)

        def half(conversation: Conversation, _request: Request) -> None:
            conversation.send(head + b"Content-Length: 100000000\r\n\r\n{")
            conversation.wait_for_the_end()

        def drip(conversation: Conversation, _request: Request) -> None:
            conversation.send(head + b"Content-Length: 1000\r\n\r\n")
            while True:
                conversation.send(b" ")
                time.sleep(0.05)

        def slow_head(conversation: Conversation, _request: Request) -> None:
            conversation.send(head)
            while True:
                conversation.send(b"X: y\r\n")
                time.sleep(0.05)

        def endless_head(conversation: Conversation, _request: Request) -> None:
            conversation.send(head)
            conversation.send_for_ever(b"X-Filler: " + b"y" * 60_000 + b"\r\n")

        def one_endless_field(conversation: Conversation, _request: Request) -> None:
            conversation.send(head + b"X: ")
            conversation.send_for_ever(b"y" * 65_536)

        def interim(conversation: Conversation, _request: Request) -> None:
            conversation.send_for_ever(b"HTTP/1.1 102 Processing\r\n\r\n" * 1_000)

        def silent(conversation: Conversation, _request: Request) -> None:
            conversation.wait_for_the_end()

        fields = b"".join(b"X-%d: y\r\n" % number for number in range(10_000))
        cases: dict[str, tuple[Malice, str]] = {
            "a gzip bomb of 1 GiB": (ok(bomb(31), _JSON, "Content-Encoding: gzip"), ""),
            "a deflate bomb of 1 GiB": (ok(bomb(15), _JSON, "Content-Encoding: deflate"), ""),
            "endless chunks": (endless_chunks, "64 KiB"),
            "an endless body": (endless_to_the_end, "64 KiB"),
            "a body of 100 MB": (a_hundred_megabytes, "64 KiB"),
            "100 MB announced, one byte sent": (half, "in time"),
            "a slow drip": (drip, "in time"),
            "a slow head": (slow_head, "in time"),
            "an endless head": (endless_head, "broke"),
            "an endless field": (one_endless_field, "broke"),
            "10,000 fields": (head + fields + b"\r\n", "broke"),
            "endless interim answers": (interim, "in time"),
            "silence": (silent, "in time"),
            "HTTP/0.9": (b'{"access_token":"x","token_type":"Bearer"}', "broke"),
            "a switch of protocols": (
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
                "",
            ),
            "a length that is none": (head + b"Content-Length: -1\r\n\r\n{}", "broke"),
            "two lengths": (head + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", "broke"),
            "a chunk without measure": (head + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "broke"),
        }
        sidecars = self._meet({tried: answer for tried, (answer, _) in cases.items()})
        for tried, (_, expected) in cases.items():
            self._is_refused(tried, sidecars[tried], expected)
        self._all_heal(sidecars)

    def test_a_redirect_leads_nowhere(self) -> None:
        """301 to 308 with a Location at another host: not followed, and that host sees no connection at all."""
        elsewhere = self.opened(TokenEndpoint(PROVIDER.server_context()))
        plain = self.opened(Server(lambda conversation: conversation.wait_for_the_end()))
        cases = {}
        for status in ["301", "302", "303", "307", "308", "300", "305"]:
            for location in [
                elsewhere.url,
                f"http://127.0.0.1:{plain.port}/token",
                f"//127.0.0.1:{elsewhere.port}/token",
                "/token",
            ]:
                cases[f"{status} to {location}"] = ok(b"", f"Location: {location}", status=f"{status} Elsewhere")
        for field in ["Refresh: 0; url=", "Link: ", "Content-Location: ", "Alt-Svc: h2="]:
            cases[f"a 503 with {field}"] = ok(b"", f"{field}{elsewhere.url}", status="503 Elsewhere")
        sidecars = self._meet(cases)
        for tried, sidecar in sidecars.items():
            self._is_refused(tried, sidecar, "status")
        came = elsewhere.connections + plain.connections
        self.attack("the hosts that the redirects name", "no connection", f"{came} connections", came == 0)
        strays = [one.target for one in self.tokens.exchanges if one.target == "/token"]
        self.attack("the path that a redirect of the same host names", "no request", strays, not strays)
        for sidecar in sidecars.values():
            # A redirect is for the operator to look at, and tried again later; another secret is tried at once.
            sidecar.configuration.set_file("token.client_secret_file", "another-secret")
        self._all_heal(sidecars)

    def test_a_life_that_is_nonsense_is_neither_eternal_nor_a_storm(self) -> None:
        """Odd `expires_in`: the token serves, and there is no second exchange at once."""
        lives = [
            "-1",
            "0",
            "0.1",
            "1e400",
            "1e308",
            "-1e308",
            "9223372036854775808",
            "184467440737095516160",
            "null",
            '"299"',
            '"-1"',
            '"NaN"',
            '"Infinity"',
            "true",
            "[]",
            "{}",
            '"' + "9" * 1_000 + '"',
            '"\\r\\nX: y"',
        ]
        sidecars: dict[str, tuple[str, Sidecar]] = {}
        for number, life in enumerate(lives):
            path = f"/life/{number}"
            data = ok(f'{{"access_token":"life-{number}","token_type":"bEARER","expires_in":{life}}}'.encode(), _JSON)

            def send(conversation: Conversation, _request: Request, data: bytes = data) -> None:
                conversation.send(data)

            self.tokens.answers[path] = send
            sidecars[life] = path, self.running(self.configuration().set("token.url", self.tokens.at(path)))
        for number, (life, (path, sidecar)) in enumerate(sidecars.items()):
            sidecar.wait_for_a_token()
            answer = sidecar.ask(f"/life-{number}")
            stamp = [one.values("authorization") for one in self.api.to(f"/life-{number}")]
            self.attack(
                f"expires_in {life[:40]}",
                "served with that token",
                f"{answer}, {self.tokens.to(path)} exchanges",
                answer.status == 200 and stamp == [[f"Bearer life-{number}"]],
            )
        time.sleep(1.5)
        storms = {life: self.tokens.to(path) for life, (path, _) in sidecars.items() if self.tokens.to(path) > 1}
        self.attack("all of them after a while", "no second exchange", storms, not storms)

    def test_a_refresh_token_with_line_ends_is_stored_and_sent_encoded(self) -> None:
        """What the endpoint grants as refresh token is data: it ends no line of the next exchange or the state file."""
        hostile = f'{_HOSTILE}\r\nX-Injected: yes\r\n\r\n"}}{{'
        self.tokens.refresh_token, self.tokens.lifetime = hostile, 2
        configuration = self.configuration().set("token.grant", "refresh_token")
        configuration.set_file("token.refresh_token_file", "first-refresh-token")
        state = configuration.directory / "state.json"
        sidecar = self.running(configuration.set("token.state_file", str(state)))
        wait_for("a second exchange", lambda: len(self.tokens.exchanges) >= 2)
        presented = json.loads(self.tokens.exchanges[1].body)["refresh_token"]
        lines = state.read_bytes().splitlines()
        mode = state.stat().st_mode & 0o777
        self.attack(
            "a refresh token with line ends",
            "sent as it was, in one JSON field",
            f"{len(lines)} lines of state, mode {mode:o}",
            presented == hostile
            and not self.tokens.garbled
            and mode == 0o600
            and b"\nX-Injected" not in self.tokens.received
            and _HOSTILE not in sidecar.stderr,
        )

    def test_the_secret_went_to_the_endpoint_alone(self) -> None:
        """The control of this file: the endpoint is told the secret, and the API is not."""
        sidecar = self.sidecar()
        sidecar.ask("/control")
        self.assertIn(b"Basic ", self.tokens.received)
        self.attack(
            "the control: what the API is told of the client",
            "nothing",
            "",
            CLIENT_SECRET.encode() not in self.api.received
            and b"Basic " not in self.api.received
            and f"Bearer {self.tokens.issued[0]}".encode() in self.api.received,
        )
