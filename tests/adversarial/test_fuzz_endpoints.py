"""Bad input to every endpoint that bytes reach: a refusal, no other error, and nothing changed."""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr")

from flwr.app import ConfigRecord
from flwr.proto.recorddict_pb2 import ConfigRecord as ReceivedRecord

from clients import flower_node
from federation.canonical import public_key_of
from federation.card import Card
from federation.carried import RECORD, bounded, value_of_record
from federation.envelope import Asked, open_reply, seal_request
from federation.errors import ProtocolError
from federation.messages import Invite, Refuse, decode_reply, encode
from federation.plan import plan_toml
from federation.query import Question
from federation.sealed import SealedHandler
from tests.adversarial.test_hostile_superlink import A as BANK
from tests.adversarial.test_hostile_superlink import Node, honest_key
from tests.exchanges import Table
from tests.federations import KEY, NOW, Seat, federation, identity_of
from tests.flower_processes import card_of, write_certificates
from tests.fuzzing import TIMES
from tests.hostile_fleet import Answer, Fleet
from tests.unit.test_decoders import VALID, damaged, misshapen

EXAMPLES = 60 * TIMES


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """Institutions in a session that have answered the first question."""
    fed = federation(tmp_path_factory.mktemp("table"), institutions=3, people=40)
    with fed.seats() as seats:
        found = Table.of(fed, seats)
        found.total(found.open(Question.BINS))
        yield found


def state_of(seat: Seat) -> tuple[object, ...]:
    rows = seat.records._connection.iterdump()
    return seat.ledger.head(), tuple(rows)


def own_messages(table: Table) -> list[bytes]:
    request = table.open(Question.STEP)
    return [*VALID.values(), encode(request), encode(Invite(plan=plan_toml(table.fed.plan)))]


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.data())
def test_any_bytes_are_answered_and_a_refusal_changes_nothing(
    table: Table, data: st.DataObject
) -> None:
    seat = table.seats[BANK]
    content = data.draw(st.binary(max_size=200) | damaged(own_messages(table)) | misshapen())
    before = state_of(seat)
    reply = seat.send(content)
    if isinstance(reply, Refuse):
        assert state_of(seat) == before


def sealed(handler_of: Seat) -> tuple[SealedHandler, Card]:
    identity = identity_of(handler_of.name)
    handler = SealedHandler(
        handler_of.institution.handle,
        institution=handler_of.name,
        federation="test-federation",
        identity=identity,
        coordinator=public_key_of(KEY),
        clock=lambda: NOW,
        entropy=lambda: os.urandom(32),
    )
    card = Card.of(
        federation="test-federation", institution=handler_of.name, identity=identity, node=""
    )
    return handler, card


def asked(card: Card, message: bytes) -> Asked:
    return seal_request(
        message,
        coordinator=KEY,
        receiver=card,
        expires_at=NOW + 60,
        entropy=lambda: os.urandom(32),
    )


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.data())
def test_any_envelope_is_refused_without_a_reply_and_nothing_changes(
    table: Table, data: st.DataObject
) -> None:
    seat = table.seats[BANK]
    handler, card = sealed(seat)
    whole = asked(card, encode(table.open(Question.STEP))).envelope
    content = data.draw(st.binary(max_size=200) | damaged([whole]))
    if content == whole:
        return
    before = state_of(seat)
    with pytest.raises(ProtocolError):
        handler(content)
    assert state_of(seat) == before


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.data())
def test_any_bytes_that_the_coordinator_sealed_are_answered(
    table: Table, data: st.DataObject
) -> None:
    handler, card = sealed(table.seats[BANK])
    sent = asked(card, data.draw(st.binary(max_size=200) | damaged(own_messages(table))))
    decode_reply(open_reply(handler(sent.envelope), sent))


# What a carrier hands over.


@settings(max_examples=4 * EXAMPLES, deadline=None, derandomize=True)
@given(st.data())
def test_an_object_is_our_record_as_flower_reads_it_or_refused(data: st.DataObject) -> None:
    value = data.draw(st.binary(max_size=300))
    whole = ConfigRecord({RECORD: value}).deflate()
    assert value_of_record(whole) == value
    content = data.draw(damaged([whole]) | st.binary(max_size=100))
    try:
        found = value_of_record(content)
    except ProtocolError:
        return
    items = ReceivedRecord.FromString(content.partition(b"\0")[2]).items
    assert [(item.key, item.value.bytes) for item in items] == [(RECORD, found)]


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 300, 2**14, 2**21])
def test_a_record_of_any_size_is_read(size: int) -> None:
    assert value_of_record(ConfigRecord({RECORD: bytes(size)}).deflate()) == bytes(size)


def test_no_more_is_read_than_may_come_and_no_longer() -> None:
    read: list[int] = []

    def pieces() -> Iterator[bytes]:
        while True:
            read.append(1)
            yield b"12345"

    assert bounded([b"12345"] * 2, most_bytes=10, seconds=1.0, clock=lambda: 0.0) == b"12345" * 2
    with pytest.raises(ProtocolError, match="larger than 12"):
        bounded(pieces(), most_bytes=12, seconds=1.0, clock=lambda: 0.0)
    assert len(read) == 3
    with pytest.raises(ProtocolError, match="longer than 4"):
        bounded(pieces(), most_bytes=10**9, seconds=4.0, clock=lambda: float(len(read)))
    assert len(read) == 8


# HTTP that is none.

OK = b"HTTP/1.1 200 OK\r\n"
HTTP = OK + b"content-type: application/x-protobuf\r\ncontent-length: 4\r\n\r\n\x08\x01\x10\x02"
ODD = (
    b"", b"\r\n", b"\0" * 1000, b"HTTP/1.1 200\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n",
    b"SSH-2.0-x\r\n", b"HTTP/1.1 -1 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 200,
    b"HTTP/1.1 101 Up\r\n\r\n", OK + b"a: b\r\n" * 50_000 + b"\r\n", OK + b"a: " + b"b" * 10**6,
    OK + b"content-length: -5\r\n\r\n", OK + b"content-length: 9\r\n\r\nx",
    OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx",
    OK + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    OK + b"transfer-encoding: chunked\r\n\r\n-1\r\n",
    OK + b"transfer-encoding: evil\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\nbody",
    b"HTTP/1.1 200 \xff\xfe\r\nset-cookie: \xff\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nlocation: \xff\xfe://\0\r\ncontent-length: 0\r\n\r\n",
)  # fmt: skip


@pytest.mark.slow
def test_a_node_outlives_whatever_comes_over_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_node, "_RECONNECT_SECONDS", 0.001)
    write_certificates(tmp_path)
    card_of(BANK, tmp_path)
    chance = Random("http")  # noqa: S311  inputs, not secrets
    answers = [*ODD]
    for _ in range(40 * TIMES):
        at = chance.randrange(len(HTTP))
        answers.append(HTTP[:at] + chance.randbytes(chance.randrange(1, 6)) + HTTP[at:])
        answers.append(HTTP[:at] + HTTP[at + chance.randrange(1, 9) :])
    with Fleet(tmp_path) as fleet:
        remaining = list(answers)

        def say(_: bytes) -> Answer | None:
            return Answer(remaining.pop(), is_raw=True) if remaining else None

        fleet.says["pull-messages"] = say
        with Node(tmp_path, fleet.address):
            fleet.wait_for(lambda: not remaining, 60.0 * TIMES)
            reply = fleet.deliver(honest_key(fleet), b"hello")
            assert reply == BANK.encode() + b" heard hello"
