"""A stage's connection: nothing left behind, nobody's cells in an error, files for their owner alone."""

import stat
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batch_pipeline.planning.duck import SetWorkFailed, duck, literal, noted, notes, quoted, scan, write

SECRET = "07700 900999 GREEN"


@pytest.mark.parametrize(
    "statement",
    [
        f"SELECT CAST('{SECRET}' AS INTEGER)",
        f"SELECT error('{SECRET}')",
        f'SELECT "{SECRET}"',
        f"SELEC '{SECRET}'",
        f"FROM '/nowhere/{SECRET}.parquet'",
    ],
)
def test_an_error_quotes_no_cell(tmp_path: Path, statement: str) -> None:
    with pytest.raises(SetWorkFailed) as failed, duck(tmp_path) as con:
        con.execute(statement).fetchall()
    assert SECRET not in str(failed.value)
    assert failed.value.__suppress_context__


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), duck(tmp_path):
        _ = 1 / 0


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(tmp_path: Path, fails: bool) -> None:
    scratch = tmp_path / "scratch"
    try:
        with duck(scratch, memory_limit="50MB", threads=1) as con:
            con.execute("CREATE TEMP TABLE numbers AS SELECT range AS n, md5(range::VARCHAR) AS m FROM range(200_000)")
            con.execute("SELECT nonsense" if fails else "SELECT 1")
    except SetWorkFailed:
        assert fails
    assert list(scratch.iterdir()) == []
    assert stat.S_IMODE(scratch.stat().st_mode) == 0o700


def test_a_connection_keeps_to_its_memory_and_threads(tmp_path: Path) -> None:
    with duck(tmp_path, memory_limit="300MB", threads=1) as con:
        settings = dict(con.sql("SELECT name, value FROM duckdb_settings()").fetchall())
    assert settings["threads"] == "1"
    assert settings["memory_limit"].startswith("286")  # MiB
    assert settings["autoinstall_known_extensions"] == "false"


def test_a_table_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "it's here" / "table"
    with duck(tmp_path / "scratch") as con:
        write(con, "SELECT 1 AS n", path)
        assert con.sql(f"SELECT n FROM {scan(path)}").fetchall() == [(1,)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["", "x", "it's", "''", "a\\b", "{{ x }}", "\u2019", 'he said "no"', "a\nb", "; DROP"])
def test_a_text_is_itself_as_a_literal(tmp_path: Path, text: str) -> None:
    with duck(tmp_path) as con:
        assert con.sql(f"SELECT {literal(text)}, '{quoted(text)}'").fetchall() == [(text, text)]


def test_nothing_is_null_as_a_literal() -> None:
    assert literal(None) == "NULL"


def test_tables_note_what_they_were_made_from(tmp_path: Path) -> None:
    with duck(tmp_path / "scratch") as con:
        with noted(snapshot="it's old", content="a"), noted(content="b"):
            write(con, "SELECT 1 AS n", tmp_path / "noted")
        write(con, "SELECT 1 AS n", tmp_path / "bare")
    assert notes(tmp_path / "noted") == {"snapshot": "it's old", "content": "b"}
    assert notes(tmp_path / "bare") == {}


def test_a_table_stands_in_the_order_that_its_query_asks_for(tmp_path: Path) -> None:
    with duck(tmp_path / "scratch") as con:
        write(con, "SELECT range AS n, hash(range) AS h FROM range(400_000) ORDER BY h", tmp_path / "table")
    hashes = pq.read_table(tmp_path / "table")["h"].to_numpy()
    assert (hashes[1:] > hashes[:-1]).all()
