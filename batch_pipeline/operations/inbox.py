"""What is new in the inbox: batch files that, with the files that they name, have come to rest."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.ledger import batches
from batch_pipeline.operations.attaching import attachment_of
from batch_pipeline.operations.submission import clear_parts, cohort_of
from batch_pipeline.settings import load_batch_file

Stamps = Mapping[str, str]
"""File name to what its bytes were known by when they were looked at last; ``taken`` ones have arrived already."""

_TAKEN = " taken"


@dataclass(frozen=True)
class Arrival:
    """A batch file that is whole, and the SHA-256 of its bytes and of those of each file that it names."""

    batch: str
    spec: str
    content: str


@dataclass(frozen=True)
class Look:
    """What one look found; ``stamps`` is what the next one compares with."""

    arrived: list[Arrival]
    faulty: list[str]
    stamps: dict[str, str]


def look(house: House, before: Stamps) -> Look:
    """Looks at the inbox. What hasn't changed since the look ``before`` is whole, and arrives once.

    Sizes and times only tell whether somebody is still writing; what a file *is* goes by its content.
    """
    clear_parts(house)
    arrived: list[Arrival] = []
    faulty: list[str] = []
    stamps: dict[str, str] = {}
    for spec in sorted(house.home.inbox.glob("[!.]*.y*ml")):
        try:
            file = load_batch_file(spec)
            cohort = cohort_of(spec, file)
            files = [each for each in (spec, cohort, attachment_of(spec, file)) if each is not None]
            stamp = " ".join(map(_stamp, files))
            if before.get(spec.name) == stamp:
                arrived.append(Arrival(file.batch, spec.name, ":".join(map(sha256, files))))
        except Refused as refusal:
            faulty.append(str(refusal))
            continue
        except OSError as error:
            faulty.append(f"{spec.name}: it can't be read ({error.strerror})")
            continue
        done = before.get(spec.name) in {stamp, stamp + _TAKEN}
        stamps[spec.name] = stamp + _TAKEN if done else stamp
    return Look(arrived, faulty, stamps)


def is_planned(house: House, batch: str, spec: str) -> bool:
    """Whether this very batch file, its cohort and its attachment have their plan already, made by the shell, say."""
    path = house.home.inbox / spec
    try:
        known = house.submitted(batch)
        same = known.file == load_batch_file(path) and known.row.current_plan is not None
        attached = attachment_of(path, known.file)
    except Refused:
        return False
    kept = known.attachment and known.attachment.sha256
    same_file = kept == (attached and sha256(attached))
    return same and same_file and known.row.cohort_sha256 == sha256(cohort_of(path, known.file))


def replaced(house: House, batch: str) -> str:
    """What stands under this batch id now: a file that is put back after another one replaces something else."""
    try:
        with house.ledger.read() as connection:
            return batches.get(connection, batch).submitted_at.isoformat()
    except Refused:
        return "nothing"


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size}:{found.st_mtime_ns}"


def sha256(path: Path) -> str:
    """Of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
