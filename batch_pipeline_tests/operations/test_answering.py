"""Telling the practice: whatever becomes of it, what can't wait is told in the end, and nothing else waits for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.ledger import alerts
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.operations import answering
from batch_pipeline.operations.answering import Told
from batch_pipeline.sending.alerting import NotTold
from batch_pipeline_tests.ledger.given import BATCH, NOW
from batch_pipeline_tests.ledger.test_responses import adding, given, kept
from batch_pipeline_tests.ledgers import on_sqlite_alone

pytestmark = on_sqlite_alone


@dataclass
class Practice:
    """As much of a house as it takes, with a messenger that fails so."""

    ledger: Ledger
    fails: Exception | None
    lines: list[int] = field(default_factory=list)
    name: str = "webhook"

    def submitted(self, _: str) -> Any:
        return SimpleNamespace(workspace=SimpleNamespace(id="riverside"))

    @contextmanager
    def messenger(self, _: object) -> Iterator[Any]:
        yield self

    def tell(self, notice: Any, _: object) -> None:
        if self.fails is not None:
            raise self.fails
        self.lines += notice.lines


@pytest.mark.parametrize(
    ("fails", "because"),
    [
        (NotTold("the webhook answered 503"), "the webhook answered 503"),
        (Refused("the variable isn't set"), "the variable isn't set"),
        (RuntimeError("190/125 of 999 000 0018"), "a fault of ours: RuntimeError"),
    ],
    ids=["not told", "refused", "a fault of ours"],
)
def test_what_could_not_be_told_is_told_next_time(ledger: Ledger, fails: Exception, because: str) -> None:
    given(ledger)
    kept(ledger, adding("a", findings=("high:1", "high:2")))
    practice = Practice(ledger, fails)
    assert answering.tell(cast("House", practice), BATCH, NOW) == Told(untold=2, because=because)
    with ledger.read() as connection:
        assert alerts.to_be_told(connection, NOW + alerts.AGAIN_AFTER) == [(BATCH, "riverside")]
    practice.fails = None
    assert answering.tell(cast("House", practice), BATCH, NOW) == Told(told=2)
    assert practice.lines == [2]
    assert answering.tell(cast("House", practice), BATCH, NOW) == Told()
