"""Results that were computed once are kept by what they were computed from.

A key is SHA-256 over everything that a result depends on: the contents of the tables, the terms of
the plan, the seeds, and the source code that computes it. Nothing in the cache is ever out of date,
and deleting it loses nothing but time.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from federation.canonical import canonical_json

ROOT: Final = Path(__file__).parent.parent
CACHE: Final = ROOT / ".cache" / "experiments"

_PRODUCT: Final = ("federation", "clients", "server", "fedscore")
_STARTED_BY: Final = tuple(Path(__file__).with_name(name) for name in ("trial.py", "entropy.py"))
_LIBRARIES: Final = ("numpy", "pyarrow", "scipy")

T = TypeVar("T")


class Cache:
    """A directory of small JSON files, one for each result."""

    def __init__(self, directory: Path = CACHE) -> None:
        """Uses a directory, which is made when it is first written to."""
        self._directory = directory

    def remember(
        self, made_from: Mapping[str, object], kind: type[T], compute: Callable[[], T]
    ) -> T:
        """Returns a result, computed only if it is not in the cache.

        Args:
            made_from: all that the result depends on; plain values that JSON can hold.
            kind: the result's type, which msgspec can write and read.
            compute: computes it.
        """
        known = self.recall(made_from, kind)
        if known is not None:
            return known
        found = compute()
        path = self._path(made_from)
        self._directory.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(msgspec.json.encode(found))
        unfinished.rename(path)
        return found

    def recall(self, made_from: Mapping[str, object], kind: type[T]) -> T | None:
        """Returns a result if it is in the cache."""
        path = self._path(made_from)
        return msgspec.json.decode(path.read_bytes(), type=kind) if path.exists() else None

    def _path(self, made_from: Mapping[str, object]) -> Path:
        key = hashlib.sha256(canonical_json(msgspec.to_builtins(dict(made_from)))).hexdigest()
        return self._directory / f"{key}.json"


def digest_of_files(paths: Iterable[Path]) -> str:
    """Returns SHA-256 over the names and contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


@cache
def digest_of_product() -> str:
    """Returns SHA-256 over all that a training runs through, but the tables and the terms.

    That is the product's source code, the experiments' own that starts it, and the versions of the
    libraries that compute. The demo, the commands and pages for people change no result.
    """
    digest = hashlib.sha256("".join(f"{name} {version(name)}\n" for name in _LIBRARIES).encode())
    for path in _STARTED_BY:
        digest.update(path.read_bytes())
    for package in _PRODUCT:
        pattern = "*.py" if package == "fedscore" else "**/*.py"
        for path in sorted((ROOT / package).glob(pattern)):
            if path.name in (
                "command.py",
                "advice.py",
                "advice_command.py",
                "advice_law.py",
                "tables.py",
                "progress.py",
                "price_sheet.py",
                "bench.py",
            ):
                continue
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
