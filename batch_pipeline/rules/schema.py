"""What a row of the cohort must hold to be a patient, as a pandera schema (SPEC 2.2).

`patient_rows` is the schema, to be read and shown. `failures` applies it to a chunk of rows and answers with positions and
codes (those of ``rejections``) alone: pandera's own failure cases carry the cells, and stay inside.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# (pyarrow comes without types)

from datetime import date
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow  # noqa: ICN001 - pa is pandera here

from batch_pipeline.rules import dates, nhs_number

# In the order of precedence: the first that holds is the reason why the row is rejected.
CODES: Final = ("nhs_number_missing", "nhs_number_invalid", "date_of_birth_invalid", "date_of_birth_missing")


def patient_rows(*, needs_date_of_birth: bool, today: date) -> pa.DataFrameSchema:
    """The schema of read and mended rows, as of ``today`` in the workspace's time zone.

    ``needs_date_of_birth``: the message carries a link that asks for the date of birth.
    """
    nhs_number_checks = [
        pa.Check(_is_there, name="nhs_number_missing", ignore_na=False, description="every row has an NHS number"),
        pa.Check(
            _is_nhs_number,
            name="nhs_number_invalid",
            description="ten digits, the last one the check digit by modulus 11, not one digit ten times",
        ),
    ]

    understood = pa.Check(_is_true, name="date_of_birth_invalid", description="what is there can be read as a date")
    in_range = pa.Check.in_range(  # pyright: ignore[reportUnknownMemberType]
        pd.Timestamp(dates.FIRST_YEAR, 1, 1),
        pd.Timestamp(today),
        name="date_of_birth_invalid",
        description=f"not before {dates.FIRST_YEAR} and not in the future",
    )
    asked_for = pa.Check(
        _is_true, name="date_of_birth_missing", description="the message carries a link that asks for the date of birth"
    )
    return pa.DataFrameSchema(
        name="patient_rows",
        columns={
            "nhs_number": pa.Column(nullable=True, checks=nhs_number_checks, description="mended, as text"),
            "date_of_birth_given": pa.Column(
                bool, checks=asked_for if needs_date_of_birth else None, description="the cell isn't empty"
            ),
            "date_of_birth_understood": pa.Column(bool, checks=understood, description="the cell is empty, or a date"),
            "date_of_birth": pa.Column("datetime64[us]", nullable=True, checks=in_range),
        },
    )


def failures(frame: pd.DataFrame, *, needs_date_of_birth: bool, today: date) -> pd.DataFrame:
    """The rows that are no patients: ``position`` (0-based, whatever the frame's index) and ``code``, one of ``CODES``.

    At most one line per row, in the order of the rows. Meant for chunks of about 100,000 rows. Raises ValueError, without any
    cell's value, when the frame itself isn't what the schema describes.
    """
    schema = patient_rows(needs_date_of_birth=needs_date_of_birth, today=today)
    reason = np.full(len(frame), len(CODES))
    try:
        schema.validate(_checkable(frame), lazy=True)
    except pa.errors.SchemaErrors as errors:
        for error in cast("list[Any]", errors.schema_errors):
            np.minimum.at(reason, _positions(error), CODES.index(error.check.name))
    positions = np.flatnonzero(reason < len(CODES))
    return pd.DataFrame({"position": positions, "code": pd.Series(np.array(CODES)[reason[positions]], dtype="str")})


def _checkable(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of the schema, rows numbered from 0."""
    dates_of_birth = frame["date_of_birth"].astype("datetime64[us]")
    given = cast("pd.Series[bool]", frame["date_of_birth_given"])
    return pd.DataFrame(
        {
            "nhs_number": frame["nhs_number"],
            "date_of_birth_given": given,
            "date_of_birth_understood": ~given | dates_of_birth.notna(),
            "date_of_birth": dates_of_birth,
        }
    ).reset_index(drop=True)


def surely_valid(rows: arrow.RecordBatch, *, needs_date_of_birth: bool, today: date) -> npt.NDArray[np.bool_]:
    """Which rows ``failures`` would find nothing in, told from Arrow's memory some twenty times as fast.

    ``rows``: the schema's columns, ``date_of_birth`` as ``date32``. What is left is for ``failures`` to say.
    """
    days = rows.column("date_of_birth").cast(arrow.int32()).fill_null(-(2**31)).to_numpy(zero_copy_only=False)
    first, last = (np.datetime64(day, "D").astype(np.int32) for day in (date(dates.FIRST_YEAR, 1, 1), today))
    birth = (days >= first) & (days <= last)
    if not needs_date_of_birth:
        birth |= ~rows.column("date_of_birth_given").to_numpy(zero_copy_only=False)
    return birth & nhs_number.are_valid(rows.column("nhs_number"))


def _positions(error: Any) -> npt.NDArray[np.int64]:
    """The rows of one failed check. Raises ValueError, without any cell, when it isn't rows that failed."""
    if error.reason_code is not pa.errors.SchemaErrorReason.DATAFRAME_CHECK:
        column = getattr(error.schema, "name", None)
        raise ValueError(f"the rows can't be checked against the schema: {column}: {error.reason_code.value}") from None
    return error.failure_cases["index"].to_numpy(dtype=np.int64)


def _is_there(column: "pd.Series[Any]") -> "pd.Series[bool]":
    return column.notna()


def _is_nhs_number(column: "pd.Series[str]") -> "pd.Series[bool]":
    return pd.Series(nhs_number.are_valid(column), index=column.index)


def _is_true(column: "pd.Series[bool]") -> "pd.Series[bool]":
    return column
