"""What an institution says to a coordinator that errs or lies, and how rounds fail and resume."""

import resource
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from federation.canonical import public_key_of
from federation.errors import ConfigurationError, DataError, PrivacyError, ProtocolError
from federation.messages import (
    Accept,
    Answer,
    Ask,
    Close,
    Closed,
    Invite,
    RefusalCode,
    Refuse,
    decode_reply,
    encode,
)
from federation.model.release import load_release, release_json
from federation.plan import plan_toml
from federation.pricing import price_of
from federation.privacy.ledger_entries import Spent
from federation.query import Question
from federation.schema import load_schema
from fedscore.simulation import InProcess, _allow_files
from server.training import Progress, run_training
from tests.federations import (
    _SMALL,
    KEY,
    NOW,
    OTHER_KEY,
    Federation,
    Seat,
    federation,
    flat_card,
    ignore,
    in_process,
    signed_plan,
    small_schema,
)


@pytest.fixture
def one(tmp_path):
    """One institution that takes part in the small plan."""
    built = federation(tmp_path)
    with built.seats() as seats:
        seat = seats["bank-00"]
        seat.accept(built.plan)
        yield built, seat


def refused(seat: Seat, request) -> RefusalCode:
    reply = seat.send(request)
    assert isinstance(reply, Refuse), reply
    return reply.code


def spent(seat: Seat) -> int:
    return sum(isinstance(recorded.entry, Spent) for recorded in seat.ledger.entries())


def ask(built: Federation, question: Question, **changes) -> Ask:
    card = None if question is Question.BINS else flat_card(built.schema)
    settings = {"plan": built.plan.digest, "question": question, "round": 0, "attempt": 0}
    return Ask(**{**settings, "card": card, **changes})


def test_a_repeated_request_gets_the_identical_bytes_and_is_paid_once(one):
    built, seat = one
    request = encode(ask(built, Question.STEP))
    first = seat.institution.handle(request)
    assert seat.institution.handle(request) == first
    assert spent(seat) == 1


def test_a_different_question_for_the_same_round_and_attempt_is_refused(one):
    built, seat = one
    seat.send(ask(built, Question.STEP))
    other = msgspec.structs.replace(flat_card(built.schema), base=1)
    assert refused(seat, ask(built, Question.STEP, card=other)) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 1


def test_an_earlier_round_or_attempt_is_never_answered_late(one):
    built, seat = one
    seat.send(ask(built, Question.STEP, round=1, attempt=1))
    assert refused(seat, ask(built, Question.STEP, round=0)) is RefusalCode.OUT_OF_ORDER
    assert refused(seat, ask(built, Question.STEP, round=1)) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 1


@pytest.mark.parametrize(
    ("question", "changes"),
    [
        (Question.STEP, {"round": 3}),
        (Question.STEP, {"round": -1}),
        (Question.STEP, {"attempt": 2}),
        (Question.STEP, {"attempt": -1}),
        (Question.BINS, {"round": 1}),
        (Question.BINS, {"attempt": 1}),
        (Question.EVALUATION, {"attempt": 1}),
        (Question.STEP, {"card": None}),
        (Question.EVALUATION, {"card": None}),
        (Question.STEP, {"plan": "0" * 64}),
    ],
)
def test_what_the_plan_does_not_ask_is_refused_and_costs_nothing(one, question, changes):
    built, seat = one
    assert refused(seat, ask(built, question, **changes)) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


def test_binning_with_a_card_is_refused(one):
    built, seat = one
    request = ask(built, Question.BINS, card=flat_card(built.schema))
    assert refused(seat, request) is RefusalCode.OUT_OF_ORDER


def test_a_card_for_another_schema_is_refused_before_anything_is_paid(one):
    built, seat = one
    card = flat_card(built.schema)
    fewer = msgspec.structs.replace(
        card, bin_of_cell=card.bin_of_cell[:-1], weights=card.weights[:-1]
    )
    assert refused(seat, ask(built, Question.STEP, card=fewer)) is RefusalCode.SCHEMA
    assert spent(seat) == 0


@pytest.mark.parametrize("weight", [32769, -32769, 10**30, 2.5, float("inf"), float("nan"), "1"])
def test_a_card_with_a_weight_beyond_the_public_bound_is_no_message(one, weight):
    built, seat = one
    honest = msgspec.to_builtins(ask(built, Question.STEP))
    honest["type"] = "Ask"
    honest["card"]["weights"] = [
        [weight if bin_ == 0 else 0 for bin_ in range(len(weights))]
        for weights in honest["card"]["weights"]
    ]
    try:
        data = msgspec.msgpack.encode(honest, order="deterministic")
    except OverflowError:
        return  # the wire cannot even hold it
    assert refused(seat, data) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


def test_the_total_of_spare_attempts_is_the_plans_whatever_rounds_they_are_used_in(one):
    built, seat = one  # 3 rounds and 1 spare attempt are priced
    for round_, attempt in ((0, 0), (0, 1), (1, 0), (2, 0)):
        seat.answer(
            built.plan, Question.STEP, flat_card(built.schema), round_=round_, attempt=attempt
        )
    # Everything priced for training is spent; only what was set aside for the bins is left.
    reply = seat.send(ask(built, Question.STEP, round=2, attempt=1))
    assert isinstance(reply, Refuse)
    assert isinstance(seat.send(ask(built, Question.BINS)), Answer)


def test_nothing_is_answered_after_the_plan_is_closed(one):
    built, seat = one
    assert isinstance(seat.send(Close(plan=built.plan.digest, release=b"")), Closed)
    assert refused(seat, ask(built, Question.STEP)) is RefusalCode.OUT_OF_ORDER
    assert refused(seat, Close(plan=built.plan.digest, release=b"")) is RefusalCode.UNAVAILABLE


def test_a_closed_plan_cannot_be_entered_again(one):
    built, seat = one
    seat.send(Close(plan=built.plan.digest, release=b""))
    reply = seat.send(Invite(plan=plan_toml(built.plan)))
    assert isinstance(reply, Refuse)


def test_a_second_plan_waits_until_the_first_has_ended(one):
    built, seat = one
    other = signed_plan(built.schema, name="another")
    assert refused(seat, Invite(plan=plan_toml(other))) is RefusalCode.OUT_OF_ORDER


def test_an_expired_plan_is_not_answered_even_if_it_was_accepted(tmp_path):
    built = federation(tmp_path)
    times = [NOW]
    with built.seats(time=lambda: times[0]) as seats:
        seat = seats["bank-00"]
        seat.accept(built.plan)
        times[0] = NOW + 2 * 86_400
        assert refused(seat, ask(built, Question.STEP)) is RefusalCode.VALIDITY


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"purpose": "marketing"}, RefusalCode.POLICY),
        ({"invited": ("bank-01", "bank-02", "bank-03", "bank-04")}, RefusalCode.PARTICIPANTS),
        ({"epsilon": 6.0}, RefusalCode.PRICE),
        ({"delta": 1e-5}, RefusalCode.POLICY),
        ({"most_per_institution": 10}, RefusalCode.POLICY),
        ({"salt": "5b" * 32}, RefusalCode.POLICY),
        ({"held_out_fraction": 0.1}, RefusalCode.POLICY),
    ],
)
def test_a_plan_against_the_policy_is_refused_with_a_code_and_nothing_is_reserved(
    tmp_path, changes, code
):
    built = federation(tmp_path)
    with built.seats() as seats:
        seat = seats["bank-00"]
        plan = signed_plan(built.schema, **changes)
        assert refused(seat, Invite(plan=plan_toml(plan))) is code
        assert seat.ledger.head()[0] == 0


@pytest.mark.parametrize("least", [{"least_quorum": 5}, {"least_colluders": 2}])
def test_the_institution_decides_how_many_must_take_part_and_may_conspire(tmp_path, least):
    built = federation(tmp_path, policy=least)
    with built.seats() as seats:
        request = Invite(plan=plan_toml(built.plan))
        assert refused(seats["bank-00"], request) is RefusalCode.PARTICIPANTS


def test_an_unsigned_changed_or_foreign_plan_is_refused(tmp_path):
    built = federation(tmp_path)
    unsigned = msgspec.structs.replace(built.plan, signature="")
    changed = msgspec.structs.replace(built.plan, rounds=4)
    foreign = msgspec.structs.replace(
        built.plan, coordinator=public_key_of(OTHER_KEY), signature=""
    ).signed(OTHER_KEY)
    with built.seats() as seats:
        for plan in (unsigned, changed, foreign):
            reply = refused(seats["bank-00"], Invite(plan=plan_toml(plan)))
            assert reply is RefusalCode.SIGNATURE
        assert refused(seats["bank-00"], Invite(plan="not a plan")) is RefusalCode.SIGNATURE


def test_more_people_than_the_public_figure_are_the_owners_matter_alone(tmp_path):
    built = federation(tmp_path, people=2001)
    with pytest.raises(DataError, match="Raise that figure"), built.seats():
        pass


def test_without_a_snapshot_an_institution_is_unavailable(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        seat = seats["bank-00"]
        seat.accept(built.plan)
        with pytest.raises(ConfigurationError, match="under way"):
            seat.institution.prepare()
        seat.send(Close(plan=built.plan.digest, release=b""))
        other = signed_plan(built.schema, name="another")
        assert refused(seat, Invite(plan=plan_toml(other))) is RefusalCode.UNAVAILABLE
        seat.institution.prepare()
        seat.accept(other)


def test_a_plan_for_another_schema_is_refused(tmp_path):
    built = federation(tmp_path)
    plan = signed_plan(small_schema(rows="many"))
    with built.seats() as seats:
        assert refused(seats["bank-00"], Invite(plan=plan_toml(plan))) is RefusalCode.SCHEMA


def test_a_budget_that_is_spent_stays_spent_over_plans(tmp_path):
    built = federation(tmp_path, policy={"epsilon_per_year": 6.0, "epsilon_lifetime": 6.0})
    second = signed_plan(built.schema, name="second")
    third = signed_plan(built.schema, name="third")
    with built.seats() as seats:
        seat = seats["bank-00"]
        for plan in (built.plan, second):
            seat.institution.prepare()
            seat.accept(plan)
            for round_ in range(plan.rounds):
                seat.answer(plan, Question.STEP, flat_card(built.schema), round_=round_)
            seat.send(Close(plan=plan.digest, release=b""))
        assert refused(seat, Invite(plan=plan_toml(third))) is RefusalCode.PRICE
        assert any("budget units fit" in line for line in seat.log)


@pytest.mark.parametrize("data", [b"", b"\x00", b"garbage" * 9, b"\x80", bytes(300)])
def test_bytes_that_are_no_message_are_refused_without_a_trace(one, data):
    _, seat = one
    assert refused(seat, data) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


class Flaky:
    """A transport on which chosen institutions are silent in chosen exchanges."""

    def __init__(self, inner: InProcess, silent: Mapping[int, set[str]]) -> None:
        self.inner = inner
        self.silent = silent
        self.exchanges = -1

    def exchange(self, requests):
        self.exchanges += 1
        quiet = self.silent.get(self.exchanges, set())
        return self.inner.exchange({n: r for n, r in requests.items() if n not in quiet})


def train(built: Federation, transport, watch=ignore):
    return load_release(
        run_training(
            plan=built.plan,
            schema=built.schema,
            transport=transport,
            key=KEY,
            now=datetime.fromtimestamp(NOW, UTC),
            watch=watch,
        )
    )


def test_a_round_below_quorum_is_asked_again_with_a_spare_attempt(tmp_path):
    built = federation(tmp_path)
    seen: list[Progress] = []
    with built.seats() as seats:
        # Exchange 0 invites, 1 asks for bins, 2 to 4 are rounds.
        release = train(built, Flaky(in_process(seats), {3: {"bank-02"}}), seen.append)
        answers = {name: spent(seat) for name, seat in seats.items()}
    assert [one.number for one in seen if one.step == "retry"] == [1]
    # The others answered round 1 twice: the first answer is spent whatever became of it.
    assert answers == {"bank-00": 6, "bank-01": 6, "bank-02": 5, "bank-03": 6}
    assert release.institutions == 4


def test_without_spare_attempts_left_the_plan_ends_and_what_is_unspent_returns(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        with pytest.raises(ProtocolError, match="no attempt is left"):
            train(built, Flaky(in_process(seats), {2: {"bank-02"}, 3: {"bank-02"}}))
        for seat in seats.values():
            assert seat.ledger.balance(built.members[0].policy.limits).open_plans == ()


def test_binning_below_quorum_ends_the_plan(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats, pytest.raises(ProtocolError, match="answered bins 0"):
        train(built, Flaky(in_process(seats), {1: {"bank-02"}}))


def test_a_quorum_below_all_lets_a_round_go_on_and_counts_its_own_noise(tmp_path):
    built = federation(tmp_path, institutions=5, quorum=4, spare_attempts=0)
    with built.seats() as seats:
        release = train(built, Flaky(in_process(seats), {1: {"bank-01"}, 3: {"bank-04"}}))
    assert release.institutions == 4


def test_too_few_that_take_part_end_the_plan_before_anything_is_asked(tmp_path):
    built = federation(tmp_path, policy={"purposes": ("something else",)})
    with built.seats() as seats:
        with pytest.raises(ProtocolError, match="bank-00: policy"):
            train(built, in_process(seats))
        assert all(seat.ledger.head()[0] == 0 for seat in seats.values())


def test_an_answer_to_another_question_is_not_counted(tmp_path):
    built = federation(tmp_path, spare_attempts=0)

    class Liar:
        def __init__(self, inner):
            self.inner = inner

        def exchange(self, requests):
            replies = dict(self.inner.exchange(requests))
            reply = decode_reply(replies["bank-00"])
            if isinstance(reply, Answer):
                replies["bank-00"] = encode(msgspec.structs.replace(reply, round=99))
            return replies

    with built.seats() as seats, pytest.raises(ProtocolError, match="Only 3 institutions"):
        train(built, Liar(in_process(seats)))


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 50, "short"])
def test_one_institutions_garbage_is_a_missing_answer_and_locks_nobodys_budget(tmp_path, garbage):
    built = federation(tmp_path, institutions=5, quorum=4)
    seen: list[Progress] = []

    class Liar:
        def __init__(self, inner):
            self.inner = inner

        def exchange(self, requests):
            replies = dict(self.inner.exchange(requests))
            reply = decode_reply(replies["bank-00"])
            if isinstance(reply, Answer):
                short = encode(msgspec.structs.replace(reply, total=reply.total[:-8]))
                replies["bank-00"] = short if garbage == "short" else garbage
            return replies

    with built.seats() as seats:
        release = train(built, Liar(in_process(seats)), seen.append)
        for seat in seats.values():
            assert seat.ledger.balance(built.members[0].policy.limits).open_plans == ()
    assert release.institutions == 4
    assert any(one.step == "malformed" for one in seen) == (garbage != "short")


def test_whatever_ends_a_training_early_the_unspent_budget_returns(tmp_path, monkeypatch):
    built = federation(tmp_path)

    class StoppedError(Exception):
        pass

    def broken(*_, **__):
        raise StoppedError

    with built.seats() as seats:
        monkeypatch.setattr("server.training.CardFit.begin", broken)
        with pytest.raises(StoppedError):
            train(built, in_process(seats))
        for seat in seats.values():
            balance = seat.ledger.balance(built.members[0].policy.limits)
            assert balance.open_plans == ()
            assert balance.held_out.charged_lifetime == 0


def test_another_key_ends_the_training_before_anybody_is_asked(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        with pytest.raises(ConfigurationError, match="This key is not"):
            run_training(
                plan=built.plan,
                schema=built.schema,
                transport=in_process(seats),
                key=OTHER_KEY,
                now=datetime.fromtimestamp(NOW, UTC),
                watch=ignore,
            )
        assert all(seat.ledger.head()[0] == 0 for seat in seats.values())


def test_rows_without_a_key_cannot_be_held_out_and_the_release_names_the_unit(tmp_path):
    text = _SMALL.format(rows="one").replace('person_key = "person"', 'person_key = "row"')
    schema = load_schema(text)
    with pytest.raises(PrivacyError, match="nobody can be held out"):
        price_of(signed_plan(schema), schema)
    built = federation(tmp_path, schema=schema, held_out_fraction=0.0)
    release = built.run().release
    assert "one row" in release.statement.unit
    assert release.report.overall is None


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000,
        "a = " + "{b=" * 5000,
        "rounds = " + "9" * 10_000,
        "x" * 2**21,
        "\x00",
    ],
    ids=["brackets", "braces", "digits", "long", "null"],
)
def test_a_plan_made_to_break_the_reader_is_refused_and_the_institution_lives_on(one, text):
    built, seat = one
    assert refused(seat, Invite(plan=text)) is RefusalCode.SIGNATURE
    seat.answer(built.plan, Question.BINS, None)


@pytest.mark.parametrize("year", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_plan_at_the_edge_of_time_is_refused(one, year):
    built, seat = one
    text = plan_toml(built.plan)
    line = next(line for line in text.splitlines() if line.startswith("valid_from"))
    assert refused(seat, Invite(plan=text.replace(line, f"valid_from = {year}"))) is (
        RefusalCode.SIGNATURE
    )


def test_a_disk_that_fails_under_a_snapshot_is_unavailable_and_no_more(one, tmp_path):
    built, seat = one
    for blocks in (tmp_path / "seats" / "bank-00" / "snapshot").iterdir():
        blocks.unlink()
    assert refused(seat, ask(built, Question.BINS)) is RefusalCode.UNAVAILABLE


def test_no_more_steps_are_answered_than_the_plan_has_whatever_was_left_out(tmp_path):
    built = federation(tmp_path, rounds=3, spare_attempts=2)
    with built.seats() as seats:
        seat = seats["bank-00"]
        seat.accept(built.plan)  # the bins are never asked: their price buys no further step
        answered = 0
        for round_ in range(3):
            for attempt in range(3):
                reply = seat.send(ask(built, Question.STEP, round=round_, attempt=attempt))
                answered += isinstance(reply, Answer)
    assert answered == 3 + 2


def test_an_expired_plan_makes_way_for_the_next_and_its_rest_returns(tmp_path):
    built = federation(tmp_path)
    times = [NOW]
    with built.seats(time=lambda: times[0]) as seats:
        seat = seats["bank-00"]
        seat.accept(built.plan)
        times[0] = NOW + 2 * 86_400
        late = signed_plan(
            built.schema, name="late", valid_from=datetime.fromtimestamp(times[0], UTC)
        )
        assert refused(seat, Invite(plan=plan_toml(late))) is RefusalCode.UNAVAILABLE
        assert seat.ledger.balance(built.members[0].policy.limits).open_plans == ()
        seat.institution.prepare()
        seat.accept(late)


def test_after_a_restart_a_close_returns_what_was_never_answered(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        seat = seats["bank-00"]
        seat.accept(built.plan)
        seat.answer(built.plan, Question.BINS, None)
        seat.institution._taking = None  # what a new process knows
        assert refused(seat, ask(built, Question.STEP)) is RefusalCode.OUT_OF_ORDER
        assert isinstance(seat.send(Close(plan=built.plan.digest, release=b"")), Closed)
        assert seat.ledger.balance(built.members[0].policy.limits).open_plans == ()
        assert refused(seat, Close(plan="0" * 64, release=b"")) is RefusalCode.UNAVAILABLE


def test_the_snapshot_is_gone_when_the_plan_has_ended(one, tmp_path):
    built, seat = one
    assert (tmp_path / "seats" / "bank-00" / "snapshot").exists()
    seat.send(Close(plan=built.plan.digest, release=b""))
    assert not (tmp_path / "seats" / "bank-00" / "snapshot").exists()


def test_a_lost_acceptance_does_not_lock_a_budget(tmp_path):
    built = federation(tmp_path, institutions=5, quorum=4)

    class Losing:
        def __init__(self, inner):
            self.inner = inner
            self.first = True

        def exchange(self, requests):
            replies = dict(self.inner.exchange(requests))
            if self.first:
                del replies["bank-03"]
            self.first = False
            return replies

    with built.seats() as seats:
        train(built, Losing(in_process(seats)))
        balance = seats["bank-03"].ledger.balance(built.members[0].policy.limits)
    assert balance.open_plans == ()
    assert balance.trained.charged_lifetime == 0


def test_a_release_states_what_the_coordinator_that_saw_single_sums_can_know(tmp_path):
    built = federation(tmp_path)
    price = price_of(built.plan, built.schema)
    said = built.run().release.statement
    assert said.epsilon_unmasked > said.epsilon
    assert said.epsilon_unmasked == pytest.approx(price.trained_unmasked, rel=1e-5)
    assert said.epsilon_unmasked >= price.trained_unmasked
    assert "coordinator" not in said.against


def test_a_message_larger_than_any_that_exists_is_not_even_decoded(one, monkeypatch):
    built, seat = one
    monkeypatch.setattr("federation.messages.LARGEST_MESSAGE", 100)
    assert refused(seat, ask(built, Question.STEP)) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


def test_the_release_an_institution_gets_is_the_one_the_coordinator_made(tmp_path):
    built = federation(tmp_path)
    seen: list[bytes] = []

    class Listening:
        def __init__(self, inner):
            self.inner = inner

        def exchange(self, requests):
            seen.extend(requests.values())
            return self.inner.exchange(requests)

    with built.seats() as seats:
        release = train(built, Listening(in_process(seats)))
        accepted = seats["bank-00"].ledger.head()
        assert "signature valid" in seats["bank-00"].log[-1]
    closes = [data for data in seen if b"Close" in data]
    assert len(closes) == 4
    assert all(release.signature.encode() in data for data in closes)
    assert accepted[0] == 1 + 5 + 1  # reserved; bins, three rounds, evaluation; closed


def test_a_release_that_was_changed_or_is_of_another_plan_is_not_trusted(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        release = release_json(train(built, in_process(seats)))
    forged = release.replace(b'"points": ', b'"points": 1', 1)
    second = federation(tmp_path, name="second")
    for number, (data, said) in enumerate(
        (
            (release, "names another plan"),
            (forged, "not trusted"),
            (b"{}", "not trusted"),
            (b"", "ended without a release"),
        )
    ):
        with second.seats(out=f"seats-{number}") as seats:
            seat = seats["bank-00"]
            seat.accept(second.plan)
            assert isinstance(seat.send(Close(plan=second.plan.digest, release=data)), Closed)
            assert said in seat.log[-1]


def test_a_corrupted_snapshot_changes_nothing_but_the_sum(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        seat = seats["bank-00"]
        seat.accept(built.plan)
        generator = np.random.default_rng(0)
        for blocks in (tmp_path / "seats" / "bank-00").glob("*/*.blocks"):
            noise = generator.integers(0, 256, blocks.stat().st_size).astype(np.uint8)
            blocks.write_bytes(noise.tobytes())
        for question in Question:
            card = None if question is Question.BINS else flat_card(built.schema)
            assert len(seat.answer(built.plan, question, card)) > 0


def test_the_first_reply_of_an_institution_names_its_ledgers_head(one):
    built, seat = one
    entries = seat.ledger.entries()
    assert isinstance(seat.send(Close(plan=built.plan.digest, release=b"")), Closed)
    assert entries[0].sequence == 1
    assert isinstance(Accept(plan="", ledger_sequence=1, ledger_head=entries[0].hash()), Accept)


def test_a_simulation_opens_more_ledgers_than_the_system_usually_allows_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        _allow_files(200)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 256
        _allow_files(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, before[1])
        with pytest.raises(ConfigurationError, match="simulate fewer"):
            _allow_files(2**60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
