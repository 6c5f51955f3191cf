"""Table, sentence and plot of `sources`."""

from typing import Final

from matplotlib.figure import Figure

from experiments.speed.sources import Sources
from experiments.tables import markdown

_OURS: Final = "#0b6e99"
_PEER: Final = "#c2552d"
_GREY: Final = "#777777"


def sources(found: Sources) -> str:
    """Returns rows a second and memory by the way a table is read."""
    heads = ["way", "rows a second", "seconds", "CPU seconds", "peak MB", "of which libraries"]
    rows = [
        [
            one.name,
            f"{found.rate(one):,.0f}",
            f"{one.seconds:.2f}",
            f"{one.cpu:.2f}",
            f"{one.peak_bytes / 1e6:,.0f}",
            f"{one.idle_bytes / 1e6:,.0f}",
        ]
        for one in found.ways
    ]
    return (
        f"{markdown(heads, rows)}\n\n{found.rows:,} rows of {found.columns} doubles, a key and an "
        f"outcome; PostgreSQL {found.server} on the same machine."
    )


def answer_of_sources(found: Sources) -> str:
    """Returns one sentence."""
    copy, cursor, *snapshots = found.ways
    return (
        f"COPY fetches {found.rate(copy):,.0f} rows a second, {cursor.seconds / copy.seconds:.1f} "
        "times as many as a server-side cursor; "
        + ", ".join(f"a {one.name} takes {found.rate(one):,.0f}" for one in snapshots)
    )


def plot_of_sources(found: Sources) -> Figure:
    """Rows a second of each way to read a table."""
    figure = Figure(figsize=(6.2, 2.6), layout="constrained")
    axes = figure.add_subplot()
    ways = found.ways[::-1]
    colors = [_PEER if "cursor" in one.name else _OURS for one in ways]
    axes.barh([one.name for one in ways], [found.rate(one) for one in ways], color=colors)
    axes.set_xlabel("rows a second")
    return figure
