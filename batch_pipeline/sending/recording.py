"""What the dispatcher tells the claims journal: each chunk before it is posted, and before it is given back."""

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import chunks, restored
from batch_pipeline.ledger.chunks import Chunk, Message
from batch_pipeline.ledger.dialects import one_of_texts
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.grouping import Grouped
from batch_pipeline.ledger.journal import Entry, Journal, Kind, Noted, body_of
from batch_pipeline.ledger.tables import attempts
from batch_pipeline.ledger.unconfirmed import Unconfirmed
from batch_pipeline.providers.protocol import ProviderStopped

_MESSAGES = (
    sa.select(*(attempts.c[name] for name in Noted._fields))
    .where(attempts.c.chunk == sa.bindparam("of_chunk"))
    .order_by(attempts.c.id)
)
_UNTOLD = _MESSAGES.where(chunks.untold)


@dataclass
class Recorder:
    """One dispatch's hand on the journal; any number of its threads may use it, each for one chunk at a time."""

    ledger: Ledger
    journal: Journal
    _local: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        self.watch = restored.Watch(self.ledger, self.journal)
        self._tell = Grouped(self._tell_together)

    def before_post(self, chunk: Chunk, messages: Sequence[Message] | None) -> None:
        """On disk when this returns; ``ProviderStopped`` when it can't be, and then the chunk isn't to be posted.

        Nor is it where the ledger has lost a chunk meanwhile, this dispatch's or another's: then it went back, and this
        may be messages of that. ``messages``: all of its, where they needn't be looked up. A call made again for the
        same chunk isn't told of again.
        """
        if getattr(self._local, "noted", None) == (chunk.reference, chunk.fence):
            return
        self._local.noted = self._local.doubtful = None
        try:
            if messages is None:
                told = self._messages(chunk, _MESSAGES)
            else:
                told = [Noted(message.line, message.patient, message.reference) for message in messages]
            self._tell(_entry(self.journal, self.watch.writer, "posted", chunk, told))
        except OSError as error:
            self._local.doubtful = (chunk.reference, chunk.fence)
            raise ProviderStopped(_unwritable(self.journal, error)) from None
        self._local.noted = (chunk.reference, chunk.fence)

    def _tell_together(self, posts: Sequence[Entry]) -> int:
        """What threads are about to post at the same time, with one look and one sync: both are after all of them came."""
        self._require_whole()
        self.journal.append(*posts)
        return len(posts)

    def _require_whole(self) -> None:
        if missing := self.watch.missing():
            raise ProviderStopped(
                f"the ledger doesn't know chunk {min(missing)} any more, so it was put back while this ran: see "
                "`batch-pipeline status`"
            )

    def was_posted(self, chunk: Chunk) -> bool:
        """Whether the journal tells of a post of a chunk that the ledger calls waiting: then the ledger went back.

        A journal that can't be read may tell of one.
        """
        try:
            return self.watch.knows(chunk.reference)
        except OSError:
            return True

    def before_return(self, chunk: Chunk) -> None:
        """Those of its messages that nothing is known of are about to be unsent again.

        A post that couldn't be told of wasn't made. Its line may be there all the same: what failed may have been the
        last of it.
        """
        this = (chunk.reference, chunk.fence)
        if getattr(self._local, "noted", None) == this:
            try:
                self._return(chunk)
            except OSError as error:
                raise Refused(_unwritable(self.journal, error)) from None
        elif getattr(self._local, "doubtful", None) == this:
            with suppress(OSError):
                self._return(chunk)

    def _return(self, chunk: Chunk) -> None:
        self.journal.append(_entry(self.journal, self.watch.writer, "returned", chunk, self._messages(chunk, _UNTOLD)))

    def _messages(self, chunk: Chunk, query: sa.Select[Any]) -> list[Noted]:
        with self.ledger.read() as connection:
            return [Noted(*row) for row in connection.execute(query, {"of_chunk": chunk.reference})]


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
            one_of_texts(connection, attempts.c.reference, mine)
        )
        # The journal knows them by the chunk that they were posted in.
        posted_in = replace(chunk, reference=reference.removesuffix(restored.APART))
        try:
            messages = [Noted(*row) for row in connection.execute(named)]
            journal.append(_entry(journal, writer, "not_sent", posted_in, messages))
        except OSError as error:
            raise Refused(_unwritable(journal, error)) from None


def _unwritable(journal: Journal, error: OSError) -> str:
    return f"the claims journal {journal.folder} can't be written ({error.strerror}): mend its folder or disk"


def _entry(journal: Journal, writer: restored.Writer, kind: Kind, chunk: Chunk, messages: Iterable[Noted]) -> Entry:
    return Entry(
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
