"""What plans of each mode and model cost, what of it is charged when, and which are no plans."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w

from clients.ledger import Ledger
from clients.taking import Attempt, Taking
from federation.asking import positions_of, question_at, sum_for
from federation.errors import ConfigurationError, FedscoreError, PrivacyError, ProtocolError
from federation.learning import MOST_STEPS, Institution, Local, ScorecardModel
from federation.plan import Plan, load_plan, plan_toml
from federation.pricing import charge_of, price_of
from federation.privacy.accountant import epsilon_of
from federation.privacy.ledger_entries import Refunded, Spent
from federation.privacy.units import BudgetUnits, Delta, Population
from federation.query import Question, sensitivity_squared
from tests.federations import KEY, clock, open_policy, signed_plan, small_schema
from tests.networks import BY_INSTITUTION, KINDS, model_for, network_model
from tests.privacy.reference_price import exact_units, true_epsilon

SCHEMA = small_schema()
SAMPLED = "a network, joint, sampled"
NOBODY: Any = None
"""In place of a snapshot: no price may depend on a row."""

SPARE = {kind: {} if "local" in kind else {"spare_attempts": 2} for kind in KINDS}


def plan_of(kind: str, **changes: Any) -> Plan:
    return changed_plan(kind, **changes) if changes else unchanged_plan(kind)


@cache
def unchanged_plan(kind: str) -> Plan:
    return changed_plan(kind)


def changed_plan(kind: str, **changes: Any) -> Plan:
    return signed_plan(SCHEMA, **{**KINDS[kind], **SPARE[kind], **changes})


def attempts_of(plan: Plan) -> list[Attempt]:
    """Returns all that may be answered, every spare attempt spent on the last round."""
    places = [question_at(plan, position) for position in positions_of(plan)]
    training = plan.training_question
    found = [(question, round_, 0) for question, round_ in places]
    spare = [
        (training, plan.rounds - 1, 1 + number)
        for number in range(plan.participation.spare_attempts)
    ]
    end = [one for one in found if one[0] is Question.EVALUATION]
    return [*(one for one in found if one not in end), *spare, *end]


def charges(plan: Plan) -> list[tuple[Question, BudgetUnits]]:
    seen: set[Question] = set()
    found = []
    for question, _, _ in attempts_of(plan):
        query = sum_for(plan, SCHEMA, question, model_for(plan, SCHEMA, question))
        units = charge_of(plan, SCHEMA, query, is_first=question not in seen)
        seen.add(question)
        found.append((question, units))
    return found


def taking_of(path: Path, plan: Plan) -> Taking:
    """Returns a plan with its own new ledger, its full price reserved."""
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


def pay(taking: Taking, attempt: Attempt) -> None:
    query = sum_for(taking.plan, SCHEMA, attempt[0], model_for(taking.plan, SCHEMA, attempt[0]))
    taking.pay(attempt, query)


# Charges and prices.


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_a_plan_may_ask_is_charged_exactly_what_was_priced(kind: str) -> None:
    plan = plan_of(kind)
    price = price_of(plan, SCHEMA).price
    found = charges(plan)
    assert len(found) == len(attempts_of(plan)) == len(set(attempts_of(plan)))
    assert all(units >= 1 for _, units in found)
    for population in Population:
        total = sum(units for question, units in found if question.population is population)
        assert total == price.of(population)
    assert price.trained > 0
    assert (price.held_out > 0) == plan.evaluates == ("institution" not in kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ledger_charges_a_plan_in_its_order_what_is_stated_and_never_more(
    kind: str, tmp_path: Path
) -> None:
    plan = plan_of(kind)
    price = price_of(plan, SCHEMA)
    taking = taking_of(tmp_path / "ledger.sqlite", plan)
    with taking.ledger:
        for attempt in attempts_of(plan):
            pay(taking, attempt)
        with pytest.raises(ProtocolError):
            pay(taking, (plan.training_question, plan.rounds - 1, 9))
        entries = [one.entry for one in taking.ledger.entries()]
        spent = [one for one in entries if isinstance(one, Spent)]
        assert [one.units for one in spent] == [units for _, units in charges(plan)]
        balance = taking.ledger.balance(open_policy(plan).limits)
        delta = Delta(plan.privacy.delta)
        for population, stated in (
            (Population.TRAINED, price.trained),
            (Population.HELD_OUT, price.held_out),
        ):
            charged = balance.of(population).charged_lifetime
            assert charged == price.price.of(population)
            assert price.epsilon_of(charged, delta) == stated


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.01, 0.25, 0.9])
def test_the_first_sampled_round_pays_for_all_and_each_after_it_one_unit(rate: float) -> None:
    plan = plan_of(SAMPLED, model=network_model(sampling_rate=rate), rounds=5)
    price = price_of(plan, SCHEMA)
    _, *training = [
        units for question, units in charges(plan) if question is not Question.EVALUATION
    ]
    assert training[1:] == [1] * (5 + 2 - 1)
    bins, events = price.events[Population.TRAINED]
    assert events.times == 5 + 2
    assert training[0] == events.units()
    assert sum(training) + bins.units() == price.price.trained
    everybody = plan_of("a network, joint", rounds=5)
    assert plan.noise.step < everybody.noise.step


@pytest.mark.parametrize("closed_before", [False, True])
def test_a_sampled_round_is_never_given_back_not_even_after_a_restart(
    tmp_path: Path, closed_before: bool
) -> None:
    plan = plan_of(SAMPLED)
    path = tmp_path / "ledger.sqlite"
    taking = taking_of(path, plan)
    with taking.ledger:
        pay(taking, (Question.BINS, 0, 0))
        for attempt in ((Question.GRADIENT, 0, 0), (Question.GRADIENT, 0, 1)):
            pay(taking, attempt)
        if not closed_before:
            for number in range(2):
                with pytest.raises(ProtocolError, match="paid for together"):
                    taking.refund((Question.GRADIENT, 0, number))
    with Ledger.open(path, clock) as ledger:
        again = Taking(
            plan=plan,
            digest=plan.digest,
            schema=SCHEMA,
            snapshot=NOBODY,
            ledger=ledger,
            withdrawals=None,
            note_snapshot=lambda _: None,
        )
        for number in range(2):
            with pytest.raises(ProtocolError, match="paid for together"):
                again.refund((Question.GRADIENT, 0, number))
        again.refund((Question.BINS, 0, 0))  # a count of everybody is another matter
        pay(again, (Question.GRADIENT, 1, 0))
        entries = [one.entry for one in ledger.entries()]
        refunded = [one.question for one in entries if isinstance(one, Refunded)]
        assert refunded == [Question.BINS.value]
        gradients = [
            one.units
            for one in entries
            if isinstance(one, Spent) and one.question == Question.GRADIENT.value
        ]
        assert gradients[1:] == [1, 1]
        assert gradients[0] > 10**6


@pytest.mark.parametrize("kind", ["a network, joint", "a network, institution"])
def test_a_round_over_everybody_is_given_back_like_a_scorecards(tmp_path: Path, kind: str) -> None:
    plan = plan_of(kind)
    taking = taking_of(tmp_path / "ledger.sqlite", plan)
    with taking.ledger:
        attempt = (plan.training_question, 0, 0)
        pay(taking, attempt)
        taking.refund(attempt)
        balance = taking.ledger.balance(open_policy(plan).limits)
        assert balance.trained.charged_lifetime == price_of(plan, SCHEMA).price.trained  # reserved
        taking.ledger.close_plan(plan.digest)
        assert taking.ledger.balance(open_policy(plan).limits).trained.charged_lifetime == 0


# Prices from the definitions.


def owed(plan: Plan, unknown: int) -> Fraction:
    """Returns what trained people pay, not rounded, where nobody is sampled.

    A person changes 2^16 in each column of counts and residuals, 2^24 in a gradient as a whole, and
    an update by twice 2^24.
    """
    answers = plan.rounds + plan.participation.spare_attempts
    each = {
        Question.STEP: 4 * 2**32,
        Question.GRADIENT: 2**48,
        Question.UPDATE: 4 * 2**48,
    }[plan.training_question]
    steps = answers * (plan.mode.steps if isinstance(plan.mode, Local) else 1)
    bins = (
        0
        if isinstance(plan.mode, Institution)
        else exact_units(3 * 2**32, plan.noise.bins * unknown)
    )
    return bins + steps * exact_units(each, plan.noise.step * unknown)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != SAMPLED])
def test_prices_are_those_of_the_definition_rounded_up(kind: str) -> None:
    plan = plan_of(kind)
    price = price_of(plan, SCHEMA)
    quorum = plan.participation.quorum
    honest, everybody = (1, 1) if isinstance(plan.mode, Local) else (quorum - 1, quorum)
    answers = len(attempts_of(plan)) * plan.steps_per_round
    assert 0 <= price.price.trained - owed(plan, honest) <= answers
    assert 0 <= price.alone.trained - owed(plan, everybody) <= answers
    assert (price.alone == price.price) == isinstance(plan.mode, Local)
    delta = plan.privacy.delta - price.slack.delta
    true = true_epsilon(price.price.trained, delta) + price.slack.epsilon
    assert true <= price.trained <= true * (1 + 1e-8)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
def test_an_institutions_epsilon_is_the_target_and_a_person_is_charged_twice_the_distance(
    epsilon: float,
) -> None:
    plan = plan_of("a network, institution", epsilon=epsilon)
    price = price_of(plan, SCHEMA)
    assert price.institution is not None
    assert 0.999 * epsilon < price.institution <= epsilon
    honest = plan.participation.honest_shares
    answers = plan.rounds + plan.participation.spare_attempts
    mine = answers * exact_units(2**48, plan.noise.step * honest)
    delta = Delta(plan.privacy.delta - price.slack.delta)
    true = epsilon_of(BudgetUnits(math.ceil(mine)), delta) + price.slack.epsilon
    assert price.institution == pytest.approx(true, rel=1e-6)
    assert price.institution >= true * (1 - 1e-12)
    assert 0 <= price.price.trained - 4 * mine <= answers
    assert price.trained > 1.9 * price.institution
    assert price.held_out == price.price.held_out == 0
    assert price.promised_alone <= plan.privacy.epsilon_coordinator_alone < epsilon


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "institution" not in kind])
def test_only_institution_mode_states_a_price_of_institutions(kind: str) -> None:
    price = price_of(plan_of(kind), SCHEMA)
    assert price.institution is None
    assert price.promised_alone == max(
        price.trained_coordinator_alone, price.held_out_coordinator_alone
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changed", ["noise", "target", "alone"])
def test_a_plan_whose_noise_does_not_keep_its_target_has_no_price(kind: str, changed: str) -> None:
    plan = plan_of(kind)
    price_of(plan, SCHEMA)
    said = plan.privacy
    replaced = {
        "noise": {"noise": msgspec.structs.replace(plan.noise, step=plan.noise.step * 99 // 100)},
        "target": {
            "privacy": msgspec.structs.replace(
                said,
                epsilon=0.98 * said.epsilon,
                epsilon_coordinator_alone=min(said.epsilon_coordinator_alone, 0.98 * said.epsilon),
            )
        },
        "alone": {
            "privacy": msgspec.structs.replace(
                said, epsilon_coordinator_alone=0.999 * said.epsilon_coordinator_alone
            )
        },
    }[changed]
    with pytest.raises(PrivacyError, match="promises"):
        price_of(msgspec.structs.replace(plan, **replaced).signed(KEY), SCHEMA)


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_training_of_any_kind_needs_more_noise(kind: str) -> None:
    short, long = (plan_of(kind, rounds=rounds) for rounds in (2, 20))
    assert short.noise.step < long.noise.step


def test_more_steps_at_home_need_more_noise_in_local_mode_only() -> None:
    local = [
        plan_of("a network, local", mode=Local(steps=steps)).noise.step for steps in (1, 2, 10)
    ]
    assert local[0] < local[1] < local[2]
    one, ten = (
        plan_of("a network, institution", mode=msgspec.structs.replace(BY_INSTITUTION, steps=steps))
        for steps in (1, 10)
    )
    assert one.noise == ten.noise


def test_a_dense_question_is_as_sensitive_as_its_bound_says() -> None:
    assert sensitivity_squared(Question.GRADIENT, 1) == sensitivity_squared(Question.UPDATE, 1)
    assert sensitivity_squared(Question.GRADIENT, 1) == 2**48
    assert sensitivity_squared(Question.STEP, 3) == 3 * 2**32
    for question in Question:
        assert question.bound == (2**24 if question.is_dense else 2**16)


# No plans.


UNLAWFUL: dict[str, tuple[str, dict[str, Any]]] = {
    "a scorecard in institution mode": (
        "trains a network",
        {"mode": BY_INSTITUTION, "model": ScorecardModel()},
    ),
    "sampling in institution mode": (
        "sampling_rate = 1",
        {"mode": BY_INSTITUTION, "model": network_model(sampling_rate=0.5)},
    ),
    "spare attempts in local mode": (
        "never asked again",
        {"mode": Local(steps=2), "model": network_model(), "spare_attempts": 1},
    ),
    "a scorecard's spare attempts in local mode": (
        "never asked again",
        {"mode": Local(steps=1), "model": ScorecardModel(), "spare_attempts": 1},
    ),
    "several steps of a scorecard": (
        "one step a round",
        {"mode": Local(steps=2), "model": ScorecardModel(), "spare_attempts": 0},
    ),
}


@pytest.mark.parametrize("what", UNLAWFUL)
def test_a_mode_that_cannot_train_the_model_is_no_plan(what: str) -> None:
    why, changes = UNLAWFUL[what]
    with pytest.raises(ConfigurationError, match=why):
        signed_plan(SCHEMA, **changes)


def retold(plan: Plan, change: Callable[[dict[str, Any]], None]) -> str:
    """Returns the TOML of a plan of which something was changed that no constructor allows."""
    tree = msgspec.toml.decode(plan_toml(plan))
    change(tree)
    return tomli_w.dumps(tree)


@pytest.mark.parametrize(
    ("kind", "part", "changes"),
    [
        ("a scorecard, joint", "mode", {"type": "institution"}),
        ("a scorecard, joint", "mode", {"type": "local"}),
        ("a scorecard, joint", "mode", {"type": "local", "steps": 1}),  # one spare attempt
        ("a scorecard, joint", "mode", {"type": "Joint"}),
        ("a scorecard, joint", "mode", {"steps": 1}),
        ("a scorecard, joint", "model", {"type": "network"}),
        ("a scorecard, joint", "model", {"hidden": []}),
        ("a network, institution", "model", {"sampling_rate": 0.5}),
        ("a network, institution", "mode", {"steps": 0}),
        ("a network, institution", "mode", {"steps": MOST_STEPS + 1}),
        ("a network, institution", "mode", {"steps": 1.0}),
        ("a network, institution", "mode", {"step_length": 0.0}),
        ("a network, institution", "mode", {"step_length": math.nan}),
        ("a network, institution", "mode", {"step_length": math.inf}),
        ("a network, institution", "mode", {"proximal": -0.1}),
        ("a network, institution", "mode", {"proximal": math.nan}),
        ("a network, institution", "mode", {"optimiser": "sgd"}),
        ("a network, local", "mode", {"steps": 0}),
        *(
            ("a network, joint", "model", changes)
            for changes in (
                {"clip": 0.0},
                {"clip": -1.0},
                {"clip": math.nan},
                {"clip": math.inf},
                {"sampling_rate": 0.0},
                {"sampling_rate": -0.1},
                {"sampling_rate": 1.0001},
                {"sampling_rate": math.nan},
                {"learning_rate": 0.0},
                {"learning_rate": math.nan},
                {"hidden": [0]},
                {"hidden": [513]},
                {"hidden": [1, 1, 1, 1, 1]},
                {"activation": "sigmoid"},
                {"most_parameters": 0},
                {"most_parameters": 2**24 + 1},
                {"surprise": 1},
            )
        ),
    ],
    ids=str,
)
def test_a_mode_or_model_beyond_its_rules_does_not_load(
    kind: str, part: str, changes: dict[str, Any]
) -> None:
    plan = plan_of(kind)
    assert load_plan(retold(plan, lambda _: None)) == plan
    with pytest.raises(FedscoreError):
        load_plan(retold(plan, lambda tree: tree[part].update(changes)))


@pytest.mark.parametrize(
    ("kind", "part", "changes"),
    [
        ("a network, institution", "mode", {"steps": 3}),
        ("a network, institution", "mode", {"step_length": 0.25}),
        ("a network, institution", "mode", {"proximal": 0.0}),
        ("a network, institution", "mode", {"optimiser": "fedavg"}),
        ("a network, local", "mode", {"steps": 3}),
        ("a network, joint", "model", {"hidden": [3]}),
        ("a network, joint", "model", {"activation": "relu"}),
        ("a network, joint", "model", {"clip": 2.0}),
        ("a network, joint", "model", {"sampling_rate": 0.5}),
        ("a network, joint", "model", {"learning_rate": 0.5}),
        ("a network, joint", "model", {"most_parameters": 257}),
    ],
    ids=str,
)
def test_any_change_to_mode_or_model_breaks_digest_and_signature(
    kind: str, part: str, changes: dict[str, Any]
) -> None:
    plan = plan_of(kind)
    changed = load_plan(retold(plan, lambda tree: tree[part].update(changes)))
    assert changed.digest != plan.digest
    with pytest.raises(ProtocolError, match="signature"):
        changed.require_signed()


# Questions.


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_asks_only_its_own_questions_about_its_own_models(kind: str) -> None:
    plan = plan_of(kind)
    own = {question_at(plan, position)[0] for position in positions_of(plan)}
    assert plan.training_question in own
    others = {other: plan_of(other) for other in KINDS}
    for question in Question:
        models = [model_for(other, SCHEMA, question) for other in others.values()]
        right = model_for(plan, SCHEMA, question)
        for model in chain(models, [None]):
            if question in own and model == right:
                continue
            with pytest.raises((ConfigurationError, PrivacyError)):
                sum_for(plan, SCHEMA, question, model)
        if question in own:
            assert sum_for(plan, SCHEMA, question, right).question is question


def test_a_network_larger_than_the_plan_prices_is_not_asked_about() -> None:
    right = plan_of("a network, joint")
    network = model_for(right, SCHEMA, Question.GRADIENT)
    found = sum_for(right, SCHEMA, Question.GRADIENT, network)
    exact = plan_of("a network, joint", model=network_model(most_parameters=found.length))
    assert sum_for(exact, SCHEMA, Question.GRADIENT, network).length == found.length
    short = plan_of("a network, joint", model=network_model(most_parameters=found.length - 1))
    with pytest.raises(ConfigurationError, match="prices"):
        sum_for(short, SCHEMA, Question.GRADIENT, network)
    for other in ({"hidden": (3,)}, {"activation": "relu"}):
        plan = plan_of(
            "a network, joint",
            model=msgspec.convert(
                msgspec.to_builtins(network_model()) | other, type(network_model())
            ),
        )
        with pytest.raises(ConfigurationError, match="layers"):
            sum_for(plan, SCHEMA, Question.GRADIENT, network)
