"""Whatever can't be asked as its author meant it is refused, with the linkId and the mend."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.questionnaires.definition import read_form
from batch_pipeline_tests.questionnaires.given import ask, bounds, choose, form, group, resource_of

BP = [{"system": "http://snomed.info/sct", "code": "75367002"}]
SYSTOLIC = [{"system": "http://snomed.info/sct", "code": "271649006"}]
DIASTOLIC = [{"system": "http://snomed.info/sct", "code": "271650006"}]
HL7 = "http://hl7.org/fhir/StructureDefinition"
HELP = {"url": f"{HL7}/questionnaire-itemControl",
        "valueCodeableConcept": {"coding": [{"code": "help"}]}}  # fmt: skip
BMI = ask("bmi", "decimal", readOnly=True, code=[{"system": "http://loinc.org", "code": "39156-5"}])
HEIGHT = [{"system": "http://loinc.org", "code": "8302-2"}]


def when(question: str, **rule: Any) -> dict[str, Any]:
    return {"enableWhen": [{"question": question, "operator": "=", **rule}]}


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([ask("a", "quantity")], "linkId a: type quantity can't be asked here: use group, display, boolean, choice"),
        ([ask("a", "open-choice")], "linkId a: type open-choice can't be asked here"),
        ([ask("a b", "text")], "linkId a b: use up to 64 of A-Z"),
        ([ask("a", "text"), ask("a", "text")], "linkId a: it is used twice"),
        ([ask("a", "text", text=" ")], "linkId a: text is missing"),
        ([ask("a", "text", initial=[{"valueString": "x"}])], "linkId a: initial isn't supported on type text here: patients"),
        ([ask("a", "choice", answerValueSet="urn:x")], "answerValueSet isn't supported on type choice here: write the answers"),
        ([ask("a", "choice")], "linkId a: answerOption is missing: write the answers to choose from"),
        ([choose("a", "x") | {"type": "text"}], "linkId a: answerOption isn't supported on type text here: make its type ch"),
        ([ask("a", "integer", maxLength=3)], "linkId a: maxLength isn't supported on type integer here: take it out"),
        ([group("g", ask("a", "text"), required=True)], "linkId g: required isn't supported on type group here"),
        ([group("g", ask("a", "text"), extension=[{"url": "urn:x"}])], "linkId g: the extension urn:x isn't supported"),
        ([ask("a", "text"), ask("w", "display", extension=[{"url": "urn:x"}])], "linkId w: the extension urn:x isn't"),
        ([ask("a", "text", item=[ask("b", "display", extension=[HELP], **when("a", answerString="x"))])],
         "linkId b: enableWhen isn't supported on type display here"),
        ([choose("a", "x", "x")], "linkId a: two answers to choose from are the same"),
        ([ask("a", "choice", answerOption=[{"valueInteger": 1}])], "linkId a: an answerOption has a valueCoding or a"),
        ([ask("a", "choice", answerOption=[{"valueString": "x", "initialSelected": True}])], "linkId a: an answerOption"),
        ([ask("a", "choice", answerOption=[{"valueCoding": {"code": "1"}}])], "linkId a: an answer to choose from has no d"),
        ([ask("a", "text", repeats=True)], "linkId a: repeats isn't supported on type text here: write it out as often"),
        ([group("g", ask("a", "text"), repeats=True)], "linkId g: repeats isn't supported on type group here"),
        ([group("g")], "linkId g: the group is empty"),
        ([group("g", ask("a", "text"), text="")], "linkId g: text is missing: a group at the top is a page"),
        ([group("g", ask("w", "display"))], "linkId g: this page asks nothing"),
        ([ask("a", "text", item=[ask("b", "text")])], "linkId b: only a help text .* can stand within the question a"),
        ([ask("a", "text", extension=[{"url": "urn:x"}])], "linkId a: the extension urn:x isn't supported here"),
        ([ask("a", "text", extension=bounds(1, 2))], "linkId a: the extension .*minValue goes with a decimal or an integer"),
        ([ask("a", "integer", extension=[{"url": f"{HL7}/minValue", "valueString": "5"}])],
         "linkId a: the extension .*minValue needs valueInteger or valueDecimal"),
        ([ask("a", "integer", extension=[{"url": f"{HL7}/questionnaire-unit", "valueString": "kg"}])],
         "linkId a: the extension .*questionnaire-unit needs valueCoding"),
        ([ask("a", "integer", extension=[*bounds(1, 5), *bounds(2, 5)])], "linkId a: the extension .*minValue stands twice"),
        ([ask("a", "integer", required="false")], "linkId a: required has to be true or false, without quotation marks"),
        ([group("g", ask("a", "boolean")), group("h", ask("b", "text"), **when("a", answerBoolean="true"))],
         "linkId h: enableWhen on a: answerBoolean has to be as FHIR writes it"),
        ([group("g", ask("a", "integer")), group("h", ask("b", "text"), **when("a", answerInteger="3"))],
         "linkId h: enableWhen on a: answerInteger has to be as FHIR writes it"),
        ([group("g", ask("a", "date")), group("h", ask("b", "text"), **when("a", answerDate="2026-11"))],
         "linkId h: enableWhen on a: answerDate has to be as FHIR writes it"),
        ([group("g", ask("a", "text")), group("h", ask("b", "text"), enableWhen=[{"question": "a", "operator": "exists", "answerBoolean": "true"}])],
         "linkId h: enableWhen on a: answerBoolean has to be as FHIR writes it"),
        ([ask("a", "integer", extension=bounds(2, 1))], "linkId a: minValue is greater than maxValue"),
        ([ask("a", "text", readOnly=True)], "linkId a: readOnly isn't supported on type text here: only a decimal can be"),
        ([ask("a", "decimal", readOnly=True)], "linkId a: readOnly means that it is worked out, and only the body mass"),
        ([group("g", ask("a", "text"), BMI)], r"linkId bmi: what is worked out \(readOnly\) stands at the top and after"),
        ([BMI, ask("a", "text")], r"linkId bmi: what is worked out \(readOnly\) stands at the top and after"),
        ([BMI], r"linkId bmi: nothing asks for the height \(LOINC 8302-2\)"),
        ([ask("h", "decimal", code=HEIGHT), BMI], "linkId h: a height needs the extension .*questionnaire-unit with one of cm"),
        ([ask("a", "boolean"), ask("b", "text", **when("a", answerBoolean=True))],
         "linkId b: enableWhen names a, which no page before asks: .* put this item into a group of its own"),
        ([group("g", ask("a", "boolean")), group("h", ask("b", "text"), **when("a", answerString="x"))],
         "linkId h: enableWhen on a needs answerBoolean"),
        ([group("g", choose("a", "x")), group("h", ask("b", "text"), **when("a", answerString="y"))],
         "linkId h: enableWhen names an answer that a doesn't offer"),
        ([group("g", choose("a", "x")), group("h", ask("b", "text"), enableWhen=[{"question": "a", "operator": "<"}])],
         "linkId h: a is a choice: only numbers and dates can be compared by <"),
        ([group("g", ask("a", "text")), group("h", ask("b", "text"), enableWhen=[{"question": "a", "operator": "~"}])],
         "linkId h: the operator ~ isn't one of exists ="),
        ([group("g", ask("a", "text"), ask("c", "text")),
          group("h", ask("b", "text"), enableWhen=[{"question": q, "operator": "exists", "answerBoolean": True} for q in "ac"])],
         "linkId h: with several enableWhen enableBehavior has to say all or any"),
        ([group("g", group("r", ask("s", "integer"), code=BP))], "linkId r: page g has blood pressure readings: it needs one date"),
        ([group("g", ask("on", "date"), ask("s", "integer", code=[{"system": "http://loinc.org", "code": "8480-6"}]))],
         "linkId s: it has the code of a blood pressure, but isn't one of two numbers in a section of its own"),
        *(
            ([group("g", ask("on", "date"),
                    group(name, ask("s", "integer", code=SYSTOLIC), ask("d", "integer", code=DIASTOLIC), code=BP))],
             f"linkId {name}: the record knows the average and the pulses by such a name")
            for name in ("average", "r/pulse")
        ),
        ([group("g", ask("on", "date"), ask("s", "integer", code=SYSTOLIC), ask("d", "integer", code=DIASTOLIC), code=BP)],
         "linkId s: .* put the two into a group with SNOMED CT 75367002 within a page's group"),
        ([group("g", ask("on", "date"), group("r", ask("s", "integer"), code=BP))],
         "linkId r: the section is a blood pressure: give it an integer with SNOMED CT 271649006 for the systolic number"),
    ],
)  # fmt: skip
def test_an_item_that_cannot_be_asked_is_refused(items: list[Mapping[str, Any]], says: str) -> None:
    with pytest.raises(Refused, match=r"^mine\.json, linkId ") as refused:
        form(*items)
    assert re.search(says, str(refused.value)), str(refused.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"title": ""}, "mine.json: title is missing: it is the heading that patients read"),
        ({"version": None}, "mine.json: version is missing: raise it"),
        ({"url": None}, "mine.json: url is missing"),
        ({"item": []}, "mine.json: item is missing: there is nothing to ask"),
        ({"status": "draft"}, "mine.json: its status is draft: write active when it may be sent to patients"),
        ({"modifierExtension": []}, "mine.json: modifierExtension isn't supported here"),
    ],
)
def test_a_questionnaire_that_cannot_be_sent_is_refused(keys: Mapping[str, Any], says: str) -> None:
    with pytest.raises(Refused) as refused:
        form(ask("a", "text"), **keys)
    assert str(refused.value).startswith(says)


def test_a_form_has_everything_that_a_page_shows() -> None:
    made = form(
        group(
            "page",
            ask("words", "display"),
            {
                "linkId": "section", "text": "Morning", "type": "group", "item": [
                    ask("pulse", "integer", required=True, extension=bounds(20, 250, (40, 130)),
                        item=[ask("help", "display", text="In a minute", extension=[HELP])]),
                ],
            },
            ask("note", "string", maxLength=10),
        ),
        description="Please answer.",
    )  # fmt: skip
    [page] = made.pages
    pulse, note = page.questions
    assert (made.title, made.introduction, made.version) == ("Mine", "Please answer.", "1")
    assert (pulse.name, pulse.hint, pulse.required) == ("Morning: Question pulse", "In a minute", True)
    assert (pulse.allowed.hold(19), pulse.allowed.hold(20)) == (False, True)
    assert (pulse.usual.hold(130), pulse.usual.hold(131)) == (True, False)
    assert (note.max_length, note.required, note.where) == (10, False, "")


def test_a_code_is_a_choices_value_and_a_label_of_ours_what_patients_read() -> None:
    coding = {"system": "http://snomed.info/sct", "code": "77176002", "display": "Smoker"}
    label = [{"url": "urn:batch-pipeline:questionnaire:label", "valueString": "Yes, I smoke"}]
    options = [{"valueCoding": coding, "extension": label}, {"valueCoding": {"display": "No"}}]
    [question] = form(ask("a", "choice", answerOption=options)).questions
    assert [(choice.value, choice.label) for choice in question.choices] == [("77176002", "Yes, I smoke"), ("No", "No")]
    assert question.choices[0].answer == {"valueCoding": coding}


def test_a_shipped_questionnaire_may_be_changed_and_is_read_as_it_is_then() -> None:
    changed = resource_of("bp_4_day")
    del changed["item"][2:]
    assert len(read_form(changed, form_id="bp_2_day", file="bp_2_day.json").pages) == 2
