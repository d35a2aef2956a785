import email_validator
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.rules import emails
from batch_pipeline.rules.emails import Email
from batch_pipeline_tests.rules.duck import answers, evaluate

GOOD = "first.last@example.org"
ODD = "aB1.@-_+' <>,;:()éſKİ\u200b\xa0＠"
any_cell = st.one_of(
    st.none(),
    st.text(max_size=10),
    st.text(st.sampled_from(ODD), max_size=14),
    st.emails(),
    st.builds(
        "{}{}@{}{}".format,
        st.text(st.sampled_from(ODD), max_size=4),
        st.sampled_from(("a", "a.b", "A_b", "o'neil", "mailto:a", "x" * 70)),
        st.sampled_from(
            ("b.co", "B.Co.uk", "b", "b..co", "x--y.org", "b.local", "b.test", "b.invalid", "b.info", "1.2")
        ),
        st.text(st.sampled_from(ODD), max_size=3),
    ),
)


def good(address: str, *, mended: bool) -> Email:
    return Email("good", address, mended=mended, detail=None)


@pytest.mark.parametrize("cell", [None, "", "  ", "\u200b"])
def test_an_empty_cell_holds_no_address(cell: str | None) -> None:
    assert emails.classify(cell) == Email("none", None, mended=False, detail=None)


@pytest.mark.parametrize("cell", ["nan", "NULL", "-", "n/a"])
def test_a_word_for_nothing_is_empty_and_counts_as_mended(cell: str) -> None:
    assert emails.classify(cell) == Email("none", None, mended=True, detail=None)


@pytest.mark.parametrize(
    "address",
    [GOOD, "a@b.co", "A.B@b.co", "o'neil@b.co.uk", "a+b@b.co", "a@example.com", "a@b.test", "a@b.example", "a!b@b.co"],
)
def test_a_good_address_is_kept_as_it_is(address: str) -> None:
    assert emails.classify(address) == good(address, mended=False)


def test_the_domain_is_lower_case_and_the_rest_keeps_its_case() -> None:
    assert emails.classify("First.Last@Example.ORG").address == "First.Last@example.org"
    assert emails.classify("INFO@Example.ORG").address == "INFO@example.org"


@pytest.mark.parametrize(
    "cell",
    [
        f"<{GOOD}>;",
        f"{GOOD}.",
        f"{GOOD},",
        f" {GOOD} ",
        f"mailto:{GOOD}",
        f"<MAILTO:{GOOD}>",
        f"“{GOOD}”",
        f"'{GOOD}",
        f"\xa0{GOOD}",
        "first.last\u200b@example.org",
        f"({GOOD})",
        f".{GOOD}",
    ],
)
def test_punctuation_around_an_address_is_mended(cell: str) -> None:
    assert emails.classify(cell) == good(GOOD, mended=True)


@pytest.mark.parametrize(
    ("cell", "detail"),
    [
        (f"{GOOD} (wife)", emails.OTHER_TEXT),
        (f"{GOOD}(wife)", emails.OTHER_TEXT),
        (f"A Person <{GOOD}>", emails.OTHER_TEXT),
        ("first last@example.org", emails.OTHER_TEXT),
        (f"{GOOD}; {GOOD}", emails.TWO_ADDRESSES),
        (f"{GOOD} or {GOOD}", emails.TWO_ADDRESSES),
        ("a@@b.co", emails.TWO_ADDRESSES),
        ("no email", emails.NO_AT),
        ("example.org", emails.NO_AT),
        ("<>", emails.NO_AT),
        ("a@b", emails.NOT_VALID),
        ("a@test", emails.NOT_VALID),
        ("a@localhost", emails.NOT_VALID),
        ("a@b.local", emails.NOT_VALID),
        ("a@b.invalid", emails.NOT_VALID),
        ("@b.co", emails.NOT_VALID),
        ("a@", emails.NOT_VALID),
        ("a..b@b.co", emails.NOT_VALID),
        ("a@b..co", emails.NOT_VALID),
        ("é@b.co", emails.NOT_VALID),
        ("a@" + "b.c" * 90 + ".co", emails.TOO_LONG),
    ],
)
def test_what_is_no_address_or_would_be_a_guess_is_bad_with_the_reason(cell: str, detail: str) -> None:
    assert emails.classify(cell) == Email("bad", None, mended=False, detail=detail)


def test_an_international_domain_is_written_in_ascii() -> None:
    assert emails.classify("a@bücher.example").address == "a@xn--bcher-kva.example"


def test_the_fast_path_decides_every_ordinary_cell() -> None:
    ordinary = [
        None,
        "",
        "nan",
        GOOD,
        f"<{GOOD}>;",
        "A@B.CO",
        "x",
        "a@b",
        f"{GOOD} (wife)",
        f"{GOOD};{GOOD}",
        "a@b.info",
    ]
    assert None not in answers(emails.fast_sql, ordinary)


@pytest.mark.parametrize(
    "name", ["invalid", "LOCAL", "localhost", "onion", "home.arpa", "locale", "online", "info", "aero"]
)
def test_the_fast_path_leaves_reserved_names_to_the_library(name: str) -> None:
    (found,) = answers(emails.fast_sql, [f"a@b.{name}"])
    assert found in (None, tuple(emails.classify(f"a@b.{name}")))


@settings(max_examples=60, deadline=None)
@given(st.lists(any_cell, min_size=1, max_size=60))
def test_the_fast_path_is_never_wrong(texts: list[str | None]) -> None:
    fast, plain = answers(emails.fast_sql, texts), evaluate(emails.plain_sql, texts)
    for text, found, address in zip(texts, fast, plain, strict=True):
        truth = emails.classify(text)
        assert found in (None, tuple(truth))
        assert address is None or (truth.kind, truth.address, truth.mended) == ("good", address, False)


def test_the_plain_form_finds_the_addresses_of_a_usual_column() -> None:
    texts = [GOOD, "A.B-c+d@Mail.Example.ORG", "a_1@b.co.uk", None, "", "x", f"<{GOOD}>", "a@b"]
    assert evaluate(emails.plain_sql, texts) == [GOOD, "A.B-c+d@mail.example.org", "a_1@b.co.uk", *[None] * 5]


@settings(deadline=None)
@given(st.one_of(st.emails(), st.text(st.sampled_from("aB1.-_+@"), max_size=12)))
def test_a_cell_that_needs_no_mending_is_judged_by_the_library(text: str) -> None:
    try:
        valid = email_validator.validate_email(text, check_deliverability=False, allow_smtputf8=False)
    except email_validator.EmailNotValidError:
        valid = None
    found = emails.classify(text)
    if not found.mended and not text.startswith(("'", "`", "{", "}")):  # marks around a text, and no one's name
        assert (found.kind == "good") == (valid is not None) or text.lower().endswith("test")
