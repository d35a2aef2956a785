"""Telling the practice of answers that can't wait: by email through its relay, or by a webhook (SPEC 2.12).

A notice says which batch and which lines, and where to look; nothing of a patient. Whoever isn't surely told is told
again: its id is the same then, and so is an email's ``Message-ID``.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from batch_pipeline.providers.bounded_http import BoundedHttp, Deadline, NoAnswer, NotSent
from batch_pipeline.providers.protocol import ChunkRefused, ChunkTooLarge, OutgoingMessage, Provider, Unfinished

WHAT = "urgent blood pressure reading"
"""The one thing so far that can't wait."""
_MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class Notice:
    """What the practice is told of a batch. Nothing personal."""

    workspace: str
    batch: str
    alerts: Sequence[int]
    """By which each is known: whoever is told twice can see it."""
    lines: Sequence[int]

    @property
    def id(self) -> str:
        """The same for the same alerts, and for no others: who has had one of them drops the other."""
        known = hashlib.sha256(",".join(map(str, sorted(self.alerts))).encode()).hexdigest()
        return f"{self.batch}:alerts:{known[:16]}"

    @property
    def subject(self) -> str:
        """In one line."""
        return f"Urgent: {WHAT}, batch {self.batch}"

    @property
    def text(self) -> str:
        """What a person is told."""
        lines = ", ".join(map(str, self.lines[:_MOST_LINES])) + (", …" if len(self.lines) > _MOST_LINES else "")
        return (
            f"Batch {self.batch} has an {WHAT} from the patient on line {lines} of its file.\n\n"
            if len(self.lines) == 1
            else f"Batch {self.batch} has an {WHAT} from each of {len(self.lines)} patients: lines {lines} of its file.\n\n"
        ) + (
            f"Please look at it now: responses.csv among the batch's reports, or batch-pipeline inbox {self.batch}.\n\n"
            "The patient has been shown what to do, and may not have done it."
        )


class NotTold(Exception):
    """The practice isn't surely told: it has to be tried again. The reason names no patient, and no address."""


class Messenger(Protocol):
    """Who tells the practice."""

    @property
    def name(self) -> str:
        """As the ledger notes it."""
        ...

    def tell(self, notice: Notice, now: datetime) -> None:
        """Returns once the practice's side has it. Raises ``NotTold``."""
        ...

    def close(self) -> None:
        """Gives up connections."""
        ...


class ByEmail:
    """By the mail relay of the workspace, to an address of the practice's."""

    name = "email"

    def __init__(self, relay: Provider, address: str) -> None:
        self._relay = relay
        self._address = address

    def tell(self, notice: Notice, now: datetime) -> None:
        """One letter for all of them."""
        letter = OutgoingMessage(notice.id, "email", "", self._address, notice.text, notice.subject)
        try:
            answer = self._relay.send(notice.id, [letter], now)
        except (Unfinished, ChunkRefused, ChunkTooLarge) as why:
            raise NotTold(str(why)) from None
        if answer.refused:
            raise NotTold(f"the mail server refused the letter to the practice ({answer.refused[0].failure_code})")

    def close(self) -> None:
        """Of the relay."""
        self._relay.close()


class ByWebhook:
    """By a POST to an address of the practice's."""

    name = "webhook"

    def __init__(self, url: str, token: str | None, seconds: float) -> None:
        self._url = url
        self._token = token
        self._seconds = seconds
        self._http = BoundedHttp()

    def tell(self, notice: Notice, now: datetime) -> None:
        """Any 2xx says that it has it."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": notice.id}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        said = {
            "id": notice.id,
            "at": now.isoformat(timespec="seconds"),
            "what": WHAT,
            "workspace": notice.workspace,
            "batch": notice.batch,
            "lines": list(notice.lines),
            "alerts": list(notice.alerts),
            "where": f"responses.csv among the batch's reports, or batch-pipeline inbox {notice.batch}",
        }
        content = json.dumps(said).encode()
        try:
            reply = self._http.call(
                "POST", self._url, headers=headers, content=content, deadline=Deadline(self._seconds)
            )
        except (NotSent, NoAnswer) as why:
            raise NotTold(f"the webhook: {why}") from None
        if reply.status // 100 != 2:
            raise NotTold(f"the webhook answered {reply.status}")

    def close(self) -> None:
        """Of the client."""
        self._http.close()
