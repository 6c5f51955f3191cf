"""What is charged: one figure everywhere, before anything is released, never beyond the price."""

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from clients.ledger import Ledger
from clients.policy import consider
from experiments.entropy import SeededEntropy
from federation.errors import ProtocolError
from federation.messages import Invite, Open, RefusalCode, Refuse, Reply, Request, Voted
from federation.model.evaluation import BANDS
from federation.plan import plan_toml
from federation.pricing import price_of
from federation.privacy.accountant import epsilon_of, sampler_slack
from federation.privacy.ledger_entries import Closed, Entry, Refunded, Reserved, Spent
from federation.privacy.ledger_rules import Balance, PopulationBalance
from federation.privacy.units import BudgetUnits, Delta, Epsilon, Population
from federation.query import Question
from federation.secure_aggregation.upload import Upload
from tests.entropy import SpyingEntropy
from tests.exchanges import Change, Table, Wire, train
from tests.federations import (
    Federation,
    Seat,
    clock,
    federation,
    flat_card,
    names,
    open_policy,
    signed_plan,
    small_table,
    wide_schema,
)
from tests.networks import KINDS
from tests.privacy.reference_price import units_owed


def entries(ledger: Ledger) -> list[Entry]:
    return [recorded.entry for recorded in ledger.entries()]


def spent(ledger: Ledger) -> list[Spent]:
    return [entry for entry in entries(ledger) if isinstance(entry, Spent)]


def losing_uploads(
    lost: Callable[[str, Question, int, int], bool], *, votes: bool = True
) -> Change:
    """Loses chosen uploads after the institution has answered, and all abort votes if told so."""

    def change(name: str, request: Request, reply: Reply) -> Reply | None:
        if isinstance(request, Open) and isinstance(reply, Upload):
            is_lost = lost(name, request.question, request.round, request.attempt)
            return None if is_lost else reply
        return None if isinstance(reply, Voted) and not votes else reply

    return change


def in_plan_order(fed: Federation) -> list[tuple[str, int]]:
    training = [(fed.plan.training_question.value, number) for number in range(fed.plan.rounds)]
    if fed.plan.training_question is Question.UPDATE:  # counts are about single persons
        return training
    return [("bins", 0), *training, ("evaluation", 0)]


def check_log(fed: Federation, ledger: Ledger, *, closed: bool = True) -> None:
    """Raises unless the ledger is a prefix of the plan with at most R retries, within its price.

    An attempt is followed by its refund or not; bins and evaluation are spent anew only after one.
    """
    found = entries(ledger)
    price = price_of(fed.plan, fed.schema)
    first, rest = found[0], found[1:]
    assert first == Reserved(
        plan=fed.plan.digest,
        price=price.price,
        alone=price.alone,
        split=fed.plan.people.split.digest,
    )
    if closed:
        assert rest.pop() == Closed(plan=fed.plan.digest)
    charged = [entry for entry in rest if isinstance(entry, Spent)]
    for before, entry in pairwise(rest):
        if isinstance(entry, Refunded):
            assert isinstance(before, Spent)
            assert (entry.question, entry.round, entry.attempt) == (
                before.question,
                before.round,
                before.attempt,
            )
    firsts = [(one.question, one.round) for one in charged if one.attempt == 0]
    assert firsts == in_plan_order(fed)[: len(firsts)]
    retries = [one for one in charged if one.attempt > 0]
    assert len(retries) <= fed.plan.participation.spare_attempts
    back = {(e.question, e.round, e.attempt) for e in rest if isinstance(e, Refunded)}
    for earlier, later in pairwise(charged):
        if later.attempt > 0:
            again = (later.question, later.round, later.attempt)
            assert again == (earlier.question, earlier.round, earlier.attempt + 1)
            is_training = later.question == fed.plan.training_question
            assert is_training or (*again[:2], earlier.attempt) in back
    for population in Population:
        total = sum(
            one.units
            for one in charged
            if one.population is population and (one.question, one.round, one.attempt) not in back
        )
        assert total <= price.price.of(population)


# One figure.


@pytest.mark.slow
def test_plan_policy_ledger_and_statement_state_the_very_same_figure(tmp_path: Path) -> None:
    fed = federation(tmp_path, spare_attempts=0, epsilon=1.0)
    price = price_of(fed.plan, fed.schema)
    cells = 11 + 6 + 3
    answers = 4 * (2 * cells + 3 * (cells + 1) + 2 * BANDS * 4)
    slack = sampler_slack(answers, epsilon=Epsilon(1.0), delta=1e-6)
    release = fed.run().release
    assert release.statement.epsilon >= price.trained
    assert release.statement.epsilon == pytest.approx(price.trained, rel=1e-5)
    for member in fed.members:
        path = fed.directory / "out" / "ledgers" / f"{member.id}.sqlite"
        with Ledger.open_read_only(path, clock) as ledger:
            reserved = entries(ledger)[0]
            assert isinstance(reserved, Reserved)
            balance = ledger.balance(member.policy.limits)
            for population, headline in (
                (Population.TRAINED, price.trained),
                (Population.HELD_OUT, price.held_out),
            ):
                charged = [one.units for one in spent(ledger) if one.population is population]
                units = BudgetUnits(sum(charged))
                assert units == price.price.of(population)
                assert units == reserved.price.of(population)
                assert units == balance.of(population).charged_lifetime
                owed = units_owed(fed.plan, fed.schema)[population]
                assert 0 <= units - owed < len(charged)
                stated = epsilon_of(units, Delta(1e-6 - slack.delta)) + slack.epsilon
                assert stated == headline


def test_what_the_policy_prints_is_what_the_ledger_will_reserve(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    price = price_of(fed.plan, fed.schema)
    policy = fed.members[0].policy
    with fed.seats() as seats:
        seat = next(iter(seats.values()))
        before = seat.ledger.balance(policy.limits)
        printed = [rule.text for rule in consider(fed.plan, price, policy, before)]
        seat.accept(fed.plan)
        reserved = entries(seat.ledger)[0]
        assert isinstance(reserved, Reserved)
        for population, people, headline in (
            (Population.TRAINED, "trained", price.trained),
            (Population.HELD_OUT, "held out", price.held_out),
        ):
            units = reserved.price.of(population)
            assert any(text.startswith(f"{people}: {units:,} budget units") for text in printed)
            figure = f"{people}: epsilon {headline:.4g} keeps this policy"
            assert any(text.startswith(figure) for text in printed)


def test_the_policy_prints_the_headline_of_a_large_federation_too() -> None:
    """Here the sampler's slack is a part in 9,000 of epsilon: a figure without it differs."""
    schema = wide_schema()
    plan = signed_plan(schema, invited=names(100), rounds=100, epsilon=1.0)
    price = price_of(plan, schema)
    policy = open_policy(plan)
    nothing = PopulationBalance(
        charged_lifetime=BudgetUnits(0),
        charged_in_window=BudgetUnits(0),
        left_lifetime=price.price.trained,
        left_in_window=price.price.trained,
    )
    balance = Balance(
        trained=nothing, held_out=nothing, open_plans=(), recovered=(), answers_last_hour=0
    )
    printed = [rule.text for rule in consider(plan, price, policy, balance)]
    figure = f"trained: epsilon {price.trained:.4g} keeps this policy"
    assert [text for text in printed if text.startswith(figure)], printed


# The executed log.


def test_a_whole_run_charges_the_plan_in_its_order_and_closing_refunds_spare_attempts(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path)
    fed.run()
    price = price_of(fed.plan, fed.schema)
    for member in fed.members:
        path = fed.directory / "out" / "ledgers" / f"{member.id}.sqlite"
        with Ledger.open_read_only(path, clock) as ledger:
            check_log(fed, ledger)
            assert len(spent(ledger)) == fed.plan.rounds + 2
            each = price.events[Population.TRAINED][1].units_each()
            charged = ledger.balance(member.policy.limits).trained.charged_lifetime
            assert charged == price.price.trained - each * fed.plan.participation.spare_attempts


@pytest.mark.parametrize("votes", [True, False])
@pytest.mark.parametrize(("spare", "failures"), [(0, 0), (1, 1), (2, 2), (2, 1), (3, 4), (0, 1)])
def test_the_executed_log_is_a_prefix_of_the_plan_with_at_most_its_retries(
    tmp_path: Path, spare: int, failures: int, votes: bool
) -> None:
    fed = federation(tmp_path, spare_attempts=spare, rounds=4)

    def lost(name: str, question: Question, round_: int, attempt: int) -> bool:
        return (
            name == "bank-01"
            and question is Question.STEP
            and (round_, attempt) in [(1, 0), (1, 1), (2, 0), (2, 1)][:failures]
        )

    with fed.seats() as seats:
        wire = Wire(seats, losing_uploads(lost, votes=votes))
        if failures > spare:
            with pytest.raises(ProtocolError, match="no attempt is left"):
                train(fed, wire)
        else:
            train(fed, wire)
        for seat in seats.values():
            check_log(fed, seat.ledger)
            retried = [one for one in spent(seat.ledger) if one.attempt > 0]
            assert len(retried) == min(spare, failures)
            back = [one for one in entries(seat.ledger) if isinstance(one, Refunded)]
            assert len(back) == (min(failures, spare + 1) if votes else 0)


@pytest.mark.parametrize("votes", [True, False])
@pytest.mark.parametrize(
    "kind", ["a network, joint", "a network, joint, sampled", "a network, institution"]
)
def test_a_network_is_charged_like_a_scorecard_but_sampled_rounds_are_never_given_back(
    tmp_path: Path, kind: str, votes: bool
) -> None:
    fed = federation(tmp_path, **KINDS[kind])
    training = fed.plan.training_question

    def lost(name: str, question: Question, round_: int, attempt: int) -> bool:
        return name == "bank-01" and question is training and (round_, attempt) == (1, 0)

    with fed.seats() as seats:
        train(fed, Wire(seats, losing_uploads(lost, votes=votes)))
        price = price_of(fed.plan, fed.schema).price
        for seat in seats.values():
            check_log(fed, seat.ledger)
            assert [one.attempt for one in spent(seat.ledger)].count(1) == 1
            back = [one for one in entries(seat.ledger) if isinstance(one, Refunded)]
            assert len(back) == (votes and "sampled" not in kind)
            charged = seat.ledger.balance(fed.members[0].policy.limits)
            units = {one.units for one in spent(seat.ledger) if one.question == training.value}
            assert charged.held_out.charged_lifetime == price.held_out
            if "sampled" in kind:  # the whole training, and its retry, are paid
                assert charged.trained.charged_lifetime == price.trained
                assert min(units) == 1
            else:
                each = units.pop()
                assert not units
                assert charged.trained.charged_lifetime == price.trained - each * len(back)


@pytest.mark.parametrize("question", [Question.BINS, Question.EVALUATION])
def test_a_histogram_is_asked_again_only_after_it_was_refunded(
    tmp_path: Path, question: Question
) -> None:
    fed = federation(tmp_path)

    def lost(name: str, asked: Question, _round: int, attempt: int) -> bool:
        return name == "bank-01" and asked is question and attempt == 0

    with fed.seats(out="given up") as seats:
        train(fed, Wire(seats, losing_uploads(lost)))
        for seat in seats.values():
            check_log(fed, seat.ledger)
            assert len([o for o in spent(seat.ledger) if o.question == question.value]) == 2
            charged = seat.ledger.balance(fed.members[0].policy.limits).of(question.population)
            price = price_of(fed.plan, fed.schema).price.of(question.population)
            assert charged.charged_lifetime <= price
    with fed.seats(out="no votes") as seats:
        with pytest.raises(ProtocolError, match="no attempt is left"):
            train(fed, Wire(seats, losing_uploads(lost, votes=False)))
        for seat in seats.values():
            check_log(fed, seat.ledger)
            assert len([o for o in spent(seat.ledger) if o.question == question.value]) == 1


def test_a_lying_coordinator_gets_no_more_answers_than_were_priced(tmp_path: Path) -> None:
    fed = federation(tmp_path, rounds=3, spare_attempts=2)
    with fed.seats() as seats:
        table, seat = Table.of(fed, seats), seats["bank-00"]
        assert isinstance(seat.send(table.open(Question.BINS)), Upload)
        answered = 0
        for number in range(fed.plan.rounds):
            for attempt in range(3):
                reply = seat.send(table.open(Question.STEP, round_=number, attempt=attempt))
                answered += isinstance(reply, Upload)
                if not isinstance(reply, Upload):
                    assert reply == Refuse(code=RefusalCode.OUT_OF_ORDER)
        assert answered == 3 + 2
        total = sum(one.units for one in spent(seat.ledger))
        assert total == price_of(fed.plan, fed.schema).price.trained


def test_the_same_question_again_gets_the_same_answer_and_is_charged_once(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    card = flat_card(fed.schema)
    with fed.seats() as seats:
        table, seat = Table.of(fed, seats), seats["bank-00"]
        first = seat.send(table.open(Question.STEP))
        charged = len(spent(seat.ledger))
        assert isinstance(first, Upload)
        assert first == seat.send(table.open(Question.STEP))
        assert len(spent(seat.ledger)) == charged
        changed = card.__class__(base=1, bin_of_cell=card.bin_of_cell, weights=card.weights)
        other = seat.send(table.open(Question.STEP, changed))
        assert other == Refuse(code=RefusalCode.OUT_OF_ORDER)
        assert len(spent(seat.ledger)) == charged


# Charged before released.


def check_charged_first(fed: Federation, *, out: str = "charged") -> None:
    """Raises unless, whenever noise is drawn, the ledger already holds the row that pays for it."""
    seats: dict[str, Seat] = {}
    drawn: dict[str, int] = dict.fromkeys((member.id for member in fed.members), 0)

    def spying(name: str) -> SpyingEntropy:
        def look() -> None:
            drawn[name] += 1
            charged = spent(seats[name].ledger)
            assert len(charged) == drawn[name], "noise was drawn before it was paid for"
            assert entries(seats[name].ledger)[-1] == charged[-1]
            assert (charged[-1].question, charged[-1].round) == in_plan_order(fed)[len(charged) - 1]

        return SpyingEntropy(name, look)

    with fed.seats(entropy=spying, out=out) as opened:
        seats.update(opened)
        train(fed, Wire(opened))
    assert set(drawn.values()) == {fed.plan.rounds + 2}


def test_an_answer_is_charged_before_its_noise_is_drawn(tmp_path: Path) -> None:
    check_charged_first(federation(tmp_path))


def test_what_the_ledger_does_not_pay_for_draws_no_noise_and_no_mask(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    noises = {name: SeededEntropy(name) for name in names(4)}
    with fed.seats(entropy=noises.__getitem__) as seats:
        table = Table.of(fed, seats)
        seat = seats["bank-00"]
        before = seat.mask_entropy.calls
        seat.ledger.close_plan(fed.plan.digest)
        reply = seat.send(table.open(Question.BINS))
        assert reply == Refuse(code=RefusalCode.UNAVAILABLE)
        assert noises["bank-00"].calls == 0
        assert seat.mask_entropy.calls == before


def test_a_second_plan_beyond_the_limits_is_refused_before_the_table_is_read(
    tmp_path: Path,
) -> None:
    fed = federation(
        tmp_path,
        policy={"epsilon_per_plan": 4.0, "epsilon_per_year": 4.0, "epsilon_lifetime": 4.0},
        spare_attempts=0,
    )
    again = signed_plan(fed.schema, invited=fed.plan.participation.invited, name="again")
    with fed.seats() as seats:
        train(fed, Wire(seats))
        seat = next(iter(seats.values()))
        Path(fed.members[0].table).unlink()
        reply = seat.send(Invite(plan=plan_toml(again)))
        assert isinstance(reply, Refuse)
        assert reply.code is RefusalCode.PRICE
        assert len([one for one in entries(seat.ledger) if isinstance(one, Reserved)]) == 1


def test_charges_of_one_answer_are_the_exact_price_of_its_noise_rounded_up(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, colluders=1)
    fed.run()
    shares = fed.plan.participation.quorum - fed.plan.participation.colluders
    columns = {"bins": 3, "step": 4, "evaluation": 2}
    path = fed.directory / "out" / "ledgers" / "bank-00.sqlite"
    with Ledger.open_read_only(path, clock) as ledger:
        for one in spent(ledger):
            variance = getattr(fed.plan.noise, one.question) * shares - 4
            exact = Fraction(columns[one.question] * 2**32 * 10**12, variance)
            assert exact <= one.units < exact + 1


# Refusals.


@pytest.mark.parametrize("people", [59, 60, 61])
def test_the_reply_to_an_invitation_does_not_tell_how_many_people_there_are(
    tmp_path: Path, people: int
) -> None:
    """A bound that the coordinator chooses, plan by plan, would be a free, exact count."""

    def table(path: Path, number: int) -> Path:
        return small_table(path, people, number)

    fed = federation(tmp_path, table=table, most_per_institution=60)
    with fed.seats() as seats:
        reply = next(iter(seats.values())).send(Invite(plan=plan_toml(fed.plan)))
        # The plan's figure is held against the institution's public one, never against the table.
        assert reply == Refuse(code=RefusalCode.POLICY)
