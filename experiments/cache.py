"""Results that were computed once are kept by what they were computed from.

A key is SHA-256 over everything that a result depends on: the contents of the tables, the terms of
the plan, the seeds, and the source code that computes it. Nothing in the cache is ever out of date,
and deleting it loses nothing but time.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeVar

import grimp
import msgspec

from federation.canonical import canonical_json

ROOT: Final = Path(__file__).parent.parent
CACHE: Final = ROOT / ".cache" / "experiments"

SCHEMAS: Final = Path(__file__).parent / "schemas"

_PACKAGES: Final = ("federation", "clients", "server", "fedscore", "experiments")

T = TypeVar("T")


class Cache:
    """A directory of small JSON files, one for each result."""

    def __init__(self, directory: Path = CACHE) -> None:
        """Uses a directory, which is made when it is first written to."""
        self._directory = directory

    def recall(self, made_from: Mapping[str, object], kind: type[T]) -> T | None:
        """Returns a result, None if it is not in the cache.

        Args:
            made_from: all that the result depends on; plain values that JSON can hold.
            kind: the result's type, which msgspec can write and read.
        """
        path = self._path(made_from)
        return msgspec.json.decode(path.read_bytes(), type=kind) if path.exists() else None

    def keep(self, made_from: Mapping[str, object], found: T) -> T:
        """Writes a result and returns it."""
        path = self._path(made_from)
        self._directory.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(msgspec.json.encode(found))
        unfinished.rename(path)
        return found

    def _path(self, made_from: Mapping[str, object]) -> Path:
        return self._directory / f"{digest_of_value(dict(made_from))}.json"


def digest_of_value(value: object) -> str:
    """Returns SHA-256 over a value that JSON can hold, in its one canonical form."""
    return hashlib.sha256(canonical_json(msgspec.to_builtins(value))).hexdigest()


def digest_of_files(paths: Iterable[Path]) -> str:
    """Returns SHA-256 over the names and contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def digest_of_product() -> str:
    """Returns SHA-256 over all that a training runs through, but the tables and the terms."""
    return digest_of_module("experiments.trial")


@cache
def digest_of_module(name: str) -> str:
    """Returns SHA-256 over all code that a module of this repository runs through.

    Schemas of experiments count as code: whichever it reads, a change of one is seen. Tables and
    plots stand elsewhere, so that a new heading does not throw results away.

    Args:
        name: as in an import, say "experiments.audit.membership_crowd".
    """
    schemas = digest_of_files(SCHEMAS.glob("*.toml"))
    return digest_of_value({"code": digest_of_imports(name, _PACKAGES), "schemas": schemas})


def digest_of_code(compute: Callable[..., object]) -> str:
    """Returns the digest of all code that a function runs through.

    Args:
        compute: a function of a module of this repository; of any other, as in a test, its name
            alone counts.
    """
    if isinstance(compute, partial):
        return digest_of_code(compute.func)
    if compute.__module__.partition(".")[0] in _PACKAGES:
        return digest_of_module(compute.__module__)
    return digest_of_value(f"{compute.__module__}.{compute.__qualname__}")


def digest_of_imports(name: str, packages: tuple[str, ...]) -> str:
    """Returns SHA-256 over a module and all that it imports, directly or not.

    Imports inside functions and for types count. Of modules of the packages the source counts, of
    other libraries the version. A module that is imported by a name made at run time is not seen.

    Args:
        name: of a module in one of the packages.
        packages: top-level names.
    """
    graph = _graph(packages)
    needed: set[str] = set()
    waiting = {name}
    while waiting:
        module = waiting.pop()
        needed.add(module)
        package = module.rpartition(".")[0]  # importing a module runs its packages first
        waiting |= (graph.find_modules_directly_imported_by(module) | {package}) - needed - {""}
    digest = hashlib.sha256()
    for module in sorted(needed):
        if module.partition(".")[0] in packages:
            content = _source(module).read_bytes()
            digest.update(f"{module} {len(content)}\n".encode())
            digest.update(content)
        elif module not in sys.stdlib_module_names:
            digest.update(f"{module} {','.join(_versions(module))}\n".encode())
    return digest.hexdigest()


@cache
def _graph(packages: tuple[str, ...]) -> grimp.ImportGraph:
    return grimp.build_graph(*packages, include_external_packages=True, cache_dir=None)


def _source(module: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"The source of {module} is not here: run from a whole checkout.")
    return Path(spec.origin)


def _versions(library: str) -> list[str]:
    """Returns the versions of what is installed under a name; none if nothing is."""
    names = sorted(set(_distributions().get(library, ())))
    return [f"{name} {version(name)}" for name in names]


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()
