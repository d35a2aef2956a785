import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.rules import cells
from batch_pipeline_tests.rules.duck import evaluate

ODD = "nNaAlLuU/-.<>#() \t\n\r\x0b\x1c\x85\xa0\u200b\u2028\ufeff\u2011–—İıſK\u00ad"
any_cell = st.one_of(st.none(), st.text(max_size=8), st.text(st.sampled_from(ODD), max_size=8))


@pytest.mark.parametrize(
    "cell",
    [None, "", " ", "\xa0", "\u200b", "-", " - ", "–", "nan", "NaN", "NULL", "null", "n/a", "N/A", "#N/A", "<NA>"],
)
def test_a_cell_that_says_nothing_is_empty(cell: str | None) -> None:
    assert cells.is_empty(cell)


@pytest.mark.parametrize("cell", ["0", "no", "x", "--x", "nano", "unknown", "n/a/"])
def test_anything_else_is_not_empty(cell: str) -> None:
    assert not cells.is_empty(cell)


def test_tidying_takes_out_what_nobody_sees() -> None:
    assert cells.tidy("\ufeff a\u200bb\xa0\t c\u202f") == "ab c"


def test_every_space_of_python_is_a_space() -> None:
    every = [chr(code) for code in range(sys.maxunicode) if chr(code).isspace()]
    assert cells.tidy("".join(every)) == ""
    assert all(cells.tidy(f"a{space}b") == "a b" for space in every)


def test_no_visible_character_is_taken_out() -> None:
    kept = [chr(code) for code in range(sys.maxunicode) if unicodedata.category(chr(code))[0] in "LNPS"]
    assert all(cells.tidy(character) == character for character in kept)


@settings(max_examples=50, deadline=None)
@given(st.lists(any_cell, min_size=1, max_size=50))
def test_sql_agrees_with_python(texts: list[str | None]) -> None:
    assert evaluate(cells.tidied_sql, texts) == [None if text is None else cells.tidy(text) for text in texts]
    assert evaluate(cells.empty_sql, texts) == [cells.is_empty(text) for text in texts]
    assert evaluate(cells.blank_sql, texts) == [cells.is_blank(text) for text in texts]


@pytest.mark.parametrize(
    "name", ["Null", "NULL-SMITH", "Nan", "NA", "na", "None A", "Noor", "O'Hara", "Müller", "de la Cruz"]
)
def test_a_name_stays_a_name(name: str) -> None:
    assert evaluate(cells.name_sql, [name, f" {name}\u200b"]) == [name, name]


@pytest.mark.parametrize(
    "cell", ["NULL", "null", "nan", "NaN", "None", "none", "NaT", "-", " n/a", "<NA>", "#N/A", ".", "", None]
)
def test_a_cell_that_names_nobody(cell: str | None) -> None:
    assert evaluate(cells.name_sql, [cell]) == [None]


@settings(max_examples=50, deadline=None)
@given(st.lists(any_cell, min_size=1, max_size=50))
def test_a_name_is_tidied_or_nothing(texts: list[str | None]) -> None:
    nothing = evaluate(cells.empty_name_sql, texts)
    tidied = [None if empty else cells.tidy(text or "") for text, empty in zip(texts, nothing, strict=True)]
    assert evaluate(cells.name_sql, texts) == tidied
