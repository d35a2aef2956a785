"""A batch's words: its own, or those of a template in the home (``templates/*.md``)."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.rules import snomed
from batch_pipeline.rules.text import compile_text
from batch_pipeline.settings import BatchFile, MessageType, TemplateName, Text, WorkspaceId
from batch_pipeline.yaml_files import Checked, Document, Key, one_named, parse_document, read_text, validated

CHANNELS = ("email", "nhs_app", "sms")
_FENCE = "---"


def _concept(code: str) -> str:
    if fault := snomed.fault(code):
        raise ValueError(f'"{code[:40]}": {fault}')
    return code


class Bodies(Checked):
    """Words for one channel alone; the others take the template's body."""

    email: Text | None = None
    nhs_app: Text | None = None
    sms: Text | None = None

    @property
    def given(self) -> dict[str, str]:
        """By channel, those there are."""
        return {channel: words for channel in CHANNELS if (words := getattr(self, channel)) is not None}


class Template(Checked):
    """A template file: keys between two ``---`` lines, then the words."""

    name: TemplateName = Field(description="the name by which batch files call this template")
    version: WorkspaceId = Field(description="raise it whenever the words change, such as 1")
    message_type: MessageType = Field(description="simple, questionnaire or self_book")
    subject: Text | None = None
    snomed: tuple[Annotated[str, AfterValidator(_concept)], ...] = ()
    bodies: Bodies = Bodies()
    body: Text | None = None

    @model_validator(mode="after")
    def _words_for_everybody(self) -> Self:
        if self.body is None and (left := [channel for channel in CHANNELS if channel not in self.bodies.given]):
            raise ValueError(
                f"there are no words after the second ---, and bodies has none for {' and '.join(left)}; write them"
            )
        return self


@dataclass(frozen=True, slots=True)
class Message:
    """The words of a batch, read and sound. ``repr`` shows the key only: words are kept out of logs."""

    body: str
    """What every channel says that isn't in ``bodies``."""
    subject: str | None
    key: str
    """``template:NAME@VERSION`` or ``body:SHA-256``: the same for whoever got the same message."""
    template: str | None
    version: str | None
    bodies: Mapping[str, str] = field(default_factory=dict[str, str])
    snomed: tuple[str, ...] = ()
    """The template's; a batch file that has codes of its own goes before it."""

    def as_dict(self) -> dict[str, Any]:
        """As the ledger keeps it with the batch, so that a template changed later changes no batch.

        What a message doesn't have is left out: a batch that was submitted before there was such a thing is the same still.
        """
        kept = asdict(self)
        return {name: value for name, value in kept.items() if value or name not in {"bodies", "snomed"}}

    @classmethod
    def of_dict(cls, kept: Mapping[str, Any]) -> "Message":
        """From what ``as_dict`` gave, by way of JSON."""
        return cls(**{**kept, "snomed": tuple(kept.get("snomed", ()))})

    def __repr__(self) -> str:
        return f"Message(key={self.key!r})"


def resolve_message(batch: BatchFile, home: Home) -> Message:
    """The words that a batch sends. Raises ``Refused``, with the place of the fault."""
    for code in batch.message.snomed:
        if fault := snomed.fault(code):
            raise Refused(f'batch {batch.batch}, message.snomed: "{code}": {fault}')
    if batch.message.template is not None:
        return _of_template(batch, home, batch.message.template)
    body, subject = _tidy(batch.message.body or ""), batch.message.subject
    compile_text(body, label=f"batch {batch.batch}, message.body")
    _check_subject(subject, f"batch {batch.batch}, message.subject")
    return Message(body, subject, body_key(body), None, None)


def _of_template(batch: BatchFile, home: Home, name: str) -> Message:
    template, document = _read_template(home, name)
    if template.message_type != batch.message.type:
        raise Refused(
            f"{document.at(('message_type',))}: template {template.name} is of type {template.message_type}, "
            f"but batch {batch.batch} is of type {batch.message.type}; make them the same"
        )
    _check_subject(batch.message.subject, f"batch {batch.batch}, message.subject")
    return _message(template, batch.message.subject or template.subject)


def _message(template: Template, subject: str | None) -> Message:
    bodies = {channel: _tidy(words) for channel, words in template.bodies.given.items()}
    body = bodies.pop("email") if template.body is None else _tidy(template.body)
    key = f"template:{template.name}@{template.version}"
    return Message(body, subject, key, template.name, template.version, bodies, template.snomed)


def load_template(home: Home, name: str) -> tuple[Template, Message]:
    """The template of that name, whatever its file is called, and its words. Raises ``Refused``, naming those there are."""
    template, _ = _read_template(home, name)
    return template, _message(template, template.subject)


def fields_of(message: Message) -> list[str]:
    """The fields that a message's words and subject name, each once."""
    words = (message.subject or "", message.body, *message.bodies.values())
    return list(dict.fromkeys(field for text in words for field in compile_text(text, label=message.key).fields))


def readable_templates(home: Home) -> tuple[list[Template], list[str]]:
    """Every template of a home that can be read, by its name, and what is wrong with the others."""
    found, faults = list[Template](), list[str]()
    for path in sorted(home.templates.glob("[!.]*.md")):
        try:
            found.append(_checked(_read_front_matter(path)))
        except Refused as fault:
            faults.append(str(fault))
    return sorted(found, key=lambda template: (template.name, template.version)), faults


def body_key(body: str) -> str:
    """What tells a message of own words apart: a hash that line ends and spaces around it don't change."""
    return "body:" + hashlib.sha256(_tidy(body).encode()).hexdigest()


def _tidy(body: str) -> str:
    return body.replace("\r\n", "\n").replace("\r", "\n").strip()


def _check_subject(words: str | None, label: str) -> None:
    if words is None:
        return
    if len(words.splitlines()) > 1:
        raise Refused(f"{label}: a subject has to be a single line")
    compile_text(words, label=label)


def _read_template(home: Home, name: str) -> tuple[Template, Document]:
    document = one_named(home.templates, (".md",), "name", name, what="template", read=_read_front_matter)
    return _checked(document), document


def _checked(document: Document) -> Template:
    """The template of a file, each of its texts read. Raises ``Refused``, with the place of the fault."""
    template = validated(Template, document)
    for key, words in _texts(template):
        compile_text(words, label=document.name, first_line=document.text_line(key))
    _check_subject(template.subject, f"{document.name}, subject")
    return template


def _texts(template: Template) -> Iterator[tuple[Key, str]]:
    if template.body is not None:
        yield ("body",), template.body
    for channel, words in template.bodies.given.items():
        yield ("bodies", channel), words


def _read_front_matter(path: Path) -> Document:
    """The keys of a template file, with what comes after them as ``body``."""
    lines = read_text(path).split("\n")
    if not lines or lines[0].rstrip() != _FENCE:
        raise Refused(f"{path.name}, line 1: a template begins with a line --- and ends its keys with another")
    end = next((n for n, line in enumerate(lines[1:], start=1) if line.rstrip() == _FENCE), None)
    if end is None:
        raise Refused(f"{path.name}: the line --- that ends the keys is missing")
    document = parse_document("\n".join(lines[1:end]), name=path.name, first_line=2)
    if "body" in document.values:
        raise Refused(f"{document.at(('body',))}: the words come after the second ---, not as a key")
    words = lines[end + 1 :]
    blank = next((n for n, line in enumerate(words) if line.strip()), None)
    if blank is None:
        return document
    return document.with_text("body", "\n".join(words[blank:]), line=end + 2 + blank)
