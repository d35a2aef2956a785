from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline_tests.ledger import given


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = given.open_ledger(tmp_path)
    yield opened
    opened.close()
