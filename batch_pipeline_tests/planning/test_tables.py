"""The tables' schemas: every check of every column is found broken, by name and count alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pytest

from batch_pipeline.planning import tables
from batch_pipeline.planning.duck import scan, write
from batch_pipeline_tests.ledger.given import nhs_number
from batch_pipeline_tests.planning.worlds import Planned, accounts, connection, csv_text, facts, mobile, patient

SCHEMAS = {str(name): schema for name, schema in tables.SCHEMAS.items()}
SECRET = "07700 900999 GREEN"

# ---- broken -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two rows that fit, for every schema."""
    folder = tmp_path_factory.mktemp("good")
    paths: dict[str, Path] = {}
    for name, schema in SCHEMAS.items():
        columns = ", ".join(f"{_value(column)} AS {name}" for name, column in schema.columns.items())
        paths[name] = folder / name
        write(connection(), f"SELECT {columns} FROM range(1, 3) rows(n)", paths[name])
    return paths


def _kind(column: pa.Column) -> str:
    return str((column.metadata or {})["type"])


def _value(column: pa.Column) -> str:
    """SQL of a value that fits the column, another in each row."""
    for check in column.checks:
        if check.name == "isin":
            return f"'{check.statistics['allowed_values'][0]}'"
        if check.name == "str_matches":
            return (
                "'999000' || (1000 + n)" if "{10}" in str(check.statistics["pattern"]) else "'+4477009000' || (10 + n)"
            )
    samples = {"VARCHAR": "'x' || n", "VARCHAR[]": "['x']", "BOOLEAN": "true", "DATE": "DATE '2026-10-01'"}
    return samples.get(
        _kind(column), f"('2026-10-0' || n)::{_kind(column)}" if "TIME" in _kind(column) else f"n::{_kind(column)}"
    )


def _faults() -> Iterator[tuple[str, str, str, str]]:
    """``(schema, column, rule, SQL of a value that breaks it)`` for every rule there is."""
    for schema in SCHEMAS.values():
        for name, column in schema.columns.items():
            if not column.nullable:
                yield str(schema.name), name, "empty", f"NULL::{_kind(column)}"
            if column.unique:
                yield str(schema.name), name, "not unique", f"(SELECT min(o.{name}) FROM original o)"
            for check in column.checks:
                breaking = {"greater_than_or_equal_to": f"(-1)::{_kind(column)}"}
                yield str(schema.name), name, check.name, breaking.get(check.name, f"'{SECRET}'")


FAULTS = list(_faults())


def test_tables_that_fit_break_nothing(good: dict[str, Path]) -> None:
    for name, path in good.items():
        assert tables.broken(connection(), SCHEMAS[name], path) == {}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_check_is_found_broken(good: dict[str, Path], tmp_path: Path, schema: str) -> None:
    con = connection()
    con.execute(f"CREATE TEMP VIEW original AS FROM {scan(good[schema])}")
    for of, column, rule, value in FAULTS:
        if of != schema:
            continue
        write(con, f"SELECT * REPLACE ({value} AS {column}) FROM original", tmp_path / "bad")
        found = tables.broken(con, SCHEMAS[schema], tmp_path / "bad")
        assert found.pop(f"{column}: {rule}") == (1 if rule == "not unique" else 2)
        assert all(label.startswith(f"{column}: ") for label in found)  # no longer unique, say
        assert SECRET not in json.dumps(found)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_missing_column_or_another_type_is_found(good: dict[str, Path], tmp_path: Path, schema: str) -> None:
    con = connection()
    name, column = next(iter(SCHEMAS[schema].columns.items()))
    write(con, f"SELECT * EXCLUDE ({name}), 1 AS other FROM {scan(good[schema])}", tmp_path / "missing")
    found = tables.broken(con, SCHEMAS[schema], tmp_path / "missing")
    assert found.pop(f"{name}: is missing, not {_kind(column)}") == 1
    assert found == ({"other: not in the schema": 1} if SCHEMAS[schema].strict else {})
    write(con, f"SELECT * REPLACE (['{SECRET}'] AS {name}) FROM {scan(good[schema])}", tmp_path / "retyped")
    found = tables.broken(con, SCHEMAS[schema], tmp_path / "retyped")
    assert found == {f"{name}: is VARCHAR[], not {_kind(column)}": 1}


def test_an_empty_table_fits(good: dict[str, Path], tmp_path: Path) -> None:
    con = connection()
    for name, schema in SCHEMAS.items():
        write(con, f"FROM {scan(good[name])} LIMIT 0", tmp_path / name)
        assert tables.broken(con, schema, tmp_path / name) == {}


CANDIDATES = [
    "",
    "x",
    "email",
    "sms ",
    "SMS",
    "good",
    "deceased",
    "9990000018",
    "999000001",
    "99900000180",
    "+447700900123",
]
CANDIDATES += ["+33199001234", "primary", "nhs_number_invalid", "mobile", "'", "\u0663" * 10, " 9990000018"]


def test_each_check_in_sql_says_what_pandera_says() -> None:
    """pandera's own answer, value by value, for every check of every schema."""
    con = connection()
    seen: set[str] = set()
    for schema in SCHEMAS.values():
        for column in schema.columns.values():
            for check in column.checks:
                numbers = check.name == "greater_than_or_equal_to"
                values = [-2, -1, 0, 1, 2] if numbers else CANDIDATES
                said = check(pd.Series(values)).check_output.tolist()
                con.register("candidates", pd.DataFrame({"v": values, "n": range(len(values))}))
                sql = con.sql(f"SELECT {tables._check_sql('v', check)} FROM candidates ORDER BY n").fetchall()
                assert [row[0] for row in sql] == said, (schema.name, column.name, check.name)
                seen.add(check.name)
    assert seen == {"isin", "greater_than_or_equal_to", "str_matches"}


def test_real_tables_have_the_columns_that_dagster_shows(tmp_path: Path) -> None:
    """In the schemas' order: what a person reads beside the table is the table."""
    world = Planned(
        tmp_path, csv_text([patient(0, mobile=mobile(0)), patient(0), patient(1), patient(2, nhs_number="")])
    )
    assert world.figures
    for path in sorted(tmp_path.iterdir()):
        if path.name in SCHEMAS:
            schema = SCHEMAS[path.name]
            found = [row[0] for row in connection().sql(f"DESCRIBE FROM {scan(path)}").fetchall()]
            assert found == list(schema.columns), path.name


# ---- astray ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whole", "parts", "astray"),
    [
        ([1, 2, 3], [[1, 2], [3]], 0),
        ([], [[], []], 0),
        ([3, 1, 2], [[], [2], [1, 3]], 0),
        ([1, 2, 3], [[1], [3]], 1),
        ([1, 2, 3], [[1, 2], [2, 3]], 1),
        ([1, 2, 3], [[1, 2], [2]], 2),  # one twice for one that is missing: the count alone is right
        ([1, 4], [[2], [3]], 4),  # so is the sum
        ([1, 2], [[1, 2, 7]], 1),
        ([1, 1], [[1]], 1),
        ([], [[1]], 1),
    ],
)
def test_lines_that_are_not_in_exactly_one_place_are_counted(
    tmp_path: Path, whole: list[int], parts: list[list[int]], astray: int
) -> None:
    paths = [tmp_path / str(number) for number in range(len(parts) + 1)]
    for path, lines in zip(paths, [whole, *parts], strict=True):
        write(connection(), f"SELECT unnest({lines}::INTEGER[]) AS line", path)
    assert tables.astray(connection(), paths[0], tuple(paths[1:])) == astray


# ---- addresses and samples -------------------------------------------------------------------------------------------------


def test_a_recipient_without_an_address_for_the_path_is_counted(tmp_path: Path) -> None:
    rows = [
        ("email", "ash@example.org", 1),
        ("email", "+447700900001", 2),
        ("email", None, 3),
        ("sms", "+447700900001", 4),
        ("sms", "07700900001", 5),
        ("sms", "ash@example.org", 6),
        ("nhs_app", nhs_number(7), 7),
        ("nhs_app", nhs_number(8), 9),
        ("post", "1 High Street", 10),
        ("sms", "+447700900001", 4),
    ]
    values = ", ".join(
        f"('{path}', {'NULL' if address is None else repr(address)}, '{nhs_number(number)}', 'rule of {path}')"
        for path, address, number in rows
    )
    write(connection(), f"FROM (VALUES {values}) t(path, address, nhs_number, rule)", tmp_path / "plan")
    found = tables.addressing(connection(), tmp_path / "plan")
    assert (found.without_address, found.twice) == (6, 1)
    assert found.by_rule == {"rule of email": 3, "rule of nhs_app": 2, "rule of post": 1, "rule of sms": 4}


def test_samples_of_numbers_are_masked(tmp_path: Path) -> None:
    lines = [patient(0), *(patient(number, mobile=mobile(120 + number)) for number in range(1, 9))]
    world = Planned(tmp_path, csv_text(lines), facts=facts(accounts(1)))
    assert world.sorted
    assert tables.masked_samples(connection(), world.files.patients) == {
        str(line): f"07•••• •••{118 + line}" for line in range(3, 8)
    }
