from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql

from batch_pipeline.ledger import chunks
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import attempts
from batch_pipeline_tests.ledger.given import (
    BATCH,
    NOW,
    Recipient,
    attempt_rows,
    begin,
    query_plans,
    queue,
    set_attempts,
)
from batch_pipeline_tests.ledgers import on_sqlite_alone


@on_sqlite_alone
def test_looking_for_unsent_messages_goes_through_the_unsent_alone(ledger: Ledger) -> None:
    for step in ("primary", "fallback"):
        plan = query_plans(ledger, lambda connection: chunks.has_unsent(connection, BATCH, step, "sms", "simulator"))  # noqa: B023
        assert any("attempts USING INDEX ix_attempts_unsent" in line for line in plan), plan
        assert not any("SCAN" in line for line in plan), plan


@on_sqlite_alone
def test_looking_for_open_chunks_goes_through_the_open_alone(ledger: Ledger) -> None:
    plan = query_plans(ledger, lambda connection: chunks.open_chunks(connection, BATCH, "primary"))
    assert any("INDEX ix_chunks_open" in line for line in plan), plan


def _queue_fallback_of_one_who_reads(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2, "nhs_app")])
    begin(ledger, 2)
    (primary,) = attempt_rows(ledger)
    fallback = dict(zip(attempts.c.keys(), primary, strict=True))
    del fallback["id"]
    fallback |= {"step": "fallback", "channel": "sms", "reference": "fallback", "chunk": None}
    with ledger.write() as connection:
        connection.execute(sa.insert(attempts).values(fallback))
    set_attempts(ledger, {"read_at": NOW, "fallback_at": NOW}, step="primary")


@pytest.mark.parametrize("begun_meanwhile", [False, True])
def test_a_needless_fallback_is_dropped_unless_it_was_begun_since_it_was_looked_for(
    ledger: Ledger, *, begun_meanwhile: bool
) -> None:
    _queue_fallback_of_one_who_reads(ledger)

    def begin_it(_connection: object, cursor: Any, statement: str, *_: object) -> None:
        if begun_meanwhile and statement.startswith("DELETE"):
            cursor.execute("UPDATE attempts SET chunk = (SELECT reference FROM chunks) WHERE step = 'fallback'")

    with ledger.write() as connection:
        event.listen(connection, "before_cursor_execute", begin_it)
        chunks.drop_needless(connection, BATCH, "fallback")
    there = attempt_rows(ledger, "step", "fallback_at")
    assert there == ([("primary", NOW), ("fallback", None)] if begun_meanwhile else [("primary", None)])


@pytest.mark.parametrize("lock", [False, True])
def test_a_batch_is_locked_only_for_a_claim(*, lock: bool) -> None:
    """A reading transaction of PostgreSQL that locks a row fails when another has changed it meanwhile."""
    connection = Mock()
    chunks.sendable(connection, BATCH, lock=lock)
    query, _ = connection.execute.call_args.args
    assert ("FOR SHARE" in str(query.compile(dialect=postgresql.dialect()))) == lock


@pytest.mark.parametrize(
    ("room", "lines"), [(None, [9, 8, 7, 6, 5]), (chunks.Room(500, envelope=100), [9, 8, 7])], ids=["any", "little"]
)
def test_a_claim_brings_its_messages_as_they_are_read_later(
    ledger: Ledger, room: chunks.Room | None, lines: list[int]
) -> None:
    queue(ledger, [Recipient(line, "email", text=f"Dear patient {line}") for line in range(9, 2, -1)])
    claim: dict[str, Any] = {"provider": "simulator", "number": 1, "owner": "x", "lease_until": NOW, "now": NOW}
    with ledger.write() as connection:
        claimed = chunks.claim(connection, BATCH, "primary", "email", limit=5, room=room, **claim)
    assert claimed is not None
    assert [message.line for message in claimed.messages] == lines
    with ledger.read() as connection:
        assert claimed.messages == chunks.messages(connection, claimed.chunk)
