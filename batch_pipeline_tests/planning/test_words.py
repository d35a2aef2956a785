"""Messages with conditions, and with words of a channel's own, over a cohort: planned, checked and queued."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from batch_pipeline.rules.cells import is_empty, tidy
from batch_pipeline.rules.fragments import downgrade, sms_fragments
from batch_pipeline.rules.markdown import escaped, plain
from batch_pipeline.rules.text import TextTemplate, compile_text
from batch_pipeline_tests.planning.worlds import Planned, accounts, csv_text, facts, mobile, patient

BODY = """Dear {{ first_name | title }},
{% if sex == "F" %}
it’s time for your screening{% if clinic %} at {{ clinic }}{% endif %}.
{% else %}
please ring us: {{ helper }}.
{% endif %}
"""
SUBJECT = "{% if clinic %}Your visit to {{ clinic }}{% else %}Please ring us{% endif %}"


def lines(*cells: dict[str, str]) -> str:
    names = ("sex", "clinic", "helper")
    return csv_text([{**patient(n), **dict.fromkeys(names, ""), **each} for n, each in enumerate(cells)])


def by_sms(n: int, **cells: str) -> dict[str, str]:
    return {"Mobile number": mobile(n), **cells}


def by_email(n: int, **cells: str) -> dict[str, str]:
    return {"Email": f"ash{n}@example.org", **cells}


COHORT = lines(
    by_sms(0, sex="F", clinic="O’Brien*s"),
    by_sms(1, sex="M", helper="01632 960001", clinic="ignored"),
    by_email(2, sex="F"),
    by_email(3, sex="F", clinic="the_old_mill"),
    by_sms(4, sex="F", clinic="ŵ" * 30),
    by_sms(5, sex="F"),
)


def planned(folder: Path, text: str = COHORT, **more: Any) -> Planned:
    return Planned(folder, text, **{"body": BODY, "subject": SUBJECT, **more})


def test_each_patient_gets_the_words_that_are_for_them(tmp_path: Path) -> None:
    world = planned(tmp_path, facts=facts(accounts(5)))
    assert world.figures["problems"] == []
    digest, rows = world.queued
    assert digest == world.figures["digest"]
    assert {line: row["text"] for line, row in rows.items()} == {
        2: "Dear Ash,\nit's time for your screening at O'Brien*s.",
        3: "Dear Ash,\nplease ring us: 01632 960001.",
        4: "Dear Ash,\nit’s time for your screening.",
        5: "Dear Ash,\nit’s time for your screening at the_old_mill.",
        6: f"Dear Ash,\nit's time for your screening at {'ŵ' * 30}.",
        7: "Dear Ash,\nit’s time for your screening.",
    }
    assert {line: row["subject"] for line, row in rows.items() if row["path"] == "email"} == {
        4: "Please ring us",
        5: "Your visit to the_old_mill",
    }
    assert rows[7]["path"] == "nhs_app"
    assert rows[7]["sms_text"] == "Dear Ash,\nit's time for your screening."


@pytest.mark.parametrize(
    ("more", "told"), [({}, True), ({"body": "Dear {{ first_name | title }}"}, True),
                       ({"body": "Dear {{ first_name | title }}", "subject": "Hi"}, False)],
)  # fmt: skip
def test_who_reviews_is_told_that_the_sample_is_of_one_case(tmp_path: Path, more: dict[str, str], told: bool) -> None:
    """The made-up patient has something in every column: what others get is in no sample."""
    warnings = planned(tmp_path, **more).figures["warnings"]
    assert any(warning.startswith("the words depend on the patient") for warning in warnings) == told


def test_what_is_counted_is_what_is_queued(tmp_path: Path) -> None:
    world = planned(tmp_path, facts=facts(accounts(5)))
    for line, row in world.queued[1].items():
        sms = row["sms_text"] or (row["text"] if row["path"] == "sms" else None)
        assert world.plan[line]["fragments"] == (sms_fragments(sms).parts if sms else 0)
        assert world.plan[line]["sms_characters"] == (len(sms) if sms else None)
        assert world.plan[line]["characters"] == len(row["text"])


def test_another_value_is_another_plan_and_the_same_again_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    one, same = planned(tmp_path / "a"), planned(tmp_path / "b")
    other = planned(tmp_path / "c", COHORT.replace("the_old_mill", "the_new_mill"))
    assert one.hash == same.hash
    assert other.figures["digest"] != one.figures["digest"]


def problems(folder: Path, text: str, **more: Any) -> list[str]:
    return planned(folder, text, **more).figures["problems"]


def test_a_gap_is_told_by_line_of_those_who_would_see_it(tmp_path: Path) -> None:
    """Lines 2 and 4 don't come to the field, line 5 does; of line 6 it isn't known which words are for them."""
    text = lines(by_sms(0, sex="F"), by_sms(1, sex="M", helper="x"), by_sms(2, sex="F"), by_sms(3, sex="M"), by_sms(4))
    mend = "fill it in, ask for it with {{% if {0} %}}, or take the field out of the message"
    assert problems(tmp_path, text) == [
        f"{{{{ helper }}}} has no value for 2 patients (lines 5, 6): {mend.format('helper')}",
        f"{{{{ sex }}}} has no value for 1 patient (line 6): {mend.format('sex')}",
    ]


def test_a_gap_in_the_subject_is_one_for_emails(tmp_path: Path) -> None:
    text = lines(by_sms(0), by_email(1), by_email(2, clinic="x"))
    found = problems(tmp_path, text, body="x", subject="{{ clinic | upper }}")
    assert [sentence.split(":")[0] for sentence in found] == ["{{ clinic }} has no value for 1 patient (line 3)"]


def test_a_text_of_which_nothing_is_left_is_a_problem_with_its_lines(tmp_path: Path) -> None:
    text = lines(by_sms(0, clinic="x"), by_sms(1), by_email(2))
    assert problems(tmp_path, text, body="{% if clinic %}Come to {{ clinic }}.{% endif %}") == [
        "the message has no words, or over 200,000 characters, for 2 patients (lines 3, 4): give its conditions an {% else %}, or shorten it"
    ]


def test_a_column_that_is_not_there_is_told_of_also_where_it_is_only_asked_for(tmp_path: Path) -> None:
    (sentence,) = problems(tmp_path, COHORT, body="{% if clinc %}a{% endif %}b")
    assert sentence.startswith("the message names {{ clinc }} (did you mean {{ clinic }}?)")


OWN = {"sms": "SMS {{ clinic }}", "nhs_app": "{% if sex %}App{% endif %} for {{ first_name }}"}


def with_bodies(folder: Path, text: str, **more: Any) -> Planned:
    return Planned(folder, text, bodies=OWN, email_written=escaped, **more)


def test_each_channel_has_its_words(tmp_path: Path) -> None:
    text = lines(by_sms(0, clinic="a"), by_sms(1, sex="F", clinic="b"), by_email(2, helper="1"))
    world = with_bodies(tmp_path, text, body="Email {{ helper }}", subject="S", facts=facts(accounts(1)))
    assert world.figures["problems"] == []
    assert {line: (row["text"], row["sms_text"]) for line, row in world.queued[1].items()} == {
        2: ("SMS a", None),
        3: ("App for Ash", "SMS b"),
        4: ("Email 1", None),
    }
    assert {line: row["characters"] for line, row in world.plan.items()} == {2: 5, 3: 11, 4: 7}
    assert world.figures["samples"]["nhs_app"] == {"text": "App for Alex"}
    assert world.figures["samples"]["sms"]["text"] == "SMS 'clinic'"


def test_a_gap_counts_for_the_text_in_which_it_is(tmp_path: Path) -> None:
    """By the App with a mobile to fall back to the SMS is sent as well; without one it isn't."""
    text = lines(by_sms(0), by_sms(1), {}, by_email(3))
    world = with_bodies(tmp_path, text, body="Email {{ helper }}", subject="S", facts=facts(accounts(1, 2)))
    assert [sentence.split(":")[0] for sentence in world.figures["problems"]] == [
        "{{ clinic }} has no value for 2 patients (lines 2, 3)",
        "{{ helper }} has no value for 1 patient (line 5)",
    ]


def test_in_an_email_for_markdown_no_value_is_a_mark_and_no_condition_changes(tmp_path: Path) -> None:
    text = lines(by_email(0, clinic="*x*", helper="[a](b)"))
    for number, body in enumerate(
        ("{{ helper }} **{{ clinic }}**", '{% if clinic == "*x*" %}{{ helper }} **{{ clinic }}**{% endif %}')
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = with_bodies(folder, text, body=body, subject="S {{ clinic }}")
        (row,) = world.queued[1].values()
        assert row["text"] == r"\[a\]\(b\) **\*x\***"
        assert plain(row["text"]) == "[a](b) ***x***"
        assert row["subject"] == "S *x*"
        assert world.plan[2]["characters"] == len("[a](b) ***x***")


@pytest.mark.parametrize(
    ("path", "body", "most"),
    [("sms", 918, "the text is over 918 characters by SMS"), ("nhs_app", 5000, "over 5,000 characters by NHS App")],
)
def test_the_limits_are_those_of_each_text_as_it_is_made(tmp_path: Path, path: str, body: int, most: str) -> None:
    words = f"{{% if clinic %}}{{{{ clinic }}}}{{% endif %}}{'x' * (body - 1)}"
    app = facts(accounts(0, 1)) if path == "nhs_app" else facts()
    text = lines(
        *(
            {"sex": "F", "clinic": clinic, **({} if path == "nhs_app" else by_sms(n))}
            for n, clinic in enumerate(("a", "ab"))
        )
    )
    found = problems(tmp_path, text, body=words, facts=app)
    assert len(found) == 1
    assert most in found[0]
    assert found[0].endswith("for 1 patient (line 3): shorten it")


def test_a_self_book_sms_with_conditions_has_two_fragments_at_most(tmp_path: Path) -> None:
    text = lines(by_sms(0, clinic="x" * 6), by_sms(1, clinic="x" * 7))
    words = f"{{% if clinic %}}{'w' * 300}{{{{ clinic }}}}{{% endif %}}"
    assert problems(tmp_path, text, body=words, message_type="self_book") == [
        "a self-book SMS may not exceed 2 fragments, but does for 1 patient (line 3): shorten it"
    ]


def test_sql_asks_python_for_many_patients_alike(tmp_path: Path) -> None:
    """More than a vector of DuckDB's, on several threads."""
    cells = [
        by_sms(n, sex="F" if n % 3 else "M", helper=f"p{n}", clinic="" if n % 2 else f"c{n}") for n in range(2_500)
    ]
    for n, each in enumerate(cells):
        each["Mobile number"] = f"07700 9{n % 1000:05d}" if n % 1000 else mobile(n)
    world = planned(tmp_path, lines(*cells), organisation_name="x")
    text = compile_text(BODY, label="x")
    for line, row in world.queued[1].items():
        values = {name: cells[line - 2][name] for name in ("sex", "helper", "clinic")}
        assert row["text"] == downgrade(text.render({"first_name": "Ash", **values}))


ODD = (
    "", " ", "\u200b", "\xa0", "\ufeff", "\u202e", "-", "N/A", "null", "0", "F", "Zoë", "O'Brien", "''; --", "{{ helper }}",
    "{% if sex %}", "}}", "{#", "*", "_x_", "[a](https://e.example)", "<b>", "&amp;", "\\", "`", "ŵ", "😀", "€", "^", "…", "“q”",
    "\u2028", "\x85", "\x0b", "\x07", "\r\n", "e\u0301", "İ", "ß", "ﬁ", "１", "x" * 150, "€" * 80, "ŵ" * 66, "😀" * 34,
)  # fmt: skip
TEXTS = (
    ("Dear {{ sex }}, x {{ helper }}", "{% if sex %}Dear {{ sex }}{% else %}Dear {{ sex }}{% endif %}, x {{ helper }}"),
    ("{{ clinic }}", "{% if first_name %}{{ clinic }}{% endif %}"),
    ("“{{ sex }}”\n\n* {{ clinic }} – {{ sex }}", "“{{ sex }}”{% if first_name %}\n\n{% endif %}* {{ clinic }} – {{ sex }}"),
)  # fmt: skip
"""Each as plain fields, which SQL fills in, and with conditions, which Python does, and which come to the same."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planned, dict[int, dict[str, str | None]]]:
    """Patients by every path with cells that nobody expects; and these as they are to be read, by line."""
    chance = Random(17)
    cells = [
        {name: "".join(chance.choices(ODD, k=chance.choice((1, 1, 2, 3)))) for name in ("sex", "clinic", "helper")}
        for _ in range(240)
    ]
    ways = [by_sms(n) if n % 3 else by_email(n) for n in range(120)] + [
        by_sms(n) if n % 2 else {} for n in range(120, 240)
    ]
    text = lines(*({**way, **each} for way, each in zip(ways, cells, strict=True)))
    world = Planned(tmp_path_factory.mktemp("odd"), text, facts=facts(accounts(*range(120, 240))))
    read = {
        n + 2: {name: None if is_empty(cell) else tidy(cell) for name, cell in each.items()}
        for n, each in enumerate(cells)
    }
    return world, read


@pytest.mark.parametrize("way", ["in SQL", "in Python"])
@pytest.mark.parametrize("text", range(len(TEXTS)))
def test_sql_and_python_make_the_same_of_odd_cells(
    odd: tuple[Planned, dict[int, dict[str, str | None]]], tmp_path: Path, way: str, text: int
) -> None:
    """What is queued, and what is counted of it, is what the text for one patient is, brought down where it is an SMS."""
    base, read = odd
    body = TEXTS[text][way == "in Python"]
    world = base.again(tmp_path, body=body, subject="S {{ sex }}", email_written=escaped)
    rendered = compile_text(TEXTS[text][0], label="x")
    assert isinstance(rendered, TextTemplate)
    planned_lines, queued = world.plan, world.queued[1]
    for line, row in queued.items():
        plan, values = planned_lines[line], read[line] | {"first_name": "Ash"}
        whole = None if rendered.without_value(values) else rendered.render(values)
        sms = downgrade(whole) if whole and (row["path"] == "sms" or row["fallback_number"]) else None
        shown = plain(row["text"]) if row["path"] == "email" and row["text"] else row["text"]
        assert shown == (sms if row["path"] == "sms" else whole)
        assert row["sms_text"] == (sms if row["path"] == "nhs_app" else None)
        assert row["subject"] == (f"S {values['sex']}" if row["path"] == "email" and values["sex"] else None)
        assert plan["fragments"] == (sms_fragments(sms).parts if sms else 0)
        assert plan["complete"] == (whole is not None and (row["path"] != "email" or values["sex"] is not None))
    assert len({row["path"] for row in queued.values()}) == 3
    assert any("has no value for" in problem for problem in world.figures["problems"])
