"""Channel assignment: every recipient's one message, its address, what it takes, and who is held back (SPEC 2.4, 2.5)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from batch_pipeline.ledger.hashing import Hasher
from batch_pipeline.planning.duck import literal, scan, write
from batch_pipeline.planning.message import Message
from batch_pipeline.rules.fragments import sms_fragments, unless_blank_sql

_SHOWN_LINES = 20


@dataclass(frozen=True)
class Gap:
    """Something in the text that some recipients can't be sent: what, how many, and the first lines."""

    what: str
    patients: int
    lines: Sequence[int]


def assign(  # noqa: PLR0913 - what a plan is made of
    con: duckdb.DuckDBPyConnection,
    recipients: Path,
    patients: Path,
    cohort: Path,
    out: Path,
    *,
    message: Message,
    snapshot: str | None,
    already_had: Collection[str],
    hasher: Hasher,
) -> None:
    """Writes ``channel_plan``. A patient whose text lacks a value has 0 fragments; ``gaps`` tells of them."""
    hasher.prepare(con)
    con.register("given_had", pa.table({"patient": pa.array(list(already_had), pa.string())}))
    had = f"NOT r.begun AND {hasher.sql('r.nhs_number')} IN (SELECT patient FROM given_had)" if already_had else "false"
    if message.unknown_fields:
        text = sms = subject = fragments = "NULL::VARCHAR"
    else:
        text, sms, subject, fragments = (
            message.text_sql(), message.sms_sql(), message.subject_sql(), message.fragments_sql()
        )  # fmt: skip
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE addressed AS
        SELECT r.line, r.nhs_number, r.path, r.rule, r.address, r.fallback_number, {had} AS held_back, r.by_sms,
            CASE WHEN r.by_sms THEN {fragments} END::INTEGER AS fragments,
            CASE WHEN r.by_sms THEN length({sms}) END AS sms_characters,
            length({text}) AS characters,
            length({text}) IS NOT NULL AND (r.path <> 'email' OR length({subject}) IS NOT NULL) AS complete,
            {message.digest_sql()} AS digest
        FROM (
            SELECT line, nhs_number, path, rule, begun,
                CASE path WHEN 'email' THEN email WHEN 'sms' THEN mobile ELSE nhs_number END AS address,
                CASE WHEN path = 'nhs_app' THEN mobile END AS fallback_number,
                path = 'sms' OR path = 'nhs_app' AND mobile IS NOT NULL AS by_sms
            FROM {scan(recipients)}
        ) r {message.joins(patients, cohort)}
    """)
    _ask_fragments(con, sms, message, patients, cohort)
    write(
        con,
        f"""
        SELECT line, nhs_number, path, rule, CASE WHEN path = 'nhs_app' THEN {literal(snapshot)}::VARCHAR END AS snapshot,
            address, fallback_number, path = 'nhs_app' AND fallback_number IS NULL AS no_sms_fallback, held_back,
            coalesce(fragments, 0) AS fragments, complete, characters, sms_characters, {_of_a_patient("digest")} AS digest
        FROM addressed
    """,
        out,
    )


def _of_a_patient(values: str) -> str:
    """Digest of all that would be sent to one patient: what a plan's hash is made from, and checked before it is sent."""
    return (
        f"md5(concat_ws(chr(31), line, nhs_number, path, address, coalesce(fallback_number, ''), held_back, {values}))"
    )


WHOLE_DIGEST = "md5(coalesce(bit_xor(md5_number(digest)), 0)::VARCHAR || '/' || count(*))"
"""Of every patient's digest, whatever the rows' order."""


def _ask_fragments(con: duckdb.DuckDBPyConnection, sms: str, message: Message, patients: Path, cohort: Path) -> None:
    """Fills in the fragments of texts that SQL can't count: Python is asked about each."""
    left_open = con.sql(f"""
        SELECT r.line, {sms} AS sms
        FROM (FROM addressed WHERE by_sms AND complete AND fragments IS NULL) r {message.joins(patients, cohort)}
    """).to_arrow_table()
    if not left_open.num_rows:
        return
    parts = [sms_fragments(text).parts for text in left_open["sms"].to_pylist()]
    con.register("given_texts", pa.table({"line": left_open["line"], "parts": pa.array(parts, pa.int32())}))
    con.execute("UPDATE addressed SET fragments = t.parts FROM given_texts t WHERE t.line = addressed.line")


def gaps(
    con: duckdb.DuckDBPyConnection, channel_plan: Path, patients: Path, cohort: Path, message: Message
) -> list[Gap]:
    """Fields without a value for some recipient who isn't held back, with the lines (SPEC 2.6)."""
    incomplete = f"(FROM {scan(channel_plan)} WHERE NOT complete AND NOT held_back)"
    fields = [name for name in message.known_fields if name != "organisation_name"]
    if not fields or con.sql(f"SELECT count(*) FROM {incomplete}").fetchall() == [(0,)]:
        return []
    found: list[Gap] = []
    for name in fields:
        missing = f"({unless_blank_sql(f'({message.columns[name]})')}) IS NULL"
        seen = "true" if name in message.body.fields else "r.path = 'email'"
        total, lines = con.sql(f"""
            SELECT count(*), list(line ORDER BY line)[1:{_SHOWN_LINES}]
            FROM {incomplete} r {message.joins(patients, cohort)} WHERE {missing} AND {seen}
        """).fetchall()[0]
        if total:
            found.append(Gap(name, total, lines))
    return found


def such(con: duckdb.DuckDBPyConnection, table: Path, condition: str, *, of: str = "channel_plan") -> Gap | None:
    """Lines of a table of which this holds, or None. Of a channel plan those held back don't count."""
    sent = "NOT held_back" if of == "channel_plan" else "true"
    total, lines = con.sql(f"""
        SELECT count(*), list(line ORDER BY line)[1:{_SHOWN_LINES}] FROM {scan(table)}
        WHERE {sent} AND ({condition})
    """).fetchall()[0]
    return Gap(condition, total, lines) if total else None


def queue(
    con: duckdb.DuckDBPyConnection, channel_plan: Path, patients: Path, cohort: Path, message: Message, hasher: Hasher
) -> str:
    """``outgoing``: the plan's rows with all that the ledger's outbox takes, rendered anew; gives their whole digest."""
    hasher.prepare(con)
    con.execute(f"""
        CREATE TEMP TABLE outgoing AS
        WITH written AS (
            SELECT r.line, r.nhs_number, r.path, r.address, r.fallback_number, r.held_back, r.fragments,
                CASE r.path WHEN 'sms' THEN {message.sms_sql()} ELSE {message.text_sql()} END AS text,
                CASE WHEN r.fallback_number IS NOT NULL THEN {message.sms_sql()} END AS sms_text,
                CASE WHEN r.path = 'email' THEN {message.subject_sql()} END AS subject,
                {message.digest_sql()} AS said
            FROM {scan(channel_plan)} r {message.joins(patients, cohort)}
        )
        SELECT * EXCLUDE (said), {hasher.sql("nhs_number")} AS patient,
            {hasher.sql("CASE WHEN path = 'sms' THEN address ELSE fallback_number END")} AS address_hash,
            {_of_a_patient("said")} AS digest
        FROM written
    """)
    return con.sql(f"SELECT {WHOLE_DIGEST} FROM outgoing").fetchall()[0][0]
