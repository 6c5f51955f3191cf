"""The gate of a plan: nothing clearly worse on people held out is released, or believed."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from clients.releases import trusted_release
from experiments.entropy import SeededEntropy
from federation.errors import ConfigurationError, ProtocolError
from federation.learning import Joint, Local
from federation.messages import Close, decode_request
from federation.model.release import release_json
from federation.outcome import require_gate, require_outcome
from federation.plan import load_plan, plan_toml
from federation.privacy.ledger_entries import Closed, Spent
from federation.transcript import Ended, Transcript, read_line
from federation.transcript_audit import audit
from federation.transport import Transport
from fedscore.simulation import InProcess
from server import training
from server.running import Running
from server.sums import sums_of
from server.training import run_training
from tests.federations import (
    KEY,
    NOW,
    Seat,
    federation,
    ignore,
    in_process,
    roster_of,
    signed_plan,
    small_schema,
)

GENEROUS = {"people": 400, "epsilon": 40.0, "delta": 1e-4, "rounds": 2}


def test_a_gate_is_read_back_and_needs_an_evaluation() -> None:
    plan = signed_plan(small_schema(), least_auc=0.7)
    assert load_plan(plan_toml(plan)) == plan
    assert "least_auc" not in plan_toml(signed_plan(small_schema()))
    with pytest.raises(ConfigurationError, match="least_auc"):
        signed_plan(small_schema(), least_auc=0.7, held_out_fraction=0.0)
    for wrong in (0.4, 1.0):
        with pytest.raises(ConfigurationError, match="least_auc"):
            signed_plan(small_schema(), least_auc=wrong)


@pytest.mark.slow
def test_a_card_that_is_clearly_worse_is_not_released_and_what_is_unspent_returns(
    tmp_path: Path,
) -> None:
    made = federation(tmp_path, institutions=3, least_auc=0.99, **GENEROUS)
    transcript = Transcript()
    with made.seats() as seats:
        running = Running(
            plan=made.plan,
            schema=made.schema,
            roster=roster_of(made.plan),
            transport=in_process(seats),
            key=KEY,
            entropy=SeededEntropy("gate"),
            transcript=transcript,
            seen={},
            keep_release=lambda _: pytest.fail("released"),
            watch=ignore,
        )
        with pytest.raises(ProtocolError, match=r"the plan asks 0\.99 at least"):
            run_training(
                plan=made.plan,
                schema=made.schema,
                sums=sums_of(running),
                key=KEY,
                now=datetime.fromtimestamp(NOW, UTC),
                watch=ignore,
            )
        for seat in seats.values():
            assert isinstance(seat.ledger.entries()[-1].entry, Closed)
            assert "ended without a release" in seat.log[-1]
    assert [line.release for line in transcript.lines() if isinstance(line, Ended)] == [""]


class _Cut(InProcess):
    """Crashes when somebody is to be told that the plan has ended: before or after they hear it."""

    is_heard = False

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        if not any(isinstance(decode_request(data), Close) for data in requests.values()):
            return super().exchange(requests)
        if self.is_heard:
            super().exchange(requests)
        raise RuntimeError("cut")


@pytest.mark.parametrize("is_heard", [False, True])
@pytest.mark.parametrize("mode", [Joint(), Local(steps=1)])
@pytest.mark.slow
def test_a_coordinator_that_is_cut_at_the_gate_stands_before_it_again_and_nobody_pays_twice(
    tmp_path: Path, mode: Joint | Local, *, is_heard: bool
) -> None:
    asked = GENEROUS | ({"spare_attempts": 0} if isinstance(mode, Local) else {})
    made = federation(tmp_path, institutions=3, least_auc=0.99, mode=mode, **asked)

    def train(transport: Transport, transcript: Transcript) -> None:
        running = Running(
            plan=made.plan,
            schema=made.schema,
            roster=roster_of(made.plan),
            transport=transport,
            key=KEY,
            entropy=SeededEntropy("gate"),
            transcript=transcript,
            seen={},
            keep_release=lambda _: pytest.fail("released"),
            watch=ignore,
        )
        run_training(
            plan=made.plan,
            schema=made.schema,
            sums=sums_of(running),
            key=KEY,
            now=datetime.fromtimestamp(NOW, UTC),
            watch=ignore,
        )

    with made.seats() as seats:
        cut, before = _Cut({name: seat.institution for name, seat in seats.items()}), Transcript()
        cut.is_heard = is_heard
        with pytest.raises(RuntimeError, match="cut"):
            train(cut, before)
        paid = {name: _spent(seat) for name, seat in seats.items()}
        again = Transcript(before.content())
        # In local mode whoever has heard of the end cannot be invited again: that ends it as well.
        with pytest.raises(ProtocolError):
            train(in_process(seats), again)
        for name, seat in seats.items():
            assert _spent(seat) == paid[name]
            assert len(paid[name]) == 2 + made.plan.rounds
            assert isinstance(seat.ledger.entries()[-1].entry, Closed)
            assert not seat.releases
    assert [line.release for line in again.lines() if isinstance(line, Ended)] == [""]
    assert audit(again.content(), made.schema, None).findings == ()


def _spent(seat: Seat) -> list[Spent]:
    return [one.entry for one in seat.ledger.entries() if isinstance(one.entry, Spent)]


@pytest.mark.slow
def test_a_release_that_fails_the_gate_of_its_plan_is_believed_by_nobody(tmp_path: Path) -> None:
    made = federation(tmp_path, institutions=3, least_auc=0.5, **GENEROUS)
    release = made.run(noise_entropy=SeededEntropy(1)).release
    require_outcome(release, made.plan)
    overall = release.report.overall
    assert overall is not None
    strict = msgspec.structs.replace(made.plan, least_auc=(overall.auc.high + 1) / 2).signed(KEY)
    lying = msgspec.structs.replace(release, plan=strict.digest).signed(KEY)
    with pytest.raises(ProtocolError, match="nothing is released"):
        trusted_release(release_json(lying), strict)
    within = msgspec.structs.replace(made.plan, least_auc=overall.auc.high - 1e-6)
    require_gate(overall, within)  # not clearly worse: the interval decides
    with pytest.raises(ProtocolError, match="Noise hides"):
        require_gate(None, made.plan)


@pytest.mark.slow
def test_an_audit_finds_a_release_that_the_gate_should_have_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = federation(tmp_path, institutions=3, least_auc=0.99, **GENEROUS)
    monkeypatch.setattr(training, "require_gate", lambda _overall, _plan: None)
    release = made.run(noise_entropy=SeededEntropy(1)).release
    transcript = (tmp_path / "out" / "transcript.jsonl").read_bytes()
    for known in (release, None):
        (finding,) = audit(transcript, made.schema, known).findings
        assert finding.who == "coordinator"
        assert "the plan asks 0.99 at least" in finding.what


@pytest.mark.slow
def test_an_audit_finds_an_auc_that_does_not_follow_from_the_totals(tmp_path: Path) -> None:
    made = federation(tmp_path, institutions=3, least_auc=0.5, **GENEROUS)
    release = made.run(noise_entropy=SeededEntropy(1)).release
    lines = (tmp_path / "out" / "transcript.jsonl").read_bytes().splitlines()
    overall = release.report.overall
    assert overall is not None
    better = replace(overall, auc=replace(overall.auc, high=1.0))
    for told in (better, None):
        report = msgspec.structs.replace(release.report, overall=told)
        lying = msgspec.structs.replace(release, report=report).signed(KEY)
        transcript = Transcript()
        for line in lines[:-1]:
            transcript.write(read_line(line))
        transcript.end(lying.digest, KEY)
        found = audit(transcript.content(), made.schema, lying).findings
        assert [one.what for one in found] == ["the released AUC does not follow from the totals"]
