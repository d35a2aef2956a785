"""The few statements that SQLite and PostgreSQL spell differently. The one place that asks which it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

Insert = sqlite.Insert | postgresql.Insert


def insert(connection: sa.Connection, table: sa.Table) -> Insert:
    """An ``INSERT`` that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def insert_many(
    connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Inserts rows of plain values, as fast as the driver can.

    The values go to the driver as they are: an instant has to be whole microseconds already.
    """
    if not rows:
        return
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    sql = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join([mark] * len(columns))})"
    connection.exec_driver_sql(sql, list(rows))


def upsert_many(
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    *,
    key: str,
    renewed: Sequence[str],
) -> None:
    """As ``insert_many``; of a row whose ``key`` is there already, only the columns ``renewed`` are set."""
    if not rows:
        return
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    values = ", ".join([mark] * len(columns))
    changes = ", ".join(f"{name} = excluded.{name}" for name in renewed)
    sql = (
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET {changes}"
    )
    connection.exec_driver_sql(sql, list(rows))


_ROWS_A_STATEMENT = 500
"""Both take tens of thousands of values in one statement."""


def insert_unknown(
    connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Inserts the rows of plain values that no unique key has yet, many with one statement.

    A statement a row would give up Python's lock at each, and beside a busy thread wait 5 ms each to have it again.
    """
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    row = f"({', '.join([mark] * len(columns))})"
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        some = rows[start : start + _ROWS_A_STATEMENT]
        values = ", ".join([row] * len(some))
        sql = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES {values} ON CONFLICT DO NOTHING"
        connection.exec_driver_sql(sql, tuple(value for each in some for value in each))


def smaller(first: sa.ColumnElement[Any], second: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The smaller of two values, either of which may be null; null when both are."""
    return sa.case(
        (first.is_(None), second),
        (second.is_(None), first),
        (second < first, second),
        else_=first,
    )


def octets(connection: sa.Connection, text: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """How many bytes a text takes in UTF-8; 0 for null."""
    if connection.dialect.name == "sqlite":
        length = sa.func.length(sa.cast(text, sa.LargeBinary))
    else:
        length = sa.func.octet_length(text)
    return sa.func.coalesce(length, 0)


def one_of(connection: sa.Connection, column: sa.ColumnElement[int], numbers: Sequence[int]) -> sa.ColumnElement[bool]:
    """Whether a column is one of many numbers, given as one parameter: tens of thousands cost as little as one."""
    return _one_of(connection, column, numbers, sa.BigInteger())


def one_of_texts(
    connection: sa.Connection, column: sa.ColumnElement[str], texts: Sequence[str]
) -> sa.ColumnElement[bool]:
    """The same of texts."""
    return _one_of(connection, column, texts, sa.Text())


def one_of_given(dialect: str, column: sa.ColumnElement[int], name: str) -> sa.ColumnElement[bool]:
    """The same in a statement that is made once for a dialect: it is run with the numbers under a name."""
    return _is_in(dialect, column, sa.bindparam(name, type_=_type_of_many(dialect, sa.BigInteger())))


def _one_of(
    connection: sa.Connection, column: sa.ColumnElement[Any], values: Sequence[Any], kind: sa.types.TypeEngine[Any]
) -> sa.ColumnElement[bool]:
    dialect = connection.dialect.name
    return _is_in(dialect, column, sa.literal(list(values), _type_of_many(dialect, kind)))


def _is_in(dialect: str, column: sa.ColumnElement[Any], many: sa.BindParameter[Any]) -> sa.ColumnElement[bool]:
    if dialect == "sqlite":
        return column.in_(sa.select(sa.func.json_each(many).table_valued("value").c.value))
    return column == sa.any_(many)


def _type_of_many(dialect: str, kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    return sa.JSON() if dialect == "sqlite" else postgresql.ARRAY(kind)


def serving_since(dialect: str) -> sa.ColumnElement[Any]:
    """Since when the server runs that answers: none other has that moment. ``NULL`` on SQLite, which has no server.

    What a server has committed is there while it runs. Another that takes over from it may lag behind.
    """
    return sa.func.pg_postmaster_start_time() if dialect == "postgresql" else sa.null()


def spelt_out(word: str) -> sa.ColumnElement[str]:
    """A step or a channel that stands in the statement itself, for one that runs often.

    Some partial indexes hold but rows of one step or channel. SQLite plans a statement anew, at each run, whose given
    values decide whether such an index will do: that takes ten times as long as to find a row.
    """
    if not word.isidentifier():
        raise ValueError(word)
    return sa.literal_column(f"'{word}'", sa.Text())


def unindexed(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """The same text, but no reason to go through an index on it.

    Without statistics SQLite takes the index on a batch, and with it all of a million messages, where another one
    leads straight to the few that are due.
    """
    return column.concat("")


def lock_in_order(
    connection: sa.Connection, table: sa.Table, query: sa.Select[Any], given: Mapping[str, Any] | None = None
) -> None:
    """Locks the rows of a table that a query finds, by their id, for who is about to change many of them.

    An update locks its rows as it comes upon them: on PostgreSQL two that go through the same ones in different orders
    wait for each other, and one fails. On SQLite the one writer has them all.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(query.order_by(table.c.id).with_for_update(of=table), given)


def queue_for(connection: sa.Connection, name: str, *, shared: bool) -> None:
    """Waits in a line for what is called so, until the end of the transaction. On SQLite all writers stand in one.

    Before a row is locked that many share: they could keep out for ever who wants it alone, as PostgreSQL lets any
    number more share a row that somebody waits for. Locks of this kind it gives in the order of asking.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_QUEUE_SHARED if shared else _QUEUE_ALONE, {"queue": name})


_QUEUE = sa.func.hashtextextended(sa.bindparam("queue", type_=sa.Text()), 0)
_QUEUE_SHARED = sa.select(sa.func.pg_advisory_xact_lock_shared(_QUEUE))
_QUEUE_ALONE = sa.select(sa.func.pg_advisory_xact_lock(_QUEUE))


def refresh_statistics(connection: sa.Connection, table: sa.Table) -> None:
    """Tells PostgreSQL that a table has grown by a lot; until then it plans as if the table were empty."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"ANALYZE {table.name}")
