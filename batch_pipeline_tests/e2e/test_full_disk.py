"""The disk runs full: one clear sentence, nothing half-stored, and the same command succeeds when there is room again."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batch_pipeline_tests.e2e.surgery import Person, Surgery, T, hours, mobile

FULL = "refused: the disk is full or fails: make room on it and do the same again; what was done before stays done"
MANY = [Person(n, mobile=mobile(n % 1000)) for n in range(1, 4001)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB, of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def only(kilobytes: int, disk: Path) -> Iterator[None]:
    """Leaves that much room on the disk for a while."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - kilobytes * 1024)
    try:
        yield
    finally:
        ballast.unlink()


def surgery_on(disk: Path, tmp_path: Path, *, on_disk: bool = False) -> Surgery:
    made = Surgery(disk / "surgery", on_disk=on_disk)
    made.desk = tmp_path
    return made


def test_planning_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    surgery = surgery_on(small_disk, tmp_path)
    surgery.done("status")  # makes the ledger
    spec = surgery.batch("flu", MANY)
    with only(100, small_disk):
        assert surgery.refused("submit", spec, at=T) == FULL
    assert surgery.done("status", "--json").json == []
    assert surgery.stored() == []
    assert list(surgery.home.inbox.iterdir()) == []
    surgery.done("submit", spec, at=T)
    surgery.status("flu", status="Awaiting approval", lines=4000, awaiting=4000)


@pytest.mark.slow
def test_dispatching_on_a_full_disk_sends_each_message_once_in_the_end(small_disk: Path, tmp_path: Path) -> None:
    surgery = surgery_on(small_disk, tmp_path)
    surgery.done("submit", surgery.batch("flu", MANY), at=T)
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    with only(4_000, small_disk):
        assert surgery.refused("dispatch", "flu", at=T) == FULL
    surgery.status("flu")
    surgery.sent_once()
    surgery.done("dispatch", "flu", at=T)
    assert len(surgery.sent_once()) == 4000
    with only(200, small_disk):
        assert surgery.refused("sweep", at=T + hours(1)) == FULL
    surgery.done("sweep", at=T + hours(1))
    surgery.status("flu", status="Done", delivered=4000)


@pytest.mark.slow
def test_planning_with_any_amount_of_room_and_dagster_on_the_same_disk(small_disk: Path, tmp_path: Path) -> None:
    surgery = surgery_on(small_disk, tmp_path, on_disk=True)
    surgery.done("status")
    spec = surgery.batch("flu", MANY)
    for kilobytes in (16, 64, 200, 400):
        with only(kilobytes, small_disk):
            ran = surgery.program("submit", spec, at=T)
        # Dagster may say before that that it can't write its own log.
        assert (ran.code, ran.err.splitlines()[-1]) == (1, FULL), (kilobytes, ran)
        assert "Traceback" not in ran.err
        assert list((surgery.home.data / ".staging").glob("*")) == []
        assert list(surgery.home.inbox.iterdir()) == []
    ran = surgery.program("submit", spec, at=T)
    assert ran.code == 0, ran.err
    surgery.status("flu", status="Awaiting approval", lines=4000, awaiting=4000)
