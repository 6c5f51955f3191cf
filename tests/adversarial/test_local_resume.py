"""In local mode, too, whoever is killed goes on where it was: nothing is paid or said twice."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from experiments.entropy import SeededEntropy
from federation.errors import ConfigurationError
from federation.messages import Answered, Ask, Close, Refuse, encode
from federation.privacy.ledger_entries import Spent
from federation.query import Question
from federation.transcript import Transcript
from federation.transport import Transport
from server.past import Past
from server.running import Running
from server.sums import sums_of
from server.training import run_training
from tests.adversarial import test_restarts
from tests.adversarial.test_restarts import Writes
from tests.adversarial.test_resume import Disk, Killed, checked
from tests.federations import KEY, NOW, Federation, federation, ignore, in_process, roster_of
from tests.local_mode import CARD, ask, local, net

ONE = "bank-00"


def life(fed: Federation, transport: Transport, disk: Disk) -> bytes:
    """One life of the coordinator, from what it finds on its disk to the release."""
    sums = sums_of(
        Running(
            plan=fed.plan,
            schema=fed.schema,
            roster=roster_of(fed.plan),
            transport=transport,
            key=KEY,
            entropy=SeededEntropy("unused"),
            transcript=Transcript(b"".join(disk.lines), append=disk.append),
            seen={},
            keep_release=disk.keep,
            watch=ignore,
        )
    )
    if disk.release is not None:
        sums.close(release=disk.release)
        return disk.release
    return run_training(
        plan=fed.plan,
        schema=fed.schema,
        sums=sums,
        key=KEY,
        now=datetime.fromtimestamp(NOW, UTC),
        watch=ignore,
    )


def lives(fed: Federation, transport: Transport, last: int, *, done: bool) -> Disk | None:
    """Kills a coordinator at one of its writes, then lets it finish; None if it has not so many."""
    disk = Disk()
    disk.last, disk.is_done = last, done
    try:
        life(fed, transport, disk)
    except Killed:
        pass
    else:
        return None
    disk.last = None
    if not Past.of(Transcript(b"".join(disk.lines))).has_ended:
        life(fed, transport, disk)
    return disk


@pytest.mark.slow
@pytest.mark.parametrize("asked", [CARD, net(steps=2)], ids=["scorecard", "network"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_coordinator_killed_at_any_write_finishes_in_its_next_life_with_the_same_release(
    tmp_path: Path, done: bool, asked: dict[str, Any]
) -> None:
    fed = local(tmp_path, asked, people=20)
    with fed.seats(out="never killed") as seats:
        undisturbed = life(fed, in_process(seats), Disk())
    last = 0
    while True:
        last += 1
        with fed.seats(out=f"killed at {last}") as seats:
            disk = lives(fed, in_process(seats), last, done=done)
            if disk is None:
                break
            checked(fed, disk, seats)
            assert disk.release == undisturbed, "whoever had answered said the same again"
    # The plan; a question and its total for bins, three rounds, evaluation; the release; the end.
    assert last - 1 == 1 + 2 * 5 + 1 + 1


def test_a_total_of_another_version_of_the_model_is_not_gone_on_with(tmp_path: Path) -> None:
    fed = local(tmp_path, CARD, people=20)
    disk = Disk()
    with fed.seats() as seats:
        disk.last, disk.is_done = 5, True
        with pytest.raises(Killed):
            life(fed, in_process(seats), disk)
        disk.last = None
        changed = msgspec.json.decode(disk.lines[4])
        changed["model"] = "AAAA"
        disk.lines[4] = msgspec.json.encode(changed) + b"\n"
        with pytest.raises(ConfigurationError, match="is not the one that was asked about"):
            life(fed, in_process(seats), disk)


def test_a_transcript_of_another_plan_is_not_taken_up(tmp_path: Path) -> None:
    fed, joint = local(tmp_path, CARD, people=20), federation(tmp_path, people=20)
    disk = Disk()
    with joint.seats() as seats:
        disk.last, disk.is_done = 1, True
        with pytest.raises(Killed):
            life(joint, in_process(seats), disk)
        disk.last = None
        with pytest.raises(ConfigurationError, match="another plan or roster"):
            life(fed, in_process(seats), disk)


def closing(fed: Federation) -> Close:
    return Close(plan=fed.plan.digest, release=b"", coins=None)


def killed_at(fed: Federation, out: str, last: int, *, done: bool) -> int | None:
    """Ends one institution's process at a write; returns the writes if there are not so many."""
    requests = [
        ask(fed, Question.BINS),
        *(ask(fed, fed.plan.training_question, round_=number) for number in range(2)),
    ]
    said: list[tuple[Ask, bytes]] = []
    alone = replace(fed, members=fed.members[:1])
    with pytest.MonkeyPatch.context() as patch, alone.seats(out=out) as seats:
        writes = Writes(patch, last, done=done)
        writes.watch(seats[ONE])
        try:
            seats[ONE].accept(fed.plan)
            for request in requests:
                said.append((request, seats[ONE].institution.handle(encode(request))))
            seats[ONE].send(closing(fed))
        except test_restarts.Killed:
            pass
        else:
            return writes.count
    with alone.seats(out=out, entropy=lambda name: SeededEntropy(f"later {name}")) as seats:
        seat = seats[ONE]
        is_under_way = bool(seat.ledger.balance(fed.members[0].policy.limits).open_plans)
        paid = [one.entry for one in seat.ledger.entries() if isinstance(one.entry, Spent)]
        assert len(said) <= len(paid) <= len(said) + 1, "all that was said was paid"
        if is_under_way:
            for request, reply in said:
                assert seat.institution.handle(encode(request)) == reply
            left = requests[len(said) :]
            replies = [seat.send(request) for request in left]
            was_cut = len(paid) > len(said) and seat.records.reply_to(encode(left[0])) is None
            for number, reply in enumerate(replies):
                expected = Refuse if number == 0 and was_cut else Answered
                assert isinstance(reply, expected), (last, number, seat.log)
        spent = [one.entry for one in seat.ledger.entries() if isinstance(one.entry, Spent)]
        which = [(one.question, one.round) for one in spent]
        assert len(set(which)) == len(which), "nothing was paid twice"
        seat.send(closing(fed))
        seat.ledger.verify()
    return None


@pytest.mark.slow
@pytest.mark.parametrize("asked", [CARD, net(steps=2)], ids=["scorecard", "network"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_an_institution_killed_at_any_write_has_paid_for_what_it_said_and_says_nothing_anew(
    tmp_path: Path, done: bool, asked: dict[str, Any]
) -> None:
    fed = local(tmp_path, asked, people=20)
    last, writes = 0, None
    while writes is None:
        last += 1
        writes = killed_at(fed, f"killed at {last}", last, done=done)
    # Note the plan and reserve; note where questions go; three of noting, paying and saying; the
    # end in both files.
    assert writes == last - 1 == 2 + 1 + 3 * 3 + 2


Keys = Callable[[str], SeededEntropy]


def test_what_was_paid_and_not_noted_as_said_is_not_answered_with_other_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = local(tmp_path, CARD, people=20)
    request = ask(fed, Question.BINS)
    with fed.seats() as seats, monkeypatch.context() as patched:
        seats[ONE].accept(fed.plan)
        patched.setattr("clients.records.Records.say", _broken)
        with pytest.raises(Killed):
            seats[ONE].send(request)
    with fed.seats(entropy=lambda name: SeededEntropy(f"later {name}")) as seats:
        before = seats[ONE].ledger.head()
        assert isinstance(seats[ONE].send(request), Refuse)
        assert seats[ONE].ledger.head() == before


def _broken(*_: object, **__: object) -> None:
    raise Killed
