"""Plans of every kind that there is, at any epsilon, and what they answer: nobody's data is read.

The schema is that of the Taiwan data with all 23 columns scored, the public figures are a small
federation's: ten institutions that all must answer, one of which may collude. What an accountant
says depends on the number of features and on the rounds, and on nothing else of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from experiments.cache import SCHEMAS
from federation.canonical import public_key_of
from federation.course import Events
from federation.learning import (
    Institution,
    Joint,
    Local,
    NetworkModel,
    ScorecardModel,
    ServerOptimiser,
)
from federation.model.network import Activation
from federation.plan import Plan
from federation.pricing import PlanPrice, price_of
from federation.privacy.events import GaussianEvents
from federation.privacy.units import Population
from federation.query import Question, sensitivity_squared
from federation.schema import Schema, load_schema
from fedscore.planning import JOINT, SCORECARD, new_plan

DELTA: Final = 1e-6
SCHEMA: Final = load_schema((SCHEMAS / "taiwan_all.toml").read_text(encoding="utf-8"))
_PEOPLE: Final = 20_000
_PARAMETERS: Final = 20_000
_COORDINATOR: Final = public_key_of(Ed25519PrivateKey.from_private_bytes(bytes(32)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of plan.

    Attributes:
        title: for people.
        mode: who is protected, and by whose noise.
        model: what is trained.
        rounds: T.
        spare: spare attempts R, which are paid all the same.
    """

    title: str
    mode: Joint | Local | Institution
    model: ScorecardModel | NetworkModel
    rounds: int
    spare: int


def network(sampling_rate: float) -> NetworkModel:
    """Returns a network; of all its settings only the sampling rate changes a price."""
    return NetworkModel(
        hidden=(32, 16),
        activation=Activation.TANH,
        clip=1.0,
        sampling_rate=sampling_rate,
        learning_rate=0.03,
        most_parameters=_PARAMETERS,
    )


_BY_INSTITUTION: Final = Institution(
    steps=30, step_length=1.0, proximal=0.0, optimiser=ServerOptimiser.FEDAVG
)

KINDS: Final[Mapping[str, Kind]] = {
    "card": Kind(title="scorecard", mode=JOINT, model=SCORECARD, rounds=20, spare=2),
    "long card": Kind(title="scorecard", mode=JOINT, model=SCORECARD, rounds=400, spare=2),
    "network": Kind(title="network", mode=JOINT, model=network(1.0), rounds=40, spare=2),
    "sampled": Kind(title="network, q = 0.1", mode=JOINT, model=network(0.1), rounds=100, spare=2),
    "long sampled": Kind(
        title="network, q = 0.02", mode=JOINT, model=network(0.02), rounds=1000, spare=2
    ),
    "short sampled": Kind(
        title="network, q = 0.02", mode=JOINT, model=network(0.02), rounds=20, spare=0
    ),
    "local card": Kind(
        title="scorecard, local", mode=Local(steps=1), model=SCORECARD, rounds=20, spare=0
    ),
    "local network": Kind(
        title="network, local", mode=Local(steps=4), model=network(1.0), rounds=10, spare=0
    ),
    "institution": Kind(
        title="network, institution mode",
        mode=_BY_INSTITUTION,
        model=network(1.0),
        rounds=5,
        spare=0,
    ),
}


def plan_of(name: str, epsilon: float, delta: float = DELTA, schema: Schema = SCHEMA) -> Plan:
    """Returns an unsigned plan of a kind whose noise just keeps the target.

    Args:
        name: of the kind.
        epsilon: of a person at one institution against the coordinator and one institution; in
            institution mode of an institution's update.
        delta: of it.
        schema: whose scored features set the sensitivities.
    """
    kind = KINDS[name]
    return new_plan(
        schema=schema,
        name="accounting",
        federation="accounting",
        purpose="accounting",
        coordinator=_COORDINATOR,
        invited=tuple(f"bank-{number:02d}" for number in range(10)),
        quorum=10,
        colluders=1,
        spare_attempts=kind.spare,
        mode=kind.mode,
        model=kind.model,
        rounds=kind.rounds,
        people=_PEOPLE,
        most_per_institution=_PEOPLE,
        held_out_fraction=0.0 if schema.person_key == "row" else 0.25,
        epsilon=epsilon,
        delta=delta,
        valid_from=datetime(2026, 1, 1, tzinfo=UTC),
        days=30,
        salt="0" * 64,
    )


def priced(name: str, epsilon: float, delta: float = DELTA) -> tuple[Plan, PlanPrice]:
    """Returns a plan of a kind and what it costs."""
    plan = plan_of(name, epsilon, delta)
    return plan, price_of(plan, SCHEMA)


def trained_events(price: PlanPrice) -> tuple[Events, ...]:
    """Returns all that is answered about trained people, as accountants see it."""
    return price.events[Population.TRAINED]


def update_events(plan: Plan) -> tuple[Events, ...]:
    """Returns the updates of institution mode as seen by an institution: its own, or zero."""
    return (
        GaussianEvents(
            sensitivity_squared=sensitivity_squared(Question.UPDATE, 1),
            variance=plan.noise.step * plan.honest_shares,
            times=plan.rounds + plan.participation.spare_attempts,
        ),
    )
