"""Federations in local mode, and their institutions asked one question at a time."""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from federation import canonical
from federation.asking import ASK_LABEL, asking_locally
from federation.learning import Local, NetworkModel, ScorecardModel
from federation.messages import Answered, Ask, Model
from federation.model.network import Activation, Network, Shape
from federation.query import Question
from tests.federations import KEY, Federation, Seat, federation, flat_card

CARD: Final[dict[str, Any]] = {"mode": Local(steps=1), "model": ScorecardModel()}
"""What `federation` takes for a scorecard in local mode."""


def net(*, steps: int = 3, **changes: Any) -> dict[str, Any]:
    """Returns what `federation` takes for a small network in local mode.

    Args:
        steps: at home in a round.
        changes: fields of the model.
    """
    settings: dict[str, Any] = {
        "hidden": (4,),
        "activation": Activation.TANH,
        "clip": 1.0,
        "sampling_rate": 0.5,
        "learning_rate": 0.02,
        "most_parameters": 200,
    }
    return {"mode": Local(steps=steps), "model": NetworkModel(**{**settings, **changes})}


def local(directory: Path, asked: dict[str, Any], **changes: Any) -> Federation:
    """Returns a federation that runs a plan in local mode.

    Args:
        directory: of the tables.
        asked: mode and model.
        changes: as of `federation`.
    """
    return federation(directory, **{"spare_attempts": 0, "epsilon": 50.0, **asked, **changes})


def flat_network(fed: Federation) -> Network:
    """Returns the network of a plan whose every cell is a bin and whose parameters are all 0.1."""
    grids = [grid for grid in fed.schema.grids if grid.role == "scored"]
    assert isinstance(fed.plan.model, NetworkModel)
    shape = Shape(
        bin_of_cell=tuple(tuple(range(len(grid.labels))) for grid in grids),
        ordered_cells=tuple(grid.ordered_cells for grid in grids),
        hidden=fed.plan.model.hidden,
        activation=fed.plan.model.activation,
    )
    return Network.of(shape, np.full(shape.parameters, 0.1))


def model_for(fed: Federation, question: Question) -> Model | None:
    """Returns a model that a question of a plan may be about."""
    if question is Question.BINS:
        return None
    return flat_card(fed.schema) if fed.plan.model == ScorecardModel() else flat_network(fed)


def ask(fed: Federation, question: Question, *, round_: int = 0, **changes: Any) -> Ask:
    """Returns a question of a plan, signed.

    Args:
        fed: whose plan.
        question: of it.
        round_: of the question.
        changes: fields to change before it is signed.
    """
    unsigned = Ask(
        plan=fed.plan.digest,
        question=question,
        round=round_,
        model=model_for(fed, question),
        signature="",
    )
    unsigned = msgspec.structs.replace(unsigned, **changes)
    context = asking_locally(fed.plan, fed.schema, unsigned).context
    return msgspec.structs.replace(unsigned, signature=canonical.sign(KEY, ASK_LABEL, context))


def answered(seat: Seat, request: Ask) -> Answered:
    """Returns what an institution answers; it must."""
    reply = seat.send(request)
    assert isinstance(reply, Answered), (reply, seat.log)
    return reply


def numbers(reply: Answered) -> np.ndarray:
    """Returns int64[length]."""
    return np.frombuffer(reply.numbers, dtype="<i8").astype(np.int64)
