"""A batch's words: its own or a template's, and the key by which a repeat is known."""

import json
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.settings import BatchFile
from batch_pipeline.templates import (
    Message,
    body_key,
    fields_of,
    load_template,
    readable_templates,
    resolve_message,
)

FLU = "---\nname: flu\nversion: 2\nmessage_type: simple\nsubject: Your jab\n---\n\nDear {{ first_name }}\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.templates.mkdir()
    (home.templates / "flu.md").write_text(FLU)
    return home


def batch(**message: Any) -> BatchFile:
    return BatchFile.model_validate(
        {"batch": "b", "workspace": "x", "cohort": "a.csv", "message": {"type": "simple", **message}}
    )


def test_own_words_are_known_by_their_hash(home: Home) -> None:
    message = resolve_message(batch(body="Dear {{ first_name }}\r\nHello\r\n", subject="Hi"), home)
    assert message == Message(
        "Dear {{ first_name }}\nHello", "Hi", body_key("Dear {{ first_name }}\nHello"), None, None
    )
    assert message.key.startswith("body:")
    assert len(message.key) == len("body:") + 64


@pytest.mark.parametrize("same", ["Hello\nyou", "Hello\r\nyou", "Hello\nyou\n\n", "  Hello\ryou"])
def test_line_ends_and_spaces_around_make_no_other_message(same: str) -> None:
    assert body_key(same) == body_key("Hello\nyou")
    assert body_key("Hello  you") != body_key("Hello you")


def test_a_template_is_known_by_name_and_version(home: Home) -> None:
    message = resolve_message(batch(template="flu"), home)
    assert message == Message("Dear {{ first_name }}", "Your jab", "template:flu@2", "flu", "2")
    assert resolve_message(batch(template="flu", subject="Mine"), home).subject == "Mine"


def test_a_message_survives_being_kept_and_its_repr_holds_no_words(home: Home) -> None:
    message = resolve_message(batch(template="flu"), home)
    assert Message.of_dict(json.loads(json.dumps(message.as_dict()))) == message
    assert "Dear" not in repr(message)


def test_an_unknown_template_is_refused_with_those_there_are(home: Home) -> None:
    with pytest.raises(Refused, match=r'there is no template "flue".*there are flu'):
        load_template(home, "flue")


def test_a_template_of_another_type_is_refused(home: Home) -> None:
    (home.templates / "flu.md").write_text(FLU.replace("simple", "self_book"))
    with pytest.raises(
        Refused, match=r"flu\.md, line 4: template flu is of type self_book, but batch b is of type simple"
    ):
        resolve_message(batch(template="flu"), home)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello", "flu.md, line 1: a template begins with a line ---"),
        ("---\nname: flu\n", "flu.md: the line --- that ends the keys is missing"),
        (FLU.replace("version: 2\n", ""), "flu.md: version is missing: raise it whenever the words change"),
        (FLU.replace("version", "versoin"), "flu.md, line 3: versoin isn't a known key, did you mean version?"),
        (FLU.replace("simple", "letter"), 'flu.md, line 4: message_type: "letter" isn\'t allowed; use simple'),
        (FLU.replace("first_name", "first name"), "flu.md, line 8: {{ first name }} isn't a plain field"),
        (
            FLU.replace("Dear {{ first_name }}", ""),
            "flu.md: there are no words after the second ---, and bodies has none for email and nhs_app and sms",
        ),
        (FLU.replace("subject: Your jab", "body: x"), "flu.md, line 5: the words come after the second ---"),
        (FLU.replace("Your jab", '"a\\nb"'), "a subject has to be a single line"),
        (FLU.replace("Your jab", '"{{ a.b }}"'), "flu.md, subject, line 1: {{ a . b }} isn't a plain field"),
        (FLU.replace("Dear", "{% for a in b %}x{% endfor %}"), "flu.md, line 8: of Jinja's blocks only {% if %}"),
        (FLU.replace("subject:", "bodies: {sms: 'a {{ b'}\nsubject:"), "flu.md, line 5: a field isn't closed"),
        (
            FLU.replace("subject:", "bodies:\n  sms: |\n    a\n    {{ b\nsubject:"),
            "flu.md, line 8: a field isn't closed",
        ),
        (FLU.replace("subject:", "bodies: {letter: x}\nsubject:"), "flu.md, line 5: bodies.letter isn't a known key"),
        (
            FLU.replace("subject:", "snomed: ['75367003']\nsubject:"),
            'flu.md, line 5: snomed.1: "75367003": its check digit',
        ),
    ],
)
def test_a_faulty_template_is_refused_by_file_and_line(home: Home, text: str, said: str) -> None:
    (home.templates / "flu.md").write_text(text)
    with pytest.raises(Refused) as refused:
        resolve_message(batch(template="flu"), home)
    assert said in str(refused.value)


def test_own_words_that_cannot_be_read_are_refused_by_key_and_line(home: Home) -> None:
    with pytest.raises(Refused, match=r"batch b, message\.body, line 2: this condition or field can't be read"):
        resolve_message(batch(body="a\n{% b %}"), home)


def test_a_channel_may_have_words_of_its_own(home: Home) -> None:
    (home.templates / "flu.md").write_text(FLU.replace("subject:", "bodies:\n  sms: |\n    Hi {{ surname }}\nsubject:"))
    message = resolve_message(batch(template="flu"), home)
    assert (message.body, message.bodies) == ("Dear {{ first_name }}", {"sms": "Hi {{ surname }}"})
    assert fields_of(message) == ["first_name", "surname"]


def test_words_for_all_are_not_needed_where_every_channel_has_its_own(home: Home) -> None:
    bodies = "bodies: {email: E, nhs_app: A, sms: S}\nsubject:"
    (home.templates / "flu.md").write_text(FLU.replace("subject:", bodies).replace("Dear {{ first_name }}", ""))
    message = resolve_message(batch(template="flu"), home)
    assert (message.body, message.bodies) == ("E", {"nhs_app": "A", "sms": "S"})


def test_codes_go_with_the_words_and_into_what_is_kept(home: Home) -> None:
    (home.templates / "flu.md").write_text(FLU.replace("subject:", "snomed: ['1324681000000101']\nsubject:"))
    message = resolve_message(batch(template="flu"), home)
    assert message.snomed == ("1324681000000101",)
    assert Message.of_dict(json.loads(json.dumps(message.as_dict()))) == message


def test_a_wrong_code_in_a_batch_file_is_refused(home: Home) -> None:
    with pytest.raises(Refused, match=r'batch b, message\.snomed: "75367003": its check digit is wrong'):
        resolve_message(batch(body="x", snomed=["75367003"]), home)


def test_what_is_kept_of_a_message_without_new_things_is_what_it_was(home: Home) -> None:
    """Another text would be another content: a batch submitted by an earlier version would not be known again."""
    assert resolve_message(batch(template="flu"), home).as_dict() == {
        "body": "Dear {{ first_name }}",
        "subject": "Your jab",
        "key": "template:flu@2",
        "template": "flu",
        "version": "2",
    }


def test_templates_are_listed_and_a_faulty_one_is_told_of(home: Home) -> None:
    (home.templates / "a.md").write_text(FLU.replace("name: flu", "name: recall"))
    (home.templates / "b.md").write_text("Hello")
    found, faults = readable_templates(home)
    assert [(each.name, each.version) for each in found] == [("flu", "2"), ("recall", "2")]
    assert faults == ["b.md, line 1: a template begins with a line --- and ends its keys with another"]
