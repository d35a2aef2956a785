"""What GOV.UK Notify posts to us when a message has arrived or failed (PROVIDERS.md 3). Pure: bytes in, a receipt out."""

import hmac
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from batch_pipeline.providers.protocol import FailureKind, Receipt

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_FAILURES: Mapping[str, FailureKind] = {
    "permanent-failure": "permanent",
    "temporary-failure": "temporary",
    "technical-failure": "technical",
}


class NotACallback(Exception):
    """A body that isn't a GOV.UK Notify callback. Says which field is wrong, and nothing of what is in it."""


def is_allowed(authorization: str | None, token: str) -> bool:
    """Whether an ``Authorization`` header bears the token that we chose, compared in constant time.

    Without a token of ours nobody is.
    """
    scheme, _, given = (authorization or "").partition(" ")
    same = hmac.compare_digest(_bytes(given.strip()), _bytes(token))
    return same and scheme.lower() == "bearer" and token != ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def read_callback(body: bytes) -> Receipt | None:
    """The receipt in a callback's body.

    ``None`` where it holds none: a status on the way there or one that isn't known, or a message that isn't ours
    (without a reference). Keys that aren't known make no difference. Raises ``NotACallback``.
    """
    callback = _read_object(body)
    status, reference = callback.get("status"), callback.get("reference")
    if not isinstance(status, str):
        raise NotACallback("status: not a text")
    if reference is None or (status != "delivered" and status not in _FAILURES):
        return None
    key = _read_id(callback.get("id"))
    at = _read_time(callback)
    return Receipt(
        provider_key=f"{key}/{status}/{at.isoformat()}",
        reference=_read_reference(reference),
        kind="delivered" if status == "delivered" else "failed",
        occurred_at=at,
        failure_kind=_FAILURES.get(status),
        failure_code=status if status in _FAILURES else None,
    )


def _read_object(body: bytes) -> Mapping[str, Any]:
    try:
        read: object = json.loads(body)
    except (ValueError, RecursionError):  # not the error itself: it quotes the body
        read = None
    if not isinstance(read, dict):
        raise NotACallback("the body isn't a JSON object")
    return cast("dict[str, Any]", read)


def _read_id(value: object) -> str:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise NotACallback("id: not a UUID")
    return value.lower()


def _read_reference(value: object) -> str:
    # What can't be printed, half a character or a NUL, couldn't be stored either.
    if not isinstance(value, str) or not value or not value.isprintable():
        raise NotACallback("reference: not a text")
    return value


def _read_time(callback: Mapping[str, Any]) -> datetime:
    """When it was completed; a failure to send may have no such time, and is told by an earlier one."""
    told = [callback.get(name) for name in ("completed_at", "sent_at", "created_at")]
    first = next((value for value in told if value is not None), None)
    try:
        at = datetime.fromisoformat(first) if isinstance(first, str) else None
        if at is not None:
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise NotACallback("completed_at: not a time")
