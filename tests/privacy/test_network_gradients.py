"""A person's gradient is that person's alone, exact and bounded, whoever else is there."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from opacus import GradSampleModule

from clients.network_gradients import NetworkGradients
from federation.errors import ConfigurationError, PrivacyError
from federation.model.network import LARGEST_PARAMETER, WIDEST_LAYER, Activation
from federation.query import UNITS_PER_CLIP
from tests.torch_networks import flat, made, matrices_of, rows, total, vectors

SHAPES = [
    (12, (16, 8), Activation.TANH),
    (12, (16, 8), Activation.RELU),
    (9, (5,), Activation.TANH),
    (7, (), Activation.TANH),
]


def gradients(shape, *, clip_norm=1.0, parameters=None):
    inputs, hidden, activation = shape
    return NetworkGradients(
        flat(made(*shape)) if parameters is None else parameters,
        inputs=inputs,
        hidden=hidden,
        activation=activation,
        clip_norm=clip_norm,
    )


def by_opacus(shape, x, bad, clip_norm):
    """Returns float64[rows, parameters], Opacus' gradients of the loss, clipped here."""
    module = made(*shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that x needs no gradient, which is true
        hooked = GradSampleModule(module, loss_reduction="sum")
        torch.nn.functional.binary_cross_entropy_with_logits(
            hooked(torch.from_numpy(x)), torch.from_numpy(bad).float(), reduction="sum"
        ).backward()
    parts = []
    for one in module.modules():
        if isinstance(one, torch.nn.Linear):
            weight = one.weight.grad_sample
            if one.bias is not None:
                weight = torch.cat([weight, one.bias.grad_sample[:, :, None]], dim=2)
            parts.append(weight.reshape(len(x), -1).double())
    found = torch.cat(parts, dim=1).numpy()
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return found * np.minimum(1.0, clip_norm / norms)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("clip_norm", [0.5, 3.0])
def test_the_gradients_are_opacus_up_to_the_grid_of_inputs(shape, clip_norm):
    x, bad = rows(300, shape[0])
    ours = vectors(gradients(shape, clip_norm=clip_norm).of(x, bad)) * clip_norm / UNITS_PER_CLIP
    theirs = by_opacus(shape, x, bad, clip_norm)
    apart = np.linalg.norm(ours - theirs, axis=1)
    # A unit of ReLU within half a grid step of its kink may be on its other side there.
    usual = 0.95 if shape[2] is Activation.RELU else 1.0
    assert np.quantile(apart, usual) < 0.02 * clip_norm
    assert np.linalg.norm(ours.sum(axis=0) - theirs.sum(axis=0)) < 0.01 * np.linalg.norm(
        theirs.sum(axis=0)
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_brings_the_same_bits_alone_and_in_any_company(shape):
    x, bad = rows(700, shape[0])
    ours = gradients(shape)
    whole = vectors(ours.of(x, bad))
    order = np.random.default_rng(1).permutation(700)
    assert_array_equal(vectors(ours.of(x[order], bad[order])), whole[order])
    for size in (1, 2, 3, 5, 17, 64, 511):
        part = order[:size]
        assert_array_equal(vectors(ours.of(x[part], bad[part])), whole[part])
    strided = np.asfortranarray(x)[::-1]
    assert_array_equal(vectors(ours.of(strided, bad[::-1])), whole[::-1])


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_every_layer_is_what_whole_numbers_of_any_size_give(shape):
    x, bad = rows(3, shape[0])
    for largest in (1.0, LARGEST_PARAMETER):
        parameters = np.random.default_rng(2).uniform(-largest, largest, len(flat(made(*shape))))
        parameters = parameters.astype(np.float32)
        found = gradients(shape, parameters=parameters).of(x, bad)
        for row in range(3):
            expected = in_whole_numbers(shape, parameters, x[row], int(bad[row]))
            for layer, (signals, inputs) in zip(found, expected, strict=True):
                assert layer.inputs[row].tolist() == inputs
                assert layer.signals[row].tolist() == pytest.approx(signals, abs=1)


def test_nothing_is_rounded_at_the_public_bounds():
    # Every partial sum as large as it can be, but for an odd last bit that rounding would take.
    shape = (40, (WIDEST_LAYER, WIDEST_LAYER), Activation.RELU)
    length = WIDEST_LAYER * (41 + WIDEST_LAYER + 1 + 1) + 41
    parameters = np.full(length, LARGEST_PARAMETER, np.float32)
    parameters[41 + 41 * WIDEST_LAYER :: 2] -= np.float32(2.0**-16)
    x, bad = rows(2, 40)
    found = gradients(shape, parameters=parameters).of(np.abs(x), bad)
    expected = in_whole_numbers(shape, parameters, np.abs(x[0]), int(bad[0]))
    for layer, (_, inputs) in zip(found, expected, strict=True):
        assert layer.inputs[0].tolist() == inputs


def in_whole_numbers(shape, parameters, row, outcome):
    """Returns (signals, inputs) of each layer for one row, by Python's integers and fractions."""
    inputs, hidden, activation = shape
    units = [round(float(one) * 2**16) for one in parameters]
    taken = 0

    def matrix(outputs, columns):
        nonlocal taken
        taken += outputs * columns
        block = units[taken - outputs * columns : taken]
        return [block[i * columns : (i + 1) * columns] for i in range(outputs)]

    def times(weights, vector):
        return [sum(w * v for w, v in zip(line, vector, strict=True)) for line in weights]

    first = [round(float(one) * 256) for one in row] + [256]
    additive = matrix(1, inputs + 1)
    layers, way, last = [], [first], first
    for width in hidden:
        layers.append(matrix(width, len(last)))
        sums = times(layers[-1], last)
        if activation is Activation.TANH:
            last = [round(math.tanh(min(max(halves(s), -4096), 4096) / 256) * 256) for s in sums]
        else:
            last = [min(max(rounded(s), 0), 2048) for s in sums]
        last = [*last, 256]
        way.append(last)
    score = times(additive, first)[0]
    if hidden:
        way[-1] = way[-1][:-1]
        layers.append(matrix(1, hidden[-1]))
        score += times(layers[-1], way[-1])[0]
    place = min(max(halves(score), -4096), 4096) / 256
    residual = round(2**16 / (1 + math.exp(-place))) - 2**16 * outcome
    signals = [[residual]]
    for number in range(len(hidden), 0, -1):
        outer = zip(*(line[: hidden[number - 1]] for line in layers[number]), strict=True)
        below = [sum(w * s for w, s in zip(column, signals[0], strict=True)) for column in outer]
        slopes = [
            2**16 - a * a if activation is Activation.TANH else 2**16 * (0 < a < 2048)
            for a in way[number][: hidden[number - 1]]
        ]
        toward_zero = [
            (abs(b) * s >> 32) * (1 if b > 0 else -1) for b, s in zip(below, slopes, strict=True)
        ]
        signals.insert(0, [min(max(s, -(2**20)), 2**20) for s in toward_zero])
    if hidden:
        signals[0] = [residual, *signals[0]]
    squared = sum(
        sum(s * s for s in signal) * sum(a * a for a in one)
        for signal, one in zip(signals, way, strict=True)
    )
    scale = min(1.0, 2**24 / math.sqrt(squared)) if squared else 1.0
    return [
        ([math.trunc(s * scale) for s in signal], one)
        for signal, one in zip(signals, way, strict=True)
    ]


def halves(sums):
    """Returns a sum in 2^-24 in the nearest 1/256, halves up."""
    return (sums + 2**15) >> 16


def rounded(sums):
    """Returns a sum in 2^-24 in the nearest 1/256, halves to even."""
    return round(sums / 2**16)


hostile = st.sampled_from([0.0, 1.0, -1.0, 0.3, 1e30, -3e38, math.nan, math.inf, -math.inf])


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.lists(hostile, min_size=7, max_size=7), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.01, 1.0, 20.0]),
    shape=st.sampled_from([(7, (6, 4), Activation.TANH), (7, (6,), Activation.RELU)]),
)
def test_a_person_who_leaves_takes_at_most_the_sensitivity_along(values, seed, scale, shape):
    drawn = np.random.default_rng(seed)
    x = np.array(values, dtype=np.float32)
    bad = drawn.integers(256, size=len(x)).astype(np.uint8)
    parameters = drawn.uniform(-scale, scale, len(flat(made(*shape)))).astype(np.float32)
    ours = gradients(shape, parameters=parameters, clip_norm=float(drawn.choice([1e-3, 1.0, 50.0])))
    everyone = total(ours.of(x, bad))
    gone = int(drawn.integers(len(x)))
    others = drawn.permutation(np.delete(np.arange(len(x)), gone))
    split = int(drawn.integers(len(x)))
    parts = [total(ours.of(x[part], bad[part])) for part in (others[:split], others[split:])]
    change = [int(one) for one in everyone - parts[0] - parts[1]]
    assert sum(one * one for one in change) <= UNITS_PER_CLIP**2
    if not np.isfinite(x[gone]).all():
        assert not any(change)


def test_a_hostile_number_is_cut_and_an_outcome_is_its_lowest_bit():
    shape = SHAPES[0]
    x, _ = rows(4, shape[0])
    x[0, 3], x[1, 3] = 1e30, 1.0
    x[1, :3], x[1, 4:] = x[0, :3], x[0, 4:]
    x[2, 0], x[3, 1] = math.nan, -math.inf
    found = vectors(gradients(shape).of(x, np.array([254, 0, 1, 1], np.uint8)))
    assert_array_equal(found[0], found[1])
    assert found[0].any()
    assert not found[2:].any()


def test_rows_of_one_person_share_the_persons_bound():
    shape, x = SHAPES[0], rows(40, 12)[0]
    bad = np.zeros(40, np.uint8)
    held = np.repeat([1.0, 3.0, 36.0], [1, 3, 36])
    found = vectors(gradients(shape, clip_norm=0.01).of(x, bad, held))
    lengths = np.linalg.norm(found, axis=1) * held
    assert (lengths <= UNITS_PER_CLIP).all()
    assert lengths == pytest.approx(UNITS_PER_CLIP, rel=1e-2)  # truncation takes the rest


def test_a_gradient_within_the_bound_is_not_lengthened():
    shape = SHAPES[0]
    x, bad = rows(50, 12)
    wide, wider = (vectors(gradients(shape, clip_norm=c).of(x, bad)) * c for c in (64.0, 128.0))
    assert np.abs(wide - wider).max() < 2**24 * 1e-2
    assert np.linalg.norm(wide, axis=1).max() < 40.0 * UNITS_PER_CLIP


@pytest.mark.parametrize("value", [math.nan, math.inf, LARGEST_PARAMETER * 1.001])
def test_a_model_beyond_the_public_bound_is_refused(value):
    parameters = flat(made(*SHAPES[0])).copy()
    parameters[5] = value
    with pytest.raises(PrivacyError, match="within"):
        gradients(SHAPES[0], parameters=parameters)


def test_a_model_of_another_length_is_refused():
    with pytest.raises(PrivacyError, match="Expected 365 parameters"):
        gradients(SHAPES[0], parameters=np.zeros(364, np.float32))


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_norm_that_bounds_nothing_is_refused(clip_norm):
    with pytest.raises(ConfigurationError, match="clip norm"):
        gradients(SHAPES[0], clip_norm=clip_norm)


def test_sizes_for_which_sums_would_not_be_exact_are_refused():
    for shape in ((2**20, (), "tanh"), (3, (WIDEST_LAYER + 1,), "tanh"), (0, (), "relu")):
        with pytest.raises(ConfigurationError, match="Expected 1 to"):
            gradients(shape, parameters=np.zeros(1, np.float32))


def test_matrices_are_in_the_order_of_the_plan():
    shapes = [tuple(one.shape) for one in matrices_of(made(*SHAPES[0]))]
    assert shapes == [(1, 13), (16, 13), (8, 17), (1, 8)]
