"""The units in which privacy is promised, counted and paid."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from federation.errors import PrivacyError

Epsilon = NewType("Epsilon", float)
"""Privacy loss bound, > 0 and finite, always stated with a Delta and a unit of privacy."""

Delta = NewType("Delta", float)
"""Probability that the bound fails, in (0, 1)."""

BudgetUnits = NewType("BudgetUnits", int)
"""mu^2 of Gaussian differential privacy (Dong, Roth and Su 2022) times 10^12, rounded up.

mu^2 adds under fully adaptive composition (Smith and Thakurta 2022), so an integer sum of it is
an exact account. One unit is 10^-12.
"""

UNITS_PER_MU_SQUARED = 10**12
LARGEST_UNITS = 2**62


class Population(StrEnum):
    """Whom a question is about. The two never overlap, so their totals do not add."""

    TRAINED = "trained"
    HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a plan costs each person, by population."""

    trained: BudgetUnits
    held_out: BudgetUnits

    def __post_init__(self) -> None:
        for name, units in (("trained", self.trained), ("held_out", self.held_out)):
            if type(units) is not int or not 0 <= units <= LARGEST_UNITS:
                raise PrivacyError(
                    f"Expected a whole number of budget units in [0, 2^62] for {name}, "
                    f"got {units!r}."
                )
        if self.trained + self.held_out == 0:
            raise PrivacyError("A price of zero for both populations is refused.")

    def of(self, population: Population) -> BudgetUnits:
        """Returns the price for one population."""
        return self.trained if population is Population.TRAINED else self.held_out
