"""What the gateway asks of a provider's callbacks: who may call, and what a call says.

One `CallbackReader` stands for one account of one provider in one workspace. It holds the account's secrets and sees
the raw bytes; the gateway sees neither how they are verified nor how they are written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from batch_pipeline.providers.protocol import Receipt

_LONGEST_TEXT = 500
"""No id or code of a provider comes near it, and an index of PostgreSQL takes no text of 2,700 bytes."""


class NotAuthenticated(Exception):
    """The caller's credential is missing or wrong: 401."""


class NotAllowed(Exception):
    """The body isn't what the caller signed, or isn't the caller's to send: 403."""


class Malformed(Exception):
    """The call is genuine, and its body can't be read: 400. The message quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a call says."""

    receipts: Sequence[Receipt] = ()
    """None for one that says nothing about a message."""
    unread: Sequence[str] = ()
    """Parts of it that can't be read, as text: they are kept, and keep none of the others from being stored."""


class CallbackReader(Protocol):
    """Reads the callbacks of one account. Compares secrets in constant time."""

    @property
    def challenge(self) -> str:
        """What a 401 says in ``WWW-Authenticate``."""
        ...

    def admit(self, headers: Mapping[str, str]) -> None:
        """Judges the headers (names in lower case) before any body is taken. Raises ``NotAuthenticated``, ``NotAllowed``."""
        ...

    def read(self, headers: Mapping[str, str], body: bytes) -> Reading:
        """What a call says whose headers were admitted.

        Verifies the raw bytes before it parses any. Raises ``NotAllowed``, ``Malformed``.
        """
        ...


def refuse_unstorable(receipts: Sequence[Receipt]) -> None:
    """Raises ``Malformed`` for a text that no ledger takes: one such would undo all that are stored with it."""
    for receipt in receipts:
        for text in (receipt.provider_key, receipt.reference, receipt.failure_code or ""):
            if len(text) > _LONGEST_TEXT or "\0" in text or not _is_unicode(text):
                raise Malformed("an id or a code in it is no such thing")


def _is_unicode(text: str) -> bool:
    r"""Whether it can be written at all: JSON's ``"\ud800"`` alone can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
