"""The official GOV.UK Notify client, kept from what it would do by itself (PROVIDERS.md 3).

It logs the server's messages, which may quote a number; ``requests`` below it follows redirects, and posts again for
some, and takes another password from a ``.netrc``; and its time-out bounds neither the look-up of a name nor a connection
to a host of many addresses, so that a post could be written long after its caller has left.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

from notifications_python_client.errors import HTTPError
from notifications_python_client.notifications import NotificationsAPIClient
from requests import Session
from requests.adapters import HTTPAdapter
from typing_extensions import override
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError


class Client(Protocol):
    """As much of the official client as is needed, with its types. Not for two threads at once."""

    timeout: float

    def send_sms_notification(
        self,
        phone_number: str,
        template_id: str,
        personalisation: dict[str, str],
        reference: str,
        sms_sender_id: str | None,
    ) -> Any:
        """Posts one SMS; gives the answer's JSON."""
        ...

    def send_email_notification(
        self,
        email_address: str,
        template_id: str,
        personalisation: dict[str, str],
        reference: str,
        email_reply_to_id: str | None,
    ) -> Any:
        """Posts one email; gives the answer's JSON."""
        ...

    def get_template(self, template_id: str) -> Any:
        """A template of the service; gives the answer's JSON."""
        ...

    def get_all_notifications(self, *, reference: str) -> Any:
        """The notifications with this reference; gives the answer's JSON."""
        ...


@dataclass(slots=True)
class Gate:
    """Until when a request may be written."""

    steady: Callable[[], float]
    closes: float = 0.0

    def left(self) -> float:
        """Seconds until it closes; 0 or less: it is closed."""
        return self.closes - self.steady()


@dataclass(frozen=True, slots=True)
class GatedClient:
    """A client, and the gate of its connections."""

    client: Client
    gate: Gate

    @classmethod
    def make(cls, api_key: str, base_url: str, steady: Callable[[], float]) -> "GatedClient":
        """A new client with a session of its own."""
        gate = Gate(steady)
        client: Any = NotificationsAPIClient(api_key, base_url=base_url)
        session = client.request_session
        session.max_redirects = 0
        _read_the_environment_once(session, base_url)
        for scheme in ("https://", "http://"):
            session.mount(scheme, _GatedAdapter(gate))
        return cls(cast("Client", client), gate)

    def close(self) -> None:
        """Lets go of its connections."""
        cast("Any", self.client).request_session.close()


def was_never_written(error: HTTPError) -> bool:
    """Whether the request surely didn't leave us: nobody could be connected to.

    A reset or an end of a connection that stood says nothing: the request may have been read before.
    """
    arguments: tuple[object, ...] = getattr(error.__cause__, "args", ())
    failure = arguments[0] if arguments else None
    reason = failure.reason if isinstance(failure, MaxRetryError) else None
    return error.response is None and isinstance(reason, (ConnectTimeoutError, NewConnectionError))


def _read_the_environment_once(session: Session, base_url: str) -> None:
    """Its proxy and its certificates. At every request it would take a quarter of the time, and a .netrc's password."""
    found = session.merge_environment_settings(base_url, {}, stream=None, verify=None, cert=None)
    session.proxies, session.verify = dict(found["proxies"]), found["verify"]
    session.trust_env = False


def _is_not_the_servers_words(record: logging.LogRecord) -> bool:
    return record.levelno < logging.WARNING


# Its one warning holds the answer's message; what came of a request is in what the provider raises.
logging.getLogger("notifications_python_client.base").addFilter(_is_not_the_servers_words)


class _GatedConnection(HTTPConnection):
    """Writes nothing once the gate is closed: neither when it stands too late, nor when the process slept before a write.

    ``requests`` would write all the same, and by then another process may have posted the message.
    """

    gate: ClassVar[Gate]
    _begun = False
    """Whether something of the present request has been written."""

    @override
    def connect(self) -> None:
        super().connect()
        left = self.gate.left()
        if left <= 0:
            raise ConnectTimeoutError(self, "connected after the deadline")
        if self.sock is not None:
            self.sock.settimeout(left)

    @override
    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        self._begun = False
        super().putrequest(*args, **kwargs)

    @override
    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if self.gate.left() <= 0:
            late = "the deadline went by before the write"
            raise TimeoutError(late) if self._begun else ConnectTimeoutError(self, late)
        self._begun = True
        super().send(data)


class _GatedAdapter(HTTPAdapter):
    """Puts the gate into the connections of every pool, also those by way of a proxy."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)
        self._gate = gate

    @override
    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        plain = cast("type[HTTPConnection]", pool.ConnectionCls)
        if not issubclass(plain, _GatedConnection):
            pool.ConnectionCls = type("GatedConnection", (_GatedConnection, plain), {"gate": self._gate})
        return pool
