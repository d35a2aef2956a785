"""A message's fields over a cohort: what fills them, and who would be sent a gap."""

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.planning import tables
from batch_pipeline.planning.message import SAMPLE, Message
from batch_pipeline.rules import links
from batch_pipeline.rules.headings import field_of
from batch_pipeline_tests.ledger.given import HASHER
from batch_pipeline_tests.planning.worlds import Planned, csv_text, mobile, nhs_number, patient


def texts(world: Planned) -> dict[int, str | None]:
    """What each recipient would get, by line."""
    return {line: row["text"] for line, row in world.queued[1].items()}


FILLED: list[tuple[str, dict[str, str], str]] = [
    ("Dear {{ first_name }}", {"patient_name": "SMITH, Ann (Mrs)"}, "Dear Ann"),
    (
        "{{first_name}}|{{ surname }}|{{ last_name }}|{{ patient_name }}|{{ full_name }}",
        {"patient_name": "Mrs Ann Smith"},
        "Ann|Smith|Smith|Mrs Ann Smith|Mrs Ann Smith",
    ),
    ("born {{ date_of_birth }}", {"date_of_birth": "01-Feb-1980"}, "born 1 February 1980"),
    ("{{ nhs_number }}", {}, nhs_number(3)),
    ("{{ organisation_name }} calls", {}, "Riverside Surgery calls"),
    (
        "at {{ clinic_time }} in {{ room_2b }}",
        {"Clinic time": " 9.30\u00a0am ", "Room 2b": "B\u200b"},
        "at 9.30 am in B",
    ),
    # What a cell holds is never read as a field, a template or a formula.
    ("{{ first_name }} {{ note }}", {"patient_name": "{{ surname }} X", "note": "{{ note }}"}, "{{ {{ note }}"),
    ("{{ note }}", {"note": "{% raw %}{{ first_name }}"}, "{% raw %}{{ first_name }}"),
    ("{{ note }}", {"note": "=HYPERLINK(1)"}, "=HYPERLINK(1)"),
    ("it's {{ note }}", {"note": "O'Hara''; --"}, "it's O'Hara''; --"),
    ("{{ note }}", {"note": "two\nlines"}, "two lines"),
    # A column may have any name but a patient's own.
    ("{{ organisation_name }}", {"Organisation name": "Another"}, "Riverside Surgery"),
    ("{{ full_name }}", {"patient_name": "Ann Smith", "Full Name": "Bo Jones"}, "Ann Smith"),
    ("{{ field_2nd_dose }} {{ line_2 }}", {"2nd dose": "May", "line": "x"}, "May x"),
    ("{{ select }} {{ from }}", {"select": "a", "from": "b"}, "a b"),
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """A line for each case of ``FILLED``."""
    lines = [patient(number, mobile=mobile(number), **cells) for number, (_, cells, _) in enumerate(FILLED)]
    return Planned(tmp_path_factory.mktemp("cohort"), csv_text(lines))


@pytest.mark.parametrize("case", range(len(FILLED)), ids=[body for body, _, _ in FILLED])
def test_fields_are_filled_in(cohort: Planned, tmp_path: Path, case: int) -> None:
    body, _, text = FILLED[case]
    assert texts(cohort.again(tmp_path, body=body))[2 + case] == text


def test_a_column_may_be_called_like_one_of_ours(tmp_path: Path) -> None:
    ours = {name for schema in tables.SCHEMAS.values() for name in schema.columns} | {"by_sms", "begun", "c", "p", "r"}
    extra = sorted(name for name in ours if field_of(name) is None and name not in ("line", "problem"))
    line = patient(0, mobile=mobile(0), **{name: f"my {name}" for name in extra})
    body = " ".join(f"{{{{ {name} }}}}" for name in extra)
    world = Planned(tmp_path, csv_text([line]), body=body, already_had=[HASHER.hash(nhs_number(1))])
    assert texts(world) == {2: " ".join(f"my {name}" for name in extra)}
    assert world.queued[0] == world.figures["digest"]


def test_an_sms_is_brought_down_to_gsm_and_other_texts_are_not(tmp_path: Path) -> None:
    lines = [
        patient(0, mobile=mobile(1), note="“Café”\u00a0–\u00a0…"),
        patient(1, email="ash@example.org", note="“Café”\u00a0–\u00a0…"),
    ]
    found = texts(Planned(tmp_path, csv_text(lines), body="It’s {{ note }}"))
    assert found == {2: 'It\'s "Café" - ...', 3: "It’s “Café” – …"}


def gaps(folder: Path, *lines: dict[str, str], **more: Any) -> list[str]:
    return Planned(folder, csv_text(lines), **more).figures["problems"]


def test_a_field_without_a_value_is_a_problem_with_its_lines(tmp_path: Path) -> None:
    cells = ["x", "", " ", "\u200b", "\u00a0", "nan", "NULL", "-", "N/A", "None of it", "0"]
    lines = [patient(number, mobile=mobile(number), note=note) for number, note in enumerate(cells)]
    assert gaps(tmp_path, *lines, body="{{ note }}") == [
        "{{ note }} has no value for 8 patients (lines 3, 4, 5, 6, 7, 8, 9, 10): fill it in, or take the field out of the message"
    ]


def test_of_many_lines_with_a_gap_the_first_twenty_are_named(tmp_path: Path) -> None:
    lines = [patient(number, mobile=mobile(number), patient_name="Green") for number in range(25)]
    named = ", ".join(str(line) for line in range(2, 22))
    (sentence,) = gaps(tmp_path, *lines, body="Dear {{ first_name }}")
    assert sentence.startswith(f"{{{{ first_name }}}} has no value for 25 patients (lines {named}, …): fill it in")


def test_gaps_of_those_who_get_nothing_are_no_problem(tmp_path: Path) -> None:
    """Non-contactable, held back, or the other line of a patient."""
    lines = [
        patient(0, mobile=mobile(0), note="x"),
        patient(1, note=""),
        patient(2, mobile=mobile(2), note=""),
        patient(0, mobile=mobile(0), note=""),
    ]
    had = [HASHER.hash(nhs_number(2))]
    assert gaps(tmp_path, *lines, body="{{ note }}", already_had=had) == []


def test_a_subject_is_for_emails_alone(tmp_path: Path) -> None:
    """A gap in it is one for those who would see it."""
    lines = [patient(0, mobile=mobile(0), note=""), patient(1, email="ash@example.org", note="x")]
    world = Planned(tmp_path, csv_text(lines), subject="About {{ note }}")
    assert world.figures["problems"] == []
    assert {line: row["subject"] for line, row in world.queued[1].items()} == {2: None, 3: "About x"}
    (tmp_path / "gap").mkdir()
    lines = [patient(0, mobile=mobile(0), note=""), patient(1, email="ash@example.org", note="")]
    assert gaps(tmp_path / "gap", *lines, subject="About {{ note }}") == [
        "{{ note }} has no value for 1 patient (line 3): fill it in, or take the field out of the message"
    ]


@pytest.mark.parametrize("where", ["body", "subject"])
def test_an_unknown_field_is_a_problem_and_the_plan_still_stands(tmp_path: Path, where: str) -> None:
    lines = [patient(0, mobile=mobile(0)), patient(1, email="ash@example.org")]
    text: dict[str, Any] = {where: "Dear {{ frist_name }}, {{ first_name }}"}
    world = Planned(tmp_path, csv_text(lines), **text)
    assert world.figures["problems"] == [
        "the message names {{ frist_name }} (did you mean {{ first_name }}?), but the cohort has no such column: correct the field, or add the column"
    ]
    assert world.figures["recipients"] == {"email": 1, "nhs_app": 0, "sms": 1}


@pytest.mark.parametrize("field", ["mobile", "email", "line", "problem", "deceased", "local_id"])
def test_what_a_message_has_no_business_with_is_unknown(tmp_path: Path, field: str) -> None:
    message = Message.of(f"{{{{ {field} }}}}", "x", "Riverside", ["line", "problem", "mobile", "email", "note"])
    assert message.unknown_fields == [field]


@pytest.mark.parametrize("body", ["{{ first_name | nope }}", "{% if x %}", "{{ 7 * 7 }}", "Dear {first_name}"])
def test_what_is_not_allowed_in_a_text_is_refused(body: str) -> None:
    with pytest.raises(Refused, match=r"message\.body, line 1"):
        Message.of(body, "x", "Riverside", [])


def test_a_sample_is_of_a_made_up_patient(tmp_path: Path) -> None:
    lines = [patient(0, mobile=mobile(0), patient_name="GREEN, Bay", note="private")]
    body = "Dear {{ first_name }}, {{ note }}. {{ organisation_name }}"
    samples = Planned(tmp_path, csv_text(lines), body=body).figures["samples"]
    assert samples["sms"]["text"] == f"Dear {SAMPLE['first_name']}, ‹note›. Riverside Surgery".replace(
        "‹", "'"
    ).replace("›", "'")
    assert "Bay" not in str(samples)
    assert "private" not in str(samples)


LINK = links.address("https://msg.example.org")


@pytest.mark.parametrize(("extra", "fragments"), [(0, 1), (1, 2)])
def test_fragments_are_counted_with_the_link_s_address_as_long_as_it_is(
    cohort: Planned, tmp_path: Path, extra: int, fragments: int
) -> None:
    body = "x" * (160 - len(LINK) - 1 + extra) + " {{ link }}"
    world = cohort.again(tmp_path, body=body, link=LINK)
    assert {len(text or "") for text in texts(world).values()} == {160 + extra}
    assert world.figures["problems"] == []
    assert world.figures["fragments"]["best"] == fragments * len(FILLED)
    assert LINK in world.figures["samples"]["sms"]["text"]


def test_a_column_of_that_name_takes_the_link_s_place_only_where_there_is_none(tmp_path: Path) -> None:
    world = Planned(tmp_path, csv_text([patient(0, mobile=mobile(0), link="theirs")]), body="{{ link }}", link=LINK)
    assert texts(world) == {2: LINK}
    (tmp_path / "none").mkdir()
    assert texts(world.again(tmp_path / "none", link=None)) == {2: "theirs"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"body": "See the leaflet."}, "write {{ link }} into the text"),
        ({"body": "{% if first_name %}{{ link }}{% endif %} See it."}, "outside of any condition"),
        ({"body": "{{ link }}", "bodies": {"sms": "See the leaflet."}}, "each channel that has its own"),
        ({"body": "{{ link }} {{ link | upper }}"}, "{{ link }} has a filter"),
        ({"body": "{{ link }}", "subject": "{{ link }}"}, "{{ link }} stands in the subject"),
        ({"body": "{{ link }}You can't reply."}, "put a space or a new line before and after it"),
        ({"body": "{{ link }}", "bodies": {"email": "<{{ link }}>"}}, "put a space or a new line before and after it"),
        ({"body": "{{ link }}{% if first_name %}x{% endif %}"}, "put a space or a new line before and after it"),
    ],
)
def test_a_link_that_is_carried_has_its_place_in_the_text(
    cohort: Planned, tmp_path: Path, words: dict[str, Any], says: str
) -> None:
    [problem] = cohort.again(tmp_path, link=LINK, **words).figures["problems"]
    assert says in problem
