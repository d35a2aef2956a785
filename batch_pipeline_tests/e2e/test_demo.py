"""`make demo`: what a person sees who has just cloned the project."""

from pathlib import Path

import pytest

from batch_pipeline.home import Home
from batch_pipeline_tests.e2e.surgery import Surgery


@pytest.mark.slow
def test_the_demonstration_goes_all_the_way_and_again_sends_nothing(surgery: Surgery, tmp_path: Path) -> None:
    surgery.home = Home(tmp_path / "fresh")
    shown = surgery.done("demo").words
    for words in ("$ batch-pipeline submit examples/flu-2026-10.yaml", "simulator: nobody was sent anything", "Done ("):
        assert words in shown
    before = [surgery.status(batch, status="Done", awaiting=0) for batch in ("flu-2026-10", "bp-2026-10")]
    sent = surgery.sent_once()
    for found in before:
        assert found["lines"] == 1000
        assert all(found["recipients"].values())
        shown_by_reason = {code for code, n in found["non_contactable"].items() if n}
        assert shown_by_reason >= {"deceased", "opted_out", "not_provided", "not_uk"}
        for figure in ("rejected", "duplicates", "emailed", "read", "failed", "fallback_delivered", "double_contact"):
            assert found[figure] > 0, figure
    assert before[1]["non_contactable"]["likely_to_fail"] > 0
    for batch in ("flu-2026-10", "bp-2026-10"):
        assert len(surgery.report(batch, "outcomes.csv")) > 800
        assert surgery.report(batch, "follow_up.csv")

    surgery.done("demo")
    assert surgery.sent_once() == sent
    assert [surgery.status(batch) for batch in ("flu-2026-10", "bp-2026-10")] == before


def test_the_demonstration_leaves_an_own_workspace_alone(surgery: Surgery) -> None:
    mine = surgery.put(surgery.home.workspaces / "riverside.yaml", "id: riverside\nname: Mine\n")
    assert "riverside.yaml is your own" in surgery.refused("demo")
    assert mine.read_text() == "id: riverside\nname: Mine\n"
