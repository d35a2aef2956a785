"""The providers of a round: each double with the faults of a seed, and what it tells of the messages that it took."""

import json
import random
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Self

from typing_extensions import override

from batch_pipeline.gateway.callbacks import CallbackReader
from batch_pipeline.gateway.readers import GovukNotifyCallbacks, NhsNotifyCallbacks
from batch_pipeline.providers import govuk_notify, nhs_notify
from batch_pipeline.providers._reference_tokens import ReferenceTokens
from batch_pipeline.providers.govuk_notify import GovukNotifyAccount
from batch_pipeline.providers.protocol import Channel
from batch_pipeline_tests.providers import govuk_notify_double
from batch_pipeline_tests.providers.govuk_notify_double import GovukNotifyDouble, denial, lost_answers
from batch_pipeline_tests.providers.mail_server import Deed, MailServer, hang_up, reset
from batch_pipeline_tests.providers.nhs_notify_double import (
    NhsNotifyDouble,
    channel_status,
    lossy,
    message_status,
    signed,
)
from batch_pipeline_tests.sending.round_processes import Account, SharedClock
from batch_pipeline_tests.sending.smtp_worlds import account as smtp_account

APPLICATION, CALLBACK_KEY, TOKEN = "an-application", "a key for tests", "a token for tests, long enough"
READERS: Mapping[str, CallbackReader] = {
    "nhs_notify": NhsNotifyCallbacks(APPLICATION, CALLBACK_KEY),
    "govuk_notify": GovukNotifyCallbacks(TOKEN),
}

Kind = Literal["delivered", "read", "failed", "nothing"]
"""What a piece of news says of its message, by PROVIDERS 1 and 3; "nothing" changes nothing."""


@dataclass(frozen=True)
class Callback:
    """One call of the provider's, and what it says of which messages."""

    body: bytes
    headers: Mapping[str, str]
    says: Sequence[tuple[str, Kind]]


class Service(ABC):
    """A provider on loopback, from ``with`` on."""

    name: ClassVar[str]
    channels: ClassVar[tuple[Channel, ...]]
    workers: ClassVar[int]
    """Calls of one dispatch at the same time."""
    one_in_doubt: ClassVar[bool] = False
    """Whether what was in hand when a process or a connection ended may be left to a person (SMTP)."""

    def __init__(self, seed: int, clock: SharedClock) -> None:
        self.seed = seed
        self.clock = clock
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._begin(self._stack)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abstractmethod
    def _begin(self, stack: ExitStack) -> None: ...

    @property
    @abstractmethod
    def account(self) -> Account: ...

    @property
    @abstractmethod
    def port(self) -> int: ...

    @abstractmethod
    def count(self) -> int:
        """Messages taken so far."""

    @abstractmethod
    def requests(self) -> int:
        """A number that grows with whatever is asked of it."""

    @abstractmethod
    def taken(self) -> Counter[str]:
        """How often each message was taken, by our reference."""

    @property
    def cut_in_doubt(self) -> int:
        """Connections that it ended at a moment after which nobody can know."""
        return 0

    def violations(self) -> list[str]:
        """What no client may ever do."""
        return []

    def callbacks(self, chance: random.Random, share: float = 1.0) -> list[Callback]:
        """What it tells of that share of the messages it has taken: shuffled, and some of it twice."""
        raise NotImplementedError


class NhsNotifyService(Service):
    name = "nhs_notify"
    channels = ("nhs_app", "sms", "email")
    workers = nhs_notify.AT_ONCE

    @override
    def _begin(self, stack: ExitStack) -> None:
        self.double = stack.enter_context(NhsNotifyDouble(chance=lossy(self.seed, other=0.03)))

    @property
    @override
    def account(self) -> Account:
        return self.double.account()

    @property
    @override
    def port(self) -> int:
        return int(self.double.host.rpartition(":")[2])

    @override
    def count(self) -> int:
        return len(self.double.journal)

    @override
    def requests(self) -> int:
        return sum(self.double.asked.values()) + self.count()

    @override
    def taken(self) -> Counter[str]:
        return self.double.times()

    @override
    def violations(self) -> list[str]:
        return self.double.failures

    @override
    def callbacks(self, chance: random.Random, share: float = 1.0) -> list[Callback]:
        news: list[tuple[str, Kind, object]] = []
        for taken in list(self.double.journal):
            if chance.random() < share:
                told = _nhs_news(self.seed, taken.reference, taken.channel)
                news += told if chance.random() < 0.7 else told * 2
        chance.shuffle(news)
        calls: list[Callback] = []
        while news:
            some, news = news[: (many := chance.randint(1, 40))], news[many:]
            body = json.dumps({"data": [item for *_, item in some]}).encode()
            calls.append(Callback(body, signed(body, APPLICATION, CALLBACK_KEY), [(one[0], one[1]) for one in some]))
        return calls


_Told = tuple[str, str, Kind]
"""Channel's status, supplier's status, what that means."""
_NHS_FATES: Mapping[str, Sequence[Sequence[_Told]]] = {
    "nhs_app": (
        (("sending", "notified", "nothing"),),
        (("sending", "notified", "nothing"), ("sending", "delivered", "delivered")),
        (("sending", "delivered", "delivered"), ("sending", "read", "read")),
        (("sending", "read", "read"), ("sending", "notification_attempted", "nothing")),
        (("failed", "unnotified", "failed"),),
        (("sending", "rejected", "failed"), ("sending", "read", "read")),
    ),
    "sms": (
        (("sending", "received", "nothing"),),
        (("sending", "accepted", "nothing"), ("delivered", "delivered", "delivered")),
        (("failed", "temporary_failure", "failed"), ("delivered", "delivered", "delivered")),
        (("failed", "permanent_failure", "failed"),),
    ),
    "email": (
        (("sending", "accepted", "nothing"),),
        (("delivered", "delivered", "delivered"),),
        (("failed", "permanent_failure", "failed"), ("delivered", "delivered", "delivered")),
    ),
}
_MESSAGE_STATUS: Mapping[Kind, str] = {"delivered": "delivered", "read": "delivered", "failed": "failed"}


def _nhs_news(seed: int, reference: str, channel: str) -> list[tuple[str, Kind, object]]:
    """The same for the same message of the same seed, whenever it is asked for."""
    chance = random.Random(f"{seed}/{reference}")
    fate = chance.choice(_NHS_FATES[channel])
    news: list[tuple[str, Kind, object]] = []
    for status, supplier, kind in fate:
        at = f"2026-10-01T{chance.randrange(10, 24)}:{chance.randrange(60):02d}:00.000Z"
        item = channel_status(
            reference, channel.replace("_", ""), status, supplier, key=f"{reference}/{supplier}", timestamp=at
        )
        news.append((reference, kind, item))
        if len(fate) == 1 and kind in _MESSAGE_STATUS:
            whole = message_status(reference, _MESSAGE_STATUS[kind], key=f"{reference}/whole", timestamp=at)
            news.append((reference, kind, whole))
    return news


class GovukNotifyService(Service):
    name = "govuk_notify"
    channels = ("sms", "email")
    workers = govuk_notify.AT_ONCE

    @override
    def _begin(self, stack: ExitStack) -> None:
        self.double = GovukNotifyDouble()
        self.double.clock = lambda: self.clock.wall().timestamp()
        self.double.chance = _govuk_faults(self.seed)
        chance = random.Random(self.seed)
        drop, whole = govuk_notify_double.Fault("drop"), govuk_notify_double.Fault()
        self.double.look_up_faults["*"] = [drop if chance.random() < 0.03 else whole for _ in range(5_000)]
        stack.enter_context(self.double.running())

    @property
    @override
    def account(self) -> Account:
        return GovukNotifyAccount(
            api_key=govuk_notify_double.API_KEY,
            sms_template_id=govuk_notify_double.SMS_TEMPLATE,
            email_template_id=govuk_notify_double.EMAIL_TEMPLATE,
            base_url=self.double.url,
        )

    @property
    @override
    def port(self) -> int:
        return int(self.double.url.rpartition(":")[2])

    @override
    def count(self) -> int:
        return len(self.double.journal)

    @override
    def requests(self) -> int:
        with self.double.lock:
            return sum(self.double.posts.values()) + sum(self.double.look_ups.values()) + self.double.at_once

    @override
    def taken(self) -> Counter[str]:
        return self.double.counts()

    @override
    def callbacks(self, chance: random.Random, share: float = 1.0) -> list[Callback]:
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        bodies = self.double.callbacks(chance.randrange(2**32), repeated=0.3, shuffled=True)
        calls: list[Callback] = []
        for body in bodies[: int(len(bodies) * share)]:
            told = json.loads(body)
            calls.append(Callback(body, headers, [(told["reference"], _GOVUK_KINDS[told["status"]])]))
        return calls


_GOVUK_KINDS: Mapping[str, Kind] = {
    "sending": "nothing",
    "delivered": "delivered",
    "permanent-failure": "failed",
    "temporary-failure": "failed",
}


def _govuk_faults(seed: int) -> Callable[[str, int], govuk_notify_double.Fault | None]:
    """A fifth of the answers lost, half of them after the message was taken; and now and then another answer."""
    lost = lost_answers(seed, 0.2)
    others = [
        denial(429, "RateLimitError"),
        denial(500, "Exception"),
        govuk_notify_double.Fault(status=502, error="Exception"),
        govuk_notify_double.Fault("not json"),
    ]

    def drawn(reference: str, before: int) -> govuk_notify_double.Fault | None:
        chance = random.Random(f"{seed}/{reference}/{before}")
        return lost(reference, before) or (chance.choice(others) if chance.random() < 0.02 else None)

    return drawn


class SmtpService(Service):
    name = "smtp"
    channels = ("email",)
    workers = smtp_account(1).connections
    one_in_doubt = True

    @override
    def _begin(self, stack: ExitStack) -> None:
        self._chance = random.Random(self.seed)
        self._cut = 0
        self.server = stack.enter_context(MailServer(self._fate))

    def _fate(self, stage: str) -> Deed | None:
        """Ends a tenth of the dialogues before the message is taken, and a tenth after; puts some off, refuses some."""
        drawn = self._chance.random()
        if stage in _SAID and drawn < 0.02:
            return self._chance.choice(_SAID[stage])
        if 1 - drawn < _CUT.get(stage, 0):
            self._cut += stage in _IN_DOUBT
            return self._chance.choice([hang_up, reset])
        return None

    @property
    @override
    def account(self) -> Account:
        return smtp_account(self.server.port, 60)

    @property
    @override
    def port(self) -> int:
        return self.server.port

    @override
    def count(self) -> int:
        return len(self.server.journal)

    @override
    def requests(self) -> int:
        return len(self.server.stages)

    @override
    def taken(self) -> Counter[str]:
        found = (re.search(rb"^Message-ID:\s*<([^@>]+)@", each.content, re.MULTILINE) for each in self.server.journal)
        tokens = (match[1].decode() if match else "" for match in found)
        return Counter(self._tokens.reference(token) or "a message that isn't ours" for token in tokens)

    def message_id(self, reference: str) -> str:
        return f"<{self._tokens.token(reference)}@{smtp_account(1).message_id_domain}>"

    @cached_property
    def _tokens(self) -> ReferenceTokens:
        return ReferenceTokens(smtp_account(1).reference_key)

    @property
    @override
    def cut_in_doubt(self) -> int:
        return self._cut


_IN_DOUBT = ("content", "dot", "taken")
"""Who sends the final dot right behind the content may not have noticed yet that nobody is there."""
_CUT = {"EHLO": 0.02, "MAIL": 0.02, "RCPT": 0.02, "DATA": 0.02, "content": 0.02, "dot": 0.02, "taken": 0.1}
_SAID = {
    "RCPT": ["450 4.2.2 its mailbox is full", "550 5.1.1 nobody", "421 4.3.2 closing"],
    "dot": ["451 4.3.0 later", "554 5.6.0 not that"],
}

SERVICES: Mapping[str, type[Service]] = {
    service.name: service for service in (NhsNotifyService, GovukNotifyService, SmtpService)
}
