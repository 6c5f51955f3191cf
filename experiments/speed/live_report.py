"""What `run live_rounds` found, for people."""

from collections.abc import Callable
from itertools import cycle, product
from typing import Final

import matplotlib.ticker
from matplotlib.figure import Figure

from experiments.speed.live_federation import Measured, Parts
from experiments.speed.live_rounds import LiveRounds
from experiments.tables import markdown

_REST: Final = "everything else"
_HATCHES: Final = ("", "//", "xx", "..", "--", "||", "oo")
_PEOPLE_OF: Final[tuple[tuple[str, Callable[[Measured], Parts | None]], ...]] = (
    ("coordinator", lambda one: one.coordinator),
    ("institution", lambda one: one.institution),
)


def mean_round(one: Measured) -> float:
    """Returns the mean seconds of a round."""
    return sum(one.rounds) / len(one.rounds)


def memory_each(one: Measured) -> float:
    """Returns the mean institution's bytes, each page of a file counted once in it."""
    return sum(memory.once for memory in one.memory) / len(one.memory)


def rounds(found: LiveRounds) -> str:
    """Returns seconds of a round and memory of an institution, ours and the stock ones."""
    heads = ["an institution is", "institutions", "seconds a round", "shortest and longest"]
    heads += ["CPU seconds a round", "MB an institution", "MB if each process counts alone"]
    heads += ["processes each", "load before"]
    listed = [("our daemon", one) for one in found.ours]
    if found.stock is not None:
        listed.insert(0, ("a stock SuperNode and our daemon", found.stock))
    rows = [
        [
            title,
            str(one.institutions),
            f"{mean_round(one):.2f}",
            f"{min(one.rounds):.2f} to {max(one.rounds):.2f}",
            f"{one.cpu:.2f}",
            f"{memory_each(one) / 1e6:.0f}",
            f"{_resident_each(one) / 1e6:.0f}",
            f"{max(memory.processes for memory in one.memory)}",
            f"{one.load:.1f}",
        ]
        for title, one in listed
    ]
    return (
        f"{markdown(heads, rows)}\n\n{_compared(found)}{len(found.ours[0].rounds)} rounds; "
        f"{found.people_each:,} people an institution; a machine with {found.cores} cores, which "
        "everybody shares. Memory is that of all processes of an institution when they held most."
    )


def parts(found: LiveRounds) -> str:
    """Returns what a round's time goes to, at the coordinator and at the mean institution."""
    heads = ["milliseconds of a round, and how often"]
    columns = []
    for who, of in _PEOPLE_OF:
        for one in found.ours:
            if (measured := of(one)) is not None:
                heads.append(f"{who}, {one.institutions}")
                columns.append(measured)
    names = sorted(
        {name for column in columns for name in column.parts},
        key=lambda name: -max(column.parts.get(name, 0.0) for column in columns),
    )
    rows = [[name, *(_cell(column, name) for column in columns)] for name in names]
    rows.append([_REST, *(f"{1000 * _rest(column):.0f}" for column in columns)])
    rows.append(["all", *(f"{1000 * column.seconds:.0f}" for column in columns)])
    return markdown(heads, rows)


def answer(found: LiveRounds) -> str:
    """Returns one sentence."""
    sizes = ", ".join(
        f"{mean_round(one):.2f} s ({min(one.rounds):.2f} to {max(one.rounds):.2f}) with "
        f"{one.institutions}"
        for one in found.ours
    )
    return (
        f"{_compared(found)}A round takes {sizes} institutions (means; in brackets the shortest "
        "and the longest)"
    )


def plot(found: LiveRounds) -> Figure:
    """What a round's time goes to."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    labels, columns = [], []
    for who, of in _PEOPLE_OF:
        for one in found.ours:
            if (measured := of(one)) is not None:
                labels.append(f"{who}\n{one.institutions}")
                columns.append({**measured.parts, _REST: _rest(measured)})
    below = [0.0] * len(columns)
    looks = cycle(product(("white", "#bbbbbb"), _HATCHES))
    for name in sorted({name for column in columns for name in column}):
        heights = [column.get(name, 0.0) for column in columns]
        color, hatch = next(looks)
        axes.bar(
            labels, heights, bottom=below, label=name, color=color, hatch=hatch, edgecolor="black"
        )
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%.1f"))
    axes.set_ylabel("seconds of a round")
    figure.legend(fontsize=7, loc="outside right upper")
    return figure


def _compared(found: LiveRounds) -> str:
    if found.stock is None:
        return ""
    ours, stock = found.ours[0], found.stock
    times = mean_round(stock) / mean_round(ours)
    share = memory_each(ours) / memory_each(stock)
    return (
        f"With {stock.institutions} institutions ours are {times:.0f} times as fast as stock "
        f"SuperNodes, with {share:.0%} of their memory. "
    )


def _resident_each(one: Measured) -> float:
    return sum(memory.resident for memory in one.memory) / len(one.memory)


def _cell(column: Parts, name: str) -> str:
    if name not in column.parts:
        return ""
    return f"{1000 * column.parts[name]:.0f} ({column.calls[name]:.0f})"


def _rest(column: Parts) -> float:
    return column.seconds - sum(column.parts.values())
