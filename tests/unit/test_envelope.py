"""Envelopes: what a carrier that lies can do with them, which is to delay and to drop."""

from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from itertools import count

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.canonical import public_key_of
from federation.card import Card, card_toml, load_card, sealing_key_of
from federation.envelope import (
    LONGEST_VALIDITY_SECONDS,
    Asked,
    Received,
    open_reply,
    open_request,
    seal_reply,
    seal_request,
)
from federation.errors import ConfigurationError, ProtocolError
from federation.sealed import SealedHandler, SealedTransport, Seen

NOW = 1_800_000_000.0
COORDINATOR = Ed25519PrivateKey.from_private_bytes(b"c" * 32)


def entropy() -> Callable[[], bytes]:
    numbers = count()
    return lambda: sha256(b"entropy %d" % next(numbers)).digest()


def identity_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def card_of(name: str, federation: str = "nation") -> Card:
    return Card.of(federation=federation, institution=name, identity=identity_of(name), node="ssh")


def asked(
    message: bytes = b"how many?",
    *,
    to: str = "bank-1",
    key: Ed25519PrivateKey = COORDINATOR,
    expires_at: float = NOW + 60,
    card: Card | None = None,
) -> Asked:
    return seal_request(
        message,
        coordinator=key,
        receiver=card or card_of(to),
        expires_at=int(expires_at),
        entropy=entropy(),
    )


def opened(envelope: bytes, *, by: str = "bank-1", federation: str = "nation") -> Received:
    return open_request(
        envelope,
        institution=by,
        federation=federation,
        identity=identity_of(by),
        coordinator=public_key_of(COORDINATOR),
        now=NOW,
    )


def replied(request: Received, message: bytes = b"many", *, by: str = "bank-1") -> bytes:
    return seal_reply(
        message, request=request, institution=by, identity=identity_of(by), entropy=entropy()
    )


def changed_in_one_byte(envelope: bytes) -> Iterator[bytes]:
    for place in range(len(envelope)):
        yield envelope[:place] + bytes([envelope[place] ^ 1]) + envelope[place + 1 :]


@pytest.mark.parametrize("message", [b"", b"x", bytes(100_000)])
def test_what_is_sealed_is_opened_by_whom_it_is_for_in_both_directions(message: bytes) -> None:
    request = asked(message)
    received = opened(request.envelope)
    assert received.message == message
    assert open_reply(replied(received, message[::-1]), request) == message[::-1]


def test_the_carrier_sees_neither_message_nor_the_same_box_twice() -> None:
    request = asked(b"a secret of some length")
    reply = replied(opened(request.envelope), b"an answer of some length")
    assert b"secret" not in request.envelope
    assert b"answer" not in reply
    fresh = seal_request(
        b"a secret of some length",
        coordinator=COORDINATOR,
        receiver=card_of("bank-1"),
        expires_at=int(NOW) + 60,
        entropy=lambda: sha256(b"other").digest(),
    )
    assert fresh.envelope != request.envelope


def test_a_request_changed_in_any_byte_is_refused() -> None:
    for changed in changed_in_one_byte(asked().envelope):
        with pytest.raises(ProtocolError):
            opened(changed)


def test_a_reply_changed_in_any_byte_is_refused() -> None:
    request = asked()
    for changed in changed_in_one_byte(replied(opened(request.envelope))):
        with pytest.raises(ProtocolError):
            open_reply(changed, request)


@pytest.mark.parametrize("cut", [0, 1, 40, 100])
def test_a_cut_or_lengthened_envelope_is_refused(cut: int) -> None:
    request = asked()
    reply = replied(opened(request.envelope))
    for changed in (request.envelope[:cut], request.envelope + b"\0" * (cut + 1)):
        with pytest.raises(ProtocolError):
            opened(changed)
    for changed in (reply[:cut], reply + b"\0" * (cut + 1)):
        with pytest.raises(ProtocolError):
            open_reply(changed, request)


def test_a_request_of_somebody_else_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not valid for the key"):
        opened(asked(key=identity_of("bank-2")).envelope)


def test_a_request_for_another_institution_or_federation_is_refused() -> None:
    with pytest.raises(ProtocolError):
        opened(asked(to="bank-1").envelope, by="bank-2")
    with pytest.raises(ProtocolError, match="another institution or federation"):
        opened(asked().envelope, federation="abroad")
    # Even sealed to our key: the name in the header is not ours.
    disguised = msgspec.structs.replace(card_of("bank-1"), institution="bank-2")
    with pytest.raises(ProtocolError, match="another institution or federation"):
        opened(asked(card=disguised).envelope)


@pytest.mark.parametrize("after", [-1, 0, LONGEST_VALIDITY_SECONDS + 1])
def test_a_request_that_has_expired_or_would_live_too_long_is_refused(after: int) -> None:
    with pytest.raises(ProtocolError, match="compare the clocks"):
        opened(asked(expires_at=NOW + after).envelope)


def test_an_old_reply_answers_no_new_request() -> None:
    first = asked()
    old = replied(opened(first.envelope))
    second = seal_request(
        b"how many?",
        coordinator=COORDINATOR,
        receiver=card_of("bank-1"),
        expires_at=int(NOW) + 60,
        entropy=lambda: sha256(b"later").digest(),
    )
    with pytest.raises(ProtocolError):
        open_reply(old, second)
    # Even if the key for replies were the same one.
    with pytest.raises(ProtocolError, match="another request"):
        open_reply(
            replied(
                Received(
                    message=b"",
                    id=bytes(32),
                    expires_at=0,
                    digest=opened(second.envelope).digest,
                    reply_to=first.reply_key.public_key().public_bytes_raw(),
                )
            ),
            first,
        )


def test_one_institutions_reply_is_not_anothers() -> None:
    ours, theirs = asked(to="bank-1"), asked(to="bank-2")
    reply = replied(opened(theirs.envelope, by="bank-2"), by="bank-2")
    with pytest.raises(ProtocolError):
        open_reply(reply, ours)
    # An institution that learned of our request cannot answer it in our name.
    received = opened(ours.envelope)
    with pytest.raises(ProtocolError, match="not valid for the key"):
        open_reply(replied(received, by="bank-2"), ours)


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)])
def test_a_key_with_which_everybody_agrees_on_zero_is_refused(point: bytes) -> None:
    weak = msgspec.structs.replace(card_of("bank-1"), sealing=point.hex())
    with pytest.raises(ProtocolError, match="usable"):
        asked(card=weak)


def test_a_box_opens_with_no_other_key_than_the_receivers() -> None:
    other = sealing_key_of(identity_of("bank-2")).public_key().public_bytes_raw().hex()
    with pytest.raises(ProtocolError, match="sealed to another key"):
        opened(asked(card=msgspec.structs.replace(card_of("bank-1"), sealing=other)).envelope)


def test_a_request_is_opened_once_until_it_has_expired_and_then_never() -> None:
    first = opened(asked().envelope)
    seen = Seen().after(first, NOW)
    with pytest.raises(ProtocolError, match="delivered before"):
        seen.after(first, NOW + 59)
    later = msgspec_free_copy(first, id_=b"2" * 32)
    assert set(seen.after(later, NOW + 61).expiries) == {later.id}


def msgspec_free_copy(request: Received, *, id_: bytes) -> Received:
    return Received(
        message=request.message,
        id=id_,
        expires_at=request.expires_at + 100,
        digest=request.digest,
        reply_to=request.reply_to,
    )


def test_a_card_is_read_back_and_refused_when_it_was_changed() -> None:
    card = card_of("bank-1")
    assert load_card(card_toml(card)) == card
    for name in ("federation", "institution", "key", "sealing", "node", "signature"):
        value = getattr(card, name)
        text = card_toml(card).replace(f'"{value}"', f'"{value[:-1]}0"')
        assert text != card_toml(card)
        with pytest.raises(ProtocolError, match="not valid"):
            load_card(text)
    with pytest.raises(ConfigurationError, match="not an institution's card"):
        load_card("federation = 3")


def test_the_sealing_key_comes_from_the_identity_and_is_another_key() -> None:
    one, two = sealing_key_of(identity_of("a")), sealing_key_of(identity_of("b"))
    assert one.private_bytes_raw() == sealing_key_of(identity_of("a")).private_bytes_raw()
    assert one.private_bytes_raw() != two.private_bytes_raw()
    raw = X25519PrivateKey.from_private_bytes(identity_of("a").private_bytes_raw())
    assert one.private_bytes_raw() != raw.private_bytes_raw()


class Carrier:
    """A transport whose way of delivering a test chooses."""

    def __init__(self, **handlers: Callable[[bytes], bytes]) -> None:
        self.handlers = handlers
        self.lie: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda replies: replies
        self.carried: list[dict[str, bytes]] = []

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        replies = {name: self.handlers[name](request) for name, request in requests.items()}
        self.carried.append(replies)
        return self.lie(replies)


def handler_of(name: str, heard: list[bytes]) -> SealedHandler:
    def handle(message: bytes) -> bytes:
        heard.append(message)
        return name.encode() + b" heard " + message

    return SealedHandler(
        handle,
        institution=name,
        federation="nation",
        identity=identity_of(name),
        coordinator=public_key_of(COORDINATOR),
        clock=lambda: NOW,
        entropy=entropy(),
    )


def sealed(carrier: Carrier, reported: list[str]) -> SealedTransport:
    return SealedTransport(
        carrier=carrier,
        cards={name: card_of(name) for name in ("one", "two")},
        key=COORDINATOR,
        validity_seconds=60,
        clock=lambda: NOW,
        entropy=entropy(),
        report=lambda name, _: reported.append(name),
    )


def test_a_sealed_transport_brings_what_both_say_and_leaves_out_what_was_tampered_with() -> None:
    reported: list[str] = []
    carrier = Carrier(one=handler_of("one", []), two=handler_of("two", []))
    transport = sealed(carrier, reported)
    asks = {"one": b"a", "two": b"b"}
    assert transport.exchange(asks) == {"one": b"one heard a", "two": b"two heard b"}
    assert reported == []

    carrier.lie = lambda replies: {"one": replies["two"], "two": replies["one"]}
    assert transport.exchange(asks) == {}
    carrier.lie = lambda replies: carrier.carried[0]
    assert transport.exchange(asks) == {}
    carrier.lie = lambda replies: {"one": b"", "two": replies["two"], "three": b"?"}
    assert transport.exchange(asks) == {"two": b"two heard b"}
    assert reported == ["one", "two", "one", "two", "one"]


def test_an_envelope_delivered_again_gets_the_same_reply_and_is_heard_once() -> None:
    heard: list[bytes] = []
    handler = handler_of("bank-1", heard)
    first, second = asked(b"1").envelope, asked(b"2", key=COORDINATOR).envelope
    assert first != second
    reply = handler(first)
    assert handler(first) == reply
    assert heard == [b"1"]
    with pytest.raises(ProtocolError, match="delivered before"):
        handler(second)  # the same id: made with the same entropy
    assert heard == [b"1"]
