"""Contactability and path: which patients can be reached, by what, and every reason why not (SPEC 2.3, 2.4)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa

from batch_pipeline.ledger.hashing import Hasher
from batch_pipeline.planning.details import is_empty, superseded
from batch_pipeline.planning.duck import scan, write
from batch_pipeline.rules import contactability as rule
from batch_pipeline.rules import names, paths


@dataclass(frozen=True)
class Organisation:
    """What the path table asks about the sender."""

    organisation_type: str
    nation: str
    self_book_ignores_email: bool = False


NOTHING_BEGUN = pa.table(
    {name: pa.array([], pa.string()) for name in ("patient", "channel", "address", "fallback_number")}
)


@dataclass(frozen=True)
class Facts:
    """What is known of the cohort's patients besides the file. Tables are Arrow, sets are of keyed hashes."""

    app_accounts: pa.Table
    """``nhs_number, notifications_enabled``; empty when the snapshot is unknown or there is none."""
    opt_outs: pa.Table
    """``nhs_number, channel``: a channel, or ``all``."""
    marks: Mapping[str, str] = field(default_factory=dict)
    failed_numbers: Iterable[str] = ()
    """Empty when the workspace's switch is off."""
    begun: pa.Table = field(default_factory=lambda: NOTHING_BEGUN)
    """``patient, channel, address, fallback_number`` of this batch's messages that are under way."""
    marked_by_pds: Collection[str] = ()
    """Those of the marked of whom nothing but a look-up says so."""

    def under_current_numbers(self, superseded: Sequence[tuple[str, str]], hasher: Hasher) -> "Facts":
        """The same facts, those of a superseded number (``(number, current number)``) told of the current one as well."""
        if not superseded:
            return self
        current = dict(superseded)
        rows = self.opt_outs.to_pylist()
        opted_out = [{**row, "nhs_number": current[row["nhs_number"]]} for row in rows if row["nhs_number"] in current]
        hashes = {hasher.hash(number): hasher.hash(new) for number, new in superseded}
        marks = {hashes[patient]: mark for patient, mark in self.marks.items() if patient in hashes}
        return replace(
            self,
            opt_outs=pa.concat_tables([self.opt_outs, pa.Table.from_pylist(opted_out, schema=self.opt_outs.schema)]),
            marks={**marks, **self.marks},
        )


@dataclass(frozen=True)
class ContactFiles:
    """Where the three tables go."""

    contactability: Path
    recipients: Path
    non_contactable: Path


@dataclass(frozen=True)
class Contacts:
    """Counts: patients by primary reason, by sub-reason, and recipients by path."""

    non_contactable: Mapping[str, int]
    sub_reasons: Mapping[str, int]
    recipients: Mapping[str, int]


def assess(
    con: duckdb.DuckDBPyConnection,
    patients: Path,
    details: Path,
    files: ContactFiles,
    *,
    organisation: Organisation,
    message_type: str,
    facts: Facts,
    hasher: Hasher,
) -> Contacts:
    """Writes ``contactability``, ``recipients`` and ``non_contactable``; a patient is in exactly one of the last two.

    ``details`` fill the file's gaps, and never override what it has; a line that they found to be another line's
    patient is in none of the three. A patient whose message is under way stays a recipient, as it was sent: what is
    known since changes the next batch.
    """
    known = facts.under_current_numbers(superseded(con, patients, details), hasher)
    _load(con, known, hasher)
    source = _as_in_file(patients) if is_empty(details) else _filled(patients, details, message_type, known, hasher)
    con.execute(f"""
        CREATE TEMP TABLE judged AS
        WITH {_routed(source, organisation, message_type, known, hasher)}, reasoned AS (
            SELECT *, chosen AS path, CASE WHEN begun IS NOT NULL THEN [] ELSE {rule.reasons_sql()} END AS reasons
            FROM routed
        )
        SELECT line, coalesce(begun, chosen) AS path,
            CASE WHEN begun <> chosen THEN 'as it was sent under an earlier plan → ' || begun
                WHEN filled = CASE chosen WHEN 'email' THEN 'email' ELSE 'mobile' END THEN rule || ' (' || filled || ' from PDS)' ELSE rule END AS rule,
            reasons, {rule.sub_reason_sql("reasons")} AS sub_reason, {_DETAIL} AS detail,
            CASE WHEN coalesce(begun, chosen) = 'nhs_app' THEN nhs_number WHEN begun IS NOT NULL THEN begun_address
                WHEN chosen = 'email' THEN {rule.USABLE_EMAIL} ELSE {rule.USABLE_MOBILE} END AS address,
            CASE WHEN begun = 'nhs_app' THEN begun_fallback
                WHEN begun IS NULL AND chosen = 'nhs_app' THEN {rule.USABLE_MOBILE} END AS fallback_number,
            begun IS NOT NULL AS begun, CASE WHEN superseded THEN nhs_number END AS current_number
        FROM reasoned
    """)
    write(
        con,
        """
        SELECT line, path, rule, len(reasons) = 0 AS contactable, reasons, reasons[1] AS primary_reason, sub_reason,
            detail, begun
        FROM judged
    """,
        files.contactability,
    )
    write(
        con,
        """
        SELECT line, path, rule, address, fallback_number, begun, current_number FROM judged WHERE len(reasons) = 0
    """,
        files.recipients,
    )
    write(
        con,
        f"""
        SELECT line, p.nhs_number, {names.full_name_sql("p")} AS patient_name, p.date_of_birth, j.reasons[1] AS primary_reason, j.reasons,
            j.sub_reason, j.detail
        FROM {scan(patients)} p JOIN (FROM judged WHERE len(reasons) > 0) j USING (line) ORDER BY line
    """,
        files.non_contactable,
    )
    return _count(con, files)


def gaps(
    con: duckdb.DuckDBPyConnection,
    patients: Path,
    *,
    organisation: Organisation,
    message_type: str,
    facts: Facts,
    hasher: Hasher,
) -> list[tuple[int, str, date | None]]:
    """``(line, NHS number, date of birth)`` of each patient whose details have to be looked up, in the file's order."""
    _load(con, facts, hasher)
    con.register("given_marked_by_pds", pa.table({"patient": pa.array(list(facts.marked_by_pds), pa.string())}))
    by_pds = (
        f"CASE WHEN mark IS NOT NULL THEN {hasher.sql('nhs_number')} IN (SELECT patient FROM given_marked_by_pds) END"
        if facts.marked_by_pds
        else "NULL::BOOLEAN"
    )
    return con.sql(f"""
        WITH {_routed(_as_in_file(patients), organisation, message_type, facts, hasher)}
        SELECT line, nhs_number, date_of_birth FROM (SELECT *, chosen AS path, {by_pds} AS marked_by_pds FROM routed)
        WHERE {rule.GAP} ORDER BY line
    """).fetchall()


def _as_in_file(patients: Path) -> tuple[str, str]:
    """The FROM-term of patients of whom nothing was looked up, and what is known of that.

    Constants, and not columns of the FROM-term: through the joins they would be carried for every patient.
    """
    return scan(patients), ", NULL::VARCHAR AS looked_up, NULL::VARCHAR AS filled, false AS superseded"


def _filled(patients: Path, details: Path, message_type: str, facts: Facts, hasher: Hasher) -> tuple[str, str]:
    """The same with what was looked up in the file's gaps: a mobile; an email, where there is still no mobile.

    No email for a message that never goes by email: there it could only close the way by the App.
    """
    lacks_mobile = f"(p.mobile IS NULL OR {_failed('p.mobile', facts, hasher)})"
    mobile = f"d.mobile IS NOT NULL AND {lacks_mobile}"
    no_mobile = f"{lacks_mobile} AND (d.mobile IS NULL OR {_failed('d.mobile', facts, hasher)})"
    email = f"d.email IS NOT NULL AND p.email IS NULL AND {no_mobile} AND {paths.goes_by_email(message_type)}"
    filled = f"""(
        SELECT p.* REPLACE (
                coalesce(d.current_number, p.nhs_number) AS nhs_number,
                CASE WHEN {mobile} THEN d.mobile ELSE p.mobile END AS mobile,
                CASE WHEN {mobile} THEN 'mobile' ELSE p.phone_kind END AS phone_kind,
                CASE WHEN {email} THEN d.email ELSE p.email END AS email
            ),
            d.outcome AS looked_up, CASE WHEN {email} THEN 'email' WHEN {mobile} THEN 'mobile' END AS filled,
            d.current_number IS NOT NULL AS superseded
        FROM {scan(patients)} p LEFT JOIN {scan(details)} d USING (line) WHERE d.duplicate_of IS NULL
    )"""
    return filled, ""


def _routed(
    source: tuple[str, str], organisation: Organisation, message_type: str, facts: Facts, hasher: Hasher
) -> str:
    """The common table expression ``routed``: patients with all that is known of them, and their path and its rule."""
    path, chosen_by = paths.path_sql(
        organisation.organisation_type,
        organisation.nation,
        message_type,
        email=f"({rule.USABLE_EMAIL}) IS NOT NULL",
        app=f"({rule.APP_OPEN})",
        self_book_ignores_email=organisation.self_book_ignores_email,
    )
    # Hashing a million numbers twice over is only worth it when there is something to compare them with.
    marks = (
        f"LEFT JOIN marks ON marks.patient = {hasher.sql('p.nhs_number')}"
        if facts.marks
        else "LEFT JOIN marks ON false"
    )
    begun = (
        f"LEFT JOIN begun ON begun.patient = {hasher.sql('p.nhs_number')}"
        if facts.begun.num_rows
        else "LEFT JOIN begun ON false"
    )
    rows, looked_up = source
    return f"""known AS (
            SELECT p.*{looked_up}, marks.mark, begun.channel AS begun, begun.address AS begun_address,
                begun.fallback_number AS begun_fallback, coalesce(o.channels, []::VARCHAR[]) AS opted_out,
                coalesce(a.notifications_enabled, false) AS has_app,
                p.mobile IS NOT NULL AND {_failed("p.mobile", facts, hasher)} AS likely
            FROM {rows} p
            LEFT JOIN opted_out o USING (nhs_number)
            LEFT JOIN app_accounts a USING (nhs_number)
            {marks}
            {begun}
        ), routed AS (
            SELECT *, {path} AS chosen, {chosen_by} AS rule FROM known
        )"""


def _failed(mobile: str, facts: Facts, hasher: Hasher) -> str:
    return f"coalesce({hasher.sql(mobile)} IN (FROM failed_numbers), false)" if facts.failed_numbers else "false"


# Only for those who can't be reached: what is odd about a recipient's unused number helps nobody.
_DETAIL = """CASE WHEN len(reasons) > 0 THEN nullif(concat_ws('; ',
    CASE WHEN list_contains(reasons, 'deceased') THEN deceased_detail END,
    CASE WHEN list_contains(reasons, 'not_provided') OR list_contains(reasons, 'not_uk') THEN 'number: ' || phone_detail END,
    CASE WHEN path = 'sms' AND email_kind = 'bad' THEN 'email: ' || email_detail END,
    CASE WHEN looked_up = 'found' AND path = 'sms' AND mobile IS NULL THEN 'PDS has no mobile number either' END,
    CASE WHEN superseded THEN 'the NHS number has been superseded' END), '') END"""


def _load(con: duckdb.DuckDBPyConnection, facts: Facts, hasher: Hasher) -> None:
    con.register("given_accounts", facts.app_accounts)
    # An account listed twice has notifications on if either line says so.
    con.execute("""
        CREATE TEMP TABLE app_accounts AS
        SELECT nhs_number, bool_or(notifications_enabled) AS notifications_enabled FROM given_accounts GROUP BY ALL
    """)
    con.register("given_opt_outs", facts.opt_outs)
    con.execute("""
        CREATE TEMP TABLE opted_out AS
        SELECT nhs_number, list(DISTINCT channel) AS channels FROM given_opt_outs GROUP BY ALL
    """)
    con.register(
        "given_marks",
        pa.table(
            {
                "patient": pa.array(list(facts.marks), pa.string()),
                "mark": pa.array(list(facts.marks.values()), pa.string()),
            }
        ),
    )
    con.execute("CREATE TEMP TABLE marks AS FROM given_marks")
    con.register("given_begun", facts.begun)
    con.execute("CREATE TEMP TABLE begun AS FROM given_begun")
    con.register("given_failed", pa.table({"address_hash": pa.array(list(facts.failed_numbers), pa.string())}))
    con.execute("CREATE TEMP TABLE failed_numbers AS FROM given_failed")
    hasher.prepare(con)


def _count(con: duckdb.DuckDBPyConnection, files: ContactFiles) -> Contacts:
    def counts(query: str) -> dict[str, int]:
        return dict(con.sql(query).fetchall())

    reasons = scan(files.non_contactable)
    return Contacts(
        non_contactable=counts(f"SELECT primary_reason, count(*) FROM {reasons} GROUP BY ALL ORDER BY ALL"),
        sub_reasons=counts(
            f"SELECT sub_reason, count(*) FROM {reasons} WHERE sub_reason IS NOT NULL GROUP BY ALL ORDER BY ALL"
        ),
        recipients=counts(f"SELECT path, count(*) FROM {scan(files.recipients)} GROUP BY ALL ORDER BY ALL"),
    )
