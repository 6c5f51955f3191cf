"""What a person brings, and whether there is an answer, does not depend on who else is there."""

import msgspec
import numpy as np
import pytest

from clients.dense import points, update
from federation.errors import ConfigurationError
from federation.learning import Institution, ServerOptimiser
from federation.model.network import Activation, Network
from federation.query import UNITS_PER_CLIP, Question
from fedscore.planning import STANDARD_SCALE
from tests.federations import federation
from tests.networks import KINDS, plain_network, random_codes, random_network, wide_shape


def cancelling(shape, seed):
    """Parameters at the public bound with either sign: sums in float32 or float64 would round."""
    signs = np.random.default_rng(seed).choice([-64.0, 64.0, 0.1], shape.parameters)
    return Network.of(shape, signs)


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("seed", range(3))
def test_the_points_of_an_evaluated_person_are_that_persons_alone(activation, seed):
    shape = wide_shape(6, (16, 8), activation)
    network = cancelling(shape, seed)
    codes = random_codes(shape, 60, seed)
    together = points(network, codes, STANDARD_SCALE)
    for row in range(60):
        alone = points(network, codes[:, [row]], STANDARD_SCALE)
        assert alone[0] == together[row]
        others = np.delete(codes, row, axis=1)
        assert (points(network, others, STANDARD_SCALE) == np.delete(together, row)).all()


def test_people_are_evaluated_without_arithmetic_whose_last_bits_depend_on_company(
    tmp_path, monkeypatch
):
    """A coordinator could set a network so that a whole band hangs on the last bit of one score."""
    built = federation(tmp_path, people=20, **KINDS["a network, joint"])
    network = plain_network(built.schema, built.plan.model.hidden)
    for name in ("points", "log_odds", "log_odds_at"):
        monkeypatch.delattr(Network, name)
    with built.seats() as seats:
        seat = seats["bank-00"]
        seat.accept(built.plan)
        people = seat.institution.taking.people(Question.EVALUATION, network, sample_key=bytes(32))
        assert sum(len(block.values) for block in people) > 0


def test_the_points_of_an_evaluated_person_are_nearly_those_of_the_release():
    shape = wide_shape(6, (16, 8))
    network = random_network(shape, 1, 0.3)
    codes = random_codes(shape, 500, 1)
    exact, released = (
        points(network, codes, STANDARD_SCALE),
        network.points(codes, STANDARD_SCALE),
    )
    assert np.abs(exact - released).max() <= 3


@pytest.mark.parametrize("step_length", [1e-3, 1.0, 1e5])
def test_a_training_at_home_ends_with_an_update_whatever_the_plans_figures_do_to_it(
    tmp_path, step_length
):
    built = federation(tmp_path, people=20, **KINDS["a network, institution"])
    mode = replace_mode(built.plan.mode, steps=60, step_length=step_length)
    with built.seats() as seats:
        seat = seats["bank-00"]
        seat.accept(built.plan)
        taking = seat.institution.taking
        network = plain_network(built.schema, built.plan.model.hidden)
        found = update(taking.schema, taking.snapshot, network, built.plan.model, mode)
    vector = found.layers[0].signals[0]
    assert np.isfinite(vector).all()
    assert vector @ vector <= UNITS_PER_CLIP**2


def replace_mode(mode, **changes):
    return msgspec.structs.replace(mode, proximal=0.0, **changes)


def test_a_pull_that_makes_training_run_away_is_refused():
    with pytest.raises(ConfigurationError, match="runs away"):
        Institution(steps=60, step_length=1.0, proximal=2.0, optimiser=ServerOptimiser.FEDAVG)
