"""What an institution in local mode refuses, at no cost and with nothing changed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clients.withdrawals import Withdrawals
from federation import canonical
from federation.asking import ASK_LABEL, OPEN_LABEL, asking_locally
from federation.canonical import hash_of
from federation.messages import (
    Abort,
    Answered,
    Ask,
    Begin,
    Join,
    Open,
    RefusalCode,
    Refuse,
    Request,
    encode,
    numbers_digest,
)
from federation.plan import Plan
from federation.pricing import bins_sum
from federation.privacy.ledger_entries import Spent
from federation.privacy.units import Population
from federation.query import Question
from tests.entropy import SpyingEntropy
from tests.federations import (
    KEY,
    OTHER_KEY,
    Federation,
    Seat,
    federation,
    flat_card,
    identity_of,
    public_key_of,
    signed_plan,
    small_schema,
)
from tests.local_mode import CARD, answered, ask, flat_network, local, net, numbers

ONE = "bank-00"


@pytest.fixture
def made(tmp_path: Path) -> Federation:
    return local(tmp_path, CARD)


@pytest.fixture
def seat(made: Federation) -> Iterator[Seat]:
    with made.seats() as seats:
        seats[ONE].accept(made.plan)
        yield seats[ONE]


def require_refused(
    seat: Seat, request: Request, code: RefusalCode = RefusalCode.OUT_OF_ORDER
) -> None:
    before = seat.ledger.head(), seat.records.own_head()
    assert seat.send(request) == Refuse(code=code, peer=""), seat.log
    assert (seat.ledger.head(), seat.records.own_head()) == before


def kept(request: Ask, **changes: Any) -> Ask:
    """Returns a question with changes and the signature that it had."""
    return msgspec.structs.replace(request, **changes)


def with_plan(made: Federation, plan: Plan) -> Federation:
    """Returns the same federation with another plan."""
    return Federation(directory=made.directory, plan=plan, schema=made.schema, members=made.members)


def another_plans(made: Federation) -> Ask:
    """Returns a question that the coordinator has signed for another plan."""
    other = msgspec.structs.replace(made.plan, name="another").signed(KEY)
    return ask(with_plan(made, other), Question.BINS)


FORGED: dict[str, Callable[[Federation], Ask]] = {
    "no signature": lambda made: kept(ask(made, Question.BINS), signature=""),
    "another question's": lambda made: kept(
        ask(made, Question.BINS), signature=ask(made, Question.STEP).signature
    ),
    "another round's": lambda made: kept(ask(made, Question.STEP), round=1),
    "another model's": lambda made: kept(
        ask(made, Question.STEP),
        model=msgspec.structs.replace(flat_card(made.schema), base=1),
    ),
    "another key's": lambda made: kept(
        ask(made, Question.BINS),
        signature=canonical.sign(
            OTHER_KEY,
            ASK_LABEL,
            asking_locally(made.plan, made.schema, ask(made, Question.BINS)).context,
        ),
    ),
    "another label's": lambda made: kept(
        ask(made, Question.BINS),
        signature=canonical.sign(
            KEY,
            OPEN_LABEL,
            asking_locally(made.plan, made.schema, ask(made, Question.BINS)).context,
        ),
    ),
    "another plan's": lambda made: kept(ask(made, Question.BINS), plan="ab" * 32),
    "another plan's, signed": another_plans,
    "a round that the plan lacks": lambda made: kept(
        ask(made, Question.STEP), round=made.plan.rounds
    ),
    "a round below the first": lambda made: kept(ask(made, Question.STEP), round=-1),
    "no model": lambda made: kept(ask(made, Question.STEP), model=None),
    "a needless model": lambda made: kept(ask(made, Question.BINS), model=flat_card(made.schema)),
    "a question of another plan's model": lambda made: kept(
        ask(made, Question.STEP), question=Question.GRADIENT
    ),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_question_that_the_coordinator_did_not_ask_of_this_plan_is_refused_at_no_cost(
    made: Federation, seat: Seat, forged: Callable[[Federation], Ask]
) -> None:
    require_refused(seat, forged(made))
    assert not seat.records.has_begun(made.plan.digest), "nothing was noted"
    answered(seat, ask(made, Question.BINS))


def test_a_question_is_answered_once_and_the_same_bytes_get_the_same_bytes(
    made: Federation, seat: Seat
) -> None:
    request = encode(ask(made, Question.STEP))
    first = seat.institution.handle(request)
    before = seat.ledger.head()
    assert seat.institution.handle(request) == first
    assert seat.ledger.head() == before
    other = ask(made, Question.STEP, model=msgspec.structs.replace(flat_card(made.schema), base=1))
    require_refused(seat, other)


def test_an_earlier_round_and_a_second_count_are_refused(made: Federation, seat: Seat) -> None:
    answered(seat, ask(made, Question.BINS))
    answered(seat, ask(made, Question.STEP, round_=1))
    late = ask(made, Question.STEP, round_=0)
    require_refused(seat, late)
    assert seat.records.attempt(asking_locally(made.plan, made.schema, late).context) is None
    answered(seat, ask(made, Question.STEP, round_=2))
    answered(seat, ask(made, Question.EVALUATION))
    other = msgspec.structs.replace(flat_card(made.schema), base=1)
    require_refused(seat, ask(made, Question.EVALUATION, model=other))


SESSIONS: dict[str, Callable[[Federation], Request]] = {
    "begin": lambda made: Begin(plan=made.plan.digest, session=bytes(32)),
    "join": lambda _: Join(session=bytes(32), announcements=()),
    "open": lambda _: Open(
        session=bytes(32),
        question=Question.BINS,
        round=0,
        attempt=0,
        model=None,
        coins=None,
        signature="",
    ),
    "abort": lambda _: Abort(context=bytes(32)),
}


@pytest.mark.parametrize("request_", SESSIONS.values(), ids=SESSIONS)
def test_a_plan_in_local_mode_has_no_session(
    made: Federation, seat: Seat, request_: Callable[[Federation], Request]
) -> None:
    require_refused(seat, request_(made))
    assert "no session" in seat.log[-1]


def test_a_question_in_clear_is_refused_of_a_plan_whose_sums_are_masked(tmp_path: Path) -> None:
    joint = federation(tmp_path)
    local_plan = signed_plan(small_schema(), spare_attempts=0, **CARD)
    stolen = ask(with_plan(joint, local_plan), Question.BINS)
    with joint.seats() as seats:
        seats[ONE].accept(joint.plan)
        require_refused(seats[ONE], stolen)
        require_refused(seats[ONE], kept(stolen, plan=joint.plan.digest))


def test_a_question_is_refused_before_and_after_the_plan(made: Federation) -> None:
    with made.seats() as seats:
        require_refused(seats[ONE], ask(made, Question.BINS))


def test_a_network_beyond_what_the_plan_prices_is_refused(tmp_path: Path) -> None:
    made = local(tmp_path, net(most_parameters=100))
    assert flat_network(made).shape.parameters > 100
    narrow = local(tmp_path, net(hidden=(3,)))
    with made.seats() as seats:
        seats[ONE].accept(made.plan)
        wide = Ask(
            plan=made.plan.digest,
            question=Question.GRADIENT,
            round=0,
            model=flat_network(made),
            signature="",
        )
        require_refused(seats[ONE], wide)
        require_refused(seats[ONE], kept(wide, model=flat_network(narrow)))


def test_an_answer_is_signed_over_its_numbers_its_question_and_the_head_of_the_ledger(
    made: Federation, seat: Seat
) -> None:
    request = ask(made, Question.BINS)
    reply = answered(seat, request)
    context = asking_locally(made.plan, made.schema, request).context
    assert reply.context == context
    reply.header.require_signed_by(public_key_of(identity_of(ONE)), context)
    assert reply.header.numbers == numbers_digest(reply.numbers)
    assert (reply.header.ledger_sequence, reply.header.ledger_head) == seat.ledger.head()
    assert seat.records.own_head() == seat.ledger.head()
    assert len(numbers(reply)) == bins_sum(made.plan, made.schema).length


def test_the_context_of_a_question_differs_with_whatever_it_binds(made: Federation) -> None:
    def context(which: Federation, request: Ask) -> bytes:
        return asking_locally(which.plan, which.schema, request).context

    other = msgspec.structs.replace(flat_card(made.schema), base=1)
    renamed = with_plan(made, msgspec.structs.replace(made.plan, name="another").signed(KEY))
    found = [
        context(made, ask(made, Question.BINS)),
        context(made, ask(made, Question.STEP)),
        context(made, ask(made, Question.STEP, round_=1)),
        context(made, ask(made, Question.STEP, model=other)),
        context(made, ask(made, Question.EVALUATION)),
        context(renamed, ask(renamed, Question.BINS)),
    ]
    assert len(set(found)) == len(found)
    assert all(len(one) == len(hash_of("any")) for one in found)


def test_a_question_beyond_the_rate_is_refused_for_now_and_later_answered(tmp_path: Path) -> None:
    made = local(tmp_path, CARD, policy={"rounds_per_hour": 1})
    with made.seats() as seats:
        seat = seats[ONE]
        seat.accept(made.plan)
        request = ask(made, Question.BINS)
        first = answered(seat, request)
        require_refused(seat, ask(made, Question.STEP), RefusalCode.UNAVAILABLE)
        assert isinstance(seat.send(request), Answered)
        assert seat.send(request) == first


@pytest.mark.parametrize("asked", [CARD, net(steps=3)], ids=["scorecard", "network"])
def test_noise_is_drawn_after_it_was_paid_for_a_fresh_key_for_each_sum(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    made = local(tmp_path, asked)
    drawn: list[int] = []
    opened: dict[str, Seat] = {}

    def spying(name: str) -> SpyingEntropy:
        def look() -> None:
            entries = [one.entry for one in opened[name].ledger.entries()]
            assert isinstance(entries[-1], Spent), "noise was drawn before it was paid for"
            drawn.append(sum(isinstance(one, Spent) for one in entries))

        return SpyingEntropy(name, look)

    with made.seats(entropy=spying) as seats:
        opened.update(seats)
        seats[ONE].accept(made.plan)
        answered(seats[ONE], ask(made, Question.BINS))
        answered(seats[ONE], ask(made, made.plan.training_question))
    assert drawn == [1] + [2] * made.plan.steps_per_round


def test_people_who_withdraw_are_in_no_later_answer(made: Federation, seat: Seat) -> None:
    answered(seat, ask(made, Question.BINS))
    before = seat.institution.taking.snapshot.people(Population.TRAINED)
    withdrawn = Withdrawals(made.directory / "seats" / ONE / "withdrawn")
    withdrawn.add(made.plan.people.split, [str(person) for person in range(10)])
    answered(seat, ask(made, Question.STEP))
    assert seat.institution.taking.snapshot.people(Population.TRAINED) < before
