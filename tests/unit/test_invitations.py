"""Who is invited when, and who never again: by the coordinator alone, before any session."""

from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from experiments.entropy import SeededEntropy
from federation.errors import ProtocolError
from federation.messages import (
    Accept,
    Begin,
    Invite,
    RefusalCode,
    Refuse,
    Reply,
    SeenHeader,
    decode_request,
    encode,
)
from federation.secure_aggregation.upload import Header
from federation.transcript import Transcript
from server.attempts import Channel
from server.gathering import Gathering
from server.invitations import Invitations
from server.past import Past
from server.running import Running
from tests.federations import KEY, ignore, names, roster_of, signed_plan, small_schema

PLAN = signed_plan(small_schema(), quorum=3)
ACCEPTED = Accept(plan=PLAN.digest, ledger_sequence=1, ledger_head="00" * 32)

HEADER = Header(
    institution="bank-01",
    masked=bytes(32),
    own_mask=bytes(32),
    leaves=bytes(32),
    noise=bytes(32),
    ledger_sequence=7,
    ledger_head="00" * 32,
    signature=bytes(64),
)


class Desk:
    """Answers invitations as told, and nothing else; keeps what it was sent."""

    def __init__(self, **replies: Reply) -> None:
        """Takes the reply of each institution to an invitation; others are silent."""
        self._replies = {name.replace("_", "-"): reply for name, reply in replies.items()}
        self.sent: list[tuple[str, Invite | Begin]] = []

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        read = {name: decode_request(data) for name, data in requests.items()}
        self.sent += read.items()  # type: ignore[arg-type]
        return {
            name: encode(self._replies[name])
            for name, request in read.items()
            if isinstance(request, Invite) and name in self._replies
        }


def invitations(desk: Desk) -> Invitations:
    return Invitations(
        plan=PLAN, channel=Channel(desk, ignore), seen={}, gone=frozenset(), watch=ignore
    )


def gathering(desk: Desk, past: Past) -> Gathering:
    running = Running(
        plan=PLAN,
        schema=small_schema(),
        roster=roster_of(PLAN),
        transport=desk,
        key=KEY,
        entropy=SeededEntropy("invitations"),
        transcript=Transcript(),
        seen={},
        keep_release=lambda _: None,
        watch=ignore,
    )
    return Gathering(running, Channel(desk, ignore), past)


def test_a_refusal_is_for_good_unless_its_institution_is_merely_not_ready() -> None:
    codes = (RefusalCode.POLICY, RefusalCode.OUT_OF_ORDER, RefusalCode.UNAVAILABLE)
    desk = Desk(
        **{f"bank_0{number}": Refuse(code=code, peer="") for number, code in enumerate(codes)},
        bank_03=Accept(plan="another", ledger_sequence=1, ledger_head="00" * 32),
    )
    found = invitations(desk)
    found.invite(everybody=True)
    assert not found.ready
    desk.sent.clear()
    found.invite(everybody=True)
    assert [name for name, _ in desk.sent] == ["bank-01", "bank-02", "bank-03"]


def test_who_is_silent_is_waited_for_four_times_as_seldom_as_who_refuses() -> None:
    desk = Desk(bank_00=Refuse(code=RefusalCode.UNAVAILABLE, peer=""))
    found = invitations(desk)
    asked: dict[str, list[int]] = {name: [] for name in names(4)}
    for question in range(14):
        desk.sent.clear()
        found.invite(everybody=question == 0)
        for name, _ in desk.sent:
            asked[name].append(question)
        found.next_question()
    assert asked == {"bank-00": [0, 1, 3, 7]} | {one: [0, 4, 12] for one in names(4)[1:]}


def test_whoever_was_at_fault_before_a_crash_is_not_asked_after_it() -> None:
    desk = Desk(bank_02=ACCEPTED, bank_03=ACCEPTED)
    group = SimpleNamespace(members=names(4))
    past = Past(group=group, at_fault={"bank-03"}, was_told=True)  # type: ignore[arg-type]
    found = gathering(desk, past)
    found.leave("bank-02", None)
    with pytest.raises(ProtocolError, match="the plan needs 3"):
        found.session()
    assert {name for name, request in desk.sent if isinstance(request, Begin)} == set(names(3))
    assert "bank-03" not in {name for name, _ in desk.sent}


def test_an_invitation_brings_the_latest_header_that_its_institution_has_signed() -> None:
    desk = Desk()
    found = gathering(desk, Past())
    found.see(b"context", HEADER)
    with pytest.raises(ProtocolError, match="0 of 4 institutions take part"):
        found.session()
    seen = {name: request.seen for name, request in desk.sent if isinstance(request, Invite)}
    assert seen == dict.fromkeys(names(4)) | {
        "bank-01": SeenHeader(context=b"context", header=HEADER)
    }
    assert len(desk.sent) == 4, "at a first meeting whoever is silent is not waited for"
