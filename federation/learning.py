"""What a plan trains, and in which mode of privacy: the kinds that its file names by `type`."""

from enum import StrEnum
from typing import Final

import msgspec

from federation.errors import ConfigurationError
from federation.model.module import Module
from federation.model.network import Activation
from federation.query import LONGEST_SUM, Question

MOST_STEPS: Final = 1_000


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigurationError(f"Expected {rule}.")


class Mode(StrEnum):
    """Who is protected, and by whose noise; each has settings of its own below."""

    JOINT = "joint"
    LOCAL = "local"
    INSTITUTION = "institution"


class ServerOptimiser(StrEnum):
    """What becomes of a mean update: added (McMahan et al. 2017), or Adam (Reddi et al. 2021)."""

    FEDAVG = "fedavg"
    FEDADAM = "fedadam"


class _Tagged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several kinds of a setting; `type` in the file says which."""


class Joint(_Tagged, frozen=True, kw_only=True, tag="joint"):
    """One national noise, drawn in shares, under secure aggregation; protects each person."""


class Local(_Tagged, frozen=True, kw_only=True, tag="local"):
    """Every institution adds all of the noise itself; needs no secure aggregation.

    Attributes:
        steps: of training that an institution takes at home before it answers a round, 1 to 1000;
            1 for a scorecard.
    """

    steps: int

    def __post_init__(self) -> None:
        _require(1 <= self.steps <= MOST_STEPS, f"mode.steps={self.steps} in [1, {MOST_STEPS}]")


class Institution(_Tagged, frozen=True, kw_only=True, tag="institution"):
    """An institution's whole update is clipped and noised as a unit, under secure aggregation.

    Attributes:
        steps: of gradient descent that an institution takes at home for one update, 1 to 1000.
        step_length: of them, > 0.
        proximal: weight of the squared distance from the national model at home, >= 0: FedProx (Li
            et al. 2020); 0 is FedAvg's.
        optimiser: what the coordinator does with the mean update.
    """

    steps: int
    step_length: float
    proximal: float
    optimiser: ServerOptimiser

    def __post_init__(self) -> None:
        _require(1 <= self.steps <= MOST_STEPS, f"mode.steps={self.steps} in [1, {MOST_STEPS}]")
        _require(0 < self.step_length < 1e6, f"mode.step_length={self.step_length} in (0, 1e6)")
        _require(0 <= self.proximal < 1e6, f"mode.proximal={self.proximal} in [0, 1e6)")
        _require(
            self.step_length * self.proximal < 2,
            f"mode.step_length x mode.proximal={self.step_length * self.proximal:g} below 2, or a "
            "training at home runs away",
        )


class ScorecardModel(_Tagged, frozen=True, kw_only=True, tag="scorecard"):
    """A scorecard, fitted from residuals."""


class NetworkModel(_Tagged, frozen=True, kw_only=True, tag="network", omit_defaults=True):
    """A network over bins and numbers, trained by clipped gradients or updates.

    Attributes:
        hidden: widths of the layers of the deep part, none for a purely additive score.
        activation: between them.
        clip: L2 norm that one person's gradient (of the loss, in log-odds) or, in institution mode,
            one institution's update is cut to, > 0.
        sampling_rate: q in (0, 1]: each person takes part in a step with this probability.
        learning_rate: of the optimiser, > 0.
        most_parameters: no round asks for a longer vector than this, 1 to 2^24.
        module: that stands in place of hidden layers, over public bins; None for none.
    """

    hidden: tuple[int, ...]
    activation: Activation
    clip: float
    sampling_rate: float
    learning_rate: float
    most_parameters: int
    module: Module | None = None

    def __post_init__(self) -> None:
        _require(
            1 <= self.most_parameters <= LONGEST_SUM,
            f"model.most_parameters={self.most_parameters} in [1, 2^24]",
        )
        _require(
            len(self.hidden) <= 4 and all(1 <= width <= 512 for width in self.hidden),
            "model.hidden of at most 4 widths in [1, 512]",
        )
        _require(
            self.module is None or not self.hidden, "model.hidden empty where there is a module"
        )
        _require(0 < self.clip < 1e6, f"model.clip={self.clip} in (0, 1e6)")
        _require(0 < self.sampling_rate <= 1, f"model.sampling_rate={self.sampling_rate} in (0, 1]")
        _require(0 < self.learning_rate < 1e3, f"model.learning_rate={self.learning_rate} > 0")


def question_of(
    mode: Joint | Local | Institution, model: ScorecardModel | NetworkModel
) -> Question:
    """Returns what each training round of a plan asks."""
    if isinstance(model, ScorecardModel):
        return Question.STEP
    return Question.UPDATE if isinstance(mode, Institution) else Question.GRADIENT


def steps_of(mode: Joint | Local | Institution) -> int:
    """Returns the noisy sums about persons that one answer to a training round rests on."""
    return mode.steps if isinstance(mode, Local) else 1
