"""Chooses the settings of a trusted curator's peers, on trained people only.

    python -m experiments.choosing

tries every setting of a small grid at epsilon 1 on each data set of `experiments.utility`: three
quarters of the trained people of split seed 0 train, the last quarter scores. Prints the settings
from best to worst; `experiments.curators` has the first of each.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from experiments.cache import Cache
from experiments.curators import Perturbed, Sampled, Sides, perturbed_work, sampled_work
from experiments.datasets import GMSC, SBA, TAIWAN, Dataset
from experiments.division import TEST_SHARE, divided
from experiments.experiment import Setting, Work
from experiments.networks import CLIPS
from experiments.trial import People, people_of
from federation.schema import Schema

EPSILON: Final = 1.0
SEEDS: Final = 2

S = TypeVar("S")


def main() -> int:
    """Tries all settings."""
    for dataset in (GMSC, TAIWAN, SBA):
        _tried(dataset, list(_perturbed()), perturbed_work)
        _tried(dataset, list(_sampled(CLIPS[dataset.name])), sampled_work)
    return 0


def _perturbed() -> Iterator[Perturbed]:
    for bins, strength in product((0, 8), (0.1, 0.3, 1.0, 3.0, 10.0)):
        yield Perturbed(bins=bins, strength=strength)


def _sampled(clip: float) -> Iterator[Sampled]:
    for (batches, epochs), rate in product(((20, 5), (20, 20), (5, 40)), (0.003, 0.01, 0.03)):
        yield Sampled(bins=8, clip=clip, batches=batches, epochs=epochs, rate=rate)


def _tried(
    dataset: Dataset,
    settings: list[S],
    work: Callable[[S, Schema, Sides, float, int], Work[float]],
) -> None:
    with divided(dataset, 0) as data:
        everyone = people_of(data.schema, data.everyone)
        schema = data.schema
    fitted, scored = train_test_split(
        np.arange(len(everyone.bad)), test_size=TEST_SHARE, stratify=everyone.bad, random_state=0
    )
    people = Sides(train=_some(everyone, fitted), test=_some(everyone, scored))
    with Setting(name=f"choosing {dataset.name}", quick=False, cache=Cache()) as setting:
        setting.expect(len(settings) * SEEDS)
        found = setting.steps(
            float,
            [work(one, schema, people, EPSILON, seed) for one in settings for seed in range(SEEDS)],
        )
    means = np.reshape(found, (len(settings), SEEDS)).mean(axis=1).tolist()
    print(dataset.title)
    for mean, one in sorted(zip(means, settings, strict=True), key=lambda pair: -pair[0]):
        print(f"  {mean:.4f}  {one}")


def _some(people: People, places: NDArray[np.int64]) -> People:
    return People(codes=people.codes[:, places], bad=people.bad[places])


if __name__ == "__main__":
    raise SystemExit(main())
