"""What a trusted curator could release instead: peers that see all records in one place.

* diffprivlib's logistic regression: objective perturbation (Chaudhuri, Monteleoni and Sarwate 2011,
  JMLR 12). Pure epsilon; neighbours replace one person, and the number of people is public.
* DP-SGD by Opacus on the very network that we train: its own engine, Poisson sampling and
  accountant (PRV), our clip norms, the mean over the second half of the steps as in our training.
  Epsilon at delta 1e-6; neighbours add or remove one person.

DP-EBM is in `experiments.quality.peers`. Both peers here see what our own code makes of a record
and the public schema, so that nothing is learned from data before the budget is paid: fine cells on
public grids, their position as a number, and one-hot runs of cells. No bin rests on a count, which
ours pay for. Their settings are chosen in each run, at epsilon 1, for the best mean AUC on the last
quarter of the trained people where the others trained; no test person is looked at for it, and the
choice itself, which a curator would have to pay for, costs them nothing.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from typing import Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from experiments.division import TEST_SHARE
from experiments.experiment import Setting, Work
from experiments.trial import People
from federation.grid import FeatureGrid
from federation.model.network import (
    NO_BIN,
    Activation,
    Network,
    Shape,
    cell_positions,
    inputs,
    start,
)
from federation.schema import Schema
from fedscore.planning import STANDARD_SCALE

VERSIONS: Final = {
    name: version(name)
    for name in ("diffprivlib", "opacus", "torch", "scikit-learn", "scipy", "numpy")
}

HIDDEN: Final = (32, 16)
"""The network that `experiments.quality.utility` trains."""

S = TypeVar("S")

_START: Final = bytes(32)
"""The public seed of every network's start."""

_INTERCEPT: Final = -math.log(STANDARD_SCALE.odds)
"""Where a training starts that knows nothing, as in our institution mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Who trains a model and who is scored with it."""

    train: People
    test: People


class Perturbed(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of diffprivlib's logistic regression.

    Attributes:
        bins: most runs of ordered cells of a feature that get an input each; 0 for its position
            alone.
        strength: C, the inverse of the regularisation.
    """

    bins: int
    strength: float


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of DP-SGD.

    Attributes:
        bins: most runs of ordered cells of a feature that get an input each, beside its position.
        clip: norm of a person's gradient, as in our training.
        batches: expected batches in which a person is once: the inverse of the sampling rate.
        epochs: so many times as many steps.
        rate: learning rate of Adam.
    """

    bins: int
    clip: float
    batches: int
    epochs: int
    rate: float


_CHOSEN_AT: Final = 1.0
_CHOOSING_SEEDS: Final = 2


def perturbed_candidates() -> list[Perturbed]:
    """Returns the settings of diffprivlib's logistic regression that are tried."""
    strengths = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    return [Perturbed(bins=bins, strength=one) for bins, one in product((0, 8), strengths)]


def sampled_candidates(clip: float) -> list[Sampled]:
    """Returns the settings of DP-SGD that are tried: a person is in a fifth of 200 batches."""
    return [
        Sampled(bins=bins, clip=clip, batches=5, epochs=40, rate=rate)
        for bins, rate in product((8, 32), (0.003, 0.01, 0.03, 0.1))
    ]


def chosen(
    setting: Setting,
    work: Callable[[S, Schema, Sides, float, int], Work[float]],
    candidates: list[S],
    schema: Schema,
    train: People,
) -> S:
    """Returns the candidate that is best on a quarter of the trained people.

    Args:
        setting: of the run; each candidate is a step or two of it.
        work: of a candidate.
        candidates: of which the first wins a tie.
        schema: of the data.
        train: nobody else is looked at.
    """
    fitted, scored = train_test_split(
        np.arange(len(train.bad)), test_size=TEST_SHARE, stratify=train.bad, random_state=0
    )
    sides = Sides(train=_some(train, fitted), test=_some(train, scored))
    works = [
        work(one, schema, sides, _CHOSEN_AT, seed)
        for one in candidates
        for seed in range(_CHOOSING_SEEDS)
    ]
    found = np.reshape(setting.steps(float, works), (len(candidates), _CHOOSING_SEEDS))
    return candidates[int(found.mean(axis=1).argmax())]


def choosing_steps() -> int:
    """Returns how many steps of a run both choices take for a data set."""
    return _CHOOSING_SEEDS * (len(perturbed_candidates()) + len(sampled_candidates(1.0)))


def _some(people: People, places: NDArray[np.int64]) -> People:
    return People(codes=people.codes[:, places], bad=people.bad[places])


def public_shape(schema: Schema, bins: int, hidden: tuple[int, ...] = ()) -> Shape:
    """Returns the inputs of a model, made of the schema alone.

    Args:
        schema: of the data.
        bins: most runs of ordered cells of a feature; each run has an input that is 1 for those in
            it. With 0 a feature's ordered cells have their position as their only input.
        hidden: widths of a network.
    """
    grids = schema.scored_grids
    return Shape(
        bin_of_cell=tuple(_runs(grid, bins) for grid in grids),
        ordered_cells=tuple(grid.ordered_cells for grid in grids),
        hidden=hidden,
        activation=Activation.TANH,
    )


def _runs(grid: FeatureGrid, bins: int) -> tuple[int, ...]:
    ordered = min(grid.ordered_cells, bins)
    runs = (
        cell * ordered // grid.ordered_cells if bins else NO_BIN
        for cell in range(grid.ordered_cells)
    )
    return (*runs, *range(ordered, ordered + len(grid.labels) - grid.ordered_cells))


def longest_input(shape: Shape) -> float:
    """Returns a public bound on the length of anybody's inputs with a constant 1 beside them."""
    square = 1.0
    for cells, ordered in zip(shape.bin_of_cell, shape.ordered_cells, strict=True):
        of_cell = (np.array(cells) != NO_BIN).astype(np.float64)
        if ordered:
            of_cell[:ordered] += cell_positions(ordered).astype(np.float32).astype(np.float64) ** 2
        square += float(of_cell.max())
    return float(np.sqrt(square))


def perturbed_work(
    settings: Perturbed, schema: Schema, people: Sides, epsilon: float, seed: int
) -> Work[float]:
    """Returns the work of diffprivlib's test AUC."""
    shape = public_shape(schema, settings.bins)
    made = _made_from(settings, shape, people) | {"length": longest_input(shape)}
    return Work(
        made_from=made | {"peer": "diffprivlib", "epsilon": epsilon, "seed": seed},
        compute=_perturbed,
        arguments=(settings, shape, people, epsilon, seed),
    )


def sampled_work(
    settings: Sampled, schema: Schema, people: Sides, epsilon: float, seed: int
) -> Work[float]:
    """Returns the work of Opacus' test AUC."""
    network = start(public_shape(schema, settings.bins, HIDDEN), _START, _INTERCEPT)
    made = _made_from(settings, network.shape, people)
    made["start"] = hashlib.sha256(network.parameters).hexdigest()
    return Work(
        made_from=made | {"peer": "opacus", "epsilon": epsilon, "seed": seed},
        compute=_sampled,
        arguments=(settings, network, people, epsilon, seed),
    )


def _made_from(settings: Perturbed | Sampled, shape: Shape, people: Sides) -> dict[str, object]:
    """Returns what both depend on: all that they see, but not how the product made it."""
    seen = hashlib.sha256()
    for side in (people.train, people.test):
        seen.update(inputs(shape, side.codes).tobytes())
        seen.update(side.bad.tobytes())
    return {
        "versions": VERSIONS,
        "settings": msgspec.to_builtins(settings),
        "seen": seen.hexdigest(),
    }


def _perturbed(
    settings: Perturbed, shape: Shape, people: Sides, epsilon: float, seed: int
) -> float:
    from experiments.quality.curator_models import perturbed  # noqa: PLC0415 - takes seconds to import

    return perturbed(settings, shape, people, epsilon=epsilon, noise_seed=seed)


def _sampled(
    settings: Sampled, network: Network, people: Sides, epsilon: float, seed: int
) -> float:
    from experiments.quality.curator_models import sampled  # noqa: PLC0415 - takes seconds to import

    return sampled(settings, network, people, epsilon=epsilon, noise_seed=seed)
