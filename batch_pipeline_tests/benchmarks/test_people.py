import numpy as np
import pytest

from benchmarks import dirt, people
from benchmarks.cohorts import SALTS

TABLES = [
    (dirt.PHONES, "mobile"),
    (dirt.OTHER_PHONES, "telephone"),
    (dirt.EMAILS, "email"),
    (dirt.NHS_NUMBERS, "nhs_number"),
    (dirt.DATES_OF_BIRTH, "date_of_birth"),
    (dirt.LIVES, "life"),
    (dirt.SURNAME_CELLS, "surname"),
    (dirt.EXTRA_CELLS, "extra"),
    (dirt.APP, "app"),
    (dirt.OPT_OUTS, "opt_out"),
]


def check_digit_is_right(number: int) -> bool:
    digits = [int(digit) for digit in str(number)]
    weighed = sum(weight * digit for weight, digit in zip(range(10, 1, -1), digits[:9], strict=True))
    return (11 - weighed % 11) % 11 == digits[9]


def test_nhs_numbers_are_fixtures_with_right_check_digits() -> None:
    numbers = people.nhs_numbers(np.arange(0, people.FIXTURE_NUMBERS + 5_000, 83)).tolist()
    assert all(9_990_000_000 <= number <= 9_999_999_999 for number in numbers)
    assert all(check_digit_is_right(number) for number in numbers)
    assert 9_999_999_999 not in numbers


def test_nhs_numbers_differ_as_long_as_there_are_any() -> None:
    numbers = people.nhs_numbers(np.arange(people.FIXTURE_NUMBERS))
    assert len(np.unique(numbers)) >= people.FIXTURE_NUMBERS - 1


def test_never_issued_numbers_begin_with_nine_and_are_right_and_different() -> None:
    numbers = people.nhs_numbers(np.arange(0, 12_000_000, 1_009), never_issued=True)
    assert len(np.unique(numbers)) == len(numbers)
    assert all(str(number).startswith("9") and check_digit_is_right(number) for number in numbers.tolist())


@pytest.mark.parametrize(("table", "column"), TABLES, ids=[column for _, column in TABLES])
def test_every_thousand_patients_hold_exactly_the_shares_of_the_table(
    table: tuple[people.Kind, ...], column: str
) -> None:
    for start in (0, 41_000):
        kinds = people.kinds(table, np.arange(start, start + 1_000), seed=5, salt=SALTS[column])
        assert np.bincount(kinds, minlength=len(table)).tolist() == [row.per_mille for row in table]


def test_a_person_has_the_same_dirt_whoever_else_is_asked_about() -> None:
    all_of_them = people.kinds(dirt.PHONES, np.arange(3_000), seed=5, salt=1)
    some = people.kinds(dirt.PHONES, np.array([2_999, 7, 1_500]), seed=5, salt=1)
    assert some.tolist() == [all_of_them[2_999], all_of_them[7], all_of_them[1_500]]


def test_a_table_whose_shares_do_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="add up to 999"):
        people.kinds((dirt.LineKind("most", 999),), np.arange(3), seed=1, salt=1)


def test_the_first_thousand_people_have_different_numbers() -> None:
    variants = people.phone_variants(np.arange(1_000), dirt.VARIANTS)
    assert len(set((variants % 1_000).tolist())) == 1_000
