"""What a plan's epsilon becomes for another unit of privacy, other neighbours, other adversaries.

A plan states the epsilon of a person at one institution. Its events are Gaussians, so another unit
is a matter of how far it moves the sums: mu grows by that factor, and epsilon follows exactly.
Beside it stands what group privacy says of any mechanism at all. How far sums move is then measured
at the door (`experiments/budget/unit_sums.py`).
"""

import math
from collections.abc import Callable
from typing import Final

import msgspec
from dp_accounting.pld import privacy_loss_distribution
from scipy.stats import binom

from experiments.budget import unit_sums
from experiments.budget.accountants import generic, group_delta, rate_of
from experiments.budget.priced_plans import DELTA, KINDS, SCHEMA, plan_of, priced, trained_events
from experiments.budget.unit_sums import Asked, Moved, at_institutions, of_a_record, of_a_row
from experiments.cache import SCHEMAS
from experiments.experiment import Setting, Work
from federation.learning import Local
from federation.plan import Plan
from federation.pricing import price_of
from federation.privacy.accountant import LARGEST_EPSILON, epsilon_of
from federation.privacy.events import GaussianEvents
from federation.privacy.units import BudgetUnits, Delta
from federation.query import Question, sensitivity_squared
from federation.schema import Schema, load_schema
from server.release_parts import statement_of

PROMISE: Final = (
    "The headline is the epsilon of one trained person at one institution, bins and spare attempts "
    "included, at delta 1e-6, against the coordinator and one colluding institution (in local mode "
    "against everybody else); neighbours add or remove that person. Every line says which of these "
    "it changes."
)
TARGETS: Final = (0.5, 1.0, 4.0)
INSTITUTIONS: Final = (1, 2, 3, 5)
ROWS: Final = (2, 3, 5, 10)
CROWDS: Final = (10, 100, 1_000)
MODES: Final = ("card", "network", "sampled", "local card", "local network", "institution")
TRIES: Final = 100
_INTERVAL: Final = 1e-4

Epsilons = tuple[float | None, ...]
"""At each target; None above `LARGEST_EPSILON`, where a bound protects nobody."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A unit of privacy in the standard plan.

    Attributes:
        unit: and its neighbours, in words.
        moves: how far it moves the sums at most, times a person's bound, in words.
        exact: whether the epsilon is attained, or an upper bound.
        epsilons: at each target.
        generic: what group privacy says of any mechanism with the plan's profile; None if the unit
            is not a group of persons.
        blown: delta at which it says (times x the headline); None likewise.
        times: persons at one institution that the unit comes to.
    """

    unit: str
    moves: str
    exact: bool
    epsilons: Epsilons
    generic: Epsilons | None = None
    blown: Epsilons | None = None
    times: int = 1


class Across(msgspec.Struct, frozen=True, kw_only=True):
    """A person known to several institutions, in one kind of plan made for epsilon 1.

    Attributes:
        kind: of plan; "institution" is followed by person, "institutions" by whole institution.
        moves: how mu grows with r, in words.
        exact: whether the epsilons are attained, or upper bounds.
        epsilons: at each number of institutions.
    """

    kind: str
    moves: str
    exact: bool
    epsilons: Epsilons


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """The standard plan against an adversary.

    Attributes:
        whom: in words.
        shares: of the noise that it does not know.
        epsilons: at each target, of a person at one institution.
    """

    whom: str
    shares: int
    epsilons: Epsilons


class Printed(msgspec.Struct, frozen=True, kw_only=True):
    """What the product states of a plan made for epsilon 1.

    Attributes:
        kind: of the plan, in words.
        epsilon: in the release's statement.
        unit: likewise.
        neighbours: likewise.
        against: likewise.
        alone: epsilon against the coordinator alone, likewise.
        compared: epsilon of a person, which institutions compare with their policies and charge.
    """

    kind: str
    epsilon: float
    unit: str
    neighbours: str
    against: str
    alone: float
    compared: float


class Units(msgspec.Struct, frozen=True, kw_only=True):
    """What `run units` found.

    Attributes:
        institutions: of the standard plan, all of which must answer.
        lines: units in it.
        across: modes.
        against: adversaries.
        printed: by the product.
        moved: at the door.
    """

    institutions: int
    lines: tuple[Line, ...]
    across: tuple[Across, ...]
    against: tuple[Against, ...]
    printed: tuple[Printed, ...]
    moved: tuple[Moved, ...]


def stated(squared: float, delta: float = DELTA) -> float | None:
    """Returns epsilon of a mu^2 in budget units, rounded up; None above the largest that counts."""
    epsilon = epsilon_of(BudgetUnits(math.ceil(squared)), Delta(delta))
    return epsilon if epsilon <= LARGEST_EPSILON else None


def lines_of(targets: tuple[float, ...]) -> tuple[Line, ...]:
    """Returns the units of the standard plan, a scorecard in joint mode."""
    prices = [priced("card", target)[1] for target in targets]
    parts = [tuple(one.units() for one in trained_events(price)) for price in prices]
    totals = [BudgetUnits(sum(part)) for part in parts]

    def moved(of_bins: float, of_steps: float) -> Epsilons:
        return tuple(stated(bins * of_bins + steps * of_steps) for bins, steps in parts)

    def group(unit: str, times: int) -> Line:
        blown = [
            group_delta(total, epsilon_of(total, Delta(DELTA)), times) for total in totals
        ]  # above 1 it says nothing
        return Line(
            unit=unit,
            moves=f"{times:,}",
            exact=True,
            epsilons=moved(times**2, times**2),
            generic=tuple(generic(total, times, DELTA) for total in totals),
            blown=tuple(one if one <= 1 else None for one in blown),
            times=times,
        )

    rows = [
        Line(
            unit=f"one of a person's {count} rows, added or removed",
            moves=f"{min(1.0, 2**0.5 / count):.2f} bins, {min(1.0, 2 / count):.2f} steps",
            exact=False,
            epsilons=moved(
                *(
                    unit_sums.row_bound(asked, count) / asked.sensitivity_squared
                    for asked in (Asked(Question.BINS).query, Asked(Question.STEP).query)
                )
            ),
        )
        for count in ROWS
    ]
    return (
        *rows,
        group("a person at one institution: the headline", 1),
        Line(
            unit="what a person's record says, replaced by another",
            moves="1.41 bins, 2 steps",
            exact=False,
            epsilons=moved(2, 4),
        ),
        *(group(f"a person known to {count} institutions", count) for count in INSTITUTIONS[1:]),
        *(group(f"{count:,} people of an institution", count) for count in CROWDS),
    )


def across(kind: str) -> Across:
    """Returns the epsilon of a person known to r institutions, at each r."""
    name = kind.removesuffix("s") if kind == "institutions" else kind
    plan, price = priced(name, 1.0)
    units = price.price.trained
    if kind == "institutions":
        return Across(
            kind=kind,
            moves="r",
            exact=True,
            epsilons=tuple(stated(units / 4 * count**2) for count in INSTITUTIONS),
        )
    if isinstance(plan.mode, Local):
        squared: Callable[[int], int] = lambda count: count  # noqa: E731  beside the others
        moves = "sqrt(r)"
    elif any(rate_of(one) < 1 for one in trained_events(price)):
        return Across(
            kind=kind,
            moves="a coin at each",
            exact=False,
            epsilons=tuple(sampled_across(name, count) for count in INSTITUTIONS),
        )
    else:
        squared = lambda count: count**2  # noqa: E731  as above
        moves = "r"
    return Across(
        kind=kind,
        moves=moves,
        exact=kind != "institution",
        epsilons=tuple(stated(units * squared(count)) for count in INSTITUTIONS),
    )


def sampled_across(kind: str, places: int) -> float:
    """Returns PLD's upper bound for a person whose coin is thrown at each of several institutions.

    In one sum the person then counts k times with the probability of k heads: a mixture of
    Gaussians (Ganesh 2024, arXiv:2401.10294), composed over the sums, bins r times as far.
    """
    total = None
    for one in trained_events(priced(kind, 1.0)[1]):
        rate, noise = rate_of(one), one.noise_multiplier()
        if rate == 1:
            each = privacy_loss_distribution.from_gaussian_mechanism(
                noise / places, value_discretization_interval=_INTERVAL
            )
        else:
            heads = range(places + 1)
            each = privacy_loss_distribution.from_mixture_gaussian_mechanism(
                noise,
                [float(count) for count in heads],
                [float(binom.pmf(count, places, rate)) for count in heads],
                value_discretization_interval=_INTERVAL,
            )
        every = each.self_compose(one.times)
        total = every if total is None else total.compose(every)
    if total is None:
        return 0.0
    return float(total.get_epsilon_for_delta(DELTA))


def against(targets: tuple[float, ...]) -> tuple[Against, ...]:
    """Returns the standard plan's epsilon against those who know some shares of the noise."""
    plans = [plan_of("card", target) for target in targets]
    quorum = plans[0].participation.quorum

    def one(whom: str, known: int) -> Against:
        shares = quorum - known
        return Against(
            whom=whom,
            shares=shares,
            epsilons=tuple(stated(_units(plan, shares)) for plan in plans),
        )

    return (
        one("a reader of the release", 0),
        one("another institution alone", 1),
        one("the coordinator alone", 0),
        one("the coordinator and 1 institution: the headline", 1),
        one(f"the coordinator and all {quorum - 1} others, see below", quorum - 1),
    )


def _units(plan: Plan, shares: int) -> int:
    """Returns what a scorecard's bins and steps cost with so many unknown shares of noise."""
    features = len(unit_sums.GRIDS)
    steps = plan.rounds + plan.participation.spare_attempts
    asked = (
        (Question.BINS, features, plan.noise.bins, 1),
        (Question.STEP, features + 1, plan.noise.step, steps),
    )
    return sum(
        GaussianEvents(
            sensitivity_squared=sensitivity_squared(question, columns),
            variance=share * shares,
            times=times,
        ).units()
        for question, columns, share, times in asked
    )


def row_schema() -> Schema:
    """Returns the same schema without a key: each row is taken for a person."""
    text = (SCHEMAS / "taiwan_all.toml").read_text()
    return load_schema(text.replace('person_key = "person"', 'person_key = "row"'))


def printed(kind: str, title: str, schema: Schema) -> Printed:
    """Returns what the product says of a plan."""
    plan = plan_of(kind, 1.0, schema=schema)
    price = price_of(plan, schema)
    statement = statement_of(plan, schema, price)
    return Printed(
        kind=title,
        epsilon=statement.epsilon,
        unit=statement.unit,
        neighbours=statement.neighbours,
        against=statement.against,
        alone=statement.epsilon_coordinator_alone,
        compared=price.trained,
    )


def moved(question: Question, tries: int) -> tuple[Moved, ...]:
    """Returns how far each change moves the total of one question."""
    asked = Asked(question)
    rows = () if question.is_dense else ROWS
    return (
        *(at_institutions(asked, count, tries, together=True) for count in INSTITUTIONS),
        at_institutions(asked, INSTITUTIONS[-1], tries, together=False),
        *(of_a_row(asked, count, tries) for count in rows),
        of_a_record(asked, tries),
    )


def run_units(setting: Setting) -> Units:
    """Computes every unit and measures at the door."""
    modes: tuple[str, ...] = (*MODES, "institutions")
    if setting.quick:
        modes = ("card", "local card", "institution", "institutions")
    questions = (Question.BINS, Question.STEP, Question.GRADIENT)
    tries = 5 if setting.quick else TRIES
    setting.expect(len(modes) + len(questions) + 1)
    found = setting.steps(
        Across,
        [
            Work(
                made_from={"what": "units across", "kind": kind},
                compute=across,
                arguments=(kind,),
            )
            for kind in modes
        ],
    )
    at_the_door = setting.steps(
        tuple[Moved, ...],
        [
            Work(
                made_from={"what": "units moved", "of": question, "tries": tries},
                compute=moved,
                arguments=(question, tries),
            )
            for question in questions
        ],
    )
    rest = Units(
        institutions=len(plan_of("card", 1.0).participation.invited),
        lines=lines_of(TARGETS),
        across=tuple(found),
        against=against(TARGETS),
        printed=(
            printed("card", "scorecard, joint mode", SCHEMA),
            printed("card", "the same, person_key = row", row_schema()),
            printed("local card", "scorecard, local mode", SCHEMA),
            printed("institution", KINDS["institution"].title, SCHEMA),
        ),
        moved=tuple(one for of_question in at_the_door for one in of_question),
    )
    setting.advance()
    return rest
