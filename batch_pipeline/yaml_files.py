"""YAML that people write by hand: read as text with line numbers, checked by a model, refused by file, line and key.

Every plain value is read as the text it was written as, and the model makes of it what it needs: YAML's own
guesses turn ``nation: no`` into false, ``012345`` into 5349 and a price into a binary fraction.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from batch_pipeline.errors import Refused

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"
Key: TypeAlias = "tuple[str | int, ...]"
Model = TypeVar("Model", bound=BaseModel)

_MOST_BYTES = 1_000_000
_QUOTES = "put a text that has a colon or a # in it, or begins with { or [, in quotes"
_PLAIN_KINDS = ("null", "bool", "int", "float", "timestamp", "str", "merge", "value", "map", "seq")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in _PLAIN_KINDS}


class Document:
    """One YAML mapping: its values as text, the line of each key, and that on which its text begins."""

    def __init__(
        self, values: dict[str, Value], lines: Mapping[Key, int], name: str, texts: Mapping[Key, int] | None = None
    ) -> None:
        self.values = values
        self.name = name
        self._lines = lines
        self._texts = texts or {}

    def with_text(self, key: str, text: str, *, line: int) -> "Document":
        """The same document with one more key, whose text begins on that line."""
        values, lines = {**self.values, key: text}, {**self._lines, (key,): line}
        return Document(values, lines, self.name, {**self._texts, (key,): line})

    def text_line(self, key: Key) -> int:
        """The line on which the text of a key begins: below the key where it is written as a block."""
        return self._texts.get(key) or self.line(key) or 1

    def line(self, key: Key) -> int | None:
        """The line on which a key stands, or the nearest key around it that the file has."""
        return next((self._lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self._lines), None)

    def at(self, key: Key) -> str:
        """``riverside.yaml, line 4``, as every refusal begins."""
        line = self.line(key)
        return self.name if line is None else f"{self.name}, line {line}"


def read_text(path: Path) -> str:
    """A small text file in UTF-8, with or without a BOM; ``Refused`` for anything else."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise Refused(f"{path.name} is larger than {_MOST_BYTES:,} bytes, which no settings file is")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Refused(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise Refused(f"{path.name} isn't UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise Refused(f"{path} can't be read: {error.strerror}") from None


def read_document(path: Path) -> Document:
    """The YAML mapping in a file. Raises ``Refused``."""
    return parse_document(read_text(path), name=path.name)


def parse_document(text: str, *, name: str, first_line: int = 1) -> Document:
    """The YAML mapping in a text that begins on ``first_line`` of the file ``name``. Raises ``Refused``."""
    reader = _Reader(name, first_line)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise reader.refused(
            mark.line if mark else 0, f"this isn't readable YAML ({error.problem}); {_QUOTES}"
        ) from None
    except yaml.YAMLError:
        raise Refused(f"{name} holds characters that YAML doesn't allow; save it as plain UTF-8 text") from None
    except RecursionError:
        raise Refused(f"{name} is nested too deeply") from None
    if node is None:
        raise Refused(f"{name} is empty")
    if not isinstance(node, yaml.MappingNode):
        raise reader.refused(node.start_mark.line, "the file has to be a list of “key: value” lines")
    return Document(cast("dict[str, Value]", reader.value(node, ())), reader.lines, name, reader.texts)


class Checked(BaseModel):
    """A group of keys in a file: no others are allowed, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class _Reader:
    """Turns YAML nodes into values, and notes the line of each key and of its text."""

    def __init__(self, name: str, first_line: int) -> None:
        self.lines: dict[Key, int] = {}
        self.texts: dict[Key, int] = {}
        self._name = name
        self._first_line = first_line
        self._seen: set[int] = set()

    def refused(self, line: int, what: str) -> Refused:
        return Refused(f"{self._name}, line {line + self._first_line}: {what}")

    def value(self, node: yaml.Node, key: Key) -> Value:
        line = node.start_mark.line
        if id(node) in self._seen:
            raise self.refused(line, "anchors and aliases (& and *) aren't used here; write the value out")
        self._seen.add(id(node))
        if node.tag not in _PLAIN_TAGS:
            raise self.refused(line, f"the tag {node.tag} isn't allowed; take it out")
        if isinstance(node, yaml.ScalarNode):
            self.texts[key] = line + self._first_line + (node.style in {"|", ">"})
            is_null = node.tag.endswith(":null") and node.style is None
            return None if is_null else cast(str, node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*key, n)) for n, item in enumerate(cast("list[yaml.Node]", node.value))]
        return self._mapping(cast("list[tuple[yaml.Node, yaml.Node]]", node.value), key)

    def _item(self, node: yaml.Node, key: Key) -> Value:
        self.lines[key] = node.start_mark.line + self._first_line
        return self.value(node, key)

    def _mapping(self, pairs: Iterable[tuple[yaml.Node, yaml.Node]], key: Key) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for name_node, node in pairs:
            line = name_node.start_mark.line
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else None
            if not isinstance(name, str) or not name or name == "<<":
                raise self.refused(line, "a key has to be a plain word")
            if name in found:
                first = self.lines[(*key, name)]
                raise self.refused(line, f"{name} stands here and on line {first}; keep one of them")
            self.lines[(*key, name)] = line + self._first_line
            found[name] = self.value(node, (*key, name))
        # A key without a value, or with all its own keys commented out, isn't set.
        return {name: value for name, value in found.items() if value is not None}


def validated(model: type[Model], document: Document, *, context: Mapping[str, Any] | None = None) -> Model:
    """The document as a model. Raises ``Refused`` with the first problem by line, and how many more there are."""
    try:
        return model.model_validate(document.values, context=dict(context or {}))
    except ValidationError as error:
        # A misspelt key is told of before the one that is missing for it.
        problems = sorted(
            error.errors(include_url=False), key=lambda e: (e["type"] == "missing", document.line(e["loc"]) or 0)
        )
        first = problems[0]
        more = f" (and {len(problems) - 1} more to mend)" if len(problems) > 1 else ""
        raise Refused(f"{document.at(first['loc'])}: {describe(first, model)}{more}") from None


def describe(error: ErrorDetails, model: type[BaseModel]) -> str:
    """One of pydantic's errors in the words of the files: the key, what is wrong with it, and what is allowed."""
    key = ".".join(str(part + 1) if isinstance(part, int) else part for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown_key(key, str(error["loc"][-1]), _keys_at(model, error["loc"][:-1]))
    if error["type"] == "missing":
        return f"{key} is missing{_hint(model, error['loc'])}"
    if error["type"] == "value_error":
        said = str(error["ctx"]["error"]) if "ctx" in error else error["msg"]
        return f"{key}: {said}" if key else said
    say = _SAID.get(error["type"])
    said = say(error) if say else f"{_shown(error)} isn't allowed ({error['msg']})"
    return f"{key}: {said}" if key else said


def _unknown_key(key: str, name: str, known: list[str]) -> str:
    near = get_close_matches(name.lower(), known, n=1)
    guess = f", did you mean {near[0]}?" if near else ";"
    return f"{key} isn't a known key{guess} known are {', '.join(known)}"


def _hint(model: type[BaseModel], key: Key) -> str:
    """What the description of a missing key says of it."""
    parent = _model_at(model, key[:-1])
    field = parent.model_fields.get(str(key[-1])) if parent else None
    return f": {field.description}" if field is not None and field.description else ""


def _model_at(model: type[BaseModel], key: Key) -> type[BaseModel] | None:
    """The model that checks what is under a key."""
    for part in key:
        field = model.model_fields.get(str(part))
        inner = _models_in(field.annotation) if field is not None else []
        if not inner:
            return None
        model = inner[0]
    return model


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)]


def _keys_at(model: type[BaseModel], key: Key) -> list[str]:
    found = _model_at(model, key)
    return list(found.model_fields) if found else []


def _shown(error: ErrorDetails) -> str:
    """A faulty value as the file has it, if it is short; never a long text, which may be a message."""
    given = error["input"]
    if given is None:
        return "nothing"
    if isinstance(given, str):
        return f'"{given}"' if len(given) <= 60 and "\n" not in given else "the text"
    return "a list" if isinstance(given, list) else "a group of keys"


def _allowed(error: ErrorDetails) -> str:
    expected = str(error.get("ctx", {}).get("expected", "")).replace("'", "")
    return f"{_shown(error)} isn't allowed; use {expected}"


def _not_a(what: str) -> Callable[[ErrorDetails], str]:
    return lambda error: f"{_shown(error)} isn't {what}"


def _bound(words: str, name: str) -> Callable[[ErrorDetails], str]:
    return lambda error: f"{_shown(error)} isn't allowed; it has to be {words} {error.get('ctx', {}).get(name)}"


_SAID: Mapping[str, Callable[[ErrorDetails], str]] = MappingProxyType(
    {
        "literal_error": _allowed,
        "bool_parsing": _not_a("allowed; use true or false"),
        "bool_type": _not_a("allowed; use true or false"),
        "int_parsing": _not_a("a whole number"),
        "int_type": _not_a("a whole number"),
        "float_parsing": _not_a("a number"),
        "float_type": _not_a("a number"),
        "decimal_parsing": _not_a("a number"),
        "decimal_type": _not_a("a number"),
        "finite_number": _not_a("a number"),
        "decimal_max_places": _not_a("an amount of at most 6 decimal places"),
        "decimal_max_digits": _not_a("an amount of at most 12 digits"),
        "decimal_whole_digits": _not_a("an amount of at most 12 digits"),
        "byte_size": _not_a("a size such as 4GB"),
        "string_type": _not_a(f"text; {_QUOTES}"),
        "path_type": _not_a("a path"),
        "list_type": _not_a("a list"),
        "tuple_type": _not_a("a list"),
        "dict_type": _not_a("a group of keys"),
        "model_type": _not_a("a group of keys"),
        "greater_than": _bound("more than", "gt"),
        "greater_than_equal": _bound("at least", "ge"),
        "less_than": _bound("less than", "lt"),
        "less_than_equal": _bound("at most", "le"),
    }
)
"""What is said of a value by pydantic's type of error."""


def one_named(
    folder: Path, endings: tuple[str, ...], key: str, wanted: str, *, what: str, read: Callable[[Path], Document]
) -> Document:
    """The one file of a folder whose ``key`` is ``wanted``; ``Refused`` for none, naming those there are, or for two.

    Another file's fault stops nobody, but one whose name is the wanted one is told of.
    """
    names: list[str] = []
    found: list[Document] = []
    for path, document in _readable(folder, endings, wanted, read):
        name = document.values.get(key)
        if name == wanted:
            found.append(document)
        elif isinstance(name, str):
            names.append(name)
        elif path.stem == wanted:
            raise Refused(f"{document.at((key,))}: {key} is missing; write {key}: {wanted}")
    if len(found) > 1:
        raise Refused(
            f"{found[0].at((key,))}: {key} {wanted} is also in {found[1].name}; give one of them another {key}"
        )
    if not found:
        others = f"there are {', '.join(sorted(names))}" if names else "there are none yet"
        raise Refused(f'there is no {what} "{wanted}" in {folder}; {others}')
    return found[0]


def _readable(
    folder: Path, endings: tuple[str, ...], wanted: str, read: Callable[[Path], Document]
) -> Iterator[tuple[Path, Document]]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in paths:
        if path.suffix.lower() not in endings or path.name.startswith("."):
            continue
        try:
            yield path, read(path)
        except Refused:
            if path.stem == wanted:
                raise
