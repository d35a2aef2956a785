"""A FHIR ``Questionnaire`` as a form: what of FHIR can be shown here, and a refusal for the rest.

FHIR lets a reader leave out what it doesn't know. A form must not: a question that is silently asked otherwise than its
author meant it gives wrong answers. So whatever isn't listed here is refused, with its linkId and the mend.
docs/questionnaires.md is the same for people.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NoReturn, cast

from batch_pipeline.errors import Refused
from batch_pipeline.questionnaires import blood_pressure
from batch_pipeline.questionnaires.form import (
    LOINC,
    Choice,
    Code,
    Condition,
    Form,
    Item,
    Kind,
    Limits,
    Page,
    Question,
    Section,
    Unit,
    Value,
    When,
    Words,
)
from batch_pipeline.rules import body_mass

MIN_VALUE = "http://hl7.org/fhir/StructureDefinition/minValue"
MAX_VALUE = "http://hl7.org/fhir/StructureDefinition/maxValue"
UNIT = "http://hl7.org/fhir/StructureDefinition/questionnaire-unit"
ITEM_CONTROL = "http://hl7.org/fhir/StructureDefinition/questionnaire-itemControl"
USUAL_RANGE = "urn:batch-pipeline:questionnaire:usual-range"
"""FHIR has none: a ``valueRange`` outside of which an answer is taken, but asked about."""

LABEL = "urn:batch-pipeline:questionnaire:label"
"""FHIR has none either: what patients read of an answer to choose from, where the code's own name isn't for them."""

BODY_HEIGHT = Code(LOINC, "8302-2")
BODY_WEIGHT = Code(LOINC, "29463-7")
BODY_MASS_INDEX = Code(LOINC, "39156-5")

_OF_A_RESOURCE = (
    "resourceType id meta language text url identifier version name title status experimental subjectType date publisher "
    "contact description useContext jurisdiction purpose copyright approvalDate lastReviewDate effectivePeriod code item"
)
_ANY = frozenset({"id", "linkId", "definition", "code", "text", "type", "enableWhen", "enableBehavior", "extension"})
_KEYS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "group": _ANY | {"item"},
        "display": _ANY,
        "choice": _ANY | {"required", "repeats", "answerOption", "item"},
        "string": _ANY | {"required", "maxLength", "item"},
        "text": _ANY | {"required", "maxLength", "item"},
        "decimal": _ANY | {"required", "readOnly", "item"},
    }
)
_QUESTION = _ANY | {"required", "item"}
_HELP = frozenset({"id", "linkId", "text", "type", "extension"})
_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "boolean": "boolean",
        "choice": "choice",
        "date": "date",
        "decimal": "decimal",
        "integer": "integer",
        "string": "string",
        "text": "text",
    }
)
_FLAGS = frozenset({"readOnly", "repeats", "required"})
_VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        MIN_VALUE: ("valueInteger", "valueDecimal"),
        MAX_VALUE: ("valueInteger", "valueDecimal"),
        UNIT: ("valueCoding",),
        USUAL_RANGE: ("valueRange",),
    }
)
"""What each extension of a number says its value in: one that can't be read would be a limit that nobody has."""
_LONGEST: Mapping[str, int] = MappingProxyType({"string": 255, "text": 5000})
_LINK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}")
_OPERATORS = ("exists", "=", "!=", ">", "<", ">=", "<=")
_ORDERED = frozenset({"date", "decimal", "integer"})


@dataclass
class _Reader:
    """Reads one resource. Faults are told with the file's name and the linkId."""

    file: str
    seen: set[str] = field(default_factory=set[str])
    earlier: dict[str, Question] = field(default_factory=dict[str, Question])
    """The questions of the pages before: only on those may it depend whether another is asked."""
    computed: list[Question] = field(default_factory=list[Question])

    def refuse(self, link_id: str | None, what: str) -> NoReturn:
        raise Refused(f"{self.file}, linkId {link_id}: {what}" if link_id else f"{self.file}: {what}")

    def pages(self, items: Sequence[Mapping[str, Any]]) -> tuple[Page, ...]:
        """A group at the top is a page; what stands loose between two groups is one as well."""
        pages: list[Page] = []
        loose: list[Item] = []

        def close() -> None:
            if loose:
                pages.append(Page(loose[0].link_id, "", tuple(loose), When(), is_group=False))
                self._remember(pages[-1])
                loose.clear()

        for item in items:
            if item.get("readOnly"):
                self.computed.append(self._question(item, self._link_id(item), ()))
                continue
            if self.computed:
                self.refuse(self.computed[-1].link_id, _LAST)
            if item.get("type") != "group":
                loose += self._item(item, ())
                continue
            close()
            section = self._section(item)
            if not section.title:
                self.refuse(section.link_id, "text is missing: a group at the top is a page, and needs a heading")
            pages.append(
                Page(section.link_id, section.title, tuple(self._within(item, ())), section.when, is_group=True)
            )
            self._remember(pages[-1])
        close()
        for question in self.computed:
            self._may_be_computed(question)
        return tuple(pages)

    def _remember(self, page: Page) -> None:
        if not page.questions:
            self.refuse(page.link_id, "this page asks nothing: give it a question, or take it out")
        self.earlier.update({question.link_id: question for question in page.questions})

    def _item(self, item: Mapping[str, Any], titles: tuple[str, ...]) -> list[Item]:
        if item.get("type") == "group":
            section = self._section(item)
            inner = self._within(item, (*titles, section.title) if section.title else titles)
            return [Section(section.link_id, section.title, tuple(inner), section.codes, section.when)]
        link_id = self._link_id(item)
        if item.get("type") == "display":
            self._extensions(item, link_id)
            return [Words(link_id, self._text(item, link_id), self._when(item, link_id))]
        question = self._question(item, link_id, titles)
        if item.get("readOnly"):
            self.refuse(link_id, _LAST)
        return [question]

    def _section(self, item: Mapping[str, Any]) -> Section:
        link_id = self._link_id(item)
        self._extensions(item, link_id)
        if not item.get("item"):
            self.refuse(link_id, "the group is empty: give it a question, or take it out")
        title = str(item.get("text") or "").strip()
        return Section(link_id, title, (), self._codes(item), self._when(item, link_id))

    def _within(self, item: Mapping[str, Any], titles: tuple[str, ...]) -> list[Item]:
        return [found for inner in item["item"] for found in self._item(inner, titles)]

    def _link_id(self, item: Mapping[str, Any], allowed: frozenset[str] | None = None) -> str:
        """The item's linkId, once it is seen that nothing in the item would be left out."""
        link_id, kind = str(item.get("linkId") or ""), str(item.get("type"))
        if not _LINK_ID.fullmatch(link_id):
            self.refuse(link_id, "use up to 64 of A-Z, a-z, 0-9, _ . / and -, and begin with a letter or digit")
        if link_id in self.seen:
            self.refuse(link_id, "it is used twice: give one of the items another linkId")
        self.seen.add(link_id)
        if kind not in ("group", "display", *_KINDS):
            self.refuse(link_id, f"type {kind} can't be asked here: use group, display, {', '.join(_KINDS)}")
        known = allowed or _KEYS.get(kind, _QUESTION)
        if unknown := sorted(key for key, value in item.items() if value and key not in known):
            mend = _INSTEAD.get(unknown[0], "take it out")
            self.refuse(link_id, f"{unknown[0]} isn't supported on type {kind} here: {mend}")
        for key in _FLAGS & item.keys():
            if not isinstance(item[key], bool):
                self.refuse(link_id, f"{key} has to be true or false, without quotation marks")
        return link_id

    def _text(self, item: Mapping[str, Any], link_id: str) -> str:
        text = str(item.get("text") or "").strip()
        if not text:
            self.refuse(link_id, "text is missing: write what the patient is to read")
        return text

    def _codes(self, item: Mapping[str, Any]) -> frozenset[Code]:
        return frozenset(Code(code.get("system", ""), code.get("code", "")) for code in item.get("code", ()))

    def _question(self, item: Mapping[str, Any], link_id: str, titles: tuple[str, ...]) -> Question:
        kind = _KINDS[item["type"]]
        extensions = self._extensions(item, link_id)
        return Question(
            link_id=link_id,
            kind=kind,
            label=self._text(item, link_id),
            where=", ".join(titles),
            hint=self._hint(item, link_id),
            required=bool(item.get("required")),
            unit=_unit(extensions.get(UNIT)),
            allowed=self._allowed(extensions, link_id),
            usual=_usual(extensions.get(USUAL_RANGE)),
            max_length=int(item.get("maxLength") or _LONGEST.get(kind, 40)),
            choices=self._choices(item, link_id, kind),
            several=bool(item.get("repeats")),
            codes=self._codes(item),
            when=self._when(item, link_id),
        )

    def _hint(self, item: Mapping[str, Any], link_id: str) -> str:
        hints: list[str] = []
        for inner in item.get("item", ()):
            inner_id = self._link_id(inner, _HELP)
            self._extensions(inner, inner_id)
            controls = [_control(extension) for extension in inner.get("extension", ())]
            if inner.get("type") != "display" or "help" not in controls:
                self.refuse(
                    inner_id,
                    f"only a help text (type display, itemControl help) can stand within the question {link_id}: "
                    "put anything else beside it",
                )
            hints.append(self._text(inner, inner_id))
        return " ".join(hints)

    def _extensions(self, item: Mapping[str, Any], link_id: str) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        for extension in item.get("extension", ()):
            url = str(extension.get("url", ""))
            if url == ITEM_CONTROL:  # how it is drawn is the pages' affair
                continue
            if url not in _VALUES:
                self.refuse(link_id, f"the extension {url} isn't supported here: take it out")
            if item["type"] not in ("decimal", "integer"):
                self.refuse(link_id, f"the extension {url} goes with a decimal or an integer only: take it out")
            if url in found:
                self.refuse(link_id, f"the extension {url} stands twice: take one out")
            if extension.keys().isdisjoint(_VALUES[url]):
                self.refuse(link_id, f"the extension {url} needs {' or '.join(_VALUES[url])}")
            found[url] = extension
        return found

    def _allowed(self, extensions: Mapping[str, Mapping[str, Any]], link_id: str) -> Limits:
        least, most = _limit(extensions.get(MIN_VALUE)), _limit(extensions.get(MAX_VALUE))
        if least is not None and most is not None and least > most:
            self.refuse(link_id, "minValue is greater than maxValue: swap them")
        return Limits(least, most)

    def _choices(self, item: Mapping[str, Any], link_id: str, kind: Kind) -> tuple[Choice, ...]:
        options = item.get("answerOption", ())
        if kind == "choice" and not options:
            self.refuse(link_id, "answerOption is missing: write the answers to choose from")
        choices = tuple(self._choice(option, link_id) for option in options)
        if len({choice.value for choice in choices}) < len(choices):
            self.refuse(link_id, "two answers to choose from are the same: take one out, or give it another code")
        return choices

    def _choice(self, option: Mapping[str, Any], link_id: str) -> Choice:
        answer = {key: value for key, value in option.items() if key in ("valueCoding", "valueString")}
        extensions = option.get("extension", ())
        if len(answer) != 1 or set(option) - {*answer, "extension"} or any(e["url"] != LABEL for e in extensions):
            self.refuse(
                link_id, f"an answerOption has a valueCoding or a valueString, and at most the extension {LABEL}"
            )
        [(key, given)] = answer.items()
        name = given if key == "valueString" else given.get("display")
        label = next((extension.get("valueString") for extension in extensions), name)
        if not (name and label):
            self.refuse(link_id, "an answer to choose from has no display: write what it is called")
        value = name if key == "valueString" else given.get("code", name)
        return Choice(str(value), str(label), answer)

    def _when(self, item: Mapping[str, Any], link_id: str) -> When:
        conditions = tuple(self._condition(rule, link_id) for rule in item.get("enableWhen", ()))
        if len(conditions) > 1 and item.get("enableBehavior") not in ("all", "any"):
            self.refuse(link_id, "with several enableWhen enableBehavior has to say all or any")
        return When(conditions, item.get("enableBehavior") != "any")

    def _condition(self, rule: Mapping[str, Any], link_id: str) -> Condition:
        asked, operator = str(rule.get("question")), rule.get("operator")
        question = self.earlier.get(asked)
        if question is None:
            self.refuse(
                link_id,
                f"enableWhen names {asked}, which no page before asks: pages don't change while they are filled in, so "
                "put this item into a group of its own after that question's group",
            )
        if operator not in _OPERATORS:
            self.refuse(link_id, f"the operator {operator} isn't one of {' '.join(_OPERATORS)}")
        if operator in (">", "<", ">=", "<=") and question.kind not in _ORDERED:
            self.refuse(link_id, f"{asked} is a {question.kind}: only numbers and dates can be compared by {operator}")
        return Condition(asked, operator, self._compared(rule, question, link_id))

    def _compared(self, rule: Mapping[str, Any], question: Question, link_id: str) -> Value:
        key, read = _ANSWERS["boolean" if rule.get("operator") == "exists" else question.kind]
        if question.kind == "choice" and key != "answerBoolean":
            return self._compared_choice(rule, question, link_id)
        if key not in rule:
            self.refuse(link_id, f"enableWhen on {question.link_id} needs {key}")
        try:
            return read(rule[key])
        except (TypeError, ValueError):
            self.refuse(
                link_id, f'enableWhen on {question.link_id}: {key} has to be as FHIR writes it: true, 3 or "2026-11-23"'
            )

    def _compared_choice(self, rule: Mapping[str, Any], question: Question, link_id: str) -> str:
        coding = rule.get("answerCoding") or {}
        wanted = {"valueCoding": coding} if coding else {"valueString": rule.get("answerString")}
        chosen = next((choice for choice in question.choices if _same(choice.answer, wanted)), None)
        if chosen is None:
            self.refuse(
                link_id, f"enableWhen names an answer that {question.link_id} doesn't offer: use one of its own"
            )
        return chosen.value

    def _may_be_computed(self, question: Question) -> None:
        if BODY_MASS_INDEX not in question.codes or question.when.conditions:
            self.refuse(
                question.link_id,
                f"readOnly means that it is worked out, and only the body mass index can be (LOINC "
                f"{BODY_MASS_INDEX.code}, without enableWhen): take readOnly out",
            )
        for code, units, what in (
            (BODY_HEIGHT, body_mass.CENTIMETRES, "height"),
            (BODY_WEIGHT, body_mass.KILOGRAMS, "weight"),
        ):
            parts = [asked for asked in self.earlier.values() if code in asked.codes]
            if not parts:
                self.refuse(question.link_id, f"nothing asks for the {what} (LOINC {code.code}): add one")
            for part in parts:
                if part.unit is None or part.unit.code not in units:
                    self.refuse(part.link_id, f"a {what} needs the extension {UNIT} with one of {', '.join(units)}")


_LAST = "what is worked out (readOnly) stands at the top and after everything that is asked: put it there"
_INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "answerOption": "make its type choice",
        "answerValueSet": "write the answers out as answerOption",
        "initial": "patients start from an empty form; take it out",
        "modifierExtension": "it would change what the item means; take it out",
        "prefix": "write it into the text",
        "readOnly": "only a decimal can be worked out",
        "repeats": "write it out as often as it may be answered",
    }
)


def _exactly(kind: type[bool | int | str]) -> Callable[[Any], Value]:
    """FHIR's models take "true" for true; a condition would never hold then, or not be comparable at all."""

    def read(value: Any) -> Value:
        if type(value) is not kind:
            raise TypeError
        return value

    return read


_ANSWERS: Mapping[str, tuple[str, Callable[[Any], Value]]] = MappingProxyType(
    {
        "boolean": ("answerBoolean", _exactly(bool)),
        "choice": ("answerCoding", _exactly(str)),
        "date": ("answerDate", date.fromisoformat),
        "decimal": ("answerDecimal", lambda value: Decimal(str(value))),
        "integer": ("answerInteger", _exactly(int)),
        "string": ("answerString", _exactly(str)),
        "text": ("answerString", _exactly(str)),
    }
)
"""What an ``enableWhen`` compares with, by the kind of question."""


def _same(answer: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if "valueString" in answer or "valueString" in wanted:
        return answer == wanted
    mine, theirs = answer["valueCoding"], wanted["valueCoding"]
    keys = ("system", "code") if theirs.get("code") else ("display",)
    return all(mine.get(key) == theirs.get(key) for key in keys)


def _control(extension: Mapping[str, Any]) -> str | None:
    if extension.get("url") != ITEM_CONTROL:
        return None
    codings = extension.get("valueCodeableConcept", {}).get("coding", ())
    return next((coding.get("code") for coding in codings), None)


def _limit(extension: Mapping[str, Any] | None) -> Decimal | None:
    if extension is None:
        return None
    given = extension.get("valueInteger", extension.get("valueDecimal"))
    return None if given is None else Decimal(str(given))


def _usual(extension: Mapping[str, Any] | None) -> Limits:
    given = (extension or {}).get("valueRange", {})
    bounds = [given.get(side, {}).get("value") for side in ("low", "high")]
    least, most = (None if bound is None else Decimal(str(bound)) for bound in bounds)
    return Limits(least, most)


def _unit(extension: Mapping[str, Any] | None) -> Unit | None:
    if extension is None:
        return None
    coding = extension.get("valueCoding", {})
    return Unit(str(coding.get("display") or coding.get("code") or ""), coding.get("code"))


def read_form(resource: Mapping[str, Any], *, form_id: str, file: str) -> Form:
    """The form of a ``Questionnaire`` that is valid FHIR already (``library``). Raises ``Refused``."""
    reader = _Reader(file)
    if unknown := sorted(set(resource) - set(_OF_A_RESOURCE.split())):
        reader.refuse(None, f"{unknown[0]} isn't supported here: take it out")
    for key, why in (
        ("title", "it is the heading that patients read"),
        ("version", "raise it whenever something changes, such as 1"),
        ("url", "answers name the questionnaire by it"),
        ("item", "there is nothing to ask"),
    ):
        if not resource.get(key):
            reader.refuse(None, f"{key} is missing: {why}")
    if resource.get("status") != "active":
        reader.refuse(None, f"its status is {resource.get('status')}: write active when it may be sent to patients")
    pages = reader.pages(cast("Sequence[Mapping[str, Any]]", resource["item"]))
    form = Form(
        id=form_id,
        title=str(resource["title"]),
        introduction=str(resource.get("description") or ""),
        version=str(resource["version"]),
        url=str(resource["url"]),
        pages=pages,
        computed=tuple(reader.computed),
    )
    if fault := blood_pressure.fault(form):
        reader.refuse(*fault)
    return form
