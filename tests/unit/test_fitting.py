"""A fit is penalised logistic regression without noise, and stays finite, monotone and centred."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.optimize import minimize

from federation.errors import ConfigurationError
from federation.model import fitting
from federation.model.binning import FeatureBins
from federation.model.fitting import FitSettings, FitState, advance, begin, finish, model_at

BINS = FeatureBins(
    ordered_cells=5, ordered_bins=5, bin_of_cell=(0, 1, 2, 3, 4, 5), last_is_silent=False
)
NOT_HELD = -1


def _people(count: int, features: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Codes (count, features) of correlated features in six bins, and outcomes."""
    random = np.random.default_rng(seed)
    common = random.normal(size=(count, 1))
    value = 0.7 * common + 0.7 * random.normal(size=(count, features))
    codes = np.clip(np.floor(value * 1.3 + 3), 0, 5).astype(int)
    logit = -1.4 + (codes - 2.5) @ np.linspace(0.5, -0.1, features)
    return codes, (random.random(count) < 1 / (1 + np.exp(-logit))).astype(float)


def _per_bin(codes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sums of the values per bin, over the people who have the feature."""
    return tuple(
        np.bincount(own[own != NOT_HELD], weights=values[own != NOT_HELD], minlength=6)
        for own in codes.T
    )


def _settings(codes: np.ndarray, bad: np.ndarray, **changes: object) -> FitSettings:
    settings = FitSettings(
        rounds=60,
        residual_stddev=0.0,
        count_stddev=0.0,
        people=float(len(bad)),
        bins=(BINS,) * codes.shape[1],
        good=_per_bin(codes, 1 - bad),
        bad=_per_bin(codes, bad),
        directions=(0,) * codes.shape[1],
    )
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


def _log_odds(codes: np.ndarray, model: tuple[float, tuple[np.ndarray, ...]]) -> np.ndarray:
    intercept, weights = model
    padded = [np.append(own, 0.0) for own in weights]  # NOT_HELD, -1, reads the neutral 0
    return intercept + sum(own[column] for own, column in zip(padded, codes.T, strict=True))


def _fit(
    codes: np.ndarray, bad: np.ndarray, settings: FitSettings, seed: int = 1
) -> tuple[FitState, float, tuple[np.ndarray, ...]]:
    random, state = np.random.default_rng(seed), begin(settings)
    for _ in range(settings.rounds):
        residual = bad - 1 / (1 + np.exp(-_log_odds(codes, model_at(state, settings))))
        sums = tuple(
            own + settings.residual_stddev * random.normal(size=6)
            for own in _per_bin(codes, residual)
        )
        told = float(residual.sum() + settings.residual_stddev * random.normal())
        state = advance(state, settings, sums, told)
    return state, *finish(state, settings)


@pytest.mark.parametrize("features", [1, 3])
def test_without_noise_the_card_is_the_penalised_logistic_regression(features: int) -> None:
    codes, bad = _people(3000, features)
    settings = _settings(codes, bad, rounds=200)
    _, intercept, weights = _fit(codes, bad, settings)
    design = np.concatenate([np.eye(6)[column] for column in codes.T], axis=1)
    precision = [
        np.linalg.inv(fitting._prior(BINS, settings.counts(feature), features))
        for feature in range(features)
    ]

    def loss(parameters: np.ndarray) -> float:
        logit = parameters[0] + design @ parameters[1:]
        own = parameters[1:].reshape(features, 6)
        penalty = sum(one @ matrix @ one for one, matrix in zip(own, precision, strict=True))
        return float(np.sum(np.logaddexp(0, logit) - bad * logit) + penalty / 2)

    reference = minimize(loss, np.zeros(1 + 6 * features)).x
    expected = reference[0] + design @ reference[1:]
    # centring each step is a projection of its own: scores agree closely, not to the last digit
    np.testing.assert_allclose(_log_odds(codes, (intercept, weights)), expected, atol=0.08)


def test_many_identical_features_do_not_make_the_fit_run_away() -> None:
    codes, bad = _people(3000, 1)
    codes = np.repeat(codes, 12, axis=1)
    _, intercept, weights = _fit(codes, bad, _settings(codes, bad, rounds=60))
    score = _log_odds(codes, (intercept, weights))
    assert np.abs(np.concatenate(weights)).max() < 1
    assert np.mean(1 / (1 + np.exp(-score))) == pytest.approx(bad.mean(), abs=0.005)


@pytest.mark.parametrize("direction", [-1, 1])
def test_a_declared_direction_is_kept_whatever_the_noise(direction: int) -> None:
    codes, bad = _people(2000, 3)
    settings = _settings(
        codes, bad, rounds=10, residual_stddev=200.0, directions=(direction, 0, direction)
    )
    _, _, weights = _fit(codes, bad, settings)
    for feature in (0, 2):
        assert (direction * np.diff(weights[feature][:5]) >= -1e-12).all()
    _, _, free = _fit(codes, bad, dataclasses.replace(settings, directions=(0, 0, 0)))
    assert min((direction * np.diff(free[feature][:5])).min() for feature in (0, 2)) < 0


@pytest.mark.parametrize("residual_stddev", [0.0, 50.0, 5e4])
def test_weights_are_centred_on_people_and_finite(residual_stddev: float) -> None:
    codes, bad = _people(2000, 4)
    settings = _settings(codes, bad, rounds=12, residual_stddev=residual_stddev)
    _, intercept, weights = _fit(codes, bad, settings)
    assert np.isfinite(intercept)
    for feature, own in enumerate(weights):
        assert own @ settings.counts(feature) == pytest.approx(0.0, abs=1e-6)


def test_hopeless_noise_leaves_the_card_neutral() -> None:
    codes, bad = _people(2000, 4)
    _, intercept, weights = _fit(codes, bad, _settings(codes, bad, rounds=12, residual_stddev=1e6))
    assert np.abs(np.concatenate(weights)).max() < 0.01
    assert intercept == pytest.approx(np.log(bad.mean() / (1 - bad.mean())), abs=0.05)


def test_negative_noisy_counts_are_survived() -> None:
    codes, bad = _people(2000, 3)
    random = np.random.default_rng(9)
    settings = _settings(codes, bad, rounds=12, residual_stddev=100.0, count_stddev=300.0)
    settings = dataclasses.replace(
        settings,
        good=tuple(own + 300 * random.normal(size=6) for own in settings.good),
        bad=tuple(own - 900.0 for own in settings.bad),
    )
    assert min(own.min() for own in settings.bad) < 0
    _, intercept, weights = _fit(codes, bad, settings)
    assert np.isfinite([intercept, *np.concatenate(weights)]).all()
    assert 0.001 <= settings.base_rate <= 0.999


def test_a_feature_that_half_the_people_lack_is_learnt_from_the_others() -> None:
    codes, bad = _people(6000, 3)
    codes[:3000, 0] = NOT_HELD
    settings = _settings(codes, bad, rounds=200)
    assert settings.counts(0).sum() == 3000
    _, _, weights = _fit(codes, bad, settings)
    assert weights[0] @ settings.counts(0) == pytest.approx(0.0, abs=1e-6)
    assert np.corrcoef(weights[0], np.arange(6))[0, 1] > 0.9  # its true weights rise by 0.5 a bin


def test_a_fit_resumed_from_its_checkpoint_is_the_same_fit() -> None:
    codes, bad = _people(1000, 3)
    settings = _settings(codes, bad, rounds=10)
    straight, *_ = _fit(codes, bad, settings)
    state = begin(settings)
    for _ in range(settings.rounds):
        residual = bad - 1 / (1 + np.exp(-_log_odds(codes, model_at(state, settings))))
        state = advance(state, settings, _per_bin(codes, residual), float(residual.sum()))
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        text = json.dumps(fields, default=lambda array: array.tolist())
        read = json.loads(text)
        for name in ("weights", "weight_sums"):
            read[name] = tuple(np.array(own) for own in read[name])
        state = FitState(**read)
    assert state.intercept_sum == straight.intercept_sum
    for one, other in zip(state.weight_sums, straight.weight_sums, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_state_is_not_changed_by_advancing_or_finishing_it() -> None:
    codes, bad = _people(500, 2)
    settings = _settings(codes, bad, rounds=4, directions=(1, -1))
    state, *first = _fit(codes, bad, settings)
    before = [own.copy() for own in (*state.weights, *state.weight_sums)]
    again = finish(state, settings)
    for own, copy in zip((*state.weights, *state.weight_sums), before, strict=True):
        np.testing.assert_array_equal(own, copy)
    np.testing.assert_array_equal(np.concatenate(first[1]), np.concatenate(again[1]))


def test_no_card_comes_out_before_half_of_the_rounds_and_no_round_after_the_last() -> None:
    codes, bad = _people(500, 2)
    settings = _settings(codes, bad, rounds=4)
    with pytest.raises(ConfigurationError):
        finish(begin(settings), settings)
    state, *_ = _fit(codes, bad, settings)
    with pytest.raises(ConfigurationError):
        advance(state, settings, (np.zeros(6), np.zeros(6)), 0.0)


def test_a_false_sum_moves_a_card_no_further_than_all_people_of_its_bins_could() -> None:
    codes, bad = _people(2_000, 3)
    settings = _settings(codes, bad, rounds=4, residual_stddev=5.0, count_stddev=5.0)
    honest = _per_bin(codes, bad - bad.mean())
    uneven = np.arange(len(honest[0]), dtype=np.float64) - 1

    def moved(factor: float) -> FitState:
        false = (honest[0] + factor * uneven, *honest[1:])
        return advance(begin(settings), settings, false, factor)

    far, farther, not_at_all = moved(1e6), moved(1e12), moved(0.0)
    assert (far.weights[0] == farther.weights[0]).all()
    assert far.intercept == farther.intercept
    assert (far.weights[1] == not_at_all.weights[1]).all()
    unbounded = float(np.abs(not_at_all.weights[0]).max())
    assert np.abs(far.weights[0]).max() < 40 * unbounded


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_sum_is_cut_six_deviations_beyond_all_good_or_all_bad_people_and_not_before(
    sign: int,
) -> None:
    codes, bad = _people(2_000, 2)
    settings = _settings(codes, bad, rounds=4, residual_stddev=3.0, count_stddev=4.0)
    hidden = tuple(np.append(-5.0, own[1:]) for own in settings.good)  # a count that noise made
    settings = dataclasses.replace(settings, good=hidden)
    of_bins = settings.bad if sign > 0 else settings.good
    everyone = settings.people * (settings.base_rate - (sign < 0))
    most = (np.maximum(of_bins[0], 0) + 6 * 5, np.maximum(of_bins[1], 0) + 6 * 5)
    reach = everyone + sign * 6 * np.hypot(3, 4 * np.sqrt(len(BINS.bin_of_cell)))

    def moved(factor: float, first_bins: float = 1.0) -> FitState:
        sums = tuple(sign * factor * own * np.append(first_bins, np.ones(5)) for own in most)
        return advance(begin(settings), settings, sums, float(factor * first_bins * reach))

    def same(one: FitState, other: FitState) -> bool:
        pairs = zip((one.intercept, *one.weights), (other.intercept, *other.weights), strict=True)
        return all(np.allclose(a, b, rtol=1e-9, atol=0) for a, b in pairs)

    limit = moved(1.0)
    assert same(moved(10.0), limit)
    almost = moved(1.0, first_bins=0.99)
    assert almost.intercept != limit.intercept
    assert not any(
        np.allclose(a, b, rtol=1e-9, atol=0)
        for a, b in zip(almost.weights, limit.weights, strict=True)
    )


@pytest.mark.parametrize(
    "wrong",
    [(np.zeros(6),), (np.zeros(6), np.zeros(5)), (np.zeros(6), np.full(6, np.nan))],
    ids=["a feature is missing", "a bin is missing", "not a number"],
)
def test_sums_that_do_not_fit_are_refused(wrong: tuple[np.ndarray, ...]) -> None:
    codes, bad = _people(500, 2)
    settings = _settings(codes, bad)
    with pytest.raises(ConfigurationError):
        advance(begin(settings), settings, wrong, 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"residual_stddev": -1.0},
        {"residual_stddev": float("nan")},
        {"count_stddev": float("inf")},
        {"people": 0.0},
        {"directions": (2, 0)},
        {"directions": (0,)},
        {"good": (np.zeros(6),)},
        {"bins": ()},
    ],
    ids=str,
)
def test_settings_that_no_plan_can_have_are_refused(wrong: dict[str, object]) -> None:
    codes, bad = _people(500, 2)
    with pytest.raises(ConfigurationError):
        _settings(codes, bad, **wrong)
