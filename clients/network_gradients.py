"""Per-person gradients of a network of linear layers, in closed form and in whole numbers.

The gradient of a linear layer's matrix for one row is an outer product: the signal that reaches the
layer's outputs on the way back times the layer's inputs. So its norm is the product of two short
norms, and the sum over rows is one matrix product: nobody's gradient is ever laid out in full
(Goodfellow 2015, "Efficient per-example gradient computations", arXiv:1510.01799).

What the promise needs besides is that a person's vector is a function of that person's rows and the
model alone. A product of matrices in floating point does not give that: libraries pick kernels and
orders by the number of rows, so a row's result may change with its place and its company, and
removing one person would change the vectors of others. Here nothing depends on an order:

* weights (2^-16), inputs and activations (1/256) and signals (2^-16) are whole numbers below public
  bounds, kept in float64, and in every sum of products each partial sum, in any order, is a whole
  number below 2^53. So float64 makes no rounding, whatever the kernel, fused or not, and a matrix
  product is the exact one. In bits: forward 22 (weight) + 8 (input) + 20 (inputs) in the first
  layer, 22 + 11 + 10 in the others; backward 22 + 20 (signal) + 10 (outputs).
* between products, every number goes its own way: a table looked up by a whole number (tanh, the
  logistic function), single IEEE operations (multiply, divide, square root), truncation toward
  zero. No library's tanh or exp sees a row.

Hence the same row gives the same bits alone and in a block of any size and order, and on every
machine whose numpy makes the same two tables.
"""

import itertools
import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from federation.door import Layer
from federation.errors import ConfigurationError, PrivacyError
from federation.model.network import LARGEST_PARAMETER, WIDEST_LAYER, Activation

Array = NDArray[np.float64]

MOST_INPUTS = 2**20 - 1
LARGEST_ACTIVATION = 8.0
"""Where ReLU is cut, so that inputs are bounded."""

_INPUT_UNITS = 2.0**8  # for the number 1; a bias is an input of 1
_WEIGHT_UNITS = 2.0**16
_SIGNAL_UNITS = 2.0**16  # of a signal before it is clipped, when it comes to be in units of C
_LARGEST_SIGNAL = 2.0**20  # in those units: 16
_TABLE_REACH = 16.0  # the tables of tanh and the logistic function are flat beyond +-16
_MARGIN = 1 - 2.0**-40  # more than all roundings of a row's clip factor together


class NetworkGradients:
    """Clipped gradients of people's logistic loss at one model.

    `rows_at_once` rows keep what is computed for them in a core's cache; any number gives the same.
    """

    rows_at_once: ClassVar = 1_024

    def __init__(
        self,
        parameters: NDArray[np.float32],
        *,
        inputs: int,
        hidden: tuple[int, ...],
        activation: Activation,
        clip_norm: float,
    ) -> None:
        """Takes the model of one question.

        Args:
            parameters: float32, the matrices of `federation.model.network`, one after the other,
                row by row.
            inputs: numbers that a row has, 1 to MOST_INPUTS.
            hidden: widths of the hidden layers, each 1 to WIDEST_LAYER; may be empty.
            activation: after each hidden layer.
            clip_norm: C, the longest gradient of one person, in units of the loss's gradient;
                above 0.

        Raises:
            ConfigurationError: a size or the clip norm is out of its range.
            PrivacyError: there are too many or too few parameters, or one of them is not finite or
                beyond LARGEST_PARAMETER.
        """
        if not 1 <= inputs <= MOST_INPUTS or any(not 1 <= h <= WIDEST_LAYER for h in hidden):
            raise ConfigurationError(
                f"Expected 1 to {MOST_INPUTS} inputs and layers of 1 to {WIDEST_LAYER} outputs, "
                f"got {inputs} and {list(hidden)}."
            )
        if not 0.0 < clip_norm < math.inf:
            raise ConfigurationError(f"Expected a clip norm above 0, got {clip_norm}.")
        self._hidden = hidden
        self._activation = activation
        self._clip_norm = clip_norm
        matrices = _matrices(inputs, hidden)
        sizes = [outputs * columns for outputs, columns in matrices]
        if parameters.shape != (sum(sizes),) or not np.all(np.abs(parameters) <= LARGEST_PARAMETER):
            raise PrivacyError(
                f"Expected {sum(sizes)} parameters within +-{LARGEST_PARAMETER:g}: another model "
                "is answered with nobody's data."
            )
        weights = np.rint(parameters.astype(np.float64) * _WEIGHT_UNITS) / _WEIGHT_UNITS
        flat = np.split(weights, np.cumsum(sizes)[:-1])
        self._weights = [one.reshape(shape) for one, shape in zip(flat, matrices, strict=True)]
        below = [self._weights[0][1:], *self._weights[1:-1]] if hidden else []
        self._ways_up = [self._way_up(one) for one in below]
        self._ways_down = [
            _without_bias(one, width) for one, width in zip(self._weights[1:], hidden, strict=True)
        ]

    def of(
        self,
        x: NDArray[np.float32],
        bad: NDArray[np.uint8],
        rows_of_person: NDArray[np.float64] | None = None,
    ) -> tuple[Layer, ...]:
        """Returns each row's clipped gradient of the loss, as outer products of whole numbers.

        It is the gradient of the logistic loss log(1 + exp(score)) - outcome * score, which an
        optimiser steps against. The layers are those of the parameters, the additive one and the
        first hidden one stacked as one, since they share their inputs; so a row's vector, laid out
        as the door does, is in the order of the parameters. In units of 2^-24 C it is at most
        2^24 / R long where its person has R rows: the gradient of a person is the mean of the rows'
        clipped ones. The door checks that again.

        Args:
            x: float32[rows, inputs], numbers in [-1, 1]; what lies beyond is cut. A row with NaN or
                infinity brings the zero vector.
            bad: uint8[rows], the outcome; only the lowest bit is read.
            rows_of_person: float64[rows], R, each >= 1; None if every row is a person.
        """
        finite = np.isfinite(x).astype(np.float32) @ np.ones(x.shape[1], np.float32)
        usable = finite == x.shape[1]
        inputs, score = self._forward(x, usable)
        places = (score + (_TABLE_REACH * _INPUT_UNITS + 0.5)).astype(np.int64)
        residual = _LOGISTIC.take(places, mode="clip") - (bad & 1) * _SIGNAL_UNITS
        residual[~usable] = 0.0
        signals = self._backward(inputs, residual)
        inputs[-1] = inputs[-1][:, : self._weights[-1].shape[1]]  # the output has no bias
        squared = np.full(len(x), 1.0)  # of 2^48; a zero vector would divide by zero
        for signal, of_layer in zip(signals, inputs, strict=True):
            squared += _squares(signal) * _squares(of_layer)
        factor = np.minimum(1.0 / self._clip_norm, _SIGNAL_UNITS * _INPUT_UNITS / np.sqrt(squared))
        factor *= _MARGIN
        if rows_of_person is not None:
            factor /= rows_of_person
        return tuple(
            Layer(signals=_cut(signal[:, : len(weights)], factor), inputs=of_layer)
            for weights, signal, of_layer in zip(self._weights, signals, inputs, strict=True)
        )

    def log_odds(self, x: NDArray[np.float32]) -> Array:
        """Returns float64[rows], the log-odds of bad of each row, of that row alone, bit by bit.

        The network on the same whole numbers: a few thousandths beside `Network.log_odds`, whose
        last bits depend on who else is scored with a row.

        Args:
            x: as `of` takes it; a row with NaN or infinity scores as one without any inputs.
        """
        _, score = self._forward(x, np.all(np.isfinite(x), axis=1))
        return score / _INPUT_UNITS

    def _way_up(self, weights: Array) -> Array:
        """Returns a hidden layer's matrix, readied: its sums are places in a table, or plain sums.

        It has one more output, always 1 once activated: the input that the next layer's bias has.
        """
        ready = np.vstack([weights, np.zeros(weights.shape[1])])
        ready[-1, -1] = _TABLE_REACH
        if self._activation is Activation.TANH:
            ready[:, -1] += _TABLE_REACH + 0.5 / _INPUT_UNITS
        else:
            ready[-1, -1] = 1.0
        return ready.T

    def _forward(
        self, x: NDArray[np.float32], usable: NDArray[np.bool_]
    ) -> tuple[list[Array], Array]:
        """Returns the inputs of each layer and the scores, in input units."""
        units = np.clip(x, -1.0, 1.0)
        units *= _INPUT_UNITS
        first = np.empty((len(x), x.shape[1] + 1))
        first[:, :-1] = np.rint(units, out=units)
        first[:, -1] = _INPUT_UNITS
        first[~usable] = 0.0
        inputs, score = [first], first @ self._weights[0][0]
        for ready in self._ways_up:
            inputs.append(self._activated(inputs[-1] @ ready))
        if self._hidden:
            score += inputs[-1][:, :-1] @ self._weights[-1][0]
        return inputs, score

    def _backward(self, inputs: list[Array], residual: Array) -> list[Array]:
        """Returns the signals of each layer, in signal units."""
        signals, largest = [residual[:, np.newaxis]], _SIGNAL_UNITS
        for ready, of_layer in zip(self._ways_down[::-1], inputs[:0:-1], strict=True):
            above = signals[0][:, : len(ready)]  # the last, which the bias had, is zero
            signal = above * ready[0] if len(ready) == 1 else above @ ready
            signal *= self._slope(of_layer)
            np.trunc(signal, out=signal)
            largest *= np.abs(ready).sum(axis=0).max() * _INPUT_UNITS**2
            if largest > _LARGEST_SIGNAL:  # no row can tell: it is so by the model alone
                np.clip(signal, -_LARGEST_SIGNAL, _LARGEST_SIGNAL, out=signal)
                largest = _LARGEST_SIGNAL
            signals.insert(0, signal)
        if self._hidden:
            signals[0] = np.column_stack([residual, signals[0][:, : self._hidden[0]]])
        return signals

    def _activated(self, sums: Array) -> Array:
        """Returns the outputs of a hidden layer, in input units."""
        match self._activation:
            case Activation.TANH:
                return _TANH.take(sums.astype(np.int64), mode="clip")
            case Activation.RELU:
                np.rint(sums, out=sums)
                return np.clip(sums, 0.0, LARGEST_ACTIVATION * _INPUT_UNITS, out=sums)

    def _slope(self, activated: Array) -> Array:
        """Returns the derivative of a hidden layer's outputs, in input units squared."""
        match self._activation:
            case Activation.TANH:
                slope = activated * activated
                np.subtract(_INPUT_UNITS**2, slope, out=slope)
                return slope
            case Activation.RELU:
                inside = (activated > 0.0) & (activated < LARGEST_ACTIVATION * _INPUT_UNITS)
                return np.where(inside, _INPUT_UNITS**2, 0.0)


def _matrices(inputs: int, hidden: tuple[int, ...]) -> list[tuple[int, int]]:
    """Returns the shapes of the parameters' matrices, the first two stacked as one."""
    if not hidden:
        return [(1, inputs + 1)]
    between = [(width, below + 1) for below, width in itertools.pairwise(hidden)]
    return [(1 + hidden[0], inputs + 1), *between, (1, hidden[-1])]


def _without_bias(weights: Array, width: int) -> Array:
    """Returns a layer's matrix with zeros for the bias, readied: its sums want a slope."""
    ready = np.zeros((len(weights), width + 1))
    ready[:, :-1] = weights[:, :width] / _INPUT_UNITS**2
    return ready


def _cut(signal: Array, factor: Array) -> Array:
    """Returns rows times their factors, toward zero."""
    found = signal * factor[:, np.newaxis]
    return np.trunc(found, out=found)


def _squares(vectors: Array) -> Array:
    """Returns each row's squared length: sums of whole numbers below 2^53, so exact."""
    found: Array = np.vecdot(vectors, vectors)
    return found


_PLACES = np.arange(-_TABLE_REACH * _INPUT_UNITS, _TABLE_REACH * _INPUT_UNITS + 1) / _INPUT_UNITS
_TANH = np.rint(np.tanh(_PLACES) * _INPUT_UNITS)
_LOGISTIC = np.rint(_SIGNAL_UNITS / (1.0 + np.exp(-_PLACES)))
