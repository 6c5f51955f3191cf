"""A coordinator or an institution that is killed takes the training up again where it was."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from experiments.entropy import SeededEntropy
from federation.errors import ConfigurationError, LedgerCorrupt, ProtocolError
from federation.messages import (
    Abort,
    Accept,
    Close,
    Invite,
    Open,
    RefusalCode,
    Refuse,
    SeenHeader,
    decode_reply,
    decode_request,
    encode,
)
from federation.model.release import load_release
from federation.plan import plan_toml
from federation.privacy.ledger_entries import Closed, Refunded, Reserved, Spent
from federation.query import Question
from federation.secure_aggregation.survivors import Survivors
from federation.secure_aggregation.upload import Header, Upload
from federation.transcript import Transcript
from federation.transcript_audit import audit
from federation.transport import Transport
from server.past import Past
from server.rounds import MaskedSums
from server.running import Running
from server.training import run_training
from tests.exchanges import Table
from tests.federations import (
    KEY,
    NOW,
    Federation,
    Seat,
    federation,
    ignore,
    in_process,
    roster_of,
)


def closing(fed: Federation) -> Close:
    return Close(plan=fed.plan.digest, release=b"", coins=None)


class Killed(BaseException):
    """The process is gone."""


class Disk:
    """What a coordinator has made durable; its process ends before or after one of its writes."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.release: bytes | None = None
        self.writes = 0
        self.last: int | None = None
        self.is_done = False

    def append(self, line: bytes) -> None:
        self._write(lambda: self.lines.append(line))

    def keep(self, release: bytes) -> None:
        def write() -> None:
            assert self.release in (None, release), "a release is never overwritten"
            self.release = release

        self._write(write)

    def _write(self, write: Callable[[], None]) -> None:
        self.writes += 1
        if self.writes == self.last and not self.is_done:
            raise Killed
        write()
        if self.writes == self.last:
            raise Killed


def life(fed: Federation, transport: Transport, disk: Disk, number: int) -> bytes:
    """One life of the coordinator, from what it finds on its disk to the release."""
    sums = MaskedSums(
        Running(
            plan=fed.plan,
            schema=fed.schema,
            roster=roster_of(fed.plan),
            transport=transport,
            key=KEY,
            entropy=SeededEntropy(f"life {number}"),
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
        life(fed, transport, disk, 0)
    except Killed:
        pass
    else:
        return None
    disk.last = None
    if not Past.of(Transcript(b"".join(disk.lines))).has_ended:
        life(fed, transport, disk, 1)
    return disk


def checked(fed: Federation, disk: Disk, seats: Mapping[str, Seat]) -> None:
    """Raises unless the release is verified, audited, and everybody has it and closed the plan."""
    assert disk.release is not None
    release = load_release(disk.release)
    release.require_signed_by(fed.plan.coordinator)
    assert audit(b"".join(disk.lines), fed.schema, release).findings == ()
    for seat in seats.values():
        assert seat.ledger.balance(fed.members[0].policy.limits).open_plans == ()
        assert seat.releases == [disk.release]
        seat.ledger.verify()


@pytest.mark.slow
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_coordinator_killed_at_any_write_finishes_in_its_next_life(
    tmp_path: Path, done: bool
) -> None:
    fed = federation(tmp_path, people=20, spare_attempts=1)
    last = 0
    while True:
        last += 1
        with fed.seats(out=f"killed at {last}") as seats:
            disk = lives(fed, in_process(seats), last, done=done)
            if disk is None:
                break
            checked(fed, disk, seats)
            for seat in seats.values():  # nothing was paid twice: what was said is said again
                spent = [one for one in seat.ledger.entries() if isinstance(one.entry, Spent)]
                assert len(spent) == 5
    # plan; session; two lines for each of bins, three steps and evaluation; release; end.
    assert last - 1 == 1 + 1 + 2 * 5 + 1 + 1


def test_what_was_opened_is_not_asked_again(tmp_path: Path) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        disk = lives(fed, in_process(seats), 8, done=True)  # two steps were opened
        assert disk is not None
        checked(fed, disk, seats)
        for seat in seats.values():
            spent = [one.entry for one in seat.ledger.entries() if isinstance(one.entry, Spent)]
            assert len(spent) == 5


class Cut:
    """Kills the coordinator once all have replied to a first request of some kind."""

    def __init__(self, inner: Transport, kind: type) -> None:
        self._inner = inner
        self._kind = kind

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        replies = self._inner.exchange(requests)
        if isinstance(decode_request(next(iter(requests.values()))), self._kind):
            raise Killed
        return replies


def test_an_attempt_that_was_lost_with_all_its_processes_stays_paid_and_bins_are_not_asked_twice(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20)
    disk = Disk()
    with fed.seats() as seats, pytest.raises(Killed):
        life(fed, Cut(in_process(seats), Open), disk, 0)
    with fed.seats() as seats:
        with pytest.raises(ProtocolError, match="No total of bins 0 could be opened"):
            life(fed, in_process(seats), disk, 1)
        for seat in seats.values():
            entries = [one.entry for one in seat.ledger.entries()]
            assert not any(isinstance(one, Refunded) for one in entries)
            assert sum(isinstance(one, Spent) for one in entries) == 1


class Heard(Cut):
    """Remembers what the first institution has uploaded."""

    upload: Upload

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        replies = self._inner.exchange(requests)
        if isinstance(decode_request(next(iter(requests.values()))), Open):
            reply = decode_reply(replies["bank-00"])
            assert isinstance(reply, Upload)
            self.upload = reply
            raise Killed
        return replies


def test_a_process_does_not_vote_on_what_an_earlier_one_may_have_released(tmp_path: Path) -> None:
    """Its records may be a copy from between its answer and its release."""
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        heard = Heard(in_process(seats), Open)
        with pytest.raises(Killed):
            life(fed, heard, Disk(), 0)
        vote = encode(Abort(context=heard.upload.context))
    with fed.seats() as seats:
        reply = decode_reply(seats["bank-00"].institution.handle(vote))
        assert isinstance(reply, Refuse)
        assert reply.code is RefusalCode.OUT_OF_ORDER
        assert "cannot vote" in seats["bank-00"].log[-1]


def test_what_was_released_before_all_processes_ended_is_opened_without_paying_again(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20)
    disk = Disk()
    with fed.seats() as seats, pytest.raises(Killed):
        life(fed, Cut(in_process(seats), Survivors), disk, 0)
    with fed.seats() as seats:
        life(fed, in_process(seats), disk, 1)
        checked(fed, disk, seats)
        for seat in seats.values():
            spent = [one for one in seat.ledger.entries() if isinstance(one.entry, Spent)]
            assert len(spent) == 5


def test_what_one_has_released_is_not_given_up_and_bins_are_not_asked_twice(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20)

    class Half(Cut):
        """Half of them are told who survived, and release."""

        def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
            if isinstance(decode_request(next(iter(requests.values()))), Survivors):
                requests = dict(sorted(requests.items())[:2])
            return super().exchange(requests)

    disk = Disk()
    with fed.seats() as seats, pytest.raises(Killed):
        life(fed, Half(in_process(seats), Survivors), disk, 0)
    with fed.seats() as seats:
        with pytest.raises(ProtocolError, match="No total of bins 0 could be opened"):
            life(fed, in_process(seats), disk, 1)
        for seat in seats.values():
            entries = [one.entry for one in seat.ledger.entries()]
            assert [type(one) for one in entries] == [Reserved, Spent, Closed]


def test_a_coordinator_does_not_go_on_with_another_model_plan_or_ended_training(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        disk = lives(fed, in_process(seats), 8, done=True)
    assert disk is not None
    ended = list(disk.lines)
    with pytest.raises(ConfigurationError, match="has ended"):
        life(fed, in_process({}), disk, 2)
    disk.release, disk.lines = None, ended[:6]
    disk.lines = [*ended[:3], ended[3].replace(b'"total":[', b'"total":[7', 1), *ended[4:6]]
    with pytest.raises(ConfigurationError, match="not the one that was asked about"):
        life(fed, in_process({}), disk, 3)
    other = federation(tmp_path, people=20, name="another-plan")
    with pytest.raises(ConfigurationError, match="another plan or roster"):
        life(other, in_process({}), disk, 4)


@contextmanager
def restarting(
    fed: Federation, name: str, at: set[tuple[Question, int]], *, with_reply: bool
) -> Iterator[tuple[Transport, dict[str, Seat]]]:
    """Yields a transport on which one institution's process is killed at some questions."""
    one = replace(fed, members=tuple(member for member in fed.members if member.id == name))
    others = replace(fed, members=tuple(member for member in fed.members if member.id != name))
    with others.seats() as staying:
        running = one.seats()
        seats = {**staying, **running.__enter__()}

        class Restarting:
            def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
                nonlocal running
                kill = False
                if name in requests:
                    request = decode_request(requests[name])
                    kill = isinstance(request, Open) and (request.question, request.round) in at
                    if kill:
                        at.remove((request.question, request.round))
                heard = {
                    other: data
                    for other, data in requests.items()
                    if not (kill and other == name and not with_reply)
                }
                replies = dict(in_process(seats).exchange(heard))
                if kill:
                    running.__exit__(None, None, None)
                    running = one.seats()
                    seats.update(running.__enter__())
                return replies

        try:
            yield Restarting(), seats
        finally:
            running.__exit__(None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("with_reply", [False, True], ids=["before it answers", "after"])
@pytest.mark.parametrize("quorum", [3, 4])
def test_an_institution_that_is_killed_is_asked_again_once_it_is_back(
    tmp_path: Path, with_reply: bool, quorum: int
) -> None:
    fed = federation(tmp_path, people=20, quorum=quorum, spare_attempts=2, rounds=7)
    at = {(Question.STEP, 0), (Question.STEP, 2)}
    with restarting(fed, "bank-01", at, with_reply=with_reply) as (transport, seats):
        disk = Disk()
        life(fed, transport, disk, 0)
        assert at == set()
        assert disk.release is not None
        release = load_release(disk.release)
        proven = [
            one for one in audit(b"".join(disk.lines), fed.schema, release).findings if one.proven
        ]
        assert proven == []
        for seat in seats.values():
            assert seat.ledger.balance(fed.members[0].policy.limits).open_plans == ()
        last = [one.entry for one in seats["bank-01"].ledger.entries()]
        asked = {(one.question, one.round) for one in last if isinstance(one, Spent)}
        assert ("step", 6) in asked, "it is back in the session"
        assert ("evaluation", 0) in asked


def test_a_plan_is_taken_up_again_only_on_the_snapshot_that_it_began_with(tmp_path: Path) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        Table.of(fed, seats)
    header = tmp_path / "seats" / "bank-01" / "snapshot" / "snapshot.json"
    header.write_bytes(header.read_bytes().replace(b'"not_held":[]', b'"not_held":["late"]'))
    with fed.seats() as seats:
        assert "takes plan test-plan" in seats["bank-00"].log[0]
        assert "snapshot is another one" in seats["bank-01"].log[0]
        for name, reply in (("bank-00", Accept), ("bank-01", Refuse)):
            assert isinstance(seats[name].send(Invite(plan=plan_toml(fed.plan))), reply)
        assert seats["bank-01"].ledger.balance(fed.members[0].policy.limits).open_plans
        seats["bank-01"].send(closing(fed))
        assert not seats["bank-01"].ledger.balance(fed.members[0].policy.limits).open_plans
        assert seats["bank-01"].records.entered_plan(fed.plan.digest) is None


def test_an_expired_plan_is_closed_at_the_restart_and_its_budget_returns(tmp_path: Path) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        Table.of(fed, seats)
    with fed.seats(time=lambda: NOW + 2 * 86_400) as seats:
        for seat in seats.values():
            assert "has expired" in seat.log[0]
            balance = seat.ledger.balance(fed.members[0].policy.limits)
            assert balance.open_plans == ()
            assert balance.trained.charged_lifetime == 0


def test_a_refusal_of_its_people_reaches_a_plan_that_is_under_way(tmp_path: Path) -> None:
    fed = federation(tmp_path, people=20)
    said = {"approved": True}
    with fed.seats(is_approved=lambda _: said["approved"]) as seats:
        table = Table.of(fed, seats)
        said["approved"] = False
        seat = seats["bank-00"]
        for request in (table.open(Question.BINS), Invite(plan=plan_toml(fed.plan))):
            assert seat.send(request) == Refuse(code=RefusalCode.POLICY)
        assert len(seat.ledger.entries()) == 1


def seen_of(fed: Federation, seats: dict[str, Seat], name: str) -> SeenHeader:
    """Returns the header that an institution signs in an attempt at the bins."""
    table = Table.of(fed, seats)
    request = table.open(Question.BINS)
    upload = table.collected(request).uploads[table.group.members.index(name)]
    return SeenHeader(context=upload.context, header=upload.header)


def test_a_restored_backup_is_found_out_by_the_header_that_the_institution_signed(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        seen = seen_of(fed, seats, "bank-01")
        seats["bank-01"].send(closing(fed))
    for file in (tmp_path / "seats" / "bank-01").glob("*.sqlite*"):
        file.unlink()  # the backup is of the day before: neither ledger nor records know anything
    another = federation(tmp_path, people=20, name="another-plan")
    with another.seats() as seats:
        invite = Invite(plan=plan_toml(another.plan), seen=seen)
        assert isinstance(seats["bank-00"].send(invite), Refuse), "it is not this one's"
        with pytest.raises(LedgerCorrupt, match="older than a head seen"):
            seats["bank-01"].send(invite)
    with pytest.raises(LedgerCorrupt, match="older than a head seen"), another.seats():
        pass  # it does not start again either


def test_a_header_that_the_institution_did_not_sign_stops_nobody(tmp_path: Path) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        seen = seen_of(fed, seats, "bank-01")
        seat = seats["bank-01"]
        for wrong in (
            {"context": bytes(32)},
            {"header": replace_struct(seen, ledger_sequence=99)},
            {"header": replace_struct(seen, ledger_head="0" * 64)},
        ):
            forged = SeenHeader(**{"context": seen.context, "header": seen.header, **wrong})
            reply = seat.send(Invite(plan=plan_toml(fed.plan), seen=forged))
            assert reply == Refuse(code=RefusalCode.SIGNATURE)
        right = Invite(plan=plan_toml(fed.plan), seen=seen)
        assert isinstance(seat.send(right), Accept)


def replace_struct(seen: SeenHeader, **changes: object) -> Header:
    return msgspec.structs.replace(seen.header, **changes)


def test_a_coordinator_tells_each_institution_the_header_it_saw_last(tmp_path: Path) -> None:
    fed = federation(tmp_path, people=20)
    with fed.seats() as seats:
        disk = lives(fed, in_process(seats), 8, done=True)
        assert disk is not None
        seen = Past.of(Transcript(b"".join(disk.lines))).seen
        for name, seat in seats.items():
            entries = {one.sequence: one.hash() for one in seat.ledger.entries()}
            header = seen[name].header
            assert entries[header.ledger_sequence] == header.ledger_head
