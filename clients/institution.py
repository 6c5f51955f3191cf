"""The institution's side of a training, from invitation to the end of the plan.

Start reading at `Institution.handle`. Whatever arrives, the answer is one of: a promise to take
part, keys and signatures of a session, a noised sum that was paid for in the ledger first, or a
refusal code that was computed without looking at any row. What happens within a session is in
`clients.sessions`; a plan in local mode has none, and `clients.local_answers` instead.
"""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.ledger import Ledger
from clients.local_answers import LocalAnswers
from clients.packed_people import forget_packed
from clients.policy import Policy
from clients.records import EnteredPlan, Records
from clients.releases import trusted_release
from clients.replies import reply_of
from clients.sessions import Sessions
from clients.snapshot import Snapshot
from clients.taking import Taking
from clients.weighing import Refused, Weighing
from clients.withdrawals import Withdrawals
from federation.canonical import Digest, public_key_of
from federation.errors import (
    ConfigurationError,
    DataError,
    FedscoreError,
    LedgerCorrupt,
    ProtocolError,
)
from federation.learning import Local
from federation.messages import (
    Accept,
    Ask,
    Close,
    Closed,
    Invite,
    Open,
    RefusalCode,
    Refuse,
    Request,
    decode_request,
    encode,
)
from federation.plan import Plan, load_plan, plan_toml
from federation.population import Split
from federation.pricing import PlanPrice
from federation.privacy.entropy import Entropy
from federation.privacy.units import Population
from federation.schema import ROW_AS_KEY, Schema
from federation.secure_aggregation.roster import Roster
from federation.secure_aggregation.survivors import PeerFault


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
        keep_release: Callable[[bytes], None],
        withdrawals: Withdrawals | None,
        clock: Callable[[], int],
        noise_entropy: Entropy,
        mask_entropy: Entropy,
        log: Callable[[str], None],
    ) -> None:
        """Names what an institution is made of; then `resume` or `prepare` it.

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
                digest; asked once all rules of the policy hold, and again at every request.
            keep_release: makes a release durable that the coordinator signed for a plan of ours.
            withdrawals: who is taken out before each question; None where nobody can withdraw.
            clock: whole seconds since 1970.
            noise_entropy: 32 fresh secret bytes a call, for noise.
            mask_entropy: 32 fresh secret bytes a call, for keys and masks.
            log: the institution's own log; nothing in it is sent.

        Raises:
            ConfigurationError: the roster names another key for this institution, or none.
            ProtocolError: the roster is not signed by the coordinator that the policy trusts.
            LedgerCorrupt: the ledger is older than a head that we have signed.
        """
        if (known := records.own_head()) is not None:
            ledger.require_not_older_than(known[0], Digest(known[1]))
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
        self._limits = policy.limits
        self._ledger = ledger
        self._records = records
        self._workspace = workspace
        self._is_approved = is_approved
        self._keep_release = keep_release
        self._withdrawals = withdrawals
        self._clock = clock
        self._noise_entropy = noise_entropy
        self._mask_entropy = mask_entropy
        self._log = log
        self._snapshot: Snapshot | None = None
        self._entered: Sessions | LocalAnswers | None = None
        self._weighing = Weighing(
            identifier=identifier,
            key=public_key_of(identity),
            roster=roster,
            schema=schema,
            split=split,
            most_people=most_people,
            policy=policy,
            ledger=ledger,
            records=records,
        )

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

    def resume(self) -> None:
        """Takes up again the plan that an earlier process had entered, else prepares for the next.

        What that process was asked and paid for is known; its keys are gone, so that nothing it had
        begun is ever completed: the coordinator begins a new session.

        Raises:
            DataError: as `prepare`.
            LedgerCorrupt: the ledger cannot be trusted.
        """
        for digest in self._ledger.balance(self._limits).open_plans:
            try:
                self._take_up(digest)
            except Refused as refused:
                self._log(
                    f"plan {digest[:16]}... stays reserved, not taken up again: {refused.why}"
                )
        if self._entered is None:
            self.prepare()

    def _take_up(self, digest: Digest) -> None:
        known = self._records.entered_plan(digest)
        if known is None:
            raise Refused(RefusalCode.UNAVAILABLE, "nothing else is known of it")
        plan = load_plan(known.text)
        if self._now() > plan.valid_until:
            self._ledger.close_plan(digest)
            self._records.end_plan(digest)
            self._log(f"plan {plan.name} has expired without an end")
            return
        self._weighing.require_still_allowed(known.text, self._now())
        try:
            snapshot = Snapshot.open(self._workspace / "snapshot", self._schema)
            if known.snapshot not in ("", snapshot.digest):  # empty: it was being rewritten
                raise ConfigurationError("its snapshot is another one now")
        except (ConfigurationError, DataError) as error:
            self._records.enter_plan(digest, EnteredPlan(text=known.text, snapshot="gone"))
            raise Refused(RefusalCode.UNAVAILABLE, str(error)) from error
        forget_packed(snapshot)
        self._snapshot = snapshot
        self._enter(plan, digest, snapshot)
        self._log(f"takes plan {plan.name} ({digest[:16]}...) up again")

    def leave(self) -> None:
        """Deletes the snapshot unless a plan is under way, which a later process takes up."""
        if self._entered is None and self._snapshot is not None:
            self._snapshot.delete()
            self._snapshot = None

    def rest(self) -> None:
        """Ends a plan that has expired and prepares for the next: for times when nobody asks.

        Raises:
            ConfigurationError: the ledger could not be written: it must be opened again.
            DataError: as `prepare`.
        """
        self._ledger.head()
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
        except Refused as refused:
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
        if (said := self._records.reply_to(data)) is not None:
            return said
        if isinstance(request, Open | Ask):
            self._weighing.require_rate()
        return encode(reply_of(entered, request))

    @property
    def taking(self) -> Taking:
        """The plan that is under way, or a `ProtocolError`."""
        if self._entered is None:
            raise ProtocolError("This institution takes part in no plan.")
        return self._entered.taking

    def _under_way(self) -> Sessions | LocalAnswers:
        if self._entered is None:
            raise Refused(RefusalCode.OUT_OF_ORDER, "we take part in no plan")
        if self._now() > self._entered.taking.plan.valid_until:
            raise Refused(RefusalCode.VALIDITY, "the plan has expired")
        self._require_approved(self._entered.taking.digest)
        return self._entered

    def _require_approved(self, plan: Digest) -> None:
        if not self._is_approved(plan):
            raise Refused(RefusalCode.POLICY, f"plan {plan[:16]}... is not approved")

    # 1. Consider the plan: everything that can be refused, without the data; then reserve.

    def _consider(self, invite: Invite) -> Accept:
        self._weighing.require_newest_ledger(invite)
        plan, price = self._weighing.plan_in(invite, self._now())
        self._end_expired()
        digest = plan.digest
        is_entered = self._entered is not None and self._entered.taking.digest == digest
        self._weighing.require_allowed(plan, price, is_reserved=is_entered)
        self._require_approved(digest)
        if not is_entered:
            self._reserve(plan, digest, price)
        sequence, head = self._ledger.head()
        return Accept(plan=digest, ledger_sequence=sequence, ledger_head=head)

    def _reserve(self, plan: Plan, digest: Digest, price: PlanPrice) -> None:
        """Sets the price aside and enters the plan: each step durable before the next."""
        if self._entered is not None:
            raise Refused(RefusalCode.OUT_OF_ORDER, "another plan is under way")
        if self._snapshot is None:
            raise Refused(RefusalCode.UNAVAILABLE, "no snapshot has been prepared")
        if self._ledger.knows(digest) or self._records.has_begun(digest):
            raise Refused(RefusalCode.PRICE, "the plan was entered before, and has ended here")
        self._records.enter_plan(
            digest, EnteredPlan(text=plan_toml(plan), snapshot=self._snapshot.digest)
        )
        self._ledger.reserve(
            digest,
            price.price,
            alone=price.alone,
            split=plan.people.split.digest,
            limits=self._limits,
        )
        self._enter(plan, digest, self._snapshot)
        self._log(f"takes part in plan {plan.name} ({digest[:16]}...)")

    def _enter(self, plan: Plan, digest: Digest, snapshot: Snapshot) -> None:
        text = plan_toml(plan)
        taking = Taking(
            plan=plan,
            digest=digest,
            schema=self._schema,
            snapshot=snapshot,
            ledger=self._ledger,
            withdrawals=self._withdrawals,
            note_snapshot=lambda now: self._records.enter_plan(
                digest, EnteredPlan(text=text, snapshot=now)
            ),
        )
        if isinstance(plan.mode, Local):
            self._entered = LocalAnswers(
                identifier=self.identifier,
                identity=self._identity,
                taking=taking,
                records=self._records,
                noise_entropy=self._noise_entropy,
            )
            return
        self._entered = Sessions(
            identifier=self.identifier,
            identity=self._identity,
            roster=self._roster,
            taking=taking,
            records=self._records,
            noise_entropy=self._noise_entropy,
            mask_entropy=self._mask_entropy,
            log=self._log,
        )

    # 2. Close the plan: what was never answered returns to the budget, the snapshot goes.

    def _close(self, request: Close) -> Closed:
        entered = self._entered
        if entered is not None and entered.taking.digest == request.plan:
            if isinstance(entered, Sessions):
                self._draw_last_coin(request, entered)
            self._take_release(request.release, entered.taking)
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

    def _take_release(self, release: bytes, taking: Taking) -> None:
        """Keeps the release if the coordinator signed it for this plan; the log says so or not."""
        name = taking.plan.name
        if not release:
            self._log(f"plan {name} ended without a release")
            return
        try:
            found = trusted_release(release, taking.plan)
        except FedscoreError as error:
            self._log(f"the release of plan {name} is not trusted: {error}")
            return
        self._keep_release(release)
        self._log(f"plan {name} ended with release {found.digest[:16]}..., signature valid")

    def _end_expired(self) -> None:
        if self._entered is not None and self._now() > self._entered.taking.plan.valid_until:
            self._log(f"plan {self._entered.taking.plan.name} has expired without an end")
            self._end(self._entered)

    def _end(self, entered: Sessions | LocalAnswers) -> None:
        self._ledger.close_plan(entered.taking.digest)
        self._records.end_plan(entered.taking.digest)
        entered.taking.snapshot.delete()
        self._snapshot, self._entered = None, None

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
