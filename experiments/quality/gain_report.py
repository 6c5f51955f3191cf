"""Who gains, as tables, a sentence and a plot: by size, risk, columns held and history."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.demo_figures import NAME as DEMO
from experiments.demo_figures import DemoFigures, Holder
from experiments.division import reach
from experiments.experiment import read_result
from experiments.nation import BANK_NAMES, PLATFORM
from experiments.quality.bank_results import Bank, Banks, gain_of
from experiments.quality.gains import BANKED, BOTH, DELTA, INSTITUTIONS, THIN, TWO, Gains, OfNation
from experiments.tables import markdown
from federation.errors import ConfigurationError

R = TypeVar("R", bound=msgspec.Struct)

_GAIN_HEADS: Final = ("alone", "federated", "pooled", "federated - alone", "federated - pooled")


def by_institution(found: Gains) -> str:
    """Returns each institution's AUC, a table an epsilon; by size, for banks stand in its order."""
    return _tables(
        found,
        ["institution", "columns", "people", "bad", *_GAIN_HEADS],
        [
            (
                [
                    name,
                    _columns_of(name),
                    f"{np.mean([one.rows[place] for one in found.nations]):,.0f}",
                ],
                ((name, "all"),),
            )
            for place, name in enumerate(INSTITUTIONS)
        ],
    )


def by_history(found: Gains) -> str:
    """Returns thin files beside people with a bank history; banks' people by all banks together."""
    rows = [
        ([who, scored], tuple((name, who) for name in names))
        for who, scored, names in (
            (THIN, "the platform", (PLATFORM,)),
            (BOTH, "the platform", (PLATFORM,)),
            (BOTH, "their bank", BANK_NAMES),
            (BANKED, "their bank", BANK_NAMES),
            (TWO, "either bank", BANK_NAMES),
        )
    ]
    text = _tables(found, ["known to", "scored by", "bad", *_GAIN_HEADS], rows)
    return (
        f"{text}\n\n{len(found.nations)} nations of {found.people:,} people, tested on as many "
        "others; means over nations with 95 % intervals (Student), banks each counted by their "
        "people. AUC against the true odds. Epsilon is that of one person at one institution, at "
        f"delta {DELTA:g}, bins and 2 spare attempts included; neighbours add or remove that "
        "person there; against the coordinator and one institution; who is known to two "
        "institutions pays at both."
    )


def _tables(
    found: Gains, heads: list[str], rows: list[tuple[list[str], tuple[tuple[str, str], ...]]]
) -> str:
    parts = []
    for place, epsilon in enumerate(found.epsilons):
        of_rows = [[*first, *_figures(found, place, keys)] for first, keys in rows]
        parts.append(f"Epsilon {epsilon:g}:\n\n{markdown(heads, of_rows)}")
    return "\n\n".join(parts)


def _figures(found: Gains, epsilon: int, keys: tuple[tuple[str, str], ...]) -> list[str]:
    """Returns bad rate, the three AUCs and the two gains of some groups together."""
    alone, federated, pooled, bad = (
        np.array([_mean(one, keys, epsilon, name) for one in found.nations])
        for name in ("alone", "federated", "pooled", "bad_rate")
    )
    return [
        f"{bad.mean():.1%}",
        *(f"{one.mean():.4f}" for one in (alone, federated, pooled)),
        _interval(federated - alone),
        _interval(federated - pooled),
    ]


def _mean(one: OfNation, keys: Sequence[tuple[str, str]], epsilon: int, name: str) -> float:
    groups = [group for group in one.groups if (group.institution, group.group) in keys]
    values = [
        group.federated[epsilon] if name == "federated" else float(getattr(group, name))
        for group in groups
    ]
    return float(np.average(values, weights=[group.people for group in groups]))


def _interval(gains: NDArray[np.float64]) -> str:
    mean, half = float(gains.mean()), reach(gains.tolist())
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


def _columns_of(name: str) -> str:
    return "common, behaviour" if name == PLATFORM else "common, repayment"


def by_size(_: Gains) -> str:
    """Returns the real institutions of `banks` in thirds by their number of loans."""
    return _in_thirds("loans", lambda bank: float(bank.loans), "{:,.0f}")


def by_risk(_: Gains) -> str:
    """Returns the real institutions of `banks` in thirds by their bad rate."""
    return _in_thirds("bad rate", lambda bank: bank.bad_rate, "{:.1%}")


def _in_thirds(title: str, figure: Callable[[Bank], float], shown: str) -> str:
    found = _read("banks", Banks)
    heads = [title, "institutions", "year", "epsilon", "alone", "federated", "pooled"]
    heads += ["federated - alone", "federated - pooled", "corrected - alone"]
    rows = []
    for variant in found.variants:
        ordered = sorted(variant.banks, key=figure)
        for part in np.array_split(np.arange(len(ordered)), 3):
            banks = [ordered[number] for number in part]
            for place, epsilon in enumerate(found.epsilons):
                cells = [cell for bank in banks for cell in bank.cells[place]]
                rows.append(
                    [
                        f"{shown.format(figure(banks[0]))} to {shown.format(figure(banks[-1]))}",
                        str(len(banks)),
                        "with" if variant.year else "without",
                        f"{epsilon:g}",
                        *(
                            f"{np.mean([getattr(cell, name) for cell in cells]):.3f}"
                            for name in ("alone", "federated", "pooled")
                        ),
                        *(
                            _gain(found, banks, place, *pair)
                            for pair in (
                                ("federated", "alone"),
                                ("federated", "pooled"),
                                ("corrected", "alone"),
                            )
                        ),
                    ]
                )
    return markdown(heads, rows)


def _read(name: str, kind: type[R]) -> R:
    result = read_result(name, kind)
    if result is None:
        raise ConfigurationError(f"There is no result of {name} yet: run that first.")
    return result.found


def _gain(found: Banks, banks: Sequence[Bank], epsilon: int, card: str, over: str) -> str:
    gain = gain_of(found, banks, epsilon, card, over)
    return f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def by_columns(_: Gains) -> str:
    """Returns the staged institutions of the demo by the columns that they hold."""
    platform, *banks = _read(DEMO, DemoFigures).holders
    rows = [
        ["two that banks lack, not three that they have", *_of_holders([platform])],
        ["three that the platform lacks, not two that it has", *_of_holders(banks)],
    ]
    heads = ["columns beside the common ones", "institutions", "people", "AUC alone"]
    return markdown([*heads, "federated", "federated - alone"], rows)


def _of_holders(holders: list[Holder]) -> list[str]:
    """Returns the means of some institutions, each counted once.

    The noise of the cards is shared by all of them, the sampling of held-out people is each one's
    own: the interval adds up the first and averages the second.
    """
    noise = [one.national.reach for one in holders]
    people = [max(one.gain.reach**2 - one.national.reach**2, 0.0) for one in holders]
    half = float(np.hypot(np.mean(noise), np.sqrt(np.sum(people)) / len(holders)))
    gain = float(np.mean([one.gain.value for one in holders]))
    return [
        str(len(holders)),
        f"{sum(one.people for one in holders):,}",
        f"{np.mean([one.alone for one in holders]):.4f}",
        f"{np.mean([one.national.value for one in holders]):.4f}",
        f"{gain:+.4f} ({gain - half:+.4f} to {gain + half:+.4f})",
    ]


def answer(found: Gains) -> str:
    """Returns one sentence."""
    parts = []
    for who, title, names in (
        (THIN, "thin files at the platform", (PLATFORM,)),
        (BOTH, "their platform's other people", (PLATFORM,)),
        ("all", "customers of the smallest bank", BANK_NAMES[-1:]),
        ("all", "of the largest", BANK_NAMES[:1]),
    ):
        keys = tuple((name, who) for name in names)
        parts.append(f"{title} {_figures(found, 0, keys)[4]}")
    return (
        f"federated over alone, epsilon {found.epsilons[0]:g}, AUC in synthetic nations: "
        f"{'; '.join(parts)}"
    )


def plot(found: Gains) -> Figure:
    """Federated and pooled over alone, by institution."""
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    marks = (("o", "white"), ("s", "#888888"))
    for place, (marker, face) in zip(range(len(found.epsilons)), marks, strict=True):
        means, halves = [], []
        for name in INSTITUTIONS:
            gains = [
                _mean(one, ((name, "all"),), place, "federated")
                - _mean(one, ((name, "all"),), place, "alone")
                for one in found.nations
            ]
            means.append(float(np.mean(gains)))
            halves.append(reach(gains))
        axes.errorbar(
            np.arange(len(INSTITUTIONS)) + 0.12 * place,
            means,
            yerr=halves,
            linestyle="none",
            color="black",
            marker=marker,
            markerfacecolor=face,
            label=f"epsilon {found.epsilons[place]:g}",
        )
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(INSTITUTIONS)), INSTITUTIONS, rotation=45)
    axes.set_ylabel("AUC, federated - alone")
    axes.legend(loc="upper left")
    return figure
