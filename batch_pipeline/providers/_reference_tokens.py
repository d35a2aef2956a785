"""Our references, written so that they travel in a ``Message-ID`` and come back in a bounce.

A reference names the batch, and a batch's name may say what a patient is treated for. Every mail system on the way logs
the ``Message-ID`` beside the patient's address: so the token is encrypted. It is authenticated too (AES-SIV, RFC 5297):
who doesn't hold the key can't make a bounce for a reference whose message they never saw. And it is deterministic: the
same reference has the same token, in every process and after every crash.
"""

import base64
import binascii
import hashlib
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

SHORTEST_KEY = 16
"""Bytes."""

_TOKEN = re.compile(r"(?<![a-z2-7])[a-z2-7]{28,600}(?=@)", re.IGNORECASE)
_MOST_TRIED = 20

# A local part holds 64 characters, so what our references end in (token, line, step) takes eight bytes. The first two
# signs are of mail that was sent before references had a token.
_ENDINGS = {b":email:primary": b"\x01", b":primary": b"\x02"}
_PACKED = {b"\x03": b"primary", **{bytes([0x10 + day]): b"reminder_%d" % day for day in range(1, 10)}}
_SIGNS = {step: sign for sign, step in _PACKED.items()}
_PACKABLE = re.compile(rb"(.*):([0-9a-f]{8}):(0|[1-9][0-9]{0,7}):(primary|reminder_[1-9])", re.DOTALL)
_TOKEN_BYTES, _LINE_BYTES = 4, 3


class ReferenceTokens:
    """Makes tokens under one key (bytes, at least ``SHORTEST_KEY`` of them), and finds them again."""

    def __init__(self, key: bytes) -> None:
        if len(key) < SHORTEST_KEY:
            raise ValueError(f"a key of {len(key)} bytes: it needs at least {SHORTEST_KEY}")
        self._cipher = AESSIV(hashlib.blake2b(key, digest_size=64, person=b"mail references").digest())

    def __repr__(self) -> str:
        return "ReferenceTokens(…)"

    def token(self, reference: str) -> str:
        """Small letters and the digits 2 to 7: it survives a mail system that changes case.

        ``ValueError`` for a reference that isn't printable ASCII.
        """
        if not reference or not (reference.isascii() and reference.isprintable()):
            raise ValueError("a reference is printable ASCII")
        sealed = self._cipher.encrypt(_shortened(reference.encode()), None)
        return base64.b32encode(sealed).decode().rstrip("=").lower()

    def reference(self, token: str) -> str | None:
        """The reference of a token made under this key; None for any other text."""
        padding = "=" * (-len(token) % 8)
        try:
            return _lengthened(self._cipher.decrypt(base64.b32decode(token.upper() + padding), None)).decode()
        except (InvalidTag, binascii.Error, ValueError):
            return None

    def find(self, text: str) -> str | None:
        """The reference of the first token of ours before an @ in this text."""
        for tried, match in enumerate(_TOKEN.finditer(text)):
            if tried == _MOST_TRIED:
                return None
            if (reference := self.reference(match[0])) is not None:
                return reference
        return None


def _shortened(reference: bytes) -> bytes:
    packable = _PACKABLE.fullmatch(reference)
    if packable is not None and (line := int(packable[3])) < 1 << 8 * _LINE_BYTES:
        return packable[1] + bytes.fromhex(packable[2].decode()) + line.to_bytes(_LINE_BYTES) + _SIGNS[packable[4]]
    for ending, sign in _ENDINGS.items():
        if reference.endswith(ending):
            return reference.removesuffix(ending) + sign
    return reference


def _lengthened(shortened: bytes) -> bytes:
    if (step := _PACKED.get(shortened[-1:])) is not None:
        rest, line = shortened[: -_LINE_BYTES - 1], int.from_bytes(shortened[-_LINE_BYTES - 1 : -1])
        return b"%b:%b:%d:%b" % (rest[:-_TOKEN_BYTES], rest[-_TOKEN_BYTES:].hex().encode(), line, step)
    for ending, sign in _ENDINGS.items():
        if shortened.endswith(sign):
            return shortened.removesuffix(sign) + ending
    return shortened
