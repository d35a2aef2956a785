"""Personal links: made with the outbox, opened by a date of birth, locked, revoked (SPEC 2.12).

Any number of gateways ask about a link at once, and each date of birth that is tried is decided and counted in one
transaction that has the link to itself: whoever tries a hundred at the same time has five tries all the same.
"""

import hmac
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, chunks, reminders
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger.chunks import Message
from batch_pipeline.ledger.dialects import one_of, upsert_many
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import UNSENT, attempts, batches, links, responses, to_microseconds, wrong_dates
from batch_pipeline.rules import links as rules
from batch_pipeline.rules import steps
from batch_pipeline.rules.links import Kind, LinkKeys, Standing

if TYPE_CHECKING:
    from batch_pipeline.ledger.outbox import RecordBatch

Result = Literal["right", "wrong", "locked", "gone", "limited"]
"""What a date of birth that was tried came to; ``limited``: this network address has to wait, nothing was tried."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a patient has answered so far."""

    answers: str | None = field(repr=False)
    """JSON, as ``questionnaires.answers`` keeps them; ``None`` once they were purged."""
    first_at: datetime
    changed_at: datetime
    completed_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the ledger knows it, with what is needed of its batch."""

    token_hash: str
    batch: str
    patient: str
    workspace: str
    questionnaire: str | None
    spec: str
    kind: Kind
    birth_hash: str | None
    wrong_tries: int
    locked_at: datetime | None
    revoked_at: datetime | None
    opened_at: datetime | None
    downloaded_at: datetime | None
    sent_at: datetime | None
    """When a message with it went last; ``None`` before the first."""
    response: Response | None = None
    """What was answered by it, as it was when the link was found."""

    def ends_at(self, now: datetime) -> datetime:
        """When its life is over: while nothing was sent it doesn't begin."""
        first_answer_at = None if self.response is None else self.response.first_at
        return rules.ends_at(rules.life_of(self.kind, self.questionnaire), self.sent_at or now, first_answer_at)

    def standing(self, now: datetime) -> Standing:
        """What it is at ``now``."""
        return rules.standing(
            revoked=self.revoked_at is not None,
            locked=self.locked_at is not None,
            ends=self.ends_at(now),
            now=now,
        )


@dataclass(frozen=True, slots=True)
class Tried:
    """What a date of birth that was tried came to, and how many more may be."""

    result: Result
    left: int = 0


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a revocation was about."""

    links: int
    """That were open until now."""
    messages: int
    """That were not begun, and are cancelled: a link that opens nothing helps nobody."""


# Making them ---------------------------------------------------------------------------------------------------------


def write(ledger: Ledger, batch: str, kind: Kind, keys: LinkKeys, rows: "Iterable[RecordBatch]", now: datetime) -> int:
    """Makes the links of a plan's patients, before its messages are queued; gives how many. The same again is no change.

    ``rows``: record batches with ``patient`` (keyed hash) and ``date_of_birth``. Each is in a transaction of its own:
    nobody has a link before the outbox is written.
    """
    made = 0
    at = to_microseconds(now)
    for record_batch in rows:
        given: list[tuple[Any, ...]] = []
        for patient, born in zip(
            record_batch.column("patient").to_pylist(), record_batch.column("date_of_birth").to_pylist(), strict=True
        ):
            token_hash = rules.hash_of(rules.token_of(keys, batch, patient))
            birth_hash = None if born is None else rules.birth_hash(keys, token_hash, born)
            given.append((token_hash, batch, patient, kind, at, birth_hash))
        with ledger.write() as connection:
            upsert_many(connection, links, _MADE, given, key="token_hash", renewed=("birth_hash", "kind"))
        made += len(given)
    return made


_MADE = ("token_hash", "batch", "patient", "kind", "made_at", "birth_hash")


def completer(keys: LinkKeys, batch: str) -> Callable[[Message], Message]:
    """Puts each patient's own address into a message of a batch that is about to be posted: the same one each time."""

    def complete(message: Message) -> Message:
        if rules.PLACEHOLDER not in message.text:
            return message
        return message._replace(text=rules.completed(message.text, rules.token_of(keys, batch, message.patient)))

    return complete


# Opening them --------------------------------------------------------------------------------------------------------

_BRING_LINKS = (steps.PRIMARY, steps.FALLBACK)
"""A reminder tells of the link that there is: it makes its life no longer."""
_SENT_AT = (
    sa.select(sa.func.max(attempts.c.begun_at))
    .where(attempts.c.batch == links.c.batch, attempts.c.patient == links.c.patient, attempts.c.step.in_(_BRING_LINKS))
    .scalar_subquery()
)
_ANSWERED = tuple(responses.c[name] for name in ("answers", "first_at", "changed_at", "completed_at", "version"))
_FIND = (
    sa.select(
        links.c.token_hash,
        links.c.batch,
        links.c.patient,
        batches.c.workspace,
        batches.c.questionnaire,
        batches.c.spec,
        links.c.kind,
        links.c.birth_hash,
        links.c.wrong_tries,
        links.c.locked_at,
        sa.func.coalesce(links.c.revoked_at, batches.c.links_revoked_at).label("revoked_at"),
        links.c.opened_at,
        links.c.downloaded_at,
        _SENT_AT.label("sent_at"),
        *_ANSWERED,
    )
    .select_from(
        links.join(batches, batches.c.batch == links.c.batch).outerjoin(
            responses, sa.and_(responses.c.batch == links.c.batch, responses.c.patient == links.c.patient)
        )
    )
    .where(links.c.token_hash == sa.bindparam("of_hash"))
)
_FIND_LOCKED = _FIND.with_for_update(of=links)


def find(connection: sa.Connection, token_hash: str, *, lock: bool = False) -> Link | None:
    """The link of a token's hash. ``lock``: nobody else tries it in this transaction."""
    row = connection.execute(_FIND_LOCKED if lock else _FIND, {"of_hash": token_hash}).one_or_none()
    if row is None:
        return None
    mine, answered = row[: -len(_ANSWERED)], row[-len(_ANSWERED) :]
    return Link(*mine) if row.version is None else Link(*mine, response=Response(*answered))


def try_date(connection: sa.Connection, token_hash: str, birth_hash: str, address: str, now: datetime) -> Tried:
    """Tries a date of birth at a link; ``address`` is a keyed hash of the network address it came from.

    The fifth wrong one locks the link; ``due.ended_unreported`` sees to it that the batch's reports say so. A right one
    lets the count begin anew, and those before it count no more for the address either. Nothing of the batch is locked
    here: whoever revokes has it, and waits for the link.
    """
    if _wrong_from(connection, address, now) >= rules.WRONG_BY_ADDRESS:
        return Tried("limited")
    link = find(connection, token_hash, lock=True)
    standing = "gone" if link is None else link.standing(now)
    if link is None or standing == "gone":
        return Tried("gone")
    if standing == "locked":
        return Tried("locked")
    if link.birth_hash is not None and hmac.compare_digest(link.birth_hash, birth_hash):
        _open(connection, link, address, now)
        return Tried("right", rules.MOST_WRONG)
    return _count_wrong(connection, link, address, now)


def _open(connection: sa.Connection, link: Link, address: str, now: datetime) -> None:
    if link.opened_at is None or link.wrong_tries:
        _set(connection, link.token_hash, opened_at=link.opened_at or now, wrong_tries=0)
    if link.wrong_tries:  # they were a patient's own: others behind the same address needn't wait for them
        mine = sa.select(wrong_dates.c.id).where(wrong_dates.c.address == address).order_by(wrong_dates.c.id.desc())
        some = mine.limit(link.wrong_tries).with_for_update(skip_locked=True)
        connection.execute(sa.delete(wrong_dates).where(wrong_dates.c.id.in_(some)))


def _count_wrong(connection: sa.Connection, link: Link, address: str, now: datetime) -> Tried:
    tries = link.wrong_tries + 1
    locks = tries >= rules.MOST_WRONG
    _set(connection, link.token_hash, wrong_tries=tries, locked_at=now if locks else None)
    _note_wrong(connection, address, now)
    return Tried("locked") if locks else Tried("wrong", rules.MOST_WRONG - tries)


def _wrong_from(connection: sa.Connection, address: str, now: datetime) -> int:
    return connection.scalar(_WRONG_FROM, {"from_address": address, "since": now - rules.WRONG_WITHIN}) or 0


_WRONG_FROM = sa.select(sa.func.count()).where(
    wrong_dates.c.address == sa.bindparam("from_address"), wrong_dates.c.tried_at > sa.bindparam("since")
)


def _note_wrong(connection: sa.Connection, address: str, now: datetime) -> None:
    """With that, those that count no more are forgotten. Who else is at it is passed over."""
    connection.execute(sa.insert(wrong_dates).values(address=address, tried_at=now))
    over = sa.select(wrong_dates.c.id).where(wrong_dates.c.tried_at <= now - rules.WRONG_WITHIN)
    connection.execute(sa.delete(wrong_dates).where(wrong_dates.c.id.in_(over.with_for_update(skip_locked=True))))


def note_download(connection: sa.Connection, token_hash: str, now: datetime) -> None:
    """Notes that a patient has fetched the attachment; the first time counts."""
    first = sa.and_(links.c.token_hash == token_hash, links.c.downloaded_at.is_(None))
    connection.execute(sa.update(links).where(first).values(downloaded_at=now))


def _set(connection: sa.Connection, token_hash: str, **values: Any) -> None:
    connection.execute(sa.update(links).where(links.c.token_hash == token_hash).values(**values))


# What people decide about them ---------------------------------------------------------------------------------------


def revoke(connection: sa.Connection, batch: str, lines: Collection[int], by: str, now: datetime) -> Revoked:
    """Revokes the links of a batch, those made later too, or of some of its lines: at once and for ever.

    What isn't begun of their messages is cancelled, and no text follows any more. Revoking again changes nothing.
    ``Refused`` for a batch without links, and for a line that has none.
    """
    known = batches_.get(connection, batch, lock=True)
    revoked = _revoke_lines(connection, batch, lines, now) if lines else _revoke_all(connection, known, now)
    if revoked or not (lines or known.links_revoked_at):
        audit.record(connection, now, by, "revoke", batch, {"lines": sorted(lines), "links": revoked})
    messages = withdraw_revoked(connection, batch, now)
    if revoked or messages:
        batches_.mark_changed(connection, batch)
    return Revoked(revoked, messages)


def _revoke_all(connection: sa.Connection, known: batches_.Batch, now: datetime) -> int:
    mine = links.c.batch == known.batch
    if not connection.scalar(sa.select(sa.exists().where(mine))):
        raise Refused(
            f"batch {known.batch} has no links: nothing of it is queued with one; to keep it from going out at all, cancel it"
        )
    if known.links_revoked_at is not None:
        return 0
    connection.execute(sa.update(batches).where(batches.c.batch == known.batch).values(links_revoked_at=now))
    return connection.scalar(sa.select(sa.func.count()).where(mine, links.c.revoked_at.is_(None))) or 0


def _revoke_lines(connection: sa.Connection, batch: str, lines: Collection[int], now: datetime) -> int:
    patients = _patients_of(connection, batch, lines)
    chosen = sa.and_(links.c.batch == batch, links.c.patient.in_(patients.values()), links.c.revoked_at.is_(None))
    return connection.execute(sa.update(links).where(chosen).values(revoked_at=now)).rowcount


def _patients_of(connection: sa.Connection, batch: str, lines: Collection[int]) -> dict[int, str]:
    """Whose links are those of these lines. ``Refused`` for a line without one."""
    query = (
        sa.select(attempts.c.line, attempts.c.patient)
        .join(links, sa.and_(links.c.batch == attempts.c.batch, links.c.patient == attempts.c.patient))
        .where(attempts.c.batch == batch, attempts.c.step == "primary")
        .where(one_of(connection, attempts.c.line, sorted(lines)))
    )
    found = {row.line: row.patient for row in connection.execute(query)}
    if missing := sorted(set(lines) - found.keys()):
        raise Refused(f"batch {batch}: line {missing[0]} has no link: give the line of a recipient as in the reports")
    return found


def withdraw_revoked(connection: sa.Connection, batch: str, now: datetime) -> int:
    """Cancels what isn't begun of a batch's messages whose links are revoked; gives how many.

    What was to follow is taken back, texts and reminders: the next sweep ends it, and says why.
    """
    revoked = sa.select(links.c.patient).where(links.c.batch == batch, links.c.revoked_at.is_not(None))
    every = connection.scalar(sa.select(batches.c.links_revoked_at).where(batches.c.batch == batch)) is not None
    if not every and connection.scalar(revoked.limit(1)) is None:
        return 0
    unsent = sa.and_(attempts.c.batch == batch, attempts.c.step == "primary", sa.text(UNSENT))
    whose = sa.true() if every else attempts.c.patient.in_(revoked)
    chunks.take_back_fallbacks(connection, batch, whose)
    reminders.take_back(connection, batch, whose)
    return connection.execute(sa.update(attempts).where(unsent, whose).values(cancelled_at=now)).rowcount


def is_revoked() -> sa.ColumnElement[bool]:
    """SQL condition on a row of ``attempts``: its patient's link, or the whole batch's, is revoked."""
    by_itself = sa.exists().where(
        links.c.batch == attempts.c.batch, links.c.patient == attempts.c.patient, links.c.revoked_at.is_not(None)
    )
    with_its_batch = sa.exists().where(batches.c.batch == attempts.c.batch, batches.c.links_revoked_at.is_not(None))
    return sa.or_(by_itself, with_its_batch)


def unlock(connection: sa.Connection, batch: str, line: int, by: str, now: datetime) -> bool:
    """Lets a patient try again whose link is locked; false when it isn't.

    ``Refused`` for a line without a link, and for a link that would open no more.
    """
    batches_.get(connection, batch, lock=True)
    patient = _patients_of(connection, batch, [line])[line]
    mine = sa.select(links.c.token_hash).where(links.c.batch == batch, links.c.patient == patient)
    link = find(connection, connection.execute(mine).scalar_one(), lock=True)
    if link is None or link.standing(now) == "gone":
        raise Refused(
            f"batch {batch}, line {line}: the link opens no more, as it was revoked or its time is over: reach the patient "
            "another way"
        )
    if link.locked_at is None:
        return False
    _set(connection, link.token_hash, locked_at=None, wrong_tries=0)
    audit.record(connection, now, by, "unlock", batch, {"line": line})
    batches_.mark_changed(connection, batch)
    return True


def locked(connection: sa.Connection, batch: str) -> list[tuple[int, datetime]]:
    """The lines whose links are locked, with when that was; revoked ones no longer count."""
    query = (
        sa.select(attempts.c.line, links.c.locked_at)
        .join(attempts, sa.and_(attempts.c.batch == links.c.batch, attempts.c.patient == links.c.patient))
        .join(batches, batches.c.batch == links.c.batch)
        .where(links.c.batch == batch, links.c.locked_at.is_not(None), links.c.revoked_at.is_(None))
        .where(attempts.c.step == "primary", batches.c.links_revoked_at.is_(None))
        .order_by(attempts.c.line)
    )
    return [(row.line, row.locked_at) for row in connection.execute(query)]
