"""What is put back of which message, and when a journal isn't believed."""

import tracemalloc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from typing_extensions import override

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, controls, outbox, restored
from batch_pipeline.ledger.controls import RESTORED, Hold
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.journal import Entry, Journal, Kind, Noted, body_of
from batch_pipeline.ledger.restored import Astray, PutBack
from batch_pipeline.ledger.tables import attempts, chunks, facts
from batch_pipeline_tests.ledger.given import (
    BATCH,
    LATER_PLAN,
    NOW,
    Recipient,
    approve,
    attempt_rows,
    begin,
    lines,
    patient,
    queue,
    rows,
    set_attempts,
)
from batch_pipeline_tests.ledger.waiting import assert_nobody_waits_for_ever
from batch_pipeline_tests.ledgers import on_postgresql_alone, on_sqlite_alone
from batch_pipeline_tests.sending.copies import Copy, copy_of, restore

KEEP = timedelta(days=90)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "claims", lambda: NOW)


def note(
    ledger: Ledger,
    journal: Journal,
    noted: Sequence[Noted],
    chunk: str = "lost",
    *,
    kind: Kind = "posted",
    step: str = "primary",
    channel: str = "sms",
    fence: int = 1,
    batch: str = BATCH,
    minutes: int = 0,
) -> None:
    signed = restored.writer(ledger, journal)
    entry = Entry(
        kind=kind,
        ledger=signed.ledger,
        key=signed.key,
        batch=batch,
        step=step,
        channel=channel,
        provider="simulator",
        chunk=chunk,
        fence=fence,
        claimed_at=NOW,
        written_at=NOW + timedelta(minutes=minutes),
        body=body_of(noted),
    )
    journal.append(entry)


def of(*numbers: int, step: str = "primary") -> list[Noted]:
    """As another outbox than the present one named them."""
    return [Noted(line, patient(line), f"{BATCH}:{line}:{step}:old") for line in numbers]


def look(ledger: Ledger, journal: Journal) -> Hold | None:
    return restored.look(ledger, journal, NOW, keep=KEEP)


def put_back(ledger: Ledger, journal: Journal) -> PutBack:
    return restored.put_back(ledger, journal, "Dr Grey", NOW)


def shown(ledger: Ledger, *columns: str) -> list[tuple[object, ...]]:
    return attempt_rows(ledger, "line", "step", "chunk", "reference", *columns)


def test_a_ledger_whose_chunks_are_all_there_is_whole(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(3))
    assert look(ledger, journal) is None
    begin(ledger, 2, 3)
    ((chunk,), *_) = attempt_rows(ledger, "chunk", line=2)
    note(ledger, journal, of(2, 3), chunk)
    assert look(ledger, journal) is None
    assert put_back(ledger, journal) == PutBack(released=True)


def test_what_was_looked_at_is_not_looked_at_again_but_by_a_ledger_that_went_back(
    ledger: Ledger, journal: Journal
) -> None:
    queue(ledger, lines(3))
    begin(ledger, 2)
    ((chunk,), *_) = attempt_rows(ledger, "chunk", line=2)
    note(ledger, journal, of(2), chunk)
    assert look(ledger, journal) is None
    with ledger.read() as connection:
        known = connection.execute(sa.select(facts).where(facts.c.name.startswith("journal/"))).one()
    with ledger.write() as connection:
        connection.execute(sa.update(attempts).values(chunk=None))
        connection.execute(sa.delete(chunks))
    assert look(ledger, journal) is None
    with ledger.write() as connection:
        connection.execute(sa.delete(facts).where(facts.c.name == known.name))
    assert look(ledger, journal) is not None


def test_it_is_held_once_by_a_name_that_is_nobodys_until_it_is_reconciled(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(3))
    note(ledger, journal, of(2))
    hold = look(ledger, journal)
    assert hold == look(ledger, journal)
    with ledger.write() as connection:
        pause = controls.general(connection)
        assert pause is not None
        assert (pause.by, pause.because) == (RESTORED, hold.because if hold else "")
        with pytest.raises(Refused, match="nothing may be sent yet: the claims journal has 1 chunks"):
            controls.resume_all(connection, "Dr Grey", NOW)
    assert put_back(ledger, journal).released
    with ledger.write() as connection:
        assert controls.general(connection) is not None
        controls.resume_all(connection, "Dr Grey", NOW)
        did = [
            (entry.who, entry.action) for entry in audit.entries(connection) if entry.action not in ("submit", "review")
        ]
    assert did == [
        ("Dr Grey", "approve"),
        (RESTORED, "pause_all"),
        (RESTORED, "hold"),
        ("Dr Grey", "put_back"),
        ("Dr Grey", "reconciled"),
        ("Dr Grey", "resume_all"),
    ]


def test_a_persons_pause_of_all_stands_and_the_hold_beside_it(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(3))
    with ledger.write() as connection:
        controls.pause_all(connection, "Dr White", None, NOW)
    note(ledger, journal, of(2))
    assert look(ledger, journal) is not None
    with ledger.write() as connection, pytest.raises(Refused, match="nothing may be sent yet"):
        controls.resume_all(connection, "Dr White", NOW)


@pytest.mark.parametrize(
    "now",
    [
        {},
        {"held_back_at": NOW},
        {"cancelled_at": NOW},
        {"expired_at": NOW},
        {"accepted_at": NOW, "delivered_at": NOW},
    ],
    ids=lambda now: ",".join(now) or "unsent",
)
def test_messages_get_their_old_references_and_chunk_back(
    ledger: Ledger, journal: Journal, now: dict[str, object]
) -> None:
    queue(ledger, lines(3))
    set_attempts(ledger, now, line=2)
    note(ledger, journal, of(2, 3), fence=4)
    assert put_back(ledger, journal) == PutBack(chunks=1, messages=2, released=True)
    columns = ("begun_at", "held_back_at", "cancelled_at", "expired_at", "delivered_at")
    assert shown(ledger, *columns) == [
        (2, "primary", "lost", f"{BATCH}:2:primary:old", NOW, None, None, None, now.get("delivered_at")),
        (3, "primary", "lost", f"{BATCH}:3:primary:old", NOW, None, None, None, None),
        (4, "primary", None, f"{BATCH}:4:primary", None, None, None, None, None),
    ]
    with ledger.read() as connection:
        chunk = connection.execute(sa.select(chunks)).one()
    assert (chunk.reference, chunk.messages, chunk.fence, chunk.settled_at) == ("lost", 2, 4, None)
    assert chunk.lease_until < NOW - timedelta(days=365)


def test_lines_that_a_new_plan_has_shuffled_swap_their_references_back(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(3))
    swapped = [Noted(3, patient(2), f"{BATCH}:3:primary"), Noted(2, patient(3), f"{BATCH}:2:primary")]
    note(ledger, journal, [*swapped, Noted(9, patient(4), f"{BATCH}:9:primary")])
    assert put_back(ledger, journal).messages == 3
    assert [row[3] for row in shown(ledger)] == [f"{BATCH}:{line}:primary" for line in (3, 2, 9)]


def test_a_reference_that_an_unsent_message_has_by_now_is_taken_from_it(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(2))
    note(ledger, journal, [Noted(3, patient(2), f"{BATCH}:3:primary")])
    assert put_back(ledger, journal).messages == 1
    first, second = (str(row[3]) for row in shown(ledger))
    assert first == f"{BATCH}:3:primary"
    assert second.startswith(f"{BATCH}:3:primary:")


def test_the_last_chunk_wins_from_which_a_message_was_not_returned(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(5))
    note(ledger, journal, of(2, 3, 4), "a")
    note(ledger, journal, of(2, 3), "a", kind="returned")
    note(ledger, journal, of(2, 5), "b", minutes=-5)  # by a machine whose clock is late
    note(ledger, journal, of(6), "c")
    note(ledger, journal, of(6), "c", kind="returned")
    note(ledger, journal, of(6), "c", fence=2)  # posted again, by who took it over
    assert put_back(ledger, journal) == PutBack(chunks=3, messages=4, released=True)
    assert [row[2] for row in shown(ledger)] == ["b", None, "a", "b", "c"]


def test_a_chunk_of_which_all_was_returned_is_there_and_closed(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(2))
    note(ledger, journal, of(2), "a")
    note(ledger, journal, of(2), "a", kind="returned")
    assert put_back(ledger, journal).messages == 0
    assert [row[2] for row in shown(ledger)] == [None, None]
    with ledger.read() as connection:
        assert connection.execute(sa.select(chunks.c.reference, chunks.c.outcome)).one() == ("a", "returned")


def test_a_message_moves_out_of_an_earlier_chunk_unless_that_was_answered(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(3))
    begin(ledger, 2, 3)
    set_attempts(ledger, {"accepted_at": NOW}, line=3)
    ((earlier,), *_) = attempt_rows(ledger, "chunk", line=2)
    note(ledger, journal, of(2, 3))
    assert put_back(ledger, journal).kept == [Astray(BATCH, 3, "primary", "lost")]
    assert [row[2] for row in shown(ledger)] == ["lost", earlier, None]
    with ledger.read() as connection:
        counted = connection.execute(sa.select(chunks.c.reference, chunks.c.messages)).all()
    assert {tuple(row) for row in counted} == {(earlier, 1), ("lost", 1)}


def test_who_is_planned_by_another_channel_or_not_at_all_is_for_a_person(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, [Recipient(2), Recipient(3, "email")])
    note(ledger, journal, of(2, 3, 4))
    assert put_back(ledger, journal) == PutBack(
        chunks=1,
        messages=1,
        apart=[Astray(BATCH, 3, "primary", "lost"), Astray(BATCH, 4, "primary", "lost")],
        released=True,
    )
    assert shown(ledger, "channel", "unconfirmed_at", "cancelled_at") == [
        (2, "primary", "lost", f"{BATCH}:2:primary:old", "sms", None, None),
        (3, "primary", "lost/apart", f"{BATCH}:3:primary:old", "sms", NOW, NOW),
        (4, "primary", "lost/apart", f"{BATCH}:4:primary:old", "sms", NOW, NOW),
    ]


def test_a_fallback_is_queued_again_from_its_app_message(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, [Recipient(2, "nhs_app"), Recipient(3, "nhs_app", number=None)])
    note(ledger, journal, of(2, 3, step="fallback"), "text", step="fallback", minutes=-9)
    note(ledger, journal, of(2, 3), "app", channel="nhs_app")
    done = put_back(ledger, journal)
    assert (done.chunks, done.messages, done.apart) == (2, 3, [Astray(BATCH, 3, "fallback", "text")])
    assert [row[:3] for row in shown(ledger)] == [
        (2, "primary", "app"),
        (2, "fallback", "text"),
        (3, "primary", "app"),
        (3, "fallback", "text/apart"),
    ]
    ((address, text, reference),) = attempt_rows(ledger, "address", "text", "reference", line=2, step="fallback")
    assert (address, text, reference) == ("+447700900002", "Your flu jab is due.", f"{BATCH}:2:fallback:old")
    assert attempt_rows(ledger, "fallback_at", step="primary") == [(NOW,), (NOW,)]


def test_a_reminder_is_queued_again_from_the_first_message(ledger: Ledger, journal: Journal) -> None:
    recipients = [
        Recipient(2, reminder_day=3),
        Recipient(3, "nhs_app", reminder_day=3),
        Recipient(4, "email", reminder_day=6),
    ]
    queue(ledger, recipients, questionnaire="smoking", message_type="questionnaire")
    note(ledger, journal, of(2, 3, 4, step="reminder_3"), "again", step="reminder_3")
    done = put_back(ledger, journal)
    assert (done.messages, done.apart) == (2, [Astray(BATCH, 4, "reminder_3", "again")])
    assert attempt_rows(ledger, "line", "chunk", "reference", "address", "text", "policy", step="reminder_3") == [
        (2, "again", f"{BATCH}:2:reminder_3:old", "+447700900002", "Reminder: Your flu jab is due.", "days-3-and-6"),
        (3, "again", f"{BATCH}:3:reminder_3:old", "+447700900003", "Reminder: Your flu jab is due.", "days-3-and-6"),
        (4, "again/apart", f"{BATCH}:4:reminder_3:old", None, None, None),
    ]
    assert attempt_rows(ledger, "reminder_day", step="primary") == [(6,), (6,), (6,)]


def test_a_batch_without_its_outbox_waits_for_it_and_the_others_do_not(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(2), "covid")
    approve(ledger)
    note(ledger, journal, of(2))
    note(ledger, journal, [Noted(2, patient(2), "covid:2")], "other", batch="covid")
    note(ledger, journal, [Noted(2, patient(2), "gone:2")], "third", batch="gone")
    assert look(ledger, journal) is not None
    done = put_back(ledger, journal)
    assert (done.chunks, done.waiting, done.released) == (1, {BATCH: 1, "gone": 1}, False)
    assert look(ledger, journal) is not None

    queue(ledger, lines(3))
    assert put_back(ledger, journal).waiting == {"gone": 1}
    assert [row[0] for row in shown(ledger) if row[2] == "lost"] == [2]
    restored.begin_anew(ledger, journal, "Dr Grey", NOW)
    assert look(ledger, journal) is None


def test_a_later_plan_leaves_what_was_put_back(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(3))
    note(ledger, journal, of(2))
    put_back(ledger, journal)
    approve(ledger, plan=LATER_PLAN)
    outbox.write(ledger, BATCH, LATER_PLAN, rows(lines(2, start=3)), NOW)
    assert [row[:3] for row in shown(ledger)] == [(2, "primary", "lost"), (3, "primary", None), (4, "primary", None)]


# Journals that aren't believed ---------------------------------------------------------------------------------------


def test_another_ledgers_journal_is_refused_and_a_new_ledger_takes_it_for_its_own(
    ledger: Ledger, journal: Journal
) -> None:
    queue(ledger, lines(2))
    note(ledger, journal, of(2))
    with ledger.write() as connection:
        connection.execute(sa.update(facts).where(facts.c.name == "ledger_id").values(value="another"))
    with pytest.raises(Refused, match="is another ledger's: set LEDGER_URL or BATCH_PIPELINE_CLAIMS right"):
        look(ledger, journal)
    with pytest.raises(Refused, match="another ledger's"):
        put_back(ledger, journal)
    with ledger.write() as connection:
        connection.execute(sa.delete(facts).where(facts.c.name == "ledger_id"))
    assert look(ledger, journal) is not None


def test_a_journal_under_another_hash_key_is_refused(ledger: Ledger, journal: Journal) -> None:
    with ledger.write() as connection:
        connection.execute(sa.insert(facts).values(name="hash_key", value="old"))
    note(ledger, journal, of(2))
    with ledger.write() as connection:
        connection.execute(sa.update(facts).where(facts.c.name == "hash_key").values(value="new"))
    with pytest.raises(Refused, match=r"put the old hash\.key"):
        look(ledger, journal)


@pytest.mark.parametrize("fault", ["gone", "shorter", "damaged", "pruned"])
def test_a_journal_that_isnt_whole_holds_the_ledger_until_it_is_or_is_done_without(
    ledger: Ledger, journal: Journal, fault: str
) -> None:
    queue(ledger, lines(2))
    begin(ledger, 2)
    ((chunk,), *_) = attempt_rows(ledger, "chunk", line=2)
    note(ledger, journal, of(2), chunk)
    assert look(ledger, journal) is None
    (name,) = journal.files()
    path = journal.folder / name
    whole = path.read_bytes()
    if fault == "gone":
        path.unlink()
    elif fault == "shorter":
        path.write_bytes(whole[:-5])
    elif fault == "damaged":
        path.write_bytes(whole + whole.replace(b'"fence":1', b'"fence":2'))
    else:
        journal.discard([], "2026-10-01")
    hold = look(ledger, journal)
    assert hold is not None
    assert "put the journal back" in hold.because
    assert put_back(ledger, journal).faults
    assert look(ledger, journal) == hold
    if fault == "pruned":
        restored.begin_anew(ledger, journal, "Dr Grey", NOW)
    else:
        path.write_bytes(whole)
        assert put_back(ledger, journal).released
    assert look(ledger, journal) is None


def test_files_that_are_old_enough_go_and_the_ledger_knows(ledger: Ledger, tmp_path: Path) -> None:
    queue(ledger, lines(2))
    begin(ledger, 2)
    ((chunk,), *_) = attempt_rows(ledger, "chunk", line=2)
    for days in (0, 1, 91, 92):
        journal = Journal(tmp_path / "claims", lambda days=days: NOW + timedelta(days=days))
        note(ledger, journal, of(2), chunk)
        journal.close()
        assert look(ledger, journal) is None
    assert [name[:10] for name in journal.files()] == ["2026-10-02", "2026-12-31", "2027-01-01"]
    assert journal.pruned == "2026-10-01"
    with ledger.read() as connection:
        known = connection.scalars(sa.select(facts.c.name).where(facts.c.name.startswith("journal/"))).all()
    assert sorted(name.removeprefix("journal/") for name in known) == list(journal.files())


@pytest.mark.parametrize("gone_by_hand", [False, True])
def test_what_a_later_ledger_threw_away_is_no_fault_for_one_that_knew_it_all(
    ledger: Ledger, tmp_path: Path, gone_by_hand: bool
) -> None:
    """Else no copy of before the last time that something was thrown away, which is each day, could be reconciled."""
    queue(ledger, lines(3))
    begin(ledger, 2)
    for day in (0, 1, 2, 91):
        journal = _sent_on(ledger, tmp_path / "claims", day)
    copy = copy_of(ledger)
    for day in (92, 93):
        journal = _sent_on(ledger, tmp_path / "claims", day)
    assert journal.pruned == "2026-10-02"
    note(ledger, journal, of(3, 4))
    restore(ledger, copy)
    if gone_by_hand:
        next(iter(journal.folder.glob("2026-10-03*"))).unlink()
    hold = look(ledger, journal)
    assert hold is not None
    assert "1 chunks that the ledger doesn't know" in hold.because
    assert ("gone or shorter" in hold.because) == gone_by_hand
    done = put_back(ledger, journal)
    assert (done.messages, done.released) == (2, not gone_by_hand)
    if not gone_by_hand:
        assert look(ledger, journal) is None
        with ledger.read() as connection:
            assert set(restored._seen(connection)) == set(journal.files())


def test_reconciling_a_ledger_that_nobody_looked_at_pauses_it_too(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(3))
    note(ledger, journal, of(2))
    assert put_back(ledger, journal).released
    with ledger.read() as connection:
        pause = controls.general(connection)
        assert pause is not None
        assert (pause.by, controls.held(connection)) == (RESTORED, None)


def test_a_persons_word_that_the_journal_isnt_whole_goes_before_what_the_journal_tells(
    ledger: Ledger, journal: Journal
) -> None:
    queue(ledger, lines(3))
    note(ledger, journal, of(2))
    told = look(ledger, journal)
    assert told is not None
    with ledger.write() as connection:
        said = controls.hold(connection, "restored as a whole", NOW + timedelta(hours=1), "Dr Grey")
        assert (said.by, said.at) == ("Dr Grey", told.at)
        assert controls.hold(connection, "again", NOW, "Dr White").by == "Dr Grey"
    done = put_back(ledger, journal)
    assert (done.messages, done.released) == (1, False)


# Servers that fail over -----------------------------------------------------------------------------------------------


class FailsOver(Ledger):
    """Before its next write another server has it, which lags behind."""

    copy: Copy | None

    @classmethod
    def of(cls, ledger: Ledger, copy: Copy) -> "FailsOver":
        made = cls(ledger._engine)
        made.copy = copy
        return made

    @override
    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        self.fail_over()
        with super().write() as connection:
            yield connection

    def fail_over(self) -> None:
        if self.copy is not None:
            copy, self.copy = self.copy, None
            restore(self, copy)
            self.other_server()

    other_server: Callable[[], object] = staticmethod(lambda: None)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """Lets another server answer from now on: as the moment since when it runs tells."""
    since = iter(NOW + timedelta(days=day) for day in range(9))

    def other() -> None:
        told = sa.literal(next(since).isoformat(), sa.Text())
        monkeypatch.setattr(restored, "serving_since", lambda _: told)
        restored._known_statement.cache_clear()

    other()
    yield other
    restored._known_statement.cache_clear()


def test_a_server_that_takes_over_after_a_look_is_looked_at_anew(
    ledger: Ledger, journal: Journal, servers: Callable[[], object]
) -> None:
    """What was remembered of the look, on the other server, would hide what that one has forgotten."""
    queue(ledger, lines(3))
    assert look(ledger, journal) is None
    copy = copy_of(ledger)
    begin(ledger, 2)
    ((chunk,), *_) = attempt_rows(ledger, "chunk", line=2)
    note(ledger, journal, of(2), str(chunk))
    failing = FailsOver.of(ledger, copy)
    failing.other_server = servers
    look(failing, journal)
    assert failing.copy is None
    hold = look(ledger, journal)
    assert hold is not None
    assert "has 1 chunks that the ledger doesn't know" in hold.because


@pytest.mark.parametrize("seen_before", ["by the dispatch", "by the look before it"])
def test_a_dispatch_looks_anew_where_another_server_has_taken_over(
    ledger: Ledger, journal: Journal, servers: Callable[[], object], seen_before: str
) -> None:
    """That a chunk was there, on the server before, tells nothing of this one."""
    queue(ledger, lines(3))
    assert look(ledger, journal) is None
    watch = restored.Watch(ledger, journal)
    copy = copy_of(ledger)
    begin(ledger, 2)
    ((chunk,), *_) = attempt_rows(ledger, "chunk", line=2)
    note(ledger, journal, of(2), str(chunk))
    if seen_before == "by the look before it":
        assert look(ledger, journal) is None
        watch = restored.Watch(ledger, journal)
    assert watch.missing() == set()
    restore(ledger, copy)
    servers()
    assert watch.missing() == {chunk}
    assert watch.missing() == {chunk}


def test_a_post_that_was_seen_before_the_dispatch_began_is_known_to_one_whose_ledger_went_back_since(
    ledger: Ledger, journal: Journal
) -> None:
    """To a moment when that chunk waited."""
    queue(ledger, lines(3))
    assert look(ledger, journal) is None
    begin(ledger, 2)
    ((chunk,), *_) = attempt_rows(ledger, "chunk", line=2)
    copy = copy_of(ledger)
    note(ledger, journal, of(2), str(chunk))
    assert look(ledger, journal) is None
    watch = restored.Watch(ledger, journal)
    assert not watch.knows(str(chunk))
    restore(ledger, copy)
    assert watch.knows(str(chunk))


def test_servers_that_answer_by_turns_end_the_dispatch(
    ledger: Ledger, journal: Journal, servers: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(ledger, lines(3))
    watch, files = restored.Watch(ledger, journal), journal.files
    monkeypatch.setattr(journal, "files", lambda: (servers(), files())[1])
    with pytest.raises(Refused, match="let LEDGER_URL name one"):
        watch.missing()


def test_while_the_ledger_is_let_go_nobody_holds_it_again(
    ledger: Ledger, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(ledger, lines(3))
    assert look(ledger, journal) is None
    _pause(ledger)
    assert look(ledger, journal) is None
    forgotten, known = restored._last_decision(ledger), restored._has_decision
    monkeypatch.setattr(restored, "_has_decision", lambda con, noted: noted != forgotten and known(con, noted))
    assert look(ledger, journal) is not None
    release = controls.release
    others = list[Hold | None]()

    @contextmanager
    def watched(self: Ledger) -> Generator[sa.Connection]:
        with write(self) as connection:
            yield connection
        if not others and released:
            others.append(None)
            others[0] = look(self, journal)

    write, released = Ledger.write, list[str]()
    monkeypatch.setattr(Ledger, "write", watched)
    monkeypatch.setattr(controls, "release", lambda *given: (released.append("now"), release(*given)))
    assert put_back(ledger, journal).released
    assert others == [None]
    with ledger.read() as connection:
        assert controls.held(connection) is None


# What was decided ----------------------------------------------------------------------------------------------------


def _pause(ledger: Ledger) -> None:
    with ledger.write() as connection:
        controls.pause(connection, BATCH, "Dr Grey", None, NOW)


@pytest.mark.parametrize("since", ["nothing", "something else"])
def test_a_ledger_that_has_forgotten_what_was_decided_is_held_too(
    ledger: Ledger, journal: Journal, monkeypatch: pytest.MonkeyPatch, since: str
) -> None:
    queue(ledger, lines(3))
    assert look(ledger, journal) is None
    _pause(ledger)
    assert look(ledger, journal) is None
    forgotten = restored._last_decision(ledger)
    # Nothing can be deleted of the audit: a ledger that went back is one that doesn't have the entry.
    known = restored._has_decision
    monkeypatch.setattr(
        restored, "_has_decision", lambda connection, noted: noted != forgotten and known(connection, noted)
    )
    if since == "something else":
        with ledger.write() as connection:
            controls.resume(connection, BATCH, "Dr Grey", NOW)
    hold = look(ledger, journal)
    assert hold is not None
    assert "has forgotten what was decided" in hold.because
    assert "decide that again" in hold.because
    assert put_back(ledger, journal).released
    assert look(ledger, journal) is None
    with ledger.read() as connection:
        assert controls.general(connection) is not None


# Many at once ---------------------------------------------------------------------------------------------------------


@on_sqlite_alone
def test_what_was_lost_of_a_million_messages_takes_little_memory(ledger: Ledger, journal: Journal) -> None:
    """By the hundredth part: in dictionaries they would be some 5 MB."""
    chunks_of = range(2, 10_002, 500)
    for start in chunks_of:
        noted = [Noted(line, f"{line:032x}", f"{BATCH}:{line}:primary:old") for line in range(start, start + 500)]
        note(ledger, journal, noted, f"lost {start}")
    tracemalloc.start()
    found = sum(len(lost.messages) for lost in restored._lost(ledger, journal, {f"lost {n}" for n in chunks_of}))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found, most < 2_500_000) == (10_000, True), most


@on_postgresql_alone
def test_putting_back_and_who_goes_by_id_do_not_wait_for_each_other(ledger: Ledger, journal: Journal) -> None:
    """The other stands for a fold of receipts, which locks its messages in the order of their ids."""
    queue(ledger, [*lines(2), Recipient(4, "nhs_app")])
    note(ledger, journal, list(reversed(of(2, 3))))
    assert look(ledger, journal) is not None
    assert_nobody_waits_for_ever(ledger, lambda: put_back(ledger, journal), 2, 3)
    assert [row[2] for row in shown(ledger)] == ["lost", "lost", None]


@on_postgresql_alone
def test_two_who_put_back_at_once_do_not_wait_for_each_other(ledger: Ledger, journal: Journal) -> None:
    queue(ledger, lines(2))
    queue(ledger, lines(2), "covid", message_key="covid")
    for number in range(6):
        batch = (BATCH, "covid")[number % 2]
        noted = [Noted(2, patient(2), f"{batch}:2:primary:old")]
        note(ledger, journal, noted, f"lost {number}", batch=batch, minutes=number)
    assert look(ledger, journal) is not None
    order = [lost.entry.batch for lost in restored._lost(ledger, journal, {f"lost {n}" for n in range(6)})]
    assert order == sorted(order)


# Clocks that are wrong ------------------------------------------------------------------------------------------------


def _sent_on(ledger: Ledger, folder: Path, day: int) -> Journal:
    """A line on that day of the writer's clock, and a look by it."""
    ((chunk,), *_) = attempt_rows(ledger, "chunk", line=2)
    writing = Journal(folder, lambda: NOW + timedelta(days=day))
    note(ledger, writing, of(2), chunk)
    writing.close()
    assert look(ledger, writing) is None
    return writing


def test_a_clock_that_was_far_ahead_for_a_day_makes_nothing_old(ledger: Ledger, tmp_path: Path) -> None:
    queue(ledger, lines(2))
    begin(ledger, 2)
    for day in (0, 4_000, 1, 2):
        journal = _sent_on(ledger, tmp_path / "claims", day)
    assert len(journal.files()) == 4
    assert journal.pruned == ""


def test_a_clock_that_was_far_behind_makes_nothing_old(ledger: Ledger, tmp_path: Path) -> None:
    queue(ledger, lines(2))
    begin(ledger, 2)
    for day in (0, 1, 2, -4_000, 3, 4):
        journal = _sent_on(ledger, tmp_path / "claims", day)
    assert len(journal.files()) == 6


def test_what_was_thrown_away_before_is_not_forgotten_for_an_older_file(ledger: Ledger, tmp_path: Path) -> None:
    queue(ledger, lines(2))
    begin(ledger, 2)
    for day in (0, 1, 95, 96, -4_000, 97, 300, 301):
        journal = _sent_on(ledger, tmp_path / "claims", day)
    assert look(ledger, journal) is None


def test_who_only_decides_and_has_another_folder_holds_nobody_up(
    ledger: Ledger, journal: Journal, tmp_path: Path
) -> None:
    queue(ledger, lines(3))
    begin(ledger, 2, 3)
    ((chunk,), *_) = attempt_rows(ledger, "chunk", line=2)
    note(ledger, journal, of(2, 3), chunk)
    assert look(ledger, journal) is None
    elsewhere = Journal(tmp_path / "elsewhere")
    with ledger.write() as connection:
        controls.pause(connection, BATCH, "Dr Grey", None, NOW)
    restored.note_decision(ledger, elsewhere)
    assert elsewhere.decided == ""
    with ledger.read() as connection:
        assert controls.held(connection) is None
    restored.note_decision(ledger, journal)
    assert "pause" in journal.decided
    assert look(ledger, journal) is None


def test_a_slow_look_does_not_note_an_earlier_decision_over_a_later_one(
    ledger: Ledger, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(ledger, lines(1))
    last = restored._last_decision

    def slow(ledger: Ledger) -> str | None:
        found = last(ledger)
        monkeypatch.undo()
        with ledger.write() as other:
            controls.pause(other, BATCH, "Dr Grey", None, NOW)
        restored.note_decision(ledger, journal)
        return found

    with ledger.write() as connection:
        controls.resume_all(connection, "Dr Grey", NOW)
    monkeypatch.setattr(restored, "_last_decision", slow)
    restored.note_decision(ledger, journal)
    assert journal.decided.endswith("pause")
