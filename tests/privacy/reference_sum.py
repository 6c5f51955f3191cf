"""The sum over people once more, from its definition: slow, whole numbers and fractions only.

Shares no line with `federation.door`. A person's vector is the mean over the person's rows of
(value cut to +-2^16 in one cell of each column), each cell truncated toward zero; a cell beyond
its column holds nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from federation.door import Contribution, one_column_each

ONE = 65536

Row = tuple[int, tuple[int, ...]]
"""The value of a row and its cell in each column."""

Person = tuple[Row, ...]


def reference_total(people: Sequence[Person], columns: Sequence[int]) -> list[int]:
    """Returns the exact sum of the vectors of people, columns side by side."""
    total = [0] * sum(columns)
    for person in people:
        for place, number in enumerate(reference_vector(person, columns)):
            total[place] += number
    return total


def reference_vector(person: Person, columns: Sequence[int]) -> list[int]:
    """Returns one person's vector."""
    sums = [Fraction(0)] * sum(columns)
    for value, cells in person:
        cut = max(-ONE, min(ONE, value))
        start = 0
        for cell, size in zip(cells, columns, strict=True):
            if cell < size:
                sums[start + cell] += Fraction(cut, len(person))
            start += size
    return [int(number) for number in sums]  # int() truncates toward zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """People as rows, before they become blocks for the door."""

    people: tuple[Person, ...]
    columns: tuple[int, ...]
    kinds: tuple[str, ...]
    """The unsigned type of each column's cells."""

    def without(self, number: int) -> "Crowd":
        """Returns the crowd less one person."""
        kept = self.people[:number] + self.people[number + 1 :]
        return Crowd(people=kept, columns=self.columns, kinds=self.kinds)

    def in_order(self, order: Sequence[int]) -> "Crowd":
        """Returns the same people in another order."""
        people = tuple(self.people[number] for number in order)
        return Crowd(people=people, columns=self.columns, kinds=self.kinds)

    def blocks(self, people_each: int, *, many: bool) -> list[Contribution]:
        """Returns blocks of `people_each` people; with `many`, the starts of people are given."""
        return [
            self._block(self.people[start : start + people_each], many)
            for start in range(0, len(self.people), people_each)
        ]

    def _block(self, people: tuple[Person, ...], many: bool) -> Contribution:
        rows = [row for person in people for row in person]
        starts = np.cumsum([0, *(len(person) for person in people)])[:-1].astype(np.int64)
        return Contribution(
            values=np.array([value for value, _ in rows], dtype=np.int64),
            cells=one_column_each(
                np.array([cells[column] for _, cells in rows], dtype=kind)
                for column, kind in enumerate(self.kinds)
            ),
            person_starts=starts if many else None,
        )
