"""The message over set work: its fields as columns, and what each patient's text is and takes.

A message may name the patient's fields, any other column of the cohort, and ``organisation_name``.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from batch_pipeline.planning.duck import literal, scan
from batch_pipeline.rules import cells
from batch_pipeline.rules.headings import FIELDS
from batch_pipeline.rules.text import TextTemplate, compile_text

_PATIENT_FIELDS = {
    "first_name": "p.first_name",
    "surname": "p.surname",
    "last_name": "p.surname",
    "patient_name": "p.patient_name",
    "full_name": "p.patient_name",
    "nhs_number": "p.nhs_number",
    "date_of_birth": "strftime(p.date_of_birth, '%-d %B %Y')",
}


def _filled(column: str) -> str:
    """The cell tidied, or NULL where it says nothing: ``nan`` and ``-`` are no words for a patient."""
    return f"CASE WHEN NOT {cells.empty_sql(column)} THEN {cells.tidied_sql(column)} END"


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

    @classmethod
    def of(cls, body: str, subject: str, organisation_name: str, cohort_columns: Sequence[str]) -> "Message":
        """Compiles both texts; ``Refused`` for anything but plain ``{{ field }}``."""
        return cls(
            compile_text(body, label="message.body"),
            compile_text(subject, label="message.subject"),
            organisation_name,
            cohort_columns,
        )

    @cached_property
    def columns(self) -> dict[str, str]:
        """Field name to SQL expression over ``p`` (patients) and ``c`` (cohort)."""
        own = {*FIELDS, *_PATIENT_FIELDS, "organisation_name", "line", "problem"}
        extras = {name: f'c."{name}"' for name in self.cohort_columns if name not in own}
        return {
            "organisation_name": literal(self.organisation_name),
            # Unlike a name, no such cell means what a database or spreadsheet writes for nothing: nan, NULL.
            **{
                name: f"CASE WHEN NOT {cells.empty_sql(c)} THEN {cells.tidied_sql(c)} END" for name, c in extras.items()
            },
            **_PATIENT_FIELDS,
        }

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

    def text_sql(self) -> str:
        """The rendered body; NULL for a patient who lacks a field. Only while nothing is unknown."""
        return self.body.sql(self.columns)

    def subject_sql(self) -> str:
        """The rendered subject; NULL for a patient who lacks a field."""
        return self.subject.sql(self.columns)

    def sms_sql(self) -> str:
        """The body as an SMS carries it: typographic characters brought down to GSM-7 where they can be."""
        return self.body.sms_sql(self.columns)

    def fragments_sql(self) -> str:
        """SMS fragments of the body; NULL for a gap, and where only Python can tell."""
        return self.body.sms_fragments_sql(self.columns)

    def digest_sql(self) -> str:
        """What the text is made of, for a digest: both templates' own, and the values of the patient's fields.

        A digest of the rendered text would say the same, and cost a rendering and an md5 of the whole of it.
        """
        templates = hashlib.sha256(repr((self.body.pieces, self.subject.pieces)).encode()).hexdigest()
        values = [f"coalesce({self.columns[name]}, '')" for name in self.known_fields]
        return f"concat_ws(chr(31), {', '.join([literal(templates), *values])})"

    def joins(self, patients: Path, cohort: Path) -> str:
        """The FROM-terms the field expressions need, joined to a relation with ``line``. Nothing when there are none."""
        named = {name for name in self.fields if name in self.columns}
        own = " JOIN " + scan(patients) + " p USING (line)" if named & _PATIENT_FIELDS.keys() else ""
        others = named - _PATIENT_FIELDS.keys() - {"organisation_name"}
        return own + (" JOIN " + scan(cohort) + " c USING (line)" if others else "")

    def sample(self) -> tuple[str, str]:
        """Subject and body for the made-up patient; another column stands as its own name in angle quotes."""
        values = {
            **{name: f"‹{name}›" for name in self.fields},
            **SAMPLE,
            "organisation_name": self.organisation_name,
        }
        return self.subject.render(values), self.body.render(values)
