"""What the canary audit found, as tables, a sentence and a plot."""

from statistics import fmean
from typing import Final

from matplotlib.figure import Figure
from scipy import special

from experiments.audit.membership import (
    NETWORK_JOINT,
    SCORECARD_JOINT,
    SHARES_OF_NOISE,
    Bounds,
    Build,
    Membership,
)
from experiments.division import reach
from experiments.tables import markdown

_ANY: Final = "epsilon of any mechanism"
_CURVE: Final = "the plan's own curve (Gaussian)"


def table(found: Membership) -> str:
    """Right guesses, bounds and verdicts of each program."""
    rows = []
    for one, bounds in found.rows():
        shares = [right / one.canaries for right in one.right]
        rows.append(
            [
                one.kind,
                _title(one),
                f"{len(one.right):,} x {one.canaries}",
                f"{fmean(shares):.1%} +-{reach(shares):.1%}",
                f"{bounds.any_mechanism:.2f}",
                f"{bounds.one:.2f} ({bounds.alone:,} of {len(one.right):,})",
                f"{bounds.f_dp:.2f}",
                f"{bounds.runs:.2f}",
                f"{one.epsilon:.3g}",
                _verdict(one, bounds),
            ]
        )
    heads = [
        "trained, mode",
        "noise",
        "trainings x canaries",
        "right guesses",
        f"{_ANY}, at least: all as one audit",
        f"{_CURVE}, as epsilon, at least: best of single trainings (refuted by so many alone)",
        "the same: all as one audit",
        "the same: all as independent runs",
        "the plan's epsilon",
        "verdict",
    ]
    return (
        f"{markdown(heads, rows)}\n\nRight guesses: mean with its 95 % interval over trainings "
        f"(Student). A plan promises a Gaussian curve (mu), and the epsilon at delta "
        f"{found.delta:g} that follows from it. The first bound is on epsilon, whatever the "
        "mechanism. The other three are on the curve: the epsilon, at that delta, of the least "
        "Gaussian curve that is not refuted. One above the plan's refutes the plan's curve. It is "
        "a bound on the program's own epsilon only if the program's curve is Gaussian, which it "
        "is not without noise; nor is it where people are sampled, whatever the noise: there the "
        "plan's curve only bounds the program's. Verdict: which of the two promises is refuted; "
        "where epsilon is, the curve is too."
    )


def table_of_power(found: Membership) -> str:
    """What the audit of each kind of training can see at all."""
    rows = []
    for one, bounds in found.rows():
        if one.noise != 1:
            continue
        power = bounds.power
        rows.append(
            [
                one.kind,
                f"{float(special.ndtr(one.mu / 2)):.1%}",
                f"{one.share:.1%}",
                f"{one.epsilon:.3g}",
                _or_none(power.any_of_one, one.epsilon),
                _or_none(power.curve_of_one, one.epsilon),
                _or_none(power.any_of_all, one.epsilon),
                f"below {bounds.visible:.0%} of the plan's"
                if bounds.visible > 0
                else f"none, at {min(SHARES_OF_NOISE[1:]):.0%} of the plan's and more",
            ]
        )
    heads = [
        "trained, mode",
        "right guesses that the plan's curve allows",
        "that ours reach on the product",
        "the plan's epsilon",
        f"one training, if every guess is right: {_ANY}, at least",
        f"likewise: {_CURVE}, as epsilon, at least",
        f"all trainings, if every guess is right: {_ANY}, at least",
        "all trainings, as ours guess: noise whose curve is refuted",
    ]
    return (
        f"{markdown(heads, rows)}\n\nBounds as in the table above, at its levels; none: even if "
        "every guess is right, the plan's epsilon is not passed, so that such an audit can refute "
        "nothing. Last column: the share of the plan's standard deviation at which as many "
        "trainings as the product's, as independent runs, would be expected to refute the plan's "
        "curve, and so do in about half of such audits (of its epsilon it says nothing); between "
        "the shares that were tried the guesser's skill is interpolated."
    )


def answer(found: Membership) -> str:
    """One sentence with the counts."""
    silent = [(one, bounds) for one, bounds in found.rows() if one.noise == 0]
    real = [(one, bounds) for one, bounds in found.rows() if one.noise == 1]
    trainings = sum(len(one.right) for one, _ in real)
    proved = " and ".join(
        f"{bounds.any_mechanism:.2f} and {bounds.curve:.2f} of {one.epsilon:.3g} ({one.kind})"
        for one, bounds in real
        if one.kind in (SCORECARD_JOINT, NETWORK_JOINT)
    )
    return (
        f"refuted without noise: {_refuted(silent)}; with it: {_refuted(real)} ({trainings:,} "
        "trainings). Lower bounds there, 95 % for all together, on epsilon for any mechanism and "
        f"on the plan's own curve, as epsilon: {proved}"
    )


def plot(found: Membership) -> Figure:
    """Both lower bounds of each build, beside the plans' epsilons."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    markers = dict(zip(SHARES_OF_NOISE, "ovsD", strict=True))
    names = list(dict.fromkeys(one.kind for one in found.builds))
    claims = {one.kind: one.epsilon for one in found.builds}
    for axes, what in zip(panels, (_ANY, _CURVE), strict=True):
        for noise in SHARES_OF_NOISE:
            chosen = [(one, bounds) for one, bounds in found.rows() if one.noise == noise]
            bests = [of.any_mechanism if what == _ANY else of.curve for _, of in chosen]
            axes.plot(
                [max(best, 0.02) for best in bests],
                [names.index(one.kind) for one, _ in chosen],
                markers[noise],
                color="black",
                fillstyle="full" if noise == 1 else "none",
                label=f"noise {_title(chosen[0][0])}" if what == _ANY else None,
            )
        for place, name in enumerate(names):
            axes.plot(
                [claims[name]] * 2, [place - 0.35, place + 0.35], color="black", linewidth=1.5
            )
        axes.set_xscale("log")
        axes.set_xlabel(what)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.supxlabel(
        "epsilon at least, 95 % for all together (0.02: nothing; bars: the plans')",
        fontsize="medium",
    )
    figure.legend(fontsize="small", loc="outside upper center", ncols=len(SHARES_OF_NOISE))
    return figure


def _refuted(builds: list[tuple[Build, Bounds]]) -> str:
    of_curve = sum(bounds.curve > one.epsilon for one, bounds in builds)
    of_any = sum(bounds.any_mechanism > one.epsilon for one, bounds in builds)
    return (
        f"the plan's own curve (Gaussian, mu) for {of_curve} of {len(builds)} kinds of training, "
        f"its epsilon for any mechanism for {of_any}"
    )


def _verdict(build: Build, bounds: Bounds) -> str:
    if bounds.any_mechanism > build.epsilon:
        return "**epsilon refuted**"
    return "**curve refuted**" if bounds.curve > build.epsilon else "not refuted"


def _or_none(bound: float, claim: float) -> str:
    return f"{bound:.2f}" if bound > claim else f"{bound:.2f}: none"


def _title(build: Build) -> str:
    if build.noise == 1:
        return "as planned"
    return f"{build.noise:g} of it" if build.noise else "none"
