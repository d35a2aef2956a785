"""The message over set work: its fields as columns, and what each patient's text is and takes.

A message may name the patient's fields, any other column of the cohort, ``organisation_name``, and ``link`` where it
carries one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from batch_pipeline.planning.duck import literal, scan
from batch_pipeline.rules import cells, links, names
from batch_pipeline.rules.fragments import unless_blank_sql
from batch_pipeline.rules.headings import FIELDS
from batch_pipeline.rules.text import TextTemplate, compile_text

_PATIENT_FIELDS = {
    "first_name": "p.first_name",
    "surname": "p.surname",
    "last_name": "p.surname",
    "patient_name": names.full_name_sql("p"),
    "full_name": names.full_name_sql("p"),
    "nhs_number": "p.nhs_number",
    "date_of_birth": "strftime(p.date_of_birth, '%-d %B %Y')",
}


def _filled(column: str) -> str:
    """The cell tidied, or NULL where it says nothing: unlike in a name, ``Nan`` and ``Na`` are no words for a patient."""
    return f"CASE WHEN NOT {cells.empty_sql(column)} THEN {cells.tidied_sql(column)} END"


def value(field: str) -> str:
    """The column of a field's value."""
    return f'"value of {field}"'


SAMPLE = {
    "first_name": "Alex",
    "surname": "Example",
    "last_name": "Example",
    "patient_name": "Alex Example",
    "full_name": "Alex Example",
    "nhs_number": "9990000018",
    "date_of_birth": "31 January 1980",
}
"""The made-up patient of every sample and test message: a plan's sample shows no real one's name."""


@dataclass(frozen=True)
class Message:
    """One batch's message, and the cohort columns that its fields may name (besides the patient's own)."""

    body: TextTemplate
    subject: TextTemplate
    organisation_name: str
    cohort_columns: Sequence[str]
    link: str | None = None
    """The address that ``{{ link }}`` stands for, with a token still to come; none: the message carries no link."""

    @classmethod
    def of(
        cls,
        body: str,
        subject: str,
        organisation_name: str,
        cohort_columns: Sequence[str],
        link: str | None = None,
    ) -> "Message":
        """Compiles both texts; ``Refused`` for anything but plain ``{{ field }}``."""
        return cls(
            compile_text(body, label="message.body"),
            compile_text(subject, label="message.subject"),
            organisation_name,
            cohort_columns,
            link,
        )

    @cached_property
    def columns(self) -> dict[str, str]:
        """Field name to SQL expression over ``p`` (patients) and ``c`` (cohort)."""
        own = {*FIELDS, *_PATIENT_FIELDS, "organisation_name", "line", "problem"}
        return {
            "organisation_name": literal(self.organisation_name),
            **{name: _filled(f'c."{name}"') for name in self.cohort_columns if name not in own},
            **_PATIENT_FIELDS,
            **self._link_column,
        }

    @property
    def _link_column(self) -> dict[str, str]:
        return {} if self.link is None else {links.FIELD: literal(self.link)}

    @property
    def link_problems(self) -> list[str]:
        """What is wrong with the place of the patient's own address in the text."""
        if self.link is None:
            return []
        found: list[str] = []
        if links.FIELD not in self.body.fields:
            found.append("the message carries a link, but its text doesn't say where: write {{ link }} into the text")
        if links.FIELD in self.subject.fields:
            found.append("{{ link }} stands in the subject: write it into the text alone")
        return found

    @property
    def fields(self) -> set[str]:
        """Every field that body and subject name."""
        return {*self.body.fields, *self.subject.fields}

    @property
    def unknown_fields(self) -> list[str]:
        """Fields that neither the patient nor the cohort has."""
        return sorted(self.fields - self.columns.keys())

    @property
    def known_fields(self) -> list[str]:
        """The fields that can be filled in, in a steady order."""
        return sorted(self.fields & self.columns.keys())

    def values_sql(self) -> str:
        """The known fields' values as columns, over ``p`` (patients) and ``c`` (cohort); NULL where a gap would be left.

        The other expressions here are over these columns: a value is worked out once, however often it is looked at.
        """
        return "".join(
            f", {unless_blank_sql(f'({self.columns[name]})')} AS {value(name)}" for name in self.known_fields
        )

    def text_sql(self) -> str:
        """The rendered body; NULL for a patient who lacks a field. Only while nothing is unknown, as all that follows."""
        return self.body.sql(self._values)

    def subject_sql(self) -> str:
        """The rendered subject; NULL for a patient who lacks a field."""
        return self.subject.sql(self._values)

    def sms_sql(self) -> str:
        """The body as an SMS carries it: typographic characters brought down to GSM-7 where they can be."""
        return self.body.sms_sql(self._values)

    def characters_sql(self) -> str:
        """Length of the body; NULL for a gap."""
        return self.body.characters_sql(self._values)

    def subject_characters_sql(self) -> str:
        """Length of the subject; NULL for a gap."""
        return self.subject.characters_sql(self._values)

    def basic_sms_characters_sql(self) -> str:
        """Length of the SMS where it is basic; NULL otherwise, and for a gap."""
        return self.body.basic_sms_characters_sql(self._values)

    @property
    def _values(self) -> dict[str, str]:
        return {name: value(name) for name in self.known_fields}

    @property
    def templates_digest(self) -> str:
        """Of both templates: with the fields' values it stands for the texts themselves."""
        return hashlib.sha256(repr((self.body.pieces, self.subject.pieces)).encode()).hexdigest()

    def digested_sql(self) -> list[str]:
        """The fields' values, for a digest of all that is said to a patient."""
        return [f"coalesce({column}, '')" for column in self._values.values()]

    def joins(self, patients: Path, cohort: Path) -> str:
        """The FROM-terms that ``values_sql`` needs, joined to a relation with ``line``."""
        others = set(self.known_fields) - _PATIENT_FIELDS.keys() - self._link_column.keys() - {"organisation_name"}
        return f" JOIN {scan(patients)} p USING (line)" + (f" JOIN {scan(cohort)} c USING (line)" if others else "")

    def sample(self) -> tuple[str, str]:
        """Subject and body for the made-up patient; another column stands as its own name in angle quotes."""
        values = {
            **{name: f"‹{name}›" for name in self.fields},
            **SAMPLE,
            "organisation_name": self.organisation_name,
            **({} if self.link is None else {links.FIELD: self.link}),
        }
        return self.subject.render(values), self.body.render(values)
