"""What both sides derive from a plan and one question of it: the sum, its word, its context."""

from dataclasses import dataclass
from typing import Final

import msgspec

from federation.canonical import canonical_json, hash_of
from federation.errors import ConfigurationError, PrivacyError
from federation.grid import Role
from federation.messages import Open, model_digest
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan
from federation.pricing import bins_sum, cells_of, evaluation_sum, step_sum
from federation.query import BoundedSum, Question
from federation.schema import Schema
from federation.secure_aggregation.roster import Roster
from federation.secure_aggregation.session import Group, Terms
from federation.secure_aggregation.upload import context_of
from federation.secure_aggregation.words import word_bits

OPEN_LABEL: Final = "fedscore/open/2"
"""Under which the coordinator signs the context of an attempt."""


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
        ConfigurationError: no such round in the plan, or a card that is missing, needless or made
            for another schema.
        PrivacyError: the sum would not fit a word.
    """
    query = sum_for(plan, schema, message.question, message.card)
    return asking_of(
        plan,
        group,
        query,
        round_=message.round,
        attempt=message.attempt,
        model=model_digest(message.card),
    )


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
        query=hash_of("fedscore/query/2", canonical_json(msgspec.to_builtins(query))),
        bits=bits,
        length=query.length,
    )
    return Asking(query=query, bits=bits, position=position, context=context)


def position_of(plan: Plan, question: Question, round_: int) -> int:
    """Returns the round of the protocol, 0 to T + 1.

    Raises:
        ConfigurationError: the plan does not have it.
    """
    if not 0 <= round_ < (plan.rounds if question is Question.STEP else 1):
        raise ConfigurationError("There is no such round in the plan.")
    return {
        Question.BINS: 0,
        Question.STEP: 1 + round_,
        Question.EVALUATION: 1 + plan.rounds,
    }[question]


def question_at(plan: Plan, position: int) -> tuple[Question, int]:
    """Returns the question and its round that have this position: the inverse of `position_of`.

    Raises:
        ConfigurationError: the plan does not have it.
    """
    if not 0 <= position <= plan.rounds + 1:
        raise ConfigurationError("There is no such round in the plan.")
    if position == 0:
        return Question.BINS, 0
    if position == plan.rounds + 1:
        return Question.EVALUATION, 0
    return Question.STEP, position - 1


def sum_for(
    plan: Plan, schema: Schema, question: Question, card: AdditiveCard | None
) -> BoundedSum:
    """Returns the bounded sum that a question of the plan is.

    Raises:
        ConfigurationError: a card is missing, needless, or made for another schema.
        PrivacyError: the plan evaluates nothing.
    """
    if question is Question.BINS:
        if card is not None:
            raise ConfigurationError("Binning takes no card.")
        return bins_sum(plan, schema)
    if card is None:
        raise ConfigurationError("A step or an evaluation needs a card.")
    card.require_cells(cells_of(schema, Role.SCORED))
    if question is Question.STEP:
        return step_sum(plan, card)
    if plan.people.held_out_fraction == 0:
        raise PrivacyError("The plan holds nobody out: there is nothing to evaluate on.")
    return evaluation_sum(plan, schema)
