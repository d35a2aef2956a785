import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, batches, chunks, due, links, unconfirmed
from batch_pipeline.ledger.chunks import Message
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.links import Link, Revoked, Tried
from batch_pipeline.ledger.tables import links as table
from batch_pipeline.ledger.tables import wrong_dates
from batch_pipeline.rules import links as rules
from batch_pipeline.rules.links import LinkKeys
from batch_pipeline_tests.ledger.given import (
    BATCH,
    LATER_PLAN,
    NOW,
    PLAN,
    Recipient,
    approve,
    attempt_rows,
    begin,
    lines,
    open_ledger,
    patient,
    queue,
    set_attempts,
)

KEYS = LinkKeys(b"t" * 32, b"b" * 32, b"s" * 32)
BORN = date(1980, 1, 31)
WRONG = date(1981, 1, 31)
ADDRESS = "ab" * 16


def rows(*numbers: int, born: date | None = BORN) -> list[pa.RecordBatch]:
    schema = pa.schema([("patient", pa.string()), ("date_of_birth", pa.date32())])
    some = [{"patient": patient(line), "date_of_birth": born} for line in numbers]
    return [pa.RecordBatch.from_pylist(some, schema=schema)]


def given(ledger: Ledger, recipients: Iterable[Recipient] | None = None, batch: str = BATCH) -> None:
    """A queued batch with its links."""
    wanted = list(recipients if recipients is not None else lines(3))
    approve(ledger, batch)
    links.write(ledger, batch, "attachment", KEYS, rows(*(each.line for each in wanted)), NOW)
    queue(ledger, wanted, batch)


def token_hash(line: int, batch: str = BATCH) -> str:
    return rules.hash_of(rules.token_of(KEYS, batch, patient(line)))


def found(ledger: Ledger, line: int = 2, batch: str = BATCH) -> Link:
    with ledger.read() as connection:
        link = links.find(connection, token_hash(line, batch))
    assert link is not None
    return link


def tried(
    ledger: Ledger, born: date = BORN, line: int = 2, at: datetime = NOW, address: str = ADDRESS, batch: str = BATCH
) -> Tried:
    hashed = token_hash(line, batch)
    with ledger.write() as connection:
        return links.try_date(connection, hashed, rules.birth_hash(KEYS, hashed, born), address, at)


def revoked(ledger: Ledger, *numbers: int, at: datetime = NOW) -> Revoked:
    with ledger.write() as connection:
        return links.revoke(connection, BATCH, numbers, "Dr Grey", at)


def audited(ledger: Ledger) -> list[tuple[str, Any]]:
    with ledger.read() as connection:
        every = audit.entries(connection, BATCH)
    return [(e.action, e.detail) for e in every if e.action not in ("submit", "review", "approve")]


# Making them


def test_a_link_is_kept_without_its_token_and_without_its_date(ledger: Ledger) -> None:
    given(ledger)
    link = found(ledger)
    assert (link.batch, link.workspace, link.kind, link.sent_at) == (BATCH, "riverside", "attachment", None)
    token = rules.token_of(KEYS, BATCH, patient(2))
    with ledger.read() as connection:
        kept = [str(cell) for row in connection.execute(sa.select(table)) for cell in row]
    assert len(kept) == 3 * len(table.columns)
    assert not any(token in cell or "1980" in cell for cell in kept)


def test_links_made_again_are_the_same_but_for_a_corrected_date_of_birth(ledger: Ledger) -> None:
    given(ledger)
    tried(ledger, WRONG)
    before = found(ledger)
    assert links.write(ledger, BATCH, "attachment", KEYS, rows(2, 3, 4), NOW + timedelta(days=1)) == 3
    assert found(ledger) == before
    links.write(ledger, BATCH, "attachment", KEYS, rows(2, born=WRONG), NOW)
    assert tried(ledger, WRONG).result == "right"


def test_no_two_patients_and_no_two_batches_share_a_link(ledger: Ledger) -> None:
    given(ledger)
    given(ledger, lines(3), "covid")
    with ledger.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 6


def test_many_links_take_few_statements(ledger: Ledger) -> None:
    approve(ledger)
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(ledger._engine, "before_cursor_execute", note)
    links.write(ledger, BATCH, "attachment", KEYS, rows(*range(2, 2_002)), NOW)
    assert len(asked) <= 3


def message(text: str, line: int = 2) -> Message:
    return Message(f"flu:{line}", "sms", "9990000018", "+447700900123", text, None, line, patient(line))


def test_a_message_is_completed_the_same_each_time_and_others_stay_as_they_are() -> None:
    complete = links.completer(KEYS, BATCH)
    queued = message(f"See {rules.address('https://msg.example.org')}.")
    sent = complete(queued)
    assert sent.text == f"See https://msg.example.org/{rules.token_of(KEYS, BATCH, patient(2))}."
    assert complete(queued) == sent
    assert complete(queued._replace(patient=patient(3))).text != sent.text
    assert complete(message("No link.")) == message("No link.")


# Opening them


def test_a_token_that_nobody_has_finds_nothing(ledger: Ledger) -> None:
    given(ledger)
    with ledger.read() as connection:
        assert links.find(connection, rules.hash_of("x" * 22)) is None
    with ledger.write() as connection:
        assert links.try_date(connection, rules.hash_of("x" * 22), "", ADDRESS, NOW) == Tried("gone")


def test_the_right_date_opens_it_and_the_first_time_is_kept(ledger: Ledger) -> None:
    given(ledger)
    assert tried(ledger).result == "right"
    assert tried(ledger, at=NOW + timedelta(hours=1)).result == "right"
    assert found(ledger).opened_at == NOW


def test_five_wrong_dates_lock_it_and_then_no_date_opens_it(ledger: Ledger) -> None:
    given(ledger)
    said = [tried(ledger, WRONG) for _ in range(4)]
    assert [each.left for each in said] == [4, 3, 2, 1]
    assert {each.result for each in said} == {"wrong"}
    assert found(ledger).standing(NOW) == "open"
    assert tried(ledger, WRONG).result == "locked"
    assert tried(ledger).result == "locked"
    assert found(ledger).standing(NOW) == "locked"
    assert found(ledger, 3).standing(NOW) == "open"
    assert found(ledger).opened_at is None


def test_a_right_date_lets_the_count_begin_anew(ledger: Ledger) -> None:
    given(ledger)
    for _ in range(4):
        tried(ledger, WRONG)
    tried(ledger)
    assert tried(ledger, WRONG) == Tried("wrong", 4)


def test_a_link_without_a_date_of_birth_opens_with_none(ledger: Ledger) -> None:
    """As the purge leaves it."""
    given(ledger)
    links.write(ledger, BATCH, "attachment", KEYS, rows(2, born=None), NOW)
    assert tried(ledger).result == "wrong"


def test_many_at_once_have_five_tries_between_them(folder: Path) -> None:
    ledger = open_ledger(folder)
    given(ledger)
    start = threading.Barrier(12)

    def one(number: int) -> str:
        mine = open_ledger(folder)
        start.wait()
        result = tried(mine, WRONG, address=f"{number:032x}").result
        mine.close()
        return result

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(one, range(12)))
    assert results.count("wrong") == 4
    assert results.count("locked") == 8
    assert found(ledger).wrong_tries == 5
    ledger.close()


def test_one_address_has_to_wait_after_many_wrong_dates_whatever_the_links(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "WRONG_BY_ADDRESS", 3)
    given(ledger, lines(6))
    for line in (2, 3, 4):
        tried(ledger, WRONG, line)
    assert tried(ledger, BORN, 5) == Tried("limited")
    assert tried(ledger, BORN, 5, address="cd" * 16).result == "right"
    assert found(ledger, 5).wrong_tries == 0
    later = NOW + rules.WRONG_WITHIN
    assert tried(ledger, WRONG, 6, at=later).result == "wrong"
    with ledger.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(wrong_dates)) == 1


def test_who_gets_it_right_in_the_end_keeps_nobody_else_out(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mobile network's address stands for thousands of patients, of whom many mistype once."""
    monkeypatch.setattr(rules, "WRONG_BY_ADDRESS", 3)
    given(ledger, lines(8))
    for line in (2, 3, 4, 5, 6):
        assert tried(ledger, WRONG, line).result == "wrong"
        assert tried(ledger, BORN, line).result == "right"
    for line in (7, 8, 9):  # nor is anybody forgiven for others' links
        assert tried(ledger, WRONG, line).result == "wrong"
    assert tried(ledger, BORN, 2) == Tried("limited")


def test_its_life_begins_when_the_message_went_last(ledger: Ledger) -> None:
    given(ledger)
    assert found(ledger).standing(NOW + timedelta(days=100)) == "open"
    begin(ledger, 2, at=NOW + timedelta(days=10))
    end = NOW + timedelta(days=38)
    assert found(ledger).standing(end - timedelta(seconds=1)) == "open"
    assert found(ledger).standing(end) == "gone"
    assert tried(ledger, at=end) == Tried("gone")


def test_the_first_download_is_kept(ledger: Ledger) -> None:
    given(ledger)
    for hours in (1, 2):
        with ledger.write() as connection:
            links.note_download(connection, token_hash(2), NOW + timedelta(hours=hours))
    assert found(ledger).downloaded_at == NOW + timedelta(hours=1)


def test_a_lock_lets_the_final_report_be_made_again(ledger: Ledger) -> None:
    given(ledger)
    begin(ledger, 2, 3, 4)
    set_attempts(ledger, {"accepted_at": NOW, "delivered_at": NOW})

    def unreported() -> list[str]:
        with ledger.read() as connection:
            return due.ended_unreported(connection)

    assert unreported() == [BATCH]

    def report(at: datetime) -> None:
        with ledger.write() as connection:
            batches.mark_reported(connection, BATCH, batches.get(connection, BATCH).changes, at)

    report(NOW)
    later = NOW + timedelta(hours=1)
    for _ in range(4):
        tried(ledger, WRONG, at=later)
    assert unreported() == []
    tried(ledger, WRONG, at=later)
    assert unreported() == [BATCH]
    with ledger.read() as connection:
        assert links.locked(connection, BATCH) == [(2, later)]
    report(later)
    assert unreported() == []
    with ledger.read() as connection:
        seen = batches.get(connection, BATCH).changes
    with ledger.write() as connection:
        links.unlock(connection, BATCH, 2, "Dr Grey", later)
    assert unreported() == [BATCH]
    with ledger.write() as connection:  # a report that was begun before
        batches.mark_reported(connection, BATCH, seen, later)
    assert unreported() == [BATCH]


# Deciding about them


def test_one_patient_s_link_is_revoked_for_ever(ledger: Ledger) -> None:
    given(ledger)
    begin(ledger, 2, 3, 4)
    assert revoked(ledger, 2) == Revoked(links=1, messages=0)
    assert found(ledger).standing(NOW) == "gone"
    assert found(ledger, 3).standing(NOW) == "open"
    assert revoked(ledger, 2) == Revoked(links=0, messages=0)
    links.write(ledger, BATCH, "attachment", KEYS, rows(2), NOW)
    assert found(ledger).standing(NOW) == "gone"
    assert audited(ledger) == [("revoke", {"lines": [2], "links": 1})]


def test_all_links_of_a_batch_are_revoked_those_made_later_too(ledger: Ledger) -> None:
    given(ledger)
    given(ledger, lines(3), "covid")
    begin(ledger, 2, 3, 4)
    revoked(ledger, 3)
    assert revoked(ledger) == Revoked(links=2, messages=0)
    assert revoked(ledger) == Revoked(links=0, messages=0)
    links.write(ledger, BATCH, "attachment", KEYS, rows(9), NOW)
    assert {found(ledger, line).standing(NOW) for line in (2, 3, 4, 9)} == {"gone"}
    assert found(ledger, 2, "covid").standing(NOW) == "open"
    assert audited(ledger)[-1] == ("revoke", {"lines": [], "links": 2})


def test_a_batch_whose_links_were_all_revoked_one_by_one_is_revoked_for_those_to_come(ledger: Ledger) -> None:
    """It is a decision all the same: a ledger that was restored has to know that it forgot it."""
    given(ledger)
    revoked(ledger, 2, 3, 4)
    assert revoked(ledger).links == 0
    assert audited(ledger)[-1] == ("revoke", {"lines": [], "links": 0})
    assert revoked(ledger).links == 0
    assert len(audited(ledger)) == 2


@pytest.mark.parametrize(("chosen", "cancelled"), [((2,), [2]), ((), [2, 3])])
def test_what_is_not_begun_is_never_sent_with_a_revoked_link(
    ledger: Ledger, chosen: tuple[int, ...], cancelled: list[int]
) -> None:
    given(ledger)
    begin(ledger, 4)
    assert revoked(ledger, *chosen).messages == len(cancelled)
    ended = [line for line, at in attempt_rows(ledger, "line", "cancelled_at") if at]
    assert ended == cancelled


def test_what_was_given_back_after_its_link_was_revoked_is_withdrawn(ledger: Ledger) -> None:
    given(ledger)
    begin(ledger, 2, 3)
    revoked(ledger, 2)
    set_attempts(ledger, {"chunk": None, "begun_at": None}, line=2)
    with ledger.write() as connection:
        assert links.withdraw_revoked(connection, BATCH, NOW) == 1
        assert links.withdraw_revoked(connection, BATCH, NOW) == 0


@pytest.mark.parametrize("plan", [PLAN, LATER_PLAN])
def test_a_plan_that_is_queued_after_its_links_were_revoked_has_nothing_to_send(ledger: Ledger, plan: str) -> None:
    """Not for a moment: a dispatch that is at work on the batch would take it at once."""
    if plan == LATER_PLAN:
        given(ledger)
        begin(ledger, 2, 3)
    else:
        approve(ledger)
    links.write(ledger, BATCH, "attachment", KEYS, rows(2, 3, 4, 5), NOW)
    revoked(ledger)
    queue(ledger, lines(4), plan=plan)
    with ledger.read() as connection:
        assert chunks.unsent(connection, BATCH, "primary") == {}
    assert (5, NOW) in attempt_rows(ledger, "line", "cancelled_at")


def test_what_a_person_finds_not_sent_after_its_link_was_revoked_does_not_go(ledger: Ledger) -> None:
    given(ledger)
    begin(ledger, 2, 3, 4)
    set_attempts(ledger, {"unconfirmed_at": NOW})
    revoked(ledger, 2)
    with ledger.write() as connection:
        unconfirmed.resolve(connection, BATCH, [2, 3], "Dr Grey", NOW, sent=False)
    assert attempt_rows(ledger, "line", "chunk", "cancelled_at")[:2] == [(2, None, NOW), (3, None, None)]


def test_a_line_without_a_link_and_a_batch_without_links_are_refused(ledger: Ledger) -> None:
    given(ledger)
    with pytest.raises(Refused, match="line 99 has no link"):
        revoked(ledger, 2, 99)
    assert found(ledger).standing(NOW) == "open"
    queue(ledger, lines(3), "plain")
    with ledger.write() as connection, pytest.raises(Refused, match="plain has no links"):
        links.revoke(connection, "plain", [], "Dr Grey", NOW)
    with ledger.write() as connection, pytest.raises(Refused, match="no batch none"):
        links.revoke(connection, "none", [], "Dr Grey", NOW)


def test_a_locked_link_is_unlocked_by_a_person_and_has_five_tries_again(ledger: Ledger) -> None:
    given(ledger)
    for _ in range(5):
        tried(ledger, WRONG)
    with ledger.write() as connection:
        assert links.unlock(connection, BATCH, 2, "Dr Grey", NOW)
    with ledger.write() as connection:
        assert not links.unlock(connection, BATCH, 2, "Dr Grey", NOW)
    with ledger.read() as connection:
        assert links.locked(connection, BATCH) == []
    assert tried(ledger, WRONG) == Tried("wrong", 4)
    assert audited(ledger) == [("unlock", {"line": 2})]


@pytest.mark.parametrize("why", ["revoked", "over"])
def test_who_unlocks_a_link_that_opens_no_more_is_told_so(ledger: Ledger, why: str) -> None:
    """Or the patient would be told to try again."""
    given(ledger)
    begin(ledger, 2)
    for _ in range(5):
        tried(ledger, WRONG)
    now = NOW + timedelta(days=28) if why == "over" else NOW
    if why == "revoked":
        revoked(ledger, 2)
    with ledger.write() as connection, pytest.raises(Refused, match="line 2: the link opens no more"):
        links.unlock(connection, BATCH, 2, "Dr Grey", now)
    assert found(ledger).locked_at == NOW


def test_a_locked_link_that_is_revoked_needs_nobody(ledger: Ledger) -> None:
    given(ledger)
    for line in (2, 3):
        for _ in range(5):
            tried(ledger, WRONG, line)
    revoked(ledger, 2)
    with ledger.read() as connection:
        assert links.locked(connection, BATCH) == [(3, NOW)]
    revoked(ledger)
    with ledger.read() as connection:
        assert links.locked(connection, BATCH) == []
