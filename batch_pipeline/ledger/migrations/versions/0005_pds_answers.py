"""What PDS said of patients whose details had to be looked up, with its age."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pds_answers",
        sa.Column(
            "workspace", sa.Text(), nullable=False, comment="on whose behalf was asked: nobody else sees the answer"
        ),
        sa.Column("patient", sa.Text(), nullable=False, comment="keyed hash of the NHS number that was asked for"),
        sa.Column("fetched_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "outcome",
            sa.Text(),
            nullable=False,
            comment="found | deceased | restricted | invalidated | exit_coded | not_found | other_person | failed",
        ),
        sa.Column(
            "current_number",
            sa.Text(),
            nullable=True,
            comment="the NHS number that has superseded the one asked for",
        ),
        sa.Column("mobile", sa.Text(), nullable=True, comment="E.164"),
        sa.Column("email", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("workspace", "patient", name="pk_pds_answers"),
    )
