"""The plan that a person approves: what it costs, what stands in its way, and the hash of it all."""

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.planning.plan import Instead, Snapshot, as_table, describe_rejections, plan_hash
from batch_pipeline.rules.costs import Prices
from batch_pipeline_tests.ledger.given import HASHER, nhs_number
from batch_pipeline_tests.planning.worlds import (
    AS_OF,
    NON_GP,
    PRICES,
    Planned,
    accounts,
    connection,
    csv_text,
    facts,
    mobile,
    patient,
)

EMAIL = "ash@example.org"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Two by SMS, three by email, one by the App with a mobile and two without, two not at all."""
    lines = [
        *(patient(number, mobile=mobile(number), note="x") for number in (0, 1)),
        *(patient(number, mobile=mobile(number), email=f"{number}@example.org", note="x") for number in (2, 3, 4)),
        patient(5, mobile=mobile(5), note="x"),
        *(patient(number, note="x") for number in (6, 7, 8, 9)),
        patient(0, nhs_number="1"),
        patient(0, mobile=mobile(1)),
    ]
    return Planned(tmp_path_factory.mktemp("cohort"), csv_text(lines), facts=facts(accounts(5, 6, 7)))


# ---- cost ---------------------------------------------------------------------------------------------------------------


def test_the_best_case_is_every_app_message_read_and_the_worst_that_all_fall_back(cohort: Planned) -> None:
    figures = cohort.figures
    assert figures["recipients"] == {"email": 3, "nhs_app": 3, "sms": 2}
    assert figures["fragments"] == {"best": 2, "worst": 3}
    best = 2 * Decimal("0.02") + 3 * Decimal("0.001") + 3 * Decimal("0.005")
    assert figures["cost"] == {"best": str(best), "worst": str(best + Decimal("0.02")), "currency": "GBP"}
    assert figures["no_sms_fallback"] == 2


def test_fragments_count_in_the_cost(cohort: Planned, tmp_path: Path) -> None:
    figures = cohort.again(
        tmp_path, body="x" * 307, prices=replace(PRICES, email=Decimal(0), nhs_app=Decimal(0))
    ).figures
    assert figures["fragments"] == {"best": 6, "worst": 9}
    assert (Decimal(figures["cost"]["best"]), Decimal(figures["cost"]["worst"])) == (Decimal("0.12"), Decimal("0.18"))


@pytest.mark.parametrize(("questionnaire", "hours"), [(None, 24), ("asthma", 24), ("bp_4_day", 3), ("bp_7_day", 3)])
def test_the_fallback_window_is_the_questionnaires(
    cohort: Planned, tmp_path: Path, questionnaire: str | None, hours: int
) -> None:
    figures = cohort.again(tmp_path, message_type="questionnaire", questionnaire=questionnaire).figures
    assert (figures["fallback_after_hours"], figures["finished_after_hours"]) == (hours, 72 + hours)


@pytest.mark.parametrize(
    ("questionnaire", "days"),
    [("smoking", [3, 6]), ("bp_4_day", [1, 2, 3, 4, 5]), ("bp_7_day", [1, 2, 3, 4, 5, 6, 7, 8])],
)
def test_reminders_are_shown_with_what_they_take_if_nobody_answers(
    cohort: Planned, tmp_path: Path, questionnaire: str, days: list[int]
) -> None:
    """Two by SMS and one who may fall back: of two fragments each; three by email; two by the App alone."""
    asked = {"message_type": "questionnaire", "questionnaire": questionnaire, "body": "x" * 160}
    figures = cohort.again(_new(tmp_path, "reminds"), reminds=True, **asked).figures
    without = cohort.again(_new(tmp_path, "without"), **asked).figures
    each = 6 * Decimal("0.02") + 3 * Decimal("0.001") + 2 * Decimal("0.005")
    assert figures["reminders"] == {
        "policy": figures["reminders"]["policy"],
        "days": days,
        "messages": 8 * len(days),
        "fragments": 6 * len(days),
        "cost": str(each * len(days)),
    }
    assert "reminders" not in without
    assert figures["fragments"] == without["fragments"]


def _new(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def test_a_reminder_needs_room_for_its_first_words(cohort: Planned, tmp_path: Path) -> None:
    asked = {"message_type": "questionnaire", "questionnaire": "smoking", "reminds": True}
    assert cohort.again(_new(tmp_path, "fits"), body="x" * 908, **asked).figures["problems"] == []
    [problem] = cohort.again(_new(tmp_path, "does not"), body="x" * 909, **asked).figures["problems"]
    assert (
        "the text is over 908 characters by SMS, as a reminder of it begins with 'Reminder:', for 3 patients" in problem
    )


def test_a_plan_without_the_app_waits_for_no_fallback(cohort: Planned, tmp_path: Path) -> None:
    assert cohort.again(tmp_path, organisation=NON_GP).figures["finished_after_hours"] == 72


# ---- what stands in the way -----------------------------------------------------------------------------------------------

LIMITS = {
    # body, message type: the problem, or none
    "SMS to the limit": ("x" * 918, "simple", []),
    "SMS over it": ("x" * 919, "simple", ["over 918 characters by SMS for 3 patients (lines 2, 3, 7)"]),
    "downgraded to the limit": ("x" * 916 + "\u200b\u200b\u200b–’", "simple", []),
    "longer after the downgrade": ("x" * 917 + "…", "simple", ["over 918 characters by SMS for 3 patients"]),
    "extension characters are one": ("€" * 918, "simple", []),
    "NHS App to the limit": ("x" * 5000, "simple", ["by SMS for 3"]),
    "NHS App over it": ("x" * 5001, "simple", ["by SMS for 3", "over 5,000 characters by NHS App for 3 patients"]),
    "self-book, two parts": ("x" * 306, "self_book", []),
    "self-book, three": (
        "x" * 307,
        "self_book",
        ["may not exceed 2 fragments, but does for 6 patients (lines 2, 3, 4,"],
    ),
    "self-book, two UCS-2 parts": ("ŵ" * 134, "self_book", []),
    "self-book, three UCS-2 parts": ("ŵ" * 135, "self_book", ["may not exceed 2 fragments"]),
    "three parts of anything else": ("x" * 307, "questionnaire", []),
}


@pytest.mark.parametrize("case", LIMITS)
def test_a_text_over_a_limit_is_a_problem_with_its_lines(cohort: Planned, tmp_path: Path, case: str) -> None:
    body, message_type, wanted = LIMITS[case]
    problems = cohort.again(tmp_path, body=body, message_type=message_type).figures["problems"]
    assert len(problems) == len(wanted)
    for problem, part in zip(problems, wanted, strict=True):
        assert part in problem


def test_texts_of_nobody_are_never_too_long(cohort: Planned, tmp_path: Path) -> None:
    everybody = [HASHER.hash(nhs_number(number)) for number in range(10)]
    assert cohort.again(tmp_path, body="x" * 6000, already_had=everybody).figures["problems"] == []


def test_one_long_value_makes_one_patients_text_too_long(tmp_path: Path) -> None:
    lines = [patient(number, mobile=mobile(number), note=note) for number, note in enumerate(["x", "x" * 900, "y"])]
    (problem,) = Planned(tmp_path, csv_text(lines), body="Hello, and welcome. {{ note }}").figures["problems"]
    assert "for 1 patient (line 3)" in problem


def test_what_the_batch_file_asks_for_in_vain_comes_first(cohort: Planned, tmp_path: Path) -> None:
    problems = cohort.again(tmp_path, body="{{ nope }}", problems=["stagger is not yet"]).figures["problems"]
    assert problems[0] == "stagger is not yet"
    assert "{{ nope }}" in problems[1]


@pytest.mark.parametrize(("state", "needs"), [("current", False), ("old", False), ("none", False), ("unknown", True)])
def test_an_unknown_snapshot_needs_a_person(cohort: Planned, tmp_path: Path, state: str, needs: bool) -> None:
    figures = cohort.again(tmp_path, snapshot=Snapshot(state, "2026-09-01")).figures
    assert figures["needs_person"] == needs
    assert any("snapshot of 2026-09-01" in warning for warning in figures["warnings"]) == (state in ("old", "unknown"))


# ---- warnings -------------------------------------------------------------------------------------------------------------


def test_whoever_shares_a_number_or_an_address_is_counted(tmp_path: Path) -> None:
    lines = [
        *(patient(number, mobile="+44 7700 900001") for number in range(3)),
        *(patient(number, telephone=mobile(2)) for number in (3, 4)),
        patient(5, mobile=mobile(5), email=EMAIL),
        patient(6, email=f"<{EMAIL}>"),
        patient(7, mobile=mobile(7), email="bay@example.org"),
        patient(7, mobile=mobile(7), email="bay@example.org"),
    ]
    figures = Planned(tmp_path, csv_text(lines)).figures
    assert "5 patients share a mobile number with another: both are sent to" in figures["warnings"]
    assert "2 patients share an email address with another: both are sent to" in figures["warnings"]
    assert sum(figures["recipients"].values()) == 8


def test_a_plan_without_anything_odd_warns_of_nothing(tmp_path: Path) -> None:
    assert Planned(tmp_path, csv_text([patient(0, mobile=mobile(0))])).figures["warnings"] == []


def test_a_plan_warns_of_what_a_person_should_see(cohort: Planned, tmp_path: Path) -> None:
    had = [HASHER.hash(nhs_number(number)) for number in (0, 2)]
    warnings = " / ".join(cohort.again(tmp_path, already_had=had).figures["warnings"])
    assert "1 line is unreadable or invalid" in warnings
    assert "other contact details" in warnings
    assert "2 patients are held back: they had this message in the last 30 days" in warnings
    assert "2 patients go by the NHS App without a mobile to fall back to" in warnings


@pytest.mark.parametrize(
    ("by_sms", "said"),
    [
        (Instead(), "0 patients who go by SMS and could go by the App cost 0.000 GBP more"),
        (Instead(1, 2), "1 patient who goes by SMS and could go by the App costs 0.035 GBP more"),
        (Instead(1_000, 1_000), "1,000 patients who go by SMS and could go by the App cost 15.000 GBP more"),
    ],
)
def test_what_the_app_would_save_is_shown(cohort: Planned, tmp_path: Path, by_sms: Instead, said: str) -> None:
    (tmp_path / "stale").mkdir()
    stale = cohort.again(tmp_path / "stale", snapshot=Snapshot("unknown", "2026-09-01", lost=by_sms)).figures
    assert said in " / ".join(stale["warnings"])
    (tmp_path / "off").mkdir()
    off = cohort.again(tmp_path / "off", snapshot=Snapshot("current", AS_OF, switch=by_sms)).figures
    shown = f"the workspace's switch self_book_ignores_email is off: {said}"
    assert (shown in off["warnings"]) == (by_sms.patients > 0)


# ---- what it shows --------------------------------------------------------------------------------------------------------


def test_a_sample_is_shown_for_each_channel_in_use(cohort: Planned, tmp_path: Path) -> None:
    (tmp_path / "apps").mkdir()
    samples = cohort.again(tmp_path / "apps", body="It’s {{ first_name }}").figures["samples"]
    assert samples == {
        "email": {"subject": "Flu jab", "text": "It’s Alex"},
        "nhs_app": {"text": "It’s Alex"},
        "sms": {"text": "It's Alex", "fragments": "1"},
    }
    (tmp_path / "none").mkdir()
    assert set(cohort.again(tmp_path / "none", organisation=NON_GP).figures["samples"]) == {"email", "sms"}


def test_figures_hold_nothing_of_a_patient(cohort: Planned, tmp_path: Path) -> None:
    shown = json.dumps(cohort.again(tmp_path, body="Dear {{ first_name }}, {{ note }}{{ nope }}").figures)
    for personal in ("999000", "7700900", "example.org", "Ash", "GREEN"):
        assert personal not in shown


def test_rejections_are_described_in_words() -> None:
    assert describe_rejections({"nhs_number_invalid": 2}) == {"The NHS number is not valid": 2}


def test_the_plan_is_a_table_too(cohort: Planned, tmp_path: Path) -> None:
    con = connection()
    path = as_table(con, cohort.figures, tmp_path / "batch_plan")
    rows = dict(con.sql(f"FROM read_parquet('{path}')").fetchall())
    assert {name: json.loads(value) for name, value in rows.items()} == cohort.figures
    assert path.stat().st_mode & 0o077 == 0


# ---- the hash -------------------------------------------------------------------------------------------------------------


def test_the_same_plan_made_again_has_the_same_hash(cohort: Planned, tmp_path: Path) -> None:
    assert cohort.again(tmp_path).hash == cohort.hash
    (tmp_path / "anew").mkdir()
    anew = Planned(tmp_path / "anew", cohort.text, facts=facts(accounts(7, 6, 5)))
    assert anew.hash == cohort.hash
    assert anew.hash == plan_hash(json.loads(json.dumps(anew.figures)), spec_sha256="spec", cohort_sha256="cohort")


CHANGES: dict[str, dict[str, Any]] = {
    "a text": {"body": "Your flu jab is due!"},
    "a subject": {"subject": "Jab"},
    "a recipient's path": {"facts": facts(accounts(5, 6))},
    "two recipients who change places": {"facts": facts(accounts(5, 6, 8))},
    "a number that fails": {"facts": facts(accounts(5, 6, 7), failed=[5])},
    "who is held back": {"already_had": [HASHER.hash(nhs_number(3))]},
    "whose place another takes": {"already_had": [HASHER.hash(nhs_number(2))]},
    "a price": {"prices": replace(PRICES, sms_fragment=Decimal("0.0233"))},
    "the currency": {"prices": Prices("EUR", PRICES.sms_fragment, PRICES.email, PRICES.nhs_app)},
    "the workspace": {"workspace": "hillside"},
    "the fallback window": {"questionnaire": "bp_7_day"},
    "the snapshot's date": {"snapshot": Snapshot("current", "2026-09-29")},
    "a problem": {"problems": ["not yet"]},
}


def test_any_change_makes_another_hash(cohort: Planned, tmp_path: Path) -> None:
    hashes = {"none": cohort.hash}
    for change, how in CHANGES.items():
        folder = tmp_path / change
        folder.mkdir()
        hashes[change] = cohort.again(folder, **how).hash
    assert len(set(hashes.values())) == len(hashes)


@pytest.mark.parametrize("content", ["spec_sha256", "cohort_sha256"])
def test_another_file_makes_another_hash(cohort: Planned, content: str) -> None:
    same = {"spec_sha256": "spec", "cohort_sha256": "cohort"}
    assert plan_hash(cohort.figures, **same) == cohort.hash
    assert plan_hash(cohort.figures, **{**same, content: "another"}) != cohort.hash
