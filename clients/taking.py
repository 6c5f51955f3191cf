"""A plan that an institution takes part in: which question may be asked, paid, and of whom."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from clients.dense import gradients, points, update
from clients.ledger import Head, Ledger
from clients.packed_people import step_contributions
from clients.snapshot import Snapshot
from clients.withdrawals import Withdrawals
from federation.canonical import Digest
from federation.door import Brought
from federation.errors import ProtocolError
from federation.grid import Role
from federation.learning import Institution, NetworkModel
from federation.messages import Model
from federation.model.evaluation import evaluation_contribution
from federation.model.network import Network
from federation.model.scorecard import AdditiveCard, count_contribution
from federation.plan import Plan
from federation.pricing import charge_of
from federation.privacy.ledger_entries import Refunded, Spent
from federation.query import BoundedSum, Question
from federation.schema import Schema

Attempt = tuple[Question, int, int]
"""A question of the plan, its round, and the attempt at it."""


@dataclass(slots=True)
class Taking:
    """The plan, the snapshot that answers it, and what was paid for so far."""

    plan: Plan
    digest: Digest
    schema: Schema
    snapshot: Snapshot
    ledger: Ledger
    withdrawals: Withdrawals | None
    note_snapshot: Callable[[str], None]
    """Makes durable which snapshot answers the plan, by its digest; empty: whichever is there."""

    _paid: dict[Attempt, bool] = field(init=False)
    """Every attempt that was paid, also by an earlier process; False once it was refunded."""

    def __post_init__(self) -> None:
        self._paid = {
            (Question(question), round_, number): stands
            for (question, round_, number), stands in self.ledger.attempts(self.digest).items()
        }

    def leave_out_withdrawn(self) -> None:
        """Takes whoever has withdrawn by now out of the snapshot, between two attempts.

        Raises:
            ConfigurationError: who has withdrawn cannot be read, or the disk refuses: answer
                nothing.
            DataError: the snapshot is damaged.
        """
        if self.withdrawals is None:
            return
        if self.snapshot.is_without(self.withdrawals):
            self.snapshot = self.snapshot.after(self.withdrawals)
            return
        self.note_snapshot("")  # a process that is killed meanwhile leaves the old one or the new
        self.snapshot = self.snapshot.after(self.withdrawals)
        self.note_snapshot(self.snapshot.digest)

    def pay(self, attempt: Attempt, query: BoundedSum) -> Head:
        """Charges one attempt and returns the ledger's new head; only then is it answered.

        Args:
            attempt: not paid before, and not before the latest that was.
            query: what is asked.

        Raises:
            ProtocolError: the plan does not have this attempt, or not any more.
            BudgetExhausted: the reservation does not cover it.
            ConfigurationError: the machine refused; do not answer.
        """
        self.require_in_order(attempt)
        question, round_, number = attempt
        is_first = not any(paid for key, paid in self._paid.items() if key[0] is question)
        head = self.ledger.spend(
            Spent(
                plan=self.digest,
                question=question.value,
                round=round_,
                attempt=number,
                population=question.population,
                units=charge_of(self.plan, self.schema, query, is_first=is_first),
            )
        )
        self._paid[attempt] = True
        return head

    def require_in_order(self, attempt: Attempt) -> None:
        """Returns only if an attempt may be paid now.

        Raises:
            ProtocolError: the plan does not have it, or not any more.
        """
        question, round_, number = attempt
        spare = self.plan.participation.spare_attempts
        is_training = question is self.plan.training_question
        rounds = self.plan.rounds if is_training else 1
        if not (0 <= round_ < rounds and 0 <= number <= spare):
            raise ProtocolError("There is no such round or attempt in the plan.")
        seen = [key[1:] for key in self._paid if key[0] is question]
        if seen and (round_, number) <= max(seen):
            raise ProtocolError("This is not after the round and attempt that was answered last.")
        if is_training:
            if len(seen) >= rounds + spare:
                raise ProtocolError("All attempts of the plan are used up.")
        elif any(paid for key, paid in self._paid.items() if key[0] is question):
            raise ProtocolError("This question is asked once; its attempt was not given up.")

    def is_refunded(self, attempt: Attempt) -> bool:
        """Returns whether the charge of an attempt was taken back before."""
        return self._paid.get(attempt) is False

    def refund(self, attempt: Attempt) -> None:
        """Takes the charge of an attempt back. Only on proof that it was never opened.

        Raises:
            ProtocolError: it was sampled: the first answer has paid for all of them.
            PrivacyError: it was not paid, or was refunded before.
            ConfigurationError: the machine refused; it stays charged.
        """
        if attempt[0] is Question.GRADIENT and self.plan.sampling_rate < 1:
            raise ProtocolError("Sampled rounds are paid for together: none of them is given back.")
        question, round_, number = attempt
        self.ledger.refund(
            Refunded(plan=self.digest, question=question.value, round=round_, attempt=number)
        )
        self._paid[attempt] = False

    def people(
        self, question: Question, model: Model | None, *, sample_key: bytes
    ) -> Iterator[Brought]:
        """Yields what the people of a question bring to it, block by block.

        Args:
            question: of the plan.
            model: that it is about, of the plan's kind; None for bins.
            sample_key: 32 bytes that decide who takes part where people are sampled.
        """
        settings = self.plan.model
        if isinstance(model, Network) and isinstance(settings, NetworkModel):
            if question is Question.GRADIENT:
                yield from gradients(
                    self.schema, self.snapshot, model, settings, sample_key=sample_key
                )
                return
            if question is Question.UPDATE and isinstance(self.plan.mode, Institution):
                yield update(self.schema, self.snapshot, model, settings, self.plan.mode)
                return
        if isinstance(model, AdditiveCard) and question is Question.STEP:
            yield from step_contributions(self.schema, self.snapshot, model)
            return
        scored = self.schema.places(Role.SCORED)
        if question is Question.BINS and model is None:
            for block in self.snapshot.blocks(question.population):
                yield count_contribution(block.codes[scored], block.bad, block.person_starts)
            return
        if question is not Question.EVALUATION or model is None:
            raise ProtocolError("This question is not asked about this model.")
        protected = self.schema.places(Role.PROTECTED)
        scale = self.plan.scale
        for block in self.snapshot.blocks(question.population):
            codes = block.codes[scored]
            yield evaluation_contribution(
                points(model, codes, scale) if isinstance(model, Network) else model.scores(codes),
                block.codes[protected],
                block.bad,
                block.person_starts,
                scale=scale,
            )
