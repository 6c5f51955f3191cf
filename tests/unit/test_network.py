"""Networks: inputs, layout of parameters, scores, and what each feature adds to a score."""

import hashlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import ConfigurationError
from federation.grid import NOT_HELD
from federation.model.attributions import attributions, population_mean
from federation.model.binning import FeatureBins
from federation.model.network import (
    BLOCK_ROWS,
    LARGEST_PARAMETER,
    NO_BIN,
    Activation,
    Network,
    Shape,
    inputs,
    start,
)
from federation.model.score_scale import ScoreScale
from tests.federations import small_schema
from tests.networks import random_codes, random_network, shapes, wide_shape

SEED = bytes(range(32))
SCALE = ScoreScale(points=660, odds=30.0, points_to_double=40, least=300, most=850)

# Four ordered cells in two bins, then one in a bin of its own and one without evidence; beside it
# a category of three cells in two bins.
SMALL = Shape(
    bin_of_cell=((0, 0, 1, 1, 2, NO_BIN), (1, 0, 1)),
    ordered_cells=(4, 0),
    hidden=(3, 2),
    activation=Activation.RELU,
)


def rows(*people: tuple[int, int]) -> np.ndarray:
    return np.array(people, dtype=np.uint8).T


def slowly(network: Network, code: np.ndarray) -> float:
    """The log-odds of one person, layer by layer, as the layout is written down."""
    shape, left = network.shape, list(np.frombuffer(network.parameters, "<f4").astype(float))
    x = []
    for cells, own in zip(shape.bin_of_cell, code, strict=True):
        x += [float(own < len(cells) and cells[own] == one) for one in range(max(cells) + 1)]
    for ordered, own in zip(shape.ordered_cells, code, strict=True):
        if ordered:
            x.append(2 * (int(own) + 0.5) / ordered - 1 if own < ordered else 0.0)
    x = [float(np.float32(one)) for one in x]

    def layer(below: list[float], width: int) -> list[float]:
        found = []
        for _ in range(width):
            weights = [left.pop(0) for _ in range(len(below) + 1)]
            found.append(sum(w * one for w, one in zip(weights, [*below, 1.0], strict=True)))
        return found

    total = layer(x, 1)[0]
    for width in shape.hidden:
        sums = layer(x, width)
        x = [np.tanh(s) if shape.activation is Activation.TANH else max(s, 0.0) for s in sums]
    if shape.hidden:
        total += sum(left.pop(0) * one for one in x)
    assert not left
    return float(total)


# Inputs.


def test_inputs_are_the_bin_and_the_place_on_the_public_grid():
    found = inputs(SMALL, rows((0, 0), (3, 1), (4, 2)))
    assert found.dtype == np.float32
    assert found.tolist() == [
        [1, 0, 0, 0, 1, -0.75],
        [0, 1, 0, 1, 0, 0.75],
        [0, 0, 1, 0, 1, 0.0],
    ]


def test_a_feature_that_is_not_held_and_a_cell_without_evidence_are_zeros():
    found = inputs(SMALL, rows((NOT_HELD, 1), (5, 1), (6, NOT_HELD), (250, 3)))
    assert found.tolist() == [[0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0], [0] * 6, [0] * 6]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes(), st.integers(0, 2**32 - 1))
def test_any_bytes_are_inputs_within_one_of_that_row_alone(shape: Shape, seed: int):
    codes = np.random.default_rng(seed).integers(0, 256, (len(shape.bin_of_cell), 20), np.uint8)
    found = inputs(shape, codes)
    assert found.shape == (20, shape.inputs)
    assert (np.abs(found) <= 1).all()
    assert (np.count_nonzero(found, axis=1) <= 2 * len(codes)).all()
    for row in range(20):
        assert (inputs(shape, codes[:, [row]])[0] == found[row]).all()


def test_the_feature_of_each_input_is_the_one_that_changes_it():
    for feature in range(2):
        other = rows((0, 0))
        other[feature] = NOT_HELD
        moved = inputs(SMALL, rows((0, 0)))[0] != inputs(SMALL, other)[0]
        assert {SMALL.feature_of_input[one] for one in np.flatnonzero(moved)} == {feature}


# Layout and scores.


def test_the_matrices_follow_each_other_row_by_row():
    assert SMALL.matrices == {
        "additive": (1, 7),
        "hidden_0": (3, 7),
        "hidden_1": (2, 4),
        "output": (1, 2),
    }
    network = Network.of(SMALL, np.arange(SMALL.parameters))
    assert np.concatenate([one.ravel() for one in network.matrices.values()]).tolist() == list(
        range(SMALL.parameters)
    )[:64] + [64.0] * max(0, SMALL.parameters - 64)
    assert network.matrices["hidden_0"][1].tolist() == [14, 15, 16, 17, 18, 19, 20]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes(), st.integers(0, 2**32 - 1))
def test_a_score_is_what_the_layout_says_number_by_number(shape: Shape, seed: int):
    network, codes = random_network(shape, seed), random_codes(shape, 5, seed)
    found = network.log_odds(codes)
    assert found == pytest.approx([slowly(network, code) for code in codes.T], rel=1e-9, abs=1e-9)


@pytest.mark.slow  # torch takes seconds to import
@pytest.mark.parametrize("activation", Activation)
def test_torch_computes_the_same_scores(activation: Activation):
    torch = pytest.importorskip("torch")
    network = random_network(wide_shape(activation=activation), seed=1)
    codes = random_codes(network.shape, 500, seed=2)
    x = torch.from_numpy(np.ascontiguousarray(inputs(network.shape, codes)))
    squash = {Activation.TANH: torch.tanh, Activation.RELU: torch.relu}[activation]
    additive, *hidden, output = (torch.from_numpy(one.copy()) for one in network.matrices.values())
    expected = torch.nn.functional.linear(x, additive[:, :-1], additive[:, -1])[:, 0]
    for matrix in hidden:
        x = squash(torch.nn.functional.linear(x, matrix[:, :-1], matrix[:, -1]))
    expected += torch.nn.functional.linear(x, output)[:, 0]
    assert network.log_odds(codes) == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-5)


def test_a_row_has_the_same_score_in_whichever_block_it_stands():
    network = random_network(wide_shape(features=3, hidden=(4,)), seed=1)
    codes = random_codes(network.shape, BLOCK_ROWS + 1, seed=3)
    found = network.log_odds(codes)
    for row in (0, BLOCK_ROWS - 1, BLOCK_ROWS):
        assert found[row] == pytest.approx(slowly(network, codes[:, row]), rel=1e-12)


def test_points_are_whole_higher_is_safer_and_bounded():
    shape = Shape(
        bin_of_cell=((0, 1, 2),), ordered_cells=(0,), hidden=(), activation=Activation.TANH
    )
    even = -np.log(30.0)  # at the reference odds: 660 points
    network = Network.of(shape, np.array([even, even + np.log(2), even - np.log(2), 0.0]))
    assert network.points(np.array([[0, 1, 2]], np.uint8), SCALE).tolist() == [660, 620, 700]
    steep = ScoreScale(points=660, odds=30.0, points_to_double=1000, least=300, most=850)
    network = Network.of(shape, np.array([64.0, -64.0, 0.0, 0.0]))
    assert network.points(np.array([[0, 1]], np.uint8), steep).tolist() == [-32768, 32768]


# The start.


def test_the_start_is_the_same_for_everybody_and_scores_the_intercept():
    shape = wide_shape()
    network = start(shape, SEED, -2.5)
    assert hashlib.sha256(network.parameters).hexdigest() == (
        "9c40b9ac4019bf33900b2b6bcb4b18276ba9ba14475b37b4da78de28ddc89206"
    )
    matrices = network.matrices
    assert not matrices["additive"][0, :-1].any()
    assert matrices["additive"][0, -1] == -2.5
    for name in ("hidden_0", "hidden_1"):
        outputs, columns = matrices[name].shape
        reach = np.sqrt(6 / (outputs + columns - 1))
        assert not matrices[name][:, -1].any()
        assert 0.9 * reach < np.abs(matrices[name]).max() <= np.float32(reach)
        assert abs(matrices[name].mean()) < 0.1 * reach
    assert np.abs(matrices["output"]).max() < 0.1
    assert network.log_odds(random_codes(shape, 100, 1)) == pytest.approx([-2.5] * 100, abs=0.4)


def test_another_seed_starts_elsewhere():
    assert start(SMALL, SEED, 0.0) != start(SMALL, bytes(32), 0.0)


def test_a_start_without_hidden_layers_is_the_intercept_alone():
    shape = msgspec.structs.replace(SMALL, hidden=())
    assert start(shape, SEED, 1.5).vector.tolist() == [0, 0, 0, 0, 0, 0, 1.5]


# What does not exist.


@pytest.mark.parametrize(
    "wrong",
    [
        {"bin_of_cell": ()},
        {"ordered_cells": (4,)},
        {"ordered_cells": (7, 0)},
        {"ordered_cells": (-1, 0)},
        {"bin_of_cell": ((0, 2), (0,)), "ordered_cells": (0, 0)},
        {"bin_of_cell": ((0, -2), (0,)), "ordered_cells": (0, 0)},
        {"bin_of_cell": ((0,) * 251, (0,)), "ordered_cells": (0, 0)},
        {"bin_of_cell": ((), (0,)), "ordered_cells": (0, 0)},
        {"bin_of_cell": ((0, 10**9), (0,)), "ordered_cells": (0, 0)},
        {"hidden": (1, 1, 1, 1, 1)},
        {"hidden": (0,)},
        {"hidden": (513,)},
        {
            "bin_of_cell": (tuple(range(250)),) * 200,
            "ordered_cells": (250,) * 200,
            "hidden": (512,),
        },
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        msgspec.structs.replace(SMALL, **wrong)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 64.1, -65.0])
def test_a_parameter_that_is_no_bounded_number_is_refused(wrong: float):
    vector = np.zeros(SMALL.parameters, "<f4")
    vector[3] = wrong
    with pytest.raises(ConfigurationError, match="not a number within"):
        Network(shape=SMALL, parameters=vector.tobytes())


@pytest.mark.parametrize("change", [-4, -1, 1, 4])
def test_parameters_that_do_not_fill_the_shape_are_refused(change: int):
    with pytest.raises(ConfigurationError, match="parameters of 4 bytes"):
        Network(shape=SMALL, parameters=bytes(4 * SMALL.parameters + change))


def test_a_vector_is_cut_to_the_bound_and_never_from_what_is_no_number():
    vector = np.zeros(SMALL.parameters)
    vector[:2] = 1e30, -np.inf
    assert Network.of(SMALL, vector).vector[:2].tolist() == [LARGEST_PARAMETER, -LARGEST_PARAMETER]
    vector[0] = np.nan
    with pytest.raises(ConfigurationError):
        Network.of(SMALL, vector)


def test_a_network_decodes_to_itself_and_a_field_more_is_refused():
    network = random_network(SMALL, 1)
    data = msgspec.msgpack.encode(network)
    assert msgspec.msgpack.decode(data, type=Network) == network
    tree = msgspec.msgpack.decode(data)
    for at in (tree, tree["shape"]):
        at["zz"] = 1
        with pytest.raises(msgspec.ValidationError, match="unknown field"):
            msgspec.msgpack.decode(msgspec.msgpack.encode(tree), type=Network)
        del at["zz"]


def test_a_shape_follows_from_bins_and_fits_only_its_grids():
    grids = small_schema().scored_grids
    bins = tuple(
        FeatureBins(
            ordered_cells=grid.ordered_cells,
            ordered_bins=min(grid.ordered_cells, 1),
            bin_of_cell=tuple(
                int(cell >= grid.ordered_cells > 0) for cell in range(len(grid.labels))
            ),
            last_is_silent=len(grid.labels) > grid.ordered_cells,
        )
        for grid in grids
    )
    shape = Shape.of(grids=grids, bins=bins, hidden=(4,), activation=Activation.TANH)
    shape.require_grids(grids)
    for grid, cells in zip(grids, shape.bin_of_cell, strict=True):
        assert set(cells[grid.ordered_cells :]) <= {NO_BIN}
        assert set(cells[: grid.ordered_cells]) <= {0}
    with pytest.raises(ConfigurationError, match="does not fit"):
        shape.require_grids(grids[1:])
    unordered = msgspec.structs.replace(shape, ordered_cells=(0, *shape.ordered_cells[1:]))
    with pytest.raises(ConfigurationError, match="does not fit"):
        unordered.require_grids(grids)


# Attributions.


def test_the_mean_is_of_noisy_counts_and_negative_ones_count_nothing():
    good = [10, 20, 5, 5, -7, 3]
    bad = [0, 10, 5, -5, 1, 100]
    counts = np.array(list(zip([*good, 30, 50, 0], [*bad, 10, 10, 0], strict=True)), float).ravel()
    # Feature 1: 40 in bin 0, 10 in bin 1, -6 in bin 2; the last cell has no bin.
    place = (10 * -0.75 + 30 * -0.25 + 10 * 0.25 + 0 * 0.75) / 50
    assert population_mean(SMALL, counts) == pytest.approx([0.8, 0.2, 0, 0.6, 0.4, place])
    counts[:] = 0
    counts[0] = -50.0  # nobody, and the noise says less than nobody
    assert population_mean(SMALL, counts).tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("wrong", [np.zeros(17), np.full(18, np.nan)])
def test_counts_of_other_cells_have_no_mean(wrong):
    with pytest.raises(ConfigurationError, match="do not fit"):
        population_mean(SMALL, wrong)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(shapes(), st.integers(0, 2**32 - 1), st.sampled_from((0.01, 0.5, 5.0)))
def test_attributions_add_up_to_the_difference_of_the_scores(
    shape: Shape, seed: int, spread: float
):
    network, codes = random_network(shape, seed, spread), random_codes(shape, 10, seed)
    mean = np.random.default_rng(seed).uniform(-1, 1, shape.inputs)
    found = attributions(network, codes, mean)
    difference = network.log_odds(codes) - network.log_odds_at(mean[np.newaxis])
    assert found.sum(axis=1) == pytest.approx(difference, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("activation", Activation)
def test_attributions_add_up_for_a_wide_network_over_several_blocks(activation: Activation):
    network = random_network(wide_shape(activation=activation), 1)
    codes = random_codes(network.shape, BLOCK_ROWS + 100, 2)
    mean = inputs(network.shape, codes).astype(np.float64).mean(axis=0)
    found = attributions(network, codes, mean).sum(axis=1)
    difference = network.log_odds(codes) - network.log_odds_at(mean[np.newaxis])
    assert np.abs(found - difference).max() < 1e-9


def integrated(network: Network, x: np.ndarray, mean: np.ndarray, nodes: int) -> np.ndarray:
    """Integrated gradients by Gauss-Legendre nodes and plain back-propagation, per input."""
    additive, *hidden, output = (one.astype(float) for one in network.matrices.values())
    total = np.zeros_like(x)
    at, weight = np.polynomial.legendre.leggauss(nodes)
    for node, share in zip((at + 1) / 2, weight / 2, strict=True):
        below, slopes = mean + node * (x - mean), []
        for matrix in hidden:
            sums = below @ matrix[:, :-1].T + matrix[:, -1]
            below = network.shape.activation.of(sums)
            tanh = network.shape.activation is Activation.TANH
            slopes.append(1 - below**2 if tanh else (sums > 0) * 1.0)
        back = output * slopes[-1]
        for matrix, slope in zip(hidden[:0:-1], slopes[-2::-1], strict=True):
            back = (back @ matrix[:, :-1]) * slope
        total += share * (additive[:, :-1] + back @ hidden[0][:, :-1])
    return total * (x - mean)


@pytest.mark.parametrize(
    ("activation", "hidden", "nodes", "tolerance"),
    [
        (Activation.TANH, (32,), 64, 1e-6),
        (Activation.TANH, (32, 16), 64, 0.01),
        (Activation.TANH, (16, 16, 16), 64, 0.02),
        (Activation.RELU, (32,), 500, 5e-3),
        (Activation.RELU, (32, 16), 500, 0.03),
    ],
)
def test_attributions_are_integrated_gradients(activation, hidden, nodes, tolerance):
    network = random_network(wide_shape(features=6, hidden=hidden, activation=activation), 1, 0.3)
    shape = network.shape
    codes = random_codes(shape, 60, 2)
    x = inputs(shape, codes).astype(np.float64)
    per_input = integrated(network, x, x.mean(axis=0), nodes)
    of_input = np.array(shape.feature_of_input)
    expected = np.stack([per_input[:, of_input == one].sum(axis=1) for one in range(6)], axis=1)
    found = attributions(network, codes, x.mean(axis=0))
    assert np.abs(found - expected).max() < tolerance


def test_a_person_at_the_mean_owes_nothing_and_additive_parts_are_exact():
    shape = msgspec.structs.replace(SMALL, hidden=())
    network = Network.of(shape, np.array([1.0, 2.0, 4.0, -1.0, 8.0, 0.5, 3.0]))
    mean = inputs(shape, rows((0, 0)))[0].astype(np.float64)
    found = attributions(network, rows((0, 0), (3, 1)), mean)
    assert found.tolist() == [[0.0, 0.0], [2.0 - 1.0 + 0.5 * 1.5, -9.0]]


@pytest.mark.parametrize("activation", Activation)
def test_features_that_cancel_each_other_in_a_unit_are_told_apart(activation: Activation):
    shape = Shape(
        bin_of_cell=((0,), (0,)), ordered_cells=(0, 0), hidden=(1,), activation=activation
    )
    network = Network.of(shape, np.array([0, 0, 0, 3, -3, 0.5, 2.0]))
    found = attributions(network, rows((0, 0)), np.zeros(2))
    slope = {Activation.TANH: 1 - np.tanh(0.5) ** 2, Activation.RELU: 1.0}[activation]
    assert found[0] == pytest.approx([6 * slope, -6 * slope])
