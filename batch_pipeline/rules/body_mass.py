"""Body mass index from what a patient gives, metric or imperial: kilograms by square metres, one decimal."""

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType

CENTIMETRES: Mapping[str, Decimal] = MappingProxyType(
    {"cm": Decimal(1), "m": Decimal(100), "[ft_i]": Decimal("30.48"), "[in_i]": Decimal("2.54")}
)
KILOGRAMS: Mapping[str, Decimal] = MappingProxyType(
    {"kg": Decimal(1), "[stone_av]": Decimal("6.35029318"), "[lb_av]": Decimal("0.45359237")}
)
"""By UCUM's code of the unit; all exact by definition."""

_TENTH = Decimal("0.1")


def total(parts: Iterable[tuple[Decimal, str]], units: Mapping[str, Decimal]) -> Decimal:
    """Feet and inches, or stones and pounds, as one quantity. ``KeyError`` for a unit that isn't in the table."""
    return sum((value * units[unit] for value, unit in parts), Decimal(0))


def body_mass_index(centimetres: Decimal, kilograms: Decimal) -> Decimal | None:
    """Rounded to one decimal, halves up; ``None`` without a height or a weight."""
    if centimetres <= 0 or kilograms <= 0:
        return None
    return (kilograms * 10_000 / (centimetres * centimetres)).quantize(_TENTH, ROUND_HALF_UP)
