"""The gateway's log: one JSON object a line on stderr, made of counts, names and types.

Nothing that a caller sent gets in: no body, header, query, path or reference. A workspace is named once it is known.
"""

import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any, TextIO

import structlog
from typing_extensions import override

from batch_pipeline.errors import Refused

TOLD = "batch_pipeline.told"
"""Where a request's `Told` lies in its scope."""


@dataclass(slots=True)
class Told:
    """What a request's line will say beside its status and duration."""

    event: str = "request"
    workspace: str | None = None
    provider: str | None = None
    receipts: int | None = None
    unread: int | None = None
    """Items that were kept because they couldn't be read."""
    fault: str | None = None
    """The type of what went wrong here; for the caller's faults the status says enough."""


_encode = json.JSONEncoder().encode  # made once: json.dumps with options makes one each time


def _as_json(line: Any, **_: object) -> str:
    return _encode(line)


def make_log(stream: TextIO | None = None) -> Any:
    """A structlog logger of JSON lines, to stderr if nothing else is asked for."""
    return structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.JSONRenderer(serializer=_as_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )


def log_answer(log: Any, told: Told, status: int | None, milliseconds: float, request_id: str) -> None:
    """Writes a request's one line; ``status`` is none where the caller went away before the answer."""
    known = {name: value for name, value in asdict(told).items() if value is not None and name != "event"}
    level = log.info if status is not None and status < 400 else log.error if (status or 0) >= 500 else log.warning
    level(told.event, **known, status=status, milliseconds=round(milliseconds, 1), request_id=request_id)


def where(error: BaseException) -> str:
    """The type of an exception and the line that raised it; never its message, which may quote a caller's value."""
    frames = extract_tb(error.__traceback__)
    return (
        f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        if frames
        else type(error).__name__
    )


class ServerFormatter(logging.Formatter):
    """The server's own lines in the same shape, without tracebacks and messages of exceptions other than refusals."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line = {"event": "server", "says": record.getMessage(), "level": record.levelname.lower()}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line["fault"] = str(error) if isinstance(error, Refused) else where(error)
        return json.dumps(line)


SERVER_LOGGING: dict[str, Any] = {
    "formatters": {"lines": {"()": f"{__name__}.ServerFormatter"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "lines", "stream": "ext://sys.stderr"}},
    "loggers": {"_granian": {"handlers": ["console"], "propagate": False}},
}
"""For granian: warnings and errors to stderr; its access log, which would show addresses and queries, has no handler."""
