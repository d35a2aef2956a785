"""`make demo`: what a person sees who has just cloned the project."""

import json
from collections import Counter
from pathlib import Path

import pytest

from batch_pipeline.home import Home
from batch_pipeline.records.writer import our_identifiers
from batch_pipeline_tests.e2e.surgery import Surgery

BATCHES = ("flu-2026-10", "bp-2026-10", "asthma-2026-10")


def saved(surgery: Surgery) -> list[tuple[str, str, str]]:
    """Batch, type and identifier of each entry in the folder of records."""
    return sorted(
        (path.parent.name, resource["resourceType"], our_identifiers(resource)[0])
        for path in surgery.home.records.rglob("*.ndjson")
        for resource in map(json.loads, path.read_text("utf-8").splitlines())
    )


@pytest.mark.slow
def test_the_demonstration_goes_all_the_way_and_again_sends_nothing(surgery: Surgery, tmp_path: Path) -> None:
    surgery.home = Home(tmp_path / "fresh")
    shown = surgery.done("demo").words
    for words in (
        "$ batch-pipeline submit examples/flu-2026-10.yaml",
        "simulator: nobody was sent anything",
        "gives 2 readings of day 1, and is told at once what to do",
        "bp-2026-10: 1 completed, 2 in progress, 1 urgent",
        "asthma-2026-10: 2 booked, 1 declined, 1 cancelled, 51 not answered",
    ):
        assert words in shown
    before = [surgery.status(batch, status="Saved", awaiting=0) for batch in BATCHES]
    sent = surgery.sent_once()
    entries = saved(surgery)
    assert {kind for _, kind, _ in entries} == {"Communication", "QuestionnaireResponse", "Observation", "Appointment"}
    assert set(Counter(identifier for _, _, identifier in entries).values()) == {1}
    for found in before[:2]:
        assert found["lines"] == 1000
        assert all(found["recipients"].values())
        shown_by_reason = {code for code, n in found["non_contactable"].items() if n}
        assert shown_by_reason >= {"deceased", "opted_out", "not_provided", "not_uk"}
        for figure in ("rejected", "duplicates", "emailed", "read", "failed", "fallback_delivered", "double_contact"):
            assert found[figure] > 0, figure
    assert before[1]["non_contactable"]["likely_to_fail"] > 0
    for batch in BATCHES[:2]:
        assert len(surgery.report(batch, "outcomes.csv")) > 800
        assert surgery.report(batch, "follow_up.csv")

    surgery.done("demo")
    assert surgery.sent_once() == sent
    assert [surgery.status(batch) for batch in BATCHES] == before
    assert saved(surgery) == entries


def test_the_demonstration_leaves_an_own_workspace_alone(surgery: Surgery) -> None:
    mine = surgery.put(surgery.home.workspaces / "riverside.yaml", "id: riverside\nname: Mine\n")
    assert "riverside.yaml is your own" in surgery.refused("demo")
    assert mine.read_text() == "id: riverside\nname: Mine\n"
