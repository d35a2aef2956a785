from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlalchemy as sa

from batch_pipeline.ledger.snapshot import SCHEMA, read_attempts
from batch_pipeline.ledger.tables import metadata
from batch_pipeline.reports import lists
from batch_pipeline.reports.columns import REPORTS
from batch_pipeline.reports.csv_files import write_csv
from batch_pipeline_tests.ledger.test_figures import NOW, a_batch, an_attempt, outbox

ZONE = "Europe/London"
SENT = "begun accepted"
NHS = [f"99900000{n}" for n in ("18", "26", "34", "42", "50")]
Rows = list[dict[str, Any]]


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    made = duckdb.connect()
    born = [date(1980, 1, day) for day in range(1, 6)]
    made.register(
        "given_patients",
        pa.table(
            {
                "line": pa.array(range(2, 7), pa.int32()),
                "nhs_number": NHS,
                "patient_name": ["A", None, "C", None, "E"],  # the others' stands in two cells
                "first_name": ["A", "B", "C", "D", "E"],
                "surname": [None, "B", "C", "D", "E"],
                "date_of_birth": born,
            }
        ),
    )
    made.execute("CREATE TABLE patients AS FROM given_patients")
    made.execute("""
        CREATE TABLE channel_plan AS SELECT line, 'sms' AS path, 'gp · simple · neither → sms' AS rule,
            NULL::VARCHAR AS snapshot, line = 3 AS held_back FROM patients
    """)
    yield made
    made.close()


NOBODY = "(SELECT 0 AS line, NULL::TIMESTAMPTZ AS locked_at WHERE false)"


def told(con: duckdb.DuckDBPyConnection, *rows: dict[str, Any]) -> None:
    """Puts the attempts into a ledger and what the ledger tells of them into the table ``attempts``."""
    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as ledger:
        a_batch(ledger, applied_plan="h")
        if rows:
            outbox(
                ledger, *({"failure_code": None, "no_fallback_because": None, "policy": None, **row} for row in rows)
            )
        con.register("given_attempts", pa.Table.from_batches(read_attempts(ledger, "flu"), SCHEMA))
    con.execute("CREATE TABLE attempts AS FROM given_attempts")
    engine.dispose()


def app(line: int, words: str, **values: Any) -> dict[str, Any]:
    return an_attempt(line, "nhs_app", words, policy="unread-24h", **values)


def rows_of(relation: duckdb.DuckDBPyRelation) -> Rows:
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def outcomes(con: duckdb.DuckDBPyConnection) -> Rows:
    return rows_of(
        lists.outcomes(con, channel_plan="channel_plan", patients="patients", attempts="attempts", zone=ZONE)
    )


def follow_up(con: duckdb.DuckDBPyConnection, locked: str = NOBODY) -> Rows:
    return rows_of(lists.follow_up(con, patients="patients", attempts="attempts", locked=locked, zone=ZONE))


def test_who_can_not_be_contacted_is_listed_with_labels_and_remedy(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""
        CREATE TABLE non_contactable AS SELECT * FROM (VALUES
            (3, '9990000026', 'B', DATE '1980-01-02', 'not_provided', ['not_provided'], 'landline_only', 'number: x'),
            (2, '9990000018', 'A', DATE '1980-01-01', 'deceased', ['deceased', 'not_uk'], NULL, NULL)
        ) t(line, nhs_number, patient_name, date_of_birth, primary_reason, reasons, sub_reason, detail)
    """)
    first, second = rows_of(lists.non_contactable(con, "non_contactable"))
    assert (first["line"], first["primary_reason"]) == (2, "Patient deceased")
    assert first["all_reasons"] == "Patient deceased; Not a UK phone number"
    assert first["reason_codes"] == "deceased; not_uk"
    assert first["detail"] is None
    assert first["remedy"].startswith("Do not contact.")
    assert second["detail"] == "Only a landline is held; number: x"
    assert second["remedy"] == "Call the landline, or ask the patient for a mobile number."


def test_rejected_rows_are_listed_as_typed_with_label_and_remedy(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""
        CREATE TABLE rejected AS SELECT 9 AS line, 'nhs_number_invalid' AS reason, 'check digit' AS detail,
            '=999' AS nhs_number, NULL::VARCHAR AS patient_name, '1/1/80' AS date_of_birth
    """)
    [row] = rows_of(lists.rejected_rows(con, "rejected"))
    assert row["reason"] == "The NHS number is not valid"
    assert row["reason_code"] == "nhs_number_invalid"
    assert (row["nhs_number"], row["date_of_birth"], row["detail"]) == ("=999", "1/1/80", "check digit")
    assert row["remedy"].startswith("Check the NHS number")


def test_before_the_outbox_every_recipient_awaits_or_is_held_back(con: duckdb.DuckDBPyConnection) -> None:
    told(con)
    found = outcomes(con)
    assert [(row["line"], row["outcome"], row["state"], row["ended"]) for row in found] == [
        (2, "awaiting", "queued", "no"),
        (3, "held_back", "held_back", "yes"),
        *((line, "awaiting", "queued", "no") for line in (4, 5, 6)),
    ]
    assert {row["provider"] for row in found} == {None}
    assert found[0]["nhs_number"] == NHS[0]


def test_once_sent_the_outbox_says_who_the_recipients_are_and_not_a_later_plan(con: duckdb.DuckDBPyConnection) -> None:
    told(con, an_attempt(2, "email", SENT), an_attempt(7, "sms", SENT))
    assert [(row["line"], row["path"]) for row in outcomes(con)] == [(2, "email"), (7, "sms")]


def test_an_outcome_tells_of_the_reminders(con: duckdb.DuckDBPyConnection) -> None:
    days = {day: NOW + timedelta(days=day) for day in (3, 6)}
    told(
        con,
        an_attempt(2, "sms", f"{SENT} delivered"),
        *(an_attempt(2, "sms", SENT, step=f"reminder_{day}", accepted_at=at, fragments=3) for day, at in days.items()),
        app(3, SENT),
        an_attempt(3, "nhs_app", "begun failed", step="reminder_3", failure_kind="refused", fragments=0),
        an_attempt(4, "email", SENT),
        an_attempt(4, "email", SENT, step="reminder_3", accepted_at=days[3]),
    )
    found = [(row["reminders"], row["reminded_at"], row["fragments"], row["outcome"]) for row in outcomes(con)]
    assert found == [
        (2, "2026-10-07T10:00:00+01:00", 8, "delivered"),
        (0, None, 0, "awaiting"),
        (1, "2026-10-04T10:00:00+01:00", 0, "emailed"),
    ]


def test_an_outcome_tells_of_both_attempts_in_workspace_time(con: duckdb.DuckDBPyConnection) -> None:
    at = datetime(2026, 10, 24, 23, 59, 30, 999999, tzinfo=UTC)  # the night the clocks go back
    told(
        con,
        app(2, SENT, read_at=at + timedelta(days=1, hours=3), accepted_at=at),
        an_attempt(2, "sms", SENT, step="fallback", accepted_at=at + timedelta(days=1), provider="simulator"),
        app(3, f"{SENT} delivered no_fallback", no_fallback_because="no_number"),
        an_attempt(4, "sms", "begun failed", failure_kind="refused", failure_code="X1"),
    )
    both, unread, refused = outcomes(con)
    assert both["accepted_at"] == "2026-10-25T00:59:30+01:00"
    assert both["read_at"] == "2026-10-26T02:59:30+00:00"
    assert both["fallback_accepted_at"] == "2026-10-25T23:59:30+00:00"
    assert (both["outcome"], both["ended"], both["double_contact"]) == ("delivered", "no", "yes")
    assert (both["state"], both["fallback_state"], both["fallback_provider"]) == ("read", "accepted", "simulator")
    assert (both["fragments"], both["rule"]) == (2, "gp · simple · neither → sms")
    assert (unread["outcome"], unread["ended"], unread["no_fallback_because"]) == ("delivered", "yes", "no_number")
    assert (refused["outcome"], refused["failure"], refused["failure_code"], refused["fragments"]) == (
        "failed",
        "refused",
        "X1",
        0,
    )


def test_times_are_told_in_zones_before_and_off_the_hour_of_greenwich(con: duckdb.DuckDBPyConnection) -> None:
    told(con, an_attempt(2, "email", queued_at=datetime(2026, 7, 1, 1, tzinfo=UTC)))

    def queued(zone: str) -> str:
        relation = lists.outcomes(con, channel_plan="channel_plan", patients="patients", attempts="attempts", zone=zone)
        return rows_of(relation)[0]["queued_at"]

    assert queued("America/St_Johns") == "2026-06-30T22:30:00-02:30"
    assert queued("Asia/Kolkata") == "2026-07-01T06:30:00+05:30"
    con.execute("SET TimeZone = 'Asia/Tokyo'")
    assert queued("UTC") == "2026-07-01T01:00:00+00:00"


def test_the_follow_up_list_says_why_and_what_to_do(con: duckdb.DuckDBPyConnection) -> None:
    told(
        con,
        an_attempt(2, "sms", f"{SENT} failed", failure_kind="permanent", failure_code="PF"),
        app(3, f"{SENT} no_fallback", no_fallback_because="no_number"),
        app(4, f"{SENT} delivered"),
        an_attempt(4, "sms", f"{SENT} timed_out", step="fallback"),
        an_attempt(5, "email", "begun unconfirmed"),
        app(
            6,
            f"{SENT} failed no_fallback",
            failure_kind="rejected",
            failure_code="PDSV_0112",
            no_fallback_because="deceased",
        ),
    )
    failed, nobody, unread, unconfirmed, dead = follow_up(con)
    assert (failed["code"], failed["sent_by"], failed["happened"]) == ("failed", "SMS", "Failed to deliver")
    assert failed["detail"] == "SMS: failed for good: the number or address doesn't take messages (PF)"
    assert (failed["nhs_number"], failed["patient_name"], failed["date_of_birth"]) == (NHS[0], "A", date(1980, 1, 1))
    assert failed["since"] == "2026-10-01T10:00:00+01:00"
    assert (nobody["code"], nobody["detail"]) == ("unread_no_fallback", "No text followed: No mobile number to text")
    assert nobody["remedy"] == "Call or write, and ask the patient for a mobile number."
    assert (unread["code"], unread["detail"]) == ("unread", "SMS: Failed: nothing heard in time")
    assert unconfirmed["code"] == "unconfirmed"
    assert (dead["code"], dead["remedy"].split(".")[0]) == ("failed", "Do not contact")
    assert dead["detail"] == "NHS App: rejected (PDSV_0112); No text followed: Patient deceased"
    assert {row["provider"] for row in (failed, nobody, unread, unconfirmed, dead)} == {"simulator"}


def test_whoever_was_reached_or_still_awaits_is_not_followed_up(con: duckdb.DuckDBPyConnection) -> None:
    told(con, app(2, f"{SENT} read"), app(3, SENT), an_attempt(4, "email", SENT), an_attempt(5, "sms", "held_back"))
    assert follow_up(con) == []


def test_whoever_locked_their_link_is_followed_up_for_that_if_for_nothing_else(con: duckdb.DuckDBPyConnection) -> None:
    told(
        con,
        an_attempt(2, "sms", f"{SENT} delivered"),
        an_attempt(3, "sms", f"{SENT} failed"),
        an_attempt(4, "sms", SENT),
    )
    con.execute("""
        CREATE TABLE locked AS SELECT line, TIMESTAMPTZ '2026-10-02 09:00:00+00' AS locked_at FROM (VALUES (2), (3)) t(line)
    """)
    delivered, failed = follow_up(con, "locked")
    assert (delivered["line"], delivered["code"], delivered["detail"]) == (2, "link_locked", None)
    assert delivered["since"] == "2026-10-02T10:00:00+01:00"
    assert "unlock BATCH --line N" in delivered["remedy"]
    assert (failed["line"], failed["code"]) == (3, "failed")
    assert failed["detail"].endswith("; The link is locked")


def test_every_report_can_be_written_empty_and_full(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    told(con, an_attempt(2, "sms", f"{SENT} failed"))
    con.execute("""CREATE TABLE non_contactable (line INT, nhs_number TEXT, patient_name TEXT, date_of_birth DATE,
        primary_reason TEXT, reasons TEXT[], sub_reason TEXT, detail TEXT)""")
    con.execute("""CREATE TABLE rejected (line INT, reason TEXT, detail TEXT, nhs_number TEXT, patient_name TEXT,
        date_of_birth TEXT)""")
    con.execute("CREATE TABLE duplicates (line INT, kept_line INT, disagrees BOOLEAN)")
    con.execute("INSERT INTO duplicates VALUES (7, 3, true)")
    tables = {"patients": "patients", "attempts": "attempts", "zone": ZONE}
    relations = {
        "non_contactable.csv": lists.non_contactable(con, "non_contactable"),
        "rejected_rows.csv": lists.rejected_rows(con, "rejected"),
        "duplicates.csv": lists.duplicates(con, "duplicates"),
        "follow_up.csv": lists.follow_up(con, locked=NOBODY, **tables),
        "outcomes.csv": lists.outcomes(con, channel_plan="channel_plan", **tables),
    }
    rows = {file: write_csv(relation, tmp_path / file, REPORTS[file].columns) for file, relation in relations.items()}
    assert rows == {
        "non_contactable.csv": 0,
        "rejected_rows.csv": 0,
        "duplicates.csv": 1,
        "follow_up.csv": 1,
        "outcomes.csv": 1,
    }
    assert (tmp_path / "duplicates.csv").read_text(encoding="utf-8-sig").splitlines()[1] == "7,3,yes"
    assert "simulator" in (tmp_path / "outcomes.csv").read_text(encoding="utf-8-sig").splitlines()[1].split(",")
