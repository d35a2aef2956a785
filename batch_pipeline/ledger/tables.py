"""The ledger's tables: the operational truth about every batch.

One metadata for SQLite and PostgreSQL. What a batch or an attempt *is* follows from its columns by the
rules in ``batch_pipeline.rules.states``; nothing here stores a derived state.
"""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from typing_extensions import override

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Instant(sa.TypeDecorator[datetime]):
    """An aware UTC ``datetime``, kept as whole microseconds since 1970.

    An integer, because the ledger compares and adds times in SQL (``accepted_at + fallback_after <= now``)
    and the same statement has to mean the same on SQLite and PostgreSQL.
    """

    impl = sa.BigInteger
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_microseconds(value)

    @override
    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=value)


def to_microseconds(instant: datetime) -> int:
    """Whole microseconds since 1970 of an aware datetime; ``ValueError`` for a naive one."""
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return (instant - EPOCH) // timedelta(microseconds=1)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _partial_index(name: str, condition: str, *columns: str | sa.TextClause) -> sa.Index:
    return sa.Index(name, *columns, sqlite_where=sa.text(condition), postgresql_where=sa.text(condition))


RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("batch", sa.Text, primary_key=True),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("message_type", sa.Text, nullable=False),
    sa.Column("message_key", sa.Text, nullable=False, comment="template and version, or a hash of the body"),
    sa.Column("questionnaire", sa.Text),
    sa.Column("allow_repeat", sa.Boolean, nullable=False),
    sa.Column("approval", sa.Text, nullable=False, comment="required | auto"),
    sa.Column("spec", sa.Text, nullable=False, comment="the batch file as submitted, as JSON"),
    sa.Column("spec_sha256", sa.Text, nullable=False),
    sa.Column("cohort_name", sa.Text, nullable=False, comment="the file's name as submitted"),
    sa.Column("cohort_sha256", sa.Text, nullable=False),
    sa.Column("submitted_at", Instant, nullable=False),
    sa.Column("current_plan", sa.Text, comment="hash of the plan made last"),
    sa.Column("reviewed_plan", sa.Text, comment="hash of the plan shown to a person last"),
    sa.Column("applied_plan", sa.Text, comment="hash of the approved plan the outbox was written from"),
    sa.Column("paused_at", Instant),
    sa.Column("cancelled_at", Instant),
    sa.Column("reported_at", Instant, comment="when the final report was made"),
    sa.Column("paused_by", sa.Text),
    sa.Column("paused_because", sa.Text),
    sa.Column("breaker_from", Instant, comment="the circuit breaker counts what was begun after this"),
    sa.Column("cancelled_by", sa.Text),
    sa.Column("fallbacks_cancelled_at", Instant, comment="when it was cancelled with its fallbacks"),
    sa.Column("saved_at", Instant, comment="when nothing of it was left to be written to the record"),
    sa.Column(
        "changes",
        sa.Integer,
        nullable=False,
        server_default=sa.text("0"),
        comment="how often something of it became otherwise that a final report or the record may tell of",
    ),
    sa.Column("links_revoked_at", Instant, comment="when all its links were revoked, those made later too"),
    sa.Column("inbox_version", sa.BigInteger, comment="the sum of its answers' versions when its inbox was made last"),
)

general_pause = sa.Table(
    "general_pause",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True, comment="all"),
    sa.Column("paused_at", Instant, nullable=False),
    sa.Column("paused_by", sa.Text, nullable=False),
    sa.Column("paused_because", sa.Text),
    comment="holds every batch, those made later too, while it has its row",
)

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.batch"), primary_key=True),
    sa.Column("plan_hash", sa.Text, primary_key=True),
    sa.Column("planned_at", Instant, nullable=False),
    sa.Column("figures", sa.Text, nullable=False, comment="the plan's figures as JSON; no personal data"),
)

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("batch", sa.Text, primary_key=True),
    sa.Column("plan_hash", sa.Text, primary_key=True),
    sa.Column("approved_by", sa.Text, nullable=False),
    sa.Column("approved_at", Instant, nullable=False),
    sa.ForeignKeyConstraint(["batch", "plan_hash"], ["plans.batch", "plans.plan_hash"]),
)

chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("reference", sa.Text, primary_key=True, comment="what the provider deduplicates on; never reused"),
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.batch"), nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("messages", sa.Integer, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False, comment="grows with each takeover; an older holder's writes miss"),
    sa.Column("lease_until", Instant, nullable=False, comment="by the machine's clock, never by --at"),
    sa.Column("claimed_at", Instant, nullable=False),
    sa.Column(
        "waiting",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="its holder waits before the first call for it: no provider has anything of it",
    ),
    sa.Column("settled_at", Instant, comment="when its answer was recorded; null while it is open"),
    sa.Column("outcome", sa.Text, comment="accepted | unconfirmed | returned (its last post was not taken)"),
    sa.Index(None, "batch", "step", "channel"),
    _partial_index("ix_chunks_open", "settled_at IS NULL", "batch", "step"),
)

# The rows that the frequent questions look at. Each is written once and used both as the condition of a partial
# index and, word for word, in the query that is to find that index.
#
# A message that isn't begun is never told of, but that a ledger restored from a copy learns from receipts what it sent.
UNSENT = (
    "chunk IS NULL AND held_back_at IS NULL AND cancelled_at IS NULL AND expired_at IS NULL"
    " AND accepted_at IS NULL AND delivered_at IS NULL AND read_at IS NULL AND failed_at IS NULL"
)
BEGUN = "chunk IS NOT NULL"
FAILED = "failed_at IS NOT NULL"
# Its last line is ``may_fall_back_sql`` of the rules: what can't fall back any more has ended, and is reported. It need
# not be begun: of one that a person said wasn't sent, a provider may tell that it was.
FALLBACK_OPEN = (
    "step = 'primary' AND channel = 'nhs_app' AND read_at IS NULL AND fallback_at IS NULL AND no_fallback_at IS NULL"
    " AND fallback_after IS NOT NULL"
    " AND (coalesce(accepted_at, failed_at) IS NOT NULL OR begun_at IS NOT NULL AND unconfirmed_at IS NULL)"
)
# At once for a failure, but delivered goes before failed (SPEC 2.8): then the clock runs, from the failure where the
# acceptance was never told.
FALLBACK_DUE_AT = (
    "(CASE WHEN failed_at IS NOT NULL AND delivered_at IS NULL THEN failed_at"
    " ELSE coalesce(accepted_at, failed_at) + fallback_after END)"
)
# From when a message is known to have got somewhere, or to have failed: then the text that followed may have reached.
REMINDERS_SINCE = ("accepted_at", "delivered_at", "read_at", "failed_at")
REMINDER_OPEN = f"reminder_day IS NOT NULL AND coalesce({', '.join(REMINDERS_SINCE)}) IS NOT NULL"
REMINDER_DUE_AT = f"(coalesce({', '.join(REMINDERS_SINCE)}) + reminder_day * 86400000000)"
SMS_OPEN = (
    "channel = 'sms' AND accepted_at IS NOT NULL AND delivered_at IS NULL AND read_at IS NULL"
    " AND failed_at IS NULL AND timed_out_at IS NULL"
)


attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("id", RowId, primary_key=True, autoincrement=True),
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.batch"), nullable=False),
    sa.Column("patient", sa.Text, nullable=False, comment="keyed hash of the NHS number"),
    sa.Column("step", sa.Text, nullable=False, comment="primary | fallback | reminder_DAY"),
    sa.Column("line", sa.Integer, nullable=False),
    sa.Column("channel", sa.Text, nullable=False, comment="email | nhs_app | sms"),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False, unique=True),
    # Personal: emptied by the purge.
    sa.Column("nhs_number", sa.Text),
    sa.Column("address", sa.Text, comment="email address, E.164 number, or NHS number for the App"),
    sa.Column("fallback_number", sa.Text, comment="E.164, for an App message that may fall back"),
    sa.Column("subject", sa.Text),
    sa.Column("text", sa.Text),
    sa.Column("sms_text", sa.Text, comment="the text a fallback would carry"),
    # Not personal: stays.
    sa.Column("address_hash", sa.Text, comment="keyed hash of the mobile: address (sms) or fallback_number (nhs_app)"),
    sa.Column("fragments", sa.Integer, nullable=False, comment="SMS fragments of text (sms) or sms_text (nhs_app)"),
    sa.Column("queued_at", Instant, nullable=False),
    sa.Column("policy", sa.Text, comment="fallback policy in force when queued"),
    sa.Column("fallback_after", sa.BigInteger, comment="microseconds from acceptance; null: never falls back"),
    sa.Column("chunk", sa.Text, sa.ForeignKey("chunks.reference"), comment="null: no attempt begun"),
    sa.Column("begun_at", Instant),
    # Each is the earliest of its kind that any receipt or answer told of.
    sa.Column("accepted_at", Instant),
    sa.Column("delivered_at", Instant),
    sa.Column("read_at", Instant),
    sa.Column("failed_at", Instant),
    sa.Column("failure_kind", sa.Text, comment="permanent | temporary | technical | rejected | refused"),
    sa.Column("failure_code", sa.Text),
    sa.Column("timed_out_at", Instant),
    sa.Column("held_back_at", Instant),
    sa.Column("cancelled_at", Instant),
    sa.Column("expired_at", Instant),
    sa.Column("unconfirmed_at", Instant),
    sa.Column("fallback_at", Instant, comment="when its fallback attempt was queued"),
    sa.Column("no_fallback_at", Instant, comment="when the fallback was due and could not go"),
    sa.Column("no_fallback_because", sa.Text),
    sa.Column("reminder_day", sa.Integer, comment="days from acceptance to the next reminder; null: none is to come"),
    sa.UniqueConstraint("batch", "patient", "step"),
    # Every index costs each of a million outbox rows several microseconds: these are the ones that pay.
    _partial_index("ix_attempts_unsent", UNSENT, "batch", "step", "channel", "id"),
    _partial_index("ix_attempts_chunk", BEGUN, "chunk", "id"),
    _partial_index("ix_attempts_fallback_clock", FALLBACK_OPEN, sa.text(FALLBACK_DUE_AT), "batch"),
    _partial_index("ix_attempts_sms_clock", SMS_OPEN, "accepted_at"),
    _partial_index("ix_attempts_reminder_clock", REMINDER_OPEN, sa.text(REMINDER_DUE_AT), "batch"),
    # The last: so that SQLite counts without a look at the rows.
    _partial_index("ix_attempts_failed", FAILED, "batch", "begun_at", "channel", "failed_at"),
)

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("id", RowId, primary_key=True, autoincrement=True),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("provider_key", sa.Text, nullable=False, comment="the provider's own id of this receipt"),
    sa.Column("reference", sa.Text, nullable=False, comment="of the attempt"),
    sa.Column("kind", sa.Text, nullable=False, comment="accepted | delivered | read | failed"),
    sa.Column("failure_kind", sa.Text),
    sa.Column("failure_code", sa.Text),
    sa.Column("occurred_at", Instant, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("folded_at", Instant),
    sa.UniqueConstraint("provider", "provider_key"),
    _partial_index("ix_receipts_waiting", "folded_at IS NULL", "id"),
)


def tells_of_attempt(told: sa.FromClause = receipts) -> sa.ColumnElement[bool]:
    """Whether a receipt (or what is chosen of some) is about an attempt: by its reference, and from who carries it.

    A reference alone won't do: whoever holds another provider's account here could settle any message by it.
    """
    return sa.and_(attempts.c.reference == told.c.reference, attempts.c.provider == told.c.provider)


unread_news = sa.Table(
    "unread_news",
    metadata,
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("received_at", Instant, nullable=False),
    # Personal, for all that is known: its row goes with the purge.
    sa.Column("item", sa.Text, nullable=False, comment="as it came"),
    comment="what a provider told and this version couldn't read, kept for the next",
)

patient_marks = sa.Table(
    "patient_marks",
    metadata,
    sa.Column("patient", sa.Text, primary_key=True, comment="keyed hash of the NHS number"),
    sa.Column("mark", sa.Text, primary_key=True, comment="deceased | invalidated | exit_coded"),
    sa.Column("marked_at", Instant, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
)

REVOKED = "revoked_at IS NOT NULL"
LOCKED = "locked_at IS NOT NULL"

links = sa.Table(
    "links",
    metadata,
    sa.Column("token_hash", sa.Text, primary_key=True, comment="SHA-256: the token itself is nowhere"),
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.batch"), nullable=False),
    sa.Column("patient", sa.Text, nullable=False, comment="keyed hash of the NHS number"),
    sa.Column("kind", sa.Text, nullable=False, comment="attachment | questionnaire | self_book"),
    sa.Column("made_at", Instant, nullable=False),
    # Personal, for who has the key: emptied by the purge. Without it the link opens no more.
    sa.Column("birth_hash", sa.Text, comment="keyed hash of the date of birth, another one in each link"),
    sa.Column(
        "wrong_tries",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="dates of birth, since the last right one",
    ),
    sa.Column("locked_at", Instant),
    sa.Column("revoked_at", Instant, comment="by itself; a batch's links are revoked with the batch"),
    # Each is the first time.
    sa.Column("opened_at", Instant, comment="with the right date of birth"),
    sa.Column("downloaded_at", Instant),
    sa.UniqueConstraint("batch", "patient"),
    _partial_index("ix_links_revoked", REVOKED, "batch", "patient"),
    _partial_index("ix_links_locked", LOCKED, "batch", "patient"),
)

wrong_dates = sa.Table(
    "wrong_dates",
    metadata,
    sa.Column("id", RowId, primary_key=True, autoincrement=True),
    sa.Column("address", sa.Text, nullable=False, comment="keyed hash of the network address that tried"),
    sa.Column("tried_at", Instant, nullable=False),
    sa.Index(None, "address", "tried_at"),
    sa.Index(None, "tried_at"),
    comment="wrong dates of birth of the last hour, so that no address tries many links",
)

UNRECORDED = "completed_at IS NOT NULL AND recorded_at IS NULL"

responses = sa.Table(
    "responses",
    metadata,
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.batch"), primary_key=True),
    sa.Column("patient", sa.Text, primary_key=True, comment="keyed hash of the NHS number"),
    sa.Column("line", sa.Integer, nullable=False),
    # Personal: emptied by the purge.
    sa.Column("answers", sa.Text, comment="JSON by linkId: all that was given so far"),
    sa.Column("first_at", Instant, nullable=False, comment="when the first answer was kept"),
    sa.Column("changed_at", Instant, nullable=False),
    sa.Column("completed_at", Instant, comment="when they were sent; null: in progress"),
    sa.Column("version", sa.Integer, nullable=False, comment="grows with each change"),
    sa.Column("listed_at", Instant, comment="when its observations were listed for the record"),
    sa.Column("recorded_at", Instant, comment="when nothing of it was left to be written to the record"),
    sa.Index(None, "batch", "version"),
    _partial_index("ix_responses_unrecorded", UNRECORDED, "batch"),
    comment="what patients answered to a batch's questionnaire",
)

observations = sa.Table(
    "observations",
    metadata,
    sa.Column("id", RowId, primary_key=True, autoincrement=True),
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.batch"), nullable=False),
    sa.Column("line", sa.Integer, nullable=False),
    sa.Column("identifier", sa.Text, nullable=False, unique=True, comment="of the FHIR resource"),
    sa.Index(None, "batch", "id"),
    comment="what is observed in answers that were sent, each to be written to the record",
)

UNTOLD = "told_at IS NULL"

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", RowId, primary_key=True, autoincrement=True),
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.batch"), nullable=False),
    sa.Column("patient", sa.Text, nullable=False, comment="keyed hash of the NHS number"),
    sa.Column("line", sa.Integer, nullable=False),
    sa.Column("finding", sa.Text, nullable=False, comment="the range, and where in the questionnaire"),
    sa.Column("raised_at", Instant, nullable=False),
    sa.Column("tried_at", Instant, comment="when the practice was last tried to be told"),
    sa.Column("told_at", Instant, comment="when the practice had it"),
    sa.Column("told_by", sa.Text, comment="email | webhook | whoever has seen it in the inbox"),
    sa.UniqueConstraint("batch", "patient", "finding"),
    _partial_index("ix_alerts_untold", UNTOLD, "batch", "line"),
    comment="answers that can't wait, each until the practice is told of it",
)

slots = sa.Table(
    "slots",
    metadata,
    sa.Column("id", RowId, primary_key=True, autoincrement=True),
    # These three name it: batches that name the same slots share their places.
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("booking", sa.Text, nullable=False, comment="names the file of slots"),
    sa.Column("slot", sa.Text, nullable=False, comment="its id in the file"),
    sa.Column("starts_at", Instant, nullable=False),
    sa.Column("minutes", sa.Integer, nullable=False),
    sa.Column("clinician", sa.Text),
    sa.Column("place", sa.Text),
    sa.Column("capacity", sa.Integer, nullable=False),
    sa.Column(
        "booked",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="open bookings; more than the capacity only where that was made smaller",
    ),
    sa.Column("added_at", Instant, nullable=False),
    sa.Column("removed_at", Instant, comment="when the file had it no more: nobody else books it"),
    sa.UniqueConstraint("workspace", "booking", "slot"),
    sa.CheckConstraint("booked >= 0", name="booked"),
)

OPEN_BOOKING = "ended_at IS NULL"
OVER = "over"
"""Why a booking ended of which nothing was given up: the patient was invited anew after the appointment."""

bookings = sa.Table(
    "bookings",
    metadata,
    sa.Column("id", RowId, primary_key=True, autoincrement=True),
    sa.Column("identifier", sa.Text, nullable=False, unique=True, comment="a random UUID, as calendars and FHIR want"),
    # Whose slots: a patient has one open choice of them, by whichever batch's link.
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("booking", sa.Text, nullable=False),
    # No key to the batch itself: who revokes its links has it, and waits for the links that are booked by.
    sa.Column("batch", sa.Text, nullable=False),
    sa.Column("patient", sa.Text, nullable=False, comment="keyed hash of the NHS number"),
    sa.Column("line", sa.Integer, nullable=False),
    sa.Column("slot", RowId, sa.ForeignKey("slots.id"), comment="null: the patient declined"),
    sa.Column("made_at", Instant, nullable=False),
    sa.Column("ended_at", Instant),
    sa.Column("ended_because", sa.Text, comment="changed | cancelled | booked (after declining)"),
    sa.ForeignKeyConstraint(["batch", "patient"], ["links.batch", "links.patient"]),
    # Nobody has two, whoever asks for them at the same time.
    sa.Index(
        "uq_bookings_open",
        "workspace",
        "booking",
        "patient",
        unique=True,
        sqlite_where=sa.text(OPEN_BOOKING),
        postgresql_where=sa.text(OPEN_BOOKING),
    ),
    sa.Index(None, "batch", "patient"),
    sa.Index(None, "patient"),
    sa.Index(None, "slot"),
    comment="what each patient chose of the slots; one that was changed or cancelled keeps its row",
)

booking_reports = sa.Table(
    "booking_reports",
    metadata,
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.batch"), primary_key=True),
    sa.Column("changes", sa.Integer, nullable=False, comment="how many choices, and ends of choices, its report has"),
)

pds_answers = sa.Table(
    "pds_answers",
    metadata,
    sa.Column("workspace", sa.Text, primary_key=True, comment="on whose behalf was asked: nobody else sees the answer"),
    sa.Column("patient", sa.Text, primary_key=True, comment="keyed hash of the NHS number that was asked for"),
    sa.Column("fetched_at", Instant, nullable=False),
    sa.Column(
        "outcome",
        sa.Text,
        nullable=False,
        comment="found | deceased | restricted | invalidated | exit_coded | not_found | other_person | failed",
    ),
    # Personal: emptied by the purge.
    sa.Column("current_number", sa.Text, comment="the NHS number that has superseded the one asked for"),
    sa.Column("mobile", sa.Text, comment="E.164"),
    sa.Column("email", sa.Text),
)

record_chunks = sa.Table(
    "record_chunks",
    metadata,
    sa.Column("reference", sa.Text, primary_key=True, comment="names a file of the record folder; never reused"),
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.batch"), nullable=False),
    sa.Column("resource_type", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False, comment="grows with each takeover; an older holder's notes miss"),
    sa.Column("lease_until", Instant, nullable=False, comment="by the machine's clock, never by --at"),
    sa.Column("claimed_at", Instant, nullable=False),
    sa.Column("settled_at", Instant, comment="when the last of its entries was noted; null while it is open"),
    sa.Index(None, "batch"),
    comment="entries of the record that are written together, under a lease",
)

UNNOTED = "outcome IS NULL"

record_entries = sa.Table(
    "record_entries",
    metadata,
    sa.Column("identifier", sa.Text, primary_key=True, comment="of the FHIR resource; a message's is its reference"),
    sa.Column("batch", sa.Text, sa.ForeignKey("batches.batch"), nullable=False),
    sa.Column("line", sa.Integer, comment="null: of a patient that this ledger has forgotten"),
    sa.Column("chunk", sa.Text, sa.ForeignKey("record_chunks.reference"), nullable=False),
    sa.Column("outcome", sa.Text, comment="written | refused; null while nothing is known"),
    sa.Column("code", sa.Text, comment="why it was refused; no personal data"),
    sa.Column("noted_at", Instant),
    sa.Index(None, "batch", "outcome"),
    _partial_index("ix_record_entries_unnoted", UNNOTED, "chunk"),
    comment="what is, or is about to be, in patients' records: each once",
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", RowId, primary_key=True, autoincrement=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("batch", sa.Text),
    sa.Column("detail", sa.Text, nullable=False, comment="JSON; no personal data"),
)

paces = sa.Table(
    "paces",
    metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column(
        "free_at",
        Instant,
        nullable=False,
        comment="when the account's next request may be made, by the machine's clock",
    ),
)

facts = sa.Table(
    "facts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    comment="what this ledger knows about itself: which hash key it was begun with",
)
