"""What people, or a whole institution, bring to the dense questions about a network."""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from clients.blocks import Block
from clients.network_gradients import NetworkGradients
from clients.snapshot import Snapshot
from federation.door import Layer, Products
from federation.errors import ConfigurationError
from federation.fits import public_network
from federation.grid import Role
from federation.learning import Institution, NetworkModel
from federation.model.network import BLOCK_ROWS, LARGEST_PARAMETER, Network, inputs
from federation.model.score_scale import ScoreScale
from federation.privacy.entropy import Keystream
from federation.privacy.units import Population
from federation.query import UNITS_PER_CLIP
from federation.schema import Schema

if TYPE_CHECKING:
    from clients.module_gradients import ModuleGradients

_COINS: Final = 2**64
_LEAST: Final = 1e-300


@lru_cache(maxsize=2)
def _exact(network: Network, clip: float) -> "NetworkGradients | ModuleGradients":
    """Returns a network made ready once for all blocks of people: in whole numbers, or its module.

    Raises:
        ConfigurationError: its module is not installed here, or torch is not.
    """
    shape = network.shape
    if shape.module is not None:
        try:
            from clients.module_gradients import of_network  # noqa: PLC0415  # torch, where used
        except ImportError as error:
            raise ConfigurationError(f"A module needs fedscore[network]: {error}.") from error
        return of_network(network, clip)
    return NetworkGradients(
        network.vector,
        inputs=shape.inputs,
        hidden=shape.hidden,
        activation=shape.activation,
        clip_norm=clip,
    )


def require_trainable(schema: Schema, settings: NetworkModel) -> None:
    """Returns only if gradients of a plan's network can be taken here; looks at no person.

    Args:
        schema: of the plan.
        settings: of the plan; with a module.

    Raises:
        ConfigurationError: the module is not installed here, is another one than the plan's, has no
            gradient for each person, scores rows together otherwise than alone, or torch is
            missing.
    """
    network = public_network(settings, schema)
    at = _exact(network, settings.clip)
    width = network.shape.inputs
    trial = np.sin(np.arange(3.0 * width, dtype=np.float32).reshape(3, width))  # any three rows
    alone = at.log_odds(trial)
    if not np.allclose(network.log_odds_at(trial.astype(np.float64)), alone, 1e-3, 1e-3):
        raise ConfigurationError(
            "This network scores rows otherwise together than alone: what is released would not "
            "score people as it was evaluated. A row's score must be of that row alone."
        )


def gradients(
    schema: Schema,
    snapshot: Snapshot,
    network: Network,
    settings: NetworkModel,
    *,
    sample_key: bytes,
) -> Iterator[Products]:
    """Yields the clipped gradients of the trained people who take part, block by block.

    Args:
        schema: of the snapshot.
        snapshot: whose trained people are asked.
        network: at which the gradients are taken.
        settings: clip norm and sampling rate of the plan.
        sample_key: 32 bytes; a person's coin is a word of its keystream.
    """
    scored = schema.places(Role.SCORED)
    coins = Keystream(sample_key)
    shape = network.shape
    at = _exact(network, settings.clip)
    for block in snapshot.blocks(Population.TRAINED):
        rows, rows_of_person = _sampled(block, coins, settings.sampling_rate)
        codes, bad = block.codes[scored], block.bad
        if rows is not None:
            codes, bad = codes[:, rows], bad[rows]
        for start in range(0, bad.size, at.rows_at_once):
            part = slice(start, start + at.rows_at_once)
            of_part = None if rows_of_person is None else rows_of_person[part]
            yield Products(
                layers=at.of(inputs(shape, codes[:, part]), bad[part], of_part),
                rows_of_person=of_part,
            )


def points(network: Network, codes: NDArray[np.uint8], scale: ScoreScale) -> NDArray[np.int64]:
    """Returns int64[rows], whole points by which people are evaluated: of each row alone.

    One person's place in a histogram must not depend on who else is in the block.

    Args:
        network: that is evaluated.
        codes: uint8[features, rows], fine cell codes of the scored features.
        scale: how points relate to odds.
    """
    shape = network.shape
    exact = _exact(network, 1.0)  # nothing is clipped here
    found = np.empty(codes.shape[1], dtype=np.int64)
    for start in range(0, found.size, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        log_odds = exact.log_odds(inputs(shape, codes[:, part]))
        found[part] = scale.whole_points(log_odds)
    return found


def _sampled(
    block: Block, coins: Keystream, rate: float
) -> tuple[NDArray[np.bool_] | None, NDArray[np.float64] | None]:
    """Returns the rows of the people whose coins fall, None for all; and their persons' rows."""
    rows = block.bad.size
    starts = np.arange(rows) if block.person_starts is None else block.person_starts
    rows_of = np.diff(np.append(starts, rows))
    falls = np.ones(len(starts), dtype=np.bool_)
    if rate < 1:
        falls = coins.words(len(starts)) < np.uint64(rate * _COINS)
    taking_part = np.repeat(falls, rows_of) if rate < 1 else None
    if block.person_starts is None:
        return taking_part, None
    counts = np.repeat(rows_of, rows_of).astype(np.float64)
    return taking_part, counts if taking_part is None else counts[taking_part]


def update(
    schema: Schema,
    snapshot: Snapshot,
    network: Network,
    settings: NetworkModel,
    mode: Institution,
) -> Products:
    """Returns this institution's whole clipped update, as the one vector that it brings.

    Gradient descent on the mean loss of its own trained people, with the pull of FedProx toward
    the national network (Li et al. 2020, equation 2); then the move, cut to the clip norm.

    Args:
        schema: of the snapshot.
        snapshot: whose trained people are learnt from.
        network: the national one.
        settings: clip norm of the plan.
        mode: steps, their length, and the pull.
    """
    scored = schema.places(Role.SCORED)
    people = max(snapshot.rows(Population.TRAINED), 1)
    national = network.vector.astype(np.float64)
    here = national.copy()
    for _ in range(mode.steps):
        slope = np.zeros_like(here)
        at = Network.of(network.shape, here)
        for block in snapshot.blocks(Population.TRAINED):
            x = inputs(network.shape, block.codes[scored]).astype(np.float64)
            slope += at.loss_gradient(x, block.bad.astype(np.float64))
        here -= mode.step_length * (slope / people + mode.proximal * (here - national))
        # Whatever the plan's figures do to it, a training at home ends with an update.
        here = np.clip(np.nan_to_num(here), -LARGEST_PARAMETER, LARGEST_PARAMETER)
    move = here - national
    length = float(np.sqrt(move @ move))
    share = min(1.0, settings.clip / max(length, _LEAST)) / settings.clip
    units = np.trunc(move * (share * (UNITS_PER_CLIP - 1)))
    return Products(
        layers=(Layer(signals=units[np.newaxis], inputs=np.ones((1, 1))),), rows_of_person=None
    )
