"""What `run dropouts` found, for people."""

from typing import Final

from matplotlib.figure import Figure

from experiments.budget.dropouts import SPARE, Cell, Cheapest, Dropouts, share_ended
from experiments.budget.losing import Choice
from experiments.budget.quorums import ENOUGH, Cost, Course
from experiments.datasets import DATASETS
from experiments.tables import markdown

PROMISE: Final = (
    "Epsilon is that of one trained person at one institution, bins and all spare attempts "
    "included, at delta 1e-6, against the coordinator and c conspiring institutions, c as the row "
    "says; neighbours add or remove all rows of that person at that institution."
)
_LINES: Final = ("-", "--", ":", "-.")
_MARKERS: Final = ("o", "s", "^", "D")
_COLORS: Final = ("#0b6e99", "#c2552d", "#777777", "#444444")


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
        f"The least noise with which {ENOUGH:.0%} of trainings end (exact; noise over people, "
        f"times a trusted curator's), {'; '.join(parts)}"
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
        f"{markdown(heads, rows)}\n\nExact. Every plan promises epsilon {found.epsilon:g} against "
        f"c, over {found.rounds} rounds and the question for bins; against c + 1 nothing is "
        "promised where 2t <= n + c + 1, since two totals of one attempt might then be opened. "
        "Noise: standard deviation in a "
        "total that everybody is in, times that of a curator who is trusted with all records: "
        "sqrt(n / (m - c)) sqrt((T + R) / T), from the product's own pricing. A training ends if "
        "no more than R attempts fail; each institution is late in each attempt on its own."
    )


def bears_one_more(cost: Cost) -> bool:
    """Returns whether no two totals of an attempt can be opened by c + 1 conspiring either."""
    return 2 * cost.threshold > cost.choice.institutions + cost.choice.colluders + 1


def cheapest(found: Dropouts) -> str:
    """Returns the choice with the least noise for each rate, exact."""
    heads = ["institutions", "late or leaving", "late at each attempt: m, R", "noise over people"]
    heads += ["trainings that end", "minutes of waiting"]
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
        f"{markdown(heads, rows)}\n\nExact; c = 1. The least noise with which at least "
        f"{ENOUGH:.0%} of trainings end, among all quorums and up to 40 spare attempts. Noise over "
        "people: expected n / sqrt(a (m - c)) sqrt((T + R) / T), with a the answers in a total, "
        "times that of a curator who is trusted with everybody's records. Waiting: each attempt "
        f"that somebody is late for lasts the coordinator's deadline, {found.deadline:g} s unless "
        "told otherwise; whoever is not connected any more is waited for a few seconds only."
    )


def trained(found: Dropouts) -> str:
    """Returns test AUCs with institutions that are late, seeds of noise and losses."""
    heads = ["data", "m", "c", "R", "late", "noise, everybody in", "ended", "test AUC"]
    heads += ["spare attempts used", "smallest total", "epsilon reserved", "epsilon spent"]
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
                f"{sum(one.ended for one in cell.runs)} of {len(cell.runs)}",
                _auc(cell),
                *_spent(cell),
            ]
        )
    first = found.trained[0]
    return (
        f"{markdown(heads, rows)}\n\nWhole masked trainings of {first.choice.institutions} "
        f"institutions, {found.rounds} rounds, split seed 0, {len(first.runs)} seeds, each of the "
        "noise and of who is late; 95 % intervals over those that ended (Student). Whoever is late "
        "has paid; attempts that failed were given up and refunded. Spent: at the institution "
        "that paid most, from its ledger, mean over seeds; what was not spent is released."
    )


def lost(found: Dropouts) -> str:
    """Returns how many trainings end if any message may be lost."""
    heads = ["m", "messages lost"]
    heads += [f"ended with R = {spare}" for spare in SPARE]
    heads += ["spare attempts used", "smallest total", "epsilon reserved", "epsilon spent, R = 5"]
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
        f"{markdown(heads, rows)}\n\nWhole masked trainings of {found.lost[0].choice.institutions} "
        f"institutions, c = 1, {found.rounds} rounds, {len(found.lost[0].runs)} seeds; made-up "
        "people. Each message to an institution and its reply is lost with this probability, in "
        "half of the cases before and in half after the institution has acted on it: also when "
        "survivors sign and release, where all of them are needed and each is asked twice. Shares "
        "with 95 % intervals (Clopper and Pearson). Spent: mean over all seeds, ended or not."
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
    if cell.auc is None:
        return "none ended"
    mean, reach = cell.auc
    return f"{mean:.4f} +-{reach:.4f}" if reach < 1 else f"{mean:.4f} (one seed)"


def _spent(cell: Cell) -> list[str]:
    runs = cell.runs
    return [
        f"{sum(one.retries for one in runs) / len(runs):.1f}",
        str(min(one.fewest for one in runs)),
        f"{runs[0].reserved:.3f}",
        f"{sum(one.spent for one in runs) / len(runs):.3f}",
    ]


def _share(cell: Cell, spare: int) -> str:
    share, low, high = share_ended(cell, spare)
    return f"{share:.0%} ({low:.0%} to {high:.0%})"
