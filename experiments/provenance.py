"""What a result carries beside its figures: what made it, on what, from what."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import msgspec

from experiments.cache import ROOT, digest_of_product, digest_of_value
from federation.canonical import canonical_json
from federation.errors import ConfigurationError

DECIDES: Final = (
    "federation",
    "clients",
    "server",
    "fedscore",
    "experiments/*.py",
    "experiments/schemas",
    "constraints.txt",
    ":(exclude)fedscore/advice_law.json",
)
"""What a figure depends on; documents and results are not among it, nor the law of `advice`."""

LIBRARIES: Final = (
    "cryptography",
    "diffprivlib",
    "dp-accounting",
    "flwr",
    "interpret-core",
    "numpy",
    "opacus",
    "pyarrow",
    "ray",
    "scikit-learn",
    "scipy",
    "tenseal",
    "torch",
    "xgboost",
)

_LONGEST_SHOWN: Final = 100


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """Steps that were computed from the same, but for their seeds.

    Attributes:
        of: all that they were computed from, by name: digests of code, data, schemas; what is long,
            as a plan is, by "sha256:" and the digest of its canonical JSON.
        seeds: what each step calls "seed", in the order of the steps; empty if they have none.
    """

    of: dict[str, object]
    seeds: tuple[int | str, ...]


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """How a result came about.

    Attributes:
        commit: that was checked out; None outside a git checkout.
        changed: whether a file that decides a figure differed from the commit, before or after.
        product: `digest_of_product`.
        python: version.
        libraries: versions of those that are installed, by name.
        cores: that the run could use.
        load: average of the last minute when the run began.
        seconds: that the run took.
        computed: steps that were computed in this run.
        recalled: steps that were in the cache.
        steps: what they were made from. Times are measured outside of steps.
        kept_from: commit of an earlier result, parts of which stand in this one because their data
            were not here; None if there are none. "unknown" if that result did not say.
    """

    commit: str | None
    changed: bool | None
    product: str
    python: str
    libraries: dict[str, str]
    cores: int
    load: float
    seconds: float
    computed: int
    recalled: int
    steps: tuple[Steps, ...]
    kept_from: str | None = None


def begun() -> Made:
    """Returns what is known of a run when it begins."""
    commit = head()
    return Made(
        commit=commit,
        changed=None if commit is None else bool(changes()),
        product=digest_of_product(),
        python=platform.python_version(),
        libraries=_installed(),
        cores=len(os.sched_getaffinity(0)),
        load=os.getloadavg()[0],
        seconds=0.0,
        computed=0,
        recalled=0,
        steps=(),
    )


def moved_from(start: Made) -> bool:
    """Returns whether what decides a figure is not any more as it was when a run began."""
    return head() != start.commit or bool(changes())


def grouped(made_from: list[Mapping[str, object]]) -> tuple[Steps, ...]:
    """Returns steps, in their order, those together that differ in nothing but the seed."""
    groups: dict[str, Steps] = {}
    for one in made_from:
        of = {name: _shown(value) for name, value in one.items() if name != "seed"}
        key = digest_of_value(of)
        seed = one.get("seed")
        seeds = () if seed is None else (seed if isinstance(seed, int) else str(seed),)
        before = groups[key].seeds if key in groups else ()
        groups[key] = Steps(of=of, seeds=before + seeds)
    return tuple(groups.values())


def head() -> str | None:
    """Returns the commit that is checked out, None outside a git checkout."""
    return _git("rev-parse", "HEAD")


def changes() -> str:
    """Returns what git says of files that decide a figure and are not as in the commit."""
    return _git("status", "--porcelain", "--", *DECIDES) or ""


def committed() -> str:
    """Returns the commit that holds everything that decides a figure.

    Raises:
        ConfigurationError: a file differs from it, or this is no git checkout.
    """
    commit = head()
    if commit is None:
        raise ConfigurationError("A confirmation runs in a git checkout, to name its commit.")
    changed = changes()
    if changed:
        raise ConfigurationError(
            f"Commit first: a confirmation runs on frozen settings. Changed:\n{changed}"
        )
    return commit


def _shown(value: object) -> object:
    plain = msgspec.to_builtins(value)
    if isinstance(plain, dict) or len(canonical_json(plain)) > _LONGEST_SHOWN:
        return f"sha256:{digest_of_value(plain)}"
    return plain


def _installed() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
