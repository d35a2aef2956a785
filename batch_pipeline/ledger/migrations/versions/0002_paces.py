"""The pace of each provider account, which all processes keep to together."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "paces",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column(
            "free_at",
            sa.BigInteger(),
            nullable=False,
            comment="when the account's next request may be made, by the machine's clock",
        ),
        sa.PrimaryKeyConstraint("account", name="pk_paces"),
    )
