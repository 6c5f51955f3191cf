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
        "most common bin", "difference", "bin of the largest number", "by chance", "difference",
    ]  # fmt: skip
    rows = [
        [
            one.model,
            ANSWERS[one.answer],
            str(one.rounds),
            str(one.people),
            f"{len(one.right):,}",
            *_compared(one.right, one.base),
            *_compared(one.largest, one.chance),
        ]
        for one in found.cells
    ]
    shown = sum(1 + bool(one.largest) for one in found.cells)
    return (
        f"{markdown(heads, rows)}\n\nShare of features whose bin was found, means over groups of "
        "people. The same groups are in both columns before a difference, which is taken group by "
        f"group, in percentage points with its 95 % interval (Student). None of the {shown} "
        "intervals is corrected for how many there are: about one in 20 misses the truth. With "
        "noise, the attacker knows the records of everybody else in the sum and what the person "
        "adds to its bins, but not which they are. Noise does not hide all: a small part comes "
        "through opened totals, as epsilon 1 allows."
    )


def gain(values: tuple[float, ...], without: tuple[float, ...]) -> str:
    """Returns the mean of paired differences with its 95 % interval, in percentage points."""
    gained = [100 * (one - other) for one, other in zip(values, without, strict=True)]
    return f"{np.mean(gained):+.2f} +-{reach(gained):.2f}"


def _compared(values: tuple[float, ...], without: tuple[float, ...]) -> list[str]:
    if not values:
        return ["", "", ""]
    return [f"{np.mean(values):.1%}", f"{np.mean(without):.1%}", gain(values, without)]


def answer(found: Inversion) -> str:
    """One sentence."""
    parts = []
    for model in dict.fromkeys(one.model for one in found.cells):
        cells = [one for one in found.cells if one.model == model]
        alone = next(one for one in cells if one.answer == "exact")
        share = max((one for one in cells if one.answer == "plain"), key=lambda one: one.rounds)
        total = next(one for one in cells if one.answer == "total")
        masked = next(one for one in cells if one.answer == "masked")
        parts.append(
            f"{model}: {np.mean(alone.right):.0%} of one person's features from a plain answer "
            f"without noise; always saying the most common bin is right for "
            f"{np.mean(total.base):.1%}, and {total.rounds} opened totals add "
            f"{gain(total.right, total.base)} percentage points to that, as many unmasked answers "
            f"under one share of the noise {gain(share.right, share.base)}, masked answers "
            f"{gain(masked.right, masked.base)}"
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
