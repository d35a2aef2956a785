"""One batch from the file to the final report, by the shell: each moment of its clocks, and its figures at every step."""

from datetime import datetime, timedelta

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
    # 5 SMS of 1 fragment at .02, 2 emails at .001, 7 App messages at .005
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
    follow_up = {(row["NHS number"], row["Code"]) for row in larkfield.report("flu", "follow_up.csv")}
    assert follow_up == {
        (BOUNCED.nhs, "failed"), (TEXT_FAILS.nhs, "failed"), (SILENT.nhs, "failed"),
        (NO_NUMBER.nhs, "unread_no_fallback"), (OPTS_OUT.nhs, "unread_no_fallback"),
    }  # fmt: skip


WINTER_BEGINS = datetime.fromisoformat("2026-10-24T12:00+01:00")
SUMMER_BEGINS = datetime.fromisoformat("2026-03-28T12:00+00:00")


@pytest.mark.parametrize(
    ("sent", "questionnaire", "due"),
    [
        pytest.param(T, None, "2026-10-02T09:00+00:00", id="24 hours"),
        pytest.param(WINTER_BEGINS, None, "2026-10-25T11:00+00:00", id="24 hours while the clocks go back"),
        pytest.param(SUMMER_BEGINS, None, "2026-03-29T13:00+01:00", id="24 hours while the clocks go forward"),
        pytest.param(T, "bp_7_day", "2026-10-01T12:00+00:00", id="3 hours for 7 days of blood pressure"),
        pytest.param(T, "bp_4_day", "2026-10-01T12:00+00:00", id="3 hours for 4 days of blood pressure"),
        pytest.param(T, "asthma", "2026-10-02T09:00+00:00", id="24 hours for any other questionnaire"),
        pytest.param(
            datetime.fromisoformat("2026-10-25T00:30+01:00"), "bp_7_day", "2026-10-25T02:30+00:00",
            id="3 hours while the clocks go back",
        ),
    ],
)  # fmt: skip
def test_an_unread_app_message_falls_back_after_so_many_hours_by_the_clock_that_never_changes(
    surgery: Surgery, sent: datetime, questionnaire: str | None, due: str
) -> None:
    surgery.app_users(UNREAD, as_of=sent.date().isoformat())
    surgery.fate(UNREAD, "nhs_app", "silent")
    kind = {"type": "questionnaire", "questionnaire": questionnaire} if questionnaire else {}
    surgery.send(surgery.batch("flu", [UNREAD], message=kind), at=sent)
    when = datetime.fromisoformat(due)
    surgery.done("sweep", at=when - SECOND)
    surgery.status("flu", fallback_sent=0, awaiting=1, unread=1)
    surgery.done("sweep", at=when)
    surgery.status("flu", fallback_sent=1, awaiting=1, unread=1)
    surgery.done("sweep", at=when + timedelta(minutes=5))
    surgery.status("flu", status="Done", fallback_sent=1, fallback_delivered=1, delivered=1, unread=1)
    assert surgery.sent_once() == {"flu:2:primary", "flu:2:fallback"}
