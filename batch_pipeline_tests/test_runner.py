"""Running Dagster's jobs from the shell: what failed, in one sentence, and nothing personal in it."""

from typing import Any

import pytest

from batch_pipeline.operations import dispatching
from batch_pipeline.planning import tables
from batch_pipeline_tests.e2e.conftest import surgery
from batch_pipeline_tests.e2e.surgery import Surgery, T, by_sms, hours, numbered

__all__ = ["surgery"]


def test_a_check_that_fails_stops_the_batch_and_is_named(surgery: Surgery, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(tables, "astray", lambda *_: 2)
        ran = surgery.shell("submit", surgery.batch("flu", numbered(by_sms, range(1, 4)), approval="auto"), at=T)
    assert ran.code == 1
    assert ran.sentence.startswith("failed: plan: the check every_line_is_in_one_place of patients failed")
    assert surgery.done("dispatch", at=T).out == "nothing is waiting to be sent\n"
    assert "has no plan" in surgery.refused("review", "flu")
    # found and mended, the same command goes on
    surgery.done("submit", surgery.desk / "flu.yaml", at=T)
    surgery.status("flu", status="Scheduled")


def test_a_failure_nobody_foresaw_names_run_and_step_and_not_its_message(
    surgery: Surgery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError("something about 07700 900001")

    surgery.done("submit", surgery.batch("flu", [by_sms(1)], approval="auto"), at=T)
    with monkeypatch.context() as broken:
        broken.setattr(dispatching, "send", fails)
        ran = surgery.shell("dispatch", "flu", at=T)
    assert ran.code == 1
    assert ran.sentence.startswith("failed: dispatch: run ")
    assert "sent_messages" in ran.sentence
    assert "900001" not in ran.err
    surgery.done("dispatch", "flu", at=T)
    assert len(surgery.sent_once()) == 1


def test_one_batch_that_is_refused_does_not_keep_the_others_waiting(surgery: Surgery) -> None:
    """`sweep` and `dispatch` do all that is due; what couldn't be done is said at the end."""
    surgery.workspace(simulator={"seed": 1})
    for n, batch in enumerate(("asthma", "flu"), start=1):
        spec = surgery.batch(batch, [by_sms(n)], message={"body": f"{batch}!"}, approval="auto")
        surgery.done("submit", spec, at=T)
    other = surgery.home.workspaces / "larkfield.yaml"
    whole = other.read_text()

    # the provider of one stops: a list of its workspace is faulty at that moment
    def broken(house: Any, batch: str, *rest: Any) -> Any:
        if batch == "asthma":
            surgery.put(other, whole.replace("england", "atlantis"))
        try:
            return send(house, batch, *rest)
        finally:
            surgery.put(other, whole)

    send = dispatching.send
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dispatching, "send", broken)
        ran = surgery.shell("dispatch", at=T)
    assert ran.code == 1
    assert "atlantis" in ran.sentence
    surgery.status("asthma", awaiting=1, cost=0)
    surgery.status("flu", status="Sending")
    assert surgery.sent_once() == {"flu:2:primary"}
    surgery.done("dispatch", at=T)
    surgery.done("sweep", at=T + hours(1))
    assert surgery.sent_once() == {"flu:2:primary", "asthma:2:primary"}
    surgery.status("asthma", status="Done", delivered=1)
