"""What can one institution of ten do to everybody's model, and who would notice?

It holds a share of all people and lies: in its table, or with code of its own that sends as much as
so many people may, or a thousand times that. Trainings are the product's, sums plain integers (the
same as masked ones open); one in five people is held out for the evaluation, which a poisoner with
code of its own falsifies as well. Two gates are read off afterwards, neither of which the product
closes by itself: the quality that the release reports, against what honest trainings reported; and
each honest institution's own figures at home, the national model against its own card.
"""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from experiments import poison
from experiments.attack_stage import STAGE
from experiments.cache import digest_of_files, digest_of_product
from experiments.experiment import PERSON, Setting, Work
from experiments.poisoned_training import TRAINING, Outcome, trained

SHARES: Final = (0.05, 0.1, 0.2, 0.4)
SEEDS: Final = 3
PROMISE: Final = f"{PERSON} Held-out people pay the same for the evaluation."

_OF_CARD: Final = (
    *(
        (attack, "product", share)
        for attack in ("none", "labels", "feature", "vectors", "unbounded")
        for share in SHARES
    ),
    ("vectors", "capped", 0.05),
    ("unbounded", "capped", 0.05),
)
_OF_NETWORK: Final = (
    ("none", "product", 0.1),
    ("labels", "product", 0.1),
    ("vectors", "product", 0.1),
    ("unbounded", "product", 0.1),
    ("none", "plain steps", 0.1),
    ("unbounded", "plain steps", 0.1),
)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One attack on one build.

    Attributes:
        model: "scorecard" or "network".
        attack: "none", "labels", "feature", "vectors" or "unbounded".
        build: "product", "capped" or "plain steps".
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

    def honest(self, case: Case) -> Case:
        """Returns the same without a poisoner, on the product."""
        return next(
            one
            for one in self.cases
            if (one.model, one.attack, one.build) == (case.model, "none", "product")
            and one.share == case.share
        )

    def refused(self, case: Case) -> int:
        """Returns how many releases report less than honest ones, by their own 95 % interval."""
        usual = np.mean([one.reported for one in self.honest(case).outcomes if one.reported])
        return sum(
            one.reported_high is None or bool(one.reported_high < usual) for one in case.outcomes
        )


def run_poisoning(setting: Setting) -> Poisoning:
    """Poisons trainings of a scorecard and of a network."""
    cases = [
        *(("scorecard", *case) for case in _OF_CARD),
        *(("network", *case) for case in _OF_NETWORK),
    ]
    seeds = SEEDS
    if setting.quick:
        cases = [("scorecard", attack, "product", 0.2) for attack in ("none", "labels", "vectors")]
        seeds = 1
    code = digest_of_files([TRAINING, Path(poison.__file__), STAGE])
    works = [
        Work(
            made_from={
                "what": "poisoning",
                "product": digest_of_product(),
                "code": code,
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
