import itertools
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneNumberType

from batch_pipeline.rules import phones
from batch_pipeline.rules.phones import Phone
from batch_pipeline_tests.rules.duck import answers, evaluate

FICTIONAL = "7700900123"  # a mobile of ours
LANDLINE = "2079460123"  # Ofcom's numbers for drama
NONE = Phone("none", None, mended=False, detail=None)

# How a national number may be written; {n} is the number without its zero, {a} and {b} are its two parts.
SHAPES = (
    *("0{n}", "+44{n}", "{n}", "44{n}", "0044{n}", "+440{n}", "00440{n}", "440{n}", "+44(0){n}", "+44 (0) {n}"),
    *("0{a} {b}", "(0{a}) {b}", "0{a}-{b}", "0{a}.{b}", "0{a}–{b}", "[0{a}]{b}", "0{a}\u2011{b}", "+44-{a}-{b}"),
    *(" 0{n} ", "\xa00{n}", "\ufeff0{n}", "0{a}\u200b{b}", "\u202d0{n}\u202c", "0{a}\t{b}", "'0{n}", "0{n}.", "(0{n})"),
    *("O{n}", "o{n}", "{n}.0", "44{n}.0", "0{a}/{b}", "0{a}~{b}", "++44{n}", "+0{n}", "00{n}", "000{n}", "+{n}"),
    *("0{n}0", "0{a}", "{n}{n}", "0 {n}", "+4 4{n}", "0{a}  {b}", "(+44){n}", "+(44){n}", "0{n}#", "0{a}+{b}", "{a}"),
    *(
        "18002{n}",
        "180020{n}",
        "1800200{n}",
        "0180020{n}",
        "4444{n}",
        "044{n}",
        "0044 0{n}",
        "001{n}",
        "+1{n}",
        "+33{n}",
    ),
)
SHAPES_OF_TWO = (
    *("0{n} 0{n}", "0{n}  0{n}", "0{n}/0{n}", "0{n}, 0{n}", "0{n};0{n}", "0{n}; 0{n}", "0{n},,0{n}", "0{n}|0{n}"),
    *("0{n} & 0{n}", "0{n}\\0{n}", "0{n}\n0{n}", "0{n} or 0{n}", "0{n} wife 0{n}", "+44180020{n}", "+44 18OO2o {n}"),
    *("00441800200{n}", "18 0020 0{n} 0{n}", "0{n}/x0{n}", "0{n}#0{n}", "+44 0{n}0{n}", "{a}{a}{a}{a}{a}", "0{n} work"),
    *("0{n} ext 12", "7.7E+09 0{n}", "x", "ex 0{a}", "0{n}\u00a0work", "{{0{n}}} home", "0{n} 5.0", "n/a 0{n}"),
)
REFUSED = (
    ("0{n} (wife)", phones.OTHER_TEXT),
    ("Tel 0{n}", phones.OTHER_TEXT),
    ("0{n} x12", phones.OTHER_TEXT),
    ("0{n};12", phones.OTHER_TEXT),
    ("0{n};0{n}", phones.TWO_NUMBERS),
    ("0{n}/0{n}", phones.TWO_NUMBERS),
    ("0{n} or 0{n}", phones.TWO_NUMBERS),
    ("0{n} 0{n}", phones.TWO_NUMBERS),
    ("0{n}, 0{n}", phones.TWO_NUMBERS),
    ("4.47700E+11", phones.SCIENTIFIC),
    ("4,47700E+11", phones.SCIENTIFIC),
    ("7E9", phones.SCIENTIFIC),
    ("none known", phones.NOT_A_NUMBER),
    ("0{a}", phones.TOO_SHORT),
    ("0{n}1", phones.TOO_LONG),
    ("+33612345678", phones.FOREIGN),
    ("0033612345678", phones.FOREIGN),
)


def written(shape: str, national: str) -> str:
    return shape.format(n=national, a=national[:4], b=national[4:])


def oracle(text: str) -> tuple[str, str | None]:
    """Kind and E.164 by phonenumbers alone, for cells that are one number and no other text."""
    try:
        number = phonenumbers.parse(text, "GB")
    except phonenumbers.NumberParseException:
        return "not_uk", None
    national = phonenumbers.national_significant_number(number)
    if number.country_code == 44 and len(national) == 10 and national.startswith("7700900"):
        return "mobile", phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    kind = phonenumbers.number_type(number)
    if number.country_code != 44 or kind == PhoneNumberType.UNKNOWN:  # which is to say, not valid
        return "not_uk", None
    if kind == PhoneNumberType.MOBILE:
        return "mobile", phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return ("landline" if kind == PhoneNumberType.FIXED_LINE else "not_mobile"), None


def by_hand(text: str) -> str:
    """The mending of SPEC 2.1 that libphonenumber doesn't do itself, written another way."""
    for invisible in "\u200b\ufeff\u202d\u202c":
        text = text.replace(invisible, "")
    # A whole number as a float; one that begins with a zero never was a number.
    whole, _, fraction = text.strip().partition(".")
    if set(fraction) == {"0"} and whole.isdigit() and whole[0] != "0" and 9 <= len(whole) <= 15:
        text = whole
    return text.replace("O", "0").replace("o", "0").replace("\t", " ")


def differences(texts: Iterable[str]) -> list[tuple[str, object, object]]:
    """Where a form for set work has another answer than `classify`; what it leaves undecided is no difference."""
    ordered = sorted(set(texts))
    fast = answers(phones.fast_sql, ordered)
    plain = evaluate(plain_answer, ordered)
    truths = map(tuple, map(phones.classify, ordered))
    return [
        (text, found, truth)
        for text, truth, *finds in zip(ordered, truths, fast, plain, strict=True)
        for found in finds
        if found not in (None, truth)
    ]


def plain_answer(column: str) -> str:
    """What `plain_mobile_sql` and `mended_mobile_sql` say, as `fast_sql` would."""
    e164, mended = phones.plain_mobile_sql(column), phones.mended_mobile_sql(column)
    return f"CASE WHEN {e164} IS NOT NULL THEN {{k: 'mobile', e: {e164}, m: {mended}, d: NULL::VARCHAR}} END"


def oracle_differences(texts: Iterable[str]) -> list[tuple[str, Phone]]:
    found = ((text, phones.classify(text)) for text in texts)
    return [(text, phone) for text, phone in found if (phone.kind, phone.e164) != oracle(by_hand(text))]


def uk_examples() -> Iterator[str]:
    """A national number of every type of every +44 region, and its neighbours."""
    for region, kind in itertools.product(phonenumbers.COUNTRY_CODE_TO_REGION_CODE[44], PhoneNumberType.values()):
        number = phonenumbers.example_number_for_type(region, kind)
        if number:
            yield phonenumbers.national_significant_number(number)


def prefixes() -> Iterator[str]:
    """Ten-digit numbers for each beginning of four digits."""
    for prefix in range(1000, 10_000):
        yield f"{prefix}{prefix * 7919 % 1_000_000:06}"


@pytest.mark.parametrize("cell", [None, "", " ", "\u200b"])
def test_an_empty_cell_holds_no_number(cell: str | None) -> None:
    assert phones.classify(cell) == NONE


@pytest.mark.parametrize("cell", ["nan", "NULL", "-", " n/a "])
def test_a_word_for_nothing_is_empty_and_counts_as_mended(cell: str) -> None:
    assert phones.classify(cell) == NONE._replace(mended=True)


@pytest.mark.parametrize("shape", ["0{n}", "+44{n}"])
def test_a_plain_mobile_is_not_mended(shape: str) -> None:
    assert phones.classify(written(shape, FICTIONAL)) == Phone("mobile", f"+44{FICTIONAL}", mended=False, detail=None)


@pytest.mark.parametrize("shape", SHAPES[2:29])
def test_a_dirty_mobile_is_mended(shape: str) -> None:
    assert phones.classify(written(shape, FICTIONAL)) == Phone("mobile", f"+44{FICTIONAL}", mended=True, detail=None)


@pytest.mark.parametrize("shape", ["{n}.0", "{n}.00", " {n}.0", "{n}.0\u200b", "44{n}.0"])
def test_a_float_of_a_whole_number_is_mended(shape: str) -> None:
    assert phones.classify(written(shape, FICTIONAL)) == Phone("mobile", f"+44{FICTIONAL}", mended=True, detail=None)
    assert differences([written(shape, FICTIONAL)]) == []


@pytest.mark.parametrize("shape", ["{n}.0", " {n}.0 "])
def test_the_nought_behind_a_float_s_point_never_becomes_a_missing_digit(shape: str) -> None:
    assert phones.classify(shape.format(n=FICTIONAL[:-1])).detail == phones.TOO_SHORT


def test_digits_of_other_scripts_are_digits() -> None:
    arabic = FICTIONAL.translate({ord(str(digit)): chr(0x660 + digit) for digit in range(10)})
    full_width = FICTIONAL.translate({ord(str(digit)): chr(0xFF10 + digit) for digit in range(10)})
    assert phones.classify(f"0{arabic}").e164 == phones.classify(f"＋44{full_width}").e164 == f"+44{FICTIONAL}"


@pytest.mark.parametrize(("shape", "detail"), REFUSED)
def test_what_would_be_a_guess_is_refused_with_the_reason(shape: str, detail: str) -> None:
    assert phones.classify(written(shape, FICTIONAL)) == Phone("not_uk", None, mended=False, detail=detail)


def test_the_fictional_range_is_a_mobile_and_what_follows_it_is_not() -> None:
    assert {phones.classify(f"07700900{last:03}").kind for last in range(1000)} == {"mobile"}
    assert phones.classify(f"0{7700900999 + 1}").kind == "not_uk"


@pytest.mark.parametrize("region", phonenumbers.COUNTRY_CODE_TO_REGION_CODE[44])
@pytest.mark.parametrize(
    ("kind", "expected"), [(PhoneNumberType.MOBILE, "mobile"), (PhoneNumberType.FIXED_LINE, "landline")]
)
def test_jersey_guernsey_and_man_count_as_uk(region: str, kind: int, expected: str) -> None:
    number = phonenumbers.example_number_for_type(region, kind)
    assert number
    assert phones.classify(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)).kind == expected


@pytest.mark.parametrize("kind", ["PERSONAL_NUMBER", "PAGER", "TOLL_FREE", "PREMIUM_RATE", "VOIP", "UAN"])
def test_other_uk_numbers_are_no_mobiles(kind: str) -> None:
    number = phonenumbers.example_number_for_type("GB", getattr(PhoneNumberType, kind))
    assert number
    assert phones.classify(f"0{phonenumbers.national_significant_number(number)}").kind == "not_mobile"


def test_numbers_of_every_other_country_are_not_uk() -> None:
    numbers = [
        phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        for region, kind in itertools.product(sorted(phonenumbers.SUPPORTED_REGIONS), PhoneNumberType.values())
        if (number := phonenumbers.example_number_for_type(region, kind)) and number.country_code != 44
    ]
    assert len(numbers) > 1000
    assert {phones.classify(number)[:2] for number in numbers} == {("not_uk", None)}
    assert differences([*numbers, *(number.replace("+", "00") for number in numbers)]) == []


def test_classify_and_the_fast_path_agree_with_phonenumbers_on_every_shape() -> None:
    nationals = {FICTIONAL, LANDLINE, *uk_examples(), *(example[:-1] + "0" for example in uk_examples())}
    texts = [written(shape, national) for shape in SHAPES for national in nationals]
    assert oracle_differences(texts) == []
    assert differences(texts) == []


def test_they_agree_on_every_beginning_of_four_digits() -> None:
    texts = [f"0{national}" for national in prefixes()]
    assert oracle_differences(texts) == []
    assert differences(texts) == []


def test_the_fast_path_decides_every_ordinary_cell() -> None:
    ordinary = [
        written(shape, national) for shape in SHAPES[:30] if "'" not in shape for national in (FICTIONAL, LANDLINE)
    ]
    others = [None, "", "nan", "-", "+33612345678", "ask wife", "0{n} (wife)", "0{n}, 0{n}", "0{n} or 0{n}", "4.47E+11"]
    texts = [*ordinary, *(cell and written(cell, FICTIONAL) for cell in others)]
    assert None not in answers(phones.fast_sql, texts)
    assert differences(filter(None, texts)) == []


def test_the_plain_form_finds_the_mobiles_of_a_usual_column() -> None:
    usual = ["0{n}", "+44{n}", "0{a} {b}", "0{a}-{b}", "(0{a}) {b}", "{n}", "44{n}", "+44 (0){n}", "+44 {a} {b}"]
    texts = [written(shape, FICTIONAL) for shape in usual]
    assert evaluate(phones.plain_mobile_sql, texts) == [f"+44{FICTIONAL}"] * len(usual)
    assert evaluate(phones.plain_mobile_sql, [None, "", f"0{LANDLINE}", f"0{FICTIONAL}0", "ask wife"]) == [None] * 5


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=16),
            st.text(st.sampled_from("0123456789 +-.()Oo\u200b\xa0–x/,;#*~٣"), max_size=18),
            st.builds(
                written, st.sampled_from([*SHAPES, *SHAPES_OF_TWO]), st.from_regex(r"[0-9]{9,11}", fullmatch=True)
            ),
        ),
        min_size=1,
        max_size=100,
    )
)
@example([written(shape, FICTIONAL) for shape in SHAPES_OF_TWO])
@example(["+441800201234567", "180020" + "0" + FICTIONAL])
def test_the_fast_path_is_never_wrong(texts: list[str]) -> None:
    assert differences(texts) == []


def test_a_detail_never_holds_a_digit_of_the_number() -> None:
    for shape in SHAPES:
        assert not any(map(str.isdigit, phones.classify(written(shape, "1234567890")).detail or ""))


# ---- two million -----------------------------------------------------------------------------------------------------

CHUNKS, CHUNK = 220, 10_000


def generated(seed: int) -> list[str]:
    """Cells around all beginnings of six digits: each chunk walks its own part of 07xxxxx, the rest is drawn."""
    draw = random.Random(seed)
    cells: list[str] = []
    for step in range(CHUNK):
        walked = f"7{(seed * CHUNK + step) % 1_000_000:06}{draw.randrange(1000):03}"
        drawn = draw.choice("1234567890") + "".join(draw.choices("0123456789", k=draw.choice((8, 9, 9, 9, 10))))
        cell = written(draw.choice(SHAPES[: 2 + step % len(SHAPES)]), walked if step % 3 else drawn)
        if step % 5 == 0:
            at = draw.randrange(len(cell))
            cell = (
                cell[:at]
                + draw.choice(("", "O", " ", "-", "(", "1", "\u200b", "\xa0", ".", "/"))
                + cell[at + draw.randrange(2) :]
            )
        if step % 7 == 0:
            cell = written(draw.choice(SHAPES_OF_TWO), walked)
        cells.append(cell)
    return cells


def check_chunk(seed: int) -> tuple[int, list[object]]:
    texts = generated(seed)
    singles = [text for step, text in enumerate(texts) if step % 7]
    return len(texts), [*differences(texts), *oracle_differences(singles)]


@pytest.mark.slow
def test_two_million_generated_cells_agree_with_phonenumbers() -> None:
    with ProcessPoolExecutor() as workers:
        results = list(workers.map(check_chunk, range(CHUNKS)))
    assert [case for _, wrong in results for case in wrong][:20] == []
    assert sum(count for count, _ in results) >= 2_000_000
