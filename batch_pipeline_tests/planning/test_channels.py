"""Every recipient's one message: its address, what it takes as an SMS, who is held back, and what is queued of it."""

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.planning.duck import scan, write
from batch_pipeline.planning.message import Message
from batch_pipeline.rules.fragments import downgrade, sms_fragments
from batch_pipeline_tests.ledger.given import HASHER, nhs_number
from batch_pipeline_tests.planning.worlds import (
    AS_OF,
    NON_GP,
    Planned,
    accounts,
    connection,
    csv_text,
    e164,
    facts,
    mobile,
    patient,
)

EMAIL = "ash@example.org"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """By SMS (line 2), by email (3), by the App with (4) and without (5) a mobile, not at all (6)."""
    lines = [
        patient(0, mobile=mobile(0), patient_name="GREEN, Ash"),
        patient(1, mobile=mobile(1), email=EMAIL, patient_name="GREEN, Bay"),
        patient(2, mobile=mobile(2), patient_name="GREEN, Cas"),
        patient(3, patient_name="GREEN, Dee"),
        patient(4, patient_name="GREEN, Eli"),
    ]
    folder = tmp_path_factory.mktemp("cohort")
    return Planned(folder, csv_text(lines), facts=facts(accounts(2, 3)), body="Dear {{ first_name }}")


def by_line(world: Planned, *columns: str) -> dict[int, tuple[Any, ...]]:
    return {line: tuple(row[name] for name in columns) for line, row in world.plan.items()}


def test_each_message_has_the_address_of_its_path(cohort: Planned) -> None:
    assert by_line(cohort, "path", "address", "fallback_number", "no_sms_fallback") == {
        2: ("sms", e164(0), None, False),
        3: ("email", EMAIL, None, False),
        4: ("nhs_app", nhs_number(2), e164(2), False),
        5: ("nhs_app", nhs_number(3), None, True),
    }


def test_those_by_the_app_name_the_snapshot_that_chose_it(cohort: Planned) -> None:
    assert by_line(cohort, "snapshot") == {2: (None,), 3: (None,), 4: (AS_OF,), 5: (AS_OF,)}


# ---- fragments ----------------------------------------------------------------------------------------------------------


def test_fragments_are_those_of_the_text_or_of_its_fallback(cohort: Planned) -> None:
    assert by_line(cohort, "fragments") == {2: (1,), 3: (0,), 4: (1,), 5: (0,)}


NOTES = {
    "one GSM-7 part": "x" * 160,
    "two": "x" * 161,
    "two full": "x" * 306,
    "three": "x" * 307,
    "one UCS-2 part": "ŵ" * 70,
    "two UCS-2 parts": "ŵ" * 71,
    "UCS-2 by one letter": "x" * 69 + "ŵ",
    "an emoji is two": "ŵ" * 69 + "😀",
    "pairs that fall on a boundary": "😀" * 34 + "ŵ" + "😀" * 33,
    "extension characters are two": "€" * 80,
    "extension characters, two parts": "€" * 81,
    "an escape isn't torn": "x" * 152 + "€" + "x" * 152,
    "many": "{}[]~" * 60,
    "typographic characters cost nothing": "“’–…\u200b” " * 20,
}


def test_fragments_are_counted_as_networks_bill_them(tmp_path: Path) -> None:
    """Of texts of their own for each patient, those included that SQL leaves to Python."""
    lines = [patient(number, mobile=mobile(number), note=note) for number, note in enumerate(NOTES.values())]
    world = Planned(tmp_path, csv_text(lines), body="{{ note }}")
    wanted = {2 + at: sms_fragments(downgrade(note)).parts for at, note in enumerate(n.strip() for n in NOTES.values())}
    assert {line: row["fragments"] for line, row in world.plan.items()} == wanted
    assert world.figures["fragments"]["best"] == sum(wanted.values())


def test_so_are_those_of_a_reminder(tmp_path: Path) -> None:
    notes = {**NOTES, "one part, and two as a reminder": "x" * 151, "the same of UCS-2": "ŵ" * 61}
    lines = [patient(number, mobile=mobile(number), note=note) for number, note in enumerate(notes.values())]
    world = Planned(tmp_path, csv_text(lines), body="{{ note }}", questionnaire="smoking", reminds=True)
    texts = [downgrade(note.strip()) for note in notes.values()]
    wanted = {
        2 + at: (sms_fragments(each).parts, sms_fragments(f"Reminder: {each}").parts) for at, each in enumerate(texts)
    }
    assert {line: (row["fragments"], row["reminder_fragments"]) for line, row in world.plan.items()} == wanted


@pytest.mark.parametrize(("body", "parts"), [("x" * 161, 2), ("€" * 154, 3), ("It’s " + "–" * 150, 1), ("😀" * 36, 2)])
def test_the_same_text_for_all_is_counted_once(cohort: Planned, tmp_path: Path, body: str, parts: int) -> None:
    assert by_line(cohort.again(tmp_path, body=body), "fragments") == {2: (parts,), 3: (0,), 4: (parts,), 5: (0,)}


# ---- held back ------------------------------------------------------------------------------------------------------------


def test_those_who_had_it_are_held_back(cohort: Planned, tmp_path: Path) -> None:
    had = [HASHER.hash(nhs_number(number)) for number in (0, 3, 4, 70)]
    world = cohort.again(tmp_path, already_had=had)
    assert by_line(world, "held_back") == {2: (True,), 3: (False,), 4: (False,), 5: (True,)}
    assert world.figures["held_back"] == 2
    assert world.figures["recipients"] == {"email": 1, "nhs_app": 2, "sms": 1}


def test_nothing_is_counted_or_paid_for_of_those_held_back(cohort: Planned, tmp_path: Path) -> None:
    everybody = [HASHER.hash(nhs_number(number)) for number in range(5)]
    figures = cohort.again(tmp_path, already_had=everybody).figures
    assert figures["fragments"] == {"best": 0, "worst": 0}
    assert float(figures["cost"]["worst"]) == 0


# ---- what is queued -------------------------------------------------------------------------------------------------------


def test_what_is_queued_is_the_plan_to_the_letter(cohort: Planned) -> None:
    digest, rows = cohort.queued
    assert digest == cohort.figures["digest"]
    columns = ("nhs_number", "path", "address", "fallback_number", "held_back", "fragments")
    assert {line: tuple(row[name] for name in columns) for line, row in rows.items()} == by_line(cohort, *columns)
    assert len({row["digest"] for row in rows.values()}) == len(rows)


def test_each_message_is_queued_with_what_its_channel_needs(cohort: Planned) -> None:
    columns = ("text", "sms_text", "subject", "patient", "address_hash", "fragments")
    found = {line: tuple(row[name] for name in columns) for line, row in cohort.queued[1].items()}
    patients = [HASHER.hash(nhs_number(number)) for number in range(4)]
    assert found == {
        2: ("Dear Ash", None, None, patients[0], HASHER.hash(e164(0)), 1),
        3: ("Dear Bay", None, "Flu jab", patients[1], None, 0),
        4: ("Dear Cas", "Dear Cas", None, patients[2], HASHER.hash(e164(2)), 1),
        5: ("Dear Dee", None, None, patients[3], None, 0),
    }


def test_the_app_gets_the_text_as_written_and_its_fallback_as_an_sms(cohort: Planned, tmp_path: Path) -> None:
    world = cohort.again(tmp_path, body="It’s {{ first_name }}’s turn…")
    row = world.queued[1][4]
    assert (row["text"], row["sms_text"]) == ("It’s Cas’s turn…", "It's Cas's turn...")


CHANGES: dict[str, dict[str, Any]] = {
    "a text": {"body": "Hello {{ first_name }}"},
    "a text of the same length": {"body": "Deer {{ first_name }}"},
    "a space": {"body": "Dear  {{ first_name }}"},
    "a field's name": {"body": "Dear {{ full_name }}"},
    "a subject": {"subject": "Flu  jab"},
    "a field in the subject": {"subject": "Flu jab, {{ first_name }}"},
    "a path": {"facts": facts(accounts(3))},
    "a number that fails": {"facts": facts(accounts(2, 3), failed=[2])},
    "who is held back": {"already_had": [HASHER.hash(nhs_number(0))]},
    "who sends": {"organisation": NON_GP},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_plan_has_another_digest(cohort: Planned, tmp_path: Path, change: str) -> None:
    world = cohort.again(tmp_path, **CHANGES[change])
    assert world.figures["digest"] != cohort.figures["digest"]
    assert world.queued[0] == world.figures["digest"]


def test_a_text_changed_after_the_plan_is_noticed(cohort: Planned, tmp_path: Path) -> None:
    """What the outbox is written from is rendered anew: a change in between shows in the digest."""
    world = cohort.again(tmp_path)
    assert world.figures["digest"]
    world.__dict__["message"] = Message.of("Dear {{ surname }}", "Flu jab", "Riverside Surgery", [])
    assert world.queued[0] != world.figures["digest"]


TAMPERED = {
    "another address": (
        "channel_plan",
        "* REPLACE (CASE WHEN line = 2 THEN '+447700900999' ELSE address END AS address)",
        "",
    ),
    "another fallback": (
        "channel_plan",
        "* REPLACE (coalesce(fallback_number, '+447700900999') AS fallback_number)",
        "",
    ),
    "nobody held back": ("channel_plan", "* REPLACE (NOT held_back AS held_back)", ""),
    "another path": ("channel_plan", "* REPLACE ('email' AS path)", ""),
    "one less": ("channel_plan", "*", "WHERE line > 2"),
    "one twice": ("channel_plan", "*", "UNION ALL FROM old WHERE line = 2"),
    "another name": ("patients", "* REPLACE ('Bo' AS first_name)", ""),
    "a patient less": ("patients", "*", "WHERE line > 2"),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_a_table_changed_after_the_plan_is_noticed(cohort: Planned, tmp_path: Path, change: str) -> None:
    world = cohort.again(tmp_path)
    assert world.figures["digest"]
    table, columns, rest = TAMPERED[change]
    path = getattr(world.files, table)
    con = connection()
    con.execute(f"CREATE TEMP TABLE old AS FROM {scan(path)}")
    path.unlink()
    write(con, f"SELECT {columns} FROM old {rest}", path)
    assert world.queued[0] != world.figures["digest"]


def test_the_organisations_name_is_part_of_the_text(cohort: Planned, tmp_path: Path) -> None:
    digests = set()
    for name in ("Riverside Surgery", "Hillside Surgery"):
        (tmp_path / name).mkdir()
        world = cohort.again(tmp_path / name, body="{{ organisation_name }}", organisation_name=name)
        assert world.queued[0] == world.figures["digest"]
        digests.add(world.figures["digest"])
    assert len(digests) == 2


def test_values_do_not_run_into_each_other(tmp_path: Path) -> None:
    """ "ab" and "c" is another text than "a" and "bc", and has another digest."""
    digests = set()
    for number, (one, two) in enumerate([("ab", "c"), ("a", "bc"), ("abc", "")]):
        (tmp_path / str(number)).mkdir()
        lines = [patient(0, mobile=mobile(0), one=one, two=two)]
        world = Planned(tmp_path / str(number), csv_text(lines), body="{{ one }}{{ two }}")
        digests.add(world.figures["digest"])
    assert len(digests) == 3
