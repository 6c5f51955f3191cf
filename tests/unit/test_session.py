"""Sessions: who is in one, one secret for each pair, and no way back to an earlier round."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.canonical import public_key_of
from federation.errors import ConfigurationError, ProtocolError
from federation.secure_aggregation.roster import Member, Roster, load_roster, roster_toml
from federation.secure_aggregation.session import (
    Group,
    Session,
    Terms,
    at_round,
    join,
    place_bytes,
)
from tests.attempts import (
    PLAN,
    announced,
    announcing,
    identity,
    ids,
    roster,
    secret,
    sessions,
    terms,
)
from tests.reference import primitives
from tests.vectors.masking import LOW_ORDER

CONTEXT = secret("context")
THREE = {"threshold": 3, "quorum": 3}


def keys_of(session: Session, context: bytes = CONTEXT) -> list[bytes]:
    """Returns all keys that a member can derive in one attempt."""
    peers = [peer for peer in range(len(session.chains)) if peer != session.place]
    return [
        key
        for peer in peers
        for key in (
            session.mask_seed(peer, context),
            session.key_to(peer, context),
            session.key_from(peer, context),
        )
    ]


# Pairs.


def test_both_of_a_pair_derive_the_same_and_nobody_else_does() -> None:
    found = sessions(4, **THREE)
    for u in found:
        for v in found:
            if u.place == v.place:
                continue
            assert u.chains[v.place] == v.chains[u.place]
            assert u.mask_seed(v.place, CONTEXT) == v.mask_seed(u.place, CONTEXT)
            assert u.key_to(v.place, CONTEXT) == v.key_from(u.place, CONTEXT)
            assert u.key_to(v.place, CONTEXT) != u.key_from(v.place, CONTEXT)
    pairs, seeds = 6, {key for session in found for key in keys_of(session)}
    assert len(seeds) == 3 * pairs  # a mask, and a sealing key for each direction
    assert len({chain for session in found for chain in session.chains if chain}) == pairs


def test_every_context_round_and_session_has_keys_of_its_own() -> None:
    first, again = (sessions(3, **THREE, name=name)[0] for name in ("first", "again"))
    found = [
        keys_of(first),
        keys_of(first, secret("another context")),
        keys_of(at_round(first, 1)),
        keys_of(at_round(first, 2)),
        keys_of(again),
    ]
    assert len({key for keys in found for key in keys}) == sum(map(len, found))


def test_one_bit_of_the_session_plan_or_roster_gives_other_secrets() -> None:
    """Whoever is shown another session has masks that do not cancel, and no signature fits."""
    of = terms(3, **THREE)
    changes = (
        of,
        replace(of, session=b"\x00" + of.session[1:]),
        replace(of, plan=PLAN[:-1] + "a"),
        replace(of, roster=msgspec.structs.replace(of.roster, federation="another")),
    )
    found = []
    for changed in changes:
        states = [announcing(changed, place, key=secret("key", place)) for place in range(3)]
        found.append(join(states[0], [state.announcement for state in states]))
    assert len({session.group.digest for session in found}) == len(changes)
    assert len({key for session in found for key in keys_of(session)}) == 6 * len(changes)


# Rounds.


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_a_session_goes_forward_by_any_steps_to_the_same_secrets(steps: list[int]) -> None:
    start = sessions(3, **THREE)[1]
    walked = start
    for step in steps:
        walked = at_round(walked, walked.round + step)
    assert walked == at_round(start, sum(steps))
    assert walked.chains[1] == b""
    for chain, later in zip(start.chains, walked.chains, strict=True):
        expected = chain
        for _ in range(sum(steps)):
            expected = expected and primitives.extract(expected, b"fedscore/ratchet/2")
        assert later == expected


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.integers(-3, 7))
def test_no_session_goes_back(here: int, back: int) -> None:
    later = at_round(sessions(3, **THREE)[0], here)
    if back < here:
        with pytest.raises(ProtocolError, match="past"):
            at_round(later, back)
    assert at_round(later, here) == later


def test_what_is_secret_is_not_shown() -> None:
    session = sessions(3, **THREE)[0]
    shown = repr(session) + repr(announcing(terms(3, **THREE), 0))
    assert "chains" not in shown
    assert "secret=" not in shown


# Members.


def test_fewer_than_all_of_the_roster_may_make_a_session() -> None:
    of = terms(5, threshold=4, quorum=4)
    states = {place: announcing(of, place) for place in (0, 1, 3, 4)}
    found = [state.announcement for state in states.values()]
    session = join(states[3], found)
    assert session.group.members == tuple(ids(5)[place] for place in states)
    assert session.place == 2
    with pytest.raises(ProtocolError, match="at least 4"):
        join(states[3], [one for one in found if one.institution != ids(5)[0]])


def test_two_announcements_by_one_member_are_refused_in_any_order() -> None:
    of = terms(4, **THREE)
    twice = announcing(of, 1, key=secret("another")).announcement
    first, second, third, fourth = announced(of, range(4))
    for wrong in ([first, second, twice, third], [first, second, third, fourth, twice]):
        with pytest.raises(ProtocolError, match="each once"):
            Group.of(of, wrong)


def test_a_member_that_announces_with_another_identity_is_refused() -> None:
    of = terms(3, **THREE)
    wrong = announced(of, range(3))
    wrong[1] = msgspec.structs.replace(wrong[1], signature=wrong[2].signature)
    with pytest.raises(ProtocolError, match="not valid"):
        Group.of(of, wrong)


def test_an_announcement_for_another_session_is_refused() -> None:
    of, other = terms(3, **THREE), terms(3, **THREE, name="other")
    wrong = [*announced(of, range(2)), *announced(other, (2,))]
    with pytest.raises(ProtocolError, match="not valid"):
        Group.of(of, wrong)


@pytest.mark.parametrize("name", LOW_ORDER)
def test_a_point_of_low_order_gives_everybody_the_same_secret(name: str) -> None:
    """Why such keys are refused; `tests/vectors/refusals.json` shows that they are."""
    point = LOW_ORDER[name].to_bytes(32, "little")
    for number in range(2):
        assert primitives.x25519(secret("scalar", number), point) == bytes(32)


def test_a_key_has_one_form() -> None:
    """RFC 7748 ignores the highest bit: a copy with it set would not look like a copy."""
    of = terms(3, **THREE)
    first, second, third = announced(of, range(3))
    copy = third.key[:-1] + bytes([third.key[-1] | 128])
    assert primitives.x25519(secret("scalar"), copy) == primitives.x25519(
        secret("scalar"), third.key
    )
    with pytest.raises(ProtocolError, match="no usable key"):
        Group.of(of, [first, msgspec.structs.replace(second, key=copy), third])


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_session_is_named_by_32_bytes(length: int) -> None:
    with pytest.raises(ProtocolError, match="32 bytes"):
        Terms(session=bytes(length), plan=PLAN, roster=roster(3), threshold=3, quorum=3)


@pytest.mark.parametrize("place", [-1, 3, 2**40])
def test_nobody_has_signed_at_a_place_that_does_not_exist(place: int) -> None:
    with pytest.raises(ProtocolError, match="no member"):
        sessions(3, **THREE)[0].group.require_signed(place, "label", b"", bytes(64))


def test_places_are_hashed_as_four_bytes() -> None:
    assert [place_bytes(place) for place in (0, 1, 399)] == [
        b"\x00\x00\x00\x00",
        b"\x01\x00\x00\x00",
        b"\x8f\x01\x00\x00",
    ]


# The roster.


def test_a_roster_reads_back_and_knows_its_members_only() -> None:
    found = load_roster(roster_toml(roster(3)))
    assert found == roster(3)
    assert found.digest == roster(3).digest
    assert found.key_of("bank-001") == public_key_of(identity(1))
    assert found.key_of("bank-003") is None


def test_a_roster_is_signed_as_a_whole() -> None:
    coordinator = identity(9)
    signed = roster(3).signed(coordinator)
    assert signed.digest == roster(3).digest
    signed.require_signed_by(public_key_of(coordinator))
    with pytest.raises(ProtocolError, match="not valid"):
        signed.require_signed_by(public_key_of(identity(8)))
    with pytest.raises(ProtocolError, match="not valid"):
        roster(3).require_signed_by(public_key_of(coordinator))
    fewer = Roster(
        federation=signed.federation, members=signed.members[:2], signature=signed.signature
    )
    with pytest.raises(ProtocolError, match="not valid"):
        fewer.require_signed_by(public_key_of(coordinator))


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 0, 1), (0, 1, 2, 2)])
def test_a_roster_names_nobody_twice_and_all_in_order(order: tuple[int, ...]) -> None:
    members = tuple(roster(3).members[place] for place in order)
    with pytest.raises(ConfigurationError, match="sorted by id"):
        Roster(federation="f", members=members, signature="")


def test_two_members_of_a_roster_do_not_share_a_key() -> None:
    key = public_key_of(identity(0))
    with pytest.raises(ConfigurationError, match="none of them twice"):
        Roster(
            federation="f", members=(Member(id="a", key=key), Member(id="b", key=key)), signature=""
        )


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("", "00" * 32),
        ("a", "00" * 31),
        ("a", "00" * 33),
        ("a", "AB" * 32),
        ("a", "00" * 32 + "\n"),
    ],
)
def test_a_member_has_a_name_and_a_key(name: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match="64 hexadecimal"):
        Member(id=name, key=key)


@pytest.mark.parametrize("text", ["", "[", "federation = 1", 'x = "y"\n', "\x00"])
def test_another_text_is_no_roster(text: str) -> None:
    for wrong in (text, text + roster_toml(roster(2)).replace("id =", "name =")):
        with pytest.raises(ConfigurationError, match="not a roster"):
            load_roster(wrong)
