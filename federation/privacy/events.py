"""What was asked, apart from what it costs: Gaussian events in whole numbers."""

from dataclasses import dataclass

from federation.errors import PrivacyError
from federation.privacy.units import LARGEST_UNITS, UNITS_PER_MU_SQUARED, BudgetUnits

ROUNDING_VARIANCE = 4
"""Grid units squared given up so that integer noise can be priced as continuous noise.

A discrete Gaussian of variance V equals N(0, V - 4) followed by a discrete Gaussian of variance 4
centred on it, to within a factor 1 +- 10^-33 (Peikert 2010, Theorem 3.1); what the second step
adds to a N(0, V - 4) release is post-processing.
"""

LEAST_SHARE_VARIANCE = 64**2
"""Each institution's share has at least 64 grid units of noise, so that a sum of shares is a
discrete Gaussian of the summed variance to within 10^-1000 and the grid is far finer than it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianEvents:
    """`times` sums over everyone, each with a Gaussian of `variance` that the adversary lacks.

    Attributes:
        sensitivity_squared: the largest squared L2 change that adding or removing one person makes
            to a sum, in grid units squared, a whole number >= 1.
        variance: the noise in a sum that neither the coordinator nor its colluders know, in grid
            units squared.
        times: how often such a sum is answered, >= 0.
    """

    sensitivity_squared: int
    variance: int
    times: int

    def __post_init__(self) -> None:
        for name, value, least in (
            ("sensitivity_squared", self.sensitivity_squared, 1),
            ("variance", self.variance, LEAST_SHARE_VARIANCE),
            ("times", self.times, 0),
        ):
            if type(value) is not int or value < least:
                raise PrivacyError(f"Expected a whole {name} >= {least}, got {value!r}.")

    def noise_multiplier(self) -> float:
        """Returns sigma_eff / sensitivity of one event, the figure that other accountants take."""
        return float(((self.variance - ROUNDING_VARIANCE) / self.sensitivity_squared) ** 0.5)

    def units_each(self) -> BudgetUnits:
        """Returns what one event costs: (sensitivity / sigma_eff)^2 in budget units, rounded up.

        Raises:
            PrivacyError: the price is beyond what the ledger can count.
        """
        units = -(
            -self.sensitivity_squared * UNITS_PER_MU_SQUARED // (self.variance - ROUNDING_VARIANCE)
        )
        if units > LARGEST_UNITS:
            raise PrivacyError("This noise is so small that its price cannot be counted.")
        return BudgetUnits(units)

    def units(self) -> BudgetUnits:
        """Returns what all `times` events cost together, in budget units, rounded up each."""
        return BudgetUnits(self.units_each() * self.times)


def variance_for(*, sensitivity_squared: int, units_each: BudgetUnits) -> int:
    """Returns the smallest whole variance at which one event costs at most `units_each`.

    Always rounds toward more noise; never below `LEAST_SHARE_VARIANCE`.

    Raises:
        PrivacyError: `units_each` is not positive: no finite noise is that cheap.
    """
    if units_each <= 0:
        raise PrivacyError("Nothing of the budget is left for this question.")
    needed = -(-sensitivity_squared * UNITS_PER_MU_SQUARED // units_each) + ROUNDING_VARIANCE
    return max(needed, LEAST_SHARE_VARIANCE)
