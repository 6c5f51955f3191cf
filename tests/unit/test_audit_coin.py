"""The coin is thrown by all survivors, bound before it is known, and falls where it says."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.audit import Opening, coin_of_attempt, falls_on, noise_commitment, repeats
from federation import door
from federation.door import Contribution, one_column_each
from federation.errors import ProtocolError
from federation.query import UNITS_PER_ONE, BoundedSum, Question
from federation.secure_aggregation.upload import coin_of, commitment_to, draw_masks, share
from tests.attempts import Played, context, identity, secret, sessions
from tests.reference import protocol

VECTORS = [np.array([place], dtype=np.int64) for place in range(4)]
QUERY = BoundedSum(question=Question.BINS, columns=(4, 2), share_variance=10**6)


def played() -> Played:
    return Played.of(sessions(4, threshold=3, quorum=3), VECTORS, bits=64, dropped={2})


def test_the_coin_is_that_of_all_survivors_and_one_of_them_changes_it() -> None:
    found = played()
    headers = [found.collected.uploads[place].header for place in found.survivors]
    coins = found.opened().coins
    coin = coin_of_attempt(found.context, headers, coins)
    assert len(coin) == 32
    assert coin != coin_of_attempt(secret("another context"), headers, coins)
    other = coin_of(secret("another own mask"))
    changed = msgspec.structs.replace(headers[1], own_mask=commitment_to(other))
    assert coin != coin_of_attempt(
        found.context, [headers[0], changed, headers[2]], [coins[0], other, coins[2]]
    )


def test_no_part_of_the_coin_can_be_exchanged_left_out_or_added() -> None:
    found = played()
    headers = [found.collected.uploads[place].header for place in found.survivors]
    coins = list(found.opened().coins)
    wrong = (
        [],
        coins[:2],
        [*coins, coins[0]],
        [coins[1], coins[0], coins[2]],
        [*coins[:2], bytes(32)],
        [*coins[:2], b""],
        [*coins[:2], coins[2] + b"\x00"],
    )
    for some in wrong:
        with pytest.raises(ProtocolError, match="committed"):
            coin_of_attempt(found.context, headers, some)


def test_a_commitment_does_not_show_the_coin_nor_the_coin_the_mask() -> None:
    own = secret("own")
    assert len({own, coin_of(own), commitment_to(own), commitment_to(coin_of(own))}) == 4


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 399), st.floats(0, 1))
def test_the_coin_falls_where_the_reference_says(coin: bytes, place: int, share_: float) -> None:
    assert falls_on(coin, place, share_) == protocol.falls_on(coin, place, share_)


def test_it_falls_on_everybody_nobody_or_a_share_of_members() -> None:
    """4,000 throws at 0.1: a fair coin falls outside 321 to 479 with a probability of 3e-5."""
    throws = [(secret("coin", number), place) for number in range(500) for place in range(8)]
    assert all(falls_on(coin, place, 1.0) for coin, place in throws)
    assert not any(falls_on(coin, place, 0.0) for coin, place in throws)
    assert 321 <= sum(falls_on(coin, place, 0.1) for coin, place in throws) <= 479


def test_whom_it_falls_on_at_one_share_it_falls_on_at_any_larger() -> None:
    for number in range(50):
        coin = secret("coin", number)
        fallen = [falls_on(coin, 3, share_ / 16) for share_ in range(17)]
        assert fallen == sorted(fallen)


# Looking again.


def people(bad: int = 1) -> list[Contribution]:
    codes = [np.array([0, 3, 1], dtype=np.uint8), np.array([1, 1, bad], dtype=np.uint8)]
    values = np.full(3, UNITS_PER_ONE, dtype=np.int64)
    return [Contribution(values=values, cells=one_column_each(codes), person_starts=None)]


def opening() -> Opening:
    session = sessions(4, threshold=3, quorum=3)[1]
    masking = draw_masks(
        session,
        context=context(session.group, bits=32, length=QUERY.length),
        bits=32,
        own_mask=secret("own"),
    )
    key = secret("noise")
    words = door.answer(QUERY, people(), noise_key=key, masks=masking.masks).words
    sharing, _ = share(
        masking,
        words,
        share_key=secret("shares"),
        noise=noise_commitment(key),
        ledger_sequence=3,
        ledger_head="00" * 32,
        identity=identity(1),
    )
    return Opening(
        header=sharing.header,
        masking=masking,
        query=QUERY,
        question=Question.BINS,
        model=None,
        noise_key=key,
    )


def test_an_upload_is_repeated_from_its_people_and_keys() -> None:
    assert repeats(opening(), people())


def test_an_upload_is_not_repeated_from_other_people_keys_or_questions() -> None:
    found = opening()
    masking = found.masking
    seeds = (masking.seeds[0], b"", secret("another seed"), masking.seeds[3])
    louder = BoundedSum(question=Question.BINS, columns=(4, 2), share_variance=4 * 10**6)
    changes = (
        replace(found, noise_key=secret("another key")),
        replace(found, query=louder),
        replace(found, masking=replace(masking, own_mask=secret("another"))),
        replace(found, masking=replace(masking, seeds=seeds)),
        replace(found, header=msgspec.structs.replace(found.header, noise=bytes(32))),
        replace(found, header=msgspec.structs.replace(found.header, own_mask=bytes(32))),
    )
    assert not any(repeats(changed, people()) for changed in changes)
    assert not repeats(found, people(bad=0))
    assert not repeats(found, [])
    assert not repeats(found, people() * 2)


def test_the_keys_of_an_opening_are_not_shown() -> None:
    shown = repr(opening())
    assert "noise_key" not in shown
    assert "own_mask=b" not in shown.replace(repr(opening().header), "")
