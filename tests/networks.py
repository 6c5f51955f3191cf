"""Networks for tests, made of a few numbers or drawn, and the settings of plans that train them."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np
from hypothesis import strategies as st

from federation.grid import FeatureGrid
from federation.learning import (
    Institution,
    Joint,
    Local,
    NetworkModel,
    ScorecardModel,
    ServerOptimiser,
)
from federation.messages import Model
from federation.model.attributions import population_mean
from federation.model.network import NO_BIN, Activation, Network, Shape
from federation.model.network_release import NetworkRelease
from federation.plan import Plan
from federation.pricing import price_of
from federation.query import Question
from federation.schema import Schema
from server.release_making import network_release as make_release_of_network
from server.release_parts import report_of, statement_of
from tests.federations import NOW, flat_card

BY_INSTITUTION: Final = Institution(
    steps=2, step_length=0.5, proximal=0.125, optimiser=ServerOptimiser.FEDADAM
)
HIDDEN: Final = (3, 2)


def network_model(**changes: Any) -> NetworkModel:
    """Returns a small network over `small_schema`, trained on everybody.

    Args:
        changes: fields of the model.
    """
    settings: dict[str, Any] = {
        "hidden": HIDDEN,
        "activation": Activation.TANH,
        "clip": 1.0,
        "sampling_rate": 1.0,
        "learning_rate": 0.25,
        "most_parameters": 256,
    }
    return NetworkModel(**{**settings, **changes})


KINDS: Final[dict[str, dict[str, Any]]] = {
    "a scorecard, joint": {"mode": Joint(), "model": ScorecardModel()},
    "a scorecard, local": {"mode": Local(steps=1), "model": ScorecardModel(), "spare_attempts": 0},
    "a network, joint": {"mode": Joint(), "model": network_model()},
    "a network, joint, sampled": {"mode": Joint(), "model": network_model(sampling_rate=0.25)},
    "a network, local": {"mode": Local(steps=4), "model": network_model(), "spare_attempts": 0},
    "a network, institution": {"mode": BY_INSTITUTION, "model": network_model()},
}
"""What `signed_plan` takes for a plan of each lawful mode and model."""


def plain_network(schema: Schema, hidden: tuple[int, ...] = HIDDEN) -> Network:
    """Returns a network whose every fine cell is a bin, its parameters 1/64 apart.

    Args:
        schema: whose scored features it has.
        hidden: widths.
    """
    grids = schema.scored_grids
    shape = Shape(
        bin_of_cell=tuple(tuple(range(len(grid.labels))) for grid in grids),
        ordered_cells=tuple(grid.ordered_cells for grid in grids),
        hidden=hidden,
        activation=Activation.TANH,
    )
    return Network.of(shape, np.arange(shape.parameters) / 64 - 1)


def model_for(plan: Plan, schema: Schema, question: Question) -> Model | None:
    """Returns a model that a plan's question can be about: the flat card, or `plain_network`."""
    if question is Question.BINS:
        return None
    if isinstance(plan.model, ScorecardModel):
        return flat_card(schema)
    return plain_network(schema, plan.model.hidden)


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


def public_bins(grid: FeatureGrid) -> tuple[int, ...]:
    """Three bins of the ordered cells, and one for each other cell."""
    ordered = grid.ordered_cells
    bins = min(ordered, 3)
    return (
        *(cell * bins // ordered for cell in range(ordered)),
        *range(bins, bins + len(grid.labels) - ordered),
    )


def network_release(plan: Plan, schema: Schema, **changes: Any) -> NetworkRelease:
    """An unsigned release of a network that nobody trained."""
    grids = schema.scored_grids
    shape = Shape(
        bin_of_cell=tuple(public_bins(grid) for grid in grids),
        ordered_cells=tuple(grid.ordered_cells for grid in grids),
        hidden=changes.pop("hidden", (4, 3)),
        activation=changes.pop("activation", Activation.TANH),
    )
    counts = np.concatenate([np.tile([90.0, 10.0], len(grid.labels)) for grid in grids])
    made = make_release_of_network(
        plan=plan,
        schema=schema,
        statement=statement_of(plan, schema, price_of(plan, schema)),
        report=report_of(plan, schema, None, 0.0),
        network=random_network(shape, 1),
        mean_inputs=population_mean(shape, counts),
        people=1000.0,
        bad_rate=0.1,
        institutions=4,
        now=datetime.fromtimestamp(NOW, UTC),
    )
    return msgspec.structs.replace(made, **changes)
