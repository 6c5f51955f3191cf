"""What may be asked of a plan, in which order, how often, and what stays paid."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.ledger import Ledger
from clients.taking import Attempt, Taking
from federation.asking import sum_for
from federation.errors import BudgetExhausted, ConfigurationError, PrivacyError, ProtocolError
from federation.plan import Plan
from federation.pricing import price_of
from federation.privacy.ledger_entries import Refunded, Spent
from federation.privacy.units import BudgetUnits, Population
from federation.query import Question
from tests.federations import clock, flat_card, open_policy, signed_plan, small_schema

SCHEMA = small_schema()
BINS, STEP, EVALUATION = Question.BINS, Question.STEP, Question.EVALUATION
NOBODY: Any = None
"""In place of a snapshot: neither order nor price may depend on a row."""


def taking_of(path: Path, **changes: Any) -> Taking:
    """Returns a plan with its own new ledger, its full price reserved; 3 rounds, 2 spare."""
    plan = signed_plan(SCHEMA, **{"spare_attempts": 2, **changes})
    price = price_of(plan, SCHEMA)
    ledger = Ledger.create(path, clock)
    ledger.reserve(
        plan.digest,
        price.price,
        alone=price.alone,
        split=plan.people.split.digest,
        limits=open_policy(plan).limits,
    )
    return Taking(
        plan=plan,
        digest=plan.digest,
        schema=SCHEMA,
        snapshot=NOBODY,
        ledger=ledger,
        withdrawals=None,
        note_snapshot=lambda _: None,
    )


@pytest.fixture
def taking(tmp_path: Path) -> Iterator[Taking]:
    found = taking_of(tmp_path / "ledger.sqlite")
    with found.ledger:
        yield found


def pay(taking: Taking, attempt: Attempt) -> None:
    card = None if attempt[0] is BINS else flat_card(SCHEMA)
    taking.pay(attempt, sum_for(taking.plan, SCHEMA, attempt[0], card))


def entries(taking: Taking, kind: type) -> list[Attempt]:
    return [
        (Question(one.entry.question), one.entry.round, one.entry.attempt)
        for one in taking.ledger.entries()
        if isinstance(one.entry, kind)
    ]


def each(plan: Plan, question: Question) -> BudgetUnits:
    price = price_of(plan, SCHEMA)
    if question is EVALUATION:
        return price.events[Population.HELD_OUT][0].units_each()
    return price.events[Population.TRAINED][question is STEP].units_each()


def test_the_whole_plan_in_its_order_costs_what_was_priced_for_it(taking: Taking) -> None:
    order = [(BINS, 0, 0), *((STEP, round_, 0) for round_ in range(3)), (EVALUATION, 0, 0)]
    for attempt in order:
        pay(taking, attempt)
    assert entries(taking, Spent) == order
    taking.ledger.close_plan(taking.plan.digest)
    price = price_of(taking.plan, SCHEMA).price
    charged = taking.ledger.balance(open_policy(taking.plan).limits)
    spare = taking.plan.participation.spare_attempts * each(taking.plan, STEP)
    assert charged.trained.charged_lifetime == price.trained - spare
    assert charged.held_out.charged_lifetime == price.held_out


def test_what_is_paid_is_in_the_ledger_when_pay_returns(taking: Taking) -> None:
    query = sum_for(taking.plan, SCHEMA, BINS, None)
    sequence, head = taking.pay((BINS, 0, 0), query)
    last = taking.ledger.entries()[-1]
    assert (last.sequence, last.hash()) == (sequence, head) == taking.ledger.head()
    assert isinstance(last.entry, Spent)
    assert last.entry.units == each(taking.plan, BINS)
    assert last.entry.population is Population.TRAINED


@pytest.mark.parametrize(
    ("before", "attempt", "why"),
    [
        ([], (STEP, 3, 0), "no such round or attempt"),
        ([], (STEP, -1, 0), "no such round or attempt"),
        ([], (STEP, 0, 3), "no such round or attempt"),
        ([], (STEP, 0, -1), "no such round or attempt"),
        ([], (BINS, 1, 0), "no such round or attempt"),
        ([], (EVALUATION, 0, 3), "no such round or attempt"),
        ([(STEP, 0, 0)], (STEP, 0, 0), "not after"),
        ([(STEP, 1, 0)], (STEP, 0, 0), "not after"),
        ([(STEP, 1, 0)], (STEP, 0, 2), "not after"),
        ([(STEP, 0, 1)], (STEP, 0, 0), "not after"),
        ([(BINS, 0, 0)], (BINS, 0, 0), "not after"),
        ([(BINS, 0, 0)], (BINS, 0, 1), "asked once"),
        ([(EVALUATION, 0, 0)], (EVALUATION, 0, 1), "asked once"),
        ([(EVALUATION, 0, 1)], (EVALUATION, 0, 2), "asked once"),
        (
            [(STEP, 0, 0), (STEP, 0, 1), (STEP, 1, 0), (STEP, 1, 1), (STEP, 1, 2)],
            (STEP, 2, 0),
            "used up",
        ),
    ],
)
def test_what_is_not_in_order_is_refused_and_costs_nothing(
    taking: Taking, before: list[Attempt], attempt: Attempt, why: str
) -> None:
    for one in before:
        pay(taking, one)
    with pytest.raises(ProtocolError, match=why):
        pay(taking, attempt)
    assert entries(taking, Spent) == before


@pytest.mark.parametrize("question", [BINS, EVALUATION])
def test_a_question_that_is_asked_once_is_asked_again_only_after_its_refund(
    taking: Taking, question: Question
) -> None:
    pay(taking, (question, 0, 0))
    with pytest.raises(ProtocolError, match="asked once"):
        pay(taking, (question, 0, 1))
    taking.refund((question, 0, 0))
    with pytest.raises(ProtocolError, match="not after"):
        pay(taking, (question, 0, 0))
    pay(taking, (question, 0, 1))
    with pytest.raises(ProtocolError, match="asked once"):
        pay(taking, (question, 0, 2))
    taking.refund((question, 0, 1))
    pay(taking, (question, 0, 2))
    taking.refund((question, 0, 2))
    with pytest.raises(ProtocolError, match="no such round or attempt"):
        pay(taking, (question, 0, 3))


def test_a_refund_gives_a_step_back_its_charge_and_none_of_the_plans_attempts(
    taking: Taking,
) -> None:
    order = [(STEP, 0, 0), (STEP, 0, 1), (STEP, 1, 0), (STEP, 1, 1), (STEP, 2, 0)]
    for attempt in order:
        pay(taking, attempt)
        taking.refund(attempt)
    with pytest.raises(ProtocolError, match="used up"):
        pay(taking, (STEP, 2, 1))
    taking.ledger.close_plan(taking.plan.digest)
    assert taking.ledger.balance(open_policy(taking.plan).limits).trained.charged_lifetime == 0


def test_what_was_not_paid_or_is_refunded_already_is_not_refunded(taking: Taking) -> None:
    with pytest.raises(PrivacyError, match="never spent"):
        taking.refund((STEP, 0, 0))
    pay(taking, (STEP, 0, 0))
    taking.refund((STEP, 0, 0))
    with pytest.raises(PrivacyError, match="refunded before"):
        taking.refund((STEP, 0, 0))
    assert entries(taking, Refunded) == [(STEP, 0, 0)]


def test_a_restarted_process_knows_what_was_paid_and_refunded_without_reading_all_entries(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger knows what is open: a new plan takes as long after a thousand others."""
    pay(taking, (BINS, 0, 0))
    taking.refund((BINS, 0, 0))
    pay(taking, (BINS, 0, 1))
    monkeypatch.delattr(Ledger, "entries")
    again = replace(taking)
    assert again.is_refunded((BINS, 0, 0))
    assert not again.is_refunded((BINS, 0, 1))
    with pytest.raises(ProtocolError, match="not after"):
        pay(again, (BINS, 0, 1))
    pay(again, (STEP, 0, 0))


def test_more_than_the_reservation_is_never_paid(tmp_path: Path) -> None:
    taking = taking_of(tmp_path / "ledger.sqlite", spare_attempts=0)
    with taking.ledger:
        dearer = sum_for(taking.plan, SCHEMA, STEP, flat_card(SCHEMA))
        dearer = type(dearer)(
            question=STEP, columns=dearer.columns, share_variance=dearer.share_variance // 100
        )
        with pytest.raises(BudgetExhausted):
            taking.pay((STEP, 0, 0), dearer)
        pay(taking, (STEP, 0, 0))  # what was refused was not seen either


ACTS = st.lists(
    st.tuples(st.sampled_from(Question), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)),
    max_size=30,
)


@given(ACTS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_whatever_is_asked_no_more_is_answered_than_was_priced(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[Question, int, int, int]]
) -> None:
    """Not even of attempts that were refunded: R is a number of answers, not of charges."""
    taking = taking_of(tmp_path_factory.mktemp("taking") / "ledger.sqlite")
    with taking.ledger:
        paid: list[Attempt] = []
        for question, round_, number, refund in acts:
            if question not in (BINS, STEP, EVALUATION):
                with pytest.raises(ConfigurationError, match="does not train by"):
                    pay(taking, (question, round_, number))
                continue
            try:
                pay(taking, (question, round_, number))
            except ProtocolError:
                continue
            paid.append((question, round_, number))
            if refund == 0:
                taking.refund(paid[-1])
        assert entries(taking, Spent) == paid
        kept = [one for one in paid if one not in entries(taking, Refunded)]
        steps = [one[1:] for one in paid if one[0] is STEP]
        assert len(steps) <= taking.plan.rounds + taking.plan.participation.spare_attempts
        assert steps == sorted(set(steps))
        for question in (BINS, EVALUATION):
            assert len([one for one in kept if one[0] is question]) <= 1
        price = price_of(taking.plan, SCHEMA).price
        for population in Population:
            total = sum(
                each(taking.plan, one[0]) for one in kept if one[0].population is population
            )
            assert total <= price.of(population)
