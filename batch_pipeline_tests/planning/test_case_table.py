"""Who is reached, and by what: every combination that issue 2 names, against an oracle written from the SPEC."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pytest

from batch_pipeline.home import Home
from batch_pipeline.house import House
from batch_pipeline.ingest.lists import NO_ACCOUNTS
from batch_pipeline.planning.contact import Organisation
from batch_pipeline.planning.plan import Snapshot
from batch_pipeline_tests.planning.oracle import (
    EMAILS,
    EVERYTHING,
    NATIONS,
    ORGANISATIONS,
    Case,
    Expected,
    all_cases,
    expected,
)
from batch_pipeline_tests.planning.worlds import (
    NOW,
    Planned,
    accounts,
    csv_text,
    facts,
    mobile,
    nhs_number,
    opt_outs,
    patient,
)

FAILED = 999
"""The number whose last SMS failed."""
PHONE_CELLS = {
    "none": "",
    "landline": "020 7946 0018",
    "not_mobile": "070 1234 5678",
    "foreign": "+33 1 99 00 12 34",
    "malformed": "07700 9001",
    "mobile": mobile(123),
    "likely_to_fail": mobile(FAILED),
}
EMAIL_CELLS = {"none": "", "bad": "ash.green at example.org", "good": "ash.green@example.org"}


class Found(NamedTuple):
    """What the tables say of one case: as ``Expected``, and the address."""

    expected: Expected
    address: str | None


def addressed(case: Case, number: int, path: str) -> str:
    """Where the message of a recipient goes."""
    addresses = {"email": EMAIL_CELLS["good"], "nhs_app": nhs_number(number)}
    return addresses.get(path) or "+44" + PHONE_CELLS[case.phone].replace(" ", "").removeprefix("0")


def cohort(folder: Path, cases: Sequence[Case]) -> Planned:
    """The file that holds these cases, each under its number."""
    lines = [
        patient(
            number,
            mobile=PHONE_CELLS[case.phone],
            email=EMAIL_CELLS[case.email],
            deceased="Y" if case.deceased else "",
        )
        for number, case in enumerate(cases)
    ]
    return Planned(folder, csv_text(lines))


def planned(
    base: Planned, folder: Path, cases: Sequence[Case], notified: pa.Table, snapshot: Snapshot | None = None
) -> dict[int, Found]:
    """What planning makes of a cohort's cases, which agree on organisation, nation, message and switches."""
    one = cases[0]
    marks = {number: case.unable for number, case in enumerate(cases) if case.unable}
    out = [(number, channel) for number, case in enumerate(cases) for channel in sorted(case.opted_out)]
    return found(
        base.again(
            folder,
            organisation=Organisation(one.organisation, one.nation, one.self_book_ignores_email),
            message_type=one.message,
            facts=facts(notified, opt_outs(*out), marks, failed=[FAILED] if one.exclude_likely_to_fail else []),
            snapshot=snapshot or Snapshot("current", "2026-10-01"),
        )
    )


def found(world: Planned) -> dict[int, Found]:
    plan = world.plan
    listed = world.non_contactable
    answers: dict[int, Found] = {}
    for line, row in world.contactability.items():
        assert row["contactable"] == (line in plan) == (line not in listed)
        if line in listed:
            shown = listed[line]
            assert (row["primary_reason"], row["reasons"], row["sub_reason"], row["detail"]) == (
                shown["primary_reason"],
                shown["reasons"],
                shown["sub_reason"],
                shown["detail"],
            )
        else:
            assert plan[line]["path"] == row["path"]
        said = Expected(
            contactable=row["contactable"],
            path=row["path"],
            primary=row["primary_reason"],
            reasons=tuple(row["reasons"]),
            sub_reason=row["sub_reason"],
            no_sms_fallback=line in plan and plan[line]["no_sms_fallback"],
        )
        answers[line - 2] = Found(said, plan[line]["address"] if line in plan else None)
    return answers


def differences(cases: Sequence[Case], answers: dict[int, Found]) -> list[tuple[Case, Expected, Found]]:
    """Where oracle and code disagree, to be read in a failure's message."""
    assert len(answers) == len(cases)
    return [
        (case, expected(case), answers[number])
        for number, case in enumerate(cases)
        if answers[number].expected != expected(case)
        or answers[number].address
        != (addressed(case, number, expected(case).path) if expected(case).contactable else None)
    ]


# ---- the 1,728 -----------------------------------------------------------------------------------------------------

STALE = NOW - timedelta(days=7, seconds=1)
Run = tuple[str, str, str, bool]


def runs() -> dict[Run, list[Case]]:
    """The cases of each planning run: by organisation, nation, message, and whether the snapshot is stale."""
    cases: dict[Run, list[Case]] = {}
    for case in all_cases():
        cases.setdefault((case.organisation, case.nation, case.message, case.app == "stale"), []).append(case)
    return cases


RUNS = runs()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A home with a workspace for each organisation, nation and age of its snapshot."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.init()
    for organisation in ORGANISATIONS:
        for nation in NATIONS:
            for state, as_of in (("fresh", NOW.date()), ("stale", STALE)):
                name = f"{organisation}-{nation}-{state}"
                (home.workspaces / f"{name}.yaml").write_text(
                    f"id: {name}\nname: Riverside\nods_code: A28095\norganisation_type: {organisation}\n"
                    f"nation: {nation}\nnhs_app_accounts: {{path: accounts-{state}.csv, as_of: {as_of.isoformat()}}}\n"
                )
    for state, (_, _, _, stale) in {("stale" if run[3] else "fresh"): run for run in RUNS}.items():
        cases = next(cases for run, cases in RUNS.items() if run[3] == stale)
        (home.workspaces / f"accounts-{state}.csv").write_text(
            "nhs_number,notifications_enabled\n"
            + "".join(
                f"{nhs_number(number)},{'false' if case.app == 'off' else 'true'}\n"
                for number, case in enumerate(cases)
                if case.app != "none"
            )
        )
    return House(home)


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Planned]:
    """The file of the runs with a stale snapshot, and of those without: the same for every sender and message."""
    cases = {run[3]: cases for run, cases in RUNS.items()}
    return {stale: cohort(tmp_path_factory.mktemp("cohort"), cases[stale]) for stale in (False, True)}


def test_there_are_1728_cases() -> None:
    assert len(set(all_cases())) == sum(map(len, RUNS.values())) == 2 * 4 * 3 * 3 * 4 * 6 == 1_728
    assert len(RUNS) == 48


@pytest.mark.parametrize(("organisation", "nation", "message", "stale"), RUNS)
def test_every_case_is_as_the_spec_has_it(
    house: House,
    cohorts: dict[bool, Planned],
    tmp_path: Path,
    organisation: str,
    nation: str,
    message: str,
    stale: bool,
) -> None:
    cases = RUNS[organisation, nation, message, stale]
    workspace = house.workspace(f"{organisation}-{nation}-{'stale' if stale else 'fresh'}")
    snapshot, accounts = house.snapshot(workspace, NOW)
    open_to_the_app = (organisation, nation) == ("gp", "england")
    assert snapshot.state == (("unknown" if stale else "current") if open_to_the_app else "none")
    usable = NO_ACCOUNTS if snapshot.state == "unknown" else accounts  # as the assets do
    assert differences(cases, planned(cohorts[stale], tmp_path, cases, usable, snapshot)) == []


# ---- what else may hold, alone and together ------------------------------------------------------------------------

SENDERS = [("gp", "england"), ("gp", "wales"), ("non_gp", "england")]
CHANNELS = sorted(EVERYTHING)


def combinations(organisation: str, nation: str, message: str, **switches: bool) -> list[Case]:
    """Dead or alive, usable or not, opted out of any channels, with every email, App and number."""
    return [
        Case(organisation, nation, message, email, app, phone, deceased, unable, frozenset(out), **switches)
        for deceased in (False, True)
        for unable in (None, "invalidated", "exit_coded")
        for size in range(len(CHANNELS) + 1)
        for out in itertools.combinations(CHANNELS, size)
        for email in EMAILS
        for app in ("none", "off", "on")
        for phone in PHONE_CELLS
    ]


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    return cohort(tmp_path_factory.mktemp("combined"), combinations("gp", "england", "simple"))


@pytest.mark.parametrize("message", ["simple", "self_book"])
@pytest.mark.parametrize(("organisation", "nation"), SENDERS)
@pytest.mark.parametrize("switched", [False, True])
def test_all_reasons_are_recorded_in_their_order(
    combined: Planned, tmp_path: Path, organisation: str, nation: str, message: str, switched: bool
) -> None:
    cases = combinations(
        organisation, nation, message, exclude_likely_to_fail=not switched, self_book_ignores_email=switched
    )
    on = [number for number, case in enumerate(cases) if case.app == "on"]
    off = [number for number, case in enumerate(cases) if case.app == "off"]
    wrong = differences(cases, planned(combined, tmp_path, cases, accounts(*on, off=off)))
    assert wrong[:5] == [], f"{len(wrong):,} of {len(cases):,}"


def test_out_of_everything_is_out_of_each_channel(combined: Planned, tmp_path: Path) -> None:
    cases = [
        replace(case, opted_out=EVERYTHING if case.opted_out else frozenset())
        for case in combinations("gp", "england", "simple")
    ]
    everybody_out = [(number, "all") for number, case in enumerate(cases) if case.opted_out]
    on = [number for number, case in enumerate(cases) if case.app == "on"]
    marks = {number: case.unable for number, case in enumerate(cases) if case.unable}
    world = combined.again(tmp_path, facts=facts(accounts(*on), opt_outs(*everybody_out), marks, failed=[FAILED]))
    assert differences(cases, found(world))[:5] == []
