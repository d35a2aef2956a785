"""Real processes, really killed while they write to the record: every entry is there once."""

import random
import signal
import time
from pathlib import Path

import pytest

from batch_pipeline.ledger import records
from batch_pipeline_tests.ledger.given import BATCH, lines, open_ledger
from batch_pipeline_tests.ledgers import on_postgresql_slowly
from batch_pipeline_tests.processes import CONTEXT
from batch_pipeline_tests.records.fhir_double import FhirDouble
from batch_pipeline_tests.records.worlds import World, in_folder, save_for_real

FEW_KILLS = 4
ROUNDS = [FEW_KILLS, pytest.param(50, marks=pytest.mark.slow)]


def kill_often(folder: Path, root: Path, base_url: str | None, wanted: int) -> None:
    """Each process is another hour ahead, so that it takes over at once what the one before has left."""
    chance, kills, hour = random.Random(), 0, 0
    while kills < wanted:
        hour += 1
        progress = CONTEXT.RawValue("i", 0)
        process = CONTEXT.Process(target=save_for_real, args=(folder, root, base_url, hour, progress))
        process.start()
        # Before anything is written, or after a few: then anywhere in claiming, writing and noting.
        enough = chance.randrange(6)
        while progress.value < enough and process.is_alive():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was done before it was killed often enough: give it more to do"
        kills += 1
    last = CONTEXT.Process(target=save_for_real, args=(folder, root, base_url, hour + 1, CONTEXT.RawValue("i", 0)))
    last.start()
    last.join()
    assert last.exitcode == 0


def a_batch(folder: Path, root: Path, wanted: int) -> set[str]:
    """As much as isn't all written before the last is killed; its references."""
    ledger = open_ledger(folder)
    World.of(ledger, root, lines(30 * wanted))
    ledger.close()
    return {f"{BATCH}:{line}:primary" for line in range(2, 2 + 30 * wanted)}


def assert_all_noted(folder: Path, wanted: int) -> None:
    ledger = open_ledger(folder)
    with ledger.read() as connection:
        assert records.saved(connection, BATCH) == records.Saved(wanted, 0, 0)
        assert records.open_chunks(connection, BATCH) == []
    ledger.close()


@on_postgresql_slowly
@pytest.mark.parametrize("kills", ROUNDS)
def test_killed_at_random_moments_it_writes_every_line_once(folder: Path, tmp_path: Path, kills: int) -> None:
    wanted = a_batch(folder, tmp_path, kills)
    kill_often(folder, tmp_path / "records", None, kills)
    assert in_folder(tmp_path / "records") == dict.fromkeys(wanted, 1)
    assert_all_noted(folder, len(wanted))


@on_postgresql_slowly
@pytest.mark.parametrize("kills", ROUNDS)
def test_killed_at_random_moments_it_creates_every_entry_once(folder: Path, tmp_path: Path, kills: int) -> None:
    wanted = a_batch(folder, tmp_path, kills)
    with FhirDouble() as double:
        kill_often(folder, tmp_path / "records", double.base_url, kills)
        assert double.times_created() == dict.fromkeys(wanted, 1)
        # one that is killed while the server is at work may be followed by another before it has ended
        assert set(double.failures) <= {"the same entry is created by two at the same time"}
    assert_all_noted(folder, len(wanted))
