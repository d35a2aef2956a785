"""`check`: what is in a file and what is wrong with it, before anybody submits it."""

import pytest

from batch_pipeline_tests.e2e.surgery import Surgery, T, by_email, by_sms, csv_text, numbered


def test_a_cohort_is_told_as_it_will_be_read(surgery: Surgery) -> None:
    rows = [person.row() for person in [*numbered(by_sms, range(1, 4)), by_email(4), by_sms(1)]]
    rows[1]["Mobile number"] = "+44 (0)7700 900002"
    rows[2]["NHS number"] = "12345"
    text = "Exported by Larkfield\r\n\r\n" + csv_text(rows).replace(",", ";")
    (surgery.desk / "list.csv").write_text(text, encoding="utf-16")
    found = surgery.done("check", surgery.desk / "list.csv", "--json", at=T).json
    assert found["file"] == "list.csv"
    assert found["read_as"] == {"encoding": "utf-16-le", "delimiter": ";", "headings on line": 3}
    assert found["headings"]["Mobile number"] == "mobile"
    assert found["lines"] == {"lines of the file": 5, "rejected": 1, "duplicates": 1, "patient list": 3}
    assert list(found["rejected"].values()) == [1]
    assert found["mended"]["phone"] == 1
    said = surgery.done("check", surgery.desk / "list.csv", at=T).words
    assert "list.csv: understood" in said
    assert "patient list 3" in said


def test_checking_keeps_nothing_and_sends_nothing(surgery: Surgery) -> None:
    surgery.done("check", surgery.batch("flu", [by_sms(1)]), at=T)
    assert surgery.done("status", "--json").json == []
    assert surgery.stored() == []
    assert list(surgery.home.inbox.iterdir()) == []
    assert list((surgery.home.data / ".staging").iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        pytest.param({"send_at": "2026-10-02T09:00"}, "send_at is not yet carried out", id="not yet"),
        pytest.param({"workspace": "elsewhere"}, "elsewhere", id="unknown workspace"),
        pytest.param({"colour": "red"}, "colour", id="unknown key"),
        pytest.param({"message": {"body": "Dear {{ first_name"}}, "message.body", id="unclosed field"),
        pytest.param({"message": {"body": None, "template": "nope"}}, "nope", id="unknown template"),
        pytest.param(
            {"message": {"type": "questionnaire", "questionnaire": "bp7"}},
            "there are bmi, bp_4_day",
            id="questionnaire",
        ),
        pytest.param({"approval": "maybe"}, "approval", id="a value that isn't allowed"),
    ],
)
def test_a_batch_file_that_cannot_be_sent_is_told_so(surgery: Surgery, keys: dict[str, object], says: str) -> None:
    spec = surgery.batch("flu", [by_sms(1)], **{"message": {}, **keys})  # pyright: ignore[reportArgumentType]
    sentence = surgery.refused("check", spec, at=T)
    assert sentence.startswith("refused: ")
    assert says in sentence


def test_a_batch_file_that_can_be_sent_is_told_with_its_cohort(surgery: Surgery) -> None:
    found = surgery.done("check", surgery.batch("flu", numbered(by_sms, range(1, 4))), "--json", at=T).json
    assert found["batch"]["id"] == "flu"
    assert found["lines"]["patient list"] == 3
