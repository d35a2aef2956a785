"""NHS Notify: messages by the NHS App, SMS and email (PROVIDERS.md 1).

It takes a batch under a reference once, whatever is in it, and tells of the messages by calling us back
(``nhs_notify_receipts``).
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from typing_extensions import override

from batch_pipeline.providers import nhs_notify_answers as answers
from batch_pipeline.providers.bounded_http import BoundedHttp, Deadline, NoAnswer, NotSent, Reply
from batch_pipeline.providers.nhs_notify_account import NhsNotifyAccount
from batch_pipeline.providers.nhs_notify_token import TokenSource
from batch_pipeline.providers.protocol import (
    Answer,
    Channel,
    ChunkTooLarge,
    Limits,
    NotTaken,
    OutcomeUnknown,
    OutgoingMessage,
    Provider,
    ProviderStopped,
    Recovery,
)

NAME = "nhs_notify"
MOST_MESSAGES = 45_000
MOST_BYTES = 5_200_000
PER_MINUTE = 1_200
AT_ONCE = 8
"""Calls at the same time: one of 5 MB takes seconds, and the quota allows 20 to be begun in one."""
REMEMBERS = timedelta(days=240)
"""It says "up to 9 months"; a chunk isn't left open for a week, so a month of margin costs nothing."""
TIMEOUT = timedelta(seconds=30)

_MEDIA_TYPE = "application/vnd.api+json"
_FRAME = 1_000
"""Bytes, at most, of what stands around the messages."""
_LONGEST_REFERENCE = "x" * 120
"""A batch's name (63), a token, a line, a step: longer than any of ours."""
_WORK = 0.95
"""Of the time-out, for the network; the rest is for building the body and reading the answer."""


class NhsNotify(Provider):
    """One account of NHS Notify, for all channels and any number of threads.

    Args:
        account: with whose keys, and what was agreed.
        timeout: of one ``send``, tokens and all.
        wall: the real time, for assertions and for a ``Retry-After`` that is a date.
        steady: seconds by a clock that nobody sets, for deadlines and tokens.

    Raises ``Refused`` for an account whose private key can't be read.
    """

    def __init__(
        self,
        account: NhsNotifyAccount,
        *,
        timeout: timedelta = TIMEOUT,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account = account
        self._http = BoundedHttp()
        self._tokens = TokenSource(account, self._http, wall=wall, steady=steady)
        self._wall = wall
        self._steady = steady
        self._limits = Limits(
            messages=MOST_MESSAGES,
            timeout=timeout,
            bytes=MOST_BYTES - _FRAME,
            envelope=_envelope(account),
            per_minute=PER_MINUTE,
            account=account.application,
            at_once=AT_ONCE,
            remembers=REMEMBERS,
        )

    @override
    def __repr__(self) -> str:
        return f"NhsNotify({self._account!r})"

    @property
    @override
    def name(self) -> str:
        return NAME

    @property
    @override
    def recovery(self) -> Recovery:
        return Recovery.DEDUPLICATES

    @property
    @override
    def limits(self) -> Limits:
        return self._limits

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        """Posts the chunk as one batch. All of its messages go by one channel (``ValueError``)."""
        deadline = Deadline(self._limits.timeout.total_seconds() * _WORK, self._steady)
        if len(messages) > MOST_MESSAGES:
            raise ChunkTooLarge
        body = _encode(_batch(self._account, chunk_reference, messages))
        if len(body) > MOST_BYTES:
            raise ChunkTooLarge
        reply = self._post(body, deadline)
        return answers.read(reply, chunk_reference, [message.reference for message in messages], self._wall)

    def _post(self, body: bytes, deadline: Deadline) -> Reply:
        """The answer, after one more call with a fresh token where the first token was refused."""
        token = self._tokens.get(deadline)
        reply = self._call(body, token, deadline)
        if reply.status in {401, 403}:
            self._tokens.renounce(token)
            reply = self._call(body, self._tokens.get(deadline), deadline)
        return reply

    def _call(self, body: bytes, token: str, deadline: Deadline) -> Reply:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": _MEDIA_TYPE, "Accept": _MEDIA_TYPE}
        try:
            return self._http.call(
                "POST",
                self._account.url("v1/message-batches"),
                headers=headers,
                content=body,
                deadline=deadline,
            )
        except NotSent as failure:
            raise NotTaken(f"NHS Notify wasn't reached: {failure}") from None
        except NoAnswer as failure:
            raise OutcomeUnknown(f"NHS Notify gave no answer: {failure}") from None

    @override
    def held(self, references: Sequence[str]) -> set[str]:
        """Never called: it takes a chunk once, and can't be asked by our references."""
        raise ProviderStopped("NHS Notify can't be asked which references it holds")

    @override
    def close(self) -> None:
        """Gives up the connections."""
        self._http.close()


def _batch(account: NhsNotifyAccount, reference: str, messages: Sequence[OutgoingMessage]) -> dict[str, Any]:
    if len({message.channel for message in messages}) != 1:
        raise ValueError(f"chunk {reference}: a batch has messages, and all of them by one channel")
    attributes = {
        "routingPlanId": account.routing_plan(messages[0].channel),
        "messageBatchReference": reference,
        "messages": [_message(account, message) for message in messages],
    }
    return {"data": {"type": "MessageBatch", "attributes": attributes}}


def _message(account: NhsNotifyAccount, message: OutgoingMessage) -> dict[str, Any]:
    recipient: dict[str, Any] = {"nhsNumber": message.nhs_number}
    if account.contact_details and message.channel != "nhs_app":
        recipient["contactDetails"] = {message.channel: message.address}
    written: dict[str, Any] = {"messageReference": message.reference, "recipient": recipient}
    if account.billing_reference:
        written["billingReference"] = account.billing_reference
    if account.ods_code:
        written["originator"] = {"odsCode": account.ods_code}
    written["personalisation"] = _FIELDS[message.channel](message)
    return written


_FIELDS: Mapping[Channel, Callable[[OutgoingMessage], dict[str, str]]] = {
    "nhs_app": lambda message: {"body": message.text},
    "email": lambda message: {"email_subject": message.subject or "", "email_body": message.text},
    "sms": lambda message: {"sms_body": message.text},
}
"""The free-text plans' own fields, which any other plan in their place must have as well."""


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _envelope(account: NhsNotifyAccount) -> int:
    """Bytes of the longest message that says nothing to nobody, and its comma."""
    channels: tuple[Channel, ...] = ("email", "nhs_app", "sms")
    empty = [OutgoingMessage(_LONGEST_REFERENCE, channel, "9" * 10, "", "", "") for channel in channels]
    return max(len(_encode(_message(account, message))) for message in empty) + 1
