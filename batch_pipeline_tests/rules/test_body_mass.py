from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.rules.body_mass import CENTIMETRES, KILOGRAMS, body_mass_index, total


@pytest.mark.parametrize(
    ("centimetres", "kilograms", "expected"),
    [
        ("170", "70", "24.2"),  # 70 / 2.89 = 24.22
        ("200", "100", "25.0"),
        ("160", "64.128", "25.1"),  # 25.05 exactly: halves go up
        ("180.34", "76.203", "23.4"),  # 5 ft 11, 12 stone
        ("0", "70", None),
        ("170", "0", None),
    ],
)
def test_kilograms_by_square_metres(centimetres: str, kilograms: str, expected: str | None) -> None:
    found = body_mass_index(Decimal(centimetres), Decimal(kilograms))
    assert (found if found is None else str(found)) == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([("5", "[ft_i]"), ("11", "[in_i]")], "180.34"),
        ([("1", "m"), ("80", "cm")], "180"),
        ([("6", "[ft_i]")], "182.88"),
        ([], "0"),
    ],
)
def test_feet_and_inches_are_one_height(parts: list[tuple[str, str]], expected: str) -> None:
    assert total(((Decimal(value), unit) for value, unit in parts), CENTIMETRES) == Decimal(expected)


def test_stones_and_pounds_are_one_weight() -> None:
    found = total([(Decimal(12), "[stone_av]"), (Decimal(7), "[lb_av]")], KILOGRAMS)
    assert found == Decimal("79.37866475")  # 175 pounds of 0.45359237
    assert KILOGRAMS["[stone_av]"] == 14 * KILOGRAMS["[lb_av]"]
    assert CENTIMETRES["[ft_i]"] == 12 * CENTIMETRES["[in_i]"]


@given(st.integers(1, 8), st.integers(0, 11), st.integers(1, 60), st.integers(0, 13))
def test_imperial_and_metric_come_to_the_same(feet: int, inches: int, stones: int, pounds: int) -> None:
    height = total([(Decimal(feet), "[ft_i]"), (Decimal(inches), "[in_i]")], CENTIMETRES)
    weight = total([(Decimal(stones), "[stone_av]"), (Decimal(pounds), "[lb_av]")], KILOGRAMS)
    again = body_mass_index(total([(height, "cm")], CENTIMETRES), total([(weight, "kg")], KILOGRAMS))
    assert body_mass_index(height, weight) == again
