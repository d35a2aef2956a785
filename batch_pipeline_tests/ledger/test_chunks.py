from batch_pipeline.ledger import chunks
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline_tests.ledger.given import BATCH, query_plans


def test_looking_for_unsent_messages_goes_through_the_unsent_alone(ledger: Ledger) -> None:
    for step in ("primary", "fallback"):
        plan = query_plans(ledger, lambda connection: chunks.has_unsent(connection, BATCH, step, "sms", "simulator"))  # noqa: B023
        assert any("attempts USING INDEX ix_attempts_unsent" in line for line in plan), plan
        assert not any("SCAN" in line for line in plan), plan


def test_looking_for_open_chunks_goes_through_the_open_alone(ledger: Ledger) -> None:
    plan = query_plans(ledger, lambda connection: chunks.open_chunks(connection, BATCH, "primary"))
    assert any("INDEX ix_chunks_open" in line for line in plan), plan
