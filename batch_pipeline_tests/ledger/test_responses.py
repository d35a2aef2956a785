"""Answers in the ledger: kept while the link opens, folded one after the other, and what can't wait raised with them."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import alerts, audit, batches, links, responses
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.links import Link, Response
from batch_pipeline.ledger.responses import Change, Closed, Counted
from batch_pipeline_tests.ledger.given import BATCH, NOW, approve, begin, lines, open_ledger, patient, queue
from batch_pipeline_tests.ledger.test_links import KEYS, WRONG, found, rows, token_hash, tried
from batch_pipeline_tests.ledgers import on_postgresql_alone

Fold = Callable[[Link, Response | None], Change]
HOUR = timedelta(hours=1)


@pytest.fixture
def asked(ledger: Ledger) -> Ledger:
    """A batch whose questionnaire went out."""
    given(ledger)
    return ledger


def given(ledger: Ledger, batch: str = BATCH, questionnaire: str = "bp_7_day") -> None:
    approve(ledger, batch, questionnaire=questionnaire)
    links.write(ledger, batch, "questionnaire", KEYS, rows(2, 3, 4), NOW)
    queue(ledger, lines(3), batch, questionnaire=questionnaire)
    begin(ledger, 2, 3, 4, batch=batch)


def adding(key: str, value: object = 1, *, findings: tuple[str, ...] = (), completes: bool = False) -> Fold:
    """One more answer over those that there are."""

    def fold(_: Link, before: Response | None) -> Change:
        known: dict[str, Any] = {} if before is None or before.answers is None else json.loads(before.answers)
        after = known | {key: value}
        return Change(None if after == known else json.dumps(after), completes, findings)

    return fold


def kept(ledger: Ledger, fold: Fold, line: int = 2, at: datetime = NOW, batch: str = BATCH) -> Change | Closed:
    with ledger.write() as connection:
        return responses.keep(connection, token_hash(line, batch), fold, at)


def answered(ledger: Ledger, batch: str = BATCH) -> list[responses.Answered]:
    with ledger.read() as connection:
        return list(responses.of_batch(connection, batch))


def nothing(_: Link, __: Response | None) -> Change:
    return Change(None, completes=False, findings=())


def test_the_first_answer_begins_a_row_and_the_others_renew_it(asked: Ledger) -> None:
    assert kept(asked, nothing) == Change(None, completes=False, findings=())
    assert answered(asked) == []
    kept(asked, adding("a"), at=NOW + HOUR)
    kept(asked, adding("b"), at=NOW + 2 * HOUR)
    kept(asked, adding("b"), at=NOW + 3 * HOUR)
    [row] = answered(asked)
    assert (row.line, row.patient, row.version) == (2, patient(2), 2)
    assert (row.first_at, row.changed_at, row.completed_at) == (NOW + HOUR, NOW + 2 * HOUR, None)
    assert json.loads(row.answers or "") == {"a": 1, "b": 1}
    assert row.nhs_number is not None
    assert row.nhs_number not in repr(row)
    assert found(asked).response is not None


def test_a_link_s_end_is_counted_from_the_first_answer(asked: Ledger) -> None:
    day = 24 * HOUR
    assert found(asked).ends_at(NOW) == NOW + 9 * day
    kept(asked, adding("a"), at=NOW + day)
    assert found(asked).ends_at(NOW) == NOW + 8 * day
    kept(asked, adding("b"), at=NOW + 2 * day)
    assert found(asked).ends_at(NOW) == NOW + 8 * day
    assert kept(asked, adding("c"), at=NOW + 8 * day) == "gone"
    assert kept(asked, adding("c"), at=NOW + 8 * day - HOUR) != "gone"


@pytest.mark.parametrize("whose", [[2], []], ids=["its own", "with the batch"])
def test_nothing_is_kept_by_a_link_that_was_revoked(asked: Ledger, whose: list[int]) -> None:
    kept(asked, adding("a"))
    before = answered(asked)
    with asked.write() as connection:
        links.revoke(connection, BATCH, whose, "Dr Grey", NOW)
    assert kept(asked, adding("b", findings=("x",))) == "gone"
    assert answered(asked) == before
    with asked.read() as connection:
        assert alerts.of_batch(connection, BATCH) == []


def test_nothing_is_kept_by_a_link_that_is_locked_or_never_was(asked: Ledger) -> None:
    for _ in range(5):
        tried(asked, WRONG)
    assert kept(asked, adding("a")) == "locked"
    assert kept(asked, adding("a"), line=99) == "gone"
    assert answered(asked) == []


def test_answers_that_were_sent_change_no_more(asked: Ledger) -> None:
    kept(asked, adding("a"))
    kept(asked, adding("b", completes=True), at=NOW + HOUR)
    sent = answered(asked)
    assert (sent[0].completed_at, sent[0].version) == (NOW + HOUR, 2)
    kept(asked, adding("c", findings=("x",)), at=NOW + 2 * HOUR)
    assert answered(asked) == sent
    with asked.read() as connection:
        assert [alert.finding for alert in alerts.untold(connection, BATCH)] == ["x"], "it can't wait all the same"


def test_many_at_once_lose_nothing(folder: Path) -> None:
    """Two tabs, a double click, several gateways: each post is folded over what the one before left."""
    ledgers = [open_ledger(folder) for _ in range(4)]
    given(ledgers[0])
    together = threading.Barrier(4)

    def post(n: int) -> None:
        for k in range(5):
            together.wait(30)
            kept(ledgers[n], adding(f"{n}-{k}", findings=(f"f{k}",)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(post, range(4)))
    [row] = answered(ledgers[0])
    assert len(json.loads(row.answers or "")) == row.version == 20
    with ledgers[0].read() as connection:
        assert [alert.finding for alert in alerts.of_batch(connection, BATCH)] == [f"f{k}" for k in range(5)]
    for each in ledgers:
        each.close()


@on_postgresql_alone
def test_an_urgent_reading_waits_for_nobody_who_has_the_batch(asked: Ledger) -> None:
    """Who revokes a link has the batch, and waits for the link: who has the link must not wait for the batch."""
    with ThreadPoolExecutor() as pool, asked.write() as connection:
        batches.get(connection, BATCH, lock=True)
        assert pool.submit(kept, asked, adding("a", findings=("high:1",))).result(10) != "gone"
        links.revoke(connection, BATCH, [2], "Dr Grey", NOW)
    with asked.read() as connection:
        assert [alert.line for alert in alerts.untold(connection, BATCH)] == [2]


def test_an_alert_is_raised_once_for_a_patient_and_a_finding(asked: Ledger) -> None:
    for at, key in enumerate("abc"):
        kept(asked, adding(key, findings=("high:1", "high:2")[: at + 1]), at=NOW + at * HOUR)
    kept(asked, adding("a", findings=("high:1",)), line=3)
    with asked.read() as connection:
        every = alerts.of_batch(connection, BATCH)
    assert [(each.line, each.finding, each.raised_at) for each in every] == [
        (2, "high:1", NOW),
        (2, "high:2", NOW + HOUR),
        (3, "high:1", NOW),
    ]


def test_an_alert_is_due_until_somebody_is_told_of_it(asked: Ledger) -> None:
    kept(asked, adding("a", findings=("high:1",)))
    with asked.write() as connection:
        assert alerts.to_be_told(connection, NOW) == [(BATCH, "riverside")]
        [alert] = alerts.untold(connection, BATCH)
        alerts.note_try(connection, [alert.id], NOW)
        assert alerts.to_be_told(connection, NOW + alerts.AGAIN_AFTER / 2) == []
        assert alerts.to_be_told(connection, NOW + alerts.AGAIN_AFTER) == [(BATCH, "riverside")]
        alerts.note_told(connection, [alert.id], "webhook", NOW)
        alerts.note_told(connection, [alert.id], "email", NOW + HOUR)
        assert alerts.to_be_told(connection, NOW + 9 * HOUR) == []
        [told] = alerts.of_batch(connection, BATCH)
        assert (told.told_at, told.told_by) == (NOW, "webhook")


def test_a_person_has_seen_what_nobody_was_told_of(asked: Ledger) -> None:
    for line in (3, 2):
        kept(asked, adding("a", findings=("high:1", "high:2")), line=line)
    with asked.write() as connection:
        assert alerts.note_seen(connection, BATCH, "Dr Grey", NOW) == [2, 3]
        assert alerts.note_seen(connection, BATCH, "Dr White", NOW) == []
        entries = [each for each in audit.entries(connection, BATCH) if each.action == "seen"]
        assert [(each.who, each.detail) for each in entries] == [("Dr Grey", {"lines": [2, 3]})]
        with pytest.raises(Refused, match="unknown"):
            alerts.note_seen(connection, "unknown", "Dr Grey", NOW)


def test_a_batch_is_counted_by_patients(asked: Ledger) -> None:
    given(asked, "another")
    kept(asked, adding("a", findings=("high:1", "high:2")))
    kept(asked, adding("b", completes=True))
    kept(asked, adding("a"), line=3)
    kept(asked, adding("a"), batch="another")
    with asked.write() as connection:
        assert responses.counted(connection) == [Counted("another", 0, 1, 0, 0), Counted(BATCH, 1, 1, 1, 1)]
        alerts.note_seen(connection, BATCH, "Dr Grey", NOW)
        assert responses.counted(connection, BATCH) == [Counted(BATCH, 1, 1, 1, 0)]
        assert responses.counted(connection, "nothing was answered") == []


@dataclass
class Inbox:
    """As somebody makes it: reads what there is, and some time later notes what it was made of."""

    ledger: Ledger

    def __post_init__(self) -> None:
        self.version = sum(row.version for row in answered(self.ledger))
        with self.ledger.read() as connection:
            self.before = batches.get(connection, BATCH).inbox_version

    def note(self) -> None:
        with self.ledger.write() as connection:
            responses.mark_inbox(connection, BATCH, self.version, self.before)


def due(ledger: Ledger) -> list[str]:
    with ledger.read() as connection:
        return responses.with_news(connection)


def test_an_inbox_is_made_anew_after_every_change(asked: Ledger) -> None:
    assert due(asked) == []
    for line, key in ((2, "a"), (3, "a"), (2, "b")):
        kept(asked, adding(key), line=line)
        assert due(asked) == [BATCH]
        Inbox(asked).note()
        assert due(asked) == []
    with asked.write() as connection:
        responses.forget_inbox(connection, BATCH)
    assert due(asked) == [BATCH]


@pytest.mark.parametrize("last", ["older", "newer"])
def test_of_two_inboxes_made_at_once_neither_is_taken_for_the_last(asked: Ledger, last: str) -> None:
    """Nobody knows whose file was written last: a reading that is in one of them alone must not be lost by that."""
    kept(asked, adding("a"))
    older = Inbox(asked)
    kept(asked, adding("b", findings=("high:1",)))
    newer = Inbox(asked)
    for each in (newer, older) if last == "older" else (older, newer):
        each.note()
    assert due(asked) == [BATCH]
    Inbox(asked).note()
    assert due(asked) == []


def test_an_inbox_that_was_made_while_somebody_saw_it_is_made_anew(asked: Ledger) -> None:
    kept(asked, adding("a", findings=("high:1",)))
    Inbox(asked).note()
    under_way = Inbox(asked)
    with asked.write() as connection:
        responses.forget_inbox(connection, BATCH)
    under_way.note()
    assert due(asked) == [BATCH]
