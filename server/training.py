"""The coordinator's side of a training: ask, add up, take a step, release.

Start reading at `run_training`; each line of its body is a step of the protocol, in its order.
Everything here is post-processing of sums that institutions noised themselves.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from federation.canonical import public_key_of
from federation.errors import ConfigurationError
from federation.fits import Fit, public_network
from federation.learning import NetworkModel
from federation.messages import Model
from federation.model.attributions import attributions
from federation.model.release import release_json
from federation.outcome import require_gate
from federation.plan import Plan
from federation.pricing import price_of
from federation.query import Question
from federation.schema import Schema
from server.release_making import make_release


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """One opened sum: people (or residuals, or gradients), and what is known about its noise.

    Attributes:
        values: float64[length], in people or clip norms, not grid units.
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


class Sums(AbstractContextManager["Sums"], Protocol):
    """Gets the totals of a plan's questions; on any error within, it closes the plan."""

    fewest_answers: int
    """Institutions in the smallest total so far."""

    def begin(self) -> None:
        """Returns once enough institutions take part."""
        ...

    def ask(self, question: Question, *, round_: int, model: Model | None) -> Total:
        """Returns the total of one question."""
        ...

    def close(self, *, release: bytes) -> None:
        """Tells everybody that the plan has ended."""
        ...


def run_training(
    *,
    plan: Plan,
    schema: Schema,
    sums: Sums,
    key: Ed25519PrivateKey,
    now: datetime,
    watch: Callable[[Progress], None],
) -> bytes:
    """Runs one plan to its end and returns the signed release as JSON.

    Args:
        plan: signed by `key`, valid now.
        schema: the public data contract that the plan names.
        sums: gets totals from the invited institutions.
        key: the coordinator's.
        now: the date that the release carries.
        watch: told what happened, for progress and logs.

    Raises:
        ProtocolError: the plan is unsigned or expired, too few institutions take part or answer,
            or what was trained fails the plan's gate: then the plan ends without a release.
        ConfigurationError: plan and schema, or plan and key, do not match, or the plan's module is
            not installed here, or cannot score here.
        PrivacyError: the plan costs more than it promises.
    """
    plan.require_signed()
    plan.require_valid_at(now)
    if public_key_of(key) != plan.coordinator:
        raise ConfigurationError("This key is not the coordinator's that the plan names.")
    price = price_of(plan, schema)
    if isinstance(plan.model, NetworkModel) and plan.model.module is not None:
        network = public_network(plan.model, schema)
        cells = np.zeros((len(network.shape.bin_of_cell), 2), dtype=np.uint8)
        attributions(network, cells, np.zeros(network.shape.inputs))  # else nothing is released
    with sums:
        sums.begin()
        counts: Total | None = None
        if plan.asks_bins:
            counts = sums.ask(Question.BINS, round_=0, model=None)
            watch(Progress(step="bins", number=1, of=1, answers=counts.answers))
        fit = Fit.begin(
            plan,
            schema,
            None if counts is None else counts.values,
            0 if counts is None else counts.answers,
        )
        for number in range(plan.rounds):
            total = sums.ask(plan.training_question, round_=number, model=fit.to_ask())
            fit = fit.after(total.values, total.answers)
            watch(Progress(step="round", number=number + 1, of=plan.rounds, answers=total.answers))
        model = fit.finished()
        histogram: Total | None = None
        if plan.evaluates:
            histogram = sums.ask(Question.EVALUATION, round_=0, model=model)
            watch(Progress(step="evaluation", number=1, of=1, answers=histogram.answers))
        made = make_release(
            schema=schema,
            price=price,
            fit=fit,
            histogram=None if histogram is None else histogram.values,
            histogram_stddev=0.0 if histogram is None else histogram.stddev,
            institutions=sums.fewest_answers,
            now=now,
        )
        require_gate(made.report.overall, plan)
        release = release_json(made.signed(key))
        sums.close(release=release)
        watch(
            Progress(
                step="released", number=plan.rounds, of=plan.rounds, answers=sums.fewest_answers
            )
        )
    return release
