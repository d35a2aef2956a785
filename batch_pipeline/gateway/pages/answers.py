"""Answers to a browser, with what every one of them carries: no script, nothing from elsewhere, nothing kept or told."""

from collections.abc import Mapping
from types import MappingProxyType

from starlette.responses import Response

_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": _POLICY,
        "Referrer-Policy": "no-referrer",
        "X-Robots-Tag": "noindex, nofollow, noarchive",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Cache-Control": "no-store",
    }
)
FILE_HEADERS: Mapping[str, str] = MappingProxyType(
    {**HEADERS, "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'"}
)


def page(content: bytes, status: int = 200, more: Mapping[str, str] = MappingProxyType({})) -> Response:
    """A rendered page."""
    return Response(content, status, {**HEADERS, **more}, media_type="text/html")


def see_other(place: str) -> Response:
    """Sends the browser on with a GET: a reload then sends no form again."""
    return Response(status_code=303, headers={**HEADERS, "Location": place})


def style_sheet(css: bytes) -> Response:
    """Its name changes with its content, so that browsers may keep it."""
    return Response(
        css, headers={**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}, media_type="text/css"
    )
