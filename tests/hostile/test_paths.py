"""Paths that are to slip past `upstream.allow`, or out of the path of `upstream.url`."""

from __future__ import annotations

import http2
from caller import send
from neighbour import Neighbour

_ALLOWED = "GET /api/fdx/5/**"
_PREFIX = "/tenant-a/v1"

#: Spellings of a way from below `{here}` up to `/api/v1/revoke`, or of another path that a server may make of it.
_WAYS_OUT = [
    "{here}/../../v1/revoke",
    "{here}/..",
    "{here}/.",
    "{here}/./accounts",
    "{here}/accounts/..",
    "{here}/%2e%2e/%2e%2e/v1/revoke",
    "{here}/%2E%2E/%2E%2E/v1/revoke",
    "{here}/.%2e/.%2E/v1/revoke",
    "{here}/%2e./%2e./v1/revoke",
    "{here}/%2e",
    "{here}/..%2f..%2fv1%2frevoke",
    "{here}/..%2F..%2Fv1%2Frevoke",
    "{here}/%2e%2e%2f%2e%2e%2fv1%2frevoke",
    "{here}/..%5c..%5cv1%5crevoke",
    "{here}/..%5C..%5Cv1%5Crevoke",
    "{here}/..\\..\\v1\\revoke",
    "{here}\\..\\..\\v1\\revoke",
    "{here}/%5c%2e%2e",
    "{here}/..;/..;/v1/revoke",
    "{here}/..;x=1/..;x=1/v1/revoke",
    "{here}/;/../../v1/revoke",
    "{here}/..%3b/..%3B/v1/revoke",
    "{here}/accounts;jsessionid=1",
    "{here}//accounts",
    "{here}//../../v1/revoke",
    "/{here}/accounts",
    "{here}/%2f/accounts",
    "{here}/%252e%252e/%252e%252e/v1/revoke",
    "{here}/%25%32%65%25%32%65/v1/revoke",
    "{here}/%%32%65%%32%65/v1/revoke",
    "{here}/%61ccounts",
    "{here}/%41",
    "{here}/%7Euser",
    "{here}/%2D%5F",
    "{here}/accounts%00/../../v1/revoke",
    "{here}/accounts%00",
    "{here}/%00%2e%2e",
    "{here}/%",
    "{here}/%2",
    "{here}/%zz",
    "{here}/%u002e%u002e/v1/revoke",
    "{here}/%uff0e%uff0e/v1/revoke",
]

#: Overlong UTF-8 of `.`, `/` and `\`, which RFC 3629 section 3 forbids and lenient decoders read.
_OVERLONG = [
    "{here}/%c0%ae%c0%ae/%c0%ae%c0%ae/v1/revoke",
    "{here}/%C0%AE%C0%AE%C0%AF%C0%AE%C0%AE%C0%AFv1%C0%AFrevoke",
    "{here}/..%c0%af..%c0%afv1%c0%afrevoke",
    "{here}/..%c1%9c..%c1%9cv1",
    "{here}/%e0%80%ae%e0%80%ae/v1/revoke",
    "{here}/..%e0%80%afv1",
    "{here}/%f0%80%80%ae%f0%80%80%ae/v1/revoke",
    "{here}/%c0%2e%c0%2e/v1/revoke",
]


class Paths(Neighbour):
    """An application that may read accounts, and wants to revoke a connection."""

    def test_no_spelling_of_a_path_slips_past_the_rules(self) -> None:
        """With `upstream.allow`: every ambiguous or foreign path is 403, and the API sees none of them."""
        sidecar = self.sidecar(lambda c: c.set("upstream.allow", [_ALLOWED]))
        here = "/api/fdx/5"
        others = [
            "/",
            "/api",
            "/api/v1/revoke",
            "/api/fdx/5",
            "/api/fdx/50/accounts",
            "/API/FDX/5/accounts",
            "/api/FDX/5/accounts",
            "/api/fdx/5%2faccounts",
            "/api%2ffdx/5/accounts",
            "/%61pi/fdx/5/accounts",
            "/api/fdx/%35/accounts",
            "/api/v1/revoke?/api/fdx/5/accounts",
            "/api/v1/revoke?x=/../../fdx/5/accounts",
            "/api/v1/revoke%3f/api/fdx/5/accounts",
            "/api/v1/revoke%23/api/fdx/5/accounts",
            "/api/fdx/5?/accounts",
            "/x/../api/fdx/5/accounts",
            "/api/v1/revoke;/api/fdx/5/accounts",
            "*",
        ]
        for target in [way.format(here=here) for way in _WAYS_OUT] + others:
            self.refused(f"GET {target}", sidecar.ask(target), 400, 403)
        for target in [f"{here}/accounts", f"{here}/accounts/4%202/x%C3%A9", f"{here}/accounts?next=/../;//%2e%5c"]:
            seen = len(self.api.requests)
            answer = sidecar.ask(target)
            came = [request.target for request in self.api.requests[seen:]]
            self.attack(
                f"the control: GET {target}",
                "forwarded byte for byte",
                f"{answer}, {came} at the API",
                answer.status == 200 and came == [target],
            )

    def test_overlong_utf8_is_no_way_round_the_rules(self) -> None:
        """What some decoders read as a dot or a slash is refused as any other ambiguous path."""
        sidecar = self.sidecar(lambda c: c.set("upstream.allow", [_ALLOWED]))
        for way in _OVERLONG:
            target, seen = way.format(here="/api/fdx/5"), len(self.api.requests)
            self.refused(f"GET {target}", sidecar.ask(target), 400, 403, seen=seen)

    def test_raw_bytes_that_no_target_may_have_are_refused(self) -> None:
        """NUL, line ends, spaces, controls and bytes that are no UTF-8, unescaped: 400 or 403."""
        sidecar = self.sidecar(lambda c: c.set("upstream.allow", [_ALLOWED]))
        for odd in [
            b"\0",
            b"\r",
            b"\n",
            b" ",
            b"\t",
            b"\x0b",
            b"\x1b",
            b"\x7f",
            b"\xc0\xae\xc0\xae",
            b"\xff",
            b"\x80",
            b"\xe0\x80\xae",
            b"..\xc0\xaf..",
        ]:
            raw = b"GET /api/fdx/5/accounts" + odd + b"/revoke HTTP/1.1\r\nHost: localhost\r\n\r\n"
            self.refused(f"GET with {odd!r} in its path", send(sidecar.port, raw), 400, 403)

    def test_no_field_takes_the_place_of_the_method_or_the_path(self) -> None:
        """What frameworks read instead of the request line is refused, or kept from the API."""
        sidecar = self.sidecar(lambda c: c.set("upstream.allow", [_ALLOWED]))
        for field in [
            "X-HTTP-Method-Override: DELETE",
            "X-HTTP-Method: DELETE",
            "X-Method-Override: DELETE",
            "X-Original-URL: /api/v1/revoke",
            "X-Rewrite-URL: /api/v1/revoke",
        ]:
            seen = len(self.api.requests)
            answer = sidecar.ask("/api/fdx/5/accounts", field)
            came = [one.values(field.partition(":")[0]) for one in self.api.requests[seen:]]
            self.attack(
                f"an allowed request with {field}",
                "refused, or without that field at the API",
                f"{answer}, {came} at the API",
                answer.status in (400, 403) or came == [[]],
            )

    def test_methods_are_compared_as_they_are_and_absolute_targets_by_their_path(self) -> None:
        """Other methods, in whatever case, are refused; so is a foreign path behind this host's own authority."""
        sidecar = self.sidecar(lambda c: c.set("upstream.allow", [_ALLOWED]))
        for method in [
            "get",
            "Get",
            "POST",
            "DELETE",
            "HEAD",
            "PUT",
            "PATCH",
            "OPTIONS",
            "GETS",
            "PROPFIND",
            "G%45T",
            "GET,DELETE",
            "TRACE",
            "CONNECT",
        ]:
            answer = sidecar.ask("/api/fdx/5/accounts", method=method)
            self.refused(f"{method} /api/fdx/5/accounts", answer, 400, 403, 405)
        for target in [
            "http://localhost/api/v1/revoke",
            "http://localhost/api/fdx/5/../../v1/revoke",
            "http://localhost",
            "http://localhost?/api/fdx/5/accounts",
            "http://localhost#/api/fdx/5/accounts",
            "HTTP://LOCALHOST/api/v1/revoke",
            "http:///api/fdx/5/accounts",
            "http:/api/fdx/5/accounts",
            "http://localhost\\/api/fdx/5/accounts",
            "/api/v1/revoke#/api/fdx/5/accounts",
            "api/fdx/5/accounts",
        ]:
            self.refused(f"GET {target}", sidecar.ask(target), 400, 403)
        answer = sidecar.ask("http://localhost/api/fdx/5/accounts")
        came = [request.target for request in self.api.requests]
        self.attack(
            "the control: an absolute target that is allowed",
            "forwarded by its path alone",
            f"{answer}, {came} at the API",
            answer.status == 200 and came == ["/api/fdx/5/accounts"],
        )

    def test_no_spelling_of_a_path_leaves_the_prefix_of_the_api(self) -> None:
        """With a path in `upstream.url`, a request cannot get to a path beside it."""
        sidecar = self.sidecar(lambda c: c.set("upstream.url", self.api.url + _PREFIX))
        for way in [*_WAYS_OUT, "{here}/../../../tenant-b/v1"]:
            target = way.format(here="/api")
            self.refused(f"GET {target} below {_PREFIX}", sidecar.ask(target), 400, 403)
        for target in ["..", "../tenant-b", "@evil.example/", "http://localhost:1@evil.example/"]:
            self.refused(f"GET {target} below {_PREFIX}", sidecar.ask(target), 400, 403)
        answer = sidecar.ask("/accounts")
        self.attack(
            "the control: GET /accounts",
            f"forwarded as {_PREFIX}/accounts",
            answer,
            answer.status == 200 and len(self.api.to(f"{_PREFIX}/accounts")) == 1,
        )

    def test_an_asterisk_is_not_the_way_to_the_server_as_a_whole(self) -> None:
        """`*` is a target of OPTIONS alone (RFC 9112 section 3.2.4), and not below a path: 400 or 403."""
        sidecar = self.sidecar(lambda c: c.set("upstream.url", self.api.url + _PREFIX))
        for method in ["GET", "POST", "OPTIONS"]:
            seen = len(self.api.requests)
            self.refused(f"{method} * below {_PREFIX}", sidecar.ask("*", method=method), 400, 403, seen=seen)

    def test_overlong_utf8_does_not_leave_the_prefix_of_the_api(self) -> None:
        """The same below a path in `upstream.url`."""
        sidecar = self.sidecar(lambda c: c.set("upstream.url", self.api.url + _PREFIX))
        for way in _OVERLONG:
            target, seen = way.format(here="/api"), len(self.api.requests)
            self.refused(f"GET {target} below {_PREFIX}", sidecar.ask(target), 400, 403, seen=seen)

    def test_the_rules_hold_over_http2(self) -> None:
        """The same rules for `:path` and `:method`."""
        sidecar = self.sidecar(lambda c: c.set("upstream.allow", [_ALLOWED]))
        for method, path in [
            ("GET", "/api/v1/revoke"),
            ("DELETE", "/api/fdx/5/accounts"),
            ("GET", "/api/fdx/5/%2e%2e/%2e%2e/v1/revoke"),
            ("GET", "/api/fdx/5/../../v1/revoke"),
            ("GET", "/api/fdx/5//accounts"),
            ("GET", "/api/fdx/5/..\\..\\v1"),
            ("GET", "api/fdx/5/accounts"),
            ("GET", ""),
            ("GET", "*"),
            ("GET", "http://localhost/api/fdx/5/accounts"),
            ("GET", "/api/fdx/5/accounts\r\nX-Injected: 1"),
            ("GET", "/api/fdx/5/a HTTP/1.1\r\nHost: evil"),
            ("get", "/api/fdx/5/accounts"),
            ("GET /x HTTP/1.1\r\n", "/api/fdx/5/accounts"),
        ]:
            fields = [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path)]
            self.refused(f"HTTP/2 {method} {path}", http2.ask(sidecar.port, fields), 400, 403, 405, 0)
