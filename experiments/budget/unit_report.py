"""What `run units` found, as tables, a sentence and a plot."""

from typing import Final

from matplotlib.figure import Figure

from experiments.budget.priced_plans import DELTA, KINDS
from experiments.budget.units import INSTITUTIONS, TARGETS, Epsilons, Line, Units
from experiments.tables import markdown
from federation.privacy.accountant import LARGEST_EPSILON

_TITLES: Final = {
    "institution": "institution mode, a person",
    "institutions": "institution mode, whole institutions",
}
_HEADLINE: Final = (
    "Headline: the epsilon that is printed for a plan, of one trained person at one institution, "
    "against the coordinator and one institution, at the plan's delta."
)
_BEYOND: Final = f"above {LARGEST_EPSILON:g}"


def units(found: Units) -> str:
    """Every unit in the standard plan."""
    rows = []
    for line in found.lines:
        rows.append(
            [
                line.unit,
                line.moves,
                "exact" if line.exact else "at most",
                *(_epsilon(one) for one in line.epsilons),
                _group(line, line.generic),
                _blown(line),
            ]
        )
    heads = [
        "unit and neighbours", "moves the sums, times a person's bound", "",
        *(f"plan of epsilon {one:g}" for one in TARGETS),
        "any mechanism, same delta", "k x epsilon, and delta there",
    ]  # fmt: skip
    return (
        f"{markdown(heads, rows)}\n\nEpsilon at delta {DELTA:g}, the sampler's own error (below "
        f"1e-6) not added; a scorecard of {KINDS['card'].rounds} rounds and "
        f"{KINDS['card'].spare} spare attempts, {found.institutions} institutions that all must "
        "answer, against the coordinator and one of them. A person known to r institutions, with "
        "the same record at each, is added to or removed from all of them at once; people of an "
        "institution likewise. Exact: no smaller epsilon holds at this delta, if such a person "
        f"moves the sums as far as they may; at most: a bound. {_HEADLINE} k: how many times a "
        "person's bound the sums move. The last columns are what group "
        "privacy says of any mechanism with the same profile, for plans of these three epsilons: "
        f"at the same delta, or k times the headline at a delta that grows (none: above 1). "
        f"{_BEYOND.capitalize()} nobody is protected."
    )


def modes(found: Units) -> str:
    """A person known to several institutions, in each mode."""
    rows = [
        [
            _TITLES.get(one.kind) or _title(one.kind),
            one.moves,
            "exact" if one.exact else "at most",
            *(_epsilon(value) for value in one.epsilons),
        ]
        for one in found.across
    ]
    heads = ["plan", "mu grows by", "", *(f"r = {count}" for count in INSTITUTIONS)]
    return (
        f"{markdown(heads, rows)}\n\nEpsilon at delta {DELTA:g} of a person whom r institutions "
        "know, added or removed at all of them, in a plan made for epsilon 1: of a person at one "
        "institution, in institution mode of one institution. "
        "Against the coordinator and one institution that does not know the person, in local mode "
        "against everybody else. mu: of Gaussian differential privacy, in which a sum's distance "
        "is counted in standard deviations of its noise. Exact: no smaller epsilon holds at this "
        "delta; at most: a bound. In one total that is opened the "
        "vectors add up before the noise does; in local mode each institution's noise is its own, "
        "and only mu^2 adds up. Sampled rounds are bounded by PLD of a mixture of Gaussians "
        f"(Ganesh 2024). The last line: r institutions' updates replaced by zero. "
        f"{_BEYOND.capitalize()} nobody is protected."
    )


def against(found: Units) -> str:
    """The standard plan against others."""
    rows = [
        [one.whom, str(one.shares), *(_epsilon(value) for value in one.epsilons)]
        for one in found.against
    ]
    heads = [
        "against",
        "shares of noise it does not know",
        *(f"plan of epsilon {one:g}" for one in TARGETS),
    ]
    return (
        f"{markdown(heads, rows)}\n\nEpsilon at delta {DELTA:g} of a trained person at one "
        "institution that is not among them (neighbours add or remove that person), in the "
        f"standard plan. {_HEADLINE} Exact for "
        "whoever sees every opened sum; a reader sees only what follows "
        "from the sums, another institution the models, so that theirs are at most this. Against "
        "more institutions than the plan's one colluder **nothing is promised**: two totals of one "
        "attempt might be opened, or an attempt be answered that was given back. The last line is "
        "what the noise of the person's own institution alone gives to the sums that were priced. "
        "In local mode that is all of the noise: the headline holds against everybody else."
    )


def printed(found: Units) -> str:
    """What the product says."""
    rows = [
        [
            one.kind,
            f"{one.epsilon:g}",
            one.unit,
            one.neighbours,
            one.against,
            f"{one.alone:g}",
            f"{one.compared:.4g}",
        ]
        for one in found.printed
    ]
    heads = [
        "plan made for epsilon 1", "the release says", "of", "neighbours", "against",
        "coordinator alone", "institutions compare with their policies",
    ]  # fmt: skip
    return (
        f"{markdown(heads, rows)}\n\nEpsilons as the product states them, at delta {DELTA:g}; with "
        "their unit, neighbours and whom they hold against as its release says. Coordinator alone: "
        "the same against a coordinator with whom nobody conspires. The last column "
        "is a person's epsilon at "
        "one institution, which `consider` prints and the ledger charges, in every mode."
    )


def sums(found: Units) -> str:
    """What moved at the door."""
    rows = [
        [
            one.change,
            one.question.value,
            f"{one.tries:,}",
            f"{one.furthest:,}",
            f"{one.claimed:,}",
            f"{100 * one.furthest / one.claimed:.2f}%",
        ]
        for one in found.moved
    ]
    heads = ["change", "question", "tries", "furthest, squared", "at most, squared", "of it"]
    return (
        f"{markdown(heads, rows)}\n\nExact squares of whole grid units: the door's sums with and "
        "without, each institution with others beside. The first try of each line is made as bad "
        "as the question allows, the others are drawn. A residual never quite reaches one."
    )


def answer(found: Units) -> str:
    """One sentence."""
    at = TARGETS.index(1.0)
    known = {line.times: line for line in found.lines if "known to" in line.unit}
    parts = [f"{_epsilon(line.epsilons[at])} at {count}" for count, line in known.items()]
    local = next(one for one in found.across if one.kind == "local card")
    crowd = next(line for line in found.lines if line.unit.startswith("100 "))
    below = all(one.furthest <= one.claimed for one in found.moved)
    return (
        f"epsilon 1 of a person at one institution is {', '.join(parts)} institutions in one total "
        f"(mu times r), {_epsilon(local.epsilons[-1])} at {INSTITUTIONS[-1]} in local mode (mu "
        f"times sqrt r), and {_epsilon(crowd.epsilons[at])} for 100 people of an institution; "
        f"{'no' if below else 'A'} sum at the door moved further than its unit allows"
    )


def plot(found: Units) -> Figure:
    """Epsilon against the number of institutions that know a person."""
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    styles = zip(found.across, ("-", "--", "-.", ":", "-", "--", ":"), "os^vDPx", strict=False)
    for one, line, marker in styles:
        shown = [
            (count, value)
            for count, value in zip(INSTITUTIONS, one.epsilons, strict=True)
            if value is not None
        ]
        axes.plot(
            [count for count, _ in shown],
            [value for _, value in shown],
            color="black",
            linestyle=line,
            marker=marker,
            linewidth=0.9,
            markersize=4,
            label=_TITLES.get(one.kind) or _title(one.kind),
        )
    axes.set_xticks(INSTITUTIONS)
    axes.set_yscale("log")
    axes.set_xlabel("institutions that know the person, r")
    axes.set_ylabel(f"epsilon at delta {DELTA:g}")
    axes.legend(fontsize=7)
    return figure


def _title(kind: str) -> str:
    one = KINDS[kind]
    return f"{one.title}, {'' if 'local' in one.title else 'joint, '}{one.rounds} rounds"


def _epsilon(value: float | None) -> str:
    return _BEYOND if value is None else f"{value:.3f}"


def _group(line: Line, values: Epsilons | None) -> str:
    if values is None or line.times == 1:
        return ""
    return ", ".join(_epsilon(one) for one in values)


def _blown(line: Line) -> str:
    if line.blown is None or line.times == 1:
        return ""
    return ", ".join(
        "none" if delta is None else f"{line.times * target:g} at {delta:.1e}"
        for target, delta in zip(TARGETS, line.blown, strict=True)
    )
