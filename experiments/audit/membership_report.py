"""What the canary audit found, as tables, a sentence and a plot."""

from statistics import fmean

from matplotlib.figure import Figure
from scipy import special

from experiments.audit.membership import (
    NETWORK_JOINT,
    SCORECARD_JOINT,
    SHARES_OF_NOISE,
    Build,
    Membership,
)
from experiments.division import reach
from experiments.tables import markdown


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
                f"{bounds.one:.2f}",
                f"{bounds.steinke:.2f}",
                f"{bounds.f_dp:.2f}",
                f"{bounds.runs:.2f}",
                f"{one.epsilon:.3g}",
                "**breaks it**" if bounds.largest > one.epsilon else "not refuted",
            ]
        )
    heads = [
        "trained, mode",
        "noise",
        "trainings x canaries",
        "right guesses",
        "epsilon at least: one training, the largest",
        "all as one audit, any mechanism",
        "all as one audit, Gaussian",
        "all as independent runs",
        "claim",
        "verdict",
    ]
    return (
        f"{markdown(heads, rows)}\n\nRight guesses: mean with its 95 % interval over trainings "
        "(Student). The last two bounds are the epsilon of the least Gaussian trade-off curve that "
        "is not refuted: of a build without noise, which is not Gaussian, they refute the plan's "
        "curve and are no epsilon of its own."
    )


def table_of_power(found: Membership) -> str:
    """What the audit of each kind of training can see at all."""
    rows = []
    for one, bounds in found.rows():
        if one.noise != 1:
            continue
        possible = float(special.ndtr(one.mu / 2))
        alone = f"{bounds.most:.2f}" + (
            ": none" if bounds.most <= one.epsilon else f", claim {one.epsilon:.3g}"
        )
        rows.append(
            [
                one.kind,
                f"{possible:.1%}",
                f"{one.share:.1%}",
                alone,
                f"below {bounds.visible:.0%} of the plan's"
                if bounds.visible > 0
                else f"none, at {min(SHARES_OF_NOISE[1:]):.0%} of the plan's and more",
            ]
        )
    heads = [
        "trained, mode",
        "right guesses that the claim allows",
        "that ours reach on the product",
        "power of one training: epsilon proved if every guess is right",
        "power of all together: noise that is seen to be too little",
    ]
    return (
        f"{markdown(heads, rows)}\n\nBounds as in the table above, at its levels. Of all together: "
        "the share of the plan's standard deviation at which as many trainings as the product's "
        "would be expected to break the claim, and so do in about half of such audits; between the "
        "shares that were tried the guesser's skill is interpolated."
    )


def answer(found: Membership) -> str:
    """One sentence with the counts."""
    real = [(one, bounds) for one, bounds in found.rows() if one.noise == 1]
    silent = [bounds for one, bounds in found.rows() if one.noise == 0]
    claims = [one.epsilon for one, _ in found.rows() if one.noise == 0]
    caught = sum(bounds.largest > claim for bounds, claim in zip(silent, claims, strict=True))
    accused = sum(bounds.largest > one.epsilon for one, bounds in real)
    trainings = sum(len(one.right) for one, _ in real)
    proved = " and ".join(
        f"{bounds.largest:.2f} of the {one.epsilon:.3g} claimed ({one.kind})"
        for one, bounds in real
        if one.kind in (SCORECARD_JOINT, NETWORK_JOINT)
    )
    return (
        f"without noise {caught} of {len(silent)} kinds of training are proved to break their "
        f"claim, with it {accused} of {len(real)} ({trainings:,} trainings); lower bounds on "
        f"epsilon there, 95 % for all together: {proved}"
    )


def plot(found: Membership) -> Figure:
    """The best lower bound of each build, beside the claims."""
    figure = Figure(figsize=(6.8, 3.8), layout="constrained")
    axes = figure.add_subplot()
    markers = dict(zip(SHARES_OF_NOISE, "ovsD", strict=True))
    names = list(dict.fromkeys(one.kind for one in found.builds))
    for noise in SHARES_OF_NOISE:
        chosen = [(one, bounds) for one, bounds in found.rows() if one.noise == noise]
        axes.plot(
            [max(bounds.largest, 0.02) for _, bounds in chosen],
            [names.index(one.kind) for one, _ in chosen],
            markers[noise],
            color="black",
            fillstyle="full" if noise == 1 else "none",
            label=f"noise {_title(chosen[0][0])}",
        )
    for place, name in enumerate(names):
        claim = next(one.epsilon for one in found.builds if one.kind == name)
        axes.plot([claim, claim], [place - 0.35, place + 0.35], color="black", linewidth=1.5)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("epsilon at least, 95 % for all together\n(0.02: nothing; bars: the claims)")
    figure.legend(fontsize="small", loc="outside upper center", ncols=len(SHARES_OF_NOISE))
    return figure


def _title(build: Build) -> str:
    if build.noise == 1:
        return "as planned"
    return f"{build.noise:g} of it" if build.noise else "none"
