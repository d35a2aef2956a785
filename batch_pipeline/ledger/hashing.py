"""Keyed hashes of NHS numbers and phone numbers: what stays of a patient after the purge (SPEC 3).

HMAC-SHA-256, of which 128 bits are kept, written as 32 hexadecimal digits. The key stays with the home: whoever
has only the ledger can't try all NHS numbers against it.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import duckdb
import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger.dialects import insert
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import facts

KEY_VARIABLE = "BATCH_PIPELINE_HASH_KEY"
_DIGITS = 32
_BLOCK = 64
_SHORTEST = 16


class Hasher:
    """Hashes one by one in Python, or by the column in DuckDB; both give the same."""

    def __init__(self, key: bytes) -> None:
        if len(key) < _SHORTEST:
            raise Refused(f"the hash key has {len(key)} bytes: it needs at least {_SHORTEST}")
        self._key = key

    def hash(self, value: str) -> str:
        """32 hexadecimal digits."""
        return hmac.new(self._key, value.encode(), hashlib.sha256).hexdigest()[:_DIGITS]

    def key_for(self, purpose: str) -> bytes:
        """A key of its own for another purpose: whoever has it can't work out this one."""
        return hmac.new(self._key, f"key for {purpose}".encode(), hashlib.sha256).digest()

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Hands the key to a DuckDB connection, as variables that ``sql`` refers to."""
        block = (hashlib.sha256(self._key).digest() if len(self._key) > _BLOCK else self._key).ljust(_BLOCK, b"\0")
        connection.execute("SET VARIABLE hash_inner = $1", [bytes(byte ^ 0x36 for byte in block)])
        connection.execute("SET VARIABLE hash_outer = $1", [bytes(byte ^ 0x5C for byte in block)])

    def sql(self, column: str) -> str:
        """A DuckDB expression that hashes a VARCHAR expression; null for null. ``prepare`` the connection first."""
        inner = f"unhex(sha256(getvariable('hash_inner') || encode({column})))"
        return f"left(sha256(getvariable('hash_outer') || {inner}), {_DIGITS})"

    def __repr__(self) -> str:
        return "Hasher(…)"


def load_or_make_key(path: Path) -> bytes:
    """The key from the environment, or else from the file, which is made where it is missing.

    Never make a second key for a ledger: under another key every patient looks new (``hold_to_key``).
    """
    if given := os.environ.get(KEY_VARIABLE):
        return given.encode()
    if not path.exists():
        _make_key(path)
    return path.read_bytes().strip()


def _make_key(path: Path) -> None:
    """Writes a key aside and links it into place: of several processes one wins, and none sees half a key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except FileExistsError:
            return
    finally:
        part.unlink()


def hold_to_key(ledger: Ledger, hasher: Hasher) -> None:
    """Remembers which key a ledger was begun with; ``Refused`` for any other.

    With another key a patient who was sent to would count as new, and be sent to again.
    """
    mine = hasher.hash("batch_pipeline hash key")
    query = sa.select(facts.c.value).where(facts.c.name == "hash_key")
    with ledger.read() as connection:
        known = connection.scalar(query)
    if known is None:
        with ledger.write() as connection:
            row = insert(connection, facts).values(name="hash_key", value=mine).on_conflict_do_nothing()
            connection.execute(row)
            known = connection.scalar(query)
    if known != mine:
        raise Refused(
            f"the hash key isn't the one this ledger was begun with: put the old hash.key (or {KEY_VARIABLE}) back, "
            "or nobody could tell who was sent to already"
        )
