"""Line ends and other control characters in everything that can be configured."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tomllib
import urllib.parse
from collections.abc import Iterator
from functools import partial

from neighbour import CLIENT_SECRET, PROVIDER, Neighbour
from server import Request
from sidecar import ROOT, Configuration, Process, binary, wait_for

_PAYLOAD = "X-Injected: yes"
#: What is put into each value, and what is left out of the environment, which cannot have it.
_CONTROLS = {
    "CR LF": f"\r\n{_PAYLOAD}",
    "LF": f"\n{_PAYLOAD}",
    "CR": f"\r{_PAYLOAD}",
    "two line ends": f"\r\n\r\n{_PAYLOAD}",
    "NUL": f"\0{_PAYLOAD}",
    "ESC": f"\x1b[31m{_PAYLOAD}",
    "DEL": f"\x7f{_PAYLOAD}",
    "BEL": "\x07",
    "vertical tab": "\x0b",
    "NEL": f"\x85{_PAYLOAD}",
    "a line end alone": "\n",
    "CR LF alone": "\r\n",
}
_SECRET_VALUE = "a-value-that-no-message-shows-6hYp1"
#: Keys whose value here is not the reference's, which names files and hosts of others.
_OWN_VALUES: dict[str, object] = {
    "listen.require_header": f"X-Valet: {_SECRET_VALUE}",
    "listen.allow_origins": ["http://localhost:3000"],
    "upstream.allow": ["GET /api/fdx/5/**"],
    "sandbox.faults": ["down 10s..25s"],
    # Only where the reference has it.
    "upstream.set_headers": {"X-Set": "value"},
}
#: Keys of one grant alone.
_OF_GRANTS = {
    "client_credentials": ["token.scope"],
    "authorization_code": ["token.code_file", "token.redirect_uri", "token.state_file"],
    "refresh_token": ["token.refresh_token_file", "token.state_file"],
}
_NOT_FOR_ALL = {key for keys in _OF_GRANTS.values() for key in keys}
#: A number with its unit, which becomes a number: white space in it gets nowhere.
_NUMBER = re.compile(r"(down )?\d+[A-Za-z]+(\.\.\d+s)?")
#: Two files of which the second is only looked at when the first is sound: each is poisoned in a place of its own.
_PAIR = ("upstream.client_cert_file", "upstream.client_key_file")


def reference() -> Iterator[tuple[str, object]]:
    """Every key of the reference with the value that it shows: those that are text, lists of text, or tables."""
    table = ""
    for line in (ROOT / "config/token-valet.toml").read_text().splitlines():
        if line.startswith("# A data recipient's"):
            return
        if found := re.fullmatch(r"\[(\w+)\]", line):
            table = found[1]
        elif found := re.fullmatch(r"(?:# )?([a-z_]+) = (\S.*)", line):
            try:
                value = tomllib.loads(f"value = {found[2]}")["value"]
            except tomllib.TOMLDecodeError:
                continue
            if isinstance(value, (str, dict)) or (isinstance(value, list) and not _are_numbers(value)):
                yield f"{table}.{found[1]}", value


def _are_numbers(values: list[object]) -> bool:
    return bool(values) and not isinstance(values[0], str)


def poisoned(value: object, poison: str) -> Iterator[object]:
    """The value with the poison at its end, and in its middle."""
    if isinstance(value, list):
        for entry in poisoned(value[0], poison):
            yield [entry]
    elif isinstance(value, dict):
        name, text = next(iter(value.items()), ("X-Set", "value"))
        yield {name: f"{text}{poison}"}
        yield {f"{name}{poison}": text}
    else:
        text = str(value)
        yield text + poison
        yield text[: len(text) // 2] + poison + text[len(text) // 2 :]


class Injection(Neighbour):
    """A value that was pasted with more than it should have, or that somebody chose with care."""

    def _sound(self, grant: str) -> Configuration:
        """A configuration for a grant in which every key of the reference is set, and without a fault."""
        configuration = self.configuration().set("token.grant", grant)
        for key, value in reference():
            if key in configuration.values or (key in _NOT_FOR_ALL and key not in _OF_GRANTS[grant]):
                continue
            value = _OWN_VALUES.get(key, value)
            if key in _PAIR:
                value = str(PROVIDER.chain if "cert" in key else PROVIDER.key)
            elif key in ("token.code_file", "token.refresh_token_file"):
                configuration.set_file(key, "a-code-or-token")
                continue
            elif key == "token.state_file":
                value = str(configuration.directory / "state.json")
            configuration.set(key, value)
        return configuration

    def test_the_sound_configuration_has_every_key_of_the_reference(self) -> None:
        """The control: without poison there is no fault, and no key of the reference is left out."""
        known = {key for key, _ in reference()}
        tried: set[str] = set()
        for grant in _OF_GRANTS:
            configuration = self._sound(grant)
            tried |= set(configuration.values)
            code, said = check(configuration)
            self.attack(f"the control: {grant} without poison", "exit code 0", f"{code} {said}", code == 0)
        self.attack("the keys that are tried", "all of the reference", sorted(known - tried), not known - tried)

    def test_control_characters_in_a_value_are_a_fault_that_names_its_key(self) -> None:
        """By the file: exit code 78, every key named, no secret and no raw control character in the message."""
        for grant in _OF_GRANTS:
            sound = self._sound(grant)
            for control, poison in _CONTROLS.items():
                for position in range(2):
                    self._poison_all(sound, grant, control, poison, position, by_environment=False)

    def test_control_characters_in_a_variable_are_a_fault_that_names_its_key(self) -> None:
        """By the environment: the same."""
        for grant in _OF_GRANTS:
            sound = self._sound(grant)
            for control, poison in _CONTROLS.items():
                if "\0" in poison:
                    continue
                for position in range(2):
                    self._poison_all(sound, grant, control, poison, position, by_environment=True)

    def _poison_all(
        self, sound: Configuration, grant: str, control: str, poison: str, position: int, by_environment: bool
    ) -> None:
        """Poisons every key but the grant at once: `check` tells every fault in one pass."""
        configuration = self.configuration()
        bad: dict[str, object] = {}
        for key, value in sound.values.items():
            is_text = isinstance(value, (str, dict)) or (
                isinstance(value, list) and value and isinstance(value[0], str)
            )
            if not is_text or key in ("token.grant", _PAIR[position]) or (by_environment and isinstance(value, dict)):
                configuration.set(key, value)
                continue
            bad[key] = list(poisoned(value, poison))[position]
            if by_environment:
                configuration.set(key, value)
                configuration.variable(f"TOKEN_VALET__{key.upper().replace('.', '__')}", text_of(bad[key]))
            else:
                configuration.set(key, bad[key])
        code, said = check(configuration)
        named = {key for key in bad if f"`{key}`" in said}
        shown = [secret for secret in (_SECRET_VALUE, CLIENT_SECRET, "a-code-or-token") if secret in said]
        how = f"{control} in every {'variable' if by_environment else 'key'} of {grant}, place {position + 1}"
        accepted = [
            key
            for key in sorted(set(bad) - named)
            if not self._is_harmless(key, sound.values[key], poison, trims=by_environment and position == 0)
        ]
        self.attack(
            how,
            "exit code 78, each key named, no secret shown",
            f"{code}, {len(named)} keys named, shown: {shown}, not named: {accepted}",
            code == 78 and not shown and not accepted,
        )

    @staticmethod
    def _is_harmless(key: str, value: object, poison: str, trims: bool) -> bool:
        """Whether the value may be accepted with this in it, as it cannot get into a message."""
        if trims and isinstance(value, list) and not poison.strip():
            # White space around an entry of a variable's list goes.
            return True
        if key == "token.state_file":
            # A test of its own.
            return True
        if key == "listen.require_header" and poison[0] == "\x85":
            # In UTF-8 no control character to HTTP, and compared only.
            return True
        # White space around a value, or between a number and its unit.
        return not poison.strip() and (_NUMBER.fullmatch(text_of(value)) is not None or key == "listen.require_header")

    def test_a_message_about_a_file_repeats_no_raw_control_character(self) -> None:
        """A file's name with a line end or an escape sequence forges no line of the message and no colour."""
        for key in [
            "token.client_secret_file",
            "token.code_file",
            "token.ca_file",
            "upstream.ca_file",
            "upstream.client_cert_file",
            "upstream.client_key_file",
            "token.url",
            "upstream.allow",
        ]:
            for control in ["CR LF", "LF", "ESC", "DEL", "NUL", "NEL"]:
                configuration = self._sound("authorization_code")
                configuration.set(key, next(poisoned(configuration.values[key], _CONTROLS[control])))
                code, said = check(configuration)
                raw = sorted({c for c in said if c != "\n" and not c.isprintable()})
                forged = [line for line in said.splitlines() if line.startswith(_PAYLOAD)]
                self.attack(
                    f"{control} in {key}",
                    "78, and no raw control character or forged line in the message",
                    f"{code}, {raw} {forged}",
                    code == 78 and not raw and not forged,
                )

    def test_an_accepted_line_end_behind_a_value_gets_nowhere(self) -> None:
        """What trims its value is run for real: the raw bytes at both servers have no injected line."""
        for key, value in self._sound("client_credentials").values.items():
            is_text = isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str))
            if not is_text:
                continue
            configuration = self.configuration()
            configuration.set(key, next(poisoned(value, "\r\n")))
            if check(configuration)[0] != 0:
                continue
            sidecar = self.running(configuration)
            sidecar.wait_for_a_token()
            answer = sidecar.ask("/api/fdx/5/accounts", f"X-Valet: {_SECRET_VALUE}")
            sidecar.kill()
            self.attack(
                f"running with CR LF behind {key}",
                "served, and both servers read strictly",
                answer,
                answer.status == 200 and not self.api.garbled and not self.tokens.garbled,
            )

    def test_a_state_file_with_a_line_end_in_its_name_gets_nowhere(self) -> None:
        """It is a file's name and nothing else: it is refused at the start with 78, or used as it is."""
        for control, poison in _CONTROLS.items():
            configuration = self._minimal("refresh_token").set_file("token.refresh_token_file", "rt-1")
            name = f"state{poison.replace('/', '')}.json"
            configuration.set("token.state_file", str(configuration.directory / name))
            code, said = check(configuration)
            if code == 78:
                self.attack(f"{control} in the state file's name", "78 and the key", said, "`token.state_file`" in said)
                continue
            if "\0" in poison:
                before = self.tokens.connections
                process = Process(configuration)
                self.addCleanup(process.kill)
                code, came = process.exit_code(), self.tokens.connections - before
                self.attack(
                    "NUL in the state file's name",
                    "78 before anything is sent",
                    f"{code}, {came} connections",
                    code == 78 and came == 0,
                )
                continue
            sidecar = self.running(configuration)
            sidecar.wait_for_a_token()
            sidecar.kill()
            forged = [line for line in sidecar.stderr.splitlines() if not line.startswith("{")]
            self.attack(
                f"{control} in the state file's name",
                "used, and no forged line in the log",
                forged,
                not forged and not self.tokens.garbled,
            )

    def test_line_ends_within_a_secret_are_encoded_on_the_wire(self) -> None:
        """Client secret, code and refresh token with line ends: the endpoint decodes exactly them."""
        secret = f's3cret\r\n{_PAYLOAD}\r\n\r\nGET /smuggled HTTP/1.1\r\n\0\x1b\xe9&client_id=evil","x":"\\'
        for auth in ["basic", "body"]:
            for body in ["json", "form"]:
                for grant, key, name in [
                    ("client_credentials", "token.client_secret_file", "client_secret"),
                    ("authorization_code", "token.code_file", "code"),
                    ("refresh_token", "token.refresh_token_file", "refresh_token"),
                ]:
                    configuration = self._minimal(grant).set("token.client_auth", auth).set("token.body", body)
                    configuration.set_file(key, secret)
                    seen = len(self.tokens.exchanges)
                    sidecar = self.running(configuration)
                    exchange = wait_for("an exchange", partial(self._exchanges_after, seen))[0]
                    sidecar.kill()
                    told = fields_of(exchange)
                    how = f"{name} with line ends, by {auth} and {body}"
                    holds = (
                        told.get(name) == secret
                        and not self.tokens.garbled
                        and not exchange.values("x-injected")
                        and not exchange.values("client_id")
                    )
                    self.attack(how, "decoded as it was, and no field more", sorted(told), holds)
        self.assertNotIn(b"\nX-Injected", self.tokens.received)

    def test_a_secret_of_the_environment_is_encoded_too(self) -> None:
        """`TOKEN_VALET__TOKEN__CLIENT_SECRET` with line ends: the same."""
        secret = f"s3cret\r\n{_PAYLOAD}\r\n"
        configuration = self.configuration().variable("TOKEN_VALET__TOKEN__CLIENT_SECRET", secret)
        self.running(configuration).wait_for_a_token()
        told = fields_of(self.tokens.exchanges[0])
        self.attack(
            "a secret by the environment with line ends",
            "decoded as it was",
            sorted(told),
            told["client_secret"] == secret and b"\nX-Injected" not in self.tokens.received,
        )

    def test_client_id_and_scope_are_encoded_whatever_they_hold(self) -> None:
        """Quotes, ampersands, colons and letters beyond ASCII end no field and begin none."""
        odd = 'a:b&c=d"e\\f g+h%0d%0aX-Injected: i\u20acj'
        for auth in ["basic", "body"]:
            for body in ["json", "form"]:
                configuration = self._minimal("client_credentials").set("token.client_auth", auth)
                configuration.set("token.body", body).set("token.client_id", odd).set("token.scope", odd)
                seen = len(self.tokens.exchanges)
                self.running(configuration).wait_for_a_token()
                exchange = self.tokens.exchanges[seen]
                told = fields_of(exchange)
                self.attack(
                    f"an odd client_id and scope, by {auth} and {body}",
                    "decoded as they were",
                    sorted(told),
                    told["client_id"] == odd == told["scope"] and not exchange.values("x-injected"),
                )

    def _exchanges_after(self, count: int) -> list[Request]:
        return self.tokens.exchanges[count:]

    def _minimal(self, grant: str) -> Configuration:
        configuration = self.configuration().set("token.grant", grant)
        if grant == "authorization_code":
            configuration.set_file("token.code_file", "code-1").set("token.redirect_uri", "https://app.example/back")
            configuration.set("token.state_file", str(configuration.directory / "state.json"))
        if grant == "refresh_token":
            configuration.set_file("token.refresh_token_file", "rt-1")
        return configuration


def text_of(value: object) -> str:
    """The value, or the first of a list."""
    return str(value[0] if isinstance(value, list) else value)


def check(configuration: Configuration) -> tuple[int, str]:
    """What `check` says of it: its exit code and its words."""
    environment = {"PATH": "/usr/bin:/bin", **configuration.environment}
    done = subprocess.run(
        [binary(), "check", "-c", configuration.write()], env=environment, capture_output=True, timeout=20, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def fields_of(exchange: Request) -> dict[str, str]:
    """The fields of a token request, with the client's own from HTTP Basic."""
    if exchange.values("content-type") == ["application/json"]:
        fields: dict[str, str] = json.loads(exchange.body)
    else:
        fields = dict(urllib.parse.parse_qsl(exchange.body.decode(), keep_blank_values=True, strict_parsing=True))
    for value in exchange.values("authorization"):
        pair = base64.b64decode(value.removeprefix("Basic ")).decode()
        name, _, secret = pair.partition(":")
        fields |= {"client_id": urllib.parse.unquote_plus(name), "client_secret": urllib.parse.unquote_plus(secret)}
    return fields
