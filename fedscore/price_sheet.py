"""A plan's price, noise and expected error in one struct, before anything runs."""

import math
from enum import StrEnum
from typing import Final

import msgspec
import numpy as np
from scipy.stats import binom

from federation.course import Events
from federation.errors import ProtocolError
from federation.learning import Institution, NetworkModel, ScorecardModel
from federation.model.evaluation import BANDS, band_edges, quality
from federation.model.score_scale import ScoreScale
from federation.plan import UNSIGNED, Plan
from federation.pricing import price_of, stddev_of_total
from federation.privacy.units import Population
from federation.query import Question, sensitivity_squared
from federation.schema import Schema

NOMINAL_BAD_RATE: Final = 0.1
NOMINAL_BIN_SHARE: Final = 0.05
_NOMINAL_SPREAD: Final = 1.2
SILENT: Final = (0.001, 0.01, 0.05)


HOPELESS_LOG_ODDS: Final = 3.0
"""An error of a weight above this (odds of 20 to 1) is more than any weight of a card can say.
The noise of ten institutions on 16,875 people at epsilon 0.1 is just below, and cost 0.03 AUC."""


HOPELESS_RATIO: Final = 2.0
"""Below this ratio of signal to noise a round of updates moves a model mostly at random."""


class Signature(StrEnum):
    """What a plan's signature is worth."""

    UNSIGNED = "unsigned"
    SIGNED = "signed"
    BROKEN = "signature broken"


class QuestionPrice(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of question of a plan.

    Attributes:
        question: which.
        population: who is asked about.
        times: how often it is priced, spare attempts included.
        columns: numbers a person brings at most; the squared sensitivity in ones.
        noise_of_total: standard deviation of the noise in each cell of a total that exactly the
            quorum answered, in people.
        units_each: budget units of one answer.
        share_of_budget: part of its population's price.
    """

    question: Question
    population: Population
    times: int
    columns: int
    noise_of_total: float
    units_each: int
    share_of_budget: float


class PopulationPrice(msgspec.Struct, frozen=True, kw_only=True):
    """What one person of a population pays.

    Attributes:
        population: who.
        units: what the ledger charges, 10^-12 of mu^2.
        epsilon: against the coordinator and c institutions: the headline.
        epsilon_coordinator_alone: if nobody conspires with the coordinator.
        epsilon_pld: second opinion, by privacy loss distributions, sampler slack excluded.
        epsilon_rdp: third opinion, by Renyi divergences, likewise.
    """

    population: Population
    units: int
    epsilon: float
    epsilon_coordinator_alone: float
    epsilon_pld: float
    epsilon_rdp: float


class ExpectedError(msgspec.Struct, frozen=True, kw_only=True):
    """What the noise will do, for a population with nominal figures; no record was looked at.

    Attributes:
        count: standard deviation of the noise in one fine cell's count, people.
        log_odds: standard error from noise of the weight of a bin with 5 % of the people at a bad
            rate of 10 %, if all rounds were averaged and nothing shrunk.
        points: the same in points.
        auc: half width of the 95 % interval of the reported AUC, sampling included, at a bad rate
            of 10 %; None if the noise would hide it or nobody is held out.
    """

    count: float
    log_odds: float | None
    points: float | None
    auc: float | None


class Chance(msgspec.Struct, frozen=True, kw_only=True):
    """How likely an attempt is to be opened.

    Attributes:
        silent: chance that an institution does not answer one message, each for itself.
        attempt: chance that one attempt is opened.
        training: chance that all questions are opened, spare attempts included.
    """

    silent: float
    attempt: float
    training: float


class PriceSheet(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a plan before anything runs.

    Attributes:
        plan: name.
        digest: of the plan.
        signature: what it is worth.
        warnings: why the plan will be of no use, if so.
        delta: at which every epsilon is stated.
        questions: what is asked.
        populations: what it costs.
        collusion_factor: noise is this much larger because c shares may be known: sqrt(m/(m-c)).
        slack_factor: and this much if all n answer where m would do: sqrt(n/m).
        expected: the error to expect.
        chances: of getting to the end, at several rates of silence. If anybody drops out of an
            attempt, all others must stay to its end.
        institution: epsilon of a whole institution; None unless the plan protects institutions.
        signal_to_noise: see the function of that name; None likewise.
    """

    plan: str
    digest: str
    signature: Signature
    warnings: tuple[str, ...]
    delta: float
    questions: tuple[QuestionPrice, ...]
    populations: tuple[PopulationPrice, ...]
    collusion_factor: float
    slack_factor: float
    expected: ExpectedError
    chances: tuple[Chance, ...]
    institution: float | None
    signal_to_noise: float | None


def price_sheet(plan: Plan, schema: Schema) -> PriceSheet:
    """Returns price, noise and expected error of a plan.

    Raises:
        ConfigurationError: plan and schema do not match.
        PrivacyError: the plan costs more than it promises, or the accountants disagree.
    """
    price = price_of(plan, schema)
    quorum = plan.participation.quorum
    questions: list[QuestionPrice] = []
    populations: list[PopulationPrice] = []
    before = (Question.BINS,) if plan.asks_bins else ()
    of_population = {
        Population.TRAINED: (*before, plan.training_question),
        Population.HELD_OUT: (Question.EVALUATION,) if plan.evaluates else (),
    }
    for population, asked in of_population.items():
        events = price.events[population]
        total = price.price.of(population)
        if total == 0:
            continue
        questions += [
            _question(plan, question, event, quorum, total)
            for question, event in zip(asked, events, strict=True)
        ]
        opinions = price.opinions(population)
        trained = population is Population.TRAINED
        populations.append(
            PopulationPrice(
                population=population,
                units=total,
                epsilon=price.trained if trained else price.held_out,
                epsilon_coordinator_alone=(
                    price.trained_coordinator_alone if trained else price.held_out_coordinator_alone
                ),
                epsilon_pld=opinions.pld,
                epsilon_rdp=opinions.rdp,
            )
        )
    invited = len(plan.participation.invited)
    return PriceSheet(
        plan=plan.name,
        digest=plan.digest,
        signature=_signature(plan),
        warnings=warnings_of(plan),
        delta=plan.privacy.delta,
        questions=tuple(questions),
        populations=tuple(populations),
        collusion_factor=math.sqrt(plan.shares / plan.honest_shares),
        slack_factor=math.sqrt(invited / quorum),
        expected=_expected(plan),
        chances=tuple(_chance(plan, silent) for silent in SILENT),
        institution=price.institution,
        signal_to_noise=signal_to_noise(plan),
    )


def signal_to_noise(plan: Plan) -> float | None:
    """Returns how long a round's total update can be against its noise; None in other modes.

    At best every institution's update is as long as the clip norm and all point the same way; the
    noise has the length sqrt(parameters) times its standard deviation.
    """
    if not isinstance(plan.mode, Institution) or not isinstance(plan.model, NetworkModel):
        return None
    answers = len(plan.participation.invited)
    noise = stddev_of_total(plan, Question.UPDATE, answers) * math.sqrt(plan.model.most_parameters)
    return answers / noise


def warnings_of(plan: Plan) -> tuple[str, ...]:
    """Returns why a plan will be of no use, by the error to expect."""
    ratio = signal_to_noise(plan)
    if ratio is not None:
        if ratio >= HOPELESS_RATIO:
            return ()
        return (
            f"an update is at most {ratio:.2g} times as long as its noise: what is learnt will be "
            "noise. More institutions, fewer rounds, fewer parameters or a larger epsilon would "
            "help.",
        )
    expected = _expected(plan)
    remedy = "More people, a larger epsilon or fewer institutions' slack would help."
    found = []
    if expected.log_odds is not None and expected.log_odds > HOPELESS_LOG_ODDS:
        found.append(
            f"too few people for this epsilon: a weight's error is +-{expected.log_odds:.1f} "
            f"log-odds, the noise is larger than what a card can say. {remedy}"
        )
    if expected.auc is None and plan.evaluates:
        found.append(
            f"too few held-out people for this epsilon: the noise will hide the AUC. {remedy}"
        )
    return tuple(found)


def _signature(plan: Plan) -> Signature:
    if plan.signature == UNSIGNED:
        return Signature.UNSIGNED
    try:
        plan.require_signed()
    except ProtocolError:
        return Signature.BROKEN
    return Signature.SIGNED


def _question(
    plan: Plan, question: Question, event: Events, quorum: int, total: int
) -> QuestionPrice:
    units = event.units()
    return QuestionPrice(
        question=question,
        population=question.population,
        times=event.times,
        columns=event.sensitivity_squared // sensitivity_squared(question, 1),
        noise_of_total=stddev_of_total(plan, question, quorum),
        units_each=units // max(event.times, 1),
        share_of_budget=units / total,
    )


def _expected(plan: Plan) -> ExpectedError:
    answers = len(plan.participation.invited)
    trained = plan.people.national * (1 - plan.people.held_out_fraction)
    rate = NOMINAL_BAD_RATE
    log_odds: float | None = None
    if isinstance(plan.model, ScorecardModel):
        residual = stddev_of_total(plan, Question.STEP, answers) / math.sqrt(plan.rounds)
        log_odds = residual / (NOMINAL_BIN_SHARE * trained * rate * (1 - rate))
    return ExpectedError(
        count=stddev_of_total(plan, Question.BINS, answers),
        log_odds=log_odds,
        points=None if log_odds is None else log_odds * plan.scale.factor,
        auc=_expected_auc(plan, answers),
    )


def _chance(plan: Plan, silent: float) -> Chance:
    """Returns the chances if each message goes unanswered with one probability, independently.

    An attempt is opened if everybody uploads and t answer the second message; or if k institutions
    drop out first, at most n - m, and all of the others answer two more messages, each of which is
    sent twice if need be.
    """
    who = plan.participation
    n, m, t = len(who.invited), who.quorum, who.threshold
    opened = 0.0
    for dropped in range(n - m + 1):
        left = n - dropped
        chance = float(binom.pmf(dropped, n, silent))
        if dropped == 0:
            opened += chance * float(binom.sf(t - 1, left, 1 - silent))
        else:
            opened += chance * (1 - silent**2) ** (2 * left)
    once = opened ** (plan.asks_bins + plan.evaluates)
    steps = float(binom.cdf(who.spare_attempts, plan.rounds + who.spare_attempts, 1 - opened))
    return Chance(silent=silent, attempt=opened, training=once * steps)


def _expected_auc(plan: Plan, answers: int) -> float | None:
    """Returns half the AUC's interval for log-odds of good that spread normally around 9:1."""
    people = plan.people.national * plan.people.held_out_fraction
    if not plan.evaluates:
        return None
    log_odds = math.log(1 / NOMINAL_BAD_RATE - 1) + _NOMINAL_SPREAD * np.linspace(-4, 4, 4001)
    mass = np.exp(-0.5 * np.linspace(-4, 4, 4001) ** 2)
    mass *= people / mass.sum()
    bad = mass / (1 + np.exp(log_odds))
    scale: ScoreScale = plan.scale
    points = np.array([scale.points_at(float(one)) for one in log_odds])
    bands = np.searchsorted(band_edges(scale), points, side="right")
    histogram = np.stack(
        [np.bincount(bands, weights=part, minlength=BANDS) for part in (mass - bad, bad)], axis=1
    )
    found = quality(
        histogram.astype(np.float64).reshape(-1),
        stddev=stddev_of_total(plan, Question.EVALUATION, answers),
        scale=scale,
    )
    return None if found is None else (found.auc.high - found.auc.low) / 2
