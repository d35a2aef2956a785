"""Cohort files that aren't what they should be: one clear sentence and nothing kept, or the right rows."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline_tests.e2e.surgery import HEADINGS, SECOND, Surgery, T, by_email, by_sms, csv_text, numbered

GOOD = csv_text([person.row() for person in numbered(by_sms, range(3))])


def workbook() -> bytes:
    """Enough of an .xlsx to be one."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as book:
        book.writestr("[Content_Types].xml", "<Types/>")
        book.writestr("xl/workbook.xml", "<workbook/>")
    return out.getvalue()


REFUSED: list[tuple[str, bytes, str]] = [
    ("emptied", b"", "flu.csv is empty; export the list again"),
    ("blank", b"\r\n , ,\r\n\r\n", "flu.csv is empty; export the list again"),
    (
        "header only",
        (",".join(HEADINGS) + "\r\n").encode(),
        "flu.csv: no patients after the headings on line 1; export",
    ),
    ("binary", bytes(range(256)) * 40, "flu.csv is not a text file; export the list as CSV"),
    ("an Excel workbook", workbook(), "flu.csv is an Excel workbook (.xlsx), not a CSV file"),
    ("no headings", GOOD.split("\r\n", 1)[1].encode(), "flu.csv"),
    ("no NHS number", GOOD.replace("NHS number", "Number").encode(), "flu.csv: no heading for the NHS number"),
    ("a heading twice", GOOD.replace("Clinic", "Email").encode(), "flu.csv, line 1: "),
    ("two NHS numbers", GOOD.replace("Clinic", "NHS No").encode(), "flu.csv, line 1: "),
    ("two birth dates", GOOD.replace("Clinic", "DOB").encode(), "flu.csv, line 1: "),
    ("an unclosed quote in the headings", GOOD.replace("Clinic", '"Clinic').encode(), "flu.csv, line 1: "),
]


@pytest.mark.parametrize(("content", "says"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_a_file_that_cannot_be_understood_is_refused_in_one_sentence_and_leaves_nothing(
    surgery: Surgery, content: bytes, says: str
) -> None:
    sentence = surgery.refused("submit", surgery.batch("flu", content), at=T)
    assert sentence.startswith(f"refused: {says}"), sentence
    assert_nothing_is_kept(surgery)
    assert by_sms(1).nhs not in sentence
    assert by_sms(1).surname not in sentence


def test_a_file_over_the_limit_is_refused_before_it_is_copied(
    surgery: Surgery, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = surgery.batch("flu", GOOD)
    huge = spec.with_name("flu.csv")
    os.truncate(huge, 5_000_000_000)  # sparse: five gigabytes that take no room
    sentence = surgery.refused("submit", spec, at=T)
    assert "flu.csv" in sentence
    assert "5,000,000,000 bytes" in sentence
    assert "4,000,000,000" in sentence
    assert_nothing_is_kept(surgery)

    # dropped into the inbox by hand as well
    huge.rename(surgery.home.inbox / huge.name)
    spec.rename(surgery.home.inbox / spec.name)
    assert "5,000,000,000 bytes" in surgery.refused("submit", surgery.home.inbox / spec.name, at=T)
    (surgery.home.inbox / huge.name).unlink()
    (surgery.home.inbox / spec.name).unlink()
    assert_nothing_is_kept(surgery)

    # the limit is the surgery's to set
    monkeypatch.setenv("BATCH_PIPELINE_MAX_COHORT_BYTES", "200")
    assert "200" in surgery.refused("submit", surgery.batch("small", GOOD), at=T)
    assert "200" in surgery.refused("check", surgery.desk / "small.csv", at=T)
    monkeypatch.setenv("BATCH_PIPELINE_MAX_COHORT_BYTES", "nonsense")
    assert "BATCH_PIPELINE_MAX_COHORT_BYTES" in surgery.refused("check", surgery.desk / "small.csv")


def assert_nothing_is_kept(surgery: Surgery) -> None:
    """No batch in the ledger, no cohort, no Parquet, no partition, nothing left half-made."""
    assert surgery.done("status", "--json").json == []
    assert surgery.stored() == []
    assert list((surgery.home.data / ".staging").glob("*")) == []
    assert list(surgery.home.reports.iterdir()) == []
    assert list(surgery.home.inbox.iterdir()) == []
    with surgery.dagster() as instance:
        assert list(instance.get_dynamic_partitions("batch")) == []


def test_a_refused_file_can_be_mended_and_submitted_under_the_same_name(surgery: Surgery) -> None:
    surgery.refused("submit", surgery.batch("flu", b""), at=T)
    surgery.done("submit", surgery.batch("flu", GOOD), at=T + SECOND)
    surgery.status("flu", lines=3, rejected=0)


def test_a_refused_file_does_no_harm_to_the_batch_that_is_there(surgery: Surgery) -> None:
    surgery.done("submit", surgery.batch("flu", GOOD), at=T)
    before, stored = surgery.status("flu"), surgery.stored()
    kept = {path.name: path.read_bytes() for path in surgery.home.inbox.iterdir()}
    surgery.refused("submit", surgery.batch("flu", workbook()), at=T)
    assert surgery.status("flu") == before
    assert surgery.stored() == stored
    assert {path.name: path.read_bytes() for path in surgery.home.inbox.iterdir()} == kept
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    surgery.done("dispatch", "flu", at=T)
    surgery.status("flu", awaiting=3)


Damage = Callable[[bytes], bytes]


def test_what_can_be_read_is_read_and_every_line_is_in_one_place(surgery: Surgery) -> None:
    """One file with every fault that a line can have; the good lines around them are taken."""
    rows = [person.row() for person in numbered(by_sms, range(6))]
    rows[1]["First name"] = '=HYPERLINK("http://example.org";"click")'
    rows[2]["First name"] = "@SUM(1+1)"
    rows[2]["NHS number"] = "=1+9990000018"
    lines = csv_text(rows).split("\r\n")
    unclosed = lines[5].replace("Forename004", '"Forename004')
    text = "\r\n".join([*lines[:5], "only,three,cells", lines[6], "", ",,,,,,,", unclosed, lines[1]])
    surgery.done("submit", surgery.batch("flu", text.encode()), at=T)
    surgery.status("flu", lines=8, patient_list=4, rejected=3, duplicates=1)
    rejected = {int(row["Line"]): row for row in surgery.report("flu", "rejected_rows.csv")}
    assert {line: row["Reason code"] for line, row in rejected.items()} == {
        4: "nhs_number_invalid",
        6: "nhs_number_invalid",
        10: "unclosed_quote",
    }
    assert rejected[4]["NHS number"] == "'=1+9990000018"
    assert rejected[4]["Name"].startswith("'@SUM")
    for row in rejected.values():
        assert row["Reason"]
        assert row["Remedy"]


def test_a_truncated_file_gives_its_whole_lines_and_names_the_broken_one(surgery: Surgery) -> None:
    text = csv_text([person.row() for person in numbered(by_email, range(10))])
    cut = text[: text.rindex("Familyname009") + 4]
    surgery.done("submit", surgery.batch("flu", cut), at=T)
    surgery.status("flu", lines=10, rejected=1, patient_list=9)
    assert [row["Line"] for row in surgery.report("flu", "rejected_rows.csv")] == ["11"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
def test_other_encodings_are_read_by_check_as_by_submit(surgery: Surgery, encoding: str) -> None:
    text = GOOD.replace("Forename001", "Zoë")
    (surgery.desk / "cohort.csv").write_bytes(text.encode(encoding))
    found = surgery.done("check", surgery.desk / "cohort.csv", "--json", at=T).json
    assert found["lines"] == {"lines of the file": 3, "rejected": 0, "duplicates": 0, "patient list": 3}


def test_bytes_of_no_encoding_spoil_their_line_alone(surgery: Surgery) -> None:
    damaged = GOOD.encode().replace(b"Forename001", b"Zo\xc3\x81\x81 \xc3\xab", 1)
    (surgery.desk / "cohort.csv").write_bytes(damaged)
    found = surgery.done("check", surgery.desk / "cohort.csv", "--json", at=T).json
    assert found["lines"]["lines of the file"] == 3
    assert found["lines"]["rejected"] + found["lines"]["patient list"] == 3


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("opt-outs.csv", "nhs_number,opted_out_on\nnonsense,2026-01-01\n", "opt-outs.csv, line 2: the NHS number is invalid"),
        ("opt-outs.csv", "number,opted_out_on\n9990000018,2026-01-01\n", "opt-outs.csv: no heading that is known"),
        ("app.csv", "nhs_number,notifications_enabled\n9990000018,perhaps\n", "app.csv, line 2: notifications_enabled is"),
    ],
)  # fmt: skip
def test_a_list_with_a_faulty_line_stops_the_batch_with_its_name_and_line(
    surgery: Surgery, name: str, text: str, says: str
) -> None:
    surgery.app_users(by_sms(1))
    surgery.opt_outs(by_sms(2))
    surgery.fate(by_sms(1), "sms", "failed")
    faulty = surgery.home.workspaces / name
    whole = faulty.read_text()
    surgery.put(faulty, text)
    spec = surgery.batch("flu", GOOD)
    sentences = [surgery.refused("check", spec, at=T), surgery.refused("submit", spec, at=T)]
    for sentence in sentences:
        assert sentence.startswith(f"refused: {says}"), sentence
    if name == "app.csv":
        surgery.put(faulty, whole)
        surgery.done("submit", spec, at=T)
        surgery.status("flu", lines=3)


def test_no_file_is_there_at_all(surgery: Surgery, tmp_path: Path) -> None:
    assert "nowhere.yaml" in surgery.refused("submit", tmp_path / "nowhere.yaml")
    assert "nowhere.csv" in surgery.refused("check", tmp_path / "nowhere.csv")
    spec = surgery.batch("flu", GOOD)
    (spec.with_name("flu.csv")).unlink()
    assert "flu.csv" in surgery.refused("submit", spec)
