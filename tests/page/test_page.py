"""The status page as people see it: in a browser, while the sidecar's luck changes."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, ClassVar

from api import ok
from browser import Browser, Tab, wait_for
from caller import ask
from neighbour import Neighbour
from server import Conversation, Request
from sidecar import Configuration, Sidecar

_LEGIBLE = (Path(__file__).parent / "legible.js").read_text()
_DESK, _PHONE = 1000, 360
#: Lives so long that a test sees it in its middle age, and so short that it sees its end.
_LIFE = 5
_COUNT_LOOKS = "looks = 0; own = fetch; fetch = (...all) => { looks += 1; return own(...all) }; 0"


class StatusPage(Neighbour):
    """One browser for all tests; a tab, a provider and a sidecar for each."""

    shots: ClassVar[Path | None] = None
    browser: ClassVar[Browser]

    @classmethod
    def setUpClass(cls) -> None:
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def setUp(self) -> None:
        super().setUp()
        self.tab = Tab(self.browser)
        self.addCleanup(self.tab.close)
        self.tab.emulate(_DESK)
        self.tokens.lifetime = _LIFE
        self.claims = {"sub": "customer-7", "client_id": "neighbour", "scope": "accounts"}
        self.tokens.answers["/token"] = self._grant

    def test_a_healthy_sidecar_tells_its_state_its_token_and_its_work(self) -> None:
        configuration = Configuration(self.directory / "sandbox")
        for key, value in {
            "listen.address": "127.0.0.1:0",
            "admin.address": "127.0.0.1:0",
            "token.grant": "authorization_code",
            "token.client_id": "sandbox-recipient",
            "log.format": "json",
            "sandbox.token_life": f"{_LIFE}s",
        }.items():
            configuration.set(key, value)
        sidecar = Sidecar(configuration, "sandbox")
        self.addCleanup(sidecar.kill)
        with sidecar:
            sidecar.wait_for_a_token()
            for path in ["/api/fdx/5/accounts", "/sandbox/status/500"]:
                sidecar.ask(path)
            self._open(sidecar)
            self._wait_for_state("serving")
            told = self._status(sidecar)["claims"]
            self.assertEqual(set(told), {"sub", "client_id"})
            for name, claim in told.items():
                self.assertIn(f"{name}\n{claim}", self.tab.text)
            self.assertRegex(self.tab.text, r"expires in \d s")
            self.assertRegex(self.tab.text, r"\d+ tokens? and 0 failures in \d+ s")
            self.assertIn("2 requests, 1 error", self.tab.text)
            pictures = [f"document.querySelectorAll('svg rect.{name}').length" for name in ["life", "requests", "errors"]]
            self.assertNotIn(0, [self.tab.value(picture) for picture in pictures])
            wait_for("another token", lambda: self.tab.value(pictures[0]) >= 2)
            self._look("healthy")
            self._assert_quiet(sidecar)

    def test_it_counts_down_and_takes_the_next_token_up_without_being_loaded_anew(self) -> None:
        sidecar = self._opened(self.configuration())
        for name, claim in self.claims.items():
            self.assertIn(f"{name}\n{claim}", self.tab.text)
        seen: list[int] = []

        def has_counted() -> bool:
            left = self.tab.value("parseInt(document.getElementById('left')?.textContent)")
            if left is None:
                # For a moment there may be no token.
                return False
            if not seen or left != seen[-1]:
                seen.append(left)
            # Down by single seconds, then up again: that is another token.
            downs = sum(before - after == 1 for before, after in zip(seen, seen[1:]))
            return downs >= 2 and any(after > before + 1 for before, after in zip(seen, seen[1:]))

        wait_for("a countdown and another token", has_counted)
        first = self._generation()
        wait_for("the next one", lambda: self._generation() > first)
        self._assert_quiet(sidecar)

    def test_a_provider_that_is_down_is_told_of_and_its_return_too(self) -> None:
        self.tokens.lifetime = 299
        sidecar = self._opened(self.configuration())
        self.tokens.answers["/token"] = self._fails
        self._ask_for_a_refresh(sidecar)
        self._wait_for_state("degraded")
        self.assertIn("the present one serves until it expires", self.tab.text)
        self.tokens.lifetime = _LIFE
        self.tokens.answers["/token"] = self._grant
        self._wait_for_state("serving")
        self.tokens.answers["/token"] = self._fails
        self._wait_for_state("unavailable")
        self.assertIn("it heals by itself once the provider gives one", self.tab.text)
        self.assertRegex(self.tab.text, r"Last error, \d+ s ago\n+the token endpoint answered with status 503")
        self.assertIn("none that is valid", self.tab.text)
        self.assertNotIn("provider's words", self.tab.text)
        self.assertGreater(self.tab.value("document.querySelectorAll('svg circle.failure').length"), 0)
        self._look("provider-down")
        self.tokens.answers["/token"] = self._grant
        self._wait_for_state("serving")
        self._assert_quiet(sidecar)

    def test_a_consent_that_is_gone_asks_for_another_authorization(self) -> None:
        configuration = self.configuration().set("token.grant", "authorization_code")
        configuration.set_file("token.code_file", "a-code").set("token.redirect_uri", "https://app.example/back")
        configuration.set("token.state_file", str(configuration.directory / "state.json"))
        self.tokens.refresh_token = "a-refresh-token"
        sidecar = self._opened(configuration)
        self.tokens.answers["/token"] = self._refuses
        # It takes the provider's word for it the second time only.
        for times in [1, 2]:
            self._ask_for_a_refresh(sidecar)
            wait_for("a failure", lambda: self._status(sidecar)["consecutive_failures"] >= times)
        self._wait_for_state("reauthorize")
        self.assertIn("have the user authorize again", self.tab.text)
        self.assertIn("`invalid_grant`", self.tab.text)
        self.assertRegex(self.tab.text, r"Look at .*token\.code_file")
        self.assertNotIn("provider's words", self.tab.text)
        self._look("consent-gone")
        self._assert_quiet(sidecar)

    def test_a_sidecar_that_is_gone_is_told_of_and_its_return_too(self) -> None:
        sidecar = self._opened(self.configuration())
        sidecar.terminate()
        self._wait_for_state("no answer")
        wait_for("an age", lambda: re.search(r"What is below is [1-9]\d* s old", self.tab.text))
        self.assertIn("expires in", self.tab.text)
        self.assertEqual(self.tab.value("document.title"), "no answer - token-valet")
        self._look("sidecar-gone")
        host, port = sidecar.admin
        self.running(self.configuration().set("admin.address", f"{host}:{port}"))
        self._wait_for_state("serving")
        self._assert_asks_the_sidecar_alone(sidecar)

    def test_without_scripts_it_shows_the_same_and_loads_itself_anew(self) -> None:
        sidecar = self.sidecar()
        self.tab.call("Emulation.setScriptExecutionDisabled", value=True)
        self.tab.call("Page.navigate", url=self._url(sidecar))
        text = wait_for("the page", lambda: self.tab.text)
        self.assertRegex(text, r"(?s)^serving\n.*expires in \d+ s\n.*\nsub\ncustomer-7\n")
        wait_for("another look", lambda: self.tab.requests.count(self._url(sidecar)) >= 2)
        self._assert_quiet(sidecar)

    def test_markup_in_a_claim_is_shown_as_text(self) -> None:
        markup = "<img src=/x onerror=document.title='owned'></dd><script>document.title='owned'</script>"
        self.claims["sub"] = markup
        sidecar = self._opened(self.configuration())
        self.assertIn(markup, self.tab.text)
        self._wait_for_looks(1)
        self.assertIn(markup, self.tab.text)
        self.assertEqual(self.tab.value("document.querySelectorAll('img, main script').length"), 0)
        self.assertEqual(self.tab.value("document.title"), "serving - token-valet")
        self._assert_quiet(sidecar)

    def test_what_somebody_selects_stays(self) -> None:
        sidecar = self._opened(self.configuration())
        self.tab.value("getSelection().selectAllChildren(document.querySelector('dl')); 0")
        first = self._generation()
        self._ask_for_a_refresh(sidecar)
        wait_for("the next token", lambda: self._status(sidecar)["generation"] > first)
        self._wait_for_looks(1)
        self.assertIn("customer-7", self.tab.value("String(getSelection())"))
        self.assertEqual(self._generation(), first)
        self.tab.value("getSelection().removeAllRanges()")
        wait_for("the next token", lambda: self._generation() > first)

    def test_the_policy_stops_what_is_not_the_page_s_own(self) -> None:
        """The control of what the others do not find: each of these is stopped, and is noticed."""
        self._opened(self.configuration())
        for tried in [
            "document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.1:1/x' }))",
            "fetch('http://127.0.0.1:1/x').catch(() => {})",
            "document.body.append(Object.assign(document.createElement('script'), { text: 'window.owned = 1' }))",
            "document.body.append(Object.assign(document.createElement('style'), { textContent: 'p { color: red }' }))",
        ]:
            before = len(self.tab.complaints)
            self.tab.value(f"{tried}; 0")
            wait_for("a complaint", lambda: len(self.tab.complaints) > before)
        self.assertIsNone(self.tab.value("window.owned"))
        self.tab.value("document.querySelector('dt').style.color = '#777'; document.body.style.width = '2000px'")
        self.assertEqual(len(self.tab.value(_LEGIBLE)["found"]), 1)
        self.assertFalse(self.tab.value("document.documentElement.scrollWidth <= innerWidth"))

    def _opened(self, configuration: Configuration) -> Sidecar:
        """A sidecar with a token, and its page in the tab."""
        sidecar = self.running(configuration)
        sidecar.wait_for_a_token()
        self._open(sidecar)
        return sidecar

    def _open(self, sidecar: Sidecar) -> None:
        self.tab.open(self._url(sidecar))
        # Gone once the page is loaded anew.
        self.tab.value("window.mark = 1")

    def _ask_for_a_refresh(self, sidecar: Sidecar) -> None:
        self.assertEqual(ask(sidecar.admin, "/refresh", method="POST").status, 202)

    @staticmethod
    def _status(sidecar: Sidecar) -> dict[str, Any]:
        """What it says of its token."""
        return dict(json.loads(ask(sidecar.admin, "/status").body)["token"])

    @staticmethod
    def _url(sidecar: Sidecar) -> str:
        host, port = sidecar.admin
        return f"http://{host}:{port}/"

    def _wait_for_state(self, state: str) -> None:
        """Waits until the page says so, by itself."""
        wait_for(f"{state} on the page", lambda: self.tab.value("document.querySelector('h1').textContent") == state)
        self.assertEqual(self.tab.value("window.mark"), 1, "the page was loaded anew")

    def _wait_for_looks(self, more: int) -> None:
        """Waits until the page has shown what came after this."""
        self.tab.value(_COUNT_LOOKS)
        # Of the last one, it is only known that it was begun.
        wait_for("more looks", lambda: self.tab.value("window.looks") > more)

    def _generation(self) -> int:
        found = re.search(r"generation\n(\d+)", self.tab.text)
        assert found is not None, self.tab.text
        return int(found[1])

    def _look(self, name: str) -> None:
        """In both schemes of colours, at a desk and on a phone: all text can be read, and all of it is there."""
        for scheme in ["light", "dark"]:
            for width in [_DESK, _PHONE]:
                with self.subTest(name, scheme=scheme, width=width):
                    self.tab.emulate(width, scheme)
                    if self.shots is not None:
                        self.tab.shoot(self.shots / f"{name}-{scheme}-{width}.png")
                    told = self.tab.value(_LEGIBLE)
                    self.assertEqual(told["found"], [])
                    self.assertGreater(told["seen"], 10)
                    wide = self.tab.value("[document.documentElement.scrollWidth, innerWidth]")
                    self.assertLessEqual(wide[0], wide[1])
                    self.assertEqual(wide[1], width)
        self.tab.emulate(_DESK)

    def _assert_quiet(self, sidecar: Sidecar) -> None:
        """No error, no warning, and nothing that the policy had to stop."""
        self.assertEqual(self.tab.complaints, [])
        self._assert_asks_the_sidecar_alone(sidecar)

    def _assert_asks_the_sidecar_alone(self, sidecar: Sidecar) -> None:
        self.assertEqual(set(self.tab.requests), {self._url(sidecar)})

    def _grant(self, conversation: Conversation, _request: Request) -> None:
        """A token that says what it is for, as Flinks' do."""

        def part(told: object) -> str:
            return base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")

        token = f"{part({'alg': 'none'})}.{part(self.claims)}.{part('signature')}"
        told = {"access_token": token, "token_type": "Bearer", "expires_in": self.tokens.lifetime}
        if self.tokens.refresh_token is not None:
            told["refresh_token"] = self.tokens.refresh_token
        conversation.send(ok(json.dumps(told).encode(), "Content-Type: application/json"))

    @staticmethod
    def _fails(conversation: Conversation, _request: Request) -> None:
        conversation.send(ok(b"<p>provider's words</p>", "Content-Type: text/html", status="503 No"))

    @staticmethod
    def _refuses(conversation: Conversation, _request: Request) -> None:
        told = {"error": "invalid_grant", "error_description": "provider's words"}
        conversation.send(ok(json.dumps(told).encode(), "Content-Type: application/json", status="400 No"))
