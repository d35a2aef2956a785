import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.rules.contactability import CONDITIONS
from batch_pipeline.rules.reasons import CODES, NO_FALLBACK, REASON, REASONS, SUB_REASONS, primary

# SPEC 2.3, in its order.
SPEC_REASONS = [
    ("deceased", "Patient deceased"),
    ("unable_to_retrieve", "Unable to retrieve contact details"),
    ("opted_out", "Patient opted out"),
    ("not_provided", "Contact details not provided"),
    ("not_uk", "Not a UK phone number"),
    ("likely_to_fail", "Mobile number is likely to fail"),
]


def test_codes_labels_and_order_are_the_spec_s() -> None:
    assert [(reason.code, reason.label) for reason in REASONS] == SPEC_REASONS


def test_contactability_tells_of_the_same_reasons_in_the_same_order() -> None:
    assert tuple(CONDITIONS) == CODES


@given(st.lists(st.sampled_from(CODES)))
def test_the_primary_reason_is_the_first_of_the_spec_that_holds_whatever_the_order(codes: list[str]) -> None:
    expected = next((code for code, _ in SPEC_REASONS if code in codes), None)
    assert primary(codes) == expected


def test_an_unknown_reason_is_an_error() -> None:
    with pytest.raises(KeyError):
        primary(["moved"])


def test_everything_shown_to_a_person_has_a_label_and_a_remedy() -> None:
    assert all(row.label and row.remedy.endswith(".") for row in (*REASONS, *SUB_REASONS, *NO_FALLBACK))
    assert {sub.reason for sub in SUB_REASONS} <= set(REASON)
