"""What `run dropouts` found, for people."""

from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure

from experiments.budget.dropouts import SPARE, Cell, Cheapest, Dropouts, share_ended
from experiments.budget.losing import DELTA, Choice
from experiments.budget.quorums import ENOUGH, MOST_SPARE, Cost, Course
from experiments.datasets import DATASETS
from experiments.division import reach
from experiments.tables import GREY, OURS, PEER, markdown, mean

PROMISE: Final = (
    "Epsilon is that of one trained person at one institution, bins and all spare attempts "
    f"included, at delta {DELTA:g}, against the coordinator and c conspiring institutions, c as "
    "is said; neighbours add or remove all rows of that person at that institution."
)
_SYMBOLS: Final = {
    "n": "institutions invited",
    "m": "quorum, the answers that a total needs",
    "c": "institutions that may conspire with the coordinator",
    "t": "shares that open a total",
    "T": "rounds",
    "R": "spare attempts",
    "a": "answers in a total",
}
_SPENT: Final = ("smallest total seen, institutions", "epsilon reserved, exact")
_LINES: Final = ("-", "--", ":", "-.")
_MARKERS: Final = ("o", "s", "^", "D")
_COLORS: Final = (OURS, PEER, GREY, "#444444")


def answer(found: Dropouts) -> str:
    """Returns one sentence."""
    parts = []
    for size in dict.fromkeys(one.institutions for one in found.cheapest):
        ways = ", ".join(
            f"{one.rate:.0%}: {_brief(one.late)}"
            for one in found.cheapest
            if one.institutions == size
        )
        parts.append(f"of {size} institutions, late at each attempt {ways}")
    return (
        f"The least noise with which {ENOUGH:.0%} of trainings end (exact; quorum m, spare "
        "attempts R, noise over people, times a trusted curator's; one institution may conspire "
        f"with the coordinator), {'; '.join(parts)}"
    )


def choices(found: Dropouts) -> str:
    """Returns what each choice costs and how many trainings end, exact."""
    rates = list(dict.fromkeys(one.rate for one in found.courses))
    heads = ["n", "m", "c", "t", "R", "noise", "epsilon for the noise of m = n, c = 1, R = 0"]
    heads += ["epsilon against c + 1", "epsilon against the coordinator alone"]
    heads += [f"ends, {rate:.0%} late" for rate in rates]
    heads += [f"attempts a question, {rates[-1]:.0%} late"] if rates else []
    rows = []
    for one in found.costs:
        courses = [course for course in found.courses if course.choice == one.choice]
        rows.append(
            [
                *_names(one.choice, one),
                f"{one.noise:.3f}",
                f"{one.same_noise:.3f}",
                f"{one.one_more:.3f}" if bears_one_more(one) else "nothing",
                f"{one.alone:.3f}",
                *(f"{course.ends:.1%}" for course in courses),
                *(_attempts(course) for course in courses[-1:]),
            ]
        )
    return (
        f"{markdown(heads, rows)}\n\nExact. {_symbols('nmctRT')} Every plan promises epsilon "
        f"{found.epsilon:g} against c of them and the coordinator, over T = {found.rounds} rounds "
        "and the question for bins; against c + 1 nothing is "
        "promised where 2t <= n + c + 1, since two totals of one attempt might then be opened. "
        f"{PROMISE} Epsilon for the noise of another choice: what this choice promises against c "
        "if it adds only that choice's noise. "
        "Noise: standard deviation in a "
        "total that everybody is in, times that of a curator who is trusted with all records: "
        "sqrt(n / (m - c)) sqrt((T + R) / T), from the product's own pricing. A training ends if "
        "no more than R attempts fail: its probability; each institution is late in each attempt "
        "on its own, with the probability said. Attempts a question: expected, if they never ran "
        "out."
    )


def bears_one_more(cost: Cost) -> bool:
    """Returns whether no two totals of an attempt can be opened by c + 1 conspiring either."""
    return 2 * cost.threshold > cost.choice.institutions + cost.choice.colluders + 1


def cheapest(found: Dropouts) -> str:
    """Returns the choice with the least noise for each rate, exact."""
    heads = ["institutions", "late or leaving", "late at each attempt: m, R", "noise over people"]
    heads += ["trainings that end", "expected minutes of waiting"]
    heads += ["leaving for good: m", "noise over people", "trainings that end"]
    rows = [
        [
            str(one.institutions),
            f"{one.rate:.0%}",
            *_late(one, found),
            *(
                ["none", "", ""]
                if one.gone is None
                else [
                    str(one.gone.choice.quorum),
                    f"{one.gone.noise:.3f}",
                    f"{one.gone.ends_if_gone:.1%}",
                ]
            ),
        ]
        for one in found.cheapest
    ]
    return (
        f"{markdown(heads, rows)}\n\nExact, for c = 1 and T = {found.rounds}. "
        f"{_symbols('nmcRTa')} The least noise with which at least "
        f"{ENOUGH:.0%} of trainings end, among all quorums and up to {MOST_SPARE} spare attempts; "
        "trainings that end: a probability. Noise over people: expected "
        "n / sqrt(a (m - c)) sqrt((T + R) / T), which is the noise at equal epsilon, delta and "
        "rounds, times that of a curator who is trusted with everybody's records. Waiting: each "
        "attempt "
        f"that somebody is late for lasts the coordinator's deadline, {found.deadline:g} s unless "
        "told otherwise; whoever is not connected any more is waited for a few seconds only."
    )


def trained(found: Dropouts) -> str:
    """Returns test AUCs with institutions that are late, seeds of noise and losses."""
    heads = ["data", "m", "c", "R", "late", "noise, everybody in, exact", "ended", "test AUC"]
    heads += ["spare attempts used", *_SPENT, "epsilon spent"]
    costs = {_key(one.choice): one.noise for one in found.costs}
    rows = []
    for cell in found.trained:
        choice = cell.choice
        noise = costs.get(_key(choice))
        rows.append(
            [
                DATASETS[cell.dataset].title,
                str(choice.quorum),
                str(choice.colluders),
                str(choice.spare_attempts),
                f"{cell.rate:.0%}",
                "" if noise is None else f"{noise:.3f}",
                _share(cell, choice.spare_attempts),
                _auc(cell),
                *_spent(cell),
            ]
        )
    first = found.trained[0]
    return (
        f"{markdown(heads, rows)}\n\nWhole masked trainings of n = {first.choice.institutions} "
        f"institutions, T = {found.rounds} rounds, split seed 0, {len(first.runs)} seeds, each of "
        f"the noise and of who is late. {_symbols('nmcRT')} Late: an institution, at each attempt. "
        "Noise: standard deviation in a total that everybody is in, times a trusted curator's at "
        f"equal epsilon. {_intervals(len(first.runs))} Test AUC: mean over those that ended. "
        "Whoever is late has paid; attempts that failed were given up and refunded. Spent: at the "
        f"institution that paid most, from its ledger; what was not spent is released. {PROMISE}"
    )


def lost(found: Dropouts) -> str:
    """Returns how many trainings end if any message may be lost."""
    heads = ["m", "messages lost"]
    heads += [f"ended with R = {spare}" for spare in SPARE]
    most = SPARE[-1]
    heads += [f"spare attempts used, R = {most}", *_SPENT, f"epsilon spent, R = {most}"]
    rows = [
        [
            str(cell.choice.quorum),
            f"{cell.rate:.0%}",
            *(_share(cell, spare) for spare in SPARE),
            *_spent(cell),
        ]
        for cell in found.lost
    ]
    return (
        f"{markdown(heads, rows)}\n\nWhole masked trainings of "
        f"n = {found.lost[0].choice.institutions} institutions, c = 1, T = {found.rounds} rounds, "
        f"{len(found.lost[0].runs)} seeds; made-up people. {_symbols('nmcRT')} Each "
        "message to an institution and its reply is lost with this probability, in "
        "half of the cases before and in half after the institution has acted on it: also when "
        "survivors sign and release, where all of them are needed and each is asked twice. "
        f"{_intervals(len(found.lost[0].runs))} Spent: at the institution that paid most, from its "
        f"ledger. {PROMISE}"
    )


def plot(found: Dropouts) -> Figure:
    """How many trainings end against the noise that it takes, and what lost messages do."""
    figure = Figure(figsize=(8.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = list(dict.fromkeys(one.institutions for one in found.cheapest))
    for number, size in enumerate(sizes):
        listed = [one for one in found.cheapest if one.institutions == size]
        for gone in (False, True):
            ways = [(one.rate, one.gone if gone else one.late) for one in listed]
            known = [(rate, course.noise) for rate, course in ways if course is not None]
            left.plot(
                [rate for rate, _ in known],
                [noise for _, noise in known],
                color=_COLORS[number],
                linestyle="--" if gone else "-",
                marker=_MARKERS[2 * number + gone],
                label=f"{size} institutions, {'leaving for good' if gone else 'late'}",
            )
    left.set_xlabel("share that is late, or leaves")
    left.set_ylabel("noise over people, times a trusted curator's")
    left.set_title(f"least noise with which {ENOUGH:.0%} end", fontsize=9)
    left.legend(fontsize=7)
    quorums = list(dict.fromkeys(cell.choice.quorum for cell in found.lost))
    for number, quorum in enumerate(quorums):
        cells = [cell for cell in found.lost if cell.choice.quorum == quorum]
        for place, spare in enumerate(SPARE):
            shares = [share_ended(cell, spare) for cell in cells]
            right.errorbar(
                [cell.rate + 0.002 * (place - 1) for cell in cells],
                [share for share, _, _ in shares],
                yerr=[
                    [share - low for share, low, _ in shares],
                    [high - share for share, _, high in shares],
                ],
                color=_COLORS[number],
                linestyle=_LINES[place],
                marker=_MARKERS[place],
                capsize=2,
                label=f"m = {quorum}, R = {spare}",
            )
    right.set_xlabel("messages lost")
    right.set_ylabel("share of trainings that end")
    right.set_ylim(-0.05, 1.05)
    right.legend(fontsize=7)
    return figure


def _brief(course: Course | None) -> str:
    if course is None:
        return "none"
    choice = course.choice
    return f"m = {choice.quorum}, R = {choice.spare_attempts}, {course.noise:.2f}"


def _attempts(course: Course) -> str:
    return f"{course.attempts:.2f}" if course.attempts < 1_000 else "above 1,000"


def _key(choice: Choice) -> tuple[int, ...]:
    return choice.institutions, choice.quorum, choice.colluders, choice.spare_attempts


def _names(choice: Choice, cost: Cost) -> list[str]:
    return [
        str(value)
        for value in (
            choice.institutions,
            choice.quorum,
            choice.colluders,
            cost.threshold,
            choice.spare_attempts,
        )
    ]


def _late(one: Cheapest, found: Dropouts) -> list[str]:
    if one.late is None:
        return ["none", "", "", ""]
    choice = one.late.choice
    somebody = 1 - (1 - one.rate) ** choice.institutions
    waits = (1 + found.rounds) * one.late.attempts * somebody * found.deadline / 60
    return [
        f"{choice.quorum}, {choice.spare_attempts}",
        f"{one.late.noise:.3f}",
        f"{one.late.ends:.1%}",
        f"{waits:.0f}",
    ]


def _auc(cell: Cell) -> str:
    found = [one.auc for one in cell.runs if one.auc is not None]
    return _mean(found, 4) if found else "none ended"


def _spent(cell: Cell) -> list[str]:
    """Returns spare attempts used, the smallest total, and epsilon reserved and spent."""
    runs = cell.runs
    return [
        _mean([one.retries for one in runs], 1),
        str(min(one.fewest for one in runs)),
        f"{runs[0].reserved:.3f}",
        _mean([one.spent for one in runs], 3),
    ]


def _mean(values: Sequence[float], digits: int) -> str:
    """Returns a mean over seeds with half of its 95 % interval (Student)."""
    half = "(one seed)" if len(values) < 2 else f"+-{reach(values):.{digits}f}"
    return f"{mean(values):.{digits}f} {half}"


def _share(cell: Cell, spare: int) -> str:
    share, low, high = share_ended(cell, spare)
    return f"{cell.ended(spare)} of {len(cell.runs)}: {share:.0%} ({low:.0%} to {high:.0%})"


def _symbols(names: str) -> str:
    """Returns what symbols of one letter mean, in one sentence."""
    return f"{'; '.join(f'{name}: {_SYMBOLS[name]}' for name in names)}."


def _intervals(seeds: int) -> str:
    """Returns how to read what was counted over seeds."""
    return (
        "Ended: share of seeds with its 95 % interval (Clopper and Pearson). Spare attempts and "
        "epsilon spent: mean over all seeds, ended or not, +- half of its 95 % interval (Student, "
        f"{seeds} seeds: +-0 only says that no seed differed). Rows share seeds, and with them "
        "draws of losses: their differences are not of independent runs. Smallest total: "
        "institutions in the smallest of all totals of all seeds, an extreme without interval; 0 "
        "where no total was opened with some seed. Reserved: what the plan promises, exact."
    )
