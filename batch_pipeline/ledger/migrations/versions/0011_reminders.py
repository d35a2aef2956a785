"""Reminders: on which day a patient's next one is due."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_REMINDER_OPEN = "reminder_day IS NOT NULL AND coalesce(accepted_at, delivered_at, read_at, failed_at) IS NOT NULL"
_REMINDER_DUE_AT = "(coalesce(accepted_at, delivered_at, read_at, failed_at) + reminder_day * 86400000000)"


def upgrade() -> None:
    op.add_column(
        "attempts",
        sa.Column(
            "reminder_day",
            sa.Integer(),
            nullable=True,
            comment="days from acceptance to the next reminder; null: none is to come",
        ),
    )
    op.create_index(
        "ix_attempts_reminder_clock",
        "attempts",
        [sa.text(_REMINDER_DUE_AT), "batch"],
        unique=False,
        sqlite_where=sa.text(_REMINDER_OPEN),
        postgresql_where=sa.text(_REMINDER_OPEN),
    )
    if op.get_bind().dialect.name == "postgresql":  # SQLite keeps no comments
        op.alter_column("attempts", "step", comment="primary | fallback | reminder_DAY")
