"""The coordinator's side of a training: ask, add up, take a step, release.

Start reading at `run_training`; each line of its body is a step of the protocol, in its order.
Everything here is post-processing of sums that institutions noised themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from federation.canonical import public_key_of
from federation.errors import ConfigurationError, ProtocolError
from federation.grid import Role
from federation.messages import (
    Accept,
    Answer,
    Ask,
    Close,
    Invite,
    Refuse,
    Reply,
    Request,
    decode_reply,
    encode,
)
from federation.model.card_fit import CardFit
from federation.model.release import release_json
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan, plan_toml
from federation.pricing import (
    bins_sum,
    evaluation_sum,
    price_of,
    stddev_of_total,
    step_sum,
)
from federation.query import UNITS_PER_ONE, BoundedSum, Question
from federation.schema import Schema
from federation.transport import Transport
from server.release_making import make_release


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """One opened sum: people (or residuals) per cell, and what is known about its noise.

    Attributes:
        values: float64[length], in ones, not grid units.
        stddev: of the noise on each value, likewise.
        answers: institutions in the sum.
    """

    values: NDArray[np.float64]
    stddev: float
    answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Something that happened, for whoever watches.

    Attributes:
        step: "accepted", "bins", "round", "evaluation", "released", "retry" or "malformed".
        number: of the round, or of institutions that accepted or sent what is no reply.
        of: rounds or institutions in the plan.
        answers: institutions that answered.
    """

    step: str
    number: int
    of: int
    answers: int


class Round:
    """Asks the plan's questions of the institutions that accepted it, attempt by attempt.

    A context manager: whatever ends the training early, the plan is closed at every participant,
    so that what was reserved and never spent returns to its budget.
    """

    def __init__(
        self,
        plan: Plan,
        transport: Transport,
        watch: Callable[[Progress], None],
    ) -> None:
        """Starts without participants; `invite` finds them."""
        self._plan = plan
        self._digest = plan.digest
        self._transport = transport
        self._watch = watch
        self._accepted: tuple[str, ...] = ()
        self._spare = plan.participation.spare_attempts
        self.fewest_answers = len(plan.participation.invited)

    def __enter__(self) -> Self:
        """Returns the rounds; nobody has been asked yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the plan without a release if the training did not come to its end."""
        if kind is not None:
            self.close(release=b"")

    def invite(self) -> None:
        """Returns once enough institutions take part.

        Raises:
            ProtocolError: fewer than the quorum accepted; says how many refused with which code.
        """
        invited = self._plan.participation.invited
        replies = self._exchange(Invite(plan=plan_toml(self._plan)), invited)
        self._accepted = tuple(
            name
            for name, reply in replies.items()
            if isinstance(reply, Accept) and reply.plan == self._digest
        )
        refusals = {
            name: str(reply.code) for name, reply in replies.items() if isinstance(reply, Refuse)
        }
        self._watch(
            Progress(
                step="accepted",
                number=len(self._accepted),
                of=len(invited),
                answers=len(replies),
            )
        )
        if len(self._accepted) < self._plan.participation.quorum:
            said = ", ".join(f"{name}: {code}" for name, code in sorted(refusals.items()))
            raise ProtocolError(
                f"{len(self._accepted)} of {len(invited)} institutions take part, the plan needs "
                f"{self._plan.participation.quorum}. Refusals: {said or 'none'}; "
                f"{len(invited) - len(replies)} did not answer."
            )

    def ask(self, query: BoundedSum, *, round_: int, card: AdditiveCard | None) -> Total:
        """Returns the total of one question, spending spare attempts on training rounds if needed.

        Raises:
            ProtocolError: too few institutions answered, and no attempt is left.
        """
        attempt = 0
        while True:
            ask = Ask(
                plan=self._digest,
                question=query.question,
                round=round_,
                attempt=attempt,
                card=card,
            )
            vectors = self._answers(ask, query.length)
            if len(vectors) >= self._plan.participation.quorum:
                self.fewest_answers = min(self.fewest_answers, len(vectors))
                return Total(
                    values=np.sum(vectors, axis=0) / UNITS_PER_ONE,
                    stddev=stddev_of_total(query.share_variance, len(vectors)),
                    answers=len(vectors),
                )
            if query.question is not Question.STEP or self._spare == 0:
                raise ProtocolError(
                    f"Only {len(vectors)} institutions answered {query.question} {round_}, the "
                    f"quorum is {self._plan.participation.quorum}, and no attempt is left. The "
                    "plan ends; make a new one."
                )
            self._spare -= 1
            attempt += 1
            self._watch(
                Progress(step="retry", number=round_, of=self._plan.rounds, answers=len(vectors))
            )

    def close(self, *, release: bytes) -> None:
        """Tells everybody invited that the plan has ended: an acceptance may have been lost."""
        self._exchange(Close(plan=self._digest, release=release), self._plan.participation.invited)

    def _answers(self, ask: Ask, length: int) -> list[NDArray[np.int64]]:
        asked = (ask.plan, ask.question, ask.round, ask.attempt)
        return [
            reply.vector(length)
            for reply in self._exchange(ask, self._accepted).values()
            if isinstance(reply, Answer)
            and (reply.plan, reply.question, reply.round, reply.attempt) == asked
            and len(reply.total) == 8 * length
        ]

    def _exchange(self, request: Request, names: tuple[str, ...]) -> dict[str, Reply]:
        data = encode(request)
        found: dict[str, Reply] = {}
        for name, reply in self._transport.exchange(dict.fromkeys(names, data)).items():
            try:
                found[name] = decode_reply(reply)
            except ProtocolError:  # who sends what is no reply has not answered
                self._watch(Progress(step="malformed", number=1, of=len(names), answers=0))
        return found


def run_training(
    *,
    plan: Plan,
    schema: Schema,
    transport: Transport,
    key: Ed25519PrivateKey,
    now: datetime,
    watch: Callable[[Progress], None],
) -> bytes:
    """Runs one plan to its end and returns the signed release as JSON.

    Args:
        plan: signed by `key`, valid now.
        schema: the public data contract that the plan names.
        transport: reaches the invited institutions.
        key: the coordinator's.
        now: the date that the release carries.
        watch: told what happened, for progress and logs.

    Raises:
        ProtocolError: the plan is unsigned or expired, too few institutions take part or answer.
        ConfigurationError: plan and schema, or plan and key, do not match.
        PrivacyError: the plan costs more than it promises.
    """
    plan.require_signed()
    plan.require_valid_at(now)
    if public_key_of(key) != plan.coordinator:
        raise ConfigurationError("This key is not the coordinator's that the plan names.")
    price = price_of(plan, schema)
    with Round(plan, transport, watch) as rounds:
        rounds.invite()
        counts = rounds.ask(bins_sum(plan, schema), round_=0, card=None)
        watch(Progress(step="bins", number=1, of=1, answers=counts.answers))
        fit = CardFit.begin(
            grids=tuple(grid for grid in schema.grids if grid.role is Role.SCORED),
            counts=counts.values,
            count_stddev=counts.stddev,
            residual_stddev=stddev_of_total(plan.noise.step, counts.answers),
            rounds=plan.rounds,
        )
        for number in range(plan.rounds):
            card = fit.to_ask()
            total = rounds.ask(step_sum(plan, card), round_=number, card=card)
            fit = fit.after(total.values)
            watch(Progress(step="round", number=number + 1, of=plan.rounds, answers=total.answers))
        points = fit.in_points(plan.scale)
        histogram: Total | None = None
        if plan.people.held_out_fraction > 0:
            histogram = rounds.ask(evaluation_sum(plan, schema), round_=0, card=points)
            watch(Progress(step="evaluation", number=1, of=1, answers=histogram.answers))
        release = release_json(
            make_release(
                plan=plan,
                schema=schema,
                price=price,
                settings=fit.settings,
                points=points,
                histogram=None if histogram is None else histogram.values,
                histogram_stddev=0.0 if histogram is None else histogram.stddev,
                institutions=rounds.fewest_answers,
                now=now,
            ).signed(key)
        )
        rounds.close(release=release)
        watch(
            Progress(
                step="released", number=plan.rounds, of=plan.rounds, answers=rounds.fewest_answers
            )
        )
    return release
