"""Ingest to validate: the file's lines are sorted into patients, rejected rows and duplicates (SPEC 2.1, 2.2)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from batch_pipeline.planning.duck import scan, write
from batch_pipeline.rules import cells, dates, deceased, emails, names, nhs_number, phones, schema

PHONE_FIELDS = ("mobile", "preferred_telephone", "telephone")
"""In the order of SPEC 2.1: the first usable one is taken."""

_PHONE = "STRUCT(kind VARCHAR, e164 VARCHAR, mended BOOLEAN, detail VARCHAR)"
_EMAIL = "STRUCT(kind VARCHAR, address VARCHAR, mended BOOLEAN, detail VARCHAR)"
_ASK = "?"
"""Kind of a cell that only Python can read."""
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


def sort_lines(
    con: duckdb.DuckDBPyConnection, cohort: Path, files: PatientFiles, *, today: date, needs_date_of_birth: bool
) -> Sorted:
    """Writes ``patients``, ``rejected_rows`` and ``duplicates``; each line of ``cohort`` is in exactly one of them.

    ``today`` is the workspace's day of planning (a date of birth after it is invalid); ``needs_date_of_birth`` when
    the message carries a link that asks for it.
    """
    used = _used_phone_fields(con, cohort)
    _mend(con, cohort, used)
    _settle_emails(con, cohort)
    _settle_phones(con, cohort, used)
    _reject(con, today=today, needs_date_of_birth=needs_date_of_birth)
    _find_duplicates(con)
    _write(con, cohort, files, today)
    return _count(con, files)


def _used_phone_fields(con: duckdb.DuckDBPyConnection, cohort: Path) -> list[str]:
    given = con.sql(f"SELECT {', '.join(f'count({f})' for f in PHONE_FIELDS)} FROM {scan(cohort)}").fetchall()[0]
    return [field for field, n in zip(PHONE_FIELDS, given, strict=True) if n]


def _mend(con: duckdb.DuckDBPyConnection, cohort: Path, used: list[str]) -> None:
    """``mended``: per line the NHS number, names, birth date, phone and email as the rules read them.

    A phone or email that the fast rules leave open has the kind ``_ASK``; the ``_settle`` functions fill it in.
    """
    email = f"coalesce({emails.fast_sql('email')}, {_OPEN_EMAIL})"
    names_ = {
        field: f"CASE WHEN NOT {cells.empty_name_sql(field)} THEN {cells.tidied_sql(field)} END"
        for field in ("patient_name", "first_name", "surname")
    }
    con.execute(f"""
        CREATE TEMP TABLE mended AS
        SELECT line, problem, nhs_number, nhs_number_mended, patient_name, first_name, surname, date_of_birth_given, date_of_birth,
            death.deceased AS deceased, death.detail AS deceased_detail,
            email.kind AS email_kind, email.address AS email, email.detail AS email_detail, email.mended AS email_mended,
            phone.kind AS phone_kind, phone.e164 AS mobile, phone.detail AS phone_detail, phone.mended AS phone_mended
        FROM (
            SELECT line, problem,
                {nhs_number.normalised_sql("nhs_number")} AS nhs_number,
                strlen(nhs_number) <> 10 AS nhs_number_mended,
                {", ".join(f"{sql} AS {field}" for field, sql in names_.items())},
                NOT {cells.empty_sql("date_of_birth")} AS date_of_birth_given,
                {dates.sql("date_of_birth")} AS date_of_birth,
                {deceased.judge_sql("date_of_death", "deceased")} AS death,
                {email} AS email,
                {_first_telling([f"phone_{field}" for field in used])} AS phone
            FROM ({_with_fast_phones(cohort, used)})
        )
    """)


_NO_PHONE = f"{{kind: 'none', e164: NULL, mended: false, detail: NULL}}::{_PHONE}"
_OPEN_PHONE = f"{{kind: '{_ASK}', e164: NULL, mended: false, detail: NULL}}::{_PHONE}"
_OPEN_EMAIL = f"{{kind: '{_ASK}', address: NULL, mended: false, detail: NULL}}::{_EMAIL}"
_TELLING = ("mobile", _ASK, "not_uk", "landline", "not_mobile")
"""Of a line's numbers the one of the first kind here is taken: it is usable, or says most about why there is none."""


def _with_fast_phones(cohort: Path, used: list[str]) -> str:
    """The cohort with ``phone_<field>`` for each phone column: a later one is only read where none before is usable."""
    rows = f"FROM {scan(cohort)}"
    for place, field in enumerate(used):
        read = f"coalesce({phones.fast_sql(field)}, {_OPEN_PHONE})"
        decided = " OR ".join(f"phone_{before}.kind IN ('mobile', '{_ASK}')" for before in used[:place])
        column = f"CASE WHEN {decided} THEN {_NO_PHONE} ELSE {read} END" if decided else read
        rows = f"SELECT *, {column} AS phone_{field} FROM ({rows})"
    return rows


def _first_telling(found: list[str]) -> str:
    ranked = [f"WHEN ({each}).kind = '{kind}' THEN {each}" for kind in _TELLING for each in found]
    return f"CASE {' '.join(ranked)} ELSE {_NO_PHONE} END" if ranked else _NO_PHONE


def _settle_emails(con: duckdb.DuckDBPyConnection, cohort: Path) -> None:
    left = _left_open(con, cohort, "email_kind", ["email"])
    _answer(con, "emails", left, emails.classify, _EMAIL)
    con.execute(f"""
        UPDATE mended SET email_kind = e.answer.kind, email = e.answer.address, email_detail = e.answer.detail,
            email_mended = e.answer.mended
        FROM (SELECT c.line, a.answer FROM {scan(cohort)} c JOIN asked_emails a ON a.raw = c.email) e
        WHERE mended.email_kind = '{_ASK}' AND mended.line = e.line
    """)


def _settle_phones(con: duckdb.DuckDBPyConnection, cohort: Path, used: list[str]) -> None:
    left = _left_open(con, cohort, "phone_kind", used)
    _answer(con, "phones", left, phones.classify, _PHONE)
    if not used:
        return
    best = _first_telling([f"a_{field}.answer" for field in used])
    con.execute(f"""
        UPDATE mended SET phone_kind = p.best.kind, mobile = p.best.e164, phone_detail = p.best.detail,
            phone_mended = p.best.mended
        FROM (
            SELECT c.line, {best} AS best
            FROM (SELECT line FROM mended WHERE phone_kind = '{_ASK}') JOIN {scan(cohort)} c USING (line)
            {" ".join(f"LEFT JOIN asked_phones a_{field} ON a_{field}.raw = c.{field}" for field in used)}
        ) p WHERE mended.line = p.line
    """)


def _left_open(con: duckdb.DuckDBPyConnection, cohort: Path, kind: str, fields: list[str]) -> list[str]:
    """Every distinct text in these fields of the lines that the fast rule left open."""
    if not fields:
        return []
    texts = " UNION ".join(
        f"SELECT c.{field} FROM {scan(cohort)} c SEMI JOIN (SELECT line FROM mended WHERE {kind} = '{_ASK}') USING (line)"
        f" WHERE c.{field} IS NOT NULL"
        for field in fields
    )
    return [row[0] for row in con.sql(texts).fetchall()]


def _answer(
    con: duckdb.DuckDBPyConnection, what: str, texts: list[str], classify: Callable[[str], NamedTuple], kind: str
) -> None:
    """``asked_<what>(raw, answer)``: what the slow, sure rule says of each text."""
    field = "address" if kind == _EMAIL else "e164"
    shape = pa.struct([("kind", pa.string()), (field, pa.string()), ("mended", pa.bool_()), ("detail", pa.string())])
    answers = pa.array([classify(text)._asdict() for text in texts], shape)
    con.register("answers", pa.table({"raw": pa.array(texts, pa.string()), "answer": answers}))
    con.execute(f"CREATE TEMP TABLE asked_{what} AS SELECT raw, answer::{kind} AS answer FROM answers")
    con.unregister("answers")


def _reject(con: duckdb.DuckDBPyConnection, *, today: date, needs_date_of_birth: bool) -> None:
    """``rejected(line, reason)``: unreadable lines, and those that pandera's schema of a patient's row refuses.

    The schema is asked about the rows that aren't surely right.
    """
    con.execute("CREATE TEMP TABLE rejected AS SELECT line, problem AS reason FROM mended WHERE problem IS NOT NULL")
    asked = {"needs_date_of_birth": needs_date_of_birth, "today": today}
    rows = con.sql("SELECT line, nhs_number, date_of_birth_given, date_of_birth FROM mended WHERE problem IS NULL")
    reader = rows.to_arrow_reader(_CHUNK_ROWS)
    doubtful = pa.Table.from_batches(
        (batch.filter(pa.array(~schema.surely_valid(batch, **asked))) for batch in reader), reader.schema
    )
    for start in range(0, doubtful.num_rows, _CHUNK_ROWS):
        frame = doubtful.slice(start, _CHUNK_ROWS).to_pandas()
        failures = schema.failures(frame, **asked)
        lines = pa.array(frame["line"].to_numpy()[failures["position"].to_numpy()], pa.int32())
        con.register("refused", pa.table({"line": lines, "reason": pa.array(failures["code"].tolist(), pa.string())}))
        con.execute("INSERT INTO rejected SELECT line, reason FROM refused")
        con.unregister("refused")


def _find_duplicates(con: duckdb.DuckDBPyConnection) -> None:
    """``repeated``: one row a patient who stands on several lines, with the line that stays.

    The first line with a usable contact detail; the first line, if none has one (SPEC 2.2). Deceased on any line counts,
    on a rejected one too: whoever wrote it meant this patient.
    """
    con.execute("""
        CREATE TEMP TABLE repeated AS
        SELECT nhs_number,
            coalesce(min(line) FILTER (valid AND (phone_kind = 'mobile' OR email_kind = 'good')), min(line) FILTER (valid))
                AS kept_line,
            bool_or(deceased) AS deceased,
            CASE WHEN NOT bool_or(deceased AND deceased_detail IS NULL) THEN max(deceased_detail) END AS deceased_detail
        FROM (SELECT m.*, r.line IS NULL AS valid FROM mended m LEFT JOIN rejected r USING (line))
        WHERE nhs_number IS NOT NULL
        GROUP BY nhs_number HAVING count(*) > 1 AND bool_or(valid)
    """)
    con.execute("""
        CREATE TEMP TABLE duplicated AS
        SELECT m.line, r.kept_line,
            (m.phone_kind, m.mobile, m.email_kind, m.email)
                IS DISTINCT FROM (k.phone_kind, k.mobile, k.email_kind, k.email) AS disagrees
        FROM mended m
        JOIN repeated r USING (nhs_number)
        JOIN mended k ON k.line = r.kept_line
        ANTI JOIN rejected ON rejected.line = m.line
        WHERE m.line <> r.kept_line
    """)


def _write(con: duckdb.DuckDBPyConnection, cohort: Path, files: PatientFiles, today: date) -> None:
    write(
        con,
        f"""
        SELECT m.line, m.nhs_number,
            coalesce(m.patient_name, nullif(concat_ws(' ', m.first_name, m.surname), '')) AS patient_name,
            coalesce(m.first_name, {names.first_name_sql("m.patient_name")}) AS first_name,
            coalesce(m.surname, {names.surname_sql("m.patient_name")}) AS surname,
            m.date_of_birth, m.email, m.email_kind, m.email_detail, m.mobile, m.phone_kind, m.phone_detail,
            m.deceased OR coalesce(r.deceased, false) AS deceased,
            CASE WHEN r.kept_line IS NULL THEN m.deceased_detail ELSE r.deceased_detail END AS deceased_detail
        FROM mended m
        LEFT JOIN repeated r ON r.kept_line = m.line
        ANTI JOIN rejected ON rejected.line = m.line
        ANTI JOIN duplicated ON duplicated.line = m.line
    """,
        files.patients,
    )
    write(
        con,
        f"""
        SELECT r.line, r.reason,
            CASE r.reason WHEN 'nhs_number_invalid' THEN {nhs_number.problem_sql("m.nhs_number")}
                WHEN 'date_of_birth_invalid' THEN {dates.problem_sql("c.date_of_birth", today)} END AS detail,
            c.nhs_number, coalesce(c.patient_name, nullif(concat_ws(' ', c.first_name, c.surname), '')) AS patient_name,
            c.date_of_birth
        FROM rejected r JOIN {scan(cohort)} c USING (line) JOIN mended m USING (line) ORDER BY r.line
    """,
        files.rejected_rows,
    )
    write(con, "SELECT line, kept_line, disagrees FROM duplicated ORDER BY line", files.duplicates)


def _count(con: duckdb.DuckDBPyConnection, files: PatientFiles) -> Sorted:
    lines, mended_numbers, mended_phones, mended_emails = con.sql("""
        SELECT count(*), count(*) FILTER (nhs_number_mended AND strlen(nhs_number) = 10),
            count(*) FILTER (phone_mended), count(*) FILTER (email_mended)
        FROM mended
    """).fetchall()[0]
    patients, bad_emails, unusable = con.sql(f"""
        SELECT count(*), count(*) FILTER (email_kind = 'bad'), count(*) FILTER (phone_kind NOT IN ('none', 'mobile'))
        FROM {scan(files.patients)}
    """).fetchall()[0]
    duplicates, disagreeing = con.sql("SELECT count(*), count(*) FILTER (disagrees) FROM duplicated").fetchall()[0]
    return Sorted(
        lines=lines,
        patients=patients,
        rejected=dict(con.sql("SELECT reason, count(*) FROM rejected GROUP BY ALL ORDER BY ALL").fetchall()),
        duplicates=duplicates,
        disagreeing=disagreeing,
        mended={"nhs_number": mended_numbers, "phone": mended_phones, "email": mended_emails},
        bad_emails=bad_emails,
        unusable_numbers=unusable,
    )
