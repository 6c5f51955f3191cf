"""Missing entries charged at their worst: the rules, and histories that are lost and recovered."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.canonical import Digest, digest
from federation.errors import BudgetExhausted, ConfigurationError, PrivacyError
from federation.privacy.ledger_entries import (
    GENESIS,
    LATEST_TIME,
    Closed,
    Entry,
    Recorded,
    Recovered,
    Refunded,
    Reserved,
    Spent,
)
from federation.privacy.ledger_recovery import UNKNOWN_SINCE, recovery
from federation.privacy.ledger_rules import (
    WINDOW_SECONDS,
    Account,
    Limits,
    balance,
    balance_of,
    check_reservation,
    fold,
    following,
    record,
)
from federation.privacy.units import LARGEST_UNITS, BudgetUnits, Population, Price

PLANS = tuple(digest("test/plan", bytes([number])) for number in range(120))
SPLIT = digest("test/split", b"1")
SEEN = digest("test/seen")
NOON = 1_700_000_000


def units(number: int) -> BudgetUnits:
    return BudgetUnits(number)


def limits(lifetime: int = 100, yearly: int = 40) -> Limits:
    return Limits(lifetime=units(lifetime), yearly=units(yearly))


def price(trained: int, held_out: int) -> Price:
    return Price(trained=units(trained), held_out=units(held_out))


def reserved(plan: int = 0, trained: int = 10, held_out: int = 5) -> Reserved:
    both = price(trained, held_out)
    return Reserved(plan=PLANS[plan], price=both, alone=both, split=SPLIT)


def spent(
    plan: int = 0, number: int = 1, population: Population = Population.TRAINED, *, round: int = 0
) -> Spent:
    return Spent(
        plan=PLANS[plan],
        question="step",
        round=round,
        attempt=0,
        population=population,
        units=units(number),
    )


def recovered(
    sequence: int = 7, head: Digest = SEEN, since: int = 0, worst: int = 100
) -> Recovered:
    return Recovered(
        seen_sequence=sequence,
        seen_head=head,
        missing_since=since,
        price=price(worst, worst),
    )


def chain(*timed: tuple[int, Entry]) -> tuple[Recorded, ...]:
    account, entries = Account(), []
    for now, entry in timed:
        entries.append(following(account, now, entry))
        record(account, entries[-1])
    return tuple(entries)


def history(*entries: Entry) -> tuple[Recorded, ...]:
    return chain(*((NOON, entry) for entry in entries))


def worst_of(
    account: Account, *, now: int = NOON, since: int = UNKNOWN_SINCE, allowed: Limits | None = None
) -> Recovered:
    return recovery(
        account,
        now,
        seen_sequence=account.sequence + 3,
        seen_head=SEEN,
        missing_since=since,
        limits=allowed or limits(),
    )


# One entry.


def test_the_sequence_goes_beyond_the_one_that_was_seen_and_on_from_there() -> None:
    entries = history(reserved(), recovered(7), reserved(1))
    assert [entry.sequence for entry in entries] == [1, 8, 9]
    assert entries[2].previous == entries[1].hash()
    assert fold(entries).sequence == 9


def test_a_seen_sequence_below_the_end_is_followed_from_the_end() -> None:
    entries = history(reserved(), spent(), recovered(1), reserved(1))
    assert [entry.sequence for entry in entries] == [1, 2, 3, 4]


def test_a_sequence_left_out_by_any_other_entry_is_refused() -> None:
    account = fold(history(reserved()))
    entry = Recorded(sequence=3, time=NOON, previous=account.head, entry=spent())
    with pytest.raises(PrivacyError, match="sequence=2"):
        record(account, entry)


@pytest.mark.parametrize("sequence", [2, 7, 9])
def test_a_recovery_at_another_sequence_than_the_one_after_what_was_seen_is_refused(
    sequence: int,
) -> None:
    account = fold(history(reserved()))
    entry = Recorded(sequence=sequence, time=NOON, previous=account.head, entry=recovered(7))
    with pytest.raises(PrivacyError, match="sequence=8"):
        record(account, entry)


def test_open_plans_end_charged_in_full_and_closed_ones_stay_as_they_are() -> None:
    before = (reserved(0), spent(0, 4), Closed(plan=PLANS[0]), reserved(1, 20, 30), spent(1, 2))
    standing = balance(history(*before, recovered(worst=3)), NOON, limits())
    assert standing.open_plans == ()
    assert standing.recovered == (recovered(worst=3),)
    assert standing.trained.charged_lifetime == 4 + 20 + 3
    assert standing.held_out.charged_lifetime == 0 + 30 + 3
    assert standing.trained.charged_in_window == 4 + 20 + 3


@pytest.mark.parametrize(
    "entry",
    [
        spent(0, round=1),
        Refunded(plan=PLANS[0], question="step", round=0, attempt=0),
        Closed(plan=PLANS[0]),
        reserved(0),
    ],
)
def test_nothing_of_a_plan_that_was_open_is_spent_refunded_or_released_afterwards(
    entry: Entry,
) -> None:
    account = fold(history(reserved(), spent(), recovered()))
    with pytest.raises(PrivacyError, match=r"no open reservation|reserved once"):
        record(account, following(account, NOON, entry))


def test_the_same_head_is_charged_once_and_another_one_once_more() -> None:
    account = fold(history(recovered(7)))
    with pytest.raises(PrivacyError, match="up to sequence 7 was charged before"):
        record(account, following(account, NOON, recovered(7)))
    for other in (recovered(8), recovered(7, PLANS[0])):
        record(account, following(account, NOON, other))
    assert balance_of(account, NOON, limits(900, 900)).trained.charged_lifetime == 300


@pytest.mark.parametrize(("seconds_later", "in_window"), [(0, 30), (1, 0)])
def test_the_charge_leaves_the_window_after_365_days_and_the_lifetime_total_never(
    seconds_later: int, in_window: int
) -> None:
    entries = history(reserved(), recovered(worst=20))
    standing = balance(entries, NOON + WINDOW_SECONDS + seconds_later, limits())
    assert standing.trained.charged_in_window == in_window
    assert standing.trained.charged_lifetime == 30


def test_a_plan_is_refused_what_the_missing_entries_may_have_spent() -> None:
    account = fold(history(recovered(worst=40)))
    with pytest.raises(BudgetExhausted, match="0 are left of the limit of 40 within 365 days"):
        check_reservation(account, reserved(trained=1, held_out=0), NOON, limits())
    later = NOON + WINDOW_SECONDS + 1
    check_reservation(account, reserved(trained=40, held_out=0), later, limits())


NOT_WHOLE = (-1, 0, 2**62 + 1, True, 1.0, float("nan"), "1", None)


@pytest.mark.parametrize("sequence", NOT_WHOLE)
def test_a_sequence_out_of_its_range_cannot_be_recovered(sequence: int) -> None:
    with pytest.raises(PrivacyError, match="seen_sequence"):
        recovered(sequence)


@pytest.mark.parametrize("head", ["", "0" * 63, "A" * 64, "0" * 64 + "\n", None])
def test_a_head_that_is_no_digest_cannot_be_recovered(head: Digest) -> None:
    with pytest.raises(PrivacyError, match="seen_head"):
        recovered(head=head)


@pytest.mark.parametrize("since", [-1, LATEST_TIME + 1, 0.0, True, None])
def test_a_time_that_is_not_whole_seconds_cannot_be_recovered_from(since: int) -> None:
    with pytest.raises(ConfigurationError, match="whole seconds"):
        recovered(since=since)
    with pytest.raises(ConfigurationError, match="whole seconds"):
        worst_of(Account(), since=since)


def test_a_charge_that_is_no_price_cannot_be_recovered() -> None:
    with pytest.raises(PrivacyError, match="to be a Price"):
        replace(recovered(), price=None)
    with pytest.raises(PrivacyError, match="zero for both"):
        recovered(worst=0)


def test_the_highest_sequence_that_may_be_typed_leaves_room_for_every_later_header() -> None:
    entries = history(recovered(LARGEST_UNITS), reserved(), spent())
    assert entries[-1].sequence == 2**62 + 3 < 2**63 - 1


def test_the_hash_covers_every_field_of_a_recovery() -> None:
    first = recovered()
    others = (
        recovered(8),
        recovered(head=PLANS[0]),
        recovered(since=1),
        replace(first, price=price(99, 100)),
        replace(first, price=price(100, 99)),
    )
    hashes = {
        Recorded(sequence=9, time=NOON, previous=GENESIS, entry=entry).hash()
        for entry in (first, *others)
    }
    assert len(hashes) == len(others) + 1


def test_the_layout_of_a_recovery_is_frozen() -> None:
    entry = Recorded(sequence=8, time=NOON, previous=Digest("ab" * 32), entry=recovered(since=1))
    assert entry.kind == "recovered"
    assert entry.body().decode() == (
        '{"missing_since":1,"price":{"held_out":100,"trained":100},"seen_head":"'
        + SEEN
        + '","seen_sequence":7}'
    )
    assert entry.hash() == "03f690829cbb830e697cbe7993d830eaccffb98371b71fc191cb18badd690dd2"


# The worst.


@pytest.mark.parametrize(
    ("days_ago", "allowed", "worst"),
    [
        (0, limits(100, 40), 40),
        (1, limits(100, 40), 40),
        (365, limits(100, 40), 40),
        (366, limits(100, 40), 80),
        (730, limits(100, 40), 80),
        (731, limits(100, 40), 100),
        (3650, limits(100, 40), 100),
        (1, limits(100, 100), 100),
        (10, limits(LARGEST_UNITS, LARGEST_UNITS), LARGEST_UNITS),
    ],
)
def test_the_worst_is_a_years_limit_for_each_year_and_at_most_the_lifetime_limit(
    days_ago: int, allowed: Limits, worst: int
) -> None:
    found = worst_of(Account(), since=NOON - days_ago * 86_400, allowed=allowed)
    assert found.price == price(worst, worst)


def test_the_worst_is_the_lifetime_limit_where_nobody_knows_since_when() -> None:
    assert worst_of(fold(history(reserved()))).price == price(100, 100)
    tiny = limits(10**9, 1)
    assert worst_of(Account(), allowed=tiny).price == price(10**9, 10**9)


def test_the_worst_is_the_lifetime_limit_where_the_clock_contradicts_the_ledger() -> None:
    account = fold(chain((NOON + 1, reserved())))
    assert worst_of(account, since=NOON - 5).price == price(100, 100)
    assert worst_of(account, now=NOON + 1, since=NOON - 5).price == price(40, 40)


def test_the_worst_does_not_depend_on_how_high_the_seen_sequence_is() -> None:
    found = [
        recovery(
            Account(),
            NOON,
            seen_sequence=sequence,
            seen_head=SEEN,
            missing_since=NOON,
            limits=limits(),
        ).price
        for sequence in (1, 5, 10**6, LARGEST_UNITS)
    ]
    assert set(found) == {price(40, 40)}


def test_entries_cannot_be_missing_since_tomorrow() -> None:
    with pytest.raises(ConfigurationError, match="still to come"):
        worst_of(Account(), since=NOON + 1)


def test_limits_that_allow_nothing_recover_nothing() -> None:
    with pytest.raises(PrivacyError, match="zero for both"):
        worst_of(Account(), allowed=limits(0, 0))


# Histories: one goes on and is lost, an older copy of it is recovered and goes on.

Step = tuple[str, int, int, int, Population, int]
WHOLE = "a whole plan"

STEPS = st.lists(
    st.tuples(
        st.sampled_from([WHOLE, WHOLE, "reserve", "spend", "spend", "refund", "close"]),
        st.integers(0, 2),
        st.integers(0, 40),
        st.integers(0, 3),
        st.sampled_from(Population),
        st.sampled_from([0, 1, WINDOW_SECONDS // 3, WINDOW_SECONDS, WINDOW_SECONDS + 1]),
    ),
    max_size=20,
)
LIMITS = st.tuples(st.integers(1, 200), st.integers(1, 60)).map(
    lambda pair: limits(max(pair), min(pair))
)


def entries_of(step: Step, account: Account, left: int) -> list[Entry]:
    action, plan, number, round, population, _ = step
    match action:
        case "reserve":
            return [reserved(plan, number, 40 - number)]
        case "spend":
            return [spent(plan, number, population, round=round)]
        case "refund":
            return [Refunded(plan=PLANS[plan], question="step", round=round, attempt=0)]
        case "close":
            return [Closed(plan=PLANS[plan])]
    new, all_of_it = 3 + len(account.plans), max(1, left - max(0, number - 20))
    return [
        reserved(new, all_of_it, all_of_it),
        spent(new, all_of_it),
        spent(new, all_of_it, Population.HELD_OUT, round=1),
        Closed(plan=PLANS[new]),
    ]


def run(
    steps: list[Step], allowed: Limits, before: tuple[Recorded, ...], now: int
) -> tuple[tuple[Recorded, ...], int]:
    """Returns the entries before with those that are accepted, and what the clock said last."""
    account, accepted = fold(before), list(before)
    for step in steps:
        now += step[-1]
        try:
            left = min(balance_of(account, now, allowed).of(one).left for one in Population)
            for entry in entries_of(step, account, left):
                if isinstance(entry, Reserved):
                    check_reservation(account, entry, now, allowed)
                new = following(account, now, entry)
                record(account, new)
                accepted.append(new)
        except PrivacyError:
            continue
    return tuple(accepted), now


def spending(entries: tuple[Recorded, ...], population: Population) -> list[tuple[int, int]]:
    """Returns time and units of each attempt that was answered and not refunded."""
    found = []
    for place, recorded in enumerate(entries):
        paid = recorded.entry
        if isinstance(paid, Spent) and paid.population is population:
            back = any(
                isinstance(one.entry, Refunded)
                and (one.entry.plan, one.entry.round) == (paid.plan, paid.round)
                for one in entries[place:]
            )
            if not back:
                found.append((recorded.time, paid.units))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A ledger that was lost, and an older copy of it that was recovered and went on."""

    copy: tuple[Recorded, ...]
    whole: tuple[Recorded, ...]
    mended: tuple[Recorded, ...]
    onward: tuple[Recorded, ...]
    recovered_at: int

    def truly(self, population: Population) -> list[tuple[int, int]]:
        """Returns time and units of all that anybody was ever answered and that stayed charged."""
        after = self.onward[len(self.mended) :]
        return spending(self.whole, population) + spending(after, population)


@st.composite
def stories(draw: st.DrawFn) -> tuple[Story, Limits]:
    allowed, knows_since = draw(LIMITS), draw(st.booleans())
    copy, made = run(draw(STEPS), allowed, (), NOON)
    whole, seen_at = run(draw(STEPS), allowed, copy, made)
    account = fold(copy)
    is_lie = len(whole) == len(copy)
    entry = recovery(
        account,
        seen_at,
        seen_sequence=account.sequence + 1 if is_lie else whole[-1].sequence,
        seen_head=SEEN if is_lie else whole[-1].hash(),
        missing_since=made if knows_since else UNKNOWN_SINCE,
        limits=allowed,
    )
    mended = (*copy, following(account, seen_at, entry))
    onward, _ = run(draw(STEPS), allowed, mended, seen_at)
    story = Story(copy=copy, whole=whole, mended=mended, onward=onward, recovered_at=seen_at)
    return story, allowed


@given(found=stories())
def test_what_was_truly_spent_is_never_more_than_a_recovered_ledger_charges(
    found: tuple[Story, Limits],
) -> None:
    story, allowed = found
    at_once = balance(story.mended, story.recovered_at, allowed)
    later = balance(story.onward, story.onward[-1].time, allowed)
    for population in Population:
        lost = sum(cost for _, cost in spending(story.whole, population))
        ever = sum(cost for _, cost in story.truly(population))
        assert at_once.of(population).charged_lifetime >= lost
        assert later.of(population).charged_lifetime >= ever
        since = story.recovered_at - WINDOW_SECONDS
        recent = sum(cost for time, cost in spending(story.whole, population) if time >= since)
        assert at_once.of(population).charged_in_window >= recent


@given(found=stories())
def test_lost_and_later_answers_together_stay_within_both_limits(
    found: tuple[Story, Limits],
) -> None:
    story, allowed = found
    for population in Population:
        truly = story.truly(population)
        assert sum(cost for _, cost in truly) <= allowed.lifetime
        for start, _ in truly:
            end = start + WINDOW_SECONDS
            assert sum(cost for time, cost in truly if start <= time <= end) <= allowed.yearly


@given(found=stories())
def test_a_recovered_ledger_is_one_chain_whose_sequences_grow_beyond_every_lost_one(
    found: tuple[Story, Limits],
) -> None:
    story, _ = found
    sequences = [entry.sequence for entry in story.onward]
    gap = len(story.copy)
    assert sequences[:gap] == list(range(1, gap + 1))
    assert sequences[gap] > max((entry.sequence for entry in story.whole), default=0)
    assert sequences[gap:] == list(range(sequences[gap], sequences[gap] + len(sequences) - gap))
    previous = [entry.previous for entry in story.onward]
    assert previous == [GENESIS, *(entry.hash() for entry in story.onward)][:-1]
    assert fold(story.onward).sequence == sequences[-1]
