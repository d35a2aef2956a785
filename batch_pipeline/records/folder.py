"""The writer that every home has: a folder with NDJSON files, a resource a line, for other software to take in.

A file is in place whole or not at all: it is written under another name, brought to disk, and renamed. Its name is
its chunk's, which is never used again, so a file that is there has all that its chunk had to write. Whoever finishes a
chunk that another left looks for the file, and has nothing to write where it is.
"""

import json
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from batch_pipeline.records.writer import Entry, Outcome, StillOurs, our_identifiers

SUFFIX = ".ndjson"
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600


class RecordFolder:
    """Files ``BATCH/TYPE-NUMBER-TOKEN.ndjson`` in a folder, each readable by its owner alone."""

    at_once = 5_000
    lease = timedelta(minutes=1)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, resource_type: str) -> None:
        """A file is always written once."""

    def write(self, chunk: str, entries: Sequence[Entry], still_ours: StillOurs) -> Iterator[Sequence[Outcome]]:
        """All of a chunk in one file, or none; what is missing from a file that another left goes another time."""
        path = self._path(chunk)
        if path.exists():
            there = set(_identifiers(path))
        else:
            self._put(path, entries, still_ours)
            there = {each.identifier for each in entries}
        yield [
            Outcome(each.identifier, "written")
            if each.identifier in there
            else Outcome(each.identifier, "refused", "it is missing from the chunk's file")
            for each in entries
        ]

    def found(
        self, batch: str, resource_type: str, known: Callable[[], Collection[str]]
    ) -> Iterator[tuple[str, list[str]]]:
        """Looks at the folder first: what appears there after that is known to the ledger by then."""
        begins = f"{resource_type}-"
        paths = sorted((self._folder / batch).glob(f"{begins}*{SUFFIX}"))
        references = {f"{batch}/{resource_type}/{path.stem.removeprefix(begins)}": path for path in paths}
        if references:
            for reference in references.keys() - set(known()):
                yield reference, list(_identifiers(references[reference]))

    def close(self) -> None:
        """Nothing is held."""

    def _path(self, chunk: str) -> Path:
        batch, resource_type, name = chunk.split("/")
        return self._folder / batch / f"{resource_type}-{name}{SUFFIX}"

    def _put(self, path: Path, entries: Sequence[Entry], still_ours: StillOurs) -> None:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
            _sync(path.parent.parent)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE_FILE), "wb") as file:
            file.writelines(_line(entry) for entry in entries)
            file.flush()
            os.fsync(file.fileno())
        still_ours()
        part.replace(path)
        _sync(path.parent)
        for left in path.parent.glob(f".{path.name}.*"):  # of a process that was killed over the same chunk
            left.unlink(missing_ok=True)


def _line(entry: Entry) -> bytes:
    """JSON escapes line breaks: whatever the text, it is one line."""
    return json.dumps(entry.resource, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _identifiers(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for line in file:
            yield from our_identifiers(json.loads(line))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
