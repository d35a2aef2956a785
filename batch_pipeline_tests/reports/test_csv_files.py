import csv
import stat
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.reports import csv_files
from batch_pipeline.reports.columns import Column
from batch_pipeline.reports.csv_files import write_csv
from batch_pipeline.reports.formulas import safe

COLUMNS = (Column("line", "Line", ""), Column("name", "Name, as typed", ""))


def written(duck: duckdb.DuckDBPyConnection, path: Path, rows: list[tuple[int | None, str | None]]) -> bytes:
    lines, names = zip(*rows, strict=True) if rows else ((), ())
    table = pa.table({"name": pa.array(names, pa.string()), "line": pa.array(lines, pa.int32())})
    assert write_csv(duck.from_arrow(table), path, COLUMNS) == len(rows)
    return path.read_bytes()


def read_back(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def test_a_report_has_a_byte_order_mark_headings_crlf_and_quotes_where_needed(
    duck: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    found = written(duck, tmp_path / "r.csv", [(1, "Ann"), (2, 'Smith, "Bob"'), (3, None), (-4, "=1")])
    lines = ['Line,"Name, as typed"', "1,Ann", '2,"Smith, ""Bob"""', "3,", "-4,'=1", ""]
    assert found == b"\xef\xbb\xbf" + "\r\n".join(lines).encode()


def test_an_empty_report_still_has_its_headings(duck: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    assert written(duck, tmp_path / "r.csv", []) == b'\xef\xbb\xbfLine,"Name, as typed"\r\n'


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**31), 2**31 - 1),
            st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
        ),
        max_size=20,
    )
)
def test_every_cell_comes_back_from_a_csv_reader(
    duck: duckdb.DuckDBPyConnection, tmp_path_factory: Any, rows: list[tuple[int, str | None]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "r.csv"
    written(duck, path, [*rows])
    wanted = [[str(line), safe(name or "")] for line, name in rows]
    assert read_back(path)[1:] == wanted


def test_only_its_owner_can_read_a_report_and_its_folder(duck: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "reports" / "flu" / "r.csv"
    written(duck, path, [(1, "Ann")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_report_that_fails_leaves_the_old_one_and_no_trace(
    duck: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.csv"
    before = written(duck, path, [(1, "Ann")])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        written(duck, path, [(2, "Bob")])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.csv"]


def test_rows_keep_the_order_of_the_relation_over_many_batches(duck: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    relation = duck.sql("SELECT 200000 - range AS line, 'n' || range AS name FROM range(200000) ORDER BY line")
    assert write_csv(relation, tmp_path / "r.csv", COLUMNS) == 200_000
    rows = read_back(tmp_path / "r.csv")
    assert [int(row[0]) for row in rows[1:]] == list(range(1, 200_001))
    assert rows[1] == ["1", "n199999"]


@pytest.mark.slow
def test_a_million_rows_take_seconds(duck: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    columns = tuple(Column(f"c{n}", f"C{n}", "") for n in range(10))
    cells = ", ".join(f"'some text ' || range AS c{n}" for n in range(10))
    began = time.perf_counter()
    write_csv(duck.sql(f"SELECT {cells} FROM range(1000000)"), tmp_path / "r.csv", columns)
    assert time.perf_counter() - began < 20
