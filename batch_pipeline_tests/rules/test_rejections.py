"""The table of reasons for rejecting a line."""

from batch_pipeline.rules.rejections import REJECTIONS, UNREADABLE


def test_every_reason_has_a_label_and_a_mend() -> None:
    for code, rejection in REJECTIONS.items():
        assert code == rejection.code
        assert rejection.label
        assert rejection.remedy.endswith(".")


def test_the_readers_reasons_come_first_and_the_validators_follow() -> None:
    codes = list(REJECTIONS)
    assert {*codes[: len(UNREADABLE)]} == UNREADABLE
    assert codes[len(UNREADABLE) :] == [
        "nhs_number_missing",
        "nhs_number_invalid",
        "date_of_birth_missing",
        "date_of_birth_invalid",
    ]
