"""A batch's words: its own or a template's, and the key by which a repeat is known."""

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.settings import BatchFile
from batch_pipeline.templates import Message, body_key, load_template, resolve_message

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
    assert Message(**message.as_dict()) == message  # pyright: ignore[reportArgumentType]
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
        (FLU.replace("Dear {{ first_name }}", ""), "body: it is empty"),
        (FLU.replace("subject: Your jab", "body: x"), "flu.md, line 5: the words come after the second ---"),
        (FLU.replace("Your jab", '"a\\nb"'), "a subject has to be a single line"),
        (FLU.replace("Your jab", '"{{ a|b }}"'), "flu.md, subject, line 1: {{ a | b }} isn't a plain field"),
    ],
)
def test_a_faulty_template_is_refused_by_file_and_line(home: Home, text: str, said: str) -> None:
    (home.templates / "flu.md").write_text(text)
    with pytest.raises(Refused) as refused:
        resolve_message(batch(template="flu"), home)
    assert said in str(refused.value)


def test_own_words_with_more_than_fields_are_refused_by_key_and_line(home: Home) -> None:
    with pytest.raises(Refused, match=r"batch b, message\.body, line 2: a block"):
        resolve_message(batch(body="a\n{% b %}"), home)
