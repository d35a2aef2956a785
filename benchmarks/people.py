"""Made-up patients by number: patient 17 is the same person, with the same dirt, in every file of a seed.

Shares are exact: in each block of 1,000 patients (0-999, 1,000-1,999, …) as many have a kind of dirt as its table says,
whoever they are.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

Indexes = npt.NDArray[np.int64]

BLOCK = 1_000
FIXTURE_NUMBERS = 900_000
"""How many patients can have different NHS numbers in 999 000 0000-999 999 9999: nine for each eight first digits."""
NEVER_ISSUED_NUMBERS = 90_000_000
"""The same for all of 9xx xxx xxxx, none of which is issued."""

_SUM_WEIGHTS = range(10, 2, -1)


class Kind(Protocol):
    """A row of a table of kinds."""

    @property
    def per_mille(self) -> int:
        """How many of 1,000 patients are of this kind."""
        ...


def kinds(table: Sequence[Kind], people: Indexes, *, seed: int, salt: int) -> npt.NDArray[np.int64]:
    """Index into ``table`` for each of ``people``, every block of 1,000 holding exactly the table's shares.

    Two columns of one file need a different ``salt``, or their dirt would go together.
    """
    shares = [row.per_mille for row in table]
    if sum(shares) != BLOCK:
        raise ValueError(f"the shares of a table add up to {sum(shares)}, not 1,000")
    of_slot = np.repeat(np.arange(len(shares)), shares)
    if people.size == 0:
        return people
    first, last = int(people.min()) // BLOCK, int(people.max()) // BLOCK
    slots = np.concatenate([_shuffled(block, seed, salt) for block in range(first, last + 1)])
    return of_slot[slots[people - first * BLOCK]]


@lru_cache(maxsize=512)
def _shuffled(block: int, seed: int, salt: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, salt, block]).permutation(BLOCK)


def chosen(people: Indexes, choices: int, *, seed: int, salt: int) -> Indexes:
    """A number below ``choices`` for each of ``people``, evenly spread (splitmix64 of the person's number)."""
    with np.errstate(over="ignore"):
        bits = people.astype(np.uint64) + np.uint64((seed * 1_000_003 + salt) % 2**63) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        bits ^= bits >> np.uint64(31)
    return (bits % np.uint64(choices)).astype(np.int64)


def nhs_numbers(people: Indexes, *, never_issued: bool = False) -> Indexes:
    """Valid NHS numbers, a different one for each of the first 900,000 people; further people repeat them.

    In 999 000 0000-999 999 9999, the range of the SPEC (section 3) for test and sample patients. With ``never_issued``
    in 900 000 0000-999 999 9999: for cohorts that need more different patients, made for a benchmark and not kept.
    """
    first, prefixes = (90_000_000, 10_000_000) if never_issued else (99_900_000, 100_000)
    within = people % (prefixes * 9)
    # 61,037 shares no factor with a power of ten: each eight digits come once before any comes again.
    eight = first + (within * 61_037 + 18) % prefixes
    weighed = _weighed(eight)
    # The ninth digit weighs 2; for at most one of its ten values the check digit would have to be 10.
    impossible = np.array([next((d for d in range(10) if (s + 2 * d) % 11 == 1), 10) for s in range(11)])[weighed % 11]
    ninth = within // prefixes
    ninth = ninth + (ninth >= impossible)
    check = (11 - (weighed + 2 * ninth) % 11) % 11
    numbers = eight * 100 + ninth * 10 + check
    return np.where(numbers == 9_999_999_999, 9_990_000_018, numbers)  # passes the check, and is refused all the same


def _weighed(eight: Indexes) -> Indexes:
    digits = [(eight // 10**place) % 10 for place in range(7, -1, -1)]
    return sum((weight * digit for weight, digit in zip(_SUM_WEIGHTS, digits, strict=True)), start=np.zeros_like(eight))


def phone_variants(people: Indexes, variants: int) -> Indexes:
    """Which variant of a phone cell each has: the first 1,000 people have 1,000 different numbers."""
    return (people * 617 + 41) % variants
