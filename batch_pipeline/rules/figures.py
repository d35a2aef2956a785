"""Numbers as patients type them: a phone set to Arabic, Urdu or Hindi writes its own digits, and they mean the same."""

import unicodedata


def in_figures(typed: str) -> str:
    """The text with every decimal digit, of whatever script, as one of ours."""
    return typed if typed.isascii() else "".join(str(unicodedata.decimal(letter, letter)) for letter in typed)
