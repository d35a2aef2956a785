"""What no provider's own tests show of the HTTP client that they share."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from batch_pipeline.providers.bounded_http import BoundedHttp, Deadline, NoAnswer, NotSent


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_who_waits_for_an_answer_when_the_connections_are_closed_gets_none_and_the_next_call_opens_new_ones(
    silent: socket.socket,
) -> None:
    http, url = BoundedHttp(), f"http://127.0.0.1:{silent.getsockname()[1]}/"
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(http.call, "GET", url, headers={}, deadline=Deadline(60)) for _ in range(2)]
        asked = [silent.accept()[0] for _ in calls]
        for connection in asked:
            assert connection.recv(100).startswith(b"GET / ")
        http.close()
        for call in calls:
            with pytest.raises(NoAnswer, match="closed meanwhile"):
                call.result(timeout=5)
    for connection in asked:
        connection.close()
    silent.close()
    with pytest.raises(NotSent):
        http.call("GET", url, headers={}, deadline=Deadline(5))
    http.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "bounded-http" and thread.is_alive()][1:]
