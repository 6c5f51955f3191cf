"""A deep part that a modeller has written: an installed package computes it, a plan only names it.

No code crosses the wire. A plan names a module, the release of its package, how many parameters it
has and the digest of those it begins with; whoever trains, evaluates or scores must have installed
it, and another one is refused. What is trained, sent and released is the way from that beginning, a
vector that starts at 0: so auditors follow a training without knowing what it computes.
"""

from importlib.metadata import entry_points
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError
from federation.query import LONGEST_SUM

RUNTIMES: Final = "fedscore.runtimes"
"""The group of entry points in which what can run modules is installed; this one has `torch`."""

Array = NDArray[np.float64]


class Module(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A deep part by name.

    Attributes:
        name: under which a package has installed it.
        package: with its version, as "bank-networks 1.2".
        parameters: that it has, 1 to 2^24.
        start: SHA-256 of those it begins with, of `fedscore/module-start/1`.

    Raises:
        ConfigurationError: no name, text that is not printable, or too many parameters.
    """

    name: str
    package: str
    parameters: int
    start: str

    def __post_init__(self) -> None:
        named = all(one and one.isprintable() for one in (self.name, self.package, self.start))
        if not named or not 1 <= self.parameters <= LONGEST_SUM:
            raise ConfigurationError(
                "Expected a module's name, its package and its start as printable text, and 1 to "
                "2^24 parameters."
            )


class DeepPart(Protocol):
    """A module with parameters, ready to be asked."""

    def log_odds(self, x: Array) -> Array:
        """Returns float64[rows], what it adds to the log-odds of bad at float64[rows, D]."""

    def slopes(self, x: Array) -> Array:
        """Returns float64[rows, D], the derivative of that in each input."""


class Runtime(Protocol):
    """What can run modules."""

    def __call__(self, module: Module, *, inputs: int, way: NDArray[np.float32]) -> DeepPart:
        """Returns a module with parameters, as `deep_part`."""


def deep_part(module: Module, *, inputs: int, way: NDArray[np.float32]) -> DeepPart:
    """Returns an installed module with its parameters.

    Args:
        module: as a plan names it.
        inputs: D, numbers that a row has.
        way: float32[parameters], from those it begins with.

    Raises:
        ConfigurationError: it is not installed here, is not the plan's, or nothing here can run it.
    """
    found = tuple(entry_points(group=RUNTIMES, name="torch"))
    if not found:
        raise ConfigurationError("This installation cannot run modules: install fedscore anew.")
    try:
        runtime: Runtime = found[0].load()
    except ImportError as error:
        raise ConfigurationError(
            f"The network's module {module.name!r} needs fedscore[network]: {error}."
        ) from error
    return runtime(module, inputs=inputs, way=way)
