"""`templates list`, `show` and `preview`: what a person sees of a template before there is a batch."""

import json
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.house import House, Submitted
from batch_pipeline.operations.previewing import masked, preview
from batch_pipeline.rules import links
from batch_pipeline.settings import BatchFile
from batch_pipeline.templates import Message
from batch_pipeline_tests.e2e.surgery import Surgery, T, by_email, by_sms, csv_text

RECALL = """---
name: recall
version: 3
message_type: simple
subject: "{% if clinic %}Come to {{ clinic }}{% else %}Please ring{% endif %}"
snomed: ["1324681000000101"]
bodies:
  sms: "{{ first_name }}: ring {{ organisation_name }}"
---
Dear {{ first_name }},
{% if clinic == "Tuesday" %}
come to {{ surname | upper }}.
{% else %}
please ring us.
{% endif %}
"""


@pytest.fixture
def recall(surgery: Surgery) -> Path:
    """A cohort, and the template ``recall`` in the home."""
    surgery.put(surgery.home.templates / "recall.md", RECALL)
    people = [by_sms(1), by_sms(2), by_email(3), by_sms(4)]
    rows = [person.row() for person in people]
    rows[1]["Clinic"] = "Friday"
    rows[3]["First name"] = rows[2]["Clinic"] = ""
    return surgery.put(surgery.desk / "list.csv", csv_text([*rows, rows[0]]))


def test_templates_are_listed_with_what_a_batch_needs_to_know(surgery: Surgery, recall: Path) -> None:
    said = surgery.done("templates", "list").words
    assert "recall 3 simple SMS 1324681000000101" in said
    assert "flu-invitation 1 simple" in said
    assert [each["name"] for each in surgery.done("templates", "list", "--json").json] == ["flu-invitation", "recall"]


def test_a_template_that_cannot_be_read_is_told_of_beside_the_others(surgery: Surgery, recall: Path) -> None:
    surgery.put(surgery.home.templates / "broken.md", RECALL.replace("{% endif %}\n", "").replace("recall", "broken"))
    ran = surgery.shell("templates", "list")
    assert ran.code == 1
    assert "recall" in ran.out
    assert ran.sentence.startswith("refused: broken.md, line ")


def test_a_template_is_shown_with_its_fields_and_the_words_of_each_channel(surgery: Surgery, recall: Path) -> None:
    said = surgery.done("templates", "show", "recall").out
    assert "recall, version 3 (simple); SNOMED CT 1324681000000101" in said
    assert "Fields: clinic, first_name, surname, organisation_name" in said
    assert "Words by email and NHS App\nDear {{ first_name }},\n{% if clinic ==" in said
    assert "Words by SMS\n{{ first_name }}: ring" in said
    found = surgery.done("templates", "show", "recall", "--json").json
    assert (found["version"], found["snomed"]) == ("3", ["1324681000000101"])
    assert found["fields"] == ["clinic", "first_name", "surname", "organisation_name"]


def test_an_unknown_template_is_refused_with_those_there_are(surgery: Surgery, recall: Path) -> None:
    assert "there are flu-invitation, recall" in surgery.refused("templates", "show", "recal")


def test_a_preview_is_of_the_first_patients_or_of_the_lines_that_are_named(surgery: Surgery, recall: Path) -> None:
    found = preview(surgery.house, "recall", recall, T, workspace_id=None, lines=[], most=3, written=str)
    assert [each.line for each in found] == [2, 3, 4]
    assert found[0].subject == "Come to Tuesday"
    assert found[0].texts == {
        "email": "Dear Forename001,\ncome to FAMILYNAME001.",
        "nhs_app": "Dear Forename001,\ncome to FAMILYNAME001.",
        "sms": "Forename001: ring Larkfield Surgery",
    }
    assert found[0].fragments is not None
    assert found[0].fragments.parts == 1
    assert found[1].texts["email"] == "Dear Forename002,\nplease ring us."
    assert (found[2].lacking, found[2].subject) == (("clinic",), "Please ring")
    assert found[2].texts["email"] is None
    (last,) = preview(surgery.house, "recall", recall, T, workspace_id="larkfield", lines=[5], most=3, written=str)
    assert (last.line, last.lacking) == (5, ("first_name",))
    assert "Forename" not in repr(found)


def test_away_from_a_terminal_no_patients_value_is_shown(surgery: Surgery, recall: Path) -> None:
    """What is printed there may be a log; the conditions go by the values all the same."""
    ran = surgery.done("templates", "preview", "recall", "--cohort", recall, at=T)
    assert (
        "Line 2\nBy email and NHS App:\nSubject: Come to •••••••\nDear •••••••••••,\ncome to •••••••••••••.\n"
        in ran.out
    )
    assert "Line 4\nno value for {{ clinic }}\n" in ran.out
    assert "(it can't be made for this patient)" in ran.out
    assert "By SMS (1 SMS fragment):" in ran.out
    for secret in ("Forename", "FAMILYNAME", "Familyname", "Tuesday", "Friday"):
        assert secret not in ran.out + ran.err
    assert "this isn't a terminal" in ran.err
    assert list((surgery.home.data / ".staging").iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--line", "6"], "list.csv: line 6 isn't a patient's: it is empty, rejected or a duplicate"),
        (["--line", "99"], "line 99 isn't a patient's"),
        (["--workspace", "nope"], "nope"),
    ],
)
def test_what_cannot_be_previewed_is_refused(surgery: Surgery, recall: Path, typed: list[str], said: str) -> None:
    assert said in surgery.refused("templates", "preview", "recall", "--cohort", recall, *typed, at=T)


def test_of_several_workspaces_one_has_to_be_named(surgery: Surgery, recall: Path) -> None:
    other = json.loads((surgery.home.workspaces / "larkfield.yaml").read_text()) | {"id": "oak", "name": "Oak"}
    surgery.put(surgery.home.workspaces / "oak.yaml", json.dumps(other))
    said = surgery.refused("templates", "preview", "recall", "--cohort", recall, at=T)
    assert "--workspace ID: say which workspace sends; there are larkfield, oak" in said
    found = preview(House(surgery.home), "recall", recall, T, workspace_id="oak", lines=[2], most=3, written=str)
    assert found[0].texts["sms"] == "Forename001: ring Oak"


def test_a_column_that_the_cohort_lacks_is_told_of(surgery: Surgery, recall: Path) -> None:
    recall.write_text(recall.read_text().replace("Clinic", "Clinik"))
    said = surgery.refused("templates", "preview", "recall", "--cohort", recall, at=T)
    assert "template recall, list.csv: the message names {{ clinic }} (did you mean {{ clinik }}?)" in said


def test_a_template_that_carries_a_link_is_shown_with_where_links_lead(surgery: Surgery, recall: Path) -> None:
    surgery.put(surgery.home.templates / "recall.md", RECALL.replace("ring {{ org", "{{ link }} {{ org"))
    said = surgery.refused("templates", "preview", "recall", "--cohort", recall, at=T)
    assert "template recall carries a link, but workspace larkfield doesn't say where links lead: add links:" in said
    workspace = surgery.home.workspaces / "larkfield.yaml"
    settings = json.loads(workspace.read_text()) | {"links": {"base_url": "https://msg.example.org"}}
    surgery.put(workspace, json.dumps(settings))
    (found,) = preview(House(surgery.home), "recall", recall, T, workspace_id=None, lines=[2], most=3, written=str)
    assert found.texts["sms"] == f"Forename001: {links.address('https://msg.example.org')} Larkfield Surgery"


def test_a_column_called_link_is_shown_where_the_message_need_not_carry_one(surgery: Surgery, recall: Path) -> None:
    recall.write_text(recall.read_text().replace("Clinic", "Link"))
    surgery.put(surgery.home.templates / "recall.md", RECALL.replace("clinic", "link"))
    (found,) = preview(surgery.house, "recall", recall, T, workspace_id=None, lines=[2], most=3, written=str)
    assert found.subject == "Come to Tuesday"


@pytest.mark.parametrize("value", ["Ann", "07700 900123", "O’Brien-ŵ", "31 January 1980", "a_b@c.example"])
def test_a_masked_value_is_as_long_and_has_no_letter_left(value: str) -> None:
    assert len(masked(value)) == len(value)
    assert not any(character.isalnum() or character == "_" for character in masked(value))


def test_a_batch_keeps_and_names_its_template_version_and_codes(surgery: Surgery, recall: Path) -> None:
    people = [by_sms(1), by_email(2)]
    spec = surgery.batch("recall", people, message={"body": None, "template": "recall"})
    said = surgery.done("submit", spec, at=T).out
    assert "Message: template recall, version 3; SNOMED CT 1324681000000101" in said
    assert "Forename" not in said
    figures = surgery.done("review", "recall", "--json", at=T).json
    assert (figures["message_key"], figures["snomed"]) == ("template:recall@3", ["1324681000000101"])
    assert figures["samples"]["sms"]["text"] == "Alex: ring Larkfield Surgery"
    (surgery.home.templates / "recall.md").unlink()
    submitted = surgery.house.submitted("recall")
    assert (submitted.message.template, submitted.message.version) == ("recall", "3")
    assert submitted.snomed == ("1324681000000101",)
    surgery.done("approve", "recall", "--by", "Dr Test", at=T)
    surgery.done("dispatch", "recall", at=T)
    surgery.status("recall", emailed=1, awaiting=1)


@pytest.mark.parametrize(("own", "codes"), [(["75367002"], ("75367002",)), ([], ("1324681000000101",))])
def test_the_codes_of_a_batch_file_go_before_the_templates(own: list[str], codes: tuple[str, ...]) -> None:
    message = {"type": "simple", "template": "recall", "snomed": own}
    file = BatchFile.model_validate({"batch": "b", "workspace": "w", "cohort": "c.csv", "message": message})
    words = Message("x", None, "template:recall@3", "recall", "3", snomed=("1324681000000101",))
    nothing: Any = None
    assert Submitted(nothing, file, words, nothing).snomed == codes
