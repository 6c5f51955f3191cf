"""What quorum, tolerated colluders and spare attempts cost, in exact arithmetic on a plan's terms.

An institution that is late does not get into the total of its attempt. An attempt whose total would
hold fewer than m answers fails and takes a spare one; then everybody who was late is invited again
(`server.gathering`). So with each institution late in each attempt with probability p on its own,
attempts fail on their own too, and a training of Q questions ends if fewer than R + 1 attempts
fail before Q have succeeded: a negative binomial. Whoever leaves for good is not waited for:
no spare attempt helps, and a training ends if at least m stay.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
from scipy import stats

from experiments.budget.losing import Choice, plan_for
from federation.pricing import price_of
from federation.privacy.units import BudgetUnits, Population
from federation.schema import Schema
from fedscore.planning import smallest_threshold

ENOUGH: Final = 0.95
"""The share of trainings that must end before a choice is called enough."""

MOST_SPARE: Final = 40
"""Plans with more spare attempts are not looked at."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a choice costs if nobody is ever late; exact.

    Attributes:
        choice: n, m, c, R.
        threshold: t.
        noise: standard deviation in a total that everybody is in, times that of a curator who is
            trusted with all records, at equal epsilon and rounds: sqrt(n / (m - c) (T + R) / T).
        same_noise: the epsilon at which this choice has the noise that m = n, c = 1, R = 0 has
            at the experiment's epsilon.
        one_more: epsilon if one institution more than c conspires.
        alone: epsilon if none does.
    """

    choice: Choice
    threshold: int
    noise: float
    same_noise: float
    one_more: float
    alone: float


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a training whose institutions are late at some rate; exact.

    Attributes:
        choice: n, m, c, R.
        rate: of an institution, at each attempt.
        ends: the probability that it ends with a model.
        ends_if_gone: the same if that share leaves for good during the training instead.
        attempts: expected for each question, if attempts never ran out.
        noise: over people in a total that opens, times that of a curator who is trusted with the
            records of everybody, late or not: expected n / sqrt(a (m - c)) sqrt((T + R) / T).
    """

    choice: Choice
    rate: float
    ends: float
    ends_if_gone: float
    attempts: float
    noise: float


def opens(choice: Choice, rate: float) -> float:
    """Returns the probability that an attempt opens: at least m of n are in time."""
    return float(stats.binom.sf(choice.quorum - 1, choice.institutions, 1 - rate))


def cost_of(schema: Schema, choice: Choice, *, rounds: int, epsilon: float) -> Cost:
    """Returns what the product's own pricing makes of a choice."""
    people = 10**6

    def planned(one: Choice, target: float) -> tuple[float, float, float]:
        """Noise in a total of everybody, its variance without shares, and mu^2 in budget units."""
        plan = plan_for(
            schema,
            one,
            rounds=rounds,
            people=people,
            epsilon=target,
            most_per_institution=people,
        )
        units = price_of(plan, schema).price.of(Population.TRAINED)
        return plan.noise.step * one.institutions, plan.noise.step * plan.honest_shares, units

    n = choice.institutions
    leanest = msgspec.structs.replace(choice, quorum=n, colluders=1, spare_attempts=0)
    of_all, _, units = planned(choice, epsilon)
    of_leanest, of_curator, _ = planned(leanest, epsilon)
    plan = plan_for(
        schema,
        choice,
        rounds=rounds,
        people=people,
        epsilon=epsilon,
        most_per_institution=people,
    )
    price = price_of(plan, schema)

    def with_shares(shares: int) -> float:
        scaled = -(-units * plan.honest_shares // shares)
        return price.epsilon_of(BudgetUnits(int(scaled)), price.delta)

    same = price.epsilon_of(BudgetUnits(int(units * of_all / of_leanest)), price.delta)
    return Cost(
        choice=choice,
        threshold=plan.participation.threshold,
        noise=(of_all / of_curator) ** 0.5,
        same_noise=same,
        one_more=with_shares(plan.honest_shares - 1),
        alone=with_shares(plan.shares),
    )


def course_of(choice: Choice, rate: float, *, rounds: int) -> Course:
    """Returns what becomes of a training in which each institution is late at a rate."""
    n, m, c, spare = (
        choice.institutions,
        choice.quorum,
        choice.colluders,
        choice.spare_attempts,
    )
    success = opens(choice, rate)
    answers = np.arange(m, n + 1)
    weights = stats.binom.pmf(answers, n, 1 - rate)
    noise = n / np.sqrt(answers * (m - c)) * ((rounds + spare) / rounds) ** 0.5
    return Course(
        choice=choice,
        rate=rate,
        ends=float(stats.nbinom.cdf(spare, 1 + rounds, success)),
        ends_if_gone=success,
        attempts=1 / success,
        noise=float(weights @ noise / weights.sum()),
    )


def cheapest(
    institutions: int, colluders: int, rate: float, *, rounds: int, gone: bool
) -> Course | None:
    """Returns the choice with the least noise among those with which enough trainings end.

    Args:
        institutions: n.
        colluders: c.
        rate: of those that are late at each attempt, or that leave for good.
        rounds: of training.
        gone: whether they leave for good.

    Returns:
        None if no quorum and no number of spare attempts up to 40 suffices.
    """
    enough = [
        one
        for choice in _choices(institutions, colluders)
        if (one := course_of(choice, rate, rounds=rounds)).ends_if_gone * gone
        + one.ends * (not gone)
        >= ENOUGH
    ]
    return min(enough, key=lambda one: one.noise, default=None)


def _choices(institutions: int, colluders: int) -> Iterable[Choice]:
    least = max(smallest_threshold(institutions, colluders), colluders + 2)
    for quorum in range(least, institutions + 1):
        for spare in range(MOST_SPARE + 1):
            yield Choice(
                institutions=institutions,
                quorum=quorum,
                colluders=colluders,
                spare_attempts=spare,
            )
