"""Who paused and cancelled a batch, the pause of all, and what the circuit breaker counts by."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("paused_by", sa.Text(), nullable=True))
    op.add_column("batches", sa.Column("paused_because", sa.Text(), nullable=True))
    op.add_column(
        "batches",
        sa.Column(
            "breaker_from",
            sa.BigInteger(),
            nullable=True,
            comment="the circuit breaker counts what was begun after this",
        ),
    )
    op.add_column("batches", sa.Column("cancelled_by", sa.Text(), nullable=True))
    op.add_column(
        "batches",
        sa.Column(
            "fallbacks_cancelled_at",
            sa.BigInteger(),
            nullable=True,
            comment="when it was cancelled with its fallbacks",
        ),
    )
    op.create_table(
        "general_pause",
        sa.Column("scope", sa.Text(), nullable=False, comment="all"),
        sa.Column("paused_at", sa.BigInteger(), nullable=False),
        sa.Column("paused_by", sa.Text(), nullable=False),
        sa.Column("paused_because", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("scope", name="pk_general_pause"),
        comment="holds every batch, those made later too, while it has its row",
    )
    op.create_index(
        "ix_attempts_failed",
        "attempts",
        ["batch", "begun_at", "channel", "failed_at"],
        unique=False,
        sqlite_where=sa.text("failed_at IS NOT NULL"),
        postgresql_where=sa.text("failed_at IS NOT NULL"),
    )
