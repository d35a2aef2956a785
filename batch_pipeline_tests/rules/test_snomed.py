"""Which numbers are codes of SNOMED CT concepts."""

import pytest

from batch_pipeline.rules.snomed import fault

CONCEPTS = ["75367002", "271649006", "271650006", "1324681000000101", "138875005", "100005"]


@pytest.mark.parametrize("code", CONCEPTS)
def test_a_concept_has_no_fault(code: str) -> None:
    assert fault(code) is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "6 to 18 digits"),
        ("10005", "6 to 18 digits"),
        ("075367002", "doesn't begin with 0"),
        ("1324681000000000101", "6 to 18 digits"),
        ("75367oo2", "6 to 18 digits"),
        ("٧٥٣٦٧٠٠٢", "6 to 18 digits"),
        ("101013", "a description"),
        ("100022", "a relationship"),
    ],
)
def test_what_is_wrong_is_said(code: str, said: str) -> None:
    assert said in str(fault(code))


def test_one_wrong_digit_is_always_seen() -> None:
    for code in CONCEPTS:
        for place, digit in enumerate(code):
            others = {str(n) for n in range(10)} - {digit}
            assert all(fault(code[:place] + other + code[place + 1 :]) for other in others), code


def test_two_digits_that_changed_places_are_seen() -> None:
    for code in CONCEPTS:
        for place in range(len(code) - 1):
            a, b = code[place : place + 2]
            if a != b:
                assert fault(code[:place] + b + a + code[place + 2 :]), code
