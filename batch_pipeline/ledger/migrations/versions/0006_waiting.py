"""Whether the holder of a chunk waits before the first call for it: then whoever finds it left behind may post it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "chunks",
        sa.Column(
            "waiting",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="its holder waits before the first call for it: no provider has anything of it",
        ),
    )
