"""What patients answered, and whom the practice has to be told of at once."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column(
            "inbox_version",
            sa.BigInteger(),
            nullable=True,
            comment="the sum of its answers' versions when its inbox was made last",
        ),
    )
    _make_responses()
    _make_observations()
    _make_alerts()


def _make_responses() -> None:
    op.create_table(
        "responses",
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("patient", sa.Text(), nullable=False, comment="keyed hash of the NHS number"),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("answers", sa.Text(), nullable=True, comment="JSON by linkId: all that was given so far"),
        sa.Column("first_at", sa.BigInteger(), nullable=False, comment="when the first answer was kept"),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.BigInteger(), nullable=True, comment="when they were sent; null: in progress"),
        sa.Column("version", sa.Integer(), nullable=False, comment="grows with each change"),
        sa.Column(
            "listed_at", sa.BigInteger(), nullable=True, comment="when its observations were listed for the record"
        ),
        sa.Column(
            "recorded_at",
            sa.BigInteger(),
            nullable=True,
            comment="when nothing of it was left to be written to the record",
        ),
        sa.ForeignKeyConstraint(["batch"], ["batches.batch"], name="fk_responses_batch"),
        sa.PrimaryKeyConstraint("batch", "patient", name="pk_responses"),
        comment="what patients answered to a batch's questionnaire",
    )
    op.create_index("ix_responses_batch_version", "responses", ["batch", "version"], unique=False)
    unrecorded = sa.text("completed_at IS NOT NULL AND recorded_at IS NULL")
    op.create_index(
        "ix_responses_unrecorded",
        "responses",
        ["batch"],
        unique=False,
        sqlite_where=unrecorded,
        postgresql_where=unrecorded,
    )


def _make_observations() -> None:
    op.create_table(
        "observations",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False, comment="of the FHIR resource"),
        sa.ForeignKeyConstraint(["batch"], ["batches.batch"], name="fk_observations_batch"),
        sa.PrimaryKeyConstraint("id", name="pk_observations"),
        sa.UniqueConstraint("identifier", name="uq_observations_identifier"),
        comment="what is observed in answers that were sent, each to be written to the record",
    )
    op.create_index("ix_observations_batch_id", "observations", ["batch", "id"], unique=False)


def _make_alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("patient", sa.Text(), nullable=False, comment="keyed hash of the NHS number"),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("finding", sa.Text(), nullable=False, comment="the range, and where in the questionnaire"),
        sa.Column("raised_at", sa.BigInteger(), nullable=False),
        sa.Column("tried_at", sa.BigInteger(), nullable=True, comment="when the practice was last tried to be told"),
        sa.Column("told_at", sa.BigInteger(), nullable=True, comment="when the practice had it"),
        sa.Column("told_by", sa.Text(), nullable=True, comment="email | webhook | whoever has seen it in the inbox"),
        sa.ForeignKeyConstraint(["batch"], ["batches.batch"], name="fk_alerts_batch"),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
        sa.UniqueConstraint("batch", "patient", "finding", name="uq_alerts_batch_patient_finding"),
        comment="answers that can't wait, each until the practice is told of it",
    )
    untold = sa.text("told_at IS NULL")
    op.create_index(
        "ix_alerts_untold", "alerts", ["batch", "line"], unique=False, sqlite_where=untold, postgresql_where=untold
    )
