import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution

from experiments.experiment import Work
from experiments.quality.curators import (
    Perturbed,
    Sampled,
    Sides,
    chosen,
    longest_input,
    perturbed_work,
    public_shape,
    sampled_work,
)
from experiments.quality.utility import Cell, Method
from experiments.quality.utility_tables import difference, of_test_people
from experiments.trial import DELTA, People
from federation.errors import PrivacyError
from federation.grid import NOT_HELD
from federation.model.network import inputs, start
from federation.schema import load_schema
from tests.experiments.test_peers import SCHEMA

PERTURBED = Perturbed(bins=0, strength=0.3)
SAMPLED = Sampled(bins=4, clip=1.0, batches=4, epochs=5, rate=0.03)


@pytest.fixture
def schema():
    return load_schema(SCHEMA)


@pytest.fixture
def models():
    """Imports torch, Opacus and diffprivlib, which takes seconds."""
    from experiments.quality import curator_models

    return curator_models


def people(schema, count=1_000, seed=0):
    drawn = np.random.default_rng(seed)
    codes = np.array([drawn.integers(len(grid.labels), size=count) for grid in schema.grids])
    luck = drawn.random(count) < 0.1
    return People(codes=codes.astype(np.uint8), bad=(codes[1] >= 2) ^ luck)


def every_combination(schema):
    cells = [[*range(len(grid.labels)), NOT_HELD] for grid in schema.grids]
    codes = np.array(list(product(*cells))).T
    return People(codes=codes.astype(np.uint8), bad=np.zeros(codes.shape[1], dtype=bool))


@pytest.mark.parametrize("bins", [0, 4])
def test_nobody_s_inputs_are_longer_than_the_public_bound(schema, bins):
    shape = public_shape(schema, bins)
    seen = inputs(shape, every_combination(schema).codes).astype(np.float64)
    lengths = np.sqrt((seen**2).sum(axis=1) + 1)
    assert lengths.max() <= longest_input(shape) + 1e-12
    assert lengths.max() > 0.99 * longest_input(shape)


def test_numbers_have_their_position_alone_where_there_are_no_bins(schema):
    shape = public_shape(schema, 0)
    ordered = sum(grid.ordered_cells > 0 for grid in schema.grids)
    others = sum(len(grid.labels) - grid.ordered_cells for grid in schema.grids)
    assert (ordered, others) == (2, 4)  # income, late; missing, code 98, rent, own
    assert shape.inputs == ordered + others
    assert public_shape(schema, 4).inputs == ordered + others + 4 * ordered


def test_a_row_is_scaled_into_the_unit_ball_and_depends_on_nobody_else(schema, models):
    shape = public_shape(schema, 0)
    everyone = every_combination(schema)
    rows = models.within_one(shape, everyone)
    assert np.linalg.norm(rows, axis=1).max() <= 1 + 1e-12
    alone = People(codes=everyone.codes[:, 7:8], bad=everyone.bad[7:8])
    assert (models.within_one(shape, alone) == rows[7:8]).all()


def test_opacus_trains_the_very_network_that_is_ours(schema, models):
    network = start(public_shape(schema, 4, (5, 3)), bytes(range(32)), -2.0)
    seen = people(schema, 50)
    module = models.AdditiveAndDeep(network)
    theirs = module(models._Rows(network.shape, seen).x).detach().numpy()
    assert theirs == pytest.approx(network.log_odds(seen.codes), abs=1e-5)


@pytest.mark.slow
def test_another_accountant_agrees_with_the_noise_of_opacus(models):
    epsilon, rate, steps = 0.5, 0.05, 20
    noise = models.noise_multiplier(epsilon, rate=rate, steps=steps)

    def spent(stddev):
        one = privacy_loss_distribution.from_gaussian_mechanism(
            stddev, sampling_prob=rate, value_discretization_interval=1e-4
        )
        return one.self_compose(steps).get_epsilon_for_delta(DELTA)

    assert 0.95 * epsilon < spent(noise) <= epsilon


def test_a_training_that_spent_more_than_it_promised_is_refused(models):
    class Accountant:
        def get_epsilon(self, delta, *, eps_error):
            return 1.01 if delta == DELTA else math.nan

    engine = SimpleNamespace(accountant=Accountant())
    models._require(engine, 1.02)
    with pytest.raises(PrivacyError, match=r"1\.01"):
        models._require(engine, 1.0)


def test_a_peer_s_result_is_kept_by_what_it_sees_and_not_by_who_made_it(schema):
    sides = Sides(train=people(schema), test=people(schema, seed=1))
    others = Sides(train=people(schema, seed=2), test=people(schema, seed=1))
    for settings, work in ((PERTURBED, perturbed_work), (SAMPLED, sampled_work)):
        made = work(settings, schema, sides, 1.0, 0).made_from
        assert made == work(settings, schema, sides, 1.0, 0).made_from
        for changed in (
            work(settings, schema, others, 1.0, 0),
            work(settings, schema, sides, 4.0, 0),
            work(settings, schema, sides, 1.0, 1),
        ):
            assert made != changed.made_from
        assert "product" not in made


def test_settings_are_chosen_by_people_who_do_not_train_and_by_nobody_else(schema):
    train = people(schema, 400)
    seen = []

    class InOrder:
        def steps(self, kind, works):
            return [work.compute(*work.arguments) for work in works]

    def work(settings, schema, sides, epsilon, seed):
        seen.append((sides, epsilon))
        value = settings.strength - seed  # the best on average, whatever a single seed says
        return Work(made_from={}, compute=lambda: value, arguments=())

    ways = [Perturbed(bins=0, strength=strength) for strength in (0.1, 3.0, 1.0)]
    assert chosen(InOrder(), work, ways, schema, train) == ways[1]
    for sides, epsilon in seen:
        assert epsilon == 1.0
        assert (len(sides.train.bad), len(sides.test.bad)) == (300, 100)
        both = np.hstack((sides.train.codes, sides.test.codes))
        assert sorted(both.T.tolist()) == sorted(train.codes.T.tolist())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "work"), [(PERTURBED, perturbed_work), (SAMPLED, sampled_work)]
)
def test_a_curator_s_peer_learns_what_is_plain_and_repeats_it(schema, models, settings, work):
    sides = Sides(train=people(schema), test=people(schema, seed=1))

    def auc(seed):
        one = work(settings, schema, sides, 4.0, seed)
        return one.compute(*one.arguments)

    assert auc(0) > 0.8
    assert auc(0) == auc(0)
    assert auc(0) != auc(1)


def cell(*auc):
    return Cell(method=Method.DP_EBM, epsilon=1.0, auc=auc, training=None)


def test_a_difference_of_methods_has_welch_s_interval():
    low, high = difference(cell(0.80, 0.81, 0.82), cell(0.70, 0.71, 0.72))
    # Variances of 1e-4 each over 3 seeds, so 4 degrees of freedom: 2.7764 standard errors.
    assert (low + high) / 2 == pytest.approx(0.1)
    assert (high - low) / 2 == pytest.approx(2.7764 * (2e-4 / 3) ** 0.5, rel=1e-3)


def test_the_interval_over_test_people_is_that_of_hanley_and_mcneil():
    one = SimpleNamespace(good=58, bad=51)
    # Their example: area 0.893 of 51 abnormal and 58 normal images, standard error 0.032 to 0.033.
    assert of_test_people(0.893, one) / 1.96 == pytest.approx(0.032, abs=1e-3)
