"""The rules of the ledger: one table of refusals, and properties of random histories."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.canonical import Digest, digest
from federation.errors import BudgetExhausted, ConfigurationError, PrivacyError
from federation.privacy.ledger_entries import (
    GENESIS,
    KINDS,
    LATEST_TIME,
    Closed,
    Entry,
    Recorded,
    Recovered,
    Refunded,
    Reserved,
    Spent,
)
from federation.privacy.ledger_rules import (
    WINDOW_SECONDS,
    Account,
    Balance,
    Limits,
    balance,
    balance_of,
    check_reservation,
    fold,
    following,
    record,
)
from federation.privacy.units import LARGEST_UNITS, BudgetUnits, Population, Price

PLANS = tuple(digest("test/plan", bytes([number])) for number in range(6))
SPLIT, OTHER_SPLIT = digest("test/split", b"1"), digest("test/split", b"2")
BOTH = Price(trained=BudgetUnits(3), held_out=BudgetUnits(3))
ALONE = Price(trained=BudgetUnits(3), held_out=BudgetUnits(2))
NOT_UNITS = (-1, 2**62 + 1, True, 1.0, math.nan, math.inf, -math.inf, "1", None)


def units(number: int) -> BudgetUnits:
    return BudgetUnits(number)


def limits(lifetime: int, yearly: int) -> Limits:
    return Limits(lifetime=units(lifetime), yearly=units(yearly))


def reserved(
    plan: int = 0, trained: int = 10, held_out: int = 5, split: Digest = SPLIT
) -> Reserved:
    price = Price(trained=units(trained), held_out=units(held_out))
    return Reserved(plan=PLANS[plan], price=price, alone=ALONE, split=split)


def spent(
    plan: int = 0,
    number: int = 1,
    population: Population = Population.TRAINED,
    *,
    question: str = "train",
    round: int = 0,
    attempt: int = 0,
) -> Spent:
    return Spent(
        plan=PLANS[plan],
        question=question,
        round=round,
        attempt=attempt,
        population=population,
        units=units(number),
    )


def refunded(
    plan: int = 0, *, question: str = "train", round: int = 0, attempt: int = 0
) -> Refunded:
    return Refunded(plan=PLANS[plan], question=question, round=round, attempt=attempt)


def closed(plan: int = 0) -> Closed:
    return Closed(plan=PLANS[plan])


def chain(*timed: tuple[int, Entry]) -> tuple[Recorded, ...]:
    account, entries = Account(), []
    for now, entry in timed:
        entries.append(following(account, now, entry))
        record(account, entries[-1])
    return tuple(entries)


def history(*entries: Entry) -> tuple[Recorded, ...]:
    return chain(*((0, entry) for entry in entries))


def charged(standing: Balance) -> tuple[int, int]:
    return standing.trained.charged_lifetime, standing.held_out.charged_lifetime


HELD_OUT = Population.HELD_OUT


@pytest.mark.parametrize(
    ("before", "entry", "error", "message"),
    [
        ((), spent(), PrivacyError, "no open reservation"),
        ((), closed(), PrivacyError, "no open reservation"),
        ((reserved(),), spent(1), PrivacyError, "no open reservation"),
        ((reserved(),), reserved(), PrivacyError, "reserved once"),
        ((reserved(), closed()), reserved(), PrivacyError, "reserved once"),
        ((reserved(),), reserved(1, split=OTHER_SPLIT), PrivacyError, "would add"),
        ((reserved(), closed()), reserved(1, split=OTHER_SPLIT), PrivacyError, "would add"),
        ((reserved(), closed()), spent(), PrivacyError, "no open reservation"),
        ((reserved(), closed()), closed(), PrivacyError, "no open reservation"),
        ((reserved(), spent()), spent(), PrivacyError, "spent before"),
        ((reserved(), spent()), spent(0, 1, HELD_OUT), PrivacyError, "spent before"),
        ((reserved(),), spent(0, 11), BudgetExhausted, "asks 11 .* 10 are left of the 10"),
        ((reserved(),), spent(0, 6, HELD_OUT), BudgetExhausted, "5 are left of the 5"),
        ((reserved(), spent(0, 8)), spent(0, 3, round=1), BudgetExhausted, "2 are left of the 10"),
        ((reserved(held_out=0),), spent(0, 1, HELD_OUT), BudgetExhausted, "0 are left"),
        ((), refunded(), PrivacyError, "no open reservation"),
        ((reserved(),), refunded(), PrivacyError, "never spent"),
        ((reserved(), spent()), refunded(1), PrivacyError, "no open reservation"),
        ((reserved(), spent(), reserved(1)), refunded(1), PrivacyError, "never spent"),
        ((reserved(), spent()), refunded(attempt=1), PrivacyError, "never spent"),
        ((reserved(), spent()), refunded(round=1), PrivacyError, "never spent"),
        ((reserved(), spent()), refunded(question="bins"), PrivacyError, "never spent"),
        ((reserved(), spent(), refunded()), refunded(), PrivacyError, "refunded before"),
        ((reserved(), spent(), refunded()), spent(), PrivacyError, "spent before"),
        ((reserved(), spent(), refunded()), spent(0, 1, HELD_OUT), PrivacyError, "spent before"),
        ((reserved(), spent(), closed()), refunded(), PrivacyError, "no open reservation"),
        ((reserved(), spent(), refunded(), closed()), spent(), PrivacyError, "no open"),
        (
            (reserved(), spent(0, 8), refunded()),
            spent(0, 11, attempt=1),
            BudgetExhausted,
            "asks 11 .* 10 are left of the 10",
        ),
    ],
)
def test_an_entry_that_breaks_a_rule_is_refused_and_changes_nothing(
    before: tuple[Entry, ...], entry: Entry, error: type[Exception], message: str
) -> None:
    account = fold(history(*before))
    with pytest.raises(error, match=message):
        record(account, following(account, 0, entry))
    assert account == fold(history(*before))


@pytest.mark.parametrize(
    "entry",
    [
        spent(0, 9, round=1),
        spent(0, 5, HELD_OUT, round=1),
        spent(round=1),
        spent(attempt=1),
        spent(question="bins"),
        closed(),
        reserved(1),
        refunded(),
    ],
)
def test_another_attempt_round_question_or_plan_is_accepted(entry: Entry) -> None:
    before = (reserved(), spent(0, 1))
    assert fold(history(*before, entry)).sequence == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: spent(number=0),
        *(lambda bad=bad: spent(number=bad) for bad in NOT_UNITS),
        *(lambda bad=bad: reserved(trained=bad) for bad in NOT_UNITS),
        *(lambda bad=bad: reserved(held_out=bad) for bad in NOT_UNITS),
        *(lambda bad=bad: spent(round=bad) for bad in NOT_UNITS),
        *(lambda bad=bad: spent(attempt=bad) for bad in NOT_UNITS),
        *(lambda bad=bad: limits(bad, 0) for bad in NOT_UNITS),
        *(lambda bad=bad: limits(5, bad) for bad in NOT_UNITS),
        lambda: limits(5, 6),
        lambda: reserved(trained=0, held_out=0),
        *(
            lambda bad=bad: spent(question=bad)
            for bad in ("", "a" * 41, "Train", "a b", "train\n", None)
        ),
        lambda: spent(population="trained"),  # type: ignore[arg-type] # a string is refused
        *(
            lambda bad=bad: Closed(plan=bad)
            for bad in ("", "0" * 63, "0" * 65, "A" * 64, "0" * 63 + "\n", None)
        ),
        *(lambda bad=bad: refunded(round=bad) for bad in NOT_UNITS),
        *(lambda bad=bad: refunded(attempt=bad) for bad in NOT_UNITS),
        *(lambda bad=bad: refunded(question=bad) for bad in ("", "a" * 41, "Train", None)),
        lambda: Refunded(plan=Digest("x"), question="train", round=0, attempt=0),
        lambda: reserved(split=Digest("x")),
        lambda: Reserved(plan=Digest("x"), price=ALONE, alone=ALONE, split=SPLIT),
        lambda: Reserved(plan=PLANS[0], price=None, alone=ALONE, split=SPLIT),  # type: ignore[arg-type] # refused
        lambda: Reserved(plan=PLANS[0], price=ALONE, alone=None, split=SPLIT),  # type: ignore[arg-type] # refused
    ],
)
def test_a_value_outside_its_range_or_type_cannot_be_made(make: Callable[[], object]) -> None:
    with pytest.raises(PrivacyError):
        make()


@pytest.mark.parametrize("now", [-1, LATEST_TIME + 1, 0.0, math.nan, math.inf, True, None])
def test_a_clock_that_is_not_whole_seconds_is_refused(now: int) -> None:
    account = fold(history(reserved()))
    with pytest.raises(ConfigurationError, match="clock"):
        following(account, now, closed())
    with pytest.raises(ConfigurationError, match="clock"):
        balance_of(account, now, limits(10, 10))
    with pytest.raises(ConfigurationError, match="clock"):
        check_reservation(account, reserved(1), now, limits(10, 10))
    with pytest.raises(ConfigurationError, match="clock"):
        Recorded(sequence=1, time=now, previous=GENESIS, entry=closed())


@pytest.mark.parametrize(
    ("sequence", "time", "previous", "message"),
    [
        (1, 7, None, "sequence=2"),
        (3, 7, None, "sequence=2"),
        (2, 6, None, "time is before"),
        (2, 7, GENESIS, "previous hash"),
    ],
)
def test_an_entry_out_of_its_place_in_the_chain_is_refused(
    sequence: int, time: int, previous: Digest | None, message: str
) -> None:
    account = fold(chain((7, reserved())))
    entry = Recorded(
        sequence=sequence, time=time, previous=previous or account.head, entry=closed()
    )
    with pytest.raises(PrivacyError, match=message):
        record(account, entry)


def test_the_hash_covers_every_field() -> None:
    first = Recorded(sequence=1, time=2, previous=GENESIS, entry=spent())
    others = [
        Recorded(sequence=2, time=2, previous=GENESIS, entry=spent()),
        Recorded(sequence=1, time=3, previous=GENESIS, entry=spent()),
        Recorded(sequence=1, time=2, previous=PLANS[1], entry=spent()),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=spent(1)),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=spent(0, 2)),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=spent(0, 1, HELD_OUT)),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=spent(question="bins")),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=spent(round=1)),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=spent(attempt=1)),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=closed()),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=refunded()),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=refunded(attempt=1)),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=reserved()),
        Recorded(sequence=1, time=2, previous=GENESIS, entry=replace(reserved(), alone=BOTH)),
    ]
    assert len({first.hash(), *(other.hash() for other in others)}) == len(others) + 1


def test_the_layout_of_an_entry_is_frozen() -> None:
    entry = Recorded(sequence=3, time=1700000000, previous=Digest("ab" * 32), entry=spent())
    assert entry.kind == "spent"
    assert entry.body().decode() == (
        '{"attempt":0,"plan":"' + PLANS[0] + '","population":"trained","question":"train",'
        '"round":0,"units":1}'
    )
    assert entry.hash() == "18cec10990ac0add1b582cd3ae68e3cf13eb93cdf74a7261f627337b11500438"


def test_the_first_entry_follows_sixty_four_zeros() -> None:
    first = following(Account(), 0, reserved())
    assert (first.sequence, first.time, first.previous) == (1, 0, "0" * 64)
    assert LATEST_TIME == 2**34


def test_the_largest_numbers_that_the_ledger_can_count_are_accepted() -> None:
    largest = spent(number=2**62, round=2**62, attempt=2**62)
    record(fold(history(reserved(trained=2**62))), history(reserved(trained=2**62), largest)[1])
    assert limits(2**62, 2**62).yearly == 2**62
    assert Recorded(sequence=1, time=LATEST_TIME, previous=GENESIS, entry=largest).time == 2**34


def test_every_kind_is_known_by_its_name() -> None:
    lost = Recovered(seen_sequence=1, seen_head=GENESIS, missing_since=0, price=BOTH)
    known = (reserved(), spent(), refunded(), closed(), lost)
    for entry in known:
        recorded = Recorded(sequence=1, time=0, previous=GENESIS, entry=entry)
        assert KINDS[recorded.kind] is type(entry)
    assert set(KINDS.values()) == {type(entry) for entry in known}


def test_an_open_reservation_is_charged_in_full_and_a_closed_plan_what_it_spent() -> None:
    entries = history(reserved(), spent(0, 4), reserved(1), closed(), spent(1, 2, HELD_OUT))
    totals = [charged(balance(entries[:end], 0, limits(100, 100))) for end in range(6)]
    assert totals == [(0, 0), (10, 5), (10, 5), (20, 10), (14, 5), (14, 5)]
    assert balance(entries, 0, limits(100, 100)).open_plans == (PLANS[1],)


def test_a_refund_gives_its_own_population_back_what_the_attempt_cost_and_no_more() -> None:
    entries = history(
        reserved(),
        spent(0, 4),
        spent(0, 2, HELD_OUT, question="evaluation"),
        spent(0, 3, round=1),
        refunded(),
        closed(),
    )
    totals = [charged(balance(entries[:end], 0, limits(100, 100))) for end in range(7)]
    assert totals == [(0, 0), *[(10, 5)] * 5, (3, 2)]


def test_what_was_refunded_can_be_spent_on_another_attempt() -> None:
    before = (reserved(), spent(0, 10), refunded())
    account = fold(history(*before, spent(0, 10, attempt=1), closed()))
    assert account.plans[PLANS[0]].charge(Population.TRAINED) == 10


def test_the_populations_do_not_add_and_the_larger_limits() -> None:
    account = fold(history(reserved(0, 60, 90)))
    standing = balance_of(account, 0, limits(100, 100))
    assert standing.of(Population.TRAINED).left == 40
    assert standing.of(Population.HELD_OUT).left == 10
    check_reservation(account, reserved(1, 40, 10), 0, limits(100, 100))
    with pytest.raises(BudgetExhausted, match="asks 11 budget units of the held_out people; 10"):
        check_reservation(account, reserved(1, 1, 11), 0, limits(100, 100))


def test_a_refusal_names_the_plan_what_is_asked_what_is_left_and_the_limit() -> None:
    account = fold(history(reserved(0, 60, 1)))
    with pytest.raises(BudgetExhausted, match=f"{PLANS[1][:16]} asks 50 .* 10 .*70 within 365"):
        check_reservation(account, reserved(1, 50, 1), 0, limits(100, 70))
    with pytest.raises(BudgetExhausted, match=r"asks 50 .* 40 .*lifetime limit of 100"):
        check_reservation(account, reserved(1, 50, 1), WINDOW_SECONDS, limits(100, 100))


def test_a_plan_is_refused_by_the_rules_before_its_price_is_looked_at() -> None:
    account = fold(history(reserved()))
    with pytest.raises(PrivacyError, match="reserved once") as refusal:
        check_reservation(account, reserved(trained=10**6), 0, limits(0, 0))
    assert not isinstance(refusal.value, BudgetExhausted)
    with pytest.raises(PrivacyError, match="would add"):
        check_reservation(account, reserved(1, split=OTHER_SPLIT), 0, limits(100, 100))


@pytest.mark.parametrize(
    ("seconds_later", "in_window"), [(WINDOW_SECONDS, 4), (WINDOW_SECONDS + 1, 0)]
)
def test_a_closed_plan_leaves_the_window_365_days_after_its_latest_entry(
    seconds_later: int, in_window: int
) -> None:
    entries = chain((0, reserved()), (50, spent(0, 4)), (100, closed()))
    standing = balance(entries, 100 + seconds_later, limits(20, 10))
    assert standing.trained.charged_in_window == in_window
    assert standing.trained.left_in_window == 10 - in_window
    assert standing.trained.charged_lifetime == 4


def test_an_open_plan_stays_in_the_window_however_old_because_it_may_spend_today() -> None:
    entries = chain((0, reserved()))
    standing = balance(entries, 3 * WINDOW_SECONDS, limits(20, 10))
    assert standing.trained.charged_in_window == 10
    with pytest.raises(BudgetExhausted, match="within 365 days"):
        check_reservation(fold(entries), reserved(1, 1, 0), 3 * WINDOW_SECONDS, limits(20, 10))


def test_the_lifetime_limit_never_renews() -> None:
    account = fold(chain((0, reserved()), (0, spent(0, 10)), (0, closed())))
    with pytest.raises(BudgetExhausted, match="never renews"):
        check_reservation(account, reserved(1, 1, 0), LATEST_TIME, limits(10, 10))


def test_limits_that_were_lowered_below_the_totals_leave_nothing_rather_than_a_negative() -> None:
    standing = balance(history(reserved()), 0, limits(3, 2))
    assert (standing.trained.left_lifetime, standing.trained.left_in_window) == (0, 0)


def test_a_clock_that_runs_back_does_not_turn_the_ledger_back() -> None:
    account = fold(chain((1000, reserved()), (5, spent()), (2000, closed())))
    assert following(account, 3, reserved(1)).time == 2000
    assert [entry.time for entry in chain((1000, reserved()), (5, spent()))] == [1000, 1000]
    standing = balance_of(account, 3, limits(20, 20))
    assert standing.trained.charged_in_window == 1


def test_totals_above_64_bits_stay_exact() -> None:
    entries = history(*(reserved(plan, LARGEST_UNITS, LARGEST_UNITS) for plan in range(5)))
    assert charged(balance(entries, 0, limits(1, 1))) == (5 * 2**62, 5 * 2**62)


Step = tuple[str, int, int, int, Population, int]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "spend", "spend", "spend", "refund", "refund", "close"]),
        st.integers(0, len(PLANS) - 1),
        st.integers(0, 40),
        st.integers(0, 3),
        st.sampled_from(Population),
        st.integers(-WINDOW_SECONDS // 4, WINDOW_SECONDS // 2),
    ),
    max_size=40,
)
LIMITS = st.tuples(st.integers(0, 100), st.integers(0, 100)).map(
    lambda pair: limits(max(pair), min(pair))
)


def run(steps: list[Step], allowed: Limits) -> list[tuple[int, Recorded]]:
    """Returns the accepted entries, each with what the clock said when it was written."""
    account, now, accepted = Account(), WINDOW_SECONDS, []
    for action, plan, number, round, population, seconds in steps:
        now = max(0, now + seconds)
        try:
            entry: Entry
            if action == "reserve":
                entry = reserved(plan, number, number // 2)
                check_reservation(account, entry, now, allowed)
            elif action == "spend":
                entry = spent(plan, number, population, round=round)
            elif action == "refund":
                entry = refunded(plan, round=round)
            else:
                entry = closed(plan)
            recorded = following(account, now, entry)
            record(account, recorded)
        except PrivacyError:
            continue
        accepted.append((now, recorded))
    return accepted


def spending(entries: list[Recorded], plan: Digest, population: Population) -> int:
    """What un-refunded attempts cost, counted from the entries alone."""
    found = [recorded.entry for recorded in entries]
    back = {(e.plan, e.question, e.round, e.attempt) for e in found if isinstance(e, Refunded)}
    return sum(
        entry.units
        for entry in found
        if isinstance(entry, Spent)
        and entry.plan == plan
        and entry.population is population
        and (entry.plan, entry.question, entry.round, entry.attempt) not in back
    )


@given(steps=STEPS, allowed=LIMITS)
def test_no_history_ever_exceeds_a_limit_or_spends_more_than_is_charged(
    steps: list[Step], allowed: Limits
) -> None:
    accepted = run(steps, allowed)
    entries = [recorded for _, recorded in accepted]
    for end, (now, _) in enumerate(accepted, start=1):
        standing = balance(entries[:end], now, allowed)
        for population in Population:
            side = standing.of(population)
            assert 0 <= side.charged_in_window <= side.charged_lifetime <= allowed.lifetime
            assert side.charged_in_window <= allowed.yearly
            assert side.left_lifetime == allowed.lifetime - side.charged_lifetime
            assert side.left_in_window == allowed.yearly - side.charged_in_window
            assert side.charged_lifetime >= sum(
                spending(entries[:end], plan, population) for plan in PLANS
            )


@given(steps=STEPS, allowed=LIMITS)
def test_spending_within_any_365_days_stays_within_the_yearly_limit(
    steps: list[Step], allowed: Limits
) -> None:
    entries = [recorded for _, recorded in run(steps, allowed)]
    for population in Population:
        for start in {recorded.time for recorded in entries}:
            window = [e for e in entries if start <= e.time <= start + WINDOW_SECONDS]
            assert sum(spending(window, plan, population) for plan in PLANS) <= allowed.yearly


@given(steps=STEPS, allowed=LIMITS)
def test_closing_releases_exactly_what_was_reserved_and_never_spent(
    steps: list[Step], allowed: Limits
) -> None:
    entries = [recorded for _, recorded in run(steps, allowed)]
    prices = {r.entry.plan: r.entry.price for r in entries if isinstance(r.entry, Reserved)}
    for index, recorded in enumerate(entries):
        if isinstance(recorded.entry, Closed):
            plan = recorded.entry.plan
            before = charged(balance(entries[:index], 0, allowed))
            after = charged(balance(entries[: index + 1], 0, allowed))
            for population, was, is_now in zip(Population, before, after, strict=True):
                unspent = prices[plan].of(population) - spending(entries, plan, population)
                assert was - is_now == unspent


@given(steps=STEPS, allowed=LIMITS)
def test_every_attempt_is_spent_once_and_refunded_at_most_once_after_it(
    steps: list[Step], allowed: Limits
) -> None:
    seen: dict[tuple[Digest, str, int, int], list[str]] = {}
    for _, recorded in run(steps, allowed):
        entry = recorded.entry
        if isinstance(entry, Spent | Refunded):
            key = (entry.plan, entry.question, entry.round, entry.attempt)
            seen.setdefault(key, []).append(recorded.kind)
    assert all(story in (["spent"], ["spent", "refunded"]) for story in seen.values())


@given(steps=STEPS, allowed=LIMITS, cut=st.integers(0, 40))
def test_a_prefix_is_valid_and_charges_each_of_its_open_plans_no_less_than_the_whole(
    steps: list[Step], allowed: Limits, cut: int
) -> None:
    entries = [recorded for _, recorded in run(steps, allowed)]
    prefix, whole = fold(entries[:cut]), fold(entries)
    for plan, account in prefix.plans.items():
        for population in Population:
            assert account.charge(population) >= whole.plans[plan].charge(population)


@given(steps=STEPS, allowed=LIMITS)
def test_time_sequence_and_hashes_form_one_chain(steps: list[Step], allowed: Limits) -> None:
    entries = [recorded for _, recorded in run(steps, allowed)]
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.previous for entry in entries] == [GENESIS, *(e.hash() for e in entries)][:-1]
    assert [entry.time for entry in entries] == sorted(entry.time for entry in entries)
