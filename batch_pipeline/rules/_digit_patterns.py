r"""libphonenumber's patterns, taken apart so that SQL can be built from them and proven not to overlap.

Its metadata describes numbers by regular expressions of a small kind: digits, classes, ``\d``, groups, ``|``,
``?`` and ``{n}``. Such an expression is a finite list of *sequences*, one set of allowed digits per place. On sequences
"do these overlap?" and "is this one inside that one?" are simple questions, which they aren't on expressions.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final

Places = tuple[frozenset[str], ...]

_TOKEN: Final = re.compile(r"\[[0-9-]+\]|\\d|\d|\(\?:|\(|\)|\||\?|\{\d+(?:,\d+)?\}")
_ANY_DIGIT: Final = frozenset("0123456789")


def sequences(pattern: str) -> list[Places]:
    """The sequences of a metadata pattern. Raises ValueError when it holds anything but the small kind above."""
    tokens = _TOKEN.findall(pattern)
    if "".join(tokens) != pattern:
        raise ValueError("a phone number pattern of an unknown kind")
    found, rest = _alternatives(tokens, 0)
    if rest != len(tokens):
        raise ValueError("a phone number pattern with unbalanced brackets")
    return found


def _alternatives(tokens: Sequence[str], at: int) -> tuple[list[Places], int]:
    """Parse up to a closing bracket or the end; returns the sequences and where it stopped."""
    done: list[Places] = []
    current: list[Places] = [()]
    while at < len(tokens) and tokens[at] != ")":
        if tokens[at] == "|":
            done, current, at = done + current, [()], at + 1
            continue
        piece, at = _piece(tokens, at)
        current = [left + right for left, right in product(current, piece)]
    return done + current, at


def _piece(tokens: Sequence[str], at: int) -> tuple[list[Places], int]:
    """Parse a digit, a class or a group with the count behind it."""
    if tokens[at].startswith("("):
        piece, at = _alternatives(tokens, at + 1)
    else:
        piece = [(_digits(tokens[at]),)]
    at += 1
    low, high, counted = _count(tokens[at] if at < len(tokens) else "")
    repeated = [sum(choice, ()) for times in range(low, high + 1) for choice in product(piece, repeat=times)]
    return repeated, at + counted


def _count(piece: str) -> tuple[int, int, bool]:
    """The repeats that a piece of a pattern asks for: lowest, highest, and whether it was a count at all."""
    if piece == "?":
        return 0, 1, True
    if piece.startswith("{"):
        low, _, high = piece[1:-1].partition(",")
        return int(low), int(high or low), True
    return 1, 1, False


def _digits(piece: str) -> frozenset[str]:
    if piece == r"\d":
        return _ANY_DIGIT
    return frozenset(digit for digit in _ANY_DIGIT if re.fullmatch(piece, digit))


def overlap(one: Places, other: Places) -> bool:
    """Whether some number fits both."""
    return len(one) == len(other) and all(a & b for a, b in zip(one, other, strict=True))


def begins_like(number: Places, prefix: Places) -> bool:
    """Whether some number of ``number`` begins with some prefix of ``prefix``."""
    return len(prefix) <= len(number) and all(a & b for a, b in zip(number, prefix, strict=False))


def always_begins(number: Places, prefix: Places) -> bool:
    """Whether every number of ``number`` begins with some prefix of ``prefix``."""
    return len(prefix) <= len(number) and all(a <= b for a, b in zip(number, prefix, strict=False))


def expression(numbers: Iterable[Places], between: str = "") -> str:
    """The sequences as one group for re or RE2, ASCII digits only, with the pattern ``between`` between their digits."""
    return "(?:" + "|".join(sorted({between.join(map(_class, number)) for number in numbers})) + ")"


def _class(digits: frozenset[str]) -> str:
    if digits == _ANY_DIGIT:
        return "[0-9]"
    return min(digits) if len(digits) == 1 else "[" + "".join(sorted(digits)) + "]"
