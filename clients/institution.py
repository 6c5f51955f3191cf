"""The institution's side of a training, from invitation to the end of the plan.

Start reading at `Institution.handle`. Whatever arrives, the answer is one of: a promise to take
part, a masked sum that was paid for in the ledger first, or a refusal code that was computed
without looking at any row.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from clients.blocks import Block
from clients.ledger import Ledger
from clients.packed_people import step_contributions
from clients.policy import Policy, consider
from clients.snapshot import Snapshot, take_snapshot
from federation import door
from federation.canonical import Digest
from federation.door import Contribution
from federation.errors import (
    ConfigurationError,
    DataError,
    FedscoreError,
    LedgerCorrupt,
    PrivacyError,
    ProtocolError,
)
from federation.grid import Role
from federation.messages import (
    Accept,
    Ask,
    Close,
    Closed,
    Invite,
    RefusalCode,
    Refuse,
    answered,
    decode_request,
    encode,
)
from federation.model.evaluation import evaluation_contribution
from federation.model.release import load_release
from federation.model.scorecard import AdditiveCard, count_contribution
from federation.plan import Plan, load_plan
from federation.population import Split
from federation.pricing import PlanPrice, bins_sum, cells_of, evaluation_sum, price_of, step_sum
from federation.privacy.entropy import Entropy
from federation.privacy.events import GaussianEvents
from federation.privacy.ledger_entries import Spent
from federation.privacy.units import Population
from federation.query import BoundedSum, Question
from federation.schema import ROW_AS_KEY, Schema


class _Refused(Exception):  # noqa: N818  an answer, not an error: it becomes a `Refuse`
    """Carries the code for the coordinator and the words for the institution's own log."""

    def __init__(self, code: RefusalCode, why: str) -> None:
        super().__init__(code, why)
        self.code = code
        self.why = why


@dataclass(slots=True)
class _Taking:
    """The plan this institution takes part in, and what it has answered of it."""

    plan: Plan
    digest: Digest
    snapshot: Snapshot
    replies: dict[tuple[Question, int, int], tuple[bytes, bytes]] = field(default_factory=dict)


class Institution:
    """One institution: its table, its ledger, its policy; answers bytes with bytes."""

    def __init__(
        self,
        *,
        identifier: str,
        schema: Schema,
        table: Path,
        not_held: frozenset[str],
        most_people: int,
        split: Split,
        policy: Policy,
        ledger: Ledger,
        workspace: Path,
        clock: Callable[[], int],
        entropy: Entropy,
        log: Callable[[str], None],
    ) -> None:
        """Prepares an institution; nothing is read and nothing is written.

        Args:
            identifier: as invitations name it.
            schema: the federation's public data contract.
            table: Parquet or CSV file that keeps it.
            not_held: features of the schema that this table does not have.
            most_people: public figure that the number of people in the table never exceeds.
            split: the federation's public salt and held-out fraction, the same for every plan.
            policy: what this institution allows.
            ledger: open for writing.
            workspace: existing private directory for snapshots.
            clock: whole seconds since 1970.
            entropy: 32 fresh secret bytes a call.
            log: the institution's own log; nothing in it is sent.
        """
        self.identifier = identifier
        self._schema = schema
        self._table = table
        self._not_held = not_held
        self._most_people = most_people
        self._split = split
        self._policy = policy
        self._limits = policy.limits
        self._ledger = ledger
        self._workspace = workspace
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._snapshot: Snapshot | None = None
        self._taking: _Taking | None = None

    def prepare(self) -> None:
        """Reads the table into a snapshot, for the next plan. Nobody but the owner hears of it.

        Done before any plan is known, so that no reply to a coordinator depends on a row.

        Raises:
            DataError: the table breaks its contract, or holds more people than `most_people`.
            ConfigurationError: a plan is under way on the last snapshot.
        """
        if self._taking is not None:
            raise ConfigurationError("A plan is under way: its snapshot cannot be replaced.")
        if self._schema.person_key == ROW_AS_KEY and self._split.held_out_fraction > 0:
            raise ConfigurationError(
                'This schema has person_key = "row": without a key nobody can be held out. Name a '
                "key column, or join a federation that holds nobody out."
            )
        shutil.rmtree(self._workspace / "snapshot", ignore_errors=True)  # also a killed process's
        snapshot = take_snapshot(
            self._schema,
            self._table,
            not_held=self._not_held,
            split=self._split,
            directory=self._workspace / "snapshot",
        )
        people = sum(snapshot.people(population) for population in Population)
        if people > self._most_people:
            snapshot.delete()
            raise DataError(
                f"The table has {people:,} people, more than this institution's public "
                f"most_people = {self._most_people:,}. Raise that figure."
            )
        self._snapshot = snapshot

    def handle(self, data: bytes) -> bytes:
        """Returns the encoded reply to an encoded request.

        Raises:
            LedgerCorrupt: the ledger cannot be trusted; the institution must stop.
        """
        plan = ""
        try:
            request = decode_request(data)
            if isinstance(request, Ask | Close):
                plan = request.plan
            return self._reply(request, data)
        except _Refused as refused:
            code, why = refused.code, refused.why
        except LedgerCorrupt:
            raise
        except ProtocolError as error:
            code, why = RefusalCode.OUT_OF_ORDER, str(error)
        except (FedscoreError, OSError, ArithmeticError, ValueError, RecursionError) as error:
            code, why = RefusalCode.UNAVAILABLE, str(error)
        self._log(f"refused ({code}): {why}")
        return encode(Refuse(plan=plan, code=code))

    def _reply(self, request: Invite | Ask | Close, data: bytes) -> bytes:
        match request:
            case Invite():
                return encode(self._consider(request))
            case Ask():
                return self._answer(request, data)
            case Close():
                return encode(self._close(request))

    # 1. Consider the plan: everything that can be refused, without the data; then reserve.

    def _consider(self, invite: Invite) -> Accept:
        plan = self._checked(invite)
        price = self._price(plan)
        balance = self._ledger.balance(self._limits)
        for rule in consider(plan, price, self._policy, balance):
            if not rule.holds:
                raise _Refused(rule.code, f"policy: not so: {rule.text}")
        self._end_expired()
        if self._taking is not None:
            raise _Refused(RefusalCode.OUT_OF_ORDER, "another plan is under way")
        if self._snapshot is None:
            raise _Refused(RefusalCode.UNAVAILABLE, "no snapshot has been prepared")
        digest = plan.digest
        self._ledger.reserve(digest, price.price, plan.people.split.digest, self._limits)
        self._taking = _Taking(plan=plan, digest=digest, snapshot=self._snapshot)
        self._log(f"takes part in plan {plan.name} ({digest[:16]}...)")
        sequence, head = self._ledger.head()
        return Accept(plan=digest, ledger_sequence=sequence, ledger_head=head)

    def _price(self, plan: Plan) -> PlanPrice:
        try:
            return price_of(plan, self._schema)
        except PrivacyError as error:
            raise _Refused(RefusalCode.PRICE, str(error)) from error

    def _checked(self, invite: Invite) -> Plan:
        try:
            plan = load_plan(invite.plan)
            plan.require_signed()
        except FedscoreError as error:
            raise _Refused(RefusalCode.SIGNATURE, str(error)) from error
        try:
            plan.require_valid_at(self._now())
        except ProtocolError as error:
            raise _Refused(RefusalCode.VALIDITY, str(error)) from error
        if plan.schema != self._schema.digest:
            raise _Refused(RefusalCode.SCHEMA, "the plan is for another schema")
        if self.identifier not in plan.participation.invited:
            raise _Refused(RefusalCode.PARTICIPANTS, "we are not invited")
        if plan.people.split != self._split:
            raise _Refused(RefusalCode.POLICY, "the plan holds out other people than we do")
        if plan.people.most_per_institution < self._most_people:
            raise _Refused(
                RefusalCode.POLICY, "the plan has room for fewer people than we may have"
            )
        return plan

    # 2. Answer one question: check, pay, then look at people and send one masked sum.

    def _answer(self, ask: Ask, data: bytes) -> bytes:
        taking = self._current(ask.plan)
        key = (ask.question, ask.round, ask.attempt)
        if self._now() > taking.plan.valid_until:
            raise _Refused(RefusalCode.VALIDITY, "the plan has expired")
        if key in taking.replies:
            asked, reply = taking.replies[key]
            if asked != data:
                raise _Refused(RefusalCode.OUT_OF_ORDER, f"another question for {key}")
            return reply
        query = self._query(taking, ask)
        events = GaussianEvents(
            sensitivity_squared=query.sensitivity_squared,
            variance=query.share_variance * taking.plan.participation.honest_shares,
            times=1,
        )
        self._ledger.spend(
            Spent(
                plan=taking.digest,
                question=ask.question.value,
                round=ask.round,
                attempt=ask.attempt,
                population=ask.question.population,
                units=events.units_each(),
            )
        )
        people = self._contributions(taking, ask)
        masked = door.answer(query, people, noise_key=self._entropy())
        reply = encode(answered(ask, masked))
        taking.replies[key] = (data, reply)
        return reply

    def _query(self, taking: _Taking, ask: Ask) -> BoundedSum:
        plan = taking.plan
        spare = plan.participation.spare_attempts if ask.question is Question.STEP else 0
        rounds = plan.rounds if ask.question is Question.STEP else 1
        if not (0 <= ask.round < rounds and 0 <= ask.attempt <= spare):
            raise _Refused(RefusalCode.OUT_OF_ORDER, "no such round or attempt in the plan")
        seen = [
            (round_, attempt)
            for question, round_, attempt in taking.replies
            if question is ask.question
        ]
        if seen and (ask.round, ask.attempt) < max(seen):
            raise _Refused(RefusalCode.OUT_OF_ORDER, "an earlier round or attempt than the last")
        if len(seen) >= rounds + spare:
            raise _Refused(RefusalCode.OUT_OF_ORDER, "all attempts of the plan are used up")
        if ask.question is Question.BINS:
            if ask.card is not None:
                raise _Refused(RefusalCode.OUT_OF_ORDER, "binning takes no card")
            return bins_sum(plan, self._schema)
        card = self._card(ask)
        if ask.question is Question.STEP:
            return step_sum(plan, card)
        return evaluation_sum(plan, self._schema)

    def _card(self, ask: Ask) -> AdditiveCard:
        if ask.card is None:
            raise _Refused(RefusalCode.OUT_OF_ORDER, "a step or an evaluation needs a card")
        try:
            ask.card.require_cells(cells_of(self._schema, Role.SCORED))
        except ConfigurationError as error:
            raise _Refused(RefusalCode.SCHEMA, str(error)) from error
        return ask.card

    def _contributions(self, taking: _Taking, ask: Ask) -> Iterator[Contribution]:
        if ask.question is Question.STEP and ask.card is not None:
            yield from step_contributions(self._schema, taking.snapshot, ask.card)
            return
        roles = [grid.role for grid in self._schema.grids]
        scored = [i for i, role in enumerate(roles) if role is Role.SCORED]
        protected = [i for i, role in enumerate(roles) if role is Role.PROTECTED]
        for block in taking.snapshot.blocks(ask.question.population):
            yield self._contribution(taking.plan, ask, block, scored, protected)

    @staticmethod
    def _contribution(
        plan: Plan, ask: Ask, block: Block, scored: list[int], protected: list[int]
    ) -> Contribution:
        codes = block.codes[scored]
        if ask.card is None:
            return count_contribution(codes, block.bad, block.person_starts)
        return evaluation_contribution(
            codes,
            block.codes[protected],
            block.bad,
            block.person_starts,
            card=ask.card,
            scale=plan.scale,
        )

    # 3. Close the plan: what was never answered returns to the budget, the snapshot goes.

    def _close(self, request: Close) -> Closed:
        taking = self._taking
        if taking is not None and taking.digest == request.plan:
            self._log(_said_of(request.release, taking))
            self._end(taking)
        else:  # after a restart: nothing more will be answered, so what is left may return
            self._ledger.close_plan(Digest(request.plan))
            self._log(f"closed plan {request.plan[:16]}..., which an earlier process had entered")
        sequence, head = self._ledger.head()
        return Closed(plan=request.plan, ledger_sequence=sequence, ledger_head=head)

    def _end_expired(self) -> None:
        if self._taking is not None and self._now() > self._taking.plan.valid_until:
            self._log(f"plan {self._taking.plan.name} has expired without an end")
            self._end(self._taking)

    def _end(self, taking: _Taking) -> None:
        self._ledger.close_plan(taking.digest)
        taking.snapshot.delete()
        self._snapshot, self._taking = None, None

    def _current(self, plan: str) -> _Taking:
        if self._taking is None or self._taking.digest != plan:
            raise _Refused(RefusalCode.OUT_OF_ORDER, "we do not take part in this plan")
        return self._taking

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _said_of(release: bytes, taking: _Taking) -> str:
    """Returns what the institution's log says of the release it was given."""
    plan = taking.plan
    if not release:
        return f"plan {plan.name} ended without a release"
    try:
        found = load_release(release)
        found.require_signed_by(plan.coordinator)
    except FedscoreError as error:
        return f"the release of plan {plan.name} is not trusted: {error}"
    if found.plan != taking.digest:
        return f"the release of plan {plan.name} is not trusted: it names another plan"
    return f"plan {plan.name} ended with release {found.digest[:16]}..., signature valid"
