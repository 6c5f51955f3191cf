"""Programs that some tests run and that no package index brings: PostgreSQL and nginx.

Where one is not installed its tests are skipped, and the last lines of the run name them. The
environment variable FEDSCORE_REQUIRE=postgresql,nginx turns a lack into a failure.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

_VARIABLE = "FEDSCORE_REQUIRE"

_PROGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "nginx": ("nginx", ("/usr/sbin", "/usr/local/sbin")),
    "postgresql": ("initdb", ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")),
}
"""What is asked for -> one program of it, and where it may stand beside the search path."""


def require(name: str) -> Path:
    """Returns the program of an outside thing (`initdb` for PostgreSQL), or skips the test.

    Args:
        name: "postgresql" or "nginx".
    """
    found = _find(*_PROGRAMS[name])
    if found is not None:
        return found
    if name in required(os.environ):
        pytest.fail(f"{name} is not installed, but {_VARIABLE} names it.", pytrace=False)
    pytest.skip(f"{name} is not installed")


def required(environment: Mapping[str, str]) -> frozenset[str]:
    """Returns the names in FEDSCORE_REQUIRE.

    Raises:
        pytest.UsageError: one of them is not known here: nothing would ever fail for lack of it.
    """
    names = frozenset(filter(None, environment.get(_VARIABLE, "").replace(" ", "").split(",")))
    if not names <= set(_PROGRAMS):
        raise pytest.UsageError(
            f"Expected {_VARIABLE} to name some of {', '.join(sorted(_PROGRAMS))}, "
            f"got {', '.join(sorted(names))}."
        )
    return names


def _find(program: str, places: tuple[str, ...]) -> Path | None:
    on_path = shutil.which(program)
    if on_path is not None:
        return Path(on_path)
    found = [path for place in places for path in Path("/").glob(f"{place[1:]}/{program}")]
    return max(found, default=None)
