"""One text of a message over set work: SQL where its fields are plain, Python where it has conditions.

Expressions are over columns of the fields' values (``value``), NULL where a gap would be left, and over ``path`` and
``by_sms``. What Python makes it makes in functions that DuckDB calls with a vector of patients at a time,
so that a million patients take no more room than a thousand.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batch_pipeline.planning.duck import literal
from batch_pipeline.rules import markdown
from batch_pipeline.rules.conditional_text import ConditionalText, MissingValue, Writer, as_it_is
from batch_pipeline.rules.fragments import downgrade
from batch_pipeline.rules.text import AnyText, TextTemplate

Values = Mapping[str, str | None]
Function = Callable[..., pa.Array]


def value(field: str) -> str:
    """The column of a field's value."""
    return f'"value of {field}"'


@dataclass(frozen=True)
class PlainWords:
    """A text with plain fields: all of it is SQL."""

    text: TextTemplate
    written: Writer

    def functions(self) -> dict[str, Function]:
        """None are needed."""
        return {}

    def column_sql(self) -> str:
        """None is needed: lengths are reckoned without making the text."""
        return ""

    def characters_sql(self) -> str:
        """Length of the text; NULL for a gap."""
        return self.text.characters_sql(self._values)

    def basic_characters_sql(self) -> str:
        """Length of the SMS where it is basic; NULL otherwise, and for a gap."""
        return self.text.basic_sms_characters_sql(self._values)

    def counted_sms_sql(self) -> str:
        """The text as an SMS, for its fragments to be counted."""
        return self.sms_sql()

    def text_sql(self) -> str:
        """The text, values as they are to be written; NULL for a gap."""
        if self.written is as_it_is:
            return self.text.sql(self._values)
        return self.text.sql({name: markdown.escaped_sql(column) for name, column in self._values.items()})

    def sms_sql(self) -> str:
        """The text as an SMS: typographic characters brought down to GSM-7 where they can be."""
        return self.text.sms_sql(self._values)

    def lacks_sql(self, field: str) -> str:
        """Whether the text can't be made for want of this field of its own."""
        return f"{value(field)} IS NULL"

    def wordless_sql(self) -> str:
        """Whether no words are left although no field is lacking: never of a text whose words are for everybody."""
        return "false"

    @property
    def _values(self) -> dict[str, str]:
        return {name: value(name) for name in self.text.fields}


@dataclass(frozen=True)
class MadeWords:
    """A text with conditions: Python makes it. ``role`` is its channel, or ``subject``; ``sent`` says to whom it goes."""

    text: ConditionalText
    written: Writer
    role: str
    sent: str

    def functions(self) -> dict[str, Function]:
        """By the names under which the expressions call them."""
        text, written = self.text, self.written
        return {
            f"{self.role}_text": _over_patients(text, lambda values: text.render(values, written)),
            f"{self.role}_read": _over_patients(text, text.render),
            f"{self.role}_sms": _over_patients(text, lambda values: downgrade(text.render(values))),
            f"{self.role}_lacks": _over_patients(text, lambda values: _lacking(text, values)),
        }

    def column_sql(self) -> str:
        """The text as a column, for those it is sent to: made once, however often it is looked at."""
        made = self.sms_sql() if self.role == "sms" else self._call("read")
        return f", CASE WHEN {self.sent} THEN {made} END AS {self._column}"

    def characters_sql(self) -> str:
        """Length of ``column_sql``; NULL for a gap."""
        return f"length({self._column})"

    def basic_characters_sql(self) -> str:
        """NULL: the text is made in any case."""
        return "NULL::BIGINT"

    def counted_sms_sql(self) -> str:
        """The text as an SMS, for its fragments to be counted."""
        return self._column

    def text_sql(self) -> str:
        """The text, values as they are to be written; NULL for a gap."""
        return self._call("text")

    def sms_sql(self) -> str:
        """The text as an SMS: typographic characters brought down to GSM-7 where they can be."""
        return self._call("sms")

    def lacks_sql(self, field: str) -> str:
        """Whether the text can't be made for want of this field of its own."""
        return f"coalesce(list_contains(string_split({self._call('lacks')}, ' '), {literal(field)}), false)"

    def wordless_sql(self) -> str:
        """Whether no words are left, or far too many are made, although no field is lacking."""
        return f"({self.sent} AND {self._call('read')} IS NULL AND {self._call('lacks')} IS NULL)"

    @property
    def _column(self) -> str:
        return f'"text of {self.role}"'

    def _call(self, function: str) -> str:
        return f"{self.role}_{function}({', '.join(value(name) for name in self.text.fields)})"


Words = PlainWords | MadeWords


def words(text: AnyText, written: Writer, role: str, sent: str) -> Words:
    """A text for set work."""
    if isinstance(text, TextTemplate):
        return PlainWords(text, written)
    return MadeWords(text, written, role, sent)


def _over_patients(text: ConditionalText, of_one: Callable[[Values], str | None]) -> Function:
    """A function of DuckDB's: a column for each of the text's fields to a column, NULL where a gap would be left."""

    def of_one_or_null(values: Values) -> str | None:
        try:
            return of_one(values)
        except MissingValue:
            return None

    def of_all(*columns: Any) -> pa.Array:
        patients = zip(*(column.to_pylist() for column in columns), strict=True)
        made = [of_one_or_null(dict(zip(text.fields, values, strict=True))) for values in patients]
        return pa.array(made, pa.string())

    return of_all


def _lacking(text: ConditionalText, values: Values) -> str | None:
    """The fields for want of which the text can't be made, with spaces between them; None where that isn't why."""
    try:
        text.render(values)
    except MissingValue as missing:
        return " ".join(missing.fields) or None
    return None
