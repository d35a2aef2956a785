import math
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.rules import links
from batch_pipeline.rules.fragments import is_basic
from batch_pipeline.rules.links import LinkKeys, NotADate

KEYS = LinkKeys(b"t" * 32, b"b" * 32, b"s" * 32)
SENT = datetime(2026, 10, 1, 9, tzinfo=UTC)
TODAY = date(2026, 10, 1)


def days(n: float) -> timedelta:
    return timedelta(days=n)


@given(st.text(), st.text())
def test_a_token_is_always_22_characters_that_take_one_septet_each(batch: str, patient: str) -> None:
    token = links.token_of(KEYS, batch, patient)
    assert len(token) == links.TOKEN_CHARACTERS == len(links.PLACEHOLDER)
    assert token.isascii()
    assert token.isalnum()


def test_a_token_has_room_for_128_bits() -> None:
    assert links.TOKEN_CHARACTERS * math.log2(62) >= 128
    assert (links.TOKEN_CHARACTERS - 1) * math.log2(62) < 128
    assert len({links.token_of(KEYS, "flu", str(n)) for n in range(10_000)}) == 10_000


def test_a_token_is_the_same_again_and_another_s_for_whoever_else() -> None:
    mine = links.token_of(KEYS, "flu", "ab")
    assert links.token_of(KEYS, "flu", "ab") == mine
    others = [
        links.token_of(KEYS, "flu", "abc"),
        links.token_of(KEYS, "flu-2", "ab"),
        links.token_of(LinkKeys(b"u" * 32, b"b" * 32, b"s" * 32), "flu", "ab"),
    ]
    assert mine not in others
    assert len(set(others)) == 3


def test_every_place_of_a_token_may_hold_every_character_but_the_last() -> None:
    """The last holds the two bits that are over: whoever enumerates tokens gains nothing by it."""
    tokens = [links.token_of(KEYS, "flu", str(n)) for n in range(20_000)]
    for place in range(links.TOKEN_CHARACTERS - 1):
        assert len({token[place] for token in tokens}) == 62


def test_the_keys_are_in_no_repr() -> None:
    assert "tttt" not in repr(KEYS)
    assert "bbbb" not in repr(KEYS)


def test_a_hash_says_nothing_of_the_token_and_whatever_is_typed_has_one() -> None:
    token = links.token_of(KEYS, "flu", "ab")
    assert token not in links.hash_of(token)
    assert len(links.hash_of(token)) == 64
    assert links.hash_of("\ud800") != links.hash_of(token)


def test_equal_dates_of_birth_look_different_in_the_ledger() -> None:
    born = date(1980, 1, 31)
    assert links.birth_hash(KEYS, "a", born) == links.birth_hash(KEYS, "a", born)
    assert links.birth_hash(KEYS, "a", born) != links.birth_hash(KEYS, "b", born)
    assert links.birth_hash(KEYS, "a", born) != links.birth_hash(KEYS, "a", date(1980, 2, 1))


def test_a_queued_text_is_as_long_as_the_one_that_goes() -> None:
    queued = f"See {links.address('https://msg.example.org')} or ring us."
    sent = links.completed(queued, links.token_of(KEYS, "flu", "ab"))
    assert len(sent) == len(queued)
    assert links.PLACEHOLDER not in sent
    assert is_basic(queued)
    assert links.completed("no link", "x" * 22) == "no link"


@pytest.mark.parametrize(
    ("message_type", "questionnaire", "first_answer", "ends"),
    [
        ("simple", None, None, days(28)),
        ("questionnaire", "smoking", None, days(7)),
        ("questionnaire", "smoking", days(2), days(7)),
        ("self_book", None, None, days(7)),
        ("questionnaire", "bp_7_day", None, days(9)),
        ("questionnaire", "bp_7_day", days(1), days(8)),
        ("questionnaire", "bp_7_day", days(5), days(9)),
        ("questionnaire", "bp_4_day", None, days(6)),
        ("questionnaire", "bp_4_day", days(0), days(4)),
        ("questionnaire", "bp_4_day", days(4), days(6)),
    ],
)
def test_how_long_a_link_lives(
    message_type: str, questionnaire: str | None, first_answer: timedelta | None, ends: timedelta
) -> None:
    booking = "clinic" if message_type == "self_book" else None
    life = links.life_of(links.kind_of(message_type, booking), questionnaire)
    answered = None if first_answer is None else SENT + first_answer
    assert links.ends_at(life, SENT, answered) == SENT + ends


def test_a_self_book_message_without_slots_has_a_link_to_its_attachment_alone() -> None:
    assert links.kind_of("self_book", None) == "attachment"


@pytest.mark.parametrize(
    ("revoked", "locked", "age", "standing"),
    [
        (False, False, days(27.9), "open"),
        (False, False, days(28), "gone"),
        (True, False, days(0), "gone"),
        (False, True, days(0), "locked"),
        (True, True, days(0), "gone"),
        (False, True, days(28), "gone"),
    ],
)
def test_what_a_link_is(revoked: bool, locked: bool, age: timedelta, standing: str) -> None:
    found = links.standing(revoked=revoked, locked=locked, ends=SENT + days(28), now=SENT + age)
    assert found == standing


ALL = ("day", "month", "year")


@pytest.mark.parametrize(
    ("day", "month", "year", "found"),
    [
        ("31", "1", "1980", date(1980, 1, 31)),
        (" 31 ", "01", " 1980", date(1980, 1, 31)),
        ("5", "March", "1980", date(1980, 3, 5)),
        ("5", "mar", "1980", date(1980, 3, 5)),
        ("29", "2", "2000", date(2000, 2, 29)),
        ("٣١", "۱", "१९८०", date(1980, 1, 31)),  # as keyboards for Arabic, Urdu and Hindi write them
        ("1", "10", "2026", date(2026, 10, 1)),
        ("", "", "", NotADate("Enter your date of birth", ALL)),
        ("31", "", "1980", NotADate("Date of birth must include a month", ("month",))),
        ("31", " ", "", NotADate("Date of birth must include a month and a year", ("month", "year"))),
        ("31", "2", "1980", NotADate("Date of birth must be a real date", ALL)),
        ("12", "31", "1980", NotADate("Date of birth must be a real date", ALL)),
        ("x", "y", "zzzz", NotADate("Date of birth must be a real date", ALL)),
        ("31", "1", "80", NotADate("Year must include 4 numbers", ("year",))),
        ("2", "10", "2026", NotADate("Date of birth must be in the past", ALL)),
        ("31", "12", "1899", NotADate("Date of birth must be after 1899", ALL)),
        ("1/1", "1", "1980", NotADate("Date of birth must be a real date", ALL)),
        ("-", "nan", "NULL", NotADate("Date of birth must be a real date", ALL)),
    ],
)
def test_a_date_that_a_patient_types(day: str, month: str, year: str, found: date | NotADate) -> None:
    assert links.typed_date(day, month, year, TODAY) == found


@pytest.mark.parametrize(
    ("around", "apart"),
    [
        ("§", True),
        ("See § now.", True),
        ("See §.", True),
        ("See §, or ring us.", True),
        ("(§)", True),
        ("[leaflet](§).", True),
        ("Here:\n§\nThank you.", True),
        ("§ and §", True),
        ("§Thank you.", False),  # the address runs on
        ("§.Thank you.", False),
        ("§/more", False),
        ("§’", False),
        ("see§", False),
        ("see:§", False),
        ("<§>", False),  # what is escaped for Markdown isn't read back there
        ("**§**", False),
        ("§ and §!x", False),
    ],
)
def test_an_address_is_one_that_a_phone_makes_a_link_of_as_it_is(around: str, *, apart: bool) -> None:
    link = links.address("https://msg.example.org")
    assert links.stands_apart(around.replace("§", link), link) is apart
