"""The claims journal: beside the ledger, and never restored with it, what was about to be posted (SPEC 2.7).

A ledger that is restored from a copy has forgotten the chunks that were claimed and posted after the copy was taken:
to it those messages are unsent, and it would send them again under new references. The journal remembers. It is a
folder of text files, on another disk than the ledger if possible. A line is written, and on disk, after the claim is
committed and before the chunk is posted; so a chunk that is in the journal and not in the ledger proves that the
ledger is older than the journal (``batch_pipeline.ledger.restored``).

Lines tell of three things: that a chunk is about to be *posted*; that messages of it are about to be *returned*,
because the provider surely took nothing of them; and that by a person's word they were *not sent*. Then they go in
another chunk, or not at all. Nothing in them is personal but keyed hashes: no NHS number, no address, no text.

Beside the lines it is noted what was decided last, by the ledger's audit: a ledger that doesn't know of it has
forgotten a pause or a cancellation, whether or not anything was posted since.

A process writes to a file that no other writes to, so that none waits for another: the day, the machine and a number
are its name. A file whose process is gone is written on by the next.
"""

import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from batch_pipeline.errors import Refused

Kind = Literal["posted", "returned", "not_sent"]

_SUFFIX = ".claims"
_NAME = re.compile(rf"(\d{{4}}-\d\d-\d\d)-[0-9a-z]+-\d+{re.escape(_SUFFIX)}")
_TORN = b" torn\n"
"""What is written after a line that a dying process left unfinished: what it told of was never posted."""
_PRUNED = "pruned"
_DECIDED = "decided"
_DIGEST_BYTES = 8


class Noted(NamedTuple):
    """One message of a chunk."""

    line: int
    patient: str
    reference: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal."""

    kind: Kind
    ledger: str
    """Which ledger wrote it."""
    key: str
    """Which hash key the patients are named by."""
    batch: str
    step: str
    channel: str
    provider: str
    chunk: str
    fence: int
    """Of the chunk's holder. Of the lines that tell of one chunk, one with a higher fence is later."""
    claimed_at: datetime
    written_at: datetime
    """By the machine's clock."""
    body: str
    """The messages, as JSON: most readers want none of a million."""

    @property
    def messages(self) -> list[Noted]:
        """Those that the line tells of."""
        return [Noted(*message) for message in json.loads(self.body)]


_FIELDS = ("kind", "ledger", "key", "batch", "step", "channel", "provider", "chunk", "fence")
_TIMES = ("claimed_at", "written_at")
_HEAD = {*_FIELDS, *_TIMES}


def body_of(messages: Iterable[Noted]) -> str:
    """What stands in a line of these messages."""
    return json.dumps([list(message) for message in messages], separators=(",", ":"))


def _line(entry: Entry) -> bytes:
    head = {name: getattr(entry, name) for name in _FIELDS}
    head |= {name: getattr(entry, name).isoformat() for name in _TIMES}
    content = f"{json.dumps(head, separators=(',', ':'))}\t{entry.body}".encode()
    return content + b"\t" + _digest(content) + b"\n"


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest().encode()


def _entry(line: bytes, path: Path) -> Entry | None:
    """What a whole line says; ``None`` for one that isn't as it was written.

    ``Refused`` for one of another version: a line that says more, or says it otherwise, has another head.
    """
    content, _, digest = line.rstrip(b"\n").rpartition(b"\t")
    if digest != _digest(content):
        return None
    head, _, body = content.decode().partition("\t")
    known: dict[str, Any] = json.loads(head)
    if known.keys() != _HEAD or known["kind"] not in get_args(Kind):
        raise Refused(
            f"{path}: another version of this software has written to the claims journal, and this one can't read it: "
            "go on with the newer of the two"
        )
    for name in _TIMES:
        known[name] = datetime.fromisoformat(known[name])
    return Entry(**known, body=body)


class Read(NamedTuple):
    """A line that was read: where it ends, and what it says; nothing, if it is damaged."""

    end: int
    entry: Entry | None


class Journal:
    """The journal in a folder. Any number of threads and processes may write to it.

    Args:
        folder: made when the first line is written.
        wall: the machine's clock.
    """

    def __init__(self, folder: Path, wall: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.folder = folder
        self.wall = wall
        self._lock = threading.Lock()
        self._open: int | None = None
        self._opened_as: tuple[date, int] | None = None

    # Writing -----------------------------------------------------------------------------------------------------

    def append(self, *entries: Entry) -> None:
        """Writes lines with one sync; they are on disk when this returns.

        ``OSError`` when they can't be: then each may be there or not.
        """
        whole = b"".join(map(_line, entries))
        with self._lock:
            try:
                descriptor = self._file_of_today()
                _write_whole(descriptor, whole)
                os.fsync(descriptor)
            except OSError:
                self._close()  # what it wrote of a line is found when the file is opened again
                raise

    def close(self) -> None:
        """Gives up the file; another process may write on in it."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._open is not None and self._opened_as is not None and self._opened_as[1] == os.getpid():
            with suppress(OSError):
                os.close(self._open)
        self._open = None

    def _file_of_today(self) -> int:
        """A forked process takes another file than its parent's."""
        mine = (self.wall().date(), os.getpid())
        if self._open is None or self._opened_as != mine:
            self._close()
            self._open, self._opened_as = self._take_file(mine[0]), mine
        return self._open

    def _take_file(self, day: date) -> int:
        _make_folder(self.folder)
        for number in itertools.count(1):
            path = self.folder / f"{day.isoformat()}-{_machine()}-{number}{_SUFFIX}"
            descriptor = _new_file(path) or _left_file(path)
            if descriptor is not None:
                return descriptor
        raise AssertionError  # there is always a next number

    # Reading -----------------------------------------------------------------------------------------------------

    def files(self) -> dict[str, int]:
        """Name and size of each file, in the order of their names; none where there is no folder."""
        try:
            found = [(entry.name, entry.stat().st_size) for entry in os.scandir(self.folder) if is_journal(entry.name)]
        except FileNotFoundError:  # the folder, or a file that was pruned meanwhile
            return {} if not self.folder.is_dir() else self.files()
        return dict(sorted(found))

    def read(self, name: str, start: int) -> Iterator[Read]:
        """The lines of a file from an offset on that ``end`` gave; one that is being written is left for later.

        ``Refused`` for a file of another version.
        """
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            end = start
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                if not line.endswith(_TORN):
                    yield Read(end, _entry(line, self.folder / name))

    # Pruning -----------------------------------------------------------------------------------------------------

    @property
    def pruned(self) -> str:
        """Lines of this day and of those before may have been thrown away; empty: none."""
        return self._noted(_PRUNED)

    def discard(self, names: Iterable[str], through: str) -> None:
        """Throws files away; nothing was new in them after the day ``through``, which stays noted."""
        if through > self.pruned:
            self._note(_PRUNED, through)
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    # Beside the lines --------------------------------------------------------------------------------------------

    @property
    def decided(self) -> str:
        """What was decided last, in the words of ``note_decided``; empty: nothing that is known."""
        return self._noted(_DECIDED)

    def note_decided(self, what: str) -> None:
        """Notes what was decided last."""
        _make_folder(self.folder)
        self._note(_DECIDED, what)

    def _noted(self, name: str) -> str:
        try:
            return (self.folder / name).read_text("utf-8").strip()
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def _note(self, name: str, text: str) -> None:
        """The whole of it or nothing, whatever dies; of several at once one wins."""
        part = self.folder / f".{name}.{secrets.token_hex(8)}"
        try:
            descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / name)
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(self.folder)


def is_journal(name: str) -> bool:
    """Whether a file of that name is one of a journal."""
    return _NAME.fullmatch(name) is not None


def day_of(name: str) -> str:
    """The day on which a file was begun, as in ``2026-10-01``."""
    return name[:10]


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sync_folder(folder.parent)


def _new_file(path: Path) -> int | None:
    """A file that wasn't there, on disk with its name; ``None`` where another process has it."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o600)
    except FileExistsError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another has found it between the two calls
        os.close(descriptor)
        return None
    except OSError:  # a disk without locks: then nobody takes it over either
        pass
    _sync_folder(path.parent)
    return descriptor


def _left_file(path: Path) -> int | None:
    """A file that no process writes to any more, ready for the next line; ``None`` if one does."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            _write_whole(descriptor, _TORN)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _write_whole(descriptor: int, line: bytes) -> None:
    """A disk that is nearly full takes a part first, and says that it is full when it is given the rest."""
    written = 0
    while written < len(line):
        written += os.write(descriptor, line[written:])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def _machine() -> str:
    """Processes with the same one share a kernel, and so see each other's locks: names can be the same elsewhere."""
    try:
        told = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except OSError:
        told = os.uname().nodename
    return hashlib.sha256(told.encode()).hexdigest()[:12]
