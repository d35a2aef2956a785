import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.reports.formulas import safe, safe_sql

STARTERS = "=+-@\t\r\n＝＋－＠﹦﹢﹣﹫\u2212"
INVISIBLE = " \xa0\u200b\ufeff\u3000\x00\x1f\u2060"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+447700900123", "'+447700900123"),
        ("-5", "'-5"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\ntext", "'\ntext"),
        ("＝1+1", "'＝1+1"),
        ("   =1+1", "'   =1+1"),
        ("\u200b\xa0=1+1", "'\u200b\xa0=1+1"),
        (" \t text", "' \t text"),
        ("", ""),
        ("   ", "   "),
        ("O'Brien", "O'Brien"),
        ("Smith-Jones", "Smith-Jones"),
        ("a=1", "a=1"),
        ("9990000018", "9990000018"),
        ("1980-01-31", "1980-01-31"),
        ("'=1", "'=1"),
    ],
)
def test_only_what_begins_like_a_formula_gets_an_apostrophe(text: str, written: str) -> None:
    assert safe(text) == written


cells = st.text() | st.text(st.sampled_from(STARTERS + INVISIBLE + "a1'\""))


@settings(max_examples=40)
@given(st.lists(cells, min_size=20, max_size=60))
def test_sql_makes_cells_as_safe_as_python_does(duck: duckdb.DuckDBPyConnection, texts: list[str]) -> None:
    duck.register("given", pa.table({"n": range(len(texts)), "text": pa.array(texts, pa.string())}))
    found = duck.sql(f"SELECT {safe_sql('text')} FROM given ORDER BY n").fetchall()
    assert [row[0] for row in found] == [safe(text) for text in texts]


@given(cells)
def test_what_is_safe_stays_as_it_is_and_nothing_safe_begins_a_formula(text: str) -> None:
    once = safe(text)
    assert safe(once) == once
    assert once.lstrip(INVISIBLE + "\t\r\n")[:1] not in tuple("=+-@＝＋－＠")


def test_null_stays_null(duck: duckdb.DuckDBPyConnection) -> None:
    assert duck.sql(f"SELECT {safe_sql('NULL::VARCHAR')}").fetchall() == [(None,)]
