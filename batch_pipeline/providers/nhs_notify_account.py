"""What is agreed with NHS Notify, and by which keys it knows us (PROVIDERS.md 1)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from batch_pipeline.errors import Refused
from batch_pipeline.providers.addresses import refuse_bad_url, token_endpoint_of
from batch_pipeline.providers.protocol import Channel

ROUTING_PLANS: Mapping[Channel, str] = MappingProxyType(
    {
        "nhs_app": "00000000-0000-0000-0000-000000000001",
        "email": "00000000-0000-0000-0000-000000000002",
        "sms": "00000000-0000-0000-0000-000000000003",
    }
)
"""The free-text plans: one channel each, and no fallback of Notify's own."""

_PLANS_THAT_FALL_BACK = ("00000000-0000-0000-0000-000000000006", "00000000-0000-0000-0000-000000000007")


@dataclass(frozen=True, slots=True)
class NhsNotifyAccount:
    """One application's account. ``repr`` shows neither the API key nor the private key.

    Raises ``Refused``, by the setting's name, for what can't be right.
    """

    base_url: str
    """``https://api.service.nhs.uk/comms`` or a test environment's."""
    api_key: str = field(repr=False)
    key_id: str
    """The ``kid`` under which the public key is registered."""
    private_key: str = field(repr=False)
    """RSA, in PEM."""
    token_url: str | None = None
    """None: ``/oauth2/token`` on the host of ``base_url``."""
    ods_code: str | None = None
    """The originator; none where Notify doesn't allow one."""
    contact_details: bool = False
    """Whether Notify has agreed to take numbers and addresses from us; otherwise it looks them up itself."""
    billing_reference: str | None = None
    routing_plans: Mapping[Channel, str] = field(default_factory=dict[Channel, str])
    """Other plans, for some channels or for all; the rest are as in ``ROUTING_PLANS``."""

    def __post_init__(self) -> None:
        refuse_bad_url("nhs_notify.base_url", self.base_url)
        if self.token_url:
            refuse_bad_url("nhs_notify.token_url", self.token_url)
        keys = {"API key": self.api_key, "key_id": self.key_id, "private key": self.private_key}
        for name, value in keys.items():
            if not value.strip():
                raise Refused(f"nhs_notify: the {name} is empty: set it to what NHS Notify knows this application by")
        for channel, plan in self.routing_plans.items():
            if plan in _PLANS_THAT_FALL_BACK:
                raise Refused(
                    f"nhs_notify.routing_plans.{channel}: plan {plan} falls back to SMS by itself, and patients would "
                    "get two texts: name a plan of one channel"
                )

    @property
    def service(self) -> str:
        """As people know it."""
        return "NHS Notify"

    @property
    def group(self) -> str:
        """Of a workspace's file."""
        return "nhs_notify"

    @property
    def application(self) -> str:
        """Tells applications apart, and gives no key away."""
        return hashlib.blake2b(f"{self.base_url}\0{self.api_key}".encode(), digest_size=8).hexdigest()

    @property
    def token_endpoint(self) -> str:
        """Where tokens come from; also the audience that the assertion names, letter by letter."""
        return self.token_url or token_endpoint_of(self.base_url)

    def url(self, path: str) -> str:
        """Of a call below the base."""
        return f"{self.base_url.rstrip('/')}/{path}"

    def routing_plan(self, channel: Channel) -> str:
        """By which Notify sends to this channel alone."""
        return self.routing_plans.get(channel) or ROUTING_PLANS[channel]
