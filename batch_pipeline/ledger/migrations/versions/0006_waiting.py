"""Whether the holder of a chunk only waits: then whoever finds it left behind may post it."""

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
            comment="its holder waits before it calls: no provider has what isn't answered of it",
        ),
    )
