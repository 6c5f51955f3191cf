"""Why a network scores a person as it does: what each feature adds against the average person.

The additive layer is told exactly: weight times (input - mean input). The deep part is told by
integrated gradients from the mean inputs to the person's (Sundararajan, Taly and Yan 2017,
"Axiomatic Attribution for Deep Networks", equation 1). The path is walked in equal segments, and
within one the slope of a unit is that of its secant (the rescale rule of Shrikumar, Greenside and
Kundaje 2017, "Learning Important Features Through Propagating Activation Differences"). So the
parts add up to the difference of the scores exactly, whatever the activation and however few the
segments; with one hidden layer one segment gives the integral itself. A module is asked for its
slopes at the middles of many segments; what then lacks of the difference is shared out in
proportion to the parts, so that they add up as well.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError
from federation.model.module import DeepPart
from federation.model.network import (
    BLOCK_ROWS,
    NO_BIN,
    Activation,
    Array,
    Network,
    Shape,
    cell_positions,
    inputs,
)

SEGMENTS: Final = 8
"""Of the path, if there are several hidden layers; parts err with the square of a segment."""

MODULE_SEGMENTS: Final = 32
"""Of the path through a module."""

_LEAST_STEP: Final = 1e-9  # a secant over less is mostly rounding errors; the slope there will do


def population_mean(shape: Shape, counts: Array) -> Array:
    """Returns float64[D], the mean inputs of those who hold a feature, from noisy counts.

    Post-processing: no privacy is spent. Bins that noise made negative count nothing.

    Args:
        shape: of the network.
        counts: float64[sum of 2 x cells], the total of the question BINS in people: for each
            scored feature and cell the good, then the bad.

    Raises:
        ConfigurationError: the counts do not fit the shape.
    """
    cells = [len(of_feature) for of_feature in shape.bin_of_cell]
    if counts.shape != (2 * sum(cells),) or not np.isfinite(counts).all():
        raise ConfigurationError("The counts do not fit the network's cells.")
    people = np.split(counts.reshape(-1, 2).sum(axis=1), np.cumsum(cells)[:-1])
    shares, positions = [], []
    for of_cell, of_feature, bins, ordered in zip(
        shape.bin_of_cell, people, shape.bins, shape.ordered_cells, strict=True
    ):
        has_bin = np.array(of_cell) != NO_BIN
        merged = np.bincount(
            np.array(of_cell)[has_bin], weights=of_feature[has_bin], minlength=bins
        )
        clipped = np.maximum(merged, 0.0)
        holders = max(float(clipped.sum()), 1.0)
        shares.append(clipped / holders)
        if ordered:
            moment = float(cell_positions(ordered) @ of_feature[:ordered])
            positions.append(min(max(moment / holders, -1.0), 1.0))
    return np.concatenate((*shares, positions))


def attributions(network: Network, codes: NDArray[np.uint8], mean: Array) -> Array:
    """Returns float64[rows, features], what each feature adds to the log-odds of bad.

    A row's sum is its log-odds less those at the mean inputs, to rounding errors.

    Args:
        network: that scores.
        codes: uint8[features, rows], as `inputs` takes them.
        mean: float64[D], of `population_mean`.
    """
    rows = codes.shape[1]
    found = np.empty((rows, len(network.shape.bin_of_cell)), dtype=np.float64)
    additive, *layers = (matrix.astype(np.float64) for matrix in network.matrices.values())
    deep = None if network.shape.module is None else network.deep_part()
    for start in range(0, rows, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        away = inputs(network.shape, codes[:, block]) - mean
        effects = additive[:, :-1]
        if deep is not None:
            found[block] = (effects * away + _of_module(deep, mean, away)) @ _members(network.shape)
            continue
        if layers:
            slopes = _mean_slopes(network.shape.activation, layers, mean, away)
            effects = effects + slopes @ layers[0][:, :-1]
        found[block] = (effects * away) @ _members(network.shape)
    return found


def _of_module(deep: DeepPart, mean: Array, away: Array) -> Array:
    """Returns float64[rows, D], what each input adds to a module's log-odds.

    Args:
        deep: the module.
        mean: float64[D], where the path begins.
        away: float64[rows, D], from there to the rows.
    """
    middles = (np.arange(MODULE_SEGMENTS) + 0.5) / MODULE_SEGMENTS
    parts = away * sum(deep.slopes(mean + away * middle) for middle in middles) / MODULE_SEGMENTS
    difference = deep.log_odds(mean + away) - deep.log_odds(mean[np.newaxis])
    sizes = np.abs(parts) + _LEAST_STEP * np.abs(away)  # an input that is the mean one adds nothing
    lacking = difference - parts.sum(axis=1)
    total = np.maximum(sizes.sum(axis=1), np.finfo(np.float64).tiny)
    found: Array = parts + sizes * (lacking / total)[:, np.newaxis]
    return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)  # no score, no reasons


def _mean_slopes(activation: Activation, layers: list[Array], mean: Array, away: Array) -> Array:
    """Returns float64[rows, first width], the mean slope of the output in each first sum.

    Args:
        activation: of the hidden layers.
        layers: the hidden matrices and the output.
        mean: float64[D], where the path begins.
        away: float64[rows, D], from there to the rows.
    """
    first, *hidden, output = layers
    begin, path = first[:, :-1] @ mean + first[:, -1], away @ first[:, :-1].T
    segments = SEGMENTS if hidden else 1
    before = _walked(activation, hidden, np.broadcast_to(begin, path.shape))
    total = np.zeros_like(path)
    for number in range(1, segments + 1):
        after = _walked(activation, hidden, begin + path * (number / segments))
        slopes = [_secant(activation, *ends) for ends in zip(before, after, strict=True)]
        back = output * slopes[-1]
        for matrix, below in zip(reversed(hidden), reversed(slopes[:-1]), strict=True):
            back = (back @ matrix[:, :-1]) * below
        total += back
        before = after
    return total / segments


def _walked(activation: Activation, hidden: list[Array], sums: Array) -> list[tuple[Array, Array]]:
    """Returns the sums and the outputs of every hidden layer, each float64[rows, width]."""
    found = [(sums, activation.of(sums))]
    for matrix in hidden:
        sums = found[-1][1] @ matrix[:, :-1].T + matrix[:, -1]
        found.append((sums, activation.of(sums)))
    return found


def _secant(
    activation: Activation, before: tuple[Array, Array], after: tuple[Array, Array]
) -> Array:
    step = after[0] - before[0]
    slope = (1.0 - after[1] ** 2) if activation is Activation.TANH else (after[0] > 0) * 1.0
    return np.divide(after[1] - before[1], step, out=slope, where=np.abs(step) > _LEAST_STEP)


@lru_cache(maxsize=4)
def _members(shape: Shape) -> Array:
    """Returns float64[D, features], 1 where an input belongs to a feature."""
    found = np.zeros((shape.inputs, len(shape.bin_of_cell)))
    found[np.arange(shape.inputs), shape.feature_of_input] = 1.0
    return found
