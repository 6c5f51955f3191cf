"""Modules that packages on this machine have installed, as deep parts of networks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from federation.canonical import digest
from federation.errors import ConfigurationError, FedscoreError
from federation.model.module import Array, Module
from federation.model.network import LARGEST_PARAMETER

ENTRY_POINTS: Final = "fedscore.networks"
"""The group of entry points in which an installed package names its networks."""


@contextmanager
def modellers_code(doing: str) -> Iterator[None]:
    """Makes a `ConfigurationError` of whatever a modeller's code raises.

    Never around a single person's row: that one brings the zero vector, and nobody hears of it.

    Args:
        doing: what the code was to do, for the error.
    """
    try:
        yield
    except FedscoreError:
        raise
    except Exception as error:  # not our code: anything may come
        raise ConfigurationError(
            f"A network's module failed to {doing}: {type(error).__name__}: {error} Ask its maker."
        ) from error


def installed_module(name: str, *, inputs: int) -> tuple[nn.Module, str]:
    """Returns a module that a package on this machine has installed, and that package's version.

    The package declares, in the group ENTRY_POINTS, a callable that takes the number of inputs and
    returns a module which maps float32[rows, inputs] to float32[rows], its part of the log-odds of
    bad. Each call must return the same initial parameters: draw them from a generator with a seed
    of your own.

    Raises:
        ConfigurationError: no package or more than one has a module of this name, or what it has
            makes no module, or fails.
    """
    found = entry_points(group=ENTRY_POINTS, name=name)
    if len(found) != 1:
        named = sorted({one.name for one in entry_points(group=ENTRY_POINTS)})
        raise ConfigurationError(
            f"{len(found)} installed packages have a network {name!r}: expected one. Install the "
            f"package that the plan's modeller names. Networks here: {', '.join(named) or 'none'}."
        )
    (entry,) = found
    with modellers_code(f"be made for {inputs} inputs"):
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
            elsewhere each time, or beyond the public bound on parameters.
    """
    (first, package), (again, _) = (installed_module(name, inputs=inputs) for _ in range(2))
    found, start = _described(name, package, first), _start(first)
    if not start.size or found != _described(name, package, again):
        raise ConfigurationError(
            f"The network {name!r} has no parameters, or other numbers each time it is made: its "
            "maker draws them from a generator with a fixed seed."
        )
    if not (np.abs(start) <= LARGEST_PARAMETER).all():  # NaN fails as well
        raise ConfigurationError(
            f"The network {name!r} begins with a parameter beyond +-{LARGEST_PARAMETER:g}."
        )
    return found


def installed_as(module: Module, *, inputs: int, way: NDArray[np.float32]) -> nn.Module:
    """Returns the installed module of a plan, in float32, a given way from its beginning.

    Its parameters are cut to the public bound, the same for whoever trains, evaluates or scores.

    Args:
        module: as the plan names it.
        inputs: numbers that a row has.
        way: float32[parameters].

    Raises:
        ConfigurationError: it is not installed here, or another one is under its name.
    """
    found, package = installed_module(module.name, inputs=inputs)
    if _described(module.name, package, found) != module:
        raise ConfigurationError(
            f"The network {module.name!r} that is installed here ({package}) is not the "
            f"plan's ({module.package}): another release, or it begins with other numbers."
        )
    found = found.to(torch.float32)
    absolute = np.clip(_start(found) + way, -LARGEST_PARAMETER, LARGEST_PARAMETER)
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(absolute), _trained(found))
    return found


class TorchDeepPart:
    """A module in evaluation mode, asked in blocks. For scores that have been paid for.

    Both methods raise `ConfigurationError` where the module raises anything.
    """

    def __init__(self, module: Module, *, inputs: int, way: NDArray[np.float32]) -> None:
        """Takes what `federation.model.module.deep_part` does, and raises as it does."""
        self._module = installed_as(module, inputs=inputs, way=way).eval()

    def log_odds(self, x: Array) -> Array:
        """Returns float64[rows], what it adds to the log-odds of bad."""
        with modellers_code("score"), torch.no_grad():
            found: Array = self._module(_tensor(x)).numpy().astype(np.float64)
        return found

    def slopes(self, x: Array) -> Array:
        """Returns float64[rows, D], the derivative of that in each input; 0 where it has none."""
        at = _tensor(x).requires_grad_()
        with modellers_code("explain its scores"):
            total = self._module(at).sum()
            if not total.requires_grad:
                return np.zeros(x.shape)
            (found,) = torch.autograd.grad(total, at, allow_unused=True)
        slopes: Array = np.zeros(x.shape) if found is None else found.numpy().astype(np.float64)
        return slopes


def _tensor(x: Array) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float32))


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [one for one in module.parameters() if one.requires_grad]


def _start(module: nn.Module) -> NDArray[np.float32]:
    parts = [one.detach().reshape(-1).to(torch.float32) for one in _trained(module)]
    return torch.cat(parts).numpy().copy() if parts else np.zeros(0, dtype=np.float32)


def fixed_numbers(module: nn.Module) -> bytes:
    """Returns what a module computes with but nobody trains, float64, little-endian.

    Frozen parameters, then buffers, each in torch's order.
    """
    frozen = (one for one in module.parameters() if not one.requires_grad)
    parts = [one.detach().reshape(-1).to(torch.float64) for one in (*frozen, *module.buffers())]
    return torch.cat(parts).numpy().astype("<f8").tobytes() if parts else b""


def _described(name: str, package: str, module: nn.Module) -> Module:
    start = _start(module)
    begins = (start.astype("<f4").tobytes(), fixed_numbers(module))
    return Module(
        name=name,
        package=package,
        parameters=max(start.size, 1),
        start=digest("fedscore/module-start/1", *begins),
    )
