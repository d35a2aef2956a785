"""Reading cohort files: what is found out about them, what comes out of them, and which are refused."""

import codecs
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.ingest.grammar import Limits
from batch_pipeline.ingest.reader import CohortReader, open_cohort
from batch_pipeline.rules.headings import FIELDS

HEADINGS = "NHS Number,Patient Name,Mobile"
ANN = "9990000018,Ann,07700 900001"
BOB = "9990000026,Bob,07700 900002"
CAT = "9990000034,Cat,07700 900003"


class Opener(Protocol):
    def __call__(self, content: str | bytes, *, limits: Limits | None = None) -> CohortReader: ...


@pytest.fixture
def cohort(tmp_path: Path) -> Opener:
    """Write a file and open it."""

    def opened(content: str | bytes, *, limits: Limits | None = None) -> CohortReader:
        path = tmp_path / "cohort.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return open_cohort(path, label="cohort.csv", max_bytes=10**9, limits=limits)

    return opened


def rows(reader: CohortReader) -> list[dict[str, Any]]:
    return [row for batch in reader.batches() for row in batch.to_pylist()]


def told(reader: CohortReader) -> list[tuple[int, str]]:
    """Row number, and the name or the problem."""
    return [(row["line"], row["problem"] or row["patient_name"]) for row in rows(reader)]


def refusal(action: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(Refused) as refused:
        action(*arguments)
    message = str(refused.value)
    assert message.startswith("cohort.csv")
    assert "\n" not in message
    assert message.endswith(".")
    return message


class TestShape:
    def test_columns_come_as_the_fields_in_order_and_then_the_others(self, cohort: Opener) -> None:
        reader = cohort("Clinic,Mobile,NHS Number,Patient count\nHill,07700 900001,9990000018,1\n")
        assert reader.schema == pa.schema(
            [("line", pa.int32()), ("problem", pa.string()), *((name, pa.string()) for name in (*FIELDS, "clinic"))]
        )
        [batch] = reader.batches()
        assert batch.schema == reader.schema
        [row] = batch.to_pylist()
        assert {name: value for name, value in row.items() if value is not None} == {
            "line": 2,
            "clinic": "Hill",
            "mobile": "07700 900001",
            "nhs_number": "9990000018",
        }

    def test_it_tells_what_was_found_out(self, cohort: Opener) -> None:
        shape = cohort("Report;\n;\nNHS No; E-mail ;Patient Count;Usual GP\n9990000018;a@example.org;1;Dr A\n").shape
        assert (shape.encoding, shape.delimiter, shape.headings_line) == ("utf-8", ";", 3)
        assert shape.headings == ("NHS No", "E-mail", "Usual GP")
        assert shape.columns == ("nhs_number", "email", "usual_gp")

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize(
        ("codec", "bom", "encoding"),
        [
            ("utf-8", b"", "utf-8"),
            ("utf-8", codecs.BOM_UTF8, "utf-8-sig"),
            ("utf-16-le", codecs.BOM_UTF16_LE, "utf-16-le"),
            ("utf-16-be", codecs.BOM_UTF16_BE, "utf-16-be"),
            ("utf-16-le", b"", "utf-16-le"),
            ("utf-16-be", b"", "utf-16-be"),
            ("cp1252", b"", "windows-1252"),
        ],
    )
    def test_every_delimiter_line_end_and_encoding_gives_the_same(
        self, cohort: Opener, delimiter: str, line_end: str, codec: str, bom: bytes, encoding: str
    ) -> None:
        lines = [
            "NHS Number|Patient Name|Notes",
            '9990000018|Zoë O\u2019Brien|"two\nlines, ""so"""',
            "9990000026|Seán|",
        ]
        text = line_end.join(lines).replace("|", delimiter) + line_end
        reader = cohort(bom + text.encode(codec))
        assert (reader.shape.encoding, reader.shape.delimiter) == (encoding, delimiter)
        assert [(row["line"], row["nhs_number"], row["patient_name"], row["notes"]) for row in rows(reader)] == [
            (2, "9990000018", "Zoë O\u2019Brien", 'two\nlines, "so"'),
            (3, "9990000026", "Seán", None),
        ]

    def test_report_lines_above_the_headings_are_left_out_and_counted_as_rows(self, cohort: Opener) -> None:
        report = f'Flu recall,,\nSort by,NHS Number,\n,,\n"Run by:\nA. Person",,\n\nNHS Number,Name,Mobile\n{ANN}\n'
        reader = cohort(report)
        assert reader.shape.headings_line == 6
        assert told(reader) == [(7, "Ann")]
        assert (reader.left_out, reader.blank_lines) == (3, 2)

    def test_a_mark_left_open_above_the_headings_does_not_swallow_them(self, cohort: Opener) -> None:
        reader = cohort(f'"Flu recall\n{HEADINGS}\n9990000018,"Ann",\n')
        assert told(reader) == [(3, "Ann")]

    @pytest.mark.parametrize(
        "last", ["Patient count,1234", "Patient Count: 1234", "Total patients,12,", ",,Total patients: 2"]
    )
    def test_a_line_that_counts_patients_is_left_out(self, cohort: Opener, last: str) -> None:
        reader = cohort(f"{HEADINGS}\n{ANN}\n\n{last}\n\n")
        assert told(reader) == [(2, "Ann")]
        assert (reader.left_out, reader.blank_lines) == (1, 2)

    @pytest.mark.parametrize("blank", ["", ",,", ",,,,,", '"","",""', " ", " ,\u00a0,", ","])
    def test_blank_lines_are_not_data_but_are_counted_as_rows(self, cohort: Opener, blank: str) -> None:
        reader = cohort(f"{HEADINGS}\n{blank}\n{ANN}\n{blank}\n{BOB}\n")
        assert told(reader) == [(3, "Ann"), (5, "Bob")]
        assert reader.blank_lines == 2

    def test_one_column_is_enough(self, cohort: Opener) -> None:
        reader = cohort("NHS Number\n9990000018\n\n9990000026,\n9990000034,x\n")
        assert [(row["line"], row["nhs_number"], row["problem"]) for row in rows(reader)] == [
            (2, "9990000018", None),
            (4, "9990000026", None),
            (5, None, "wrong_number_of_cells"),
        ]

    def test_a_column_without_heading_or_content_is_left_out(self, cohort: Opener) -> None:
        reader = cohort(f"{HEADINGS},,,\n{ANN},,,\n{BOB}, ,kept,\n{CAT}\n")
        assert reader.shape.columns == ("nhs_number", "patient_name", "mobile", "column_5")
        assert [row["column_5"] for row in rows(reader)] == [None, "kept", None]

    def test_a_second_heading_of_a_name_fills_the_gaps(self, cohort: Opener) -> None:
        reader = cohort("NHS Number,Forename,Given name\n9990000018,,Ann\n9990000026,Bob,Robert\n")
        assert [(row["first_name"], row["given_name"]) for row in rows(reader)] == [("Ann", "Ann"), ("Bob", "Robert")]

    def test_reading_again_gives_the_same_again(self, cohort: Opener) -> None:
        reader = cohort(f"x\n{HEADINGS}\n\n{ANN}\nPatient count,1\n")
        assert rows(reader) == rows(reader)
        assert (reader.blank_lines, reader.left_out) == (1, 2)


class TestCells:
    @pytest.mark.parametrize(
        "cell",
        [
            "=HYPERLINK(1)", "+44 7700 900001", "@SUM(A1)", "-1", "'=1", " spaces ", "null", "NULL", "nan", "-", "001",
            "a\u2028b", "a\u0085b", "a\x0bb", "a\x0cb", "a\x1cb", "\ufeffAnn", "\ufffd", '5" tall', 'say "hi"', "Zoë", "👩‍⚕️",
        ],
    )  # fmt: skip
    def test_cells_are_handed_over_as_they_stand(self, cohort: Opener, cell: str) -> None:
        assert [row["patient_name"] for row in rows(cohort(f"{HEADINGS}\n{ANN}\n9990000026,{cell},\n"))] == [
            "Ann",
            cell,
        ]

    def test_a_zero_width_mark_at_the_start_of_a_block_stays(self, cohort: Opener) -> None:
        reader = cohort(f"{HEADINGS}\n\ufeff{ANN}\n\ufeff{BOB}\n", limits=Limits(block_bytes=8))
        assert [row["nhs_number"] for row in rows(reader)] == ["\ufeff9990000018", "\ufeff9990000026"]

    @pytest.mark.parametrize(
        ("cell", "text"), [('""', None), ('""""', '"'), ('"a,b"', "a,b"), ('"a\r\nb"', "a\r\nb"), ('" "', " ")]
    )
    def test_quoted_cells_are_unpacked(self, cohort: Opener, cell: str, text: str | None) -> None:
        assert [row["patient_name"] for row in rows(cohort(f"{HEADINGS}\n9990000026,{cell},\n"))] == [text]


class TestBadLines:
    @pytest.mark.parametrize(
        ("bad", "problem"),
        [
            ("9990000026,Bob,07700 900002,,x", "wrong_number_of_cells"),
            ('9990000026,"Bob,07700 900002', "unclosed_quote"),
            ('9990000026,Bob,"07700 900002', "unclosed_quote"),
            ('"9990000026,Bob,07700 900002', "unclosed_quote"),
            ('9990000026,"Bob"by,07700 900002', "text_after_quote"),
            ('9990000026,"Bob" ,07700 900002', "text_after_quote"),
            ("9990000026,B\0b,07700 900002", "unreadable_characters"),
            ("9990000026," + "b" * 200_000 + ",", "line_too_long"),
        ],
    )
    def test_a_bad_line_is_rejected_alone(self, cohort: Opener, bad: str, problem: str) -> None:
        for block_bytes in (16, 1000, 10**6):
            reader = cohort(f"{HEADINGS}\n{ANN}\n{bad}\n{CAT}\n", limits=Limits(block_bytes=block_bytes))
            assert told(reader) == [(2, "Ann"), (3, problem), (4, "Cat")]

    def test_a_bad_line_tells_nothing_of_itself(self, cohort: Opener) -> None:
        [row] = rows(cohort(f"{HEADINGS},Clinic\n{BOB}"))
        assert {name for name, value in row.items() if value is not None} == {"line", "problem"}

    @pytest.mark.parametrize("short", ["9990000026,Bob", "9990000026"])
    def test_cells_that_a_spreadsheet_left_out_are_empty(self, cohort: Opener, short: str) -> None:
        found = rows(cohort(f"{HEADINGS}\n{ANN}\n{short}\n{CAT}\n"))
        assert [(row["line"], row["problem"]) for row in found] == [(2, None), (3, None), (4, None)]
        assert (found[1]["nhs_number"], found[1]["mobile"]) == ("9990000026", None)

    @pytest.mark.parametrize("short", ["9990000026,Bob", "9990000026"])
    def test_cells_missing_at_the_torn_end_of_a_file_are_lost(self, cohort: Opener, short: str) -> None:
        assert told(cohort(f"{HEADINGS}\n{ANN}\n{short}")) == [(2, "Ann"), (3, "wrong_number_of_cells")]

    def test_extra_cells_that_are_empty_do_no_harm(self, cohort: Opener) -> None:
        reader = cohort(f'{HEADINGS}\n{ANN},,\n{BOB},"", \n{CAT}\n')
        assert told(reader) == [(2, "Ann"), (3, "Bob"), (4, "Cat")]

    def test_a_delimiter_at_the_end_of_every_line_does_no_harm(self, cohort: Opener) -> None:
        reader = cohort(f"{HEADINGS}\n{ANN},\n{BOB},\n{CAT},x\n{CAT}\n")
        assert told(reader) == [(2, "Ann"), (3, "Bob"), (4, "wrong_number_of_cells"), (5, "Cat")]

    @pytest.mark.parametrize("between", [1, 2, 30, 300])
    @pytest.mark.parametrize(
        "closing", ['9990000034,Cat,"07700 900003"', '9990000034,Cat,07700 900003"', "9990000034,Cat,07700 900003"]
    )
    def test_a_mark_left_open_never_swallows_the_lines_after_it(
        self, cohort: Opener, between: int, closing: str
    ) -> None:
        reader = cohort(f'{HEADINGS}\n9990000026,Bob,"07700 900002\n' + f"{ANN}\n" * between + closing + "\n")
        found = told(reader)
        assert found[0] == (2, "unclosed_quote")
        assert found[1:-1] == [(3 + n, "Ann") for n in range(between)]
        assert found[-1] == (3 + between, "Cat")

    def test_every_mark_left_open_costs_its_own_line_only(self, cohort: Opener) -> None:
        reader = cohort(HEADINGS + "\n" + f'9990000026,"Bob,\n{ANN}\n' * 50)
        assert told(reader) == [(2 + n, "Ann" if n % 2 else "unclosed_quote") for n in range(100)]

    def test_an_address_over_several_lines_is_one_row(self, cohort: Opener) -> None:
        reader = cohort('NHS Number,Address,Name\n9990000018,"1 High St,\n\nLeeds, LS1",Ann\n9990000026,x,Bob\n')
        assert told(reader) == [(2, "Ann"), (3, "Bob")]

    def test_a_file_cut_off_in_its_last_line_loses_that_line_only(self, cohort: Opener) -> None:
        whole = f"{HEADINGS},Email\n{ANN},a@example.org\n{BOB},b@example.org\n"
        assert told(cohort(whole[:-15])) == [(2, "Ann"), (3, "wrong_number_of_cells")]

    def test_a_file_cut_off_within_a_letter_loses_that_line_only(self, cohort: Opener) -> None:
        whole = f"{HEADINGS}\n9990000018,Zoë,07700 900001\n9990000026,Seán".encode()
        assert told(cohort(whole.removesuffix(b"\xa1n"))) == [(2, "Zoë"), (3, "unreadable_characters")]

    def test_an_accent_at_the_very_end_is_windows_1252(self, cohort: Opener) -> None:
        reader = cohort("NHS Number,Patient Name\n9990000018,José".encode("cp1252"))
        assert told(reader) == [(2, "José")]

    def test_one_line_in_another_encoding_spoils_no_other(self, cohort: Opener) -> None:
        lines = [
            f"{HEADINGS}\n9990000018,Zoë,\n".encode(),
            "9990000026,Seán,\n".encode("cp1252"),
            "9990000034,Ümit,\n".encode(),
        ]
        assert told(cohort(b"".join(lines))) == [(2, "Zoë"), (3, "unreadable_characters"), (4, "Ümit")]

    def test_a_byte_that_windows_1252_does_not_have_costs_its_own_line_only(self, cohort: Opener) -> None:
        content = HEADINGS.encode() + b"\n9990000018,Zo\xeb,\n9990000026,Se\x81n,\n"
        assert told(cohort(content)) == [(2, "Zoë"), (3, "unreadable_characters")]


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "is empty"),
            (b"\n\n ,,\n", "is empty"),
            (codecs.BOM_UTF8, "is empty"),
            (bytes(5000), "not a text file"),
            (bytes(range(256)) * 50, "not a text file"),
            (b"PK\x03\x04....[Content_Types].xml....xl/workbook.xml", "Excel workbook (.xlsx)"),
            (b"PK\x03\x04....cohort.csv", "zip archive"),
            (b"\xd0\xcf\x11\xe0....", "old Excel workbook"),
            (b"%PDF-1.7", "a PDF"),
            (b"<html><table>", "web page"),
            ("NHS Number,Name\n9990000018,Ann\n".encode("utf-32"), "the line holds characters that can't be read"),
            (HEADINGS.encode(), "no patients after the headings on line 1"),
            (HEADINGS.encode() + b"\n\n,,\nPatient count,0\n", "no patients after the headings on line 1"),
            (b"Report\nEMIS Number,Name,DOB\n1,Ann,\n", 'seen on line 2 are "EMIS Number", "Name", "DOB"'),
            (b"NHS Number,Name,NHS No\n", '"NHS Number" (column 1, A) and "NHS No" (column 3, C)'),
            (b"NHS Number,Clinic,clinic\n", '"Clinic" (column 2, B) and "clinic" (column 3, C)'),
            (b'"NHS Number,Name\n', "line 1: no headings could be read (a quotation mark is opened and not closed)"),
        ],
    )
    def test_a_file_that_cannot_be_understood_is_refused_in_one_sentence(
        self, cohort: Opener, content: bytes, said: str
    ) -> None:
        assert said in refusal(lambda: rows(cohort(content)))

    def test_a_file_without_headings_is_refused_without_telling_who_is_in_it(self, cohort: Opener) -> None:
        message = refusal(cohort, "9990000018,Ann Other,07700 900001,ann@example.org\n")
        assert "NHS Number" in message
        assert not any(detail in message for detail in ("Ann", "999", "07700", "@"))

    def test_details_beside_a_stray_heading_are_not_told(self, cohort: Opener) -> None:
        message = refusal(cohort, "9990000018,Ann Other,Mobile\n")
        assert "Ann" not in message

    def test_a_file_over_the_limit_is_refused_before_it_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "cohort.csv"
        with path.open("wb") as file:
            os.truncate(file.fileno(), 5 * 2**30)
        message = refusal(lambda: open_cohort(path, label="cohort.csv", max_bytes=4 * 2**30))
        assert "5,368,709,120 bytes" in message

    @pytest.mark.parametrize(("name", "said"), [("missing.csv", "No such file"), (".", "is a folder")])
    def test_what_is_not_a_file_is_refused(self, tmp_path: Path, name: str, said: str) -> None:
        assert said in refusal(lambda: open_cohort(tmp_path / name, label="cohort.csv", max_bytes=1))

    def test_a_file_that_changes_while_it_is_read_is_refused(self, cohort: Opener) -> None:
        reader = cohort(f"{HEADINGS}\n{ANN}\n")
        with reader.text.path.open("a", encoding="utf-8") as file:
            file.write(BOB)
        assert "changed while it was read" in refusal(rows, reader)


def test_one_endless_line_is_read_past_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(f"{HEADINGS}\n{ANN}\n".encode() + b"x" * 30_000_000 + f"\r\n{BOB}\r\n".encode())
    reader = open_cohort(path, label="cohort.csv", max_bytes=10**9, limits=Limits(block_bytes=2**20))
    largest = 0
    for block in reader._blocks():
        largest = max(largest, sum(map(len, block.pieces)))
    assert largest < 2 * 2**20
    assert told(reader) == [(2, "Ann"), (3, "line_too_long"), (4, "Bob")]


def test_rows_stay_in_order_over_many_blocks_with_bad_lines_among_them(cohort: Opener) -> None:
    lines = [ANN, BOB, "", '9990000026,"Bob', "9990000026,Bob,07700 900002,x", ",,"]
    reader = cohort(
        HEADINGS + "\n" + "\n".join(lines[n % 6] for n in range(6_000)) + "\n", limits=Limits(block_bytes=4_096)
    )
    found = told(reader)
    assert all(one < other for (one, _), (other, _) in pairwise(found))
    assert len(found) + reader.blank_lines == 6_000
    assert reader.blank_lines == 2_000
    assert [problem for _, problem in found[:4]] == ["Ann", "Bob", "unclosed_quote", "wrong_number_of_cells"]
