"""By which keys the Personal Demographics Service knows us, and how often we may ask (PROVIDERS.md 2)."""

import hashlib
from dataclasses import dataclass, field

from batch_pipeline.errors import Refused
from batch_pipeline.providers.addresses import refuse_bad_url, token_endpoint_of


@dataclass(frozen=True, slots=True)
class PdsAccount:
    """One application's account. ``repr`` shows neither the API key nor the private key.

    Raises ``Refused``, by the setting's name, for what can't be right.
    """

    base_url: str
    """``https://api.service.nhs.uk`` or a test environment's."""
    api_key: str = field(repr=False)
    key_id: str
    """The ``kid`` under which the public key is registered."""
    private_key: str = field(repr=False)
    """RSA, in PEM."""
    ods_code: str
    """Of the organisation on whose behalf is asked."""
    token_url: str | None = None
    """None: ``/oauth2/token`` on the host of ``base_url``."""
    per_second: int = 5

    def __post_init__(self) -> None:
        refuse_bad_url("pds.base_url", self.base_url)
        if self.token_url:
            refuse_bad_url("pds.token_url", self.token_url)
        for name, value in {"API key": self.api_key, "key_id": self.key_id, "private key": self.private_key}.items():
            if not value.strip():
                raise Refused(f"pds: the {name} is empty: set it to what PDS knows this application by")

    @property
    def service(self) -> str:
        """As people know it."""
        return "PDS"

    @property
    def group(self) -> str:
        """Of a workspace's file."""
        return "pds"

    @property
    def token_endpoint(self) -> str:
        """Where tokens come from; also the audience that the assertion names, letter by letter."""
        return self.token_url or token_endpoint_of(self.base_url)

    @property
    def application(self) -> str:
        """Tells applications apart, and gives no key away: the rate is one application's."""
        address = self.base_url.rstrip("/")
        return "pds:" + hashlib.blake2b(f"{address}\0{self.api_key}".encode(), digest_size=8).hexdigest()

    def url(self, nhs_number: str) -> str:
        """Of a patient's record."""
        return f"{self.base_url.rstrip('/')}/personal-demographics/FHIR/R4/Patient/{nhs_number}"
