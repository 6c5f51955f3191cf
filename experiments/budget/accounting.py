"""What accountants say of everything that we answer, and what a ledger charges for a year of plans.

Every kind of plan is made at several epsilons and rounds; its events, as the product hands them to
its accountants, are counted in eight ways (`experiments/budget/accountants.py`). A year is several
plans about the same trained people: the ledger adds up one sum of mu^2 (the filter),
dp-accounting's PLD composes everything together, and whoever adds up headlines has the simplest
bound. Nothing is random here: every figure is exact, a bound, or between the bounds that its
accountant states.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Final

import msgspec

from experiments.budget.accountants import (
    ACCOUNTANTS,
    LEDGER,
    MICROSOFT,
    OPACUS,
    PLD,
    RDP,
    TIGHT,
    Count,
    counted,
    cpu_seconds,
    pld_alone,
    rdp_alone,
)
from experiments.budget.priced_plans import DELTA, KINDS, priced, trained_events, update_events
from experiments.experiment import Setting, Work
from federation.course import Events
from federation.privacy.accountant import epsilon_of, units_within
from federation.privacy.sampled import SampledEvents
from federation.privacy.units import BudgetUnits, Delta, Epsilon, Population

PROMISE: Final = (
    "Epsilon is that of one person at one institution, of everything that the plan may ask about "
    "the trained or the held-out people, bins and spare attempts included, at the delta that is "
    "said; against the coordinator and one colluding institution, in local mode against everybody "
    "else; neighbours add or remove all rows of that person at that institution. Lines on an "
    "institution: its updates are replaced by zero."
)

EPSILONS: Final = (0.5, 1.0, 4.0)
DELTAS: Final = (1e-5, 1e-6, 1e-8, 1e-10)
AT_ONE: Final = (*KINDS, "evaluation", "institution's own")
CHANGING: Final = ("card", "sampled", "long sampled", "short sampled")
"""Kinds that are followed over epsilons and deltas; the others are counted like the card."""

YEARLY: Final = 4.0
YEARS: Final = {
    "card": ("card",),
    "sampled": ("sampled",),
    "short sampled": ("short sampled",),
    "card and sampled in turn": ("card", "sampled"),
}
MOST_PLANS: Final = 20
REPEATS: Final = 5
TIMED: Final = ("card", "sampled", "long sampled", "short sampled")
_CLOCKS: Final = (LEDGER, PLD, RDP, MICROSOFT, OPACUS, TIGHT)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one plan, counted in every way.

    Attributes:
        kind: of the plan, or "evaluation" or "institution's own".
        target: epsilon that the plan was made for, at delta 1e-6.
        delta: at which the accountants were asked.
        sums: noisy sums that are counted.
        headline: epsilon that the plan states, the sampler's slack included, at delta 1e-6.
        counts: by accountant.
    """

    kind: str
    target: float
    delta: float
    sums: int
    headline: float
    counts: dict[str, Count]


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """Several plans about the same people, together.

    Attributes:
        plans: how many.
        headlines: their epsilons added up; their deltas add up as well.
        ledger: epsilon of the one sum of budget units, what sampling loses of delta taken off.
        pld: of all events together; None if the product's accountants refuse.
        rdp: likewise.
    """

    plans: int
    headlines: float
    ledger: float
    pld: float | None
    rdp: float | None


class Year(msgspec.Struct, frozen=True, kw_only=True):
    """Plans of epsilon 1, one after the other, until all ways of counting exceed the year's limit.

    Attributes:
        name: of the sequence.
        sums: after 1, 2, 3, ... plans.
        fits: plans that the ledger's sum allows within the yearly epsilon.
    """

    name: str
    sums: tuple[Sum, ...]
    fits: int


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds for one statement about the events of a plan of epsilon 1, several times.

    Attributes:
        kind: of the plan.
        seconds: by accountant, each repeat.
    """

    kind: str
    seconds: dict[str, tuple[float, ...]]


class Accounting(msgspec.Struct, frozen=True, kw_only=True):
    """What `run accountants` found.

    Attributes:
        versions: of the libraries that count.
        cases: every kind at epsilon 1, then some over epsilons, then over deltas.
        years: sequences of plans.
        clocks: what counting takes.
    """

    versions: dict[str, str]
    cases: tuple[Case, ...]
    years: tuple[Year, ...]
    clocks: tuple[Clock, ...]

    def at(self, kind: str, target: float = 1.0, delta: float = DELTA) -> Case | None:
        """Returns a case, None if it was not counted."""
        wanted = (kind, target, delta)
        found = [one for one in self.cases if (one.kind, one.target, one.delta) == wanted]
        return found[0] if found else None


def events_of(kind: str, target: float) -> tuple[tuple[Events, ...], float]:
    """Returns what is counted in a case and the epsilon that the plan states for it."""
    if kind == "evaluation":
        _, price = priced("card", target)
        return price.events[Population.HELD_OUT], price.held_out
    if kind == "institution's own":
        plan, price = priced("institution", target)
        return update_events(plan), 0.0 if price.institution is None else price.institution
    _, price = priced(kind, target)
    return trained_events(price), price.trained


def case_of(kind: str, target: float, delta: float, names: tuple[str, ...]) -> Case:
    """Returns one case, counted by the accountants named."""
    events, headline = events_of(kind, target)
    return Case(
        kind=kind,
        target=target,
        delta=delta,
        sums=sum(one.times for one in events),
        headline=headline,
        counts={name: counted(name, events, delta) for name in names},
    )


def year_of(name: str, most: int) -> Year:
    """Returns what plans of epsilon 1 come to, one after the other."""
    prices = [priced(kind, 1.0)[1] for kind in YEARS[name]]
    limit = units_within(Epsilon(YEARLY), Delta(DELTA))
    units, lost, headlines, fits = 0, 0.0, 0.0, 0
    events: list[Events] = []
    sums: list[Sum] = []
    while len(sums) < most:
        price = prices[len(sums) % len(prices)]
        events += trained_events(price)
        units += price.price.trained
        headlines += price.trained
        lost += sum(one.lost() for one in trained_events(price) if isinstance(one, SampledEvents))
        fits += units <= limit
        together = merged(events)
        pld, rdp = (counted(way, together, DELTA).epsilon for way in (PLD, RDP))
        sums.append(
            Sum(
                plans=len(sums) + 1,
                headlines=headlines,
                ledger=epsilon_of(BudgetUnits(units), Delta(DELTA - lost)),
                pld=pld,
                rdp=rdp,
            )
        )
        if units > limit and (pld is None or pld > YEARLY) and len(sums) >= 10:
            break
    return Year(name=name, sums=tuple(sums), fits=fits)


def merged(events: Iterable[Events]) -> tuple[Events, ...]:
    """Returns the same sums with equal ones counted together, which composes them faster."""
    times: dict[Events, int] = {}
    for event in events:
        alike = replace(event, times=0)
        times[alike] = times.get(alike, 0) + event.times
    return tuple(replace(alike, times=count) for alike, count in times.items())


def run_accounting(setting: Setting) -> Accounting:
    """Counts everything."""
    names = tuple(ACCOUNTANTS)
    years: tuple[str, ...] = tuple(YEARS)
    timed: tuple[str, ...] = TIMED
    most, repeats = MOST_PLANS, REPEATS
    if setting.quick:  # Opacus takes six seconds to import
        names = tuple(name for name in names if name != OPACUS)
        wanted = [("card", 1.0, DELTA), ("sampled", 1.0, DELTA)]
        years, most, timed, repeats = ("card",), 3, ("card",), 1
    else:
        wanted = [(kind, 1.0, DELTA) for kind in AT_ONE]
        wanted += [(kind, target, DELTA) for kind in CHANGING for target in EPSILONS]
        wanted += [(kind, 1.0, delta) for kind in CHANGING for delta in DELTAS]
        wanted = list(dict.fromkeys(wanted))
    setting.expect(len(wanted) + len(years) + len(timed))
    made_of = {
        "what": "accounting",
        "versions": _versions(),
    }
    cases = setting.steps(
        Case,
        [
            Work(
                made_from=made_of | {"case": list(case), "names": list(names)},
                compute=case_of,
                arguments=(*case, names),
            )
            for case in wanted
        ],
    )
    of_years = setting.steps(
        Year,
        [
            Work(made_from=made_of | {"year": name, "most": most}, compute=year_of,
                 arguments=(name, most))
            for name in years
        ],
    )  # fmt: skip
    clocks = []
    for kind in timed:
        clocks.append(_clock(kind, names, repeats))
        setting.advance()
    return Accounting(
        versions=_versions(), cases=tuple(cases), years=tuple(of_years), clocks=tuple(clocks)
    )


def _clock(kind: str, names: tuple[str, ...], repeats: int) -> Clock:
    """Times each accountant on events that none of them has seen: a little more noise each time."""
    events, _ = events_of(kind, 1.0)
    fresh = [
        tuple(
            replace(one, variance=one.variance + repeat * (one.variance // 10**9 + 1))
            for one in events
        )
        for repeat in range(1, repeats + 2)
    ]

    def seconds(name: str) -> tuple[float, ...]:
        _statement(name, fresh[0])  # imports
        return tuple(cpu_seconds(partial(_statement, name, one)) for one in fresh[1:])

    return Clock(kind=kind, seconds={name: seconds(name) for name in _CLOCKS if name in names})


def _statement(name: str, events: tuple[Events, ...]) -> float | None:
    """Returns an accountant's epsilon; the product's three, which it asks together, one by one."""
    if name == LEDGER:
        units = BudgetUnits(sum(one.units() for one in events))
        return epsilon_of(units, Delta(DELTA))
    if name in (PLD, RDP):
        return (pld_alone if name == PLD else rdp_alone)(events, DELTA)
    return counted(name, events, DELTA).epsilon


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("dp-accounting", "opacus", "prv-accountant", "scipy")}
