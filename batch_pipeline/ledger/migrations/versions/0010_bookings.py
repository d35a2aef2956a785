"""Slots that patients book, and what each patient chose."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _make_slots()
    _make_bookings()
    op.create_table(
        "booking_reports",
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column(
            "changes", sa.Integer(), nullable=False, comment="how many choices, and ends of choices, its report has"
        ),
        sa.ForeignKeyConstraint(["batch"], ["batches.batch"], name="fk_booking_reports_batch"),
        sa.PrimaryKeyConstraint("batch", name="pk_booking_reports"),
    )


def _row_id(name: str, **more: Any) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), **more)


def _make_slots() -> None:
    op.create_table(
        "slots",
        _row_id("id", autoincrement=True, nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("booking", sa.Text(), nullable=False, comment="names the file of slots"),
        sa.Column("slot", sa.Text(), nullable=False, comment="its id in the file"),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=False),
        sa.Column("clinician", sa.Text(), nullable=True),
        sa.Column("place", sa.Text(), nullable=True),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.Column(
            "booked",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="open bookings; more than the capacity only where that was made smaller",
        ),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "removed_at", sa.BigInteger(), nullable=True, comment="when the file had it no more: nobody else books it"
        ),
        sa.CheckConstraint("booked >= 0", name=op.f("ck_slots_booked")),
        sa.PrimaryKeyConstraint("id", name="pk_slots"),
        sa.UniqueConstraint("workspace", "booking", "slot", name="uq_slots_workspace_booking_slot"),
    )


def _make_bookings() -> None:
    op.create_table(
        "bookings",
        _row_id("id", autoincrement=True, nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False, comment="a random UUID, as calendars and FHIR want"),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("booking", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("patient", sa.Text(), nullable=False, comment="keyed hash of the NHS number"),
        sa.Column("line", sa.Integer(), nullable=False),
        _row_id("slot", nullable=True, comment="null: the patient declined"),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_because", sa.Text(), nullable=True, comment="changed | cancelled | booked (after declining)"),
        sa.ForeignKeyConstraint(["batch", "patient"], ["links.batch", "links.patient"], name="fk_bookings_batch"),
        sa.ForeignKeyConstraint(["slot"], ["slots.id"], name="fk_bookings_slot"),
        sa.PrimaryKeyConstraint("id", name="pk_bookings"),
        sa.UniqueConstraint("identifier", name="uq_bookings_identifier"),
        comment="what each patient chose of the slots; one that was changed or cancelled keeps its row",
    )
    still_open = sa.text("ended_at IS NULL")
    op.create_index(
        "uq_bookings_open",
        "bookings",
        ["workspace", "booking", "patient"],
        unique=True,
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_index("ix_bookings_batch_patient", "bookings", ["batch", "patient"], unique=False)
    op.create_index("ix_bookings_patient", "bookings", ["patient"], unique=False)
    op.create_index("ix_bookings_slot", "bookings", ["slot"], unique=False)
