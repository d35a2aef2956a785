"""One post folded over the answers as they are: what it comes to, and what can't wait (SPEC 2.12).

A page is shown, filled in and posted, and meanwhile the same patient may have posted from another tab. So each page
carries a stamp of what it showed. A question that was left as it was shown leaves its answer as it is now; one that was
changed goes over it. Posting the same twice comes to the same.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TypeAlias

from batch_pipeline.questionnaires import blood_pressure
from batch_pipeline.questionnaires.answers import missing
from batch_pipeline.questionnaires.blood_pressure import Noticed
from batch_pipeline.questionnaires.form import Answers, Form, Page, Value
from batch_pipeline.questionnaires.posting import read_page

_CHARACTERS = 8
"""Of a field's stamp: it is compared with what the same patient posts, and kept from nobody."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What a post comes to."""

    answers: Answers
    """All of the form's so far: to be kept at once, also beside errors."""
    errors: Mapping[str, str]
    warnings: Mapping[str, str]
    """Both as ``posting.Posted`` has them."""
    noticed: tuple[Noticed, ...]
    """Readings of this page that the patient is given advice about."""
    findings: frozenset[str]
    """``findings`` of all the answers."""


def stamp(page: Page, answers: Answers) -> str:
    """What a page shows of these answers, field by field, without a word of it."""
    return ".".join(
        _stamp(question.shown(answers.get(question.link_id)).get(field, ""))
        for question in page.questions
        for field in question.fields
    )


def _stamp(value: str) -> str:
    return hashlib.sha256(value.replace("\r\n", "\n").encode(errors="replace")).hexdigest()[:_CHARACTERS]


def shown_page(form: Form, number: int, answers: Answers) -> Page | None:
    """The form's page of that number, from 1 on, with what is asked on it; ``None`` for one that isn't asked."""
    if not 1 <= number <= len(form.pages):
        return None
    wanted = form.pages[number - 1].link_id
    return next((page for page in form.to_show(answers) if page.link_id == wanted), None)


def number_of(form: Form, page: Page) -> int:
    """The number of one of the form's pages: the same one whatever was answered."""
    return [each.link_id for each in form.pages].index(page.link_id) + 1


def fill(form: Form, page: Page, fields: Mapping[str, str], shown: str, before: Answers, today: date) -> Filled:
    """Folds what was posted from a page, which was ``shown`` with that stamp, over the answers as they are now."""
    posted = read_page(form, page, _changed(page, fields, shown), before, today)
    answers = dict(posted.answers)
    _forget_lone_date(form, page, answers)
    seen = blood_pressure.noticed(form, answers, today)
    return Filled(
        answers,
        posted.errors,
        posted.warnings,
        tuple(each for each in seen if each.given.place.page.link_id == page.link_id),
        findings(form, answers, today),
    )


def _changed(page: Page, fields: Mapping[str, str], shown: str) -> dict[str, str]:
    """The fields without those of questions that were left as they were shown."""
    names = [field for question in page.questions for field in question.fields]
    stamps = shown.split(".")
    if len(stamps) != len(names):  # shown before an answer to an earlier page changed what is asked here
        return dict(fields)
    before = dict(zip(names, stamps, strict=True))
    same = {
        field
        for question in page.questions
        if all(_stamp(fields.get(field, "")) == before[field] for field in question.fields)
        for field in question.fields
    }
    return {field: value for field, value in fields.items() if field not in same}


def _forget_lone_date(form: Form, page: Page, answers: dict[str, Value]) -> None:
    """A day's page suggests its date: saved without a reading, that mustn't be the date of tomorrow's readings."""
    dates = {place.on.link_id for place in blood_pressure.places(form) if place.page.link_id == page.link_id}
    given = blood_pressure.given(form, answers)
    if not any(each.place.page.link_id == page.link_id for each in given):
        for link_id in dates:
            answers.pop(link_id, None)


def findings(form: Form, answers: Answers, today: date) -> frozenset[str]:
    """What can't wait, each by a name of its own that says nothing of the value: the range, and which reading."""
    return frozenset(
        f"{each.band.code}:{each.given.place.link_id}"
        for each in blood_pressure.noticed(form, answers, today)
        if each.band.urgent
    )


Lacking: TypeAlias = tuple[Page, str]
"""A page on which something has to be answered, and what."""


def why_not_complete(form: Form, answers: Answers, today: date) -> tuple[Lacking, ...]:
    """What keeps these answers from being sent; empty: nothing does.

    Readings that lack a number or their date, or whose numbers are swapped: they would be left out of the average.
    """
    lacking = [(page, _on(page, question.name)) for page, question in missing(form, answers)]
    given = blood_pressure.given(form, answers)
    broken = {each.place.page.link_id for each in given if each.reading is None}
    for page in form.to_show(answers):
        if page.link_id in broken:
            found = blood_pressure.faults(form, page, answers, today)
            lacking += [(page, _on(page, fault)) for fault in found.values()]
    if lacking or form.in_force(answers):
        return tuple(lacking)
    return ((form.to_show(answers)[0], "Answer at least one question"),)


def _on(page: Page, what: str) -> str:
    return f"{page.title}: {what}" if page.title else what


def onward(form: Form, page: Page, answers: Answers) -> Page | None:
    """The page that is asked after this one; ``None`` after the last."""
    number = number_of(form, page)
    return next((each for each in form.to_show(answers) if number_of(form, each) > number), None)
