"""People in memory in the place of an institution's snapshot, for the product's own code."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from clients.blocks import Block
from clients.snapshot import Snapshot
from experiments.trial import People
from federation.privacy.units import Population


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """People as a snapshot gives them to the product's own code.

    Attributes:
        people: rows of one population; the other is empty.
    """

    people: People

    def rows(self, _population: Population) -> int:
        """Returns how many there are."""
        return len(self.people.bad)

    def blocks(self, _population: Population) -> Iterator[Block]:
        """Yields all of them at once."""
        if len(self.people.bad):
            bad = self.people.bad.astype(np.uint8)
            yield Block(codes=self.people.codes, bad=bad, person_starts=None)


def held(people: People) -> Snapshot:
    """Returns people in the place of a snapshot, of which only `rows` and `blocks` are asked."""
    return cast(Snapshot, Held(people=people))
