"""Who asks for a page, as far as wrong dates of birth and requests are counted by it."""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.requests import Request

from batch_pipeline.errors import Refused

LOOPBACK = frozenset({"127.0.0.1", "::1"})
_OF_ONE_CALLER = 64
"""Bits that the addresses of one household have in common in IPv6: it has 2**64 of them to choose from."""


def caller_of(request: Request, proxies: Collection[str]) -> str:
    """Who asks: as the reverse proxy before us says, where it is one of ours; else whoever is connected.

    It is believed what it says last, in the last of the header's lines: some add a line to what a caller made up.
    """
    peer = _address(request.client.host if request.client else "")
    said = ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
    return _network(_address(said) if said and str(peer) in proxies else peer)


def proxies_of(given: Iterable[str]) -> frozenset[str]:
    """Reverse proxies that are believed, besides those on this machine. ``Refused`` for what is no address."""
    known = {each: _address(each) for each in given}
    for each, address in known.items():
        if isinstance(address, str):
            raise Refused(f"--proxy {each}: this isn't an IP address: give that from which the proxy connects")
    return LOOPBACK | {str(address) for address in known.values()}


def _address(said: str) -> IPv4Address | IPv6Address | str:
    """Without a port; what can't be read stands as it is."""
    text = said.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return text
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _network(address: IPv4Address | IPv6Address | str) -> str:
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _OF_ONE_CALLER), strict=False))
    return str(address)
