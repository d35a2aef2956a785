"""Running the gateway: granian before the app, one process over SQLite and any number over PostgreSQL."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import closing
from datetime import UTC, datetime
from functools import lru_cache, partial

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server import Server
from starlette.types import ASGIApp

from batch_pipeline.errors import Refused
from batch_pipeline.gateway.app import Readers, make_app
from batch_pipeline.gateway.callbacks import CallbackReader
from batch_pipeline.gateway.logs import SERVER_LOGGING
from batch_pipeline.gateway.pages.callers import proxies_of
from batch_pipeline.gateway.pages.views import Sender
from batch_pipeline.gateway.pages.visits import PagesOf
from batch_pipeline.gateway.readers import GovukNotifyCallbacks, NhsNotifyCallbacks
from batch_pipeline.home import Home
from batch_pipeline.house import House
from batch_pipeline.providers.accounts import (
    GOVUK_NOTIFY_CALLBACK_TOKEN,
    NHS_NOTIFY_API_KEY,
    NHS_NOTIFY_APPLICATION_ID,
)
from batch_pipeline.questionnaires.form import FORMS_AT_HAND
from batch_pipeline.settings import load_workspaces, refuse_mixed_accounts, secret

_SECONDS_TO_END = 30
"""For requests at work when the server is stopped; then the process is killed, and the providers repeat."""

_SWITCH_SECONDS = 0.001
"""A commit asks for Python's lock some ten times; beside a busy loop it waits so long for it each time (5 ms is usual)."""


def serve(house: House, host: str, port: int, workers: int, proxies: Collection[str] = ()) -> None:
    """Serves a home's callbacks and its patients' pages until it is told to stop (SIGINT, SIGTERM), storing what was taken until then.

    ``proxies``: network addresses of reverse proxies on other machines. ``Refused`` for a ledger or settings that can't be used, a port that is taken, several workers over SQLite.
    """
    if workers > 1 and house.ledger.dialect == "sqlite":
        raise Refused("--workers: an SQLite ledger has one writer, so one is as many as help; PostgreSQL takes more")
    readers_of(house)
    proxies_of(proxies)
    house.ledger.close()  # a connection must not cross the fork
    run(partial(_app_of, house.home, proxies), host, port, workers)


def readers_of(house: House) -> Readers:
    """The reader of each workspace's account at each provider that calls back, with its secrets.

    Of every account that a workspace describes, whether or not it sends by it now: what was sent is still told of.
    Workspaces may share an account, and then its calls may come by the path of either: a message's reference says
    whose it is, and the provider's own key of a receipt that it is the same one. ``Refused`` for a faulty workspace,
    where a secret is missing, and where one is taken for two accounts.
    """
    refuse_mixed_accounts(house.home)
    readers = dict[tuple[str, str], CallbackReader]()
    for workspace in load_workspaces(house.home):
        if notify := workspace.nhs_notify:
            readers[workspace.id, "nhs-notify"] = NhsNotifyCallbacks(
                application_id=secret(notify.credentials, NHS_NOTIFY_APPLICATION_ID),
                api_key=secret(notify.credentials, NHS_NOTIFY_API_KEY),
            )
        if notify := workspace.govuk_notify:
            readers[workspace.id, "govuk-notify"] = GovukNotifyCallbacks(
                secret(notify.credentials, GOVUK_NOTIFY_CALLBACK_TOKEN)
            )
    return readers


def _app_of(home: Home, proxies: Collection[str]) -> ASGIApp:
    house = House(home)
    return make_app(house.ledger, readers_of(house), lambda: datetime.now(UTC), pages=pages_of(house, proxies))


def pages_of(house: House, proxies: Collection[str] = ()) -> PagesOf:
    """What the patients' pages need of a home. ``Refused`` for a faulty workspace."""
    return PagesOf(
        keys=house.link_keys,
        senders={each.id: Sender(each.name, each.zone) for each in load_workspaces(house.home)},
        kept_attachment=house.kept_attachment,
        hashed=house.hasher.hash,
        kept_form=lru_cache(FORMS_AT_HAND)(house.kept_form),
        proxies=proxies_of(proxies),
    )


def run(make: Callable[[], ASGIApp], host: str, port: int, workers: int = 1) -> None:
    """Serves the app that ``make`` makes in each worker process; what it closes over is pickled."""
    _refuse_taken(host, port)
    server = Server(
        "batch_pipeline.gateway",
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=workers,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.warning,
        log_dictconfig=SERVER_LOGGING,
        workers_kill_timeout=_SECONDS_TO_END,
    )
    server.serve(target_loader=partial(_load, make, os.getpid()), wrap_loader=False)


def _load(make: Callable[[], ASGIApp], parent: int) -> ASGIApp:
    sys.setswitchinterval(_SWITCH_SECONDS)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return make()


def _end_with(parent: int) -> None:
    """Ends a worker whose server was killed: it would hold the port, and answer beside the next server."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)


def _refuse_taken(host: str, port: int) -> None:
    """Two servers can share a port on Linux: half of a provider's calls would go to the wrong home."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Refused(
                f"{host}:{port} can't be served ({error.strerror}): choose another --host or --port"
            ) from None
