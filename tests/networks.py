"""Networks for tests: made of a few numbers, or drawn."""

import numpy as np
from hypothesis import strategies as st

from federation.model.network import NO_BIN, Activation, Network, Shape


def random_network(shape: Shape, seed: int, spread: float = 0.5) -> Network:
    generator = np.random.default_rng(seed)
    return Network.of(shape, generator.normal(0.0, spread, shape.parameters))


def random_codes(shape: Shape, rows: int, seed: int) -> np.ndarray:
    """Codes of which one in twenty names no cell."""
    generator = np.random.default_rng(seed)
    held = [generator.integers(0, len(cells), rows) for cells in shape.bin_of_cell]
    absent = generator.random((len(held), rows)) < 0.05
    return np.where(absent, generator.integers(250, 256, absent.shape), held).astype(np.uint8)


def wide_shape(
    features: int = 24,
    hidden: tuple[int, ...] = (32, 16),
    activation: Activation = Activation.TANH,
) -> Shape:
    """Features of 40 cells: 36 ordered ones in 5 bins, 3 in a bin each, one without evidence."""
    bins = (*(cell * 5 // 36 for cell in range(36)), 5, 6, 5, NO_BIN)
    return Shape(
        bin_of_cell=(bins,) * features,
        ordered_cells=(36,) * features,
        hidden=hidden,
        activation=activation,
    )


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    bin_of_cell, ordered_cells = [], []
    for _ in range(draw(st.integers(1, 4))):
        cells = draw(st.lists(st.integers(NO_BIN, 3), min_size=1, max_size=8))
        numbers = {one: place for place, one in enumerate(sorted(set(cells) - {NO_BIN}))}
        bin_of_cell.append(tuple(numbers.get(one, NO_BIN) for one in cells))
        ordered_cells.append(draw(st.integers(0, len(cells))))
    return Shape(
        bin_of_cell=tuple(bin_of_cell),
        ordered_cells=tuple(ordered_cells),
        hidden=tuple(draw(st.lists(st.integers(1, 6), max_size=4))),
        activation=draw(st.sampled_from(Activation)),
    )
