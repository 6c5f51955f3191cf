"""The institution's side of a training, from invitation to the end of the plan.

Start reading at `Institution.handle`. Whatever arrives, the answer is one of: a promise to take
part, keys and signatures of a session, a masked sum that was paid for in the ledger first, or a
refusal code that was computed without looking at any row. What happens within a session is in
`clients.sessions`.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.ledger import Ledger
from clients.policy import Policy, consider, fits
from clients.records import Records
from clients.sessions import Sessions
from clients.snapshot import Snapshot
from clients.taking import Taking
from federation.canonical import Digest, public_key_of
from federation.errors import (
    ConfigurationError,
    DataError,
    FedscoreError,
    LedgerCorrupt,
    PrivacyError,
    ProtocolError,
)
from federation.messages import (
    Abort,
    Accept,
    Begin,
    Close,
    Closed,
    Invite,
    Join,
    Open,
    Refund,
    RefusalCode,
    Refuse,
    Reply,
    Request,
    decode_request,
    encode,
)
from federation.model.release import load_release
from federation.plan import Plan, load_plan
from federation.population import Split
from federation.pricing import PlanPrice, price_of
from federation.privacy.entropy import Entropy
from federation.privacy.units import Population
from federation.schema import ROW_AS_KEY, Schema
from federation.secure_aggregation.roster import Roster
from federation.secure_aggregation.survivors import PeerFault, Reveal, Survivors


class _Refused(Exception):  # noqa: N818  an answer, not an error: it becomes a `Refuse`
    """Carries the code for the coordinator and the words for the institution's own log."""

    def __init__(self, code: RefusalCode, why: str) -> None:
        super().__init__(code, why)
        self.code = code
        self.why = why


@dataclass(frozen=True, slots=True)
class _Entered:
    """The plan that this institution takes part in."""

    taking: Taking
    sessions: Sessions

    @property
    def plan(self) -> Plan:
        return self.taking.plan


class Institution:
    """One institution: its table, its ledger, its policy; answers bytes with bytes."""

    def __init__(
        self,
        *,
        identifier: str,
        identity: Ed25519PrivateKey,
        roster: Roster,
        schema: Schema,
        read_table: Callable[[Path], Snapshot],
        most_people: int,
        split: Split,
        policy: Policy,
        ledger: Ledger,
        records: Records,
        workspace: Path,
        is_approved: Callable[[Digest], bool],
        clock: Callable[[], int],
        noise_entropy: Entropy,
        mask_entropy: Entropy,
        log: Callable[[str], None],
    ) -> None:
        """Prepares an institution; nothing is read and nothing is written.

        Args:
            identifier: as invitations name it.
            identity: its Ed25519 key, by which the others know it.
            roster: of the federation, as this institution's own people have pinned it.
            schema: the federation's public data contract.
            read_table: takes a snapshot of the table into a new directory.
            most_people: public figure that the number of people in the table never exceeds.
            split: the federation's public salt and held-out fraction, the same for every plan.
            policy: what this institution allows.
            ledger: open for writing.
            records: open; of this institution, as the ledger.
            workspace: existing private directory for snapshots.
            is_approved: whether this institution's people let it take part in the plan with this
                digest; asked once all rules of the policy hold.
            clock: whole seconds since 1970.
            noise_entropy: 32 fresh secret bytes a call, for noise.
            mask_entropy: 32 fresh secret bytes a call, for keys and masks.
            log: the institution's own log; nothing in it is sent.

        Raises:
            ConfigurationError: the roster names another key for this institution, or none.
            ProtocolError: the roster is not signed by the coordinator that the policy trusts.
        """
        roster.require_signed_by(policy.coordinator)
        if roster.key_of(identifier) != public_key_of(identity):
            raise ConfigurationError(
                f"The roster does not name our identity key for {identifier}. Compare the roster "
                "with the coordinator's by fingerprints, or use the right identity key."
            )
        self.identifier = identifier
        self._identity = identity
        self._roster = roster
        self._schema = schema
        self._read_table = read_table
        self._most_people = most_people
        self._split = split
        self._policy = policy
        self._limits = policy.limits
        self._ledger = ledger
        self._records = records
        self._workspace = workspace
        self._is_approved = is_approved
        self._clock = clock
        self._noise_entropy = noise_entropy
        self._mask_entropy = mask_entropy
        self._log = log
        self._snapshot: Snapshot | None = None
        self._entered: _Entered | None = None

    def prepare(self) -> None:
        """Reads the table into a snapshot, for the next plan. Nobody but the owner hears of it.

        Done before any plan is known, so that no reply to a coordinator depends on a row.

        Raises:
            DataError: the table breaks its contract, or holds more people than `most_people`.
            ConfigurationError: a plan is under way on the last snapshot, or the table cannot be
                read.
        """
        if self._entered is not None:
            raise ConfigurationError("A plan is under way: its snapshot cannot be replaced.")
        if self._schema.person_key == ROW_AS_KEY and self._split.held_out_fraction > 0:
            raise ConfigurationError(
                'This schema has person_key = "row": without a key nobody can be held out. Name a '
                "key column, or join a federation that holds nobody out."
            )
        shutil.rmtree(self._workspace / "snapshot", ignore_errors=True)  # also a killed process's
        snapshot = self._read_table(self._workspace / "snapshot")
        people = sum(snapshot.people(population) for population in Population)
        if people > self._most_people:
            snapshot.delete()
            raise DataError(
                f"The table has {people:,} people, more than this institution's public "
                f"most_people = {self._most_people:,}. Raise that figure."
            )
        self._snapshot = snapshot

    def rest(self) -> None:
        """Ends a plan that has expired and prepares for the next: for times when nobody asks.

        Raises:
            DataError: as `prepare`.
        """
        self._end_expired()
        if self._entered is None and self._snapshot is None:
            self.prepare()

    def handle(self, data: bytes) -> bytes:
        """Returns the encoded reply to an encoded request.

        Raises:
            LedgerCorrupt: the ledger cannot be trusted; the institution must stop.
        """
        peer = ""
        try:
            return self._replied(decode_request(data), data)
        except _Refused as refused:
            code, why = refused.code, refused.why
        except LedgerCorrupt:
            raise
        except PeerFault as fault:
            code, why, peer = RefusalCode.PEER, str(fault), fault.peer
        except ProtocolError as error:
            code, why = RefusalCode.OUT_OF_ORDER, str(error)
        except (FedscoreError, OSError, ArithmeticError, ValueError, RecursionError) as error:
            code, why = RefusalCode.UNAVAILABLE, str(error)
        self._log(f"refused ({code}): {why}")
        return encode(Refuse(code=code, peer=peer))

    def _replied(self, request: Request, data: bytes) -> bytes:
        """Returns what was said to the very same request before, or a new reply."""
        match request:
            case Invite():
                return encode(self._consider(request))
            case Close():
                return encode(self._close(request))
        entered = self._under_way()
        said = self._records.reply_to(data)
        return encode(self._reply(request, entered.sessions)) if said is None else said

    @staticmethod
    def _reply(request: Request, sessions: Sessions) -> Reply:
        match request:
            case Begin():
                return sessions.begin(request)
            case Join():
                return sessions.join(request)
            case Open():
                return sessions.open(request)
            case Survivors():
                return sessions.survivors(request)
            case Reveal():
                return sessions.reveal(request)
            case Abort():
                return sessions.abort(request)
            case Refund():
                return sessions.refund(request)
            case _:
                raise ProtocolError("This message belongs to no session.")

    @property
    def taking(self) -> Taking:
        """The plan that is under way.

        Raises:
            ProtocolError: there is none.
        """
        if self._entered is None:
            raise ProtocolError("This institution takes part in no plan.")
        return self._entered.taking

    def _under_way(self) -> _Entered:
        if self._entered is None:
            raise _Refused(RefusalCode.OUT_OF_ORDER, "we take part in no plan")
        if self._now() > self._entered.plan.valid_until:
            raise _Refused(RefusalCode.VALIDITY, "the plan has expired")
        return self._entered

    # 1. Consider the plan: everything that can be refused, without the data; then reserve.

    def _consider(self, invite: Invite) -> Accept:
        plan = self._checked(invite)
        price = self._price(plan)
        self._end_expired()
        balance = self._ledger.balance(self._limits)
        for rule in consider(plan, price, self._policy, balance):
            if not rule.holds:
                raise _Refused(rule.code, f"policy: {rule.text}")
        digest = plan.digest
        if not self._is_approved(digest):
            raise _Refused(RefusalCode.POLICY, f"plan {digest[:16]}... has not been approved")
        if self._entered is not None:
            raise _Refused(RefusalCode.OUT_OF_ORDER, "another plan is under way")
        if self._snapshot is None:
            raise _Refused(RefusalCode.UNAVAILABLE, "no snapshot has been prepared")
        self._ledger.reserve(
            digest,
            price.price,
            alone=price.alone,
            split=plan.people.split.digest,
            limits=self._limits,
        )
        taking = Taking(
            plan=plan,
            digest=digest,
            schema=self._schema,
            snapshot=self._snapshot,
            ledger=self._ledger,
        )
        sessions = Sessions(
            identifier=self.identifier,
            identity=self._identity,
            roster=self._roster,
            taking=taking,
            records=self._records,
            noise_entropy=self._noise_entropy,
            mask_entropy=self._mask_entropy,
            log=self._log,
        )
        self._entered = _Entered(taking=taking, sessions=sessions)
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
        for rule in fits(
            plan,
            identifier=self.identifier,
            schema=self._schema,
            roster=self._roster,
            split=self._split,
            most_people=self._most_people,
            now=self._now(),
        ):
            if not rule.holds:
                raise _Refused(rule.code, f"not so: {rule.text}")
        return plan

    # 2. Close the plan: what was never answered returns to the budget, the snapshot goes.

    def _close(self, request: Close) -> Closed:
        entered = self._entered
        if entered is not None and entered.taking.digest == request.plan:
            self._draw_last_coin(request, entered.sessions)
            self._log(_said_of(request.release, entered.taking))
            self._end(entered)
        elif self._ledger.knows(request.plan):
            # after a restart: nothing more will be answered, so what is left may return
            self._ledger.close_plan(Digest(request.plan))
            self._records.end_plan(request.plan)
            self._log(f"closed plan {request.plan[:16]}..., which an earlier process had entered")
        sequence, head = self._ledger.head()
        return Closed(plan=request.plan, ledger_sequence=sequence, ledger_head=head)

    def _draw_last_coin(self, request: Close, sessions: Sessions) -> None:
        """Draws the last audit coin; that it is wrong does not keep the plan from ending."""
        try:
            if request.coins is not None:
                sessions.draw_coin(request.coins)
        except (FedscoreError, OSError) as error:
            self._log(f"the last attempt was not audited: {error}")

    def _end_expired(self) -> None:
        if self._entered is not None and self._now() > self._entered.plan.valid_until:
            self._log(f"plan {self._entered.plan.name} has expired without an end")
            self._end(self._entered)

    def _end(self, entered: _Entered) -> None:
        self._ledger.close_plan(entered.taking.digest)
        self._records.end_plan(entered.taking.digest)
        entered.taking.snapshot.delete()
        self._snapshot, self._entered = None, None

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _said_of(release: bytes, taking: Taking) -> str:
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
