"""What `run scale` found, for people."""

from collections.abc import Callable, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.made_up import PEOPLE_EACH
from experiments.speed.growth import Expected, Law
from experiments.speed.scale import Scale
from experiments.speed.scale_nation import (
    LARGEST,
    Nation,
    Side,
    added,
    assumptions,
    bytes_of_training,
    nation_of,
    of_repeats,
    ranged,
    times,
)
from experiments.speed.scale_parts import BINS, EPSILON, FEATURES, NUMBERS, ROUNDS, Answering
from experiments.tables import GREY, OURS, PEER, markdown

PROMISE: Final = (
    f"Noise is that of plans which promise epsilon {EPSILON:g} to each person at one institution, "
    "bins and two spare attempts included, at delta min(1e-6, 1 / (10 N)), against the coordinator "
    "and just under a third of the institutions; neighbours add or remove all rows of that person "
    "at that institution."
)


def answer(found: Scale) -> str:
    """Returns one sentence."""
    nation = nation_of(found)
    plan = nation.plan
    return (
        f"A nation of {plan.people:,} people at {plan.institutions} institutions, extrapolated: "
        f"{_span(nation.apart)} a round if each has a machine of its own, upper bound "
        f"{_span(nation.together)}; {ROUNDS} rounds {_span(times(nation.apart, ROUNDS))}; "
        f"an institution computes {_span(nation.even.seconds)} of each, the coordinator "
        f"{_span(nation.coordinator.seconds)}; noise in a total {plan.step:,.0f} people, "
        f"{plan.step / nation.signal:.2g} of what sampling does (exact)"
    )


def nation(found: Scale) -> str:
    """Returns what a national run would take, with everything that it assumes."""
    one = nation_of(found)
    plan = one.plan
    heads = ["a nation", "an institution", "the largest institution", "the coordinator"]
    sides = (one.even, one.largest, one.coordinator)
    rows = [
        ["people", f"{plan.people // plan.institutions:,}", f"{LARGEST:,}", f"{plan.people:,}"],
        _row("CPU seconds a round: answer", sides, lambda side: _cell(side.answer)),
        _row("masks, shares, signatures", sides, lambda side: _cell(side.masks)),
        _row("ledger, records, envelopes", sides, lambda side: f"{side.other:.3f}"),
        _row(f"CPU seconds, {ROUNDS} rounds", sides, lambda side: _cell(_all(side))),
        _row("CPU seconds once: table, packing, session", sides, lambda side: _cell(side.once)),
        _row("kB sent a round", sides, lambda side: f"{side.sent / 1e3:,.0f}"),
        _row("kB received a round", sides, lambda side: f"{side.received / 1e3:,.0f}"),
        [*_row("MB sent, whole training", sides[:2], _sent), ""],
        [*_row("MB received, whole training", sides[:2], _received), ""],
        _row("MB of memory", sides, lambda side: f"{side.memory / 1e6:,.0f}"),
        _row("MB on disk", sides, lambda side: f"{side.disk / 1e6:,.1f}"),
    ]
    listed = "\n".join(f"{n}. {text}." for n, text in enumerate(assumptions(found), 1))
    return (
        f"{markdown(heads, rows)}\n\n{_walls(one)}\n\n{_noise_of(one)}\n\nExtrapolated, from "
        "this experiment's other tables. Intervals: 95 % of one further measurement for what "
        "follows a law or was measured once at this size, least to most of the repeats for what "
        "was measured more often, added end to end; ledger, carrying and polling have none. "
        "Memory: the most of one process; the coordinator's is of all parties in one process, an "
        "upper bound. "
        f"Assumed:\n\n{listed}"
    )


def people(found: Scale) -> str:
    """Returns an institution's answer by its people, and the laws."""
    heads = ["people", "answer, CPU s", "packing once, CPU s", "reading a table once, CPU s"]
    heads += ["MB read", "MB on disk", "peak MB", "law's answer"]
    listed = [(one, "") for one in found.answering]
    if found.unseen is not None:
        listed.append((found.unseen, ", not in the fit"))
    rows = [
        [
            f"{one.people:,}{note}",
            _repeats(one.step),
            _repeats(one.first_pass),
            _repeats(one.intake),
            f"{one.packed / 1e6:,.2f}",
            f"{(one.packed + one.snapshot) / 1e6:,.2f}",
            _peaks(one),
            _cell(found.step.at(one.people)),
        ]
        for one, note in listed
    ]
    laws = "; ".join(
        f"{title} {_law(law)}"
        for title, law in (
            ("an answer takes", found.step),
            ("packing", found.first_pass),
            ("reading a table", found.intake),
        )
    )
    return (
        f"{markdown(heads, rows)}\n\n{FEATURES} features of {BINS} bins; medians of runs in "
        "processes of their own (least to most), an answer's of five in each. The law's answer: "
        f"value and 95 % interval of one further measurement. Laws, CPU seconds: {laws}. "
        f"Coefficients with 95 % intervals, fitted to the rows above{_unseen(found)}. "
        f"{_machine(found)}"
    )


def institutions(found: Scale) -> str:
    """Returns what masks cost by the number of institutions."""
    heads = ["institutions", "t", "institution, CPU s", "kB sent", "kB received"]
    heads += ["coordinator, CPU s", "MB received", "MB sent", "session once, CPU s", "peak MB"]
    rows = [
        [
            str(one.institutions),
            str(one.threshold),
            _repeats(one.institution),
            f"{one.sent / 1e3:,.1f}",
            f"{one.received / 1e3:,.1f}",
            _repeats(one.coordinator),
            f"{one.sent * one.institutions / 1e6:,.2f}",
            f"{one.received * one.institutions / 1e6:,.2f}",
            f"{one.session:.4f}",
            f"{one.peak_bytes / 1e6:,.0f}",
        ]
        for one in found.masking
    ]
    files = found.kept[-1]
    each = files.transcript / files.institutions / files.questions
    return (
        f"{markdown(heads, rows)}\n\nA round of {NUMBERS} numbers in 64-bit words in which nobody "
        "drops out, with real messages; just under a third may conspire. Medians of rounds (least "
        "to most); peak memory is of all parties in one process. Laws, CPU seconds, 95 % "
        f"intervals: an institution {_law(found.institution)}; the coordinator "
        f"{_law(found.coordinator)}. The transcript takes {each:,.0f} bytes a question and "
        f"institution ({files.institutions} of them, measured once). {_machine(found)}"
    )


def rounds(found: Scale) -> str:
    """Returns seconds that a round computes, by people and institutions."""
    heads = ["people", *(f"{one.institutions} institutions" for one in found.masking)]
    counts = dict.fromkeys(one.people for one in found.noise)
    rows = []
    for count in counts:
        cells = []
        for one in found.masking:
            each = count / one.institutions
            parts = (
                found.step.at(each),
                of_repeats(one.institution, found.institution, one.institutions),
                of_repeats(one.coordinator, found.coordinator, one.institutions),
            )
            star = " *" if each > found.step.largest else ""
            cells.append(f"{_cell(added(parts))}{star}")
        rows.append([f"{count:,}", *cells])
    return (
        f"{markdown(heads, rows)}\n\nCPU seconds from asking to the opened total if all "
        "institutions work at the same time, have equally many people, and nothing waits: an "
        "institution's answer by the law, its masks and the coordinator's part as measured. "
        "Intervals as above, added end to end. * beyond the people that the law was fitted to. "
        f"{_machine(found)}"
    )


def noise(found: Scale) -> str:
    """Returns the noise in a total by people and institutions, exact."""
    groups = list(dict.fromkeys(one.institutions for one in found.noise))
    heads = ["people", "delta", *(f"{group} institutions" for group in groups)]
    rows = []
    for count in dict.fromkeys(one.people for one in found.noise):
        cells = [one for one in found.noise if one.people == count]
        rows.append(
            [
                f"{count:,}",
                f"{cells[0].delta:.0e}",
                *(f"{one.step:,.0f} ({one.step / count:.1e})" for one in cells),
            ]
        )
    held = ", ".join(
        f"{one.quorum} of {one.institutions} against {one.colluders}"
        for one in found.noise[-len(groups) :]
    )
    return (
        f"{markdown(heads, rows)}\n\nExact: standard deviation of each number in a training "
        "round's total that everybody is in, in people, and as a share of all people; epsilon "
        f"{EPSILON:g}, {ROUNDS} rounds, two spare attempts. Quorum and conspiring institutions: "
        f"{held}. Which figure a nation gets depends on its people through delta alone."
    )


def whole(found: Scale) -> str:
    """Returns seconds and memory of whole trainings in one process."""
    heads = ["institutions", "people", "seconds of set-up", "seconds of training"]
    heads += ["ms a round and institution", "CPU seconds", "peak MB"]
    rows = [
        [
            f"{one.institutions:,}",
            f"{one.people:,}",
            f"{one.setting_up:.1f}",
            f"{one.training:.1f}",
            f"{1000 * found.each(one):.1f}",
            f"{one.cpu:.1f}",
            f"{one.peak_bytes / 1e6:,.0f}",
        ]
        for one in found.sizes
    ]
    return (
        f"{markdown(heads, rows)}\n\n{found.rounds} rounds, plain sums, {PEOPLE_EACH} people an "
        f"institution; each size once. {_machine(found)}"
    )


def plot(found: Scale) -> Figure:
    """Seconds by people and by institutions, with the laws."""
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for law, marker, color, label in (
        (found.step, "o", OURS, "an answer"),
        (found.first_pass, "s", GREY, "packing, once"),
        (found.intake, "^", PEER, "reading a table, once"),
    ):
        _draw(left, law, marker, color, label, beyond=10.0)
    if found.unseen is not None:
        unseen = found.unseen
        left.plot(unseen.people, unseen.step[0], "*", color="black", label="answer, not in the fit")
    left.set_xlabel("people of an institution")
    left.set_ylabel("CPU seconds")
    for law, marker, color, label in (
        (found.institution, "o", OURS, "an institution, a round"),
        (found.coordinator, "s", PEER, "the coordinator, a round"),
    ):
        _draw(right, law, marker, color, label, beyond=1.0)
    right.set_xlabel("institutions")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend(fontsize=7)
    return figure


def _draw(axes: Axes, law: Law, marker: str, color: str, label: str, *, beyond: float) -> None:
    sizes = [point.size for point in law.points]
    axes.plot(sizes, [point.value for point in law.points], marker, color=color, label=label)
    steps = 40
    ratio = beyond * max(sizes) / min(sizes)
    along = [min(sizes) * ratio ** (step / steps) for step in range(steps + 1)]
    expected = [law.at(size) for size in along]
    axes.plot(along, [one.value for one in expected], color=color, linestyle="--", linewidth=1)
    lowest = min(point.value for point in law.points) / 10
    axes.fill_between(
        along,
        [max(one.low, lowest) for one in expected],
        [one.high for one in expected],
        color=color,
        alpha=0.15,
    )


def _row(title: str, sides: Sequence[Side], cell: Callable[[Side], str]) -> list[str]:
    return [title, *(cell(side) for side in sides)]


def _all(side: Side) -> Expected:
    return times(side.seconds, ROUNDS)


def _sent(side: Side) -> str:
    return f"{bytes_of_training(side)[0] / 1e6:,.1f}"


def _received(side: Side) -> str:
    return f"{bytes_of_training(side)[1] / 1e6:,.1f}"


def _walls(one: Nation) -> str:
    return (
        f"Seconds on the clock, the largest institution waited for: a round {_cell(one.apart)} if "
        f"every party has a machine of its own, {ROUNDS} rounds {_cell(times(one.apart, ROUNDS))}; "
        "upper bound, with polling and carrying as if all institutions ran on the coordinator's "
        f"machine: a round {_cell(one.together)}, {ROUNDS} rounds "
        f"{_cell(times(one.together, ROUNDS))}."
    )


def _noise_of(one: Nation) -> str:
    plan = one.plan
    return (
        f"Noise at epsilon {EPSILON:g}, delta {plan.delta:.0e} (exact): standard deviation "
        f"{plan.step:,.0f} people in each number of a round's total, {plan.step / plan.people:.1e} "
        f"of all people and {plan.step / one.signal:.2g} of the signal; {plan.bins:,.0f} in each "
        "count for bins."
    )


def _cell(one: Expected) -> str:
    if one.high == 0:
        return "-"
    return f"{_digits(one.value)} ({_digits(max(one.low, 0.0))} to {_digits(one.high)})"


def _span(one: Expected) -> str:
    return f"{_digits(one.value)} s ({_digits(max(one.low, 0.0))} to {_digits(one.high)})"


def _digits(value: float) -> str:
    """Returns three digits that count, and all before the point."""
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def _repeats(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3g} (once)"
    return _cell(ranged(values))


def _peaks(one: Answering) -> str:
    low, high = min(one.peak_bytes) / 1e6, max(one.peak_bytes) / 1e6
    return f"{low:,.0f} to {high:,.0f}"


def _law(law: Law) -> str:
    names = {0: "", 1: " each", 2: " each pair"}
    terms = " + ".join(
        f"{value:.2e} +-{law.reach_of(place):.1e}{names[int(power)]}"
        for place, (power, value) in enumerate(zip(law.powers, law.coefficients, strict=True))
    )
    return f"{terms} ({len(law.points)} points, the worst off by {law.largest_error:.0%})"


def _unseen(found: Scale) -> str:
    if found.unseen is None:
        return ""
    expected = found.step.at(found.unseen.people)
    (measured,) = found.unseen.step
    return (
        f"; at {found.unseen.people:,} people, which the fit has not seen, the law is off by "
        f"{expected.value / measured - 1:+.0%}"
    )


def _machine(found: Scale) -> str:
    return f"A machine of {found.cores} cores; load before: {found.load:.1f}."
