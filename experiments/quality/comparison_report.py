"""Tables, sentences and plots of `comparison`, `confirmation` and `rounds`."""

from collections.abc import Callable
from typing import Final

from matplotlib.figure import Figure

from experiments.datasets import DATASETS, GMSC, TAIWAN, Dataset
from experiments.division import Score
from experiments.quality.comparison import Comparison
from experiments.quality.confirmation import Confirmation, differences
from experiments.quality.rounds import OfSet, Rounds
from experiments.tables import GREY, OURS, PEER, markdown, welch

MADDOCK: Final = {0.1: 0.843, 0.5: 0.845, 1.0: 0.847}
"""Maddock et al. 2022 (arXiv:2210.02910), best of their table on Give Me Some Credit: cited."""


def comparison(found: Comparison, dataset: Dataset) -> str:
    """Returns a data set's test AUCs at each epsilon, and those without privacy."""
    one = found.of(dataset)
    cited = dataset == GMSC
    heads = ["epsilon", "fedscore, ten institutions", "DP-EBM, trusted curator"]
    rows = []
    for row in one.ours.rows:
        cells = [
            f"{row.epsilon:g}",
            f"{row.fedscore.mean:.4f} +-{row.fedscore.reach:.4f}",
            f"{row.dp_ebm.mean:.4f} +-{row.dp_ebm.reach:.4f}",
        ]
        if cited:
            known = MADDOCK.get(row.epsilon)
            cells.append("" if known is None else f"{known:.3f}")
        rows.append(cells)
    heads += ["Maddock et al. 2022 (cited)"] if cited else []
    table = markdown(heads, rows)
    alone = one.peers.alone
    return (
        f"{table}\n\nMean test AUC, +- half of its 95 % interval over noise seeds "
        f"(Student). Without any privacy: each of the ten alone {sum(alone) / len(alone):.4f} on "
        f"average ({min(alone):.4f} to {max(alone):.4f}); on pooled raw data our card "
        f"{one.peers.card:.4f}, logistic regression {one.peers.logistic:.4f}, XGBoost "
        f"{one.peers.xgboost:.4f} (settings fixed beforehand, one seed of its own sampling): no "
        "noise of ours, so exact on this split."
        + (" Cited: their split, delta and neighbours, without an interval." if cited else "")
    )


def confirmation(found: Confirmation) -> str:
    """Returns the paired differences on the splits that nobody had looked at."""
    rows = [
        [
            DATASETS[one.dataset].title,
            f"{one.epsilon:g}",
            f"{one.fedscore:.4f}",
            f"{one.dp_ebm:.4f}",
            f"{one.mean:+.4f}",
            f"{one.mean - one.reach:+.4f} to {one.mean + one.reach:+.4f}",
            ", ".join(f"{value:+.4f}" for value in one.splits),
        ]
        for one in differences(found)
    ]
    heads = ["data", "epsilon", "fedscore", "DP-EBM", "difference", "95 % interval", "each split"]
    return (
        f"{markdown(heads, rows)}\n\nEach interval is 95 % by itself, not corrected for their "
        f"number. Settings frozen in commit `{found.commit[:12]}`."
    )


def rounds(found: Rounds) -> str:
    """Returns test AUC by number of rounds."""
    heads = [f"{count} rounds" for count in found.counts]
    return _by(found, heads, found.by_count)


def bins_share(found: Rounds) -> str:
    """Returns test AUC by the share of the budget that bins get."""
    heads = [f"{share:.0%} for bins" for share in found.shares]
    return _by(found, heads, found.by_share)


def _by(found: Rounds, heads: list[str], of: Callable[[OfSet, float], list[Score]]) -> str:
    rows = [
        [
            DATASETS[one.dataset].title,
            f"{epsilon:g}",
            *(f"{score.mean:.4f} +-{score.reach:.4f}" for score in of(one, epsilon)),
        ]
        for one in found.sets
        for epsilon in one.epsilons
    ]
    return (
        f"{markdown(['data', 'epsilon', *heads], rows)}\n\nMean test AUC, +- half of its 95 % "
        "interval over noise seeds (Student); epsilon as in `comparison`."
    )


def answer_of_comparison(found: Comparison) -> str:
    """Returns one sentence."""
    return (
        "; ".join(
            f"{dataset.title}: "
            + ", ".join(
                _difference(row.fedscore, row.dp_ebm) for row in found.of(dataset).ours.rows
            )
            for dataset in (GMSC, TAIWAN)
            if any(one.ours.dataset == dataset.name for one in found.sets)
        )
        + " AUC against DP-EBM at epsilon 0.1, 0.5, 1, 4 (split 0; 95 % intervals over noise seeds)"
    )


def _difference(first: Score, second: Score) -> str:
    low, high = welch(first.auc, second.auc)
    return f"{first.mean - second.mean:+.4f} ({low:+.4f} to {high:+.4f})"


def answer_of_confirmation(found: Confirmation) -> str:
    """Returns one sentence."""
    all_of_them = differences(found)
    ahead = sum(one.mean >= 0 for one in all_of_them)
    clear = sum(one.mean - one.reach > 0 for one in all_of_them)
    worst = min(all_of_them, key=lambda one: one.mean)
    return (
        f"the mean is ahead in {ahead} of {len(all_of_them)} cases, beyond its own 95 % interval "
        f"over splits in {clear}; the lowest is {worst.mean:+.4f} +-{worst.reach:.4f} "
        f"({DATASETS[worst.dataset].title}, epsilon {worst.epsilon:g})"
    )


def answer_of_rounds(found: Rounds) -> str:
    """Returns one sentence."""
    usual = found.counts.index(found.usual_count)
    parts = []
    for place, count in enumerate(found.counts):
        if count == found.usual_count:
            continue
        pairs = [
            (scores[place], scores[usual])
            for one in found.sets
            for scores in (found.by_count(one, epsilon) for epsilon in one.epsilons)
        ]
        pairs.sort(key=lambda pair: pair[0].mean - pair[1].mean)
        parts.append(f"{count} rounds {_difference(*pairs[0])} and {_difference(*pairs[-1])}")
    return (
        f"test AUC against {found.usual_count} rounds, the lowest and the highest of all epsilons "
        f"and both sets, each with its own 95 % interval over noise seeds: {', '.join(parts)}"
    )


def plot_of_comparison(found: Comparison) -> Figure:
    """Test AUC against epsilon, one panel a data set."""
    figure = Figure(figsize=(5.2 * len(found.sets), 4.2), layout="constrained")
    for place, one in enumerate(found.sets, start=1):
        axes = figure.add_subplot(1, len(found.sets), place)
        epsilons = [row.epsilon for row in one.ours.rows]
        for name, color, look in (("fedscore", OURS, "-o"), ("dp_ebm", PEER, "--s")):
            scores = [getattr(row, name) for row in one.ours.rows]
            label = "fedscore, ten institutions" if name == "fedscore" else "DP-EBM, one curator"
            axes.errorbar(
                epsilons,
                [score.mean for score in scores],
                yerr=[score.reach for score in scores],
                fmt=look,
                color=color,
                capsize=3,
                label=label,
            )
        peers = {"XGBoost, no privacy": one.peers.xgboost, "our card, no privacy": one.peers.card}
        alone = one.peers.alone
        peers["each alone, mean"] = sum(alone) / len(alone)
        for style, (label, value) in zip(("-", "--", ":"), peers.items(), strict=True):
            axes.axhline(value, color=GREY, linestyle=style, linewidth=1, label=label)
        axes.set_xscale("log")
        axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
        axes.minorticks_off()
        axes.set_xlabel("epsilon (delta 1e-6)")
        axes.set_ylabel("test AUC")
        axes.set_title(DATASETS[one.ours.dataset].title)
        axes.legend(fontsize=8)
    return figure


def plot_of_confirmation(found: Confirmation) -> Figure:
    """Paired differences to DP-EBM with their intervals."""
    rows = differences(found)
    figure = Figure(figsize=(7, 0.45 * len(rows) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        axes.plot(row.splits, [place] * len(row.splits), "|", color=GREY)
        axes.errorbar(row.mean, place, xerr=row.reach, color=OURS, marker="o", capsize=3)
    labels = [f"{DATASETS[row.dataset].title}, epsilon {row.epsilon:g}" for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("test AUC, fedscore less DP-EBM on the same split;\n95 % interval over splits")
    return figure


def plot_of_rounds(found: Rounds) -> Figure:
    """Test AUC against the number of rounds, one line an epsilon."""
    figure = Figure(figsize=(5.2 * len(found.sets), 4.2), layout="constrained")
    for place, one in enumerate(found.sets, start=1):
        axes = figure.add_subplot(1, len(found.sets), place)
        for epsilon, look in zip(one.epsilons, ("-o", "--s", ":^", "-.D"), strict=False):
            scores = found.by_count(one, epsilon)
            axes.errorbar(
                found.counts,
                [score.mean for score in scores],
                yerr=[score.reach for score in scores],
                fmt=look,
                capsize=3,
                label=f"epsilon {epsilon:g}",
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(found.counts, [str(count) for count in found.counts])
        axes.set_xlabel("rounds")
        axes.set_ylabel("test AUC")
        axes.set_title(DATASETS[one.dataset].title)
        axes.legend(fontsize=8)
    return figure
