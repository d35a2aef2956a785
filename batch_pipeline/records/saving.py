"""Writing a batch to the record, each entry once, whatever dies when (SPEC 2.13).

Entries are *claimed* in the ledger in chunks, each under a lease; *written*; and *noted*. Where a process dies the
chunk stays open, and who comes after its lease takes it over and writes what isn't noted. Of that some may be there
already: a writer finds it again (the folder by the chunk's name, a FHIR server by the identifier), and writes nothing twice.
Right before each write it is made sure that the chunk is still held.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import sqlalchemy as sa

from batch_pipeline.ledger import records
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.records import Facts, Noted, RecordChunk
from batch_pipeline.records.communication import Message, Sender, communication
from batch_pipeline.records.validity import NotValid, check
from batch_pipeline.records.writer import Entry, Outcome, Writer, WriterStopped
from batch_pipeline.rules.records import COMPLETED, why_not_done


class Source(Protocol):
    """What entries of one type of resource are made of."""

    @property
    def resource_type(self) -> str:
        """FHIR's name of it."""
        ...

    def due(self, batch: str, now: datetime) -> records.Due:
        """What may be written by now."""
        ...

    def made(self, connection: sa.Connection, identifiers: Sequence[str]) -> list[Entry | Outcome]:
        """The entries; of what none can be made, why."""
        ...


class Messages:
    """The messages of a batch, each a ``Communication``."""

    resource_type = "Communication"

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def due(self, batch: str, now: datetime) -> records.Due:
        """As the rules for messages have it."""
        return records.due_messages(batch, now)

    def made(self, connection: sa.Connection, identifiers: Sequence[str]) -> list[Entry | Outcome]:
        """None is made of a message whose patient or words were purged."""
        return [self._one(facts) for facts in records.message_facts(connection, identifiers)]

    def _one(self, facts: Facts) -> Entry | Outcome:
        if facts.nhs_number is None or facts.text is None or facts.status is None:
            return Outcome(facts.identifier, "refused", "its details were purged")
        told = [moment for moment in (facts.delivered_at, facts.read_at) if moment is not None]
        completed = facts.status == COMPLETED
        message = Message(
            reference=facts.identifier,
            channel=facts.channel,
            status=facts.status,
            nhs_number=facts.nhs_number,
            text=facts.text,
            subject=facts.subject,
            because=None if completed else why_not_done(facts.state, facts.failure_kind, facts.failure_code),
            sent=facts.accepted_at,
            received=min(told) if told and completed else None,
            follows=facts.first,
        )
        return Entry(facts.identifier, communication(self._sender, message))


@dataclass(slots=True)
class Saved:
    """What one run did."""

    written: int = 0
    refused: int = 0
    later: int = 0
    """That may go another time; ``because``."""
    elsewhere: int = 0
    """Chunks that another process is at work on, or died over a moment ago."""
    because: str | None = None
    stopped: bool = False


class LeaseLost(Exception):
    """Somebody else has taken the chunk over."""


@dataclass
class Run:
    """One process that writes a batch to the record.

    Args:
        ledger: where entries are claimed and noted.
        batch: whose.
        source: what of it.
        writer: where to.
        now: business time, for what is due.
        owner: names this process in a lease, for a person who looks.
        keep_going: asked before each chunk.
        on_progress: told how many entries this run has written.
        wall: the machine's clock, for leases alone.
    """

    ledger: Ledger
    batch: str
    source: Source
    writer: Writer
    now: Callable[[], datetime]
    owner: str
    keep_going: Callable[[], bool] = lambda: True
    on_progress: Callable[[int], object] = lambda _: None
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    done: Saved = field(default_factory=Saved)
    _left: set[str] = field(default_factory=set[str])
    """Chunks of which some entries go another time."""
    _position: int = 0
    """After which to look for what is new."""
    _claimed: bool = False
    """Whether anything was since the beginning was looked at last."""

    def save(self) -> Saved:
        """Writes all that is due and not written, and finishes what others left; any number may do so at once."""
        try:
            self.writer.check(self.source.resource_type)
            self._adopt()
            while self.keep_going() and (chunk := self._next()) is not None:
                self._carry(chunk)
        except WriterStopped as stop:
            self.done.because, self.done.stopped = str(stop), True
        with self.ledger.read() as connection:
            others = {chunk.reference for chunk in records.open_chunks(connection, self.batch)} - self._left
        self.done.elsewhere = len(others)
        return self.done

    def _adopt(self) -> None:
        """What was written and then forgotten, because the ledger was restored from a copy, isn't written again."""
        for reference, identifiers in self.writer.found(self.batch, self.source.resource_type, self._known):
            with self.ledger.write() as connection:
                if reference not in records.references(connection, self.batch):
                    kind = self.source.resource_type
                    records.adopt(connection, self.batch, kind, reference, identifiers, self.now())

    def _known(self) -> set[str]:
        with self.ledger.read() as connection:
            return records.references(connection, self.batch)

    # Finding work ------------------------------------------------------------------------------------------------

    def _next(self) -> RecordChunk | None:
        return self._left_by_others() or self._new()

    def _left_by_others(self) -> RecordChunk | None:
        with self.ledger.read() as connection:
            known = records.open_chunks(connection, self.batch)
        wall = self.wall()
        for chunk in known:
            mine = chunk.resource_type == self.source.resource_type and chunk.reference not in self._left
            if mine and chunk.lease_until <= wall:
                with self.ledger.write() as connection:
                    taken = records.take_over(connection, chunk, self.owner, self._until())
                if taken is not None:
                    return taken
        return None

    def _new(self) -> RecordChunk | None:
        """From the last position on; and from the beginning again, for fallbacks whose App message is claimed by now."""
        while True:
            if (chunk := self._claim()) is not None:
                self._claimed = True
                return chunk
            if not self._claimed:
                return None
            self._position, self._claimed = 0, False

    def _claim(self) -> RecordChunk | None:
        now = self.now()
        with self.ledger.write() as connection:
            claimed = records.claim(
                connection,
                self.batch,
                self.source.resource_type,
                self.source.due(self.batch, now),
                after=self._position,
                limit=self.writer.at_once,
                owner=self.owner,
                lease_until=self._until(),
                now=now,
            )
        if claimed is None:
            return None
        self._position = claimed.position
        return claimed.chunk

    def _until(self) -> datetime:
        return self.wall() + self.writer.lease

    # Writing -----------------------------------------------------------------------------------------------------

    def _carry(self, chunk: RecordChunk) -> None:
        held = _Held(self, chunk)
        try:
            entries = held.prepare()
            if entries:
                for outcomes in self.writer.write(chunk.reference, entries, held.still_ours):
                    held.note(outcomes)
        except LeaseLost:
            self._left.add(chunk.reference)
        except WriterStopped:
            held.give_up()
            self._left.add(chunk.reference)
            raise
        else:
            if held.later:
                held.give_up()
                self._left.add(chunk.reference)


@dataclass
class _Held:
    """A chunk in this process's hands."""

    run: Run
    chunk: RecordChunk
    later: int = 0

    def prepare(self) -> list[Entry]:
        """What there is to write of it; what no record may get is noted as refused before anything is written."""
        with self.run.ledger.read() as connection:
            identifiers = records.unnoted(connection, self.chunk)
            made = self.run.source.made(connection, identifiers)
        known = {each.identifier for each in made}
        gone = [Outcome(each, "refused", "its details were purged") for each in identifiers if each not in known]
        entries = [each for each in made if isinstance(each, Entry)]
        faults = {each.identifier: fault for each in entries if (fault := _fault(each)) is not None}
        refused = [each for each in made if isinstance(each, Outcome)] + gone + list(faults.values())
        if refused or not identifiers:
            self.note(refused)
        return [each for each in entries if each.identifier not in faults]

    def still_ours(self) -> None:
        """Renews the lease; ``LeaseLost`` where it isn't ours any more."""
        with self.run.ledger.write() as connection:
            renewed = records.renew(connection, self.chunk, self.run.wall() + self.run.writer.lease)
        if renewed is None:
            raise LeaseLost
        self.chunk = renewed

    def note(self, outcomes: Sequence[Outcome]) -> None:
        """In the ledger, and on disk, before the next is written."""
        done = self.run.done
        noted = [Noted(each.identifier, each.became, each.code) for each in outcomes if each.became != "later"]
        if noted or not outcomes:
            with self.run.ledger.write() as connection:
                if not records.note(connection, self.chunk, noted, self.run.now()):
                    raise LeaseLost
        written = sum(each.outcome == "written" for each in noted)
        late = [each for each in outcomes if each.became == "later"]
        done.written += written
        done.refused += len(noted) - written
        done.later += len(late)
        self.later += len(late)
        if late:
            done.because = late[-1].code
        self.run.on_progress(done.written)

    def give_up(self) -> None:
        """Lets the next run have the chunk at once."""
        with self.run.ledger.write() as connection:
            records.renew(connection, self.chunk, self.run.wall())


def _fault(entry: Entry) -> Outcome | None:
    try:
        check(entry.resource)
    except NotValid as invalid:
        return Outcome(entry.identifier, "refused", f"not valid: {invalid}")
    return None
