"""The server as it is started from the shell, and what it refuses to start with."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from batch_pipeline.cli import gateway
from batch_pipeline.errors import Refused
from batch_pipeline.gateway.server import run, serve
from batch_pipeline.home import Home
from batch_pipeline.house import House
from batch_pipeline_tests.gateway.serving import Gateway, free_port


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _wait_until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_the_shell_serves_a_home_on_loopback_until_it_is_told_to_stop(tmp_path: Path) -> None:
    port = free_port()
    Home(tmp_path).init()
    command = [sys.executable, "-m", "batch_pipeline.cli", "--home", str(tmp_path), "gateway", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        url = f"http://127.0.0.1:{port}"
        _wait_until(lambda: server.poll() is not None or _answers(url))
        assert httpx.post(f"{url}/callbacks/riverside/nhs-notify").status_code == 404  # no secrets, no callbacks
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=20)
    assert (server.returncode, out) == (0, "")
    assert [line for line in err.splitlines() if '"status": 404' not in line] == []


def test_it_listens_to_this_machine_alone_unless_asked() -> None:
    assert gateway.__defaults__ == ("127.0.0.1", 8080, 1, None)


def test_a_worker_ends_with_a_server_that_was_killed(tmp_path: Path) -> None:
    """It would go on answering beside the next server."""
    with Gateway(tmp_path) as gateway:
        os.kill(gateway.process.pid or 0, signal.SIGKILL)
        _wait_until(lambda: not _answers(gateway.url))


def test_several_workers_over_sqlite_are_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.init()
    with pytest.raises(Refused, match="--workers"):
        serve(House(home), "127.0.0.1", free_port(), 2)


def test_a_port_that_is_taken_or_an_address_that_isn_t_ours_is_refused() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(Refused, match="choose another"):
            run(dict, "127.0.0.1", other.getsockname()[1])  # type: ignore[arg-type]
    with pytest.raises(Refused, match=r"192\.0\.2\.1"):
        run(dict, "192.0.2.1", 8080)  # type: ignore[arg-type]
