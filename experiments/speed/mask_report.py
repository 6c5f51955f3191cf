"""What `run masks` found, as a sentence, tables and a plot."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.speed.mask_peers import Ckks, FlowerOpening
from experiments.speed.mask_rounds import Round
from experiments.speed.masks import MaskCosts, OfWord, Ours, Uploading
from experiments.tables import (
    GREY,
    OURS,
    PEER,
    Middle,
    error_bars,
    in_brackets,
    markdown,
    middle,
    ratio,
)
from federation.secure_aggregation.words import WORD_BITS

_COLORS: Final = {32: OURS, 64: "#4aa3c7"}
_MARKERS: Final = {32: "o", 64: "s"}
_NOTHING: Final = "-"
_ONCE: Final = "Measured once, so without a range."


def answer(found: MaskCosts) -> str:
    """Returns the answer in one sentence."""
    parts = []
    ratios = [_flower(one, ours) for one in found.uploads if one.flower for ours in one.ours]
    if ratios:
        opened = [_times(flower, ours) for flower, ours in _pairs(found)]
        parts.append(
            f"an upload takes {_span(ratios)} times less CPU than with Flower's SecAgg+, opening "
            f"a total at least {min(opened):,.0f} times less (measured once)"
        )
    limits = [
        _figure(ours, lambda o: o.total / o.limit) for one in found.uploads for ours in one.ours
    ]
    parts.append(
        f"an upload takes {_span(limits)} times what AES-CTR and addition alone take (lowest "
        "and highest median of all settings; in brackets the ends of their ranges, which are "
        f"{in_brackets(*_turns(found))} of each setting)"
    )
    masks, notes = _shares(found)
    parts.append(
        f"masks are {masks:.0%} of the demo's CPU time, notes on disk {notes:.0%} (measured once)"
    )
    return "; ".join(parts) + _missing(found)


def uploads(found: MaskCosts) -> str:
    """Returns CPU milliseconds of one institution's upload, ours and Flower's."""
    heads = ["numbers", "institutions", "word", "limit", "masks", "all of the upload"]
    heads += ["Flower", "of it masks", "Flower / ours", "limit / masks", "limit / upload"]
    rows = [
        [
            f"{one.parameters:,}",
            str(one.institutions),
            f"{ours.bits} bits",
            f"{_figure(ours, lambda o: o.limit):.2f}",
            f"{_figure(ours, lambda o: o.mask):.2f}",
            f"{middle(ours.totals):.2f}",
            *(
                [
                    f"{middle(peer.total for peer in one.flower):.1f}",
                    f"{middle(peer.mask for peer in one.flower):.1f}",
                    f"{_flower(one, ours):.1f}",
                ]
                if one.flower
                else [_NOTHING] * 3
            ),
            f"{_figure(ours, lambda o: o.limit / o.mask):.2f}",
            f"{_figure(ours, lambda o: o.limit / o.total):.2f}",
        ]
        for one in found.uploads
        for ours in one.ours
    ]
    (turns,) = set(_turns(found))
    in_a_row = len(found.uploads[0].ours[0].turns[0])
    return (
        f"{markdown(heads, rows)}\n\nMedians of {turns} turns, each with one upload of Flower's "
        f"and the median of {in_a_row} of ours for each word; ratios turn by turn; in brackets "
        f"{in_brackets(turns)}.{_versions(found)}"
    )


def openings(found: MaskCosts) -> str:
    """Returns CPU seconds of the coordinator for one total, ours and Flower's."""
    heads = ["numbers", "word", "dropped", "opening", "checking shares", "Flower: adding"]
    heads += ["rebuilding secrets", "unmasking", "Flower / opening", "Flower / both"]
    flower = {(one.parameters, one.dropped): one for one in found.flower_openings}
    rows = []
    for one in found.openings:
        peer = flower.get((one.parameters, one.dropped))
        spent = one.coordinator.seconds
        opening, checking = spent["opening"], spent["checking shares"]
        rows.append(
            [
                f"{one.parameters:,}",
                f"{one.bits} bits",
                str(one.dropped),
                f"{opening:.3f}",
                f"{checking:.3f}",
                *(
                    [_NOTHING] * 5
                    if peer is None
                    else [
                        f"{peer.add:.3f}",
                        f"{peer.combine:.1f}",
                        f"{peer.unmask:.3f}",
                        f"{peer.total / opening:,.0f}",
                        f"{peer.total / (opening + checking):,.0f}",
                    ]
                ),
            ]
        )
    return f"{markdown(heads, rows)}\n\n{_ONCE}"


def schemes(found: MaskCosts) -> str:
    """Returns what a vector costs under masks and under CKKS."""
    heads = ["numbers", "scheme", "upload, ms", "upload, MB", "server, ms an upload"]
    heads += ["client afterwards, ms"]
    sizes = dict.fromkeys(one.parameters for one in found.uploads)
    rows = [row for parameters in sizes for row in _schemes(found, parameters)]
    turns = [*_turns(found), *(len(_ckks(found, parameters)) for parameters in sizes)]
    return (
        f"{markdown(heads, rows)}\n\nMedians; in brackets {in_brackets(*filter(None, turns))}. "
        "A time without brackets was measured once, so has no range. CKKS was not measured in "
        "turns with the others."
    )


def _schemes(found: MaskCosts, parameters: int) -> Iterable[list[str]]:
    largest = [one for one in found.uploads if one.parameters == parameters][-1]
    institutions = largest.institutions
    rounds = {
        one.bits: one for one in found.openings if one.parameters == parameters and not one.dropped
    }
    for ours in largest.ours:
        of_round = rounds[ours.bits]
        yield _scheme(
            parameters,
            f"masks, {ours.bits} bits, {institutions} institutions",
            upload=middle(ours.totals),
            nbytes=ours.nbytes,
            server=f"{1000 * sum(of_round.coordinator.seconds.values()) / institutions:.1f}",
            after=f"{1000 * of_round.institution.seconds['survivors']:.1f}",
        )
    opening = next(
        (one for one in found.flower_openings if one.parameters == parameters and not one.dropped),
        None,
    )
    if largest.flower and opening is not None:
        yield _scheme(
            parameters,
            f"Flower SecAgg+, {institutions} institutions",
            upload=middle(one.total for one in largest.flower),
            nbytes=largest.flower[0].nbytes,
            server=f"{1000 * opening.total / institutions:.1f}",
            after=_NOTHING,
        )
    if turns := _ckks(found, parameters):
        yield _scheme(
            parameters,
            "CKKS as NVFlare, any number",
            upload=middle(one.encrypt for one in turns),
            nbytes=turns[0].nbytes,
            server=f"{middle(one.add for one in turns):.1f}",
            after=f"{middle(one.decrypt for one in turns):.1f}",
        )


def _scheme(
    parameters: int,
    name: str,
    *,
    upload: Middle,
    nbytes: int,
    server: str,
    after: str,
) -> list[str]:
    return [f"{parameters:,}", name, f"{upload:.1f}", f"{nbytes / 1e6:.2f}", server, after]


def rounds(found: MaskCosts) -> str:
    """Returns what whole rounds of a small sum cost each side."""
    heads = ["institutions", "t", "dropped", "institution, ms", "of it upload", "kB sent"]
    heads += ["kB received", "coordinator, s", "MB received", "MB sent"]
    rows = [
        [
            str(one.institutions),
            str(one.threshold),
            str(one.dropped),
            f"{1000 * sum(one.institution.seconds.values()):.1f}",
            f"{1000 * one.institution.seconds['upload']:.1f}",
            f"{sum(one.institution.sent.values()) / 1e3:.1f}",
            f"{sum(one.institution.received.values()) / 1e3:.1f}",
            f"{sum(one.coordinator.seconds.values()):.2f}",
            f"{sum(one.coordinator.received.values()) / 1e6:.2f}",
            f"{sum(one.coordinator.sent.values()) / 1e6:.2f}",
        ]
        for one in found.rounds
    ]
    sessions = "; ".join(
        f"{one.institutions} institutions: {1000 * one.institution.seconds['session']:.0f} ms and "
        f"{sum(one.institution.received.values()) / 1e3:.0f} kB received by each, "
        f"{one.coordinator.seconds['session']:.2f} s at the coordinator"
        for one in found.sessions
    )
    return f"{markdown(heads, rows)}\n\nA session, once: {sessions}. {_ONCE}"


def demo(found: MaskCosts) -> str:
    """Returns where the demo's time goes."""
    one = found.demo
    parts = {**one.parts, "all else": one.seconds - sum(one.parts.values())}
    rows = [
        [part, f"{1000 * seconds / one.questions:.1f}", f"{seconds / one.seconds:.1%}"]
        for part, seconds in parts.items()
    ]
    rows.append(["everything", f"{1000 * one.seconds / one.questions:.1f}", "100.0%"])
    return f"{markdown(['part', 'CPU ms a round, all parties', 'share'], rows)}\n\n{_ONCE}"


def plot(found: MaskCosts) -> Figure:
    """Uploads against the number of institutions; whole rounds against the same."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    largest = max(one.parameters for one in found.uploads)
    shown = [one for one in found.uploads if one.parameters == largest]
    counts = [one.institutions for one in shown]
    for place, bits in enumerate(WORD_BITS):
        ours = [one.ours[place] for one in shown]
        color = _COLORS[bits]
        look = {"color": color, "marker": _MARKERS[bits]}
        _curve(left, counts, [middle(o.totals) for o in ours], **look, label=f"{bits} bits")
        limits = [_figure(o, lambda upload: upload.limit) for o in ours]
        label = f"AES-CTR and addition alone, {bits} bits"
        _curve(left, counts, limits, **look, fillstyle="none", linestyle=":", label=label)
    flower = [middle(peer.total for peer in one.flower) for one in shown if one.flower]
    if flower:
        _curve(left, counts, flower, color=PEER, marker="^", label="Flower SecAgg+")
    if turns := _ckks(found, largest):
        encrypt, label = middle(one.encrypt for one in turns), "CKKS as NVFlare"
        left.axhline(encrypt.median, color=GREY, linestyle="--", linewidth=1, label=label)
        left.axhspan(encrypt.low, encrypt.high, color=GREY, alpha=0.2)
    left.set_title(f"one upload of {largest:,} numbers")
    left.set_ylabel("CPU ms")
    for dropped, line in ((0, "-"), (1, "--")):
        of_kind = [one for one in found.rounds if one.dropped == dropped]
        sizes = [one.institutions for one in of_kind]
        each = [1000 * sum(one.institution.seconds.values()) for one in of_kind]
        all_of_it = [1000 * sum(one.coordinator.seconds.values()) for one in of_kind]
        name = "one dropped" if dropped else "nobody dropped"
        label = f"institution, {name}"
        right.plot(sizes, each, color=_COLORS[32], linestyle=line, marker="o", label=label)
        label = f"coordinator, {name}"
        right.plot(sizes, all_of_it, color=PEER, linestyle=line, marker="^", label=label)
    right.set_title(f"one round of {found.rounds[0].parameters:,} numbers, measured once")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("institutions")
        axes.legend(fontsize=8)
    for axes, ticks in ((left, counts), (right, sizes)):
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    return figure


def _curve(axes: Axes, counts: list[int], middles: list[Middle], **look: Any) -> None:  # noqa: ANN401  matplotlib's
    medians = [one.median for one in middles]
    axes.errorbar(counts, medians, yerr=error_bars(middles), capsize=3, **look)


def _figure(ours: OfWord, figure: Callable[[Ours], float]) -> Middle:
    return middle(ours.of_turns(figure))


def _flower(one: Uploading, ours: OfWord) -> Middle:
    """Returns how many times as long Flower's upload takes as ours."""
    return ratio((peer.total for peer in one.flower), ours.totals)


def _span(ratios: Sequence[Middle]) -> str:
    """Returns the lowest and the highest median, and how far their ranges reach."""
    medians = [one.median for one in ratios]
    low, high = min(one.low for one in ratios), max(one.high for one in ratios)
    return f"{min(medians):.1f} to {max(medians):.1f} ({low:.1f} to {high:.1f})"


def _turns(found: MaskCosts) -> list[int]:
    return [len(ours.turns) for one in found.uploads for ours in one.ours]


def _ckks(found: MaskCosts, parameters: int) -> list[Ckks]:
    return [one for one in found.ckks if one.parameters == parameters]


def _pairs(found: MaskCosts) -> list[tuple[FlowerOpening, Round]]:
    return [
        (flower, ours)
        for flower in found.flower_openings
        for ours in found.openings
        if (flower.parameters, flower.dropped) == (ours.parameters, ours.dropped)
    ]


def _times(flower: FlowerOpening, ours: Round) -> float:
    spent = ours.coordinator.seconds
    return flower.total / (spent["opening"] + spent["checking shares"])


def _shares(found: MaskCosts) -> tuple[float, float]:
    """Returns the shares of masks and of notes on disk in the demo's CPU time."""
    parts = dict(found.demo.parts)
    notes = parts.pop("notes on disk")
    return sum(parts.values()) / found.demo.seconds, notes / found.demo.seconds


def _missing(found: MaskCosts) -> str:
    return f"; not installed, so not compared: {', '.join(found.missing)}" if found.missing else ""


def _versions(found: MaskCosts) -> str:
    peers = ", ".join(f"{name} {version}" for name, version in found.peers.items())
    return f" Peers: {peers or 'none'}{_missing(found)}."
