"""Table, sentence and plot of `sources`."""

from matplotlib.figure import Figure

from experiments.speed.sources import Sources
from experiments.tables import OURS, PEER, error_bars, in_brackets, markdown, middle


def sources(found: Sources) -> str:
    """Returns rows a second and memory by the way a table is read."""
    heads = ["way", "rows a second", "times the cursor", "seconds", "CPU seconds", "peak MB"]
    heads += ["of which libraries"]
    rows = [
        [
            one.name,
            f"{found.rate(one):,.0f}",
            "1" if one is found.cursor else f"{found.times_cursor(one):.2f}",
            f"{middle(turn.seconds for turn in one.turns):.2f}",
            f"{middle(turn.cpu for turn in one.turns):.2f}",
            f"{one.peak_bytes / 1e6:,.0f}",
            f"{found.idle_bytes / 1e6:,.0f}",
        ]
        for one in found.ways
    ]
    return (
        f"{markdown(heads, rows)}\n\n{found.rows:,} rows of {found.columns} doubles, a key and an "
        f"outcome; PostgreSQL {found.server} on the same machine. Medians of {found.turns} "
        "turns taken by all ways one after the other, the ratio turn by turn; in brackets "
        f"{in_brackets(found.turns)}. The memory is the most of all turns."
    )


def answer_of_sources(found: Sources) -> str:
    """Returns one sentence."""
    copy, _, *snapshots = found.ways
    return (
        f"COPY fetches {found.rate(copy):,.0f} rows a second, "
        f"{found.times_cursor(copy):.2f} times as many as a server-side cursor; "
        + ", ".join(f"a {one.name} takes {found.rate(one):,.0f}" for one in snapshots)
        + f" (in brackets {in_brackets(found.turns)})"
    )


def plot_of_sources(found: Sources) -> Figure:
    """Rows a second of each way to read a table."""
    figure = Figure(figsize=(6.2, 2.6), layout="constrained")
    axes = figure.add_subplot()
    ways = found.ways[::-1]
    colors = [PEER if "cursor" in one.name else OURS for one in ways]
    rates = [found.rate(one) for one in ways]
    axes.barh(
        [one.name for one in ways],
        [one.median for one in rates],
        xerr=error_bars(rates),
        color=colors,
    )
    axes.set_xlabel("rows a second")
    return figure
