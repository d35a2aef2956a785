"""NHS App accounts fetched from NHS Notify: one table a day and practice, by the shell and by the schedule."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from batch_pipeline import definitions
from batch_pipeline.defs import look_ups
from batch_pipeline.defs.refusals import SENTENCE
from batch_pipeline.errors import Refused
from batch_pipeline.runner import Runner
from batch_pipeline_tests.e2e.surgery import Surgery, T, by_email, by_sms
from batch_pipeline_tests.providers import nhs_notify_double as nhs

PRACTICE = "A99999"
ON, OFF, NEW, EMAILED = by_sms(1), by_sms(2), by_sms(3), by_email(4)
FETCH = ("look-up", "nhs-app-accounts", "larkfield")


@pytest.fixture
def notify(surgery: Surgery, monkeypatch: pytest.MonkeyPatch) -> Iterator[nhs.NhsNotifyDouble]:
    monkeypatch.setenv("BATCH_PIPELINE_NHS_NOTIFY_API_KEY", nhs.API_KEY)
    monkeypatch.setenv("BATCH_PIPELINE_NHS_NOTIFY_PRIVATE_KEY", nhs.private_key())
    with nhs.NhsNotifyDouble() as running:
        running.app_accounts[PRACTICE] = [(ON.nhs, True), (OFF.nhs, False), (by_sms(9).nhs, True)]
        surgery.workspace(
            nhs_notify={"base_url": f"{running.host}/comms", "key_id": nhs.KEY_ID},
            nhs_app_accounts={"fetched_from": "nhs_notify"},
        )
        yield running
    assert running.failures == []


def days(surgery: Surgery) -> list[str]:
    return [path for path in surgery.stored() if path.startswith("nhs_app_accounts/")]


def kept(day: str) -> str:
    return f"nhs_app_accounts/{PRACTICE}/{day}.parquet"


def test_the_accounts_of_today_choose_the_paths(surgery: Surgery, notify: nhs.NhsNotifyDouble) -> None:
    said = surgery.done(*FETCH, at=T).words
    assert said == f"{PRACTICE}: 3 NHS App accounts as of 2026-10-01, 2 of them with notifications on"
    assert days(surgery) == [kept("2026-10-01")]
    assert (surgery.home.data / kept("2026-10-01")).stat().st_mode & 0o777 == 0o600
    surgery.done("submit", surgery.batch("flu", [ON, OFF, EMAILED]), at=T)
    surgery.status("flu", recipients={"email": 1, "nhs_app": 1, "sms": 1})
    shown = surgery.done("review", "flu", "--json").json
    assert shown["snapshot"] == {"state": "current", "as_of": "2026-10-01"}
    assert not shown["needs_person"]


def test_they_are_fetched_once_a_day_unless_asked_for_again(surgery: Surgery, notify: nhs.NhsNotifyDouble) -> None:
    surgery.done(*FETCH, at=T)
    notify.app_accounts[PRACTICE].append((NEW.nhs, True))
    asked = notify.asked["accounts"]
    assert "already: 3 NHS App accounts" in surgery.done(*FETCH, at=T + timedelta(hours=9)).words
    assert notify.asked["accounts"] == asked
    assert "A99999: 4 NHS App accounts" in surgery.done(*FETCH, "--again", at=T).words
    surgery.done(*FETCH, at=T + timedelta(days=1))
    assert days(surgery) == [kept("2026-10-01"), kept("2026-10-02")]


def test_a_part_of_them_is_no_snapshot_and_the_last_one_stays(surgery: Surgery, notify: nhs.NhsNotifyDouble) -> None:
    surgery.done(*FETCH, at=T)
    notify.plan("accounts", nhs.NO_FAULT, nhs.Fault(answer=nhs.errors(403, "CM_FORBIDDEN")))
    said = surgery.refused(*FETCH, at=T + timedelta(days=3))
    assert "NHS Notify answered 403" in said
    assert "the last snapshot stays" in said
    assert days(surgery) == [kept("2026-10-01")]
    surgery.done("submit", surgery.batch("flu", [ON]), at=T + timedelta(days=3))
    shown = surgery.done("review", "flu", "--json").json
    assert shown["recipients"]["nhs_app"] == 1
    assert any("of 2026-10-01 is older than 2 days" in warning for warning in shown["warnings"])


@pytest.mark.slow
@pytest.mark.parametrize("fetched", [True, False])
def test_one_too_old_or_none_counts_as_unknown(surgery: Surgery, notify: nhs.NhsNotifyDouble, *, fetched: bool) -> None:
    if fetched:
        surgery.done(*FETCH, at=T - timedelta(days=8))
    surgery.done("submit", surgery.batch("flu", [ON], approval="auto"), at=T)
    surgery.status("flu", status="Awaiting approval", recipients={"email": 0, "nhs_app": 0, "sms": 1})
    (warning,) = [each for each in surgery.done("review", "flu", "--json").json["warnings"] if "App" in each]
    assert ("of 2026-09-23 is older than 7 days" if fetched else "no NHS App accounts were ever fetched") in warning


@pytest.mark.slow
def test_days_are_kept_for_a_fortnight(surgery: Surgery, notify: nhs.NhsNotifyDouble) -> None:
    for ago in (15, 14, 0):
        surgery.done(*FETCH, at=T - timedelta(days=ago))
    assert days(surgery) == [kept("2026-09-17"), kept("2026-10-01")]


@pytest.mark.slow
def test_a_day_is_that_of_london(surgery: Surgery, notify: nhs.NhsNotifyDouble) -> None:
    surgery.done(*FETCH, at=datetime(2026, 9, 30, 23, 30, tzinfo=UTC))
    assert days(surgery) == [kept("2026-10-01")]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"nhs_app_accounts": None}, "write nhs_app_accounts: {fetched_from: nhs_notify}"),
        ({"organisation_type": "non_gp"}, "GP organisations in England only"),
        ({"nation": "wales"}, "GP organisations in England only"),
        ({"nhs_notify": None}, "there is no group nhs_notify"),
    ],
)
def test_who_fetches_none_is_told_why(
    surgery: Surgery, notify: nhs.NhsNotifyDouble, keys: dict[str, object], said: str
) -> None:
    surgery.workspace(**keys)
    known = {name: value for name, value in surgery.keys.items() if value is not None}
    surgery.keys = known
    surgery.workspace()
    assert said in surgery.refused(*FETCH, at=T)


def test_a_day_to_come_is_refused(surgery: Surgery, notify: nhs.NhsNotifyDouble) -> None:
    assert "still to come" in surgery.refused(*FETCH, at=datetime.now(UTC) + timedelta(days=1))


# ---- Dagster's schedule and partitions ----------------------------------------------------------------------------------

MORNING = datetime(2026, 10, 1, 4, 15, tzinfo=UTC)


def tick(surgery: Surgery, at: datetime = MORNING) -> tuple[list[dg.RunRequest], list[str], set[str]]:
    """What the schedule asks for, the faults it tells of, and the practices that Dagster knows then."""
    with surgery.dagster() as instance:
        requests, faults = look_ups.due(surgery.house, instance, at)
        return requests, faults, set(instance.get_dynamic_partitions("ods_code"))


def test_the_schedule_asks_for_each_practice_once(surgery: Surgery, notify: nhs.NhsNotifyDouble) -> None:
    twin = surgery.home.workspaces / "twin.yaml"
    surgery.put(twin, (surgery.home.workspaces / "larkfield.yaml").read_text().replace('"larkfield"', '"twin"'))
    requests, _, practices = tick(surgery)
    assert [request.partition_key for request in requests] == [
        dg.MultiPartitionKey({"day": "2026-10-01", "ods_code": PRACTICE})
    ]
    assert practices == {PRACTICE}
    surgery.done(*FETCH, at=MORNING)
    assert tick(surgery, MORNING + timedelta(hours=3))[0] == []
    assert len(tick(surgery, MORNING + timedelta(days=1))[0]) == 1


def test_the_schedule_does_nothing_where_nobody_fetches(surgery: Surgery) -> None:
    assert tick(surgery) == ([], [], set())


def test_a_faulty_workspace_stops_no_other(surgery: Surgery, notify: nhs.NhsNotifyDouble) -> None:
    surgery.put(surgery.home.workspaces / "broken.yaml", "id: broken\n")
    requests, (fault,), _ = tick(surgery)
    assert len(requests) == 1
    assert "broken.yaml" in fault


@pytest.mark.slow
def test_another_day_than_today_cannot_be_materialised(surgery: Surgery, notify: nhs.NhsNotifyDouble) -> None:
    with surgery.dagster(), pytest.raises(Refused, match="present day only: fetch those of 2026-10-01"):
        Runner(surgery.home).look_up("app_accounts", PRACTICE, date(2026, 9, 1), T)
    assert notify.asked["accounts"] == 0


def test_all_days_at_once_are_one_run_for_each_practice_that_says_what_to_do(
    surgery: Surgery, notify: nhs.NhsNotifyDouble
) -> None:
    """ "Materialise all" in the UI asks for every day there ever was; a run each would hold everything else up."""
    with surgery.dagster() as instance:
        instance.add_dynamic_partitions("ods_code", [PRACTICE])
        job = definitions.defs().resolve_job_def("app_accounts")
        ends = {"start": f"2026-09-01|{PRACTICE}", "end": f"2026-10-01|{PRACTICE}"}
        ran = job.execute_in_process(
            instance=instance,
            tags={f"dagster/asset_partition_range_{end}": key for end, key in ends.items()},
            run_config={"resources": {"clock": {"config": {"at": T.isoformat()}}}},
            raise_on_error=False,
        )
        assert not ran.success
        (failed,) = [event for event in ran.all_events if event.is_step_failure]
        told = failed.step_failure_data.user_failure_data
    assert told is not None
    assert (
        told.metadata[SENTENCE].value
        == "NHS Notify tells the accounts of the present day only: fetch those of 2026-10-01"
    )
    assert notify.asked["accounts"] == 0
