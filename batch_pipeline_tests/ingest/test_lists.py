"""The workspace's own lists: read whole, or refused with the line to mend."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.ingest.lists import read_app_accounts, read_opt_outs
from batch_pipeline_tests.ledger.given import nhs_number

LONDON = ZoneInfo("Europe/London")
NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)  # 10:00 in London
A, B, C = nhs_number(1), nhs_number(2), nhs_number(3)


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def accounts(path: Path) -> set[tuple[str, bool]]:
    table = read_app_accounts(path)
    return {(row["nhs_number"], row["notifications_enabled"]) for row in table.to_pylist()}


def opt_outs(path: Path, now: datetime = NOW) -> set[tuple[str, str]]:
    return {(row["nhs_number"], row["channel"]) for row in read_opt_outs(path, now, LONDON).to_pylist()}


@pytest.mark.parametrize(
    ("words", "on"),
    [
        (["true", "TRUE", " Yes ", "y", "1", "on", "Enabled"], True),
        (["false", "False", " no", "N", "0", "off", "disabled"], False),
    ],
)
def test_notifications_are_on_or_off_in_any_common_word(tmp_path: Path, words: list[str], on: bool) -> None:
    lines = [f"{nhs_number(number)},{word}\n" for number, word in enumerate(words)]
    found = accounts(written(tmp_path, "nhs_number,notifications_enabled\n" + "".join(lines)))
    assert found == {(nhs_number(number), on) for number in range(len(words))}


@pytest.mark.parametrize("said", ["", "maybe", "2", "nan"])
def test_notifications_neither_on_nor_off_are_refused_with_their_line(tmp_path: Path, said: str) -> None:
    path = written(tmp_path, f"nhs_number,notifications_enabled\n{A},true\n{B},{said}\n")
    with pytest.raises(Refused, match=r"list.csv, line 3: notifications_enabled"):
        accounts(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_lists_are_read_as_spreadsheets_write_them(
    tmp_path: Path, encoding: str, delimiter: str, line_end: str
) -> None:
    lines = ["NHS Number,Notifications Enabled,Note", f"{A[:3]} {A[3:6]} {A[6:]},true,x", f'"{B}","false",""', ""]
    text = line_end.join(lines).replace(",", delimiter)
    assert accounts(written(tmp_path, text, encoding)) == {(A, True), (B, False)}


def test_a_list_of_nobody_is_a_list(tmp_path: Path) -> None:
    assert accounts(written(tmp_path, "nhs_number,notifications_enabled\n")) == set()
    assert opt_outs(written(tmp_path, "nhs_number,opted_out_on\n")) == set()


@pytest.mark.parametrize("number", ["", "9990000011", "999000001", "1111111111", "GREEN Ash", "9.99E+09", "-"])
@pytest.mark.parametrize("list_of", [accounts, opt_outs])
def test_an_invalid_nhs_number_refuses_the_list_with_file_and_line(
    tmp_path: Path, number: str, list_of: object
) -> None:
    heading, cell = ("notifications_enabled", "true") if list_of is accounts else ("opted_out_on", "2026-01-01")
    path = written(tmp_path, f"nhs_number,{heading}\n{A},{cell}\n{number},{cell}\n{B},{cell}\n")
    with pytest.raises(Refused) as refused:
        list_of(path)  # pyright: ignore[reportCallIssue]
    sentence = str(refused.value)
    assert sentence.startswith("list.csv, line 3: the NHS number is invalid")
    assert not number or number not in sentence


def test_the_line_is_the_spreadsheets_and_the_others_are_counted(tmp_path: Path) -> None:
    """Blank lines, cells with line ends, and rows of commas count as rows."""
    text = f'nhs_number,opted_out_on,note\n\n{A},,"two\nlines"\n,,\n{B},,x\n1,,\n2,,\n3,,\n'
    with pytest.raises(Refused, match=r"list.csv, line 6 \(and 2 more\): the NHS number is invalid"):
        opt_outs(written(tmp_path, text))


@pytest.mark.parametrize("empty", ["", ",", ",,", " , "])
def test_empty_lines_are_no_patients(tmp_path: Path, empty: str) -> None:
    assert opt_outs(written(tmp_path, f"nhs_number,opted_out_on\n{A},\n{empty}\n{B},\n{empty}\n")) == {
        (A, "all"),
        (B, "all"),
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nhs_number,opted_out\n", "list.csv, line 1: the heading opted_out_on is missing"),
        ("Report of opt-outs\n\nNHS Number,Since\n", "list.csv, line 3: the heading opted_out_on is missing"),
        ("number,opted_out_on\n", "list.csv: no heading"),
        (f"{A},2026-01-01\n", "list.csv: no heading"),
    ],
)
def test_a_missing_heading_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        opt_outs(written(tmp_path, text))


def test_a_list_that_is_not_there_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"list.csv: there is no such file"):
        opt_outs(tmp_path / "list.csv")


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02\xff" * 100, b"nhs_number,opted_out_on\n\xff\xfe\xe4,\n"])
def test_what_is_no_csv_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(Refused, match=r"list.csv"):
        opt_outs(tmp_path / "list.csv")


def test_an_unclosed_quote_loses_nobody(tmp_path: Path) -> None:
    """Whoever stands after it would else be messaged."""
    path = written(tmp_path, f'nhs_number,opted_out_on,note\n{A},,"moved\n{B},,\n{C},,\n')
    with pytest.raises(Refused, match=r"list.csv, line 2: it can't be read"):
        opt_outs(path)


COUNTING = [
    *("", "2020-02-29"),
    *("01/10/2026", "1/10/2026"),  # day first
    *("2026-10-01", "2026-10-01 10:00", "2026-10-01T10:00:00"),  # the workspace's time
]
NOT_YET = ["2026-10-01 10:01", "2026-10-02", "10/01/2027", "2027-01-01T00:00"]


def test_an_opt_out_counts_from_its_day_on(tmp_path: Path) -> None:
    lines = [f"{nhs_number(number)},{on}\n" for number, on in enumerate([*COUNTING, *NOT_YET])]
    found = opt_outs(written(tmp_path, "nhs_number,opted_out_on\n" + "".join(lines)))
    assert found == {(nhs_number(number), "all") for number in range(len(COUNTING))}


def test_the_day_begins_in_the_workspaces_zone(tmp_path: Path) -> None:
    path = written(tmp_path, f"nhs_number,opted_out_on\n{A},2026-10-01\n")
    assert opt_outs(path, datetime(2026, 9, 30, 22, 59, tzinfo=UTC)) == set()
    assert opt_outs(path, datetime(2026, 9, 30, 23, 0, tzinfo=UTC)) == {(A, "all")}


@pytest.mark.parametrize("on", ["soon", "31/02/2026", "2026-13-01", "12/31/2026", "yes", "infinity", "epoch"])
def test_a_date_that_is_none_refuses_the_list_with_its_line(tmp_path: Path, on: str) -> None:
    path = written(tmp_path, f"nhs_number,opted_out_on\n{A},2026-01-01\n{B},{on}\n")
    with pytest.raises(Refused, match=r"list.csv, line 3: opted_out_on is not a date"):
        opt_outs(path)


def test_an_opt_out_is_of_one_channel_or_of_all(tmp_path: Path) -> None:
    lines = [f"{A},,email", f"{A},,SMS ", f"{B},,nhs_app", f"{B},,nhs_app", f"{C},,", f"{C},2027-01-01,sms"]
    path = written(tmp_path, "\n".join(["nhs_number,opted_out_on,channel", *lines]))
    assert opt_outs(path) == {(A, "email"), (A, "sms"), (B, "nhs_app"), (C, "all")}


def test_an_unknown_channel_refuses_the_list_with_what_is_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, f"nhs_number,opted_out_on,channel\n{A},,email\n{B},,post\n")
    with pytest.raises(Refused, match=r"list.csv, line 3: channel is unknown: use email, nhs_app, sms, all"):
        opt_outs(path)
