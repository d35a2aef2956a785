"""How many signed callbacks a second the gateway stores and answers, and how long one takes.

``python -m benchmarks.gateway --receipts 10000``. A real server over a fresh SQLite ledger, one receipt a callback, over
a number of connections that are kept open; the client is this process, on the same machine. A callback's time is from its first byte
sent to the last of its answer.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles

from batch_pipeline_tests.gateway.serving import AT, NHS, Gateway, signed, status_body, stored

_RETRY_SECONDS = 0.02


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--receipts", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory(prefix="batch-pipeline-bench-") as folder, Gateway(Path(folder)) as gateway:
            _measure(gateway, asked.receipts, asked.connections)


def _measure(gateway: Gateway, receipts: int, connections: int) -> None:
    calls = [callback(f"bench:{number}:primary") for number in range(receipts)]
    began = time.perf_counter()
    took = asyncio.run(post_until_taken(gateway.port, calls, connections))
    seconds = time.perf_counter() - began
    kept = len(stored(gateway.ledger))
    milliseconds = [each * 1_000 for each in took]
    print(
        f"{receipts:,} signed callbacks over {connections} connections: {receipts / seconds:,.0f}/s, "
        f"p50 {median(milliseconds):.1f} ms, p99 {quantiles(milliseconds, n=100)[-1]:.1f} ms, "
        f"longest {max(milliseconds):.0f} ms; {kept:,} in the ledger"
    )


def callback(reference: str, status: str = "delivered", at: str = AT) -> bytes:
    """A whole request, ready to be sent: what NHS Notify tells about one message."""
    body = status_body(reference, status=status, at=at)
    headers = signed(body) | {"host": "127.0.0.1", "content-length": str(len(body))}
    lines = [f"POST {NHS} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def post_until_taken(port: int, calls: Iterable[bytes], connections: int) -> list[float]:
    """Posts each call until it is answered 202, as a provider does; gives the seconds of the answered ones."""
    waiting = iter(calls)
    took: list[float] = []
    await asyncio.gather(*(_one_connection(port, waiting, took) for _ in range(connections)))
    return took


async def _one_connection(port: int, waiting: Iterator[bytes], took: list[float]) -> None:
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for call in waiting:
        while True:
            try:
                connection = connection or await asyncio.open_connection("127.0.0.1", port)
                began = time.perf_counter()
                status = await _post(*connection, call)
            except (OSError, asyncio.IncompleteReadError):
                connection = None
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if status == 202:
                took.append(time.perf_counter() - began)
                break
            await asyncio.sleep(_RETRY_SECONDS)
    if connection is not None:
        connection[1].close()
        with suppress(OSError):
            await connection[1].wait_closed()


async def _post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, call: bytes) -> int:
    writer.write(call)
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    await reader.readexactly(int(lengths[0].split(b":")[1]))
    return int(head.split(b" ", 2)[1])


if __name__ == "__main__":
    main()
