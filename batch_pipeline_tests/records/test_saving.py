"""Each entry once: what is claimed, written and noted, and what becomes of what a run leaves behind."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from typing_extensions import override

from batch_pipeline.ledger import records
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.records import RecordChunk
from batch_pipeline.ledger.tables import attempts, record_chunks, record_entries
from batch_pipeline.records import saving
from batch_pipeline.records.folder import RecordFolder
from batch_pipeline.records.writer import Entry, Outcome, StillOurs, Writer, WriterStopped
from batch_pipeline.rules.records import APP_IS_SILENT
from batch_pipeline_tests.ledger.given import (
    BATCH,
    NOW,
    Recipient,
    attempt_rows,
    begin,
    lines,
    query_plans,
    queue,
    set_attempts,
)
from batch_pipeline_tests.ledgers import on_sqlite_alone
from batch_pipeline_tests.records.worlds import LATER, SmallFolder, World

MANY = 10


class Dies(Exception):
    """In place of a process's death: nothing is tidied up after it but what every exception tidies up."""


@pytest.fixture
def world(ledger: Ledger, tmp_path: Path) -> World:
    return World.of(ledger, tmp_path, lines(MANY))


def all_of(world: World) -> dict[str, int]:
    with world.ledger.read() as connection:
        return dict.fromkeys(connection.scalars(sa.select(attempts.c.reference)), 1)


def saved(world: World) -> tuple[int, int, int]:
    with world.ledger.read() as connection:
        return records.saved(connection, BATCH)


def test_every_message_that_is_due_is_written_once_however_often_it_is_saved(world: World) -> None:
    assert world.save().written == MANY
    assert world.save().written == 0
    assert world.in_folder() == all_of(world)
    assert saved(world) == (MANY, 0, 0)
    assert len(list((world.root / BATCH).iterdir())) == 3  # of four entries, or what is left


def test_nothing_is_written_before_it_is_certain(ledger: Ledger, tmp_path: Path) -> None:
    world = World.of(ledger, tmp_path, lines(3))
    set_attempts(ledger, {"delivered_at": None, "failed_at": NOW, "failure_kind": "permanent"}, batch=BATCH, line=2)
    set_attempts(ledger, {"delivered_at": None}, batch=BATCH, line=3)
    assert world.save().written == 1
    assert world.save(at=NOW + timedelta(hours=23)).written == 0
    assert world.save(at=NOW + timedelta(hours=24)).written == 1
    assert world.in_folder() == {f"{BATCH}:4:primary": 1, f"{BATCH}:2:primary": 1}


def with_fallback(ledger: Ledger, tmp_path: Path) -> World:
    """An App message that nobody has read, and the text that followed it and arrived."""
    queue(ledger, [Recipient(2, "nhs_app")])
    begin(ledger, 2)
    set_attempts(ledger, {"accepted_at": NOW, "fallback_at": NOW}, batch=BATCH)
    (first,) = attempt_rows(ledger)
    text = dict(zip(attempts.c.keys(), first, strict=True)) | {"step": "fallback", "channel": "sms"}
    text |= {"reference": f"{BATCH}:2:fallback", "delivered_at": NOW, "address": "+447700900002"}
    del text["id"]
    with ledger.write() as connection:
        connection.execute(sa.insert(attempts).values(text))
    return World(ledger, tmp_path / "records")


def test_a_fallback_is_written_after_the_message_it_follows_and_names_it(ledger: Ledger, tmp_path: Path) -> None:
    world = with_fallback(ledger, tmp_path)
    assert world.save().written == 0
    assert world.save(at=NOW + APP_IS_SILENT).written == 2
    first, second = [
        json.loads(line) for path in sorted((world.root / BATCH).iterdir()) for line in path.read_text().splitlines()
    ]
    assert second["inResponseTo"][0]["identifier"] == first["identifier"][0]
    assert (first["medium"][0]["text"], second["medium"][0]["text"]) == ("NHS App", "SMS")
    assert "received" not in first


def test_a_fallback_whose_message_is_never_written_does_not_wait_for_it(ledger: Ledger, tmp_path: Path) -> None:
    world = with_fallback(ledger, tmp_path)
    set_attempts(ledger, {"accepted_at": None, "cancelled_at": NOW}, step="primary")
    assert world.save().written == 1


# What a run leaves behind --------------------------------------------------------------------------------------------


class Dying(SmallFolder):
    """Dies at some point of its second chunk."""

    def __init__(self, root: Path, when: str) -> None:
        super().__init__(root)
        self._when = when
        self._chunks = 0

    @override
    def write(self, chunk: str, entries: Sequence[Entry], still_ours: StillOurs) -> Iterator[Sequence[Outcome]]:
        self._chunks += 1
        dies = self._chunks == 2

        def before_it_is_in_place() -> None:
            still_ours()
            if dies and self._when == "before it is in place":
                raise Dies

        if dies and self._when == "before it is written":
            raise Dies
        found = list(super().write(chunk, entries, before_it_is_in_place))
        if dies and self._when == "before it is noted":
            raise Dies
        yield from found


@pytest.mark.parametrize("when", ["before it is written", "before it is in place", "before it is noted"])
def test_a_chunk_that_was_left_is_finished_when_its_lease_is_over(world: World, when: str) -> None:
    with pytest.raises(Dies):
        world.save(Dying(world.root, when))
    assert saved(world) == (4, 0, 4)
    # until its lease is over others leave it alone
    done = world.save()
    assert (done.written, done.elsewhere) == (2, 1)
    assert world.save(ahead=LATER).written == 4
    assert world.in_folder() == all_of(world)
    assert saved(world) == (MANY, 0, 0)


class Slow(SmallFolder):
    """Another run takes its chunk over, and finishes it, before it writes."""

    def __init__(self, root: Path, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self._meanwhile = meanwhile

    @override
    def write(self, chunk: str, entries: Sequence[Entry], still_ours: StillOurs) -> Iterator[Sequence[Outcome]]:
        self._meanwhile()
        yield from super().write(chunk, entries, still_ours)


def test_one_that_slept_past_its_lease_neither_writes_nor_notes_anything(world: World) -> None:
    done = world.save(Slow(world.root, lambda: world.save(ahead=LATER)))
    assert done.written == 0
    assert world.in_folder() == all_of(world)
    assert saved(world) == (MANY, 0, 0)


def test_several_at_once_share_a_batch(world: World) -> None:
    done: list[saving.Saved] = []
    threads = [threading.Thread(target=lambda: done.append(world.save())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4
    assert sum(each.written for each in done) == MANY
    assert world.in_folder() == all_of(world)


def test_what_a_restored_ledger_has_forgotten_is_found_and_not_written_again(world: World) -> None:
    world.save()
    with world.ledger.write() as connection:
        connection.execute(sa.delete(record_entries))
        connection.execute(sa.delete(record_chunks))
    assert world.save().written == 0
    assert world.in_folder() == all_of(world)
    assert saved(world) == (MANY, 0, 0)
    with world.ledger.read() as connection:
        assert set(connection.scalars(sa.select(record_entries.c.line))) == {*range(2, 2 + MANY)}


def test_a_run_ends_in_time_and_the_next_goes_on(world: World) -> None:
    asked = iter([True, False])
    assert world.save(keep_going=lambda: next(asked)).written == 4
    assert world.save().written == MANY - 4


# What isn't taken ----------------------------------------------------------------------------------------------------


def test_what_was_purged_or_is_not_valid_is_noted_and_keeps_no_other_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_attempts(world.ledger, {"nhs_number": None, "text": None}, line=3)
    made = saving.communication
    monkeypatch.setattr(
        saving,
        "communication",
        lambda sender, message: made(sender, message) | ({"status": "sent"} if ":5:" in message.reference else {}),
    )
    done = world.save()
    assert (done.written, done.refused) == (MANY - 2, 2)
    with world.ledger.read() as connection:
        assert records.refusals(connection, BATCH) == [
            records.Refusal(3, "its details were purged"),
            records.Refusal(5, "not valid: status"),
        ]
        assert records.open_chunks(connection, BATCH) == []


def test_what_was_refused_is_tried_again_when_a_person_says_so(world: World) -> None:
    set_attempts(world.ledger, {"nhs_number": None}, line=3)
    world.save()
    set_attempts(world.ledger, {"nhs_number": "9990000018"}, line=3)
    assert world.save().written == 0
    with world.ledger.write() as connection:
        assert records.try_again(connection, BATCH, "Dr Grey", NOW) == 1
        assert records.try_again(connection, BATCH, "Dr Grey", NOW) == 0
    assert world.save().written == 1
    assert world.in_folder() == all_of(world)


class Moody(RecordFolder):
    """Some entries go another time, and then it stops."""

    at_once = 4

    def __init__(self, root: Path, late: Sequence[str] = (), stop_after: int = MANY) -> None:
        super().__init__(root)
        self._late = late
        self._left = stop_after

    @override
    def write(self, chunk: str, entries: Sequence[Entry], still_ours: StillOurs) -> Iterator[Sequence[Outcome]]:
        for each in entries:
            if self._left == 0:
                raise WriterStopped("it is down")
            self._left -= 1
            late = each.identifier in self._late
            yield [Outcome(each.identifier, "later", "503") if late else Outcome(each.identifier, "written")]


def test_what_goes_another_time_is_left_to_the_next_run(world: World) -> None:
    late = [f"{BATCH}:3:primary", f"{BATCH}:7:primary"]
    done = world.save(Moody(world.root, late))
    assert (done.written, done.later, done.because, done.stopped) == (MANY - 2, 2, "503", False)
    assert done.elsewhere == 0
    again = world.save(Moody(world.root))
    assert (again.written, again.later) == (2, 0)
    assert saved(world) == (MANY, 0, 0)


def test_a_writer_that_stops_leaves_its_chunk_to_whoever_comes_next(world: World) -> None:
    done = world.save(Moody(world.root, stop_after=6))
    assert (done.written, done.because, done.stopped) == (6, "it is down", True)
    assert world.save(Moody(world.root)).written == MANY - 6
    assert saved(world) == (MANY, 0, 0)


def test_no_note_is_taken_from_one_who_has_lost_the_lease(world: World) -> None:
    with pytest.raises(Dies):
        world.save(Dying(world.root, "before it is written"))
    with world.ledger.write() as connection:
        (left,) = records.open_chunks(connection, BATCH)
        (identifier, *_) = records.unnoted(connection, left)
        taken = records.take_over(connection, left, "another", NOW)
        assert isinstance(taken, RecordChunk)
        assert records.take_over(connection, left, "a third", NOW) is None
        assert records.renew(connection, left, NOW) is None
        assert not records.note(connection, left, [records.Noted(identifier, "written")], NOW)
        assert records.note(connection, taken, [records.Noted(identifier, "written")], NOW)


def test_the_check_of_a_writer_comes_before_anything_is_claimed(world: World) -> None:
    class NotThere(SmallFolder):
        @override
        def check(self, resource_type: str) -> None:
            raise WriterStopped("not there")

    writer: Writer = NotThere(world.root)
    assert world.save(writer).because == "not there"
    assert saved(world) == (0, 0, 0)


def test_nothing_personal_is_shown(world: World) -> None:
    with world.ledger.read() as connection:
        shown = repr(records.message_facts(connection, [f"{BATCH}:2:primary"]))
    assert "flu jab" not in shown
    assert "999" not in shown


@on_sqlite_alone
def test_looking_for_what_is_due_goes_through_the_batch_s_messages_once(world: World) -> None:
    plans = query_plans(world.ledger, lambda connection: records.has_due(connection, records.due_messages(BATCH, NOW)))
    assert not any("SCAN" in line for line in plans), plans
    assert any("record_entries" in line and "identifier=?" in line for line in plans), plans
