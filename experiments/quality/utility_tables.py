"""What `experiments.quality.utility` found, as tables, a sentence and a plot."""

import math
from collections.abc import Iterable
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.datasets import DATASETS
from experiments.quality.curators import perturbed_candidates, sampled_candidates
from experiments.quality.utility import CURATED, Cell, Method, OfSet, Utility
from experiments.tables import GREY, OURS, PEER, markdown, welch

_NORMAL_975: Final = 1.959964

_STYLES: Final = {
    Method.SCORECARD_JOINT: (OURS, "-", "o"),
    Method.NETWORK_JOINT: (OURS, "--", "s"),
    Method.SCORECARD_LOCAL: ("#1b1b1b", "-", "v"),
    Method.NETWORK_LOCAL: ("#1b1b1b", "--", "D"),
    Method.INSTITUTION: ("#1b1b1b", "none", "*"),
    Method.DP_EBM: (PEER, "-", "^"),
    Method.OPACUS: (PEER, "--", "P"),
    Method.DIFFPRIVLIB: (PEER, ":", "x"),
}

_PROMISES: Final = {
    "scorecard and network, joint": (
        "their own institution", "one person at one institution", "added or removed", "1e-6",
        "the coordinator with one institution",
    ),
    "scorecard and network, local": (
        "their own institution", "one person at one institution", "added or removed", "1e-6",
        "everybody but that institution",
    ),
    "additive, institution": (
        "their own institution", "the whole update of one institution", "replaced by zero", "1e-6",
        "the coordinator with one institution",
    ),
    "DP-EBM (interpret-core)": (
        "the curator", "one person", "added or removed", "1e-6", "all but the curator",
    ),
    "DP-SGD network, Opacus": (
        "the curator", "one person", "added or removed", "1e-6", "all but the curator",
    ),
    "logistic regression, diffprivlib": (
        "the curator", "one person", "replaced", "0", "all but the curator",
    ),
    "without privacy": ("the curator", "nobody", "", "", "nobody"),
}  # fmt: skip


def table(found: Utility) -> str:
    """Returns the test AUC of every method at each epsilon."""
    epsilons = sorted({cell.epsilon for one in found.sets for cell in one.cells})
    rows = []
    for one in found.sets:
        for method in Method:
            cells = {cell.epsilon: cell for cell in one.of(method)}
            if cells:
                shown = [_shown(cells.get(epsilon)) for epsilon in epsilons]
                rows.append([_title(one), method, *shown])
    heads = ["data", "method", *(f"epsilon {epsilon:g}" for epsilon in epsilons)]
    seeds = len(found.sets[0].cells[0].auc)
    return (
        f"{markdown(heads, rows)}\n\nMean test AUC with its 95 % interval over {seeds} noise seeds "
        f"(Student), on split {found.split} alone: other test people may move it more, see "
        "below. No interval is corrected for how many there are. Epsilons are promises of "
        "different kinds, as the next table says; those of institution mode are an institution's."
    )


def _shown(cell: Cell | None) -> str:
    return f"{cell.mean:.4f} +-{cell.reach:.4f}" if cell else ""


def promises(found: Utility) -> str:
    """Returns what each method's epsilon means, and whom it holds against."""
    heads = [
        "method",
        "who sees the records",
        "epsilon is that of",
        "neighbours",
        "delta",
        "against",
    ]
    rows = [[method, *of_method] for method, of_method in _PROMISES.items()]
    packages = ", ".join(f"{name} {number}" for name, number in sorted(found.versions.items()))
    return (
        f"{markdown(heads, rows)}\n\nA person is one row in these data. Ours include bins and "
        "spare attempts; nobody is held out for an evaluation, which only they would pay. In "
        "institution mode a person's own epsilon is larger than the institution's (`units`). "
        "Whoever is only handed the released model learns less than those in the last column. "
        "diffprivlib takes the number of people for public, and its epsilon is pure. Peers: "
        f"{packages}."
    )


def settings(found: Utility) -> str:
    """Returns what the curators chose."""
    heads = [
        "data",
        "diffprivlib: runs of a feature",
        "C",
        "Opacus: runs of a feature",
        "clip norm",
    ]
    rows = []
    for one in found.sets:
        perturbed, sampled = one.curated.perturbed, one.curated.sampled
        rows.append(
            [
                _title(one),
                *(f"{value:g}" for value in (perturbed.bins, perturbed.strength)),
                *(f"{value:g}" for value in (sampled.bins, sampled.clip)),
                f"{1 / sampled.batches:g}",
                str(sampled.batches * sampled.epochs),
                f"{sampled.rate:g}",
            ]
        )
    perturbations, samplings = perturbed_candidates(), sampled_candidates(1.0)
    tried = [
        ", ".join(f"{value:g}" for value in dict.fromkeys(values))
        for values in (
            (one.bins for one in perturbations),
            (one.strength for one in perturbations),
            (one.bins for one in samplings),
            (one.rate for one in samplings),
        )
    ]
    return (
        f"{markdown([*heads, 'sampling rate', 'steps', 'learning rate'], rows)}\n\nTried: runs "
        f"{tried[0]} and C {tried[1]} for diffprivlib; runs {tried[2]} and learning rates "
        f"{tried[3]} for Opacus, whose clip norm (ours), sampling rate and steps are fixed. Where "
        "the first or the last of a list was chosen, something beyond it may be better still."
    )


def without(found: Utility) -> str:
    """Returns the test AUC without privacy, with an interval over test people."""
    heads = ["data", "XGBoost, pooled", "logistic regression, pooled", "our card, pooled"]
    heads += ["our card, each alone: mean", "lowest", "highest", "trained", "tested"]
    rows = []
    for one in found.sets:
        alone = one.without.alone
        mean = sum(alone) / len(alone)
        values = (one.without.xgboost, one.without.logistic, one.without.card)
        rows.append(
            [
                _title(one),
                *(f"{value:.4f} +-{of_test_people(value, one):.4f}" for value in values),
                *(f"{value:.4f}" for value in (mean, min(alone), max(alone))),
                f"{one.trained:,}",
                f"{one.good + one.bad:,}",
            ]
        )
    return (
        f"{markdown(heads, rows)}\n\nWithout noise; 95 % intervals are "
        "over test people (Hanley and McNeil 1982). Other test people would move every AUC of a "
        "data set by as much, and together: between methods the differences are surer than that. "
        "XGBoost has settings that were fixed beforehand, not tuned, and one seed of its own "
        f"sampling. Alone: each of {len(found.sets[0].without.alone)} institutions on its own "
        "people; exact on this split."
    )


def of_test_people(auc: float, one: OfSet) -> float:
    """Returns half of the 95 % interval of an AUC over test people.

    Hanley and McNeil 1982 (Radiology 143), equation 2: scores whose shape is exponential.
    """
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = (one.bad - 1) * (first - auc**2) + (one.good - 1) * (second - auc**2)
    return _NORMAL_975 * math.sqrt((auc * (1 - auc) + spread) / (one.bad * one.good))


def trainings(found: Utility) -> str:
    """Returns what our trainings were like, with their noise."""
    rows = []
    for one in found.sets:
        for cell in one.cells:
            if (training := cell.training) is None:
                continue
            ratio = training.signal_to_noise
            rows.append(
                [
                    _title(one),
                    cell.method,
                    f"{cell.epsilon:g}",
                    f"{training.noise:.1f}",
                    "" if ratio is None else f"{ratio:.2f}",
                    str(training.institutions),
                    f"{training.rounds} x {training.steps}",
                ]
            )
    heads = ["data", "method", "epsilon", "noise in a total", "signal to noise", "institutions"]
    return (
        f"{markdown([*heads, 'rounds x steps'], rows)}\n\nThe noise is a standard deviation that "
        "follows from the plan (exact), in people for scorecards, else in clip norms. The signal "
        "is the length of all updates together at best."
    )


def answer(found: Utility) -> str:
    """Returns one sentence."""
    parts = []
    for one in found.sets:
        ours = _at_one(one.of(Method.SCORECARD_JOINT))
        best = max((_at_one(one.of(method)) for method in CURATED), key=lambda cell: cell.mean)
        low, high = difference(ours, best)
        parts.append(
            f"{_title(one)} {ours.mean - best.mean:+.4f} ({low:+.4f} to "
            f"{high:+.4f}) to {best.method}, {ours.mean - one.without.xgboost:+.4f} "
            f"(+-{ours.reach:.4f}) to XGBoost without privacy"
        )
    return (
        "test AUC of the scorecard in joint mode at epsilon 1 against that trusted curator of "
        f"three which is best on the same test people, split {found.split}, 95 % intervals over "
        f"noise seeds of ours and theirs (XGBoost: of ours, its settings untuned): "
        f"{'; '.join(parts)}"
    )


def behind(found: Utility) -> list[str]:
    """Returns a line for each data set on which a curator is better beyond the interval."""
    lines = []
    for one in found.sets:
        ours = _at_one(one.of(Method.SCORECARD_JOINT))
        best = max((_at_one(one.of(method)) for method in CURATED), key=lambda cell: cell.mean)
        low, high = difference(ours, best)
        if high < 0:
            lines.append(
                f"A trusted party that sees all records does better on {_title(one)}: the "
                f"scorecard at epsilon 1 differs by {ours.mean - best.mean:+.4f} ({low:+.4f} to "
                f"{high:+.4f}, "
                f"over {len(ours.auc)} noise seeds on one split) from {best.method}, the best of "
                "three there at that epsilon and delta 1e-6."
            )
    return lines


def _title(one: OfSet) -> str:
    return DATASETS[one.dataset].title


def _at_one(cells: Iterable[Cell]) -> Cell:
    return next(cell for cell in cells if cell.epsilon == 1)


def difference(first: Cell, second: Cell) -> tuple[float, float]:
    """Returns the 95 % interval of the difference of two means over noise seeds (Welch 1947)."""
    return welch(first.auc, second.auc)


def plot(found: Utility) -> Figure:
    """AUC against epsilon, one panel a data set; lines and markers tell methods apart."""
    figure = Figure(figsize=(4.4 * len(found.sets), 5.2), layout="constrained")
    for number, one in enumerate(found.sets, start=1):
        axes = figure.add_subplot(1, len(found.sets), number)
        _panel(axes, one)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _panel(axes: Axes, one: OfSet) -> None:
    for method, (color, line, marker) in _STYLES.items():
        cells = one.of(method)
        axes.errorbar(
            [cell.epsilon for cell in cells],
            [cell.mean for cell in cells],
            yerr=[cell.reach for cell in cells],
            color=color,
            linestyle=line,
            marker=marker,
            fillstyle="none",
            capsize=3,
            label=f"{method} (epsilon of an institution)"
            if method is Method.INSTITUTION
            else method,
        )
    alone = one.without.alone
    axes.axhspan(min(alone), max(alone), color="#dddddd", label="our card, each alone")
    for line, (label, value) in zip(
        ("-", "--", ":"),
        {
            "XGBoost, no privacy": one.without.xgboost,
            "our card pooled, no privacy": one.without.card,
            "logistic regression, no privacy": one.without.logistic,
        }.items(),
        strict=True,
    ):
        axes.axhline(value, color=GREY, linestyle=line, linewidth=1, label=label)
    shown = sorted({cell.epsilon for cell in one.cells})
    axes.set_xscale("log")
    axes.set_xticks(shown, [f"{epsilon:g}" for epsilon in shown])
    axes.minorticks_off()
    axes.set_title(DATASETS[one.dataset].title)
    axes.set_xlabel("epsilon (delta 1e-6; diffprivlib 0)")
    axes.set_ylabel("test AUC, 95 % over noise seeds")
