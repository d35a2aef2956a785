"""Emails in Markdown: what is set, what stays words, and that a patient's value is never anything but words."""

import html
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.rules.markdown import escaped, escaped_sql, page, plain
from batch_pipeline_tests.rules.duck import evaluate


def body(text: str) -> str:
    """The page's body on one line."""
    return re.sub(r"\n", "", page(text, "x").split("<body", 1)[1].split(">", 1)[1].split("</body>", 1)[0])


def seen(text: str) -> str:
    """What a person reads of the page."""
    return html.unescape(re.sub(r"<[^>]+>", "", body(text)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Dear A,\n\nplease ring.", "<p>Dear A,</p><p>please ring.</p>"),
        ("one\ntwo", "<p>one<br />two</p>"),
        ("**bold** and *soft*", "<p><strong>bold</strong> and <em>soft</em></p>"),
        ("## Bring\n- card\n- glasses", "<h2>Bring</h2><ul><li>card</li><li>glasses</li></ul>"),
        ("[Book](https://a.example/x)", '<p><a href="https://a.example/x">Book</a></p>'),
        ("at https://a.example/x?a=1&b=2.", '<p>at <a href="https://a.example/x?a=1&amp;b=2">https://a.example/x?a=1&amp;b=2</a>.</p>'),
        ("first_last@a.example", "<p>first_last@a.example</p>"),
        # Words, whatever Markdown or HTML would make of them.
        ("<b>x</b> & <script>alert(1)</script>", "<p>&lt;b&gt;x&lt;/b&gt; &amp; &lt;script&gt;alert(1)&lt;/script&gt;</p>"),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        ("[x](data:text/html,y)", "<p>[x](data:text/html,y)</p>"),
        ("&pound;5", "<p>&amp;pound;5</p>"),
        ("    four spaces", "<p>four spaces</p>"),
        ("`x`", "<p>`x`</p>"),
        ("A\n---", "<p>A<br />---</p>"),
        ("[a]: b", "<p>[a]: b</p>"),
        ("<https://a.example/x>", '<p>&lt;<a href="https://a.example/x">https://a.example/x</a>&gt;</p>'),
        # A line of marks is one to look at, and makes no list; nor do lists in lists in lists: their marks stay words.
        ("- - -\nHi", "<p>- - -<br />Hi</p>"),
        ("* * * * * * * * * * * *\nHi\n\nYou", "<p>* * * * * * * * * * * *<br />Hi</p><p>You</p>"),
        ("- a\n- - - -\n- b", "<ul><li>a<br />- - - -</li><li>b</li></ul>"),
        # The number that is written is the one that is seen.
        ("1. a\n3. b\n3. c", '<ol><li value="1">a</li><li value="3">b</li><li value="3">c</li></ol>'),
    ],
)  # fmt: skip
def test_how_a_text_is_set(text: str, shown: str) -> None:
    assert body(text) == shown


@pytest.mark.parametrize("mark", ["- ", "* ", "> ", "1. ", ">", "- > "])
@pytest.mark.parametrize("times", [2, 11, 40, 2_000])
def test_no_words_are_lost_however_deep_they_stand(mark: str, times: int) -> None:
    words = seen(f"{mark * times}Ring\n\non Friday\n\n- and bring it\n")
    assert all(word in words for word in ("Ring", "on Friday", "and bring it"))


def test_a_page_loads_nothing_and_has_its_subject_as_its_title() -> None:
    made = page("![x](https://evil.example/pixel.png) hello", "A <b>")
    assert "<title>A &lt;b&gt;</title>" in made
    assert 'lang="en-GB"' in made
    assert not re.search(r"<img|<script|<link|src=|url\(", made)


READY = """
from mdurl import _encode
from batch_pipeline.rules.markdown import _MARKDOWN as made
assert all(r.__cache__ for r in (made.core.ruler, made.block.ruler, made.inline.ruler, made.inline.ruler2))
assert [len(table) for table in _encode.encode_cache.values()] == [128]
"""


def test_the_parser_is_whole_before_threads_share_it() -> None:
    """It makes tables at their first use, and who comes while one is made finds it empty: a page without words."""
    subprocess.run([sys.executable, "-c", READY], check=True)


VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20),
    st.text("*_[]()<>#+-.!&;\\`~=1a :/|", max_size=20),
    st.sampled_from(["**A**", "[a](https://evil.example)", "# A", "1. A", "- A", "<b>", "&lt;", "\\*", "A_B_C", "> A"]),
)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.sampled_from(["", "Dear ", "- ", "**Dear** ", "line\n"]))
def test_a_value_is_read_as_it_is(value: str, before: str) -> None:
    value = " ".join(value.split())  # as a tidied cell
    text = f"{before}{escaped(value)}"
    assert plain(text) == before + value
    if value:
        wanted = re.sub(r"\*\*|^- |\n", "", before) + value
        assert seen(text).split() == wanted.split() or seen(text) == wanted


@pytest.mark.parametrize("value", ["<b>x</b>", "*x*", "__x__", "[x](https://a.example)", "# x", "2. x", "+ x", "> x"])
def test_a_value_makes_no_marks(value: str) -> None:
    assert not re.search(r"<(?!a |/a>|p>|/p>)", body(escaped(value)))


def test_a_value_that_is_an_address_leads_where_it_says() -> None:
    assert body(escaped("https://a.example/b-c_d")) == (
        '<p><a href="https://a.example/b-c_d">https://a.example/b-c_d</a></p>'
    )
    assert body(f"<{escaped('https://a.example/b-c_d')}>") == (
        '<p>&lt;<a href="https://a.example/b-c_d">https://a.example/b-c_d</a>&gt;</p>'
    )
    assert body(f"[Book]({escaped('https://a.example/b(c)')})") == '<p><a href="https://a.example/b(c)">Book</a></p>'


@given(st.lists(VALUES, min_size=1))
def test_sql_and_python_escape_alike(values: list[str]) -> None:
    assert evaluate(escaped_sql, values) == [escaped(value) for value in values]
