import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.questionnaires.library import kept_form, known, load_questionnaire
from batch_pipeline_tests.questionnaires.given import SHIPPED, ask, choose, resource, text_of


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.init()
    return home


def write(home: Home, name: str, content: dict[str, Any] | str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (home.questionnaires / f"{name}.json").write_text(text, encoding="utf-8")


def test_a_new_home_has_those_shipped_and_each_can_be_sent(home: Home) -> None:
    assert known(home) == list(SHIPPED)
    for name in SHIPPED:
        loaded = load_questionnaire(home, name)
        assert loaded.text == text_of(name)
        assert loaded.form.id == name
        assert kept_form(loaded.text, name) == loaded.form


def test_one_of_ones_own_is_called_by_its_files_name(home: Home) -> None:
    write(home, "asthma_review", resource(ask("a", "text")))
    loaded = load_questionnaire(home, "asthma_review")
    assert loaded.as_dict() == {"id": "asthma_review", "version": "1", "sha256": loaded.sha256}
    assert len(loaded.sha256) == 64


def test_an_unknown_one_is_refused_with_the_known_ones(home: Home) -> None:
    with pytest.raises(
        Refused, match=r'there is no questionnaire "bp7" in .*questionnaires; there are bmi, bp_4_day, bp_7'
    ):
        load_questionnaire(home, "bp7")


def test_a_home_without_any_is_told_how_to_get_them(home: Home) -> None:
    for path in home.questionnaires.iterdir():
        path.unlink()
    with pytest.raises(Refused, match="there are none: `batch-pipeline init` brings those shipped"):
        load_questionnaire(home, "bmi")
    home.questionnaires.rmdir()
    assert known(home) == []
    home.init()
    assert known(home) == list(SHIPPED)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"resourceType": "Questionnaire",\n "title"}', r"mine\.json, line 2: this isn't readable JSON \(Expecting ':'"),
        ('{"resourceType": "Patient"}', r"mine\.json: it has to be one FHIR resource with resourceType Questionnaire"),
        ("[]", r"mine\.json: it has to be one FHIR resource"),
        (resource(ask("a", "text", required="yes please")),
         r"mine\.json, linkId a: it isn't valid FHIR R4: item\.0\.required: Input should be a valid boolean"),
        (resource(choose("a", "x"), ask("b", "integer", maxLength="y", colour="red")),
         r"mine\.json, linkId b: it isn't valid FHIR R4: .* \(and 1 more to mend\)"),
        (resource(ask("a", "quantity")), r"mine\.json, linkId a: type quantity can't be asked here"),
    ],
)  # fmt: skip
def test_a_faulty_one_is_refused_with_its_place(home: Home, content: dict[str, Any] | str, says: str) -> None:
    write(home, "mine", content)
    with pytest.raises(Refused, match=says):
        load_questionnaire(home, "mine")


def test_the_example_of_the_docs_can_be_sent(home: Home) -> None:
    page = (Path(__file__).parents[2] / "docs" / "questionnaires.md").read_text("utf-8")
    [example] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    write(home, "asthma", example)
    assert [page.title for page in load_questionnaire(home, "asthma").form.pages] == ["Your inhaler", "How often"]


def test_another_ones_fault_stops_nobody(home: Home) -> None:
    write(home, "broken", "{")
    assert load_questionnaire(home, "bmi").form.title == "Your height and weight"


def test_pages_can_be_shown_and_read_without_the_slow_import(home: Home) -> None:
    """A gateway that only shows and reads pages doesn't pay for FHIR's models."""
    code = (
        "import sys; from batch_pipeline.questionnaires import answers, blood_pressure, library, posting, responses;"
        f"library.kept_form(open({str(home.questionnaires / 'bp_7_day.json')!r}, encoding='utf-8').read(), 'bp_7_day');"
        "sys.exit('fhir' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
