"""The one small protocol behind which every message provider stands.

A provider gets a chunk (many messages under one reference), answers, and later tells by receipts what
became of each message. How a chunk whose answer was lost is settled depends on what the provider can do,
and only on that (``Recovery``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, Protocol

Channel = Literal["email", "nhs_app", "sms"]
FailureKind = Literal["permanent", "temporary", "technical", "rejected", "refused"]
ReceiptKind = Literal["accepted", "delivered", "read", "failed"]


class Recovery(StrEnum):
    """What may be done with a chunk that was posted and whose answer is unknown."""

    DEDUPLICATES = "deduplicates"
    """Post the same chunk again under the same reference: the provider takes it once (NHS Notify)."""
    CAN_BE_ASKED = "can_be_asked"
    """Ask which references it holds, then post only what it doesn't (GOV.UK Notify)."""
    NEITHER = "neither"
    """Nothing can be known: the messages are ``unconfirmed`` and go to a person (SMTP)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may hold, and how long it may take."""

    messages: int
    timeout: timedelta
    """Of one call of `Provider.send` or `Provider.held`. The dispatcher's lease is ten times this."""
    bytes: int | None = None
    """Of one call's body; none: any number."""
    envelope: int = 0
    """At most so many bytes of the body go to one message besides its texts and address."""
    per_minute: int | None = None
    """Requests that ``account`` may make in a minute, all our processes together; none: any number."""
    account: str = ""
    """Whose rate that is, not a secret: providers that share an account share its rate."""
    one_by_one: bool = False
    """A request takes one message: a chunk is as many requests as it has messages."""
    at_once: int = 1
    """Calls of one dispatch at the same time. More than one needs a provider that any number of threads may use."""
    remembers: timedelta | None = None
    """How long after a post it deduplicates, or can be asked; after that nothing can be known. None: for ever."""


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One message to one patient. ``repr`` shows the reference only: the rest is personal."""

    reference: str
    channel: Channel
    nhs_number: str
    address: str
    text: str
    subject: str | None

    def __repr__(self) -> str:
        return f"OutgoingMessage(reference={self.reference!r})"


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """A message that the provider will not take, with the reason it gave."""

    reference: str
    failure_code: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The provider's answer to a chunk: everything not in ``refused`` was accepted."""

    refused: Sequence[RefusedMessage] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a provider says about one message. May come twice and in any order."""

    provider_key: str
    """The provider's own id of this receipt: a repeat has the same one."""
    reference: str
    kind: ReceiptKind
    occurred_at: datetime
    failure_kind: FailureKind | None = None
    failure_code: str | None = None


class Unfinished(Exception):
    """A call that brought no answer for the whole chunk. The reason names no patient.

    What is known all the same is in ``accepted`` (references) and ``refused``; the subclass says what holds of the rest.
    """

    def __init__(
        self,
        reason: str,
        retry_after: timedelta = timedelta(0),
        *,
        accepted: Sequence[str] = (),
        refused: Sequence[RefusedMessage] = (),
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        """How long the provider wants to be left alone."""
        self.accepted = accepted
        self.refused = refused


class OutcomeUnknown(Unfinished):
    """The rest may or may not have been taken: timed out, dropped, or a 5xx."""


class NotTaken(Unfinished):
    """The rest was surely not taken by this call, and may be posted again later: a quota, or nobody there."""


class PutOff(NotTaken):
    """The one message of the chunk was put off for reasons of its own (its mailbox is full): others may well be taken."""


class ProviderStopped(Unfinished):
    """The provider will take nothing from us now (credentials, configuration): stop the run with this reason.

    The rest was surely not taken by this call.
    """


class ChunkRefused(Exception):
    """Nothing of the chunk was taken because of some of its messages: the others may go under a new reference."""

    def __init__(self, refused: Sequence[RefusedMessage]) -> None:
        super().__init__(f"{len(refused)} messages refused, and nothing taken")
        self.refused = refused


class ChunkTooLarge(Exception):
    """Nothing of the chunk was taken because it is too much for one call: it is to be cut in two."""


class Provider(Protocol):
    """A message provider."""

    @property
    def name(self) -> str:
        """As in the workspace file and in every report."""
        ...

    @property
    def recovery(self) -> Recovery:
        """What can be done after an unknown outcome."""
        ...

    @property
    def limits(self) -> Limits:
        """Of one call."""
        ...

    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        """Post one chunk. ``now`` is business time: what the record will say.

        Returns or raises within ``limits.timeout``, however the other side behaves. Raises a kind of ``Unfinished``,
        ``ChunkRefused`` or ``ChunkTooLarge``; anything else that it raises counts as an unknown outcome, and ends the run.
        """
        ...

    def held(self, references: Sequence[str]) -> set[str]:
        """Which of these references the provider holds; only called where it ``CAN_BE_ASKED``.

        Within ``limits.timeout``. Raises a kind of ``Unfinished`` when it can't be told of all of them.
        """
        ...

    def close(self) -> None:
        """Gives up the connections. Whoever uses it again opens new ones."""
        ...


class ReceiptSource(Protocol):
    """Where receipts wait for us to fetch them. Providers that call us have none; no key for sending is needed."""

    @property
    def name(self) -> str:
        """The provider's, as in the workspace file."""
        ...

    def receipts(self, now: datetime) -> Iterator[Sequence[Receipt]]:
        """Receipts that wait for us at ``now``, in batches.

        A batch counts as fetched once the next one (or the end) is asked for: store it before that.
        """
        ...
