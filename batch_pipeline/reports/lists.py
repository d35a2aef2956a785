"""The rows of each report, as DuckDB relations over a batch's tables, ordered by line.

Tables come in as FROM-terms (``read_parquet('…')``, or the name of a table or view of the connection). Columns are
those of ``columns``; ``csv_files.write_csv`` writes them.
"""

from collections.abc import Mapping

import duckdb

from batch_pipeline.rules import reasons
from batch_pipeline.rules.follow_up import FAILURES, FOLLOW_UPS, LOCKED, follow_up_sql
from batch_pipeline.rules.names import full_name_sql
from batch_pipeline.rules.rejections import REJECTIONS
from batch_pipeline.rules.states import (
    ATTEMPT_LABELS,
    PatientFacts,
    ended_sql,
    may_fall_back_sql,
    patient_class_sql,
    taken_sql,
)

_PATH_LABELS = {"email": "Email", "nhs_app": "NHS App", "sms": "SMS"}


def non_contactable(con: duckdb.DuckDBPyConnection, table: str) -> duckdb.DuckDBPyRelation:
    """From ``non_contactable``: every patient who can't be contacted, with labels and remedy."""
    labels = {reason.code: reason.label for reason in reasons.REASONS}
    sub_labels = {sub.code: sub.label for sub in reasons.SUB_REASONS}
    sub_remedies = {sub.code: sub.remedy for sub in reasons.SUB_REASONS}
    remedies = {reason.code: reason.remedy for reason in reasons.REASONS}
    return con.sql(f"""
        SELECT line, nhs_number, patient_name, date_of_birth, {_words("primary_reason", labels)} AS primary_reason,
            array_to_string(list_transform(reasons, lambda code: {_words("code", labels)}), '; ') AS all_reasons,
            {_joined(_words("sub_reason", sub_labels, other="NULL"), "detail")} AS detail,
            coalesce({_words("sub_reason", sub_remedies, other="NULL")}, {_words("primary_reason", remedies)}) AS remedy,
            array_to_string(reasons, '; ') AS reason_codes
        FROM {table} ORDER BY line
    """)


def rejected_rows(con: duckdb.DuckDBPyConnection, table: str) -> duckdb.DuckDBPyRelation:
    """From ``rejected_rows``: every line that could not be used, with label and remedy."""
    return con.sql(f"""
        SELECT line, nhs_number, patient_name, date_of_birth, detail, reason AS reason_code,
            {_words("reason", {code: row.label for code, row in REJECTIONS.items()})} AS reason,
            {_words("reason", {code: row.remedy for code, row in REJECTIONS.items()})} AS remedy
        FROM {table} ORDER BY line
    """)


def duplicates(con: duckdb.DuckDBPyConnection, table: str) -> duckdb.DuckDBPyRelation:
    """From ``duplicates``: every further line of a patient, and the line that stays."""
    return con.sql(f"""
        SELECT line, kept_line, CASE WHEN disagrees THEN 'yes' ELSE 'no' END AS disagrees FROM {table} ORDER BY line
    """)


def outcomes(
    con: duckdb.DuckDBPyConnection, *, channel_plan: str, patients: str, attempts: str, zone: str
) -> duckdb.DuckDBPyRelation:
    """What became of every recipient. ``zone``: the workspace's, by its IANA name.

    ``channel_plan`` and ``patients`` as planned; ``attempts``: the columns of ``ledger.snapshot.SCHEMA``, all
    steps. Once there are attempts, they say who the recipients are, whatever plan was made later; before that, the
    plan does.
    """
    times = ("queued_at", "begun_at", "accepted_at", "delivered_at", "read_at", "failed_at", "timed_out_at")
    second = ("queued_at", "accepted_at", "delivered_at", "failed_at", "timed_out_at")
    return con.sql(f"""
        WITH {_patients_cte(attempts)}, recipient AS (
            SELECT line FROM sent UNION ALL SELECT line FROM {channel_plan} WHERE (SELECT count(*) FROM sent) = 0
        ), chosen AS (
            SELECT line, coalesce(s.channel, c.path) AS channel, c.rule, c.snapshot,
                coalesce(s.state, CASE WHEN c.held_back THEN 'held_back' ELSE 'queued' END) AS state,
                s.* EXCLUDE (line, channel, state)
            FROM recipient LEFT JOIN sent s USING (line)
            LEFT JOIN (SELECT line, path, rule, snapshot, held_back FROM {channel_plan}) c USING (line)
        )
        SELECT line, nhs_number, channel AS path, rule, snapshot, provider, {patient_class_sql(_KNOWN)} AS outcome,
            CASE WHEN {ended_sql(_KNOWN)} = 1 THEN 'yes' ELSE 'no' END AS ended, state,
            {", ".join(f"{_local(name, zone)} AS {name}" for name in times)},
            failure_kind AS failure, failure_code, policy, fallback_provider, fallback_state,
            {", ".join(f"{_local(f'fallback_{name}', zone)} AS fallback_{name}" for name in second)},
            fallback_failure_kind AS fallback_failure, fallback_failure_code,
            {_local("no_fallback_at", zone)} AS no_fallback_at, no_fallback_because,
            CASE WHEN channel = 'nhs_app' AND state = 'read' AND fallback_taken THEN 'yes' ELSE 'no' END AS double_contact,
            CASE WHEN channel = 'sms' AND taken THEN fragments ELSE 0 END
                + CASE WHEN fallback_taken THEN fallback_fragments ELSE 0 END + coalesce(reminder_fragments, 0) AS fragments,
            coalesce(reminders, 0) AS reminders, {_local("reminded_at", zone)} AS reminded_at
        FROM chosen LEFT JOIN (SELECT line, nhs_number FROM {patients}) USING (line)
        ORDER BY line
    """)


def follow_up(
    con: duckdb.DuckDBPyConnection, *, patients: str, attempts: str, locked: str, zone: str
) -> duckdb.DuckDBPyRelation:
    """Whom a person should look after, as things stand. Arguments as of ``outcomes``.

    ``locked``: the ``line`` and ``locked_at`` of each link that is locked.
    """
    labels = {row.code: row.label for row in FOLLOW_UPS}
    remedies = {row.code: row.remedy for row in FOLLOW_UPS}
    why_not = {row.code: row.label for row in reasons.NO_FALLBACK}
    why_not_remedies = {row.code: row.remedy for row in reasons.NO_FALLBACK}
    return con.sql(f"""
        WITH {_patients_cte(attempts)}, found AS (
            SELECT sent.*, locked_at,
                coalesce({follow_up_sql(_KNOWN)}, CASE WHEN locked_at IS NOT NULL THEN '{LOCKED}' END) AS code
            FROM sent LEFT JOIN (SELECT line, locked_at FROM {locked}) USING (line)
        )
        SELECT line, nhs_number, patient_name, date_of_birth, {_words("channel", _PATH_LABELS)} AS sent_by,
            {_words("code", labels)} AS happened,
            {
        _joined(
            _ending("channel", "state", "failure_kind", "failure_code"),
            _ending("'sms'", "fallback_state", "fallback_failure_kind", "fallback_failure_code"),
            "'No text followed: ' || " + _words("no_fallback_because", why_not),
            f"CASE WHEN locked_at IS NOT NULL AND code <> '{LOCKED}' THEN 'The link is locked' END",
        )
    } AS detail,
            coalesce({_words("no_fallback_because", why_not_remedies, other="NULL")}, {
        _words("code", remedies)
    }) AS remedy,
            {_local(f"CASE code WHEN '{LOCKED}' THEN locked_at ELSE {_LATEST} END", zone)} AS since,
            {
        _joined("provider", "CASE WHEN fallback_provider <> provider THEN fallback_provider END")
    } AS provider, code
        FROM found LEFT JOIN (
            SELECT line, nhs_number, {full_name_sql("p")} AS patient_name, date_of_birth FROM {patients} p
        ) USING (line)
        WHERE code IS NOT NULL ORDER BY line
    """)


_ANSWERS = {"none": "Not answered", "booked": "Booked", "cancelled": "Cancelled", "declined": "Declined"}


def bookings(
    con: duckdb.DuckDBPyConnection, table: str, *, patients: str, decline_code: str | None, zone: str
) -> duckdb.DuckDBPyRelation:
    """From ``bookings``: what each patient who can book chose last. ``zone``: the workspace's, by its IANA name."""
    code = "NULL::VARCHAR" if decline_code is None else f"CASE answer WHEN 'declined' THEN {_literal(decline_code)} END"
    return con.sql(f"""
        SELECT line, nhs_number, patient_name, date_of_birth, {_words("answer", _ANSWERS)} AS answer,
            {_local("starts_at", zone)} AS starts_at, minutes, clinician, place, slot,
            {_local("made_at", zone)} AS made_at, {_local("ended_at", zone)} AS ended_at,
            {code} AS decline_code, answer AS code
        FROM {table} LEFT JOIN (
            SELECT line, nhs_number, {full_name_sql("p")} AS patient_name, date_of_birth FROM {patients} p
        ) USING (line)
        ORDER BY line
    """)


def slots(con: duckdb.DuckDBPyConnection, table: str, *, now: str, zone: str) -> duckdb.DuckDBPyRelation:
    """From a clinic's slots: ``slot, starts_at, minutes, clinician, place, capacity, booked, removed_at``."""
    return con.sql(f"""
        SELECT slot, {_local("starts_at", zone)} AS starts_at, minutes, clinician, place, capacity, booked,
            CASE WHEN removed_at IS NULL AND s.starts_at > {_literal(now)}::TIMESTAMPTZ
                THEN greatest(0, capacity - booked) ELSE 0 END AS free,
            CASE WHEN removed_at IS NOT NULL AND booked > 0 THEN 'taken out of the file; the patients are still booked'
                WHEN removed_at IS NOT NULL THEN 'taken out of the file'
                WHEN booked > capacity THEN 'more patients are booked than it holds by now' END AS remark
        FROM {table} s ORDER BY s.starts_at, slot
    """)


_KNOWN = PatientFacts(
    channel="channel",
    primary="state",
    fallback="fallback_state",
    may_fall_back="may_fall_back",
    no_fallback="no_fallback_at IS NOT NULL",
)

_LATEST = "greatest(failed_at, timed_out_at, unconfirmed_at, no_fallback_at, fallback_failed_at, fallback_timed_out_at, fallback_unconfirmed_at)"

_SECOND = (
    *("provider", "state", "queued_at", "accepted_at", "delivered_at", "failed_at", "failure_kind", "failure_code"),
    *("timed_out_at", "unconfirmed_at", "fragments"),
)


def _patients_cte(attempts: str) -> str:
    """``sent``: a row a patient, the fallback's columns beside the primary's under ``fallback_…``, and its reminders."""
    # The policy is stamped with the window: where one stands, so does the other.
    may_fall_back = may_fall_back_sql("p", window="policy")
    return f"""sent AS (
        SELECT p.*, {may_fall_back} AS may_fall_back, {taken_sql("p")} AS taken, {", ".join(f"f.{name} AS fallback_{name}" for name in _SECOND)},
            f.line IS NOT NULL AND {taken_sql("f")} AS fallback_taken, r.reminders, r.reminded_at, r.reminder_fragments
        FROM (FROM {attempts} WHERE step = 'primary') p
        LEFT JOIN (FROM {attempts} WHERE step = 'fallback') f ON f.line = p.line
        LEFT JOIN (
            SELECT line, count(*) AS reminders, max(accepted_at) AS reminded_at,
                sum(fragments) FILTER (channel = 'sms') AS reminder_fragments
            FROM {attempts} a WHERE step NOT IN ('primary', 'fallback') AND {taken_sql("a")} GROUP BY line
        ) r ON r.line = p.line
    )"""


def _ending(channel: str, state: str, kind: str, code: str) -> str:
    """What is said of a message that didn't get through: "SMS: rejected (CODE)"; NULL for any other."""
    said = f"CASE WHEN {state} = 'failed' THEN coalesce({_words(kind, FAILURES)}, 'failed') || coalesce(' (' || {code} || ')', '') ELSE {_words(state, ATTEMPT_LABELS)} END"
    ended = "('failed', 'timed_out', 'unconfirmed', 'cancelled', 'expired', 'held_back')"
    return f"CASE WHEN {state} IN {ended} THEN {_words(channel, _PATH_LABELS)} || ': ' || {said} END"


def _words(column: str, words: Mapping[str, str], other: str | None = None) -> str:
    """SQL text value: the words for a code. A code without words stands for itself, or gives ``other``."""
    branches = " ".join(f"WHEN {_literal(code)} THEN {_literal(text)}" for code, text in words.items())
    return f"CASE {column} {branches} ELSE {other or column} END"


def _joined(*parts: str) -> str:
    """SQL text value: the parts that aren't NULL, between semicolons; NULL when all are."""
    return f"nullif(concat_ws('; ', {', '.join(parts)}), '')"


def responses(con: duckdb.DuckDBPyConnection, answers: str, *, patients: str, zone: str) -> duckdb.DuckDBPyRelation:
    """What every patient answered: ``answers`` as ``responses.read`` has them, with who the patients are."""
    times = ("first_at", "changed_at", "completed_at", "told_at")
    return con.sql(f"""
        SELECT a.* EXCLUDE ({", ".join(times)}), {full_name_sql("p")} AS patient_name,
            p.date_of_birth::VARCHAR AS date_of_birth,
            {", ".join(f"{_local(f'a.{name}', zone)} AS {name}" for name in times)}
        FROM {answers} a LEFT JOIN {patients} p USING (line) ORDER BY line
    """)


def _local(instant: str, zone: str) -> str:
    """SQL text value: ``2026-10-01T09:00:00+01:00`` of a TIMESTAMPTZ, in the zone. No setting of the connection counts."""
    there = f"timezone({_literal(zone)}, {instant})"
    offset = f"(epoch_ms({there}) - epoch_ms({instant})) // 60000"
    sign = f"CASE WHEN {offset} < 0 THEN '-' ELSE '+' END"
    hours_minutes = f"printf('%02d:%02d', abs({offset}) // 60, abs({offset}) % 60)"
    # The two of the United Kingdom are written out: printf takes longer than all the rest.
    distance = f"CASE {offset} WHEN 0 THEN '+00:00' WHEN 60 THEN '+01:00' ELSE {sign} || {hours_minutes} END"
    return f"strftime({there}, '%Y-%m-%dT%H:%M:%S') || {distance}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
