"""The attempts of a batch as Arrow, for the set work of reports and metrics."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# (pyarrow comes without types)

from collections.abc import Iterator

import pyarrow as pa
import sqlalchemy as sa

from batch_pipeline.ledger import links
from batch_pipeline.ledger.tables import attempts
from batch_pipeline.rules.states import attempt_state_sql

_ROWS = 20_000
_TIMES = (
    *("queued_at", "begun_at", "accepted_at", "delivered_at", "read_at", "failed_at"),
    *("timed_out_at", "unconfirmed_at", "no_fallback_at"),
)
_TEXTS = ("step", "channel", "provider", "reference", "failure_kind", "failure_code", "no_fallback_because", "policy")

SCHEMA = pa.schema(
    [
        ("line", pa.int32()),
        ("fragments", pa.int32()),
        ("state", pa.string()),
        *((name, pa.string()) for name in _TEXTS),
        *((name, pa.timestamp("us", "UTC")) for name in _TIMES),
    ]
)


def read_attempts(connection: sa.Connection, batch: str, step: str | None = None) -> Iterator[pa.RecordBatch]:
    """The batch's attempts in the order of their lines, with the state that each is in; nothing personal.

    Record batches of ``SCHEMA``, in one reading of the ledger: memory stays bounded.
    """
    columns = [attempts.c.line, attempts.c.fragments, sa.literal_column(attempt_state_sql("attempts")).label("state")]
    columns += [attempts.c[name] for name in _TEXTS]
    columns += [sa.type_coerce(attempts.c[name], sa.BigInteger).label(name) for name in _TIMES]
    query = sa.select(*columns).where(attempts.c.batch == batch).order_by(attempts.c.line, attempts.c.step.desc())
    if step is not None:
        query = query.where(attempts.c.step == step)
    found = connection.execution_options(yield_per=_ROWS).execute(query)
    for rows in found.partitions(_ROWS):
        cells = list(zip(*rows, strict=True))
        yield pa.record_batch(
            [
                # Microseconds since 1970, as the ledger keeps them: no datetime is made a row at a time.
                pa.array(column, pa.int64()).cast(field.type)
                if pa.types.is_timestamp(field.type)
                else pa.array(column, field.type)
                for column, field in zip(cells, SCHEMA, strict=True)
            ],
            schema=SCHEMA,
        )


def read_locked(connection: sa.Connection, batch: str) -> pa.Table:
    """``line, locked_at`` of the batch's links that are locked."""
    found = links.locked(connection, batch)
    return pa.table(
        {
            "line": pa.array([line for line, _ in found], pa.int32()),
            "locked_at": pa.array([at for _, at in found], pa.timestamp("us", "UTC")),
        }
    )


def read_begun(connection: sa.Connection, batch: str) -> pa.Table:
    """``patient, channel, address, fallback_number`` of the batch's first messages that are under way or sent."""
    names = ("patient", "channel", "address", "fallback_number")
    query = sa.select(*(attempts.c[name] for name in names)).where(
        attempts.c.batch == batch, attempts.c.step == "primary", attempts.c.begun_at.is_not(None)
    )
    rows = connection.execute(query).all()
    cells = list(zip(*rows, strict=True)) or [()] * len(names)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, cells, strict=True)})
