"""Whoever withdraws is in no answer from the next question on, whatever is killed meanwhile."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from clients.snapshot import Snapshot
from clients.withdrawals import Withdrawals
from federation import door
from federation.asking import sum_for
from federation.messages import Coins, RefusalCode, Refuse
from federation.privacy.units import Population
from federation.query import Question
from federation.secure_aggregation.upload import Upload
from tests.exchanges import Table
from tests.federations import KEY, Federation, Seat, federation, flat_card

PEOPLE = 60
ONE = "bank-00"


def withdrawals_of(fed: Federation) -> Withdrawals:
    return Withdrawals(fed.directory / "seats" / ONE / "withdrawn")


def withdraw(fed: Federation, *people: int) -> int:
    return withdrawals_of(fed).add(fed.plan.people.split, [str(one) for one in people])


def counted(seat: Seat, fed: Federation) -> int:
    """Returns how many people an answer to the bins would count now, without noise."""
    taking = seat.institution.taking
    query = sum_for(fed.plan, taking.schema, Question.BINS, None)
    people = taking.people(Question.BINS, None, sample_key=bytes(32))
    total = door.sum_of(query, people).total
    grids = [grid for grid in fed.schema.grids if grid.role == "scored"]
    first = len(grids[0].labels) * 2  # split by outcome
    return int(np.round(total[:first].sum() / 2**16))


def test_people_who_withdraw_are_in_no_later_question(tmp_path: Path) -> None:
    fed = federation(tmp_path, people=PEOPLE)
    with fed.seats() as seats:
        table = Table.of(fed, seats)
        table.total(table.open(Question.BINS))
        seat = seats[ONE]
        before = seat.institution.taking.snapshot.people(Population.TRAINED)
        assert withdraw(fed, *range(10)) == 10
        assert seat.institution.taking.snapshot.people(Population.TRAINED) == before
        table.total(table.open(Question.STEP))
        snapshot = seat.institution.taking.snapshot
        gone = 10 - (before - snapshot.people(Population.TRAINED))
        held_out = snapshot.people(Population.HELD_OUT)
        assert snapshot.people(Population.TRAINED) < before
        assert gone + snapshot.people(Population.TRAINED) + held_out == PEOPLE - 10 + gone
        assert counted(seat, fed) == snapshot.people(Population.TRAINED)


def test_an_audit_looks_at_the_snapshot_that_was_answered_from(tmp_path: Path) -> None:
    fed = federation(tmp_path, people=PEOPLE)
    plan = msgspec.structs.replace(
        fed.plan, participation=msgspec.structs.replace(fed.plan.participation, audited_share=1.0)
    )
    fed = replace(fed, plan=plan.signed(KEY))
    with fed.seats() as seats:
        table = Table.of(fed, seats)
        request = table.open(Question.BINS)
        collected = table.collected(request)
        revealed = table.told(collected)
        for place, reply in revealed.items():
            collected.require_reveals(place, reply)
        opened = collected.opened(revealed)
        withdraw(fed, *range(10))
        coins = Coins(context=collected.context, coins=opened.coins)
        step = table.open(Question.STEP, coins=coins)
        for name in seats:
            assert isinstance(seats[name].send(step), Upload), seats[name].log
        said = [line for line in seats[ONE].log if line.startswith("audit of")]
        assert len(said) == 1
        assert "gives the upload again" in said[0]


@pytest.mark.parametrize("killed_at", ["before", "rewritten", "noted"])
def test_a_process_killed_while_it_takes_people_out_goes_on_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    fed = federation(tmp_path, people=PEOPLE)

    class Killed(BaseException):
        pass

    with fed.seats() as seats:
        table = Table.of(fed, seats)
        seats[ONE].send(table.open(Question.BINS))
        withdraw(fed, *range(10))
        taking = seats[ONE].institution.taking
        note = taking.note_snapshot

        def die_at(digest: str) -> None:
            if killed_at == "before":
                raise Killed
            if killed_at == "rewritten" and digest:
                raise Killed
            note(digest)
            if digest:
                raise Killed

        taking.note_snapshot = die_at
        with pytest.raises(Killed):
            seats[ONE].send(table.open(Question.STEP))
    with fed.seats() as seats:
        seat = seats[ONE]
        assert "takes plan test-plan" in seat.log[0], seat.log
        again = Table.again(fed, seats, session=b"\x02" * 32)
        assert isinstance(seat.send(again.open(Question.STEP, flat_card(fed.schema))), Upload)
        snapshot = seat.institution.taking.snapshot
        assert sum(snapshot.people(one) for one in Population) == PEOPLE - 10
        opened = Snapshot.open(tmp_path / "seats" / ONE / "snapshot", fed.schema)
        assert opened.digest == snapshot.digest


def test_without_the_file_of_withdrawals_nothing_is_answered_and_nothing_paid(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=PEOPLE)
    with fed.seats() as seats:
        table = Table.of(fed, seats)
        withdrawals_of(fed).path.unlink()
        reply = seats[ONE].send(table.open(Question.BINS))
        assert reply == Refuse(code=RefusalCode.UNAVAILABLE)
        assert len(seats[ONE].ledger.entries()) == 1
