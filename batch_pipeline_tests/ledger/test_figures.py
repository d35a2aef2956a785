import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import figures as ledger_figures
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.figures import KEYS, figures, progress, saved, status, to_json
from batch_pipeline.ledger.tables import approvals, attempts, batches, plans
from batch_pipeline.rules.costs import Prices
from batch_pipeline.rules.states import PATIENT_CLASSES, shown_status
from batch_pipeline_tests.ledger.given import open_ledger

NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
PRICES = Prices("GBP", sms_fragment=Decimal("0.0265"), email=Decimal("0.001"), nhs_app=Decimal("0.0100"))
SENT = "begun accepted"
TIMES = (
    *("begun_at", "accepted_at", "delivered_at", "read_at", "failed_at", "timed_out_at", "held_back_at"),
    *("cancelled_at", "expired_at", "unconfirmed_at", "no_fallback_at"),
)
Row = dict[str, Any]


@pytest.fixture
def connection(ledger: Ledger) -> Iterator[sa.Connection]:
    with ledger.connect() as opened, ledger.writing(opened):
        yield opened


@pytest.fixture(scope="module")
def ledger_of_module(new_folder_of_module: Callable[[], Path]) -> Ledger:
    return open_ledger(new_folder_of_module())


def a_batch(connection: sa.Connection, batch: str = "flu", **values: Any) -> None:
    known = {
        "batch": batch, "workspace": "riverside", "message_type": "simple", "message_key": "k", "allow_repeat": False,
        "approval": "required", "spec": "{}", "spec_sha256": "s", "cohort_name": "c.csv", "cohort_sha256": "c",
        "submitted_at": NOW, "current_plan": "h",
    }  # fmt: skip
    connection.execute(sa.insert(batches).values({**known, **values}))
    connection.execute(sa.insert(plans).values(batch=batch, plan_hash="h", planned_at=NOW, figures="{}"))


def an_attempt(
    line: int, channel: str, told: str = "", *, step: str = "primary", batch: str = "flu", **values: Any
) -> Row:
    app = channel == "nhs_app"
    row: Row = {
        "batch": batch, "patient": f"patient {line}", "step": step, "line": line, "channel": channel,
        "provider": "simulator", "reference": f"{batch}:{line}:{step}", "queued_at": NOW, "failure_kind": None,
        "fragments": 0 if channel == "email" else 2, "fallback_after": 24 * 3_600_000_000 if app else None,
        **dict.fromkeys(TIMES),
        **{f"{word}_at": NOW for word in told.split()},
    }  # fmt: skip
    return {**row, **values}


def outbox(connection: sa.Connection, *rows: Row) -> None:
    connection.execute(sa.insert(attempts), list(rows))


def plan_of(rows: Sequence[Row], **values: Any) -> dict[str, Any]:
    by_path = Counter(row["channel"] for row in rows if row["step"] == "primary")
    return {
        "lines": 30, "patient_list": 20, "rejected": 7, "duplicates": 3, "held_back": 0, "no_sms_fallback": 1,
        "non_contactable": {"deceased": 2, "not_provided": 3, "not_uk": 4}, "recipients": dict(by_path), **values,
    }  # fmt: skip


def test_every_figure_of_a_batch_under_way(connection: sa.Connection) -> None:
    rows = [
        an_attempt(1, "email", SENT),
        an_attempt(2, "email", f"{SENT} failed", failure_kind="permanent"),
        an_attempt(3, "email", "begun failed", failure_kind="refused"),
        an_attempt(4, "nhs_app", f"{SENT} delivered read"),
        an_attempt(5, "nhs_app", f"{SENT} delivered"),
        an_attempt(6, "nhs_app", SENT),
        an_attempt(6, "sms", f"{SENT} delivered", step="fallback"),
        an_attempt(7, "nhs_app", f"{SENT} read"),
        an_attempt(7, "sms", SENT, step="fallback"),
        an_attempt(8, "nhs_app", f"{SENT} failed", failure_kind="rejected"),
        an_attempt(8, "sms", f"{SENT} failed", step="fallback", failure_kind="permanent"),
        an_attempt(9, "nhs_app", f"{SENT} no_fallback", fragments=0),
        an_attempt(10, "sms", f"{SENT} delivered", fragments=3),
        an_attempt(11, "sms", "begun unconfirmed"),
        an_attempt(12, "sms", "held_back"),
        an_attempt(13, "sms", "cancelled"),
        an_attempt(14, "sms", "expired"),
        an_attempt(15, "sms", "begun failed", failure_kind="refused"),
        an_attempt(16, "nhs_app", ""),
    ]
    a_batch(connection, applied_plan="h")
    outbox(connection, *rows)
    found = figures(connection, "flu", plan_of(rows), PRICES)
    assert list(found.items()) == [
        ("batch", "flu"),
        ("status", "Sending"),
        ("lines", 30),
        ("patient_list", 20),
        ("rejected", 7),
        ("duplicates", 3),
        (
            "non_contactable",
            {
                "deceased": 2, "unable_to_retrieve": 0, "opted_out": 0, "not_provided": 3, "not_uk": 4,
                "likely_to_fail": 0,
            },
        ),
        ("recipients", {"email": 3, "nhs_app": 7, "sms": 6}),
        ("without_valid_mobile", 7),
        ("delivered", 5),
        ("emailed", 1),
        ("read", 2),
        ("unread", 3),
        ("failed", 5),
        ("fallback_sent", 3),
        ("fallback_delivered", 1),
        ("awaiting", 1),
        ("cancelled", 1),
        ("expired", 1),
        ("unconfirmed", 1),
        ("held_back", 1),
        ("no_sms_fallback", 1),
        ("double_contact", 1),
        ("reminders", 0),
        ("fragments", 9),  # line 10: 3; the three fallbacks: 2 each, the failed one too; a refused one isn't taken
        # 2 emails that were taken, 6 App messages, 9 fragments
        ("cost", 2 * PRICES.email + 6 * PRICES.nhs_app + 9 * PRICES.sms_fragment),
        ("currency", "GBP"),
    ]  # fmt: skip
    # Line 4 read in the App and got no text; line 7 read and got one.
    assert saved(progress(connection, "flu"), PRICES) == 2 * PRICES.sms_fragment


def test_the_keys_are_those_of_the_issue() -> None:
    spec = (
        "batch, status, lines, patient_list, rejected, duplicates, non_contactable, recipients, without_valid_mobile, "
        "delivered, emailed, read, unread, failed, fallback_sent, fallback_delivered, awaiting, cancelled, expired, "
        "unconfirmed, held_back, no_sms_fallback, double_contact, reminders, fragments, cost, currency"
    )
    assert list(KEYS) == spec.split(", ")


def test_before_the_outbox_everybody_awaits_but_those_held_back(connection: sa.Connection) -> None:
    a_batch(connection)
    plan = plan_of([], recipients={"email": 5, "sms": 4}, held_back=2)
    found = figures(connection, "flu", plan, PRICES)
    assert (found["status"], found["awaiting"], found["held_back"]) == ("Awaiting approval", 7, 2)
    assert found["recipients"] == {"email": 5, "nhs_app": 0, "sms": 4}
    assert (found["cost"], found["fragments"]) == (0, 0)
    connection.execute(sa.insert(approvals).values(batch="flu", plan_hash="h", approved_by="A", approved_at=NOW))
    assert figures(connection, "flu", plan, PRICES)["status"] == "Scheduled"


def test_without_a_plan_every_figure_is_zero(connection: sa.Connection) -> None:
    a_batch(connection, current_plan=None)
    found = figures(connection, "flu", {}, PRICES)
    assert found["status"] == "Awaiting approval"
    assert not any(found[name] for name in ("lines", "patient_list", "awaiting", "held_back", "cost"))
    assert found["non_contactable"]["deceased"] == 0


def test_a_batch_is_done_when_all_have_ended_and_no_clock_runs(connection: sa.Connection) -> None:
    a_batch(connection, applied_plan="h")
    outbox(connection, an_attempt(1, "email", SENT), an_attempt(2, "nhs_app", f"{SENT} delivered"))
    assert shown_status(status(connection, "flu")) == "Sending"
    connection.execute(sa.update(attempts).where(attempts.c.line == 2).values(read_at=NOW))
    assert shown_status(status(connection, "flu")) == "Done"


def test_an_outbox_without_anybody_is_done(connection: sa.Connection) -> None:
    a_batch(connection, applied_plan="h")
    assert figures(connection, "flu", plan_of([]), PRICES)["status"] == "Done"


def test_other_batches_do_not_count(connection: sa.Connection) -> None:
    a_batch(connection, applied_plan="h")
    a_batch(connection, "flu-2", applied_plan="h")
    mine = [an_attempt(1, "sms", SENT), an_attempt(3, "sms", SENT)]
    outbox(connection, mine[0], an_attempt(2, "sms", SENT, batch="flu-2"), mine[1])
    assert figures(connection, "flu", plan_of(mine), PRICES)["awaiting"] == 2


def test_once_written_the_outbox_says_who_the_recipients_are(connection: sa.Connection) -> None:
    # A later plan may leave out a patient whose attempt is begun: it stays, and so do the figures' sums.
    a_batch(connection, applied_plan="h")
    outbox(connection, an_attempt(1, "sms", SENT))
    found = figures(connection, "flu", plan_of([], recipients={"sms": 2}), PRICES)
    assert found["recipients"] == {"email": 0, "nhs_app": 0, "sms": 1}


def test_an_unknown_batch_is_refused(connection: sa.Connection) -> None:
    with pytest.raises(Refused, match="no batch flu"):
        figures(connection, "flu", {}, PRICES)


def test_json_holds_the_cost_as_the_exact_number() -> None:
    text = to_json({"batch": "flu", "n": {"a": 1}, "cost": Decimal("12345678901234567.0265"), "small": Decimal("1E-7")})
    assert text == '{"batch": "flu", "n": {"a": 1}, "cost": 12345678901234567.0265, "small": 0.0000001}'
    assert json.loads(text, parse_float=Decimal)["cost"] == Decimal("12345678901234567.0265")


def drawn_attempts(line: int, channel: str, step: str) -> st.SearchStrategy[Row]:
    told = st.fixed_dictionaries(
        {
            **{name: st.sampled_from([None, None, NOW]) for name in TIMES},
            "fragments": st.integers(0, 14),
            "failure_kind": st.sampled_from([None, "refused", "permanent"]),
        }
    )

    def made(values: Row) -> Row:
        return an_attempt(line, channel, step=step, **values)

    return told.map(made)


@st.composite
def ledgers(draw: st.DrawFn) -> list[Row]:
    rows: list[Row] = []
    for line in draw(st.lists(st.integers(1, 2**31 - 1), max_size=12, unique=True)):
        channel = draw(st.sampled_from(["email", "nhs_app", "sms"]))
        rows.append(draw(drawn_attempts(line, channel, "primary")))
        if channel == "nhs_app" and draw(st.booleans()):
            rows.append(draw(drawn_attempts(line, "sms", "fallback")))
        days = draw(st.sets(st.sampled_from([1, 3, 6])))
        again = draw(st.sampled_from([channel, "sms"]))
        rows += [draw(drawn_attempts(line, again, f"reminder_{day}")) for day in days]
    return draw(st.permutations(rows))


@contextmanager
def rolled_back(ledger: Ledger) -> Iterator[sa.Connection]:
    with ledger.connect() as connection, suppress(_Enough), ledger.writing(connection):
        yield connection
        raise _Enough


class _Enough(Exception):
    pass


@settings(max_examples=60)
@given(rows=ledgers())
def test_the_classes_add_up_to_the_recipients_in_every_ledger(ledger_of_module: Ledger, rows: list[Row]) -> None:
    with rolled_back(ledger_of_module) as connection:
        a_batch(connection, applied_plan="h")
        if rows:
            outbox(connection, *rows)
        found = figures(connection, "flu", plan_of(rows), PRICES)
        reached = progress(connection, "flu")
    assert sum(found["recipients"].values()) == sum(found[name] for name in PATIENT_CLASSES)
    assert found["recipients"] == {
        path: plan_of(rows)["recipients"].get(path, 0) for path in ("email", "nhs_app", "sms")
    }
    assert found["double_contact"] <= min(found["read"], found["fallback_sent"])
    assert found["fallback_delivered"] <= found["fallback_sent"]
    assert found["read"] + found["unread"] <= found["recipients"]["nhs_app"]
    assert found["fragments"] == sum(row["fragments"] for row in rows if row["channel"] == "sms" and _taken(row))
    assert found["reminders"] == sum(row["step"].startswith("reminder") and _taken(row) for row in rows)
    emails, app_messages = (
        sum(row["channel"] == channel and _taken(row) for row in rows) for channel in ("email", "nhs_app")
    )
    assert (reached.sent.emails, reached.sent.app_messages) == (emails, app_messages)
    assert reached.ended <= sum(found["recipients"].values())
    assert (found["status"] == "Done") == (reached.ended == sum(found["recipients"].values()))


def _taken(row: Row) -> bool:
    told = row["accepted_at"] or row["delivered_at"] or row["read_at"]
    return bool(told or (row["failed_at"] and row["failure_kind"] != "refused"))


@pytest.mark.slow
def test_a_hundred_thousand_recipients_take_less_than_a_second(connection: sa.Connection) -> None:
    def row(line: int) -> Row:
        at = NOW + timedelta(microseconds=line)
        read = at if line % 3 == 0 else None
        return an_attempt(
            line, ("email", "nhs_app", "sms")[line % 3], SENT, delivered_at=at, read_at=read, text="x" * 300
        )

    a_batch(connection, applied_plan="h")
    connection.execute(sa.insert(attempts), [row(line) for line in range(1, 100_001)])
    began = time.perf_counter()
    reached = ledger_figures.progress(connection, "flu")
    assert time.perf_counter() - began < 1
    assert sum(reached.recipients.values()) == 100_000
