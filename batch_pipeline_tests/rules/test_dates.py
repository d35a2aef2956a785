from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.rules import dates
from batch_pipeline.rules.dates import DobProblem
from batch_pipeline_tests.rules.duck import evaluate

TODAY = date(2026, 11, 22)
NAMES = [name for names in dates.MONTHS for name in names]
ODD = "0123456789/-. :TtJanmayſ\u200b\xa0–٣"


@st.composite
def date_like(draw: st.DrawFn) -> str:
    mark = draw(st.sampled_from("/-. "))
    day, month = (draw(st.sampled_from(["{}", "{:02}"])).format(draw(st.integers(0, 32))) for _ in range(2))
    month = draw(st.sampled_from([month, *NAMES, "JAN", "may", "ſep", "Janu"]))
    year = draw(st.sampled_from([1980, 2000, 1900, 1899, 2026, 2027, 80, 999, "0000", 9999, 19800]))
    tail = draw(st.sampled_from(["", " 00:00", "T00:00:00", " 0:00", " 12:00", " 00:00:00.000", "Z", " "]))
    shape = draw(st.sampled_from(["{d}{s}{m}{s}{y}{t}", "{y}{s}{m}{s}{d}{t}", "{d}{s}{m}-{y}{t}"]))
    return shape.format(d=day, m=month, y=year, s=mark, t=tail)


any_cell = st.one_of(st.none(), date_like(), st.text(max_size=12), st.text(st.sampled_from(ODD), max_size=12))


@pytest.mark.parametrize(
    "cell",
    [
        "31/01/1980",
        "31-01-1980",
        "31.01.1980",
        "31-Jan-1980",
        "31-JAN-1980",
        "31 January 1980",
        "31/january/1980",
        "31/1/1980",
        "1980-01-31",
        "1980-01-31 00:00",
        "1980-01-31T00:00:00",
        "31/01/1980 00:00:00.000",
        "31-Jan-1980 00:00",
        " 31/01/1980 ",
        "\xa031/01/1980",
        "31–01–1980",
        "31 \u200bJan 1980",
    ],
)
def test_a_date_is_read_day_first_or_iso(cell: str) -> None:
    assert dates.parse(cell, TODAY) == date(1980, 1, 31)


def test_an_ambiguous_date_is_day_first() -> None:
    assert dates.parse("1/2/1980", TODAY) == date(1980, 2, 1)


@pytest.mark.parametrize(("month", "names"), list(enumerate(dates.MONTHS, 1)))
def test_every_name_of_a_month_is_understood(month: int, names: tuple[str, ...]) -> None:
    assert {dates.read(f"1-{name}-1980") for name in names} == {date(1980, month, 1)}
    assert set(evaluate(dates.sql, [f"1 {name.lower()} 1980" for name in names])) == {date(1980, month, 1)}


@pytest.mark.parametrize("cell", [None, "", " ", "nan", "-", "NULL"])
def test_a_cell_that_says_nothing_has_no_date(cell: str | None) -> None:
    assert dates.parse(cell, TODAY) is None


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("31-Jan-80", DobProblem.TWO_DIGIT_YEAR),
        ("31/01/80", DobProblem.TWO_DIGIT_YEAR),
        ("12/31/1980", DobProblem.NO_SUCH_DAY),
        ("29/02/1981", DobProblem.NO_SUCH_DAY),
        ("1980-02-30", DobProblem.NO_SUCH_DAY),
        ("00/01/1980", DobProblem.NO_SUCH_DAY),
        ("23/11/2026", DobProblem.FUTURE),
        ("31/12/1899", DobProblem.BEFORE_1900),
        ("31/01-1980", DobProblem.UNREADABLE),
        ("31/01/1980 13:45", DobProblem.UNREADABLE),
        ("1980-01-31T23:00:00Z", DobProblem.UNREADABLE),
        ("1980-1-31", DobProblem.UNREADABLE),
        ("29250", DobProblem.UNREADABLE),
        ("1980", DobProblem.UNREADABLE),
        ("unknown", DobProblem.UNREADABLE),
        ("٣1/01/1980", DobProblem.UNREADABLE),
    ],
)
def test_what_is_no_date_of_birth_says_why(cell: str, problem: DobProblem) -> None:
    assert dates.parse(cell, TODAY) == problem


@pytest.mark.parametrize("cell", ["22/11/2026", "01/01/1900", "29/02/2000"])
def test_the_limits_are_inside(cell: str) -> None:
    assert isinstance(dates.parse(cell, TODAY), date)


@settings(max_examples=25, deadline=None)
@given(st.lists(any_cell, min_size=20, max_size=200))
def test_sql_agrees_with_python(texts: list[str | None]) -> None:
    read = [dates.read(text) for text in texts]
    assert evaluate(dates.sql, texts) == [found if isinstance(found, date) else None for found in read]
    parsed = [dates.parse(text, TODAY) for text in texts]
    problems = [found.value if isinstance(found, DobProblem) else None for found in parsed]
    assert evaluate(lambda column: dates.problem_sql(column, dates.sql(column), TODAY), texts) == problems
