"""The claims journal: what is written is there after any death, and nothing else is believed."""

import hashlib
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.ledger.journal import Entry, Journal, Noted, body_of
from batch_pipeline_tests.ledger.given import BATCH, NOW, patient
from batch_pipeline_tests.processes import CONTEXT

ENTRY = Entry(
    kind="posted",
    ledger="a ledger",
    key="a key",
    batch=BATCH,
    step="primary",
    channel="sms",
    provider="simulator",
    chunk=f"{BATCH}/primary/sms/0001-abcd",
    fence=1,
    claimed_at=NOW,
    written_at=NOW,
    body=body_of([Noted(2, patient(2), f"{BATCH}:2:primary"), Noted(3, patient(3), f"{BATCH}:3:primary")]),
)


def journal(folder: Path, days: int = 0) -> Journal:
    return Journal(folder / "claims", lambda: NOW + timedelta(days=days))


def numbered(number: int) -> Entry:
    return replace(ENTRY, fence=number)


def fences(read: Journal) -> list[int | None]:
    return [line.entry.fence if line.entry else None for name in read.files() for line in read.read(name, 0)]


def only_file(folder: Path) -> Path:
    (path,) = (folder / "claims").iterdir()
    return path


def test_what_was_written_is_read_and_names_nobody(tmp_path: Path) -> None:
    journal(tmp_path).append(ENTRY)
    path = only_file(tmp_path)
    (read,) = journal(tmp_path).read(path.name, 0)
    assert read.entry is not None
    assert read.entry == ENTRY
    assert read.entry.messages[0] == Noted(2, patient(2), f"{BATCH}:2:primary")
    assert read.end == path.stat().st_size
    assert list(journal(tmp_path).read(path.name, read.end)) == []
    assert "9990" not in path.read_text()
    assert [oct(each.stat().st_mode & 0o777) for each in (path, path.parent)] == ["0o600", "0o700"]


def test_no_folder_is_an_empty_journal(tmp_path: Path) -> None:
    assert journal(tmp_path).files() == {}
    assert journal(tmp_path).pruned == ""
    assert not (tmp_path / "claims").exists()


def test_no_two_at_once_write_to_one_file_and_the_next_takes_up_what_is_left(tmp_path: Path) -> None:
    first, second = journal(tmp_path), journal(tmp_path)
    first.append(numbered(1))
    second.append(numbered(2))
    assert len(first.files()) == 2
    first.close()
    journal(tmp_path).append(numbered(3))
    assert len(first.files()) == 2
    assert fences(first) == [1, 3, 2]


def test_a_new_day_begins_a_new_file(tmp_path: Path) -> None:
    days = iter([0, 0, 1])
    of_days = Journal(tmp_path / "claims", lambda: NOW + timedelta(days=next(days)))
    for number in range(3):
        of_days.append(numbered(number))
    assert sorted(name[:10] for name in of_days.files()) == ["2026-10-01", "2026-10-02"]
    assert fences(of_days) == [0, 1, 2]


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_line_that_was_cut_short_is_no_line_and_spoils_none(tmp_path: Path, left: int) -> None:
    dying = journal(tmp_path)
    dying.append(numbered(1))
    whole = only_file(tmp_path).stat().st_size
    dying.append(numbered(2))
    size = only_file(tmp_path).stat().st_size
    os.truncate(only_file(tmp_path), whole + left if left > 0 else size + left)
    dying.close()
    assert fences(journal(tmp_path)) == [1]
    name = only_file(tmp_path).name
    (read,) = journal(tmp_path).read(name, 0)
    after = journal(tmp_path)
    after.append(numbered(3))
    assert fences(after) == [1, 3]
    assert [line.entry.fence for line in after.read(name, read.end) if line.entry] == [3]


def test_a_line_that_isnt_as_it_was_written_is_told_of(tmp_path: Path) -> None:
    writing = journal(tmp_path)
    for number in (1, 2):
        writing.append(numbered(number))
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"fence":1', b'"fence":7'))
    assert fences(writing) == [None, 2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"kind":"posted"', b'"kind":"posted","more":1'),
        (b'"kind":"posted"', b'"kind":"shelved"'),
        (b'"fence":1,', b""),
    ],
    ids=["says more", "says something else", "says less"],
)
def test_a_line_of_another_version_is_refused_in_one_sentence(tmp_path: Path, old: bytes, new: bytes) -> None:
    journal(tmp_path).append(ENTRY)
    path = only_file(tmp_path)
    content = path.read_bytes().replace(old, new).rpartition(b"\t")[0]
    path.write_bytes(content + b"\t" + hashlib.blake2b(content, digest_size=8).hexdigest().encode() + b"\n")
    with pytest.raises(Refused, match="another version of this software has written to the claims journal") as refused:
        fences(journal(tmp_path))
    assert str(path) in str(refused.value)


def append_many(folder: Path, number: int) -> None:
    writing = journal(folder)
    for _ in range(50):
        writing.append(numbered(number))


def test_a_line_on_a_full_disk_is_an_error_and_the_next_one_is_whole(tmp_path: Path) -> None:
    writing = journal(tmp_path)
    writing.append(numbered(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        with pytest.raises(OSError, match="No space"):
            writing.append(numbered(2))
    writing.append(numbered(3))
    assert fences(writing) == [1, 2, 3]


def test_a_disk_that_takes_a_part_of_a_write_makes_no_two_lines_one(tmp_path: Path) -> None:
    dying = journal(tmp_path)
    dying.append(numbered(1))
    dying.append(numbered(2))
    dying.close()
    os.truncate(only_file(tmp_path), only_file(tmp_path).stat().st_size - 20)
    write = os.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:3]))
        journal(tmp_path).append(numbered(3))
    assert fences(journal(tmp_path)) == [1, 3]


def _full(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_forked_processes_write_to_files_of_their_own(tmp_path: Path) -> None:
    processes = [CONTEXT.Process(target=append_many, args=(tmp_path, number)) for number in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(str(fence) for fence in fences(journal(tmp_path))) == ["1"] * 50 + ["2"] * 50


def test_what_was_decided_last_is_noted_whole_for_its_owner_alone(tmp_path: Path) -> None:
    noting = journal(tmp_path)
    assert noting.decided == ""
    for what in ("cancelled", "resumed"):
        noting.note_decided(what)
    assert (noting.decided, noting.files()) == ("resumed", {})
    (path,) = noting.folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_discarded_is_noted_first(tmp_path: Path) -> None:
    for day in range(3):
        journal(tmp_path, day).append(numbered(day))
    kept = journal(tmp_path)
    names = list(kept.files())
    kept.discard(names[:2], "2026-10-02")
    assert (list(kept.files()), kept.pruned) == (names[2:], "2026-10-02")
    kept.discard([], "2026-10-01")
    assert kept.pruned == "2026-10-02"
