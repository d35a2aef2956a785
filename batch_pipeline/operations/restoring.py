"""A ledger that was restored from a copy: noticed before anything is sent, and reconciled with its providers.

``batch_pipeline.ledger.restored`` puts back what the claims journal remembers. Here is the rest: who looks when, and
what is done where the journal is lost as well.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from batch_pipeline.errors import Refused, is_full_disk
from batch_pipeline.house import House
from batch_pipeline.ledger import batches, controls, forgotten, paces, restored
from batch_pipeline.ledger.controls import Hold
from batch_pipeline.ledger.forgotten import Kind, Unsent
from batch_pipeline.ledger.restored import PutBack
from batch_pipeline.providers.protocol import Channel, Provider, Recovery, Unfinished
from batch_pipeline.sending import fallbacks, reminders


def look(house: House, now: datetime) -> Hold | None:
    """The hold under which the ledger stands; it is put on one that is found to be restored from a copy."""
    with _reading(house):
        return restored.look(house.ledger, house.journal, now, keep=timedelta(days=house.settings.claims_days))


def note_decision(house: House) -> None:
    """Lets the journal know what was decided just now. It stands whatever becomes of that: who sends next is told."""
    with suppress(Refused, OSError, SQLAlchemyError):
        restored.note_decision(house.ledger, house.journal)


@contextmanager
def _reading(house: House) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise
        raise Refused(
            f"the claims journal {house.journal.folder} can't be read ({error.strerror}): mend its folder or disk"
        ) from None


def require_whole(house: House, now: datetime) -> None:
    """``Refused`` for a ledger that may have forgotten what it sent."""
    standing = look(house, now)
    if standing is not None:
        raise Refused(f"nothing is sent: {standing.because}")


@dataclass
class Asked:
    """What was done without the journal, in messages."""

    accepted: int = 0
    """Their provider has them."""
    unsent: int = 0
    """Their provider was asked, and doesn't have them."""
    unconfirmed: dict[str, int] = field(default_factory=dict[str, int])
    """By batch: nobody can tell."""


def reconcile(house: House, by: str, now: datetime) -> PutBack:
    """Puts back what the ledger has forgotten; lifts the hold when all of it is there. The pause of all stays."""
    with _reading(house):
        return restored.put_back(house.ledger, house.journal, by, now)


def reconcile_without_journal(
    house: House,
    by: str,
    now: datetime,
    *,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[PutBack, Asked]:
    """Puts back what can be, then asks the providers of everything unsent, as far as they can tell, and lifts the hold.

    What nobody can tell of is unconfirmed, and for a person. ``Refused`` while a provider can't be asked: what was done
    before stays done.
    """
    with house.ledger.write() as connection:
        because = f"{by} says that it was restored from a copy: `batch-pipeline reconcile --without-journal` goes on"
        hold = controls.hold(connection, because, now, by)
    done = reconcile(house, by, now)
    with house.ledger.read() as connection:
        applied = [row.batch for row in batches.all_batches(connection) if row.applied_plan is not None]
        doubtful = [batch for batch in applied if forgotten.may_have_gone(connection, batch)]
        since = forgotten.last_claim(connection)
    asked = Asked()
    for batch in doubtful:
        _ask_for_batch(house, batch, _Asking(by, now, hold.at, since, wall, sleep), asked)
    with _reading(house):
        restored.begin_anew(house.ledger, house.journal, by, now)
    return done, asked


@dataclass(frozen=True)
class _Asking:
    by: str
    now: datetime
    held_at: datetime
    since: datetime | None
    """The copy was taken after this: nothing that it has forgotten was sent before."""
    wall: Callable[[], datetime]
    sleep: Callable[[float], None]


def _ask_for_batch(house: House, batch: str, how: _Asking, asked: Asked) -> None:
    submitted = house.submitted(batch)
    # Those that are due may have gone as well. Queued, they are asked for like any other.
    facts = house.fallback_facts(submitted.workspace, how.now)
    fallbacks.sweep_though_paused(house.ledger, batch, how.now, facts)
    reminders.sweep_though_paused(house.ledger, batch, how.now, house.reminder_facts(submitted.workspace, how.now))
    with house.ledger.read() as connection:
        kinds = forgotten.kinds(connection, batch)
    with house.providers(submitted.workspace) as providers:
        for kind in kinds:
            provider = _who_can_be_asked(providers, kind)
            for messages in _unsent(house, kind):
                _settle(house, kind, provider, messages, how, asked)


def _who_can_be_asked(providers: Mapping[Channel, Provider], kind: Kind) -> Provider | None:
    provider = next((one for name, one in providers.items() if name == kind.channel), None)
    if provider is None or provider.name != kind.provider or provider.recovery is not Recovery.CAN_BE_ASKED:
        return None
    return provider


def _unsent(house: House, kind: Kind) -> Iterator[Sequence[Unsent]]:
    """A million messages, some at a time."""
    after = 0
    while True:
        with house.ledger.read() as connection:
            messages = forgotten.unsent(connection, kind, after)
        if not messages:
            return
        yield messages
        after = messages[-1].id


def _settle(
    house: House, kind: Kind, provider: Provider | None, messages: Sequence[Unsent], how: _Asking, asked: Asked
) -> None:
    """Accepted is what the provider has, unsent what it never had, unconfirmed what it, or nobody, can tell of."""
    held = set[str]()
    can_tell = set[str]()
    if provider is not None:
        held = _held(house, provider, [message.reference for message in messages], how)
        can_tell = {message.reference for message in messages if _remembers(provider, message, how)}
    there = [message for message in messages if message.reference in held]
    unknown = [message for message in messages if message.reference not in held | can_tell]
    with house.ledger.write() as connection:
        asked.accepted += forgotten.settle(connection, kind, there, how.by, how.now, outcome="accepted")
        unconfirmed = forgotten.settle(connection, kind, unknown, how.by, how.now, outcome="unconfirmed")
    asked.unsent += len(messages) - len(there) - len(unknown)
    if unconfirmed:
        asked.unconfirmed[kind.batch] = asked.unconfirmed.get(kind.batch, 0) + unconfirmed


def _remembers(provider: Provider, message: Unsent, how: _Asking) -> bool:
    """Whether a provider that doesn't have it now never had it.

    Not what was queued since the ledger was restored: it may have gone before under another reference.
    """
    remembers = provider.limits.remembers
    in_time = remembers is None or (how.since is not None and how.now - how.since < remembers)
    return in_time and message.queued_at <= how.held_at


def _held(house: House, provider: Provider, references: Sequence[str], how: _Asking) -> set[str]:
    found = set[str]()
    for start in range(0, len(references), provider.limits.messages):
        some = references[start : start + provider.limits.messages]
        _keep_to_the_rate(house, provider, some, how)
        try:
            found |= provider.held(some)
        except Unfinished as unfinished:
            raise Refused(
                f"{provider.name} can't be asked now ({unfinished}): do the same again later; what was found stays"
            ) from None
    return found


def _keep_to_the_rate(house: House, provider: Provider, references: Iterable[str], how: _Asking) -> None:
    limits = provider.limits
    if limits.per_minute is None:
        return
    calls = len(list(references)) if limits.one_by_one else 1
    with house.ledger.write() as connection:
        account = paces.account_of(provider.name, limits.account)
        pause = paces.book(connection, account, calls, limits.per_minute, how.wall())
    how.sleep(pause.total_seconds())
