"""Test AUC against epsilon: every model in every mode, on three data sets, peers in the same run.

Split seed 0, as in `comparison`; ten institutions in joint and local mode, 300 in institution mode,
where the score is additive over public bins. Institution mode promises something else than the two
others: an epsilon of a whole institution, not of a person. Its settings and those of networks were
chosen on a part of the trained people, at epsilon 1, and are the same for every epsilon and seed.

Peers see all records in one place: DP-EBM (`experiments.quality.peers`), DP-SGD by Opacus and
diffprivlib's logistic regression (`experiments.quality.curators`) under an epsilon, XGBoost,
logistic regression and our own card without any. What each epsilon promises,
`experiments.quality.utility_tables` says.
"""

from collections.abc import Iterator
from enum import StrEnum
from functools import partial
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from experiments.datasets import GMSC, SBA, TAIWAN, Dataset, locate, sha256_of
from experiments.division import Divided, divided, reach
from experiments.experiment import PERSON, Setting, Work
from experiments.quality import comparison, curators, peers
from experiments.quality.comparison import Peers
from experiments.quality.curators import (
    HIDDEN,
    Perturbed,
    Sampled,
    Sides,
    choosing_steps,
    chosen,
    perturbed_candidates,
    perturbed_work,
    sampled_candidates,
    sampled_work,
)
from experiments.trial import Federation, People, Terms, made_from, people_of, plan_of, released
from federation.learning import (
    Institution,
    Joint,
    Local,
    NetworkModel,
    ScorecardModel,
    ServerOptimiser,
)
from federation.model.network import Activation
from federation.plan import Plan
from federation.pricing import stddev_of_total
from federation.schema import Schema
from fedscore.planning import JOINT, SCORECARD
from fedscore.price_sheet import signal_to_noise
from fedscore.training_file import NetworkDraft

PROMISE: Final = (
    f"{PERSON} In local mode it holds against everybody else. In institution mode it is that of a "
    "whole institution's update, replaced by zero. Peers' promises stand in a table."
)
EPSILONS: Final = (0.1, 0.5, 1.0, 4.0)
OF_INSTITUTIONS: Final = (1.0, 8.0)
SEEDS: Final = 5
MANY: Final = tuple(f"bank-{number:03d}" for number in range(300))
CLIPS: Final = {GMSC.name: 0.3, TAIWAN.name: 1.5, SBA.name: 1.0}
"""About base rate times the square root of twice the features: the usual length of a gradient."""

ROUNDS_OF_CARD: Final = 20
ROUNDS_OF_NETWORK: Final = 40
LOCAL_ROUNDS: Final = 10
LOCAL_STEPS: Final = 4
UPDATES: Final = {1.0: 2, 8.0: 5}
"""Rounds of institution mode at each epsilon: its noise allows few."""

STEP_LENGTHS: Final = {GMSC.name: 2.0, TAIWAN.name: 1.0, SBA.name: 1.0}


class Method(StrEnum):
    """A way to a score under an epsilon."""

    SCORECARD_JOINT = "scorecard, joint"
    SCORECARD_LOCAL = "scorecard, local"
    NETWORK_JOINT = "network, joint"
    NETWORK_LOCAL = "network, local"
    INSTITUTION = "additive, institution"
    DP_EBM = "DP-EBM"
    OPACUS = "DP-SGD network, Opacus"
    DIFFPRIVLIB = "logistic regression, diffprivlib"


CURATED: Final = (Method.DP_EBM, Method.OPACUS, Method.DIFFPRIVLIB)
"""Those of a trusted curator."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """What a training of ours was like.

    Attributes:
        institutions: that answer.
        rounds: of training.
        steps: that an institution takes at home for one answer.
        noise: standard deviation in a total of a training round, people or clip norms.
        signal_to_noise: of an update at best, in institution mode.
    """

    institutions: int
    rounds: int
    steps: int
    noise: float
    signal_to_noise: float | None


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One method at one epsilon.

    Attributes:
        method: that gave the score.
        epsilon: of a person; in institution mode of an institution.
        auc: on test people, with each noise seed.
        training: None at a trusted curator.
    """

    method: Method
    epsilon: float
    auc: tuple[float, ...]
    training: Training | None

    @property
    def mean(self) -> float:
        """Mean over noise seeds."""
        return float(np.mean(self.auc))

    @property
    def reach(self) -> float:
        """Half of the 95 % interval of the mean over noise seeds (Student)."""
        return reach(self.auc)


class Curated(msgspec.Struct, frozen=True, kw_only=True):
    """What trusted curators give on a data set, with the settings that they chose."""

    perturbed: Perturbed
    sampled: Sampled
    cells: tuple[Cell, ...]


class OfSet(msgspec.Struct, frozen=True, kw_only=True):
    """One data set.

    Attributes:
        dataset: name.
        data: sha256 of the file.
        schema: digest.
        trained: people at the institutions.
        good: other people, who are scored.
        bad: likewise.
        ours: our cells.
        curated: those of trusted curators.
        without: test AUC of what has no privacy.
    """

    dataset: str
    data: str
    schema: str
    trained: int
    good: int
    bad: int
    ours: tuple[Cell, ...]
    curated: Curated
    without: Peers

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All methods under an epsilon."""
        return (*self.ours, *self.curated.cells)

    def of(self, method: Method) -> list[Cell]:
        """Returns the cells of a method, by epsilon."""
        return [cell for cell in self.cells if cell.method is method]


class Utility(msgspec.Struct, frozen=True, kw_only=True):
    """What `run utility` found.

    Attributes:
        split: seed of the 75/25 split.
        versions: of the peers.
        sets: by data set.
    """

    split: int
    versions: dict[str, str]
    sets: tuple[OfSet, ...]


def run_utility(setting: Setting) -> Utility:
    """Trains everything."""
    sets: tuple[Dataset, ...] = (GMSC, TAIWAN, SBA)
    epsilons: tuple[float, ...] = EPSILONS
    of_institutions: tuple[float, ...] = OF_INSTITUTIONS
    seeds, many, split = SEEDS, MANY, 0
    if setting.quick:
        sets, epsilons, of_institutions, seeds, many = (TAIWAN,), (1.0,), (8.0,), 1, MANY[:12]
    cells = seeds * (7 * len(epsilons) + len(of_institutions))
    setting.expect(len(sets) * (cells + 1 + (0 if setting.quick else choosing_steps())))
    found = []
    for dataset in sets:
        with divided(dataset, split) as data, divided(dataset, split, many) as dealt_to_many:
            terms = [*_of_persons(data, epsilons, quick=setting.quick)]
            of_many = [_of_institution(dealt_to_many, epsilon) for epsilon in of_institutions]
            ours = [*((data, one) for one in terms), *((dealt_to_many, one) for one in of_many)]
            bad = int(data.people.bad.sum())
            found.append(
                OfSet(
                    dataset=dataset.name,
                    data=sha256_of(locate(dataset)),
                    schema=data.schema.digest,
                    trained=data.train.num_rows,
                    good=data.test.num_rows - bad,
                    bad=bad,
                    ours=tuple(_ours(setting, ours, seeds)),
                    curated=curated(setting, data, epsilons, seeds),
                    without=comparison.peers_without_privacy(setting, data),
                )
            )
    return Utility(split=split, versions=peers.VERSIONS | curators.VERSIONS, sets=tuple(found))


def curated(setting: Setting, data: Divided, epsilons: tuple[float, ...], seeds: int) -> Curated:
    """Returns the trusted curators' peers; none of them depends on how the product trains."""
    train = people_of(data.schema, data.everyone)
    people = Sides(train=train, test=data.people)
    ways, clip = perturbed_candidates(), CLIPS[data.dataset.name]
    if setting.quick:
        perturbed = ways[0]
        sampled = msgspec.structs.replace(sampled_candidates(clip)[0], epochs=1)
    else:
        perturbed = chosen(setting, perturbed_work, ways, data.schema, train)
        sampled = chosen(setting, sampled_work, sampled_candidates(clip), data.schema, train)
    works = {
        Method.DP_EBM: partial(_ebm_work, data),
        Method.OPACUS: partial(sampled_work, sampled, data.schema, people),
        Method.DIFFPRIVLIB: partial(perturbed_work, perturbed, data.schema, people),
    }
    wanted = [(method, epsilon) for method in CURATED for epsilon in epsilons]
    found = setting.steps(
        float,
        [works[method](epsilon, seed) for method, epsilon in wanted for seed in range(seeds)],
    )
    cells = tuple(
        Cell(
            method=method,
            epsilon=epsilon,
            auc=tuple(found[seeds * place : seeds * (place + 1)]),
            training=None,
        )
        for place, (method, epsilon) in enumerate(wanted)
    )
    return Curated(perturbed=perturbed, sampled=sampled, cells=cells)


def _ebm_work(data: Divided, epsilon: float, seed: int) -> Work[float]:
    made = comparison.of_peer("DP-EBM", data) | {"epsilon": epsilon, "seed": seed}
    return Work(
        made_from=made | {"what": "test AUC"},
        compute=_ebm,
        arguments=(data.schema, data.train, data.test, epsilon, seed),
    )


def _ebm(schema: Schema, train: pa.Table, test: pa.Table, epsilon: float, seed: int) -> float:
    return peers.curated(schema, train, test, epsilon=epsilon, noise_seed=seed)


def network(schema: Schema, clip: float, *, hidden: tuple[int, ...], rate: float) -> NetworkModel:
    """Returns the plan's model of a network.

    Args:
        schema: of the data set.
        clip: norm.
        hidden: widths.
        rate: learning rate.
    """
    return NetworkDraft(
        hidden=hidden,
        activation=Activation.TANH,
        clip=clip,
        sampling_rate=1.0,
        learning_rate=rate,
    ).model(schema)


def _of_persons(data: Divided, epsilons: tuple[float, ...], *, quick: bool) -> Iterator[Terms]:
    clip = CLIPS[data.dataset.name]
    rounds = 1 if quick else None
    for epsilon in epsilons:
        deep = network(data.schema, clip, hidden=HIDDEN, rate=0.03)
        for mode, model, usual in (
            (JOINT, SCORECARD, ROUNDS_OF_CARD),
            (Local(steps=1), SCORECARD, ROUNDS_OF_CARD),
            (JOINT, deep, ROUNDS_OF_NETWORK),
            (Local(steps=LOCAL_STEPS), deep, LOCAL_ROUNDS),
        ):
            yield Terms(
                epsilon=epsilon,
                rounds=rounds or usual,
                people=data.train.num_rows,
                most_per_institution=data.train.num_rows // 5,
                spare_attempts=0 if isinstance(mode, Local) else 2,
                mode=mode,
                model=model,
            )


def _of_institution(data: Divided, epsilon: float) -> Terms:
    mode = Institution(
        steps=30,
        step_length=STEP_LENGTHS[data.dataset.name],
        proximal=0.0,
        optimiser=ServerOptimiser.FEDAVG,
    )
    return Terms(
        epsilon=epsilon,
        rounds=UPDATES[epsilon],
        people=data.train.num_rows,
        most_per_institution=3 * data.train.num_rows // len(data.federation.tables),
        spare_attempts=0,
        mode=mode,
        model=network(data.schema, 2.0, hidden=(), rate=1.0),
    )


def _ours(setting: Setting, trainings: list[tuple[Divided, Terms]], seeds: int) -> list[Cell]:
    works = [
        Work(
            made_from=made_from(data.federation, terms, seed)
            | {"test": data.digest, "what": "test AUC"},
            compute=_once,
            arguments=(data.federation, data.people, terms, seed),
        )
        for data, terms in trainings
        for seed in range(seeds)
    ]
    found = setting.steps(float, works)
    cells = []
    for place, (data, terms) in enumerate(trainings):
        plan = plan_of(data.federation, terms)
        cells.append(
            Cell(
                method=_method(plan),
                epsilon=terms.epsilon,
                auc=tuple(found[seeds * place : seeds * (place + 1)]),
                training=_training(plan),
            )
        )
    return cells


def _once(federation: Federation, people: People, terms: Terms, seed: int) -> float:
    return people.auc_of_release(released(federation, terms, seed).release)


def _method(plan: Plan) -> Method:
    if isinstance(plan.mode, Institution):
        return Method.INSTITUTION
    if isinstance(plan.model, ScorecardModel):
        return Method.SCORECARD_JOINT if plan.mode == JOINT else Method.SCORECARD_LOCAL
    return Method.NETWORK_JOINT if plan.mode == JOINT else Method.NETWORK_LOCAL


def _training(plan: Plan) -> Training:
    institutions = len(plan.participation.invited)
    return Training(
        institutions=institutions,
        rounds=plan.rounds,
        steps=1 if isinstance(plan.mode, Joint) else plan.mode.steps,
        noise=stddev_of_total(plan, plan.training_question, institutions),
        signal_to_noise=signal_to_noise(plan),
    )
