"""What the gateway signs for a patient's browser: a session after the right date of birth, and each form it shows.

Both are bound to one link and end by themselves, and nothing of them is kept: any of many gateways knows its fellows'.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal

COOKIE = "__Host-link"
SESSION = timedelta(minutes=30)
FORM = timedelta(hours=4)
ANSWERS = timedelta(hours=24)
"""A page with the morning's readings may stay open until the evening's are in it."""

Purpose = Literal["session", "form", "answers"]
_LIVES: Mapping[Purpose, timedelta] = MappingProxyType({"session": SESSION, "form": FORM, "answers": ANSWERS})


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with the home's key for this."""

    key: bytes = field(repr=False)

    def sign(self, purpose: Purpose, token_hash: str, now: datetime) -> str:
        """``SECONDS.SIGNATURE``: when it ends, and that we said so, of this link, for this purpose."""
        ends = int((now + _LIVES[purpose]).timestamp())
        return f"{ends}.{self._signature(purpose, token_hash, ends)}"

    def holds(self, signed: str, purpose: Purpose, token_hash: str, now: datetime) -> bool:
        """Whether this was signed so, and hasn't ended."""
        ends, _, signature = signed.partition(".")
        if not (ends.isascii() and ends.isdecimal() and len(ends) <= len("9999999999")):
            return False
        expected = self._signature(purpose, token_hash, int(ends))
        genuine = hmac.compare_digest(signature.encode(errors="replace"), expected.encode())
        return genuine and now < datetime.fromtimestamp(int(ends), UTC)

    def _signature(self, purpose: Purpose, token_hash: str, ends: int) -> str:
        return hmac.digest(self.key, f"{purpose}:{token_hash}:{ends}".encode(), "sha256").hex()
