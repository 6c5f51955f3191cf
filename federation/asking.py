"""What both sides derive from a plan and one question of it: the sum, its word, its context."""

from dataclasses import dataclass
from typing import Final

import msgspec

from federation.canonical import canonical_json, hash_of
from federation.course import cells_of
from federation.errors import ConfigurationError, PrivacyError
from federation.fits import public_shape
from federation.grid import Role
from federation.learning import Local, NetworkModel, ScorecardModel
from federation.messages import Ask, Model, Open, model_digest
from federation.model.network import Network
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan
from federation.pricing import bins_sum, dense_sum, evaluation_sum, step_sum
from federation.query import BoundedSum, Question
from federation.schema import Schema
from federation.secure_aggregation.roster import Roster
from federation.secure_aggregation.session import Group, Terms
from federation.secure_aggregation.upload import context_of
from federation.secure_aggregation.words import word_bits

OPEN_LABEL: Final = "fedscore/open/2"
"""Under which the coordinator signs the context of an attempt."""


ASK_LABEL: Final = "fedscore/ask/1"
"""Under which the coordinator signs the context of a question in local mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One attempt at one question of a plan, as both sides must understand it.

    Attributes:
        query: the bounded sum.
        bits: of a word.
        position: the round of the protocol: 0 for bins, then the training rounds, then evaluation.
        context: of the attempt, 32 bytes.
    """

    query: BoundedSum
    bits: int
    position: int
    context: bytes


def terms_of(plan: Plan, roster: Roster, session: bytes) -> Terms:
    """Returns what a session of a plan is for: the same for all who hold plan and roster.

    Args:
        plan: of the session.
        roster: as it was pinned; only whom the plan invites counts.
        session: 32 bytes, never used before.

    Raises:
        ProtocolError: the session has another length.
    """
    participation = plan.participation
    return Terms(
        session=session,
        plan=plan.digest,
        roster=roster.among(participation.invited),
        threshold=participation.threshold,
        quorum=participation.quorum,
    )


def asking(plan: Plan, schema: Schema, group: Group, message: Open) -> Asking:
    """Returns what a message asks.

    Raises:
        ConfigurationError: no such round in the plan, or a model that is missing, needless or not
            the plan's.
        PrivacyError: the sum would not fit a word.
    """
    query = sum_for(plan, schema, message.question, message.model)
    return asking_of(
        plan,
        group,
        query,
        round_=message.round,
        attempt=message.attempt,
        model=model_digest(message.model),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingLocally:
    """One question of a plan in local mode, as both sides must understand it.

    Attributes:
        query: the bounded sum.
        position: the round of the protocol, as in `Asking`.
        context: of the question, 32 bytes; the same for every institution.
    """

    query: BoundedSum
    position: int
    context: bytes


def asking_locally(plan: Plan, schema: Schema, message: Ask) -> AskingLocally:
    """Returns what a message asks in local mode.

    Raises:
        ConfigurationError: another plan, no such round in it, or a model that is missing, needless
            or not the plan's.
        PrivacyError: the plan evaluates nothing.
    """
    if message.plan != plan.digest:
        raise ConfigurationError("This is another plan's question.")
    query = sum_for(plan, schema, message.question, message.model)
    return asking_locally_of(plan, query, round_=message.round, model=model_digest(message.model))


def asking_locally_of(plan: Plan, query: BoundedSum, *, round_: int, model: bytes) -> AskingLocally:
    """Returns the same for whoever knows the question and the digest of the model.

    Raises:
        ConfigurationError: the plan is in another mode, or has no such round.
    """
    if not isinstance(plan.mode, Local):
        raise ConfigurationError("This plan is not in local mode: its sums are masked.")
    position = position_of(plan, query.question, round_)
    context = hash_of(
        "fedscore/local-context/1",
        bytes.fromhex(plan.digest),
        model,
        _query_digest(query),
        position.to_bytes(8, "little"),
    )
    return AskingLocally(query=query, position=position, context=context)


def _query_digest(query: BoundedSum) -> bytes:
    return hash_of("fedscore/query/2", canonical_json(msgspec.to_builtins(query)))


def asking_of(
    plan: Plan, group: Group, query: BoundedSum, *, round_: int, attempt: int, model: bytes
) -> Asking:
    """Returns the same for whoever knows the question and the digest of the model.

    Raises:
        ConfigurationError: no such round in the plan.
        PrivacyError: the sum would not fit a word.
    """
    position = position_of(plan, query.question, round_)
    bits = word_bits(
        query,
        most_people=plan.people.most_per_institution,
        institutions=len(plan.participation.invited),
    )
    context = context_of(
        group=group.digest,
        round_=position,
        attempt=attempt,
        plan=bytes.fromhex(group.terms.plan),
        model=model,
        query=_query_digest(query),
        bits=bits,
        length=query.length,
    )
    return Asking(query=query, bits=bits, position=position, context=context)


def position_of(plan: Plan, question: Question, round_: int) -> int:
    """Returns the round of the protocol, 0 to T + 1.

    Raises:
        ConfigurationError: the plan does not have it.
    """
    places = {Question.BINS: range(1)} if plan.asks_bins else {}
    places[plan.training_question] = range(1, 1 + plan.rounds)
    if plan.evaluates:
        places[Question.EVALUATION] = range(1 + plan.rounds, 2 + plan.rounds)
    if question not in places or not 0 <= round_ < len(places[question]):
        raise ConfigurationError("There is no such round in the plan.")
    return places[question][round_]


def positions_of(plan: Plan) -> range:
    """Returns the rounds of the protocol that the plan has: 0 to T + 1 at most."""
    return range(0 if plan.asks_bins else 1, plan.rounds + (2 if plan.evaluates else 1))


def question_at(plan: Plan, position: int) -> tuple[Question, int]:
    """Returns the question and its round that have this position: the inverse of `position_of`.

    Raises:
        ConfigurationError: the plan does not have it.
    """
    if position not in positions_of(plan):
        raise ConfigurationError("There is no such round in the plan.")
    if position == 0:
        return Question.BINS, 0
    if position == plan.rounds + 1:
        return Question.EVALUATION, 0
    return plan.training_question, position - 1


def sum_for(plan: Plan, schema: Schema, question: Question, model: Model | None) -> BoundedSum:
    """Returns the bounded sum that a question of the plan is.

    Raises:
        ConfigurationError: a model is missing, needless, or not the plan's.
        PrivacyError: the plan counts or evaluates nobody.
    """
    if question is Question.BINS:
        if model is not None:
            raise ConfigurationError("Binning takes no model.")
        if not plan.asks_bins:
            raise PrivacyError("The plan promises nothing about single persons: it counts nobody.")
        return bins_sum(plan, schema)
    if isinstance(plan.model, ScorecardModel):
        if not isinstance(model, AdditiveCard):
            raise ConfigurationError("A step or an evaluation needs a card.")
        model.require_cells(cells_of(schema, Role.SCORED))
    else:
        if not isinstance(model, Network):
            raise ConfigurationError("A gradient, an update or an evaluation needs a network.")
        require_shape(plan.model, schema, model)
    if question is Question.EVALUATION:
        if not plan.evaluates:
            raise PrivacyError("The plan evaluates nothing: it holds nobody out, or is not of it.")
        return evaluation_sum(plan, schema)
    if question is not plan.training_question:
        raise ConfigurationError(f"The plan does not train by {question}.")
    if isinstance(model, AdditiveCard):
        return step_sum(plan, model)
    return dense_sum(plan, model.shape.parameters)


def require_shape(asked: NetworkModel, schema: Schema, network: Network) -> None:
    """Returns only if a network has the layers that a plan asks for, over a schema's features.

    Raises:
        ConfigurationError: it has others, or more parameters than the plan prices.
    """
    shape = network.shape
    grids = schema.scored_grids
    shape.require_grids(grids)
    if shape.inputs < 1:
        raise ConfigurationError("This network has no inputs: nobody could bring anything to it.")
    if (shape.hidden, shape.activation, shape.module) != (
        asked.hidden,
        asked.activation,
        asked.module,
    ):
        raise ConfigurationError("This network does not have the layers that the plan asks for.")
    if asked.module is not None and shape != public_shape(asked, grids):
        raise ConfigurationError("This network's module is asked over other than public bins.")
    if shape.parameters > asked.most_parameters:
        raise ConfigurationError(
            f"This network has {shape.parameters} parameters, the plan prices "
            f"{asked.most_parameters} at most."
        )
