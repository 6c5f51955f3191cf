"""Whether the one version of Flower is installed that the transport was written for."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from clients.finding import Finding, failed, passed

FLOWER: Final = "1.41.0"
"""As pyproject.toml pins it."""


def flower() -> Finding:
    """Returns whether it is; nothing is imported."""
    advice = f"Run `pip install flwr=={FLOWER}` in the environment of this command."
    try:
        there = version("flwr")
    except PackageNotFoundError:
        return failed("flower", f"flwr is not installed; {FLOWER} is needed", advice)
    if there != FLOWER:
        return failed("flower", f"flwr {there} is installed; {FLOWER} is needed", advice)
    return passed("flower", f"flwr {there}")
