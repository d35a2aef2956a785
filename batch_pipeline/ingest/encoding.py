"""What bytes a cohort file is made of, and its text as blocks of UTF-8 (SPEC 2.1).

Downstream knows UTF-8 only. Whatever can't be decoded becomes a NUL character, which no text has: the
line that holds one is rejected, and the others are read.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from batch_pipeline.errors import Refused

HEAD_BYTES: Final = 64 * 1024
_CHECK_BYTES: Final = 1024 * 1024
_ASCII_END, _UTF_8_LEAD = 0x80, 0xC0

_NOT_TEXT: Final = (
    (
        b"PK\x03\x04",
        "a zip archive or an Excel workbook (.xlsx)",
        'open it in a spreadsheet and save it as "CSV UTF-8"',
    ),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)", 'open it in a spreadsheet and save it as "CSV UTF-8"'),
    (b"%PDF", "a PDF", "export the list as CSV instead"),
    (b"\x1f\x8b", "a compressed file (gzip)", "unpack it first"),
    (b"7z\xbc\xaf", "a compressed file (7z)", "unpack it first"),
    (b"PAR1", "a Parquet file", "export it as CSV"),
    (b"SQLite format 3", "a database", "export the list as CSV"),
    (b"{\\rtf", "a word processor's document", "export the list as CSV instead"),
)
"""First bytes → what such a file is, and the mend."""

_MARKUP: Final = (b"<!doctype", b"<html", b"<?xml", b"<table")
_WORKBOOK_MARKS: Final = (b"xl/", b"[Content_Types].xml")
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_TEXT_CONTROLS: Final = b"\t\n\x0b\x0c\r\x1a\x1c\x1d\x1e\x1f"
_CONTROL_SHARE: Final = 0.05
"""A share of control characters that text doesn't have; in compressed or random bytes it is 0.1."""
_CONTROLS_BORNE: Final = 100
"""So few of them spoil their own lines only, however short the file is."""
_SURELY_WRONG: Final = 10_000
"""So many wrong sequences more than right ones settle it before the end of the file."""

_WINDOWS_1252: Final = "".join(bytes([byte]).decode("cp1252", errors="ignore") or "\0" for byte in range(256))


def _as_nul(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\0", error.end


codecs.register_error("batch_pipeline.as_nul", _as_nul)


@dataclass(frozen=True)
class Text:
    """A file whose encoding is known.

    ``stamp``: what tells whether it is still the same file. ``encoding``: ``utf-8``, ``utf-8-sig``, ``utf-16-le``, ``utf-16-be`` or ``windows-1252``. ``bom``: bytes
    before the text. ``damaged``: UTF-8, but not on every line.
    """

    path: Path
    stamp: tuple[int, int, int]
    encoding: str
    bom: int
    damaged: bool = False

    def unchanged(self) -> bool:
        """Whether the file is still the one whose encoding was found out."""
        return _stamp(self.path) == self.stamp

    def blocks(self, size: int) -> Iterator[bytes]:
        """The text as UTF-8 in blocks of about ``size`` bytes, never an empty one; one may end within a character."""
        with self.path.open("rb") as file:
            file.seek(self.bom)
            yield from filter(None, self._transcoded(iter(lambda: file.read(size), b"")))

    def _transcoded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if self.encoding.startswith("utf-8") and not self.damaged:
            yield from chunks
        elif self.encoding == "windows-1252":
            for chunk in chunks:
                # A str of 256 letters is what charmap codecs use; the stubs know the slower dict only.
                text, _ = codecs.charmap_decode(chunk, "strict", _WINDOWS_1252)  # pyright: ignore[reportArgumentType]
                yield text.encode()
        else:
            codec = "utf-8" if self.damaged else self.encoding
            decoder = codecs.getincrementaldecoder(codec)("batch_pipeline.as_nul")
            for chunk in chunks:
                yield decoder.decode(chunk).encode()
            yield decoder.decode(b"", final=True).encode()


def recognise(path: Path, *, label: str) -> Text:
    """Find out the encoding of a file that isn't empty.

    A file that isn't valid UTF-8 is Windows-1252, unless a BOM or its other letters show that it is UTF-8
    with damaged lines: to read that as Windows-1252 would spoil every accented name in it. Raises
    `Refused` for what isn't text.
    """
    stamp = _stamp(path)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    _refuse_known_formats(head, label)
    encoding, bom = next(((name, len(mark)) for mark, name in _BOMS if head.startswith(mark)), ("", 0))
    encoding = encoding or _utf_16_without_bom(head)
    if encoding.startswith("utf-16"):
        return Text(path, stamp, encoding, bom)
    controls = sum(head.count(byte) for byte in range(32) if byte not in _TEXT_CONTROLS)
    if controls > max(_CONTROLS_BORNE, _CONTROL_SHARE * len(head)):
        raise Refused(f"{label} is not a text file; export the list as CSV (UTF-8) and submit that.")
    if _is_utf_8(path, bom):
        return Text(path, stamp, encoding or "utf-8", bom)
    if encoding or _more_right_than_wrong(path, bom):
        return Text(path, stamp, encoding or "utf-8", bom, damaged=True)
    return Text(path, stamp, "windows-1252", 0)


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _refuse_known_formats(head: bytes, label: str) -> None:
    for mark, what, mend in _NOT_TEXT:
        if head.startswith(mark):
            workbook = mark.startswith(b"PK") and any(part in head for part in _WORKBOOK_MARKS)
            raise Refused(f"{label} is {'an Excel workbook (.xlsx)' if workbook else what}, not a CSV file; {mend}.")
    if head.lstrip(codecs.BOM_UTF8 + b" \t\r\n").lower().startswith(_MARKUP):
        raise Refused(
            f"{label} is a web page or XML, not a CSV file; open it in a spreadsheet and save it as CSV UTF-8."
        )


def _utf_16_without_bom(head: bytes) -> str:
    """``utf-16-le`` or ``utf-16-be`` where nearly every second byte is NUL, as in any Latin text; else ``""``."""
    pairs = len(head) // 2
    even, odd = head[0 : 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    if odd > 0.7 * pairs and even < 0.05 * pairs:
        return "utf-16-le"
    if even > 0.7 * pairs and odd < 0.05 * pairs:
        return "utf-16-be"
    return ""


def _is_utf_8(path: Path, bom: int) -> bool:
    buffer = bytearray(_CHECK_BYTES)
    kept = 0
    with path.open("rb", buffering=0) as file:
        file.seek(bom)
        while got := file.readinto(memoryview(buffer)[kept:]):
            size = kept + got
            whole = _last_character(buffer, size)
            if not _valid_utf_8(buffer, whole):
                return False
            kept = size - whole
            buffer[:kept] = buffer[whole:size]
    return _valid_utf_8(buffer, kept)


def _last_character(text: bytearray, size: int) -> int:
    """Where the last character of the first ``size`` bytes begins, if more of it may follow; else ``size``."""
    for start in range(size - 1, max(size - 4, -1), -1):
        if text[start] >= _UTF_8_LEAD:
            return start
        if text[start] < _ASCII_END:
            break
    return size


def _valid_utf_8(text: bytearray, size: int) -> bool:
    """Arrow's check is five times as fast as decoding."""
    offsets = np.array([0, size], np.int32)
    array = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _more_right_than_wrong(path: Path, bom: int) -> bool:
    """Whether at least one in ten of the sequences beyond ASCII is right UTF-8: by accident next to none is."""
    right = wrong = 0
    decoder = codecs.getincrementaldecoder("utf-8")("batch_pipeline.as_nul")
    for chunk in _chunks(path, bom):
        text = decoder.decode(chunk)
        wrong += text.count("\0") - chunk.count(b"\0")
        right += len(text) - int(np.count_nonzero(np.frombuffer(text.encode(), np.uint8) < 0x80))
        if wrong > 10 * right + _SURELY_WRONG:
            return False
    return right > 0 and wrong <= 10 * right


def _chunks(path: Path, bom: int) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        file.seek(bom)
        yield from iter(lambda: file.read(_CHECK_BYTES), b"")
