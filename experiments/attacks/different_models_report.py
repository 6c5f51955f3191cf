"""What `run different_models` found, for people."""

from typing import Final

import numpy as np
from matplotlib.figure import Figure

from experiments.attacks.differencing_report import each_time, opened_of
from experiments.attacks.different_models import DifferentModels
from experiments.division import reach
from experiments.tables import markdown

_BUILDS: Final = {
    "unbound": "model not bound, all six honest",
    "bound": "the product, all six honest",
    "conspired": "the product, one of six conspires",
}


def table(found: DifferentModels) -> str:
    """What the attack opens and learns, on each build."""
    heads = [
        "model", "build", "totals opened with the victim", "requests refused each round",
        "likeness to the victim's sums", "of honest totals", "error", "of honest totals / 6",
        "saying 0",
    ]  # fmt: skip
    rows = [
        [
            one.model,
            _BUILDS[one.build],
            opened_of(list(one.opened)),
            each_time(one.refused, one.asked),
            _mean(one.likeness, 2),
            _mean(one.usual, 2),
            _mean(one.errors, 1) if one.errors else "nothing opened",
            _mean(one.usual_errors, 1),
            _mean(one.sizes, 1),
        ]
        for one in found.cells
    ]
    return (
        f"{markdown(heads, rows)}\n\nLikeness is the cosine between what the attacker holds (the "
        "mean of the totals of all rounds, or of the sums of masked words if none opens) and the "
        "victim's sums without noise; errors are root mean squares over the numbers judged, in "
        "people for a scorecard and in clip norms for a network. Honest totals are exact sums of "
        "all six with simulated noise of a total's variance. Means with 95 % intervals over "
        "federations (Student), each of which has another victim. Counted are rounds, and in each "
        "the requests to honest institutions to release something for a total with the victim; "
        "counts have no interval: the protocol draws no lots, and every round ends alike. Who "
        "conspires answers about both models, in the victim's attempt and in that of the others."
    )


def _mean(values: tuple[float, ...], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} +-{reach(values):.{digits}f}"


def answer(found: DifferentModels) -> str:
    """One sentence."""
    broken = [one for one in found.cells if one.build == "unbound"]
    liked = " and ".join(f"{_mean(one.likeness, 2)} ({one.model})" for one in broken)

    def total(build: str) -> str:
        opened = [one for cell in found.cells if cell.build == build for one in cell.opened]
        return f"{sum(opened)} totals with the victim in {len(opened)} rounds"

    return (
        f"the product opened {total('bound')} with six honest institutions and "
        f"{total('conspired')} with one that conspires; a build that does not bind the model "
        f"opened {total('unbound')}, whose likeness to the victim's sums is {liked}"
    )


def plot(found: DifferentModels) -> Figure:
    """How much what the attacker holds is like the victim's sums."""
    figure = Figure(figsize=(6.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    for place, one in enumerate(found.cells):
        for values, marker, label in (
            (one.likeness, "o", "the attack"),
            (one.usual, "x", "an honest total"),
        ):
            spread = np.random.default_rng(place).uniform(-0.25, 0.25, len(values))
            axes.plot(
                values,
                place + spread,
                marker,
                color="black",
                fillstyle="none",
                markersize=3,
                label=label if place == 0 else None,
            )
    axes.set_yticks(
        range(len(found.cells)), [f"{one.model}, {_BUILDS[one.build]}" for one in found.cells]
    )
    axes.set_xlabel("cosine to the victim's sums")
    axes.legend(frameon=False)
    return figure
