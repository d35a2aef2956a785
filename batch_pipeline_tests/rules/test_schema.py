from datetime import date
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.rules import nhs_number, schema
from batch_pipeline.rules.rejections import REJECTIONS

TODAY = date(2026, 11, 22)
VALID = "9990000018"
GOOD = date(1980, 1, 31)
TABLE = [
    ((VALID, True, GOOD), None),
    ((VALID, True, date(1900, 1, 1)), None),
    ((VALID, True, TODAY), None),
    ((None, True, GOOD), "nhs_number_missing"),
    (("9990000019", True, GOOD), "nhs_number_invalid"),
    (("1111111111", True, GOOD), "nhs_number_invalid"),
    ((VALID, True, None), "date_of_birth_invalid"),
    ((VALID, True, date(1899, 12, 31)), "date_of_birth_invalid"),
    ((VALID, True, date(2026, 11, 23)), "date_of_birth_invalid"),
    ((VALID, False, None), "date_of_birth_missing"),
    (("x", True, None), "nhs_number_invalid"),
    ((None, False, None), "nhs_number_missing"),
]
Row = tuple[str | None, bool, date | None]


def frame_of(rows: list[Row], kind: str = "datetime64[us]") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "nhs_number": pd.Series([row[0] for row in rows], dtype="str"),
            "date_of_birth_given": pd.Series([row[1] for row in rows], dtype="bool"),
            "date_of_birth": pd.Series([row[2] for row in rows], dtype=kind),
        }
    )


def codes(frame: pd.DataFrame, *, needs: bool = True) -> dict[int, str]:
    found = schema.failures(frame, needs_date_of_birth=needs, today=TODAY)
    assert list(found.columns) == ["position", "code"]
    return dict(zip(found["position"].tolist(), found["code"].tolist(), strict=True))


@pytest.mark.parametrize("kind", ["datetime64[us]", "datetime64[ns]", "object"])
def test_each_row_has_the_first_reason_that_holds(kind: str) -> None:
    frame = frame_of([row for row, _ in TABLE], kind)
    assert codes(frame) == {at: code for at, (_, code) in enumerate(TABLE) if code}


def test_a_missing_date_of_birth_matters_only_when_a_link_asks_for_it() -> None:
    assert codes(frame_of([(VALID, False, None)]), needs=False) == {}


def test_positions_count_from_nought_whatever_the_index() -> None:
    frame = frame_of([(VALID, True, GOOD), ("x", True, GOOD)] * 2)
    frame.index = pd.Index([7, 7, 3, 9])
    assert list(codes(frame)) == [1, 3]


def test_a_clean_or_empty_chunk_has_no_failures() -> None:
    assert codes(frame_of([(VALID, True, GOOD)])) == {}
    assert codes(frame_of([])) == {}


def test_the_codes_are_those_that_reports_know() -> None:
    assert set(schema.CODES) <= REJECTIONS.keys()


def test_a_frame_that_cannot_be_checked_is_refused_without_its_cells() -> None:
    frame = frame_of([(VALID, True, GOOD)])
    frame["date_of_birth_given"] = [VALID]
    with pytest.raises((ValueError, TypeError)) as refused:
        codes(frame)
    assert VALID not in str(refused.value)


def test_the_schema_says_what_it_checks() -> None:
    shown = schema.patient_rows(needs_date_of_birth=True, today=TODAY)
    described: list[Any] = [check.description for column in shown.columns.values() for check in column.checks]
    assert len(described) == 5
    assert all(described)


numbers = st.sampled_from([None, VALID, "9990000019", "123", "x", "1111111111"])
given_dates = st.one_of(st.none(), st.dates(date(1890, 1, 1), date(2030, 1, 1)))
rows_of_any_kind = st.builds(
    lambda number, given, found: (number, given or bool(found), found), numbers, st.booleans(), given_dates
)


@settings(max_examples=50, deadline=None)
@given(st.lists(rows_of_any_kind, max_size=30), st.booleans())
def test_the_schema_agrees_with_the_rule_row_by_row(rows: list[Row], needs: bool) -> None:
    def code(row: Row) -> str | None:
        number, is_given, found = row
        if number is None:
            return "nhs_number_missing"
        if not nhs_number.is_valid(number):
            return "nhs_number_invalid"
        if is_given and (found is None or not date(1900, 1, 1) <= found <= TODAY):
            return "date_of_birth_invalid"
        return "date_of_birth_missing" if needs and not is_given else None

    assert codes(frame_of(rows), needs=needs) == {at: code(row) for at, row in enumerate(rows) if code(row)}
