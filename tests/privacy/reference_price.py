"""Prices once more, from the definitions: fractions for mu^2, fifty digits for (epsilon, delta)."""

from fractions import Fraction

import mpmath

from federation.grid import Role
from federation.plan import Plan
from federation.privacy.units import Population
from federation.schema import Schema

PER_ONE = 10**12


def exact_units(sensitivity_squared: int, variance: int) -> Fraction:
    """Returns (sensitivity / sigma)^2 of sigma^2 = variance - 4, in 10^-12, not rounded."""
    return Fraction(sensitivity_squared * PER_ONE, variance - 4)


def units_owed(
    plan: Plan, schema: Schema, *, colluders: int | None = None
) -> dict[Population, Fraction]:
    """Returns what the plan's integers cost, not rounded: bins, T + R steps, one evaluation.

    Against the coordinator and as many colluders; the plan's if not said.

    A person brings one number of at most 2^16 to each column: a column for each scored feature,
    one more in a step; one and one for each protected feature in the evaluation.
    """
    scored = len(schema.scored_grids)
    protected = sum(grid.role is Role.PROTECTED for grid in schema.grids)
    known = plan.participation.colluders if colluders is None else colluders
    unknown = plan.participation.quorum - known
    answers = plan.rounds + plan.participation.spare_attempts
    held_out = 1 if plan.people.held_out_fraction > 0 else 0
    noise = plan.noise
    return {
        Population.TRAINED: exact_units(scored * 2**32, noise.bins * unknown)
        + answers * exact_units((scored + 1) * 2**32, noise.step * unknown),
        Population.HELD_OUT: held_out
        * exact_units((1 + protected) * 2**32, noise.evaluation * unknown),
    }


def true_delta(units: Fraction | int, epsilon: float | mpmath.mpf) -> mpmath.mpf:
    """Returns Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu) (Balle and Wang 2018, Theorem 8)."""
    with mpmath.workdps(50):
        exact = Fraction(units)
        mu = mpmath.sqrt(mpmath.mpf(exact.numerator) / exact.denominator / PER_ONE)
        eps = mpmath.mpf(epsilon)
        return mpmath.ncdf(mu / 2 - eps / mu) - mpmath.exp(eps) * mpmath.ncdf(-mu / 2 - eps / mu)


def true_epsilon(units: Fraction | int, delta: float) -> float:
    """Returns the epsilon of `units` at `delta`, to 25 digits before it is rounded down."""
    with mpmath.workdps(50):
        low, high = mpmath.mpf(0), mpmath.mpf(1000)
        if true_delta(units, low) <= delta:
            return 0.0
        while high - low > mpmath.mpf(10) ** -25 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if true_delta(units, middle) > delta else (low, middle)
        return float(low)
