"""What `run differencing` found, for people."""

import numpy as np
from matplotlib.figure import Figure

from experiments.attacks.differencing import ORDERS, Differencing, Trials
from experiments.division import reach
from experiments.tables import markdown


def table(found: Differencing) -> str:
    """What each way of subtracting gives."""
    ways = {
        "one attempt opened twice, all six forget": found.broken,
        "the same, the product, all six honest": found.real,
        "the same, the product, one of six conspires and forgets": found.conspired,
    }
    rows = [
        [way, *_by_order(of), each_time(of.refused, of.asked), _of_attempts(of.errors)]
        for way, of in ways.items()
    ]
    none = [""] * (1 + len(ORDERS))
    rows += [
        ["two rounds, the product: both are paid for", *none, _of_attempts(found.rounds.errors)],
        ["one round over everybody / 6, the product", *none, _of_victims(found.average)],
        ["saying 0", *none, _of_victims(found.sizes)],
    ]
    heads = [
        "what is subtracted",
        "second totals opened, everybody asked first",
        "all but the victim first",
        "half of them each",
        "requests refused in each attempt",
        "error of one institution's sums, people",
    ]
    return (
        f"{markdown(heads, rows)}\n\nRoot mean squared error over the cells of one round. Behind "
        "+-: means with 95 % intervals over the noise of attempts (Student). In brackets: the "
        f"lowest and the highest of {len(found.sizes)} victims, who count alike. Counted are "
        "attempts, and in each of them the requests to honest institutions other than the victim "
        "to say a second set. Counts have no interval: the protocol draws no lots, and every "
        "attempt of an order ends alike. Whoever conspires says both sets, and releases what it "
        "has for both. One share of the noise has a standard deviation of "
        f"{found.share:.1f} people: were all totals of the plan opened under it, a trained "
        f"person's epsilon would be {found.epsilon_of_share:.2f} instead of {found.epsilon:.2f}."
    )


def _by_order(trials: Trials) -> list[str]:
    return [
        opened_of(
            [
                is_open
                for is_open, one in zip(trials.second, trials.orders, strict=True)
                if one == order
            ]
        )
        for order in ORDERS
    ]


def opened_of(opened: list[bool]) -> str:
    """Returns how many of some attempts opened."""
    return f"{sum(opened)} of {len(opened)}"


def each_time(refused: tuple[int, ...], asked: tuple[int, ...]) -> str:
    """Returns how many requests of an attempt are refused, with all that occurred."""
    seen = sorted({f"{no} of {of}" for no, of in zip(refused, asked, strict=True)})
    return " or ".join(seen)


def _of_attempts(values: tuple[float, ...]) -> str:
    return f"{np.mean(values):.1f} +-{reach(values):.1f}" if values else "nothing to subtract"


def _of_victims(values: tuple[float, ...]) -> str:
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def answer(found: Differencing) -> str:
    """One sentence."""
    real, conspired, broken = found.real, found.conspired, found.broken
    return (
        f"the product opened {sum(real.second)} second totals in {len(real.second)} attempts with "
        f"six honest institutions and {sum(conspired.second)} in {len(conspired.second)} with one "
        f"that conspires (in each attempt {each_time(real.refused, real.asked)} and "
        f"{each_time(conspired.refused, conspired.asked)} requests to honest ones refused); a "
        f"build that forgets opened {sum(broken.second)} of {len(broken.second)} and gave one "
        f"institution's sums to within {_of_attempts(broken.errors)} people a cell, which two "
        f"paid rounds give to within {_of_attempts(found.rounds.errors)}"
    )


def plot(found: Differencing) -> Figure:
    """Errors of each way."""
    figure = Figure(figsize=(6.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    ways = {
        "one attempt twice,\nbroken build": found.broken.errors,
        "two paid rounds,\nthe product": found.rounds.errors,
        "total / institutions,\nthe product": found.average,
    }
    for place, (values, marker) in enumerate(zip(ways.values(), "os^", strict=True)):
        spread = np.random.default_rng(place).uniform(-0.2, 0.2, len(values))
        axes.plot(values, place + spread, marker, color="black", fillstyle="none", markersize=4)
    axes.axvline(
        float(np.mean(found.sizes)), color="black", linewidth=0.8, linestyle="--", label="saying 0"
    )
    axes.set_yticks(range(len(ways)), list(ways))
    axes.set_xlim(left=0)
    axes.set_xlabel("error of one institution's sums, people a cell")
    axes.legend(frameon=False)
    return figure
