"""The tables of a batch's plan: one pandera schema each, the single place where their columns are told.

Dagster shows them as the assets' columns, and ``broken`` runs their checks in DuckDB over the whole Parquet
file: pandera's pandas backend would need every row in memory, ten times over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandera.pandas as pa

from batch_pipeline.planning.duck import scan
from batch_pipeline.rules import steps
from batch_pipeline.rules.demographics import OUTCOMES
from batch_pipeline.rules.headings import FIELDS
from batch_pipeline.rules.reasons import CODES as REASONS
from batch_pipeline.rules.rejections import REJECTIONS

PATHS = ("email", "nhs_app", "sms")
TEXT = "VARCHAR"


def _column(kind: str, description: str, *checks: pa.Check, nullable: bool = False, unique: bool = False) -> pa.Column:
    """A column of DuckDB type ``kind``: pandera's dtype has no word for DATE or VARCHAR[] over Parquet."""
    return pa.Column(
        None, list(checks), nullable=nullable, unique=unique, description=description, metadata={"type": kind}
    )


def _line() -> pa.Column:
    return _column("INTEGER", "the row a person sees in a spreadsheet", pa.Check.ge(1))


_NHS_NUMBER = _column(TEXT, "ten digits, check digit right")
"""Downstream of ``patients``, where its form is checked."""


_AS_TYPED = {
    name: _column(TEXT, f"{name.replace('_', ' ')} as it stands in the file", nullable=True)
    for name in ("nhs_number", "patient_name", "date_of_birth")
}

NHS_APP_ACCOUNTS = pa.DataFrameSchema(
    {
        "nhs_number": _column(TEXT, "ten digits", pa.Check.str_matches(r"^[0-9]{10}$")),
        "notifications_enabled": _column("BOOLEAN", "whether messages by the App reach this patient"),
    },
    name="nhs_app_accounts",
    strict=True,
    description="A practice's patients with the NHS App as NHS Notify told on one day: all of them, or no table.",
)

COHORT = pa.DataFrameSchema(
    {
        "line": _line(),
        "problem": _column(TEXT, "why the line can't be read", pa.Check.isin(list(REJECTIONS)), nullable=True),
        **{name: _column(TEXT, "as it stands in the file", nullable=True) for name in FIELDS},
    },
    name="cohort",
    strict=False,
    description="Every data line of the file as it stands, with its row number; other headings are kept as they are.",
)

PATIENTS = pa.DataFrameSchema(
    {
        "line": _line(),
        "nhs_number": _column(TEXT, "ten digits, check digit right", pa.Check.str_matches(r"^[0-9]{10}$"), unique=True),
        "patient_name": _column(TEXT, "full name, where the file has it in one cell", nullable=True),
        "first_name": _column(TEXT, "given name, or found in the full name", nullable=True),
        "surname": _column(TEXT, "family name, or found in the full name", nullable=True),
        "date_of_birth": _column("DATE", "between 1900 and the day of planning", nullable=True),
        "email": _column(TEXT, "a well-formed address", nullable=True),
        "email_kind": _column(TEXT, "what the email cell holds", pa.Check.isin(["none", "good", "bad"])),
        "email_detail": _column(TEXT, "why a bad email is bad", nullable=True),
        "mobile": _column(
            TEXT, "first usable UK mobile, E.164", pa.Check.str_matches(r"^\+44[0-9]{7,10}$"), nullable=True
        ),
        "phone_kind": _column(
            TEXT,
            "the best of the line's telephone numbers",
            pa.Check.isin(["none", "mobile", "landline", "not_mobile", "not_uk"]),
        ),
        "phone_detail": _column(TEXT, "why the number is unusable", nullable=True),
        "deceased": _column("BOOLEAN", "deceased on any line of this patient"),
        "deceased_detail": _column(TEXT, "'unclear' when the file's word was neither yes nor no", nullable=True),
    },
    name="patients",
    description="One row a patient of the file: readable, valid, and the line that stays of several.",
)

REJECTED_ROWS = pa.DataFrameSchema(
    {
        "line": _line(),
        "reason": _column(TEXT, "code of the reason", pa.Check.isin(list(REJECTIONS))),
        "detail": _column(TEXT, "what exactly is wrong, without the value", nullable=True),
        **_AS_TYPED,
    },
    name="rejected_rows",
    description="Lines that can't be read or whose NHS number or date of birth is invalid.",
)

DUPLICATES = pa.DataFrameSchema(
    {
        "line": _line(),
        "kept_line": _column("INTEGER", "the line of the same patient that stays", pa.Check.ge(1)),
        "disagrees": _column("BOOLEAN", "its contact details differ from those of the line that stays"),
    },
    name="duplicates",
    description="Further lines of a patient who is already in the list.",
)

PDS_DETAILS = pa.DataFrameSchema(
    {
        "line": _line(),
        "outcome": _column(TEXT, "what the look-up came to", pa.Check.isin(list(OUTCOMES))),
        "current_number": _column(
            TEXT, "the NHS number that has superseded the file's", pa.Check.str_matches(r"^[0-9]{10}$"), nullable=True
        ),
        "mobile": _column(
            TEXT, "a usable mobile of PDS, E.164", pa.Check.str_matches(r"^\+44[0-9]{7,10}$"), nullable=True
        ),
        "email": _column(TEXT, "a well-formed address of PDS", nullable=True),
        "fetched_at": _column("TIMESTAMP WITH TIME ZONE", "when PDS said so; empty: it wasn't asked", nullable=True),
        "duplicate_of": _column(
            "INTEGER",
            "the line of the same patient under the current number, that stays",
            pa.Check.ge(1),
            nullable=True,
        ),
    },
    name="pds_details",
    strict=True,
    description="What PDS says of the patients whose details the file lacks. Empty where the workspace doesn't look up.",
)

CONTACTABILITY = pa.DataFrameSchema(
    {
        "line": _line(),
        "path": _column(TEXT, "the path that the table gives", pa.Check.isin(list(PATHS))),
        "rule": _column(TEXT, "the cell of the path table that chose it"),
        "contactable": _column("BOOLEAN", "no reason holds"),
        "reasons": _column("VARCHAR[]", "all reasons that hold, in the order of the SPEC"),
        "primary_reason": _column(TEXT, "the first of them", pa.Check.isin(list(REASONS)), nullable=True),
        "sub_reason": _column(
            TEXT, "landline_only | not_mobile | what a look-up or an earlier batch found out", nullable=True
        ),
        "detail": _column(TEXT, "what a person needs to put it right, without the value", nullable=True),
        "begun": _column("BOOLEAN", "the message is under way already, and stays as it was sent"),
    },
    name="contactability",
    description="For every patient: which path the table gives, and every reason why it can't be used.",
)

RECIPIENTS = pa.DataFrameSchema(
    {
        "line": _line(),
        "path": _column(TEXT, "the path chosen", pa.Check.isin(list(PATHS))),
        "rule": _column(TEXT, "the cell of the path table that chose it"),
        "address": _column(TEXT, "email address, E.164 number, or the NHS number for the App"),
        "fallback_number": _column(TEXT, "E.164 number an unread App message may fall back to", nullable=True),
        "begun": _column("BOOLEAN", "the message is under way already, and stays as it was sent"),
        "current_number": _column(TEXT, "the NHS number that has superseded the file's", nullable=True),
    },
    name="recipients",
    description="Patients who can be contacted.",
)

NON_CONTACTABLE = pa.DataFrameSchema(
    {
        "line": _line(),
        "nhs_number": _NHS_NUMBER,
        "patient_name": _column(TEXT, "full name", nullable=True),
        "date_of_birth": _column("DATE", "date of birth", nullable=True),
        "primary_reason": _column(TEXT, "first reason that holds", pa.Check.isin(list(REASONS))),
        "reasons": _column("VARCHAR[]", "all reasons that hold"),
        "sub_reason": _column(
            TEXT, "landline_only | not_mobile | what a look-up or an earlier batch found out", nullable=True
        ),
        "detail": _column(TEXT, "what a person needs to put it right, without the value", nullable=True),
    },
    name="non_contactable",
    description="Patients who can't be contacted, and why.",
)

CHANNEL_PLAN = pa.DataFrameSchema(
    {
        "line": _line(),
        "nhs_number": _NHS_NUMBER,
        "path": _column(TEXT, "the channel of the one message", pa.Check.isin(list(PATHS))),
        "rule": _column(TEXT, "the cell of the path table that chose it"),
        "snapshot": _column(TEXT, "date of the NHS App snapshot it was chosen from", nullable=True),
        "address": _column(TEXT, "email address, E.164 number, or the NHS number for the App"),
        "fallback_number": _column(TEXT, "E.164 number an unread App message falls back to", nullable=True),
        "no_sms_fallback": _column("BOOLEAN", "goes by the App and has no number to fall back to"),
        "held_back": _column("BOOLEAN", "had this message from this workspace in the last 30 days"),
        "fragments": _column("INTEGER", "SMS fragments of the text, of the fallback for the App", pa.Check.ge(0)),
        "reminder_fragments": _column("INTEGER", "the same of a reminder; 0 where nobody is reminded", pa.Check.ge(0)),
        "complete": _column("BOOLEAN", "every field of the message has a value"),
        "characters": _column("BIGINT", "length of the text as it is sent", nullable=True),
        "sms_characters": _column("BIGINT", "length of the SMS, or of the one it may fall back to", nullable=True),
    },
    name="channel_plan",
    description="For every recipient: path, address, rule, and what it will take.",
)

BATCH_PLAN = pa.DataFrameSchema(
    {
        "figure": _column(TEXT, "dotted name, as in the plan's JSON"),
        "value": _column(TEXT, "as JSON"),
    },
    name="batch_plan",
    strict=True,
    description="The plan a person reviews: figures, costs, samples, warnings, and the hash that an approval carries.",
)

_ATTEMPT = {
    "line": _line(),
    "step": _column(
        TEXT,
        "the one message, the SMS an unread App message fell back to, or the reminder of a day",
        pa.Check.isin([steps.PRIMARY, steps.FALLBACK, *steps.REMINDERS]),
    ),
    "channel": _column(TEXT, "how it goes", pa.Check.isin(list(PATHS))),
    "provider": _column(TEXT, "who carries it"),
    "reference": _column(TEXT, "ours, known to the provider", unique=True),
    "state": _column(TEXT, "what the attempt is, by the one rule over its times"),
    "fragments": _column("INTEGER", "SMS fragments it takes, or its fallback would", pa.Check.ge(0)),
    **{
        name: _column("TIMESTAMP WITH TIME ZONE", description, nullable=True)
        for name, description in {
            "queued_at": "when the approved plan was written to the outbox",
            "begun_at": "when it was claimed for sending",
            "accepted_at": "when the provider took it",
            "delivered_at": "earliest delivery confirmation",
            "read_at": "earliest reading in the App",
            "failed_at": "earliest failure",
        }.items()
    },
    "failure_kind": _column(TEXT, "permanent | temporary | technical | rejected | refused", nullable=True),
    "failure_code": _column(TEXT, "the provider's own code", nullable=True),
}


def _attempts(name: str, description: str) -> pa.DataFrameSchema:
    return pa.DataFrameSchema(_ATTEMPT, name=name, strict=True, description=description)


OUTBOX = _attempts("outbox", "The approved plan's messages as they were queued in the ledger: one a patient.")
DISPATCH = _attempts("dispatch", "The same messages after sending: who took each, and when.")
RECEIPTS = _attempts("receipts", "Every attempt of the batch with what its provider has said of it so far.")
REMINDERS = _attempts("reminders", "What went again, with a word before it, to patients who hadn't answered.")
FALLBACKS = _attempts("fallbacks", "The SMS that unread or failed App messages fell back to.")

RECORDS = pa.DataFrameSchema(
    {
        "line": _column("INTEGER", "the line in the cohort; empty for a patient the ledger forgot", nullable=True),
        "identifier": _column(TEXT, "of the FHIR resource; a message's is its reference", unique=True),
        "resource_type": _column(TEXT, "FHIR's name of it"),
        "chunk": _column(TEXT, "what it was written in; names a file of the record folder"),
        "outcome": _column(
            TEXT, "empty while it is being written", pa.Check.isin(["written", "refused"]), nullable=True
        ),
        "code": _column(TEXT, "why it was refused", nullable=True),
        "noted_at": _column("TIMESTAMP WITH TIME ZONE", "when the record had it, or refused it", nullable=True),
    },
    name="records",
    strict=True,
    description="What of the batch is in patients' records, or was refused there: each message once.",
)

INBOX = pa.DataFrameSchema(
    {
        "line": _line(),
        "state": _column(TEXT, "whether the patient has sent the answers", pa.Check.isin(["in_progress", "completed"])),
        "answers": _column("INTEGER", "how many questions were answered", pa.Check.ge(0)),
        "urgent": _column("BOOLEAN", "whether something was answered that can't wait"),
        "untold": _column("BOOLEAN", "whether nobody at the practice has been told of it yet"),
        "first_at": _column("TIMESTAMP WITH TIME ZONE", "the first answer"),
        "changed_at": _column("TIMESTAMP WITH TIME ZONE", "the latest change"),
        "completed_at": _column("TIMESTAMP WITH TIME ZONE", "when they were sent", nullable=True),
    },
    name="inbox",
    strict=True,
    description="Who has answered the batch's questionnaire, and whose answers can't wait; the answers: responses.csv.",
)

BOOKINGS = pa.DataFrameSchema(
    {
        "line": _column("INTEGER", "the line in the cohort", unique=True),
        "answer": _column(
            TEXT, "what the patient chose last", pa.Check.isin(["none", "booked", "cancelled", "declined"])
        ),
        "slot": _column(TEXT, "its id in the file of slots", nullable=True),
        "starts_at": _column("TIMESTAMP WITH TIME ZONE", "when it begins", nullable=True),
        "minutes": _column("INTEGER", "how long it takes", pa.Check.ge(1), nullable=True),
        "clinician": _column(TEXT, "with whom", nullable=True),
        "place": _column(TEXT, "where", nullable=True),
        "made_at": _column("TIMESTAMP WITH TIME ZONE", "when it was chosen", nullable=True),
        "ended_at": _column("TIMESTAMP WITH TIME ZONE", "when it was cancelled", nullable=True),
    },
    name="bookings",
    strict=True,
    description="What each patient of a self-book batch chose last: a slot, none, or nothing yet. Empty for other batches.",
)

DELIVERY_METRICS = pa.DataFrameSchema(
    {
        "batch": _column(TEXT, "the batch"),
        "workspace": _column(TEXT, "who sent"),
        "message_type": _column(TEXT, "simple | questionnaire | self_book"),
        "template": _column(TEXT, "template and version; empty for own text", nullable=True),
        "day": _column("DATE", "day of acceptance in the workspace's zone; empty while unsent", nullable=True),
        "step": _column(TEXT, steps.WORDS),
        "channel": _column(TEXT, "email | nhs_app | sms"),
        "provider": _column(TEXT, "who carried it; simulator is no real delivery"),
        "state": _column(TEXT, "what the attempts are"),
        "attempts": _column("BIGINT", "how many", pa.Check.ge(0)),
        "fragments": _column("BIGINT", "SMS fragments accepted by a provider", pa.Check.ge(0)),
    },
    name="delivery_metrics",
    strict=True,
    description="What became of the batch's messages, by day, channel, provider and state; the analysts' metrics.duckdb.",
)

SCHEMAS = {
    schema.name: schema
    for schema in (
        NHS_APP_ACCOUNTS,
        COHORT,
        PATIENTS,
        REJECTED_ROWS,
        DUPLICATES,
        PDS_DETAILS,
        CONTACTABILITY,
        RECIPIENTS,
        NON_CONTACTABLE,
        CHANNEL_PLAN,
        BATCH_PLAN,
        OUTBOX,
        DISPATCH,
        RECEIPTS,
        FALLBACKS,
        REMINDERS,
        RECORDS,
        INBOX,
        BOOKINGS,
        DELIVERY_METRICS,
    )
}


def broken(connection: duckdb.DuckDBPyConnection, schema: pa.DataFrameSchema, path: Path) -> dict[str, int]:
    """Which of the schema's checks the Parquet file breaks: ``{"column: check": rows}``, empty when it fits.

    Names and counts only: pandera's own failure cases would carry patients' cells.
    """
    found = {str(name): str(kind) for name, kind, *_ in connection.sql(f"DESCRIBE FROM {scan(path)}").fetchall()}
    wanted = {name: str((column.metadata or {})["type"]) for name, column in schema.columns.items()}
    shape = {
        f"{name}: is {found.get(name, 'missing')}, not {kind}": 1
        for name, kind in wanted.items()
        if found.get(name) != kind
    }
    if schema.strict:
        shape |= {f"{name}: not in the schema": 1 for name in found.keys() - wanted.keys()}
    if shape:
        return shape
    counted = list(_counts(schema))
    row = connection.sql(f"SELECT {', '.join(sql for _, sql in counted)} FROM {scan(path)}").fetchall()[0]
    return {label: int(n) for (label, _), n in zip(counted, row, strict=True) if n}


def _counts(schema: pa.DataFrameSchema) -> Iterator[tuple[str, str]]:
    """``(label, SQL counting the rows that break it)`` for each rule of the schema."""
    for name, column in schema.columns.items():
        if not column.nullable:
            yield f"{name}: empty", f'count(*) - count("{name}")'
        if column.unique:
            yield f"{name}: not unique", f'count("{name}") - count(DISTINCT "{name}")'
        for check in column.checks or []:
            yield f"{name}: {check.name}", f"count(*) FILTER (NOT ({_check_sql(name, check)}))"


def _check_sql(column: str, check: Any) -> str:
    """The pandera check as a DuckDB condition; ``KeyError`` for a kind no schema here uses."""
    terms = check.statistics
    return {
        "isin": lambda: f'"{column}" IN ({", ".join(_literal(value) for value in terms["allowed_values"])})',
        "greater_than_or_equal_to": lambda: f'"{column}" >= {terms["min_value"]}',
        "str_matches": lambda: (
            f'regexp_matches("{column}", {_literal(getattr(terms["pattern"], "pattern", terms["pattern"]))})'
        ),
    }[check.name]()


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def astray(connection: duckdb.DuckDBPyConnection, whole: Path, parts: tuple[Path, ...]) -> int:
    """How many lines of ``whole`` aren't in exactly one of ``parts``, or are in a part and not in ``whole``.

    First by a checksum over all lines, which takes a tenth of the time; lines are only counted where it differs.
    """
    placed = " UNION ALL ".join(f"SELECT line FROM {scan(part)}" for part in parts)
    checksum = "count(*), coalesce(sum(hash(line)::HUGEINT), 0), coalesce(sum(hash(line, 1)::HUGEINT), 0)"
    if (
        connection.sql(f"SELECT {checksum} FROM {scan(whole)}").fetchall()
        == connection.sql(f"SELECT {checksum} FROM ({placed})").fetchall()
    ):
        return 0
    return connection.sql(f"""
        SELECT count(*) FROM (
            SELECT line, sum(here) AS here, sum(there) AS there FROM (
                SELECT line, 1 AS here, 0 AS there FROM {scan(whole)}
                UNION ALL SELECT line, 0, 1 FROM ({placed})
            ) GROUP BY line HAVING here <> 1 OR there <> 1
        )
    """).fetchall()[0][0]


def masked_samples(connection: duckdb.DuckDBPyConnection, patients: Path) -> dict[str, str]:
    """The first few lines' mobiles with all but the last three digits hidden: ``{line: "07•••• •••123"}``."""
    rows = connection.sql(f"""
        SELECT line, '07•••• •••' || right(mobile, 3) FROM {scan(patients)} WHERE mobile IS NOT NULL ORDER BY line LIMIT 5
    """).fetchall()
    return {str(line): masked for line, masked in rows}


@dataclass(frozen=True)
class Addressing:
    """What the blocking checks ask of a channel plan."""

    without_address: int
    twice: int
    by_rule: dict[str, int]


def addressing(connection: duckdb.DuckDBPyConnection, channel_plan: Path) -> Addressing:
    """Counts recipients whose address doesn't fit their path, and patients who stand in the plan more than once."""
    without, twice = connection.sql(f"""
        SELECT count(*) FILTER (NOT coalesce(CASE path
                WHEN 'email' THEN contains(address, '@')
                WHEN 'sms' THEN starts_with(address, '+44')
                WHEN 'nhs_app' THEN address = nhs_number END, false)),
            count(*) - count(DISTINCT nhs_number)
        FROM {scan(channel_plan)}
    """).fetchall()[0]
    by_rule = connection.sql(f"SELECT rule, count(*) FROM {scan(channel_plan)} GROUP BY ALL ORDER BY ALL").fetchall()
    return Addressing(without, twice, dict(by_rule))
