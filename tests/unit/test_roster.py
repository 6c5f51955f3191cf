"""The roster: sorted, signed, and the only source of who exists."""

from typing import Any

import msgspec
import pytest

from federation.canonical import public_key_of
from federation.errors import ConfigurationError, ProtocolError
from federation.secure_aggregation.roster import Member, Roster, load_roster, roster_toml
from tests.federations import (
    KEY,
    OTHER_KEY,
    identity_of,
    names,
    roster_of,
    signed_plan,
    small_schema,
)

ROSTER = roster_of(signed_plan(small_schema()))
COORDINATOR = public_key_of(KEY)


def member(name: str, key: str | None = None) -> Member:
    return Member(id=name, key=public_key_of(identity_of(name)) if key is None else key)


def roster(*members: Member) -> Roster:
    return Roster(federation="test-federation", members=members, signature="")


def test_a_roster_survives_its_own_toml_and_keeps_its_signature() -> None:
    read = load_roster(roster_toml(ROSTER))
    assert read == ROSTER
    assert read.digest == ROSTER.digest
    read.require_signed_by(COORDINATOR)


def test_it_names_everybody_by_one_key_and_nobody_else() -> None:
    for name in names(4):
        assert ROSTER.key_of(name) == public_key_of(identity_of(name))
    for stranger in ("bank-04", "bank-0", "BANK-00", ""):
        assert ROSTER.key_of(stranger) is None


@pytest.mark.parametrize(
    "members",
    [
        ("b", "a"),
        ("a", "a"),
        ("a", "c", "b"),
        ("a", "b", "a"),
    ],
)
def test_members_are_sorted_and_nobody_is_named_twice(members: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="sorted by id, none of them twice"):
        roster(*(member(name) for name in members))


def test_two_names_never_share_a_key() -> None:
    with pytest.raises(ConfigurationError, match="none of them twice"):
        roster(member("a"), member("b", member("a").key))


@pytest.mark.parametrize(
    "key", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n", " " + "0" * 63]
)
def test_a_key_is_64_lower_case_hexadecimal_digits(key: str) -> None:
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        member("a", key)


def test_a_member_has_a_name() -> None:
    with pytest.raises(ConfigurationError, match="expected an id"):
        member("")


@pytest.mark.parametrize(
    "changed",
    [
        {"federation": "another"},
        {"members": ROSTER.members[1:]},
        {"members": (*ROSTER.members, member("bank-04"))},
        {"members": (member("bank-00", "00" * 32), *ROSTER.members[1:])},
        {"members": (member("bank-000", ROSTER.members[0].key), *ROSTER.members[1:])},
        {"signature": ""},
        {"signature": "00" * 64},
        {"signature": "x" * 128},
        {"signature": ROSTER.signature[:-2]},
    ],
)
def test_whatever_is_changed_breaks_the_signature(changed: dict[str, Any]) -> None:
    other = msgspec.structs.replace(ROSTER, **changed)
    with pytest.raises(ProtocolError):
        other.require_signed_by(COORDINATOR)
    if "signature" not in changed:
        assert other.digest != ROSTER.digest
        other.signed(KEY).require_signed_by(COORDINATOR)


def test_another_key_has_not_signed_it() -> None:
    with pytest.raises(ProtocolError):
        ROSTER.require_signed_by(public_key_of(OTHER_KEY))
    with pytest.raises(ProtocolError):
        ROSTER.signed(OTHER_KEY).require_signed_by(COORDINATOR)


def test_the_digest_does_not_depend_on_the_signature() -> None:
    assert ROSTER.signed(OTHER_KEY).digest == ROSTER.digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a roster",
        "a = " + "[" * 5000,
        "\x00",
        'federation = "f"\nsignature = ""\n',
        roster_toml(ROSTER).replace("federation", "federacy", 1),
        roster_toml(ROSTER) + 'note = "more"\n',
        roster_toml(ROSTER).replace('id = "bank-00"', 'id = "bank-00", note = "more"'),
        roster_toml(ROSTER).replace('id = "bank-00"', "id = 1"),
        roster_toml(ROSTER).replace('"bank-00"', '"bank-09"'),
        roster_toml(ROSTER).replace(ROSTER.members[0].key, ROSTER.members[1].key),
    ],
)
def test_what_is_no_roster_does_not_load(text: str) -> None:
    with pytest.raises(ConfigurationError):
        load_roster(text)


def test_a_plan_is_about_the_same_part_of_every_roster_that_names_those_it_invites() -> None:
    def of(*members: str) -> Roster:
        keys = {name: f"{number:064x}" for number, name in enumerate(("a", "b", "c", "d"))}
        chosen = tuple(Member(id=one, key=keys[one]) for one in members)
        return Roster(federation="test", members=chosen, signature="")

    invited = ("b", "c")
    parts = [of(*members).among(invited) for members in ("abcd", "bcd", "bc")]
    assert parts == [of("b", "c")] * 3
    assert {part.digest for part in parts} == {of("b", "c").digest}
    assert of("a", "b").among(invited).digest != of("b", "c").digest
