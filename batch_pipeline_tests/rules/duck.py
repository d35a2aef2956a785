"""A DuckDB expression over a list of cells, for tests that hold SQL against its Python truth."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def evaluate(sql_of: Callable[..., str], *columns: Sequence[str | None]) -> list[Any]:
    """The values of ``sql_of("c0", "c1", …)``, row by row; structs as tuples."""
    names = [f"c{number}" for number in range(len(columns))]
    rows = pa.table({name: pa.array(cells, pa.string()) for name, cells in zip(names, columns, strict=True)})
    connection = _connection()
    connection.register("rows_under_test", rows)
    found = connection.execute(f"SELECT {sql_of(*names)} FROM rows_under_test").fetchall()
    connection.unregister("rows_under_test")
    return [tuple(value.values()) if isinstance(value, dict) else value for (value,) in found]


def answers(query_of: Callable[[str], str], texts: Sequence[str | None]) -> list[Any]:
    """The ``answer`` of ``query_of("texts")``, a query over a relation with the column ``raw``; structs as tuples."""
    connection = _connection()
    connection.register("texts_under_test", pa.table({"raw": pa.array(texts, pa.string())}))
    found = connection.execute(query_of("texts_under_test")).fetchall()
    connection.unregister("texts_under_test")
    assert [raw for raw, _ in found] == list(texts)
    return [None if answer is None else tuple(answer.values()) for _, answer in found]
