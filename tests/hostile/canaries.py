"""Planted secrets, and a search that finds them in whatever spelling they may have leaked."""

from __future__ import annotations

import base64
import json
import urllib.parse

#: So much of a secret, from any place in it, counts as the secret.
_PIECE = 16


def spellings(secret: str) -> set[bytes]:
    """The ways in which a secret may be written."""
    raw = secret.encode()
    found = {
        raw,
        raw.hex().encode(),
        raw.hex().upper().encode(),
        urllib.parse.quote_plus(secret).encode(),
        json.dumps(secret)[1:-1].encode(),
        json.dumps(json.dumps(secret)[1:-1])[1:-1].encode(),
        # As Rust's `Debug` shows bytes.
        ", ".join(str(byte) for byte in raw).encode(),
    }
    for shift in range(3):
        # In the middle of something else the groups of base64 may begin anywhere; its first and last are mixed.
        coded = base64.b64encode(b"\0" * shift + raw)
        found |= {coded[4:-4], coded[4:-4].replace(b"+", b"-").replace(b"/", b"_")}
    return found


def pieces(secret: bytes) -> set[bytes]:
    """All of a spelling, or of a long one its beginning, its middle and its end."""
    if len(secret) <= _PIECE:
        return {secret}
    middle = len(secret) // 2
    return {secret[:_PIECE], secret[middle - _PIECE // 2 : middle + _PIECE // 2], secret[-_PIECE:]}


def leaks(secrets: dict[str, str], text: bytes) -> list[str]:
    """The names of the secrets of which anything is in the text."""
    return sorted(
        name
        for name, secret in secrets.items()
        if any(piece in text for spelling in spellings(secret) for piece in pieces(spelling))
    )
