"""The real providers' callbacks, as the gateway reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from batch_pipeline.gateway.callbacks import Malformed, NotAllowed, NotAuthenticated, Reading
from batch_pipeline.providers import govuk_notify_receipts, nhs_notify_receipts
from batch_pipeline.providers.nhs_notify_receipts import Verdict


@dataclass(frozen=True)
class NhsNotifyCallbacks:
    """Of one application of NHS Notify."""

    application_id: str
    api_key: str = field(repr=False)
    challenge: str = "ApiKey"

    def __post_init__(self) -> None:
        if not self.application_id or not self.api_key:
            raise ValueError("NHS Notify's callbacks need an application id and an API key: anybody could sign without")

    def admit(self, headers: Mapping[str, str]) -> None:
        """By ``x-api-key``, before any body is taken."""
        if self._verdict(headers, b"") is Verdict.UNAUTHORISED:
            raise NotAuthenticated

    def read(self, headers: Mapping[str, str], body: bytes) -> Reading:
        """By the signature over the raw body, then what it says."""
        if self._verdict(headers, body) is not Verdict.OK:
            raise NotAllowed
        try:
            told = nhs_notify_receipts.read_callback(body)
        except nhs_notify_receipts.NotACallback:
            raise Malformed from None
        return Reading(told.receipts, told.unread)

    def _verdict(self, headers: Mapping[str, str], body: bytes) -> Verdict:
        return nhs_notify_receipts.verify(
            body,
            api_key_header=headers.get("x-api-key"),
            signature_header=headers.get("x-hmac-sha256-signature"),
            application_id=self.application_id,
            api_key=self.api_key,
        )


@dataclass(frozen=True)
class GovukNotifyCallbacks:
    """Of one service of GOV.UK Notify, with the bearer token that we chose for it."""

    token: str = field(repr=False)
    challenge: str = "Bearer"

    def __post_init__(self) -> None:
        if not self.token:
            raise ValueError("GOV.UK Notify's callbacks need a bearer token")

    def admit(self, headers: Mapping[str, str]) -> None:
        """By the token, before any body is taken: nothing else tells who calls."""
        if not govuk_notify_receipts.is_allowed(headers.get("authorization"), self.token):
            raise NotAuthenticated

    def read(self, headers: Mapping[str, str], body: bytes) -> Reading:
        """What it says; there is no signature."""
        _ = headers
        try:
            receipt = govuk_notify_receipts.read_callback(body)
        except govuk_notify_receipts.NotACallback:
            raise Malformed from None
        return Reading() if receipt is None else Reading([receipt])
