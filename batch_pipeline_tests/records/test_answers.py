"""Patients' answers in the record: those that were sent, each once, under identifiers that stay the same."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typing_extensions import override

from batch_pipeline.ledger import records
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import attempts, responses
from batch_pipeline.questionnaires.answers import as_json
from batch_pipeline.questionnaires.form import Answers
from batch_pipeline.questionnaires.posting import read_page
from batch_pipeline.records.answers import Observations, Responses, list_observations
from batch_pipeline.records.writer import Entry, Outcome, StillOurs
from batch_pipeline_tests.ledger.given import BATCH, NOW, lines, nhs_number, patient
from batch_pipeline_tests.questionnaires.given import readings, shipped
from batch_pipeline_tests.records.fhir_double import FhirDouble
from batch_pipeline_tests.records.worlds import LATER, SmallFolder, World, _writer

FORM = shipped("bp_4_day")
HOUR = timedelta(hours=1)


def given(days: int) -> Answers:
    answers: Answers = {}
    for n, page in enumerate(FORM.pages[:days]):
        on = date(2026, 9, 20 + n)
        posted = readings(page, on, m1=(150, 95), m2=(146, 93), e1=(142, 91), e2=(138, 89))
        answers = read_page(FORM, page, posted, answers, date(2026, 10, 1)).answers
    return answers


@pytest.fixture
def world(ledger: Ledger, tmp_path: Path) -> World:
    """A batch of five. Two have sent four days, one has sent one, one hasn't sent what there is, one gave nothing."""
    world = World.of(ledger, tmp_path, lines(5))
    for line, days, completed in ((2, 4, True), (3, 4, True), (4, 1, True), (5, 1, False)):
        answer(ledger, line, days, completed=completed)
    return world


def answer(ledger: Ledger, line: int, days: int, *, completed: bool) -> None:
    row: dict[str, Any] = {"batch": BATCH, "patient": patient(line), "line": line, "version": 1}
    row |= {"answers": json.dumps(as_json(given(days))), "first_at": NOW, "changed_at": NOW}
    with ledger.write() as connection:
        connection.execute(sa.insert(responses).values(row | {"completed_at": NOW + HOUR if completed else None}))


def save(world: World, writer: Any = None, **more: Any) -> None:
    list_observations(world.ledger, BATCH, FORM, lambda: NOW)
    for source in (Responses(FORM), Observations(FORM)):
        assert world.run(writer, source=source, **more).save().because is None


ONE_DAY, FOUR_DAYS = 4, 16 + 1
"""Readings; and with four days their average."""


def test_each_sent_answer_and_each_reading_in_it_is_written_once(world: World) -> None:
    for _ in range(3):
        save(world)
    found = world.in_folder()
    assert set(found.values()) == {1}
    assert Counter(identifier.count("/") for identifier in found) == {1: 3, 2: 2 * FOUR_DAYS + ONE_DAY}
    assert f"{BATCH}:2:primary/answers" in found
    assert f"{BATCH}:3:primary/answers/average" in found
    assert f"{BATCH}:4:primary/answers/day-1.morning.1" in found


def test_what_is_written_is_the_patient_s_and_belongs_together(world: World) -> None:
    save(world)
    every = [json.loads(line) for path in world.root.rglob("*.ndjson") for line in path.read_text().splitlines()]
    [response] = [each for each in every if each["identifier"] == response_identifier(2)]
    assert (response["status"], response["authored"]) == ("completed", "2026-10-01T10:00:00+00:00")
    assert response["subject"]["identifier"]["value"] == nhs_number(2)
    derived = [each for each in every if each.get("derivedFrom", [{}])[0].get("identifier") == response_identifier(2)]
    assert len(derived) == FOUR_DAYS
    assert {each["subject"]["identifier"]["value"] for each in derived} == {nhs_number(2)}


def response_identifier(line: int) -> dict[str, str]:
    return {"system": "urn:uuid:0f5ab1d2-6f0c-4d0b-9c43-5a2c6f6f8a51", "value": f"{BATCH}:{line}:primary/answers"}


def test_what_is_sent_later_is_written_later(world: World) -> None:
    save(world)
    before = world.in_folder()
    with world.ledger.write() as connection:
        connection.execute(sa.update(responses).where(responses.c.line == 5).values(completed_at=NOW + 2 * HOUR))
    save(world)
    assert len(world.in_folder()) == len(before) + 1 + ONE_DAY


def test_messages_are_counted_apart_from_answers(world: World) -> None:
    save(world)
    assert world.save().written == 5
    with world.ledger.read() as connection:
        assert records.saved(connection, BATCH) == (5, 0, 0)
        assert records.replies_saved(connection, BATCH) == (3 + 2 * FOUR_DAYS + ONE_DAY, 0, 0)


class Dies(Exception):
    """In place of a process's death."""


class Dying(SmallFolder):
    """Dies after its third file is in place, before anything is noted of it."""

    files = 0

    @override
    def write(self, chunk: str, entries: Sequence[Entry], still_ours: StillOurs) -> Iterator[Sequence[Outcome]]:
        for outcomes in super().write(chunk, entries, still_ours):
            self.files += 1
            if self.files == 3:
                raise Dies
            yield outcomes


def test_a_run_that_died_is_finished_by_the_next(world: World) -> None:
    with pytest.raises(Dies):
        save(world, Dying(world.root))
    save(world, ahead=LATER)
    found = world.in_folder()
    assert set(found.values()) == {1}
    assert len(found) == 3 + 2 * FOUR_DAYS + ONE_DAY


def test_a_fhir_server_has_each_once(world: World) -> None:
    with FhirDouble() as double:
        writer = _writer(world.ledger, world.root, double.base_url)
        for _ in range(2):
            save(world, writer)
        writer.close()
        assert double.failures == []
        assert Counter(each["resourceType"] for each in double.created) == {
            "QuestionnaireResponse": 3,
            "Observation": 2 * FOUR_DAYS + ONE_DAY,
        }
        assert set(double.times_created().values()) == {1}


def test_answers_that_were_purged_are_refused(world: World) -> None:
    list_observations(world.ledger, BATCH, FORM, lambda: NOW)
    with world.ledger.write() as connection:
        connection.execute(sa.update(attempts).where(attempts.c.line == 2).values(nhs_number=None))
        connection.execute(sa.update(responses).where(responses.c.line == 3).values(answers=None))
    save(world)
    with world.ledger.read() as connection:
        assert records.replies_saved(connection, BATCH) == (1 + ONE_DAY, 2 + 2 * FOUR_DAYS, 0)
        assert {each.code for each in records.refusals(connection, BATCH)} == {"its details were purged"}


def test_nothing_personal_is_shown(world: World) -> None:
    with world.ledger.read() as connection:
        shown = repr(records.sent_answers(connection, [f"{BATCH}:2:primary/answers"]))
    assert "150" not in shown
    assert nhs_number(2) not in shown
