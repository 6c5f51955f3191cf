"""A plan that an institution takes part in: which question may be asked, paid, and of whom."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from clients.blocks import Block
from clients.ledger import Head, Ledger
from clients.packed_people import step_contributions
from clients.snapshot import Snapshot
from clients.withdrawals import Withdrawals
from federation.canonical import Digest
from federation.door import Contribution
from federation.errors import ProtocolError
from federation.grid import Role
from federation.model.evaluation import evaluation_contribution
from federation.model.scorecard import AdditiveCard, count_contribution
from federation.plan import Plan
from federation.privacy.events import GaussianEvents
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
        self._require_in_order(attempt)
        question, round_, number = attempt
        events = GaussianEvents(
            sensitivity_squared=query.sensitivity_squared,
            variance=query.share_variance * self.plan.participation.honest_shares,
            times=1,
        )
        head = self.ledger.spend(
            Spent(
                plan=self.digest,
                question=question.value,
                round=round_,
                attempt=number,
                population=question.population,
                units=events.units_each(),
            )
        )
        self._paid[attempt] = True
        return head

    def _require_in_order(self, attempt: Attempt) -> None:
        question, round_, number = attempt
        spare = self.plan.participation.spare_attempts
        rounds = self.plan.rounds if question is Question.STEP else 1
        if not (0 <= round_ < rounds and 0 <= number <= spare):
            raise ProtocolError("There is no such round or attempt in the plan.")
        seen = [key[1:] for key in self._paid if key[0] is question]
        if seen and (round_, number) <= max(seen):
            raise ProtocolError("This is not after the round and attempt that was answered last.")
        if question is Question.STEP:
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
            PrivacyError: it was not paid, or was refunded before.
            ConfigurationError: the machine refused; it stays charged.
        """
        question, round_, number = attempt
        self.ledger.refund(
            Refunded(plan=self.digest, question=question.value, round=round_, attempt=number)
        )
        self._paid[attempt] = False

    def people(self, question: Question, card: AdditiveCard | None) -> Iterator[Contribution]:
        """Yields what the people of a question bring to it, block by block.

        Args:
            question: of the plan.
            card: that it is about; None for bins.
        """
        if question is Question.STEP and card is not None:
            yield from step_contributions(self.schema, self.snapshot, card)
            return
        roles = [grid.role for grid in self.schema.grids]
        scored = [i for i, role in enumerate(roles) if role is Role.SCORED]
        protected = [i for i, role in enumerate(roles) if role is Role.PROTECTED]
        for block in self.snapshot.blocks(question.population):
            yield self._contribution(block, card, scored, protected)

    def _contribution(
        self, block: Block, card: AdditiveCard | None, scored: list[int], protected: list[int]
    ) -> Contribution:
        codes = block.codes[scored]
        if card is None:
            return count_contribution(codes, block.bad, block.person_starts)
        return evaluation_contribution(
            codes,
            block.codes[protected],
            block.bad,
            block.person_starts,
            card=card,
            scale=self.plan.scale,
        )
