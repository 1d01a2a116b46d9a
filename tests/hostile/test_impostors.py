"""Impostors of the API and of the token endpoint: nothing is ever sent to a server that has not proven itself."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import partial

from api import Api
from certificates import Authority, Certificate, self_signed
from neighbour import AUTHORITY, CLIENT_SECRET, LOOPBACK, PROVIDER, Neighbour
from server import Conversation, Server
from sidecar import Sidecar, wait_for
from token_endpoint import TokenEndpoint


@dataclass(frozen=True)
class Impostor:
    """What it shows, and what the log says of it."""

    shows: Certificate
    said: str
    key: str = ""


class Impostors(Neighbour):
    """Somebody who has the provider's address, but not its key."""

    def _impostors(self) -> dict[str, Impostor]:
        other = Authority(self.directory / "other", "provider")
        return {
            "a self-signed certificate": Impostor(
                self_signed(self.directory / "self", LOOPBACK), "self-signed", "ca_file"
            ),
            "another authority of the same name": Impostor(
                other.certificate(LOOPBACK), "not signed by the key", "ca_file"
            ),
            "a certificate for another name": Impostor(
                AUTHORITY.certificate("DNS:evil.example"), "evil.example", "url"
            ),
            "a certificate for another address": Impostor(AUTHORITY.certificate("IP:127.0.0.2"), "127.0.0.2", "url"),
            "a name in place of the address": Impostor(AUTHORITY.certificate("DNS:127.0.0.1"), "not for", "url"),
            "an expired certificate": Impostor(
                AUTHORITY.certificate(LOOPBACK, "20200101000000Z", "20200201000000Z"), "expired at 2020-02-01"
            ),
            "a certificate of the future": Impostor(
                AUTHORITY.certificate(LOOPBACK, "20450101000000Z", "20460101000000Z"), "not valid yet"
            ),
            "the authority's own certificate": Impostor(
                Certificate(AUTHORITY.pem, AUTHORITY.pem.with_name("ca.key")), "authority", "ca_file"
            ),
        }

    def test_an_impostor_of_the_api_gets_no_token_and_is_told_apart(self) -> None:
        """502 upstream_tls, not a byte after TLS, and a log line that says what is wrong with the certificate."""
        for tried, impostor in self._impostors().items():
            api = self.opened(Api(impostor.shows.server_context()))
            sidecar = self._sidecar_of(api)
            secret = "callers-own-Bq2wL"
            answer = sidecar.ask(
                "/x", f"Authorization: {secret}", f"Cookie: {secret}", method="POST", body=secret.encode()
            )
            line = sidecar.logged("a request was not served")[-1]
            told = f"{line.get('error')} ({line.get('look_at')})"
            got = api.received
            holds = (
                answer.status == 502
                and answer.reason == "upstream_tls"
                and not api.requests
                and b"Bearer" not in got
                and secret.encode() not in got
                and impostor.said in told
                and impostor.key in told
                and api.connections > 0
            )
            self.attack(
                f"an API with {tried}",
                f"502 upstream_tls, nothing sent, `{impostor.said}` in the log",
                f"{answer}; {told}; {len(api.requests)} requests",
                holds,
            )

    def test_an_impostor_of_the_token_endpoint_gets_no_secret_and_is_told_apart(self) -> None:
        """Callers get 503, the endpoint not a byte after TLS, and the log says what is wrong with the certificate."""
        for tried, impostor in self._impostors().items():
            endpoint = self.opened(TokenEndpoint(impostor.shows.server_context()))
            configuration = self.configuration().set("token.url", f"https://127.0.0.1:{endpoint.port}/token")
            sidecar = self.running(configuration)
            line = wait_for("the failure", partial(sidecar.logged, "the access token could not be refreshed"))[0]
            told, answer = f"{line.get('error')} ({line.get('look_at')})", sidecar.ask("/x")
            got = endpoint.received
            holds = (
                answer.status in (502, 503)
                and not endpoint.exchanges
                and b"Basic" not in got
                and CLIENT_SECRET.encode() not in got
                and impostor.said in told
                and impostor.key in told
                and endpoint.connections > 0
                and not self.api.connections
            )
            self.attack(
                f"a token endpoint with {tried}",
                f"503, nothing sent, `{impostor.said}` in the log",
                f"{answer}; {told}; {len(endpoint.exchanges)} exchanges",
                holds,
            )

    def test_old_or_foreign_tls_gets_nothing(self) -> None:
        """A server that speaks TLS 1.1 at most, or another protocol, is not spoken to."""
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        old.load_cert_chain(PROVIDER.chain, PROVIDER.key)
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        for tried, context, tls_min in [
            ("TLS 1.1", old, "1.2"),
            ("TLS 1.2 where 1.3 is demanded", self._at_most(ssl.TLSVersion.TLSv1_2), "1.3"),
        ]:
            api = self.opened(Api(context))
            sidecar = self._sidecar_of(api, tls_min)
            answer = sidecar.ask("/x")
            self.attack(
                f"an API that speaks {tried}",
                "502 upstream_tls, nothing sent",
                answer,
                answer.reason == "upstream_tls" and not api.requests and b"Bearer" not in api.received,
            )
        for tried, said in {
            "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
            "plain HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
        }.items():
            server = self.opened(Server(partial(self._says, said)))
            sidecar = self._sidecar_of(server)
            answer = sidecar.ask("/x")
            self.attack(
                f"an API that speaks {tried}",
                "502 upstream_tls, nothing sent",
                answer,
                answer.reason == "upstream_tls" and b"Bearer" not in server.received,
            )

    def _sidecar_of(self, server: Server, tls_min: str = "1.2") -> Sidecar:
        """One that takes this server for the API."""
        return self.sidecar(
            lambda c: c.set("upstream.url", f"https://127.0.0.1:{server.port}").set("upstream.tls_min", tls_min)
        )

    @staticmethod
    def _says(data: bytes, conversation: Conversation) -> None:
        conversation.send(data)
        conversation.wait_for_the_end()

    @staticmethod
    def _at_most(version: ssl.TLSVersion) -> ssl.SSLContext:
        context = PROVIDER.server_context()
        context.maximum_version = version
        return context

    def test_a_server_that_is_believed_gets_both(self) -> None:
        """The control: the same servers with a good certificate get the secret and the token."""
        sidecar = self.sidecar()
        answer = sidecar.ask("/x")
        self.attack(
            "the control: servers that prove themselves",
            "get the secret and the token",
            answer,
            answer.status == 200 and b"Basic " in self.tokens.received and b"Bearer " in self.api.received,
        )
