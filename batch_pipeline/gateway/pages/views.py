"""The pages themselves, in the markup of the NHS design system; its CSS comes from this gateway alone.

The markup is written out in ``templates/``: NHS.UK frontend's Jinja port takes 19 ms to make one form of the same. The
CSS is put into ``assets/`` at set-up (``make`` does so) and isn't in git. Without it the pages are plain, and whole.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader

CSS = Path(__file__).parent / "assets" / "nhsuk-frontend.min.css"
_NAMED_TIMES = {(0, 0): "midnight", (12, 0): "midday"}
_FONT_FACE = re.compile(r"@font-face\s*\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class Sender:
    """The organisation that sent a message, as its patients know it, and its time zone."""

    name: str
    zone: ZoneInfo


def load_css(path: Path = CSS) -> bytes:
    """The style sheet, without the fonts that it would fetch from another site; empty where there is none."""
    try:
        return _FONT_FACE.sub("", path.read_text(encoding="utf-8")).encode()
    except FileNotFoundError:
        return b""


class Views:
    """Renders pages. Everything that is put into one is escaped."""

    def __init__(self, css: bytes) -> None:
        self.css = css
        self.css_path = f"/assets/{hashlib.sha256(css).hexdigest()[:16]}.css" if css else None

    def render(self, page: str, **values: Any) -> bytes:
        """A page by its name."""
        template = _environment().get_template(f"{page}.html")
        return template.render(stylesheet=self.css_path, **values).encode()


@cache
def _environment() -> Environment:
    """Once a process: compiling a page takes longer than filling it a hundred times."""
    return Environment(
        loader=PackageLoader("batch_pipeline.gateway.pages"),
        autoescape=True,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def weekday_in_words(instant: datetime, zone: ZoneInfo) -> str:
    """``Tuesday 1 December 2026``, where the organisation is."""
    return f"{instant.astimezone(zone):%A} {day_in_words(instant, zone)}"


def time_in_words(instant: datetime, zone: ZoneInfo) -> str:
    """``9:30am``, ``2pm``, ``midday``, where the organisation is; in the hour that comes twice, which of the two."""
    there = instant.astimezone(zone)
    if (there.hour, there.minute) in _NAMED_TIMES:
        return _NAMED_TIMES[there.hour, there.minute]
    minutes = f":{there.minute:02d}" if there.minute else ""
    twice = there.replace(fold=0).utcoffset() != there.replace(fold=1).utcoffset()
    return f"{there.hour % 12 or 12}{minutes}{'am' if there.hour < 12 else 'pm'}{f' ({there:%Z})' if twice else ''}"


def day_in_words(instant: datetime, zone: ZoneInfo) -> str:
    """``29 October 2026``, where the organisation is."""
    there = instant.astimezone(zone)
    return f"{there.day} {there:%B %Y}"
