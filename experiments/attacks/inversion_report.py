"""What `run inversion` found, for people."""

from typing import Final

import numpy as np
from matplotlib.figure import Figure

from experiments.attacks.inversion import Inversion
from experiments.division import reach
from experiments.tables import markdown

ANSWERS: Final = {
    "exact": "plain, no noise",
    "little": "plain, a hundredth of a share of noise",
    "plain": "plain, one share of noise",
    "masked": "masked, as sent",
    "total": "total of all, as opened",
}


def table(found: Inversion) -> str:
    """How much of people each kind of answer gives away."""
    heads = [
        "model", "answer", "rounds", "people in it", "tried", "features right",
        "most common bin", "bin of the largest number", "by chance",
    ]  # fmt: skip
    rows = [
        [
            one.model,
            ANSWERS[one.answer],
            str(one.rounds),
            str(one.people),
            f"{len(one.right):,}",
            _share(one.right),
            _share(one.base),
            _share(one.largest) if one.largest else "",
            f"{np.mean(one.chance):.1%}" if one.chance else "",
        ]
        for one in found.cells
    ]
    return (
        f"{markdown(heads, rows)}\n\nShare of features whose bin was found, means over groups of "
        "people with 95 % intervals (Student). With noise, the attacker knows the records of "
        "everybody else in the sum and what the person adds to its bins, but not which they are."
    )


def _share(values: tuple[float, ...]) -> str:
    return f"{np.mean(values):.1%} +-{reach(values):.1%}"


def answer(found: Inversion) -> str:
    """One sentence."""
    parts = []
    for model in dict.fromkeys(one.model for one in found.cells):
        cells = [one for one in found.cells if one.model == model]
        alone = next(one for one in cells if one.answer == "exact")
        total = next(one for one in cells if one.answer == "total")
        masked = next(one for one in cells if one.answer == "masked")
        parts.append(
            f"{model}: {np.mean(alone.right):.0%} of one person's features from a plain answer "
            f"without noise; from {total.rounds} opened totals {_share(total.right)}, from masked "
            f"answers {_share(masked.right)}, saying the most common bin {_share(total.base)}"
        )
    return "; ".join(parts)


def plot(found: Inversion) -> Figure:
    """Shares of features found, beside the base rate."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for place, one in enumerate(found.cells):
        reached = reach(one.right)
        axes.errorbar(np.mean(one.right), place, xerr=reached, fmt="o", color="black", markersize=4)
        axes.plot(np.mean(one.base), place, "|", color="black", markersize=12)
    axes.set_yticks(
        range(len(found.cells)),
        [
            f"{one.model}, {ANSWERS[one.answer]}, {one.people} people, rounds: {one.rounds}"
            for one in found.cells
        ],
        fontsize=7,
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.03)
    axes.set_xlabel("share of features right, 95 %\n(stroke: always the most common bin)")
    return figure
