"""Whatever is done again, submitted, touched, planned or materialised: every message goes once."""

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from batch_pipeline import definitions
from batch_pipeline.defs.partitions import BATCHES
from batch_pipeline.operations.submission import check_inbox
from batch_pipeline_tests.e2e.surgery import (
    BODY,
    SECOND,
    Surgery,
    T,
    by_email,
    by_sms,
    csv_text,
    hours,
    mobile,
    numbered,
    replace,
)

READER, UNREAD, REFUSER = by_sms(1), by_sms(2), by_sms(3)
EVERYBODY = [READER, UNREAD, REFUSER, by_email(4), by_sms(5)]


@pytest.fixture
def larkfield(surgery: Surgery) -> Surgery:
    surgery.app_users(READER, UNREAD, REFUSER)
    for person in (UNREAD, REFUSER):
        surgery.fate(person, "nhs_app", "silent")
    return surgery


def materialise(surgery: Surgery, batch: str, at: datetime, *jobs: str) -> None:
    """As somebody does in the UI, job by job, without a word of where the cohort came from."""
    from batch_pipeline.runner import Runner  # noqa: PLC0415 - Dagster is loaded by those tests alone that need it

    with surgery.dagster():
        runner = Runner(surgery.home)
        for job in jobs:
            runner.run(job, batch, at)


def test_a_batch_that_is_done_again_in_every_way_sends_nothing_again(larkfield: Surgery) -> None:
    spec = larkfield.batch("flu", EVERYBODY)
    larkfield.send(spec)
    sent, before = larkfield.sent_once(), larkfield.status("flu")
    assert len(sent) == 5

    # submitted again, touched, submitted from the inbox, approved and dispatched again
    larkfield.done("submit", spec, at=T + hours(1))
    (larkfield.home.inbox / "flu.csv").touch()
    larkfield.done("submit", "flu.yaml", at=T + hours(1))
    larkfield.done("approve", "flu", "--by", "Dr Again", at=T + hours(1))
    larkfield.done("dispatch", "flu", at=T + hours(1))
    assert larkfield.done("dispatch", at=T + hours(1)).out == "nothing is waiting to be sent\n"
    assert larkfield.sent_once() == sent
    assert larkfield.status("flu") == before

    # every asset of a batch materialised again, at once, from the UI's graph
    with larkfield.dagster() as instance:
        loaded = definitions.defs()
        graph = loaded.resolve_asset_graph()
        ran = loaded.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            partition_key="flu",
            asset_selection=[
                key for key in graph.materializable_asset_keys if graph.get(key).partitions_def == BATCHES
            ],
            run_config={"resources": {"clock": {"config": {"at": (T + hours(2)).isoformat()}}}},
        )
    assert ran.success
    assert larkfield.sent_once() == sent
    larkfield.status("flu", status="Sending", delivered=2, read=1, emailed=1, awaiting=2)

    # opted out, lost from the list of App users, and the plan made again: what is on its way stays on its way
    larkfield.opt_outs(REFUSER, on="2026-10-01")
    larkfield.app_users()
    materialise(larkfield, "flu", T + hours(3), "plan", "dispatch", "receipts", "fallback", "report")
    assert larkfield.sent_once() == sent
    assert larkfield.status("flu")["recipients"] == before["recipients"]

    # and falls back once, also after that, with the opt-out of the moment
    larkfield.done("sweep", at=T + hours(24))
    materialise(larkfield, "flu", T + hours(24), "plan", "dispatch", "receipts", "fallback")
    assert larkfield.sent_once() == {*sent, "flu:3:fallback"}
    larkfield.done("sweep", at=T + hours(25))
    larkfield.status("flu", status="Saving", fallback_sent=1, fallback_delivered=1, failed=1, delivered=3, emailed=1)


def test_the_plan_made_again_between_approval_and_dispatch(larkfield: Surgery) -> None:
    """The same plan is still approved; another one isn't, and nothing of either has gone."""
    larkfield.done("submit", larkfield.batch("flu", EVERYBODY), at=T)
    larkfield.done("approve", "flu", "--by", "Dr Test", at=T)
    materialise(larkfield, "flu", T + hours(1), "plan", "plan")
    larkfield.done("dispatch", "flu", at=T + hours(2))
    assert len(larkfield.sent_once()) == 5

    # a later plan, approved too, adds whom it adds: who has had theirs gets nothing more
    larkfield.opt_outs(by_sms(5))
    larkfield.app_users()
    shown = larkfield.done("submit", larkfield.home.inbox / "flu.yaml", "--json", at=T + hours(3)).json
    assert shown["recipients"] == {"email": 1, "nhs_app": 3, "sms": 1}
    larkfield.done("approve", "flu", "--by", "Dr Test", at=T + hours(3))
    larkfield.done("dispatch", "flu", at=T + hours(3))
    assert len(larkfield.sent_once()) == 5


def test_who_becomes_contactable_after_the_dispatch_is_added_by_a_plan_approved_anew(surgery: Surgery) -> None:
    late = by_sms(3)
    surgery.opt_outs(late)
    surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 4))))
    assert len(surgery.sent_once()) == 2
    surgery.opt_outs()
    materialise(surgery, "flu", T + hours(1), "plan")
    assert surgery.done("dispatch", at=T + hours(1)).out == "nothing is waiting to be sent\n"
    surgery.done("review", "flu")
    surgery.done("approve", "flu", "--by", "Dr Test")
    surgery.done("dispatch", at=T + hours(1))
    assert surgery.sent_once() == {"flu:2:primary", "flu:3:primary", "flu:4:primary"}
    surgery.status("flu", awaiting=3)


def test_the_same_file_with_the_same_message_is_refused_under_another_batch_id(surgery: Surgery) -> None:
    people = numbered(by_sms, range(1, 3))
    surgery.send(surgery.batch("flu", people))
    other = surgery.batch("flu-again", people)
    sentence = surgery.refused("submit", other, at=T + hours(1))
    assert "flu-again.csv: the same file was already submitted with the same message as batch flu" in sentence
    assert "allow_repeat: true" in sentence
    assert [row["batch"] for row in surgery.done("status", "--json").json] == ["flu"]
    assert not (surgery.home.inbox / "flu-again.yaml").exists()

    # nor by spelling the message a little otherwise
    surgery.refused("submit", surgery.batch("flu-again", people, message={"body": f"\n{BODY}  \r\n"}), at=T + hours(1))

    # another message may go to the same people, and the same one when the batch says so
    surgery.send(surgery.batch("covid", people, message={"body": "Your covid vaccination is ready."}), at=T + hours(1))
    surgery.send(surgery.batch("flu-again", people, allow_repeat=True), at=T + hours(2))
    assert len(surgery.sent_once()) == 6


@pytest.mark.both_ledgers
def test_who_had_this_message_in_the_last_30_days_is_held_back(surgery: Surgery) -> None:
    first, both, second = numbered(by_sms, range(1, 4))
    failed = by_sms(4)
    surgery.fate(failed, "sms", "failed", 1)
    surgery.send(surgery.batch("flu", [first, both, failed]))
    surgery.done("sweep", at=T + hours(1))

    day_30 = T + timedelta(days=30) - SECOND
    shown = surgery.done("submit", surgery.batch("flu-2", [both, second, failed]), "--json", at=day_30).json
    assert shown["held_back"] == 1
    assert "1 patient is held back: they had this message in the last 30 days" in shown["warnings"]
    surgery.done("approve", "flu-2", "--by", "Dr Test", at=day_30)
    surgery.done("dispatch", "flu-2", at=day_30)
    surgery.done("sweep", at=day_30 + hours(1))
    surgery.status("flu-2", status="Done", held_back=1, delivered=1, failed=1)
    assert {name for name in surgery.sent_once() if name.startswith("flu-2")} == {"flu-2:3:primary", "flu-2:4:primary"}

    # planned again after 31 days: still held back there, where they were once; free in a new batch
    surgery.done("submit", surgery.batch("flu-3", [both]), at=T + timedelta(days=31))
    surgery.status("flu-3", held_back=0, awaiting=1)


def test_a_batch_already_dispatched_refuses_another_cohort(surgery: Surgery) -> None:
    surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 3))))
    before = surgery.status("flu"), surgery.stored(), surgery.sent_once()
    inbox = {path.name: path.read_bytes() for path in surgery.home.inbox.iterdir()}
    sentence = surgery.refused("submit", surgery.batch("flu", numbered(by_sms, range(5, 9))), at=T + hours(1))
    assert "batch flu is already dispatched with another cohort" in sentence
    sentence = surgery.refused(
        "submit", surgery.batch("flu", numbered(by_sms, range(1, 3)), message={"body": "Other words"}), at=T + hours(1)
    )
    assert "batch flu is already dispatched with another batch file" in sentence
    assert (surgery.status("flu"), surgery.stored(), surgery.sent_once()) == before
    assert {path.name: path.read_bytes() for path in surgery.home.inbox.iterdir()} == inbox


def test_before_the_dispatch_another_cohort_takes_the_place_of_the_first_and_its_approval(surgery: Surgery) -> None:
    surgery.done("submit", surgery.batch("flu", numbered(by_sms, range(1, 3))), at=T)
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    surgery.done("submit", surgery.batch("flu", numbered(by_sms, range(5, 9))), at=T)
    assert "no approval" in surgery.refused("dispatch", "flu", at=T)
    surgery.status("flu", status="Awaiting approval", lines=4)


def test_a_number_whose_last_text_failed_is_likely_to_fail_in_the_next_batch(surgery: Surgery) -> None:
    fails, same_number, fine = by_sms(1), replace(by_sms(2), mobile=mobile(1)), by_sms(3)
    surgery.fate(fails, "sms", "failed", 1)
    surgery.send(surgery.batch("flu", [fails, fine]))
    surgery.done("sweep", at=T + hours(1))
    surgery.status("flu", failed=1, delivered=1)

    surgery.workspace(exclude_likely_to_fail=True)
    surgery.done("submit", surgery.batch("check", [same_number, fine], message={"body": "Again."}), at=T + hours(2))
    found = surgery.status("check")
    assert found["non_contactable"]["likely_to_fail"] == 1
    (row,) = surgery.report("check", "non_contactable.csv")
    assert (row["Line"], row["Primary reason"]) == ("2", "Mobile number is likely to fail")


def test_files_of_two_batches_do_not_get_mixed_up_in_the_inbox(surgery: Surgery, tmp_path: Path) -> None:
    """Two people, two folders, one name for the file."""
    for name in ("asthma", "diabetes"):
        (tmp_path / name).mkdir()
    asthma = surgery.batch("asthma", numbered(by_sms, [1]), folder=tmp_path / "asthma", cohort="patients.csv")
    diabetes = surgery.batch("diabetes", numbered(by_sms, [2]), folder=tmp_path / "diabetes", cohort="patients.csv")
    surgery.done("submit", asthma, at=T)
    sentence = surgery.refused("submit", diabetes, at=T)
    assert "patients.csv: the inbox has another file of this name, of batch asthma: rename yours" in sentence
    assert (surgery.home.inbox / "patients.csv").read_bytes() == (tmp_path / "asthma" / "patients.csv").read_bytes()

    # the same list for two messages is no mix-up
    shutil.copy(tmp_path / "asthma" / "patients.csv", tmp_path / "diabetes")
    known = json.loads(diabetes.read_text())
    known["message"]["body"] = "Other words."
    surgery.put(diabetes, json.dumps(known))
    check_inbox(surgery.house, diabetes)


def test_a_cohort_may_be_named_by_its_whole_path_and_has_to_lie_beside_the_batch_file_otherwise(
    surgery: Surgery, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "exports"
    elsewhere.mkdir()
    (elsewhere / "list.csv").write_text(csv_text([by_sms(1).row()]))
    spec = surgery.batch("flu", [])
    known = json.loads(spec.read_text())
    known["cohort"] = "../exports/list.csv"
    surgery.put(spec, json.dumps(known))
    assert "isn't in the same folder" in surgery.refused("submit", spec, at=T)
    known["cohort"] = str(elsewhere / "list.csv")
    surgery.put(spec, json.dumps(known))
    surgery.done("submit", spec, at=T)
    surgery.status("flu", lines=1)
    assert [path.name for path in surgery.home.inbox.iterdir()] == ["flu.yaml"]
    surgery.done("check", surgery.home.inbox / "flu.yaml", at=T)
