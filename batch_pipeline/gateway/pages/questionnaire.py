"""A questionnaire as patients fill it in: page by page, over several days where it asks for that (SPEC 2.12).

``/{token}`` begins it, or goes on where it was left; ``/{token}/questions/3`` is a page, ``…/3/change`` the same on the
way back to ``/{token}/check``, where the answers are looked over and sent; ``/{token}/advice/3`` tells what to do about
a reading that can't wait. What a page posts is kept before anything is answered to it, whatever is wrong beside it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from types import MappingProxyType
from typing import Any

from starlette.responses import Response as Answer

from batch_pipeline.gateway.pages import attachment
from batch_pipeline.gateway.pages.answers import page as rendered
from batch_pipeline.gateway.pages.answers import see_other
from batch_pipeline.gateway.pages.asking import blocks
from batch_pipeline.gateway.pages.opening import Busy
from batch_pipeline.gateway.pages.views import day_in_words
from batch_pipeline.gateway.pages.visits import PageSet, Visit
from batch_pipeline.ledger.links import Link, Response
from batch_pipeline.ledger.responses import Change
from batch_pipeline.questionnaires import blood_pressure, filling
from batch_pipeline.questionnaires.answers import as_json, computed, from_json, in_words, missing
from batch_pipeline.questionnaires.blood_pressure import Noticed
from batch_pipeline.questionnaires.filling import Filled, Lacking
from batch_pipeline.questionnaires.form import Answers, Form, Page

_TOO_OLD = "The page was open for too long. Please enter it again."
_QUESTIONS, _CHANGE, _CHECK, _ADVICE = "questions", "change", "check", "advice"


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A questionnaire with one patient's answers, as a request finds them."""

    visit: Visit
    link: Link
    form: Form
    answers: Answers
    today: date

    @classmethod
    def of(cls, visit: Visit, link: Link) -> "_Sheet":
        asks = json.loads(link.spec)["questionnaire"]
        form = visit.site.of.kept_form(asks["sha256"], asks["id"])
        today = visit.now.astimezone(visit.sender(link).zone).date()
        return cls(visit, link, form, _answers(form, link.response), today)

    @property
    def is_sent(self) -> bool:
        return self.link.response is not None and self.link.response.completed_at is not None

    @property
    def takes_days(self) -> bool:
        """Whether it asks for readings: then its pages are days, and are filled in when their day has come."""
        return bool(blood_pressure.places(self.form))

    def address(self, *place: object) -> str:
        return "/".join(("", self.visit.token, *map(str, place)))

    def address_of(self, page: Page, *, what: str = _QUESTIONS, changes: bool = False) -> str:
        """Of what there is of a page: its questions, or advice. ``changes``: on the way back to where all is looked over."""
        return self.address(what, filling.number_of(self.form, page), *([_CHANGE] if changes else []))

    def page(self) -> tuple[Page | None, bool]:
        """The page that the address names, if it is asked of this patient; and whether it is only to be changed."""
        number, _, then = self.visit.place.partition("/")[2].partition("/")
        is_number = number.isascii() and number.isdecimal() and len(number) < len("1000")
        return (filling.shown_page(self.form, int(number), self.answers) if is_number else None), then == _CHANGE

    def render(
        self, template: str, status: int = 200, headers: Mapping[str, str] = MappingProxyType({}), **values: Any
    ) -> Answer:
        content = self.visit.site.views.render(
            template,
            sender=self.visit.sender(self.link),
            token=self.visit.token,
            form_title=self.form.title,
            signed=self.visit.signed("answers"),
            home=self.address(),
            **values,
        )
        return rendered(content, status, headers)


def _answers(form: Form, response: Response | None) -> Answers:
    return {} if response is None or response.answers is None else from_json(form, json.loads(response.answers))


def _kept(answers: Answers) -> str:
    return json.dumps(as_json(answers), ensure_ascii=False, separators=(",", ":"))


# The first page ------------------------------------------------------------------------------------------------------


async def begin(visit: Visit, link: Link) -> Answer:
    """What it is about, how far it is, and where to go on; of one that was sent, that it was."""
    sheet = _Sheet.of(visit, link)
    if sheet.is_sent:
        return _sent(sheet)
    next_page = _first_open(sheet)
    return sheet.render(
        "questionnaire",
        introduction=sheet.form.introduction,
        days=_days(sheet) if sheet.takes_days else (),
        begun=bool(sheet.answers),
        onward=sheet.address(_CHECK) if next_page is None else sheet.address_of(next_page),
        check=sheet.address(_CHECK),
        until=day_in_words(link.ends_at(visit.now), visit.sender(link).zone),
        advice=_advice(blood_pressure.noticed(sheet.form, sheet.answers, sheet.today)),
        document=attachment.attachment_of(link),
    )


def _first_open(sheet: _Sheet) -> Page | None:
    """The first page that lacks what has to be answered, or of which nothing is; ``None``: they may be looked over."""
    lacking = {page.link_id for page, _ in missing(sheet.form, sheet.answers)}
    return next(
        (
            page
            for page in sheet.form.to_show(sheet.answers)
            if page.link_id in lacking or not any(each.link_id in sheet.answers for each in page.questions)
        ),
        None,
    )


_STATES = {"done": "Completed", "begun": "Some readings missing", "open": "Not started", "later": "Cannot start yet"}


def _days(sheet: _Sheet) -> list[dict[str, Any]]:
    """Each page, and how it stands: those without readings too, where a questionnaire has both."""
    days = {day.page.link_id: day for day in blood_pressure.days(sheet.form, sheet.answers, sheet.today)}
    found: list[dict[str, Any]] = []
    for page in sheet.form.to_show(sheet.answers):
        row: dict[str, Any] = {"title": page.title or sheet.form.title, "place": sheet.address_of(page)}
        day = days.get(page.link_id)
        if day is None:
            given = any(each.link_id in sheet.answers for each in page.questions)
            row |= {"state": "done" if given else "open", "hint": ""}
        else:
            row |= {"state": day.state, "hint": _hint(day)}
        found.append({**row, "says": _STATES[row["state"]]})
    return found


def _hint(day: blood_pressure.Day) -> str:
    if day.state == "later" and day.on is not None:
        return f"From {_day(day.on)}"
    if day.given and day.on is not None:
        return f"{_day(day.on)}: {day.given} of {day.asked} readings"
    return ""


def _day(on: date) -> str:
    return f"{on.day} {on:%B %Y}"


def _sent(sheet: _Sheet, status: int = 200, late: tuple[Noticed, ...] | None = None) -> Answer:
    """``late``: of what was posted after it was sent, the readings to give advice about."""
    response = sheet.link.response
    noticed = blood_pressure.noticed(sheet.form, sheet.answers, sheet.today)
    at = sheet.visit.now if response is None or response.completed_at is None else response.completed_at
    return sheet.render(
        "questionnaire_sent",
        status,
        at=day_in_words(at, sheet.visit.sender(sheet.link).zone),
        too_late=late is not None,
        advice=_advice((*(late or ()), *noticed)),
        document=attachment.attachment_of(sheet.link),
    )


# A page of questions -------------------------------------------------------------------------------------------------


async def show(visit: Visit, link: Link) -> Answer:
    """A page, with what was answered so far."""
    sheet = _Sheet.of(visit, link)
    page, _ = sheet.page()
    if page is None or sheet.is_sent:
        return see_other(sheet.address())
    return _asked(sheet, page)


def _asked(sheet: _Sheet, page: Page, filled: Filled | None = None, typed: Mapping[str, str] | None = None) -> Answer:
    """``filled``: of a page that is shown once more, with what was ``typed``."""
    errors = {} if filled is None else filled.errors
    warnings = {} if filled is None else filled.warnings
    values: dict[str, str] = {}
    for question in page.questions:
        wrong = errors.keys() & set(question.fields)
        values |= (
            {name: (typed or {}).get(name, "") for name in question.fields}
            if wrong
            else question.shown(sheet.answers.get(question.link_id))
        )
    return sheet.render(
        "questionnaire_page",
        422 if errors else 200,
        title=page.title or sheet.form.title,
        here=sheet.address_of(page, changes=sheet.page()[1]),
        shown=filling.stamp(page, sheet.answers),
        blocks=blocks(page.items, _suggested(sheet, page) | values, errors),
        errors=_pointing(errors),
        warnings=_pointing(warnings),
        advice=_advice(() if filled is None else filled.noticed),
    )


def _pointing(faults: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is wrong, each with the address of its field."""
    return [(f"#{field}", says) for field, says in faults.items()]


def _suggested(sheet: _Sheet, page: Page) -> dict[str, str]:
    """The date of a day's page that isn't begun."""
    for day in blood_pressure.days(sheet.form, sheet.answers, sheet.today):
        if day.page.link_id == page.link_id and day.state == "open" and day.on is not None:
            place = next(each for each in blood_pressure.places(sheet.form) if each.page.link_id == page.link_id)
            return place.on.shown(day.on)
    return {}


@dataclass(frozen=True, slots=True)
class _Taken(Change):
    """What a page's post came to, for the answer to it."""

    before: Response | None = field(repr=False)
    page: Page | None = None
    filled: Filled | None = field(default=None, repr=False)


async def take(visit: Visit, link: Link) -> Answer:
    """Keeps what was posted, and shows the page once more, or gives advice, or goes on."""
    fields, genuine = await visit.posted("answers", visit.site.of.limits.answers_bytes)
    if not genuine:  # not a form of ours, or one that was open for a day
        return visit.not_saved(_TOO_OLD)
    shown = fields.pop("shown", "")

    def fold(link: Link, before: Response | None) -> _Taken:
        sheet = _Sheet.of(visit, replace(link, response=before))
        page, _ = sheet.page()
        if page is None:
            return _Taken(None, completes=False, findings=(), before=before)
        filled = filling.fill(sheet.form, page, fields, shown, sheet.answers, sheet.today)
        kept = None if filled.answers == sheet.answers else _kept(filled.answers)
        return _Taken(kept, completes=False, findings=filled.findings, before=before, page=page, filled=filled)

    try:
        taken = await visit.site.opening.keep(visit.token_hash, fold, visit.now)
    except Busy as busy:
        visit.told.fault = str(busy)
        judged = fold(link, link.response)
        return _once_more(visit, link, judged.page, judged.filled, {**fields, "shown": shown})
    if isinstance(taken, str):
        return visit.locked(link) if taken == "locked" else visit.gone()
    return _answer_to(visit, replace(link, response=taken.before), taken.page, taken.filled, fields)


def _once_more(visit: Visit, link: Link, page: Page | None, filled: Filled | None, fields: Mapping[str, str]) -> Answer:
    """What couldn't be kept now, to be posted again as it was; what a patient has to do about it doesn't wait for that."""
    sheet = _Sheet.of(visit, link)
    if page is None or filled is None:
        return visit.later(503)
    names = ["shown", *(name for question in page.questions for name in question.fields)]
    return sheet.render(
        "questionnaire_once_more",
        503,
        {"Retry-After": "60"},
        here=sheet.address_of(page, changes=sheet.page()[1]),
        fields=[(name, fields[name]) for name in names if name in fields],
        advice=_advice(filled.noticed),
    )


def _answer_to(visit: Visit, link: Link, page: Page | None, filled: Filled | None, fields: Mapping[str, str]) -> Answer:
    sheet = _Sheet.of(visit, link)
    if page is None or filled is None:
        return see_other(sheet.address())
    if not visit.is_in_session:
        advice = _advice(filled.noticed)
        return sheet.render(
            "questionnaire_kept",
            too_late=sheet.is_sent,
            advice=advice,
            errors=list(filled.errors.values()),
            warnings=list(filled.warnings.values()),
        )
    if sheet.is_sent:
        return _sent(sheet, 409, filled.noticed)
    sheet = replace(sheet, answers=filled.answers)
    _, changes = sheet.page()
    if filled.errors or filled.warnings:
        answer = _asked(sheet, page, filled, fields)
    elif filled.noticed:
        answer = see_other(sheet.address_of(page, what=_ADVICE, changes=changes))
    else:
        answer = see_other(_onward(sheet, page, changes=changes))
    return visit.keep_session(answer)


def _onward(sheet: _Sheet, page: Page, *, changes: bool) -> str:
    """Where somebody goes from a page that is done."""
    if changes:
        return sheet.address(_CHECK)
    if sheet.takes_days:
        return sheet.address()
    following = filling.onward(sheet.form, page, sheet.answers)
    return sheet.address(_CHECK) if following is None else sheet.address_of(following)


# Readings that can't wait --------------------------------------------------------------------------------------------


async def advise(visit: Visit, link: Link) -> Answer:
    """What to do about the readings of a page that was just filled in."""
    sheet = _Sheet.of(visit, link)
    page, changes = sheet.page()
    if page is None or sheet.is_sent:
        return see_other(sheet.address())
    noticed = blood_pressure.noticed(sheet.form, sheet.answers, sheet.today)
    here = tuple(each for each in noticed if each.given.place.page.link_id == page.link_id)
    onward = _onward(sheet, page, changes=changes)
    if not here:
        return see_other(onward)
    back = sheet.address_of(page, changes=changes)
    return sheet.render("questionnaire_advice", advice=_advice(here), onward=onward, back=back)


def _advice(noticed: Sequence[Noticed]) -> list[dict[str, Any]]:
    """Each advice once, with the readings that it is about; the most urgent first."""
    found: dict[str, dict[str, Any]] = {}
    for each in sorted(noticed, key=lambda each: not each.band.urgent):
        advice = found.setdefault(
            each.band.code, {"says": each.band.advice, "urgent": each.band.urgent, "readings": []}
        )
        if (reading := each.words) not in advice["readings"]:
            advice["readings"].append(reading)
    return list(found.values())


# Looking over, and sending -------------------------------------------------------------------------------------------


async def check(visit: Visit, link: Link) -> Answer:
    """All answers, each with a way back to its page."""
    sheet = _Sheet.of(visit, link)
    return see_other(sheet.address()) if sheet.is_sent else _check(sheet)


def _check(sheet: _Sheet, errors: Sequence[Lacking] = (), *, changed: bool = False) -> Answer:
    response = sheet.link.response
    return sheet.render(
        "questionnaire_check",
        422 if errors else 409 if changed else 200,
        pages=[_summary(sheet, page) for page in sheet.form.to_show(sheet.answers)],
        computed=[
            (question.label, in_words(question, value))
            for question in sheet.form.computed
            for value in computed(sheet.form, sheet.answers).values()
        ],
        average=blood_pressure.average(sheet.form, sheet.answers),
        left=[
            day.page.title for day in blood_pressure.days(sheet.form, sheet.answers, sheet.today) if day.state != "done"
        ],
        version=0 if response is None else response.version,
        here=sheet.address(_CHECK),
        errors=[(sheet.address_of(page, changes=True), says) for page, says in errors],
        changed=changed,
        advice=_advice(blood_pressure.noticed(sheet.form, sheet.answers, sheet.today)),
    )


def _summary(sheet: _Sheet, page: Page) -> dict[str, Any]:
    """A page's answers; a reading stands in one row, and those that weren't given in none."""
    held, place = sheet.form.in_force(sheet.answers), sheet.address_of(page, changes=True)
    places = [each for each in blood_pressure.places(sheet.form) if each.page.link_id == page.link_id]
    numbers = {each.link_id for one in places for each in (one.systolic, one.diastolic, one.pulse) if each is not None}
    rows = [
        {"label": question.name, "answer": in_words(question, held.get(question.link_id)), "place": place}
        for question in page.questions
        if question.link_id not in numbers and (not places or question.link_id in held)
    ]
    given = blood_pressure.given(sheet.form, sheet.answers)
    rows += [
        {"label": each.place.where, "answer": each.words, "place": place}
        for each in given
        if each.place.page.link_id == page.link_id
    ]
    return {"title": page.title, "place": place, "rows": rows}


async def send(visit: Visit, link: Link) -> Answer:
    """Completes the answers, as they were looked over."""
    fields, genuine = await visit.posted("answers", visit.site.of.limits.body_bytes)
    if not genuine:
        return see_other(f"/{visit.token}/{_CHECK}")

    def fold(link: Link, before: Response | None) -> _Taken:
        sheet = _Sheet.of(visit, replace(link, response=before))
        as_seen = before is not None and fields.get("version") == str(before.version)
        ready = as_seen and not filling.why_not_complete(sheet.form, sheet.answers, sheet.today)
        return _Taken(None, completes=ready, findings=(), before=before)

    taken = await visit.site.opening.keep(visit.token_hash, fold, visit.now)
    if isinstance(taken, str):
        return visit.locked(link) if taken == "locked" else visit.gone()
    sheet = _Sheet.of(visit, replace(link, response=taken.before))
    if taken.completes or sheet.is_sent:
        return see_other(sheet.address())
    lacking = filling.why_not_complete(sheet.form, sheet.answers, sheet.today)
    return visit.keep_session(_check(sheet, lacking, changed=not lacking))


PAGES = PageSet(
    {
        "": {"GET": begin},
        _QUESTIONS: {"GET": show, "POST": take},
        _ADVICE: {"GET": advise},
        _CHECK: {"GET": check, "POST": send},
        "attachment": {"GET": attachment.hand_out},
    },
    outlives_session={_QUESTIONS},
)
