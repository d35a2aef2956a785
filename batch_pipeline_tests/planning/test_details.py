"""What was looked up, in the plan: it fills gaps and overrides nothing, and a superseded number is one patient's."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.planning.contact import gaps
from batch_pipeline.planning.details import LookedUp
from batch_pipeline.planning.duck import scan
from batch_pipeline.planning.tables import PDS_DETAILS, astray, broken
from batch_pipeline.rules.demographics import Details
from batch_pipeline_tests.ledger.given import HASHER, nhs_number
from batch_pipeline_tests.planning.worlds import (
    GP,
    Planned,
    accounts,
    by_line,
    connection,
    csv_text,
    e164,
    facts,
    mobile,
    opt_outs,
    patient,
)

AT = datetime(2026, 9, 30, tzinfo=UTC)
EMAIL = "ash@example.org"
LINES = [
    patient(0, mobile=mobile(0)),
    patient(1, email=EMAIL),
    patient(2),
    patient(3, mobile="020 7946 0018"),
    patient(4, mobile=mobile(4)),
    patient(5),
]
"""On lines 2 to 7."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    return Planned(tmp_path_factory.mktemp("cohort"), csv_text(LINES))


def found(known: Mapping[int, Details]) -> list[LookedUp]:
    return [LookedUp(line, details, AT) for line, details in known.items()]


def asked(world: Planned, message_type: str = "simple", **known: Any) -> list[int]:
    assert world.sorted
    con, said = connection(), facts(**known)
    wanted = gaps(con, world.files.patients, organisation=GP, message_type=message_type, facts=said, hasher=HASHER)
    lines = [line for line, *_ in wanted]
    people = [world.patients[line] for line in lines]
    assert wanted == [(each["line"], each["nhs_number"], each["date_of_birth"]) for each in people]
    return lines


def test_who_is_looked_up(cohort: Planned) -> None:
    assert asked(cohort) == [4, 5, 7]
    assert asked(cohort, "self_book") == [3, 4, 5, 7]
    assert asked(cohort, app=accounts(2)) == [5, 7]
    assert asked(cohort, failed=[4]) == [4, 5, 6, 7]
    assert asked(cohort, out=opt_outs((2, "all"), (3, "sms"), (5, "email"))) == [7]
    assert asked(cohort, marks={2: "deceased"}) == [5, 7]


def test_a_gap_is_filled_and_nothing_is_overridden(cohort: Planned, tmp_path: Path) -> None:
    more = Details("found", None, e164(90), "pds@example.org")
    world = cohort.again(tmp_path, looked_up=found(dict.fromkeys(range(2, 8), more)))
    assert {line: (row["path"], row["address"]) for line, row in world.plan.items()} == {
        2: ("sms", e164(0)), 3: ("email", EMAIL), 4: ("sms", e164(90)),
        5: ("sms", e164(90)), 6: ("sms", e164(4)), 7: ("sms", e164(90)),
    }  # fmt: skip
    assert {line for line, row in world.plan.items() if row["rule"].endswith("(mobile from PDS)")} == {4, 5, 7}
    assert world.figures["looked_up"]["filled"] == 3


@pytest.mark.parametrize(
    ("message_type", "path"), [("simple", "email"), ("questionnaire", "email"), ("self_book", None)]
)
def test_an_email_counts_where_there_is_no_mobile_and_the_message_goes_by_email(
    cohort: Planned, tmp_path: Path, message_type: str, path: str | None
) -> None:
    looked_up = found({4: Details("found", email="pds@example.org")})
    world = cohort.again(tmp_path, looked_up=looked_up, message_type=message_type)
    assert world.contactability[4]["primary_reason"] == (None if path else "not_provided")
    assert (world.plan[4]["address"] if path else None) == ("pds@example.org" if path else None)


def test_a_number_likely_to_fail_gives_way_to_another(cohort: Planned, tmp_path: Path) -> None:
    looked_up = found({6: Details("found", None, e164(90))})
    assert cohort.again(tmp_path, looked_up=looked_up, facts=facts(failed=[4])).plan[6]["address"] == e164(90)
    other = tmp_path / "other"
    other.mkdir()
    fails_as_well = cohort.again(other, looked_up=looked_up, facts=facts(failed=[4, 90]))
    assert fails_as_well.contactability[6]["primary_reason"] == "likely_to_fail"


def test_opt_outs_hold_for_what_was_looked_up(cohort: Planned, tmp_path: Path) -> None:
    looked_up = found({4: Details("found", None, e164(90)), 5: Details("found", email="pds@example.org")})
    out = opt_outs((2, "sms"), (3, "email"))
    world = cohort.again(tmp_path, looked_up=looked_up, facts=facts(out=out))
    assert {line: world.contactability[line]["primary_reason"] for line in (4, 5)} == dict.fromkeys((4, 5), "opted_out")


# ---- superseded numbers -------------------------------------------------------------------------------------------------


def renumbered(to: int, **more: str) -> Details:
    return Details("found", nhs_number(to), **{"mobile": e164(90), **more})


def test_the_message_goes_under_the_new_number(cohort: Planned, tmp_path: Path) -> None:
    world = cohort.again(tmp_path, looked_up=found({4: renumbered(60)}))
    assert world.plan[4]["nhs_number"] == nhs_number(60)
    assert world.queued[1][4]["patient"] == HASHER.hash(nhs_number(60))
    assert world.figures["looked_up"]["superseded"] == 1
    assert any("has been superseded: correct the record" in warning for warning in world.figures["warnings"])


def test_the_app_knows_the_patient_by_the_new_number(cohort: Planned, tmp_path: Path) -> None:
    world = cohort.again(tmp_path, looked_up=found({4: renumbered(60)}), facts=facts(accounts(60)))
    assert (world.plan[4]["path"], world.plan[4]["address"]) == ("nhs_app", nhs_number(60))


@pytest.mark.parametrize("number", [2, 60])
def test_opt_outs_and_marks_of_either_number_hold(cohort: Planned, tmp_path: Path, number: int) -> None:
    looked_up = found({4: renumbered(60)})
    out = cohort.again(tmp_path, looked_up=looked_up, facts=facts(out=opt_outs((number, "all"))))
    assert out.contactability[4]["primary_reason"] == "opted_out"
    other = tmp_path / "other"
    other.mkdir()
    dead = cohort.again(other, looked_up=looked_up, facts=facts(marks={number: "deceased"}))
    assert dead.contactability[4]["primary_reason"] == "deceased"


@pytest.mark.parametrize("number", [2, 60])
def test_who_had_the_message_under_either_number_is_held_back(cohort: Planned, tmp_path: Path, number: int) -> None:
    had = [HASHER.hash(nhs_number(number))]
    world = cohort.again(tmp_path, looked_up=found({4: renumbered(60)}), already_had=had)
    assert {line for line, row in world.plan.items() if row["held_back"]} == {4}


@pytest.mark.parametrize(
    ("looked_up", "duplicates"),
    [
        ({4: renumbered(0)}, {4: 2}),  # of an earlier line
        ({4: renumbered(4)}, {4: 6}),  # of a later one, which has the file's details
        ({4: renumbered(60), 7: renumbered(60)}, {7: 4}),  # two that are one
        ({4: renumbered(60), 5: renumbered(61)}, {}),
        ({4: renumbered(3), 5: Details("found", None, e164(91))}, {4: 5}),  # of one that was looked up as well
    ],
)
def test_two_lines_that_are_one_patient_get_one_message(
    cohort: Planned, tmp_path: Path, looked_up: dict[int, Details], duplicates: dict[int, int]
) -> None:
    world = cohort.again(tmp_path, looked_up=found(looked_up))
    figures = world.figures
    details = by_line(world.files.pds_details)
    assert {line: row["duplicate_of"] for line, row in details.items() if row["duplicate_of"]} == duplicates
    assert not duplicates.keys() & (world.plan.keys() | world.non_contactable.keys() | world.contactability.keys())
    assert figures["duplicates"] == len(duplicates)
    assert figures["lines"] == figures["rejected"] + figures["duplicates"] + figures["patient_list"]
    reached = sum(figures["recipients"].values())
    assert figures["patient_list"] == reached + sum(figures["non_contactable"].values())
    assert len({row["nhs_number"] for row in world.plan.values()}) == len(world.plan)


def test_the_table_fits_its_schema_with_and_without_rows(cohort: Planned, tmp_path: Path) -> None:
    for number, looked_up in enumerate(({}, {4: renumbered(0), 5: Details("failed"), 7: Details("deceased")})):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = cohort.again(folder, looked_up=found(looked_up))
        assert world.assessed
        con = connection()
        assert broken(con, PDS_DETAILS, world.files.pds_details) == {}
        assert con.sql(f"SELECT count(*) FROM {scan(world.files.pds_details)}").fetchall() == [(len(looked_up),)]
        whole = (world.contact_files.recipients, world.files.non_contactable)
        assert astray(con, world.files.patients, whole) == number
