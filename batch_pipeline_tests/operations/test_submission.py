"""Files come into the inbox whole, or not at all."""

import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.operations import submission
from batch_pipeline.operations.inbox import look
from batch_pipeline_tests.e2e.surgery import Surgery, T, by_sms


@pytest.mark.parametrize("copied", ["flu.csv", "flu.yaml"])
def test_a_full_disk_leaves_no_half_file_in_the_inbox(
    surgery: Surgery, monkeypatch: pytest.MonkeyPatch, copied: str
) -> None:
    copy = shutil.copyfileobj

    def full(source: Any, target: Any, length: int) -> None:
        if Path(source.name).name == copied:
            target.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target.name)
        copy(source, target, length)

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        submission.into_inbox(surgery.house, surgery.batch("flu", [by_sms(1)]))
    left = {path.name for path in surgery.home.inbox.iterdir()}
    assert left == ({"flu.csv"} if copied == "flu.yaml" else set())


def test_files_in_the_inbox_are_the_owners_alone_and_the_same_to_the_byte(surgery: Surgery) -> None:
    spec = surgery.batch("flu", [by_sms(1)])
    spec.chmod(0o644)
    spec.with_suffix(".csv").chmod(0o644)
    assert submission.into_inbox(surgery.house, spec) == "flu.yaml"
    for path in (spec, spec.with_suffix(".csv")):
        there = surgery.home.inbox / path.name
        assert there.read_bytes() == path.read_bytes()
        assert there.stat().st_mode & 0o777 == 0o600


def test_a_batch_file_already_in_the_inbox_stays_as_it_is(surgery: Surgery) -> None:
    spec = surgery.batch("flu", [by_sms(1)], folder=surgery.home.inbox)
    before = spec.stat().st_mtime_ns
    assert submission.into_inbox(surgery.house, spec) == "flu.yaml"
    assert submission.place(surgery.house, spec) == "flu.yaml"
    assert spec.stat().st_mtime_ns == before


def test_another_batch_with_the_same_name_of_its_batch_file_is_refused(surgery: Surgery) -> None:
    submission.into_inbox(surgery.house, surgery.batch("flu", [by_sms(1)]))
    other = surgery.batch("covid", [by_sms(2)]).rename(surgery.desk / "flu.yaml")
    with pytest.raises(
        Refused, match=r"flu\.yaml: the inbox has another file of this name, of batch flu: rename yours"
    ):
        submission.check_inbox(surgery.house, other)


@pytest.mark.parametrize("by", ["the next submission", "the inbox sensor's look"])
def test_what_a_killed_submission_left_half_copied_is_taken_away(surgery: Surgery, by: str) -> None:
    own = [surgery.home.inbox / f".batch-pipeline-{name}.csv.abc.part" for name in ("old", "new")]
    left, under_way, others, folder = (
        *own,
        surgery.home.inbox / ".mail.csv.part",
        own[0].with_name(".batch-pipeline-x.part"),
    )
    for part in (left, under_way, others):
        part.write_text("9990000018,half")
    folder.mkdir()
    days_ago = time.time() - 2 * 86_400
    for part in (left, others, folder):
        os.utime(part, (days_ago, days_ago))
    if by == "the next submission":
        submission.into_inbox(surgery.house, surgery.batch("flu", [by_sms(1)]))
    else:
        look(surgery.house, {})
    assert not left.exists()
    assert under_way.exists()
    assert others.exists()


def asking(surgery: Surgery, questionnaire: str) -> Path:
    surgery.workspace(links={"base_url": "https://msg.larkfield.example.org"})
    message = {"type": "questionnaire", "questionnaire": questionnaire, "body": "Please answer: {{ link }}"}
    return surgery.batch("bp", [by_sms(1)], message=message, folder=surgery.home.inbox)


def test_an_unknown_questionnaire_is_refused_at_submit_with_the_known_ones_and_nothing_is_kept(
    surgery: Surgery, tmp_path: Path
) -> None:
    spec = asking(surgery, "bp_5_day")
    with pytest.raises(Refused, match=r'there is no questionnaire "bp_5_day" in .*; there are bmi, bp_4_day, bp_7_day'):
        submission.take_in(surgery.house, "bp", spec.name, tmp_path, T)
    assert surgery.done("status", "--json").json == []
    assert not surgery.home.kept_questionnaires.exists()


def test_a_batch_asks_what_its_questionnaire_was_when_it_was_submitted(surgery: Surgery, tmp_path: Path) -> None:
    spec = asking(surgery, "bp_4_day")
    submission.take_in(surgery.house, "bp", spec.name, tmp_path, T)
    there = surgery.home.questionnaires / "bp_4_day.json"
    there.write_text(there.read_text("utf-8").replace("Day 1", "First day"), encoding="utf-8")
    house = surgery.house
    form = house.form(house.submitted("bp"))
    assert form is not None
    assert (form.id, form.pages[0].title, len(form.pages)) == ("bp_4_day", "Day 1", 4)
    assert json.loads(house.submitted("bp").row.spec)["questionnaire"]["version"] == "1"
    [kept] = surgery.home.kept_questionnaires.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_batch_without_a_questionnaire_asks_nothing(surgery: Surgery, tmp_path: Path) -> None:
    spec = surgery.batch("flu", [by_sms(1)], folder=surgery.home.inbox)
    submission.take_in(surgery.house, "flu", spec.name, tmp_path, T)
    assert surgery.house.form(surgery.house.submitted("flu")) is None
