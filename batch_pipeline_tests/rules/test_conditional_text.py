"""Texts with conditions and filters: what they come to, where a gap is one, and what Jinja can do that they can't."""

import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.errors import Refused
from batch_pipeline.rules.conditional_text import FILTERS, MOST, ConditionalText, MissingValue
from batch_pipeline.rules.text import compile_text


def compiled(source: str) -> ConditionalText:
    text = compile_text(source, label="flu.md")
    assert isinstance(text, ConditionalText)
    return text


F = {"sex": "F", "name": "Ann"}


@pytest.mark.parametrize(
    ("source", "values", "text"),
    [
        ("{% if sex %}a{% endif %}b", F, "ab"),
        ("{% if sex %}a{% endif %}b", {"sex": None}, "b"),
        ("{% if sex %}a{% endif %}b", {}, "b"),
        ("{% if not sex %}a{% endif %}b", {"sex": " \u200b"}, "ab"),
        ('{% if sex == "F" %}a{% elif sex == "M" %}b{% else %}c{% endif %}', F, "a"),
        ('{% if sex == "F" %}a{% elif sex == "M" %}b{% else %}c{% endif %}', {"sex": "M"}, "b"),
        ('{% if sex == "F" %}a{% elif sex == "M" %}b{% else %}c{% endif %}', {"sex": "f"}, "c"),
        ('{% if sex | lower == "f" %}a{% endif %}b', {"sex": "F"}, "ab"),
        ('{% if sex != "F" %}a{% endif %}b', F, "b"),
        ('{% if sex in ["F", "W"] %}a{% endif %}b', F, "ab"),
        ('{% if sex not in ("F", "W") %}a{% endif %}b', F, "b"),
        ('{% if sex and sex == "F" %}a{% endif %}b', {}, "b"),
        ('{% if not (sex == "M" or name == "Bo") %}a{% endif %}b', F, "ab"),
        ('{% if sex | default("M") == "M" %}a{% endif %}b', {}, "ab"),
        ("{% if sex %}{% if name %}{{ name }}{% endif %}{% endif %}!", F, "Ann!"),
        ("{{ name | upper }} {{ sex | lower }}", F, "ANN f"),
        ("{{ name | title }}", {"name": "ann o'hara-smith"}, "Ann O'hara-Smith"),
        ("{{ name | capitalize }}", {"name": "ANN"}, "Ann"),
        ('{{ name | default("patient") }}', {}, "patient"),
        ('{{ name | lower | title | default("patient") }}', {"name": "ANN"}, "Ann"),
        ('{{ name | lower | default("patient") }}', {}, "patient"),
        # Lines that hold a condition alone leave no empty line; spaces around the whole are gone.
        ("Dear A,\n{% if sex %}\nplease\n{% endif %}\nring.\n", F, "Dear A,\nplease\nring."),
        ("Dear A,\n  {% if sex %}\nplease\n  {% endif %}\nring.", {}, "Dear A,\nring."),
        (
            "Dear A,\n{% if sex %} \t\nplease\n{% endif %}{% if name %}  \nring.\n{% endif %}",
            F,
            "Dear A,\nplease\nring.",
        ),
        # A line that holds words as well ends where it ends.
        ("Come{% if name %} to {{ name }}{% endif %}\nPlease ring.", F, "Come to Ann\nPlease ring."),
        ("Come{% if name %} to {{ name }}{% endif %}\nPlease ring.", {}, "Come\nPlease ring."),
        ("Come {% if name %}today{% else %}soon{% endif %}\n\nRing.", {}, "Come soon\n\nRing."),
        ("Come{% if name %}\ntoday{% endif %}\nRing.", F, "Come\ntoday\nRing."),
        ("{{ name }}{% if sex %}\ntoday{% endif %}\nRing.", F, "Ann\ntoday\nRing."),
        ("{% if sex %}Ring {{ name }}{% endif %}\n{% if name %}\nnow\n{% endif %}\n", F, "Ring Ann\nnow"),
        ("{%- if sex -%} a {%- endif %} b", F, "a b"),
        ("a {%- if sex -%}\n\n b\n{%- endif -%}\n c", F, "abc"),
        # A value is never read as a text.
        ("{% if sex %}{{ name }}{% endif %}", {"sex": "{{ name }}", "name": "{% if x %}<b>&"}, "{% if x %}<b>&"),
    ],
)
def test_what_a_text_comes_to(source: str, values: Mapping[str, str | None], text: str) -> None:
    assert compiled(source).render(values) == text


@pytest.mark.parametrize(
    ("source", "values", "lacking"),
    [
        ("{% if sex %}{{ name }}{% endif %}b", {}, ()),
        ("{% if sex %}{{ name }}{% endif %}b", {"sex": "F"}, ("name",)),
        ("{% if sex %}a{% endif %}{{ name }}{{ room }}{{ name }}", {}, ("name", "room")),
        ("{{ name | upper }}", {}, ("name",)),
        # Compared, a missing value would quietly count as any other.
        ('{% if sex == "F" %}a{% else %}b{% endif %}', {}, ("sex",)),
        ('{% if sex != "F" %}a{% else %}b{% endif %}', {}, ("sex",)),
        ('{% if sex in ["F"] %}a{% else %}b{% endif %}', {}, ("sex",)),
        ('{% if sex and sex == "F" %}a{% else %}b{% endif %}', {}, ()),
        ('{% if name or sex == "F" %}a{% else %}b{% endif %}', {"name": "x"}, ()),
    ],
)
def test_a_gap_is_where_a_value_is_shown_or_compared(
    source: str, values: Mapping[str, str], lacking: tuple[str, ...]
) -> None:
    text = compiled(source)
    if not lacking:
        assert text.render(values)
        return
    with pytest.raises(MissingValue) as missing:
        text.render(values)
    assert missing.value.fields == lacking


def test_a_text_of_which_nothing_is_left_is_none() -> None:
    with pytest.raises(MissingValue) as missing:
        compiled("{% if sex %}a{% endif %}\n").render({})
    assert missing.value.fields == ()


def test_a_text_that_no_channel_takes_is_not_made_to_its_end() -> None:
    text = compiled("{{ a | upper }}" * 5_000)
    with pytest.raises(MissingValue) as missing:
        text.render({"a": "x" * 1_000})
    assert missing.value.fields == ()
    assert len(text.render({"a": "x" * 40})) == MOST


def test_every_field_is_known_of_shown_or_not() -> None:
    text = compiled('{% if a %}{{ b }}{% elif c == "x" %}{{ d | upper }}{% else %}{{ b }}{% endif %}{{ e }}')
    assert text.fields == ("a", "b", "c", "d", "e")


def test_how_a_value_is_written_changes_no_condition() -> None:
    text = compiled('{% if sex == "F" %}{{ name | upper }} *{% endif %}{{ sex }}')
    assert text.render(F, lambda value: f"<{value}>") == "<ANN> *<F>"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a\n{% for x in y %}{{ x }}{% endfor %}", "flu.md, line 2: of Jinja's blocks only {% if %} is allowed"),
        ("{% set x = 'a' %}", "only {% if %}"),
        ("{% macro f() %}{% endmacro %}", "only {% if %}"),
        ("{% include 'x' %}", "only {% if %}"),
        ("{% import 'x' as y %}", "only {% if %}"),
        ("{% extends 'x' %}", "only {% if %}"),
        ("{% block x %}{% endblock %}", "only {% if %}"),
        ("{% filter upper %}x{% endfilter %}", "only {% if %}"),
        ("{% call f() %}{% endcall %}", "only {% if %}"),
        ("{% with a = 'b' %}{% endwith %}", "only {% if %}"),
        ("{% raw %}{{ a }}{% endraw %}", "{% raw %}"),
        ("{% if a.b %}x{% endif %}", "only fields and filters of them are allowed, and this is Getattr"),
        ("{% if a['b'] %}x{% endif %}", "Getitem"),
        ("{% if a() %}x{% endif %}", "Call"),
        ("{% if a is defined %}x{% endif %}", "this is Test"),
        ("{% if a + b %}x{% endif %}", "Add"),
        ("{% if a ~ b %}x{% endif %}", "Concat"),
        ("{% if 1 %}x{% endif %}", "Const"),
        ("{% if true %}x{% endif %}", "Const"),
        ("{% if a if b else c %}x{% endif %}", "can't be read: expected token"),
        ("{% if ''.__class__ %}x{% endif %}", "Getattr"),
        ("{% if a > '5' %}x{% endif %}", "isn't more or less"),
        ("{% if 'a' < b < 'c' %}x{% endif %}", "isn't more or less"),
        ("{% if dose == 2 %}x{% endif %}", "compared with words in quotation marks"),
        ("{% if a == b %}x{% endif %}", "compared with words in quotation marks"),
        ("{% if a == '' %}x{% endif %}", "write {% if not field %}"),
        ("{% if a in 'abc' %}x{% endif %}", "in needs a list of words"),
        ("{% if a in [] %}x{% endif %}", "in needs a list of words"),
        ("{% if a in [1] %}x{% endif %}", "words in quotation marks"),
        ("{% if 'x' in a %}x{% endif %}", "this is Const"),
        ("{% if self %}x{% endif %}", "self is a word of Jinja's"),
        ("{{ a | attr('__class__') }}", "there is no filter attr; known are capitalize, default"),
        ("{{ a | upper.__class__ }}", "there is no filter upper.__class__"),
        ("{{ a | replace('a', 'b') }}", "there is no filter replace"),
        ("{{ a | upper('x') }}", "the filter upper takes nothing in brackets"),
        ("{{ a | default }}", "the filter default takes one text"),
        ("{{ a | default(b) }}", "default needs words"),
        ("{{ a | default('') }}", "default needs words"),
        ("{{ a | default('x', true) }}", "takes one text"),
        ("{{ a | default(*b) }}", "takes one text"),
        ("{{ a | upper + 'x' }}", "this is Add"),
        ("{{ a | upper if b else c }}", "this is CondExpr"),
        ("a\n\n{% if a %}x", "can't be read"),
        ("{% if a %}x{% endfor %}", "can't be read"),
        ("{% nope %}", "can't be read"),
        ("{% if %}x{% endif %}", "can't be read"),
        ("{% if a %}{{ b", "isn't closed"),
        ("{% if a %}{ b }{% endif %}", "{ b } isn't a field"),
        ("{% if a", "can't be read: unexpected end of template"),
        ("{% if a %}x" + "{% elif a %}x" * 101 + "{% endif %}", "more than 100 {% elif %}"),
        ("{% if a %}x" + "{% elif a %}x" * 7_000 + "{% endif %}", "more than 100 {% elif %}"),
        ("{% if not " + "not " * 20 + "a %}x{% endif %}", "more than 10 deep"),
        ("{% if a %}" * 11 + "x" + "{% endif %}" * 11, "more than 10 deep"),
        ("{{ a" + " | upper" * 20 + " }}", "more than 10 deep"),
        ("{% if " + "not " * 50_000 + "a %}x{% endif %}", "at most 100,000 characters"),
        ("{% if " + "not " * 20_000 + "a %}x{% endif %}", "more than 10 deep"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_refused_by_line(source: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        compile_text(source, label="flu.md")
    assert said in str(refused.value)
    assert str(refused.value).startswith("flu.md, line ")


@given(st.sampled_from(sorted(FILTERS)), st.text(min_size=1, max_size=30))
def test_no_filter_makes_a_value_much_longer(name: str, value: str) -> None:
    assert len(str(FILTERS[name](value, "") if name == "default" else FILTERS[name](value))) <= 3 * len(value)


def test_the_longest_text_is_made_at_once() -> None:
    """There is nothing in a text that loops: what it takes follows from its length."""
    text = compiled("{% if a == 'x' or b %}{{ a | upper | lower | title }}{% endif %}" * 200)
    begun = time.process_time()
    text.render({"a": "y" * 100, "b": "z"})
    assert time.process_time() - begun < 2
