"""Noticing that the ledger was restored from a copy, and putting back what it has forgotten (SPEC 2.7).

The ledger remembers how far it has looked at each file of the claims journal. A restored ledger goes back in time
with what it remembers, so the lines that it has forgotten are those that it looks at again. A chunk that is told of in
them and that it doesn't have was posted, or about to be, after the copy was taken.

What was forgotten is put back as it was at that moment: the messages under their old references, in their old chunk,
open, with its lease over. The dispatcher then finishes it as any chunk that a process left behind: its provider gets
it again under the same reference, or is asked, or a person is.

What was decided (a pause, a cancellation) can't be put back. That a decision was forgotten is noticed by the audit,
whose last entry is noted beside the journal; people then decide again.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, controls, reminders
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger.controls import RESTORED, Hold
from batch_pipeline.ledger.dialects import insert, lock_in_order, one_of_texts, queue_for, serving_since
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.journal import Entry, Journal, Noted, day_of
from batch_pipeline.ledger.lost import Lost, Message, lost_of
from batch_pipeline.ledger.tables import EPOCH, attempts, batches, chunks, facts, to_microseconds
from batch_pipeline.ledger.tables import audit as audit_
from batch_pipeline.rules import steps
from batch_pipeline.rules.policy import reminder_policy
from batch_pipeline.rules.reminders import next_day

_ID, _KEY, _PRUNED, _LOOKED_AT = "ledger_id", "hash_key", "journal_pruned", "journal/"
_ENTRY = (audit_.c.id, audit_.c.at, audit_.c.action)
_WAITING = sa.and_(chunks.c.settled_at.is_(None), chunks.c.waiting)
_END_WAITING = sa.update(chunks).where(_WAITING).values(waiting=sa.false())
_AT_ONCE = 500
"""References named in one statement: databases bound the number of parameters."""
_DAYS_TO_BE_SURE = 2
"""Days with a file: of one alone the clock may have been wrong."""
APART = "/apart"
"""What is added to a chunk's reference for those of its messages that can't be posted as they were."""


# Who writes the journal ----------------------------------------------------------------------------------------------


class Writer(NamedTuple):
    """What each line of a ledger's journal is signed with."""

    ledger: str
    key: str


def writer(ledger: Ledger, journal: Journal) -> Writer:
    """The ledger's own signature.

    A ledger that has none yet takes that of the journal, if there is one: then it is older than what that tells first.
    ``Refused`` for a journal of several ledgers.
    """
    with ledger.read() as connection:
        known = _facts(connection, _ID, _KEY)
    if _ID in known:
        return Writer(known[_ID], known.get(_KEY, ""))
    found = _ledgers_of(journal)
    if len(found) > 1:
        raise Refused(_foreign(journal))
    mine = found.pop() if found else uuid4().hex
    with ledger.write() as connection:
        connection.execute(insert(connection, facts).values(name=_ID, value=mine).on_conflict_do_nothing())
        return Writer(_facts(connection, _ID)[_ID], known.get(_KEY, ""))


def _ledgers_of(journal: Journal) -> set[str]:
    firsts = (islice((read.entry for read in journal.read(name, 0) if read.entry), 1) for name in journal.files())
    decided = journal.decided.partition(" ")[0]
    return {entry.ledger for some in firsts for entry in some} | ({decided} if decided else set())


def _foreign(journal: Journal) -> str:
    return (
        f"the claims journal {journal.folder} is another ledger's: set LEDGER_URL or BATCH_PIPELINE_CLAIMS right, or, if "
        "this ledger is a new one for other batches, give it another folder"
    )


def _facts(connection: sa.Connection, *names: str) -> dict[str, str]:
    rows = connection.execute(sa.select(facts.c.name, facts.c.value).where(facts.c.name.in_(names)))
    return {row.name: row.value for row in rows}


def _set_fact(connection: sa.Connection, name: str, value: str) -> None:
    row = insert(connection, facts).values(name=name, value=value)
    connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"value": row.excluded.value}))


# Looking -------------------------------------------------------------------------------------------------------------


@dataclass
class Looked:
    """What was seen of the journal from where the ledger had looked last."""

    ends: dict[str, int] = field(default_factory=dict[str, int])
    """By file, how far it was read now."""
    missing: set[str] = field(default_factory=set[str])
    """Chunks that the ledger doesn't have."""
    batches: set[str] = field(default_factory=set[str])
    """Theirs."""
    faults: list[str] = field(default_factory=list[str])
    """What of the journal is gone or can't be read: there what was forgotten can't be known."""
    posted: set[str] = field(default_factory=set[str])
    """Chunks that the ledger calls waiting for their first post, all the same."""
    servers: set[datetime | None] = field(default_factory=set[datetime | None])
    """Which database servers it was compared with: one that took over may have forgotten what another knew."""
    undecided: bool = False
    """The ledger has forgotten what was decided."""

    @property
    def whole(self) -> bool:
        """Nothing tells that the ledger has forgotten anything."""
        return not (self.missing or self.faults or self.undecided)


def look(ledger: Ledger, journal: Journal, now: datetime, *, keep: timedelta) -> Hold | None:
    """Holds the ledger if the journal tells that it was restored from a copy; gives the hold that stands.

    A line that was looked at isn't looked at again; files older than ``keep`` are thrown away. ``Refused`` for a
    journal that isn't this ledger's.
    """
    mine = writer(ledger, journal)
    with ledger.read() as connection:
        standing = controls.held(connection)
    if standing is not None:
        return standing
    looked = _look(ledger, journal, mine)
    if not looked.whole:
        return _hold(ledger, looked, now)
    _remember(ledger, journal, looked)
    _note_decision(ledger, journal, mine)
    _prune(ledger, journal, keep)
    return None


def _hold(ledger: Ledger, looked: Looked, now: datetime) -> Hold:
    """No chunk waits for its first post any more: that was so when the copy was taken."""
    with ledger.write() as connection:
        connection.execute(_END_WAITING)
        return controls.hold(connection, _because(looked), now)


def _because(looked: Looked) -> str:
    what, mend = looked.faults[:3], "`batch-pipeline reconcile --by NAME` puts back what can be"
    if what:
        mend = (
            "put the journal back (is its disk mounted? do all machines that send share the folder "
            "BATCH_PIPELINE_CLAIMS?), then `batch-pipeline reconcile --by NAME`"
        )
    if looked.missing:
        what.insert(
            0,
            f"the claims journal has {len(looked.missing):,} chunks that the ledger doesn't know (batches "
            f"{_some(looked.batches)}), so it was restored from a copy and has forgotten what was sent",
        )
    if looked.undecided:
        what.append(
            "the ledger was restored from a copy and has forgotten what was decided since (pauses, cancellations, revoked links)"
        )
        mend += "; then decide that again, before `batch-pipeline resume --all --by NAME`"
    return f"{'; '.join(what)}: {mend}"


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5:,} more" if len(ordered) > 5 else "")


def _look(ledger: Ledger, journal: Journal, mine: Writer) -> Looked:
    looked = Looked(faults=_gone(ledger, journal), undecided=_is_undecided(ledger, journal, mine))
    server, known = _standing(ledger)
    looked.servers.add(server)
    _look_from(known, ledger, journal, mine, looked)
    return looked


def _look_from(starts: Mapping[str, int], ledger: Ledger, journal: Journal, mine: Writer, looked: Looked) -> None:
    for name, size in journal.files().items():
        start = starts.get(name, 0)
        if size > start:
            _look_at(ledger, journal, mine, name, start, looked)


def _standing(ledger: Ledger) -> tuple[datetime | None, dict[str, int]]:
    """Which server has the ledger now, and by file, how far it has looked, as far as that one knows."""
    with ledger.read() as connection:
        return connection.scalar(sa.select(serving_since(connection.dialect.name))), _looked_at(connection)


class _Post(NamedTuple):
    """As much of a line as is kept of many: its messages may be a million."""

    batch: str
    chunk: str


def _look_at(ledger: Ledger, journal: Journal, mine: Writer, name: str, start: int, looked: Looked) -> None:
    def told() -> Iterator[_Post]:
        for read in journal.read(name, start):
            looked.ends[name] = read.end
            if read.entry is None:
                looked.faults.append(
                    f"{name} of the claims journal is damaged before byte {read.end:,}: see docs/backups.md"
                )
                continue
            _refuse_others(journal, mine, read.entry)
            if read.entry.kind == "posted":
                yield _Post(read.entry.batch, read.entry.chunk)

    entries = told()
    # The lines first, then the ledger: what a line tells of was committed before it was written.
    while some := list(islice(entries, _AT_ONCE)):
        with ledger.read() as connection:
            rows = _known(connection, {post.chunk for post in some})
        known = {row.reference: row.waiting for row in rows}
        looked.servers |= {row.server for row in rows}
        missing = {post.chunk for post in some} - known.keys()
        looked.missing |= missing
        looked.batches |= {post.batch for post in some if post.chunk in missing}
        looked.posted |= {post.chunk for post in some if known.get(post.chunk)}


class Watch:
    """Sees, while a dispatch runs, that the ledger went back under it: a server failed over to one that lags behind.

    Whoever has forgotten a chunk would claim its messages anew; the journal has had its line since before it was posted.
    Any number of threads may use it.
    """

    def __init__(self, ledger: Ledger, journal: Journal) -> None:
        self.writer = writer(ledger, journal)
        self._ledger, self._journal = ledger, journal
        self._server, self._began = _standing(ledger)
        self._ends = dict(self._began)
        self._lock = threading.Lock()

    def missing(self) -> set[str]:
        """Chunks of the lines that are new since it was asked last, by whichever process, and that the ledger doesn't have.

        Where another server has the ledger by now: of all lines that are new to that one.
        """
        with self._lock:
            looked = self._look()
            if looked.servers != {self._server}:
                self._server, self._ends = _standing(self._ledger)
                looked = self._look()
            if looked.servers != {self._server}:
                raise Refused(
                    "the ledger's server changes all the time: let LEDGER_URL name one, the one that is written to"
                )
            if not looked.missing:
                self._ends |= looked.ends
        return looked.missing

    def _look(self) -> Looked:
        looked = Looked()
        _look_from(self._ends, self._ledger, self._journal, self.writer, looked)
        if not looked.servers:
            looked.servers.add(_standing(self._ledger)[0])
        return looked

    def knows(self, chunk: str) -> bool:
        """Whether a line tells of a post of that chunk, since the ledger was looked over before this dispatch.

        Since it was looked over at all, as far as it knows, if it went back to before that.
        """
        _, known = _standing(self._ledger)
        return any(
            read.entry is not None and read.entry.kind == "posted" and read.entry.chunk == chunk
            for name, size in self._journal.files().items()
            if size > (start := min(self._began.get(name, 0), known.get(name, 0)))
            for read in self._journal.read(name, start)
        )


@cache
def _known_statement(dialect: str) -> sa.Executable:
    columns = (chunks.c.reference, _WAITING.label("waiting"), serving_since(dialect).label("server"))
    return sa.select(*columns).where(chunks.c.reference.in_(sa.bindparam("of_these", expanding=True)))


def _known(connection: sa.Connection, references: set[str]) -> Sequence[sa.Row[Any]]:
    """Those of these chunks that the ledger has, whether they wait, and which server says so."""
    return connection.execute(_known_statement(connection.dialect.name), {"of_these": list(references)}).all()


def _refuse_others(journal: Journal, mine: Writer, entry: Entry) -> None:
    if entry.ledger != mine.ledger:
        raise Refused(_foreign(journal))
    if mine.key and entry.key and entry.key != mine.key:
        raise Refused(
            f"the claims journal {journal.folder} was written with another hash key, so nobody could tell who was sent "
            "to already: put the old hash.key (or BATCH_PIPELINE_HASH_KEY) back"
        )


class _Seen(NamedTuple):
    """How far the ledger has looked at a file, and on which day it last saw something new there."""

    end: int
    day: str


def _seen(connection: sa.Connection) -> dict[str, _Seen]:
    query = sa.select(facts.c.name, facts.c.value).where(facts.c.name.startswith(_LOOKED_AT, autoescape=True))
    found = dict[str, _Seen]()
    for row in connection.execute(query):
        name, (end, _, day) = row.name.removeprefix(_LOOKED_AT), row.value.partition(" ")
        found[name] = _Seen(int(end), day or day_of(name))
    return found


def _looked_at(connection: sa.Connection) -> dict[str, int]:
    """By file, how far the ledger has looked."""
    return {name: seen.end for name, seen in _seen(connection).items()}


def _gone(ledger: Ledger, journal: Journal) -> list[str]:
    """What the ledger has looked at and isn't there any more, or was thrown away by a later ledger than this one."""
    # Another may be throwing files away at the same time: not at two looks.
    return _not_there(ledger, journal) and _not_there(ledger, journal)


def _not_there(ledger: Ledger, journal: Journal) -> list[str]:
    """Of what a later ledger threw away nothing is forgotten, if all of it was seen before this one's newest file began."""
    with ledger.read() as connection:
        seen, through = _seen(connection), _facts(connection, _PRUNED).get(_PRUNED, "")
    sizes, pruned = journal.files(), journal.pruned
    if through < pruned >= max(map(day_of, seen), default=""):
        return [f"the ledger is older than what the claims journal {journal.folder} remembers"]
    gone = [
        name
        for name, file in seen.items()
        if (sizes[name] < file.end if name in sizes else pruned < _last_day(name, file))
    ]
    if gone:
        return [f"of the claims journal {journal.folder} {len(gone):,} files are gone or shorter than they were"]
    return []


def _last_day(name: str, file: _Seen) -> str:
    """On which day something new was in a file, at the latest: its own may be of a clock that was far behind."""
    return max(day_of(name), file.day)


def _remember(ledger: Ledger, journal: Journal, looked: Looked) -> None:
    """Unless another server has the ledger since: then it is looked at again, as that one may have forgotten more."""
    if not looked.ends:
        return
    with ledger.write() as connection:
        if looked.servers != {connection.scalar(sa.select(serving_since(connection.dialect.name)))}:
            return
        for some in _slices(sorted(looked.posted)):
            connection.execute(_END_WAITING.where(chunks.c.reference.in_(some)))
        _set_ends(connection, journal, looked.ends)


def _set_ends(connection: sa.Connection, journal: Journal, ends: Mapping[str, int]) -> None:
    day = max([_today(journal), *map(day_of, journal.files())])
    for name, end in ends.items():
        _set_fact(connection, f"{_LOOKED_AT}{name}", f"{end} {day}")


def _today(journal: Journal) -> str:
    return journal.wall().date().isoformat()


def _prune(ledger: Ledger, journal: Journal, keep: timedelta) -> None:
    """Throws away files in which the ledger has seen nothing new for ``keep``. It knows so first.

    From the last day but one that has a file and isn't to come yet: a clock that was far ahead once makes nothing old.
    Nor is a file old that was begun by one far behind: it counts from when it was seen.
    """
    days = sorted({day for name in journal.files() if (day := day_of(name)) <= _today(journal)})
    if len(days) < _DAYS_TO_BE_SURE:
        return
    oldest = (date.fromisoformat(days[-_DAYS_TO_BE_SURE]) - keep).isoformat()
    with ledger.read() as connection:
        last_days = {name: _last_day(name, file) for name, file in _seen(connection).items()}
    old = [name for name, day in last_days.items() if day < oldest]
    if not old:
        return
    with ledger.write() as connection:
        known = _facts(connection, _PRUNED).get(_PRUNED, "")
        through = max(known, *(last_days[name] for name in old))
        connection.execute(sa.delete(facts).where(facts.c.name.in_([f"{_LOOKED_AT}{name}" for name in old])))
        _set_fact(connection, _PRUNED, through)
    journal.discard(old, through)


# What was decided ----------------------------------------------------------------------------------------------------


def _is_undecided(ledger: Ledger, journal: Journal, mine: Writer) -> bool:
    """Whether the ledger doesn't know of the decision that is noted beside its journal."""
    whose, _, noted = journal.decided.partition(" ")
    with ledger.read() as connection:
        return whose == mine.ledger and not _has_decision(connection, noted)


def note_decision(ledger: Ledger, journal: Journal) -> None:
    """Notes what was decided last, where the journal is known to be this ledger's and has nothing that it has forgotten.

    Who only decides, on a machine that sends nothing, may have a folder of its own: nothing is held because of that.
    """
    mine = writer(ledger, journal)
    if not _gone(ledger, journal) and not _is_undecided(ledger, journal, mine):
        _note_decision(ledger, journal, mine)


def _note_decision(ledger: Ledger, journal: Journal, mine: Writer) -> None:
    """Notes the last one, unless a later one has been noted meanwhile.

    Where it can't be noted nothing can be posted either, and that is told then.
    """
    last = _last_decision(ledger)
    whose, _, noted = journal.decided.partition(" ")
    if last is not None and (whose != mine.ledger or _number(noted) < _number(last)):
        with suppress(OSError):
            journal.note_decided(f"{mine.ledger} {last}")


def _note_anew(ledger: Ledger, journal: Journal, mine: Writer) -> None:
    """Notes the last one that the ledger has, in place of those that it has forgotten."""
    last = _last_decision(ledger)
    if last is not None:
        journal.note_decided(f"{mine.ledger} {last}")


def _number(decision: str) -> int:
    return int(decision.partition(" ")[0])


def _last_decision(ledger: Ledger) -> str | None:
    """Names the last entry of the audit, which only grows. After a restore the same number is given to another entry."""
    with ledger.read() as connection:
        row = connection.execute(sa.select(*_ENTRY).order_by(audit_.c.id.desc()).limit(1)).one_or_none()
    return None if row is None else _named(row)


def _has_decision(connection: sa.Connection, noted: str) -> bool:
    row = connection.execute(sa.select(*_ENTRY).where(audit_.c.id == _number(noted))).one_or_none()
    return row is not None and _named(row) == noted


def _named(row: sa.Row[Any, Any, Any]) -> str:
    return f"{row.id} {to_microseconds(row.at)} {row.action}"


# Putting back --------------------------------------------------------------------------------------------------------


class Astray(NamedTuple):
    """A message that a person has to look at; nothing personal."""

    batch: str
    line: int
    step: str
    chunk: str


@dataclass
class PutBack:
    """What was put back."""

    chunks: int = 0
    messages: int = 0
    apart: list[Astray] = field(default_factory=list[Astray])
    """That the ledger has no longer as they were posted: unconfirmed."""
    kept: list[Astray] = field(default_factory=list[Astray])
    """That the ledger knows to have been sent in another chunk too: perhaps twice."""
    waiting: dict[str, int] = field(default_factory=dict[str, int])
    """Batches without an outbox, and how many chunks of theirs wait for it."""
    faults: list[str] = field(default_factory=list[str])
    """What of the journal is gone or can't be read."""
    released: bool = False
    """The ledger is whole."""


def put_back(ledger: Ledger, journal: Journal, by: str, now: datetime) -> PutBack:
    """Puts back every chunk that can be, each wholly or not at all; lifts the hold if that is all.

    Done again, it does the rest. A person's word that the journal is lost isn't lifted so. What nobody has looked at yet
    is held first: all stays paused until a person resumes it, here too.
    """
    mine = writer(ledger, journal)
    looked = _look(ledger, journal, mine)
    if not looked.whole:
        _hold(ledger, looked, now)
    done = PutBack(faults=looked.faults)
    for some in _together(_lost(ledger, journal, looked.missing)):
        with ledger.write() as connection:
            written = _lock(connection, some)
            for lost in some:
                if lost.entry.batch in written:
                    _put_back(connection, lost, by, now, done)
                elif lost.messages:
                    done.waiting[lost.entry.batch] = done.waiting.get(lost.entry.batch, 0) + 1
    with ledger.read() as connection:
        hold = controls.held(connection)
    if not (done.waiting or done.faults or (hold is not None and hold.by is not None)):
        _note_anew(ledger, journal, mine)
        looked = _look(ledger, journal, mine)
        if looked.whole:
            _remember(ledger, journal, looked)
            _release(ledger, by, now)
        done.faults, done.released = looked.faults, looked.whole
    return done


def _lock(connection: sa.Connection, some: Sequence[Lost]) -> set[str]:
    """Which batches of these chunks have an outbox. They are locked, then their messages, each in everybody's order."""
    names = sorted({lost.entry.batch for lost in some})
    for name in names:
        queue_for(connection, name, shared=False)
    standing = sa.select(batches.c.batch).where(batches.c.batch.in_(names), batches.c.applied_plan.is_not(None))
    written = set(connection.scalars(standing.order_by(batches.c.batch).with_for_update()))
    told = [message for lost in some for message in lost.messages]
    references = [noted.reference for lost in some for noted in lost.messages.values()]
    mine = (
        sa.and_(
            attempts.c.batch == name,
            one_of_texts(
                connection, attempts.c.patient, [message.patient for message in told if message.batch == name]
            ),
        )
        for name in written
    )
    rows = sa.or_(one_of_texts(connection, attempts.c.reference, references), *mine)
    lock_in_order(connection, attempts, sa.select(attempts.c.id).where(rows))
    return written


def _together(lost: Iterable[Lost]) -> Iterator[list[Lost]]:
    """Chunks for one transaction: a million of one message each would take hours otherwise."""
    some, messages = list[Lost](), 0
    for each in lost:
        some.append(each)
        messages += len(each.messages) + 1
        if messages >= _AT_ONCE:
            yield some
            some, messages = [], 0
    if some:
        yield some


def _release(ledger: Ledger, by: str, now: datetime) -> None:
    with ledger.write() as connection:
        if controls.held(connection) is not None:
            controls.release(connection, by, now)


def begin_anew(ledger: Ledger, journal: Journal, by: str, now: datetime) -> None:
    """Lifts the hold of a ledger whose journal is lost, or has to be done without; from now on it counts as whole."""
    mine = writer(ledger, journal)
    looked = _look(ledger, journal, mine)
    with ledger.write() as connection:
        known = _looked_at(connection)
        ends = {name: looked.ends.get(name, min(known.get(name, 0), size)) for name, size in journal.files().items()}
        connection.execute(_END_WAITING)
        connection.execute(sa.delete(facts).where(facts.c.name.startswith(_LOOKED_AT, autoescape=True)))
        _set_fact(connection, _PRUNED, max(journal.pruned, _facts(connection, _PRUNED).get(_PRUNED, "")))
        _set_ends(connection, journal, ends)
    _note_anew(ledger, journal, mine)
    _release(ledger, by, now)


def _lost(ledger: Ledger, journal: Journal, missing: set[str]) -> Iterator[Lost]:
    """The forgotten chunks, from where the ledger has looked last."""
    return lost_of(entry for entry in _unlooked(ledger, journal) if entry.chunk in missing)


def _unlooked(ledger: Ledger, journal: Journal) -> Iterator[Entry]:
    _, known = _standing(ledger)
    for name, size in journal.files().items():
        if size > known.get(name, 0):
            yield from (read.entry for read in journal.read(name, known.get(name, 0)) if read.entry)


@dataclass
class _Sorted:
    """A chunk's messages, by what can be done for them."""

    fitting: list[tuple[int, Noted]] = field(default_factory=list[tuple[int, Noted]])
    """With their attempts: as they were posted, or as a new plan has them by the same channel."""
    other: list[tuple[int, Noted]] = field(default_factory=list[tuple[int, Noted]])
    """A later plan sends them by another channel: they can't be posted as they were."""
    new: list[tuple[Message, Noted]] = field(default_factory=list[tuple[Message, Noted]])
    """No attempt of theirs is there."""
    kept: list[Noted] = field(default_factory=list[Noted])
    moved: dict[str, int] = field(default_factory=dict[str, int])
    """How many are taken out of which open chunk."""


def _put_back(connection: sa.Connection, lost: Lost, by: str, now: datetime, done: PutBack) -> None:
    entry = lost.entry
    if _known(connection, {entry.chunk}):
        return
    if entry.step == steps.FALLBACK:
        _queue_fallbacks(connection, lost)
    elif (day := steps.day_of(entry.step)) is not None:
        _queue_reminders(connection, lost, day)
    sorted_ = _sort(connection, lost)
    apart = [*sorted_.other, *((_insert(connection, lost, each, now), noted) for each, noted in sorted_.new)]
    for chunk, count in sorted_.moved.items():
        connection.execute(
            sa.update(chunks).where(chunks.c.reference == chunk).values(messages=chunks.c.messages - count)
        )
    # Without a message left in it, it is there so that it isn't missed again.
    open_ = {"settled_at": None, "outcome": None} if sorted_.fitting else {"settled_at": now, "outcome": "returned"}
    _insert_chunk(connection, entry, entry.chunk, len(sorted_.fitting), open_)
    _take(connection, entry.chunk, entry, sorted_.fitting, {"unconfirmed_at": None, "cancelled_at": None})
    if apart:
        closed = {"settled_at": now, "outcome": "unconfirmed"}
        _insert_chunk(connection, entry, entry.chunk + APART, len(apart), closed)
        # Not to be sent, whatever a person finds out: nobody knows any more how.
        values = {"unconfirmed_at": now, "cancelled_at": now, "channel": entry.channel, "address_hash": None}
        _take(connection, entry.chunk + APART, entry, apart, values | {"fallback_after": None})
    batches_.mark_changed(connection, entry.batch)
    lines = {
        "apart": sorted(noted.line for _, noted in apart),
        "kept": sorted(noted.line for noted in sorted_.kept),
    }
    detail = {"chunk": entry.chunk, "messages": len(sorted_.fitting), **lines}
    audit.record(connection, now, by, "put_back", entry.batch, detail)
    done.chunks += 1
    done.messages += len(sorted_.fitting)
    done.apart += [Astray(entry.batch, line, entry.step, entry.chunk) for line in lines["apart"]]
    done.kept += [Astray(entry.batch, line, entry.step, entry.chunk) for line in lines["kept"]]


def _insert_chunk(
    connection: sa.Connection, entry: Entry, reference: str, messages: int, state: Mapping[str, Any]
) -> None:
    """Under a lease that is over since long: whoever comes next takes it over."""
    names = ("batch", "step", "channel", "provider", "fence", "claimed_at")
    row = {name: getattr(entry, name) for name in names}
    held = {"messages": messages, "owner": RESTORED, "lease_until": EPOCH}
    connection.execute(sa.insert(chunks), row | held | {"reference": reference} | dict(state))


def _sort(connection: sa.Connection, lost: Lost) -> _Sorted:
    entry, found = lost.entry, _Sorted()
    rows = _attempts(connection, lost)
    for message, noted in lost.messages.items():
        row = rows.get(message.patient)
        if row is None:
            found.new.append((message, noted))
        elif row.chunk is not None and _is_told(row):
            found.kept.append(noted)
        elif row.channel != entry.channel:
            found.other.append((row.id, noted))
        else:
            found.fitting.append((row.id, noted))
        if row is not None and row.chunk is not None and not _is_told(row):
            found.moved[row.chunk] = found.moved.get(row.chunk, 0) + 1
    return found


_TOLD = ("accepted_at", "delivered_at", "read_at", "failed_at")


def _is_told(row: sa.Row[Any]) -> bool:
    return any(getattr(row, name) is not None for name in _TOLD)


def _attempts(connection: sa.Connection, lost: Lost) -> dict[str, sa.Row[Any]]:
    """By patient, the attempts that there are of the chunk's messages."""
    wanted = ("id", "patient", "channel", "chunk", *_TOLD)
    patients = [message.patient for message in lost.messages]
    return {
        row.patient: row
        for some in _slices(patients)
        for row in connection.execute(
            sa.select(*(attempts.c[name] for name in wanted)).where(
                attempts.c.batch == lost.entry.batch,
                attempts.c.step == lost.entry.step,
                attempts.c.patient.in_(some),
            )
        )
    }


def _slices(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))


def _take(
    connection: sa.Connection,
    chunk: str,
    entry: Entry,
    taken: Sequence[tuple[int, Noted]],
    values: Mapping[str, Any],
) -> None:
    """Puts attempts into a chunk, under the references by which the provider knows them."""
    if not taken:
        return
    wanted = {number: noted.reference for number, noted in taken}
    others = _free(connection, wanted)
    begun = {"chunk": chunk, "begun_at": entry.claimed_at, "provider": entry.provider}
    begun |= {"held_back_at": None, "expired_at": None}
    which = attempts.c.id == sa.bindparam("which")
    connection.execute(sa.update(attempts).where(which).values(**begun, **values), [{"which": one} for one in wanted])
    named = [{"which": one, "old": reference} for one, reference in wanted.items() if reference not in others]
    if named:
        connection.execute(sa.update(attempts).where(which).values(reference=sa.bindparam("old")), named)


def _free(connection: sa.Connection, wanted: Mapping[int, str]) -> set[str]:
    """Takes these references from whatever has them now by a plan that was made again, and isn't begun.

    Gives those that can't be had: of messages that are begun, and keep theirs for ever.
    """
    taken = set[str]()
    for some in _slices(list(wanted.values())):
        rows = connection.execute(
            sa.select(attempts.c.id, attempts.c.reference, attempts.c.chunk).where(attempts.c.reference.in_(some))
        ).all()
        free = [row.id for row in rows if row.chunk is None or row.id in wanted]
        taken |= {row.reference for row in rows} - {row.reference for row in rows if row.id in free}
        if free:
            connection.execute(
                sa.update(attempts)
                .where(attempts.c.id.in_(free))
                .values(reference=attempts.c.reference.concat(f":{uuid4().hex[:12]}"))
            )
    return taken


def _insert(connection: sa.Connection, lost: Lost, message: Message, now: datetime) -> int:
    """An attempt for a patient whom the batch's plan doesn't have any more; nothing personal is known of it."""
    noted, entry = lost.messages[message], lost.entry
    row = {**message._asdict(), "line": noted.line, "channel": entry.channel, "provider": entry.provider}
    row |= {"reference": f"{noted.reference}:{uuid4().hex[:12]}", "fragments": 0, "queued_at": now}
    connection.execute(sa.insert(attempts), row)
    mine = (attempts.c[name] == value for name, value in message._asdict().items())
    return connection.execute(sa.select(attempts.c.id).where(*mine)).scalar_one()


def _queue_fallbacks(connection: sa.Connection, lost: Lost) -> None:
    """Queues again, from their App messages, the fallbacks that the ledger has forgotten, as far as it can."""
    wanted = ("patient", "line", "nhs_number", "address_hash", "fragments", "policy")
    for some in _slices(list(lost.messages)):
        app_messages = sa.select(
            *(attempts.c[name] for name in wanted), attempts.c.fallback_number, attempts.c.sms_text
        ).where(
            attempts.c.batch == lost.entry.batch,
            attempts.c.step == "primary",
            attempts.c.patient.in_([message.patient for message in some]),
        )
        rows = {row.patient: row for row in connection.execute(app_messages)}
        queued = [
            {name: getattr(rows[message.patient], name) for name in wanted}
            | {
                "batch": message.batch,
                "step": "fallback",
                "channel": lost.entry.channel,
                "provider": lost.entry.provider,
                "reference": f"{lost.messages[message].reference}:{uuid4().hex[:12]}",
                "address": rows[message.patient].fallback_number,
                "text": rows[message.patient].sms_text,
                "queued_at": lost.entry.claimed_at,
            }
            for message in some
            if message.patient in rows and rows[message.patient].fallback_number and rows[message.patient].sms_text
        ]
        if queued:
            connection.execute(insert(connection, attempts).on_conflict_do_nothing(), queued)
        connection.execute(
            sa.update(attempts)
            .where(
                attempts.c.batch == lost.entry.batch,
                attempts.c.step == "primary",
                attempts.c.patient.in_(list(rows)),
                attempts.c.fallback_at.is_(None),
            )
            .values(fallback_at=lost.entry.claimed_at, no_fallback_at=None, no_fallback_because=None)
        )


def _queue_reminders(connection: sa.Connection, lost: Lost, day: int) -> None:
    """Queues again, from the first messages, the reminders that the ledger has forgotten, as far as it can."""
    entry = lost.entry
    questionnaire = batches_.get(connection, entry.batch).questionnaire
    wanted = (attempts.c[name] for name in (*reminders.First._fields, "id", "queued_at", "reminder_day"))
    query = sa.select(*wanted).where(attempts.c.batch == entry.batch, attempts.c.step == steps.PRIMARY)
    for some in _slices(list(lost.messages)):
        patients = [message.patient for message in some]
        rows = connection.execute(query.where(one_of_texts(connection, attempts.c.patient, patients))).all()
        queued: list[Mapping[str, Any]] = []
        days: dict[int, int | None] = {}
        for row in rows:
            policy = reminder_policy(questionnaire, row.queued_at)
            first = reminders.First.of(row)
            content = first.content(entry.channel)
            if policy is None:
                continue
            if row.reminder_day is not None and row.reminder_day <= day:
                days[row.id] = next_day(policy, day)
            if content is not None:
                again = reminders.row_of(
                    first,
                    content,
                    step=entry.step,
                    channel=entry.channel,
                    provider=entry.provider,
                    reference=f"{first.batch}:{first.line}:{uuid4().hex}",
                    policy=policy.id,
                    at=entry.claimed_at,
                )
                queued.append(again)
        reminders.queue(connection, queued)
        reminders.set_days(connection, days)
