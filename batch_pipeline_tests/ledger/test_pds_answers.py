"""PDS's answers: kept one by one, found while they are fresh, and what they mark."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from batch_pipeline.ledger import history, pds_answers
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import patient_marks
from batch_pipeline.rules.demographics import OUTCOMES, Details, Outcome
from batch_pipeline_tests.ledger import given
from batch_pipeline_tests.ledger.given import BATCH, HASHER, NOW, nhs_number

ASH, NEW_ASH, BAY = (given.patient(line) for line in (1, 2, 3))
FOUND = Details("found", None, "+447700900001", "ash@example.org")
DAY = timedelta(days=1)


def keep(ledger: Ledger, details: Details, at: timedelta = timedelta(0), workspace: str = "riverside") -> None:
    with ledger.write() as connection:
        current = NEW_ASH if details.current_number else None
        pds_answers.keep(connection, workspace, ASH, current, details, NOW + at)


def fresh(ledger: Ledger, workspace: str = "riverside", since: timedelta = timedelta(0)) -> dict[str, Details]:
    with ledger.read() as connection:
        found = pds_answers.fresh(connection, workspace, [ASH, BAY], NOW + since)
        return {patient: details for patient, (details, _) in found.items()}


def marks(ledger: Ledger) -> dict[str, str]:
    with ledger.read() as connection:
        return history.marked(connection)


def test_an_answer_is_found_while_it_is_fresh(ledger: Ledger) -> None:
    keep(ledger, FOUND)
    assert fresh(ledger) == {ASH: FOUND}
    assert fresh(ledger, since=timedelta(microseconds=1)) == {}
    with ledger.read() as connection:
        assert pds_answers.fresh(connection, "riverside", [ASH], NOW)[ASH][1] == NOW
        assert pds_answers.fresh(connection, "riverside", [BAY], NOW) == {}


def test_what_one_workspace_was_told_is_nobody_elses(ledger: Ledger) -> None:
    keep(ledger, FOUND)
    assert fresh(ledger, "hillside") == {}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_is_kept_and_what_says_nothing_is_asked_again(ledger: Ledger, outcome: Outcome) -> None:
    keep(ledger, FOUND)
    keep(ledger, Details(outcome))
    in_vain = outcome in {"failed", "other_person"}
    assert fresh(ledger) == ({} if in_vain else {ASH: Details(outcome)})
    with ledger.read() as connection:
        assert pds_answers.asked_in_vain(connection, "riverside", [ASH, BAY]) == ({ASH} if in_vain else set())
        assert pds_answers.asked_in_vain(connection, "hillside", [ASH, BAY]) == set()


def test_one_person_is_known_by_each_of_their_numbers_to_the_workspace_that_was_told(ledger: Ledger) -> None:
    keep(ledger, Details("found", nhs_number(2)))
    keep(ledger, Details("failed"), DAY)  # which tells nothing new of that
    with ledger.write() as connection:
        pds_answers.keep(connection, "riverside", BAY, None, FOUND, NOW)
        assert pds_answers.same_people(connection, "riverside", HASHER.hash) == {ASH: {NEW_ASH}, NEW_ASH: {ASH}}
        assert pds_answers.same_people(connection, "hillside", HASHER.hash) == {}
        pds_answers.keep(connection, "riverside", BAY, NEW_ASH, Details("found", nhs_number(2)), NOW)
        assert pds_answers.same_people(connection, "riverside", HASHER.hash) == {
            ASH: {BAY, NEW_ASH}, BAY: {ASH, NEW_ASH}, NEW_ASH: {ASH, BAY},
        }  # fmt: skip
    keep(ledger, FOUND, DAY)
    with ledger.read() as connection:
        assert ASH not in pds_answers.same_people(connection, "riverside", HASHER.hash)


@pytest.mark.parametrize(
    ("outcome", "mark"),
    [("deceased", "deceased"), ("invalidated", "invalidated"), ("exit_coded", "exit_coded"), ("restricted", None)],
)
def test_deaths_and_exit_codes_mark_the_patient_under_both_numbers(
    ledger: Ledger, outcome: Outcome, mark: str | None
) -> None:
    keep(ledger, Details(outcome, "9990000026"))
    keep(ledger, Details(outcome, "9990000026"))
    assert marks(ledger) == (dict.fromkeys((ASH, NEW_ASH), mark) if mark else {})
    with ledger.read() as connection:
        assert pds_answers.marked_by_look_ups(connection) == set(marks(ledger))


def test_a_later_look_up_takes_its_mark_back_and_no_other(ledger: Ledger) -> None:
    keep(ledger, Details("deceased"))
    keep(ledger, Details("exit_coded"), DAY)
    assert marks(ledger) == {ASH: "exit_coded"}
    keep(ledger, Details("failed"), 2 * DAY)
    keep(ledger, Details("other_person"), 2 * DAY)
    assert marks(ledger) == {ASH: "exit_coded"}
    keep(ledger, FOUND, 3 * DAY)
    assert marks(ledger) == {}
    keep(ledger, Details("deceased"), 4 * DAY)
    with ledger.write() as connection:
        for who in (ASH, BAY):
            row = {"patient": who, "mark": "invalidated", "marked_at": NOW, "source": "PDSV_0008"}
            connection.execute(sa.insert(patient_marks).values(row))
    with ledger.read() as connection:
        assert pds_answers.marked_by_look_ups(connection) == set()
    keep(ledger, FOUND, 5 * DAY)
    assert marks(ledger) == dict.fromkeys((ASH, BAY), "invalidated")


def test_who_has_a_message_in_the_batch_is_known_in_it(ledger: Ledger) -> None:
    given.queue(ledger, [given.Recipient(1)])
    with ledger.read() as connection:
        assert pds_answers.known_in(connection, BATCH, [ASH, BAY]) == {ASH}
        assert pds_answers.known_in(connection, "another", [ASH, BAY]) == set()
