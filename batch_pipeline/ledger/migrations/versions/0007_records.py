"""What is in patients' records: entries, and the chunks that they are written in."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column(
            "saved_at",
            sa.BigInteger(),
            nullable=True,
            comment="when nothing of it was left to be written to the record",
        ),
    )
    op.add_column(
        "batches",
        sa.Column(
            "changes",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="how often something of it became otherwise that a final report or the record may tell of",
        ),
    )
    op.create_table(
        "record_chunks",
        sa.Column("reference", sa.Text(), nullable=False, comment="names a file of the record folder; never reused"),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column(
            "fence", sa.Integer(), nullable=False, comment="grows with each takeover; an older holder's notes miss"
        ),
        sa.Column("lease_until", sa.BigInteger(), nullable=False, comment="by the machine's clock, never by --at"),
        sa.Column("claimed_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "settled_at",
            sa.BigInteger(),
            nullable=True,
            comment="when the last of its entries was noted; null while it is open",
        ),
        sa.PrimaryKeyConstraint("reference", name="pk_record_chunks"),
        sa.ForeignKeyConstraint(["batch"], ["batches.batch"], name="fk_record_chunks_batch"),
        comment="entries of the record that are written together, under a lease",
    )
    op.create_index("ix_record_chunks_batch", "record_chunks", ["batch"], unique=False)
    op.create_table(
        "record_entries",
        sa.Column(
            "identifier", sa.Text(), nullable=False, comment="of the FHIR resource; a message's is its reference"
        ),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=True, comment="null: of a patient that this ledger has forgotten"),
        sa.Column("chunk", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True, comment="written | refused; null while nothing is known"),
        sa.Column("code", sa.Text(), nullable=True, comment="why it was refused; no personal data"),
        sa.Column("noted_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("identifier", name="pk_record_entries"),
        sa.ForeignKeyConstraint(["batch"], ["batches.batch"], name="fk_record_entries_batch"),
        sa.ForeignKeyConstraint(["chunk"], ["record_chunks.reference"], name="fk_record_entries_chunk"),
        comment="what is, or is about to be, in patients' records: each once",
    )
    op.create_index("ix_record_entries_batch_outcome", "record_entries", ["batch", "outcome"], unique=False)
    op.create_index(
        "ix_record_entries_unnoted",
        "record_entries",
        ["chunk"],
        unique=False,
        sqlite_where=sa.text("outcome IS NULL"),
        postgresql_where=sa.text("outcome IS NULL"),
    )
