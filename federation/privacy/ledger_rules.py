"""What a privacy-budget ledger may hold, what it charges, and what it leaves to spend.

A ledger is a chain of entries. Every rule that an entry must obey is a small function in this
file, and `record` applies all of them both when an entry is written and when a stored ledger is
read again. What a plan is charged, to each population separately:

| the plan | lifetime total | total of the last 365 days |
| --- | --- | --- |
| reserved and not closed (also after a crash) | all it reserved | all it reserved, however old |
| closed | what it spent, less refunds | the same, while its latest entry is at most 365 days old |
| open when entries were found missing | all it reserved | the same, for 365 days from then |

Missing entries that a person had charged (`federation.privacy.ledger_recovery`) count in full, in
the window for 365 days from then.

Time is the institution's own clock and never runs backwards: an entry is stamped with the later of
the clock and the entry before it. A clock that jumps ahead can only loosen the yearly window, never
the lifetime limit; afterwards the ledger's time stands still until the clock has caught up.

The chain is hashed, not signed. It shows damage and careless edits. Whoever may write the file can
write another consistent chain; a head seen earlier in a signed header shows that one.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from federation.canonical import Digest
from federation.errors import BudgetExhausted, PrivacyError
from federation.privacy.ledger_entries import (
    GENESIS,
    Closed,
    Entry,
    Recorded,
    Recovered,
    Refunded,
    Reserved,
    Spent,
    require_time,
    require_whole,
)
from federation.privacy.units import BudgetUnits, Population, Price

WINDOW_SECONDS, HOUR_SECONDS = 365 * 24 * 60 * 60, 60 * 60


# What is left.


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The institution's own limits, each for each population separately.

    Attributes:
        lifetime: budget units, in [0, 2^62]. Never renewed.
        yearly: budget units within any 365 days, in [0, lifetime].
    """

    lifetime: BudgetUnits
    yearly: BudgetUnits

    def __post_init__(self) -> None:
        require_whole("lifetime limit", self.lifetime, 0)
        require_whole("yearly limit", self.yearly, 0)
        if self.yearly > self.lifetime:
            raise PrivacyError(
                f"Expected the yearly limit {self.yearly} to lie within the lifetime limit "
                f"{self.lifetime}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationBalance:
    """One population's totals and what is left of each limit, in budget units, all >= 0."""

    charged_lifetime: BudgetUnits
    charged_in_window: BudgetUnits
    left_lifetime: BudgetUnits
    left_in_window: BudgetUnits

    @property
    def left(self) -> BudgetUnits:
        """What can still be reserved now."""
        return min(self.left_lifetime, self.left_in_window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Where the ledger stands at one time; open plans in the order of their reservation.

    `recovered`: the missing entries that were charged; `answers_last_hour`: attempts spent within
    the last 60 minutes, refunded ones included.
    """

    trained: PopulationBalance
    held_out: PopulationBalance
    open_plans: tuple[Digest, ...]
    recovered: tuple[Recovered, ...]
    answers_last_hour: int

    def of(self, population: Population) -> PopulationBalance:
        """Returns the totals of one population."""
        return self.trained if population is Population.TRAINED else self.held_out


# The fold. `record` costs the same however long the ledger is; a balance, one step a plan.


@dataclass(slots=True, kw_only=True)
class PlanAccount:
    """What the entries so far say about one plan. Changed only by `record`."""

    price: Price
    latest_time: int
    is_open: bool = True
    spent: dict[Population, int] = field(default_factory=lambda: dict.fromkeys(Population, 0))
    attempts: dict[tuple[str, int, int], Spent] = field(default_factory=dict)
    """Every attempt that was spent."""
    refunded: set[tuple[str, int, int]] = field(default_factory=set)
    """Those of them that were refunded."""

    def charge(self, population: Population) -> int:
        """Returns what the plan is charged: its price while open, what it spent once closed."""
        return self.price.of(population) if self.is_open else self.spent[population]

    def end(self) -> None:
        """Lets nothing more be spent or refunded."""
        self.is_open, self.attempts, self.refunded = False, {}, set()


@dataclass(slots=True, kw_only=True)
class Account:
    """What the entries so far say. Starts empty; changed only by `record`."""

    sequence: int = 0
    head: Digest = GENESIS
    latest_time: int = 0
    split: Digest | None = None
    plans: dict[Digest, PlanAccount] = field(default_factory=dict)
    recovered: list[tuple[int, Recovered]] = field(default_factory=list)
    """When missing entries were charged, with that entry."""
    gaps: list[range] = field(default_factory=list)
    """Sequences that were left out by this, each below one that was seen."""
    answered: deque[int] = field(default_factory=deque)
    """When attempts were spent, in order, those of the last hour before the last one."""

    def has_charged_for(self, sequence: int, head: Digest) -> bool:
        """Returns whether this head was seen, missed, and what led to it charged at its worst."""
        seen = {(one.seen_sequence, one.seen_head) for _, one in self.recovered}
        return (sequence, head) in seen

    def has_charged_before(self, sequence: int) -> bool:
        """Returns whether the entry of this sequence is missing, before one that was charged for.

        Its header shows nothing that the charge did not cover: that was for all that is missing.
        """
        return any(sequence in gap for gap in self.gaps)


def following(account: Account, now: int, entry: Entry) -> Recorded:
    """Returns the entry in the next place of the chain, at the later of `now` and the last time.

    Args:
        account: the fold of all entries before.
        now: what the clock says, in seconds since 1970.
        entry: what happened.

    Raises:
        ConfigurationError: the clock is outside [0, LATEST_TIME].
    """
    return Recorded(
        sequence=_next_sequence(account, entry),
        time=_ledger_time(account, now),
        previous=account.head,
        entry=entry,
    )


def record(account: Account, recorded: Recorded) -> None:
    """Adds one entry to the account if it obeys every rule; otherwise changes nothing.

    The institution's limits are not a rule of the chain, for they may change over the years:
    `check_reservation` applies them when a plan is reserved.

    Raises:
        PrivacyError: a rule is broken; the message says which.
    """
    _follows(account, recorded)
    _check_rules(account, recorded.entry)
    _apply(account, recorded)


def check_reservation(account: Account, reserved: Reserved, now: int, limits: Limits) -> None:
    """Returns only if the plan may be reserved now and its price fits both limits.

    Raises:
        PrivacyError: the plan was reserved before, or its split is not the ledger's.
        BudgetExhausted: the price is above what is left to one population.
        ConfigurationError: the clock is outside [0, LATEST_TIME].
    """
    _check_rules(account, reserved)
    standing = balance_of(account, now, limits)
    for population in Population:
        asked, side = reserved.price.of(population), standing.of(population)
        if asked > side.left:
            if side.left_lifetime <= side.left_in_window:
                limit = f"the lifetime limit of {limits.lifetime}, which never renews"
            else:
                limit = f"the limit of {limits.yearly} within 365 days"
            raise BudgetExhausted(
                f"Plan {reserved.plan[:16]} asks {asked} budget units of the {population} people; "
                f"{side.left} are left of {limit}. Refuse the plan, close plans that ended, or "
                "let the institution decide on its limits."
            )


def balance_of(account: Account, now: int, limits: Limits) -> Balance:
    """Returns the totals charged and what is left, given the fold of the entries.

    Args:
        account: the fold of all entries.
        now: what the clock says, in seconds since 1970; a time before the last entry counts as it.
        limits: the institution's limits. Totals above them (they were lowered) leave 0.

    Raises:
        ConfigurationError: the clock is outside [0, LATEST_TIME].
    """
    ledger_time = _ledger_time(account, now)
    window_start = ledger_time - WINDOW_SECONDS
    plans = account.plans.values()
    in_window = [plan for plan in plans if plan.is_open or plan.latest_time >= window_start]
    missing = [found.price for _, found in account.recovered]
    missing_in_window = [found.price for time, found in account.recovered if time >= window_start]

    def side(population: Population) -> PopulationBalance:
        lost = sum(one.of(population) for one in missing)
        charged = lost + sum(plan.charge(population) for plan in plans)
        lost_in_window = sum(one.of(population) for one in missing_in_window)
        charged_in_window = lost_in_window + sum(plan.charge(population) for plan in in_window)
        return PopulationBalance(
            charged_lifetime=BudgetUnits(charged),
            charged_in_window=BudgetUnits(charged_in_window),
            left_lifetime=BudgetUnits(max(0, limits.lifetime - charged)),
            left_in_window=BudgetUnits(max(0, limits.yearly - charged_in_window)),
        )

    return Balance(
        trained=side(Population.TRAINED),
        held_out=side(Population.HELD_OUT),
        open_plans=tuple(name for name, plan in account.plans.items() if plan.is_open),
        recovered=tuple(found for _, found in account.recovered),
        answers_last_hour=sum(time >= ledger_time - HOUR_SECONDS for time in account.answered),
    )


def fold(entries: Iterable[Recorded]) -> Account:
    """Returns the account of a whole ledger, every rule of every entry checked.

    Raises:
        PrivacyError: an entry breaks a rule; the message says which.
    """
    account = Account()
    for recorded in entries:
        record(account, recorded)
    return account


def balance(entries: Iterable[Recorded], now: int, limits: Limits) -> Balance:
    """Returns what a whole ledger charges and leaves: `balance_of` its `fold`."""
    return balance_of(fold(entries), now, limits)


# The rules.


def _follows(account: Account, recorded: Recorded) -> None:
    expected = _next_sequence(account, recorded.entry)
    if recorded.sequence != expected:
        raise PrivacyError(f"Expected sequence={expected}, got sequence={recorded.sequence}.")
    if recorded.previous != account.head:
        raise PrivacyError("The previous hash is not the hash of the entry before.")
    if recorded.time < account.latest_time:
        raise PrivacyError("The time is before that of the entry before.")


def _plan_was_never_reserved(account: Account, reserved: Reserved) -> None:
    if reserved.plan in account.plans:
        raise PrivacyError(f"Plan {reserved.plan[:16]} was reserved before; it is reserved once.")


def _split_never_changes(account: Account, reserved: Reserved) -> None:
    if account.split not in (None, reserved.split):
        raise PrivacyError(
            f"Plan {reserved.plan[:16]} splits people into trained and held out in another way "
            "than this ledger has counted: their totals would add."
        )


def _plan_is_open(account: Account, entry: Spent | Refunded | Closed) -> None:
    plan = account.plans.get(entry.plan)
    if plan is None or not plan.is_open:
        raise PrivacyError(f"Plan {entry.plan[:16]} has no open reservation.")


def _attempt_is_new(account: Account, spent: Spent) -> None:
    if (spent.question, spent.round, spent.attempt) in account.plans[spent.plan].attempts:
        raise PrivacyError(
            f"Attempt {spent.attempt} of round {spent.round} of {spent.question} of plan "
            f"{spent.plan[:16]} was spent before; another answer to it is refused."
        )


def _attempt_was_spent(account: Account, refunded: Refunded) -> None:
    key = (refunded.question, refunded.round, refunded.attempt)
    plan = account.plans[refunded.plan]
    if key not in plan.attempts or key in plan.refunded:
        raise PrivacyError(
            f"Attempt {refunded.attempt} of round {refunded.round} of {refunded.question} of plan "
            f"{refunded.plan[:16]} was never spent, or was refunded before."
        )


def _spending_fits_the_reservation(account: Account, spent: Spent) -> None:
    plan = account.plans[spent.plan]
    left = plan.price.of(spent.population) - plan.spent[spent.population]
    if spent.units > left:
        raise BudgetExhausted(
            f"Plan {spent.plan[:16]} asks {spent.units} budget units of the {spent.population} "
            f"people; {left} are left of the {plan.price.of(spent.population)} it reserved."
        )


def _gap_was_never_charged(account: Account, recovered: Recovered) -> None:
    if account.has_charged_for(recovered.seen_sequence, recovered.seen_head):
        raise PrivacyError(
            f"What is missing up to sequence {recovered.seen_sequence} was charged before."
        )


def _check_rules(account: Account, entry: Entry) -> None:
    match entry:
        case Reserved():
            _plan_was_never_reserved(account, entry)
            _split_never_changes(account, entry)
        case Spent():
            _plan_is_open(account, entry)
            _attempt_is_new(account, entry)
            _spending_fits_the_reservation(account, entry)
        case Refunded():
            _plan_is_open(account, entry)
            _attempt_was_spent(account, entry)
        case Closed():
            _plan_is_open(account, entry)
        case Recovered():
            _gap_was_never_charged(account, entry)
        case unreachable:  # pragma: no cover - mypy proves that no kind is forgotten
            assert_never(unreachable)


def _apply(account: Account, recorded: Recorded) -> None:
    before = account.sequence
    account.sequence, account.head = recorded.sequence, recorded.hash()
    account.latest_time = recorded.time
    match recorded.entry:
        case Reserved() as reserved:
            account.split = reserved.split
            plan = PlanAccount(price=reserved.price, latest_time=recorded.time)
            account.plans[reserved.plan] = plan
        case Spent() as spent:
            plan = account.plans[spent.plan]
            plan.spent[spent.population] += spent.units
            plan.attempts[spent.question, spent.round, spent.attempt] = spent
            account.answered.append(recorded.time)
            while account.answered[0] < recorded.time - HOUR_SECONDS:
                account.answered.popleft()
        case Refunded() as refunded:
            plan = account.plans[refunded.plan]
            key = (refunded.question, refunded.round, refunded.attempt)
            paid = plan.attempts[key]
            plan.spent[paid.population] -= paid.units
            plan.refunded.add(key)
        case Closed() as closed:
            plan = account.plans[closed.plan]
            plan.end()
        case Recovered() as recovered:
            account.recovered.append((recorded.time, recovered))
            account.gaps.append(range(before + 1, recovered.seen_sequence))
            for plan in account.plans.values():
                if plan.is_open:  # the missing entries may have spent all of it
                    plan.spent = {one: plan.price.of(one) for one in Population}
                    plan.end()
                    plan.latest_time = recorded.time
            return
        case unreachable:  # pragma: no cover - mypy proves that no kind is forgotten
            assert_never(unreachable)
    plan.latest_time = recorded.time


# The values.


def _next_sequence(account: Account, entry: Entry) -> int:
    if isinstance(entry, Recovered):  # above what peers may remember
        return max(account.sequence, entry.seen_sequence) + 1
    return account.sequence + 1


def _ledger_time(account: Account, now: int) -> int:
    require_time(now)
    return max(now, account.latest_time)
