import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.rules import states
from batch_pipeline.rules.follow_up import FOLLOW_UP, follow_up_sql
from batch_pipeline.rules.states import ATTEMPT_LABELS, ATTEMPT_STATES, PATIENT_CLASSES, BatchFacts

TIMES = (
    *("begun_at", "accepted_at", "delivered_at", "read_at", "failed_at", "timed_out_at", "held_back_at"),
    *("cancelled_at", "expired_at", "unconfirmed_at", "no_fallback_at"),
)
Row = dict[str, Any]
Patient = tuple[Row, Row | None]
SENT = "begun accepted"


def row(channel: str, told: str = "", *, step: str = "primary", failure_kind: str | None = None) -> Row:
    """An attempt of which this is told: words are columns without ``_at``."""
    times: Row = dict.fromkeys(TIMES)
    times.update({f"{word}_at": 1 for word in told.split()})
    after = 10 if channel == "nhs_app" else None
    return {"step": step, "channel": channel, "fallback_after": after, "failure_kind": failure_kind, **times}


def email(told: str) -> Patient:
    return row("email", told), None


def sms(told: str) -> Patient:
    return row("sms", told), None


def app(told: str, fallback: str | None = None) -> Patient:
    return row("nhs_app", told), None if fallback is None else row("sms", fallback, step="fallback")


COLUMNS = ("step", "channel", "fallback_after", "failure_kind", *TIMES)
SCHEMA = pa.schema(
    [("n", pa.int32()), *((name, pa.int64() if name in TIMES else pa.string()) for name in COLUMNS)],
).set(3, pa.field("fallback_after", pa.int64()))
# The states as columns, as every user of the rule has them: written out in each place they would fill pages of SQL.
PATIENTS = f"""(
    SELECT p.*, {states.attempt_state_sql("p")} AS p_state, {states.fallback_state_sql("f")} AS f_state
    FROM p LEFT JOIN f USING (n)
) p"""
KNOWN = states.facts("p", "p_state", "f_state")


def ask_sqlite(patients: Sequence[Patient], wanted: str) -> list[tuple[Any, ...]]:
    con = sqlite3.connect(":memory:")
    for table, rows in _tables(patients):
        con.execute(f"CREATE TABLE {table} (n, {', '.join(COLUMNS)})")
        con.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * (len(COLUMNS) + 1))})", rows)
    return con.execute(f"SELECT {wanted} FROM {PATIENTS} ORDER BY n").fetchall()


def ask_duckdb(patients: Sequence[Patient], wanted: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as con:
        for table, rows in _tables(patients):
            con.register(
                table, pa.Table.from_pylist([dict(zip(("n", *COLUMNS), row, strict=True)) for row in rows], SCHEMA)
            )
        return con.sql(f"SELECT {wanted} FROM {PATIENTS} ORDER BY n").fetchall()


def _tables(patients: Sequence[Patient]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    return [
        (
            table,
            [(n, *(attempt[name] for name in COLUMNS)) for n, pair in enumerate(patients) if (attempt := pair[place])],
        )
        for place, table in enumerate("pf")
    ]


CLASS = states.patient_class_sql(KNOWN)
ENDED = states.ended_sql(KNOWN)
FOLLOW = follow_up_sql(KNOWN)

# What is told of the patient → class, ended, follow-up. By hand, from SPEC 2.8-2.11.
CASES: list[tuple[Patient, str, bool, str | None]] = [
    (email(""), "awaiting", False, None),
    (email("begun"), "awaiting", False, None),
    (email(SENT), "emailed", True, None),
    (email(f"{SENT} delivered"), "emailed", True, None),
    (email("begun delivered"), "emailed", True, None),
    (email(f"{SENT} failed"), "failed", True, "failed"),
    (email(f"{SENT} delivered failed"), "failed", True, "failed"),
    (email("begun failed"), "failed", True, "failed"),
    (email("begun unconfirmed"), "unconfirmed", True, "unconfirmed"),
    (email("begun unconfirmed delivered"), "emailed", True, None),
    (email("held_back"), "held_back", True, None),
    (email("cancelled"), "cancelled", True, None),
    (email("expired"), "expired", True, None),
    (sms(""), "awaiting", False, None),
    (sms("begun"), "awaiting", False, None),
    (sms(SENT), "awaiting", False, None),
    (sms(f"{SENT} delivered"), "delivered", True, None),
    (sms(f"{SENT} failed"), "failed", True, "failed"),
    (sms("begun failed"), "failed", True, "failed"),
    (sms(f"{SENT} failed delivered"), "delivered", True, None),
    (sms(f"{SENT} timed_out"), "failed", True, "failed"),
    (sms(f"{SENT} timed_out delivered"), "delivered", True, None),
    (sms("begun unconfirmed"), "unconfirmed", True, "unconfirmed"),
    (sms("begun unconfirmed accepted"), "awaiting", False, None),
    (sms("begun unconfirmed failed"), "failed", True, "failed"),
    (sms("held_back"), "held_back", True, None),
    (sms("cancelled"), "cancelled", True, None),
    (sms("expired"), "expired", True, None),
    # The App, before any fallback.
    (app(""), "awaiting", False, None),
    (app(SENT), "awaiting", False, None),
    (app(f"{SENT} delivered"), "delivered", False, None),
    (app(f"{SENT} read"), "delivered", True, None),
    (app(f"{SENT} delivered read failed"), "delivered", True, None),
    (app(f"{SENT} failed"), "awaiting", False, None),
    (app("begun failed"), "awaiting", False, None),
    (app(f"{SENT} delivered failed"), "delivered", False, None),
    (app("begun unconfirmed"), "unconfirmed", True, "unconfirmed"),
    (app("begun unconfirmed accepted"), "awaiting", False, None),
    (app("begun unconfirmed delivered"), "delivered", True, "unread"),
    (app("begun unconfirmed accepted delivered"), "delivered", False, None),
    (app("held_back"), "held_back", True, None),
    (app("cancelled"), "cancelled", True, None),
    # Not begun any more, as a person said that it wasn't sent; and then its provider told of it.
    (app("accepted"), "awaiting", False, None),
    (app("delivered"), "delivered", True, "unread"),
    (app("accepted delivered"), "delivered", False, None),
    (app("read"), "delivered", True, None),
    (app("failed"), "awaiting", False, None),
    (app("delivered failed"), "delivered", False, None),
    (app("cancelled delivered"), "delivered", True, "unread"),
    (app("cancelled failed"), "awaiting", False, None),
    (app("begun delivered"), "delivered", False, None),
    # A fallback that could not go.
    (app(f"{SENT} no_fallback"), "failed", True, "unread_no_fallback"),
    (app(f"{SENT} delivered no_fallback"), "delivered", True, "unread_no_fallback"),
    (app(f"{SENT} failed no_fallback"), "failed", True, "failed"),
    (app(f"{SENT} no_fallback read"), "delivered", True, None),
    # A fallback that went, or was to go.
    (app(SENT, ""), "awaiting", False, None),
    (app(SENT, "begun"), "awaiting", False, None),
    (app(SENT, SENT), "awaiting", False, None),
    (app(SENT, f"{SENT} delivered"), "delivered", True, None),
    (app(SENT, f"{SENT} failed"), "failed", True, "failed"),
    (app(SENT, f"{SENT} timed_out"), "failed", True, "failed"),
    (app(SENT, "begun unconfirmed"), "unconfirmed", True, "unconfirmed"),
    (app(SENT, "cancelled"), "failed", True, "failed"),
    (app(SENT, "expired"), "failed", True, "failed"),
    (app(f"{SENT} failed", SENT), "awaiting", False, None),
    (app(f"{SENT} failed", f"{SENT} delivered"), "delivered", True, None),
    (app(f"{SENT} failed", f"{SENT} failed"), "failed", True, "failed"),
    (app(f"{SENT} delivered", SENT), "delivered", False, None),
    (app(f"{SENT} delivered", f"{SENT} failed"), "delivered", True, "unread"),
    (app(f"{SENT} delivered", f"{SENT} delivered"), "delivered", True, None),
    (app(f"{SENT} delivered", "begun unconfirmed"), "delivered", True, "unconfirmed"),
    (app(f"{SENT} read", SENT), "delivered", False, None),
    (app(f"{SENT} read", ""), "delivered", True, None),
    (app(f"{SENT} read", f"{SENT} failed"), "delivered", True, None),
]


@pytest.mark.parametrize("ask", [ask_sqlite, ask_duckdb])
def test_what_is_told_makes_the_class_the_end_and_the_follow_up_of_the_spec(ask: Any) -> None:
    found = ask([case[0] for case in CASES], f"{CLASS}, {ENDED}, {FOLLOW}")
    for (told, *wanted), (patient_class, ended, follow_up) in zip(CASES, found, strict=True):
        assert [patient_class, bool(ended), follow_up] == wanted, told


@pytest.mark.parametrize(
    ("attempt", "taken"),
    [
        (row("sms"), False),
        (row("sms", "begun"), False),
        (row("sms", SENT), True),
        (row("sms", f"{SENT} failed", failure_kind="permanent"), True),
        (row("sms", "begun failed", failure_kind="permanent"), True),
        (row("sms", "begun failed"), True),
        (row("sms", "begun failed", failure_kind="refused"), False),
        (row("sms", f"{SENT} failed", failure_kind="refused"), True),
        (row("sms", "begun delivered"), True),
        (row("sms", "begun unconfirmed"), False),
    ],
)
def test_a_message_counts_as_taken_once_a_provider_had_it_and_never_when_it_was_refused(
    attempt: Row, taken: bool
) -> None:
    assert ask_sqlite([(attempt, None)], f"CASE WHEN {states.taken_sql('p')} THEN 1 ELSE 0 END") == [(taken,)]


def attempts_of(channels: Sequence[str], step: str) -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries(
        {
            "step": st.just(step),
            "channel": st.sampled_from(channels),
            "fallback_after": st.sampled_from([None, 10]),
            "failure_kind": st.sampled_from([None, "refused", "permanent"]),
            **{name: st.sampled_from([None, None, 1]) for name in TIMES},
        }
    )


patients = st.tuples(attempts_of(("email", "sms"), "primary"), st.none()) | st.tuples(
    attempts_of(("nhs_app",), "primary"), st.none() | attempts_of(("sms",), "fallback")
)


@settings(max_examples=40)
@given(st.lists(patients, min_size=1, max_size=15))
def test_every_combination_of_columns_is_one_class_and_all_engines_agree(drawn: list[Patient]) -> None:
    wanted = f"{CLASS}, {ENDED}, {FOLLOW}, p_state, {states.attempt_state_number_sql('p')}"
    found = ask_sqlite(drawn, wanted)
    assert found == ask_duckdb(drawn, wanted)
    for patient_class, ended, follow_up, state, number in found:
        assert patient_class in PATIENT_CLASSES
        assert state == ATTEMPT_STATES[number]
        # Nobody who awaits has ended, and of those who haven't ended only the delivered don't await.
        assert ended in (0, 1)
        assert not (patient_class == "awaiting" and ended)
        assert ended or patient_class in ("awaiting", "delivered")
        assert follow_up is None or (follow_up in FOLLOW_UP and patient_class in ("failed", "unconfirmed", "delivered"))
        assert follow_up or patient_class not in ("failed", "unconfirmed")


@settings(max_examples=40)
@given(patients, st.sampled_from(["read_at", "delivered_at"]))
def test_a_delivery_wins_whatever_else_is_told(drawn: Patient, column: str) -> None:
    primary = {**drawn[0], "channel": drawn[0]["channel"].replace("email", "sms"), column: 1}
    assert ask_sqlite([(primary, drawn[1])], CLASS) == [("delivered",)]


def test_every_state_has_a_label() -> None:
    assert set(ATTEMPT_LABELS) == set(ATTEMPT_STATES)


NEW = BatchFacts(
    approved=False,
    outbox_written=False,
    begun=False,
    all_ended=False,
    cancelled=False,
    paused=False,
    saving=False,
    all_saved=False,
)
ALL_ENDED = replace(NEW, approved=True, outbox_written=True, begun=True, all_ended=True)


@pytest.mark.parametrize(
    ("known", "label"),
    [
        (NEW, "Awaiting approval"),
        (replace(NEW, paused=True), "Awaiting approval (paused)"),
        (replace(NEW, approved=True), "Scheduled"),
        (replace(NEW, approved=True, outbox_written=True), "Scheduled"),
        # A new plan that nobody approved yet doesn't take back what was scheduled.
        (replace(NEW, outbox_written=True), "Scheduled"),
        (replace(NEW, approved=True, outbox_written=True, begun=True), "Sending"),
        (replace(NEW, approved=True, outbox_written=True, begun=True, paused=True), "Sending (paused)"),
        (replace(NEW, approved=True, outbox_written=True, begun=True, all_ended=True), "Done"),
        (replace(NEW, approved=True, outbox_written=True, begun=True, all_ended=True, paused=True), "Done"),
        # Nobody to send to, or all held back.
        (replace(NEW, approved=True, outbox_written=True, all_ended=True), "Done"),
        # Saving takes the place of what is done, from the first entry on.
        (replace(ALL_ENDED, all_saved=True), "Done"),
        (replace(ALL_ENDED, saving=True), "Saving"),
        (replace(ALL_ENDED, saving=True, paused=True), "Saving"),
        (replace(ALL_ENDED, saving=True, all_saved=True), "Saved"),
        (replace(ALL_ENDED, saving=True, all_saved=True, paused=True), "Saved"),
        (replace(ALL_ENDED, saving=True, all_saved=True, all_ended=False), "Sending"),
        (replace(ALL_ENDED, saving=True, all_saved=True, cancelled=True), "Cancelled"),
        (replace(NEW, cancelled=True), "Cancelled"),
        (replace(NEW, cancelled=True, paused=True), "Cancelled"),
        # The fallbacks of what was sent may be left, and wait.
        (replace(NEW, outbox_written=True, begun=True, cancelled=True, paused=True), "Cancelled (paused)"),
        (replace(NEW, outbox_written=True, begun=True, cancelled=True, paused=True, all_ended=True), "Cancelled"),
    ],
)
def test_the_label_follows_from_the_facts(known: BatchFacts, label: str) -> None:
    assert states.shown_status(known) == label
    assert states.batch_status(known) == label.removesuffix(" (paused)")
