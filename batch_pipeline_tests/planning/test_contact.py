"""Contactability beyond the case table: what is known besides the file, and messages that are under way."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.home import Home
from batch_pipeline.house import House
from batch_pipeline.ingest.lists import NO_ACCOUNTS
from batch_pipeline.ledger import batches
from batch_pipeline.ledger.tables import patient_marks
from batch_pipeline.planning.contact import Organisation
from batch_pipeline.templates import Message
from batch_pipeline_tests.ledger import given
from batch_pipeline_tests.ledger.given import HASHER, nhs_number
from batch_pipeline_tests.planning.worlds import (
    NOW,
    Planned,
    accounts,
    csv_text,
    e164,
    facts,
    mobile,
    opt_outs,
    patient,
)

EMAIL = "ash@example.org"
LANDLINE = "020 7946 0018"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """One patient each with: a mobile (2), an email (3), both (4), neither (5), a landline and a bad email (6)."""
    lines = [
        patient(0, mobile=mobile(0)),
        patient(1, email=EMAIL),
        patient(2, mobile=mobile(2), email=EMAIL),
        patient(3),
        patient(4, mobile=LANDLINE, email="ash at example.org"),
        patient(5, mobile="4.47E+11", deceased="?"),
    ]
    return Planned(tmp_path_factory.mktemp("cohort"), csv_text(lines))


# ---- details and rules --------------------------------------------------------------------------------------------------


def test_what_is_odd_is_told_of_those_who_cannot_be_reached_alone(cohort: Planned, tmp_path: Path) -> None:
    world = cohort.again(tmp_path)
    details = {line: row["detail"] for line, row in world.contactability.items()}
    number_lost = "number: scientific notation: digits were lost"
    assert details == {2: None, 3: None, 4: None, 5: None, 6: "email: no @ sign", 7: f"unclear; {number_lost}"}


def test_each_row_says_which_cell_of_the_table_chose_its_path(cohort: Planned, tmp_path: Path) -> None:
    world = cohort.again(tmp_path, facts=facts(accounts(0)))
    rules = {line: row["rule"] for line, row in world.plan.items()}
    assert rules == {
        2: "gp · simple · no email, has the NHS App → nhs_app",
        3: "gp · simple · email in CSV → email",
        4: "gp · simple · email in CSV → email",
    }


def test_counts_are_of_patients_by_primary_reason_and_path(cohort: Planned, tmp_path: Path) -> None:
    counted = cohort.again(tmp_path, facts=facts(accounts(0))).assessed
    assert counted.non_contactable == {"deceased": 1, "not_provided": 2}
    assert counted.sub_reasons == {"landline_only": 1}
    assert counted.recipients == {"email": 2, "nhs_app": 1}


# ---- what is known besides the file --------------------------------------------------------------------------------------


def test_an_account_listed_twice_has_notifications_on_if_either_line_says_so(cohort: Planned, tmp_path: Path) -> None:
    for number, app in enumerate((accounts(0, off=[0]), accounts(off=[0, 0]))):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = cohort.again(folder, facts=facts(app)).contactability[2]["path"]
        assert path == ("nhs_app" if number == 0 else "sms")


@pytest.mark.parametrize(
    ("mark", "reason", "sub_reason"),
    [
        ("deceased", "deceased", None),
        ("invalidated", "unable_to_retrieve", "invalidated"),
        ("exit_coded", "unable_to_retrieve", "exit_coded"),
    ],
)
def test_a_mark_of_an_earlier_batch_counts(
    cohort: Planned, tmp_path: Path, mark: str, reason: str, sub_reason: str | None
) -> None:
    world = cohort.again(tmp_path, facts=facts(marks={0: mark, 3: mark}))
    assert {line: world.contactability[line]["reasons"] for line in (2, 3, 5)} == {
        2: [reason],
        3: [],
        5: [reason, "not_provided"],
    }
    assert world.contactability[2]["sub_reason"] == sub_reason


def test_lists_may_name_people_who_are_not_in_the_file(cohort: Planned, tmp_path: Path) -> None:
    known = facts(accounts(70), opt_outs((71, "all"), (71, "sms")), {72: "deceased"}, failed=[73])
    assert cohort.again(tmp_path, facts=known).assessed == cohort.again(_new(tmp_path)).assessed


def test_a_number_that_failed_is_unusable_for_everybody_who_shares_it(tmp_path: Path) -> None:
    lines = [patient(0, mobile=mobile(0)), patient(1, telephone="+44 7700 900000"), patient(2, mobile=mobile(2))]
    world = Planned(tmp_path, csv_text(lines), facts=facts(failed=[0]))
    assert {line: row["primary_reason"] for line, row in world.non_contactable.items()} == dict.fromkeys(
        (2, 3), "likely_to_fail"
    )


def _new(folder: Path) -> Path:
    new = folder / "new"
    new.mkdir()
    return new


# ---- messages under way -------------------------------------------------------------------------------------------------


def begun(number: int, channel: str, address: str, fallback: str | None = None) -> dict[str, str | None]:
    patient_hash = HASHER.hash(nhs_number(number))
    return {"patient": patient_hash, "channel": channel, "address": address, "fallback_number": fallback}


UNDER_WAY = [
    begun(0, "nhs_app", nhs_number(0), e164(90)),
    begun(1, "sms", e164(91)),
    begun(2, "nhs_app", nhs_number(2)),
    begun(3, "email", "bay@example.org"),
    begun(5, "sms", e164(95)),
]
"""Sent under an earlier plan, of another file: the addresses aren't those of this one."""


def test_a_message_under_way_stays_as_it_was_sent(cohort: Planned, tmp_path: Path) -> None:
    everything_changed = facts(
        accounts(0, 1, 2),
        opt_outs((0, "all"), (1, "sms"), (2, "nhs_app"), (3, "email")),
        {1: "deceased", 2: "exit_coded"},
        failed=[0, 2],
        begun=UNDER_WAY,
    )
    world = cohort.again(tmp_path, facts=everything_changed)
    sent = {line: (row["path"], row["address"], row["fallback_number"]) for line, row in world.plan.items()}
    assert sent == {
        2: ("nhs_app", nhs_number(0), e164(90)),
        3: ("sms", e164(91), None),
        4: ("nhs_app", nhs_number(2), None),
        5: ("email", "bay@example.org", None),
        7: ("sms", e164(95), None),
    }
    assert {line: row["no_sms_fallback"] for line, row in world.plan.items()} == {
        **dict.fromkeys((2, 3, 5, 7), False),
        4: True,
    }
    assert set(world.non_contactable) == {6}


def test_the_rule_says_when_a_path_is_an_earlier_plans(cohort: Planned, tmp_path: Path) -> None:
    world = cohort.again(tmp_path, facts=facts(accounts(0), begun=UNDER_WAY))
    assert world.plan[3]["rule"] == "as it was sent under an earlier plan → sms"
    assert world.plan[2]["rule"] == "gp · simple · no email, has the NHS App → nhs_app"


def test_a_message_under_way_is_never_held_back(cohort: Planned, tmp_path: Path) -> None:
    had = [HASHER.hash(nhs_number(number)) for number in range(6)]
    world = cohort.again(tmp_path, facts=facts(begun=UNDER_WAY[:2]), already_had=had)
    assert {line: row["held_back"] for line, row in world.plan.items()} == {2: False, 3: False, 4: True}


# ---- the workspace's own lists and the ledger ----------------------------------------------------------------------------

WORKSPACE = """\
id: riverside
name: Riverside Surgery
ods_code: A28095
organisation_type: gp
nation: england
opt_outs: {path: opt-outs.csv}
nhs_app_accounts: {path: accounts.csv, as_of: 2026-09-30}
"""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A home at work, with both lists."""
    home = Home(tmp_path / "home")
    home.init()
    (home.workspaces / "riverside.yaml").write_text(WORKSPACE)
    (home.workspaces / "accounts.csv").write_text(f"nhs_number,notifications_enabled\n{nhs_number(3)},true\n")
    (home.workspaces / "opt-outs.csv").write_text(
        f"nhs_number,opted_out_on,channel\n{nhs_number(0)},2026-10-02,all\n{nhs_number(2)},2026-10-01,email\n"
    )
    given.open_ledger(home.root).close()
    house = House(home)
    house.__dict__["hasher"] = HASHER
    yield house
    house.ledger.close()


def fail_an_sms(house: House, number: str, at: datetime) -> None:
    given.queue(house.ledger, [given.Recipient(2, number=number)], batch="earlier", cohort_sha256="earlier")
    given.set_attempts(
        house.ledger,
        {"begun_at": at, "accepted_at": at, "failed_at": at, "failure_kind": "permanent"},
        batch="earlier",
    )


def planned_at_home(house: House, cohort: Planned, folder: Path, now: datetime = NOW) -> Planned:
    """As the assets do it."""
    message = Message("Hello", None, "body:1", None, None)
    file = {
        "batch": given.BATCH,
        "workspace": "riverside",
        "cohort": "a.csv",
        "message": {"type": "simple", "body": "Hello"},
    }
    with house.ledger.write() as connection:
        spec = batches.spec_json({"batch_file": file, "message": message.as_dict()})
        batches.register(connection, replace(given.submission(), spec=spec), now)
    submitted = house.submitted(given.BATCH)
    snapshot, app = house.snapshot(submitted.workspace, now)
    known = house.facts(submitted, NO_ACCOUNTS if snapshot.state == "unknown" else app, now)
    workspace = submitted.workspace
    sender = Organisation(workspace.organisation_type, workspace.nation, workspace.self_book_ignores_email)
    return cohort.again(folder, organisation=sender, facts=known, snapshot=snapshot)


def test_opt_outs_count_from_their_day_on(house: House, cohort: Planned, tmp_path: Path) -> None:
    paths = {line: row["path"] for line, row in planned_at_home(house, cohort, tmp_path).plan.items()}
    assert paths == {2: "sms", 3: "email", 4: "sms", 5: "nhs_app"}  # line 2 opts out tomorrow, line 4 by email today
    later = planned_at_home(house, cohort, _new(tmp_path), NOW + timedelta(days=1))
    assert later.non_contactable[2]["primary_reason"] == "opted_out"


@pytest.mark.parametrize(
    ("days", "state", "line_5"), [(1, "current", True), (3, "old", True), (7, "old", True), (8, "unknown", False)]
)
def test_a_snapshot_older_than_seven_days_counts_as_unknown(
    house: House, cohort: Planned, tmp_path: Path, days: int, state: str, line_5: bool
) -> None:
    now = datetime.fromisoformat("2026-09-30T12:00+01:00") + timedelta(days=days)
    world = planned_at_home(house, cohort, tmp_path, now)
    assert world.snapshot.state == state
    assert (5 in world.plan) == line_5


@pytest.mark.parametrize(("switch", "failing"), [("true", True), ("false", False)])
def test_numbers_that_failed_are_excluded_where_the_workspace_says_so(
    house: House, cohort: Planned, tmp_path: Path, switch: str, failing: bool
) -> None:
    workspace = house.home.workspaces / "riverside.yaml"
    workspace.write_text(f"{WORKSPACE}exclude_likely_to_fail: {switch}\n")
    fail_an_sms(house, e164(0), NOW - timedelta(days=80))
    world = planned_at_home(house, cohort, tmp_path)
    assert (2 in world.non_contactable) == failing
    assert 4 in world.plan


@pytest.mark.parametrize(
    ("mark", "reason"),
    [("deceased", "deceased"), ("invalidated", "unable_to_retrieve"), ("exit_coded", "unable_to_retrieve")],
)
def test_the_ledgers_marks_are_heeded(house: House, cohort: Planned, tmp_path: Path, mark: str, reason: str) -> None:
    patient_hash = HASHER.hash(nhs_number(0))
    with house.ledger.write() as connection:
        row = {"patient": patient_hash, "mark": mark, "marked_at": NOW, "source": "earlier:2:primary"}
        connection.execute(sa.insert(patient_marks).values(row))
    assert planned_at_home(house, cohort, tmp_path).non_contactable[2]["primary_reason"] == reason
