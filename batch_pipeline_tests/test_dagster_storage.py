"""Dagster's storage with kept connections: its files are Dagster's own, and few of them stay open."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import dagster as dg
import pytest

from batch_pipeline.dagster_storage import EventLogStorage, RunStorage
from batch_pipeline.home import Home


@dg.asset
def number() -> int:
    return 1


@dg.asset_check(asset=number)
def is_one(number: int) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=number == 1)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = Home(tmp_path / "home")
    home.init()
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    return home.dagster


@contextmanager
def opened(home: Path, *, ours: bool) -> Iterator[dg.DagsterInstance]:
    """The home's instance, with our storage or with Dagster's own."""
    if not ours:
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, EventLogStorage) == ours
        assert isinstance(instance.run_storage, RunStorage) == ours
        yield instance


def run(instance: dg.DagsterInstance) -> str:
    return dg.materialize([number, is_one], instance=instance, resources={"io_manager": dg.mem_io_manager}).run_id


def told(instance: dg.DagsterInstance, run_id: str) -> list[object]:
    found = instance.get_run_by_id(run_id)
    assert found
    kinds = [entry.dagster_event_type for entry in instance.all_logs(run_id)]
    made = [record.run_id for record in instance.fetch_materializations(number.key, limit=50).records]
    return [found.status, kinds, made]


@pytest.mark.parametrize("ours_first", [True, False])
def test_each_reads_and_goes_on_with_what_the_other_wrote(home: Path, *, ours_first: bool) -> None:
    settings = (home / "dagster.yaml").read_text()
    with opened(home, ours=ours_first) as first:
        run_id = run(first)
        before = told(first, run_id)
    assert before[0] == dg.DagsterRunStatus.SUCCESS
    (home / "dagster.yaml").write_text(settings)
    with opened(home, ours=not ours_first) as second:
        assert told(second, run_id) == before
        assert len(second.fetch_materializations(number.key, limit=50).records) == 1
        again = run(second)
        assert told(second, again)[2] == [again, run_id]


def databases_open(home: Path) -> set[str]:
    found: set[str] = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith(str(home)) and name.endswith(".db")}


@pytest.mark.slow
def test_few_files_stay_open_however_many_runs_are_looked_at(home: Path) -> None:
    with opened(home, ours=True) as instance:
        runs = [run(instance) for _ in range(12)]
        assert all(told(instance, run_id)[0] == dg.DagsterRunStatus.SUCCESS for run_id in runs)
        assert 2 <= len(databases_open(home)) <= 9
    assert databases_open(home) == set()


def test_what_a_full_disk_left_half_made_is_made_whole(home: Path) -> None:
    index = home / "history" / "runs" / "index.db"
    index.parent.mkdir(parents=True)
    index.touch()
    with opened(home, ours=True) as instance:
        storage = cast("EventLogStorage", instance.event_log_storage)
        assert all(map(storage.has_secondary_index, ("asset_key_table", "asset_key_index_columns")))
        assert told(instance, run(instance))[0] == dg.DagsterRunStatus.SUCCESS


def test_it_goes_on_after_a_wipe(home: Path) -> None:
    with opened(home, ours=True) as instance:
        gone = run(instance)
        instance.wipe()
        assert instance.get_run_by_id(gone) is None
        assert instance.all_logs(gone) == []
        assert told(instance, run(instance))[0] == dg.DagsterRunStatus.SUCCESS


def test_threads_read_while_a_run_is_stored(home: Path) -> None:
    with opened(home, ours=True) as instance:
        seen = [run(instance) for _ in range(3)]
        with ThreadPoolExecutor(3) as threads:
            reading = [threads.submit(lambda: [told(instance, run_id)[0] for run_id in seen * 5]) for _ in range(3)]
            latest = [run(instance) for _ in range(3)]
            assert {status for each in reading for status in each.result()} == {dg.DagsterRunStatus.SUCCESS}
        assert told(instance, latest[-1])[2] == [*latest[::-1], *seen[::-1]]


@pytest.mark.slow
def test_two_processes_store_at_once(home: Path) -> None:
    code = (
        f"from {__name__} import *\nwith opened(Path({str(home)!r}), ours=True) as i: print([run(i) for _ in range(4)])"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    runs = [run_id for process in processes for run_id in ast.literal_eval(process.communicate()[0])]
    with opened(home, ours=True) as instance:
        assert {told(instance, run_id)[0] for run_id in runs} == {dg.DagsterRunStatus.SUCCESS}
        assert {record.run_id for record in instance.fetch_materializations(number.key, limit=50).records} >= set(runs)
        assert len(set(runs)) == 8
