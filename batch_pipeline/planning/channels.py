"""Channel assignment: every recipient's one message, its address, what it takes, and who is held back (SPEC 2.4, 2.5)."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger.hashing import Hasher
from batch_pipeline.planning.duck import literal, noted, notes, scan, write
from batch_pipeline.planning.message import Message
from batch_pipeline.rules import reminders as reminders_
from batch_pipeline.rules.fragments import basic_fragments_sql, fragments_sql, sms_fragments

NO_WORDS = ""
"""In a ``Gap``: no field is lacking, but a text's conditions leave nothing of it, or its values make far too much."""
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
    """Writes ``channel_plan``, with the digest of all that it says in its notes (``digest_of``).

    A patient whose text lacks a value has 0 fragments; ``gaps`` tells of them.
    """
    hasher.prepare(con)
    con.register("given_had", pa.table({"patient": pa.array(list(already_had), pa.string())}))
    # Hardly ever is one superseded: a million patients needn't be asked about it one by one.
    superseded = con.sql(f"SELECT count(current_number) FROM {scan(recipients)}").fetchall() != [(0,)]
    nhs_number = "coalesce(r.current_number, p.nhs_number)" if superseded else "p.nhs_number"
    had = f"NOT r.begun AND ({_had(hasher, superseded=superseded)})" if already_had else "false"
    if message.unknown_fields:
        texts, complete, characters, basic, sms = "", "false", "NULL::BIGINT", "NULL::BIGINT", "NULL::VARCHAR"
    else:
        texts, complete, characters, basic, sms = (
            message.texts_sql(), message.complete_sql(), message.characters_sql(), message.basic_sms_characters_sql(),
            message.counted_sms_sql(),
        )  # fmt: skip
    with message.functions(con):
        con.execute(f"""
        CREATE TEMP TABLE addressed AS
        SELECT * EXCLUDE (sms), CASE WHEN fragments IS NULL OR reminder_fragments IS NULL THEN sms END AS sms FROM (
            SELECT line, nhs_number, path, rule, address, fallback_number, held_back, characters, complete, digest, sms,
                CASE WHEN by_sms THEN coalesce(basic, length(sms)) END AS sms_characters,
                CASE WHEN basic IS NULL THEN {fragments_sql("sms")} WHEN by_sms THEN {basic_fragments_sql("basic")} END
                    AS fragments,
                {_reminder_fragments(message)} AS reminder_fragments
        FROM (
            SELECT *, CASE WHEN by_sms AND basic IS NULL THEN {sms} END AS sms FROM (
                SELECT *, {characters} AS characters, {basic} AS basic, {complete} AS complete,
                    {_of_a_patient(message)} AS digest
                FROM (
                    SELECT * {texts} FROM (
                        SELECT r.line, {nhs_number} AS nhs_number, r.path, r.rule, r.address, r.fallback_number,
                            r.path = 'sms' OR r.fallback_number IS NOT NULL AS by_sms, {had} AS held_back
                            {message.values_sql()}
                        FROM {scan(recipients)} r {message.joins(patients, cohort)}
                    )
                )
            )
        ))
        """)
    _ask_fragments(con)
    with noted(digest=_whole_digest(con, "addressed", message)):
        write(
            con,
            f"""
            SELECT line, nhs_number, path, rule, CASE WHEN path = 'nhs_app' THEN {literal(snapshot)}::VARCHAR END AS snapshot,
                address, fallback_number, path = 'nhs_app' AND fallback_number IS NULL AS no_sms_fallback, held_back,
                coalesce(fragments, 0) AS fragments, coalesce(reminder_fragments, 0) AS reminder_fragments, complete,
                characters, sms_characters
            FROM addressed
        """,
            out,
        )


def _reminder_fragments(message: Message) -> str:
    """What a reminder takes as an SMS, over ``sms``, ``basic`` and ``by_sms``; NULL where ``fragments_sql`` gives that."""
    if not message.reminds:
        return "0"
    begins = reminders_.SMS_BEGINS
    text = f"({literal(begins)} || sms)"
    return (
        f"CASE WHEN basic IS NULL THEN {fragments_sql(text)} WHEN by_sms THEN "
        f"{basic_fragments_sql(f'(basic + {len(begins)})')} END"
    )


def _had(hasher: Hasher, *, superseded: bool) -> str:
    """Whether the patient had the message before, under this number or the one that has superseded it."""
    numbers = ("p.nhs_number", "r.current_number") if superseded else ("p.nhs_number",)
    return " OR ".join(f"coalesce({hasher.sql(each)} IN (SELECT patient FROM given_had), false)" for each in numbers)


def _of_a_patient(message: Message) -> str:
    """Digest of all that would be sent to one patient: what a plan's hash is made from, and checked before it is sent."""
    said = [
        "line",
        "nhs_number",
        "path",
        "address",
        "coalesce(fallback_number, '')",
        "held_back",
        *message.digested_sql(),
    ]
    return f"md5_number(concat_ws(chr(31), {', '.join(said)}))"


def _whole_digest(con: duckdb.DuckDBPyConnection, table: str, message: Message) -> str:
    """Of every patient's ``digest`` in a table, whatever the rows' order, and of the message's templates."""
    patients = con.sql(f"SELECT coalesce(bit_xor(digest), 0)::VARCHAR || '/' || count(*) FROM {table}").fetchall()[0][0]
    return hashlib.sha256(f"{message.templates_digest}/{patients}".encode()).hexdigest()


def digest_of(channel_plan: Path) -> str:
    """That of a channel plan when it was made. ``Refused`` for one that an earlier version made."""
    try:
        return notes(channel_plan)["digest"]
    except KeyError:
        raise Refused("the channel plan was made by an earlier version: submit the batch again") from None


def _ask_fragments(con: duckdb.DuckDBPyConnection) -> None:
    """Fills in the fragments of texts that SQL can't count: Python is asked about each."""
    left = con.sql("SELECT line, sms FROM addressed WHERE sms IS NOT NULL").to_arrow_table()
    if not left.num_rows:
        return
    texts = left["sms"].to_pylist()
    parts = [sms_fragments(text).parts for text in texts]
    reminders = [sms_fragments(reminders_.text_of("sms", text)).parts for text in texts]
    asked = {"line": left["line"], "parts": pa.array(parts, pa.int32()), "reminder": pa.array(reminders, pa.int32())}
    con.register("given_texts", pa.table(asked))
    con.execute("""
        UPDATE addressed SET fragments = t.parts,
            reminder_fragments = CASE WHEN reminder_fragments IS NULL THEN t.reminder ELSE reminder_fragments END
        FROM given_texts t WHERE t.line = addressed.line
    """)


def gaps(
    con: duckdb.DuckDBPyConnection, channel_plan: Path, patients: Path, cohort: Path, message: Message
) -> list[Gap]:
    """Fields without a value for some recipient who isn't held back, with the lines (SPEC 2.6); and ``NO_WORDS``."""
    incomplete = f"(FROM {scan(channel_plan)} WHERE NOT complete AND NOT held_back)"
    fields = [name for name in message.known_fields if name != "organisation_name"]
    if con.sql(f"SELECT count(*) FROM {incomplete}").fetchall() == [(0,)]:
        return []
    found: list[Gap] = []
    with message.functions(con):
        for what, lacks in (*((name, message.lacks_sql(name)) for name in fields), (NO_WORDS, message.wordless_sql())):
            total, lines = con.sql(f"""
                SELECT count(*), list(line ORDER BY line)[1:{_SHOWN_LINES}] FROM (
                    SELECT r.line, r.path, r.path = 'sms' OR r.fallback_number IS NOT NULL AS by_sms {message.values_sql()}
                    FROM {incomplete} r {message.joins(patients, cohort)}
                ) WHERE {lacks}
            """).fetchall()[0]
            if total:
                found.append(Gap(what, total, lines))
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
    with message.functions(con):
        con.execute(f"""
        CREATE TEMP TABLE outgoing AS
        SELECT line, nhs_number, path, address, fallback_number, held_back, fragments,
            CASE path WHEN 'sms' THEN {message.sms_sql()} ELSE {message.text_sql()} END AS text,
            CASE WHEN fallback_number IS NOT NULL THEN {message.sms_sql()} END AS sms_text,
            CASE WHEN path = 'email' THEN {message.subject_sql()} END AS subject,
            {hasher.sql("nhs_number")} AS patient,
            {hasher.sql("CASE WHEN path = 'sms' THEN address ELSE fallback_number END")} AS address_hash,
            {_of_a_patient(message)} AS digest
        FROM (
            SELECT r.line, r.nhs_number, r.path, r.address, r.fallback_number, r.held_back, r.fragments
                {message.values_sql()}
            FROM {scan(channel_plan)} r {message.joins(patients, cohort)}
        )
        """)
    return _whole_digest(con, "outgoing", message)
