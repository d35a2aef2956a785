"""Saving a batch to the record: what is due, one run of the writer, and what a person is told of it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.house import House, Submitted, owner
from batch_pipeline.ledger import batches, booking_entries, figures, records
from batch_pipeline.operations import restoring
from batch_pipeline.progress import tell
from batch_pipeline.records.answers import Observations, Responses, list_observations
from batch_pipeline.records.bookings import Bookings
from batch_pipeline.records.communication import Sender
from batch_pipeline.records.saving import Messages, Run, Saved, Source

Clock = Callable[[], datetime]

AT_MOST = timedelta(minutes=8)
"""How long one run writes before it leaves the rest to the next: a record system that takes two seconds a patient would
keep others from running for hours. Less than what the sensors wait before they send another run after one."""
_NAMED = 5


def save(house: House, batch: str, clock: Clock, *, steady: Callable[[], float] = time.monotonic) -> Saved:
    """Writes to the record what is due of a batch, for at most ``AT_MOST``; nothing of one whose file says not to.

    ``Refused`` where the writer could not go on, with its reason: what was written stays written, and another run goes
    on from there; and for a ledger that was restored from a copy, until it is reconciled.
    """
    submitted = house.submitted(batch)
    if not submitted.file.save_to_record:
        return Saved()
    restoring.require_whole(house, clock())
    done = Saved()
    try:
        _save(house, submitted, clock, steady, done)
    finally:
        _mark_saved(house, batch, clock())
        _mark_recorded(house, batch, clock())
    if done.because is not None:
        how = "stopped" if done.stopped else f"left {done.later:,} for another time"
        raise Refused(f"{batch}: saving to the record {how}: {done.because}; save it again")
    return done


def _save(house: House, submitted: Submitted, clock: Clock, steady: Callable[[], float], done: Saved) -> None:
    """One source after the other, until the writer can't go on."""
    batch, ends = submitted.row.batch, steady() + AT_MOST.total_seconds()
    with house.ledger.read() as connection:
        before = records.saved(connection, batch)
        total = figures.progress(connection, batch).for_record
    with house.record_writer(submitted.workspace) as writer:
        for source in _sources(house, submitted, clock):
            Run(
                ledger=house.ledger,
                batch=batch,
                source=source,
                writer=writer,
                now=clock,
                owner=owner(),
                keep_going=lambda: steady() < ends,
                on_progress=lambda written: tell("entries of the record", before.written + written, total),
                done=done,
            ).save()
            if done.stopped:
                return


def _sources(house: House, submitted: Submitted, clock: Clock) -> Iterator[Source]:
    """What of a batch goes to the record: its messages, what patients booked; their answers, where its file says so."""
    workspace, message = submitted.workspace, submitted.file.message
    sender = Sender(workspace.ods_code, workspace.name, submitted.snomed)
    yield Messages(sender)
    if message.booking is not None:
        yield Bookings(sender, message.decline_snomed)
    form = house.form(submitted)
    if form is not None and message.saves_responses:
        list_observations(house.ledger, submitted.row.batch, form, clock)
        yield Responses(form)
        yield Observations(form)


def _mark_recorded(house: House, batch: str, now: datetime) -> None:
    """Answers of which nothing is left to write needn't be looked at again."""
    with house.ledger.write() as connection:
        lines = records.listed(connection, batch)  # before it is asked what is due: no later ones are meant
        if lines and not (_answers_are_due(connection, batch) or records.open_chunks(connection, batch)):
            records.mark_recorded(connection, batch, lines, now)


def _answers_are_due(connection: sa.Connection, batch: str) -> bool:
    return any(
        records.has_due(connection, due) for due in (records.due_responses(batch), records.due_observations(batch))
    )


def _mark_saved(house: House, batch: str, now: datetime) -> None:
    """A batch that has ended and of which nothing is left to write needn't be looked at again until it changes."""
    with house.ledger.read() as connection:
        changes = batches.get(connection, batch).changes
        over = figures.status(connection, batch).all_ended and not records.to_come(connection, batch)
    if over:
        with house.ledger.write() as connection:
            records.mark_saved(connection, batch, changes, now)


def with_entries_due(house: House, now: datetime) -> list[str]:
    """Batches of which something may be written to the record now, or was left half written.

    One that has had its final report, and of which nothing is due, is looked at for the last time if it is all there.
    """
    wall = datetime.now(UTC)
    with house.ledger.read() as connection:
        known = records.to_be_saved(connection)
        booked = booking_entries.with_entries_due(connection, now)
        due = [each.batch for each in known if each.batch in booked or _is_due(connection, each.batch, now, wall)]
        replied = [*records.that_save(connection, booked), *records.with_answers(connection)]
        due += [each for each in dict.fromkeys(replied) if each not in due]
    for each in known:
        if each.batch not in due and each.reported_at is not None:
            _mark_saved(house, each.batch, now)
    return due


def _is_due(connection: sa.Connection, batch: str, now: datetime, wall: datetime) -> bool:
    return any(chunk.lease_until <= wall for chunk in records.open_chunks(connection, batch)) or records.has_due(
        connection, records.due_messages(connection, batch, now)
    )


def try_again(house: House, batch: str, now: datetime) -> int:
    """Lets what the record refused of a batch be written again; gives how many entries that are."""
    with house.ledger.write() as connection:
        batches.get(connection, batch, lock=True)
        return records.try_again(connection, batch, "save --again", now)


def told(house: House, batch: str) -> list[str]:
    """Of a batch, in sentences: how far it is in the record, and the lines that it didn't take. Nothing personal."""
    submitted = house.submitted(batch)
    if not submitted.file.save_to_record:
        return [f"{batch}: nothing of it is saved to the record, as its batch file says (save_to_record: false)"]
    with house.ledger.read() as connection:
        saved = records.saved(connection, batch)
        refused = records.refusals(connection, batch)
        waiting = records.to_come(connection, batch)
        replies = records.replies_saved(connection, batch).written
    by_code = defaultdict[str, list[str]](list)
    for each in refused:
        by_code[each.code].append(str(each.line))
    return [
        f"{batch}: {saved.written:,} entries in the record" + (f", {waiting:,} to come" if waiting else ""),
        *([f"{batch}: {replies:,} entries of what patients answered or booked in the record"] if replies else []),
        *(
            f"{batch}: {len(lines):,} not taken ({code}): line {', '.join(lines[:_NAMED])}"
            + (", …" if len(lines) > _NAMED else "")
            for code, lines in by_code.items()
        ),
    ]
