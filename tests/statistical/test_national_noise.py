"""The noise of a whole federation: a zero-gradient round, its shares, colluders and survivors.

Rates: at fixed seeds nothing fails by chance; the docstrings say how often an honest federation
with other entropy would. A deviation that is 3 % off is noticed with a chance above 0.999.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from experiments.audit.detections import (
    Detected,
    check_kurtosis,
    check_lattice,
    check_least_variance,
    check_mean,
    check_national_noise,
    check_uncorrelated,
    check_variance,
    draws_needed,
)
from experiments.entropy import SeededEntropy
from federation.pricing import price_of
from federation.privacy.units import Population
from tests.entropy import RepeatingEntropy
from tests.federations import Federation, flat_card
from tests.statistical.rounds import (
    INSTITUTIONS,
    LENGTH,
    ROUNDS,
    zero_gradient_federation,
    zero_gradient_rounds,
)
from tests.steps import step_contribution

Answers = NDArray[np.int64]


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return zero_gradient_federation(tmp_path_factory.mktemp("zero"))


@pytest.fixture(scope="module")
def answers(fed: Federation) -> Iterator[Answers]:
    """int64[rounds, institutions, length]; the exact sum of every institution is zero."""
    with zero_gradient_rounds(fed) as found:
        yield found


def released(answers: Answers) -> Answers:
    return answers.sum(axis=1).reshape(-1)


def test_the_exact_sum_of_the_round_is_zero(fed: Federation) -> None:
    codes = np.tile(np.arange(500, dtype=np.uint16) // 2, (8, 1)).astype(np.uint8)
    bad = (np.arange(500) % 2).astype(np.uint8)
    block = step_contribution(codes, bad, None, flat_card(fed.schema))
    for cells in block.cells:
        sums = np.bincount(cells.numbers, weights=block.values)
        assert not sums.any()


def test_the_variance_of_the_released_sum_is_that_of_all_shares(
    fed: Federation, answers: Answers
) -> None:
    """Two-sided chi-square on 40,020 draws. False alarms: 1e-6; 3 % off is missed with < 0.001."""
    assert answers.shape == (ROUNDS, INSTITUTIONS, LENGTH)
    draws = released(answers)
    assert draws.size >= max(draws_needed(1.03), draws_needed(0.97))
    check_variance(draws, INSTITUTIONS * fed.plan.noise.step)


@pytest.mark.parametrize("ratio", [0.97, 1.03])
def test_another_scale_of_the_released_noise_is_noticed(
    fed: Federation, answers: Answers, ratio: float
) -> None:
    with pytest.raises(Detected):
        check_variance(released(answers), INSTITUTIONS * fed.plan.noise.step * ratio**2)


def test_sigma_over_root_n_twice_is_noticed(fed: Federation, answers: Answers) -> None:
    with pytest.raises(Detected):
        check_variance(released(answers) // INSTITUTIONS, INSTITUTIONS * fed.plan.noise.step)
    with pytest.raises(Detected):
        check_variance(released(answers), fed.plan.noise.step)


def test_the_released_noise_has_mean_zero_gaussian_kurtosis_and_lies_on_the_grid(
    fed: Federation, answers: Answers
) -> None:
    """False alarms: 1e-6 of the mean and of the grid, 1e-5 of the kurtosis."""
    check_mean(released(answers), INSTITUTIONS * fed.plan.noise.step)
    check_kurtosis(released(answers))
    check_lattice(released(answers))


def test_noise_of_institutions_and_of_rounds_is_not_correlated(answers: Answers) -> None:
    """Below 5 / sqrt(d). False alarms: 5.7e-7 a pair; 10 pairs of institutions (d = 40,020), 190
    pairs of rounds (d = 10,005), 190 pairs of answers of four rounds: 2.2e-4 in all."""
    check_uncorrelated(answers.transpose(1, 0, 2).reshape(INSTITUTIONS, -1))
    check_uncorrelated(answers.reshape(ROUNDS, -1))
    check_uncorrelated(answers[:4].reshape(4 * INSTITUTIONS, -1))


def test_a_seed_that_institutions_share_shows_at_once(tmp_path: Path) -> None:
    fed = zero_gradient_federation(tmp_path, rounds=1)
    with zero_gradient_rounds(fed, lambda _: SeededEntropy("shared"), rounds=1) as answers:
        with pytest.raises(Detected, match="correlate"):
            check_uncorrelated(answers[0])
        with pytest.raises(Detected, match="variance"):
            check_variance(released(answers), INSTITUTIONS * fed.plan.noise.step)


def test_a_key_that_is_used_in_two_rounds_shows_at_once(tmp_path: Path) -> None:
    fed = zero_gradient_federation(tmp_path, rounds=3)
    with zero_gradient_rounds(
        fed, lambda name: RepeatingEntropy(name, period=2), rounds=3
    ) as answers:
        with pytest.raises(Detected, match="correlate"):
            check_uncorrelated(answers.reshape(3, -1))
        with pytest.raises(Detected, match="correlate"):
            check_national_noise(answers, fed.plan.noise.step)


@pytest.mark.parametrize(("quorum", "colluders"), [(5, 1), (5, 2), (4, 1), (5, 3)])
def test_m_survivors_less_c_known_shares_still_carry_the_priced_noise_exactly(
    tmp_path: Path, quorum: int, colluders: int
) -> None:
    fed = zero_gradient_federation(tmp_path, quorum=quorum, colluders=colluders, rounds=7)
    price = price_of(fed.plan, fed.schema)
    noise = fed.plan.noise
    unknown = quorum - colluders
    for event, share, columns in zip(
        price.events[Population.TRAINED], (noise.bins, noise.step), (8, 9), strict=True
    ):
        assert unknown * share >= event.variance
        assert event.sensitivity_squared == columns * 2**32
    paid = sum(
        times * Fraction(columns * 2**32, unknown * share - 4)
        for share, columns, times in ((noise.bins, 8, 1), (noise.step, 9, 7))
    )
    assert paid * 10**12 <= price.price.trained < paid * 10**12 + 8


@pytest.mark.parametrize("gone", [1, 2])
def test_m_survivors_less_c_known_shares_still_carry_the_priced_noise_statistically(
    tmp_path: Path, gone: int
) -> None:
    """One-sided on 40,020 draws. False alarms: 1e-6; 3 % too little is missed with < 0.001."""
    quorum = INSTITUTIONS - 1
    fed = zero_gradient_federation(tmp_path, quorum=quorum, colluders=gone)
    priced = price_of(fed.plan, fed.schema).events[Population.TRAINED][1].variance
    with zero_gradient_rounds(fed) as answers:
        survivors = answers[:, :quorum]
        unknown = survivors[:, gone:]
        check_least_variance(released(unknown), priced)
        check_variance(released(unknown), priced)
        with pytest.raises(Detected):
            check_least_variance(released(unknown[:, 1:]), priced)
