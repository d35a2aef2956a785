"""One batch from the file to the final report, by the shell: each moment of its clocks, and its figures at every step."""

from datetime import datetime, timedelta

import duckdb
import pytest

from batch_pipeline_tests.e2e.surgery import SECOND, Person, Surgery, T, by_email, by_sms, hours, mobile

EMAILED, BOUNCED = by_email(1), by_email(2)
READS, UNREAD, REJECTED, LATE_READER, NO_NUMBER, OPTS_OUT, READS_AFTER_ALL = map(by_sms, range(11, 18))
NO_NUMBER = Person(NO_NUMBER.n)
TEXTED, TEXT_FAILS, SILENT, LATE_DELIVERY = map(by_sms, range(21, 25))
DEAD, LANDLINE, NOTHING = Person(31, mobile=mobile(31), deceased="Y"), Person(32, mobile="020 7946 0000"), Person(33)
APP = (READS, UNREAD, REJECTED, LATE_READER, NO_NUMBER, OPTS_OUT, READS_AFTER_ALL)
INVALID = Person(41, nhs="9990000000")
"""Not a valid number: its check digit is wrong."""


@pytest.fixture
def larkfield(surgery: Surgery) -> Surgery:
    surgery.app_users(*APP)
    surgery.fate(BOUNCED, "email", "failed", 30)
    for person in (UNREAD, NO_NUMBER, OPTS_OUT):
        surgery.fate(person, "nhs_app", "delivered", 1)
    surgery.fate(REJECTED, "nhs_app", "rejected", 2)
    surgery.fate(LATE_READER, "nhs_app", "read", 25 * 60)
    surgery.fate(READS_AFTER_ALL, "nhs_app", "read", 24 * 60 - 1)
    surgery.fate(TEXT_FAILS, "sms", "failed", 10)
    surgery.fate(SILENT, "sms", "silent")
    surgery.fate(LATE_DELIVERY, "sms", "delivered", 80 * 60)
    return surgery


@pytest.mark.both_ledgers
def test_a_batch_from_the_file_to_the_final_report(larkfield: Surgery) -> None:
    everybody = [EMAILED, BOUNCED, *APP, TEXTED, TEXT_FAILS, SILENT, LATE_DELIVERY, DEAD, LANDLINE, NOTHING]
    spec = larkfield.batch("flu", [*everybody, INVALID, TEXTED])

    # submit shows the plan, which is a review, and sends nothing
    shown = larkfield.done("submit", spec, at=T)
    assert "to approve it: batch-pipeline approve flu" in shown.words.lower()
    planned = {
        "lines": 18, "rejected": 1, "duplicates": 1, "patient_list": 16,
        "recipients": {"email": 2, "nhs_app": 7, "sms": 4}, "without_valid_mobile": 2, "no_sms_fallback": 1,
    }  # fmt: skip
    found = larkfield.status("flu", status="Awaiting approval", awaiting=13, cost=0, **planned)
    assert {code: n for code, n in found["non_contactable"].items() if n} == {"deceased": 1, "not_provided": 2}
    assert larkfield.journal() == {}

    # approve only records
    larkfield.done("approve", "flu", "--by", "Dr Test", at=T)
    larkfield.status("flu", status="Scheduled", awaiting=13, **planned)
    assert larkfield.journal() == {}

    # dispatch: everything goes once, and an accepted email is an end
    larkfield.done("dispatch", "flu", at=T)
    found = larkfield.status("flu", status="Sending", emailed=2, awaiting=11, fragments=4, **planned)
    assert found["cost"] == pytest.approx(4 * 0.02 + 2 * 0.001 + 7 * 0.005)
    assert len(larkfield.sent_once()) == 13
    assert larkfield.status("flu")["unread"] == 7

    # an hour later: receipts; the rejected App message falls back at once, nobody else does
    larkfield.done("sweep", at=T + hours(1))
    larkfield.status(
        "flu", emailed=1, delivered=3 + 1 + 1, failed=2, read=1, unread=5, fallback_sent=1, fallback_delivered=0,
        awaiting=5, fragments=5, **planned,
    )  # fmt: skip
    assert larkfield.sent_once() == {
        *(f"flu:{line}:primary" for line in range(2, 15)),
        f"flu:{everybody.index(REJECTED) + 2}:fallback",
    }

    # one second before the 24 hours: nothing more has gone but what was due at once
    larkfield.done("sweep", at=T + hours(24) - SECOND)
    larkfield.status("flu", read=2, unread=4, fallback_sent=1, fallback_delivered=1)

    # somebody opts out before their message falls back
    larkfield.opt_outs(OPTS_OUT, on="2026-10-01")

    # at 24 hours: who hasn't read gets a text, except who can't, or who opted out
    larkfield.done("sweep", at=T + hours(24))
    larkfield.status("flu", status="Sending", read=2, unread=4, fallback_sent=3, double_contact=0)

    # a late read is kept, and counts as a double contact
    larkfield.done("sweep", at=T + hours(26))
    larkfield.status(
        "flu", read=3, unread=3, fallback_sent=3, fallback_delivered=3, double_contact=1, awaiting=2, failed=2
    )

    # 72 hours of silence end a text, not a second before
    larkfield.done("sweep", at=T + hours(72) - SECOND)
    larkfield.status("flu", status="Sending", failed=2, awaiting=2)
    larkfield.done("sweep", at=T + hours(72))
    larkfield.status("flu", status="Done", failed=4, awaiting=0)

    # a late delivery corrects that
    larkfield.done("sweep", at=T + hours(81))
    at_the_end = larkfield.status(
        "flu", status="Done", failed=3, awaiting=0, delivered=9, emailed=1, fragments=7, **planned
    )
    assert at_the_end["cost"] == pytest.approx(7 * 0.02 + 2 * 0.001 + 7 * 0.005)

    # nothing is left to do, whenever one looks
    assert larkfield.done("sweep", at=T + timedelta(days=30)).out == "nothing is due\n"
    assert larkfield.done("dispatch", at=T + timedelta(days=30)).out == "nothing is waiting to be sent\n"
    assert len(larkfield.sent_once()) == 16
    assert larkfield.status("flu") == at_the_end

    # what a practice manager reads
    larkfield.done("report", "flu", at=T + timedelta(days=5))
    everyone_is_in_one_list(larkfield)

    # and an analyst
    with duckdb.connect(str(larkfield.home.metrics_path), read_only=True) as metrics:
        rows = metrics.sql("SELECT step, channel, sum(attempts), sum(fragments) FROM delivery_metrics GROUP BY ALL")
        assert sorted(rows.fetchall()) == [
            ("fallback", "sms", 3, 3),
            ("primary", "email", 2, 0),
            ("primary", "nhs_app", 7, 0),
            ("primary", "sms", 4, 4),
        ]


def everyone_is_in_one_list(larkfield: Surgery) -> None:
    """The reports, read as somebody does who has to ring these people."""
    follow_up = [
        (row["Line"], row["Name"], row["Sent by"], row["What happened"], row["Since"], row["Provider"], row["Code"])
        for row in larkfield.report("flu", "follow_up.csv")
    ]
    no_text = "Not read in the NHS App, and no text could follow"
    assert follow_up == [
        ("3", "Forename002 Familyname002", "Email", "Failed to deliver", "2026-10-01T10:30:00+01:00", "simulator", "failed"),
        ("8", "Forename015 Familyname015", "NHS App", no_text, "2026-10-02T10:00:00+01:00", "simulator", "unread_no_fallback"),
        ("9", "Forename016 Familyname016", "NHS App", no_text, "2026-10-02T10:00:00+01:00", "simulator", "unread_no_fallback"),
        ("12", "Forename022 Familyname022", "SMS", "Failed to deliver", "2026-10-01T10:10:00+01:00", "simulator", "failed"),
        ("13", "Forename023 Familyname023", "SMS", "Failed to deliver", "2026-10-04T10:00:00+01:00", "simulator", "failed"),
    ]  # fmt: skip
    details = {row["Line"]: row["Detail"] for row in larkfield.report("flu", "follow_up.csv")}
    assert "Patient opted out" in details["9"]
    assert "No mobile number" in details["8"]
    assert all(row["What to do"].endswith(".") for row in larkfield.report("flu", "follow_up.csv"))

    assert [
        (row["Line"], row["NHS number"], row["Date of birth"], row["Primary reason"], row["All reasons"], row["Detail"])
        for row in larkfield.report("flu", "non_contactable.csv")
    ] == [
        ("15", DEAD.nhs, "1980-01-31", "Patient deceased", "Patient deceased", ""),
        ("16", LANDLINE.nhs, "1980-01-31", *["Contact details not provided"] * 2, "Only a landline is held"),
        ("17", NOTHING.nhs, "1980-01-31", *["Contact details not provided"] * 2, ""),
    ]
    assert [
        (row["Line"], row["NHS number"], row["Name"], row["Reason"], row["Detail"])
        for row in larkfield.report("flu", "rejected_rows.csv")
    ] == [("18", INVALID.nhs, "Forename041 Familyname041", "The NHS number is not valid", "check digit is wrong")]

    columns = (
        "Line",
        "Path",
        "Outcome",
        "Ended",
        "State",
        "Fallback state",
        "No fallback because",
        "Double contact",
        "Fragments",
    )
    assert [tuple(row[column] for column in columns) for row in larkfield.report("flu", "outcomes.csv")] == [
        ("2", "email", "emailed", "yes", "accepted", "", "", "no", "0"),
        ("3", "email", "failed", "yes", "failed", "", "", "no", "0"),
        ("4", "nhs_app", "delivered", "yes", "read", "", "", "no", "0"),
        ("5", "nhs_app", "delivered", "yes", "delivered", "delivered", "", "no", "1"),
        ("6", "nhs_app", "delivered", "yes", "failed", "delivered", "", "no", "1"),
        ("7", "nhs_app", "delivered", "yes", "read", "delivered", "", "yes", "1"),
        ("8", "nhs_app", "delivered", "yes", "delivered", "", "no_number", "no", "0"),
        ("9", "nhs_app", "delivered", "yes", "delivered", "", "opted_out", "no", "0"),
        ("10", "nhs_app", "delivered", "yes", "read", "", "", "no", "0"),
        ("11", "sms", "delivered", "yes", "delivered", "", "", "no", "1"),
        ("12", "sms", "failed", "yes", "failed", "", "", "no", "1"),
        ("13", "sms", "failed", "yes", "timed_out", "", "", "no", "1"),
        ("14", "sms", "delivered", "yes", "delivered", "", "", "no", "1"),
    ]
    # every line of the file is in one report or another
    lines = [
        int(row["Line"])
        for name in ("outcomes.csv", "non_contactable.csv", "rejected_rows.csv", "duplicates.csv")
        for row in larkfield.report("flu", name)
    ]
    assert sorted(lines) == list(range(2, 20))


WINTER_BEGINS = datetime.fromisoformat("2026-10-24T12:00+01:00")
SUMMER_BEGINS = datetime.fromisoformat("2026-03-28T12:00+00:00")


@pytest.mark.parametrize(
    ("sent", "questionnaire", "due"),
    [
        pytest.param(WINTER_BEGINS, None, "2026-10-25T11:00+00:00", id="24 hours while the clocks go back"),
        pytest.param(
            SUMMER_BEGINS, None, "2026-03-29T13:00+01:00", id="24 hours while the clocks go forward",
            marks=pytest.mark.slow,  # the sweep by itself is tested over both changes (sending/test_fallbacks.py)
        ),
        pytest.param(
            datetime.fromisoformat("2026-10-25T00:30+01:00"), "bp_7_day", "2026-10-25T02:30+00:00",
            id="3 hours for 7 days of blood pressure while the clocks go back",
        ),
    ],
)  # fmt: skip
def test_an_unread_app_message_falls_back_after_so_many_hours_by_the_clock_that_never_changes(
    surgery: Surgery, sent: datetime, questionnaire: str | None, due: str
) -> None:
    surgery.app_users(UNREAD, as_of=sent.date().isoformat())
    surgery.fate(UNREAD, "nhs_app", "silent")
    kind = (
        {"type": "questionnaire", "questionnaire": questionnaire, "body": "Dear {{ first_name }}: {{ link }}"}
        if questionnaire
        else {}
    )
    surgery.workspace(links={"base_url": "https://msg.larkfield.example.org"})
    surgery.send(surgery.batch("flu", [UNREAD], message=kind), at=sent)
    when = datetime.fromisoformat(due)
    surgery.done("sweep", at=when - SECOND)
    surgery.status("flu", fallback_sent=0, awaiting=1, unread=1)
    surgery.done("sweep", at=when)
    surgery.status("flu", fallback_sent=1, awaiting=1, unread=1)
    surgery.done("sweep", at=when + timedelta(minutes=5))
    surgery.status("flu", status="Done", fallback_sent=1, fallback_delivered=1, delivered=1, unread=1)
    assert surgery.sent_once() == {"flu:2:primary", "flu:2:fallback"}
