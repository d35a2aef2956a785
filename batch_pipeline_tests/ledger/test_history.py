from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from batch_pipeline.ledger import history
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import patient_marks
from batch_pipeline_tests.ledger.given import HASHER, NOW, Recipient, begin, mobile, patient, queue, set_attempts

DAY = timedelta(days=1)
OTHER = "flu-2026-11"


def _had(ledger: Ledger, since: datetime = NOW - 30 * DAY, key: str = "body:1", place: str = "riverside") -> set[str]:
    with ledger.read() as connection:
        return set(history.already_had(connection, place, key, since, OTHER))


def test_patients_who_had_the_message_are_known_from_their_very_moment_on(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2), Recipient(3)])
    begin(ledger, 2, at=NOW)
    begin(ledger, 3, at=NOW - DAY)
    assert _had(ledger, NOW - 2 * DAY) == {patient(2), patient(3)}
    assert _had(ledger, NOW) == {patient(2)}
    assert _had(ledger, NOW + timedelta(microseconds=1)) == set()


@pytest.mark.parametrize("asked", [{"key": "body:2"}, {"place": "hillside"}])
def test_another_message_or_workspace_does_not_count(ledger: Ledger, asked: dict[str, Any]) -> None:
    queue(ledger, [Recipient(2)])
    begin(ledger, 2)
    assert _had(ledger, **asked) == set()


def test_the_batch_itself_does_not_count(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2)], batch=OTHER)
    begin(ledger, 2, batch=OTHER)
    assert _had(ledger) == set()


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        ({"begun_at": NOW}, True),
        ({"accepted_at": NOW}, True),
        ({"delivered_at": NOW}, True),
        ({"unconfirmed_at": NOW}, True),
        ({"failed_at": NOW, "failure_kind": "permanent"}, False),
        ({"failed_at": NOW, "failure_kind": "refused"}, False),
        ({"failed_at": NOW, "failure_kind": "permanent", "delivered_at": NOW}, True),
        ({"timed_out_at": NOW}, False),
        ({"timed_out_at": NOW, "delivered_at": NOW}, True),
        ({"cancelled_at": NOW}, False),
        ({"expired_at": NOW}, False),
        ({"held_back_at": NOW}, False),
    ],
)
def test_who_had_it_is_told_by_what_became_of_it(ledger: Ledger, state: dict[str, Any], counts: bool) -> None:
    queue(ledger, [Recipient(2)])
    begin(ledger, 2)
    set_attempts(ledger, state)
    assert _had(ledger) == ({patient(2)} if counts else set())


def test_who_is_queued_elsewhere_counts_before_it_is_sent(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2), Recipient(3, held_back=True)])
    assert _had(ledger) == {patient(2)}


# Likely to fail

SENT = NOW - 10 * DAY


def _sms(ledger: Ledger, number: int, batch: str, at: datetime, **state: Any) -> None:
    """One SMS to a number, sent then, and what became of it."""
    queue(ledger, [Recipient(number)], batch=batch, message_key=batch)
    begin(ledger, number, batch=batch, at=at)
    set_attempts(ledger, state, batch=batch)


def _failed(kind: str = "permanent", after: timedelta = timedelta(minutes=5)) -> dict[str, Any]:
    return {"failed_at": SENT + after, "failure_kind": kind}


def _failed_numbers(ledger: Ledger, since: datetime = NOW - 90 * DAY) -> set[str]:
    with ledger.read() as connection:
        return set(history.failed_numbers(connection, since))


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        (_failed("permanent"), True),
        (_failed("temporary"), True),
        (_failed("rejected"), True),
        (_failed("technical"), False),
        (_failed("refused"), False),
        ({"timed_out_at": SENT}, False),
        ({"delivered_at": SENT}, False),
        ({"accepted_at": SENT}, False),
        (_failed() | {"delivered_at": SENT}, False),
    ],
)
def test_a_number_whose_last_sms_was_reported_failed(ledger: Ledger, state: dict[str, Any], counts: bool) -> None:
    _sms(ledger, 2, "one", SENT, **state)
    assert _failed_numbers(ledger) == ({HASHER.hash(mobile(2))} if counts else set())


@pytest.mark.parametrize(
    ("later", "counts"),
    [
        ({"delivered_at": SENT + DAY}, False),
        ({"accepted_at": SENT + DAY}, False),
        ({"failed_at": SENT + DAY, "failure_kind": "technical"}, False),
        ({"failed_at": SENT + DAY, "failure_kind": "temporary"}, True),
    ],
)
def test_it_is_the_last_sms_that_counts(ledger: Ledger, later: dict[str, Any], counts: bool) -> None:
    _sms(ledger, 2, "one", SENT, **_failed())
    _sms(ledger, 2, "two", SENT + DAY, **later)
    assert _failed_numbers(ledger) == ({HASHER.hash(mobile(2))} if counts else set())


def test_a_late_delivery_of_an_earlier_sms_clears_the_number(ledger: Ledger) -> None:
    _sms(ledger, 2, "one", SENT - DAY, delivered_at=SENT + DAY)
    _sms(ledger, 2, "two", SENT, **_failed())
    assert _failed_numbers(ledger) == set()


def test_what_lies_before_the_window_does_not_count(ledger: Ledger) -> None:
    _sms(ledger, 2, "one", SENT, **_failed())
    assert _failed_numbers(ledger, SENT) == {HASHER.hash(mobile(2))}
    assert _failed_numbers(ledger, SENT + timedelta(microseconds=1)) == set()


def test_a_failed_app_message_says_nothing_of_the_number(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2, "nhs_app")])
    begin(ledger, 2, at=SENT)
    set_attempts(ledger, _failed())
    assert _failed_numbers(ledger) == set()


# Marks


def test_of_several_marks_deceased_goes_first(ledger: Ledger) -> None:
    marks = [("a", "invalidated"), ("a", "deceased"), ("b", "exit_coded")]
    with ledger.write() as connection:
        rows = [{"patient": who, "mark": mark, "marked_at": NOW, "source": "x"} for who, mark in marks]
        connection.execute(sa.insert(patient_marks), rows)
        assert history.marked(connection) == {"a": "deceased", "b": "exit_coded"}
