"""What can one institution of ten do to everybody's model, and who would notice?

It holds a share of all people and lies: in its table, or with code of its own that sends as much as
so many people may, or a thousand times that. Trainings are the product's, sums plain integers (the
same as masked ones open); one in five people is held out for the evaluation, which a poisoner with
code of its own falsifies as well. Builds without the cap on a card's sums, or without Adam's bound
on a network's step, are broken in code. Whether a plan's gate would have released is read off
afterwards, and so is what each honest institution sees at home: the national model against its own
card, on its own held-out people.
"""

from typing import Final

import msgspec

from experiments.attacks.poisoned_training import Outcome, trained
from experiments.experiment import PERSON, Setting, Work

SHARES: Final = (0.05, 0.1, 0.2, 0.4)
SEEDS: Final = 3
PROMISE: Final = f"{PERSON} Held-out people pay the same for the evaluation."

_OF_CARD: Final = (
    # Without a poisoner the sums are over the same people, whoever holds them.
    ("none", "product", 0.2),
    *((attack, "product", share) for attack in ("labels", "cells", "vectors") for share in SHARES),
    ("feature", "product", 0.2),
    ("feature", "product", 0.4),
    *(("unbounded", "product", share) for share in SHARES),
    ("vectors", "no cap", 0.05),
    ("unbounded", "no cap", 0.05),
    ("unbounded", "no cap", 0.2),
)
_QUICK: Final = ("none", "labels", "cells", "vectors")
_OF_NETWORK: Final = (
    ("none", "product", 0.2),
    ("labels", "product", 0.2),
    ("vectors", "product", 0.2),
    ("unbounded", "product", 0.2),
    ("none", "plain steps", 0.2),
    ("unbounded", "plain steps", 0.2),
)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One attack on one build.

    Attributes:
        model: "scorecard" or "network".
        attack: "none", "labels", "feature", "cells", "vectors" or "unbounded".
        build: "product", "no cap" or "plain steps".
        share: of all people, at the poisoner.
        outcomes: of each noise seed.
    """

    model: str
    attack: str
    build: str
    share: float
    outcomes: tuple[Outcome, ...]


class Poisoning(msgspec.Struct, frozen=True, kw_only=True):
    """What `run poisoning` found."""

    cases: tuple[Case, ...]


def run_poisoning(setting: Setting) -> Poisoning:
    """Poisons trainings of a scorecard and of a network."""
    cases = [
        *(("scorecard", *case) for case in _OF_CARD),
        *(("network", *case) for case in _OF_NETWORK),
    ]
    seeds = SEEDS
    if setting.quick:
        cases = [("scorecard", attack, "product", 0.2) for attack in _QUICK]
        seeds = 1
    works = [
        Work(
            made_from={
                "what": "poisoning",
                "case": case,
                "seed": seed,
            },
            compute=trained,
            arguments=(*case, seed),
        )
        for case in cases
        for seed in range(seeds)
    ]
    setting.expect(len(works))
    found = iter(setting.steps(Outcome, works))
    return Poisoning(
        cases=tuple(
            Case(
                model=model,
                attack=attack,
                build=build,
                share=share,
                outcomes=tuple(next(found) for _ in range(seeds)),
            )
            for model, attack, build, share in cases
        )
    )
