import sqlite3
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.rules import records, states
from batch_pipeline.rules.records import RECORDED_STATES, why_not_done

QUEUED, BEGUN = 1_000_000, 2_000_000
TIMES = (
    *("queued_at", "begun_at", "accepted_at", "delivered_at", "read_at", "failed_at", "timed_out_at"),
    *("held_back_at", "cancelled_at", "expired_at", "unconfirmed_at"),
)
COLUMNS = ("channel", "failure_kind", *TIMES)
DAY, DAYS_3, DAYS_5 = (timedelta(days=days) // timedelta(microseconds=1) for days in (1, 3, 5))


def ask(channel: str, failure_kind: str | None = None, **times: int | None) -> tuple[str | None, int | None, str]:
    """The entry's status, the moment from which it is certain, and the attempt's state."""
    known: dict[str, Any] = dict.fromkeys(COLUMNS) | {"channel": channel, "failure_kind": failure_kind}
    known |= {"queued_at": QUEUED} | times
    con = sqlite3.connect(":memory:")
    con.execute(f"CREATE TABLE a ({', '.join(COLUMNS)})")
    con.execute(f"INSERT INTO a VALUES ({', '.join('?' * len(COLUMNS))})", list(known.values()))
    wanted = (records.entry_status_sql("a"), records.certain_at_sql("a"), states.attempt_state_sql("a"))
    return con.execute(f"SELECT {', '.join(wanted)} FROM a").fetchone()


def ask_told(now: int, **times: int | None) -> bool:
    """What is asked first of an attempt."""
    known = dict.fromkeys(TIMES) | times
    con = sqlite3.connect(":memory:")
    con.execute(f"CREATE TABLE a ({', '.join(known)})")
    con.execute(f"INSERT INTO a VALUES ({', '.join('?' * len(known))})", list(known.values()))
    return con.execute(f"SELECT count(*) FROM a WHERE {records.told_or_old_sql('a', str(now))}").fetchone() == (1,)


def told(words: str) -> dict[str, int]:
    """``accepted failed``: as many moments, one after another."""
    return {f"{word}_at": BEGUN + place for place, word in enumerate(words.split())}


@pytest.mark.parametrize(
    ("channel", "words", "failure_kind", "status", "after"),
    [
        ("sms", "", None, None, None),
        ("sms", "begun", None, None, None),
        ("sms", "begun accepted", None, None, None),
        ("sms", "begun accepted delivered", None, "completed", QUEUED),
        ("sms", "begun accepted failed delivered", "permanent", "completed", QUEUED),
        ("sms", "begun accepted failed", "permanent", "not-done", BEGUN + 2 + DAY),
        ("sms", "begun failed", "refused", "not-done", QUEUED),
        ("sms", "begun accepted failed", "refused", "not-done", BEGUN + 2 + DAY),
        ("sms", "begun accepted timed_out", None, "not-done", QUEUED),
        ("sms", "begun unconfirmed", None, None, None),
        ("sms", "begun unconfirmed delivered", None, "completed", QUEUED),
        *(("sms", word, None, None, None) for word in ("held_back", "cancelled", "expired")),
        ("nhs_app", "begun accepted", None, "completed", BEGUN + 1 + DAYS_3),
        ("nhs_app", "begun accepted delivered", None, "completed", QUEUED),
        ("nhs_app", "begun accepted read", None, "completed", QUEUED),
        ("nhs_app", "begun accepted failed", "rejected", "not-done", BEGUN + 2 + DAY),
        ("nhs_app", "begun accepted failed read", "rejected", "completed", QUEUED),
        ("email", "begun accepted", None, "completed", BEGUN + 1 + DAYS_5),
        ("email", "begun accepted delivered", None, "completed", QUEUED),
        ("email", "begun accepted delivered failed", "permanent", "not-done", QUEUED),
        ("email", "begun failed", "refused", "not-done", QUEUED),
        ("email", "begun unconfirmed", None, None, None),
    ],
)
def test_when_a_message_is_written_and_as_what(
    channel: str, words: str, failure_kind: str | None, status: str | None, after: int | None
) -> None:
    assert ask(channel, failure_kind, **told(words))[:2] == (status, after)


moments = st.none() | st.integers(BEGUN, BEGUN + 9)
attempts = st.fixed_dictionaries(dict.fromkeys(TIMES[1:], moments))
channels = st.sampled_from(["sms", "nhs_app", "email"])
kinds = st.sampled_from([None, "refused", "permanent"])


@given(channels, kinds, attempts)
def test_every_recorded_state_has_an_entry_in_the_end_and_no_other_has(
    channel: str, kind: str | None, times: dict[str, int | None]
) -> None:
    status, certain_at, state = ask(channel, kind, **times)
    assert (status is None) == (certain_at is None)
    assert (status is not None) == (state in RECORDED_STATES and (channel, state) != ("sms", "accepted"))
    if certain_at is not None:
        assert certain_at >= QUEUED


@given(channels, kinds, attempts, st.sampled_from([0, DAY, DAYS_3, DAYS_5]))
def test_nothing_that_is_certain_is_passed_over(
    channel: str, kind: str | None, times: dict[str, int | None], later: int
) -> None:
    now = BEGUN + 5 + later
    certain_at = ask(channel, kind, **times)[1]
    if certain_at is not None and certain_at <= now:
        assert ask_told(now, **times)


@given(st.sampled_from(["sms", "nhs_app"]), kinds, attempts, st.sampled_from(["delivered_at", "read_at"]))
def test_nothing_that_is_told_later_makes_a_delivery_untrue(
    channel: str, kind: str | None, times: dict[str, int | None], column: str
) -> None:
    assert ask(channel, kind, **{**times, column: BEGUN})[:2] == ("completed", QUEUED)


@pytest.mark.parametrize(
    ("state", "kind", "code", "words"),
    [
        ("timed_out", None, None, "Not delivered: no delivery report came in time"),
        ("failed", "refused", "CM_INVALID_VALUE", "Not delivered: refused by the provider, and not sent (CM_INVALID_VALUE)"),
        ("failed", "permanent", None, "Not delivered: permanent failure"),
        ("failed", None, "X1", "Not delivered: failed (X1)"),
    ],
)  # fmt: skip
def test_the_reason_is_told(state: str, kind: str | None, code: str | None, words: str) -> None:
    assert why_not_done(state, kind, code) == words
