"""Trainings in local mode, whole: every institution adds all of the noise itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments.entropy import SeededEntropy
from experiments.plain import plain_sums
from federation.errors import ProtocolError
from federation.messages import Ask, Invite, decode_request
from federation.plan import plan_toml
from federation.pricing import price_of
from federation.privacy.ledger_entries import Closed, Reserved, Spent
from federation.privacy.units import Population
from federation.query import Question
from federation.transcript import Answers, Transcript, read_line
from federation.transcript_audit import audit
from fedscore import simulation
from fedscore.simulation import InProcess
from server.running import Running
from server.sums import sums_of
from tests.federations import KEY, federation, ignore, names, roster_of
from tests.local_mode import CARD, answered, ask, local, net

KINDS = {"scorecard": CARD, "network": net(), "network of everybody": net(sampling_rate=1.0)}
EACH = pytest.mark.parametrize("asked", KINDS.values(), ids=KINDS)


@EACH
@pytest.mark.slow
def test_a_training_in_local_mode_is_the_same_again_and_found_whole_by_an_audit(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    made = local(tmp_path, asked)
    first = made.run(noise_entropy=SeededEntropy(1), out="first")
    again = made.run(noise_entropy=SeededEntropy(1), out="again")
    other = made.run(noise_entropy=SeededEntropy(2), out="other")
    assert first.release == again.release
    assert first.release.digest != other.release.digest
    transcript = (tmp_path / "first" / "transcript.jsonl").read_bytes()
    found = audit(transcript, made.schema, first.release)
    assert (found.opened, found.models, found.findings) == (5, True, ())


@EACH
@pytest.mark.slow
def test_plain_sums_of_an_experiment_are_what_institutions_would_send(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    made = local(tmp_path, asked)
    sent = made.run(noise_entropy=SeededEntropy(1), out="sent")
    plain = made.run(plain=plain_sums(SeededEntropy(1)), out="plain")
    assert plain.release == sent.release


@EACH
def test_a_ledger_is_charged_what_considering_prints_before_anything_is_answered(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    made = local(tmp_path, asked)
    price = price_of(made.plan, made.schema).price
    with made.seats() as seats:
        seat = seats["bank-00"]
        seat.accept(made.plan)
        assert any(
            isinstance(one.entry, Reserved) and one.entry.price == price
            for one in seat.ledger.entries()
        )
        training = made.plan.training_question
        for question, rounds in (
            (Question.BINS, 1),
            (training, made.plan.rounds),
            (Question.EVALUATION, 1),
        ):
            for number in range(rounds):
                answered(seat, ask(made, question, round_=number))
        spent = [one.entry for one in seat.ledger.entries() if isinstance(one.entry, Spent)]
        for population in Population:
            of_it = [one.units for one in spent if one.population is population]
            assert sum(of_it) == price.of(population)
        assert len(spent) == 2 + made.plan.rounds


def test_a_price_in_local_mode_is_one_institutions_own_noise_alone(tmp_path: Path) -> None:
    made = local(tmp_path, CARD)
    price = price_of(made.plan, made.schema)
    assert price.price == price.alone, "nobody else's noise hides a person, so nobody can betray it"
    joint = federation(tmp_path, epsilon=50.0, spare_attempts=0).plan
    assert made.plan.noise.step > (joint.honest_shares - 0.01) * joint.noise.step


class _Losing(InProcess):
    """Loses every question to one institution but the last, and one round to another."""

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        kept = {}
        for name, data in requests.items():
            request = decode_request(data)
            if isinstance(request, Ask) and request.question is not Question.EVALUATION:
                if name == "bank-00":
                    continue
                if name == "bank-01" and (request.question, request.round) == (Question.STEP, 1):
                    continue
            kept[name] = data
        return super().exchange(kept)


@pytest.mark.slow
def test_who_is_silent_is_left_out_of_that_total_and_may_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = local(tmp_path, CARD, institutions=6, quorum=4)
    monkeypatch.setattr(simulation, "InProcess", _Losing)
    done = made.run()
    assert done.release.institutions == 4
    content = (tmp_path / "out" / "transcript.jsonl").read_bytes()
    lines = [line for line in map(read_line, content.splitlines()) if isinstance(line, Answers)]
    who = {
        (line.question, line.round): {header.institution for header in line.headers}
        for line in lines
    }
    everybody = set(names(6))
    assert who[Question.BINS, 0] == everybody - {"bank-00"}
    assert who[Question.STEP, 1] == everybody - {"bank-00", "bank-01"}
    assert "bank-00" not in who[Question.STEP, 2]
    assert audit(content, made.schema, done.release).findings == ()


class _Silent(InProcess):
    """From the first training round on, two institutions answer no question."""

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        kept = {}
        for name, data in requests.items():
            request = decode_request(data)
            asked = isinstance(request, Ask) and request.question is Question.STEP
            if not (asked and name in ("bank-00", "bank-01")):
                kept[name] = data
        return super().exchange(kept)


def test_fewer_answers_than_the_quorum_end_the_plan_and_what_is_unspent_returns(
    tmp_path: Path,
) -> None:
    made = local(tmp_path, CARD, quorum=3)
    with made.seats() as seats:
        sums = sums_of(
            Running(
                plan=made.plan,
                schema=made.schema,
                roster=roster_of(made.plan),
                transport=_Silent({name: seat.institution for name, seat in seats.items()}),
                key=KEY,
                entropy=SeededEntropy("unused"),
                transcript=Transcript(),
                seen={},
                keep_release=lambda _: None,
                watch=ignore,
            )
        )
        sums.begin()
        assert sums.ask(Question.BINS, round_=0, model=None).answers == 4
        with pytest.raises(ProtocolError, match="2 institutions answered, the quorum is 3"), sums:
            sums.ask(Question.STEP, round_=0, model=ask(made, Question.STEP).model)
        for seat in seats.values():
            assert isinstance(seat.ledger.entries()[-1].entry, Closed)
            assert seat.ledger.balance(made.members[0].policy.limits).open_plans == ()


def test_a_policy_that_does_not_name_local_mode_refuses_it(tmp_path: Path) -> None:
    made = local(tmp_path, CARD, policy={"modes": ("joint",)})
    with made.seats() as seats:
        seat = seats["bank-00"]
        seat.send(Invite(plan=plan_toml(made.plan)))
        assert "mode 'local' is not one of this policy's modes: joint" in seat.log[-1]
        assert seat.ledger.head()[0] == 0
