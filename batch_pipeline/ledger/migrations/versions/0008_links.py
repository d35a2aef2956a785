"""Personal links: their tokens' hashes, what opens them, and what became of them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column(
            "links_revoked_at",
            sa.BigInteger(),
            nullable=True,
            comment="when all its links were revoked, those made later too",
        ),
    )
    _make_links()
    _make_wrong_dates()


def _make_links() -> None:
    op.create_table(
        "links",
        sa.Column("token_hash", sa.Text(), nullable=False, comment="SHA-256: the token itself is nowhere"),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("patient", sa.Text(), nullable=False, comment="keyed hash of the NHS number"),
        sa.Column("kind", sa.Text(), nullable=False, comment="attachment | questionnaire | self_book"),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "birth_hash",
            sa.Text(),
            nullable=True,
            comment="keyed hash of the date of birth, another one in each link",
        ),
        sa.Column(
            "wrong_tries",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="dates of birth, since the last right one",
        ),
        sa.Column("locked_at", sa.BigInteger(), nullable=True),
        sa.Column(
            "revoked_at",
            sa.BigInteger(),
            nullable=True,
            comment="by itself; a batch's links are revoked with the batch",
        ),
        sa.Column("opened_at", sa.BigInteger(), nullable=True, comment="with the right date of birth"),
        sa.Column("downloaded_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["batch"], ["batches.batch"], name="fk_links_batch"),
        sa.PrimaryKeyConstraint("token_hash", name="pk_links"),
        sa.UniqueConstraint("batch", "patient", name="uq_links_batch_patient"),
    )
    for name, condition in (
        ("ix_links_revoked", "revoked_at IS NOT NULL"),
        ("ix_links_locked", "locked_at IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, "links", ["batch", "patient"], unique=False, sqlite_where=where, postgresql_where=where)


def _make_wrong_dates() -> None:
    op.create_table(
        "wrong_dates",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("address", sa.Text(), nullable=False, comment="keyed hash of the network address that tried"),
        sa.Column("tried_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_wrong_dates"),
        comment="wrong dates of birth of the last hour, so that no address tries many links",
    )
    op.create_index("ix_wrong_dates_address_tried_at", "wrong_dates", ["address", "tried_at"], unique=False)
    op.create_index("ix_wrong_dates_tried_at", "wrong_dates", ["tried_at"], unique=False)
