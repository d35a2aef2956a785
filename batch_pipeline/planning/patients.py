"""Ingest to validate: the file's lines are sorted into patients, rejected rows and duplicates (SPEC 2.1, 2.2)."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from batch_pipeline.planning.duck import scan, write
from batch_pipeline.rules import cells, dates, deceased, emails, names, nhs_number, phones, schema
from batch_pipeline.rules.headings import PHONE_FIELDS

_READ = ("nhs_number", "patient_name", "first_name", "surname", "date_of_birth", "email")
"""The other fields that go on as they are."""
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
    asked = {"today": today, "needs_date_of_birth": needs_date_of_birth}
    doubtful = _doubtful(con, **asked)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pandera") as pool:
        refused = pool.submit(_refused, doubtful, **asked)  # while DuckDB works
        _settle(con, used)
        _reject(con, refused.result())
    _find_duplicates(con)
    _write(con, cohort, files, today)
    return _count(con, files)


def _used_phone_fields(con: duckdb.DuckDBPyConnection, cohort: Path) -> list[str]:
    # One filled cell is enough to know, and DuckDB stops at it.
    return [
        field
        for field in PHONE_FIELDS
        if con.sql(f"SELECT true FROM {scan(cohort)} WHERE {field} IS NOT NULL LIMIT 1").fetchall()
    ]


def _mend(con: duckdb.DuckDBPyConnection, cohort: Path, used: list[str]) -> None:
    """``mended``: per line the NHS number, names, birth date and death as the rules read them, and plain contact details.

    ``asked_<field>`` is a cell that the rules have to be asked about: an email that isn't plain, a phone that isn't and
    stands before the line's first plain one.
    """
    # Birthdays repeat, some thirty times a day of the calendar in a million patients: each spelling is read once.
    con.execute(f"""
        CREATE TEMP TABLE births AS
        SELECT raw, NOT {cells.empty_sql("raw")} AS given, {dates.sql("raw")} AS born
        FROM (SELECT DISTINCT date_of_birth AS raw FROM {scan(cohort)} WHERE date_of_birth IS NOT NULL)
    """)
    con.execute(f"""
        CREATE TEMP TABLE mended AS
        SELECT line, problem, {nhs_number.normalised_sql("nhs_number")} AS nhs_number,
            strlen(nhs_number) <> 10 AS nhs_number_mended,
            {", ".join(f"{cells.name_sql(field)} AS {field}" for field in ("patient_name", "first_name", "surname"))},
            coalesce(births.given, false) AS date_of_birth_given, births.born AS date_of_birth,
            death.deceased AS deceased, death.detail AS deceased_detail,
            plain_email, CASE WHEN plain_email IS NULL THEN email END AS asked_email, {_phones_of_a_line(used)}
        FROM ({_with_plain_cells(cohort, used)}) LEFT JOIN births ON births.raw = date_of_birth
    """)


def _with_plain_cells(cohort: Path, used: list[str]) -> str:
    """The cohort's own fields with ``death``, ``plain_email`` and ``plain_<phone column>``.

    A later phone is only read where none before is plain.
    """
    death = deceased.judge_sql("date_of_death", "deceased")
    # By name: no other heading of the file may stand where a column of ours is meant.
    own = ", ".join(["line", "problem", *_READ, *used])
    rows = f"SELECT {own}, {death} AS death, {emails.plain_sql('email')} AS plain_email FROM {scan(cohort)}"
    for place, field in enumerate(used):
        undecided = " AND ".join(f"plain_{before} IS NULL" for before in used[:place]) or "true"
        read = f"CASE WHEN {undecided} THEN {phones.plain_mobile_sql(field)} END"
        rows = f"SELECT *, {read} AS plain_{field} FROM ({rows})"
    return rows


def _phones_of_a_line(used: list[str]) -> str:
    """The first plain mobile, whether it was mended, and the cells before it: any of them may be a mobile as well."""
    if not used:
        return "NULL::VARCHAR AS plain_mobile, false AS plain_mobile_mended"
    plain = [f"plain_{field}" for field in used]
    mended = " ".join(f"WHEN plain_{field} IS NOT NULL THEN {phones.mended_mobile_sql(field)}" for field in used)
    asked = [
        f"CASE WHEN coalesce({', '.join(plain[: place + 1])}) IS NULL THEN {field} END AS asked_{field}"
        for place, field in enumerate(used)
    ]
    first = f"coalesce({', '.join(plain)}) AS plain_mobile"
    return ", ".join([first, f"CASE {mended} ELSE false END AS plain_mobile_mended", *asked])


def _settle(con: duckdb.DuckDBPyConnection, used: list[str]) -> None:
    """``answered_emails`` and ``answered_phones``: what the rules say of the lines that they had to be asked about."""
    _ask(con, "emails", ["email"], emails.fast_sql, emails.classify)
    _ask(con, "phones", used, phones.fast_sql, phones.classify)
    con.execute("""
        CREATE TEMP TABLE answered_emails AS
        SELECT line, unnest(answer) FROM mended JOIN asked_emails ON raw = asked_email
    """)
    con.execute(f"CREATE TEMP TABLE answered_phones AS {_answered_phones(used)}")


def _settled(mended: str = "mended") -> str:
    """The FROM-term of mended lines, each with the one email and the one phone that it comes to."""
    return f"""(
        SELECT m.* EXCLUDE (plain_email, plain_mobile, plain_mobile_mended),
            coalesce(m.plain_email, e.address) AS email,
            CASE WHEN m.plain_email IS NOT NULL THEN 'good' ELSE coalesce(e.kind, 'none') END AS email_kind,
            e.detail AS email_detail,
            coalesce(p.e164, m.plain_mobile) AS mobile,
            coalesce(p.kind, CASE WHEN m.plain_mobile IS NOT NULL THEN 'mobile' ELSE 'none' END) AS phone_kind,
            p.detail AS phone_detail
        FROM {mended} m LEFT JOIN answered_emails e USING (line) LEFT JOIN answered_phones p USING (line)
    )"""


def _ask(
    con: duckdb.DuckDBPyConnection,
    what: str,
    fields: list[str],
    fast_sql: Callable[[str], str],
    classify: Callable[[str], NamedTuple],
) -> None:
    """``asked_<what>(raw, answer)``: what the rules say of each cell that isn't plain; Python, where SQL can't tell."""
    columns = [f"SELECT asked_{field} AS raw FROM mended" for field in fields] or ["SELECT NULL::VARCHAR AS raw"]
    texts = f"(SELECT DISTINCT raw FROM ({' UNION ALL '.join(columns)}) WHERE raw IS NOT NULL)"
    con.execute(f"CREATE TEMP TABLE asked_{what} AS {fast_sql(texts)}")
    left = [row[0] for row in con.sql(f"SELECT raw FROM asked_{what} WHERE answer IS NULL").fetchall()]
    if not left:
        return
    answers = pa.array([classify(text)._asdict() for text in left])
    con.register("answers", pa.table({"raw": pa.array(left, pa.string()), "answer": answers}))
    con.execute(f"UPDATE asked_{what} SET answer = a.answer FROM answers a WHERE a.raw = asked_{what}.raw")
    con.unregister("answers")


_TELLING = ("not_uk", "landline", "not_mobile")
"""Of the numbers of a line without a mobile, the first of the first kind here is taken: it says most about why."""


def _answered_phones(used: list[str]) -> str:
    """``line, kind, e164, mended, detail`` of the lines on which a cell that had to be asked about decides."""
    mobiles = [f"WHEN {field}.answer.kind = 'mobile' THEN {field}.answer" for field in used]
    others = [f"WHEN {field}.answer.kind = '{kind}' THEN {field}.answer" for kind in _TELLING for field in used]
    # A cell that was asked about stands before the line's plain mobile.
    best = " ".join([*mobiles, "WHEN plain_mobile IS NOT NULL THEN NULL", *others])
    joins = " ".join(f"LEFT JOIN asked_phones {field} ON {field}.raw = m.asked_{field}" for field in used)
    asked = " OR ".join(f"m.asked_{field} IS NOT NULL" for field in used) or "false"
    nothing = "{kind: 'none', e164: NULL::VARCHAR, mended: false, detail: NULL::VARCHAR}"
    return f"""
        SELECT line, unnest(best) FROM (
            SELECT m.line, {f"CASE {best} END" if used else nothing} AS best FROM mended m {joins} WHERE {asked}
        ) WHERE best IS NOT NULL
    """


def _doubtful(con: duckdb.DuckDBPyConnection, *, today: date, needs_date_of_birth: bool) -> pa.Table:
    """The lines that could be read and aren't surely right: pandera's schema of a patient's row is asked about those."""
    rows = con.sql("SELECT line, nhs_number, date_of_birth_given, date_of_birth FROM mended WHERE problem IS NULL")
    reader = rows.to_arrow_reader(_CHUNK_ROWS)
    asked = {"needs_date_of_birth": needs_date_of_birth, "today": today}
    return pa.Table.from_batches(
        (batch.filter(pa.array(~schema.surely_valid(batch, **asked))) for batch in reader), reader.schema
    )


def _refused(rows: pa.Table, *, today: date, needs_date_of_birth: bool) -> pa.Table:
    """``line, reason`` of the rows that the schema refuses."""
    lines, reasons = [pa.array([], pa.int32())], [pa.array([], pa.string())]
    for start in range(0, rows.num_rows, _CHUNK_ROWS):
        frame = rows.slice(start, _CHUNK_ROWS).to_pandas()
        failures = schema.failures(frame, needs_date_of_birth=needs_date_of_birth, today=today)
        lines.append(pa.array(frame["line"].to_numpy()[failures["position"].to_numpy()], pa.int32()))
        reasons.append(pa.array(failures["code"].tolist(), pa.string()))
    return pa.table({"line": pa.chunked_array(lines), "reason": pa.chunked_array(reasons)})


def _reject(con: duckdb.DuckDBPyConnection, refused: pa.Table) -> None:
    """``rejected(line, reason)``: unreadable lines, and those refused."""
    con.register("refused", refused)
    con.execute("""
        CREATE TEMP TABLE rejected AS
        SELECT line, problem AS reason FROM mended WHERE problem IS NOT NULL UNION ALL FROM refused
    """)
    con.unregister("refused")


def _find_duplicates(con: duckdb.DuckDBPyConnection) -> None:
    """``repeated``: one row a patient who stands on several lines, with the line that stays.

    The first line with a usable contact detail; the first line, if none has one (SPEC 2.2). Deceased on any line counts,
    on a rejected one too: whoever wrote it meant this patient.
    """
    # Few lines are a patient's second: what they say of whom is only asked about those.
    con.execute("""
        CREATE TEMP TABLE sharing AS
        FROM mended WHERE nhs_number IN (SELECT nhs_number FROM mended GROUP BY nhs_number HAVING count(*) > 1)
    """)
    con.execute(f"""
        CREATE TEMP TABLE shared AS
        SELECT s.*, r.line IS NULL AS valid FROM {_settled("sharing")} s LEFT JOIN rejected r USING (line)
    """)
    con.execute("""
        CREATE TEMP TABLE repeated AS
        SELECT nhs_number,
            coalesce(min(line) FILTER (valid AND (phone_kind = 'mobile' OR email_kind = 'good')), min(line) FILTER (valid))
                AS kept_line,
            bool_or(deceased) AS deceased,
            CASE WHEN NOT bool_or(deceased AND deceased_detail IS NULL) THEN max(deceased_detail) END AS deceased_detail
        FROM shared GROUP BY nhs_number HAVING bool_or(valid)
    """)
    con.execute("""
        CREATE TEMP TABLE duplicated AS
        SELECT s.line, r.kept_line,
            (s.phone_kind, s.mobile, s.email_kind, s.email)
                IS DISTINCT FROM (k.phone_kind, k.mobile, k.email_kind, k.email) AS disagrees
        FROM shared s
        JOIN repeated r USING (nhs_number)
        JOIN shared k ON k.line = r.kept_line
        WHERE s.valid AND s.line <> r.kept_line
    """)


def _write(con: duckdb.DuckDBPyConnection, cohort: Path, files: PatientFiles, today: date) -> None:
    write(
        con,
        f"""
        SELECT m.line, m.nhs_number, m.patient_name,
            coalesce(m.first_name, {names.first_name_sql("m.patient_name")}) AS first_name,
            coalesce(m.surname, {names.surname_sql("m.patient_name")}) AS surname,
            m.date_of_birth, m.email, m.email_kind, m.email_detail, m.mobile, m.phone_kind, m.phone_detail,
            m.deceased OR coalesce(r.deceased, false) AS deceased,
            CASE WHEN r.kept_line IS NULL THEN m.deceased_detail ELSE r.deceased_detail END AS deceased_detail
        FROM {_settled()} m
        LEFT JOIN repeated r ON r.kept_line = m.line
        ANTI JOIN rejected ON rejected.line = m.line
        ANTI JOIN duplicated ON duplicated.line = m.line
    """,
        files.patients,
    )
    usual = f"coalesce(born BETWEEN DATE '{dates.FIRST_YEAR}-01-01' AND DATE '{today.isoformat()}', false)"
    write(
        con,
        f"""
        SELECT r.line, r.reason,
            CASE r.reason WHEN 'nhs_number_invalid' THEN {nhs_number.problem_sql("m.nhs_number")}
                WHEN 'date_of_birth_invalid' THEN b.problem END AS detail,
            c.nhs_number, {names.full_name_sql("c")} AS patient_name, c.date_of_birth
        FROM rejected r JOIN {scan(cohort)} c USING (line) JOIN mended m USING (line)
        LEFT JOIN (SELECT raw, {dates.problem_sql("raw", "born", today)} AS problem FROM births WHERE NOT {usual}) b
            ON b.raw = c.date_of_birth
        ORDER BY r.line
    """,
        files.rejected_rows,
    )
    write(con, "SELECT line, kept_line, disagrees FROM duplicated ORDER BY line", files.duplicates)


def _count(con: duckdb.DuckDBPyConnection, files: PatientFiles) -> Sorted:
    lines, mended_numbers = con.sql("""
        SELECT count(*), count(*) FILTER (nhs_number_mended AND strlen(nhs_number) = 10) FROM mended
    """).fetchall()[0]
    mended_emails, mended_phones = con.sql("""
        SELECT (SELECT count(*) FROM answered_emails WHERE mended),
            (SELECT count(*) FROM answered_phones WHERE mended)
                + (SELECT count(*) FROM mended ANTI JOIN answered_phones USING (line) WHERE plain_mobile_mended)
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
