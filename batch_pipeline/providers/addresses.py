"""Addresses of services that a workspace's file names: refused where patients' data couldn't safely go."""

from urllib.parse import urlsplit

from batch_pipeline.errors import Refused

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def refuse_bad_url(setting: str, url: str) -> None:
    """``Refused``, by the setting's name, for what isn't an address under https."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        raise Refused(f"{setting} isn't an address: write https://host/path") from None
    if not usable or any(character.isspace() for character in url):
        raise Refused(f"{setting} must be https://host/path, without a user, a query or a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise Refused(f"{setting} must begin with https://: patients' data goes there")


def token_endpoint_of(base_url: str) -> str:
    """Where the NHS's API platform gives tokens for a service at this address."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc}/oauth2/token"
