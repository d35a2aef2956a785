"""Taking a submitted batch in: its file read, its cohort kept byte for byte, both registered or neither."""

import filecmp
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

import pyarrow.parquet as pq

from batch_pipeline.errors import Refused
from batch_pipeline.house import ORIGIN, House, content_of
from batch_pipeline.ingest.reader import CohortReader, CohortShape, open_cohort
from batch_pipeline.ledger import batches
from batch_pipeline.ledger.bookings import Clinic
from batch_pipeline.operations import attaching, booking
from batch_pipeline.questionnaires.library import Definition, load_questionnaire
from batch_pipeline.settings import BatchFile, load_batch_file
from batch_pipeline.templates import Message, resolve_message

_BLOCK = 1 << 20
_PART = ".batch-pipeline-"
"""What the name of a half-done copy in the inbox begins with."""
_STALE_PART = 86_400.0
"""Seconds since the last byte after which nobody writes on."""


@dataclass(frozen=True)
class Intake:
    """A cohort that was read: the table in staging, and what was seen on the way."""

    table: Path
    kept: Path
    sha256: str
    shape: CohortShape
    lines: int
    blank_lines: int
    left_out: int


def take_in(house: House, batch: str, spec: str | None, folder: Path, now: datetime) -> Intake:
    """Reads the cohort of a batch file (``spec``: its ``place``), or of the registered batch again (``None``).

    ``Refused`` for whatever a person can mend; then nothing is kept and nothing registered.
    """
    if spec is None:
        with house.ledger.read() as connection:
            row = batches.get(connection, batch)
        kept = house.kept_cohort(row.cohort_sha256)
        reader = open_cohort(kept, label=row.cohort_name, max_bytes=house.settings.max_cohort_bytes)
        return _read(reader, house, lambda: row, folder)

    file = load_batch_file(house.home.inbox / spec)
    if file.batch != batch:
        raise Refused(f"{spec}: it says batch {file.batch}, but this run is for {batch}: submit it under its own name")
    source = cohort_of(house.home.inbox / spec, file)
    # A fault in their settings is better told now than after the approval.
    workspace = house.workspace(file.workspace)
    house.check_providers(workspace)
    message = resolve_message(file, house.home)
    attaching.link_in(file, workspace)
    attached = attaching.read(house, house.home.inbox / spec, file)
    questionnaire = questionnaire_of(file, house)
    slots = booking.slots_of(house, file, workspace, now)
    # Looked at before it is copied: a file over the limit, or no text at all, is refused at once.
    open_cohort(source, label=source.name, max_bytes=house.settings.max_cohort_bytes)
    copied = folder / "raw"
    shutil.copyfile(source, copied)
    copied.chmod(0o600)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256") as pool:
        told = pool.submit(_fingerprint, copied)  # while it is read
        reader = open_cohort(copied, label=source.name, max_bytes=house.settings.max_cohort_bytes)

        def submitted() -> batches.Submission:
            return _submission(file, message, attached, questionnaire, source.name, told.result())

        intake = _read(reader, house, submitted, folder)
    submission = submitted()
    if attached is not None:
        attached.keep(house)
    with house.ledger.write() as connection:
        batches.register(connection, submission, now)
        if slots is not None:
            booking.take_in(house, connection, Clinic(file.workspace, str(file.message.booking)), slots, now, "submit")
        _keep(copied, intake.kept)
        if questionnaire is not None:
            house.keep_questionnaire(questionnaire)
    return intake


def asks_for_date_of_birth(file: BatchFile) -> bool:
    """Whether the message carries a link, which opens by the date of birth (SPEC 2.2, 2.12)."""
    return file.message.carries_link


def questionnaire_of(file: BatchFile, house: House) -> Definition | None:
    """The questionnaire that a batch file names, if it does; ``Refused`` for one that isn't there or isn't sound."""
    wanted = file.message.questionnaire
    return None if wanted is None else load_questionnaire(house.home, wanted)


def cohort_of(spec: Path, file: BatchFile) -> Path:
    """The cohort a batch file names, beside it; ``Refused`` for one that isn't there."""
    source = file.cohort_path(spec)
    if not source.is_file():
        raise Refused(
            f"{spec.name}: cohort: there is no file {file.cohort} beside it: copy it there, or correct the name"
        )
    return source


def _submission(
    file: BatchFile,
    message: Message,
    attached: attaching.Attached | None,
    questionnaire: Definition | None,
    cohort_name: str,
    sha256: str,
) -> batches.Submission:
    came_with = {} if attached is None else {"attachment": attached.file.as_dict()}
    asks = {} if questionnaire is None else {"questionnaire": questionnaire.as_dict()}
    return batches.Submission(
        batch=file.batch,
        workspace=file.workspace,
        message_type=file.message.type,
        message_key="+".join((message.key, *_comes_with(file, attached))),
        questionnaire=file.message.questionnaire,
        allow_repeat=file.allow_repeat,
        approval=file.approval,
        spec=batches.spec_json(
            {
                "batch_file": file.model_dump(mode="json", exclude_none=True),
                "message": message.as_dict(),
                **came_with,
                **asks,
            }
        ),
        cohort_name=cohort_name,
        cohort_sha256=sha256,
    )


def _comes_with(file: BatchFile, attached: attaching.Attached | None) -> Iterator[str]:
    """What makes another message of the same words."""
    if attached is not None:
        yield attached.file.sha256
    if file.message.booking is not None:
        yield file.message.booking


def _fingerprint(copied: Path) -> str:
    """The SHA-256 of a file that is on the disk when this returns."""
    with copied.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def _keep(copied: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if kept.exists():
        copied.unlink()
    else:
        copied.replace(kept)


def _read(
    reader: CohortReader, house: House, source: Callable[[], batches.Submission | batches.Batch], folder: Path
) -> Intake:
    """``source`` is asked once the rows are read."""
    table, lines = read_into(reader, folder, lambda: {ORIGIN: content_of(source())})
    sha256 = source().cohort_sha256
    return Intake(table, house.kept_cohort(sha256), sha256, reader.shape, lines, reader.blank_lines, reader.left_out)


def read_into(
    reader: CohortReader, folder: Path, notes: Callable[[], Mapping[str, str]] = dict[str, str]
) -> tuple[Path, int]:
    """Writes a cohort's rows to Parquet in ``folder``, with notes; gives the path and the number of data lines."""
    table, lines = folder / "cohort", 0
    # No dictionaries, no statistics: nearly every cell is another one, and every reader reads them all.
    plain = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(table, reader.schema, **plain) as writer, ThreadPoolExecutor(max_workers=1) as pool:
        written: Future[None] | None = None
        for batch in reader.batches():
            if written is not None:
                written.result()
            written = pool.submit(writer.write_batch, batch)  # while the next one is read
            lines += batch.num_rows
        if written is not None:
            written.result()
        writer.add_key_value_metadata(dict(notes()))
    table.chmod(0o600)
    return table, lines


def place(house: House, spec: Path) -> str:
    """What a run is told of where a batch file is: its name in the inbox, or its path elsewhere."""
    return spec.name if _is_in_inbox(house, spec) else str(spec.absolute())


def _is_in_inbox(house: House, spec: Path) -> bool:
    return spec.parent.resolve() == house.home.inbox.resolve()


def _companions(spec: Path, file: BatchFile) -> dict[str, Path]:
    """The files that come into the inbox with a batch file: not those of which it gives the whole path."""
    named = {"cohort": file.cohort, "message.attachment": file.message.attachment}
    return {
        what: spec.parent / name for what, name in named.items() if name and not Path(name).expanduser().is_absolute()
    }


def check_inbox(house: House, spec: Path) -> None:
    """``Refused`` when the files can't come into the inbox: too large, or another batch's lie there by these names."""
    file = load_batch_file(spec)
    source = cohort_of(spec, file)
    if _is_in_inbox(house, spec):
        return
    companions = _companions(spec, file)
    for what, path in companions.items():
        if path.parent.resolve() != spec.parent.resolve():
            raise Refused(
                f"{spec.name}: {what}: {path.name} isn't in the same folder: move it there, or give its whole path"
            )
    size = source.stat().st_size
    if size > house.settings.max_cohort_bytes:
        raise Refused(
            f"{source.name}: it has {size:,} bytes, the limit is {house.settings.max_cohort_bytes:,}: split it into smaller cohorts"
        )
    for other in sorted(house.home.inbox.glob("[!.]*.y*ml")):
        try:
            theirs = load_batch_file(other)
        except Refused:
            continue
        for mine in (spec, *companions.values()):
            there = house.home.inbox / mine.name
            names = (other.name, theirs.cohort, theirs.message.attachment)
            is_theirs = theirs.batch != file.batch and mine.name in names
            if is_theirs and there.is_file() and not filecmp.cmp(mine, there, shallow=False):
                raise Refused(
                    f"{mine.name}: the inbox has another file of this name, of batch {theirs.batch}: rename yours"
                )


def into_inbox(house: House, spec: Path) -> str:
    """Copies a batch file, its cohort and its attachment into the inbox unless they are there; gives the file's name in it.

    The batch file last and each under its whole name at once, so that the inbox sensor never sees half of them.
    """
    check_inbox(house, spec)
    if _is_in_inbox(house, spec):
        return spec.name
    file = load_batch_file(spec)
    clear_parts(house)
    for path in (*_companions(spec, file).values(), spec):
        # A name of its own: of two shells that submit at once, none cuts off the other's copy.
        with NamedTemporaryFile(
            dir=house.home.inbox, prefix=f"{_PART}{path.name}.", suffix=".part", delete=False
        ) as part:
            try:
                with path.open("rb") as source:
                    shutil.copyfileobj(source, part, _BLOCK)
                part.flush()
                os.fsync(part.fileno())
                Path(part.name).replace(house.home.inbox / path.name)
            finally:
                Path(part.name).unlink(missing_ok=True)
    return spec.name


def clear_parts(house: House) -> None:
    """Takes away the copies in the inbox that a killed process left half done: patients' details nobody looks for."""
    for part in house.home.inbox.glob(f"{_PART}*.part"):
        with suppress(OSError):  # its owner has just ended; and one that can't be taken away stops nobody
            if time.time() - part.stat().st_mtime > _STALE_PART:
                part.unlink()
