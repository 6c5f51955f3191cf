"""The same comparison on split seeds 1 to 4: once, with settings frozen in a commit before.

Nothing may be chosen on these splits, so the command refuses to run while anything that decides a
figure is not committed, and its result names the commit.
"""

from typing import Final

import msgspec
import numpy as np

from experiments.datasets import TAIWAN
from experiments.division import EPSILONS, KNOWN, NOISE_SEEDS, ROUNDS, TEST_SHARE, divided
from experiments.experiment import Setting
from experiments.provenance import committed
from experiments.quality import peers
from experiments.quality.bank_results import Gain
from experiments.quality.comparison import Set, measured

SPLITS: Final[tuple[int, ...]] = (1, 2, 3, 4)


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """What `run confirmation` found.

    Attributes:
        commit: in which the settings were frozen before these splits were ever looked at.
        versions: of the peers.
        sets: for each data set, split seeds 1 to 4.
    """

    commit: str
    versions: dict[str, str]
    sets: tuple[Set, ...]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """fedscore less DP-EBM at one epsilon, paired by split.

    Attributes:
        dataset: name.
        epsilon: of both.
        splits: of each split, the difference of the means over noise seeds.
        fedscore: mean over splits and seeds.
        dp_ebm: likewise.
    """

    dataset: str
    epsilon: float
    splits: tuple[float, ...]
    fedscore: float
    dp_ebm: float

    @property
    def mean(self) -> float:
        """Mean over splits."""
        return float(np.mean(self.splits))

    @property
    def reach(self) -> float:
        """Half of the 95 % interval over splits, which overlap (`Gain`); noise is in it too."""
        gain = Gain.of(self.splits, TEST_SHARE)
        return (gain.high - gain.low) / 2


def run_confirmation(setting: Setting) -> Confirmation:
    """Looks at split seeds 1 to 4 with what is committed.

    Raises:
        ConfigurationError: something that decides the figures is not committed.
    """
    epsilons, rounds, seeds, splits = EPSILONS, ROUNDS, NOISE_SEEDS, SPLITS
    known, commit = KNOWN, "none"
    if setting.quick:
        # Other splits: a small version never looks at those that are kept for the confirmation.
        epsilons, rounds, seeds, splits, known = (1.0,), 1, 1, (101, 102), (TAIWAN,)
    else:
        commit = committed()
    setting.expect(len(known) * len(splits) * 2 * len(epsilons) * seeds)
    sets = []
    for dataset in known:
        for split in splits:
            with divided(dataset, split) as data:
                sets.append(measured(setting, data, epsilons, rounds, seeds))
    return Confirmation(commit=commit, versions=peers.VERSIONS, sets=tuple(sets))


def differences(found: Confirmation) -> tuple[Difference, ...]:
    """Returns the paired differences, by data set and epsilon."""
    names = dict.fromkeys(one.dataset for one in found.sets)
    answer = []
    for name in names:
        sets = [one for one in found.sets if one.dataset == name]
        for place, row in enumerate(sets[0].rows):
            rows = [one.rows[place] for one in sets]
            answer.append(
                Difference(
                    dataset=name,
                    epsilon=row.epsilon,
                    splits=tuple(one.fedscore.mean - one.dp_ebm.mean for one in rows),
                    fedscore=float(np.mean([one.fedscore.mean for one in rows])),
                    dp_ebm=float(np.mean([one.dp_ebm.mean for one in rows])),
                )
            )
    return tuple(answer)
