"""Noticing that the ledger was restored from a copy, and putting back what it has forgotten (SPEC 2.7).

The ledger remembers how far it has looked at each file of the claims journal. A restored ledger goes back in time
with what it remembers, so the lines that it has forgotten are those that it looks at again. A chunk that is told of in
them and that it doesn't have was posted, or about to be, after the copy was taken.

What was forgotten is put back as it was at that moment: the messages under their old references, in their old chunk,
open, with its lease over. The dispatcher then finishes it as any chunk that a process left behind: its provider gets
it again under the same reference, or is asked, or a person is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, controls
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger.controls import RESTORED, Hold
from batch_pipeline.ledger.dialects import insert
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.journal import Entry, Journal, Noted, day_of
from batch_pipeline.ledger.tables import EPOCH, attempts, batches, chunks, facts

_ID, _KEY, _PRUNED, _LOOKED_AT = "ledger_id", "hash_key", "journal_pruned", "journal/"
_AT_ONCE = 500
"""References named in one statement: databases bound the number of parameters."""
APART = "/apart"
"""What is added to a chunk's reference for those of its messages that can't be posted as they were."""


# Who writes the journal ----------------------------------------------------------------------------------------------


class Writer(NamedTuple):
    """What each line of a ledger's journal is signed with."""

    ledger: str
    key: str


def writer(ledger: Ledger, journal: Journal) -> Writer:
    """The ledger's own signature.

    A ledger that has none yet takes that of the journal, if there is one: then it is older than its first line.
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
    return {entry.ledger for some in firsts for entry in some}


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
    posted: dict[str, bool] = field(default_factory=dict[str, bool])
    """Of the chunks that the ledger calls waiting, whether the last line says that they are about to be posted."""


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
    if looked.missing or looked.faults:
        with ledger.write() as connection:
            _end_waiting(connection)
            return controls.hold(connection, _because(looked), now)
    if any(looked.posted.values()):
        with ledger.write() as connection:
            _end_waiting(connection, [chunk for chunk, is_posted in looked.posted.items() if is_posted])
    _remember(ledger, looked)
    _prune(ledger, journal, keep)
    return None


def _end_waiting(connection: sa.Connection, these: Sequence[str] | None = None) -> None:
    """Lets chunks, or all, be like any that was left open: a copy tells what was so when it was taken."""
    waiting = sa.and_(chunks.c.settled_at.is_(None), chunks.c.waiting)
    for some in [None] if these is None else _slices(these):
        which = waiting if some is None else sa.and_(waiting, chunks.c.reference.in_(some))
        connection.execute(sa.update(chunks).where(which).values(waiting=sa.false()))


def _because(looked: Looked) -> str:
    what, mend = looked.faults[:3], "`batch-pipeline reconcile --by NAME` puts it back"
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
    return f"{'; '.join(what)}: {mend}"


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5:,} more" if len(ordered) > 5 else "")


def _look(ledger: Ledger, journal: Journal, mine: Writer) -> Looked:
    known = _looked_at(ledger)
    looked = Looked(faults=_gone(ledger, journal))
    for name, size in journal.files().items():
        start = known.get(name, 0)
        if size > start:
            _look_at(ledger, journal, mine, name, start, looked)
    return looked


def _look_at(ledger: Ledger, journal: Journal, mine: Writer, name: str, start: int, looked: Looked) -> None:
    def told() -> Iterator[Entry]:
        for read in journal.read(name, start):
            looked.ends[name] = read.end
            if read.entry is None:
                looked.faults.append(f"{name} of the claims journal is damaged before byte {read.end:,}")
                continue
            _refuse_others(journal, mine, read.entry)
            yield read.entry

    entries = told()
    # The lines first, then the ledger: what a line tells of was committed before it was written.
    while some := list(islice(entries, _AT_ONCE)):
        with ledger.read() as connection:
            missing = _unknown(connection, {entry.chunk for entry in some if entry.kind == "posted"})
            waiting = _waiting(connection, {entry.chunk for entry in some})
        looked.missing |= missing
        looked.batches |= {entry.batch for entry in some if entry.chunk in missing}
        looked.posted |= {entry.chunk: entry.kind == "posted" for entry in some if entry.chunk in waiting}


def _unknown(connection: sa.Connection, references: set[str]) -> set[str]:
    known = sa.select(chunks.c.reference).where(chunks.c.reference.in_(references))
    return references - set(connection.scalars(known))


def _waiting(connection: sa.Connection, references: set[str]) -> set[str]:
    open_ = chunks.c.settled_at.is_(None)
    query = sa.select(chunks.c.reference).where(chunks.c.reference.in_(references), open_, chunks.c.waiting)
    return set(connection.scalars(query))


def _refuse_others(journal: Journal, mine: Writer, entry: Entry) -> None:
    if entry.ledger != mine.ledger:
        raise Refused(_foreign(journal))
    if mine.key and entry.key and entry.key != mine.key:
        raise Refused(
            f"the claims journal {journal.folder} was written with another hash key, so nobody could tell who was sent "
            "to already: put the old hash.key (or BATCH_PIPELINE_HASH_KEY) back"
        )


def _looked_at(ledger: Ledger) -> dict[str, int]:
    """By file, how far the ledger has looked."""
    query = sa.select(facts.c.name, facts.c.value).where(facts.c.name.startswith(_LOOKED_AT, autoescape=True))
    with ledger.read() as connection:
        return {row.name.removeprefix(_LOOKED_AT): int(row.value) for row in connection.execute(query)}


def _gone(ledger: Ledger, journal: Journal) -> list[str]:
    """What the ledger has looked at and isn't there any more, or was pruned by a later ledger than this one."""
    sizes, known = journal.files(), _looked_at(ledger)
    gone = {name for name, end in known.items() if sizes.get(name, -1) < end}
    if gone:
        # Begun, or pruned, since the files were listed: what is pruned is first forgotten by the ledger.
        here, there = _looked_at(ledger), journal.files()
        gone = {name for name in gone if name in here and there.get(name, -1) < here[name]}
    if gone:
        return [f"of the claims journal {journal.folder} {len(gone):,} files are gone or shorter than they were"]
    with ledger.read() as connection:
        through = _facts(connection, _PRUNED).get(_PRUNED, "")
    if journal.pruned > through:
        return [f"the ledger is older than what the claims journal {journal.folder} remembers"]
    return []


def _remember(ledger: Ledger, looked: Looked) -> None:
    if looked.ends:
        with ledger.write() as connection:
            for name, end in looked.ends.items():
                _set_fact(connection, f"{_LOOKED_AT}{name}", str(end))


def _prune(ledger: Ledger, journal: Journal, keep: timedelta) -> None:
    """Throws away files that are older than the newest by ``keep``. The ledger knows so first."""
    names = list(journal.files())
    if not names:
        return
    oldest = (date.fromisoformat(day_of(names[-1])) - keep).isoformat()
    old = [name for name in names if day_of(name) < oldest]
    if not old:
        return
    through = day_of(old[-1])
    with ledger.write() as connection:
        connection.execute(sa.delete(facts).where(facts.c.name.in_([f"{_LOOKED_AT}{name}" for name in old])))
        _set_fact(connection, _PRUNED, through)
    journal.discard(old, through)


# Putting back --------------------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """Names a message for good, whatever its reference."""

    batch: str
    step: str
    patient: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A chunk that the ledger has forgotten."""

    entry: Entry
    """That told of it last."""
    messages: Mapping[Message, Noted]
    """Those that were posted in it, and not returned since."""


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

    Done again, it does the rest. A person's word that the journal is lost isn't lifted so.
    """
    mine = writer(ledger, journal)
    looked = _look(ledger, journal, mine)
    done = PutBack(faults=looked.faults)
    for some in _together(_lost(ledger, journal, looked.missing)):
        with ledger.write() as connection:
            for lost in some:
                _put_back(connection, lost, by, now, done)
    with ledger.read() as connection:
        hold = controls.held(connection)
    if not (done.waiting or done.faults or (hold is not None and hold.by is not None)):
        let_go(ledger, looked, by, now)
        done.released = True
    return done


def _together(lost: Iterable[Lost]) -> Iterator[list[Lost]]:
    """Chunks for one transaction: a million of one message each would take hours otherwise."""
    some, messages = list[Lost](), 0
    for each in lost:
        some.append(each)
        messages += len(each.messages) + 1
        if messages >= _AT_ONCE:
            yield some
            some, messages = [], 0
    yield some


def let_go(ledger: Ledger, looked: Looked, by: str, now: datetime) -> None:
    """Lifts the hold; what was looked at of the journal isn't looked at again."""
    _remember(ledger, looked)
    with ledger.write() as connection:
        if controls.held(connection) is not None:
            controls.release(connection, by, now)


def begin_anew(ledger: Ledger, journal: Journal, by: str, now: datetime) -> None:
    """Lifts the hold of a ledger whose journal is lost, or has to be done without; from now on it counts as whole."""
    looked, known = _look(ledger, journal, writer(ledger, journal)), _looked_at(ledger)
    ends = {name: looked.ends.get(name, min(known.get(name, 0), size)) for name, size in journal.files().items()}
    with ledger.write() as connection:
        _end_waiting(connection)
        connection.execute(sa.delete(facts).where(facts.c.name.startswith(_LOOKED_AT, autoescape=True)))
        _set_fact(connection, _PRUNED, max(journal.pruned, _facts(connection, _PRUNED).get(_PRUNED, "")))
    let_go(ledger, Looked(ends=ends), by, now)


def _lost(ledger: Ledger, journal: Journal, missing: set[str]) -> list[Lost]:
    """The forgotten chunks, first messages before fallbacks, each in the order it was claimed.

    A message is in the chunk in which it was posted and from which it wasn't returned: of each holder's lines about a
    chunk the last counts, and a later holder's before an earlier one's.
    """
    posted: dict[str, Entry] = {}
    messages: dict[str, dict[Message, Noted]] = {}
    returned: dict[tuple[str, Message], int] = {}
    for entry in _forgotten_lines(ledger, journal, missing):
        told = {Message(entry.batch, entry.step, noted.patient): noted for noted in entry.messages}
        keys = [(entry.chunk, message) for message in told]
        if entry.kind == "returned":
            returned |= {key: max(returned.get(key, 0), entry.fence) for key in keys}
            continue
        messages.setdefault(entry.chunk, {}).update(told)
        for key in keys:  # after a wait, by the holder that had returned it
            if returned.get(key) == entry.fence:
                del returned[key]
        posted[entry.chunk] = max(posted.get(entry.chunk, entry), entry, key=lambda one: (one.fence, one.written_at))
    live: dict[Message, Entry] = {}
    for chunk, told in messages.items():
        for message in told:
            if returned.get((chunk, message), -1) < posted[chunk].fence:
                live[message] = max(live.get(message, posted[chunk]), posted[chunk], key=lambda one: one.written_at)
    found = [
        Lost(entry, {each: noted for each, noted in messages[chunk].items() if each in live and live[each] is entry})
        for chunk, entry in posted.items()
    ]
    return sorted(found, key=lambda lost: (lost.entry.step != "primary", lost.entry.written_at))


def _forgotten_lines(ledger: Ledger, journal: Journal, missing: set[str]) -> Iterator[Entry]:
    """What the journal says of these chunks since the ledger looked at it; each process's lines in their order."""
    known = _looked_at(ledger)
    for name, size in journal.files().items():
        if size > known.get(name, 0):
            lines = (read.entry for read in journal.read(name, known.get(name, 0)))
            yield from (entry for entry in lines if entry is not None and entry.chunk in missing)


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
    batch = connection.execute(
        sa.select(batches.c.applied_plan).where(batches.c.batch == entry.batch).with_for_update()
    ).one_or_none()
    if batch is None or batch.applied_plan is None:
        if lost.messages:
            done.waiting[entry.batch] = done.waiting.get(entry.batch, 0) + 1
        return
    if not _unknown(connection, {entry.chunk}):
        return
    if entry.step == "fallback":
        _queue_fallbacks(connection, lost)
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
    batches_.mark_reported(connection, entry.batch, None)
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
