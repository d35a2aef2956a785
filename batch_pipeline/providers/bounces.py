"""Bounces: delivery status notifications (RFC 3464) out of a Maildir or an mbox file, as receipts.

Anybody can write to the mailbox. A mail counts only where it brings back a token that was made under our key
(``_reference_tokens``); all other mail (auto-replies, spam, broken or overlarge mail) is left where it is, noted so
that it isn't looked at again, and counted. No mail, whatever it holds, may stop the reading of the others.
"""

import email
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from typing_extensions import override

from batch_pipeline.errors import Refused
from batch_pipeline.providers._reference_tokens import ReferenceTokens
from batch_pipeline.providers.protocol import Receipt

LARGEST = 1_048_576
"""Bytes of a mail that is read."""
_MOST_LINES = 30_000
_MOST_NESTED = 40
"""Mentions of boundaries and of messages within: a real notification has fewer than ten."""
_MOST_PARTS = 100
_AT_ONCE = 200
_OLDEST = timedelta(days=30)
"""Notifications come within days; a date before that is a clock that is wrong."""

_MESSAGE_ID = re.compile(rb"^message-id:\s*(\S{1,500})", re.IGNORECASE | re.MULTILINE)
_STATUS = re.compile(r"\s*([245])\.\d{1,3}\.\d{1,3}(?![\d.])")
_ARRIVED_AT = ("To", "Delivered-To", "X-Original-To", "Envelope-To")
_ANSWERS_TO = ("In-Reply-To", "References")


class Bounces:
    """What lies in one Maildir or mbox file.

    Args:
        place: the Maildir (a folder with ``new`` and ``cur``), or the mbox file.
        tokens: knows our references again.
        at_once: mails read for one batch of receipts.
    """

    def __init__(self, place: Path, tokens: ReferenceTokens, *, at_once: int = _AT_ONCE) -> None:
        self._place = place
        self._tokens = tokens
        self._at_once = at_once
        self.unreadable = 0
        """Mails that lay there at the last reading and are no notification, or none of ours: for a person to look at."""

    @property
    def name(self) -> str:
        """Of the provider that this mail is about."""
        return "smtp"

    def check(self) -> None:
        """``Refused`` where no mail can ever be found. An mbox file comes to be with the first mail."""
        if self._place.is_dir() and not _is_maildir(self._place):
            raise Refused(f"smtp.bounces: {self._place} isn't a Maildir: it has no folders new and cur")
        if not self._place.parent.is_dir():
            raise Refused(
                f"smtp.bounces: there is no {self._place.parent}: name the Maildir or mbox file of the bounces"
            )

    def receipts(self, now: datetime) -> Iterator[Sequence[Receipt]]:
        """As `Provider.receipts`: a mail counts as read once the batch after its own is asked for.

        ``Refused`` where the mailbox can't be read, or what was read can't be noted.
        """
        self.unreadable = 0
        self.check()
        try:
            yield from self._batches(self._box(), now)
        except OSError as error:
            raise Refused(
                f"smtp.bounces: {self._place}: {error.strerror or type(error).__name__}: "
                "let this user read it, and write in its folder"
            ) from None

    def waiting(self) -> bool:
        """Whether there is mail that wasn't looked at yet, by names, sizes and times alone.

        Also where that can't be told: whoever reads it then is told why.
        """
        try:
            return self._box().waiting()
        except OSError:
            return True

    def _box(self) -> "_Box":
        return _Maildir(self._place) if _is_maildir(self._place) else _Mbox(self._place)

    def _batches(self, box: "_Box", now: datetime) -> Iterator[Sequence[Receipt]]:
        read: list[str] = []
        found: list[Receipt] = []
        others: list[str] = []
        for mail in box.unread():
            told = None if mail.raw is None else notifications(mail.raw, self._tokens, now)
            if told is None:
                others.append(mail.key)
                continue
            read.append(mail.key)
            found.extend(told)
            if len(read) >= self._at_once:
                yield found
                box.mark_read(read)
                read, found = [], []
        if read:
            yield found
            box.mark_read(read)
        self.unreadable = box.others + len(others)
        box.mark_looked_at(others)


# One mail --------------------------------------------------------------------------------------------------------


def notifications(raw: bytes, tokens: ReferenceTokens, now: datetime) -> list[Receipt] | None:
    """What a mail says of a message of ours: a failure, or (empty) nothing that matters. None: it isn't about one.

    ``delayed``, ``relayed``, ``expanded`` and ``delivered`` change nothing: accepted is an email's end (SPEC 2.8).
    """
    if not _looks_harmless(raw):
        return None
    try:
        return _understood(raw, tokens, now)
    except Exception:  # noqa: BLE001 - the email package has many ways to stumble over a stranger's mail
        return None


def _looks_harmless(raw: bytes) -> bool:
    """Whether it is a notification at all, and can be parsed in little time."""
    if len(raw) > LARGEST or raw.count(b"\n") + raw.count(b"\r") > 2 * _MOST_LINES:
        return False
    lowered = raw.lower()
    nested = lowered.count(b"boundary") + lowered.count(b"message/") + lowered.count(b"multipart/")
    return b"message/delivery-status" in lowered and nested <= _MOST_NESTED


def _understood(raw: bytes, tokens: ReferenceTokens, now: datetime) -> list[Receipt] | None:
    mail = email.message_from_bytes(raw)
    parts = _parts(mail)
    statuses = [part for part in parts if part.get_content_type() == "message/delivery-status"]
    reference = _reference(mail, parts, tokens)
    if not statuses or reference is None:
        return None
    recipients = [block for part in statuses for block in _blocks(part) if "Action" in block]
    if not recipients:
        return None
    failed = [block for block in recipients if str(block["Action"]).strip().lower() == "failed"]
    return [_failure(failed, raw, reference, _date(mail, now))] if failed else []


def _parts(mail: Message) -> list[Message]:
    """The parts of the report itself, however they are wrapped, and not those of the mail that it returns."""
    parts = [mail]
    for part in parts:  # which grows while it is gone through
        payload = cast(Any, part.get_payload())
        if part.get_content_maintype() == "multipart" and isinstance(payload, list) and len(parts) < _MOST_PARTS:
            parts += [inner for inner in cast(list[Any], payload)[:_MOST_PARTS] if isinstance(inner, Message)]
    return parts


def _blocks(status: Message) -> list[Message]:
    """Those of a delivery-status part: the first is about the message, the others about a recipient each."""
    payload = cast(Any, status.get_payload())
    return [block for block in cast(list[Any], payload)[:_MOST_PARTS] if isinstance(block, Message)]


def _reference(mail: Message, parts: Sequence[Message], tokens: ReferenceTokens) -> str | None:
    """Ours, from the returned headers, the address that the bounce came to, or what it says that it answers."""
    returned = [str(value) for part in parts for value in _returned(part).get_all("Message-ID", [])]
    headers = [str(value) for name in (*_ARRIVED_AT, *_ANSWERS_TO) for value in mail.get_all(name, [])]
    return next((reference for text in (*returned, *headers) if (reference := tokens.find(text))), None)


def _returned(part: Message) -> Message:
    """The headers of the mail that this part returns; no headers for any other part."""
    kind = part.get_content_type()
    if kind == "message/rfc822" and isinstance(payload := cast(Any, part.get_payload()), list) and payload:
        return cast(Message, payload[0])
    if kind in ("text/rfc822-headers", "message/rfc822-headers"):
        decoded = cast(Any, part.get_payload(decode=True))
        return email.message_from_bytes(decoded if isinstance(decoded, bytes) else b"")
    return Message()


def _failure(failed: Sequence[Message], raw: bytes, reference: str, at: datetime) -> Receipt:
    """One message, one failure: permanent, if it is so for any address that it was passed on to."""
    statuses = [match for block in failed if (match := _STATUS.match(str(block.get("Status", ""))))]
    # A failure without a status is final all the same: the server has given up.
    first = min(statuses, key=lambda status: status[1] == "4", default=None)
    return Receipt(
        provider_key=hashlib.sha256(f"{_identity(raw)} {reference}".encode()).hexdigest()[:32],
        reference=reference,
        kind="failed",
        occurred_at=at,
        failure_kind="temporary" if first is not None and first[1] == "4" else "permanent",
        failure_code=None if first is None else first[0].strip(),
    )


def _date(mail: Message, now: datetime) -> datetime:
    """When the notification says that it was written, if that can be; else now."""
    with suppress(TypeError, ValueError, OverflowError):
        written = parsedate_to_datetime(str(mail.get("Date", "")))
        if written.tzinfo is not None and now - _OLDEST <= written <= now:
            return written.astimezone(UTC)
    return now


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:32]


def _identity(raw: bytes) -> str:
    """The same for the same mail, wherever it lies: by its ``Message-ID``, or else by what it holds."""
    headers = re.split(rb"\r?\n\r?\n", raw[:65_536], maxsplit=1)[0]
    match = _MESSAGE_ID.search(headers)
    return _digest(raw if match is None else match[1])


# Boxes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mail:
    """A mail in a box: its file's name or its digest, and what it holds; None: too large to be read."""

    key: str
    raw: bytes | None


class _Box(Protocol):
    others: int
    """Mails that ``unread`` passed over, as they were looked at before and are none of ours."""

    def unread(self) -> Iterator[_Mail]: ...

    def mark_read(self, keys: Sequence[str]) -> None: ...

    def mark_looked_at(self, keys: Sequence[str]) -> None:
        """Once all were gone through: these are none of ours."""
        ...

    def waiting(self) -> bool: ...


class _Notes:
    """A file with a line for each thing to remember, to which lines are only added."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[str]:
        return self._path.read_text(encoding="ascii").split() if self._path.exists() else []

    def add(self, lines: Sequence[str]) -> None:
        if not lines:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="ascii") as noted:
            noted.writelines(f"{line}\n" for line in lines)
            noted.flush()
            os.fsync(noted.fileno())


_NOT_OURS = "-"
"""Before the digest of a mail, or of its name, that was looked at."""


def _is_maildir(place: Path) -> bool:
    return (place / "new").is_dir() and (place / "cur").is_dir()


class _Maildir(_Box):
    """A folder with a file a mail. What was read is flagged as seen, as a mail program does it.

    What isn't ours stays unseen, for a person, and is noted in a file among the folders.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._notes = _Notes(place / "batch_pipeline.looked_at")
        self.others = 0

    @override
    def unread(self) -> Iterator[_Mail]:
        """New mail, and what a mail program has moved to ``cur`` that nobody has read."""
        for key in self._unread():
            with suppress(FileNotFoundError):  # another reader was quicker
                path = self._place / key
                yield _Mail(key, path.read_bytes() if path.lstat().st_size <= LARGEST else None)

    def _unread(self) -> Iterator[str]:
        noted = set(self._notes.lines())
        self.others = 0
        for folder in ("new", "cur"):
            for name in sorted(path.name for path in (self._place / folder).iterdir()):
                if name.startswith(".") or "S" in _flags(name):
                    continue
                if _note_of(name) in noted:
                    self.others += 1
                elif _is_file(self._place / folder / name):
                    yield f"{folder}/{name}"

    @override
    def mark_read(self, keys: Sequence[str]) -> None:
        for key in keys:
            name = key.partition("/")[2]
            flags = "".join(sorted({*_flags(name), "S"}))
            with suppress(FileNotFoundError):
                (self._place / key).rename(self._place / f"cur/{_unique(name)}:2,{flags}")

    @override
    def mark_looked_at(self, keys: Sequence[str]) -> None:
        self._notes.add([_note_of(key.partition("/")[2]) for key in keys])

    @override
    def waiting(self) -> bool:
        return next(self._unread(), None) is not None


def _is_file(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def _flags(name: str) -> str:
    return name.rpartition(":2,")[2] if ":2," in name else ""


def _unique(name: str) -> str:
    """What stays of a name when a mail program moves or flags the mail."""
    return name.rpartition(":2,")[0] or name


def _note_of(name: str) -> str:
    return _NOT_OURS + _digest(os.fsencode(_unique(name)))


class _Mbox(_Box):
    """A file that the mail system appends to. What was read, or looked at, is noted in a file beside it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._notes = _Notes(place.with_name(f"{place.name}.read"))
        self.others = 0
        self._whole: os.stat_result | None = None
        """The file as it was when it was read, if it was whole then."""

    @override
    def unread(self) -> Iterator[_Mail]:
        known = set(self._notes.lines())
        self.others = 0
        try:
            with self._place.open("rb") as file:
                self._whole = _settled(file)
                for raw in _mails(file, 0 if self._whole is None else self._whole.st_size):
                    # Not by the Message-ID: two mails with the same one are two mails.
                    key = "" if raw is None else _digest(raw)
                    if _NOT_OURS + key in known:
                        self.others += 1
                    elif key not in known:
                        yield _Mail(key, raw)
        except FileNotFoundError:
            return

    @override
    def mark_read(self, keys: Sequence[str]) -> None:
        self._notes.add(keys)

    @override
    def mark_looked_at(self, keys: Sequence[str]) -> None:
        looked_at = [_NOT_OURS + key for key in keys if key]
        if self._whole is not None and _stamp(self._whole) != self._last_stamp():
            looked_at.append(_stamp(self._whole))
        self._notes.add(looked_at)

    @override
    def waiting(self) -> bool:
        try:
            found = self._place.stat()
        except FileNotFoundError:
            return False
        return found.st_size > 0 and _stamp(found) != self._last_stamp()

    def _last_stamp(self) -> str | None:
        return next((line for line in reversed(self._notes.lines()) if line.startswith(_STAMP)), None)


_STAMP = "@"


def _stamp(file: os.stat_result) -> str:
    """Another one whenever mail was added."""
    return f"{_STAMP}{file.st_size}:{file.st_mtime_ns}"


def _settled(file: BinaryIO) -> os.stat_result | None:
    """How large the file is, and since when, as long as it is whole: mail systems hold this lock while they append."""
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return None
    try:
        return os.fstat(file.fileno())
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)


def _mails(file: BinaryIO, end: int) -> Iterator[bytes | None]:
    """Each mail of the first ``end`` bytes, without its ``From `` line; None for one that is too large."""
    lines: list[bytes] = []
    size, position = 0, 0
    begun, after_blank = False, True
    while line := file.readline(min(65_536, end - position)):
        position += len(line)
        if after_blank and line.startswith(b"From "):
            if begun:
                yield b"".join(lines) if size <= LARGEST else None
            lines, size, begun = [], 0, True
        else:
            size += len(line)
            if size <= LARGEST:
                lines.append(line)
            else:
                lines.clear()
        after_blank = line in (b"\n", b"\r\n")
    if begun:
        yield b"".join(lines) if size <= LARGEST else None
