"""What a process of a round does: it sends the batch by a real provider's client, by a clock that the test moves on."""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from notifications_python_client import authentication

from batch_pipeline.clocks import seconds_since_boot
from batch_pipeline.errors import Refused
from batch_pipeline.providers.govuk_notify import GovukNotify, GovukNotifyAccount
from batch_pipeline.providers.nhs_notify import NhsNotify
from batch_pipeline.providers.nhs_notify_account import NhsNotifyAccount
from batch_pipeline.providers.protocol import Channel, Provider
from batch_pipeline.providers.smtp import Smtp, SmtpAccount
from batch_pipeline.sending import dispatcher
from batch_pipeline_tests.ledger.given import BATCH, NOW, open_ledger
from batch_pipeline_tests.processes import CONTEXT
from batch_pipeline_tests.sending.worlds import SERVER_GONE

Account = NhsNotifyAccount | GovukNotifyAccount | SmtpAccount

_LONGEST_SLEEP = 0.05


class SharedClock:
    """The machine's clocks for all processes of a round, and as much ahead of the real ones as the test has moved them.

    It may be moved while no process runs, dead or stopped as they are: then leases end as if that time had gone by.
    Sleeping takes no time: what a provider asks to be waited for isn't what a round is about.
    """

    def __init__(self) -> None:
        self._ahead: Any = CONTEXT.RawValue("d", 0)

    def move(self, by: timedelta) -> None:
        self._ahead.value += by.total_seconds()

    def wall(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._ahead.value)

    def steady(self) -> float:
        return seconds_since_boot() + self._ahead.value

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(min(seconds, _LONGEST_SLEEP))


class InChunks(NhsNotify):
    """NHS Notify in chunks so small that a round has many of them."""

    def __init__(self, account: NhsNotifyAccount, chunk: int, clock: SharedClock) -> None:
        super().__init__(account, steady=clock.steady)
        self._limits = replace(self._limits, messages=chunk)


@dataclass(frozen=True)
class Errand:
    """What every dispatch of a round is given."""

    folder: Path
    account: Account
    channels: tuple[Channel, ...]
    chunk: int
    clock: SharedClock

    def providers(self) -> Mapping[Channel, Provider]:
        return dict.fromkeys(self.channels, self._provider())

    def _provider(self) -> Provider:
        match self.account:
            case NhsNotifyAccount():
                return InChunks(self.account, self.chunk, self.clock)
            case GovukNotifyAccount():
                return GovukNotify(self.account, chunk=self.chunk, steady=self.clock.steady)
            case SmtpAccount():
                return Smtp(self.account, steady=self.clock.steady)


def owner_name(pid: int) -> str:
    """In the leases of a process."""
    return f"process {pid}"


def run_errand(errand: Errand) -> None:
    """Sends the batch as far as it goes. For a process of its own; exits with ``SERVER_GONE`` when its ledger goes."""
    # The official client dates each request, and the other side refuses one that is half a minute old.
    authentication.epoch_seconds = lambda: int(errand.clock.wall().timestamp())
    try:
        dispatcher.dispatch(
            open_ledger(errand.folder),
            BATCH,
            errand.providers(),
            now=NOW,
            owner=owner_name(os.getpid()),
            wall=errand.clock.wall,
            steady=errand.clock.steady,
            sleep=errand.clock.sleep,
        )
    except Refused:
        sys.exit(SERVER_GONE)
