"""Modules that packages on this machine have installed, as deep parts of networks."""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from federation.canonical import digest
from federation.errors import ConfigurationError
from federation.model.module import Array, Module

ENTRY_POINTS: Final = "fedscore.networks"
"""The group of entry points in which an installed package names its networks."""


def installed_module(name: str, *, inputs: int) -> tuple[nn.Module, str]:
    """Returns a module that a package on this machine has installed, and that package's version.

    The package declares, in the group ENTRY_POINTS, a callable that takes the number of inputs and
    returns a module which maps float32[rows, inputs] to float32[rows], its part of the log-odds of
    bad. Each call must return the same initial parameters: draw them from a generator with a seed
    of your own.

    Raises:
        ConfigurationError: no package or more than one has a module of this name, or what it has
            makes no module.
    """
    found = entry_points(group=ENTRY_POINTS, name=name)
    if len(found) != 1:
        named = sorted({one.name for one in entry_points(group=ENTRY_POINTS)})
        raise ConfigurationError(
            f"{len(found)} installed packages have a network {name!r}: expected one. Install the "
            f"package that the plan's modeller names. Networks here: {', '.join(named) or 'none'}."
        )
    (entry,) = found
    make: Callable[[int], nn.Module] = entry.load()
    module = make(inputs)
    if not isinstance(module, nn.Module):
        raise ConfigurationError(f"The network {name!r} is no torch module: ask its maker.")
    package = "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return module, package


def described(name: str, *, inputs: int) -> Module:
    """Returns an installed module as a plan names it.

    Raises:
        ConfigurationError: as `installed_module`, or it has nothing to train, or it begins
            elsewhere each time.
    """
    (first, package), (again, _) = (installed_module(name, inputs=inputs) for _ in range(2))
    start = _start(first)
    if not start.size or start.tobytes() != _start(again).tobytes():
        raise ConfigurationError(
            f"The network {name!r} has no parameters, or others each time it is made: its maker "
            "draws them from a generator with a fixed seed."
        )
    return _described(name, package, start)


def installed_as(module: Module, *, inputs: int, way: NDArray[np.float32]) -> nn.Module:
    """Returns the installed module of a plan with parameters a given way from its beginning.

    Args:
        module: as the plan names it.
        inputs: numbers that a row has.
        way: float32[parameters].

    Raises:
        ConfigurationError: it is not installed here, or another one is under its name.
    """
    found, package = installed_module(module.name, inputs=inputs)
    start = _start(found)
    if _described(module.name, package, start) != module:
        raise ConfigurationError(
            f"The network {module.name!r} that is installed here ({package}) is not the "
            f"plan's ({module.package}): another release, or it begins with other parameters."
        )
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(start + way), _trained(found))
    return found


class TorchDeepPart:
    """A module in evaluation mode, asked in blocks. For scores that have been paid for."""

    def __init__(self, module: Module, *, inputs: int, way: NDArray[np.float32]) -> None:
        """Takes what `federation.model.module.deep_part` does, and raises as it does."""
        self._module = installed_as(module, inputs=inputs, way=way).eval()

    def log_odds(self, x: Array) -> Array:
        """Returns float64[rows], what it adds to the log-odds of bad."""
        with torch.no_grad():
            found: Array = self._module(_tensor(x)).numpy().astype(np.float64)
        return found

    def slopes(self, x: Array) -> Array:
        """Returns float64[rows, D], the derivative of that in each input."""
        at = _tensor(x).requires_grad_()
        (found,) = torch.autograd.grad(self._module(at).sum(), at)
        slopes: Array = found.numpy().astype(np.float64)
        return slopes


def _tensor(x: Array) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float32))


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [one for one in module.parameters() if one.requires_grad]


def _start(module: nn.Module) -> NDArray[np.float32]:
    parts = [one.detach().reshape(-1).to(torch.float32) for one in _trained(module)]
    return torch.cat(parts).numpy().copy() if parts else np.zeros(0, dtype=np.float32)


def _described(name: str, package: str, start: NDArray[np.float32]) -> Module:
    sealed = digest("fedscore/module-start/1", start.astype("<f4").tobytes())
    return Module(name=name, package=package, parameters=max(start.size, 1), start=sealed)
