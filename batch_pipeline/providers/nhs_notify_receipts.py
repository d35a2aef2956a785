"""NHS Notify's callbacks: whether one is genuine, and the receipts in it (PROVIDERS.md 1, SPEC 2.8, 2.9). Pure.

The service adds keys, statuses and codes as it goes on: what isn't known here is left aside or kept as it is, and
never makes a callback unreadable, for it is sent again for two hours and then lost. Each item is read by itself. One
that can't be read keeps no other from being stored, and is given as it came: to be kept until a version that can read
it is installed. So the answer is 202 all the same: a refusal would bring the same callback again, and no other one.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from batch_pipeline.providers.protocol import FailureKind, Receipt, ReceiptKind

# Genuine? ----------------------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """What to answer a caller."""

    OK = "ok"
    UNAUTHORISED = "unauthorised"
    """Answer 401: the API key is missing or wrong."""
    FORBIDDEN = "forbidden"
    """Answer 403: the signature is missing or wrong."""


def verify(
    body: bytes, *, api_key_header: str | None, signature_header: str | None, application_id: str, api_key: str
) -> Verdict:
    """Whether a callback is Notify's own, in the same time whatever is wrong with it.

    Args:
        body: the raw bytes, as they came.
        api_key_header: ``x-api-key``.
        signature_header: ``x-hmac-sha256-signature``.
        application_id: ours.
        api_key: the one agreed for callbacks.

    Raises:
        ValueError: where a key is empty: anybody could sign with that.
    """
    if not application_id or not api_key:
        raise ValueError("NHS Notify's callbacks can't be checked without an application id and an API key")
    if not hmac.compare_digest(_bytes(api_key_header), _bytes(api_key)):
        return Verdict.UNAUTHORISED
    signature = hmac.new(f"{application_id}.{api_key}".encode(), body, hashlib.sha256).hexdigest()
    given = (signature_header or "").strip().lower()
    return Verdict.OK if hmac.compare_digest(_bytes(given), _bytes(signature)) else Verdict.FORBIDDEN


def _bytes(header: str | None) -> bytes:
    return (header or "").encode(errors="surrogatepass")


# What it says ------------------------------------------------------------------------------------------------------


class NotACallback(Exception):
    """The body isn't a callback. Names the place and the fault, and nothing that stands there."""


def _code(value: object) -> str | None:
    """A failure code as it came, as far as a report can show it."""
    text = "".join(character for character in str(value) if character.isprintable()).strip() if value else ""
    return text[:100] or None


def _status(value: object) -> str:
    return str(value).strip().lower()[:100] if value else ""


def _instant(value: object) -> datetime:
    """In UTC; a time without a zone is meant so."""
    if not isinstance(value, str):
        raise ValueError("not a time")  # noqa: TRY004 - pydantic makes a validation error of this one
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("not a time that a calendar has") from None


_Code = Annotated[str | None, BeforeValidator(_code)]
_Status = Annotated[str, BeforeValidator(_status)]
_Instant = Annotated[datetime, BeforeValidator(_instant)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Channel(_Model):
    type: _Status = ""
    channel_status: _Status = ""
    supplier_status: _Status = ""
    channel_failure_reason_code: _Code = None


class _Message(_Model):
    message_reference: _Name | None = None
    """None: somebody else's message, who sends through the same application."""
    timestamp: _Instant
    message_status: _Status
    message_failure_reason_code: _Code = None
    channels: list[_Channel] = []


class _ChannelAttributes(_Model):
    message_reference: _Name | None = None
    """None: somebody else's message, who sends through the same application."""
    timestamp: _Instant
    channel: _Status
    channel_status: _Status
    channel_failure_reason_code: _Code = None
    supplier_status: _Status = ""


class _Meta(_Model):
    idempotency_key: _Name


class _MessageStatus(_Model):
    type: Literal["MessageStatus"]
    attributes: _Message
    meta: _Meta


class _ChannelStatus(_Model):
    type: Literal["ChannelStatus"]
    attributes: _ChannelAttributes
    meta: _Meta


class _Other(_Model):
    """A kind of news that we don't know: patients' replies, or one that is to come."""

    type: str


def _kind_of_news(item: object) -> str:
    kind: object = item.get("type") if isinstance(item, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return kind if isinstance(kind, str) and kind in {"MessageStatus", "ChannelStatus"} else "other"


_News = Annotated[
    Annotated[_MessageStatus, Tag("MessageStatus")]
    | Annotated[_ChannelStatus, Tag("ChannelStatus")]
    | Annotated[_Other, Tag("other")],
    Discriminator(_kind_of_news),
]


_ITEM = TypeAdapter[_MessageStatus | _ChannelStatus | _Other](_News)


@dataclass(frozen=True, slots=True)
class Callback:
    """What a callback says."""

    receipts: list[Receipt]
    """In its order; none for news that changes nothing. Each has its item's idempotency key, so that a callback that is
    sent again gives the same ones."""
    unread: list[str]
    """The items that can't be read, as JSON. They may hold anything: not for logs."""


@dataclass(frozen=True, slots=True)
class _Fate:
    """What a status makes of a message."""

    kind: ReceiptKind
    failure_kind: FailureKind | None = None
    failure_code: str | None = None


_NHS_APP = "nhsapp"

_FAILURES: Mapping[str, FailureKind] = {
    "unnotified": "rejected",
    "rejected": "rejected",
    "permanent_failure": "permanent",
    "temporary_failure": "temporary",
    "technical_failure": "technical",
}
"""Supplier statuses by which a message has failed, on whatever channel."""

_STILL_WAITING = ("notified", "notification_attempted")
"""Supplier statuses of the App: a phone was told, or not even that. Neither a delivery nor a failure."""


def read_callback(body: bytes) -> Callback:
    """What can be read of a callback, and what can't. Raises ``NotACallback`` for whatever isn't one at all."""
    found: list[Receipt] = []
    unread: list[str] = []
    for item in _items(body):
        try:
            found += _receipts(_ITEM.validate_python(item))
        except ValidationError:
            unread.append(json.dumps(item))
    return Callback(_with_keys_of_their_own(found), unread)


def read_again(item: str) -> list[Receipt] | None:
    """The receipts of an item that was ``Callback.unread``; none where it can't be read now either."""
    try:
        return list(_receipts(_ITEM.validate_python(json.loads(item))))
    except ValidationError:
        return None


def _items(body: bytes) -> list[object]:
    try:
        read: object = json.loads(body)
    except (ValueError, RecursionError):  # not the error itself: it quotes the body
        raise NotACallback("not a callback of NHS Notify: the body isn't JSON") from None
    data = cast("dict[str, object]", read).get("data") if isinstance(read, dict) else None
    if not isinstance(data, list):
        raise NotACallback("not a callback of NHS Notify: it has no list data")
    return cast("list[object]", data)


def _receipts(item: _MessageStatus | _ChannelStatus | _Other) -> Iterator[Receipt]:
    if isinstance(item, _Other):
        return
    told = item.attributes
    fate = _of_message(told) if isinstance(told, _Message) else _of_channel(told)
    if fate is not None and told.message_reference is not None:
        yield Receipt(
            item.meta.idempotency_key,
            told.message_reference,
            fate.kind,
            told.timestamp,
            fate.failure_kind,
            fate.failure_code,
        )


def _of_message(told: _Message) -> _Fate | None:
    """A delivered App message is delivered and still unread: only its channel tells that it was read."""
    if told.message_status == "delivered":
        return _Fate("delivered")
    if told.message_status != "failed":
        return None
    kinds: list[FailureKind] = [
        _FAILURES[channel.supplier_status] for channel in told.channels if channel.supplier_status in _FAILURES
    ]
    codes = (channel.channel_failure_reason_code for channel in told.channels if channel.channel_failure_reason_code)
    return _Fate("failed", kinds[0] if kinds else "permanent", told.message_failure_reason_code or next(codes, None))


def _of_channel(told: _ChannelAttributes) -> _Fate | None:
    """The supplier's word goes before the channel's, which says "sending" of much that is settled."""
    if told.channel_status == "failed" or told.supplier_status in _FAILURES:
        return _Fate("failed", _FAILURES.get(told.supplier_status, "permanent"), told.channel_failure_reason_code)
    app = told.channel == _NHS_APP
    if app and told.supplier_status in _STILL_WAITING:
        return None
    if told.supplier_status == "read":
        return _Fate("read" if app else "delivered")
    return _Fate("delivered") if "delivered" in {told.supplier_status, told.channel_status} else None


def _with_keys_of_their_own(receipts: Sequence[Receipt]) -> list[Receipt]:
    """Should two items share a key, each gets one made from what it says, the same whenever it comes again."""
    sharing = Counter(receipt.provider_key for receipt in receipts)
    return [
        receipt
        if sharing[receipt.provider_key] == 1
        else replace(receipt, provider_key=f"{receipt.provider_key}/{_digest(receipt)}")
        for receipt in receipts
    ]


def _digest(receipt: Receipt) -> str:
    said: tuple[Any, ...] = (
        receipt.reference,
        receipt.kind,
        receipt.occurred_at.isoformat(),
        receipt.failure_kind,
        receipt.failure_code,
    )
    return hashlib.blake2b(repr(said).encode(), digest_size=8).hexdigest()
