"""Does `fedscore plan advise` say beforehand what happens?

The law of what noise costs (`fedscore/advice_law.py`) is fitted on synthetic federations only, and
this run writes its figures to where the product reads them. Then it is held against data that no
figure was fitted on: four real data sets and the synthetic nation of another experiment, in parts
of many sizes; how often its range held is written beside its figures, for the product to say. Last,
it is held against whole trainings of the product, as `comparison` measured.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from experiments.budget import advice_cases
from experiments.budget.advice_cases import NATION, SYNTHETIC, Case
from experiments.datasets import DATASETS, GMSC, PAKDD, SBA, TAIWAN, locate, sha256_of
from experiments.division import INSTITUTIONS, schema_of
from experiments.experiment import Setting, Work, read_result
from experiments.quality.comparison import Comparison
from experiments.trial import DELTA
from fedscore import advice_law
from fedscore.advice import Wish, draft_of, signals_of
from fedscore.advice_law import Curve, Fitted, Held, Law

FEDERATIONS: Final = 48
TRAININGS: Final = 6
PARTS: Final = 3
SIZES: Final[dict[str, tuple[int, ...]]] = {
    TAIWAN.name: (3_000, 22_500),
    GMSC.name: (3_000, 10_000, 30_000, 112_500),
    SBA.name: (3_000, 10_000, 30_000),
    PAKDD.name: (3_000, 10_000, 30_000),
    NATION: (3_000, 30_000, 150_000),
}
UNSEEN_INSTITUTIONS: Final[tuple[int, ...]] = (3, 30, 300)
UNSEEN_EPSILONS: Final[tuple[float, ...]] = (0.1, 0.3, 1.0, 4.0)
QUANTILES: Final = {"low": 0.05, "middle": 0.5, "high": 0.95}
SMALL_LOSS: Final = 0.002
"""Losses are compared by their ratio above this, and by their difference below it."""


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """Whole trainings of the product with one epsilon, ten institutions, from `comparison`.

    Attributes:
        data: name of the data set.
        people: trained.
        epsilon: of each.
        alone: AUC of our card from all records in one place, without privacy.
        auc: with each noise seed.
        noise_to_signal: the ratio of the law.
    """

    data: str
    people: int
    epsilon: float
    alone: float
    auc: tuple[float, ...]
    noise_to_signal: float


class Advised(msgspec.Struct, frozen=True, kw_only=True):
    """What `run advice` found.

    Attributes:
        law: as fitted.
        fitted: trainings that it was fitted on.
        unseen: trainings of other data.
        whole: trainings by the whole product.
    """

    law: Law
    fitted: tuple[Case, ...]
    unseen: tuple[Case, ...]
    whole: tuple[Whole, ...]


def run_advice(setting: Setting) -> Advised:
    """Trains, fits, writes the law for the product (not a small version's), and compares."""
    federations, trainings, most, parts, sizes = (
        FEDERATIONS, TRAININGS, advice_cases.MOST_PEOPLE, PARTS, SIZES,
    )  # fmt: skip
    institutions, epsilons = UNSEEN_INSTITUTIONS, UNSEEN_EPSILONS
    if setting.quick:
        federations, trainings, most, parts, sizes = 4, 3, 4_000, 1, {TAIWAN.name: (3_000,)}
        institutions, epsilons = (3,), (0.3, 4.0)
    terms = tuple((count, epsilon) for count in institutions for epsilon in epsilons)
    setting.expect(federations + parts * len(sizes))
    fitted = setting.steps(
        tuple[Case, ...], [_synthetic(seed, trainings, most) for seed in range(federations)]
    )
    unseen = setting.steps(
        tuple[Case, ...],
        [_unseen(name, of, part, terms) for name, of in sizes.items() for part in range(parts)],
    )
    cases, others = (tuple(case for of in each for case in of) for each in (fitted, unseen))
    law = fit(cases)
    advised = Advised(law=law, fitted=cases, unseen=others, whole=_whole(others))
    if not setting.quick:
        write_law(law, others)
    return advised


def write_law(law: Law, unseen: Sequence[Case]) -> None:
    """Writes the law, and how it did on data that it was not fitted on, for the product.

    Whole or not at all.
    """
    known = Fitted(law=law, unseen=held_of(law, unseen))
    content = msgspec.json.format(msgspec.json.encode(known), indent=1)
    unfinished = advice_law.LAW_FILE.with_suffix(".unfinished")
    unfinished.write_bytes(content + b"\n")
    unfinished.replace(advice_law.LAW_FILE)


def held_of(law: Law, cases: Sequence[Case]) -> Held:
    """Returns how often the law's range held."""
    loss, low, _, high = against(law, cases)
    return Held(
        trainings=len(loss),
        less=int(np.count_nonzero(loss < low)),
        more=int(np.count_nonzero(loss > high)),
    )


def against(law: Law, cases: Sequence[Case]) -> tuple[NDArray[np.float64], ...]:
    """Returns of each training its loss, and the law's range and middle: loss, low, middle, high.

    The range is of one training: means of several would lie in it more often.
    """
    expected = [law.loss(case.noise_to_signal, case.alone) for case in cases]
    rows = [
        (case.loss, one.low, one.middle, one.high)
        for case, one in zip(cases, expected, strict=True)
    ]
    return tuple(np.array(rows).T)


def fit(cases: tuple[Case, ...]) -> Law:
    """Returns the law whose curves are quantiles of what the cases lost.

    Each curve has the least mean of Koenker and Bassett's check function (1978, Econometrica 46),
    of asinh(loss / 0.002): quantiles stay what they are under a rising function, and this one lets
    no federation count more because it lost more.

    Args:
        cases: at least ten, of synthetic federations.
    """
    curves = {name: _curve(cases, quantile) for name, quantile in QUANTILES.items()}
    return Law(
        **curves,
        least_people=advice_cases.LEAST_PEOPLE,
        most_people=advice_cases.MOST_PEOPLE,
        least_features=advice_cases.LEAST_FEATURES,
        most_features=advice_cases.MOST_FEATURES,
    )


def _curve(cases: tuple[Case, ...], quantile: float) -> Curve:
    ratios = np.array([case.noise_to_signal for case in cases])
    alone = np.array([case.alone for case in cases])
    observed = _even(np.array([case.loss for case in cases]))

    def made(figures: NDArray[np.float64]) -> Curve:
        return Curve(
            strength=float(np.exp(figures[0])),
            exponent=float(expit(figures[1])),
            collapse=float(np.exp(figures[2])),
            offset=float(figures[3]) if len(figures) > 3 else 0.0,
        )

    def cost(figures: NDArray[np.float64]) -> float:
        curve = made(figures)
        left = observed - _even(curve.lost(ratios, alone))
        return float(np.maximum(quantile * left, (quantile - 1) * left).mean())

    offset = [] if quantile == 0.5 else [0.0]
    begins = [
        [np.log(strength), exponent, collapse, *offset]
        for strength in (0.3, 1.0, 3.0)
        for exponent in (-0.5, 0.0)
        for collapse in (0.0, 2.0)
    ]
    found = [
        minimize(cost, begin, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-6})
        for begin in begins
    ]
    best = made(min(found, key=lambda one: float(one.fun)).x)
    return Curve(**{name: float(f"{getattr(best, name):.3g}") for name in Curve.__struct_fields__})


def _even(loss: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.arcsinh(loss / SMALL_LOSS))


def _synthetic(seed: int, trainings: int, most_people: int) -> Work[tuple[Case, ...]]:
    made = {"what": SYNTHETIC, "seed": seed, "trainings": trainings, "people": most_people}
    return Work(
        made_from=made,
        compute=advice_cases.synthetic_cases,
        arguments=(seed, trainings, most_people),
    )


def _unseen(
    name: str, sizes: tuple[int, ...], part: int, terms: tuple[tuple[int, float], ...]
) -> Work[tuple[Case, ...]]:
    made = {"what": name, "sizes": list(sizes), "part": part, "terms": list(terms)}
    if name == NATION:
        return Work(
            made_from=made, compute=advice_cases.nation_cases, arguments=(sizes, part, terms)
        )
    dataset = DATASETS[name]
    made |= {"data": sha256_of(locate(dataset)), "schema": schema_of(dataset).digest}
    return Work(
        made_from=made, compute=advice_cases.real_cases, arguments=(name, sizes, part, terms)
    )


def _whole(unseen: tuple[Case, ...]) -> tuple[Whole, ...]:
    """Returns what `comparison` measured, where its result is here and the bad rate is known."""
    result = read_result("comparison", Comparison)
    if result is None:
        return ()
    by_size = sorted(unseen, key=lambda case: case.people)
    rates = {case.data: case.bad_rate for case in by_size}  # of the largest part
    found = []
    for one in result.found.sets:
        name, people, alone = one.ours.dataset, one.ours.trained, one.peers.card
        rate = rates.get(name)
        if rate is None:
            continue
        wish = Wish(
            schema=schema_of(DATASETS[name]),
            people=people,
            institutions=len(INSTITUTIONS),
            quorum=len(INSTITUTIONS),
            held_out=0.0,
            delta=DELTA,
        )
        for row in one.ours.rows:
            plan = draft_of(wish, row.epsilon)
            signals = signals_of(plan, features=wish.features, bad_rate=rate, auc=alone)
            found.append(
                Whole(
                    data=name,
                    people=people,
                    epsilon=row.epsilon,
                    alone=alone,
                    auc=row.fedscore.auc,
                    noise_to_signal=signals.noise_to_signal,
                )
            )
    return tuple(found)
