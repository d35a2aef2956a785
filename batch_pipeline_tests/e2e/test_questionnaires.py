"""A questionnaire from the batch file to the patient's browser, the inbox, the practice and ``responses.csv``."""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest
from typing_extensions import override

from batch_pipeline.operations import answering, saving
from batch_pipeline.providers.protocol import OutgoingMessage
from batch_pipeline_tests.defs.test_sensors import Daemon
from batch_pipeline_tests.e2e.surgery import Person, Surgery, T, by_email, by_sms, csv_text, hours
from batch_pipeline_tests.e2e.test_links import BORN, SITE, browser, posted, token_in
from batch_pipeline_tests.e2e.test_personal_data import found_in
from batch_pipeline_tests.gateway.patients import Browser
from batch_pipeline_tests.gateway.test_questionnaires import numbers

__all__ = ["posted"]

MESSAGE = {"type": "questionnaire", "subject": "Your blood pressure", "body": "Dear {{ first_name }}: {{ link }}"}
ANSWERED, SENT = T + hours(1), T + hours(2)
PEOPLE = (by_sms(1), by_email(2), by_sms(3))


def ask(surgery: Surgery, people: Sequence[Person] | str = PEOPLE, questionnaire: str = "bp_4_day", **more: Any) -> str:
    surgery.workspace(links={"base_url": SITE})
    return surgery.send(surgery.batch("bp", people, message={**MESSAGE, "questionnaire": questionnaire, **more}))


def patient(surgery: Surgery, message: OutgoingMessage, at: datetime = ANSWERED) -> tuple[Browser, str]:
    """In, past the date of birth."""
    token = token_in(message)
    found = browser(surgery, at)
    assert found.type_in(token, BORN).status_code == 303
    return found, token


def answer(surgery: Surgery, message: OutgoingMessage, at: datetime = ANSWERED, **readings: Any) -> None:
    found, token = patient(surgery, message, at)
    assert found.fill(token, "questions/1", **numbers(1, **readings)).status_code == 303


def send(surgery: Surgery, message: OutgoingMessage, at: datetime = SENT) -> None:
    found, token = patient(surgery, message, at)
    assert found.fill(token, "check").status_code == 303


@dataclass
class Practice:
    """Where the practice is told by webhook."""

    url: str = ""
    status: int = 204
    heard: list[tuple[dict[str, str], Any]] = field(default_factory=list)


@pytest.fixture
def practice() -> Iterator[Practice]:
    found = Practice()

    class Desk(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.heard.append((dict(self.headers), json.loads(body)))
            self.send_response(found.status)
            self.end_headers()

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Desk)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/alerts"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_patients_answer_comes_to_the_inbox_and_to_responses_csv(
    surgery: Surgery, posted: list[OutgoingMessage]
) -> None:
    rows = [person.row() for person in (*PEOPLE, by_sms(4))]
    rows[3]["Date of birth"] = ""  # which the link would ask for
    ask(surgery, csv_text(rows))
    warning = "it asks for blood pressure, and workspace larkfield names nobody to be told of an urgent reading"
    assert warning in surgery.done("review", "bp", at=T).words
    [rejected] = surgery.report("bp", "rejected_rows.csv")
    assert rejected["Reason code"] == "date_of_birth_missing"
    assert "nothing has been answered" in surgery.done("inbox", at=T).out

    messages = sorted(posted, key=lambda each: each.reference)
    answer(surgery, messages[0], m1=(150, 95), m2=(146, 93))
    send(surgery, messages[0])
    answer(surgery, messages[1], m1=(185, 95))
    daemon = Daemon(surgery)
    assert daemon.cycle("answers_sensor") == ["bp"]
    assert daemon.tick("answers_sensor") == []
    assert len(surgery.report("bp", "responses.csv")) == 2
    said = surgery.done("inbox", "bp", at=T + hours(3)).words
    assert "1 completed, 1 in progress, 1 urgent" in said
    assert "3 in progress urgent, nobody is told" in said

    one, other = surgery.report("bp", "responses.csv")
    assert (one["Line"], one["NHS number"], one["Name"], one["Date of birth"]) == (
        "2", PEOPLE[0].nhs, f"{PEOPLE[0].row()['First name']} {PEOPLE[0].row()['Surname']}", "1980-01-31",
    )  # fmt: skip
    assert (one["State"], one["Urgent"], one["Sent"]) == ("completed", "no", "2026-10-01T12:00:00+01:00")
    assert one["Day 1: Morning, First reading: Top number (systolic) (mmHg)"] == "150"
    assert one["Day 1: Date of these readings"] == "1 October 2026"
    assert (other["Line"], other["State"], other["Urgent"], other["Practice told"]) == ("3", "in progress", "yes", "")
    assert other["Readings to look at"] == "Day 1, Morning, First reading: 185/95 (Very high: 180/120 or more)"
    path = surgery.home.reports / "bp" / "responses.csv"
    assert path.stat().st_mode & 0o777 == 0o600

    surgery.status("bp", answers={"completed": 1, "in_progress": 1, "urgent": 1, "untold": 1})
    assert "urgent, and nobody is told" in surgery.done("status", "bp").words
    every = surgery.done("inbox", "--json", at=T + hours(3)).json
    assert every == [{"batch": "bp", "completed": 1, "in_progress": 1, "urgent": 1, "untold": 1}]
    found = surgery.done("inbox", "bp", "--json", at=T + hours(3)).json
    assert found["patients"][1] == {
        "line": 3,
        "state": "in progress",
        "urgent": True,
        "untold": True,
        "changed_at": "2026-10-01T10:00:00+00:00",
    }
    for person in PEOPLE:
        assert person.nhs not in json.dumps(found)


@pytest.mark.slow
def test_an_answer_that_can_not_wait_turns_the_check_red_until_somebody_has_seen_it(
    surgery: Surgery, posted: list[OutgoingMessage]
) -> None:
    ask(surgery, [by_sms(1)])
    answer(surgery, posted[0], m1=(150, 125))
    assert "answers of" not in surgery.done("sweep", at=T + hours(2)).out
    assert told(surgery) == (
        False,
        "nobody is told: workspace larkfield names nobody to be told: add alerts: {email: …} to its file",
    )
    assert surgery.done("sweep", at=T + hours(3)).out == "nothing is due\n", "there is nothing that a sweep could do"
    assert "--by NAME" in surgery.shell("inbox", "bp", "--seen").err
    said = surgery.done("inbox", "bp", "--seen", "--by", "Dr Grey", at=T + hours(4)).words
    assert "bp: Dr Grey has seen line 2" in said
    assert "nobody is told" not in said
    assert told(surgery) == (True, None)
    [row] = surgery.report("bp", "responses.csv")
    assert (row["Urgent"], row["Told by"], row["Practice told"]) == ("yes", "Dr Grey", "2026-10-01T14:00:00+01:00")
    assert "already" in surgery.done("inbox", "bp", "--seen", "--by", "Dr Grey", at=T + hours(5)).words


def told(surgery: Surgery) -> tuple[bool, str | None]:
    """What the check in the UI says."""
    with surgery.dagster() as instance:
        key = dg.AssetCheckKey(dg.AssetKey("inbox"), "urgent_answers_are_told")
        [record] = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert record.event is not None
        found = record.event.asset_check_evaluation
        assert found is not None
        return found.passed, found.description


@pytest.mark.slow
def test_the_practice_is_told_by_its_webhook_once_and_of_no_patient(
    surgery: Surgery, posted: list[OutgoingMessage], practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUTY_ALERTS_TOKEN", "a token for tests")
    surgery.workspace(alerts={"webhook": practice.url, "credentials": "DUTY"})
    ask(surgery)
    messages = sorted(posted, key=lambda each: each.reference)
    practice.status = 503
    answer(surgery, messages[0], m1=(190, 95))
    answer(surgery, messages[2], m1=(191, 95), m2=(192, 95))
    surgery.done("sweep", at=T + hours(2))
    with surgery.dagster() as instance:
        swept = [run.job_name for run in reversed(instance.get_runs(limit=2))]
    assert swept == ["inbox", "receipts"], "what can't wait waits for nothing that may take long"
    assert told(surgery) == (False, "nobody is told: the webhook answered 503")
    assert answering.with_answers(surgery.house, T + hours(2)) == []
    practice.status = 204
    surgery.done("sweep", at=T + hours(3))
    assert told(surgery) == (True, None)
    surgery.done("sweep", at=T + hours(4))
    surgery.done("inbox", "bp", at=T + hours(5))
    first, second = practice.heard
    assert first[0]["Idempotency-Key"] == second[0]["Idempotency-Key"]
    headers, said = second
    assert headers["Authorization"] == "Bearer a token for tests"
    assert (said["workspace"], said["batch"], said["lines"]) == ("larkfield", "bp", [2, 4])
    assert said["what"] == "urgent blood pressure reading"
    for secret in ("190", "191", "very_high", PEOPLE[0].nhs, PEOPLE[0].row()["Surname"], urlsplit(SITE).netloc):
        assert secret not in json.dumps(said)
    answer(surgery, messages[2], at=T + hours(6), e1=(193, 95))
    surgery.done("sweep", at=T + hours(6))
    assert practice.heard[2][1]["lines"] == [4]
    assert len(practice.heard) == 3
    assert {row["Told by"] for row in surgery.report("bp", "responses.csv")} == {"webhook"}


def test_a_batch_that_asks_nothing_has_no_inbox(surgery: Surgery) -> None:
    surgery.done("submit", surgery.batch("flu", [by_sms(1)]), at=T)
    assert "batch flu asks patients nothing" in surgery.refused("inbox", "flu")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"body": "Please tell us."}, "write {{ link }} into the text"),
        ({"subject": "See {{ link }}"}, "{{ link }} stands in the subject"),
    ],
)
def test_a_questionnaire_s_message_has_to_show_the_link(surgery: Surgery, message: dict[str, str], says: str) -> None:
    surgery.workspace(links={"base_url": SITE})
    spec = surgery.batch("bp", PEOPLE, message={**MESSAGE, "questionnaire": "bp_4_day", **message})
    assert says in surgery.refused("check", spec)


def test_a_webhook_s_token_that_is_missing_is_told_before_anything_is_sent(surgery: Surgery) -> None:
    alerts = {"webhook": "https://duty.example.org", "credentials": "DUTY"}
    surgery.workspace(links={"base_url": SITE}, alerts=alerts)
    spec = surgery.batch("bp", PEOPLE, message={**MESSAGE, "questionnaire": "bp_4_day"})
    assert "the environment variable DUTY_ALERTS_TOKEN isn't set" in surgery.refused("check", spec)


def test_a_questionnaire_needs_a_place_for_links_to_lead(surgery: Surgery) -> None:
    spec = surgery.batch("bp", PEOPLE, message={**MESSAGE, "questionnaire": "bp_4_day"})
    assert "doesn't say where links lead" in surgery.refused("check", spec)


@pytest.mark.slow
@pytest.mark.parametrize("surgery_database", ["sqlite"], indirect=True)  # looks into the ledger's file
def test_nobody_s_answers_are_where_they_do_not_belong(surgery_on_disk: Surgery, posted: list[OutgoingMessage]) -> None:
    surgery = surgery_on_disk
    ask(surgery, [by_sms(1)], "free_text")
    found, token = patient(surgery, posted[0])
    assert found.fill(token, "questions/1", **{"reply.text": "=my zebra coughs"}).status_code == 303
    shown = [
        surgery.done("inbox", "bp", at=T + hours(2)),
        surgery.done("inbox", at=T + hours(2)),
        surgery.done("status", "bp"),
    ]
    wanted = {"my zebra coughs", token, by_sms(1).nhs, by_sms(1).surname}
    places = {place for place, _ in found_in(surgery.home.root, {"my zebra coughs"})}
    assert places <= {"ledger.sqlite", "ledger.sqlite-wal", "reports/bp/responses.csv"}
    assert "reports/bp/responses.csv" in places
    assert found_in(surgery.home.dagster, wanted) == []
    assert [each for each in wanted if each in " ".join(ran.out + ran.err for ran in shown)] == []
    [row] = surgery.report("bp", "responses.csv")
    assert row["Your reply: Your answer"] == "'=my zebra coughs", "a spreadsheet would run it"
    for path in (surgery.home.reports / "bp" / "responses.csv", surgery.home.data / "inbox" / "bp.parquet"):
        assert path.stat().st_mode & 0o777 == 0o600


# The record


@pytest.mark.parametrize(
    ("saves", "to_record", "kinds"),
    [
        (True, True, {"Communication": 1, "QuestionnaireResponse": 1, "Observation": 2}),
        pytest.param(False, True, {"Communication": 1}, marks=pytest.mark.slow),
        pytest.param(True, False, {}, marks=pytest.mark.slow),
    ],
    ids=["answers too", "messages alone", "nothing"],
)
def test_answers_go_to_the_record_where_the_batch_says_so(
    surgery: Surgery, posted: list[OutgoingMessage], saves: bool, to_record: bool, kinds: dict[str, int]
) -> None:
    surgery.workspace(links={"base_url": SITE})
    message = {**MESSAGE, "questionnaire": "bp_4_day", "saves_responses": saves}
    surgery.send(surgery.batch("bp", [by_sms(1)], message=message, save_to_record=to_record))
    answer(surgery, posted[0], m1=(150, 95), m2=(146, 93))
    surgery.done("sweep", at=T + hours(2))
    surgery.done("save", at=T + hours(2))
    assert in_record(surgery) == {kind: n for kind, n in kinds.items() if kind == "Communication"}
    send(surgery, posted[0], T + hours(3))
    for at in (T + hours(4), T + hours(5)):
        surgery.done("save", at=at)
    assert in_record(surgery) == kinds
    assert saving.with_entries_due(surgery.house, T + hours(6)) == []


def in_record(surgery: Surgery) -> dict[str, int]:
    found = [
        json.loads(line)["resourceType"]
        for path in surgery.home.records.rglob("*.ndjson")
        for line in path.read_text("utf-8").splitlines()
    ]
    return dict(Counter(found))


def test_who_has_not_answered_is_reminded_once_on_each_day(surgery: Surgery, posted: list[OutgoingMessage]) -> None:
    """By the sensors alone; then the reports, the record and the figures tell of it."""
    app, answers = by_sms(4), by_email(2)
    surgery.app_users(app)
    surgery.fate(app, "nhs_app", "silent")
    ask(surgery, [by_sms(1), answers, app], questionnaire="smoking_status")
    plan = surgery.done("review", "bp", at=T).words
    assert "Who hasn't answered is reminded on day 3 and 6." in plan
    assert "and reminders, if nobody answers (6 messages, 4 SMS fragments)" in plan
    first = {_line(message): message for message in posted}
    found, token = patient(surgery, first[3])
    assert found.fill(token, "questions/1", **{"smoking.status": "266919005"}).status_code == 303
    send(surgery, first[3])
    daemon = Daemon(surgery)
    daemon.cycle("fallback_sensor", T + hours(24))
    day = hours(24)
    for at, reminded in ((3 * day, 2), (3 * day + hours(1), 0), (6 * day, 2), (20 * day, 0)):
        before = len(posted)
        assert daemon.cycle("reminders_sensor", T + at) == (["bp"] if reminded else [])
        assert daemon.tick("reminders_sensor", T + at) == []
        new = posted[before:]
        assert sorted(map(_line, new)) == [2, 4][:reminded]
        assert {message.channel for message in new} <= {"sms"}
        assert all(message.text.startswith("Reminder: Dear ") for message in new)
        assert all(message.reference.endswith(f":reminder_{at // day}") for message in new)
        assert all(token_in(message) == token_in(first[_line(message)]) for message in new)
    surgery.status("bp", reminders=4, recipients={"email": 1, "nhs_app": 1, "sms": 1})
    daemon.cycle("receipts_sensor", T + 20 * day)
    daemon.cycle("report_sensor", T + 20 * day)
    outcomes = surgery.report("bp", "outcomes.csv")
    assert [(row["Line"], row["Reminders"]) for row in outcomes] == [("2", "2"), ("3", "0"), ("4", "2")]
    daemon.cycle("records_sensor", T + 20 * day)
    surgery.status("bp", status="Saved")


def _line(message: OutgoingMessage) -> int:
    return int(message.reference.split(":")[-2])


def test_a_batch_may_do_without_reminders(surgery: Surgery, posted: list[OutgoingMessage]) -> None:
    ask(surgery, [by_sms(1)], reminders=False)
    assert "reminded" not in surgery.done("review", "bp", at=T).words
    assert Daemon(surgery).tick("reminders_sensor", T + hours(24)) == []
    assert len(posted) == 1
