"""The demo's report: one self-contained HTML file with plots.

Every figure and every verdict in it is computed here from what the trainings returned; the template
`report.html.jinja` holds the words around them.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from federation.errors import ConfigurationError
from federation.grid import NOT_HELD, FeatureGrid, Kind, code_of
from federation.model.evaluation import Figure, Quality
from federation.model.release import CardFeature, Release, require_scorecard
from federation.model.scoring import Scorer
from federation.plan import Plan
from federation.pricing import price_of, stddev_of_total
from federation.privacy.accountant import units_within
from federation.privacy.units import UNITS_PER_MU_SQUARED, Epsilon
from federation.query import Question
from federation.schema import Feature, Schema
from fedscore.demo.nation import EPSILON_LIFETIME, EPSILON_PER_YEAR
from fedscore.inspection import Member
from fedscore.simulation import Simulation

TEMPLATE: Final = Path(__file__).with_name("report.html.jinja")

_STATUS: Final = ("pay_0", "pay_2", "pay_3", "pay_4", "pay_5", "pay_6")
_EDUCATION: Final = ("graduate school", "university", "high school", "other")
_CATEGORIES: Final = {
    "education": {str(n): text for n, text in enumerate(_EDUCATION, 1)} | {"OTHER": "undocumented"},
    "sex": {"1": "men", "2": "women"},
    "marriage": {"1": "married", "2": "single", "OTHER": "other or undocumented"},
}
"""What the codes of the demo's data mean, as data/ATTRIBUTION.md has it."""

_PERSON: Final = {
    **{"limit_bal": 90_000, "education": 2, "age": 29},
    **dict(zip(_STATUS, (1, 2, 0, 0, -1, -1), strict=True)),
    **{f"bill_amt{n}": x for n, x in enumerate((61_400, 58_900, 44_200, 31_000, 12_800, 9_600), 1)},
    **{f"pay_amt{n}": x for n, x in enumerate((2_000, 1_500, 12_800, 9_600), 3)},
}
"""Nobody: an invented customer of a bank, which holds neither of the two latest payments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the demo ran: the federation as staged, and two others to compare its columns with.

    Attributes:
        plan: of all three.
        schema: of all three.
        as_staged: the platform lacks three columns, the banks two.
        shared_only: nobody has any of those five.
        everything: everybody has all of them.
    """

    plan: Plan
    schema: Schema
    as_staged: Simulation
    shared_only: Simulation
    everything: Simulation


def write_report(demo: Demo, path: Path) -> Path:
    """Writes the report and returns its path.

    Raises:
        ConfigurationError: the packages that draw it are not installed.
    """
    try:
        import jinja2  # noqa: PLC0415  of the extra `experiments`: whoever trains needs no plots

        from fedscore.demo import plots  # noqa: PLC0415  as above, it imports matplotlib
    except ImportError as error:
        raise ConfigurationError(
            f"The report needs {error.name}. Run `pip install 'fedscore[experiments]'`."
        ) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "group": lambda one: _CATEGORIES.get(one.feature, {}).get(one.group, one.group),
        "count": lambda number: _minus(f"{number:,.0f}"),
        "interval": _interval,
        "label": label_of,
        "percent": _percent,
        "power": _power,
        "promised": promised_to,
        "signed": _signed,
        "words": _words,
    }
    release = require_scorecard(demo.as_staged.release)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        plan=demo.plan,
        run=demo.as_staged,
        release=release,
        gains=gains_of(demo.as_staged.members),
        columns=tuple(columns_of(demo)),
        runs=(demo.shared_only, demo.as_staged, demo.everything),
        price=price_of(demo.plan, demo.schema),
        cost=cost_of(demo),
        features=features_of(release),
        count_noise=stddev_of_total(demo.plan, Question.BINS, release.institutions),
        person=person_of(release),
        plots=plots,
        exp=math.exp,
    )
    path.write_text(page, encoding="utf-8")
    return path


# How figures are written.


def _count(number: float) -> str:
    return _minus(f"{number:,.0f}")


def _percent(share: float | Figure, digits: int = 1) -> str:
    if isinstance(share, Figure):
        return _within(_percent(share.value), f"{100 * share.low:.1f}", f"{100 * share.high:.1f}")
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _interval(figure: Figure | None) -> str:
    if figure is None:
        return "\N{EN DASH}"
    return _within(*(f"{number:.3f}" for number in (figure.value, figure.low, figure.high)))


def _signed(number: float | Figure, digits: int = 4) -> str:
    if isinstance(number, Figure):
        return _within(*(_signed(one, digits) for one in (number.value, number.low, number.high)))
    text = f"{number:+.{digits}f}"
    return text[1:] if float(text) == 0 else _minus(text)


def _within(value: str, low: str, high: str) -> str:
    """Returns "value (low to high)" that a line can only break before the bracket."""
    return f"{value} ({low} to {high})".replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")


def _power(number: float) -> str:
    """Returns a small number as a power of ten with a raised exponent."""
    factor, _, exponent = f"{number:.2g}".partition("e")
    if not exponent:
        return factor
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if factor == "1" else f"{factor} \N{MULTIPLICATION SIGN} 10{raised}"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _words(number: int) -> str:
    names = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return names[number] if 0 <= number < len(names) else f"{number:,}"


def label_of(grid: FeatureGrid, label: str) -> str:
    """Returns "45,917 to 71,978" for "[45917, 71978)", and words for the codes of the demo."""
    if grid.kind is Kind.CATEGORY:
        known = _CATEGORIES.get(grid.name, {})
        return ", ".join(known.get(part, part) for part in label.split(", "))
    ends = re.fullmatch(r"\[(-?[0-9.]+), (-?[0-9.]+)[)\]]", label)
    if ends is None:
        return label
    low, high = (float(end) for end in ends.groups())
    shown = [f"{end:,.0f}" if abs(end) >= 1000 else f"{end:g}" for end in (low, high)]
    if low <= grid.edges[0]:
        return _minus(f"under {shown[1]}")
    return _minus(f"{shown[0]} or more" if high >= grid.upper else " to ".join(shown))


# 2. What the institutions gained.


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """What the paired gains say together; two institutions never share a person.

    Attributes:
        above: titles of those whose interval lies above zero.
        below: titles of those whose interval lies below zero.
        mean: every institution counted alike.
        weighted: every held-out person counted alike.
    """

    above: tuple[str, ...]
    below: tuple[str, ...]
    mean: Figure | None
    weighted: Figure | None


def gains_of(members: Sequence[Member]) -> Gains:
    """Returns what the paired gains of some institutions say together."""
    known = [(one, one.gain) for one in members if one.gain is not None]
    gains = [gain for _, gain in known]
    return Gains(
        above=tuple(one.title for one, gain in known if gain.low > 0),
        below=tuple(one.title for one, gain in known if gain.high < 0),
        mean=average(gains, [1.0] * len(gains)),
        weighted=average(gains, [float(one.held_out) for one, _ in known]),
    )


def average(figures: Sequence[Figure], weights: Sequence[float]) -> Figure | None:
    """Returns the weighted mean of independent estimates with its interval, None of none."""
    total = sum(weights)
    if not figures or total <= 0:
        return None
    parts = [(weight / total, figure) for weight, figure in zip(weights, figures, strict=True)]
    value = sum(share * figure.value for share, figure in parts)
    reach = math.sqrt(sum((share * (f.high - f.low) / 2) ** 2 for share, f in parts))
    return Figure(value=value, low=value - reach, high=value + reach)


# 3. What columns cost and give.


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnsRow:
    """Institutions that hold the same columns, and the national card's AUC on their people.

    Attributes:
        titles: who they are.
        lacks: columns that they do not hold.
        holds: columns that others lack and they hold.
        shared_only: AUC if nobody holds any of the columns that somebody lacks.
        as_staged: AUC as they really stand; of several, the mean by held-out people.
        everything: AUC if everybody holds all.
        known_to: half the interval of the gain of section 2 on the same people: a yardstick.
    """

    titles: tuple[str, ...]
    lacks: tuple[str, ...]
    holds: tuple[str, ...]
    shared_only: Figure | None
    as_staged: Figure | None
    everything: Figure | None
    known_to: float


def columns_of(demo: Demo) -> Iterator[ColumnsRow]:
    """Yields a row for each set of institutions that lack the same columns, in their order."""
    members = demo.as_staged.members
    hidden = {name for one in members for name in one.not_held}
    in_order = [feature.name for feature in demo.schema.features if feature.name in hidden]
    for lacked in dict.fromkeys(one.not_held for one in members):
        alike = [one for one in members if one.not_held == lacked]
        names = {one.id for one in alike}
        gain = gains_of(alike).weighted
        yield ColumnsRow(
            titles=tuple(one.title for one in alike),
            lacks=tuple(name for name in in_order if name in lacked),
            holds=tuple(name for name in in_order if name not in lacked),
            shared_only=_together(demo.shared_only, names),
            as_staged=_together(demo.as_staged, names),
            everything=_together(demo.everything, names),
            known_to=(gain.high - gain.low) / 2 if gain else 0.0,
        )


def _together(simulation: Simulation, names: set[str]) -> Figure | None:
    known = [(one.national, one.held_out) for one in simulation.members if one.id in names]
    figures = [(figure, people) for figure, people in known if figure is not None]
    return average([figure for figure, _ in figures], [float(people) for _, people in figures])


# 4. What it cost.


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """An amount of budget: epsilon, and the units (mu^2 x 10^12) in which it adds up."""

    epsilon: float
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The budget of a trained person as every ledger keeps it.

    Attributes:
        reserved: set aside before the first round.
        charged: in the end, the largest charge of any ledger.
        yearly: what an institution allows within a year.
        lifetime: what it allows ever.
        guess: chance that the best guess whether a person was trained on is right; 0.5 is blind.
    """

    reserved: Budget
    charged: Budget
    yearly: Budget
    lifetime: Budget
    guess: float


def cost_of(demo: Demo) -> Cost:
    """Returns what the plan cost a trained person."""
    price = price_of(demo.plan, demo.schema)
    total = price.price.trained
    charged = max((one.charged_trained for one in demo.as_staged.members), default=0.0)

    def budget(epsilon: float) -> Budget:
        return Budget(epsilon=epsilon, units=units_within(Epsilon(epsilon), price.delta))

    return Cost(
        reserved=Budget(epsilon=price.epsilon_of(total, price.delta), units=total),
        charged=budget(charged),
        yearly=budget(EPSILON_PER_YEAR),
        lifetime=budget(EPSILON_LIFETIME),
        guess=_best_guess(total),
    )


def _best_guess(units: int) -> float:
    """Returns Phi(mu / 2): one minus half the least sum of both errors (Dong, Roth and Su 2022)."""
    return (1 + math.erf(math.sqrt(units / UNITS_PER_MU_SQUARED / 8))) / 2


# 5. The scorecard.


def features_of(release: Release) -> list[tuple[CardFeature, FeatureGrid, Feature]]:
    """Returns the scored features with grid and contract, first those that move the score most."""
    contracts = {contract.name: contract for contract in release.schema.features}
    rows = [
        (feature, grid, contracts[feature.name])
        for feature, grid in zip(release.features, release.grids, strict=True)
    ]
    return sorted(rows, key=lambda row: np.ptp([one.points for one in row[0].bins]), reverse=True)


# 6. Quality.


def promised_to(quality: Quality | None) -> Figure | None:
    """Returns the bad rate that the scores of these people stand for on average."""
    bands = quality.calibration if quality else ()
    people = [max(band.people, 0.0) for band in bands]
    if not sum(people):
        return None
    value = float(np.average([band.expected_bad_rate for band in bands], weights=people))
    return Figure(value=value, low=value, high=value)


# 7. One person.


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """An invented person with a score, its parts and its reasons.

    Attributes:
        points: unclipped.
        shown: the score as shown.
        average: what the average trained person would have in the same columns.
        changes: (column, value, points against the average), largest loss first.
        reasons: what the person is told, with the points that each cost against the average.
        not_held: columns of which nothing is known.
        bad_rate: that the score stands for.
    """

    points: int
    shown: int
    average: float
    changes: tuple[tuple[str, str, float], ...]
    reasons: tuple[tuple[str, float], ...]
    not_held: tuple[str, ...]
    bad_rate: float


def person_of(release: Release) -> Person:
    """Returns the invented person as the release scores it."""
    scorer = Scorer(release)
    codes = [
        code_of(grid, _PERSON[grid.name]) if grid.name in _PERSON else NOT_HELD
        for grid in release.grids
    ]
    scores = scorer.score(np.array(codes, dtype=np.uint8)[:, None])
    points = int(scores.points[0])
    reason_of = {contract.name: contract.reason for contract in release.schema.features}
    lost = dict.fromkeys(scorer.reasons, 0.0)
    changes = []
    for grid, feature, code in zip(release.grids, release.features, codes, strict=True):
        if code != NOT_HELD:
            change = feature.bins[feature.bin_of_cell[code]].points - feature.mean_points
            lost[reason_of[feature.name]] += max(-change, 0.0)
            changes.append((grid.name, _value(grid, code), change))
    return Person(
        points=points,
        shown=int(scores.shown[0]),
        average=points - sum(change for _, _, change in changes),
        changes=tuple(sorted(changes, key=lambda change: change[2])),
        reasons=tuple((text, lost[text]) for text in scorer.reason_texts(scores.reasons[0])),
        not_held=tuple(grid.name for grid in release.grids if grid.name not in _PERSON),
        bad_rate=release.scale.bad_rate_at(points),
    )


def _value(grid: FeatureGrid, code: int) -> str:
    if grid.kind is Kind.CATEGORY or code >= grid.ordered_cells:
        return label_of(grid, grid.labels[code])
    return f"{_PERSON[grid.name]:,}"
