"""Computes something in a process of its own, so that its peak of memory is its own.

A process that another one starts is said to have held at least as much memory as its parent did
(Linux keeps the peak over exec). So a small process is started, which has loaded nothing, and that
one forks the process that computes: a fork's peak begins anew.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

T = TypeVar("T")


class Runner(Protocol):
    """Computes something, here or elsewhere."""

    def __call__(self, kind: type[T], compute: Callable[..., T], /, *arguments: float | str) -> T:
        """Returns what a function finds."""
        ...


def here(_kind: type[T], compute: Callable[..., T], /, *arguments: float | str) -> T:
    """Returns what a function finds, computed in this process: for small versions."""
    return compute(*arguments)


def alone(kind: type[T], compute: Callable[..., T], /, *arguments: float | str) -> T:
    """Returns what a function finds in a process of its own.

    Args:
        kind: of the result, which msgspec can write and read.
        compute: a function of a module.
        arguments: of it, which JSON can hold.

    Raises:
        subprocess.CalledProcessError: it failed; what it said stands above.
    """
    asked = json.dumps([compute.__module__, compute.__name__, arguments])
    done = subprocess.run(
        [sys.executable, "-m", "experiments.speed.alone", asked], check=True, stdout=subprocess.PIPE
    )
    return msgspec.json.decode(done.stdout, type=kind)


def main() -> int:
    """Forks, computes in the child, and waits for it."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    module, name, arguments = json.loads(sys.argv[1])
    found = getattr(importlib.import_module(module), name)(*arguments)
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
