"""The federations of the schedules: a few shapes, each made once for all seeds of a process."""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.card import Card
from federation.plan import Plan
from tests.federations import _SMALL, NOW, Federation, federation, identity_of, signed_plan

_SHAPES: Final[tuple[dict[str, Any], ...]] = (
    {"institutions": 4, "people": 14, "quorum": 3, "spare_attempts": 2, "rounds": 2},
    {"institutions": 3, "people": 20, "quorum": 3, "spare_attempts": 3, "rounds": 3},
    {"institutions": 4, "people": 12, "quorum": 3, "spare_attempts": 4, "rounds": 2},
    {"institutions": 5, "people": 12, "quorum": 4, "spare_attempts": 2, "rounds": 2},
    {"institutions": 4, "people": 16, "quorum": 4, "spare_attempts": 3, "rounds": 2},
    {"institutions": 3, "people": 30, "quorum": 3, "spare_attempts": 0, "rounds": 3},
    {"institutions": 4, "people": 14, "quorum": 3, "spare_attempts": 5, "rounds": 3},
)
SHAPES: Final = len(_SHAPES)
DAY: Final = 86_400
MOUNT: Final = Path("/dev/shm")  # noqa: S108  memory: what SQLite syncs is there at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One federation, the plan after its plan, and the cards of its institutions."""

    fed: Federation
    next_plan: Plan
    cards: dict[str, Card]
    schema_text: str
    identities: dict[str, Ed25519PrivateKey]

    @property
    def names(self) -> tuple[str, ...]:
        return self.fed.plan.participation.invited


def scratch() -> Path:
    """Returns a new private directory, in memory where that is possible."""
    return Path(tempfile.mkdtemp(prefix="chaos-", dir=MOUNT if MOUNT.is_dir() else None))


@cache
def _directory() -> Path:
    directory = scratch()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@cache
def shape(number: int) -> Shape:
    """Returns one of the shapes; any number names one."""
    settings = _SHAPES[number % len(_SHAPES)]
    if number != number % len(_SHAPES):
        return shape(number % len(_SHAPES))
    directory = _directory() / str(number)
    directory.mkdir()
    fed = federation(directory, **settings)
    institutions = {name: identity_of(name) for name in fed.plan.participation.invited}
    wanted = {key: settings[key] for key in ("quorum", "spare_attempts", "rounds")}
    return Shape(
        fed=fed,
        next_plan=signed_plan(
            fed.schema,
            name="plan-after-chaos",
            invited=fed.plan.participation.invited,
            valid_from=datetime.fromtimestamp(NOW + 2 * DAY, UTC),
            **wanted,
        ),
        cards={
            name: Card.of(
                federation=fed.plan.federation, institution=name, identity=identity, node="none"
            )
            for name, identity in institutions.items()
        },
        schema_text=_SMALL.format(rows="one"),
        identities=institutions,
    )
