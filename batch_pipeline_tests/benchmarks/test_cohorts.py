import csv
import io
import re
from collections import Counter
from pathlib import Path

import pytest

from batch_pipeline.rules import phones
from benchmarks import cohorts, dirt, people


def cohort(rows: int, *, style: str = "plain", seed: int = 1, first_person: int = 0) -> bytes:
    out = io.BytesIO()
    cohorts.write(out, rows, style=style, seed=seed, first_person=first_person)
    return out.getvalue()


def records(raw: bytes, style: str) -> list[list[str]]:
    """The data lines: without preamble, headings, blank lines, lines of commas and the patient count."""
    shape = cohorts.STYLES[style]
    lines = list(csv.reader(io.StringIO(raw.decode(shape.encoding), newline="")))
    headings = lines.index([heading for heading, _ in shape.columns])
    data = [cells for cells in lines[headings + 1 :] if any(cells)]
    return data[:-1] if shape.counts is not None else data


@pytest.mark.parametrize("style", sorted(cohorts.STYLES))
def test_a_cohort_has_as_many_data_lines_as_asked_for(style: str) -> None:
    assert len(records(cohort(2_345, style=style), style)) == 2_345


@pytest.mark.parametrize("style", sorted(cohorts.STYLES))
def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(style: str) -> None:
    assert cohort(1_500, style=style, seed=3) == cohort(1_500, style=style, seed=3)
    assert cohort(1_500, style=style, seed=3) != cohort(1_500, style=style, seed=4)


def test_a_longer_cohort_begins_as_a_shorter_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "CHUNK", 1_000)
    long = cohort(2_500)
    monkeypatch.setattr(cohorts, "CHUNK", 100_000)
    assert long.startswith(cohort(700).rstrip(b"\n"))
    assert long == cohort(2_500)


def test_the_emis_style_has_preamble_byte_order_mark_and_patient_count() -> None:
    text = cohort(1_000, style="emis").decode("utf-8")
    assert text.startswith("\ufeffRiverside Surgery")
    assert text.count("\ufeff") == 1
    assert text.endswith("\r\nPatient count,1000\r\n")


def test_the_systmone_style_is_windows_1252() -> None:
    raw = cohort(1_000, style="systmone")
    assert b"Zo\xeb" in raw
    with pytest.raises(UnicodeDecodeError):
        raw.decode("utf-8")


def test_every_nhs_number_that_is_one_is_a_fixture() -> None:
    numbers = [re.sub(r"[^0-9]", "", cells[0]) for cells in records(cohort(3_000), "plain")]
    assert all(number.startswith("999") or number == "0000000000" for number in numbers if len(number) == 10)


def test_about_four_per_cent_of_lines_are_bad_and_thirty_have_an_email() -> None:
    bad_numbers = sum(kind.per_mille for kind in dirt.NHS_NUMBERS if kind.whole is not None or kind.tail != "right")
    bad_dates = sum(kind.per_mille for kind in dirt.DATES_OF_BIRTH if kind.whole not in {None, "", "NULL"})
    unreadable = sum(kind.per_mille for kind in dirt.LINES if kind.name in {"a cell too many", "cut off"})
    assert 35 <= bad_numbers + bad_dates + unreadable <= 45
    assert 280 <= sum(kind.per_mille for kind in dirt.EMAILS if kind.usable) <= 320


EXPECTED_KINDS = {
    "empty": {"none"},
    "a word for nothing": {"none"},
    "landline": {"landline"},
    "neither mobile nor landline": {"not_mobile"},
    "abroad": {"not_uk"},
    "two numbers": {"not_uk"},
    "scientific notation": {"not_uk"},
    "a digit short": {"not_uk"},
    "a digit too many": {"not_uk"},
    "no such number": {"not_uk"},
    "words": {"not_uk", "none"},
    "words beside the number": {"not_uk"},
}


@pytest.mark.parametrize("kind", [*dirt.PHONES, *dirt.OTHER_PHONES], ids=lambda kind: kind.name)
def test_each_kind_of_phone_is_what_it_is_called(kind: dirt.PhoneKind) -> None:
    found = [phones.classify(kind.write(n, variety)) for n in (0, 7, 123, 999) for variety in range(10)]
    if kind.usable:
        assert all(re.fullmatch(r"\+447700900\d{3}", phone.e164 or "") for phone in found)
    else:
        assert {phone.kind for phone in found} <= EXPECTED_KINDS[kind.name]


def test_repeated_patients_are_about_two_per_cent() -> None:
    numbers = Counter(re.sub(r"[^0-9]", "", cells[0]) for cells in records(cohort(10_000), "plain"))
    repeated = sum(count - 1 for number, count in numbers.items() if len(set(number)) > 1 and len(number) == 10)
    assert 130 <= repeated <= 220


def test_too_many_patients_for_the_fixture_range_are_told_of(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "FIXTURE_NUMBERS", 100)
    assert cohorts.main(["--rows", "101", "--out", str(tmp_path / "cohort.csv")]) == 0
    assert "repeat" in capsys.readouterr().err


def test_nothing_is_made_without_a_number_of_rows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cohorts.main([])
    assert stopped.value.code == 2
    assert "--rows" in capsys.readouterr().err
