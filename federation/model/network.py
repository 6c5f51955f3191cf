"""A network that scores: an additive layer beside a stack of linear layers, as numbers alone.

log-odds of bad = additive(x) + deep(x). The inputs x follow from a person's public fine cells:

1. for each scored feature, one-hot, the bin of its cell, bins as the scorecard has them;
2. then for each feature with ordered cells one number, where its cell lies on the public grid:
   2 (cell + 1/2) / ordered cells - 1, within (-1, 1); 0 for a cell without an order.

A feature that is not held is all zeros, and so is a cell without evidence: noise alone would have
drawn what the network says there. The parameters are matrices, flattened row by row, one after the
other: additive (1, D + 1), hidden_0 (h_0, D + 1), hidden_k (h_k, h_(k-1) + 1), output (1, h_last).
The last column of all but the output is the bias, whose input is 1. In place of hidden layers a
module may stand (`federation.model.module`): module (1, P), the way from its own beginning.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError
from federation.grid import LARGEST_GRID, NOT_HELD, FeatureGrid
from federation.model.binning import FeatureBins
from federation.model.module import DeepPart, Module, deep_part
from federation.model.score_scale import ScoreScale
from federation.privacy.entropy import Keystream
from federation.query import LONGEST_SUM

LARGEST_PARAMETER: Final = 64.0
"""Public bound on every parameter."""

MOST_HIDDEN_LAYERS: Final = 4
WIDEST_LAYER: Final = 512

NO_BIN: Final = -1
"""The bin of a cell without evidence: it has no input."""

BLOCK_ROWS: Final = 1_024
"""Rows that are scored together: their inputs and layers stay in a core's cache."""

_SMALL_OUTPUT: Final = 0.1  # the deep part starts near 0, and moves from the first step on

Parameters = NDArray[np.float32]
Array = NDArray[np.float64]


class Activation(StrEnum):
    """What a hidden layer does to each of its sums."""

    TANH = "tanh"
    RELU = "relu"

    def of(self, sums: Array) -> Array:
        """Returns the outputs of a layer with these sums, any shape."""
        return np.tanh(sums) if self is Activation.TANH else np.maximum(sums, 0.0)

    def slope(self, outputs: Array) -> Array:
        """Returns the derivative where a layer has these outputs, any shape."""
        return 1.0 - outputs**2 if self is Activation.TANH else (outputs > 0).astype(np.float64)


class Shape(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """All of a network but its parameters: public, and the same for everybody.

    Attributes:
        bin_of_cell: per scored feature, the bin of each fine cell, or `NO_BIN`.
        ordered_cells: per scored feature, how many cells have an order; they come first.
        hidden: widths of the hidden layers, none for an additive score.
        activation: of every hidden layer.
        module: that stands in place of hidden layers, None for none.

    Raises:
        ConfigurationError: there is no such network, or it is too large to be trained.
    """

    bin_of_cell: tuple[tuple[int, ...], ...]
    ordered_cells: tuple[int, ...]
    hidden: tuple[int, ...]
    activation: Activation
    module: Module | None = None

    def __post_init__(self) -> None:
        if self.module is not None and self.hidden:
            raise ConfigurationError("A network has hidden layers or a module, not both.")
        if not self.bin_of_cell or len(self.bin_of_cell) != len(self.ordered_cells):
            raise ConfigurationError("A network needs bins and ordered cells of the same features.")
        for cells, ordered in zip(self.bin_of_cell, self.ordered_cells, strict=True):
            if not 1 <= len(cells) <= LARGEST_GRID or not 0 <= ordered <= len(cells):
                raise ConfigurationError(
                    "A network's feature needs 1 to 250 cells, of which any number are ordered."
                )
            if max(cells) >= len(cells) or set(cells) - {NO_BIN} != set(range(max(cells) + 1)):
                raise ConfigurationError(
                    "Expected a network's bins of a feature to be numbered from 0, none empty."
                )
        if len(self.hidden) > MOST_HIDDEN_LAYERS or any(
            not 1 <= width <= WIDEST_LAYER for width in self.hidden
        ):
            raise ConfigurationError(
                f"Expected at most {MOST_HIDDEN_LAYERS} hidden layers of 1 to {WIDEST_LAYER} "
                f"units, got {list(self.hidden)}."
            )
        if self.parameters > LONGEST_SUM:
            raise ConfigurationError(
                f"A network may have at most {LONGEST_SUM} parameters, this one has "
                f"{self.parameters}."
            )

    @staticmethod
    def of(
        *,
        grids: tuple[FeatureGrid, ...],
        bins: tuple[FeatureBins, ...],
        hidden: tuple[int, ...],
        activation: Activation,
    ) -> "Shape":
        """Returns the shape of a network over a scorecard's bins.

        Args:
            grids: of the scored features.
            bins: of the same features; one that is silent gets no input.
            hidden: widths.
            activation: of every hidden layer.
        """
        return Shape(
            bin_of_cell=tuple(
                tuple(one if evident else NO_BIN for one, evident in _evident(of_feature))
                for of_feature in bins
            ),
            ordered_cells=tuple(grid.ordered_cells for grid in grids),
            hidden=hidden,
            activation=activation,
        )

    @property
    def bins(self) -> tuple[int, ...]:
        """Bins with an input, of each feature."""
        return tuple(max(cells) + 1 for cells in self.bin_of_cell)

    @property
    def inputs(self) -> int:
        """D, the number of inputs without the bias."""
        return sum(self.bins) + sum(ordered > 0 for ordered in self.ordered_cells)

    @property
    def feature_of_input(self) -> tuple[int, ...]:
        """The place of the feature that each input belongs to, D of them."""
        one_hot = [feature for feature, bins in enumerate(self.bins) for _ in range(bins)]
        positions = [feature for feature, ordered in enumerate(self.ordered_cells) if ordered]
        return (*one_hot, *positions)

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """The shape of each matrix of parameters, by name, in their order."""
        found = {"additive": (1, self.inputs + 1)}
        below = self.inputs
        for number, width in enumerate(self.hidden):
            found[f"hidden_{number}"] = (width, below + 1)
            below = width
        if self.hidden:
            found["output"] = (1, below)
        if self.module is not None:
            found["module"] = (1, self.module.parameters)
        return found

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(math.prod(shape) for shape in self.matrices.values())

    def require_grids(self, grids: tuple[FeatureGrid, ...]) -> None:
        """Returns only if the shape has exactly these features' fine cells.

        Args:
            grids: of the scored features.

        Raises:
            ConfigurationError: the network was made for another schema.
        """
        cells = tuple(len(of_feature) for of_feature in self.bin_of_cell)
        if cells != tuple(len(grid.labels) for grid in grids) or self.ordered_cells != tuple(
            grid.ordered_cells for grid in grids
        ):
            raise ConfigurationError("This network does not fit the schema: other cells.")


def _evident(bins: FeatureBins) -> list[tuple[int, bool]]:
    """Returns the bin of each cell, and whether anybody there can be told from the noise."""
    return [(one, bool(bins.evident[one])) for one in bins.bin_of_cell]


def inputs(shape: Shape, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns float32[rows, D], the inputs of each row: of one row alone, within [-1, 1].

    Args:
        shape: says what each cell is.
        codes: uint8[features, rows], fine cell codes of the scored features. Any byte is legal:
            a code that names no cell is a feature that is not held.
    """
    tables = _input_tables(shape)
    rows, width = codes.shape[1], shape.inputs
    found = np.zeros((rows, width + 1), dtype=np.float32)  # the last column takes what has no bin
    flat, starts = found.reshape(-1), np.arange(rows) * (width + 1)
    for of_feature, columns in zip(codes, tables.columns, strict=True):
        flat[starts + columns[of_feature]] = 1.0
    for column, (feature, positions) in enumerate(tables.positions, start=sum(shape.bins)):
        found[:, column] = positions[codes[feature]]
    return found[:, :width]


@dataclass(frozen=True, slots=True, kw_only=True)
class _InputTables:
    """What each of the 256 codes gives.

    Attributes:
        columns: per feature int64[256], the input that is 1; D where none is.
        positions: for each feature with ordered cells its place, and float32[256].
    """

    columns: tuple[NDArray[np.int64], ...]
    positions: tuple[tuple[int, NDArray[np.float32]], ...]


@lru_cache(maxsize=4)
def _input_tables(shape: Shape) -> _InputTables:
    columns, positions, start = [], [], 0
    for feature, (cells, bins, ordered) in enumerate(
        zip(shape.bin_of_cell, shape.bins, shape.ordered_cells, strict=True)
    ):
        table = np.full(NOT_HELD + 1, shape.inputs, dtype=np.int64)
        of_cell = np.array(cells)
        table[: len(cells)] = np.where(of_cell == NO_BIN, shape.inputs, start + of_cell)
        columns.append(table)
        start += bins
        if ordered:
            places = np.zeros(NOT_HELD + 1, dtype=np.float32)
            places[:ordered] = cell_positions(ordered)
            positions.append((feature, places))
    return _InputTables(columns=tuple(columns), positions=tuple(positions))


def cell_positions(ordered_cells: int) -> Array:
    """Returns float64[ordered cells], where each lies on its public grid, within (-1, 1)."""
    return (2.0 * np.arange(ordered_cells) + 1.0) / ordered_cells - 1.0


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="network"):
    """A network; one that exists can be scored with.

    Attributes:
        shape: of its layers.
        parameters: float32, little-endian, of all matrices one after the other.

    Raises:
        ConfigurationError: too many or too few parameters, or one that is not a number within
            +-`LARGEST_PARAMETER`.
    """

    shape: Shape
    parameters: bytes

    def __post_init__(self) -> None:
        if len(self.parameters) != 4 * self.shape.parameters:
            raise ConfigurationError(
                f"Expected {self.shape.parameters} parameters of 4 bytes each, got "
                f"{len(self.parameters)} bytes."
            )
        if not (np.abs(self.vector) <= LARGEST_PARAMETER).all():  # NaN fails as well
            raise ConfigurationError(
                f"A parameter of the network is not a number within +-{LARGEST_PARAMETER:g}."
            )

    @staticmethod
    def of(shape: Shape, vector: NDArray[np.floating]) -> "Network":
        """Returns the network with these parameters, cut to the public bound.

        Args:
            shape: of its layers.
            vector: float[parameters], of all matrices one after the other.

        Raises:
            ConfigurationError: another number of parameters, or one that is not a number.
        """
        bounded = np.clip(vector, -LARGEST_PARAMETER, LARGEST_PARAMETER)
        return Network(shape=shape, parameters=bounded.astype("<f4").tobytes())

    @property
    def vector(self) -> Parameters:
        """float32[parameters], read only."""
        return np.frombuffer(self.parameters, dtype="<f4")

    @property
    def matrices(self) -> dict[str, Parameters]:
        """The matrices of parameters by name, in their order, read only."""
        found, start = {}, 0
        for name, shape in self.shape.matrices.items():
            end = start + math.prod(shape)
            found[name] = self.vector[start:end].reshape(shape)
            start = end
        return found

    def log_odds(self, codes: NDArray[np.uint8]) -> Array:
        """Returns float64[rows], the log-odds of bad of each row.

        Computed in float64. Another number of rows in a call may change the last bits.

        Args:
            codes: uint8[features, rows], as `inputs` takes them.
        """
        rows = codes.shape[1]
        found = np.empty(rows, dtype=np.float64)
        deep = None if self.shape.module is None else self.deep_part()
        for start in range(0, rows, BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            x = inputs(self.shape, codes[:, block]).astype(np.float64)
            found[block] = self._log_odds_at(x, deep)
        return found

    def log_odds_at(self, x: Array) -> Array:
        """Returns float64[rows], the log-odds of bad at inputs of any value.

        Args:
            x: float64[rows, D].
        """
        return self._log_odds_at(x, None if self.shape.module is None else self.deep_part())

    def _log_odds_at(self, x: Array, deep: DeepPart | None) -> Array:
        additive, *layers = (matrix.astype(np.float64) for matrix in self.matrices.values())
        found: Array = x @ additive[0, :-1] + additive[0, -1]
        if deep is not None:  # a score that is no number is 0, as people were evaluated
            return np.nan_to_num(found + deep.log_odds(x), nan=0.0)
        if layers:
            *hidden, output = layers
            for matrix in hidden:
                x = self.shape.activation.of(x @ matrix[:, :-1].T + matrix[:, -1])
            found += x @ output[0]
        return found

    def deep_part(self) -> DeepPart:
        """Returns the deep part of a network that has a module.

        Raises:
            ConfigurationError: it has none, or none that is installed here.
        """
        if self.shape.module is None:
            raise ConfigurationError("The deep part of this network is a stack of linear layers.")
        way = self.vector[-self.shape.module.parameters :]
        return deep_part(self.shape.module, inputs=self.shape.inputs, way=way)

    def loss_gradient(self, x: Array, bad: Array) -> Array:
        """Returns float64[parameters], the gradient of the summed logistic loss; no person clipped.

        Args:
            x: float64[rows, D].
            bad: float64[rows], 1 = bad, 0 = good.

        Raises:
            ConfigurationError: the network has a module.
        """
        if self.shape.module is not None:
            raise ConfigurationError("Only a stack of linear layers has this gradient.")
        additive, *layers = (matrix.astype(np.float64) for matrix in self.matrices.values())
        sums = x @ additive[0, :-1] + additive[0, -1]
        outputs = [x]
        hidden, output = layers[:-1], layers[-1:]
        for matrix in hidden:
            sum_of_layer = outputs[-1] @ matrix[:, :-1].T + matrix[:, -1]
            outputs.append(self.shape.activation.of(sum_of_layer))
        for matrix in output:
            sums = sums + outputs[-1] @ matrix[0]
        residual = 1 / (1 + np.exp(-np.clip(sums, -500, 500))) - bad
        parts = [np.append(residual @ x, residual.sum())]
        back = residual[:, np.newaxis]
        later: list[Array] = [residual @ outputs[-1]] if output else []
        weights = [*(matrix[:, :-1] for matrix in hidden), *output]
        for number in reversed(range(len(hidden))):
            back = (back @ weights[number + 1]) * self.shape.activation.slope(outputs[number + 1])
            with_bias = np.column_stack((back.T @ outputs[number], back.sum(axis=0)))
            later.insert(0, with_bias.ravel())
        return np.concatenate([*parts, *later])

    def points(self, codes: NDArray[np.uint8], scale: ScoreScale) -> NDArray[np.int64]:
        """Returns int64[rows], whole points, higher is safer, within +-LARGEST_WEIGHT.

        Args:
            codes: uint8[features, rows], as `inputs` takes them.
            scale: how points relate to odds.
        """
        return scale.whole_points(self.log_odds(codes))


def start(shape: Shape, seed: bytes, intercept: float, evidence: Array | None = None) -> Network:
    """Returns the network that training starts from: everybody can compute it.

    Hidden matrices are uniform within +-sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010,
    equation 16), the output a tenth of that; biases are 0, and so is the additive layer but for
    its evidence, and the way of a module.

    Args:
        shape: of the network.
        seed: 32 public bytes.
        intercept: log-odds of bad of everybody, the bias of the additive layer.
        evidence: float64[bins of all features], log-odds that the additive layer starts with.

    Raises:
        ConfigurationError: the intercept is not a number.
    """
    stream = Keystream(seed)
    parts = []
    for name, (outputs, columns) in shape.matrices.items():
        matrix = np.zeros((outputs, columns))
        if name == "additive":
            matrix[0, -1] = intercept
            if evidence is not None:
                matrix[0, : len(evidence)] = evidence
        elif name != "module":
            weights = columns if name == "output" else columns - 1
            reach = math.sqrt(6 / (weights + outputs)) * (_SMALL_OUTPUT if name == "output" else 1)
            uniform = (stream.words(outputs * weights) >> np.uint64(11)) * 2.0**-52 - 1.0
            matrix[:, :weights] = reach * uniform.reshape(outputs, weights)
        parts.append(matrix.ravel())
    return Network.of(shape, np.concatenate(parts))
