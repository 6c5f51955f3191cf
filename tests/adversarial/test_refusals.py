"""Whatever an institution must refuse, said to a real one; afterwards it goes on as if nothing was.

`Seat.require_refused` holds every refusal to the same: the code, nothing spent, and no key, mask,
seed or share of the institution in the reply.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from clients.records import SET, Records
from federation import canonical
from federation.asking import OPEN_LABEL
from federation.canonical import public_key_of
from federation.errors import ConfigurationError, LedgerCorrupt, ProtocolError
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
    Joined,
    Noted,
    Open,
    Refund,
    RefusalCode,
    Request,
    Voted,
    encode,
)
from federation.plan import PLAN_LABEL, Plan, plan_toml
from federation.query import Question
from federation.secure_aggregation import merkle, shamir
from federation.secure_aggregation.attempt import Undecided
from federation.secure_aggregation.opening import Collected, require_fits
from federation.secure_aggregation.roster import Member, Roster
from federation.secure_aggregation.session import (
    ANNOUNCEMENT_LABEL,
    Announcement,
    Group,
    Terms,
    announcement_body,
    at_round,
)
from federation.secure_aggregation.survivors import (
    SET_LABEL,
    PeerFault,
    Relayed,
    Reveal,
    Revealed,
    SetSigned,
    Survivors,
)
from federation.secure_aggregation.upload import (
    HEADER_LABEL,
    context_of,
    seed_digest,
    share_digest,
    unsealed,
)
from tests.federations import KEY, OTHER_KEY
from tests.sessions import (
    Asked,
    Room,
    Seat,
    again,
    card,
    identity,
    plan_of,
    resigned,
    room,
    roster_of,
    sealed_for,
    seat,
)

VERSION: Final = b"\xa7version" + bytes([PROTOCOL_VERSION])
OUT_OF_ORDER: Final = RefusalCode.OUT_OF_ORDER
PEER: Final = RefusalCode.PEER

LOW_ORDER: Final = tuple(
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""All encodings below 2^255 of points of Curve25519 and its twist whose order divides 8."""


@pytest.fixture
def spoken(tmp_path: Path) -> Iterator[Room]:
    """Yields four institutions in a session, nothing asked yet; quorum and threshold are 3."""
    with room(tmp_path) as found:
        found.join()
        yield found


def flipped(data: bytes, at: int = 0) -> bytes:
    """Returns the bytes with one bit changed."""
    return (
        data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if at >= 0 else flipped(data[::-1])[::-1]
    )


def refused(of: Seat, requests: Mapping[str, Request | bytes], *code: Any) -> None:
    """Refuses to go on unless the institution refuses each of some named requests."""
    for name, request in requests.items():
        try:
            of.require_refused(request, *(code or (OUT_OF_ORDER,)))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


# One set of survivors, each name once, at least the quorum, ourselves among them.


def test_a_second_set_for_the_same_attempt_is_refused(spoken):
    asked = spoken.ask(Question.BINS)
    first = spoken.seat(0)
    signed = first.handle(asked.survivors(0, 3))

    refused(
        first,
        {
            "another who dropped": asked.survivors(0, 2),
            "nobody dropped": asked.survivors(0),
            "the same set under another encoding": msgspec.structs.replace(
                asked.survivors(0, 3),
                relayed=(
                    msgspec.structs.replace(asked.survivors(0, 3).relayed[0], sealed=b"\0"),
                    *asked.survivors(0, 3).relayed[1:],
                ),
            ),
        },
    )
    assert first.handle(asked.survivors(0, 3)) == signed
    assert (asked.open(3).total == asked.plain(3)).all()


def test_after_a_release_for_everybody_no_set_is_signed(spoken):
    asked = spoken.ask(Question.BINS)
    first = spoken.seat(0)
    released = first.handle(asked.survivors(0))

    refused(first, {"somebody dropped": asked.survivors(0, 3)})
    assert first.handle(asked.survivors(0)) == released
    assert (asked.open().total == asked.plain()).all()


@pytest.mark.parametrize("said", ["signed", "released for a set", "released for everybody"])
def test_the_records_alone_keep_the_one_set_and_rule_out_a_vote_after_a_release(
    spoken, monkeypatch, said
):
    """As if memory had lost what was said, and ledgers were not compared: the disk knows it."""
    asked = spoken.ask(Question.BINS)
    first = spoken.seat(0)
    if said == "signed":
        first.send(asked.survivors(0, 3))
    else:
        asked.open(*((3,) if said == "released for a set" else ()))

    first.institution._entered._attempt.standing = Undecided()
    monkeypatch.setattr(Records, "sequence_of", lambda *_: 0)
    monkeypatch.setattr(Records, "reply_to", lambda *_: None)

    refused(first, {"another set": asked.survivors(0, 2)})
    with pytest.raises(ProtocolError, match="another way"):
        first.records.say(SET, context=asked.context, request=b"another", reply=b"")
    if said != "signed":
        refused(first, {"everybody": asked.survivors(0), "a vote": Abort(context=asked.context)})


def test_memory_alone_keeps_the_one_set_and_rules_out_a_vote_after_a_release(spoken, monkeypatch):
    """As if nothing had ever reached the disk."""
    asked = spoken.ask(Question.BINS)
    monkeypatch.setattr(Records, "say", lambda *_, **__: None)
    signatures = asked.signatures(3)
    signed, released, voted = (spoken.seat(place) for place in range(3))
    assert isinstance(released.send(asked.reveal(signatures)), Revealed)
    voted.send(Abort(context=asked.context))

    refused(signed, {"another set": asked.survivors(0, 2), "everybody": asked.survivors(0)})
    refused(
        released,
        {
            "another set": asked.survivors(1, 2),
            "everybody": asked.survivors(1),
            "a second release": asked.reveal(signatures),
            "a vote": Abort(context=asked.context),
        },
    )
    refused(
        voted,
        {
            "another set": asked.survivors(2, 1),
            "everybody": asked.survivors(2),
            "a release": asked.reveal(signatures),
        },
    )


def test_nobody_is_named_alive_to_one_and_dropped_to_another(spoken):
    asked = spoken.ask(Question.BINS)
    without_3 = asked.signatures(3, but=(1, 2))
    without_2 = asked.signatures(2, but=(0, 3))
    assert len(without_3) == len(without_2) == 1

    refused(spoken.seat(0), {"signatures of two sets": asked.reveal({**without_2, **without_3})})
    refused(spoken.seat(1), {"signatures of two sets": asked.reveal({**without_2, **without_3})})


def test_what_is_released_has_a_share_or_a_seed_of_each_member_never_both(spoken):
    asked = spoken.ask(Question.BINS)
    first = spoken.seat(0)
    reveal = asked.reveal(asked.signatures(3))
    seeds = first.institution._entered._attempt.sharing.masking.seeds

    released = first.send(reveal)

    assert isinstance(released, Revealed)
    assert released.seeds == seeds[3]
    assert len(released.shares) == 3 * shamir.SHARE_BYTES
    assert not [seed for seed in seeds[1:3] if seed in encode(released)]
    share_of_3 = unsealed(first.session, 3, asked.context, asked.uploads[3].sealed[0])
    assert share_of_3 not in encode(released)


@pytest.mark.parametrize(
    "survivors",
    [(0, 0, 1), (0, 1, 1, 2), (1, 0, 2), (0, 1, 2, 4), (-1, 0, 1, 2), (0, 1, 2, 3, 4), ()],
    ids=str,
)
def test_a_set_names_members_in_order_and_each_once(spoken, survivors):
    asked = spoken.ask(Question.BINS)
    relayed = asked.survivors(0).relayed
    wrong = Survivors(
        context=asked.context,
        survivors=survivors,
        relayed=tuple(relayed[place % 4] for place in survivors),
    )

    refused(spoken.seat(0), {"the set": wrong})
    assert (asked.open(3).total == asked.plain(3)).all()


def test_a_set_below_the_quorum_or_without_us_is_refused(spoken):
    asked = spoken.ask(Question.BINS)

    refused(
        spoken.seat(0),
        {
            "two of four": asked.survivors(0, 2, 3),
            "we alone": asked.survivors(0, 1, 2, 3),
            "all but us": asked.survivors(0, 0),
        },
    )
    assert (asked.open(3).total == asked.plain(3)).all()


def test_a_set_brings_one_upload_for_each_survivor(spoken):
    asked = spoken.ask(Question.BINS)
    right = asked.survivors(0, 3)

    refused(
        spoken.seat(0),
        {
            "one less": msgspec.structs.replace(right, relayed=right.relayed[:-1]),
            "one more": msgspec.structs.replace(right, relayed=(*right.relayed, right.relayed[-1])),
            "none": msgspec.structs.replace(right, relayed=()),
        },
    )
    assert (asked.open(3).total == asked.plain(3)).all()


# Replay and rollback: of a session, a round, an attempt.


def test_a_session_is_begun_once_also_after_a_restart_and_in_another_plan(tmp_path):
    with room(tmp_path) as spoken:
        session = spoken.new_session()
        spoken.begin(session)
        refused(spoken.seat(0), {"again": Begin(plan=spoken.plan.digest, session=session)})
        spoken.join()
        asked = spoken.ask(Question.BINS)
        assert (asked.open().total == asked.plain()).all()
        spoken.close()

    with room(tmp_path, plan_of(4, name="another-plan")) as spoken:
        refused(spoken.seat(0), {"again": Begin(plan=spoken.plan.digest, session=session)})
        spoken.join()
        asked = spoken.ask(Question.BINS)
        assert (asked.open().total == asked.plain()).all()


def test_another_plans_session_is_not_begun(spoken):
    other = plan_of(4, name="another-plan").digest

    refused(spoken.seat(0), {"its session": Begin(plan=other, session=spoken.new_session())})


def test_the_same_request_gets_the_same_bytes_and_is_paid_once(spoken):
    first = spoken.seat(0)
    opening = spoken.opening(Question.BINS)
    upload = first.handle(opening)
    head, drawn = first.ledger.head(), len(first.masks.keys)

    assert first.handle(opening) == upload
    assert (first.ledger.head(), len(first.masks.keys)) == (head, drawn)


def test_an_attempt_is_answered_once_whatever_else_it_asks(spoken):
    asked = spoken.ask(Question.STEP, card=card())
    first = spoken.seat(0)

    refused(
        first,
        {"another card": spoken.opening(Question.STEP, card=card(1))},
    )
    assert (asked.open().total == asked.plain()).all()


def test_rounds_and_attempts_only_go_forward(spoken):
    spoken.ask(Question.STEP, round_=1, card=card())
    spoken.ask(Question.STEP, round_=1, attempt=1, card=card())

    refused(
        spoken.seat(0),
        {
            "a round before": spoken.opening(Question.STEP, round_=0, attempt=1, card=card(1)),
            "an attempt before": spoken.opening(Question.STEP, round_=1, card=card(1)),
            "bins after steps": spoken.opening(Question.BINS),
        },
    )
    asked = spoken.ask(Question.STEP, round_=2, card=card())
    assert (asked.open(1).total == asked.plain(1)).all()


def test_a_position_that_is_past_is_refused_even_if_it_was_never_asked(spoken):
    asked = spoken.ask(Question.EVALUATION, card=card())

    refused(spoken.seat(0), {"a step": spoken.opening(Question.STEP, card=card())})
    assert (asked.open().total == asked.plain()).all()
    session = spoken.seat(0).session
    with pytest.raises(ProtocolError, match="past"):
        at_round(session, session.round - 1)


def test_a_new_session_does_not_bring_back_what_was_asked(spoken):
    spoken.ask(Question.BINS)
    spoken.ask(Question.STEP, round_=1, card=card())
    spoken.join()

    refused(
        spoken.seat(0),
        {
            "the bins": spoken.opening(Question.BINS),
            "the bins, attempt 1": spoken.opening(Question.BINS, attempt=1),
        },
    )
    refused(
        spoken.seat(1),
        {"the step": spoken.opening(Question.STEP, round_=1, card=card())},
    )
    refused(
        spoken.seat(2),
        {"the step before": spoken.opening(Question.STEP, attempt=1, card=card())},
    )
    asked = spoken.ask(Question.STEP, round_=1, attempt=1, card=card())
    assert (asked.open().total == asked.plain()).all()


def test_no_more_attempts_than_the_plan_has(spoken):
    for round_, attempt in [(0, 0), (0, 1), (1, 0), (2, 0)]:
        asked = spoken.ask(Question.STEP, round_=round_, attempt=attempt, card=card())
        assert (asked.open().total == asked.plain()).all()

    refused(
        spoken.seat(0),
        {
            "one more": spoken.opening(Question.STEP, round_=2, attempt=1, card=card()),
            "beyond the spare ones": spoken.opening(
                Question.STEP, round_=2, attempt=2, card=card()
            ),
        },
    )


def test_what_belongs_to_an_earlier_attempt_or_session_is_refused(spoken):
    first = spoken.seat(0)
    old = spoken.ask(Question.STEP, card=card())
    reveal = old.reveal(old.signatures(3))
    refund = old.refund(old.votes(0, 1, 2))
    late: dict[str, Request] = {"survivors": old.survivors(0), "reveal": reveal}
    new = spoken.ask(Question.STEP, attempt=1, card=card())
    refused(first, late)
    assert isinstance(spoken.seat(3).send(Abort(context=old.context)), Voted)  # released nothing
    assert isinstance(first.send(refund), Noted)  # votes are a proof at any time
    assert (new.open().total == new.plain()).all()
    refused(first, {"a vote for what was opened": Abort(context=new.context)})

    new = spoken.ask(Question.STEP, round_=1, card=card())
    opening = spoken.opening(Question.STEP, round_=2, card=card())
    earlier = new.group.terms.session
    spoken.begin(spoken.new_session())
    late = {**late, "survivors of the last": new.survivors(0), "open": opening}
    refused(first, late)
    assert isinstance(first.send(Abort(context=new.context)), Voted)
    spoken.join()
    right = spoken.opening(Question.STEP, round_=2, card=card())
    refused(
        first,
        {
            **late,
            "open, as of the last": msgspec.structs.replace(right, session=earlier),
        },
    )
    new = spoken.ask(Question.STEP, round_=2, card=card())
    assert (new.open(3).total == new.plain(3)).all()


def test_an_attempt_is_over_once_the_next_is_opened_even_if_that_is_refused(spoken):
    old = spoken.ask(Question.STEP, card=card())

    refused(
        spoken.seat(0),
        {
            "one that the plan does not have": spoken.opening(
                Question.STEP, attempt=2, card=card()
            ),
            "survivors of the old": old.survivors(0),
        },
    )
    assert isinstance(spoken.seat(0).send(Abort(context=old.context)), Voted)


def test_the_records_alone_keep_sessions_and_attempts_apart(spoken):
    records = spoken.seat(0).records
    session = spoken.group.terms.session

    with pytest.raises(ProtocolError, match="begun before"):
        records.begin_session(session, spoken.plan.digest)
    records.begin_attempt(b"one", session=session, round_=0, number=0)
    for context, round_, number in [(b"two", 0, 0), (b"one", 0, 1)]:
        with pytest.raises(ProtocolError, match="opened before"):
            records.begin_attempt(context, session=session, round_=round_, number=number)


# What differs by one bit: roster, plan, model, question. Neither masks nor signatures fit then.


def test_whoever_has_another_roster_shares_no_session(tmp_path):
    plan = plan_of(4)
    first, *others = roster_of(plan).members
    impostor = Member(id=first.id, key="99" * 32)
    other = Roster(federation=plan.federation, members=(impostor, *others), signature="").signed(
        KEY
    )
    with room(tmp_path) as spoken, ExitStack() as files:
        (tmp_path / "other").mkdir()
        odd = seat(tmp_path / "other", plan, "bank-3", files, roster=other)
        assert isinstance(odd.send(Invite(plan=plan_toml(plan))), Accept)
        spoken.seats = {**spoken.seats, "bank-3": odd}
        session = spoken.new_session()
        joining = Join(session=session, announcements=spoken.begin(session))

        refused(spoken.seat(0), {"its announcement": joining})
        refused(odd, {"theirs": joining})
        without = Join(session=session, announcements=joining.announcements[:3])
        assert spoken.seat(0).send(without) == Joined(session=session)


def test_whoever_is_admitted_or_revoked_elsewhere_changes_nothing_for_a_plan(tmp_path):
    plan = plan_of(4)
    others = (*roster_of(plan).members, Member(id="bank-9", key="99" * 32))
    newer = Roster(federation=plan.federation, members=others, signature="").signed(KEY)
    with room(tmp_path) as spoken, ExitStack() as files:
        (tmp_path / "other").mkdir()
        odd = seat(tmp_path / "other", plan, "bank-3", files, roster=newer)
        assert isinstance(odd.send(Invite(plan=plan_toml(plan))), Accept)
        spoken.seats = {**spoken.seats, "bank-3": odd}
        session = spoken.new_session()
        joining = Join(session=session, announcements=spoken.begin(session))
        for one in spoken.seats.values():
            assert one.send(joining) == Joined(session=session)


@pytest.mark.parametrize("what", ["session", "plan", "roster"])
def test_an_announcement_is_for_one_session_plan_and_roster(spoken, what):
    session = spoken.new_session()
    announcements = spoken.begin(session)
    terms = spoken.terms(session)
    member = replace_first(spoken.roster, key=flipped_hex(spoken.roster.members[0].key))
    changed = {
        "session": {"session": flipped(session)},
        "plan": {"plan": flipped_hex(terms.plan)},
        "roster": {"roster": member},
    }
    Group.of(terms, announcements)

    with pytest.raises(ProtocolError, match="signature"):
        Group.of(replace(terms, **changed[what]), announcements[1:])


def replace_first(roster: Roster, **changes: Any) -> Roster:
    """Returns the roster with another first member."""
    first = msgspec.structs.replace(roster.members[0], **changes)
    return msgspec.structs.replace(roster, members=(first, *roster.members[1:]))


def flipped_hex(text: str) -> str:
    """Returns the hexadecimal digits with one bit changed."""
    return flipped(bytes.fromhex(text)).hex()


def test_each_parameter_of_a_plan_is_in_its_digest_and_so_in_every_signature():
    plan = plan_of(5, quorum=5)
    changes = [("quorum", 4), ("threshold", 5), ("colluders", 2), ("spare_attempts", 2)]
    plans = [
        msgspec.structs.replace(
            plan, participation=msgspec.structs.replace(plan.participation, **{name: value})
        )
        for name, value in changes
    ]

    assert len({plan.digest, *(one.digest for one in plans)}) == 1 + len(changes)


@pytest.mark.parametrize("what", ["model", "attempt", "round", "question"])
def test_whoever_was_shown_something_else_fits_with_nobody(spoken, what):
    shown = {"question": Question.STEP, "round_": 0, "attempt": 0, "card": card()}
    another = {
        "model": {"card": card(1)},
        "attempt": {"attempt": 1},
        "round": {"round_": 1},
        "question": {"question": Question.EVALUATION},
    }
    odd = spoken.seat(3)
    stray = odd.send(spoken.opening(**{**shown, **another[what]}))
    seeds = odd.institution._entered._attempt.sharing.masking.seeds
    spoken.seats = {name: one for name, one in spoken.seats.items() if one is not odd}
    asked = spoken.ask(**shown)
    spoken.seats = {**spoken.seats, odd.name: odd}

    assert stray.context != asked.context
    for place in range(3):
        attempt = spoken.seat(place).institution._entered._attempt
        assert attempt.sharing.masking.seeds[3] != seeds[place]
    with pytest.raises(PeerFault, match="not for this attempt"):
        require_fits(asked.group, asked.context, 3, stray, len(asked.uploads[0].words))
    relayed = asked.survivors(0, 3)
    with_stray = msgspec.structs.replace(
        relayed,
        survivors=(0, 1, 2, 3),
        relayed=(
            *relayed.relayed,
            Relayed(header=stray.header, sealed=stray.sealed[0], path=relayed.relayed[1].path),
        ),
    )
    refused(spoken.seat(0), {"its upload among theirs": with_stray}, PEER, odd.name)
    refused(odd, {"their context": msgspec.structs.replace(with_stray, context=asked.context)})
    refused(
        odd, {"their headers": msgspec.structs.replace(with_stray, context=stray.context)},
        PEER, "bank-0",
    )  # fmt: skip
    assert (asked.open(3).total == asked.plain(3)).all()


def test_every_part_of_a_context_counts():
    parts = {
        "group": bytes(32),
        "round_": 0,
        "attempt": 0,
        "plan": bytes(32),
        "model": bytes(32),
        "query": bytes(32),
        "bits": 64,
        "length": 10,
    }
    changed = [
        {**parts, name: flipped(value) if isinstance(value, bytes) else value + 1}
        for name, value in parts.items()
    ]

    assert len({context_of(**one) for one in (parts, *changed)}) == 1 + len(parts)


# Announced keys.


def announcement(terms: Terms, name: str, key: bytes) -> Announcement:
    """Returns the announcement of any key, signed by its owner."""
    body = announcement_body(terms, name, key)
    signature = bytes.fromhex(canonical.sign(identity(name), ANNOUNCEMENT_LABEL, body))
    return Announcement(institution=name, key=key, signature=signature)


def joins(
    spoken: Room,
    wrong: Callable[[Terms, tuple[Announcement, ...]], Mapping[str, Iterable[Announcement]]],
    who: int = 0,
) -> None:
    """Refuses to go on unless wrong announcements are refused and the right ones then joined."""
    session = spoken.new_session()
    right = spoken.begin(session)
    refused(
        spoken.seat(who),
        {
            name: Join(session=session, announcements=tuple(announcements))
            for name, announcements in wrong(spoken.terms(session), right).items()
        },
    )
    joining = Join(session=session, announcements=right)
    assert spoken.seat(who).send(joining) == Joined(session=session)


def test_equal_keys_are_refused(spoken):
    joins(
        spoken,
        lambda terms, right: {
            "two peers": (*right[:3], announcement(terms, "bank-3", right[2].key)),
            "a peer with ours": (*right[:3], announcement(terms, "bank-3", right[0].key)),
        },
    )


def test_keys_of_low_order_are_refused(spoken):
    with_high_bit = [point[:31] + bytes([point[31] | 0x80]) for point in LOW_ORDER]
    ours = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    assert len({*LOW_ORDER, *with_high_bit}) == 14
    assert ours.public_key().public_bytes_raw() not in LOW_ORDER

    joins(
        spoken,
        lambda terms, right: {
            point.hex(): (*right[:3], announcement(terms, "bank-3", point))
            for point in (*LOW_ORDER, *with_high_bit)
        },
    )


def test_keys_of_another_length_are_refused(spoken):
    joins(
        spoken,
        lambda terms, right: {
            str(size): (*right[:3], announcement(terms, "bank-3", bytes(range(1, size + 1))))
            for size in (0, 31, 33, 64)
        },
    )


def test_an_announcement_is_signed_by_its_owner_for_this_session(spoken):
    old = spoken.begin(spoken.new_session())[3]
    joins(
        spoken,
        lambda terms, right: {
            "signature": (*right[:3], changed(right[3], signature=flipped(right[3].signature))),
            "shorter": (*right[:3], changed(right[3], signature=right[3].signature[:-1])),
            "longer": (*right[:3], changed(right[3], signature=right[3].signature + b"\0")),
            "none": (*right[:3], changed(right[3], signature=b"")),
            "key": (*right[:3], changed(right[3], key=flipped(right[3].key))),
            "another's": (*right[:3], changed(right[2], institution="bank-3")),
            "of another session": (*right[:3], old),
        },
    )


def changed(one: Announcement, **changes: bytes | str) -> Announcement:
    """Returns an announcement with changes that nobody signed."""
    return msgspec.structs.replace(one, **changes)


def test_members_are_in_order_each_once_and_as_many_as_the_quorum(spoken):
    joins(
        spoken,
        lambda terms, right: {
            "unordered": (right[1], right[0], *right[2:]),
            "twice": (*right[:3], right[2], right[3]),
            "below the quorum": right[:2],
            "nobody": (),
        },
    )


def test_our_own_announcement_is_there_and_unchanged(spoken):
    other = X25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()

    joins(
        spoken,
        lambda terms, right: {
            "missing": right[1:],
            "another key of ours": (announcement(terms, "bank-0", other), *right[1:]),
        },
    )


def test_a_stranger_is_refused(tmp_path):
    """Whom our roster names but the plan does not invite, and whom it does not name."""
    plan = plan_of(4)
    key = public_key_of(identity("bank-9"))
    members = (*roster_of(plan).members, Member(id="bank-9", key=key))
    wide = Roster(federation=plan.federation, members=members, signature="").signed(KEY)
    stranger = X25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    with ExitStack() as files:
        seats = {
            name: seat(tmp_path, plan, name, files, roster=wide)
            for name in plan.participation.invited
        }
        spoken = Room(plan=plan, roster=wide, seats=seats)
        spoken.invite()

        joins(
            spoken,
            lambda terms, right: {
                "invited by nobody": (
                    *right,
                    announcement(terms, "bank-9", stranger.public_bytes_raw()),
                )
            },
        )
        terms = replace(spoken.terms(bytes(32)), roster=roster_of(plan))
        with pytest.raises(ProtocolError, match="not in our roster"):
            Group.of(
                replace(terms, quorum=1),
                [announcement(terms, "bank-9", stranger.public_bytes_raw())],
            )


def test_a_session_is_joined_once_and_only_if_it_was_begun(spoken):
    session = spoken.new_session()
    right = spoken.begin(session)
    joining = Join(session=session, announcements=right)
    another = Join(session=flipped(session), announcements=right)
    refused(spoken.seat(0), {"another": another})
    assert spoken.seat(0).send(joining) == Joined(session=session)

    refused(
        spoken.seat(0),
        {
            "again": joining,
            "with fewer": Join(session=session, announcements=right[:3]),
            "another": another,
        },
    )


# What the coordinator signs.


def test_an_attempt_is_signed_by_the_coordinator(spoken):
    right = spoken.opening(Question.STEP, card=card())
    other = spoken.opening(Question.STEP, round_=1, card=card())
    context = spoken.ask(Question.BINS).context

    def with_signature(signature: str) -> Open:
        return msgspec.structs.replace(right, signature=signature)

    refused(
        spoken.seat(0),
        {
            "unsigned": with_signature(""),
            "one bit": with_signature(flipped_hex(right.signature)),
            "shorter": with_signature(right.signature[:-2]),
            "longer": with_signature(right.signature + "00"),
            "no hexadecimal": with_signature("x" * 128),
            "another attempt's": with_signature(other.signature),
            "another key's": with_signature(canonical.sign(OTHER_KEY, OPEN_LABEL, context)),
            "another label's": with_signature(canonical.sign(KEY, HEADER_LABEL, context)),
            "another round": msgspec.structs.replace(right, round=1),
            "another attempt": msgspec.structs.replace(right, attempt=1),
            "another card": msgspec.structs.replace(right, model=card(1)),
        },
    )
    asked = spoken.ask(Question.STEP, card=card())
    assert (asked.open().total == asked.plain()).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 3},
        {"round": -1},
        {"attempt": 2},
        {"attempt": -1},
        {"attempt": 2**62},
        {"attempt": 2**63},
        {"attempt": 2**64 - 1},
        {"model": None},
        {"question": Question.BINS},
        {"session": bytes(32)},
        {"session": bytes(31)},
        {"session": b""},
    ],
    ids=str,
)
def test_a_question_that_the_plan_does_not_have_is_refused(spoken, changes):
    right = spoken.opening(Question.STEP, card=card())
    wrong = msgspec.structs.replace(right, **changes)
    with suppress(ConfigurationError, ProtocolError):  # else nobody can say what it means
        wrong = spoken.signed(wrong)

    refused(spoken.seat(0), {"the question": wrong})
    asked = spoken.ask(Question.STEP, card=card())
    assert (asked.open().total == asked.plain()).all()


def test_coins_are_those_that_the_headers_committed_to(spoken):
    asked = spoken.ask(Question.BINS)
    coins = asked.open(3).coins

    def wrong(coins: Iterable[bytes]) -> Request:
        thrown = Coins(context=asked.context, coins=tuple(coins))
        return spoken.opening(Question.STEP, card=card(), coins=thrown)

    refused(
        spoken.seat(0),
        {
            "one bit": wrong((flipped(coins[0]), *coins[1:])),
            "one less": wrong(coins[:-1]),
            "one more": wrong((*coins, coins[0])),
            "unordered": wrong(reversed(coins)),
            "none": wrong(()),
            "shorter": wrong((coins[0][:-1], *coins[1:])),
        },
    )
    right = Coins(context=asked.context, coins=coins)
    asked = spoken.ask(Question.STEP, card=card(), coins=right)
    assert (asked.open().total == asked.plain()).all()


def test_wrong_coins_do_not_keep_a_plan_from_ending_and_are_noted(spoken):
    asked = spoken.ask(Question.BINS)
    coins = asked.open(3).coins
    wrong = Coins(context=asked.context, coins=(flipped(coins[0]), *coins[1:]))
    first = spoken.seat(0)

    reply = first.send(Close(plan=spoken.plan.digest, release=b"", coins=wrong))

    assert isinstance(reply, Closed)
    assert any("not audited" in line for line in first.log)


# What peers signed and sealed.


def with_relayed(right: Survivors, place: int, **changes: Any) -> Survivors:
    """Returns what a survivor is told, with changes to what is said of one of them."""
    at = right.survivors.index(place)
    one = msgspec.structs.replace(right.relayed[at], **changes)
    return msgspec.structs.replace(
        right, relayed=(*right.relayed[:at], one, *right.relayed[at + 1 :])
    )


def accused(spoken: Room, asked: Asked, wrong: Mapping[str, Survivors]) -> None:
    """Refuses to go on unless bank-0 accuses bank-1, and then opens the right total."""
    refused(spoken.seat(0), wrong, PEER, "bank-1")
    assert (asked.open(3).total == asked.plain(3)).all()


def test_a_header_is_signed_by_its_owner_in_every_field(spoken):
    asked = spoken.ask(Question.BINS)
    right = asked.survivors(0, 3)
    header = right.relayed[1].header
    changes: list[dict[str, Any]] = [
        {"masked": flipped(header.masked)},
        {"own_mask": flipped(header.own_mask)},
        {"leaves": flipped(header.leaves)},
        {"noise": flipped(header.noise)},
        {"ledger_sequence": header.ledger_sequence + 1},
        {"ledger_head": flipped_hex(header.ledger_head)},
        {"signature": flipped(header.signature)},
        {"signature": flipped(header.signature, -1)},
        {"signature": header.signature[:-1]},
        {"signature": b""},
        {"institution": "bank-2"},
        {"institution": "bank-9"},
        {"masked": header.masked[:-1]},
        {"leaves": header.leaves + b"\0"},
    ]

    accused(
        spoken,
        asked,
        {
            str(change): with_relayed(right, 1, header=msgspec.structs.replace(header, **change))
            for change in changes
        }
        | {
            "bank-2's": with_relayed(right, 1, header=right.relayed[2].header),
            "in bank-2's name": with_relayed(
                right,
                1,
                header=resigned(header, asked.context, by="bank-1", institution="bank-2"),
            ),
        },
    )


def test_a_ledger_sequence_that_no_header_can_sign_is_no_message(spoken):
    asked = spoken.ask(Question.BINS)
    right = asked.survivors(0, 3)
    header = right.relayed[1].header
    wrong = {
        str(number): with_relayed(
            right, 1, header=msgspec.structs.replace(header, ledger_sequence=number)
        )
        for number in (-1, -(2**63), 2**63, 2**64 - 1)
    }

    refused(spoken.seat(0), wrong)
    assert (asked.open(3).total == asked.plain(3)).all()


def test_our_own_header_is_the_one_that_we_sent(spoken):
    asked = spoken.ask(Question.BINS)
    right = asked.survivors(0, 3)
    header = right.relayed[0].header
    other = resigned(header, asked.context, masked=flipped(header.masked))

    refused(
        spoken.seat(0),
        {
            "changed": with_relayed(
                right, 0, header=msgspec.structs.replace(header, masked=flipped(header.masked))
            ),
            "signed by us": with_relayed(right, 0, header=other),
        },
        PEER,
        "bank-0",
    )
    assert (asked.open(3).total == asked.plain(3)).all()


def test_a_sealed_share_is_for_us_from_its_owner_in_this_attempt(spoken):
    before = spoken.ask(Question.STEP, card=card()).survivors(0, 3).relayed[1].sealed
    asked = spoken.ask(Question.STEP, round_=1, card=card())
    right = asked.survivors(0, 3)
    sealed = right.relayed[1].sealed

    accused(
        spoken,
        asked,
        {
            name: with_relayed(right, 1, sealed=wrong)
            for name, wrong in {
                "one bit": flipped(sealed),
                "of the tag": flipped(sealed, -1),
                "shorter": sealed[:-1],
                "longer": sealed + b"\0",
                "empty": b"",
                "bank-2's for us": right.relayed[2].sealed,
                "ours for bank-1": asked.uploads[0].sealed[1],
                "bank-1's for bank-2": asked.uploads[1].sealed[2],
                "of another attempt": before,
            }.items()
        },
    )


def test_a_share_is_the_one_whose_digest_its_owner_signed(spoken):
    asked = spoken.ask(Question.BINS)
    right = asked.survivors(0, 3)
    true = unsealed(spoken.seat(0).session, 1, asked.context, right.relayed[1].sealed)
    liar = spoken.seat(1).session
    plus_prime = int.from_bytes(true, "little") + shamir.PRIME
    assert sealed_for(liar, 0, asked.context, true) == right.relayed[1].sealed

    accused(
        spoken,
        asked,
        {
            name: with_relayed(
                right, 1, sealed=sealed_for(spoken.seat(1).session, 0, asked.context, wrong)
            )
            for name, wrong in {
                "one bit": flipped(true),
                "zeros": bytes(33),
                "shorter": true[:-1],
                "longer": true + b"\0",
                "empty": b"",
                "the prime": shamir.PRIME.to_bytes(33, "little"),
                "the same modulo the prime": plus_prime.to_bytes(34, "little")[:33],
            }.items()
        },
    )


def test_a_share_outside_the_field_is_refused_even_if_its_digest_was_signed(spoken):
    """Its owner can sign whatever it wants; such a share would open nothing."""
    asked = spoken.ask(Question.BINS)
    wrong = shamir.PRIME.to_bytes(33, "little")
    asked.uploads[1] = again(
        asked.uploads[1],
        asked.context,
        shares={0: share_digest(asked.context, 1, 0, wrong)},
        sealed={0: sealed_for(spoken.seat(1).session, 0, asked.context, wrong)},
    )
    refused(spoken.seat(0), {wrong.hex(): asked.survivors(0, 3)}, PEER, "bank-1")


def test_a_peer_that_says_another_seed_of_our_pair_is_refused(spoken):
    asked = spoken.ask(Question.BINS)
    liar = again(asked.uploads[1], asked.context, seeds={0: seed_digest(bytes(32))})
    uploads = {0: asked.uploads[0], 1: liar, 2: asked.uploads[2]}
    wrong = Collected(asked.group, asked.context, asked.asking.bits, uploads)
    assert wrong.disagreements() == ((0, 1),)

    accused(spoken, asked, {"another seed": wrong.relayed_to(0)})


def test_a_path_leads_from_our_leaf_to_the_signed_root(spoken):
    asked = spoken.ask(Question.BINS)
    right = asked.survivors(0, 3)
    path = right.relayed[1].path
    assert len(path) == 64

    accused(
        spoken,
        asked,
        {
            name: with_relayed(right, 1, path=wrong)
            for name, wrong in {
                "one bit": flipped(path),
                "the last bit": flipped(path, -1),
                "shorter": path[:32],
                "longer": path + bytes(32),
                "one byte more": path + b"\0",
                "empty": b"",
                "unordered": path[32:] + path[:32],
                "bank-2's": right.relayed[2].path,
                "of another leaf": asked.survivors(2, 3).relayed[1].path,
            }.items()
        },
    )


def test_a_root_above_the_root_is_not_reached_by_a_longer_path(spoken):
    """A root that our leaf reaches by a path of another length is of no tree of this session."""
    asked = spoken.ask(Question.BINS)
    right = asked.survivors(0, 3)
    header, path = right.relayed[1].header, right.relayed[1].path
    above = merkle._node(header.leaves, bytes(32))

    accused(
        spoken,
        asked,
        {
            "three levels": with_relayed(
                right,
                1,
                header=resigned(header, asked.context, leaves=above),
                path=path + bytes(32),
            )
        },
    )


# Ledgers of peers only grow.


def test_a_peer_whose_ledger_does_not_grow_is_refused(spoken):
    asked = spoken.ask(Question.BINS)
    assert (asked.open().total == asked.plain()).all()
    seen = asked.uploads[1].header.ledger_sequence
    asked = spoken.ask(Question.STEP, card=card())
    right = asked.survivors(0, 3)
    header = right.relayed[1].header
    assert header.ledger_sequence > seen

    accused(
        spoken,
        asked,
        {
            str(number): with_relayed(
                right, 1, header=resigned(header, asked.context, ledger_sequence=number)
            )
            for number in (seen, seen - 1, 0)
        },
    )


def test_a_ledger_put_back_to_an_older_copy_is_noticed_in_the_next_plan_after_a_restart(tmp_path):
    with room(tmp_path) as spoken:
        spoken.join()
        asked = spoken.ask(Question.BINS)
        assert (asked.open().total == asked.plain()).all()
        spoken.close()
    for file in (tmp_path / "bank-1").glob("ledger.sqlite*"):
        file.unlink()  # the older copy is that of the first day

    another = plan_of(4, name="another-plan")
    with pytest.raises(LedgerCorrupt, match="older than a head seen"), room(tmp_path, another):
        pass
    for file in (tmp_path / "bank-1").glob("records.sqlite*"):
        file.unlink()  # with them goes the memory of what was signed

    with room(tmp_path, another) as spoken:
        spoken.join()
        asked = spoken.ask(Question.BINS)
        assert asked.uploads[1].header.ledger_sequence == 2
        refused(spoken.seat(0), {"rolled back": asked.survivors(0, 3)}, PEER, "bank-1")
        assert (asked.open(1).total == asked.plain(1)).all()


# Signatures of a set, votes.


def test_a_release_needs_as_many_different_valid_signatures_as_the_threshold(spoken):
    asked = spoken.ask(Question.BINS)
    first = spoken.seat(0)
    refused(first, {"nothing signed": Reveal(context=asked.context, signers=(), signatures=())})
    right = asked.signatures(3)
    a, b, c = (right[place] for place in range(3))
    vote = asked.votes(3)[3]

    def reveal(signers: tuple[int, ...], signatures: tuple[bytes, ...]) -> Reveal:
        return Reveal(context=asked.context, signers=signers, signatures=signatures)

    refused(
        first,
        {
            "none": reveal((), ()),
            "two": reveal((0, 1), (a, b)),
            "one twice": reveal((0, 1, 1), (a, b, b)),
            "unordered": reveal((1, 0, 2), (b, a, c)),
            "one bit": reveal((0, 1, 2), (a, b, flipped(c))),
            "shorter": reveal((0, 1, 2), (a, b, c[:-1])),
            "empty": reveal((0, 1, 2), (a, b, b"")),
            "another's": reveal((0, 1, 3), (a, b, c)),
            "fewer signatures": reveal((0, 1, 2), (a, b)),
            "more signatures": reveal((0, 1, 2), (a, b, c, c)),
            "no such member": reveal((0, 1, 2, 4), (a, b, c, c)),
            "a negative member": reveal((-1, 0, 1), (c, a, b)),
            "a vote instead": reveal((0, 1, 3), (a, b, vote)),
            "three and a wrong one": reveal((0, 1, 2, 3), (a, b, c, c)),
            "another context": msgspec.structs.replace(
                asked.reveal(right), context=flipped(asked.context)
            ),
        },
    )
    collected, reveals = asked.collected(3), asked.reveal(right)
    opened = asked.opened_by(collected, {p: spoken.seat(p).send(reveals) for p in range(3)})
    assert (opened.total == asked.plain(3)).all()


def test_a_colluders_signature_of_another_set_does_not_count(spoken):
    asked = spoken.ask(Question.BINS)
    right = asked.signatures(3, but=(2,))
    for_all = asked.collected().body
    other = bytes.fromhex(canonical.sign(identity("bank-2"), SET_LABEL, for_all))

    refused(spoken.seat(0), {"of the full set": asked.reveal({**right, 2: other})})


def test_a_set_is_signed_with_the_very_headers_that_each_was_shown(spoken):
    """A colluder may sign two headers: those who were shown different ones sign different sets."""
    asked = spoken.ask(Question.BINS)
    true = asked.uploads[1]
    asked.uploads[1] = again(true, asked.context, noise=flipped(true.header.noise))
    shown_another = spoken.seat(2).send(asked.survivors(2, 3))
    asked.uploads[1] = true
    assert isinstance(shown_another, SetSigned)
    right = asked.signatures(3, but=(2,))

    refused(
        spoken.seat(0), {"of other headers": asked.reveal({**right, 2: shown_another.signature})}
    )


def test_after_a_vote_nothing_is_released_or_signed(spoken):
    asked = spoken.ask(Question.BINS)
    right = asked.signatures(3)
    first = spoken.seat(0)
    vote = first.handle(Abort(context=asked.context))

    refused(
        first,
        {
            "the signed set": asked.reveal(right),
            "everybody": asked.survivors(0),
            "another set": asked.survivors(0, 2),
        },
    )
    assert first.handle(Abort(context=asked.context)) == vote
    assert isinstance(first.send(asked.survivors(0, 3)), SetSigned), "what was said is repeated"


@pytest.mark.parametrize("everybody", [True, False])
def test_after_a_release_there_is_no_vote(spoken, everybody):
    asked = spoken.ask(Question.BINS)
    opened = asked.open() if everybody else asked.open(3)

    refused(spoken.seat(0), {"a vote": Abort(context=asked.context)})
    assert (opened.total == (asked.plain() if everybody else asked.plain(3))).all()


def test_a_charge_comes_back_only_for_as_many_different_valid_votes_as_the_threshold(spoken):
    asked = spoken.ask(Question.BINS)
    first = spoken.seat(0)
    charged = first.ledger.head()
    right = asked.votes(0, 1, 2, 3)
    a, b, c, d = (right[place] for place in range(4))
    other = canonical.sign(identity("bank-2"), HEADER_LABEL, asked.context)

    def refund(voters: tuple[int, ...], votes: tuple[bytes, ...]) -> Refund:
        return Refund(context=asked.context, voters=voters, votes=votes)

    refused(
        first,
        {
            "none": refund((), ()),
            "two": refund((0, 1), (a, b)),
            "one twice": refund((0, 1, 1), (a, b, b)),
            "unordered": refund((1, 0, 2), (b, a, c)),
            "one bit": refund((0, 1, 2), (a, b, flipped(c))),
            "shorter": refund((0, 1, 2), (a, b, c[:-1])),
            "another's": refund((0, 1, 2), (a, b, d)),
            "another label": refund((0, 1, 2), (a, b, bytes.fromhex(other))),
            "fewer votes": refund((0, 1, 2), (a, b)),
            "no such member": refund((0, 1, 2, 4), (a, b, c, d)),
            "another context": msgspec.structs.replace(
                asked.refund(right), context=flipped(asked.context)
            ),
        },
    )
    assert first.ledger.head() == charged
    assert first.send(refund((1, 2, 3), (b, c, d))) == Noted(context=asked.context)
    assert first.ledger.head()[0] == charged[0] + 1
    assert first.send(asked.refund(right)) == Noted(context=asked.context)
    assert first.ledger.head()[0] == charged[0] + 1, "it is taken back once"


def test_votes_for_one_attempt_are_no_votes_for_another(spoken):
    votes = spoken.ask(Question.STEP, card=card()).votes(0, 1, 2)
    asked = spoken.ask(Question.STEP, attempt=1, card=card())

    refused(spoken.seat(0), {"votes of the last": asked.refund(votes)})
    asked.give_up()


def test_what_was_given_up_is_answered_no_more_and_the_next_attempt_costs_no_more(spoken):
    first = spoken.seat(0)
    asked = spoken.ask(Question.BINS)
    asked.give_up()

    refused(first, {"everybody": asked.survivors(0), "a set": asked.survivors(0, 3)})
    again = spoken.ask(Question.BINS, attempt=1)
    assert again.noise_keys[0] != asked.noise_keys[0]
    assert (again.open().total == again.plain()).all()
    spoken.close()
    (entry,) = [one.entry for one in first.ledger.entries() if one.sequence == 2]
    assert first.charged() == (entry.units, 0)


# Bytes.


def requests_of(spoken: Room, asked: Asked) -> dict[str, Request]:
    """Returns one right request of each kind."""
    votes = asked.votes(3)
    return {
        "Invite": Invite(plan=plan_toml(spoken.plan)),
        "Begin": Begin(plan=spoken.plan.digest, session=spoken.new_session()),
        "Join": Join(session=spoken.new_session(), announcements=()),
        "Open": spoken.opening(Question.STEP, card=card()),
        "Survivors": asked.survivors(0, 3),
        "Reveal": Reveal(context=asked.context, signers=(0,), signatures=(bytes(64),)),
        "Abort": Abort(context=asked.context),
        "Refund": asked.refund(votes),
        "Close": Close(plan=spoken.plan.digest, release=b"", coins=None),
    }


def test_bytes_that_are_not_exactly_one_request_are_refused(spoken):
    asked = spoken.ask(Question.BINS)
    first = spoken.seat(0)
    for name, request in requests_of(spoken, asked).items():
        right = encode(request)
        fields = msgspec.msgpack.decode(right)
        assert packed(fields) == right
        wrong = {
            "leftover bytes": right + b"\0",
            "another message after it": right + right,
            "cut": right[:-1],
            "another order": packed(dict(reversed(fields.items()))),
            "an unknown field": packed({**fields, "zzz": 1}),
            "a field twice": twice(right),
            "another version": packed({**fields, "version": 1}),
            "no version": packed({key: of for key, of in fields.items() if key != "version"}),
            "a version that is no whole number": packed(
                {**fields, "version": float(PROTOCOL_VERSION)}
            ),
            "a reply": packed({**fields, "type": "Revealed"}),
            "no kind": packed({key: of for key, of in fields.items() if key != "type"}),
            "longer numbers": right.replace(VERSION, VERSION[:-1] + b"\xcc" + VERSION[-1:]),
            "a list instead": packed(list(fields.values())),
            "nothing in a field": packed(
                dict.fromkeys(fields) | {"type": name, "version": PROTOCOL_VERSION}
            ),
            "a map of another width": b"\xde\x00" + bytes([right[0] & 0x0F]) + right[1:],
        }
        assert right not in wrong.values()
        refused(first, {f"{name}: {what}": data for what, data in wrong.items()})
    refused(first, {"nothing": b"", "nil": b"\xc0", "deep": b"\x91" * 5000 + b"\xc0"})
    assert (asked.open(3).total == asked.plain(3)).all()


def packed(content: object) -> bytes:
    """Returns MessagePack in the order of the content."""
    return msgspec.msgpack.encode(content)


def twice(data: bytes) -> bytes:
    """Returns the encoding of a map of up to 14 fields with its version said twice."""
    return bytes([data[0] + 1]) + data[1:] + VERSION


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_identifiers_of_another_length_are_refused(spoken, size):
    asked = spoken.ask(Question.BINS)
    first = spoken.seat(0)
    of_that_size = (asked.context * 2)[:size]
    right = asked.survivors(0, 3)

    refused(
        first,
        {
            "session": Begin(plan=spoken.plan.digest, session=of_that_size),
            "survivors": msgspec.structs.replace(right, context=of_that_size),
            "reveal": Reveal(context=of_that_size, signers=(), signatures=()),
            "abort": Abort(context=of_that_size),
            "refund": Refund(context=of_that_size, voters=(), votes=()),
            "plan": Begin(plan="ab" * size, session=spoken.new_session()),
        },
    )
    assert (asked.open(3).total == asked.plain(3)).all()


# The plan's numbers, and who is counted.


def signed_text(plan: Plan, **participation: Any) -> str:
    """Returns a plan's TOML with any numbers, properly signed: a coordinator can sign anything."""
    fields = msgspec.to_builtins(plan)
    del fields["signature"]
    fields["participation"] |= participation
    for name in ("valid_from", "valid_until"):
        fields[name] = getattr(plan, name).astimezone(UTC).isoformat()
    signature = canonical.sign(KEY, PLAN_LABEL, canonical.canonical_json(fields))
    for name in ("valid_from", "valid_until"):
        fields[name] = getattr(plan, name)
    return tomli_w.dumps({**fields, "signature": signature})


@pytest.mark.parametrize(
    "participation",
    [
        {"threshold": 2},
        {"threshold": 5},
        {"threshold": 0},
        {"threshold": -3},
        {"quorum": 2},
        {"quorum": 5},
        {"colluders": 0},
        {"colluders": -1},
        {"colluders": 2},
        {"colluders": 2, "threshold": 4, "quorum": 3},
        {"invited": ("bank-0", "bank-1")},
        {"invited": ("bank-1", "bank-0", "bank-2", "bank-3")},
        {"invited": ("bank-0", "bank-0", "bank-1", "bank-2")},
        {"spare_attempts": -1},
    ],
    ids=str,
)
def test_a_plan_that_breaks_a_rule_of_its_numbers_is_refused(tmp_path, participation):
    plan = plan_of(4)
    assert signed_text(plan) == plan_toml(plan)
    with ExitStack() as files:
        first = seat(tmp_path, plan, "bank-0", files)

        first.require_refused(
            Invite(plan=signed_text(plan, **participation)), RefusalCode.SIGNATURE
        )
        assert isinstance(first.send(Invite(plan=plan_toml(plan))), Accept)


@pytest.mark.parametrize(
    ("policy", "roster"),
    [({"least_quorum": 4}, None), ({"least_colluders": 2}, None), ({}, "bank-3")],
)
def test_a_plan_outside_our_policy_or_with_a_name_that_we_do_not_know_is_refused(
    tmp_path, policy, roster
):
    plan = plan_of(4)
    pinned = roster_of(plan, without=roster or "")
    with ExitStack() as files:
        first = seat(tmp_path, plan, "bank-0", files, roster=pinned, **policy)

        first.require_refused(Invite(plan=plan_toml(plan)), RefusalCode.PARTICIPANTS)


def test_a_roster_that_the_coordinator_did_not_sign_or_that_misnames_us_is_not_taken(tmp_path):
    plan = plan_of(4)
    right = roster_of(plan)
    wrong = {
        "unsigned": msgspec.structs.replace(right, signature=""),
        "another key": right.signed(OTHER_KEY),
        "changed": replace_first(right, key="99" * 32),
    }
    with ExitStack() as files:
        for number, roster in enumerate(wrong.values()):
            (tmp_path / str(number)).mkdir()
            with pytest.raises(ProtocolError, match="signature"):
                seat(tmp_path / str(number), plan, "bank-1", files, roster=roster)
        (tmp_path / "key").mkdir()
        with pytest.raises(ConfigurationError, match="identity key"):
            seat(
                tmp_path / "key",
                plan,
                "bank-0",
                files,
                roster=replace_first(right, key="99" * 32).signed(KEY),
            )


# Before there is anything to answer.


def test_without_a_plan_or_a_session_there_is_nothing_to_say(tmp_path):
    plan = plan_of(4)
    with ExitStack() as files:
        first = seat(tmp_path, plan, "bank-0", files)
        anything: dict[str, Request] = {
            "begin": Begin(plan=plan.digest, session=bytes(32)),
            "join": Join(session=bytes(32), announcements=()),
            "survivors": Survivors(context=bytes(32), survivors=(0, 1, 2), relayed=()),
            "reveal": Reveal(context=bytes(32), signers=(), signatures=()),
            "abort": Abort(context=bytes(32)),
            "refund": Refund(context=bytes(32), voters=(), votes=()),
        }
        refused(first, anything)
        assert isinstance(first.send(Invite(plan=plan_toml(plan))), Accept)
        del anything["begin"]
        refused(first, anything)
