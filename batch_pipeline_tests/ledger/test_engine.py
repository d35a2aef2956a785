import signal
import sqlite3
import stat
import traceback
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from batch_pipeline.errors import Refused
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import batches, facts
from batch_pipeline_tests.ledger import given
from batch_pipeline_tests.ledgers import on_postgresql_alone, on_sqlite_alone
from batch_pipeline_tests.postgres import Cluster
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
@on_sqlite_alone
@pytest.mark.usefixtures("awaited_disks")
def test_what_is_committed_is_on_disk_and_processes_wait_for_each_other(
    ledger: Ledger, pragma: str, value: object
) -> None:
    with ledger.read() as connection:
        assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


def test_many_processes_may_start_a_new_ledger_at_once(empty_database: str) -> None:
    processes = [CONTEXT.Process(target=given.note_a_fact, args=(empty_database, str(number))) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    with Ledger.open(empty_database).read() as connection:
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


CELL = "9990000018"


def _write(ledger: Ledger, statement: sa.Executable, *values: Any) -> None:
    with ledger.write() as connection:
        connection.execute(statement, *values)


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        pytest.param(sa.insert(batches), {"batch": CELL}, id="a column is left out"),
        pytest.param(sa.insert(facts), {"name": CELL, "value": ""}, id="a key is there already"),
        pytest.param(sa.insert(facts), [{"name": CELL, "value": ""}] * 2, id="the same, of many rows"),
        pytest.param(sa.insert(facts), {"name": {CELL}, "value": ""}, id="no value that the driver knows"),
    ],
)
def test_a_failing_statement_does_not_tell_the_values(ledger: Ledger, statement: sa.Executable, values: Any) -> None:
    _write(ledger, sa.insert(facts).values(name=CELL, value=""))
    with pytest.raises(DBAPIError) as failure:
        _write(ledger, statement, values)
    assert CELL not in "".join(traceback.format_exception(failure.value))


@on_postgresql_alone
@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("SELECT CAST(:cell AS integer)", f"{CELL}x"),
        ("SELECT CAST(:cell AS date)", CELL),
        ("SELECT CAST(CAST(:cell AS text) AS integer)", f"{CELL}x"),
        ("SELECT CAST(:cell AS text)", f"{CELL}\0"),
    ],
)
def test_what_postgresql_cannot_take_is_not_told_either(ledger: Ledger, statement: str, value: str) -> None:
    with pytest.raises(DBAPIError) as failure:
        _write(ledger, sa.text(statement), {"cell": value})
    assert CELL not in "".join(traceback.format_exception(failure.value))


@on_postgresql_alone
def test_a_commit_is_on_disk_also_where_the_database_would_not_wait_for_it(folder: Path) -> None:
    with given.open_ledger(folder).read() as connection:
        assert connection.scalar(sa.text("SHOW synchronous_commit")) == "on"


@pytest.mark.postgresql
def test_a_database_in_another_encoding_is_refused(cluster: Cluster) -> None:
    with cluster.connect() as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(Refused, match=r"latin is in LATIN1.*createdb --encoding UTF8"):
        Ledger.open(cluster.url("latin"))


@pytest.mark.postgresql
@pytest.mark.parametrize("how", ["postgresql+psycopg://someone:secret@", "postgresql+psycopg://someone@"])
def test_a_server_that_is_not_there_is_refused_by_name_and_without_its_password(how: str) -> None:
    url = f"{how}127.0.0.1:1/flu" + ("" if "secret" in how else "?password=secret")
    with pytest.raises(Refused, match=r"127\.0\.0\.1:1/flu can't be reached .*refused.* LEDGER_URL") as refusal:
        Ledger.open(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.postgresql
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT, signal.SIGINT])
def test_a_server_that_goes_away_is_refused_and_used_again_when_it_is_back(
    own_cluster: Cluster, how: signal.Signals
) -> None:
    ledger = Ledger.open(own_cluster.url(own_cluster.new_database()))

    def lose_the_server() -> None:
        with ledger.write() as connection:
            connection.execute(sa.insert(facts).values(name=CELL, value=""))
            own_cluster.crash(how)

    with pytest.raises(Refused, match=r"can't be reached .*do the same again") as refusal:
        lose_the_server()
    assert CELL not in "".join(traceback.format_exception(refusal.value))
    with pytest.raises(Refused, match="can't be reached"):
        ledger.migrate()
    own_cluster.start()
    with ledger.read() as connection:
        assert connection.scalar(sa.select(facts.c.name)) is None


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
