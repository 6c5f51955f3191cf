"""The report's plots as SVG text: no colour carries a meaning alone, nothing is loaded.

Text stays text (`svg.fonttype = none`), so it can be selected, read aloud and found; the page sets
its font. Equal input gives equal bytes: identifiers in a file follow from its own salt. matplotlib
belongs to the extra `experiments`, so this module is imported only when a report is written.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

import matplotlib as mpl
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from federation.model.evaluation import CalibrationBand, Figure
from federation.model.score_scale import ScoreScale

WIDTH: Final = 4.8
"""Inches: 9 pt text stays readable when a phone shrinks the plot to its own width."""

INK: Final = "#1b1b1b"
ACCENT: Final = "#1f5a8c"
PALE: Final = "#c9d6e2"
_GRID: Final = "#dddddd"
_DASHED: Final = (0, (4, 3))
_HATCHES: Final = ("", "////", "....", "xxxx")

_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a feature may be called "$x$"
    "xtick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": INK,
    "ytick.labelsize": 9,
    "ytick.major.size": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One kind of mark in a panel.

    Attributes:
        name: in the legend.
        marker: of matplotlib.
        filled: solid or hollow: what tells two series apart in black and white.
        figures: one a row, None where there is none.
        intervals: whether they are drawn with their intervals.
    """

    name: str
    marker: str
    filled: bool
    figures: Sequence[Figure | None]
    intervals: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One horizontal scale with a row for each label.

    Attributes:
        title: of its axis.
        series: drawn one below the other within a row, on one line if `joined`.
        joined: whether a line connects the marks of a row.
        reference: a value at which a vertical line stands, or None.
        percent: whether the axis counts in percent.
        missing: what stands in a row whose first series has no figure.
    """

    title: str
    series: Sequence[Series]
    joined: bool = False
    reference: float | None = None
    percent: bool = False
    missing: str = "not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a bar: its name in the legend, or "", and its length >= 0."""

    name: str
    length: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar of parts, with a text at its end."""

    label: str
    parts: Sequence[Part]
    text: str = ""


def forest(salt: str, alt: str, rows: Sequence[str], panels: Sequence[Panel]) -> str:
    """Returns estimates with their intervals, one row a label, panels side by side.

    Args:
        salt: unlike that of every other plot of the page.
        alt: what a person hears who does not see the plot.
        rows: labels, the first on top.
        panels: at least one.
    """
    with _style(salt):
        most = max(1 if panel.joined else len(panel.series) for panel in panels)
        drawing = Drawing(figsize=(WIDTH, 0.9 + len(rows) * (0.13 + 0.15 * most)))
        drawing.set_layout_engine("constrained")
        axes = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        handles: dict[str, Any] = {}
        for ax, panel in zip(axes, panels, strict=True):
            handles |= _panel(ax, panel, len(rows))
        _rows(axes[0], rows)
        drawing.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper left",
            ncols=3,
            handletextpad=0.3,
            columnspacing=1.2,
        )
        return _svg(drawing, alt)


def _panel(ax: Axes, panel: Panel, rows: int) -> dict[str, Any]:
    handles = {}
    if panel.reference is not None:
        ax.axvline(panel.reference, color=INK, linewidth=0.8, linestyle=_DASHED)
    if panel.joined:
        for row in range(rows):
            values = [s.figures[row] for s in panel.series]
            ends = [figure.value for figure in values if figure is not None]
            ax.plot(ends, [row] * len(ends), color=ACCENT, linewidth=2.2, zorder=1.5)
    for number, series in enumerate(panel.series):
        lift = 0.0 if panel.joined else 0.22 * (number - (len(panel.series) - 1) / 2)
        for row, figure in enumerate(series.figures):
            if figure is None:
                continue
            if series.intervals:
                ax.plot([figure.low, figure.high], [row + lift] * 2, color=INK, linewidth=1.0)
            handles[series.name] = ax.plot(
                figure.value,
                row + lift,
                linestyle="",
                marker=series.marker,
                markersize=5.5,
                color=ACCENT,
                markerfacecolor=ACCENT if series.filled else "white",
            )[0]
    for row, figure in enumerate(panel.series[0].figures):
        if figure is None:
            _say(ax, panel.missing, ax.get_xlim()[0], row)
    ax.set_xlabel(panel.title)
    ax.grid(axis="x", color=_GRID, linewidth=0.6)
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
    if panel.percent:
        ax.xaxis.set_major_formatter(_percent)
    return handles


def bars(salt: str, alt: str, rows: Sequence[Bar], *, percent: bool, axis: str) -> str:
    """Returns one bar a row, its parts hatched; parts that have a name stand in the legend."""
    with _style(salt):
        names = list(dict.fromkeys(part.name for row in rows for part in row.parts if part.name))
        drawing, ax = _single(WIDTH, 0.6 + 0.36 * len(rows) + 0.18 * len(names))
        handles: dict[str, Any] = {}
        for number, row in enumerate(rows):
            start = 0.0
            for part in row.parts:
                kind = names.index(part.name) if part.name else number % 2
                handles[part.name] = ax.barh(
                    number,
                    part.length,
                    left=start,
                    height=0.62,
                    facecolor=PALE if kind == 0 else "white",
                    edgecolor=INK,
                    hatch=_HATCHES[kind % len(_HATCHES)],
                    linewidth=0.7,
                )
                start += part.length
            _say(ax, row.text, start, number)
        longest = max(sum(part.length for part in row.parts) for row in rows)
        ax.set_xlim(0, longest * (1.25 if any(row.text for row in rows) else 1))
        if percent:
            ax.xaxis.set_major_formatter(_percent)
        ax.set_xlabel(axis)
        _rows(ax, [row.label for row in rows])
        if names:
            drawing.legend([handles[name] for name in names], names, loc="outside lower left")
        return _svg(drawing, alt)


def steps(
    salt: str,
    alt: str,
    labels: Sequence[str],
    points: Sequence[int],
    *,
    ordered: int,
    span: tuple[int, int],
) -> str:
    """Returns the points of a feature's bins: a staircase, bins without an order as diamonds.

    Args:
        salt: unlike that of every other plot of the page.
        alt: what a person hears who does not see the plot.
        labels: of the bins.
        points: of the bins.
        ordered: how many bins, from the first, are in the order of their values.
        span: smallest and largest points of all plots that are to be compared.
    """
    with _style(salt):
        drawing, ax = _single(3.5, 0.5 + 0.19 * len(points))
        ax.axvline(0, color=INK, linewidth=0.8, linestyle=_DASHED)
        for row, value in enumerate(points):
            ax.plot([0, value], [row, row], color=PALE, linewidth=4, zorder=1)
            _say(ax, _change(value), value, row, left=value < 0, gap=7)
        for row in range(ordered):
            ax.plot([points[row]] * 2, [row - 0.5, row + 0.5], color=ACCENT, linewidth=2)
        for row, (here, after) in enumerate(pairwise(points[:ordered])):
            ax.plot([here, after], [row + 0.5] * 2, color=ACCENT, linewidth=1)
        ax.plot(points[ordered:], range(ordered, len(points)), "D", color=ACCENT, markersize=5)
        room = 0.28 * max(1, span[1] - span[0])
        ax.set_xlim(span[0] - room, span[1] + room)
        ax.set_xlabel("points")
        _rows(ax, labels)
        return _svg(drawing, alt)


def calibration(
    salt: str, alt: str, labels: Sequence[str], bands: Sequence[CalibrationBand]
) -> str:
    """Returns promised against observed bad rates, one dot a band with its label."""
    with _style(salt):
        drawing, ax = _single(WIDTH, 3.9)
        rates = [(band.expected_bad_rate, band.observed_bad_rate.high) for band in bands]
        most = 1.05 * max(max(pair) for pair in rates)
        largest = max(band.people for band in bands)
        ax.plot([0, most], [0, most], color=INK, linewidth=0.8, linestyle=_DASHED)
        lowest = {True: -most, False: -most}
        both = zip(labels, bands, strict=True)
        for label, band in sorted(both, key=lambda pair: pair[1].observed_bad_rate.value):
            promised, observed = band.expected_bad_rate, band.observed_bad_rate
            ax.plot([promised] * 2, [observed.low, observed.high], color=INK)
            size = 4 + 5 * (max(band.people, 0.0) / largest) ** 0.5
            fill = "white" if band.least is None else ACCENT  # open below: known from one side only
            ax.plot(promised, observed.value, "o", color=ACCENT, mfc=fill, markersize=size)
            left = observed.value > promised > 0.25 * most
            lowest[left] = max(observed.value, lowest[left] + 0.045 * most)
            _say(ax, label, promised, lowest[left], left=left, gap=9)
        ax.set_xlim(0, most * 1.15)
        ax.set_ylim(0, most)
        ax.xaxis.set_major_formatter(_percent)
        ax.yaxis.set_major_formatter(_percent)
        ax.set_xlabel("bad rate that the scores promise")
        ax.set_ylabel("bad rate observed, 95 % interval")
        ax.grid(color=_GRID, linewidth=0.6)
        return _svg(drawing, alt)


def scale(salt: str, alt: str, scores: ScoreScale, shown: int) -> str:
    """Returns where a score stands on the scale, with the bad rates that scores stand for."""
    with _style(salt):
        drawing, ax = _single(WIDTH, 1.35)
        spread = scores.most - scores.least
        for length, color, hatch in ((spread, "white", ""), (shown - scores.least, PALE, "////")):
            ax.barh(
                0,
                length,
                left=scores.least,
                height=0.5,
                facecolor=color,
                edgecolor=INK,
                hatch=hatch,
                linewidth=0.8,
            )
        ax.plot(shown, 0.42, "v", color=INK, markersize=9)
        ax.text(shown, 0.72, str(shown), ha="center", va="bottom", fontsize=15, fontweight="bold")
        inner = range(scores.least // 100 * 100 + 100, scores.most, 100)
        apart = [t for t in inner if min(t - scores.least, scores.most - t) > 0.08 * spread]
        ticks = [scores.least, *apart, scores.most]
        rates = [100 * scores.bad_rate_at(tick) for tick in ticks]
        digits = [0 if rate >= 10 else 1 for rate in rates]
        ax.set_xticks(
            ticks,
            [
                f"{t}\n{r:.{d}f}\N{NO-BREAK SPACE}%"
                for t, r, d in zip(ticks, rates, digits, strict=True)
            ],
        )
        ax.set_yticks([])
        ax.set_ylim(-0.3, 1.5)
        ax.set_xlim(scores.least - 0.01 * spread, scores.most + 0.01 * spread)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.set_xlabel("score, and below it the bad rate that it stands for")
        return _svg(drawing, alt)


def waterfall(
    salt: str, alt: str, start: tuple[str, float], changes: Sequence[tuple[str, float]], end: str
) -> str:
    """Returns how a sum comes about, from a start through changes to an end."""
    with _style(salt):
        drawing, ax = _single(WIDTH, 0.5 + 0.23 * (len(changes) + 2))
        levels = [start[1], *accumulate((change for _, change in changes), initial=start[1])]
        for row, (_, change) in enumerate(changes, start=1):
            ax.barh(
                row,
                change,
                left=levels[row],
                height=0.6,
                facecolor="white" if change < 0 else PALE,
                edgecolor=INK,
                hatch="////" if change < 0 else "",
                linewidth=0.7,
            )
            _say(ax, _change(change), levels[row + 1], row, left=change < 0, gap=4)
        last = len(changes) + 1
        for row in range(1, last + 1):
            ax.plot([levels[row]] * 2, [row - 1, row], color="#888888", linewidth=0.7)
        for row, marker in ((0, "o"), (last, "D")):
            ax.plot(levels[row], row, marker, color=INK, markersize=6)
            _say(ax, f"{levels[row]:.0f}", levels[row], row, gap=8, weight="bold")
        room = 0.18 * (max(levels) - min(levels) + 1)
        ax.set_xlim(min(levels) - room, max(levels) + room)
        ax.set_xlabel("score")
        ax.grid(axis="x", color=_GRID, linewidth=0.6)
        _rows(ax, [start[0], *(label for label, _ in changes), end])
        return _svg(drawing, alt)


def _single(width: float, height: float) -> tuple[Drawing, Axes]:
    drawing = Drawing(figsize=(width, height))
    drawing.set_layout_engine("constrained")
    return drawing, drawing.subplots()


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    """Names the rows of a plot, the first on top."""
    short = [one if len(one) <= 42 else one[:41] + "\N{HORIZONTAL ELLIPSIS}" for one in labels]
    ax.set_yticks(range(len(labels)), short)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.spines["left"].set_visible(False)


def _say(
    ax: Axes,
    text: str,
    x: float,
    y: float,
    *,
    left: bool = False,
    gap: float = 4,
    weight: str = "normal",
) -> None:
    """Writes beside a point, `gap` points away from it."""
    ax.annotate(
        text,
        (x, y),
        (-gap if left else gap, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=8.5,
        fontweight=weight,
    )


def _change(points: float) -> str:
    rounded = round(points)
    return f"{rounded:+d}".replace("-", "\N{MINUS SIGN}") if rounded else "0"


def _percent(share: float, _position: object) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


@contextmanager
def _style(salt: str) -> Iterator[None]:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        yield


def _svg(drawing: Drawing, alt: str) -> str:
    """Returns the drawing as an <svg> element, without what only a file of its own needs."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Only the reader's browser has to have a letter; here it is measured, not drawn.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        drawing.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
