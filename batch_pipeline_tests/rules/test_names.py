"""Given and family names found in full names, and never guessed."""

import pytest

from batch_pipeline.rules import names
from batch_pipeline_tests.rules.duck import evaluate


@pytest.mark.parametrize(
    ("full", "first", "surname"),
    [
        # EMIS
        ("SMITH, John (Mr)", "John", "SMITH"),
        ("SMITH, John", "John", "SMITH"),
        ("SMITH,John", "John", "SMITH"),
        ("SMITH, John Paul (Mr)", "John", "SMITH"),
        ("O'BRIEN-JONES, Mary-Jane (Miss)", "Mary-Jane", "O'BRIEN-JONES"),
        ("VAN DER BERG, Anna", "Anna", "VAN DER BERG"),
        ("SMITH, Mrs Jane", "Jane", "SMITH"),
        ("Mrs SMITH, Jane", "Jane", "SMITH"),
        ("SMITH (Mrs), Jane", "Jane", "SMITH"),
        ("SMITH, Jane, Mrs", "Jane", "SMITH"),
        # SystmOne, and people
        ("Mr John Smith", "John", "Smith"),
        ("MR JOHN SMITH", "JOHN", "SMITH"),
        ("Dr. John Smith", "John", "Smith"),
        ("Rev. Dr John Smith", "John", "Smith"),
        ("Prof Sir John Smith", "John", "Smith"),
        ("John Smith", "John", "Smith"),
        ("  John   Smith ", "John", "Smith"),
        ("John Paul Smith", "John", "Smith"),
        ("John (Jack) Smith", "John", "Smith"),
        ("Mx Siân Ŵyn", "Siân", "Ŵyn"),
        ("李 小龙", "李", "小龙"),
        # names that begin like a title
        ("Drew Mastersson", "Drew", "Mastersson"),
        ("Missy Lordan", "Missy", "Lordan"),
        # one name alone is a family name; a first name isn't made up
        ("Smith", None, "Smith"),
        ("Mr Smith", None, "Smith"),
        ("SMITH,", None, "SMITH"),
        ("SMITH, (Mr)", None, "SMITH"),
        ("SMITH, Mr", None, "SMITH"),
        ("Mr", None, None),
        (", John", "John", None),
        (",", None, None),
        ("(Mr)", None, None),
        (None, None, None),
        # nothing in a name is run or mended
        ("{{ surname }}, {{first_name}}", "{{first_name}}", "{{ surname }}"),
        ("=1+1, @John", "@John", "=1+1"),
        ("O'Hara, D'Arcy''; DROP TABLE", "D'Arcy'';", "O'Hara"),
    ],
)
def test_a_full_name_gives_its_parts(full: str | None, first: str | None, surname: str | None) -> None:
    assert evaluate(names.first_name_sql, [full]) == [first]
    assert evaluate(names.surname_sql, [full]) == [surname]


def test_every_title_is_taken_off_with_and_without_its_dot() -> None:
    titled = [
        f"{form}{dot} Ash Green" for title in names.TITLES for form in (title, title.title()) for dot in ("", ".")
    ]
    assert set(evaluate(names.first_name_sql, titled)) == {"Ash"}
    assert set(evaluate(names.surname_sql, titled)) == {"Green"}
