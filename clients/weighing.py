"""How an institution weighs an invitation: all that is refused without looking at its people."""

from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from clients.ledger import Ledger
from clients.policy import Policy, consider, fits, rate, runs_here
from clients.records import Records
from federation import canonical
from federation.canonical import Digest
from federation.errors import FedscoreError, PrivacyError, ProtocolError
from federation.messages import Invite, RefusalCode
from federation.plan import Plan, load_plan
from federation.population import Split
from federation.pricing import PlanPrice, price_of
from federation.schema import Schema
from federation.secure_aggregation.roster import Roster
from federation.secure_aggregation.upload import HEADER_LABEL


class Refused(Exception):  # noqa: N818  an answer, not an error: it becomes a `Refuse`
    """Carries the code for the coordinator and the words for the institution's own log."""

    def __init__(self, code: RefusalCode, why: str) -> None:
        """Takes both."""
        super().__init__(code, why)
        self.code = code
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighing:
    """What an invitation is held against.

    Attributes:
        identifier: of the institution.
        key: its identity, 64 hexadecimal digits.
        roster: the pinned one.
        schema: that its table keeps.
        split: of its federation.
        most_people: public figure that its table never exceeds.
        policy: what it allows.
        ledger: open.
        records: open.
    """

    identifier: str
    key: str
    roster: Roster
    schema: Schema
    split: Split
    most_people: int
    policy: Policy
    ledger: Ledger
    records: Records

    def require_newest_ledger(self, invite: Invite) -> None:
        """Returns only if our ledger has every head that we are known to have signed.

        Whoever runs on a restored backup, or beside a copy of itself, finds out here and stops.

        Raises:
            Refused: the header is not ours.
            LedgerCorrupt: the ledger does not have its head.
        """
        seen = invite.seen
        if seen is None:
            return
        header = seen.header
        if header.institution != self.identifier:
            raise Refused(RefusalCode.SIGNATURE, "the header is another institution's")
        try:
            canonical.verify(
                self.key, HEADER_LABEL, header.body(seen.context), header.signature.hex()
            )
        except ProtocolError as error:
            raise Refused(RefusalCode.SIGNATURE, f"the header is not ours: {error}") from error
        head = Digest(header.ledger_head)
        self.records.note_own_head(header.ledger_sequence, head)
        self.ledger.require_not_older_than(header.ledger_sequence, head)

    def plan_in(self, invite: Invite, now: datetime) -> tuple[Plan, PlanPrice]:
        """Returns a plan that is for this institution, now, and what it costs.

        Raises:
            Refused: it is not, or its noise does not keep what it promises.
        """
        try:
            plan = load_plan(invite.plan)
            plan.require_signed()
        except FedscoreError as error:
            raise Refused(RefusalCode.SIGNATURE, str(error)) from error
        for rule in fits(
            plan,
            identifier=self.identifier,
            schema=self.schema,
            roster=self.roster,
            approved_peers=self.policy.approved_peers,
            split=self.split,
            most_people=self.most_people,
            now=now,
        ):
            if not rule.holds:
                raise Refused(rule.code, f"policy: {rule.text}")
        try:
            return plan, price_of(plan, self.schema)
        except PrivacyError as error:
            raise Refused(RefusalCode.PRICE, str(error)) from error

    def require_still_allowed(self, text: str, now: datetime) -> None:
        """Returns only if a plan that was entered could be entered still: people may have decided.

        Args:
            text: of the plan, TOML.
            now: with time zone.

        Raises:
            Refused: with the first rule that does not hold any more.
        """
        plan, price = self.plan_in(Invite(plan=text), now)
        self.require_allowed(plan, price, is_reserved=True)

    def require_allowed(self, plan: Plan, price: PlanPrice, *, is_reserved: bool) -> None:
        """Returns only if the policy allows a plan.

        One that is reserved already has its budget; its questions wait for their hour one by one.

        Raises:
            Refused: with the first rule that does not hold.
        """
        balance = self.ledger.balance(self.policy.limits)
        settled = (RefusalCode.PRICE, RefusalCode.UNAVAILABLE) if is_reserved else ()
        rules = consider(plan, price, self.policy, balance)
        for rule in chain(rules, runs_here(plan, self.schema)):
            if not rule.holds and rule.code not in settled:
                raise Refused(rule.code, f"policy: {rule.text}")

    def require_rate(self) -> None:
        """Returns only if another question may be answered in this hour; nothing is noted of it.

        Raises:
            Refused: it may not, yet.
        """
        rule = rate(self.ledger.balance(self.policy.limits), self.policy)
        if not rule.holds:
            raise Refused(rule.code, f"policy: {rule.text}")
