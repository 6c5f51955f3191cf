"""A network in the making: one step for each total that is opened, whatever the totals are of.

Everything here is post-processing of noisy sums. A total is the sum of people's clipped gradients,
of networks that institutions trained at home, or of their clipped updates; each becomes a new
vector of parameters at which the next is asked. The network is the mean over the second half of the
rounds (Polyak and Juditsky 1992): averaging removes noise that a last step keeps.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError
from federation.model.network import LARGEST_PARAMETER, Network, Shape
from federation.model.optimiser import Adam

Array = NDArray[np.float64]


class Step(StrEnum):
    """What a round's mean is, and so what is done with it."""

    GRADIENT = "gradient"
    """Of the loss: Adam goes against it."""

    NETWORK = "network"
    """The next vector itself."""

    UPDATE = "update"
    """A move: it is made, times the learning rate (FedAvg, McMahan et al. 2017)."""

    PSEUDO_GRADIENT = "pseudo-gradient"
    """A move, against which Adam takes for a gradient (FedAdam, Reddi et al. 2021)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFit:
    """Where a network's training stands; each transition returns a new one.

    Attributes:
        shape: of the network.
        step: what totals are.
        learning_rate: of the optimiser.
        rounds: in all.
        adam: the vector so far, with the optimiser's memory.
        total: float64[parameters], sum of the vectors that count for the average.
    """

    shape: Shape
    step: Step
    learning_rate: float
    rounds: int
    adam: Adam
    total: Array

    @staticmethod
    def begin(network: Network, *, step: Step, learning_rate: float, rounds: int) -> "NetworkFit":
        """Returns the start of a training at a network."""
        return NetworkFit(
            shape=network.shape,
            step=step,
            learning_rate=learning_rate,
            rounds=rounds,
            adam=Adam.at(network.vector),
            total=np.zeros(network.shape.parameters),
        )

    def to_ask(self) -> Network:
        """Returns the network at which the next total is asked."""
        return Network.of(self.shape, self.adam.vector)

    def after(self, mean: Array) -> "NetworkFit":
        """Returns the training one round further.

        Args:
            mean: float64[parameters], the round's noisy mean, over people or institutions.

        Raises:
            ConfigurationError: another length, not finite, or all rounds are done.
        """
        if mean.shape != self.adam.vector.shape or not np.isfinite(mean).all():
            raise ConfigurationError(
                "Expected one finite number for each parameter of the network."
            )
        if self.adam.steps >= self.rounds:
            raise ConfigurationError(f"All {self.rounds} rounds of this network are done.")
        match self.step:
            case Step.GRADIENT:
                adam = self.adam.after(mean, self.learning_rate)
            case Step.PSEUDO_GRADIENT:
                adam = self.adam.after(-mean, self.learning_rate)
            case Step.UPDATE:
                adam = self._moved(self.adam.vector + self.learning_rate * mean)
            case Step.NETWORK:
                adam = self._moved(mean)
        vector = np.clip(adam.vector, -LARGEST_PARAMETER, LARGEST_PARAMETER)
        counts = adam.steps > self.rounds // 2
        return replace(
            self,
            adam=replace(adam, vector=vector),
            total=self.total + vector if counts else self.total,
        )

    def _moved(self, vector: Array) -> Adam:
        return replace(self.adam, vector=vector, steps=self.adam.steps + 1)

    def finished(self) -> Network:
        """Returns the trained network.

        Raises:
            ConfigurationError: no more than half of the rounds are done, so nothing is averaged.
        """
        averaged = self.adam.steps - self.rounds // 2
        if averaged < 1:
            raise ConfigurationError(
                f"Expected more than half of {self.rounds} rounds done, got {self.adam.steps}."
            )
        return Network.of(self.shape, self.total / averaged)
