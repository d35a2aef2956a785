from collections.abc import Iterator

import httpx
import pytest
import sqlalchemy as sa

from batch_pipeline.gateway.app import GatewayLimits
from batch_pipeline.ledger.tables import receipts
from batch_pipeline_tests.gateway.serving import Gateway


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One server for all the tests that don't harm it. It doesn't wait long for anybody."""
    limits = GatewayLimits(body_seconds=2, storing_seconds=0.5, receipts_waiting=1_000)
    with Gateway(tmp_path_factory.mktemp("gateway"), limits) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    """The same with an empty ledger and log."""
    with running.ledger.write() as connection:
        connection.execute(sa.delete(receipts))
    running.log_path.write_bytes(b"")
    return running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.client() as made:
        yield made
