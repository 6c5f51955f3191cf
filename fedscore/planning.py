"""Makes a draft plan from a few decisions; the noise follows from the target."""

import math
import secrets
from datetime import datetime, timedelta

import msgspec

from federation.errors import ConfigurationError
from federation.learning import Institution, Joint, Local, NetworkModel, ScorecardModel
from federation.model.score_scale import ScoreScale
from federation.plan import FORMAT, UNSIGNED, Participation, People, Plan, Target
from federation.pricing import noise_for, price_of
from federation.schema import Schema

STANDARD_SCALE = ScoreScale(points=660, odds=30.0, points_to_double=40, least=300, most=850)
CHINESE_SCALE = ScoreScale(points=660, odds=30.0, points_to_double=40, least=350, most=950)
BINS_SHARE = 0.12
"""The part of mu^2 that the binning sum gets; see experiments/README.md for what others cost."""

JOINT = Joint()
SCORECARD = ScorecardModel()

AUDITED_SHARE = 0.02
"""An audit costs an institution one answer more; over 20 rounds a third are looked at once."""


def default_delta(people: int) -> float:
    """Returns min(10^-6, 1 / (10 people)); a plan of no people is refused for that, elsewhere."""
    return min(1e-6, 1 / (10 * max(people, 1)))


def smallest_threshold(institutions: int, colluders: int) -> int:
    """Returns the smallest t with 2t > n + c: two different sums can then never be opened."""
    return (institutions + colluders) // 2 + 1


def new_plan(
    *,
    schema: Schema,
    name: str,
    federation: str,
    purpose: str,
    coordinator: str,
    invited: tuple[str, ...],
    quorum: int,
    colluders: int,
    spare_attempts: int,
    mode: Joint | Local | Institution = JOINT,
    model: ScorecardModel | NetworkModel = SCORECARD,
    rounds: int,
    people: int,
    most_per_institution: int,
    held_out_fraction: float,
    epsilon: float,
    delta: float,
    valid_from: datetime,
    days: int,
    salt: str | None = None,
    scale: ScoreScale = STANDARD_SCALE,
    least_auc: float | None = None,
) -> Plan:
    """Returns an unsigned plan whose noise just keeps the target.

    Args:
        schema: the federation's data contract.
        name: of the plan.
        federation: identifier.
        purpose: what the score may be used for.
        coordinator: Ed25519 public key.
        invited: identifiers of institutions, any order.
        quorum: m.
        colluders: c >= 1.
        spare_attempts: R.
        mode: who is protected, and by whose noise.
        model: what is trained.
        rounds: T.
        people: N, public and rounded.
        most_per_institution: public.
        held_out_fraction: in [0, 0.5].
        epsilon: target, in (0, 100].
        delta: target, in (0, 1 / people].
        valid_from: with time zone.
        days: of validity.
        salt: the federation's, None draws a new one (for a new federation only).
        scale: of the points.
        least_auc: the gate, None for none.

    Raises:
        ConfigurationError: a value is out of range.
        PrivacyError: the target cannot be kept.
    """
    if len(set(invited)) != len(invited):
        raise ConfigurationError("An institution is invited twice.")
    participation = Participation(
        invited=tuple(sorted(invited)),
        quorum=quorum,
        threshold=smallest_threshold(len(invited), colluders),
        colluders=colluders,
        spare_attempts=spare_attempts,
        audited_share=AUDITED_SHARE,
    )
    begins = valid_from.replace(microsecond=0)
    draft = Plan(
        format=FORMAT,
        name=name,
        federation=federation,
        purpose=purpose,
        coordinator=coordinator,
        schema=schema.digest,
        valid_from=begins,
        valid_until=begins + timedelta(days=days),
        mode=mode,
        model=model,
        rounds=rounds,
        participation=participation,
        people=People(
            national=people,
            most_per_institution=most_per_institution,
            salt=secrets.token_hex(32) if salt is None else salt,
            held_out_fraction=float(held_out_fraction),
        ),
        privacy=Target(
            epsilon=float(epsilon), epsilon_coordinator_alone=float(epsilon), delta=float(delta)
        ),
        noise=noise_for(
            schema=schema,
            participation=participation,
            mode=mode,
            model=model,
            rounds=rounds,
            epsilon=epsilon,
            delta=delta,
            bins_share=BINS_SHARE,
        ),
        scale=scale,
        least_auc=least_auc,
        signature=UNSIGNED,
    )
    price = price_of(draft, schema)
    alone = price.promised_alone
    stated = min(math.ceil(alone * 10**6) / 10**6, draft.privacy.epsilon)
    return msgspec.structs.replace(
        draft, privacy=msgspec.structs.replace(draft.privacy, epsilon_coordinator_alone=stated)
    )
