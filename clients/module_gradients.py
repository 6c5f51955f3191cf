"""Per-person gradients of any torch module, one row at a time and in whole numbers.

For a modeller's own network, installed at the institution: nothing that comes over the wire is ever
run. `clients.network_gradients` does stacks of linear layers, a hundred times faster.

What the promise needs is that a person's vector is a function of that person's rows and the model
alone. Per-sample gradients of a batch, such as Opacus' hooks give, are not: torch picks kernels by
the size of the batch. With torch 2.13 on a CPU a row of a batch of 3 has other last bits than in a
batch of 100, and so have, in float64, the last 3 rows of 1,023. One person's leaving could thus
change the vectors of others: by a grid unit wherever truncation falls otherwise, by a whole
gradient where a module has a kink, as ReLU at 0. Batches padded to one size showed no difference,
but nothing in torch promises that, and no bound on it holds for any module. So here a row is alone
in torch, always in the same memory: of what is computed for it, nothing depends on anybody else.
It is repeated bit by bit by the same release of torch on the same kind of processor with the same
number of threads. A module that keeps what it has seen would break this; a first trial refuses it.
Whatever a module raises for a row, that row brings the zero vector: an error that reached whoever
asks, or stopped the process, would say something of that person.

Opacus' validator says which modules have a gradient for each person at all; it refuses those that
mix people, such as BatchNorm.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.validators import ModuleValidator
from torch import nn

from clients.installed_modules import fixed_numbers, installed_as, modellers_code
from federation.door import Layer
from federation.errors import ConfigurationError, PrivacyError
from federation.model.network import LARGEST_PARAMETER, Network
from federation.query import UNITS_PER_CLIP

_MOST_ROWS: Final = 256
_BLOCK_NUMBERS: Final = 2**23  # 64 MiB of gradients, which the door copies once
_MARGIN = 1 - 2.0**-40  # more than all roundings of a row's clip factor together


class TwoParts(nn.Module):
    """A network whose deep part is a module: an additive layer beside it, as any network has."""

    def __init__(self, inputs: int, deep: nn.Module) -> None:
        """Takes the number of inputs and the deep part."""
        super().__init__()
        self.additive = nn.Linear(inputs, 1)
        self.deep = deep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the log-odds of bad, float32[rows], of float32[rows, inputs]."""
        score: torch.Tensor = self.additive(x).squeeze(-1) + self.deep(x)
        return score


def of_network(network: Network, clip_norm: float) -> "ModuleGradients":
    """Returns the gradients of a network whose deep part is a module.

    Args:
        network: at which they are taken.
        clip_norm: C.

    Raises:
        ConfigurationError: the module is not installed here, or has no gradient for each person.
    """
    shape, vector = network.shape, network.vector
    if shape.module is None:
        raise ConfigurationError("This network is a stack of linear layers: it has no module.")
    additive = shape.inputs + 1
    deep = installed_as(shape.module, inputs=shape.inputs, way=vector[additive:])
    with torch.no_grad():
        trained = nn.utils.parameters_to_vector(
            [one for one in deep.parameters() if one.requires_grad]
        )
    absolute = np.concatenate([vector[:additive], trained.numpy()])
    return ModuleGradients(
        absolute,
        module=TwoParts(shape.inputs, deep),
        inputs=shape.inputs,
        clip_norm=clip_norm,
    )


class ModuleGradients:
    """Clipped gradients of people's logistic loss at one module and one set of parameters.

    `rows_at_once` rows fit in memory easily; any number gives the same.
    """

    def __init__(
        self,
        parameters: NDArray[np.float32],
        *,
        module: nn.Module,
        inputs: int,
        clip_norm: float,
    ) -> None:
        """Takes the model of one question. The module is the caller's no longer.

        Args:
            parameters: float32, one after the other, flattened, in the order of
                `module.parameters()`.
            module: maps float32[rows, inputs] to log-odds of bad, float32[rows]. It is used in
                evaluation mode: dropout, which would draw from torch's generator, is off.
            inputs: numbers that a row has, 1 or more.
            clip_norm: C, the longest gradient of one person, in units of the loss's gradient;
                above 0.

        Raises:
            ConfigurationError: the clip norm is out of its range, or the module has no gradient for
                each person (the validator's reasons are listed), no single score a row, or another
                one when it is asked again.
            PrivacyError: there are too many or too few parameters, or one of them is not finite or
                beyond LARGEST_PARAMETER.
        """
        if not 0.0 < clip_norm < math.inf:
            raise ConfigurationError(f"Expected a clip norm above 0, got {clip_norm}.")
        with modellers_code("be looked at by Opacus"):
            _require_valid(module)
        self._module = module.eval().to(torch.float32)
        self._trained = [one for one in module.parameters() if one.requires_grad]
        length = sum(one.numel() for one in self._trained)
        if parameters.shape != (length,) or not np.all(np.abs(parameters) <= LARGEST_PARAMETER):
            raise PrivacyError(
                f"Expected {length} parameters within +-{LARGEST_PARAMETER:g}: another model is "
                "answered with nobody's data."
            )
        with torch.no_grad():
            nn.utils.vector_to_parameters(torch.from_numpy(parameters.copy()), self._trained)
        self._clip_norm = clip_norm
        self._row = torch.zeros((1, inputs), dtype=torch.float32)
        self._gradient = torch.zeros(length, dtype=torch.float64)
        self.rows_at_once = min(max(_BLOCK_NUMBERS // max(length, 1), 1), _MOST_ROWS)
        with modellers_code("score and have a gradient"):
            self._require_one_score()

    def of(
        self,
        x: NDArray[np.float32],
        bad: NDArray[np.uint8],
        rows_of_person: NDArray[np.float64] | None = None,
    ) -> tuple[Layer, ...]:
        """Returns each row's clipped gradient of the loss in whole numbers, as one layer.

        As `clients.network_gradients`: the logistic loss, units of 2^-24 C, at most 2^24 / R long
        where the row's person has R rows, in the order of the parameters. A row takes 8 bytes a
        parameter: hand in blocks of some hundred rows.

        Args:
            x: float32[rows, inputs], numbers in [-1, 1]; what lies beyond is cut. A row with NaN or
                infinity brings the zero vector, and so does one whose gradient has them, or for
                which the module raises.
            bad: uint8[rows], the outcome; only the lowest bit is read.
            rows_of_person: float64[rows], R, each >= 1; None if every row is a person.
        """
        signals = np.zeros((len(x), len(self._gradient)))
        usable = np.isfinite(x).all(axis=1)
        for place in np.flatnonzero(usable):
            try:
                score, squared = self._differentiate(x[place])
            except Exception:  # noqa: BLE001, S112  # a row's own affair, whatever it is
                continue
            residual = _logistic(score) - float(bad[place] & 1)
            norm = abs(residual) * math.sqrt(squared)
            if not norm < math.inf:  # NaN too
                continue
            rows = 1.0 if rows_of_person is None else float(rows_of_person[place])
            longest = min(self._clip_norm, norm)
            unit = UNITS_PER_CLIP * _MARGIN / (self._clip_norm * rows)
            factor = residual * unit * (longest / norm if norm > 0.0 else 0.0)
            np.trunc(self._gradient.numpy() * factor, out=signals[place])
        return (Layer(signals=signals, inputs=np.ones((len(x), 1))),)

    def log_odds(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns float64[rows], the log-odds of bad of each row, of that row alone.

        Args:
            x: as `of` takes it; a row with NaN or infinity, or whose score is none, or for which
                the module raises, scores 0.
        """
        found = np.zeros(len(x))
        for place in np.flatnonzero(np.isfinite(x).all(axis=1)):
            try:
                with torch.no_grad():
                    self._row.copy_(torch.from_numpy(np.clip(x[place], -1.0, 1.0)))
                    found[place] = self._module(self._row).sum().item()
            except Exception:  # noqa: BLE001, S112  # as above
                continue
        return np.nan_to_num(found, nan=0.0)

    def _differentiate(self, row: NDArray[np.float32]) -> tuple[float, float]:
        """Returns a row's score and its gradient's squared length; the gradient stays in place."""
        self._row.copy_(torch.from_numpy(np.clip(row, -1.0, 1.0)))
        score = self._module(self._row).sum()
        found = torch.autograd.grad(score, self._trained, allow_unused=True)
        start = 0
        for one, of_one in zip(self._trained, found, strict=True):
            part = self._gradient[start : start + one.numel()]
            part.zero_() if of_one is None else part.copy_(of_one.reshape(-1))
            start += one.numel()
        return score.item(), torch.dot(self._gradient, self._gradient).item()

    def _require_one_score(self) -> None:
        """Fails unless a row has one score, and the same one whoever was asked before."""
        width = self._row.shape[1]
        fixed = fixed_numbers(self._module)
        with torch.no_grad():
            shape = self._module(torch.zeros((3, width))).shape
        if shape != (3,):
            raise ConfigurationError(
                "A network maps [rows, inputs] to [rows] log-odds of bad; this one makes "
                f"{list(shape)} of 3 rows."
            )
        one, other = (np.resize(np.array(p, np.float32), width) for p in ([0.5, -1], [0.0, 1]))
        before = (self._differentiate(one), self._gradient.clone())
        self._differentiate(other)
        after = (self._differentiate(one), self._gradient)
        same = np.array_equal(before[0], after[0], equal_nan=True) and np.array_equal(
            before[1].numpy(), after[1].numpy(), equal_nan=True
        )
        if not same or fixed_numbers(self._module) != fixed:
            raise ConfigurationError(
                "This network scores the same row differently when it is asked again: it must not "
                "draw random numbers or keep what it has seen."
            )


def _require_valid(module: nn.Module) -> None:
    objections = ModuleValidator.validate(module.train(), strict=False)
    if objections:
        listed = "; ".join(str(one) for one in objections)
        raise ConfigurationError(
            f"This network has no gradient for each person ({listed}). "
            "Opacus' ModuleValidator.fix may replace what it objects to."
        )


def _logistic(score: float) -> float:
    """Returns 1 / (1 + exp(-score)), NaN for NaN."""
    if score >= 0.0:
        return 1.0 / (1.0 + math.exp(-score))
    odds = math.exp(max(score, -745.0))
    return odds / (1.0 + odds)
