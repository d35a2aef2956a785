"""A batch whose file lacks details: looked up in PDS, resumed, and told of in plan and reports."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest

from batch_pipeline.ledger import history, pds_answers
from batch_pipeline.operations import pds_details
from batch_pipeline.providers import pds as client
from batch_pipeline.rules.demographics import Details
from batch_pipeline_tests.e2e.surgery import PROGRAM, Person, Surgery, T, by_email, by_sms, mobile
from batch_pipeline_tests.providers import pds_double as pds
from batch_pipeline_tests.providers.nhs_notify_double import Fault, Reply

HAS_MOBILE, HAS_EMAIL, LANDLINE = by_sms(1), by_email(2), Person(3, mobile="020 7946 0018")
MOBILE, EMAIL, NOTHING, DEAD, RESTRICTED, GONE, UNKNOWN, FAILS, RENUMBERED, TWICE = map(Person, range(11, 21))
NEW_NUMBER = Person(30).nhs
DAY = timedelta(days=1)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[pds.PdsDouble]:
    monkeypatch.setenv("BATCH_PIPELINE_PDS_API_KEY", pds.API_KEY)
    monkeypatch.setenv("BATCH_PIPELINE_PDS_PRIVATE_KEY", pds.private_key())
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.0)
    with pds.PdsDouble() as running:
        running.records |= {
            LANDLINE.nhs: pds.record(LANDLINE.nhs, pds.mobile("07700 900103")),
            MOBILE.nhs: pds.record(MOBILE.nhs, pds.mobile("07700 900111"), pds.email("other@example.org")),
            EMAIL.nhs: pds.record(EMAIL.nhs, pds.email("twelve@example.org")),
            NOTHING.nhs: pds.record(NOTHING.nhs, pds.mobile("07700 900113", end="2026-09-30")),
            DEAD.nhs: pds.record(DEAD.nhs, pds.mobile("07700 900114"), deceasedDateTime="2020-01"),
            RESTRICTED.nhs: pds.record(RESTRICTED.nhs, security="R"),
            GONE.nhs: pds.record(GONE.nhs, pds.mobile("07700 900116"), extension=[pds.removal()]),
            FAILS.nhs: pds.outcome(200, "TOO_MANY_MATCHES"),
            RENUMBERED.nhs: pds.record(NEW_NUMBER, pds.mobile("07700 900119")),
            TWICE.nhs: pds.record(HAS_MOBILE.nhs, pds.mobile("07700 900001")),
        }
        yield running
    assert running.failures == []


def uses_pds(surgery: Surgery, service: pds.PdsDouble, **keys: Any) -> Surgery:
    surgery.workspace(pds={"base_url": service.host, "key_id": pds.KEY_ID, "per_second": 1000, **keys})
    return surgery


PEOPLE = [
    *(HAS_MOBILE, HAS_EMAIL, LANDLINE, MOBILE, EMAIL, NOTHING, DEAD, RESTRICTED, GONE, UNKNOWN, FAILS, RENUMBERED),
    TWICE,
]
LINE = {person.n: line for line, person in enumerate(PEOPLE, 2)}


def planned(surgery: Surgery) -> dict[str, Any]:
    return surgery.done("review", "flu", "--json").json


def reasons(surgery: Surgery) -> dict[int, tuple[str, str]]:
    rows = surgery.report("flu", "non_contactable.csv")
    return {int(row["Line"]): (row["Reason codes"], row["Detail"]) for row in rows}


def test_gaps_are_filled_and_everybody_ends_in_one_place(surgery: Surgery, service: pds.PdsDouble) -> None:
    spec = uses_pds(surgery, service).batch("flu", PEOPLE)
    surgery.done("submit", spec, at=T)
    shown = planned(surgery)
    assert (shown["lines"], shown["duplicates"], shown["patient_list"]) == (13, 1, 12)
    assert shown["recipients"] == {"email": 2, "nhs_app": 0, "sms": 4}
    assert shown["looked_up"] == {"patients": 11, "filled": 4, "failed": 1, "superseded": 2, "duplicates": 1}
    assert {code: n for code, n in shown["non_contactable"].items() if n} == {
        "deceased": 1, "unable_to_retrieve": 4, "not_provided": 1,
    }  # fmt: skip
    assert reasons(surgery) == {
        LINE[NOTHING.n]: ("not_provided", "PDS has no mobile number either"),
        LINE[DEAD.n]: ("deceased; not_provided", ""),
        LINE[RESTRICTED.n]: ("unable_to_retrieve; not_provided", "Record is restricted"),
        LINE[GONE.n]: ("unable_to_retrieve; not_provided", "No longer registered"),
        LINE[UNKNOWN.n]: ("unable_to_retrieve; not_provided", "NHS number not found"),
        LINE[FAILS.n]: ("unable_to_retrieve; not_provided", "Look-up failed"),
    }
    (duplicate,) = surgery.report("flu", "duplicates.csv")
    assert list(duplicate.values()) == [str(LINE[TWICE.n]), str(LINE[HAS_MOBILE.n]), "no"]
    warnings = " / ".join(shown["warnings"])
    assert f"the details of 1 patient (line {LINE[FAILS.n]}) had to be looked up and could not be" in warnings
    assert f"the NHS number of 2 patients (lines {LINE[RENUMBERED.n]}, {LINE[TWICE.n]})" in warnings

    # only those with gaps were asked for
    assert service.asked_for() == [person.nhs for person in PEOPLE[2:]]

    # what is sent, and to whom
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    surgery.done("dispatch", "flu", at=T)
    assert len(surgery.sent_once()) == 6
    rules = chosen_by(surgery)
    assert rules[LINE[MOBILE.n]] == "gp · simple · neither → sms (mobile from PDS)"
    assert rules[LINE[EMAIL.n]] == "gp · simple · email in CSV → email (email from PDS)"
    assert rules[LINE[HAS_MOBILE.n]] == "gp · simple · neither → sms"
    with surgery.house.ledger.read() as connection:
        sent = dict(connection.exec_driver_sql("SELECT line, nhs_number FROM attempts").fetchall())
    assert sent[LINE[RENUMBERED.n]] == NEW_NUMBER
    assert sent[LINE[MOBILE.n]] == MOBILE.nhs

    # deaths and exit codes are remembered for every batch
    with surgery.house.ledger.read() as connection:
        marks = history.marked(connection)
    hashed = surgery.house.hasher.hash
    assert marks == {hashed(DEAD.nhs): "deceased", hashed(GONE.nhs): "exit_coded"}


def chosen_by(surgery: Surgery) -> dict[int, str]:
    table = pq.read_table(surgery.house.table("channel_plan", "flu"), columns=["line", "rule"])
    return dict(zip(table["line"].to_pylist(), table["rule"].to_pylist(), strict=True))


@pytest.mark.slow
def test_planned_again_only_what_failed_is_asked_for_until_answers_are_old(
    surgery: Surgery, service: pds.PdsDouble
) -> None:
    spec = uses_pds(surgery, service).batch("flu", PEOPLE)
    surgery.done("submit", spec, at=T)
    service.requests.clear()
    service.records[FAILS.nhs] = pds.record(FAILS.nhs, pds.mobile("07700 900118"))
    surgery.done("submit", spec, at=T + DAY)
    assert service.asked_for() == [FAILS.nhs]
    shown = planned(surgery)
    assert (shown["looked_up"]["failed"], shown["looked_up"]["filled"]) == (0, 5)
    service.requests.clear()
    surgery.done("submit", spec, at=T + 7 * DAY)
    assert service.asked_for() == []
    surgery.done("submit", spec, at=T + 8 * DAY)
    assert service.asked_for() == [person.nhs for person in PEOPLE[2:] if person is not FAILS]
    # what a look-up said against a patient holds no longer than PDS says it
    service.records[DEAD.nhs] = pds.record(DEAD.nhs, pds.mobile("07700 900114"))
    surgery.done("submit", spec, at=T + 16 * DAY)
    assert LINE[DEAD.n] not in reasons(surgery)


@pytest.mark.slow
def test_a_patient_whom_a_look_up_found_dead_is_told_so_in_another_batch(
    surgery: Surgery, service: pds.PdsDouble
) -> None:
    uses_pds(surgery, service)
    surgery.done("submit", surgery.batch("flu", [DEAD]), at=T)
    with_mobile = Person(DEAD.n, mobile=mobile(14))
    surgery.done("submit", surgery.batch("other", [with_mobile, HAS_MOBILE], message={"body": "Hello."}), at=T)
    surgery.status("other", recipients={"email": 0, "nhs_app": 0, "sms": 1})


@pytest.mark.slow
def test_a_death_found_after_the_approval_is_heeded_at_the_dispatch(surgery: Surgery, service: pds.PdsDouble) -> None:
    uses_pds(surgery, service)
    with_mobile = Person(DEAD.n, mobile=mobile(14))
    surgery.done("submit", surgery.batch("flu", [with_mobile, HAS_MOBILE]), at=T)
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    surgery.done("submit", surgery.batch("other", [DEAD], message={"body": "Hello."}), at=T)
    surgery.done("dispatch", "flu", at=T)
    assert surgery.sent_once() == {"flu:3:primary"}


@pytest.mark.slow
def test_a_service_that_is_down_is_left_alone_after_a_few(surgery: Surgery, service: pds.PdsDouble) -> None:
    people = [Person(n) for n in range(40, 60)]
    service.plan("accounts", *[Fault(drop="before")] * 1000)
    spec = uses_pds(surgery, service).batch("flu", [HAS_MOBILE, *people])
    surgery.done("submit", spec, at=T)
    assert service.asked["accounts"] == 5 * client.TRIES
    shown = planned(surgery)
    assert shown["looked_up"]["failed"] == len(people)
    assert shown["non_contactable"]["unable_to_retrieve"] == len(people)
    assert shown["recipients"]["sms"] == 1


@pytest.mark.slow
def test_keys_that_are_refused_stop_the_plan_with_their_mend_and_no_patient(
    surgery: Surgery, service: pds.PdsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = uses_pds(surgery, service).batch("flu", [HAS_MOBILE, MOBILE])
    monkeypatch.delenv("BATCH_PIPELINE_PDS_API_KEY")
    assert "BATCH_PIPELINE_PDS_API_KEY isn't set" in surgery.refused("submit", spec, at=T)
    monkeypatch.setenv("BATCH_PIPELINE_PDS_API_KEY", "another")
    said = surgery.refused("submit", spec, at=T)
    assert "PDS gives no token (401 invalid_client): check pds.key_id" in said
    assert MOBILE.nhs not in said
    monkeypatch.setenv("BATCH_PIPELINE_PDS_API_KEY", pds.API_KEY)
    surgery.done("submit", spec, at=T)


@pytest.mark.slow
def test_without_the_group_nobody_is_looked_up(surgery: Surgery, service: pds.PdsDouble) -> None:
    surgery.done("submit", surgery.batch("flu", [HAS_MOBILE, MOBILE]), at=T)
    assert planned(surgery)["looked_up"] == {}
    assert service.asked["accounts"] == 0
    assert reasons(surgery) == {3: ("not_provided", "")}


@pytest.mark.slow
def test_who_was_queued_under_a_number_keeps_it_in_that_batch(surgery: Surgery, service: pds.PdsDouble) -> None:
    """Or the same patient would be somebody new to the outbox, and be sent to twice."""
    service.records[RENUMBERED.nhs] = pds.record(RENUMBERED.nhs, pds.mobile("07700 900119"))
    spec = uses_pds(surgery, service, fresh_for="1h").batch("flu", [RENUMBERED, HAS_MOBILE], allow_repeat=True)
    surgery.send(spec)
    service.records[RENUMBERED.nhs] = pds.record(NEW_NUMBER, pds.mobile("07700 900120"))
    surgery.send(spec, T + DAY)
    assert surgery.sent_once() == {"flu:2:primary", "flu:3:primary"}


# ---- one planning after another, or beside it -------------------------------------------------------------------------


@pytest.fixture
def looked_up(surgery: Surgery, service: pds.PdsDouble) -> Callable[..., dict[int, str]]:
    """Looks the patients of a batch up, after a planning without PDS; gives what came of it, by ``Person.n``."""

    def look_up(people: list[Person], at: datetime = T) -> dict[int, str]:
        house = surgery.house
        if not house.table("patients", "flu").exists():
            surgery.done("submit", surgery.batch("flu", people), at=T)
            uses_pds(surgery, service)
        with house.duck() as con:
            out, patients = surgery.root / "details", house.table("patients", "flu")
            pds_details.look_up(house, con, house.submitted("flu"), patients, out, lambda: at)
        return {people[row["line"] - 2].n: row["outcome"] for row in pq.read_table(out).to_pylist()}

    return look_up


ODD = [Person(n) for n in range(60, 60 + pds_details.GIVE_UP_AFTER)]


@pytest.mark.slow
def test_records_that_cannot_be_read_keep_nobody_else_from_being_looked_up(
    looked_up: Callable[..., dict[int, str]], service: pds.PdsDouble
) -> None:
    service.records |= {each.nhs: pds.outcome(200, "TOO_MANY_MATCHES") for each in ODD}
    assert looked_up([*ODD, MOBILE]) == {**{each.n: "failed" for each in ODD}, MOBILE.n: "found"}


def test_patients_at_whom_the_service_fails_are_asked_for_after_all_others(
    looked_up: Callable[..., dict[int, str]], service: pds.PdsDouble
) -> None:
    """Or those behind them were never asked for, however often it is tried again."""
    service.records |= {each.nhs: Reply(500, b"") for each in ODD}
    people = [*ODD, MOBILE, EMAIL]
    assert set(looked_up(people).values()) == {"failed"}
    assert looked_up(people) == {**{each.n: "failed" for each in ODD}, MOBILE.n: "found", EMAIL.n: "found"}


@pytest.mark.slow
def test_whom_another_planning_asks_for_meanwhile_is_not_asked_for_again(
    surgery: Surgery, looked_up: Callable[..., dict[int, str]], service: pds.PdsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    people, asked = [HAS_MOBILE, MOBILE, EMAIL, RESTRICTED], list[str]()
    looked = client.Pds.look_up

    def look_up(self: client.Pds, number: str, *more: Any) -> Any:
        asked.append(number)
        if len(asked) == 1:  # the other one has all of them, while this one has begun with the first
            looked_up(people)
        return looked(self, number, *more)

    looked_up(people, T - 30 * DAY)
    monkeypatch.setattr(client.Pds, "look_up", look_up)
    assert looked_up(people) == {MOBILE.n: "found", EMAIL.n: "found", RESTRICTED.n: "restricted"}
    assert asked == [MOBILE.nhs, MOBILE.nhs, EMAIL.nhs, RESTRICTED.nhs]


@pytest.mark.slow
def test_beside_another_planning_that_is_just_before_it_one_goes_on_from_the_middle(
    surgery: Surgery, looked_up: Callable[..., dict[int, str]], service: pds.PdsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In step with one another both would ask for everybody."""
    people, asked = [Person(n) for n in range(60, 65)], list[str]()

    def look_up(_: client.Pds, number: str, *__: Any) -> Details:
        asked.append(number)
        if len(asked) == 1:
            with surgery.house.ledger.write() as connection:
                patient = surgery.house.hasher.hash(number)
                pds_answers.keep(connection, "larkfield", patient, None, Details("found"), T)
        return Details("found")

    monkeypatch.setattr(client.Pds, "look_up", look_up)
    assert set(looked_up(people).values()) == {"found"}
    assert asked == [people[n].nhs for n in (0, 3, 4, 1, 2)]


def test_a_number_that_is_somebody_elses_gets_no_details_and_is_told_of(
    surgery: Surgery, service: pds.PdsDouble
) -> None:
    """Whoever has the number that the file names by mistake would get this patient's message."""
    somebody = pds.record(MOBILE.nhs, pds.mobile("07700 900111"), birthDate="1951-02-03", deceasedDateTime="2020")
    service.records[MOBILE.nhs] = somebody
    spec = uses_pds(surgery, service).batch("flu", [HAS_MOBILE, MOBILE])
    surgery.done("submit", spec, at=T)
    assert reasons(surgery) == {3: ("unable_to_retrieve; not_provided", "NHS number of somebody else")}
    with surgery.house.ledger.read() as connection:
        assert history.marked(connection) == {}


@pytest.mark.parametrize("told_of", ["old", pytest.param("new", marks=pytest.mark.slow)])
def test_an_opt_out_after_the_approval_holds_under_either_number(
    surgery: Surgery, service: pds.PdsDouble, told_of: str
) -> None:
    spec = uses_pds(surgery, service).batch("flu", [RENUMBERED, HAS_MOBILE])
    surgery.done("submit", spec, at=T)
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    surgery.opt_outs(RENUMBERED if told_of == "old" else Person(30))
    surgery.done("dispatch", "flu", at=T)
    assert surgery.sent_once() == {"flu:3:primary"}


@pytest.mark.slow
def test_an_opt_out_under_the_old_number_holds_at_the_fallback(surgery: Surgery, service: pds.PdsDouble) -> None:
    people = [RENUMBERED, HAS_MOBILE]
    spec = uses_pds(surgery, service).batch("flu", people)
    surgery.app_users(Person(30), HAS_MOBILE)
    for each in (Person(30), HAS_MOBILE):
        surgery.fate(each, "nhs_app", "silent")
    surgery.send(spec)
    surgery.opt_outs(RENUMBERED)
    surgery.done("sweep", at=T + 2 * DAY)
    assert surgery.sent_once() == {"flu:2:primary", "flu:3:primary", "flu:3:fallback"}


# ---- kill -9 --------------------------------------------------------------------------------------------------------

MANY = [Person(n) for n in range(100, 220)]


@pytest.mark.slow
def test_a_program_killed_while_it_looks_up_asks_at_most_one_patient_twice(
    surgery_on_disk: Surgery, service: pds.PdsDouble
) -> None:
    service.records |= {each.nhs: pds.record(each.nhs, pds.mobile(mobile(each.n))) for each in MANY}
    surgery = uses_pds(surgery_on_disk, service, per_second=40)
    spec = surgery.batch("flu", MANY)
    for enough in (20, 50, 80):
        with subprocess.Popen(
            [PROGRAM, "--home", surgery.home.root, "submit", spec, "--at", T.isoformat()],
            env=dict(os.environ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as running:
            while len(service.requests) < enough:
                assert running.poll() is None, "it ended before it was killed"
                time.sleep(0.005)
            running.send_signal(signal.SIGKILL)
            assert running.wait() == -signal.SIGKILL
    surgery.done("submit", spec, at=T)
    asked = [len(set(service.requests[each.nhs])) for each in MANY]
    assert sum(asked) <= len(MANY) + 3
    assert min(asked) == 1
    surgery.status("flu", recipients={"email": 0, "nhs_app": 0, "sms": len(MANY)})
    with surgery.house.ledger.read() as connection:
        patients = [surgery.house.hasher.hash(each.nhs) for each in MANY]
        assert len(pds_answers.fresh(connection, "larkfield", patients, T)) == len(MANY)
