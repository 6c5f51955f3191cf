"""One plot for each result. `run` writes it to a file, `report` into its page; none is kept."""

from typing import Final

from matplotlib.figure import Figure

from experiments.bank_results import Banks, gain_of
from experiments.comparison import Comparison
from experiments.confirmation import Confirmation, differences
from experiments.datasets import DATASETS
from experiments.rounds import Rounds
from experiments.sources import Sources
from experiments.thin_files import ThinFiles

_OURS: Final = "#0b6e99"
_PEER: Final = "#c2552d"
_GREY: Final = "#777777"


def comparison(found: Comparison) -> Figure:
    """Test AUC against epsilon, one panel a data set."""
    figure = _figure(5.2 * len(found.sets), 4.2)
    for place, one in enumerate(found.sets, start=1):
        axes = figure.add_subplot(1, len(found.sets), place)
        epsilons = [row.epsilon for row in one.ours.rows]
        for name, color, look in (("fedscore", _OURS, "-o"), ("dp_ebm", _PEER, "--s")):
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
            axes.axhline(value, color=_GREY, linestyle=style, linewidth=1, label=label)
        axes.set_xscale("log")
        axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
        axes.minorticks_off()
        axes.set_xlabel("epsilon (delta 1e-6)")
        axes.set_ylabel("test AUC")
        axes.set_title(DATASETS[one.ours.dataset].title)
        axes.legend(fontsize=8)
    return figure


def confirmation(found: Confirmation) -> Figure:
    """Paired differences to DP-EBM with their intervals."""
    rows = differences(found)
    figure = _figure(7, 0.45 * len(rows) + 1.2)
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        axes.plot(row.splits, [place] * len(row.splits), "|", color=_GREY)
        axes.errorbar(row.mean, place, xerr=row.reach, color=_OURS, marker="o", capsize=3)
    labels = [f"{DATASETS[row.dataset].title}, epsilon {row.epsilon:g}" for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("test AUC, fedscore less DP-EBM on the same split;\n95 % interval over splits")
    return figure


def rounds(found: Rounds) -> Figure:
    """Test AUC against the number of rounds, one line an epsilon."""
    figure = _figure(5.2 * len(found.sets), 4.2)
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


def banks(found: Banks) -> Figure:
    """A forest plot of what each institution gains over its own card."""
    figure = _figure(5.2 * len(found.variants), 7.2)
    for place, variant in enumerate(found.variants):
        axes = figure.add_subplot(1, len(found.variants), place + 1)
        for card, color, shift, marker in (
            ("federated", _PEER, -0.15, "s"),
            ("corrected", _OURS, 0.15, "o"),
        ):
            gains = [gain_of(found, [bank], 0, card, "alone") for bank in variant.banks]
            axes.errorbar(
                [gain.mean for gain in gains],
                [row + shift for row in range(len(gains))],
                xerr=[[g.mean - g.low for g in gains], [g.high - g.mean for g in gains]],
                color=color,
                linestyle="none",
                marker=marker,
                fillstyle="none" if card == "federated" else "full",
                markersize=4,
                capsize=2,
                label=card,
            )
        labels = [f"{bank.title} ({bank.loans:,})" for bank in variant.banks]
        axes.set_yticks(range(len(labels)), labels if place == 0 else [""] * len(labels))
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("AUC less that of the bank's own card, 95 % interval")
        year = "with" if variant.year else "without"
        axes.set_title(f"{year} the year, epsilon {found.epsilons[0]:g} (simulation only)")
        axes.legend(fontsize=8)
    return figure


def thin_files(found: ThinFiles) -> Figure:
    """AUC of thin files against the size of the platform's book."""
    figure = _figure(6.2, 4.4)
    axes = figure.add_subplot()
    sizes = [book.book for book in found.nations[0].books]
    count = len(found.nations)
    alone = [sum(n.books[i].alone for n in found.nations) / count for i in range(len(sizes))]
    axes.plot(sizes, alone, color=_PEER, linestyle="-.", marker="s", label="platform alone")
    usual = found.common_epsilons.index(found.epsilons[0])
    for kind, place, label, line in (
        ("national", 0, "national card", ":"),
        ("thin_file", 0, "thin-file card", "--"),
        ("common_corrected", usual, "banks' card of common columns, corrected at home", "-"),
    ):
        after = [found.mean(i, place, kind) for i in range(len(sizes))]
        axes.plot(sizes, after, color=_OURS, linestyle=line, marker="o", label=label)
    # Intervals are those of the differences, in the table: nations move all lines together.
    nobody = sum(one.common[usual] for one in found.nations) / count
    label = "that card where it has lent to nobody"
    axes.axhline(nobody, color=_OURS, linestyle=":", linewidth=1, label=label)
    oracle = sum(one.oracle for one in found.nations) / count
    axes.axhline(oracle, color=_GREY, linewidth=1, label="the true odds")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("people that the platform has lent to")
    axes.set_ylabel("AUC of people known to the platform only")
    axes.set_title(f"epsilon {found.epsilons[0]:g}; means over {count} nations")
    axes.legend(fontsize=8)
    return figure


def sources(found: Sources) -> Figure:
    """Rows a second of each way to read a table."""
    figure = _figure(6.2, 2.6)
    axes = figure.add_subplot()
    ways = found.ways[::-1]
    colors = [_PEER if "cursor" in one.name else _OURS for one in ways]
    axes.barh([one.name for one in ways], [found.rate(one) for one in ways], color=colors)
    axes.set_xlabel("rows a second")
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")
