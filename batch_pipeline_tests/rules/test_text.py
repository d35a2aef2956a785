"""Texts with fields: what is read, what is refused, and that SQL and Python fill them in alike."""

from collections.abc import Mapping
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import Refused
from batch_pipeline.rules.fragments import basic_fragments_sql, downgrade, is_basic, sms_fragments
from batch_pipeline.rules.text import (
    MissingValue,
    TextTemplate,
    compile_text,
    meant,
)

CON = duckdb.connect()


def compiled(source: str) -> TextTemplate:
    text = compile_text(source, label="flu.md")
    assert isinstance(text, TextTemplate)
    return text


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("No fields, 5 > 3, 100 % { fine }-ish }".replace(" { fine }", ""), ()),
        ("Dear {{ first_name }},", ("first_name",)),
        ("{{a}}{{b}} {{ a }}", ("a", "b")),
        ("{{\n a \n}}", ("a",)),
        ("{{ clinic_2 }} {{ naïve }}", ("clinic_2", "naïve")),
        ("", ()),
    ],
)
def test_fields_in_the_order_they_occur(source: str, fields: tuple[str, ...]) -> None:
    assert compiled(source).fields == fields


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a\n{{ name.x|upper }}", "flu.md, line 2: {{ name . x | upper }} isn't a plain field (it has an attribute)"),
        ("{{ a.b }}", "an attribute"),
        ("{{ f() }}", "a call"),
        ("{{ a[0] }}", "an index"),
        ("{{ First name }}", "did you mean {{ first_name }}?"),
        ("{{ }}", "it is empty"),
        ("{{ 'x' }}", "isn't a plain field"),
        ("{{ 1 }}", "isn't a plain field"),
        ("{{- a -}}", "isn't a plain field"),
        ("{{{ a }}}", "isn't a plain field"),
        ("{% raw %}{{ a }}{% endraw %}", "a block"),
        ("a\n\n{# note #}", "flu.md, line 3: a comment"),
        ("{{ a", "isn't closed"),
        ("{{ a }} and {{ b", "isn't closed"),
        ("{{ a ?? }}", "isn't closed or isn't readable"),
        ("x\n{ first_name }", "flu.md, line 2: { first_name } isn't a field"),
        ("{first_name}", "isn't a field"),
        ("first_name }}", "isn't a field"),
        ("bell\x07", "invisible control character"),
    ],
)
def test_what_is_no_field_is_refused_by_name(source: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        compiled(source)
    assert said in str(refused.value)
    assert str(refused.value).startswith("flu.md, line ")


def test_lines_count_from_where_the_text_begins_in_its_file() -> None:
    with pytest.raises(Refused, match="line 8"):
        compile_text("a\n{{ b.c }}", label="x", first_line=7)


def test_line_ends_become_newlines() -> None:
    assert compiled("a\r\nb\rc\n").render({}) == "a\nb\nc\n"


@pytest.mark.parametrize("value", [None, "", "  ", "\u00a0\u200b"])
def test_a_field_without_a_value_is_never_a_gap(value: str | None) -> None:
    text = compiled("Dear {{ first_name }}, {{ x }}")
    with pytest.raises(MissingValue) as missing:
        text.render({"first_name": value, "x": "y"})
    assert missing.value.fields == ("first_name",)
    assert text.without_value({"x": "y"}) == ["first_name"]
    expression = text.sql({"first_name": "f", "x": "x"})
    assert CON.execute(f"SELECT {expression} FROM (SELECT $1 AS f, 'y' AS x)", [value]).fetchall() == [(None,)]


def test_a_value_is_never_read_as_a_field() -> None:
    text = compiled("{{ a }} {{ b }}")
    values = {"a": "{{ b }}", "b": "'; DROP TABLE x; --{% if %}"}
    assert text.render(values) == "{{ b }} '; DROP TABLE x; --{% if %}"
    assert rendered_in_sql(text, text.sql({n: n for n in values}), values) == text.render(values)


def test_unknown_fields_are_told_apart() -> None:
    assert compiled("{{ a }} {{ b }}").missing({"a"}) == ["b"]
    with pytest.raises(MissingValue):
        compiled("{{ a }}").sql({})
    assert meant("First_nam", ["first_name", "surname"]) == "first_name"
    assert meant("zzz", ["surname", "first_name"]) is None


def rendered_in_sql(text: TextTemplate, expression: str, values: Mapping[str, str | None]) -> Any:
    columns = ", ".join(f'${n} AS "{name}"' for n, name in enumerate(values, start=1)) or "1"
    return CON.execute(f"SELECT {expression} FROM (SELECT {columns})", list(values.values())).fetchall()[0][0]


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}"), max_size=20)
VALUES = st.one_of(st.text(max_size=8), st.sampled_from(["Ann", "O’Brien", "{{ b }}", "ŵ", "😀" * 40, "€" * 90, " x "]))


@settings(max_examples=120, deadline=None)
@given(WORDS, WORDS, WORDS, VALUES, VALUES, st.integers(0, 300))
def test_sql_and_python_fill_in_alike(x: str, y: str, z: str, a: str, b: str, filler: int) -> None:
    text = compiled(f"{x}{{{{ a }}}}{y}{{{{ b }}}}{z}{{{{ a }}}}" + "w" * filler)
    values, columns = {"a": a, "b": b}, {"a": "a", "b": "b"}
    if text.without_value(values):
        assert rendered_in_sql(text, text.sql(columns), values) is None
        assert rendered_in_sql(text, text.sms_sql(columns), values) is None
        assert lengths_in_sql(text, dict.fromkeys(values)) == (None, None)
        return
    assert rendered_in_sql(text, text.sql(columns), values) == text.render(values)
    characters, basic = lengths_in_sql(text, values)
    assert characters == len(text.render(values))
    if not {a[:1], a[-1:], b[:1], b[-1:]} & {"\r", "\n"}:
        sms = downgrade(text.render(values))
        assert rendered_in_sql(text, text.sms_sql(columns), values) == sms
        assert basic == (len(sms) if is_basic_once_downgraded(text, values) else None)
        parts = rendered_in_sql(text, basic_fragments_sql(f"({text.basic_sms_characters_sql(columns)})"), values)
        assert parts == (None if basic is None else sms_fragments(sms).parts)


def lengths_in_sql(text: TextTemplate, values: Mapping[str, str | None]) -> tuple[int | None, int | None]:
    columns = {name: name for name in values}
    characters, basic = text.characters_sql(columns), text.basic_sms_characters_sql(columns)
    return rendered_in_sql(text, characters, values), rendered_in_sql(text, basic, values)


def is_basic_once_downgraded(text: TextTemplate, values: Mapping[str, str]) -> bool:
    """The text's own words after their downgrade, and its values as they are."""
    return is_basic(text.downgraded().render(values))


def test_an_ordinary_text_is_counted_without_being_made() -> None:
    text = compiled("Dear {{ a }}, it’s time" + "." * 140)
    for name, characters in [("Al", 158), ("Alexander", 165), ("José", 160), ("Siân", None)]:
        assert lengths_in_sql(text, {"a": name})[1] == characters, name


def test_a_text_without_fields_is_one_literal() -> None:
    text = compiled("It's time")
    assert text.sql({}) == "('It''s time')"
    assert compiled("").sql({}) == "''"
    assert lengths_in_sql(text, {}) == (9, 9)
