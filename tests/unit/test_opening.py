"""The coordinator opens one total, and names whoever sent what does not fit."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import canonical
from federation.errors import ProtocolError
from federation.secure_aggregation import merkle, shamir
from federation.secure_aggregation.attempt import (
    Aborted,
    Released,
    Signed,
    Standing,
    Undecided,
    on_abort,
    on_signatures,
    on_survivors,
)
from federation.secure_aggregation.opening import Collected, require_fits
from federation.secure_aggregation.survivors import PeerFault, Revealed, checked, reveal, sign_set
from federation.secure_aggregation.upload import (
    HEADER_LABEL,
    Sharing,
    Upload,
    _sealed,
    coin_of,
    leaves_of,
    seed_digest,
    share_digest,
)
from tests.attempts import Played, identity, ids, secret, sessions
from tests.reference import sharing as reference

VECTORS = [np.array([1000 * place - 7, -(2**31)], dtype=np.int64) for place in range(5)]


def played(dropped: Collection[int] = (), bits: int = 64) -> Played:
    found = sessions(5, threshold=4, quorum=4)
    return Played.of(found, VECTORS, bits=bits, dropped=dropped)


def parts(joined: bytes, size: int) -> list[bytes]:
    return [joined[start : start + size] for start in range(0, len(joined), size)]


def with_upload(
    found: Played, place: int, upload: Upload, sharing: Sharing | None = None
) -> Played:
    """Returns the attempt in which a member uploaded something else, truly signed."""
    header = msgspec.structs.replace(
        upload.header,
        leaves=merkle.root(leaves_of(parts(upload.shares, 32), parts(upload.seeds, 32))),
    )
    signature = canonical.sign(identity(place), HEADER_LABEL, header.body(found.context))
    header = msgspec.structs.replace(header, signature=bytes.fromhex(signature))
    upload = msgspec.structs.replace(upload, header=header)
    uploads = {**found.collected.uploads, place: upload}
    require_fits(found.collected.group, found.context, place, upload, len(upload.words))
    changed = replace(sharing or found.sharings[place], header=header)
    return replace(
        found,
        collected=replace(found.collected, uploads=uploads),
        sharings={**found.sharings, place: changed},
    )


def with_shares(found: Played, place: int, shares: list[bytes]) -> Played:
    """Returns the attempt in which a member dealt other shares, each of them as it then says."""
    session = found.sessions[place]
    upload = found.collected.uploads[place]
    said = [share_digest(found.context, place, holder, one) for holder, one in enumerate(shares)]
    sealed = tuple(
        b"" if holder == place else _sealed(session, holder, found.context, one)
        for holder, one in enumerate(shares)
    )
    changed = msgspec.structs.replace(upload, shares=b"".join(said), sealed=sealed)
    sharing = replace(found.sharings[place], own_share=shares[place])
    return with_upload(found, place, changed, sharing)


# What opens.


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("dropped", [set(), {0}, {4}, {2}])
def test_the_total_is_that_of_the_survivors(dropped: set[int], bits: int) -> None:
    vectors = [np.array([1000 * place - 7, place - 3], dtype=np.int64) for place in range(5)]
    found = Played.of(sessions(5, threshold=4, quorum=4), vectors, bits=bits, dropped=dropped)
    opened = found.opened()
    survivors = [place for place in range(5) if place not in dropped]
    assert opened.total.dtype == np.int64
    assert opened.total.tolist() == sum(vectors[place] for place in survivors).tolist()
    owns = [found.sharings[place].masking.own_mask for place in survivors]
    assert opened.coins == tuple(coin_of(own) for own in owns)


def test_any_threshold_of_answers_opens_the_total_if_nobody_dropped_out() -> None:
    found = played()
    everything = found.opened()
    for places in ({0, 1, 2, 3}, {1, 2, 3, 4}, {0, 2, 3, 4}):
        opened = found.opened(places)
        assert opened.total.tolist() == everything.total.tolist()
        assert opened.coins == everything.coins
    with pytest.raises(ProtocolError, match="Too few survivors"):
        found.opened({0, 1, 2})


def test_all_survivors_must_answer_if_somebody_dropped_out() -> None:
    found = played({3})
    for places in ({0, 1, 2}, {0, 1, 4}, set()):
        with pytest.raises(ProtocolError, match="All survivors"):
            found.opened(places)


def test_nobody_reveals_both_a_share_and_a_seed_of_the_same_member() -> None:
    found = played({3})
    for place, one in found.revealed().items():
        seeds = parts(one.seeds, 32)
        assert seeds == [found.sharings[place].masking.seeds[3]]
        assert len(parts(one.shares, 33)) == len(found.survivors)
    assert all(one.seeds == b"" for one in played().revealed().values())


# What does not, and whose fault that is.


def test_two_whose_seeds_differ_are_named_as_a_pair() -> None:
    found = played()
    upload = found.collected.uploads[1]
    seeds = parts(upload.seeds, 32)
    seeds[3] = seed_digest(secret("another seed"))
    changed = with_upload(found, 1, msgspec.structs.replace(upload, seeds=b"".join(seeds)))
    assert found.collected.disagreements() == ()
    assert changed.collected.disagreements() == ((1, 3),)
    with pytest.raises(PeerFault, match="pair's seed") as caught:
        changed.checked(3)
    assert caught.value.peer == ids(5)[1]
    changed.checked(0)  # it is nothing to the others


def test_pairs_are_compared_among_survivors_only() -> None:
    found = played({3})
    assert found.collected.disagreements() == ()
    assert Collected(found.collected.group, found.context, 64, {}).disagreements() == ()


def test_shares_of_another_mask_than_the_one_used_name_their_owner() -> None:
    found = played()
    shares = shamir.split(secret("another"), threshold=4, holders=5, key=secret("key"))
    changed = with_shares(found, 2, list(shares))
    with pytest.raises(PeerFault, match="not of its own mask") as caught:
        changed.opened()
    assert caught.value.peer == ids(5)[2]


@pytest.mark.parametrize("beyond", [0, 296])
def test_shares_of_no_mask_at_all_name_their_owner(beyond: int) -> None:
    """The field has 297 elements that are no 32 bytes: each share of them is a valid one."""
    found = played()
    points = {0: 2**256 + beyond, 1: 5, 2: 6, 3: 7}
    shares = [reference.value_at(x, points).to_bytes(33, "little") for x in range(1, 6)]
    changed = with_shares(found, 2, shares)
    with pytest.raises(PeerFault, match="do not belong together") as caught:
        changed.opened()
    assert caught.value.peer == ids(5)[2]


def test_a_share_that_is_no_element_of_the_field_names_its_owner_before_anything_is_signed() -> (
    None
):
    found = played()
    shares = list(shamir.split(secret("own"), threshold=4, holders=5, key=secret("key")))
    shares[4] = b"\xff" * 33
    changed = with_shares(found, 2, shares)
    with pytest.raises(PeerFault, match="less than the prime") as caught:
        changed.checked(4)
    assert caught.value.peer == ids(5)[2]
    changed.checked(3)


def test_shares_off_the_polynomial_name_their_owner_only_if_they_are_used() -> None:
    found = played()
    shares = list(
        shamir.split(found.sharings[2].masking.own_mask, threshold=4, holders=5, key=secret("key"))
    )
    shares[4] = bytes(33)
    changed = with_shares(found, 2, shares)
    opened = changed.opened()  # by the first four
    assert opened.total.tolist() == played().opened().total.tolist()
    with pytest.raises(PeerFault, match=r"own mask|belong together") as caught:
        changed.opened({1, 2, 3, 4})
    assert caught.value.peer == ids(5)[2]


def test_what_a_member_reveals_is_compared_with_what_was_uploaded() -> None:
    found = played({3})
    revealed = found.revealed()
    for place in found.survivors:
        found.collected.require_reveals(place, revealed[place])
        for other in found.survivors:
            if other != place:
                with pytest.raises(PeerFault) as caught:
                    found.collected.require_reveals(place, revealed[other])
                assert caught.value.peer == ids(5)[place]


def test_what_was_revealed_for_another_set_does_not_open_this_one() -> None:
    full, fewer = played(), played({3})
    with pytest.raises(PeerFault, match="other parts"):
        fewer.collected.require_reveals(0, full.revealed()[0])
    mixed = msgspec.structs.replace(
        full.revealed()[0],
        shares=fewer.revealed()[0].shares,
        seeds=fewer.revealed()[0].seeds,
    )
    with pytest.raises(PeerFault, match="not valid"):
        fewer.collected.require_reveals(0, mixed)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_one_bit_of_an_upload_changed_on_its_way_is_noticed(data: st.DataObject) -> None:
    found = played(bits=32)
    place = data.draw(st.integers(0, 4))
    upload = found.collected.uploads[place]
    name = data.draw(st.sampled_from(("words", "shares", "seeds", "masked", "own_mask", "leaves")))
    holder: Any = upload if name in ("words", "shares", "seeds") else upload.header
    changed = flipped(getattr(holder, name), data)
    of = msgspec.structs.replace(holder, **{name: changed})
    wrong = of if holder is upload else msgspec.structs.replace(upload, header=of)
    with pytest.raises(PeerFault) as caught:
        require_fits(found.collected.group, found.context, place, wrong, len(upload.words))
    assert caught.value.peer == ids(5)[place]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_one_bit_of_what_is_relayed_changed_is_noticed_by_its_receiver(
    data: st.DataObject,
) -> None:
    found = played({3}, bits=32)
    us, them = data.draw(st.permutations(found.survivors))[:2]
    told = found.told(us)
    at = found.survivors.index(them)
    relayed = told.relayed[at]
    name = data.draw(st.sampled_from(("sealed", "path", "masked", "own_mask", "leaves", "noise")))
    holder: Any = relayed if name in ("sealed", "path") else relayed.header
    of = msgspec.structs.replace(holder, **{name: flipped(getattr(holder, name), data)})
    wrong = of if holder is relayed else msgspec.structs.replace(relayed, header=of)
    everything = (*told.relayed[:at], wrong, *told.relayed[at + 1 :])
    with pytest.raises(PeerFault) as caught:
        checked(found.sharings[us], msgspec.structs.replace(told, relayed=everything))
    assert caught.value.peer == ids(5)[them]


def flipped(content: bytes, data: st.DataObject) -> bytes:
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_headers_of_another_ledger_give_another_set_to_sign() -> None:
    """Whoever signs a set signs every header in it, ledger and commitments included."""
    found = played()
    upload = found.collected.uploads[1]
    header = msgspec.structs.replace(upload.header, ledger_sequence=99)
    changed = with_upload(found, 1, msgspec.structs.replace(upload, header=header))
    assert changed.collected.body != found.collected.body
    one = found.checked(0)
    assert one.body == found.collected.body
    signature = sign_set(one, identity(0))
    found.collected.require_signed_set(0, signature)
    with pytest.raises(PeerFault):
        changed.collected.require_signed_set(0, signature)


def test_opening_leaves_the_uploads_as_they_are() -> None:
    found = played({2})
    before = {place: upload.words for place, upload in found.collected.uploads.items()}
    first, second = found.opened(), found.opened()
    assert first.total.tolist() == second.total.tolist()
    assert {place: upload.words for place, upload in found.collected.uploads.items()} == before


def test_what_is_released_is_what_was_checked() -> None:
    found = played()
    one = found.checked(2)
    revealed = reveal(one, sign_set(one, identity(2)))
    assert isinstance(revealed, Revealed)
    assert parts(revealed.shares, 33) == list(one.shares)
    assert one.shares[2] == found.sharings[2].own_share
    assert "shares=" not in repr(one)


# What a member may still say.


def survivors_of(*places: int, place: int = 0) -> Callable[[Standing], Standing]:
    return lambda standing: on_survivors(standing, places, members=5, quorum=4, place=place)


def signatures(count: int) -> Callable[[Standing], Standing]:
    return lambda standing: on_signatures(standing, count, threshold=4)


FULL, FEWER = (0, 1, 2, 3, 4), (0, 1, 2, 4)


@pytest.mark.parametrize(
    ("standing", "said", "then"),
    [
        (Undecided(), survivors_of(*FULL), Released(FULL)),
        (Undecided(), survivors_of(*FEWER), Signed(FEWER)),
        (Signed(FEWER), signatures(4), Released(FEWER)),
        (Signed(FEWER), signatures(5), Released(FEWER)),
        (Undecided(), on_abort, Aborted()),
        (Signed(FEWER), on_abort, Aborted()),
        (Aborted(), on_abort, Aborted()),
    ],
)
def test_a_member_goes_forward(
    standing: Standing, said: Callable[[Standing], Standing], then: Standing
) -> None:
    assert said(standing) == then


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (Signed(FEWER), survivors_of(*FEWER)),
        (Signed(FEWER), survivors_of(*FULL)),
        (Released(FULL), survivors_of(*FULL)),
        (Released(FEWER), survivors_of(*FULL)),
        (Aborted(), survivors_of(*FULL)),
        (Undecided(), survivors_of()),
        (Undecided(), survivors_of(0, 1, 2)),
        (Undecided(), survivors_of(1, 2, 3, 4)),
        (Undecided(), survivors_of(0, 1, 2, 5)),
        (Undecided(), survivors_of(-1, 0, 1, 2)),
        (Undecided(), survivors_of(0, 1, 1, 2)),
        (Undecided(), survivors_of(0, 2, 1, 3)),
        (Undecided(), signatures(5)),
        (Released(FULL), signatures(5)),
        (Aborted(), signatures(5)),
        (Signed(FEWER), signatures(3)),
        (Signed(FEWER), signatures(0)),
        (Released(FULL), on_abort),
        (Released(FEWER), on_abort),
    ],
)
def test_a_member_says_nothing_that_does_not_follow(
    standing: Standing, said: Callable[[Standing], Standing]
) -> None:
    with pytest.raises(ProtocolError):
        said(standing)
