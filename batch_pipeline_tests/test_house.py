"""A home put to work: what the shell and Dagster both go through."""

import os
import time
from contextlib import suppress
from unittest import mock

import duckdb
import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.house import owner
from batch_pipeline.planning.duck import SetWorkFailed
from batch_pipeline_tests.e2e.conftest import surgery
from batch_pipeline_tests.e2e.surgery import Surgery, T, by_sms

__all__ = ["surgery"]


def test_staging_is_cleared_of_what_killed_processes_left_a_day_ago(surgery: Surgery) -> None:
    staging = surgery.home.data / ".staging"
    for name, age in (("stage-old", 25), ("stage-young", 1)):
        (staging / name).mkdir(parents=True)
        (staging / name / "patients").write_text("half a table")
        then = time.time() - age * 3600
        os.utime(staging / name, (then, then))
    with surgery.house.staging() as mine:
        assert mine.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in staging.iterdir()} == {"stage-young", mine.name}
    assert [path.name for path in staging.iterdir()] == ["stage-young"]


def test_staging_is_cleared_after_an_exception(surgery: Surgery) -> None:
    with suppress(ZeroDivisionError), surgery.house.staging() as mine:
        (mine / "patients").write_text("half a table")
        raise ZeroDivisionError
    assert list((surgery.home.data / ".staging").iterdir()) == []


@pytest.mark.parametrize(("channel", "stops"), [("all", True), ("sms", True), ("email", False), ("nhs_app", False)])
def test_an_opt_out_of_another_channel_stops_no_text(surgery: Surgery, channel: str, stops: bool) -> None:
    surgery.opt_outs(by_sms(1), on="2026-10-01", channel=channel)
    house = surgery.house
    workspace = house.workspace("larkfield")
    facts = house.fallback_facts(workspace, T)
    assert (house.hasher.hash(by_sms(1).nhs) in facts.opted_out) is stops
    # from the day on that the list says, in the workspace's time
    early = T.replace(month=9, day=30, hour=22, minute=59)
    assert house.fallback_facts(workspace, early).opted_out == set()


def test_an_unknown_workspace_is_refused_with_those_there_are(surgery: Surgery) -> None:
    with pytest.raises(Refused, match="larkfield"):
        surgery.house.workspace("elsewhere")


def test_the_owner_of_a_lease_can_be_found() -> None:
    assert owner().endswith(f":{os.getpid()}")


def test_a_hash_key_that_is_lost_or_swapped_is_refused_before_anybody_is_sent_anything_again(surgery: Surgery) -> None:
    surgery.done("status")
    surgery.home.hash_key_path.unlink()
    assert "hash.key" in surgery.refused("status") or "hash key" in surgery.refused("status")


def test_the_stages_of_a_kept_house_share_one_duckdb_and_see_nothing_of_each_other(surgery: Surgery) -> None:
    house, table = surgery.house, "CREATE TEMP TABLE mine AS SELECT getvariable('mine') AS n"
    with mock.patch("duckdb.connect", wraps=duckdb.connect) as connect:
        with house.kept():
            for _ in range(2):
                with house.duck() as con:
                    assert con.sql("FROM duckdb_tables() WHERE table_name = 'mine'").fetchall() == []
                    con.execute(table)
                    assert con.sql("FROM mine").fetchall() == [(None,)]
                    con.execute("SET VARIABLE mine = 1")
            with pytest.raises(SetWorkFailed), house.duck() as con:
                con.execute("SELECT nonsense")
        assert connect.call_count == 1
        with house.duck() as con:  # one of its own again
            con.execute(table)
        assert connect.call_count == 2
    assert list((surgery.home.data / ".staging").iterdir()) == []
