import io
import zipfile

import pytest

from batch_pipeline.rules import attachments
from batch_pipeline.rules.attachments import NotAllowed


def archive(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name in names:
            made.writestr(name, "")
    return out.getvalue()


def old(*streams: str) -> bytes:
    names = b"".join(f"{stream}\0".encode("utf-16-le").ljust(64, b"\0") for stream in streams)
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + names


TYPES = "[Content_Types].xml"


@pytest.mark.parametrize(
    ("content", "name", "label"),
    [
        (b"%PDF-1.7\n...", "leaflet.pdf", "PDF"),
        (b"\x89PNG\r\n\x1a\n...", "map.PNG", "PNG image"),
        (b"\xff\xd8\xff\xe0...", "map.jpeg", "JPEG image"),
        (b"GIF89a...", "map.gif", "GIF image"),
        (archive(TYPES, "word/document.xml"), "letter.docx", "Word document"),
        (archive(TYPES, "xl/workbook.xml"), "table.xlsx", "Excel spreadsheet"),
        (archive(TYPES, "ppt/presentation.xml"), "talk.pptx", "PowerPoint presentation"),
        (old("Root Entry", "WordDocument"), "letter.doc", "Word document"),
        (old("Workbook"), "table.xls", "Excel spreadsheet"),
        (old("PowerPoint Document"), "talk.ppt", "PowerPoint presentation"),
    ],
)
def test_what_patients_may_be_sent_is_known_by_its_content(content: bytes, name: str, label: str) -> None:
    found = attachments.file_type_of(content)
    assert found.label == label
    attachments.check_name(name, found)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "none of what patients may be sent"),
        (b"<html><script>alert(1)</script>", "none of what patients may be sent"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of what patients may be sent"),
        (b"MZ\x90\x00", "none of what patients may be sent"),
        (b" %PDF-1.7", "none of what patients may be sent"),
        (archive("a.txt"), "archive"),
        (archive("word/document.xml"), "archive"),
        (b"PK\x03\x04 cut off", "damaged"),
        (archive(TYPES, "word/document.xml", "word/vbaProject.bin"), "macros"),
        (old("WordDocument", "VBA"), "macros"),
        (old("Something"), "none of what patients may be sent"),
    ],
)
def test_anything_else_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(NotAllowed, match=why):
        attachments.file_type_of(content)


@pytest.mark.parametrize("name", ["leaflet.pdf", "leaflet", "leaflet.png.exe", ".png.html"])
def test_a_name_that_says_something_else_is_refused(name: str) -> None:
    with pytest.raises(NotAllowed, match=r"PNG image: name it with the ending \.png"):
        attachments.check_name(name, attachments.PNG)


@pytest.mark.parametrize(
    ("size", "words"),
    [(1, "1 KB"), (340_400, "340 KB"), (999_499, "999 KB"), (1_000_000, "1.0 MB"), (9_960_000, "10.0 MB")],
)
def test_a_size_in_words(size: int, words: str) -> None:
    assert attachments.size_in_words(size) == words
