"""The clock of fallbacks also runs for messages that aren't begun any more; what couldn't be read is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_FALLBACK_OPEN = (
    "step = 'primary' AND channel = 'nhs_app' AND read_at IS NULL AND fallback_at IS NULL AND no_fallback_at IS NULL"
    " AND fallback_after IS NOT NULL"
    " AND (coalesce(accepted_at, failed_at) IS NOT NULL OR begun_at IS NOT NULL AND unconfirmed_at IS NULL)"
)
_FALLBACK_DUE_AT = (
    "(CASE WHEN failed_at IS NOT NULL AND delivered_at IS NULL THEN failed_at"
    " ELSE coalesce(accepted_at, failed_at) + fallback_after END)"
)


def upgrade() -> None:
    op.drop_index("ix_attempts_fallback_clock", "attempts")
    op.create_index(
        "ix_attempts_fallback_clock",
        "attempts",
        [sa.text(_FALLBACK_DUE_AT), "batch"],
        unique=False,
        sqlite_where=sa.text(_FALLBACK_OPEN),
        postgresql_where=sa.text(_FALLBACK_OPEN),
    )
    op.create_table(
        "unread_news",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False, comment="as it came"),
        sa.PrimaryKeyConstraint("provider", "sha256", name="pk_unread_news"),
        comment="what a provider told and this version couldn't read, kept for the next",
    )
