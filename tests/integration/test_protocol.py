"""What an institution says to a coordinator that errs or lies, and how rounds fail and resume."""

import resource
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest

from federation.asking import positions_of, question_at
from federation.canonical import public_key_of
from federation.errors import ConfigurationError, DataError, PrivacyError, ProtocolError
from federation.fits import Fit
from federation.messages import (
    Accept,
    Close,
    Closed,
    Invite,
    Joined,
    Open,
    RefusalCode,
    Refuse,
    Reply,
    Request,
    Voted,
    encode,
)
from federation.model.release import release_json
from federation.plan import Plan, plan_toml
from federation.pricing import price_of
from federation.privacy.ledger_entries import Refunded, Spent
from federation.privacy.units import Population
from federation.query import Question
from federation.schema import Schema, load_schema
from federation.secure_aggregation.roster import Member
from federation.secure_aggregation.survivors import Revealed, SetSigned, Survivors
from federation.secure_aggregation.upload import Upload
from fedscore.simulation import _allow_files
from server.training import Progress, run_training
from tests.exchanges import Table, Wire, losing, masked_sums, silent, train
from tests.federations import (
    _SMALL,
    KEY,
    NOW,
    OTHER_KEY,
    Federation,
    Seat,
    federation,
    flat_card,
    identity_of,
    ignore,
    in_process,
    roster_of,
    signed_plan,
    small_schema,
)
from tests.networks import KINDS


@pytest.fixture
def one(tmp_path):
    """A federation in one session, and one institution of it."""
    built = federation(tmp_path)
    with built.seats() as seats:
        table = Table.of(built, seats)
        yield table, seats["bank-00"]


def refused(seat: Seat, request) -> RefusalCode:
    reply = seat.send(request)
    assert isinstance(reply, Refuse), reply
    return reply.code


def entries(seat: Seat, kind: type) -> int:
    return sum(isinstance(recorded.entry, kind) for recorded in seat.ledger.entries())


def spent(seat: Seat) -> int:
    return entries(seat, Spent)


def closing(plan: Plan, release: bytes = b"") -> Close:
    return Close(plan=plan.digest, release=release, coins=None)


def test_a_repeated_request_gets_the_identical_bytes_and_is_paid_once(one):
    table, seat = one
    request = encode(table.open(Question.STEP))
    first = seat.institution.handle(request)
    assert seat.institution.handle(request) == first
    assert spent(seat) == 1


def test_a_different_question_for_the_same_round_and_attempt_is_refused(one):
    table, seat = one
    seat.send(table.open(Question.STEP))
    other = msgspec.structs.replace(flat_card(table.fed.schema), base=1)
    assert refused(seat, table.open(Question.STEP, other)) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 1


def test_not_even_another_session_gets_a_second_answer_to_a_round_and_attempt(one):
    table, seat = one
    assert isinstance(seat.send(table.open(Question.STEP)), Upload)
    again = Table.again(table.fed, table.seats, session=b"\x02" * 32)
    assert refused(seat, again.open(Question.STEP)) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 1
    assert isinstance(seat.send(again.open(Question.STEP, attempt=1)), Upload)


def test_an_earlier_round_or_attempt_is_never_answered_late(one):
    table, seat = one
    seat.send(table.open(Question.STEP, round_=1, attempt=1))
    assert refused(seat, table.open(Question.STEP, round_=0)) is RefusalCode.OUT_OF_ORDER
    assert refused(seat, table.open(Question.STEP, round_=1)) is RefusalCode.OUT_OF_ORDER
    assert refused(seat, table.open(Question.BINS)) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 1


@pytest.mark.parametrize(
    ("question", "changes"),
    [
        (Question.STEP, {"round_": 3}),
        (Question.STEP, {"round_": -1}),
        (Question.STEP, {"attempt": 2}),
        (Question.STEP, {"attempt": -1}),
        (Question.BINS, {"round_": 1}),
        (Question.BINS, {"attempt": 2}),
        (Question.BINS, {"attempt": -1}),
        (Question.EVALUATION, {"attempt": 2}),
        (Question.STEP, {"card": None}),
        (Question.EVALUATION, {"card": None}),
    ],
)
def test_what_the_plan_does_not_ask_is_refused_and_costs_nothing(one, question, changes):
    table, seat = one
    assert refused(seat, table.open(question, **changes)) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


def test_what_another_key_has_signed_or_nobody_is_refused_and_costs_nothing(one):
    table, seat = one
    request = table.open(Question.STEP)
    step = table.open(Question.STEP, round_=1).signature
    for signature in ("", "00" * 64, step, "x" * 128, request.signature.swapcase()[:-1]):
        forged = msgspec.structs.replace(request, signature=signature)
        assert refused(seat, forged) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0
    assert isinstance(seat.send(request), Upload)


def test_another_session_than_the_one_joined_is_refused_and_costs_nothing(one):
    table, seat = one
    other = msgspec.structs.replace(table.open(Question.STEP), session=b"\x02" * 32)
    assert refused(seat, other) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


def test_binning_with_a_card_is_refused(one):
    table, seat = one
    request = table.open(Question.BINS, flat_card(table.fed.schema))
    assert refused(seat, request) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


def test_a_card_for_another_schema_is_refused_before_anything_is_paid(one):
    table, seat = one
    card = flat_card(table.fed.schema)
    fewer = msgspec.structs.replace(
        card, bin_of_cell=card.bin_of_cell[:-1], weights=card.weights[:-1]
    )
    assert refused(seat, table.open(Question.STEP, fewer)) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


@pytest.mark.parametrize("weight", [32769, -32769, 10**30, 2.5, float("inf"), float("nan"), "1"])
def test_a_card_with_a_weight_beyond_the_public_bound_is_no_message(one, weight):
    table, seat = one
    honest = table.open(Question.STEP)
    fields: dict[str, Any] = {"type": "Open", **msgspec.to_builtins(honest, builtin_types=(bytes,))}
    assert msgspec.msgpack.encode(fields) == encode(honest)
    fields["model"]["weights"] = [
        [weight if bin_ == 0 else 0 for bin_ in range(len(weights))]
        for weights in fields["model"]["weights"]
    ]
    try:
        data = msgspec.msgpack.encode(fields)
    except OverflowError:
        return  # the wire cannot even hold it
    assert refused(seat, data) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


def test_the_total_of_spare_attempts_is_the_plans_whatever_rounds_they_are_used_in(one):
    table, seat = one  # 3 rounds and 1 spare attempt are priced
    for round_, attempt in ((0, 0), (0, 1), (1, 0), (2, 0)):
        reply = seat.send(table.open(Question.STEP, round_=round_, attempt=attempt))
        assert isinstance(reply, Upload)
    # Everything priced for training is spent; only what was set aside for the bins is left.
    more = table.open(Question.STEP, round_=2, attempt=1)
    assert refused(seat, more) is RefusalCode.OUT_OF_ORDER
    again = Table.again(table.fed, table.seats, session=b"\x02" * 32)
    assert isinstance(seat.send(again.open(Question.BINS)), Upload)
    paid = [one.entry for one in seat.ledger.entries() if isinstance(one.entry, Spent)]
    price = price_of(table.fed.plan, table.fed.schema).price
    assert sum(one.units for one in paid) == price.trained


def test_a_close_of_a_plan_that_was_never_reserved_changes_nothing_and_is_no_fault(one):
    table, seat = one
    other = msgspec.structs.replace(table.fed.plan, name="refused before")
    before = seat.ledger.entries()
    reply = seat.send(closing(other))
    assert isinstance(reply, Closed)
    assert seat.ledger.entries() == before
    assert isinstance(seat.send(table.open(Question.STEP)), Upload)  # ours goes on


def test_nothing_is_answered_after_the_plan_is_closed(one):
    table, seat = one
    request = table.open(Question.STEP)
    seat.send(request)
    assert isinstance(seat.send(closing(table.fed.plan)), Closed)
    assert refused(seat, request) is RefusalCode.OUT_OF_ORDER
    assert refused(seat, table.open(Question.STEP, round_=1)) is RefusalCode.OUT_OF_ORDER
    assert refused(seat, closing(table.fed.plan)) is RefusalCode.UNAVAILABLE
    assert spent(seat) == 1


def test_a_closed_plan_cannot_be_entered_again(one):
    table, seat = one
    seat.send(closing(table.fed.plan))
    seat.institution.prepare()
    assert refused(seat, Invite(plan=plan_toml(table.fed.plan))) is RefusalCode.PRICE
    assert "was entered before, and has ended" in seat.log[-1]


def test_a_second_plan_waits_until_the_first_has_ended(one):
    table, seat = one
    other = signed_plan(table.fed.schema, name="another")
    assert refused(seat, Invite(plan=plan_toml(other))) is RefusalCode.OUT_OF_ORDER


def test_an_expired_plan_is_not_answered_even_if_it_was_accepted(tmp_path):
    built = federation(tmp_path)
    times = [NOW]
    with built.seats(time=lambda: times[0]) as seats:
        table, seat = Table.of(built, seats), seats["bank-00"]
        before = table.open(Question.STEP)
        assert isinstance(seat.send(before), Upload)
        times[0] = NOW + 2 * 86_400
        assert refused(seat, before) is RefusalCode.VALIDITY
        assert refused(seat, table.open(Question.STEP, round_=1)) is RefusalCode.VALIDITY
        assert spent(seat) == 1


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


def test_a_plan_that_invites_somebody_whom_our_roster_does_not_name_is_refused(tmp_path):
    built = federation(tmp_path)
    stranger = signed_plan(built.schema, invited=("bank-00", "bank-01", "bank-02", "nobody"))
    fewer = signed_plan(built.schema, invited=("bank-00", "bank-01", "bank-02"), epsilon=4.0)
    with built.seats() as seats:
        seat = seats["bank-00"]
        assert refused(seat, Invite(plan=plan_toml(stranger))) is RefusalCode.PARTICIPANTS
        assert "nobody" in seat.log[-1]
        assert seat.ledger.head()[0] == 0
        seat.accept(fewer)  # a roster may name more than a plan invites


def test_a_roster_that_names_another_key_for_us_or_that_nobody_signed_is_not_pinned(tmp_path):
    built = federation(tmp_path)
    known = roster_of(built.plan)
    swapped = Member(id="bank-00", key=public_key_of(identity_of("somebody")))
    other = msgspec.structs.replace(known, members=(swapped, *known.members[1:])).signed(KEY)
    unsigned = msgspec.structs.replace(known, signature="")
    changed = msgspec.structs.replace(other, signature=known.signature)
    foreign = known.signed(OTHER_KEY)
    for roster, error in (
        (other, ConfigurationError),
        (unsigned, ProtocolError),
        (changed, ProtocolError),
        (foreign, ProtocolError),
    ):
        with pytest.raises(error), built.seats(roster=roster):
            pass


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
        seat.send(closing(built.plan))
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
            seat.send(closing(plan))
        assert refused(seat, Invite(plan=plan_toml(third))) is RefusalCode.PRICE
        assert any("budget units exceed" in line for line in seat.log)


@pytest.mark.parametrize("data", [b"", b"\x00", b"garbage" * 9, b"\x80", bytes(300)])
def test_bytes_that_are_no_message_are_refused_without_a_trace(one, data):
    _, seat = one
    assert refused(seat, data) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


def test_a_round_below_quorum_is_given_up_refunded_and_asked_again(tmp_path):
    built = federation(tmp_path)
    seen: list[Progress] = []
    with built.seats() as seats:
        # Upload 0 is about bins, 1 to 3 are rounds.
        wire = Wire(seats, unheard=silent("bank-02", to=Open, at=2))
        release = train(built, wire, seen.append)
        paid = {name: spent(seat) for name, seat in seats.items()}
        back = {name: entries(seat, Refunded) for name, seat in seats.items()}
    assert [one.number for one in seen if one.step == "retry"] == [1]
    assert paid == {"bank-00": 6, "bank-01": 6, "bank-02": 5, "bank-03": 6}
    assert back == {"bank-00": 1, "bank-01": 1, "bank-02": 0, "bank-03": 1}
    assert release.institutions == 4


def test_without_enough_votes_a_round_that_failed_stays_spent_and_may_be_asked_again(tmp_path):
    built = federation(tmp_path)
    lost = losing(Upload, of="bank-02", at=2)
    unvoted = losing(Voted, of=("bank-01", "bank-02"))

    def change(name: str, request: Request, reply: Reply) -> Reply | None:
        left = lost(name, request, reply)
        return None if left is None else unvoted(name, request, left)

    with built.seats() as seats:
        train(built, Wire(seats, change))
        assert {spent(seat) for seat in seats.values()} == {6}
        assert {entries(seat, Refunded) for seat in seats.values()} == {0}


def test_without_spare_attempts_left_the_plan_ends_and_what_is_unspent_returns(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        with pytest.raises(ProtocolError, match="no attempt is left"):
            train(built, Wire(seats, losing(Upload, of="bank-02", at=(1, 2))))
        for seat in seats.values():
            balance = seat.ledger.balance(built.members[0].policy.limits)
            assert balance.open_plans == ()
            # The two attempts were given up: nothing of them was or will be opened.
            if seat.name != "bank-02":
                assert (spent(seat), entries(seat, Refunded)) == (3, 2)
                assert balance.trained.charged_lifetime == bins_units(built)


def bins_units(built: Federation) -> int:
    return price_of(built.plan, built.schema).events[Population.TRAINED][0].units_each()


def test_binning_below_quorum_is_asked_again_only_after_it_was_given_up(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        train(built, Wire(seats, unheard=silent("bank-02", to=Open, at=0)))
        for seat in seats.values():
            assert entries(seat, Refunded) == (seat.name != "bank-02")
    with built.seats(out="votes are lost") as seats:
        wire = Wire(
            seats,
            losing(Voted, of=("bank-00", "bank-01")),
            unheard=silent("bank-02", to=Open, at=0),
        )
        with pytest.raises(ProtocolError, match="No total of bins 0 could be opened"):
            train(built, wire)
        assert {spent(seat) for seat in seats.values()} == {0, 1}


def test_without_a_spare_attempt_binning_below_quorum_ends_the_plan(tmp_path):
    built = federation(tmp_path, spare_attempts=0)
    with built.seats() as seats:
        wire = Wire(seats, unheard=silent("bank-02", to=Open, at=0))
        with pytest.raises(ProtocolError, match="only 3 institutions answered, the quorum is 4"):
            train(built, wire)


def test_a_quorum_below_all_lets_a_round_go_on_and_counts_its_own_noise(tmp_path):
    built = federation(tmp_path, institutions=5, quorum=4, spare_attempts=0)
    with built.seats() as seats:
        wire = Wire(
            seats,
            losing(Upload, of="bank-04", at=2),
            unheard=silent("bank-01", to=Open, at=0),
        )
        release = train(built, wire)
        signed = [reply for _, _, reply in wire.passed if isinstance(reply, SetSigned)]
    assert release.institutions == 4
    assert len(signed) == 8


def test_if_everybody_uploaded_the_shares_of_a_threshold_open_the_total(tmp_path):
    built = federation(tmp_path, spare_attempts=0)
    with built.seats() as seats:
        release = train(built, Wire(seats, unheard=silent("bank-03", to=Survivors)))
        assert {spent(seat) for seat in seats.values()} == {5}
    assert release.institutions == 4


def test_if_somebody_dropped_out_all_others_must_stay_and_what_was_released_stays_spent(tmp_path):
    built = federation(tmp_path, institutions=5, quorum=4)
    seen: list[Progress] = []
    with built.seats() as seats:
        unheard = silent("bank-01", to=Open, at=1)
        wire = Wire(seats, losing(Revealed, of="bank-02", at=(1, 2)), unheard=unheard)
        release = train(built, wire, seen.append)
        # Those who had released something could not vote: the attempt may have been opened.
        assert {name: spent(seat) for name, seat in seats.items()} == {
            **dict.fromkeys(seats, 6),
            "bank-01": 5,
            "bank-02": 5,  # it was silent when all were needed, twice, so the retry left it out
        }
        assert {entries(seat, Refunded) for seat in seats.values()} == {0}
    assert [one.number for one in seen if one.step == "retry"] == [0]
    assert release.institutions == 4


def test_too_few_that_sign_who_survived_end_an_attempt_that_is_then_given_up(tmp_path):
    built = federation(tmp_path, institutions=5, quorum=4)
    with built.seats() as seats:
        wire = Wire(
            seats,
            losing(SetSigned, of="bank-02"),
            unheard=silent("bank-01", to=Open, at=1),
        )
        train(built, wire)
        back = {name: entries(seat, Refunded) for name, seat in seats.items()}
    assert back == {**dict.fromkeys(seats, 1), "bank-01": 0}


def test_too_few_that_take_part_end_the_plan_before_anything_is_asked(tmp_path):
    built = federation(tmp_path, policy={"purposes": ("something else",)})
    with built.seats() as seats:
        with pytest.raises(ProtocolError, match="bank-00: policy"):
            train(built, in_process(seats))
        assert all(seat.ledger.head()[0] == 0 for seat in seats.values())


@pytest.mark.parametrize("kind", [Accept, Joined])
def test_who_does_not_get_into_the_session_is_not_asked_until_it_does(tmp_path, kind):
    built = federation(tmp_path, institutions=5, quorum=4)
    with built.seats() as seats:
        wire = Wire(seats, losing(kind, of="bank-03", at=0))
        release = train(built, wire)
        opened = [
            request
            for name, request, _ in wire.passed
            if isinstance(request, Open) and name == "bank-03"
        ]
        first = 3  # the question at which whoever was silent is invited again: bins, 0, 1, 2
        assert [one.round for one in opened] == [first - 1, 0]
        assert spent(seats["bank-03"]) == 2
        assert seats["bank-03"].ledger.balance(built.members[0].policy.limits).open_plans == ()
    assert release.institutions == 4
    with built.seats(out="too few") as seats:
        wire = Wire(seats, losing(kind, of=("bank-03", "bank-04")))
        with pytest.raises(ProtocolError, match="3 of 5 institutions"):
            train(built, wire)
        assert all(spent(seat) == 0 for seat in seats.values())


def other_context(reply: Reply) -> Reply | bytes | None:
    return msgspec.structs.replace(reply, context=bytes(32))


def too_short(reply: Reply) -> Reply | bytes | None:
    assert isinstance(reply, Upload)
    return msgspec.structs.replace(reply, words=reply.words[:-8])


def other_words(reply: Reply) -> Reply | bytes | None:
    assert isinstance(reply, Upload)
    return msgspec.structs.replace(reply, words=bytes(len(reply.words)))


@pytest.mark.parametrize("change", [other_context, too_short, other_words])
def test_an_upload_that_does_not_fit_is_not_counted_and_its_owner_is_named(tmp_path, change):
    built = federation(tmp_path, institutions=5, quorum=4)

    def broken(name: str, _: Request, reply: Reply) -> Reply | bytes | None:
        return change(reply) if name == "bank-00" and isinstance(reply, Upload) else reply

    with built.seats() as seats:
        sums = masked_sums(built, Wire(seats, broken))
        with sums:
            sums.begin()
            total = sums.ask(Question.BINS, round_=0, model=None)
    assert total.answers == 4
    assert b'"institution":"bank-00","accuser":""' in sums.transcript.content()


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 50, "short"])
def test_one_institutions_garbage_is_a_missing_answer_and_locks_nobodys_budget(tmp_path, garbage):
    built = federation(tmp_path, institutions=5, quorum=4)
    seen: list[Progress] = []

    def change(name: str, _: Request, reply: Reply) -> Reply | bytes | None:
        if name != "bank-00" or not isinstance(reply, Upload):
            return reply
        return too_short(reply) if garbage == "short" else garbage

    with built.seats() as seats:
        release = train(built, Wire(seats, change), seen.append)
        for seat in seats.values():
            assert seat.ledger.balance(built.members[0].policy.limits).open_plans == ()
    assert release.institutions == 4
    assert any(one.step == "malformed" for one in seen) == (garbage != "short")


def test_if_the_protocol_ends_a_training_early_the_unspent_budget_returns(tmp_path, monkeypatch):
    built = federation(tmp_path)

    def broken(*_, **__):
        raise ProtocolError("It cannot go on.")

    with built.seats() as seats:
        monkeypatch.setattr("server.training.Fit.begin", broken)
        with pytest.raises(ProtocolError, match="go on"):
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
                sums=masked_sums(built, in_process(seats)),
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
    table, seat = one
    assert refused(seat, Invite(plan=text)) is RefusalCode.SIGNATURE
    assert isinstance(seat.send(table.open(Question.BINS)), Upload)


@pytest.mark.parametrize("year", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_plan_at_the_edge_of_time_is_refused(one, year):
    table, seat = one
    text = plan_toml(table.fed.plan)
    line = next(line for line in text.splitlines() if line.startswith("valid_from"))
    assert refused(seat, Invite(plan=text.replace(line, f"valid_from = {year}"))) is (
        RefusalCode.SIGNATURE
    )


def test_a_disk_that_fails_under_a_snapshot_is_unavailable_and_no_more(one, tmp_path):
    table, seat = one
    for blocks in (tmp_path / "seats" / "bank-00" / "snapshot").iterdir():
        blocks.unlink()
    request = table.open(Question.BINS)
    assert refused(seat, request) is RefusalCode.UNAVAILABLE
    assert refused(seat, request) is RefusalCode.OUT_OF_ORDER  # it was seen, and is never repeated


def test_no_more_steps_are_answered_than_the_plan_has_whatever_was_left_out(tmp_path):
    built = federation(tmp_path, rounds=3, spare_attempts=2)
    with built.seats() as seats:
        table, seat = Table.of(built, seats), seats["bank-00"]
        answered = 0  # the bins are never asked: their price buys no further step
        for round_ in range(3):
            for attempt in range(3):
                reply = seat.send(table.open(Question.STEP, round_=round_, attempt=attempt))
                answered += isinstance(reply, Upload)
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


def test_a_plan_that_nobody_approved_is_refused_until_somebody_does(tmp_path):
    built = federation(tmp_path)
    approved: set[str] = set()
    with built.seats(is_approved=approved.__contains__) as seats:
        seat = seats["bank-00"]
        assert refused(seat, Invite(plan=plan_toml(built.plan))) is RefusalCode.POLICY
        assert "is not approved" in seat.log[-1]
        assert seat.ledger.head()[0] == 0
        approved.add(built.plan.digest)
        seat.accept(built.plan)


def test_at_rest_an_institution_ends_what_expired_and_prepares_for_the_next(tmp_path):
    built = federation(tmp_path)
    times = [NOW]
    with built.seats(time=lambda: times[0]) as seats:
        seat = seats["bank-00"]
        seat.accept(built.plan)
        seat.institution.rest()
        limits = built.members[0].policy.limits
        assert seat.ledger.balance(limits).open_plans == (built.plan.digest,)
        times[0] = NOW + 2 * 86_400
        seat.institution.rest()
        assert seat.ledger.balance(limits).open_plans == ()
        seat.accept(
            signed_plan(built.schema, name="late", valid_from=datetime.fromtimestamp(times[0], UTC))
        )


def test_after_a_restart_nothing_new_is_answered_in_the_old_session(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        table = Table.of(built, seats)
        request = table.open(Question.BINS)
        said = seats["bank-00"].send(request)
        assert isinstance(said, Upload)
    with built.seats() as seats:  # new processes: keys are gone, ledgers and records are not
        seat = seats["bank-00"]
        assert seat.send(request) == said
        assert refused(seat, table.open(Question.STEP)) is RefusalCode.OUT_OF_ORDER
        assert spent(seat) == 1
        assert isinstance(seat.send(Invite(plan=plan_toml(built.plan))), Accept)
        assert spent(seat) == 1
        assert isinstance(seat.send(closing(built.plan)), Closed)
        balance = seat.ledger.balance(built.members[0].policy.limits)
        assert balance.open_plans == ()
        assert balance.trained.charged_lifetime == bins_units(built)
        unknown = msgspec.structs.replace(closing(built.plan), plan="0" * 64)
        before = seat.ledger.head()
        assert isinstance(seat.send(unknown), Closed)  # nothing was reserved: nothing to return
        assert seat.ledger.head() == before


def test_the_snapshot_is_gone_when_the_plan_has_ended(one, tmp_path):
    table, seat = one
    assert (tmp_path / "seats" / "bank-00" / "snapshot").exists()
    seat.send(closing(table.fed.plan))
    assert not (tmp_path / "seats" / "bank-00" / "snapshot").exists()


def test_a_lost_acceptance_does_not_lock_a_budget(tmp_path):
    built = federation(tmp_path, institutions=5, quorum=4)
    with built.seats() as seats:
        train(built, Wire(seats, losing(Accept, of="bank-03")))
        balance = seats["bank-03"].ledger.balance(built.members[0].policy.limits)
    assert balance.open_plans == ()
    assert balance.trained.charged_lifetime == 0


def test_a_release_states_what_the_coordinator_can_know_alone_and_with_others(tmp_path):
    built = federation(tmp_path)
    price = price_of(built.plan, built.schema)
    said = built.run().release.statement
    assert said.epsilon_coordinator_alone < said.epsilon
    for stated, exact in (
        (said.epsilon, price.trained),
        (said.held_out_epsilon, price.held_out),
        (said.epsilon_coordinator_alone, price.trained_coordinator_alone),
        (said.held_out_epsilon_coordinator_alone, price.held_out_coordinator_alone),
    ):
        assert stated == pytest.approx(exact, rel=1e-5)
        assert stated >= exact
    assert said.against == "the coordinator together with any 1 of the institutions"
    assert "secure aggregation" in said.assumption


def test_a_message_larger_than_any_that_exists_is_not_even_decoded(one, monkeypatch):
    table, seat = one
    monkeypatch.setattr("federation.messages.LARGEST_MESSAGE", 100)
    assert refused(seat, table.open(Question.STEP)) is RefusalCode.OUT_OF_ORDER
    assert spent(seat) == 0


def test_the_release_an_institution_gets_is_the_one_the_coordinator_made(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        wire = Wire(seats)
        release = train(built, wire)
        closed = seats["bank-00"].ledger.head()
        assert "signature valid" in seats["bank-00"].log[-1]
    closes = [request for _, request, _ in wire.passed if isinstance(request, Close)]
    assert len(closes) == 4
    assert all(request.release == release_json(release) for request in closes)
    assert closed[0] == 1 + 5 + 1  # reserved; bins, three rounds, evaluation; closed


def test_a_release_that_was_changed_or_is_of_another_plan_is_not_trusted(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        release = release_json(train(built, in_process(seats)))
    forged = release.replace(b'"points": ', b'"points": 1', 1)
    second = federation(tmp_path, name="second")
    for number, (data, said) in enumerate(
        (
            (release, "comes from another plan"),
            (forged, "not trusted"),
            (b"{}", "not trusted"),
            (b"", "ended without a release"),
        )
    ):
        with second.seats(out=f"seats-{number}") as seats:
            seat = seats["bank-00"]
            seat.accept(second.plan)
            assert isinstance(seat.send(closing(second.plan, data)), Closed)
            assert said in seat.log[-1]


@pytest.mark.parametrize(
    "kind", ["a scorecard, joint", "a network, joint, sampled", "a network, institution"]
)
def test_a_corrupted_snapshot_changes_nothing_but_the_sum(tmp_path, kind):
    built = federation(tmp_path, **KINDS[kind])
    questions = [question_at(built.plan, one)[0] for one in positions_of(built.plan)]
    with built.seats() as seats:
        table = Table.of(built, seats)
        generator = np.random.default_rng(0)
        for blocks in (tmp_path / "seats" / "bank-00").glob("*/*.blocks"):
            noise = generator.integers(0, 256, blocks.stat().st_size).astype(np.uint8)
            blocks.write_bytes(noise.tobytes())
        for question in dict.fromkeys(questions):
            assert len(table.total(table.open(question))) > 0


def test_every_reply_that_is_paid_names_the_ledgers_head_after_the_payment(one):
    table, seat = one
    (reserved,) = seat.ledger.entries()
    assert isinstance(seat.send(Invite(plan=plan_toml(table.fed.plan))), Accept)  # once more
    upload = seat.send(table.open(Question.BINS))
    assert isinstance(upload, Upload)
    _, paid = seat.ledger.entries()
    assert isinstance(paid.entry, Spent)
    assert (upload.header.ledger_sequence, upload.header.ledger_head) == (2, paid.hash())
    closed = seat.send(closing(table.fed.plan))
    assert isinstance(closed, Closed)
    assert (closed.ledger_sequence, closed.ledger_head) == seat.ledger.head()
    assert reserved.hash() == paid.previous


def test_an_acceptance_names_the_ledgers_head(tmp_path):
    built = federation(tmp_path)
    with built.seats() as seats:
        accepted = seats["bank-00"].accept(built.plan)
        (reserved,) = seats["bank-00"].ledger.entries()
    assert (accepted.ledger_sequence, accepted.ledger_head) == (1, reserved.hash())


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


def test_a_plan_whose_noise_hides_everybody_ends_and_its_budget_returns(tmp_path, monkeypatch):
    built = federation(tmp_path)
    with built.seats() as seats:
        begin = Fit.begin

        def below_zero(plan: Plan, schema: Schema, counts: np.ndarray, answers: int) -> Fit:
            return begin(plan, schema, -counts, answers)

        monkeypatch.setattr("server.training.Fit.begin", below_zero)
        with pytest.raises(PrivacyError, match="hold nobody"):
            train(built, in_process(seats))
        for seat in seats.values():
            assert seat.ledger.balance(built.members[0].policy.limits).open_plans == ()
