"""A message's text with its ``{{ first_name }}`` fields: read once, filled in for one patient or in SQL for all.

SPEC 2.6. Jinja's lexer reads the text, so that fields look as people know them. Of a text with plain fields nothing of
Jinja's is ever run: in SQL it is a concatenation, never a chain of ``replace``, and a name that reads ``{{ surname }}``
is sent as that. One with conditions or filters is another kind (``conditional_text``). What a text takes as an
SMS is counted in ``fragments``.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batch_pipeline.errors import Refused
from batch_pipeline.rules.conditional_text import ConditionalText, MissingValue, Writer, as_it_is, read_conditional
from batch_pipeline.rules.fragments import (
    downgrade,
    downgrade_sql,
    is_basic,
    is_basic_sql,
    is_blank,
    unless_blank_sql,
)

_MEND = "write fields like {{ first_name }} or {{ first_name | title }} and nothing else in {{ }}"
_PLAIN_FIELD = ["variable_begin", "name", "variable_end"]
_BEYOND_FIELDS = {
    "raw_begin": "a block ({% raw %})",
    "comment_begin": "a comment ({# … #})",
    "linecomment_begin": "a comment",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_STRAY_BRACES = re.compile(r"\{\s*\w+\s*\}|\{\{|\}\}")
_LEXER = ImmutableSandboxedEnvironment(keep_trailing_newline=True, cache_size=0)


@dataclass(frozen=True, slots=True)
class Literal:
    """Words that stay as they are."""

    text: str


@dataclass(frozen=True, slots=True)
class Field:
    """A place that a patient's value fills."""

    name: str


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """A text in pieces, in the order in which they are sent. Made by ``compile_text``."""

    pieces: tuple[Literal | Field, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields' names, each once, in the order in which they first occur."""
        return tuple(dict.fromkeys(piece.name for piece in self.pieces if isinstance(piece, Field)))

    @property
    def shown_to_all(self) -> frozenset[str]:
        """The fields that every patient sees as they are: in a text without conditions and filters, all of them."""
        return frozenset(self.fields)

    @property
    def filtered(self) -> frozenset[str]:
        """The fields that a filter may change: none."""
        return frozenset()

    def missing(self, available: Collection[str]) -> list[str]:
        """The fields that aren't among ``available``."""
        return [field for field in self.fields if field not in available]

    def without_value(self, values: Mapping[str, str | None]) -> list[str]:
        """The fields that would leave a gap: no value, or nothing in it that a person sees."""
        return [field for field in self.fields if is_blank(values.get(field))]

    def render(self, values: Mapping[str, str | None], written: Writer = as_it_is) -> str:
        """The text for one patient. Raises ``MissingValue`` where a gap would be left."""
        if gaps := self.without_value(values):
            raise MissingValue(gaps)
        return "".join(p.text if isinstance(p, Literal) else written(str(values[p.name])) for p in self.pieces)

    def sql(self, columns: Mapping[str, str]) -> str:
        """``render`` as a DuckDB expression over the VARCHAR expressions in ``columns``: NULL where a gap would be left.

        Raises ``MissingValue`` if a field isn't in ``columns``. Expressions are repeated: give it columns.
        """
        self._check(columns)
        return _joined_sql(self.pieces, {name: unless_blank_sql(columns[name]) for name in self.fields})

    def _check(self, columns: Mapping[str, str]) -> None:
        if unknown := self.missing(columns):
            raise MissingValue(unknown)

    def downgraded(self) -> "TextTemplate":
        """The same text with its own words as an SMS carries them, which leaves only the values to downgrade."""
        return TextTemplate(tuple(Literal(downgrade(p.text)) if isinstance(p, Literal) else p for p in self.pieces))

    def sms_sql(self, columns: Mapping[str, str]) -> str:
        """``downgrade_sql(sql(columns))``, some three times as fast: only the values are looked through.

        The same but where a value ends in half of a Windows line end, which no mended cell does.
        """
        self._check(columns)
        # Blank before the downgrade is blank after it, so that both look at the column itself.
        values = {name: unless_blank_sql(columns[name], then=downgrade_sql(columns[name])) for name in self.fields}
        return _joined_sql(self.downgraded().pieces, values)

    def characters_sql(self, values: Mapping[str, str]) -> str:
        """The length of ``sql(values)``, without making the text; ``values`` are NULL where a gap would be left."""
        self._check(values)
        words = sum(len(piece.text) for piece in self.pieces if isinstance(piece, Literal))
        lengths = (f"length({values[piece.name]})" for piece in self.pieces if isinstance(piece, Field))
        return f"({' + '.join((str(words), *lengths))})::BIGINT"

    def basic_sms_characters_sql(self, values: Mapping[str, str]) -> str:
        """The length of ``sms_sql(values)`` where that is ``is_basic``, without making the text; else NULL, as of a gap.

        ``values`` are NULL where a gap would be left. Nearly every text of a real batch is basic, and then this is its septets.
        """
        text = self.downgraded()
        if not is_basic("".join(piece.text for piece in text.pieces if isinstance(piece, Literal))):
            return "NULL::BIGINT"
        # Values of one septet a character are as long as they are: nothing in them is downgraded.
        basic = is_basic_sql(" || ".join(values[name] for name in self.fields)) if self.fields else "true"
        return f"CASE WHEN {basic} THEN {text.characters_sql(values)} END"


AnyText = TextTemplate | ConditionalText


def compile_text(source: str, *, label: str, first_line: int = 1) -> AnyText:
    r"""Read a text with ``{{ field }}`` places; line ends become ``\n``.

    ``label`` says where the text is from ("flu.md"), ``first_line`` on which of its lines it begins.
    Raises ``Refused``, naming both, for what isn't allowed of Jinja's and for control characters.
    """
    where = _Where(label, first_line)
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    if control := _CONTROL.search(source):
        line = source[: control.start()].count("\n") + 1
        raise where.refused(line, "there is an invisible control character; take it out")
    try:
        tokens = list(_LEXER.lex(source))
    except jinja2.TemplateSyntaxError as error:
        raise where.refused(error.lineno, f"a field isn't closed or isn't readable; {_MEND}") from None
    pieces: list[Literal | Field] = []
    field: list[tuple[str, str]] = []
    conditional = in_block = False
    for line, kind, value in tokens:
        if kind in _BEYOND_FIELDS:
            raise where.refused(line, f"{_BEYOND_FIELDS[kind]} isn't allowed; {_MEND}")
        in_block = kind == "block_begin" or (in_block and kind != "block_end")
        conditional = conditional or in_block
        if kind == "data":
            pieces.append(_plain_words(value, where, line))
        elif not in_block and kind not in ("whitespace", "block_end"):
            field.append((kind, value))
        if kind == "variable_end":
            if _is_filtered(field):
                conditional = True
            else:
                pieces.append(_plain_field(field, where, line))
            field = []
    if field:
        raise where.refused(tokens[-1][0], f"a field isn't closed; {_MEND}")
    return read_conditional(source, where.refused) if conditional else TextTemplate(tuple(pieces))


def _is_filtered(tokens: list[tuple[str, str]]) -> bool:
    """Whether a field begins as ``{{ name | …``: what follows is for ``read_conditional`` to judge."""
    return [kind for kind, _ in tokens[:3]] == ["variable_begin", "name", "operator"] and tokens[2][1] == "|"


def _plain_words(words: str, where: "_Where", line: int) -> Literal:
    # What was surely meant as a field would otherwise be read by every patient.
    if stray := _STRAY_BRACES.search(words):
        line += words[: stray.start()].count("\n")
        raise where.refused(line, f"{_short(stray.group())} isn't a field; {_MEND}")
    return Literal(words)


def _plain_field(tokens: list[tuple[str, str]], where: "_Where", line: int) -> Field:
    if [kind for kind, _ in tokens] == _PLAIN_FIELD and tokens[0][1] == "{{" and tokens[-1][1].strip() == "}}":
        return Field(tokens[1][1])
    shown = " ".join(value.strip() for _, value in tokens)
    raise where.refused(line, f"{_short(shown)} isn't a plain field{_what_it_has(tokens)}; {_MEND}")


def _what_it_has(tokens: list[tuple[str, str]]) -> str:
    """The first thing in a field that makes it more than a name, in words."""
    inner = [(kind, value) for kind, value in tokens if kind not in ("variable_begin", "variable_end")]
    words = [value for kind, value in inner if kind == "name"]
    if not inner:
        return " (it is empty)"
    if len(words) == len(inner) > 1:
        return f" (did you mean {{{{ {'_'.join(words).lower()} }}}}?)"
    said = {"|": "a filter", ".": "an attribute", "(": "a call", "[": "an index"}
    return next((f" (it has {said[value]})" for kind, value in inner if kind == "operator" and value in said), "")


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True, slots=True)
class _Where:
    label: str
    first_line: int

    def refused(self, line: int, what: str) -> Refused:
        return Refused(f"{self.label}, line {line + self.first_line - 1}: {what}")


def meant(field: str, available: Collection[str]) -> str | None:
    """Which of these names was probably meant by one that isn't among them; None when none is near."""
    return next(iter(get_close_matches(field.lower(), available, n=1)), None)


def _joined_sql(pieces: Sequence[Literal | Field], values: Mapping[str, str]) -> str:
    parts = [_quoted(p.text) if isinstance(p, Literal) else f"({values[p.name]})" for p in pieces]
    return f"({' || '.join(parts)})" if parts else "''"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
