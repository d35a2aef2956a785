"""A batch's words: its own, or those of a template in the home (``templates/*.md``)."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.rules.text import compile_text
from batch_pipeline.settings import BatchFile, MessageType, TemplateName, Text, WorkspaceId
from batch_pipeline.yaml_files import Checked, Document, one_named, parse_document, read_text, validated

_FENCE = "---"


class Template(Checked):
    """A template file: keys between two ``---`` lines, then the words."""

    name: TemplateName = Field(description="the name by which batch files call this template")
    version: WorkspaceId = Field(description="raise it whenever the words change, such as 1")
    message_type: MessageType = Field(description="simple, questionnaire or self_book")
    subject: Text | None = None
    body: Text


@dataclass(frozen=True, slots=True)
class Message:
    """The words of a batch, read and sound. ``repr`` shows the key only: words are kept out of logs."""

    body: str
    subject: str | None
    key: str
    """``template:NAME@VERSION`` or ``body:SHA-256``: the same for whoever got the same message."""
    template: str | None
    version: str | None

    def as_dict(self) -> dict[str, str | None]:
        """As the ledger keeps it with the batch, so that a template changed later changes no batch."""
        return asdict(self)

    def __repr__(self) -> str:
        return f"Message(key={self.key!r})"


def resolve_message(batch: BatchFile, home: Home) -> Message:
    """The words that a batch sends. Raises ``Refused``, with the place of the fault."""
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
    compile_text(template.body, label=document.name, first_line=document.line(("body",)) or 1)
    _check_subject(template.subject, f"{document.name}, subject")
    _check_subject(batch.message.subject, f"batch {batch.batch}, message.subject")
    key = f"template:{template.name}@{template.version}"
    subject = batch.message.subject or template.subject
    return Message(_tidy(template.body), subject, key, template.name, template.version)


def load_template(home: Home, name: str) -> Template:
    """The template of that name, whatever its file is called. Raises ``Refused``, naming those there are."""
    return _read_template(home, name)[0]


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
    return validated(Template, document), document


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
    blank = next((n for n, line in enumerate(words) if line.strip()), 0)
    return document.with_text("body", "\n".join(words[blank:]), line=end + 2 + blank)
