"""A text whose words depend on the patient: ``{% if … %}`` and a few filters, run by Jinja in its sandbox (SPEC 2.6).

Before anything runs, Jinja's syntax tree is held against a list of what is allowed: fields, the filters of ``FILTERS``,
and conditions that ask whether a field has a value or compare it with words. Nothing loops, calls, counts or looks into
an object, so that a text takes time and room as it is long, and no more. A field without a value is a gap
where the text shows it or compares it; one that is only asked about is none.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import jinja2
from jinja2 import nodes
from jinja2.filters import do_capitalize, do_lower, do_title, do_upper
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batch_pipeline.errors import Refused
from batch_pipeline.rules.fragments import LIMITS, is_blank

Writer = Callable[[str], str]
"""How a value is written where the text shows it. What conditions ask of a value is asked of the value itself."""
FaultAt = Callable[[int, str], Refused]
"""The refusal of something on a line of the text."""

MOST = 2 * LIMITS["email"]
"""Beyond this many characters a text isn't made: it is too long for any channel, its values escaped or not."""
_LONGEST = LIMITS["email"]
_DEEPEST = 10
_MOST_ELIFS = 100
"""To Python each is nested in the one before: of some thousands it makes no program at all."""
_TOO_DEEP = f"this is nested more than {_DEEPEST} deep; make it simpler"
_ASK = 'ask with {% if field %}, {% if not field %}, {% if field == "words" %} or {% if field in ["some", "words"] %}'
_COMPARISONS = {"eq", "ne"}
_MEMBERSHIP = {"in", "notin"}


class MissingValue(KeyError):
    """The text can't be made for this patient: these fields have no value.

    Where none is named, the conditions leave no words, or the values make far too many.
    """

    def __init__(self, fields: Collection[str]) -> None:
        super().__init__(", ".join(fields))
        self.fields = tuple(fields)


def as_it_is(value: str) -> str:
    """The ``Writer`` of a text that people read."""
    return value


class _Nothing:
    """A field without a value: false where it is asked about, and noted where it is shown or compared."""

    def __init__(self, name: str, noted: list[str]) -> None:
        self._name = name
        self._noted = noted

    def note(self) -> str:
        self._noted.append(self._name)
        return ""

    def __bool__(self) -> bool:
        return False

    def __eq__(self, _: object) -> bool:
        self.note()
        return False

    def __hash__(self) -> int:
        return hash(self._name)


_Shown = str | _Nothing


def _of_a_value(change: Callable[[str], str]) -> Callable[[_Shown], _Shown]:
    return lambda value: value if isinstance(value, _Nothing) else change(value)


def _default(value: _Shown, words: str) -> str:
    return words if isinstance(value, _Nothing) else value


FILTERS: Mapping[str, Callable[..., _Shown]] = MappingProxyType(
    {
        "capitalize": _of_a_value(do_capitalize),
        "default": _default,
        "lower": _of_a_value(do_lower),
        "title": _of_a_value(do_title),
        "upper": _of_a_value(do_upper),
    }
)
"""What may change a value in a text. ``default("words")`` stands in for one that isn't there."""


def _environment(finalize: Callable[[_Shown], str] | None = None) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        cache_size=0,
        finalize=finalize,
    )
    environment.globals = {}
    environment.tests = {}
    environment.filters = dict(FILTERS)
    return environment


_PARSER = _environment()
_LEXER = ImmutableSandboxedEnvironment(keep_trailing_newline=True, cache_size=0)
_SPACES_TO_THE_END = re.compile(r"\A[ \t]+(?=\n)")


@dataclass(frozen=True, slots=True)
class ConditionalText:
    """A text with conditions or filters that was read and is sound. Made by ``text.compile_text``."""

    source: str
    fields: tuple[str, ...]
    """The fields' names, each once, in the order in which they first occur; those that are only asked about too."""
    shown_to_all: frozenset[str]
    """Those that every patient sees as they are: outside of conditions, without a filter."""
    filtered: frozenset[str]
    """Those that a filter may change somewhere."""

    @property
    def asks(self) -> bool:
        """Whether there are conditions in it, not filters alone."""
        return "{%" in self.source

    def render(self, values: Mapping[str, str | None], written: Writer = as_it_is) -> str:
        """The text for one patient, without spaces around it. Raises ``MissingValue`` where a gap would be left."""
        noted: list[str] = []
        given = {name: _Nothing(name, noted) if is_blank(value := values.get(name)) else value for name in self.fields}
        text = "".join(_bounded(_program(self.source, written).generate(given))).strip()
        if noted or is_blank(text):
            raise MissingValue(dict.fromkeys(noted))
        return text


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces; ``MissingValue`` for more than any channel takes, however long the values in a cohort may be."""
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MOST:
            raise MissingValue(())
        yield piece


@lru_cache(maxsize=64)
def _program(source: str, written: Writer) -> jinja2.Template:
    return _environment(lambda value: value.note() if isinstance(value, _Nothing) else written(value)).from_string(
        source
    )


def read_conditional(source: str, fault_at: FaultAt) -> ConditionalText:
    """A text with conditions or filters. Raises what ``fault_at`` makes of anything that isn't allowed in one."""
    if len(source) > _LONGEST:
        raise fault_at(1, f"a text with conditions may have at most {_LONGEST:,} characters; shorten it")
    try:
        tree = _PARSER.parse(source)
    except jinja2.TemplateSyntaxError as error:
        why = str(error.message).rstrip(".")
        raise fault_at(error.lineno, f"this condition or field can't be read: {why}; {_ASK}") from None
    except RecursionError:
        raise fault_at(1, _TOO_DEEP) from None
    reader = _Reader(fault_at)
    reader.body(tree.body, 0)
    return ConditionalText(
        _with_line_ends(source), tuple(reader.fields), frozenset(reader.shown_to_all), frozenset(reader.filtered)
    )


def _with_line_ends(source: str) -> str:
    """The text, so written that only a line with nothing but blocks on it leaves no line.

    Jinja takes away the line end after any block, and would join the line with the next, unless the block ends in ``+%}``.
    """
    written: list[str] = []
    words = alone = False
    for _, kind, value in _LEXER.lex(source):
        said = _SPACES_TO_THE_END.sub("", value) if kind == "data" and alone else value
        if kind == "data":
            _, line_end, begun = said.rpartition("\n")
            words = bool(begun.strip()) or (words and not line_end)
        elif kind == "variable_begin":
            words = True
        alone = kind == "block_end" and not words
        written.append("+%}" if kind == "block_end" and words and said == "%}" else said)
    return "".join(written)


class _Reader:
    """Walks a syntax tree, refuses what isn't allowed, and notes the fields."""

    def __init__(self, fault_at: FaultAt) -> None:
        self.fields: dict[str, None] = {}
        self.shown_to_all: set[str] = set()
        self.filtered: set[str] = set()
        self._fault_at = fault_at

    def body(self, body: Sequence[nodes.Node], depth: int) -> None:
        for node in body:
            if isinstance(node, nodes.If):
                self._if(node, depth + 1)
            elif isinstance(node, nodes.Output):
                for part in node.nodes:
                    if not isinstance(part, nodes.TemplateData):
                        self._value(part, depth)
                    if isinstance(part, nodes.Name) and not depth:
                        self.shown_to_all.add(part.name)
            else:
                name = type(node).__name__
                raise self._fault_at(
                    node.lineno, f"of Jinja's blocks only {{% if %}} is allowed, and this is {name}; {_ASK}"
                )

    def _if(self, node: nodes.If, depth: int) -> None:
        if depth > _DEEPEST:
            raise self._fault_at(node.lineno, _TOO_DEEP)
        if len(node.elif_) > _MOST_ELIFS:
            raise self._fault_at(
                node.lineno, f"this has more than {_MOST_ELIFS} {{% elif %}}; put what differs into a column"
            )
        self._condition(node.test, depth)
        self.body(node.body, depth)
        for other in node.elif_:
            self._condition(other.test, depth)
            self.body(other.body, depth)
        self.body(node.else_, depth)

    def _condition(self, node: nodes.Node, depth: int) -> None:
        if depth > _DEEPEST:
            raise self._fault_at(node.lineno, _TOO_DEEP)
        if isinstance(node, nodes.Not):
            self._condition(node.node, depth + 1)
        elif isinstance(node, nodes.And | nodes.Or):
            self._condition(node.left, depth + 1)
            self._condition(node.right, depth + 1)
        elif isinstance(node, nodes.Compare):
            self._comparison(node, depth)
        else:
            self._value(node, depth)

    def _comparison(self, node: nodes.Compare, depth: int) -> None:
        if len(node.ops) != 1 or node.ops[0].op not in _COMPARISONS | _MEMBERSHIP:
            raise self._fault_at(node.lineno, f"what is in a cell is text, which isn't more or less; {_ASK}")
        self._value(node.expr, depth)
        compared = node.ops[0].expr
        if node.ops[0].op in _COMPARISONS:
            self._words(compared)
            return
        if not isinstance(compared, nodes.List | nodes.Tuple) or not compared.items:
            raise self._fault_at(node.lineno, f"in needs a list of words; {_ASK}")
        for each in compared.items:
            self._words(each)

    def _words(self, node: nodes.Expr) -> None:
        if not isinstance(node, nodes.Const) or not isinstance(node.value, str):
            raise self._fault_at(node.lineno, f"a field is compared with words in quotation marks; {_ASK}")
        if is_blank(node.value):
            raise self._fault_at(node.lineno, "to ask whether a field has no value, write {% if not field %}")

    def _value(self, node: nodes.Node, depth: int) -> None:
        if isinstance(node, nodes.Name):
            if node.name == "self":
                raise self._fault_at(node.lineno, "self is a word of Jinja's; give the column another heading")
            self.fields[node.name] = None
        elif isinstance(node, nodes.Filter) and node.node is not None:
            self._filter(node)
            if depth > _DEEPEST:
                raise self._fault_at(node.lineno, _TOO_DEEP)
            self._value(node.node, depth + 1)
            self.filtered.update(name.name for name in node.find_all(nodes.Name))
        else:
            raise self._fault_at(
                node.lineno, f"only fields and filters of them are allowed, and this is {type(node).__name__}; {_ASK}"
            )

    def _filter(self, node: nodes.Filter) -> None:
        if node.name not in FILTERS:
            raise self._fault_at(
                node.lineno, f"there is no filter {node.name[:40]}; known are {', '.join(sorted(FILTERS))}"
            )
        if node.kwargs or node.dyn_args or node.dyn_kwargs or len(node.args) != (node.name == "default"):
            takes = "one text in quotation marks" if node.name == "default" else "nothing in brackets"
            raise self._fault_at(node.lineno, f"the filter {node.name} takes {takes}")
        for words in node.args:
            if not isinstance(words, nodes.Const) or not isinstance(words.value, str) or is_blank(words.value):
                raise self._fault_at(node.lineno, 'default needs words in quotation marks: default("patient")')
