"""The ledger's schema through time. Run in process, inside one transaction of the caller's, by ``upgrade``.

A revision in ``versions/`` never changes once released; ``tables.py`` is where all of them together lead, and a
test holds the two to each other.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from batch_pipeline.errors import Refused

HEAD = "0011"
"""The newest revision. Known here so that opening an up-to-date ledger needn't load any of them."""

_LOCK = 0x6C6564676572
"""PostgreSQL's advisory lock for migrating: "ledger" in ASCII."""


def version(connection: sa.Connection) -> str | None:
    """The revision a ledger is at; null for a new one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(sa.text("SELECT version_num FROM alembic_version"))


def upgrade(connection: sa.Connection) -> None:
    """Brings the ledger to ``HEAD`` in the caller's writing transaction; others wait for its end.

    ``Refused`` for a ledger at a revision that this software doesn't know.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    found = version(connection)
    if found == HEAD:
        return
    if found is not None and found > HEAD:
        raise Refused(
            f"the ledger is at version {found}, newer than this software's {HEAD}: install the newer software"
        )
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
