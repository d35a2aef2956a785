"""SMS parts and the downgrade: cases by hand, the alphabet against 3GPP TS 23.038, and SQL equal to Python."""

import unicodedata
from collections.abc import Sequence

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.rules.fragments import (
    DOWNGRADES,
    GSM_BASIC,
    GSM_EXTENSION,
    LIMITS,
    downgrade,
    downgrade_sql,
    fragments_sql,
    is_basic,
    is_basic_sql,
    is_blank,
    sms_fragments,
    unless_blank_sql,
)

CON = duckdb.connect()
EMOJI = "😀"


@pytest.mark.parametrize(
    ("text", "encoding", "units", "parts"),
    [
        ("", "gsm7", 0, 1),
        ("a" * 160, "gsm7", 160, 1),
        ("a" * 161, "gsm7", 161, 2),
        ("a" * 306, "gsm7", 306, 2),
        ("a" * 307, "gsm7", 307, 3),
        ("a" * 918, "gsm7", 918, 6),
        ("a" * 919, "gsm7", 919, 7),
        ("é" * 160, "gsm7", 160, 1),
        ("ñ" * 161, "gsm7", 161, 2),
        ("Ω" * 160, "gsm7", 160, 1),
        ("€" * 80, "gsm7", 160, 1),
        ("€" * 81, "gsm7", 162, 2),
        ("a" * 159 + "€", "gsm7", 161, 2),
        # The escape pair would be torn at 153: it goes whole into the next part.
        ("a" * 152 + "€" + "a" * 152, "gsm7", 306, 3),
        ("a" * 151 + "€" + "a" * 153, "gsm7", 306, 2),
        ("€" * 153, "gsm7", 306, 3),
        ("\f" + "a" * 158, "gsm7", 160, 1),
        ("ŵ" * 70, "ucs2", 70, 1),
        ("ŵ" * 71, "ucs2", 71, 2),
        ("ŵ" * 134, "ucs2", 134, 2),
        ("ŵ" * 135, "ucs2", 135, 3),
        ("a" * 69 + "á", "ucs2", 70, 1),
        (EMOJI * 35, "ucs2", 70, 1),
        (EMOJI * 36, "ucs2", 72, 2),
        ("a" * 66 + EMOJI + "a" * 66, "ucs2", 134, 3),
        ("a" * 65 + EMOJI + "a" * 67, "ucs2", 134, 2),
        # In UCS-2 what was an escape pair is one unit.
        ("ŵ" + "€" * 69, "ucs2", 70, 1),
    ],
)
def test_parts_of_a_text(text: str, encoding: str, units: int, parts: int) -> None:
    assert sms_fragments(text) == (encoding, units, parts)


@pytest.mark.parametrize("letter", "àäåèéìñòöùüÄÅÇÉÑÖÜßæøÆØ¿¡§¤£¥ΔΦΓΛΩΠΨΣΘΞ@$_")
def test_what_the_gsm_alphabet_has_beside_ascii(letter: str) -> None:
    assert sms_fragments(letter * 160) == ("gsm7", 160, 1)


@pytest.mark.parametrize("letter", "áâãçêëíîïóôõúûýÿšžŵŷłαβΑ`º°½•™\x1b")
def test_what_the_gsm_alphabet_has_not(letter: str) -> None:
    assert sms_fragments(letter).encoding == "ucs2"


def test_the_alphabet_has_128_places_less_the_escape() -> None:
    assert len(set(GSM_BASIC)) == len(GSM_BASIC) == 127
    assert len(set(GSM_EXTENSION)) == len(GSM_EXTENSION) == 10
    assert not set(GSM_BASIC) & set(GSM_EXTENSION)


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("It’s ‘free’", "It's 'free'"),
        ("“Flu” „jab‟ «now»", '"Flu" "jab" "now"'),
        ("O`Brien O´Brien Oʼneil", "O'Brien O'Brien O'neil"),
        ("9–5 — 1−1 ‑ ‐ ―", "9-5 - 1-1 - - -"),
        ("wait…", "wait..."),
        ("a\u00a0b\u202fc\u2009d\te\u3000f", "a b c d e f"),
        ("zero\u200bwidth\ufeff\u2060\u200c\u200d\u00ad\u180e", "zerowidth"),
        ("\u202a07\u202c\u200e", "07"),
        ("a\r\nb\rc\u2028d\u0085e\x0bf", "a\nb\nc\nd\ne\nf"),
        ("be\x07ll\x00\x7f\x9f", "bell"),
        ("Siân Ŵyn ñ Ω 😀 €{}", "Siân Ŵyn ñ Ω 😀 €{}"),
    ],
)
def test_downgrade(typed: str, sent: str) -> None:
    assert downgrade(typed) == sent


def test_a_downgraded_text_stays_as_it_is_and_costs_gsm7() -> None:
    everything = "".join(chr(point) for point in range(0x10000) if chr(point) != downgrade(chr(point)))
    assert len(everything) > 100
    assert downgrade(downgrade(everything)) == downgrade(everything)
    assert sms_fragments(downgrade(everything)).encoding == "gsm7"


def test_letters_and_digits_are_never_downgraded() -> None:
    lettered = (chr(point) for point in range(0x10000) if unicodedata.category(chr(point))[:2] in ("Lu", "Ll", "Nd"))
    assert all(downgrade(letter) == letter for letter in lettered)


def test_no_character_has_two_downgrades() -> None:
    named = [point for _, characters in DOWNGRADES for point in _points(characters)]
    assert len(named) == len(set(named))


def _points(characters: str) -> list[int]:
    points: list[int] = []
    while characters:
        end = 2 if characters[1:2] == "-" else 0
        points.extend(range(ord(characters[0]), ord(characters[end]) + 1))
        characters = characters[end + 1 :]
    return points


@pytest.mark.parametrize(
    ("text", "blank"),
    [
        (None, True),
        ("", True),
        ("  \t\n", True),
        ("\u00a0\u200b\ufeff", True),
        ("a", False),
        ("-", False),
        (" é", False),
    ],
)
def test_blank(text: str | None, blank: bool) -> None:
    assert is_blank(text) is blank


def test_the_limits() -> None:
    assert LIMITS == {"sms": 918, "nhs_app": 5000, "email": 100_000}


def in_sql(expression: str, texts: Sequence[str | None]) -> list[object]:
    rows = CON.execute(f"SELECT {expression} FROM (SELECT unnest($1::VARCHAR[]) AS x)", [list(texts)]).fetchall()
    return [row[0] for row in rows]


ODD = "".join(chr(p) for p in range(0x10000) if chr(p) != downgrade(chr(p))) + GSM_EXTENSION + "éñŵ😀\r\n"
PIECES = st.one_of(
    st.text(st.sampled_from(ODD), max_size=5),
    st.text(max_size=5),
    st.builds(lambda c, n: c * n, st.sampled_from(["a", "€", "ŵ", EMOJI, "{", "a€"]), st.integers(0, 170)),
)
TEXTS = st.lists(st.lists(PIECES, max_size=6).map("".join), min_size=1, max_size=40)


@settings(max_examples=80, deadline=None)
@given(TEXTS)
def test_sql_agrees_with_python(texts: list[str]) -> None:
    assert in_sql(downgrade_sql("x"), texts) == [downgrade(text) for text in texts]
    assert in_sql(unless_blank_sql("x"), texts) == [None if is_blank(text) else text for text in texts]
    assert in_sql(is_basic_sql("x"), texts) == [is_basic(text) for text in texts]
    for text, parts in zip(texts, in_sql(fragments_sql("x"), texts), strict=True):
        truth = sms_fragments(text)
        assert parts in (None, truth.parts)
        if parts is None:
            has_pairs = any(c in GSM_EXTENSION if truth.encoding == "gsm7" else ord(c) > 0xFFFF for c in text)
            assert has_pairs
            assert truth.parts > 1


def test_every_character_by_itself_is_the_same_in_sql() -> None:
    points = [chr(p) for p in (*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 97))]
    assert in_sql(downgrade_sql("x"), points) == [downgrade(c) for c in points]
    assert in_sql(fragments_sql("x"), [c * 80 for c in points[:0x3000]]) == [
        sms_fragments(c * 80).parts for c in points[:0x3000]
    ]


def test_sql_leaves_open_only_what_a_boundary_decides() -> None:
    texts = ["a" * 200 + "€", "€" * 150, "a" * 152 + "€" + "a" * 152, EMOJI * 67, None]
    assert in_sql(fragments_sql("x"), texts) == [2, 2, None, None, None]
    assert in_sql(fragments_sql("x") + " IS NULL AND x IS NULL", texts)[-1] is True
