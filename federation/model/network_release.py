"""The released network: its layers as named arrays of plain numbers, which nothing executes."""

import math
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError
from federation.model.module import Module
from federation.model.network import Activation, Network, Shape
from federation.model.signed_release import Part, SignedRelease

NETWORK_FORMAT: Final = 1
MEAN_INPUTS: Final = "mean_inputs"


class NamedArray(Part, frozen=True, kw_only=True):
    """An array of numbers, row by row.

    Attributes:
        name: of the matrix, or "mean_inputs".
        shape: rows and columns, or the length.
        dtype: of each number.
        data: the numbers, little-endian; base64 in JSON.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32"]
    data: bytes

    @staticmethod
    def of(name: str, values: NDArray[np.floating]) -> "NamedArray":
        """Returns an array as it is released."""
        return NamedArray(
            name=name, shape=values.shape, dtype="float32", data=values.astype("<f4").tobytes()
        )


class NetworkRelease(
    SignedRelease, frozen=True, kw_only=True, tag_field="kind", tag="network", omit_defaults=True
):
    """A national network: points = the scale at minus its log-odds of bad, rounded.

    Attributes:
        hidden: widths of the hidden layers.
        activation: of every hidden layer.
        bin_of_cell: per scored feature in schema order, the bin of each fine cell, -1 for none.
        arrays: the matrices in the order of `Shape.matrices`, then the mean inputs of the trained
            population, from the noisy counts.
        module: that stands in place of hidden layers, None for none: whoever scores installs it.
    """

    LABEL: ClassVar[str] = "fedscore/network-release/1"

    hidden: tuple[int, ...]
    activation: Activation
    bin_of_cell: tuple[tuple[int, ...], ...]
    arrays: tuple[NamedArray, ...]
    module: Module | None = None

    def __post_init__(self) -> None:
        if self.format != NETWORK_FORMAT:
            raise ConfigurationError(
                f"Expected a network's release of format {NETWORK_FORMAT}, got {self.format}."
            )
        shape = self.shape
        shape.require_grids(self.grids)
        expected = {**shape.matrices, MEAN_INPUTS: (shape.inputs,)}
        if [(one.name, one.shape) for one in self.arrays] != list(expected.items()):
            raise ConfigurationError("The arrays of the release are not those of its layers.")
        for one in self.arrays:
            if len(one.data) != 4 * math.prod(one.shape):
                raise ConfigurationError(
                    f"The array {one.name} holds {len(one.data)} bytes, which its shape does not."
                )
        if not (np.abs(self.mean_inputs) <= 1.0).all():  # NaN fails as well
            raise ConfigurationError("A mean input of the release is not a number within +-1.")
        _ = self.network  # a network that exists is valid

    @property
    def shape(self) -> Shape:
        """All of the network but its parameters."""
        return Shape(
            bin_of_cell=self.bin_of_cell,
            ordered_cells=tuple(grid.ordered_cells for grid in self.grids),
            hidden=self.hidden,
            activation=self.activation,
            module=self.module,
        )

    @property
    def network(self) -> Network:
        """The network."""
        matrices = (one.data for one in self.arrays if one.name != MEAN_INPUTS)
        return Network(shape=self.shape, parameters=b"".join(matrices))

    @property
    def mean_inputs(self) -> NDArray[np.float64]:
        """float64[D], the inputs of the average trained person."""
        return np.frombuffer(self.arrays[-1].data, dtype="<f4").astype(np.float64)

    def points(self, codes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Returns int64[rows], the unclipped score of each row.

        Args:
            codes: uint8[features, rows], fine cell codes of the scored features in schema order.
        """
        return self.network.points(codes, self.scale)
