"""What could be tried on an institution that takes a plan up again in a later process."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clients.ledger import Ledger
from clients.withdrawals import Withdrawals
from federation.messages import (
    Abort,
    Accept,
    Begin,
    Begun,
    Close,
    Coins,
    Invite,
    Refund,
    RefusalCode,
    Refuse,
    SeenHeader,
)
from federation.plan import plan_toml
from federation.privacy.ledger_entries import Refunded, Reserved, Spent
from federation.query import Question
from federation.secure_aggregation.upload import Upload
from fedscore.trainings import Training
from tests.exchanges import Table
from tests.federations import (
    KEY,
    NOW,
    Federation,
    clock,
    federation,
    flat_card,
    roster_of,
)

ONE = "bank-00"
SECOND = b"\x02" * 32


def decided(fed: Federation, **changes: Any) -> Federation:
    """The same federation, after the institutions' people have changed their policies."""
    members = tuple(
        msgspec.structs.replace(one, policy=msgspec.structs.replace(one.policy, **changes))
        for one in fed.members
    )
    return replace(fed, members=members)


@pytest.mark.parametrize(
    "changes",
    [{"purposes": ("another-purpose",)}, {"least_colluders": 2}, {"approved_peers": (ONE,)}],
    ids=str,
)
def test_a_plan_is_not_taken_up_again_against_what_people_have_decided_since(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        Table.of(fed, seats)
    with decided(fed, **changes).seats() as seats:
        seat = seats[ONE]
        reply = seat.send(Begin(plan=fed.plan.digest, session=SECOND))  # without an invitation
        assert reply == Refuse(code=RefusalCode.OUT_OF_ORDER)
        assert any("stays reserved, not taken up again" in line for line in seat.log)
        limits = fed.members[0].policy.limits
        assert seat.ledger.balance(limits).open_plans == (fed.plan.digest,)


def test_a_plan_is_not_taken_up_again_with_somebody_whom_the_roster_no_longer_names(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        Table.of(fed, seats)
    pinned = roster_of(fed.plan)
    fewer = msgspec.structs.replace(pinned, members=pinned.members[:-1]).signed(KEY)
    with replace(fed, members=fed.members[:-1]).seats(roster=fewer) as seats:
        reply = seats[ONE].send(Begin(plan=fed.plan.digest, session=SECOND))
        assert reply == Refuse(code=RefusalCode.OUT_OF_ORDER)


def test_a_plan_that_lost_its_snapshot_while_it_was_rewritten_is_not_taken_up_on_another_one(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        Table.of(fed, seats)
        seats[ONE].institution.taking.note_snapshot("")  # killed while people were taken out
    (tmp_path / "seats" / ONE / "snapshot" / "snapshot.json").unlink()
    for _ in range(2):  # the first start reads the table anew, for the next plan
        with fed.seats() as seats:
            assert "not taken up again" in seats[ONE].log[0]
            assert isinstance(seats["bank-01"].send(Invite(plan=plan_toml(fed.plan))), Accept)


def test_an_hour_that_is_full_keeps_no_plan_from_being_taken_up_again_or_joined_again(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20, policy={"rounds_per_hour": 1})
    with fed.seats() as seats:
        table = Table.of(fed, seats)
        table.total(table.open(Question.BINS))
    with fed.seats() as seats:
        for seat in seats.values():
            assert isinstance(seat.send(Invite(plan=plan_toml(fed.plan))), Accept), seat.log
        again = Table.again(fed, seats, session=SECOND)
        reply = seats[ONE].send(again.open(Question.STEP))
        assert reply == Refuse(code=RefusalCode.UNAVAILABLE), "it may be asked again later"


def test_half_written_bins_of_a_killed_machine_are_not_what_a_later_process_answers_from(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        table = Table.of(fed, seats)
        table.collected(table.open(Question.STEP))
    (packed,) = (tmp_path / "seats" / ONE / "snapshot").glob("*.packed")
    whole = packed.read_bytes()
    packed.write_bytes(bytes(len(whole)))  # as a disk may leave what was never synchronised
    with fed.seats() as seats:
        again = Table.again(fed, seats, session=SECOND)
        again.collected(again.open(Question.STEP, round_=1))
        assert packed.read_bytes() == whole


def test_a_question_that_is_refused_while_somebody_withdraws_makes_no_audit_raise_an_alarm(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=60)
    who = msgspec.structs.replace(fed.plan.participation, audited_share=1.0)
    fed = replace(fed, plan=msgspec.structs.replace(fed.plan, participation=who).signed(KEY))
    with fed.seats() as seats:
        table = Table.of(fed, seats)
        request = table.open(Question.STEP)
        collected = table.collected(request)
        revealed = table.told(collected)
        opened = collected.opened(revealed)  # type: ignore[arg-type]
        split = fed.plan.people.split
        Withdrawals(tmp_path / "seats" / ONE / "withdrawn").add(split, map(str, range(10)))
        past = table.open(Question.BINS)  # its round is over: refused, and no coin with it
        assert isinstance(seats[ONE].send(past), Refuse)
        coins = Coins(context=collected.context, coins=opened.coins)
        seats[ONE].send(Close(plan=fed.plan.digest, release=b"", coins=coins))
        assert not any("DOES NOT" in line for line in seats[ONE].log)


def test_old_headers_of_its_own_do_not_stop_an_institution_once_what_is_missing_was_charged(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20)
    ledger = tmp_path / "seats" / ONE / "ledger.sqlite"
    headers = []
    with fed.seats() as seats:
        table = Table.of(fed, seats)
        for round_ in range(3):
            request = table.open(Question.STEP, round_=round_)
            upload = seats[ONE].send(request)
            assert isinstance(upload, Upload)
            headers.append(SeenHeader(context=upload.context, header=upload.header))
    for file in ledger.parent.glob("ledger.sqlite*"):
        file.unlink()
    Ledger.create(ledger, clock).close()  # an older copy, from before the plan
    last = headers[-1].header
    with Ledger.open(ledger, clock) as found:
        limits = fed.members[0].policy.limits
        seen = (last.ledger_sequence, found.head()[1].__class__(last.ledger_head))
        found.recover(found.recovery(*seen, missing_since=NOW, limits=limits))
    with fed.seats() as seats:
        for seen_header in headers:  # each of them, whenever the coordinator likes
            reply = seats[ONE].send(Invite(plan=plan_toml(fed.plan), seen=seen_header))
            assert reply == Refuse(code=RefusalCode.PRICE), seats[ONE].log
    allowing = decided(fed, epsilon_per_year=100.0, epsilon_lifetime=100.0)
    with allowing.seats() as seats:  # the budget is there, and records know what the ledger lost
        reply = seats[ONE].send(Invite(plan=plan_toml(fed.plan)))
        assert reply == Refuse(code=RefusalCode.PRICE)
        assert "entered before" in seats[ONE].log[-1]


def test_what_an_institution_remembers_of_its_own_ledger_never_goes_back(tmp_path: Path) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        table, seat = Table.of(fed, seats), seats[ONE]
        seen = []
        for round_ in range(2):
            upload = seat.send(table.open(Question.STEP, round_=round_))
            assert isinstance(upload, Upload)
            header = upload.header
            seen.append(SeenHeader(context=upload.context, header=header))
            assert seat.records.own_head() == (header.ledger_sequence, header.ledger_head)
        latest = seat.records.own_head()
        for one in (*reversed(seen), *seen):  # an old one is shown: it is ours, and stays old
            assert isinstance(seat.send(Invite(plan=plan_toml(fed.plan), seen=one)), Accept)
            assert seat.records.own_head() == latest


def test_a_plan_that_was_closed_is_neither_voted_about_nor_refunded_nor_entered_again(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        table = Table.of(fed, seats)
        context = table.asking(request := table.open(Question.BINS)).context
        table.collected(request)
    closing = Close(plan=fed.plan.digest, release=b"", coins=None)
    with fed.seats() as seats:
        for seat in seats.values():
            seat.send(closing)
        for request in (
            Abort(context=context),
            Refund(context=context, voters=(), votes=()),
            Begin(plan=fed.plan.digest, session=SECOND),
            Invite(plan=plan_toml(fed.plan)),
        ):
            assert isinstance(seats[ONE].send(request), Refuse)
    with fed.seats() as seats:
        assert isinstance(seats[ONE].send(Invite(plan=plan_toml(fed.plan))), Refuse)
        entries = [one.entry for one in seats[ONE].ledger.entries()]
        assert [type(one) for one in entries[:2]] == [Reserved, Spent]
        assert not any(isinstance(one, Refunded) for one in entries)


def test_questions_of_a_plan_come_in_one_order_over_all_of_its_sessions(tmp_path: Path) -> None:
    fed = federation(tmp_path, people=20, spare_attempts=1, rounds=2)
    card = flat_card(fed.schema)
    with fed.seats() as seats:
        table = Table.of(fed, seats)
        table.total(table.open(Question.STEP, card, round_=1))
    for number in range(2, 5):
        with fed.seats() as seats:
            again = Table.again(fed, seats, session=bytes([number]) * 32)
            for round_, attempt in ((0, 0), (0, 1), (1, 0)):
                asked = again.open(Question.STEP, card, round_=round_, attempt=attempt)
                assert isinstance(seats[ONE].send(asked), Refuse)
            session = again.group.terms.session
            begun = seats[ONE].send(Begin(plan=fed.plan.digest, session=session))
            assert not isinstance(begun, Begun), "a session is begun once"


def test_a_release_and_a_new_transcript_have_durable_names_before_anybody_hears_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[set[str]] = []
    fsync = os.fsync

    def noting(handle: int) -> None:
        fsync(handle)
        if os.path.sameopenfile(handle, directory):
            settled.append({one.name for one in tmp_path.iterdir()})

    directory = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(os, "fsync", noting)
    training = Training(tmp_path)
    with training.transcript():
        assert settled[-1:] == [{"transcript.jsonl"}]
    training.keep_release(b"{}")
    os.close(directory)
    assert "release.json" in settled[-1]
