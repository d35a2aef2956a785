from pathlib import Path

import pytest

from batch_pipeline.reports.columns import REPORTS, Report, print_table
from batch_pipeline.rules.follow_up import FOLLOW_UPS
from batch_pipeline.rules.reasons import REASONS

DOCUMENT = Path(__file__).parents[2] / "docs" / "reports.md"


@pytest.mark.parametrize("report", REPORTS.values(), ids=list(REPORTS))
def test_the_documentation_has_every_column_as_it_is(report: Report) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert f"## {report.title}: `{report.file}`\n" in document
    assert print_table(report) in document


def test_the_documentation_has_every_reason_and_follow_up_as_it_is() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    rows = [
        *(f"| {row.label} | `{row.code}` | {row.when} | {row.remedy} |" for row in REASONS),
        *(f"| {row.label} | `{row.code}` | {row.remedy} |" for row in FOLLOW_UPS),
    ]
    assert [row for row in rows if row not in document] == []


@pytest.mark.parametrize("report", REPORTS.values(), ids=list(REPORTS))
def test_names_and_headings_are_unique(report: Report) -> None:
    for part in ("name", "heading"):
        found = [getattr(column, part) for column in report.columns]
        assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("file", "headings"),
    [
        (
            "non_contactable.csv",
            "Line,NHS number,Name,Date of birth,Primary reason,All reasons,Detail,Remedy,Reason codes",
        ),
        ("rejected_rows.csv", "Line,NHS number,Name,Date of birth,Reason,Detail,Remedy,Reason code"),
        ("duplicates.csv", "Line,Line that stays,Details differ"),
        (
            "follow_up.csv",
            "Line,NHS number,Name,Date of birth,Sent by,What happened,Detail,What to do,Since,Provider,Code",
        ),
        (
            "outcomes.csv",
            (
                "Line,NHS number,Path,Rule,Snapshot,Provider,Outcome,Ended,State,Queued,Begun,Accepted,Delivered,Read,"
                "Failed,Failure,Failure code,Timed out,Fallback policy,Fallback provider,Fallback state,Fallback queued,"
                "Fallback accepted,Fallback delivered,Fallback failed,Fallback failure,Fallback failure code,"
                "Fallback timed out,No fallback,No fallback because,Double contact,Fragments,"
                "Reminders,Last reminded"
            ),
        ),
    ],
)
def test_columns_stand_in_the_order_that_people_s_spreadsheets_count_on(file: str, headings: str) -> None:
    """New ones go to the end."""
    assert [column.heading for column in REPORTS[file].columns] == headings.split(",")
