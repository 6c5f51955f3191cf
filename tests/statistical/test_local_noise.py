"""The noise of local mode: all of it in each answer, drawn anew for each, also for an empty sample.

Rates: at fixed seeds nothing fails by chance; the docstrings say how often an honest institution
with other entropy would.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from experiments.audit.detections import (
    Detected,
    check_kurtosis,
    check_mean,
    check_uncorrelated,
    check_variance,
)
from experiments.entropy import SeededEntropy
from federation import door
from federation.asking import sum_for
from federation.door import Gridded, Noised
from federation.model.optimiser import Adam
from federation.privacy.entropy import Keystream
from federation.query import UNITS_PER_CLIP, BoundedSum, Question
from tests.entropy import RepeatingEntropy
from tests.federations import Federation, wide_schema
from tests.local_mode import CARD, answered, ask, flat_network, local, net, numbers
from tests.statistical.rounds import CELLS, FEATURES, balanced_table

INSTITUTIONS = 3
STEPS = 4


@dataclass(slots=True)
class Door:
    """Every sum that has got its noise, as it was before and after."""

    exact: list[NDArray[np.int64]] = field(default_factory=list)
    noised: list[NDArray[np.int64]] = field(default_factory=list)

    def noise(self) -> NDArray[np.int64]:
        """Returns int64[sums, length]."""
        return np.array(self.noised) - np.array(self.exact)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Door:
    found, honest = Door(), door.add_noise

    def add_noise(total: Gridded, query: BoundedSum, *, noise_key: bytes) -> Noised:
        noised = honest(total, query, noise_key=noise_key)
        found.exact.append(total.total)
        found.noised.append(noised.total)
        return noised

    monkeypatch.setattr(door, "add_noise", add_noise)
    return found


def wide(directory: Path, asked: dict[str, Any], **changes: Any) -> Federation:
    """Returns three institutions over 2,000 cells."""
    return local(
        directory,
        asked,
        institutions=INSTITUTIONS,
        schema=wide_schema(features=FEATURES, cells=CELLS),
        table=balanced_table,
        held_out_fraction=0.0,
        epsilon=4.0,
        **changes,
    )


@pytest.mark.slow
def test_the_noise_of_each_institutions_own_answer_has_the_full_variance(tmp_path: Path) -> None:
    """Two-sided chi-square, 1e-6 for each of 3 institutions, and as often for the mean; 5.7e-7
    for each of 15 pairs of answers. False alarms: 3e-5 in all, the kurtosis included."""
    made = wide(tmp_path, CARD)
    noise = []
    with made.seats() as seats:
        for seat in seats.values():
            seat.accept(made.plan)
            for round_ in range(2):
                request = ask(made, Question.STEP, round_=round_)
                taking = seat.institution.taking
                query = sum_for(made.plan, made.schema, Question.STEP, request.model)
                people = taking.people(Question.STEP, request.model, sample_key=bytes(32))
                exact = door.sum_of(query, people).total
                noise.append(numbers(answered(seat, request)) - exact)
    for number in range(INSTITUTIONS):
        own = np.concatenate(noise[2 * number : 2 * number + 2])
        check_variance(own, made.plan.noise.step)
        check_mean(own, made.plan.noise.step)
    check_kurtosis(np.concatenate(noise))
    check_uncorrelated(np.array(noise))
    with pytest.raises(Detected):  # what a share of a national noise would be
        check_variance(np.concatenate(noise), made.plan.noise.step / INSTITUTIONS)


@pytest.mark.slow
def test_each_step_of_a_network_at_home_has_the_full_variance_and_noise_of_its_own(
    tmp_path: Path, watched: Door
) -> None:
    """Two-sided chi-square: 1e-6 for each of 12 steps; 5.7e-7 for each of 66 pairs of steps."""
    asked = net(steps=STEPS, hidden=(), most_parameters=3000)
    made = wide(tmp_path, asked)
    with made.seats() as seats:
        for seat in seats.values():
            seat.accept(made.plan)
            answered(seat, ask(made, Question.GRADIENT))
    noise = watched.noise()
    assert noise.shape == (INSTITUTIONS * STEPS, flat_network(made).shape.parameters)
    for of_step in noise:
        check_variance(of_step, made.plan.noise.step)
    check_uncorrelated(noise)


def test_a_network_from_home_follows_from_the_noised_sums_alone(
    tmp_path: Path, watched: Door
) -> None:
    made = local(tmp_path, net(steps=STEPS))
    with made.seats() as seats:
        seat = seats["bank-00"]
        seat.accept(made.plan)
        sent = numbers(answered(seat, ask(made, Question.GRADIENT)))
    assert len(watched.noised) == STEPS
    adam = Adam.at(flat_network(made).vector)
    unit = UNITS_PER_CLIP * 0.5 * made.plan.people.most_per_institution
    for noised in watched.noised:
        adam = adam.after(noised / unit, 0.02)
    assert (sent == np.rint(adam.vector * UNITS_PER_CLIP)).all()
    assert np.abs(adam.vector - 0.1).max() > 0.005, "it has moved"


class _NoCoinFalls(Keystream):
    def words(self, count: int) -> NDArray[np.uint64]:
        return np.full(count, 2**64 - 1, dtype=np.uint64)


def test_an_empty_sample_still_takes_noise_and_a_step_and_answers_in_the_same_shape(
    tmp_path: Path, watched: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = local(tmp_path, net(steps=STEPS))
    with made.seats() as seats:
        seat, other = seats["bank-00"], seats["bank-01"]
        seat.accept(made.plan)
        other.accept(made.plan)
        with monkeypatch.context() as patched:
            patched.setattr("clients.dense.Keystream", _NoCoinFalls)
            sent = answered(seat, ask(made, Question.GRADIENT))
        assert not np.array(watched.exact).any(), "nobody took part"
        assert len(watched.noised) == STEPS
        for noise in watched.noise():
            assert noise.any()
        assert len(sent.numbers) == len(answered(other, ask(made, Question.GRADIENT)).numbers)
    assert (np.abs(numbers(sent) / UNITS_PER_CLIP - 0.1) > 1e-6).mean() > 0.9, "a step was taken"


@pytest.mark.slow
def test_two_institutions_never_share_noise_and_one_seed_of_both_shows_at_once(
    tmp_path: Path,
) -> None:
    made = wide(tmp_path, CARD)

    def answers(entropy: Any, out: str) -> NDArray[np.int64]:
        with made.seats(entropy=entropy, out=out) as seats:
            found = []
            for seat in seats.values():
                seat.accept(made.plan)
                found.append(numbers(answered(seat, ask(made, Question.STEP))))
        return np.array(found)

    check_uncorrelated(answers(SeededEntropy, "own"))
    shared = answers(lambda _: RepeatingEntropy("one for all"), "shared")
    with pytest.raises(Detected):
        check_uncorrelated(shared)
