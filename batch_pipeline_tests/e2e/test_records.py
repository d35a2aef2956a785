"""A batch saved to the record, as a surgery sees it: the label, the files, the sensor, the command."""

import json
import os
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest

from batch_pipeline_tests.e2e.surgery import Surgery, T, by_email, by_sms, hours, numbered, plain
from batch_pipeline_tests.providers.nhs_notify_double import Fault
from batch_pipeline_tests.records.fhir_double import TOKEN, FhirDouble, outcome

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
    assert surgery.status("flu", status="Saved")["record"] == {"written": 5, "refused": 0, "at_work": 0}
    folder = surgery.home.records / "flu"
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert {each.stat().st_mode & 0o777 for each in (surgery.home.records, folder)} == {0o700}
    assert "nothing is waiting" in surgery.done("save", at=T + 6 * DAY).words


@pytest.mark.slow
def test_a_batch_that_is_unticked_saves_nothing(surgery: Surgery) -> None:
    surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 4)), save_to_record=False))
    surgery.done("sweep", at=T + hours(1))
    assert "nothing is waiting" in surgery.done("save", at=T + 9 * DAY).words
    assert "nothing of it is saved" in surgery.done("save", "flu", at=T + 9 * DAY).words
    assert not surgery.home.records.exists()
    surgery.status("flu", status="Done")


@pytest.mark.slow
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
def test_lines_that_the_record_refuses_are_named_and_tried_again(surgery: Surgery) -> None:
    with FhirDouble() as double, mock.patch.dict(os.environ, BATCH_PIPELINE_RECORD_TOKEN=TOKEN):
        surgery.workspace(record={"base_url": double.base_url, "per_minute": 6000})
        surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 4))))
        surgery.done("sweep", at=T + hours(1))
        refused = surgery.references("flu")["flu:3:primary"]
        double.refuses[refused] = outcome(422, "processing")
        said = surgery.done("save", at=T + hours(1)).words
        assert "flu: 2 entries in the record" in said
        assert "flu: 1 not taken (422 processing): line 3" in said
        assert "nothing is waiting" in surgery.done("save", at=T + hours(1)).words
        surgery.status("flu", status="Saving")
        double.refuses.clear()
        assert "3 entries in the record" in surgery.done("save", "flu", "--again", at=T + hours(1)).words
        surgery.status("flu", status="Saved")
        assert set(double.times_created().values()) == {1}
        assert double.failures == []
        assert "9990000018" not in said


@pytest.mark.slow
def test_a_server_that_is_down_is_told_of_and_the_rest_is_saved_later(surgery: Surgery) -> None:
    with FhirDouble() as double, mock.patch.dict(os.environ, BATCH_PIPELINE_RECORD_TOKEN=TOKEN):
        surgery.workspace(record={"base_url": double.base_url, "per_minute": 6000})
        surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 4))))
        surgery.done("sweep", at=T + hours(1))
        double.plan("accounts", Fault(answer=outcome(503, "transient")))
        assert "written twice" in surgery.shell("save", at=T + hours(1)).err
        double.plan("batches", Fault(answer=outcome(503, "transient", Retry_After="600")))
        assert "left alone for 600 seconds" in surgery.shell("save", at=T + hours(1)).err
        assert double.created == []


@pytest.mark.slow
def test_saving_again_writes_nothing_again(surgery: Surgery) -> None:
    surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 4))))
    surgery.done("sweep", at=T + hours(1))
    for _ in range(3):
        surgery.done("save", "flu", at=T + hours(1))
    assert len(entries(surgery, "flu")) == 3
