"""What `run advice` found, as tables, a sentence and a plot."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtri

from experiments.budget.advice import SMALL_LOSS, Advised, against, held_of
from experiments.budget.advice_cases import NATION, Case
from experiments.datasets import DATASETS
from experiments.division import INSTITUTIONS, reach
from experiments.experiment import PERSON
from experiments.tables import markdown
from fedscore.advice_law import Curve, Held, Law

_PROMISE: Final = (
    "Epsilon is that of each trained person at one institution, bins and 2 spare attempts "
    "included, at delta min(1e-6, 1 / (10 people)); neighbours add or remove that person; against "
    "the coordinator and one institution."
)
TITLES: Final = {name: one.title for name, one in DATASETS.items()} | {NATION: "Synthetic nation"}


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Parts of one data set of one size, on the same terms.

    Attributes:
        data: its name.
        people: trained.
        institutions: that answer.
        epsilon: of each person.
        predicted: middle of the law, mean over parts.
        low: likewise.
        high: likewise.
        losses: of each part.
    """

    data: str
    people: int
    institutions: int
    epsilon: float
    predicted: float
    low: float
    high: float
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean loss over parts."""
        return float(np.mean(self.losses))

    @property
    def is_inside(self) -> bool:
        """Whether that lies in the range of the law."""
        return self.low <= self.mean <= self.high


def cells_of(found: Advised) -> list[Cell]:
    """Returns the unseen trainings, those that differ in nothing but part and noise together."""
    together: dict[tuple[str, int, int, float], list[Case]] = {}
    for case in found.unseen:
        key = (case.data, case.people, case.institutions, case.epsilon)
        together.setdefault(key, []).append(case)
    cells = []
    for (data, people, institutions, epsilon), cases in together.items():
        expected = [found.law.loss(case.noise_to_signal, case.alone) for case in cases]
        cells.append(
            Cell(
                data=data,
                people=people,
                institutions=institutions,
                epsilon=epsilon,
                predicted=float(np.mean([one.middle for one in expected])),
                low=float(np.mean([one.low for one in expected])),
                high=float(np.mean([one.high for one in expected])),
                losses=tuple(case.loss for case in cases),
            )
        )
    return cells


def table(found: Advised) -> str:
    """Returns what was expected and what happened, a row for each size and number of institutions.

    Institutions between the fewest and the most are left to the plot.
    """
    cells = cells_of(found)
    epsilons = sorted({cell.epsilon for cell in cells})
    few, many = (pick(cell.institutions for cell in cells) for pick in (min, max))
    rows = []
    for data, people, institutions in dict.fromkeys(
        (cell.data, cell.people, cell.institutions)
        for cell in cells
        if cell.institutions in (few, many)
    ):
        of_row = {
            cell.epsilon: cell
            for cell in cells
            if (cell.data, cell.people, cell.institutions) == (data, people, institutions)
        }
        rows.append(
            [
                TITLES[data],
                f"{people:,}",
                str(institutions),
                *(_cell(of_row[epsilon]) for epsilon in epsilons),
            ]
        )
    heads = ["data", "people", "institutions", *(f"epsilon {one:g}" for one in epsilons)]
    parts = len(cells[0].losses)
    return (
        f"{markdown(heads, rows)}\n\nAUC lost: expected (range); observed, mean over {parts} parts "
        "and noises with its 95 % interval (Student; the tested people are the same, parts of one "
        "data set overlap and at full size are all of it: there it is an interval over noise); "
        "rows and columns share people and noise seeds; outside: "
        "that mean, though the range is of one training. The law was told each part's bad rate and "
        "its AUC without privacy, which whoever asks for advice can only guess. All "
        f"institutions answer, one may collude. {_PROMISE}"
    )


def _cell(cell: Cell) -> str:
    mark = "" if cell.is_inside else " (outside)"
    return (
        f"{cell.predicted:.3f} ({cell.low:.3f} to {cell.high:.3f}); {cell.mean:.3f} "
        f"+-{reach(cell.losses):.3f}{mark}"
    )


def by_data(found: Advised) -> str:
    """Returns how often the range held, by data."""
    rows = [
        _held(TITLES[name], found.law, [case for case in found.unseen if case.data == name])
        for name in dict.fromkeys(case.data for case in found.unseen)
    ]
    rows.append(_held("synthetic federations, fitted on", found.law, found.fitted))
    heads = ["data", "in the range", "lost less", "lost more", "observed / expected, median"]
    table = markdown([*heads, "its 10 % to 90 %"], rows)
    return (
        f"{table}\n\nShares of trainings, counted: those of one data set share people, so that no "
        "interval is given. The range is of nine trainings in ten: lost less or more AUC than it "
        "says. Observed over expected AUC lost: median over trainings, and quantiles, where more "
        f"than {SMALL_LOSS:g} is expected. {_PROMISE}"
    )


def _held(title: str, law: Law, cases: Sequence[Case]) -> list[str]:
    loss, _, middle, _ = against(law, cases)
    return [title, *_shares(held_of(law, cases)), *_ratios(loss, middle)]


def _shares(held: Held) -> tuple[str, str, str]:
    """Returns which part of trainings lay in the range, below it and above it."""
    inside, less, more = (
        f"{count / held.trainings:.0%}" for count in (held.inside, held.less, held.more)
    )
    return f"{inside} of {held.trainings}", less, more


def _ratios(observed: NDArray[np.float64], expected: NDArray[np.float64]) -> tuple[str, str]:
    """Returns median and spread of the ratios, of losses that are expected to be seen at all."""
    ratios = observed[expected > SMALL_LOSS] / expected[expected > SMALL_LOSS]
    low, high = np.quantile(ratios, [0.1, 0.9])
    return f"{np.median(ratios):.2f}", f"{low:.2f} to {high:.2f}"


def whole(found: Advised) -> str:
    """Returns the law beside whole trainings of the product."""
    rows = []
    for one in found.whole:
        expected = found.law.loss(one.noise_to_signal, one.alone)
        losses = [one.alone - auc for auc in one.auc]
        rows.append(
            [
                TITLES[one.data],
                f"{one.people:,}",
                f"{one.epsilon:g}",
                f"{expected.middle:.4f} ({expected.low:.4f} to {expected.high:.4f})",
                f"{np.mean(losses):+.4f} +-{reach(losses):.4f}",
            ]
        )
    heads = ["data", "people", "epsilon", "expected AUC lost (range)", "observed AUC lost"]
    seeds = len(found.whole[0].auc) if found.whole else 0
    return (
        f"{markdown(heads, rows)}\n\nWhole trainings of the product by {len(INSTITUTIONS)} "
        "institutions, from `comparison`: expected, and the range that nine trainings in ten "
        f"should lie in, which follow from the law; observed: mean over {seeds} seeds of noise and "
        "its 95 % interval (Student; the card without privacy and the tested people are the "
        f"same). {PERSON}"
    )


def answer(found: Advised) -> str:
    """Returns one sentence."""
    held = held_of(found.law, found.unseen)
    inside, less, more = (count / held.trainings for count in (held.inside, held.less, held.more))
    ratios = []
    for name in dict.fromkeys(case.data for case in found.unseen):
        of, _, middle, _ = against(found.law, [one for one in found.unseen if one.data == name])
        ratios.append(f"{TITLES[name]} {_ratios(of, middle)[0]}")
    return (
        f"of {held.trainings} trainings on data that it was not fitted on, "
        f"{inside:.0%} lie in its range, which nine of ten "
        f"should, {less:.0%} lost less and {more:.0%} more "
        "(trainings hang together: no interval); observed over expected loss, median: "
        f"{', '.join(ratios)}"
    )


def plot(found: Advised) -> Figure:
    """What a score keeps against the ratio of noise to signal."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    _scatter(axes, found.fitted, ".", "#bbbbbb", "synthetic, fitted on")
    markers = dict(zip(dict.fromkeys(case.data for case in found.unseen), "o^sDv", strict=False))
    for name, marker in markers.items():
        cases = tuple(case for case in found.unseen if case.data == name)
        _scatter(axes, cases, marker, "none", TITLES[name])
    ratios = np.geomspace(1e-6, 10, 200)
    for name, line in (("low", "--"), ("middle", "-"), ("high", ":")):
        curve: Curve = getattr(found.law, name)
        kept = [float(ndtri(0.75 - curve.lost(ratio, 0.75)) / ndtri(0.75)) for ratio in ratios]
        axes.plot(ratios, kept, color="black", linestyle=line, label=f"law, {name}")
    axes.set_xscale("log")
    axes.set_ylim(-0.1, 1.1)
    axes.set_xlabel("noise to signal")
    axes.set_ylabel("kept of the distance of good and bad")
    axes.legend(fontsize="small", ncols=2)
    return figure


def _scatter(axes: Axes, cases: tuple[Case, ...], marker: str, face: str, label: str) -> None:
    axes.plot(
        [case.noise_to_signal for case in cases],
        [float(ndtri(case.auc) / ndtri(case.alone)) for case in cases],
        linestyle="none",
        marker=marker,
        markersize=4,
        markerfacecolor=face,
        markeredgecolor="#bbbbbb" if marker == "." else "#555555",
        label=label,
    )
