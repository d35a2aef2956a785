"""Writing a report: CSV that opens clean in Excel, whole or not at all, for its owner's eyes only.

UTF-8 with a byte order mark, CRLF, quotes only where they are needed, no cell that runs as a formula. DuckDB makes
the lines, Arrow hands over their bytes: a million rows take seconds and no Python object each.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import duckdb
import numpy as np
import pyarrow as pa

from batch_pipeline.reports.columns import Column
from batch_pipeline.reports.formulas import safe, safe_sql

_BOM = b"\xef\xbb\xbf"
_ROWS = 50_000


def write_csv(relation: duckdb.DuckDBPyRelation, path: Path, columns: Sequence[Column]) -> int:
    """Writes ``columns`` of the relation, in their order, and gives the number of rows; the headings always stand.

    A reader sees the old file or the whole new one. Text cells are made safe; numbers are written as they are.
    """
    kinds = dict(zip(relation.columns, (str(kind) for kind in relation.types), strict=True))
    cells = [_cell_sql(f'"{column.name}"', is_text=kinds[column.name] == "VARCHAR") for column in columns]
    # One function of all the cells: a chain of || would copy each line once a cell.
    lines = relation.project("concat(" + ", ',', ".join(cells) + ", chr(13) || chr(10)) AS line")
    rows = 0
    with _replacing(path) as file:
        file.write(_BOM + (",".join(_quoted(safe(column.heading)) for column in columns) + "\r\n").encode())
        for batch in lines.to_arrow_reader(_ROWS):
            file.write(_bytes(batch.column(0)))
            rows += batch.num_rows
    return rows


def _cell_sql(column: str, *, is_text: bool) -> str:
    if not is_text:
        return f"coalesce({column}::VARCHAR, '')"
    text = safe_sql(column)
    # Most cells are plain, or need no more than quotes around them: one look, or two, are enough for those.
    return (
        f"""CASE WHEN regexp_matches({column}, '^[A-Za-z0-9][^",;\r\n\t]*$') THEN {column} """
        f"""WHEN {column} IS NULL THEN '' WHEN regexp_matches({column}, '^[A-Za-z0-9][^"]*$') THEN '"' || {column} || '"' """
        f"""WHEN regexp_matches({column}, '[",;\r\n\t]') """
        f"""THEN '"' || replace({text}, '"', '""') || '"' ELSE {text} END"""
    )


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set('",;\r\n\t') else text


def _bytes(lines: pa.Array) -> memoryview:
    """The bytes of all the lines, one after the other, as they lie in Arrow's memory."""
    is_large = pa.types.is_large_string(lines.type)
    _, offsets, data = lines.buffers()
    ends = np.frombuffer(offsets, np.int64 if is_large else np.int32)
    return memoryview(data)[int(ends[lines.offset]) : int(ends[lines.offset + len(lines)])]


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file, mode 0600, that takes the place of ``path`` once it is whole and on disk; else leaves no trace."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(file.name).unlink()
            raise
    _sync_directory(path.parent)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
