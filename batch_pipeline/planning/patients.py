"""Ingest to validate: the file's lines are sorted into patients, rejected rows and duplicates (SPEC 2.1, 2.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa

from batch_pipeline.planning.duck import scan, write
from batch_pipeline.rules import cells, dates, deceased, emails, names, nhs_number, phones, schema

PHONE_FIELDS = ("mobile", "preferred_telephone", "telephone")
"""In the order of SPEC 2.1: the first usable one is taken."""

_PHONE = "STRUCT(kind VARCHAR, e164 VARCHAR, mended BOOLEAN, detail VARCHAR)"
_EMAIL = "STRUCT(kind VARCHAR, address VARCHAR, mended BOOLEAN, detail VARCHAR)"
_CHUNK_ROWS = 122_880


@dataclass(frozen=True)
class PatientFiles:
    """Where the three tables go."""

    patients: Path
    rejected_rows: Path
    duplicates: Path


@dataclass(frozen=True)
class Sorted:
    """What became of the file's lines; counts only."""

    lines: int
    patients: int
    rejected: Mapping[str, int]
    duplicates: int
    disagreeing: int
    mended: Mapping[str, int]
    bad_emails: int
    unusable_numbers: int
    shared_mobiles: int
    shared_emails: int


def sort_lines(
    con: duckdb.DuckDBPyConnection, cohort: Path, files: PatientFiles, *, today: date, needs_date_of_birth: bool
) -> Sorted:
    """Writes ``patients``, ``rejected_rows`` and ``duplicates``; each line of ``cohort`` is in exactly one of them.

    ``today`` is the workspace's day of planning (a date of birth after it is invalid); ``needs_date_of_birth`` when
    the message carries a link that asks for it.
    """
    _mend_cells(con, cohort)
    _reject(con, today, needs_date_of_birth)
    _find_duplicates(con)
    _write(con, cohort, files, today)
    return _count(con, files)


def _mend_cells(con: duckdb.DuckDBPyConnection, cohort: Path) -> None:
    """``mended``: per line the NHS number, birth date, phone and email as the rules read them."""
    given = con.sql(f"SELECT {', '.join(f'count({f})' for f in PHONE_FIELDS)} FROM {scan(cohort)}").fetchall()[0]
    used = [field for field, n in zip(PHONE_FIELDS, given, strict=True) if n]
    # A cell that only Python can read waits as kind '?', with its text where the number will stand.
    fast_phones = ", ".join(
        f"CASE WHEN {field} IS NULL THEN NULL ELSE coalesce({phones.fast_sql(field)}, "
        f"{{kind: '?', e164: {field}, mended: false, detail: NULL}}::{_PHONE}) END AS {field}"
        for field in used
    )
    con.execute(f"""
        CREATE TEMP TABLE read AS
        SELECT line, problem,
            {nhs_number.normalised_sql("nhs_number")} AS nhs_number,
            NOT {cells.empty_sql("date_of_birth")} AS date_of_birth_given,
            {dates.sql("date_of_birth")} AS date_of_birth,
            {deceased.judge_sql("date_of_death", "deceased")} AS death,
            CASE WHEN email IS NULL THEN NULL ELSE coalesce({emails.fast_sql("email")},
                {{kind: '?', address: email, mended: false, detail: NULL}}::{_EMAIL}) END AS email
            {", " + fast_phones if used else ""}
        FROM {scan(cohort)}
    """)
    _ask(con, "email", "address", ["email"], _EMAIL)
    _ask(con, "phone", "e164", used, _PHONE)
    found = {field: f"coalesce(asked_{field}.answer, read.{field})" for field in used}
    joins = " ".join(
        f"LEFT JOIN asked_phone AS asked_{f} ON asked_{f}.raw = CASE WHEN read.{f}.kind = '?' THEN read.{f}.e164 END"
        for f in used
    )
    con.execute(f"""
        CREATE TEMP TABLE mended AS
        SELECT read.line, problem, nhs_number, date_of_birth_given, date_of_birth,
            death.deceased, death.detail AS deceased_detail,
            coalesce(asked_email.answer, read.email, {{kind: 'none', address: NULL, mended: false, detail: NULL}}) AS email,
            {_best(list(found.values()))} AS phone
        FROM read
        LEFT JOIN asked_email ON asked_email.raw = CASE WHEN read.email.kind = '?' THEN read.email.address END
        {joins}
    """)
    con.execute("DROP TABLE read")


def _best(found: list[str]) -> str:
    """The first usable mobile; without one, what says most about why there is none."""
    none = f"{{kind: 'none', e164: NULL, mended: false, detail: NULL}}::{_PHONE}"
    ranked = [f"WHEN ({value}).kind = '{kind}' THEN {value}" for kind in ("mobile", "not_uk", "landline", "not_mobile") for value in found]
    return f"CASE {' '.join(ranked)} ELSE {none} END" if ranked else none


def _ask(con: duckdb.DuckDBPyConnection, what: str, raw: str, columns: list[str], kind: str) -> None:
    """``asked_<what>(raw, answer)``: what the slow, sure rule says of each distinct cell the fast one left open."""
    classify = {"phone": phones.classify, "email": emails.classify}[what]
    cell_texts = " UNION ".join(f"SELECT {c}.{raw} AS raw FROM read WHERE {c}.kind = '?'" for c in columns)
    texts: list[str] = [row[0] for row in con.sql(cell_texts).fetchall()] if columns else []
    answers = pa.table({
        "raw": pa.array(texts, pa.string()),
        "answer": pa.array([classify(text)._asdict() for text in texts], _ARROW[what]),
    })
    con.register("asked", answers)
    con.execute(f"CREATE TEMP TABLE asked_{what} AS SELECT raw, answer::{kind} AS answer FROM asked")
    con.unregister("asked")


_ARROW = {
    "phone": pa.struct([("kind", pa.string()), ("e164", pa.string()), ("mended", pa.bool_()), ("detail", pa.string())]),
    "email": pa.struct([("kind", pa.string()), ("address", pa.string()), ("mended", pa.bool_()), ("detail", pa.string())]),
}


def _reject(con: duckdb.DuckDBPyConnection, today: date, needs_date_of_birth: bool) -> None:
    """``rejected(line, reason)``: unreadable lines, and those pandera's schema of a patient's row refuses."""
    con.execute("CREATE TEMP TABLE rejected AS SELECT line, problem AS reason FROM mended WHERE problem IS NOT NULL")
    rows = con.sql(
        "SELECT line, nhs_number, date_of_birth_given, date_of_birth FROM mended WHERE problem IS NULL"
    )
    refused: list[pa.Table] = []
    for batch in rows.to_arrow_reader(_CHUNK_ROWS):
        frame = batch.to_pandas()
        failures = schema.failures(frame, needs_date_of_birth=needs_date_of_birth, today=today)
        lines = pa.array(frame["line"].to_numpy()[failures["position"].to_numpy()], pa.int32())
        refused.append(pa.table({"line": lines, "reason": pa.array(failures["code"].tolist(), pa.string())}))
    if refused:
        con.register("refused", pa.concat_tables(refused))
        con.execute("INSERT INTO rejected SELECT line, reason FROM refused")
        con.unregister("refused")


def _find_duplicates(con: duckdb.DuckDBPyConnection) -> None:
    """``repeated``: one row a patient who stands on several valid lines, with the line that stays.

    The first line with a usable contact detail; the first line, if none has one (SPEC 2.2).
    """
    con.execute("""
        CREATE TEMP TABLE repeated AS
        SELECT nhs_number,
            coalesce(min(line) FILTER (phone.kind = 'mobile' OR email.kind = 'good'), min(line)) AS kept_line,
            bool_or(deceased) AS deceased,
            max(deceased_detail) FILTER (deceased) AS deceased_detail
        FROM mended ANTI JOIN rejected USING (line)
        GROUP BY nhs_number HAVING count(*) > 1
    """)
    con.execute("""
        CREATE TEMP TABLE duplicated AS
        SELECT m.line, r.kept_line,
            (m.phone.kind, m.phone.e164, m.email.kind, m.email.address)
                IS DISTINCT FROM (k.phone.kind, k.phone.e164, k.email.kind, k.email.address) AS disagrees
        FROM mended m
        JOIN repeated r USING (nhs_number)
        JOIN mended k ON k.line = r.kept_line
        ANTI JOIN rejected ON rejected.line = m.line
        WHERE m.line <> r.kept_line
    """)


def _write(con: duckdb.DuckDBPyConnection, cohort: Path, files: PatientFiles, today: date) -> None:
    text = {field: f"nullif({cells.tidied_sql(f'c.{field}')}, '')" for field in ("patient_name", "first_name", "surname")}
    write(con, f"""
        WITH named AS (
            SELECT c.line, {", ".join(f"{sql} AS {field}" for field, sql in text.items())} FROM {scan(cohort)} c
        )
        SELECT m.line, m.nhs_number,
            coalesce(n.patient_name, nullif(concat_ws(' ', n.first_name, n.surname), '')) AS patient_name,
            coalesce(n.first_name, {names.first_name_sql("n.patient_name")}) AS first_name,
            coalesce(n.surname, {names.surname_sql("n.patient_name")}) AS surname,
            m.date_of_birth,
            m.email.address AS email, m.email.kind AS email_kind, m.email.detail AS email_detail,
            m.phone.e164 AS mobile, m.phone.kind AS phone_kind, m.phone.detail AS phone_detail,
            m.deceased OR coalesce(r.deceased, false) AS deceased,
            coalesce(m.deceased_detail, r.deceased_detail) AS deceased_detail
        FROM mended m
        JOIN named n USING (line)
        LEFT JOIN repeated r ON r.nhs_number = m.nhs_number
        ANTI JOIN rejected ON rejected.line = m.line
        ANTI JOIN duplicated ON duplicated.line = m.line
    """, files.patients)
    write(con, f"""
        SELECT r.line, r.reason,
            CASE r.reason WHEN 'nhs_number_invalid' THEN {nhs_number.problem_sql(nhs_number.normalised_sql("c.nhs_number"))}
                WHEN 'date_of_birth_invalid' THEN {dates.problem_sql("c.date_of_birth", today)} END AS detail,
            c.nhs_number, coalesce(c.patient_name, nullif(concat_ws(' ', c.first_name, c.surname), '')) AS patient_name,
            c.date_of_birth
        FROM rejected r JOIN {scan(cohort)} c USING (line) ORDER BY r.line
    """, files.rejected_rows)
    write(con, "SELECT line, kept_line, disagrees FROM duplicated ORDER BY line", files.duplicates)


def _count(con: duckdb.DuckDBPyConnection, files: PatientFiles) -> Sorted:
    lines, mended_phones, mended_emails = con.sql("""
        SELECT count(*), count(*) FILTER (phone.mended), count(*) FILTER (email.mended) FROM mended
    """).fetchall()[0]
    patients, bad_emails, unusable, mobiles, distinct_mobiles, addresses, distinct_addresses = con.sql(f"""
        SELECT count(*), count(*) FILTER (email_kind = 'bad'),
            count(*) FILTER (phone_kind NOT IN ('none', 'mobile')),
            count(mobile), count(DISTINCT mobile), count(email), count(DISTINCT email)
        FROM {scan(files.patients)}
    """).fetchall()[0]
    duplicates, disagreeing = con.sql(
        "SELECT count(*), count(*) FILTER (disagrees) FROM duplicated"
    ).fetchall()[0]
    return Sorted(
        lines=lines,
        patients=patients,
        rejected=dict(con.sql("SELECT reason, count(*) FROM rejected GROUP BY ALL ORDER BY ALL").fetchall()),
        duplicates=duplicates,
        disagreeing=disagreeing,
        mended={"phone": mended_phones, "email": mended_emails},
        bad_emails=bad_emails,
        unusable_numbers=unusable,
        shared_mobiles=mobiles - distinct_mobiles,
        shared_emails=addresses - distinct_addresses,
    )
