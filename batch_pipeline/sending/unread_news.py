"""News that an earlier version couldn't read, read again: a source of receipts like any other."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from batch_pipeline.ledger import unread
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers.nhs_notify_receipts import read_again
from batch_pipeline.providers.protocol import Receipt


class UnreadNews:
    """What lies in a ledger of NHS Notify's: the one whose callbacks hold many items."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def name(self) -> str:
        """The provider's."""
        return "nhs_notify"

    def receipts(self, now: datetime) -> Iterator[Sequence[Receipt]]:
        """As ``ReceiptSource.receipts``: what can be read now, which is forgotten here once it is stored."""
        _ = now
        after = ""
        while items := self._kept(after):
            after = items[-1].sha256
            told = {each.sha256: found for each in items if (found := read_again(each.item)) is not None}
            if told:
                yield [receipt for found in told.values() for receipt in found]
                with self._ledger.write() as connection:
                    unread.forget(connection, self.name, list(told))

    def _kept(self, after: str) -> list[unread.Unread]:
        with self._ledger.read() as connection:
            return unread.kept(connection, self.name, after=after)
