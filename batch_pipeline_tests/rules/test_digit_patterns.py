import re

import phonenumbers
import pytest

from batch_pipeline.rules import _digit_patterns as patterns

TYPES = ("mobile", "fixed_line", "toll_free", "premium_rate", "personal_number", "voip", "pager", "uan")
UK = [
    desc.national_number_pattern
    for region in phonenumbers.COUNTRY_CODE_TO_REGION_CODE[44]
    if (metadata := phonenumbers.PhoneMetadata.metadata_for_region(region))
    for name in TYPES
    if (desc := getattr(metadata, name)) and desc.national_number_pattern
]


def numbers(pattern: str) -> set[str]:
    places = patterns.sequences(pattern)
    found: set[str] = set()
    for sequence in places:
        ends = {""}
        for digits in sequence:
            ends = {end + digit for end in ends for digit in digits}
        found |= ends
    return found


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("12", {"12"}),
        ("1[2-4]", {"12", "13", "14"}),
        ("1(?:2|34)5", {"125", "1345"}),
        ("1[27]?", {"1", "12", "17"}),
        ("(?:1|2){2}", {"11", "12", "21", "22"}),
        ("1{1,2}|3", {"1", "11", "3"}),
    ],
)
def test_a_pattern_comes_apart_into_its_numbers(pattern: str, expected: set[str]) -> None:
    assert numbers(pattern) == expected


@pytest.mark.parametrize("pattern", ["1*", "a", "1(?=2)", "(1", "1)"])
def test_a_pattern_of_another_kind_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        patterns.sequences(pattern)


@pytest.mark.parametrize("pattern", UK)
def test_the_expression_means_what_the_metadata_means(pattern: str) -> None:
    ours = re.compile(patterns.expression(patterns.sequences(pattern)))
    theirs = re.compile(pattern)
    for prefix in range(0, 1_000_000, 37):
        for ending in ("", "234", "0000"):
            assert bool(ours.fullmatch(f"{prefix}{ending}")) == bool(theirs.fullmatch(f"{prefix}{ending}"))


def test_overlap_and_containment() -> None:
    one, other = patterns.sequences("7[0-5]1")[0], patterns.sequences(r"7[5-9]\d")[0]
    assert patterns.overlap(one, other)
    assert not patterns.overlap(one, patterns.sequences("7[6-9]1")[0])
    assert patterns.begins_like(one, other[:2])
    assert not patterns.always_begins(one, other[:2])
    assert patterns.always_begins(one, patterns.sequences(r"7\d")[0])
