"""Adam, in numpy, for vectors of parameters: one step for each (noisy) gradient."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FIRST_DECAY: Final = 0.9
_SECOND_DECAY: Final = 0.99  # some hundred steps at most: a longer memory would not settle
_LEAST_SCALE: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Where an optimisation stands; each step returns a new one.

    Attributes:
        vector: float64[parameters].
        first: float64[parameters], decaying mean of the gradients.
        second: float64[parameters], decaying mean of their squares.
        steps: taken so far.
    """

    vector: Array
    first: Array
    second: Array
    steps: int

    @staticmethod
    def at(vector: NDArray[np.floating]) -> "Adam":
        """Returns the start at a vector."""
        zero = np.zeros(len(vector))
        return Adam(vector=vector.astype(np.float64), first=zero, second=zero, steps=0)

    def after(self, gradient: Array, learning_rate: float) -> "Adam":
        """Returns one step against a gradient (Kingma and Ba 2015, algorithm 1).

        The step does not depend on the gradient's unit.

        Args:
            gradient: float64[parameters], of what is made smaller.
            learning_rate: longest move of a parameter, about.
        """
        steps = self.steps + 1
        first = _FIRST_DECAY * self.first + (1 - _FIRST_DECAY) * gradient
        second = _SECOND_DECAY * self.second + (1 - _SECOND_DECAY) * gradient**2
        mean = first / (1 - _FIRST_DECAY**steps)
        scale = np.sqrt(second / (1 - _SECOND_DECAY**steps))
        return Adam(
            vector=self.vector - learning_rate * mean / np.maximum(scale, _LEAST_SCALE),
            first=first,
            second=second,
            steps=steps,
        )
