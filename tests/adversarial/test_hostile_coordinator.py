"""A coordinator that lies and signs it, against daemons; and a carrier that repeats it later.

It holds the real coordinator's key: every envelope opens, every signature of its own is valid. What
keeps people safe is what each daemon checks by itself. `tests.hostile_nation` has the banks.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("flwr")

from federation.canonical import public_key_of
from federation.envelope import Asked, open_reply
from federation.message import PROTOCOL_VERSION
from federation.messages import (
    Abort,
    Accept,
    Begin,
    Close,
    Closed,
    Coins,
    Invite,
    Join,
    Open,
    Refund,
    RefusalCode,
    Refuse,
    Request,
    Voted,
    decode_reply,
    encode,
)
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan, plan_toml
from federation.privacy.ledger_entries import Reserved, Spent
from federation.query import Question
from federation.secure_aggregation.opening import Collected
from federation.secure_aggregation.survivors import Reveal, Revealed
from federation.secure_aggregation.upload import Upload
from tests.exchanges import Table
from tests.federations import OTHER_KEY, flat_card, signed_plan, small_schema
from tests.hostile_nation import KEY, A, B, C, Nation, nation

PROBE = Begin(plan="ab" * 32, session=bytes(32))


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nation]:
    """Three daemons that have entered no plan."""
    with nation(tmp_path_factory.mktemp("banks")) as found:
        for name in (A, B, C):
            found.fleet.node_of(found.key_of(name))
        yield found


def refused_alike(banks: Nation, request: Request | bytes, code: RefusalCode) -> str:
    """Returns why two banks with different people refused, in words and bytes that both used."""
    why, sizes, replies = [], [], []
    for name in (A, B):
        before = banks.state(name)
        asked = banks.seal(name, request)
        reply = banks.deliver(name, asked.envelope)
        assert reply is not None, banks.said(name)
        sizes.append(len(reply))
        replies.append(decode_reply(open_reply(reply, asked)))
        why.append(banks.said(name))
        assert banks.state(name) == before
        assert banks.is_alive(name)
        assert banks.ask(name, PROBE) == Refuse(code=RefusalCode.OUT_OF_ORDER)
    assert replies == [Refuse(code=code)] * 2, why
    assert sizes[0] == sizes[1]
    assert why[0].replace(A, B) == why[1]
    assert f"refused ({code})" in why[0]
    return why[0]


# Plans.


def invite(plan: Plan) -> Invite:
    return Invite(plan=plan_toml(plan))


def test_a_plan_that_somebody_else_signed_is_refused(banks: Nation) -> None:
    stranger = msgspec.structs.replace(banks.fed.plan, coordinator=public_key_of(OTHER_KEY)).signed(
        OTHER_KEY
    )
    why = refused_alike(banks, invite(stranger), RefusalCode.SIGNATURE)
    assert "not the one we trust" in why


FIELD = re.compile(r"^(\w+) = (.+)$", re.MULTILINE)


def fields_of(plan: Plan) -> list[tuple[int, str]]:
    """Returns where each field of a plan's text stands, and its name."""
    return [(found.start(2), found[1]) for found in FIELD.finditer(plan_toml(plan))]


def test_a_plan_one_field_of_which_was_changed_is_refused(banks: Nation) -> None:
    text = plan_toml(banks.fed.plan)
    spots = fields_of(banks.fed.plan)
    assert len(spots) > 20
    for start, name in spots:
        end = text.index("\n", start)
        value = text[start:end]
        at = next((place for place, one in enumerate(value) if one.isalnum()), None)
        if at is None:  # a list that begins here: its items stand on lines of their own
            continue
        other = "1" if value[at] != "1" else "2"
        changed = text[:start] + value[:at] + other + value[at + 1 :] + text[end:]
        before = {bank: banks.state(bank) for bank in (A, B)}
        said = {bank: banks.ask(bank, Invite(plan=changed)) for bank in (A, B)}
        assert said[A] == said[B] == Refuse(code=RefusalCode.SIGNATURE), (name, said)
        assert {bank: banks.state(bank) for bank in (A, B)} == before


def resigned(banks: Nation, **changes: Any) -> Plan:
    return signed_plan(small_schema(), invited=(A, B, C), **changes)


TERMS: dict[str, tuple[dict[str, Any], RefusalCode]] = {
    "another purpose": ({"purpose": "marketing"}, RefusalCode.POLICY),
    "another salt": ({"salt": "00" * 32}, RefusalCode.POLICY),
    "more held out": ({"held_out_fraction": 0.5}, RefusalCode.POLICY),
    "too few people": ({"most_per_institution": 1999}, RefusalCode.POLICY),
    "a larger price": ({"epsilon": 4.1}, RefusalCode.PRICE),
    "a larger delta": ({"delta": 1e-5}, RefusalCode.POLICY),
}


@pytest.mark.parametrize("kind", TERMS)
def test_terms_that_the_policy_does_not_have_are_refused(banks: Nation, kind: str) -> None:
    changes, code = TERMS[kind]
    refused_alike(banks, invite(resigned(banks, **changes)), code)


def test_a_plan_for_strangers_is_refused(banks: Nation) -> None:
    plan = signed_plan(small_schema(), invited=(A, B, "stranger"))
    refused_alike(banks, invite(plan), RefusalCode.PARTICIPANTS)


def test_a_plan_without_us_is_refused(banks: Nation) -> None:
    plan = signed_plan(small_schema(), invited=(C, "bank-03", "bank-04"))
    refused_alike(banks, invite(plan), RefusalCode.PARTICIPANTS)


@pytest.mark.parametrize("days", [-40, 1])
def test_a_plan_that_is_not_valid_now_is_refused(banks: Nation, days: int) -> None:
    plan = banks.fed.plan
    shift = timedelta(days=days, seconds=1)
    moved = msgspec.structs.replace(
        plan, valid_from=plan.valid_from + shift, valid_until=plan.valid_until + shift
    ).signed(KEY)
    refused_alike(banks, invite(moved), RefusalCode.VALIDITY)


@pytest.mark.parametrize(
    "text", ["", "x", "\0", "[" * 10_000, "a = " + "9" * 10_000, "é" * 1000, "signature = 1"]
)
def test_a_text_that_is_no_plan_is_refused(banks: Nation, text: str) -> None:
    refused_alike(banks, Invite(plan=text), RefusalCode.SIGNATURE)


# Messages of a session that there is none of.

CONTEXT = b"\7" * 32
VERSION = b"\xa7version" + bytes([PROTOCOL_VERSION])


def strays() -> dict[str, Request]:
    card = flat_card(small_schema())
    return {
        "begin": Begin(plan="cd" * 32, session=CONTEXT),
        "join": Join(session=CONTEXT, announcements=()),
        "open": Open(
            session=CONTEXT, question=Question.STEP, round=0, attempt=0, model=card, coins=None,
            signature="00" * 64,
        ),
        "reveal": Reveal(context=CONTEXT, signers=(), signatures=()),
        "abort": Abort(context=CONTEXT),
        "refund": Refund(context=CONTEXT, voters=(), votes=()),
    }  # fmt: skip


@pytest.mark.parametrize("kind", strays())
def test_a_message_of_no_session_is_refused(banks: Nation, kind: str) -> None:
    refused_alike(banks, strays()[kind], RefusalCode.OUT_OF_ORDER)


def test_the_end_of_a_plan_that_we_never_entered_changes_nothing(banks: Nation) -> None:
    for name in (A, B):
        before = banks.state(name)
        reply = banks.ask(name, Close(plan="ef" * 32, release=b"anything", coins=None))
        assert isinstance(reply, Closed)
        assert banks.state(name) == before


RUBBISH: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(1000),
    "arrays in arrays": b"\x91" * 100_000,
    "an array of four billion": b"\xdd\xff\xff\xff\xff",
    "another version": encode(PROBE).replace(VERSION, VERSION[:-1] + b"\1"),
    "one byte more": encode(PROBE) + b"\0",
    "a reply": encode(Refuse(code=RefusalCode.POLICY)),
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_that_the_coordinator_sealed_is_refused(banks: Nation, kind: str) -> None:
    refused_alike(banks, RUBBISH[kind], RefusalCode.OUT_OF_ORDER)


# In a session.


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """Three daemons in a session, none of them asked yet."""
    with nation(tmp_path_factory.mktemp("table")) as found:
        yield Table.of(found.fed, found.seats)


def nation_of(table: Table) -> Nation:
    return table.seats[A].nation  # type: ignore[attr-defined,no-any-return]


def with_weight(request: Open, weight: bytes) -> bytes:
    """Returns a request whose card's first weight is any MessagePack value."""
    marked = msgspec.structs.replace(
        request,
        model=msgspec.structs.replace(
            flat_card(small_schema()),
            weights=((7777, *(0,) * 10), *flat_card(small_schema()).weights[1:]),
        ),
    )
    found = encode(marked)
    assert found.count(b"\xcd\x1e\x61") == 1
    return found.replace(b"\xcd\x1e\x61", weight)


WEIGHTS: dict[str, bytes] = {
    "1e30": b"\xcb" + struct.pack(">d", 1e30),
    "infinity": b"\xcb" + struct.pack(">d", float("inf")),
    "minus infinity": b"\xcb" + struct.pack(">d", float("-inf")),
    "NaN": b"\xcb" + struct.pack(">d", float("nan")),
    "the largest integer": b"\xcf" + b"\xff" * 8,
    "just beyond the bound": b"\xcd" + struct.pack(">H", 8 * 4096 + 1),
    "text": b"\xa31e9",
    "nothing": b"\xc0",
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_weight_beyond_the_public_bound_is_refused_before_a_row_is_read(
    table: Table, kind: str
) -> None:
    request = with_weight(table.open(Question.STEP), WEIGHTS[kind])
    refused_alike(nation_of(table), request, RefusalCode.OUT_OF_ORDER)


def card_changed(card: AdditiveCard, **changes: Any) -> bytes:
    """Returns the encoding of an opening with a card that no constructor would let exist."""
    request = Open(
        session=b"\1" * 32, question=Question.STEP, round=0, attempt=0, model=card, coins=None,
        signature="",
    )  # fmt: skip
    tree = msgspec.msgpack.decode(encode(request))
    tree["model"] |= changes
    return msgspec.msgpack.encode(tree)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": 2**40},
        {"base": 1e30},
        {"weights": []},
        {"weights": [[0] * 251] * 3},
        {"bin_of_cell": [[-1], [0], [0]]},
        {"bin_of_cell": [[2**62], [0], [0]]},
        {"weights": [[0]] * 3, "bin_of_cell": [[0]] * 3},
    ],
)
def test_a_card_that_cannot_be_is_refused(table: Table, changes: dict[str, Any]) -> None:
    request = card_changed(flat_card(small_schema()), **changes)
    refused_alike(nation_of(table), request, RefusalCode.OUT_OF_ORDER)


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": "00" * 64},
        {"signature": ""},
        {"round": 1},
        {"round": 99},
        {"round": -1},
        {"attempt": 1},
        {"attempt": 2**40},
        {"question": Question.BINS},
        {"session": b"\2" * 32},
        {"model": None},
    ],
)
def test_a_question_that_was_not_signed_like_this_is_refused(
    table: Table, changes: dict[str, Any]
) -> None:
    request = msgspec.structs.replace(table.open(Question.STEP), **changes)
    refused_alike(nation_of(table), request, RefusalCode.OUT_OF_ORDER)


@pytest.mark.parametrize(("round_", "attempt"), [(3, 0), (-1, 0), (0, 2), (0, -1)])
def test_a_round_that_the_plan_does_not_have_is_refused_though_it_was_signed(
    table: Table, round_: int, attempt: int
) -> None:
    request = table.open(Question.STEP, round_=round_, attempt=attempt)
    banks = nation_of(table)
    for name in (A, B):
        reply = banks.ask(name, request)
        assert reply == Refuse(code=RefusalCode.OUT_OF_ORDER), banks.said(name)
        spent = [one for one in banks.state(name)[0] if isinstance(one.entry, Spent)]  # type: ignore[attr-defined]
        assert spent == []


# Once it was answered. Each of these takes a session of its own.


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Table]:
    with nation(tmp_path) as found:
        yield Table.of(found.fed, found.seats)


def spent_by(banks: Nation, name: str) -> int:
    return sum(isinstance(one.entry, Spent) for one in banks.state(name)[0])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_different_models_for_different_banks_open_nothing(fresh: Table) -> None:
    banks = nation_of(fresh)
    flat = flat_card(small_schema())
    other = msgspec.structs.replace(flat, base=1)
    uploads: dict[int, Upload] = {}
    for place, (name, card) in enumerate(((A, flat), (B, other), (C, flat))):
        reply = banks.ask(name, fresh.open(Question.STEP, card))
        assert isinstance(reply, Upload)
        uploads[place] = reply
    before = {name: banks.state(name) for name in (A, B, C)}
    for card in (flat, other):
        found = fresh.asking(fresh.open(Question.STEP, card))
        collected = Collected(fresh.group, found.context, found.bits, uploads)
        for place, name in enumerate((A, B, C)):
            reply = banks.ask(name, collected.relayed_to(place))
            assert isinstance(reply, Refuse), reply
    assert {name: banks.state(name) for name in (A, B, C)} == before
    assert [spent_by(banks, name) for name in (A, B, C)] == [1, 1, 1]  # it has left, it is paid


@pytest.mark.slow
def test_nobody_who_voted_to_give_up_releases_and_nobody_who_released_votes(fresh: Table) -> None:
    banks = nation_of(fresh)
    request = fresh.open(Question.BINS)
    collected = fresh.collected(request)
    assert isinstance(banks.ask(A, Abort(context=collected.context)), Voted)
    assert isinstance(banks.ask(B, collected.relayed_to(1)), Revealed)
    before = {name: banks.state(name) for name in (A, B)}
    assert banks.ask(A, collected.relayed_to(0)) == Refuse(code=RefusalCode.OUT_OF_ORDER)
    assert banks.ask(B, Abort(context=collected.context)) == Refuse(code=RefusalCode.OUT_OF_ORDER)
    assert {name: banks.state(name) for name in (A, B)} == before


@pytest.mark.slow
def test_an_attempt_is_asked_again_in_the_same_words_only(fresh: Table) -> None:
    banks = nation_of(fresh)
    first = fresh.open(Question.STEP)
    said = {name: banks.ask(name, first) for name in (A, B)}
    before = {name: banks.state(name) for name in (A, B)}
    for name in (A, B):
        assert banks.ask(name, first) == said[name]
        for other in (
            fresh.open(Question.STEP, msgspec.structs.replace(flat_card(small_schema()), base=1)),
            replace_coins(first),
        ):
            assert banks.ask(name, other) == Refuse(code=RefusalCode.OUT_OF_ORDER)
    assert {name: banks.state(name) for name in (A, B)} == before


def replace_coins(request: Open) -> Open:
    """Returns the same question with the coins of an attempt that never was."""
    return msgspec.structs.replace(request, coins=Coins(context=CONTEXT, coins=()))


# A carrier that kept every envelope, and a daemon that was started again.


@pytest.mark.slow
def test_what_a_carrier_kept_changes_nothing_after_a_restart(fresh: Table) -> None:
    """`Seen` is in memory. For each kind of request: delivered once more, it says nothing new."""
    banks = nation_of(fresh)
    kept: list[tuple[str, Asked, bytes]] = []
    session = b"\5" * 32

    def ask(request: Request) -> Any:
        asked = banks.seal(A, request)
        reply = banks.deliver(A, asked.envelope)
        assert reply is not None
        kept.append((type(request).__name__, asked, open_reply(reply, asked)))
        return decode_reply(kept[-1][2])

    ask(invite(banks.fed.plan))  # again: it is entered already
    announced = [ask(Begin(plan=banks.fed.plan.digest, session=session)).announcement]
    announced += [
        banks.ask(name, Begin(plan=banks.fed.plan.digest, session=session)).announcement  # type: ignore[union-attr]
        for name in (B, C)
    ]
    joining = Join(session=session, announcements=tuple(announced))
    for name in (B, C):
        banks.ask(name, joining)
    ask(joining)
    group = type(fresh.group).of(replace(fresh.group.terms, session=session), tuple(announced))
    table = Table(fed=banks.fed, seats=fresh.seats, group=group)
    question = table.open(Question.BINS)
    uploads = {0: ask(question)}
    uploads |= {1: banks.ask(B, question), 2: banks.ask(C, question)}
    found = table.asking(question)
    ask(Collected(group, found.context, found.bits, uploads).relayed_to(0))
    step = table.open(Question.STEP)
    ask(step)
    ask(Abort(context=table.asking(step).context))
    assert [type(decode_reply(said)).__name__ for _, _, said in kept[1:]] == [
        "Begun", "Joined", "Upload", "Revealed", "Upload", "Voted",
    ]  # fmt: skip

    banks.restart(A)
    before = banks.state(A)
    banks.fleet.wait_for(lambda: "ready" in " ".join(banks.lines(A)[-2:]))
    for _ in range(2):
        for kind, asked, said in kept:
            reply = banks.deliver(A, asked.envelope)
            if reply is not None:
                again = open_reply(reply, asked)  # an acceptance names the ledger's head
                assert again == said or isinstance(decode_reply(again), Accept | Refuse), kind
            assert banks.state(A) == before, kind
    assert banks.is_alive(A)


@pytest.mark.slow
def test_the_end_of_a_plan_that_a_carrier_kept_ends_nothing_else(fresh: Table) -> None:
    banks = nation_of(fresh)
    plan = banks.fed.plan.digest
    asked = banks.seal(A, Close(plan=plan, release=b"", coins=None))
    invited = banks.seal(A, invite(banks.fed.plan))
    assert banks.deliver(A, asked.envelope) is not None
    banks.restart(A)
    after = banks.state(A)
    assert [isinstance(one.entry, Reserved) for one in after[0]] == [True, False]  # type: ignore[attr-defined]
    for one in (asked, invited):
        reply = banks.deliver(A, one.envelope)
        assert reply is not None
        open_reply(reply, one)
        assert banks.state(A) == after
    assert banks.is_alive(A)
