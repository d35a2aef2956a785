"""A batch saved to the record, as a surgery sees it: the label, the files, the sensor, the command."""

import json
from datetime import timedelta
from typing import Any

import pytest

from batch_pipeline_tests.e2e.surgery import Surgery, T, by_email, by_sms, hours, numbered, plain

DAY = timedelta(days=1)


def entries(surgery: Surgery, batch: str) -> dict[str, dict[str, Any]]:
    """The batch's resources in the record folder, by the plain form of their identifier; each is there once."""
    lines = [
        json.loads(line)
        for path in sorted((surgery.home.records / batch).iterdir())
        for line in path.read_text("utf-8").splitlines()
    ]
    found = {plain(each["identifier"][0]["value"]): each for each in lines}
    assert len(found) == len(lines)
    return found


def test_a_batch_is_saved_message_by_message_as_each_becomes_certain(surgery: Surgery) -> None:
    arrives, fails, by_mail, falls_back = by_sms(1), by_sms(2), by_email(3), by_sms(4)
    surgery.fate(fails, "sms", "failed", 5)
    surgery.fate(falls_back, "nhs_app", "silent")
    surgery.fate(by_mail, "email", "silent")
    surgery.app_users(falls_back)
    people = [arrives, fails, by_mail, falls_back]
    surgery.send(surgery.batch("flu", people, message={"snomed": ["1324681000000101"]}))
    assert "nothing is waiting" in surgery.done("save", at=T).words

    surgery.done("sweep", at=T + hours(1))
    assert "1 entries in the record, 3 to come" in surgery.done("save", at=T + hours(1)).words
    surgery.status("flu", status="Sending")
    surgery.done("sweep", at=T + hours(24))
    surgery.done("sweep", at=T + hours(25))
    surgery.done("save", at=T + hours(25.1))
    surgery.status("flu", status="Saving")
    surgery.done("save", at=T + 3 * DAY)
    found = entries(surgery, "flu")
    assert {name: each["status"] for name, each in found.items()} == {
        "flu:2:primary": "completed",
        "flu:3:primary": "not-done",
        "flu:5:primary": "completed",
        "flu:5:fallback": "completed",
    }
    (follows,) = found["flu:5:fallback"]["inResponseTo"]
    assert follows["identifier"] == found["flu:5:primary"]["identifier"][0]
    assert found["flu:2:primary"]["reasonCode"] == [
        {"coding": [{"system": "http://snomed.info/sct", "code": "1324681000000101"}]}
    ]
    assert found["flu:2:primary"]["sender"]["identifier"]["value"] == "A99999"
    surgery.done("save", at=T + 5 * DAY)
    assert len(entries(surgery, "flu")) == 5
    surgery.status("flu", status="Saved")
    assert "nothing is waiting" in surgery.done("save", at=T + 6 * DAY).words


def test_what_is_saved_is_its_owner_s_alone(surgery: Surgery) -> None:
    surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 4))))
    surgery.done("sweep", at=T + hours(1))
    surgery.done("save", at=T + hours(1))
    (file,) = (surgery.home.records / "flu").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in (surgery.home.records, file.parent)} == {0o700}


def test_a_batch_that_is_unticked_saves_nothing(surgery: Surgery) -> None:
    surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 4)), save_to_record=False))
    surgery.done("sweep", at=T + hours(1))
    assert "nothing is waiting" in surgery.done("save", at=T + 9 * DAY).words
    assert "nothing of it is saved" in surgery.done("save", "flu", at=T + 9 * DAY).words
    assert not surgery.home.records.exists()
    surgery.status("flu", status="Done")


def test_a_cancelled_message_is_not_saved_and_one_that_went_is(surgery: Surgery) -> None:
    surgery.send(surgery.batch("flu", [by_sms(1)]))
    surgery.done("submit", surgery.batch("other", [by_sms(2)]), at=T)
    surgery.done("approve", "other", "--by", "Dr Test", at=T)
    for batch in ("flu", "other"):
        surgery.done("cancel", batch, "--by", "Dr Test", at=T)
    surgery.done("sweep", at=T + hours(1))
    surgery.done("save", at=T + hours(1))
    assert entries(surgery, "flu").keys() == {"flu:2:primary"}
    assert not (surgery.home.records / "other").exists()
    surgery.status("flu", status="Cancelled", delivered=1)


@pytest.mark.slow
def test_saving_again_writes_nothing_again(surgery: Surgery) -> None:
    surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 4))))
    surgery.done("sweep", at=T + hours(1))
    for _ in range(3):
        surgery.done("save", "flu", at=T + hours(1))
    assert len(entries(surgery, "flu")) == 3
