"""What the dispatcher tells the claims journal: each chunk before it is posted, and before it is given back."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import chunks, restored
from batch_pipeline.ledger.chunks import Chunk, Message
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.journal import Entry, Journal, Kind, Noted, body_of
from batch_pipeline.ledger.tables import attempts
from batch_pipeline.ledger.unconfirmed import Unconfirmed
from batch_pipeline.providers.protocol import ProviderStopped

_MESSAGES = (
    sa.select(*(attempts.c[name] for name in Noted._fields))
    .where(attempts.c.chunk == sa.bindparam("of_chunk"))
    .order_by(attempts.c.id)
)
_UNANSWERED = _MESSAGES.where(attempts.c.accepted_at.is_(None), attempts.c.failed_at.is_(None))


@dataclass
class Recorder:
    """One dispatch's hand on the journal; any number of its threads may use it, each for one chunk at a time."""

    ledger: Ledger
    journal: Journal
    _local: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        self.writer = restored.writer(self.ledger, self.journal)

    def before_post(self, chunk: Chunk, messages: Sequence[Message] | None) -> None:
        """On disk when this returns; ``ProviderStopped`` when it can't be, and then the chunk isn't to be posted.

        ``messages``: all of its, where they needn't be looked up. A call made again for the same chunk isn't told of again.
        """
        if getattr(self._local, "noted", None) == (chunk.reference, chunk.fence):
            return
        self._local.noted = None
        try:
            if messages is None:
                self._append("posted", chunk, _MESSAGES)
            else:
                told = [Noted(message.line, message.patient, message.reference) for message in messages]
                _write(self.journal, self.writer, "posted", chunk, told)
        except OSError as error:
            raise ProviderStopped(_unwritable(self.journal, error)) from None
        self._local.noted = (chunk.reference, chunk.fence)

    def before_return(self, chunk: Chunk) -> None:
        """Those of its messages that no answer is known of are about to be unsent again."""
        if getattr(self._local, "noted", None) != (chunk.reference, chunk.fence):
            return  # its post couldn't be told of, so there was none
        try:
            self._append("returned", chunk, _UNANSWERED)
        except OSError as error:
            raise Refused(_unwritable(self.journal, error)) from None

    def _append(self, kind: Kind, chunk: Chunk, query: sa.Select[Any]) -> None:
        with self.ledger.read() as connection:
            rows = connection.execute(query, {"of_chunk": chunk.reference}).all()
        _write(self.journal, self.writer, kind, chunk, [Noted(*row) for row in rows])


def record_not_sent(
    connection: sa.Connection, journal: Journal, writer: restored.Writer, found: Iterable[Unconfirmed]
) -> None:
    """A person's word, before it is committed, that messages weren't sent: they go in another chunk now."""
    by_chunk = dict[str, list[str]]()
    for each in found:
        by_chunk.setdefault(each.chunk, []).append(each.reference)
    for reference, mine in by_chunk.items():
        chunk = chunks.one(connection, reference)
        named = sa.select(*(attempts.c[name] for name in Noted._fields)).where(
            attempts.c.batch == chunk.batch, attempts.c.step == chunk.step, attempts.c.chunk.is_(None)
        )
        known = {row.reference: Noted(*row) for row in connection.execute(named)}
        # The journal knows them by the chunk that they were posted in.
        posted_in = replace(chunk, reference=reference.removesuffix(restored.APART))
        try:
            _write(journal, writer, "returned", posted_in, [known[one] for one in mine if one in known])
        except OSError as error:
            raise Refused(_unwritable(journal, error)) from None


def _unwritable(journal: Journal, error: OSError) -> str:
    return f"the claims journal {journal.folder} can't be written ({error.strerror}): mend its folder or disk"


def _write(journal: Journal, writer: restored.Writer, kind: Kind, chunk: Chunk, messages: Iterable[Noted]) -> None:
    journal.append(
        Entry(
            kind=kind,
            ledger=writer.ledger,
            key=writer.key,
            batch=chunk.batch,
            step=chunk.step,
            channel=chunk.channel,
            provider=chunk.provider,
            chunk=chunk.reference,
            fence=chunk.fence,
            claimed_at=chunk.claimed_at,
            written_at=journal.wall(),
            body=body_of(messages),
        )
    )
