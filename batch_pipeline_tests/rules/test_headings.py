"""Which column is what, by its heading."""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch_pipeline.errors import Refused
from batch_pipeline.rules.headings import (
    CANONICAL,
    COUNT_LINES,
    FIELDS,
    TAKEN_NAMES,
    field_of,
    heading_key,
    is_count_line,
    name_columns,
)

# SPEC 2.1, as seen in real exports, and what each is.
SEEN = {
    "NHS Number": "nhs_number",
    "NHS No": "nhs_number",
    "EMIS Number": "local_id",
    "Patient Name": "patient_name",
    "Full Name": "patient_name",
    "First name": "first_name",
    "Given Name": "first_name",
    "Surname": "surname",
    "Family Name": "surname",
    "Date of Birth": "date_of_birth",
    "DOB": "date_of_birth",
    "Mobile number": "mobile",
    "Mobile telephone": "mobile",
    "Telephone Number": "telephone",
    "Telecom Number": "telephone",
    "Preferred telephone number": "preferred_telephone",
    "Email": "email",
    "Email address": "email",
    "E-mail Address": "email",
    "Date of Death": "date_of_death",
    "Deceased": "deceased",
}


def names(*headings: str) -> list[str | None]:
    return [column.name for column in name_columns(headings, where="cohort.csv, line 1")]


def refusal(*headings: str) -> str:
    with pytest.raises(Refused) as refused:
        name_columns(headings, where="cohort.csv, line 3")
    return str(refused.value)


@pytest.mark.parametrize(("heading", "field"), SEEN.items())
@pytest.mark.parametrize(
    "wording", [str, str.upper, str.lower, lambda text: text.replace(" ", "_"), lambda text: f" {text}: "]
)
def test_headings_seen_in_exports_are_known_however_they_are_written(
    heading: str, field: str, wording: Callable[[str], str]
) -> None:
    assert field_of(wording(heading)) == field


def test_a_heading_stands_for_one_field_only() -> None:
    keys = [heading_key(heading) for field in CANONICAL for heading in {*map(heading_key, field.headings)}]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_known_by_its_own_name(field: str) -> None:
    assert field_of(field) == field


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("Usual GP's name", "usual_gps_name"),
        ("Clinic – site", "clinic_site"),
        ("PracticeName", "practice_name"),
        ("2nd dose", "field_2nd_dose"),
        ("Größe", "grösse"),
        ("Line", "line_2"),
        ("Problem", "problem_2"),
        ("class", "class"),
        ("", "column_2"),
        ("**", "column_2"),
    ],
)
def test_other_headings_become_names_for_templates(heading: str, name: str) -> None:
    assert names("NHS Number", heading) == ["nhs_number", name]


def test_a_patient_count_column_is_left_out() -> None:
    assert names("NHS Number", "Patient Count", "Clinic") == ["nhs_number", None, "clinic"]


@pytest.mark.parametrize(
    ("first", "second", "columns"),
    [
        ("NHS Number", "NHS No", ("2, B", "3, C")),
        ("DOB", "Date of Birth", ("2, B", "3, C")),
        ("Email", "E-mail address", ("2, B", "3, C")),
        ("Deceased", "Is deceased", ("2, B", "3, C")),
        ("Date of Death", "DOD", ("2, B", "3, C")),
        ("Clinic", "CLINIC ", ("2, B", "3, C")),
        ("Mobile", "mobile", ("2, B", "3, C")),
    ],
)
def test_two_headings_of_which_either_could_be_meant_are_refused_by_name_and_column(
    first: str, second: str, columns: tuple[str, str]
) -> None:
    message = refusal("Title", first, second, "CHI Number")
    assert message.startswith("cohort.csv, line 3: ")
    assert f'"{first.strip()}" (column {columns[0]})' in message
    assert f'"{second.strip()}" (column {columns[1]})' in message


def test_columns_beyond_z_are_named_as_in_a_spreadsheet() -> None:
    extra = [f"extra {'x' * n}" for n in range(26)]
    assert "(column 27, AA) and" in refusal(*extra, "DOB", "Date of birth")


@pytest.mark.parametrize(
    ("headings", "fields"),
    [
        (("Mobile number", "Mobile telephone"), ["mobile", "preferred_telephone"]),
        (("Mobile number", "Mobile telephone", "Telephone"), ["mobile", "preferred_telephone", "telephone"]),
        (("Telephone", "Mobile number", "Mobile telephone"), ["telephone", "mobile", "preferred_telephone"]),
        (("Mobile", "Cell phone", "Preferred telephone"), ["mobile", "preferred_telephone", "telephone"]),
        (("Home telephone", "Work telephone"), ["preferred_telephone", "telephone"]),
        (("Home telephone", "Work telephone", "Mobile"), ["preferred_telephone", "telephone", "mobile"]),
        (("Telephone", "Mobile"), ["telephone", "mobile"]),
        (("Preferred telephone",), ["preferred_telephone"]),
    ],
)
def test_a_second_telephone_of_a_kind_takes_a_free_place_in_the_order_of_use(
    headings: tuple[str, ...], fields: list[str]
) -> None:
    assert names(*headings) == fields


def test_more_telephones_than_can_be_used_are_refused() -> None:
    message = refusal("Mobile", "Preferred phone", "Home telephone", "Work telephone")
    assert '"Home telephone" (column 3, C) and "Work telephone" (column 4, D)' in message


def test_a_second_name_fills_the_first_and_is_kept_under_its_own() -> None:
    columns = name_columns(("First name", "Given name", "EMIS Number", "Hospital Number"), where="x")
    assert [(column.name, column.fills) for column in columns] == [
        ("first_name", None),
        ("given_name", "first_name"),
        ("local_id", None),
        ("hospital_number", "local_id"),
    ]


@given(st.lists(st.text(max_size=12), max_size=8))
@example(["NHS Number", "፲", "dose ፲ due"])
def test_names_are_never_given_twice_nor_taken_from_others(headings: list[str]) -> None:
    try:
        columns = name_columns(headings, where="x")
    except Refused:
        return
    given_names = [column.name for column in columns if column.name]
    assert len(given_names) == len(set(given_names))
    assert not {*given_names} & {*TAKEN_NAMES}
    assert all(name.isidentifier() for name in given_names)


@pytest.mark.parametrize("label", COUNT_LINES)
@pytest.mark.parametrize("line", ["{},1234", "{}: 1234", "{},,,", "{}", ",{},12,,", "{}:,1 234", "*** {} = 1234 ***"])
def test_lines_that_count_patients_are_known(label: str, line: str) -> None:
    assert is_count_line(line.format(label.title()).split(","))


@pytest.mark.parametrize(
    "line",
    [
        "9990000018,Patient Count",
        "Patient Count,9990000018",
        "Patient Countess,12",
        "Total,Mary,12",
        ",,",
        "12,12",
        "Totally,1",
        "Total\n,1",
        "12 Total,1",
    ],
)
def test_lines_of_patients_never_pass_for_counts(line: str) -> None:
    assert not is_count_line(line.split(","))
