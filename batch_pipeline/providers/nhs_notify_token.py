"""Tokens for the NHS's API platform: a signed assertion for a token, one token for all threads (PROVIDERS.md 1)."""

import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol
from urllib.parse import urlencode

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel, Field, ValidationError

from batch_pipeline.errors import Refused
from batch_pipeline.providers.bounded_http import BoundedHttp, Deadline, NoAnswer, NotSent, Reply
from batch_pipeline.providers.protocol import NotTaken, ProviderStopped

ASSERTION_LASTS = timedelta(minutes=4)
"""At most 5 minutes are allowed; the rest is for two clocks that differ."""
_RENEWED_BEFORE = 60.0
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TRY_LATER = (408, 425, 429)


class Application(Protocol):
    """Who asks for tokens: an application at one of the platform's services."""

    @property
    def service(self) -> str:
        """Its name, as people know it."""
        ...

    @property
    def group(self) -> str:
        """The group of a workspace's file that describes it."""
        ...

    @property
    def api_key(self) -> str:
        """What the application is known by."""
        ...

    @property
    def key_id(self) -> str:
        """The ``kid`` under which its public key is registered."""
        ...

    @property
    def private_key(self) -> str:
        """RSA, in PEM."""
        ...

    @property
    def token_endpoint(self) -> str:
        """Where tokens come from; also the audience that the assertion names, letter by letter."""
        ...


class _Granted(BaseModel):
    access_token: str = Field(pattern=r"^[\x21-\x7e]+$")
    expires_in: int = Field(gt=0, le=86_400 * 365)
    """Seconds; the service writes it as a string."""


class _Denied(BaseModel):
    error: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    until: float
    """By the steady clock: when to renew it, somewhat before its end."""


class TokenSource:
    """The one token of an account, renewed before its end."""

    def __init__(
        self,
        account: Application,
        http: BoundedHttp,
        *,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account = account
        self._key = _load_key(account.private_key, account.group)
        self._http = http
        self._wall = wall
        self._steady = steady
        self._lock = threading.Lock()
        self._token: _Token | None = None
        self._refused: str | None = None

    def get(self, deadline: Deadline) -> str:
        """A token that is good for a while yet; the threads that come while one is fetched wait for that one.

        Raises:
            ProviderStopped: the service knows us not, or not by this key; with its OAuth error code.
            NotTaken: it gave no token in time. Nothing was sent but the request for one.
        """
        if not self._lock.acquire(timeout=deadline.left()):
            raise NotTaken(f"{self._account.service}: another thread was waiting for a token all the time")
        try:
            if self._token is None or self._token.until <= self._steady() or self._token.value == self._refused:
                self._token = self._fetch(deadline)
            return self._token.value
        finally:
            self._lock.release()

    def renounce(self, value: str) -> None:
        """Never give this token again: it was refused. Another one, fetched meanwhile, stays."""
        self._refused = value  # without the lock: who holds it may be fetching one for as long as a call takes

    def _fetch(self, deadline: Deadline) -> _Token:
        asked = self._steady()
        try:
            reply = self._http.call(
                "POST",
                self._account.token_endpoint,
                headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
                content=self._form(),
                deadline=deadline,
            )
        except (NotSent, NoAnswer) as failure:
            raise NotTaken(f"{self._account.service} gave no token: {failure}") from None
        granted = _granted(reply, self._account)
        lasts = float(granted.expires_in)
        return _Token(granted.access_token, asked + lasts - min(_RENEWED_BEFORE, lasts / 2))

    def _form(self) -> bytes:
        claims = {
            "iss": self._account.api_key,
            "sub": self._account.api_key,
            "aud": self._account.token_endpoint,
            "jti": str(uuid.uuid4()),
            "exp": int((self._wall() + ASSERTION_LASTS).timestamp()),
        }
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": jwt.encode(claims, self._key, algorithm="RS512", headers={"kid": self._account.key_id}),
        }
        return urlencode(form).encode()


def _granted(reply: Reply, account: Application) -> _Granted:
    if reply.status // 100 == 4 and reply.status not in _TRY_LATER:
        raise ProviderStopped(
            f"{account.service} gives no token ({reply.status} {_oauth_error(reply.body)}): check {account.group}.key_id, "
            "the API key, the private key, its registered public key, and this machine's clock"
        )
    if reply.status != 200:
        raise NotTaken(f"{account.service} gave no token: it answered {reply.status}", _pause(reply))
    try:
        return _Granted.model_validate_json(reply.body)
    except ValidationError:
        raise NotTaken(f"{account.service} gave no token: it answered 200 with something else") from None


def _oauth_error(body: bytes) -> str:
    try:
        return _Denied.model_validate_json(body).error
    except ValidationError:
        return "without an error code"


def _pause(reply: Reply) -> timedelta:
    given = reply.headers.get("Retry-After", "")
    return timedelta(seconds=int(given)) if re.fullmatch(r"[0-9]{1,5}", given) else timedelta(0)


@lru_cache(maxsize=8)
def _load_key(pem: str, group: str) -> RSAPrivateKey:
    """Kept: to check a key of 4,096 bits takes about a second."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise Refused(f"{group}: the private key must be an RSA key in PEM, without a password")
    return key
