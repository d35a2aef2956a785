"""The first tables: batches, plans, approvals, the outbox with its chunks, receipts, marks, and the audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False, comment="JSON; no personal data"),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_table(
        "batches",
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("workspace", sa.Text(), nullable=False),
        sa.Column("message_type", sa.Text(), nullable=False),
        sa.Column("message_key", sa.Text(), nullable=False, comment="template and version, or a hash of the body"),
        sa.Column("questionnaire", sa.Text(), nullable=True),
        sa.Column("allow_repeat", sa.Boolean(), nullable=False),
        sa.Column("approval", sa.Text(), nullable=False, comment="required | auto"),
        sa.Column("spec", sa.Text(), nullable=False, comment="the batch file as submitted, as JSON"),
        sa.Column("spec_sha256", sa.Text(), nullable=False),
        sa.Column("cohort_name", sa.Text(), nullable=False, comment="the file's name as submitted"),
        sa.Column("cohort_sha256", sa.Text(), nullable=False),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.Column("current_plan", sa.Text(), nullable=True, comment="hash of the plan made last"),
        sa.Column("reviewed_plan", sa.Text(), nullable=True, comment="hash of the plan shown to a person last"),
        sa.Column(
            "applied_plan", sa.Text(), nullable=True, comment="hash of the approved plan the outbox was written from"
        ),
        sa.Column("paused_at", sa.BigInteger(), nullable=True),
        sa.Column("cancelled_at", sa.BigInteger(), nullable=True),
        sa.Column("reported_at", sa.BigInteger(), nullable=True, comment="when the final report was made"),
        sa.PrimaryKeyConstraint("batch", name="pk_batches"),
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_facts"),
        comment="what this ledger knows about itself: which hash key it was begun with",
    )
    op.create_table(
        "patient_marks",
        sa.Column("patient", sa.Text(), nullable=False, comment="keyed hash of the NHS number"),
        sa.Column("mark", sa.Text(), nullable=False, comment="deceased | invalidated | exit_coded"),
        sa.Column("marked_at", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("patient", "mark", name="pk_patient_marks"),
    )
    op.create_table(
        "receipts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("provider_key", sa.Text(), nullable=False, comment="the provider's own id of this receipt"),
        sa.Column("reference", sa.Text(), nullable=False, comment="of the attempt"),
        sa.Column("kind", sa.Text(), nullable=False, comment="accepted | delivered | read | failed"),
        sa.Column("failure_kind", sa.Text(), nullable=True),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("folded_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_receipts"),
        sa.UniqueConstraint("provider", "provider_key", name="uq_receipts_provider_provider_key"),
    )
    op.create_index(
        "ix_receipts_waiting",
        "receipts",
        ["id"],
        unique=False,
        sqlite_where=sa.text("folded_at IS NULL"),
        postgresql_where=sa.text("folded_at IS NULL"),
    )
    op.create_table(
        "chunks",
        sa.Column("reference", sa.Text(), nullable=False, comment="what the provider deduplicates on; never reused"),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column(
            "fence", sa.Integer(), nullable=False, comment="grows with each takeover; an older holder's writes miss"
        ),
        sa.Column("lease_until", sa.BigInteger(), nullable=False, comment="by the machine's clock, never by --at"),
        sa.Column("claimed_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "settled_at", sa.BigInteger(), nullable=True, comment="when its answer was recorded; null while it is open"
        ),
        sa.Column(
            "outcome",
            sa.Text(),
            nullable=True,
            comment="accepted | unconfirmed | returned (its last post was not taken)",
        ),
        sa.ForeignKeyConstraint(["batch"], ["batches.batch"], name="fk_chunks_batch"),
        sa.PrimaryKeyConstraint("reference", name="pk_chunks"),
    )
    op.create_index("ix_chunks_batch_step_channel", "chunks", ["batch", "step", "channel"], unique=False)
    op.create_index(
        "ix_chunks_open",
        "chunks",
        ["batch", "step"],
        unique=False,
        sqlite_where=sa.text("settled_at IS NULL"),
        postgresql_where=sa.text("settled_at IS NULL"),
    )
    op.create_table(
        "plans",
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("plan_hash", sa.Text(), nullable=False),
        sa.Column("planned_at", sa.BigInteger(), nullable=False),
        sa.Column("figures", sa.Text(), nullable=False, comment="the plan's figures as JSON; no personal data"),
        sa.ForeignKeyConstraint(["batch"], ["batches.batch"], name="fk_plans_batch"),
        sa.PrimaryKeyConstraint("batch", "plan_hash", name="pk_plans"),
    )
    op.create_table(
        "approvals",
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("plan_hash", sa.Text(), nullable=False),
        sa.Column("approved_by", sa.Text(), nullable=False),
        sa.Column("approved_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["batch", "plan_hash"], ["plans.batch", "plans.plan_hash"], name="fk_approvals_batch"),
        sa.PrimaryKeyConstraint("batch", "plan_hash", name="pk_approvals"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("patient", sa.Text(), nullable=False, comment="keyed hash of the NHS number"),
        sa.Column("step", sa.Text(), nullable=False, comment="primary | fallback"),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False, comment="email | nhs_app | sms"),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("nhs_number", sa.Text(), nullable=True),
        sa.Column(
            "address", sa.Text(), nullable=True, comment="email address, E.164 number, or NHS number for the App"
        ),
        sa.Column("fallback_number", sa.Text(), nullable=True, comment="E.164, for an App message that may fall back"),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("sms_text", sa.Text(), nullable=True, comment="the text a fallback would carry"),
        sa.Column(
            "address_hash",
            sa.Text(),
            nullable=True,
            comment="keyed hash of the mobile: address (sms) or fallback_number (nhs_app)",
        ),
        sa.Column(
            "fragments", sa.Integer(), nullable=False, comment="SMS fragments of text (sms) or sms_text (nhs_app)"
        ),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=True, comment="fallback policy in force when queued"),
        sa.Column(
            "fallback_after",
            sa.BigInteger(),
            nullable=True,
            comment="microseconds from acceptance; null: never falls back",
        ),
        sa.Column("chunk", sa.Text(), nullable=True, comment="null: no attempt begun"),
        sa.Column("begun_at", sa.BigInteger(), nullable=True),
        sa.Column("accepted_at", sa.BigInteger(), nullable=True),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("read_at", sa.BigInteger(), nullable=True),
        sa.Column("failed_at", sa.BigInteger(), nullable=True),
        sa.Column(
            "failure_kind", sa.Text(), nullable=True, comment="permanent | temporary | technical | rejected | refused"
        ),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("timed_out_at", sa.BigInteger(), nullable=True),
        sa.Column("held_back_at", sa.BigInteger(), nullable=True),
        sa.Column("cancelled_at", sa.BigInteger(), nullable=True),
        sa.Column("expired_at", sa.BigInteger(), nullable=True),
        sa.Column("unconfirmed_at", sa.BigInteger(), nullable=True),
        sa.Column("fallback_at", sa.BigInteger(), nullable=True, comment="when its fallback attempt was queued"),
        sa.Column(
            "no_fallback_at", sa.BigInteger(), nullable=True, comment="when the fallback was due and could not go"
        ),
        sa.Column("no_fallback_because", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["batch"], ["batches.batch"], name="fk_attempts_batch"),
        sa.ForeignKeyConstraint(["chunk"], ["chunks.reference"], name="fk_attempts_chunk"),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        sa.UniqueConstraint("batch", "patient", "step", name="uq_attempts_batch_patient_step"),
        sa.UniqueConstraint("reference", name="uq_attempts_reference"),
    )
    op.create_index(
        "ix_attempts_chunk",
        "attempts",
        ["chunk", "id"],
        unique=False,
        sqlite_where=sa.text("chunk IS NOT NULL"),
        postgresql_where=sa.text("chunk IS NOT NULL"),
    )
    op.create_index(
        "ix_attempts_sms_clock",
        "attempts",
        ["accepted_at"],
        unique=False,
        sqlite_where=sa.text(
            "channel = 'sms' AND accepted_at IS NOT NULL AND delivered_at IS NULL AND read_at IS NULL AND failed_at IS NULL AND timed_out_at IS NULL"
        ),
        postgresql_where=sa.text(
            "channel = 'sms' AND accepted_at IS NOT NULL AND delivered_at IS NULL AND read_at IS NULL AND failed_at IS NULL AND timed_out_at IS NULL"
        ),
    )
    op.create_index(
        "ix_attempts_unsent",
        "attempts",
        ["batch", "step", "channel", "id"],
        unique=False,
        sqlite_where=sa.text(
            "chunk IS NULL AND held_back_at IS NULL AND cancelled_at IS NULL AND expired_at IS NULL AND accepted_at IS NULL AND delivered_at IS NULL AND read_at IS NULL AND failed_at IS NULL"
        ),
        postgresql_where=sa.text(
            "chunk IS NULL AND held_back_at IS NULL AND cancelled_at IS NULL AND expired_at IS NULL AND accepted_at IS NULL AND delivered_at IS NULL AND read_at IS NULL AND failed_at IS NULL"
        ),
    )
    op.create_index(
        "ix_attempts_fallback_clock",
        "attempts",
        [
            sa.text(
                "(CASE WHEN failed_at IS NOT NULL AND delivered_at IS NULL THEN failed_at ELSE coalesce(accepted_at, failed_at) + fallback_after END)"
            ),
            "batch",
        ],
        unique=False,
        sqlite_where=sa.text(
            "step = 'primary' AND channel = 'nhs_app' AND chunk IS NOT NULL AND read_at IS NULL AND fallback_at IS NULL AND no_fallback_at IS NULL AND fallback_after IS NOT NULL AND (unconfirmed_at IS NULL OR coalesce(accepted_at, failed_at) IS NOT NULL)"
        ),
        postgresql_where=sa.text(
            "step = 'primary' AND channel = 'nhs_app' AND chunk IS NOT NULL AND read_at IS NULL AND fallback_at IS NULL AND no_fallback_at IS NULL AND fallback_after IS NOT NULL AND (unconfirmed_at IS NULL OR coalesce(accepted_at, failed_at) IS NOT NULL)"
        ),
    )
    _make_audit_append_only()


_SQLITE_APPEND_ONLY = """
CREATE TRIGGER audit_append_only_{event} BEFORE {event} ON audit
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END
"""

_POSTGRESQL_APPEND_ONLY = (
    """
    CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$
    """,
    """
    CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()
    """,
)


def _make_audit_append_only() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for statement in _POSTGRESQL_APPEND_ONLY:
            op.execute(statement)
    else:
        for event in ("update", "delete"):
            op.execute(_SQLITE_APPEND_ONLY.format(event=event))
