"""Questionnaires to test with: those shipped, and small ones made here."""

import json
from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib import resources
from typing import Any

from batch_pipeline.questionnaires.definition import read_form
from batch_pipeline.questionnaires.form import Form, Page

SHIPPED = ("bmi", "bp_4_day", "bp_7_day", "ethnicity", "free_text", "smoking_status")
MONDAY = date(2026, 11, 23)


@cache
def text_of(questionnaire: str) -> str:
    """A shipped questionnaire's file."""
    folder = resources.files("batch_pipeline") / "new_home" / "questionnaires"
    return (folder / f"{questionnaire}.json").read_text("utf-8")


def resource_of(questionnaire: str) -> dict[str, Any]:
    """A shipped questionnaire, to be changed at will."""
    return json.loads(text_of(questionnaire))


@cache
def shipped(questionnaire: str) -> Form:
    return read_form(resource_of(questionnaire), form_id=questionnaire, file=f"{questionnaire}.json")


def resource(*items: Mapping[str, Any], **keys: Any) -> dict[str, Any]:
    """A questionnaire of these items."""
    return {
        "resourceType": "Questionnaire",
        "url": "urn:example:questionnaire:mine",
        "version": "1",
        "title": "Mine",
        "status": "active",
        "item": list(items),
        **keys,
    }


def form(*items: Mapping[str, Any], **keys: Any) -> Form:
    return read_form(resource(*items, **keys), form_id="mine", file="mine.json")


def group(link_id: str, *items: Mapping[str, Any], **keys: Any) -> dict[str, Any]:
    return {"linkId": link_id, "text": f"Page {link_id}", "type": "group", "item": list(items), **keys}


def ask(link_id: str, kind: str, **keys: Any) -> dict[str, Any]:
    return {"linkId": link_id, "text": f"Question {link_id}", "type": kind, **keys}


def choose(link_id: str, *options: str, **keys: Any) -> dict[str, Any]:
    return ask(link_id, "choice", answerOption=[{"valueString": option} for option in options], **keys)


def bounds(least: int, most: int, usual: tuple[int, int] | None = None) -> list[dict[str, Any]]:
    """The extensions of a whole number's limits."""
    hl7 = "http://hl7.org/fhir/StructureDefinition"
    found: list[dict[str, Any]] = [
        {"url": f"{hl7}/minValue", "valueInteger": least},
        {"url": f"{hl7}/maxValue", "valueInteger": most},
    ]
    if usual:
        low, high = usual
        found.append(
            {
                "url": "urn:batch-pipeline:questionnaire:usual-range",
                "valueRange": {"low": {"value": low}, "high": {"value": high}},
            }
        )
    return found


def dated(link_id: str, on: date) -> dict[str, str]:
    """The fields of a date."""
    return {f"{link_id}:day": str(on.day), f"{link_id}:month": str(on.month), f"{link_id}:year": str(on.year)}


def readings(page: Page, on: date | None, **numbers: tuple[int | str, int | str]) -> dict[str, str]:
    """What a BP page posts: ``readings(page, MONDAY, m1=(135, 85), e2=(140, 90))``."""
    sessions = {"m": "morning", "e": "evening"}
    posted = {} if on is None else dated(f"{page.link_id}.date", on)
    for place, (systolic, diastolic) in numbers.items():
        link_id = f"{page.link_id}.{sessions[place[0]]}.{place[1]}"
        posted |= {f"{link_id}.systolic": str(systolic), f"{link_id}.diastolic": str(diastolic)}
    return posted
