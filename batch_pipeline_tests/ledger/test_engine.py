import sqlite3
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from batch_pipeline.errors import Refused
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import batches, facts
from batch_pipeline_tests.ledger import given
from batch_pipeline_tests.processes import CONTEXT, is_locked_against_others


def test_its_files_are_readable_by_the_owner_alone(tmp_path: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/home/ledger.sqlite")
    with ledger.write() as connection:
        connection.execute(sa.insert(facts).values(name="a", value="b"))
    files = list((tmp_path / "home").iterdir())
    assert {file.name for file in files} == {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_a_file_that_was_readable_by_others_is_no_longer(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").touch(mode=0o644)
    given.open_ledger(tmp_path)
    assert stat.S_IMODE((tmp_path / "ledger.sqlite").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 300_000)]
)
def test_what_is_committed_is_on_disk_and_processes_wait_for_each_other(
    ledger: Ledger, pragma: str, value: object
) -> None:
    with ledger.read() as connection:
        assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


def test_many_processes_may_start_a_new_ledger_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    processes = [CONTEXT.Process(target=given.note_a_fact, args=(url, str(number))) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    with Ledger.open(url).read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(facts)) == 8


def test_a_write_that_fails_leaves_nothing(ledger: Ledger) -> None:
    def write_and_fail() -> None:
        with ledger.write() as connection:
            connection.execute(sa.insert(facts).values(name="a", value="b"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with ledger.read() as connection:
        assert connection.scalar(sa.select(facts.c.value)) is None


def test_a_reading_sees_one_state_while_others_write(ledger: Ledger) -> None:
    query = sa.select(sa.func.count()).select_from(facts)
    with ledger.read() as reading:
        before = reading.scalar(query)
        with ledger.write() as writing:
            writing.execute(sa.insert(facts).values(name="a", value="b"))
        assert reading.scalar(query) == before
    with ledger.read() as reading:
        assert reading.scalar(query) == 1


def test_a_failing_statement_does_not_tell_the_values(ledger: Ledger) -> None:
    with pytest.raises(DBAPIError) as failure, ledger.write() as connection:
        connection.execute(sa.insert(batches).values(batch="9990000018"))
    assert "9990000018" not in str(failure.value)


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger) -> None:
    with ledger.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Refused, match="newer than this software"):
        ledger.migrate()


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("nhs_number,mobile\n" * 1000)
    with pytest.raises(Refused, match="isn't a ledger"):
        given.open_ledger(tmp_path)


def test_an_emptied_file_is_a_new_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").touch()
    with given.open_ledger(tmp_path).read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(facts)) == 0


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((Refused, OSError)):
        Ledger.open(f"sqlite:///{tmp_path}/file/ledger.sqlite")


def test_opening_it_twice_in_one_process_keeps_the_locks_on_it(tmp_path: Path) -> None:
    """Without them another process that ends would delete the -wal file, and what was committed with it."""
    first, path = given.open_ledger(tmp_path), tmp_path / "ledger.sqlite"
    with first.read() as connection:
        connection.execute(sa.select(facts.c.name)).all()
        assert is_locked_against_others(path)
        second = given.open_ledger(tmp_path)
        second.close()
        assert is_locked_against_others(path)


def test_a_folder_in_the_place_of_a_ledger_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").mkdir(mode=0o755)
    with pytest.raises(Refused, match="isn't a file"):
        Ledger.open(f"sqlite:///{tmp_path}/ledger.sqlite")
    assert stat.S_IMODE((tmp_path / "ledger.sqlite").stat().st_mode) == 0o755


def test_the_driver_is_the_one_measured() -> None:
    assert sqlite3.sqlite_version_info >= (3, 33), "UPDATE … FROM"
