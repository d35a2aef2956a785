"""The message over set work: its fields as columns, and what each patient's text is and takes.

A message may name the patient's fields, any other column of the cohort, ``organisation_name``, and ``link`` where it
carries one.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import duckdb
from duckdb.func import FunctionNullHandling, PythonUDFType

from batch_pipeline.planning.duck import literal, scan
from batch_pipeline.planning.words import Words, value, words
from batch_pipeline.rules import cells, links, names, paths
from batch_pipeline.rules.conditional_text import ConditionalText, MissingValue, Writer, as_it_is
from batch_pipeline.rules.fragments import downgrade, unless_blank_sql
from batch_pipeline.rules.headings import FIELDS
from batch_pipeline.rules.text import AnyText, TextTemplate, compile_text

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


_ONE_CASE = (
    "the words depend on the patient, and a sample shows them for one who has something in every column: read the others "
    "too, in the text itself or with `batch-pipeline templates preview`"
)
_NO_WORDS = "(no words are left for the made-up patient)"
_SENT = MappingProxyType(
    {"email": "path = 'email'", "nhs_app": "path = 'nhs_app'", "sms": "by_sms", "subject": "path = 'email'"}
)
"""Which patients each text is sent to, over ``path`` and ``by_sms``."""


@dataclass(frozen=True)
class Sample:
    """A message as one patient would read it; its texts by path."""

    subject: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Message:
    """One batch's message, and the cohort columns that its fields may name (besides the patient's own)."""

    bodies: Mapping[str, AnyText]
    """By path; the same for all where no channel has words of its own."""
    subject: AnyText
    organisation_name: str
    cohort_columns: Sequence[str]
    link: str | None = None
    """The address that ``{{ link }}`` stands for, with a token still to come; none: the message carries no link."""
    email_written: Writer = as_it_is
    """How an email is queued: values as they are, or (``markdown.escaped``) so that none is read as Markdown."""
    reminds: bool = False
    """Whether it goes again, with a word before it, to who doesn't answer."""

    @classmethod
    def of(
        cls,
        body: str,
        subject: str,
        organisation_name: str,
        cohort_columns: Sequence[str],
        *,
        bodies: Mapping[str, str] = MappingProxyType({}),
        link: str | None = None,
        email_written: Writer = as_it_is,
        reminds: bool = False,
    ) -> "Message":
        """Compiles the texts; ``Refused`` for what isn't allowed in one. ``bodies``: words of a channel's own."""
        common = compile_text(body, label="message.body")
        own = {path: compile_text(words, label=f"message.bodies.{path}") for path, words in bodies.items()}
        return cls(
            {path: own.get(path, common) for path in paths.PATHS},
            compile_text(subject, label="message.subject"),
            organisation_name,
            cohort_columns,
            link,
            email_written,
            reminds,
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
        if any(links.FIELD not in text.shown_to_all for text in self.bodies.values()):
            found.append(
                "the message carries a link, but not every text of it shows the link to everyone: write {{ link }} into "
                "the text, and into the words of each channel that has its own, outside of any condition"
            )
        if any(links.FIELD in text.filtered for text in self.bodies.values()):
            found.append("{{ link }} has a filter, and an address that was changed leads nowhere: take the filter away")
        if not all(links.stands_apart(text, self.link) for text in self.sample().texts.values()):
            found.append(
                "{{ link }} stands so near to other words or signs that a phone may take them for a part of the address: "
                "put a space or a new line before and after it (a full stop behind it does no harm)"
            )
        if links.FIELD in self.subject.fields:
            found.append("{{ link }} stands in the subject: write it into the text alone")
        return found

    @property
    def warnings(self) -> list[str]:
        """What a person has to know who reviews the sample."""
        asks = any(isinstance(text, ConditionalText) and text.asks for text in self._texts.values())
        return [_ONE_CASE] if asks else []

    @property
    def fields(self) -> set[str]:
        """Every field that a body or the subject names."""
        return {name for text in self._texts.values() for name in text.fields}

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

    @contextmanager
    def functions(self, con: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Inside, the connection has the functions that the expressions here call for texts with conditions."""
        functions = {name: each for some in self._words.values() for name, each in some.functions().items()}
        for name, each in functions.items():
            con.create_function(
                name,
                each,
                None,
                "VARCHAR",
                type=PythonUDFType.ARROW,
                null_handling=FunctionNullHandling.SPECIAL,
            )
        try:
            yield
        finally:
            for name in functions:
                con.remove_function(name)

    def texts_sql(self) -> str:
        """The texts with conditions as columns, over values, ``path`` and ``by_sms``, for all but what is queued."""
        return "".join(each.column_sql() for each in self._words.values())

    def characters_sql(self) -> str:
        """Length of the body; NULL for a gap. Only while nothing is unknown, as all that follows."""
        return self._by_path({path: self._words[path].characters_sql() for path in paths.PATHS})

    def complete_sql(self) -> str:
        """Whether everything can be made that a patient is sent: the body, an email's subject, an SMS in the App's place."""
        gaps = {role: self._words[role].characters_sql() for role in ("subject", "sms")}
        sms = "" if self._has_common_words else f" AND (NOT by_sms OR {gaps['sms']} IS NOT NULL)"
        return f"{self.characters_sql()} IS NOT NULL AND (path <> 'email' OR {gaps['subject']} IS NOT NULL){sms}"

    def counted_sms_sql(self) -> str:
        """The SMS as a network carries it, over ``texts_sql`` too."""
        return self._words["sms"].counted_sms_sql()

    def basic_sms_characters_sql(self) -> str:
        """Length of the SMS where it is basic; NULL otherwise, and for a gap."""
        return self._words["sms"].basic_characters_sql()

    def text_sql(self) -> str:
        """The rendered body as it is queued; NULL for a patient who lacks a field."""
        texts = {path: self._words[path].text_sql() for path in ("email", "nhs_app")}
        return self._by_path({**texts, "sms": self.sms_sql()})

    def sms_sql(self) -> str:
        """The SMS as it is queued: typographic characters brought down to GSM-7 where they can be."""
        return self._words["sms"].sms_sql()

    def subject_sql(self) -> str:
        """The rendered subject; NULL for a patient who lacks a field."""
        return self._words["subject"].text_sql()

    def lacks_sql(self, field: str) -> str:
        """Whether something that a patient is sent can't be made for want of this field; over ``path`` and ``by_sms``."""
        lacks = {
            f"({_SENT[role]} AND {self._words[role].lacks_sql(field)})"
            for role, text in self._texts.items()
            if field in text.fields
        }
        return " OR ".join(sorted(lacks)) or "false"

    def wordless_sql(self) -> str:
        """Whether a text has no words left for a patient although no field is lacking; over ``path`` and ``by_sms``."""
        return " OR ".join(each.wordless_sql() for each in self._words.values())

    def may_ask_for(self, field: str) -> bool:
        """Whether the field is of a text with conditions: there, whether it has a value may be asked."""
        return any(isinstance(text, ConditionalText) and field in text.fields for text in self._texts.values())

    @property
    def templates_digest(self) -> str:
        """Of all texts: with the fields' values it stands for what is sent itself."""
        bodies = tuple(_content(text) for text in self.bodies.values())
        said = (bodies[0] if self._has_common_words else bodies, _content(self.subject))
        return hashlib.sha256(repr(said).encode()).hexdigest()

    def digested_sql(self) -> list[str]:
        """The fields' values, for a digest of all that is said to a patient."""
        return [f"coalesce({value(name)}, '')" for name in self.known_fields]

    def joins(self, patients: Path, cohort: Path) -> str:
        """The FROM-terms that ``values_sql`` needs, joined to a relation with ``line``."""
        others = set(self.known_fields) - _PATIENT_FIELDS.keys() - self._link_column.keys() - {"organisation_name"}
        return f" JOIN {scan(patients)} p USING (line)" + (f" JOIN {scan(cohort)} c USING (line)" if others else "")

    def sample(self) -> Sample:
        """As the made-up patient would read it; another column stands as its own name in angle quotes."""
        shown = {role: _rendered(text, self._made_up, as_it_is) for role, text in self._texts.items()}
        return Sample(shown.pop("subject"), shown)

    def queued_sample(self, path: str) -> tuple[str, str]:
        """Subject and body for the made-up patient as they would be queued."""
        text = _rendered(self.bodies[path], self._made_up, self.email_written if path == "email" else as_it_is)
        subject = _rendered(self.subject, self._made_up, as_it_is)
        return subject, downgrade(text) if path == "sms" else text

    @property
    def _made_up(self) -> dict[str, str]:
        return {
            **{name: f"‹{name}›" for name in self.fields},
            **SAMPLE,
            "organisation_name": self.organisation_name,
            **({} if self.link is None else {links.FIELD: self.link}),
        }

    @cached_property
    def _texts(self) -> dict[str, AnyText]:
        """By path, and the subject."""
        return {**self.bodies, "subject": self.subject}

    @cached_property
    def _words(self) -> dict[str, Words]:
        return {
            role: words(text, self.email_written if role == "email" else as_it_is, role, _SENT[role])
            for role, text in self._texts.items()
        }

    @property
    def _has_common_words(self) -> bool:
        return len(set(self.bodies.values())) == 1

    @staticmethod
    def _by_path(expressions: Mapping[str, str]) -> str:
        """One expression where all are the same: a million lines needn't be asked for their path."""
        if len(set(expressions.values())) == 1:
            return expressions["sms"]
        cases = " ".join(f"WHEN '{path}' THEN {expressions[path]}" for path in ("email", "nhs_app"))
        return f"CASE path {cases} ELSE {expressions['sms']} END"


def _content(text: AnyText) -> object:
    return text.pieces if isinstance(text, TextTemplate) else text.source


def _rendered(text: AnyText, values: Mapping[str, str], written: Writer) -> str:
    try:
        return text.render(values, written)
    except MissingValue:
        return _NO_WORDS
