"""An upload: bound to its attempt, its shares readable by their holders only."""

from dataclasses import replace
from itertools import product

import msgspec
import numpy as np
import pytest
from cryptography.exceptions import InvalidTag

from federation.errors import ProtocolError
from federation.secure_aggregation import shamir
from federation.secure_aggregation.session import at_round
from federation.secure_aggregation.upload import (
    Header,
    coin_of,
    commitment_to,
    context_of,
    draw_masks,
    leaf,
    seed_digest,
    share_digest,
    unsealed,
)
from tests.attempts import Played, context, secret, sessions

VECTORS = [np.array([place, -1, 2**31 - 1], dtype=np.int64) for place in range(4)]


def played(attempt: int = 0, round_: int = 0) -> Played:
    found = sessions(4, threshold=3, quorum=3)
    return Played.of(found, VECTORS, bits=32, attempt=attempt, round_=round_)


def test_every_part_of_a_context_changes_it() -> None:
    parts = {
        "group": secret("group"),
        "round_": 1,
        "attempt": 2,
        "plan": secret("plan"),
        "model": secret("model"),
        "query": secret("query"),
        "bits": 32,
        "length": 64,
    }
    changes = [{}, *({name: secret(name, "other")} for name in ("group", "plan", "model", "query"))]
    changes += [{"round_": 2}, {"attempt": 1}, {"bits": 64}, {"length": 32}]
    changes += [{"round_": 2, "attempt": 1}, {"bits": 64, "length": 32}]
    changes += [{"plan": secret("model"), "model": secret("plan")}]
    assert len({context_of(**(parts | change)) for change in changes}) == len(changes)


@pytest.mark.parametrize("number", [-1, 2**63, 2**64, -(2**64)])
@pytest.mark.parametrize("name", ["round_", "attempt", "length"])
def test_an_attempt_beyond_all_numbers_has_no_context(name: str, number: int) -> None:
    group = sessions(4, threshold=3, quorum=3)[0].group
    parts = {"bits": 64, "length": 1, "round_": 0, "attempt": 0} | {name: number}
    with pytest.raises(ProtocolError, match="no attempt"):
        context(group, **parts)


def test_every_field_of_a_header_is_in_what_its_signature_covers() -> None:
    header = played().collected.uploads[1].header
    changes: dict[str, object] = {
        "institution": "bank-0010",
        "masked": secret("masked"),
        "own_mask": secret("own"),
        "leaves": secret("leaves"),
        "noise": secret("noise"),
        "ledger_sequence": 8,
        "ledger_head": "cd" * 31,
    }
    assert {*changes, "signature"} == set(Header.__struct_fields__)
    bodies = {header.body(secret("context")), header.body(secret("another"))}
    bodies |= {
        msgspec.structs.replace(header, **{name: value}).body(secret("context"))
        for name, value in changes.items()
    }
    assert len(bodies) == len(changes) + 2


def test_a_byte_does_not_move_from_one_field_of_a_header_to_the_next() -> None:
    header = played().collected.uploads[1].header
    moved = msgspec.structs.replace(
        header, masked=header.masked[:-1], own_mask=header.masked[-1:] + header.own_mask
    )
    assert moved.body(secret("context")) != header.body(secret("context"))


@pytest.mark.parametrize("sequence", [-1, 2**63, 2**64 - 1])
def test_a_ledger_sequence_that_no_ledger_can_have_has_no_header(sequence: int) -> None:
    header = played().collected.uploads[1].header
    changed = msgspec.structs.replace(header, ledger_sequence=sequence)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(changed), type=Header)


def test_a_share_is_opened_by_its_holder_in_its_attempt_and_by_nobody_else() -> None:
    found = played()
    own = found.sharings[0].masking.own_mask
    shares = []
    for holder, session in enumerate(found.sessions[1:], 1):
        sealed = found.collected.uploads[0].sealed[holder]
        share = unsealed(session, 0, found.context, sealed)
        assert (
            share_digest(found.context, 0, holder, share)
            == (found.collected.uploads[0].shares[32 * holder : 32 * holder + 32])
        )
        shares.append(share)
        for other, peer in product(found.sessions, range(4)):
            if peer == other.place or (other.place, peer) == (holder, 0):
                continue
            with pytest.raises(InvalidTag):
                unsealed(other, peer, found.context, sealed)
        with pytest.raises(InvalidTag):
            unsealed(session, 0, secret("another context"), sealed)
        with pytest.raises(InvalidTag):
            unsealed(at_round(session, 1), 0, found.context, sealed)
    assert shamir.Basis.of((1, 2, 3)).secret(shares) == own
    assert found.collected.uploads[0].sealed[0] == b""


def test_who_relays_sealed_shares_cannot_swap_sender_and_receiver() -> None:
    found = played()
    to_one = found.collected.uploads[0].sealed[1]
    with pytest.raises(InvalidTag):
        unsealed(found.sessions[0], 1, found.context, to_one)


def test_both_of_a_pair_say_the_same_of_their_seed_and_zeros_stand_at_the_own_place() -> None:
    found = played()
    said = [
        [found.collected.uploads[u].seeds[32 * v : 32 * v + 32] for v in range(4)] for u in range(4)
    ]
    for u, v in product(range(4), repeat=2):
        assert said[u][v] == said[v][u]
        seed = found.sessions[u].mask_seed(v, found.context) if u != v else b""
        assert said[u][v] == (seed_digest(seed) if seed else bytes(32))
        assert found.sharings[u].masking.seeds[v] == seed


def test_masks_are_the_own_one_and_each_pairs_with_opposite_signs() -> None:
    found = played()
    for place, sharing in found.sharings.items():
        masking = sharing.masking
        assert masking.masks.bits == 32
        assert masking.masks.added == (masking.own_mask, *masking.seeds[place + 1 :])
        assert masking.masks.subtracted == masking.seeds[:place]


def test_nothing_of_one_attempt_occurs_in_another() -> None:
    attempts = [played(), played(attempt=1), played(round_=1), played(attempt=1, round_=1)]
    parts = [
        part
        for found in attempts
        for upload in found.collected.uploads.values()
        for part in (
            upload.context,
            upload.words,
            upload.shares,
            upload.header.signature,
            upload.header.leaves,
            *filter(None, upload.sealed),
        )
    ]
    contexts = len(attempts) * 3  # all four uploads of an attempt have the same context
    assert len(set(parts)) == len(parts) - contexts


def test_an_attempt_with_the_same_secrets_gives_the_same_bytes() -> None:
    assert played().collected.uploads == played().collected.uploads


def test_the_digests_of_different_things_differ() -> None:
    one = secret("one")
    found = {
        coin_of(one),
        commitment_to(one),
        seed_digest(one),
        share_digest(one, 0, 1, one),
        share_digest(one, 1, 0, one),
        leaf(one, one)[:32],
    }
    assert len(found) == 6


def test_what_is_secret_in_an_attempt_is_not_shown() -> None:
    sharing = played().sharings[0]
    shown = repr(sharing) + repr(replace(sharing.masking, bits=64))
    for hidden in ("own_mask=b", "seeds=", "own_share", "chains"):
        assert hidden not in shown.replace(repr(sharing.header), "")


def test_masks_are_drawn_from_the_session_at_its_round() -> None:
    session = sessions(4, threshold=3, quorum=3)[2]
    drawn = [
        draw_masks(at_round(session, round_), context=secret("c"), bits=64, own_mask=secret("own"))
        for round_ in (0, 1)
    ]
    assert drawn[0].seeds[2] == drawn[1].seeds[2] == b""
    assert not set(drawn[0].seeds) & set(drawn[1].seeds) - {b""}
