import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.gateway.pages.callers import proxies_of


@pytest.mark.parametrize("given", ["10.0.0.0/24", "proxy.example.org", ""])
def test_a_proxy_is_named_by_its_address(given: str) -> None:
    """Else nothing that it says would be believed, and all patients be one caller."""
    with pytest.raises(Refused, match="isn't an IP address"):
        proxies_of(["10.0.0.1", given])


def test_a_proxy_is_known_however_its_address_is_spelt() -> None:
    assert proxies_of(["2001:DB8::0:1", "::ffff:10.0.0.1"]) >= {"2001:db8::1", "10.0.0.1", "127.0.0.1", "::1"}
