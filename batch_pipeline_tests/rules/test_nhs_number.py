import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batch_pipeline.rules import nhs_number
from batch_pipeline_tests.rules.duck import evaluate

VALID = "9990000018"
any_number = st.one_of(
    st.from_regex(r"999[0-9]{7}", fullmatch=True),
    st.from_regex(r"[0-9Oo .\-E+]{1,13}", fullmatch=True),
    st.integers(0, 999_999)
    .map(lambda drawn: f"999{drawn:06}")
    .map(lambda nine: f"{nine}{nhs_number.check_digit(nine) or 0}"),
    st.sampled_from([digit * 10 for digit in "0123456789"]),
    st.text(max_size=12),
)


@pytest.mark.parametrize("number", ["9990000018", "9990000026", "9990000034", "9990000042", "9990000050"])
def test_fixture_numbers_are_valid(number: str) -> None:
    assert nhs_number.is_valid(number)


@pytest.mark.parametrize(
    "cell",
    [
        "999 000 0018",
        "999-000-0018",
        "999O0o0018",
        "(999) 000 0018",
        "9990000018.0",
        "\u200b9990000018\xa0",
        "999–000–0018",
    ],
)
def test_dirt_is_mended(cell: str) -> None:
    assert nhs_number.normalise(cell) == VALID


@pytest.mark.parametrize("cell", [None, "", " ", "nan", "NULL", "-"])
def test_a_cell_that_says_nothing_has_no_number(cell: str | None) -> None:
    assert nhs_number.normalise(cell) is None


@pytest.mark.parametrize(
    ("number", "detail"),
    [
        ("999000001", "9 digits"),
        ("99900000180", "11 digits"),
        ("1", "1 digit"),
        ("9990000019", nhs_number.CHECK_DIGIT),
        ("9.99E+09", nhs_number.SCIENTIFIC),
        ("9.99000E+9", nhs_number.SCIENTIFIC),
        ("9990000018x", nhs_number.NOT_DIGITS),
        ("999000001٨", nhs_number.NOT_DIGITS),
        *[(digit * 10, nhs_number.REPEATED) for digit in "0123456789"],
    ],
)
def test_an_invalid_number_says_why(number: str, detail: str) -> None:
    assert nhs_number.problem(number) == detail


def test_a_remainder_check_of_ten_is_invalid_whatever_the_digit() -> None:
    nine = next(f"9990{n:05}" for n in range(100) if nhs_number.check_digit(f"9990{n:05}") is None)
    assert not any(nhs_number.is_valid(f"{nine}{digit}") for digit in range(10))


def test_changing_any_one_digit_makes_it_invalid() -> None:
    changed = {VALID[:at] + digit + VALID[at + 1 :] for at in range(10) for digit in "0123456789"} - {VALID}
    assert not any(map(nhs_number.is_valid, changed))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), any_number), min_size=1, max_size=60))
@example(["{", "-0-", "()"])
def test_sql_and_numpy_agree_with_python(texts: list[str | None]) -> None:
    numbers = [nhs_number.normalise(text) for text in texts]
    assert evaluate(nhs_number.normalised_sql, texts) == numbers
    problems = [None if number is None else nhs_number.problem(number) for number in numbers]
    assert evaluate(nhs_number.problem_sql, numbers) == problems
    expected = [nhs_number.is_valid(number) for number in numbers]
    for dtype in ("object", "str", pd.ArrowDtype(pa.string())):
        assert nhs_number.are_valid(pd.Series(numbers, dtype=dtype)).tolist() == expected


def test_numpy_takes_a_column_in_pieces_and_a_part_of_one() -> None:
    column = pd.concat([pd.Series(["1", VALID, None], dtype=pd.ArrowDtype(pa.string()))] * 3)
    assert nhs_number.are_valid(column.iloc[2:]).tolist() == [False, False, True, False, False, True, False]
