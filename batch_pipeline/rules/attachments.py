"""What a file that is sent to patients may be: judged by its content, never by its name alone (SPEC 2.6)."""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class FileType:
    """A kind of file: as patients read it, as browsers do, and the endings of its name; the first is the usual one."""

    label: str
    media_type: str
    suffixes: tuple[str, ...]


_OFFICE = "application/vnd.openxmlformats-officedocument"
PDF = FileType("PDF", "application/pdf", (".pdf",))
PNG = FileType("PNG image", "image/png", (".png",))
JPEG = FileType("JPEG image", "image/jpeg", (".jpg", ".jpeg"))
GIF = FileType("GIF image", "image/gif", (".gif",))
WORD = FileType("Word document", f"{_OFFICE}.wordprocessingml.document", (".docx",))
EXCEL = FileType("Excel spreadsheet", f"{_OFFICE}.spreadsheetml.sheet", (".xlsx",))
POWERPOINT = FileType("PowerPoint presentation", f"{_OFFICE}.presentationml.presentation", (".pptx",))
OLD_WORD = FileType("Word document", "application/msword", (".doc",))
OLD_EXCEL = FileType("Excel spreadsheet", "application/vnd.ms-excel", (".xls",))
OLD_POWERPOINT = FileType("PowerPoint presentation", "application/vnd.ms-powerpoint", (".ppt",))

FILE_TYPES = (PDF, PNG, JPEG, GIF, WORD, EXCEL, POWERPOINT, OLD_WORD, OLD_EXCEL, OLD_POWERPOINT)
ALLOWED = "a PDF, an image (PNG, JPEG, GIF) or an Office file (Word, Excel, PowerPoint)"

_BEGINNINGS: Sequence[tuple[bytes, FileType]] = (
    (b"%PDF-", PDF),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
)
_ZIP = b"PK\x03\x04"
_MAIN_PARTS: Mapping[str, FileType] = MappingProxyType(
    {"word/document.xml": WORD, "xl/workbook.xml": EXCEL, "ppt/presentation.xml": POWERPOINT}
)
_OLD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLD_STREAMS: Mapping[str, FileType] = MappingProxyType(
    {"WordDocument": OLD_WORD, "Workbook": OLD_EXCEL, "PowerPoint Document": OLD_POWERPOINT}
)
_OLD_MACROS = ("VBA", "_VBA_PROJECT")
_MACROS = "vbaproject.bin"


class NotAllowed(Exception):
    """A file that no patient is sent. The message says why, and goes on after the file's name."""


def file_type_of(content: bytes) -> FileType:
    """What a file is. ``NotAllowed`` for anything else than ``ALLOWED``, and for one with macros."""
    for beginning, found in _BEGINNINGS:
        if content.startswith(beginning):
            return found
    if content.startswith(_ZIP):
        return _office(content)
    if content.startswith(_OLD):
        return _old_office(content)
    raise NotAllowed(f"it is none of what patients may be sent: give {ALLOWED}")


def _office(content: bytes) -> FileType:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            names = set(parts.namelist())
    except zipfile.BadZipFile:
        raise NotAllowed("it is damaged: save it again") from None
    if any(name.lower().endswith(_MACROS) for name in names):
        raise NotAllowed("it has macros: save it without them")
    for name, found in _MAIN_PARTS.items():
        if name in names and "[Content_Types].xml" in names:
            return found
    raise NotAllowed(f"it is an archive: give {ALLOWED}")


def _old_office(content: bytes) -> FileType:
    def has(stream: str) -> bool:  # its directory has the names in two bytes a character, ended by a zero
        return f"{stream}\0".encode("utf-16-le") in content

    if any(map(has, _OLD_MACROS)):
        raise NotAllowed("it has macros: save it without them")
    for stream, found in _OLD_STREAMS.items():
        if has(stream):
            return found
    raise NotAllowed(f"it is none of what patients may be sent: give {ALLOWED}")


def check_name(name: str, found: FileType) -> None:
    """``NotAllowed`` for a name by which a patient's device would take it for something else."""
    if not name.lower().endswith(found.suffixes):
        raise NotAllowed(f"by its content it is a {found.label}: name it with the ending {found.suffixes[0]}")


@dataclass(frozen=True, slots=True)
class Attachment:
    """The one file that goes with a batch, as its content was when the batch was submitted."""

    name: str
    sha256: str
    media_type: str
    label: str
    size: int
    """In bytes."""

    @classmethod
    def of(cls, name: str, content: bytes) -> "Attachment":
        """``NotAllowed`` for what no patient is sent, and for a name that says something else than the content."""
        found = file_type_of(content)
        check_name(name, found)
        return cls(name, hashlib.sha256(content).hexdigest(), found.media_type, found.label, len(content))

    def as_dict(self) -> dict[str, Any]:
        """As the ledger keeps it with the batch: another file under the same name changes no batch."""
        return asdict(self)


def size_in_words(size: int) -> str:
    """A size as a patient reads it: ``340 KB``, ``1.2 MB``."""
    if size >= 1_000_000:
        return f"{size / 1_000_000:.1f} MB"
    return f"{max(1, round(size / 1_000))} KB"
