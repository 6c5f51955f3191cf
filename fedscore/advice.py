"""What settings a plan should have, and what AUC it will lose, before anybody is asked."""

import math
import shlex
from datetime import UTC, datetime
from typing import Final

import msgspec
from scipy.special import ndtri

from federation.errors import ConfigurationError
from federation.grid import Kind, Role
from federation.learning import Joint, ScorecardModel
from federation.model.binning import most_bins, smallest_bin
from federation.model.fitting import FULL_STEPS, LONGEST_STEP
from federation.plan import MOST_INSTITUTIONS, MOST_ROUNDS, Plan
from federation.pricing import stddev_of_total
from federation.query import Question
from federation.schema import Feature, Outcome, RowsPerPerson, Schema
from fedscore.advice_law import Held, Law, Loss, fitted
from fedscore.planning import BINS_SHARE, default_delta, new_plan
from fedscore.price_sheet import NOMINAL_BAD_RATE, NOMINAL_BIN_SHARE, warnings_of

NOMINAL_AUC: Final = 0.75

ROUNDS_PER_SPARE_ATTEMPT: Final = 10
"""Spare attempts are paid for as rounds are: with so many rounds they cost a tenth."""

HOPELESS_PART: Final = 0.5
"""A card that is expected to lose this part of what its AUC has above one half is of no use."""

LEAST_EPSILON: Final = 0.01
MOST_EPSILON: Final = 20.0
_MOST_FEATURES: Final = 1_000
_NOMINAL_CELLS: Final = 40
_NOBODY: Final = "0" * 64
_STEPS_OF_SEARCH: Final = 24


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """Why: signal beside noise, for nominal figures; no record was looked at.

    Attributes:
        trained: people who are trained on.
        count_noise: standard deviation of the noise in one fine cell's count, people.
        weight_noise: standard deviation of the noise in the mean over all rounds of one bin's sum
            of residuals, people.
        weight_error: what that is in log-odds in a bin with 5 % of the people, not shrunk.
        weight_signal: the spread of a feature's weights, log-odds, if all features told the same.
        noise_to_signal: the ratio of the law (see `fedscore.advice_law`).
    """

    trained: float
    count_noise: float
    weight_noise: float
    weight_error: float
    weight_signal: float
    noise_to_signal: float


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What to put into a plan, and what to expect of it.

    Attributes:
        plan_new: the command that makes such a plan, with words in capitals to fill in.
        features: scored.
        institutions: invited.
        quorum: m.
        colluders: c.
        people: N.
        held_out: share of them.
        rounds: T, to name to `plan new`.
        spare_attempts: R.
        epsilon: to name to `plan new`.
        delta: likewise.
        most_bins: ordered bins that the fit will give a feature at most.
        smallest_bin: people that a bin needs.
        bins_share: the part of the budget, as mu^2, that `plan new` gives the counts for bins.
        bad_rate: assumed.
        auc: assumed without privacy: of a card of the same kind from all records in one place.
        loss: to expect, for the middle and 9 of 10 federations.
        unseen: how often that range held on data that it was not fitted on.
        signals: why.
        warnings: why the plan would be of no use, or the law not know.
    """

    plan_new: str
    features: int
    institutions: int
    quorum: int
    colluders: int
    people: int
    held_out: float
    rounds: int
    spare_attempts: int
    epsilon: float
    delta: float
    most_bins: int
    smallest_bin: float
    bins_share: float
    bad_rate: float
    auc: float
    loss: Loss
    unseen: Held
    signals: Signals
    warnings: tuple[str, ...]


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What people know before there is a plan. Only a joint scorecard is advised on.

    Attributes:
        schema: of the tables, or a nominal one.
        people: N, all of them, public and rounded.
        institutions: to invite.
        quorum: m.
        colluders: c.
        spare_attempts: R.
        held_out: share of people never trained on, in [0, 0.5].
        delta: of the promise; min(1e-6, 1 / (10 people)) if None.
        bad_rate: to expect, in [0.001, 0.5].
        auc: to expect of a card from all records in one place without privacy, in [0.55, 0.99].
    """

    schema: Schema
    people: int
    institutions: int
    quorum: int
    colluders: int = 1
    spare_attempts: int = 2
    held_out: float = 0.25
    delta: float | None = None
    bad_rate: float = NOMINAL_BAD_RATE
    auc: float = NOMINAL_AUC

    def __post_init__(self) -> None:
        if not 3 <= self.institutions <= MOST_INSTITUTIONS:
            raise ConfigurationError(
                f"Expected 3 to {MOST_INSTITUTIONS} institutions, got {self.institutions}."
            )
        if not 0.001 <= self.bad_rate <= 0.5:
            raise ConfigurationError(f"Expected a bad rate in [0.001, 0.5], got {self.bad_rate}.")
        if not 0.55 <= self.auc <= 0.99:
            raise ConfigurationError(f"Expected an AUC in [0.55, 0.99], got {self.auc}.")

    @property
    def features(self) -> int:
        """Scored features."""
        return len(self.schema.places(Role.SCORED))


def nominal_schema(features: int) -> Schema:
    """Returns a contract of so many numbers, where there is none yet.

    Raises:
        ConfigurationError: fewer than 1, or more than 1,000.
    """
    if not 1 <= features <= _MOST_FEATURES:
        raise ConfigurationError(f"Expected 1 to {_MOST_FEATURES:,} features, got {features}.")
    return Schema(
        format=1,
        name="nominal",
        person_key="person",
        rows_per_person=RowsPerPerson.ONE,
        outcome=Outcome(column="bad", window="nominal"),
        features=tuple(
            Feature(
                name=f"feature-{number}",
                role=Role.SCORED,
                kind=Kind.NUMBER,
                unit="nominal",
                reason="nominal",
                lower=0.0,
                upper=1.0,
                cells=_NOMINAL_CELLS,
            )
            for number in range(features)
        ),
    )


def rounds_for(features: int, spare_attempts: int) -> int:
    """Returns the fewest rounds that give every feature its full steps.

    Further ones would only divide the same steps (see `federation.model.fitting`), and few rounds
    pay much for spare attempts.
    """
    enough = math.ceil(features * FULL_STEPS / LONGEST_STEP)
    spared = ROUNDS_PER_SPARE_ATTEMPT * spare_attempts
    return min(max(enough, spared), MOST_ROUNDS - spare_attempts)


def draft_of(wish: Wish, epsilon: float) -> Plan:
    """Returns the plan that `plan new` would draft, with nobody's name in it.

    Raises:
        ConfigurationError: a value is out of range.
        PrivacyError: the target cannot be kept.
    """
    return new_plan(
        schema=wish.schema,
        name="advice",
        federation="advice",
        purpose="advice",
        coordinator=_NOBODY,
        invited=tuple(f"institution-{number:03d}" for number in range(wish.institutions)),
        quorum=wish.quorum,
        colluders=wish.colluders,
        spare_attempts=wish.spare_attempts,
        mode=Joint(),
        model=ScorecardModel(),
        rounds=rounds_for(wish.features, wish.spare_attempts),
        people=wish.people,
        most_per_institution=wish.people,
        held_out_fraction=wish.held_out,
        epsilon=epsilon,
        delta=default_delta(wish.people) if wish.delta is None else wish.delta,
        valid_from=datetime(2026, 1, 1, tzinfo=UTC),
        days=1,
        salt=_NOBODY,
    )


def signals_of(plan: Plan, *, features: int, bad_rate: float, auc: float) -> Signals:
    """Returns signal beside noise if everybody answers a plan.

    Args:
        plan: of a joint scorecard.
        features: scored.
        bad_rate: to expect.
        auc: without privacy, above 0.5.
    """
    answers = len(plan.participation.invited)
    trained = plan.people.national * (1 - plan.people.held_out_fraction)
    noise = stddev_of_total(plan, Question.STEP, answers) / math.sqrt(plan.rounds)
    information = trained * bad_rate * (1 - bad_rate)
    distance = math.sqrt(2) * float(ndtri(auc))
    return Signals(
        trained=trained,
        count_noise=stddev_of_total(plan, Question.BINS, answers),
        weight_noise=noise,
        weight_error=noise / (NOMINAL_BIN_SHARE * information),
        weight_signal=distance / math.sqrt(features),
        noise_to_signal=features * (noise / (information * distance)) ** 2,
    )


def advise(wish: Wish, epsilon: float, schema_file: str = "SCHEMA") -> Advice:
    """Returns the settings for a target, and what to expect of them.

    Args:
        wish: what is known.
        epsilon: the promise to each person, in (0, 100].
        schema_file: its name in the command to type.

    Raises:
        ConfigurationError: a value is out of range.
        PrivacyError: the target cannot be kept.
    """
    plan = draft_of(wish, epsilon)
    signals = signals_of(plan, features=wish.features, bad_rate=wish.bad_rate, auc=wish.auc)
    known = fitted()
    loss = known.law.loss(signals.noise_to_signal, wish.auc)
    floor = smallest_bin(stddev=signals.count_noise, people=signals.trained)
    return Advice(
        plan_new=_command(wish, plan, schema_file),
        features=wish.features,
        institutions=wish.institutions,
        quorum=wish.quorum,
        colluders=wish.colluders,
        people=wish.people,
        held_out=wish.held_out,
        rounds=plan.rounds,
        spare_attempts=wish.spare_attempts,
        epsilon=epsilon,
        delta=plan.privacy.delta,
        most_bins=most_bins(stddev=signals.count_noise, people=signals.trained),
        smallest_bin=floor,
        bins_share=BINS_SHARE,
        bad_rate=wish.bad_rate,
        auc=wish.auc,
        loss=loss,
        unseen=known.unseen,
        signals=signals,
        warnings=(*_warnings(wish, known.law, loss, signals), *warnings_of(plan)),
    )


def least_epsilon(wish: Wish, most_loss: float) -> float:
    """Returns the smallest epsilon whose middle loss is at most `most_loss`, to three digits.

    Args:
        wish: what is known.
        most_loss: of AUC, in (0, 0.5).

    Raises:
        ConfigurationError: a value is out of range, or no epsilon up to 20 is enough.
        PrivacyError: the target cannot be kept.
    """
    if not 0 < most_loss < 0.5:
        raise ConfigurationError(f"Expected a loss of AUC in (0, 0.5), got {most_loss}.")
    law = fitted().law

    def fits(epsilon: float) -> bool:
        signals = signals_of(
            draft_of(wish, epsilon), features=wish.features, bad_rate=wish.bad_rate, auc=wish.auc
        )
        return law.loss(signals.noise_to_signal, wish.auc).middle <= most_loss

    low, high = math.log(LEAST_EPSILON), math.log(MOST_EPSILON)
    if not fits(MOST_EPSILON):
        raise ConfigurationError(
            f"No epsilon up to {MOST_EPSILON:g} keeps the expected loss under {most_loss:g}: it "
            "takes more people."
        )
    for _ in range(_STEPS_OF_SEARCH):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(math.exp(middle)) else (middle, high)
    digit = 10.0 ** (math.floor(high / math.log(10)) - 2)
    return min(float(f"{math.ceil(math.exp(high) / digit) * digit:.12g}"), MOST_EPSILON)


def _warnings(wish: Wish, law: Law, loss: Loss, signals: Signals) -> list[str]:
    found = []
    part = loss.middle / (wish.auc - 0.5)
    if part >= HOPELESS_PART:
        found.append(
            f"hopeless: noise is expected to take {part:.0%} of what the AUC has above one half. "
            "More people, a larger epsilon, fewer features or a higher quorum would help."
        )
    for name, value, least, most in (
        ("trained people", signals.trained, law.least_people, law.most_people),
        ("features", wish.features, law.least_features, law.most_features),
    ):
        if not least <= value <= most:
            found.append(
                f"{value:,.0f} {name} lie beyond the {least:,} to {most:,} of the federations that "
                "the expected loss was fitted on: it is extrapolated."
            )
    return found


def _command(wish: Wish, plan: Plan, schema_file: str) -> str:
    words = {
        "--schema": schema_file,
        "--key": "KEY",
        "--name": "NAME",
        "--federation": "FEDERATION",
        "--purpose": "PURPOSE",
        "--invite": "INSTITUTIONS",
        "--quorum": str(wish.quorum),
        "--colluders": str(wish.colluders),
        "--people": str(wish.people),
        "--most-per-institution": "MOST",
        "--epsilon": f"{plan.privacy.epsilon:.12g}",
        "--delta": f"{plan.privacy.delta:.12g}",
        "--held-out": f"{wish.held_out:.12g}",
        "--rounds": str(plan.rounds),
        "--spare-attempts": str(wish.spare_attempts),
    }
    typed = " ".join(f"{name} {shlex.quote(value)}" for name, value in words.items())
    return f"fedscore plan new {typed}"
