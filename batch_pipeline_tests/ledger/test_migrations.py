import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from batch_pipeline.ledger import audit, migrations
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import metadata
from batch_pipeline_tests.ledger.given import NOW
from batch_pipeline_tests.ledgers import on_sqlite_alone


def _schema(connection: sa.Connection) -> dict[str, list[str]]:
    """Every table and index as SQLite keeps it, but for spaces, quotes, and the order of a table's constraints."""
    query = sa.text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type IN ('table', 'index')")
    return {
        row.name: sorted(re.split(r",\s(?=[a-z]|CONSTRAINT)", re.sub(r'\s+|"', " ", row.sql).replace(" )", ")")))
        for row in connection.execute(query)
        if row.name != "alembic_version"
    }


@on_sqlite_alone
def test_the_migrations_lead_to_the_tables(ledger: Ledger) -> None:
    fresh = sa.create_engine("sqlite://")
    metadata.create_all(fresh)
    with ledger.read() as migrated, fresh.connect() as described:
        assert {name: [s.strip(") ") for s in sql] for name, sql in _schema(migrated).items()} == {
            name: [s.strip(") ") for s in sql] for name, sql in _schema(described).items()
        }


def test_the_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.HEAD


@on_sqlite_alone
def test_migrating_again_changes_nothing(ledger: Ledger) -> None:
    with ledger.read() as connection:
        before = _schema(connection)
    with ledger.write() as connection:
        migrations.upgrade(connection)
    with ledger.read() as connection:
        assert _schema(connection) == before


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'nobody'", "DELETE FROM audit"])
def test_the_audit_can_only_grow(ledger: Ledger, statement: str) -> None:
    with ledger.write() as connection:
        audit.record(connection, NOW, "Dr Grey", "approve", "flu", {"plan": "a"})
    with pytest.raises(DBAPIError, match="append-only"), ledger.write() as connection:
        connection.execute(sa.text(statement))
    with ledger.read() as connection:
        assert audit.entries(connection, "flu") == [audit.Entry(NOW, "Dr Grey", "approve", "flu", {"plan": "a"})]
        assert audit.entries(connection, "another") == []
