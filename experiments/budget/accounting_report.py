"""What `run accountants` found, as tables, a sentence and a plot."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from matplotlib.figure import Figure

from experiments.budget.accountants import (
    ACCOUNTANTS,
    INTERVAL,
    LEDGER,
    MICROSOFT,
    PLAIN,
    PLD,
    PRV_ERROR,
    RDP,
    TIGHT,
    Count,
)
from experiments.budget.accounting import (
    AT_ONE,
    CHANGING,
    DELTAS,
    EPSILONS,
    YEARLY,
    Accounting,
    Case,
    Sum,
)
from experiments.budget.priced_plans import DELTA, KINDS
from experiments.tables import markdown

_SHORT: Final = (LEDGER, PLD, MICROSOFT, RDP, TIGHT)
_OTHERS: Final = {
    "evaluation": "held-out people: the evaluation",
    "institution's own": "institution mode, an institution",
}
_HEADLINE: Final = (
    "Headline: the epsilon that is printed for one plan on its own, at that plan's delta"
)
_KEY: Final = (
    "Computed, nothing is drawn: no intervals but those of an accountant's own error. "
    "Ledger: what the product states and charges, exact for sums over everybody (Gaussian "
    "differential privacy), an upper bound for sampled ones. PLD and RDP: upper bounds of "
    f"dp-accounting, asked by the product (PLD in cells of {INTERVAL:g}). PRV: from the lower to "
    f"the upper bound that it states, its error of epsilon set to {PRV_ERROR:g} each way and of "
    "delta to a thousandth; both count the removal of a person only. zCDP: upper bounds, "
    "converted by Canonne, Kamath and Steinke 2020 "
    "(best order) and by Bun and Steinke 2016; sampling does not help it. The Gaussian limit (Bu "
    "et al. 2020) is no bound: for sampled sums it may be too low."
)
_WHOM: Final = (
    "In local mode against everybody else, else against the coordinator and one institution; "
    "neighbours add or remove one person at one institution"
)
_COMPUTED: Final = (
    "Computed, as in the table above: the ledger is exact for sums over everybody and an upper "
    "bound for sampled ones, the others are upper bounds, PRV from its lower one."
)


def at_one(found: Accounting) -> str:
    """Every kind of plan made for epsilon 1, counted in every way."""
    cases = [case for kind in AT_ONE if (case := found.at(kind)) is not None]
    names = [name for name in ACCOUNTANTS if any(name in case.counts for case in cases)]
    rows = [
        [_title(case), f"{case.sums:,}", *(_cell(case.counts.get(name)) for name in names)]
        for case in cases
    ]
    slack = max(abs(case.headline - (case.counts[LEDGER].epsilon or 0.0)) for case in cases)
    heads = ["everything that is answered", "noisy sums", *names]
    return (
        f"{markdown(heads, rows)}\n\nEpsilon at delta {DELTA:g}. {_KEY} {_WHOM}; the last line "
        "replaces an institution's updates by zero. What a plan states, its headline, adds the "
        f"sampler's own error to the ledger's figure, here at most {slack:.1g}.{_said(cases)}"
    )


def targets(found: Accounting) -> str:
    """Some kinds over epsilons."""
    cases = [
        case
        for kind in CHANGING
        for target in EPSILONS
        if (case := found.at(kind, target)) is not None
    ]
    return _followed(cases, "made for epsilon", [f"{case.target:g}" for case in cases]) + (
        f"\n\nEpsilon at delta {DELTA:g}. {_WHOM}. {_COMPUTED}"
    )


def deltas(found: Accounting) -> str:
    """Some kinds over deltas."""
    cases = [
        case
        for kind in CHANGING
        for delta in DELTAS
        if (case := found.at(kind, delta=delta)) is not None
    ]
    return _followed(cases, "at delta", [f"{case.delta:g}" for case in cases]) + (
        f"\n\nEpsilon, at other deltas, of plans made for epsilon 1 at delta {DELTA:g}. {_WHOM}. "
        f"{_COMPUTED}{_said(cases)}"
    )


def years(found: Accounting) -> str:
    """What several plans come to."""
    rows = []
    for year in found.years:
        for count in (1, 3, 10):
            if count > len(year.sums):
                continue
            one = year.sums[count - 1]
            rows.append(
                [
                    _title_of(year.name),
                    str(count),
                    f"{one.headlines:.3f}",
                    f"{one.ledger:.4f}",
                    *("refused" if way is None else f"{way:.4f}" for way in (one.pld, one.rdp)),
                    _above(one.ledger, one.pld),
                ]
            )
    heads = [
        "plans of epsilon 1", "how many", "headlines added up", "the ledger's one sum",
        "PLD of everything", "RDP of everything", "ledger over PLD",
    ]  # fmt: skip
    fits = "; ".join(
        f"{_title_of(year.name)} {year.fits} by the ledger's sum, "
        f"{_allowed(year.sums, 'headlines')} by adding headlines up, "
        f"{_allowed(year.sums, 'pld')} by PLD, {_allowed(year.sums, 'rdp')} by RDP"
        for year in found.years
    )
    return (
        f"{markdown(heads, rows)}\n\nEpsilon at delta {DELTA:g} of a person who is trained on in "
        "all of the plans, at one institution, against the coordinator and one institution "
        f"(neighbours add or remove that person). {_HEADLINE}; to add headlines up is basic "
        "composition, which holds at as many times that delta. All are computed upper bounds, the "
        "ledger's and PLD's exact (PLD's to its cells) where every sum is over everybody. Only "
        "the ledger's sum holds when a later plan's noise depends on earlier "
        "answers; PLD and RDP take the plans as fixed beforehand. Plans that fit in a yearly "
        f"epsilon of {YEARLY:g}: {fits}."
    )


def seconds(found: Accounting) -> str:
    """What counting takes."""
    names = list(found.clocks[0].seconds)
    rows = [
        [
            _title_of(clock.kind),
            *(
                f"{median(clock.seconds[name]):.3f} ({min(clock.seconds[name]):.3f} to "
                f"{max(clock.seconds[name]):.3f})"
                for name in names
            ),
        ]
        for clock in found.clocks
    ]
    repeats = len(found.clocks[0].seconds[names[0]])
    return (
        f"{markdown(['CPU seconds of one statement', *names], rows)}\n\nMedian (least to most) of "
        f"{repeats} runs, each with other noise; imports, which take seconds, are not counted. "
        f"Not at one precision: PRV is asked for +-{PRV_ERROR:g} in epsilon, PLD for losses in "
        f"steps of {INTERVAL:g}, RDP and zCDP have none to ask for. "
        "Once counted, the product remembers a sampled training's price."
    )


def answer(found: Accounting) -> str:
    """One sentence."""
    card = found.at("card")
    parts = []
    if card is not None:
        exact = card.counts[LEDGER].epsilon or 1.0
        over = {
            name: 100 * ((card.counts[name].epsilon or 0.0) / exact - 1)
            for name in (PLD, RDP, TIGHT, PLAIN)
        }
        parts.append(
            f"over everybody the ledger is exact (PLD {over[PLD]:+.4f}%, RDP {over[RDP]:+.1f}%, "
            f"zCDP {over[TIGHT]:+.1f}% and {over[PLAIN]:+.0f}%)"
        )
    sampled = [
        _above(case.counts[LEDGER].epsilon, case.counts[PLD].epsilon)
        for kind in CHANGING[1:]
        if (case := found.at(kind)) is not None
    ]
    parts.append(f"sampled it is dearer than PLD by {', '.join(sampled)}")
    for year in found.years:
        if len(year.sums) >= 10:
            ten = year.sums[9]
            parts.append(f"ten plans ({_title_of(year.name)}) {ten.ledger:.2f} for {ten.pld:.2f}")
    return (
        f"at epsilon 1 and delta {DELTA:g}, of a person at one institution, against the "
        f"coordinator and one institution: {'; '.join(parts)}"
    )


def plot(found: Accounting) -> Figure:
    """Epsilon of several plans together, one panel a sequence."""
    figure = Figure(figsize=(3.1 * len(found.years), 3.4), layout="constrained")
    for place, year in enumerate(found.years, start=1):
        axes = figure.add_subplot(1, len(found.years), place)
        plans = [one.plans for one in year.sums]
        for name, label, line, marker in (
            ("headlines", "headlines added up", ":", ""),
            ("rdp", "RDP of everything", "--", "^"),
            ("ledger", "the ledger's one sum", "-", "o"),
            ("pld", "PLD of everything", "-.", "s"),
        ):
            values = [getattr(one, name) for one in year.sums]
            axes.plot(
                plans, values, color="black", linestyle=line, marker=marker, markersize=3,
                linewidth=0.9, label=label,
            )  # fmt: skip
        axes.axhline(YEARLY, color="0.6", linewidth=0.8)
        axes.set_ylim(0, 2 * YEARLY)
        axes.set_xlabel("plans of epsilon 1")
        axes.set_ylabel(f"epsilon at delta {DELTA:g}")
        axes.set_title(_title_of(year.name), fontsize=8)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _followed(cases: Sequence[Case], head: str, values: Sequence[str]) -> str:
    rows = [
        [
            _title(case),
            value,
            *(_cell(case.counts.get(name)) for name in _SHORT),
            _above(case.counts[LEDGER].epsilon, case.counts[PLD].epsilon),
        ]
        for case, value in zip(cases, values, strict=True)
    ]
    return markdown(["plan", head, *_SHORT, "ledger over PLD"], rows)


def _cell(count: Count | None) -> str:
    if count is None:
        return ""
    mark = " *" if count.said else ""
    if count.epsilon is None:
        return f"none{mark}"
    if count.least is not None:
        return f"{count.least:.4f} to {count.epsilon:.4f}{mark}"
    return f"{count.epsilon:.4f}{mark}"


def _said(cases: Iterable[Case]) -> str:
    """Returns what accountants warned of or refused, each once."""
    words: dict[str, list[str]] = {}
    for case in cases:
        for name, count in case.counts.items():
            for said in count.said:
                names = words.setdefault(said, [])
                if name not in names:
                    names.append(name)
    if not words:
        return ""
    told = "; ".join(f'{", ".join(names)}: "{said}"' for said, names in words.items())
    return f" Marked *, and what was said: {told}."


def _above(value: float | None, other: float | None) -> str:
    if value is None or other is None:
        return ""
    return f"{100 * (value / other - 1):+.2f}%".replace("-0.00", "0.00").replace("+0.00", "0.00")


def _allowed(sums: Sequence[Sum], way: str) -> str:
    values = [getattr(one, way) for one in sums]
    within = sum(value is not None and value <= YEARLY for value in values)
    return f"{within} or more" if within == len(sums) else str(within)


def _title(case: Case) -> str:
    return _title_of(case.kind)


def _title_of(kind: str) -> str:
    if kind in _OTHERS:
        return _OTHERS[kind]
    if kind not in KINDS:
        return kind
    one = KINDS[kind]
    spare = f" + {one.spare}" if one.spare else ""
    who = ", a person" if kind == "institution" else ""
    steps = getattr(one.mode, "steps", 1) if kind.startswith("local") else 1
    return f"{one.title}{who}, {one.rounds}{spare} rounds" + (f" x {steps}" if steps > 1 else "")
