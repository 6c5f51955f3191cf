"""Scorecards and networks in the three modes of privacy, on three data sets.

Split seed 0, as in `comparison`; ten institutions in joint and local mode, 300 in institution mode,
where the score is additive over public bins. Institution mode promises something else than the two
others: an epsilon of a whole institution, not of a person. The settings were chosen on a part of
the trained people, at epsilon 1, and are the same for every epsilon and seed.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from matplotlib.figure import Figure

from experiments.datasets import GMSC, SBA, TAIWAN, Dataset
from experiments.division import Divided, Score, divided, score_of
from experiments.experiment import PERSON, Setting
from experiments.tables import markdown
from experiments.trial import Terms, made_from, plan_of, released
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
    f"{PERSON} In institution mode it is that of a whole institution's update, replaced by zero."
)
EPSILONS: Final = (0.5, 1.0, 4.0)
OF_INSTITUTIONS: Final = (1.0, 8.0)
SEEDS: Final = 3
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


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One setting, with each noise seed.

    Attributes:
        dataset: name.
        model: "scorecard" or "network".
        mode: "joint", "local" or "institution".
        epsilon: of a person; in institution mode of an institution.
        institutions: that answer.
        rounds: of training.
        steps: that an institution takes at home for one answer.
        noise: standard deviation in a total of a training round, people or clip norms.
        signal_to_noise: of an update at best; None in the other modes.
        score: test AUC and seconds.
    """

    dataset: str
    model: str
    mode: str
    epsilon: float
    institutions: int
    rounds: int
    steps: int
    noise: float
    signal_to_noise: float | None
    score: Score


class Networks(msgspec.Struct, frozen=True, kw_only=True):
    """What `run networks` found."""

    cells: tuple[Cell, ...]

    def of(self, dataset: str, model: str, mode: str) -> list[Cell]:
        """Returns the cells of one line of the table, by epsilon."""
        return [
            cell
            for cell in self.cells
            if (cell.dataset, cell.model, cell.mode) == (dataset, model, mode)
        ]


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


def run_networks(setting: Setting) -> Networks:
    """Trains everything."""
    sets: tuple[Dataset, ...] = (GMSC, TAIWAN, SBA)
    epsilons: tuple[float, ...] = EPSILONS
    of_institutions: tuple[float, ...] = OF_INSTITUTIONS
    seeds, many = SEEDS, MANY
    if setting.quick:
        sets, epsilons, of_institutions, seeds, many = (TAIWAN,), (1.0,), (8.0,), 1, MANY[:20]
    setting.expect(len(sets) * seeds * (4 * len(epsilons) + len(of_institutions)))
    cells: list[Cell] = []
    for dataset in sets:
        with divided(dataset, 0) as data:
            for terms in _of_persons(data, epsilons, quick=setting.quick):
                cells.append(_cell(setting, data, terms, seeds))
        with divided(dataset, 0, many) as data:
            for epsilon in of_institutions:
                cells.append(_cell(setting, data, _of_institution(data, epsilon), seeds))
    return Networks(cells=tuple(cells))


def _of_persons(data: Divided, epsilons: tuple[float, ...], *, quick: bool) -> Iterator[Terms]:
    clip = CLIPS[data.dataset.name]
    rounds = 3 if quick else None
    for epsilon in epsilons:
        deep = network(data.schema, clip, hidden=(32, 16), rate=0.03)
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


def _cell(setting: Setting, data: Divided, terms: Terms, seeds: int) -> Cell:
    plan = plan_of(data.federation, terms)
    found = [_once(setting, data, terms, seed) for seed in range(seeds)]
    return Cell(
        dataset=data.dataset.name,
        model="scorecard" if _is_additive(plan) else "network",
        mode={Joint: "joint", Local: "local", Institution: "institution"}[type(plan.mode)],
        epsilon=terms.epsilon,
        institutions=len(plan.participation.invited),
        rounds=plan.rounds,
        steps=1 if isinstance(plan.mode, Joint) else plan.mode.steps,
        noise=stddev_of_total(plan, plan.training_question, len(plan.participation.invited)),
        signal_to_noise=signal_to_noise(plan),
        score=score_of(found),
    )


def _is_additive(plan: Plan) -> bool:
    return isinstance(plan.model, ScorecardModel) or not plan.model.hidden


def _once(setting: Setting, data: Divided, terms: Terms, seed: int) -> tuple[float, float]:
    def compute() -> tuple[float, float]:
        done = released(data.federation, terms, seed)
        return data.people.auc_of_release(done.release), done.seconds

    made = made_from(data.federation, terms, seed) | {"test": data.digest, "what": "network"}
    return setting.step(made, tuple[float, float], compute)


TITLES: Final = {GMSC.name: GMSC.title, TAIWAN.name: TAIWAN.title, SBA.name: SBA.title}


def table(found: Networks) -> str:
    """Returns all cells as one table."""
    heads = [
        "data", "model", "mode", "epsilon", "AUC", "noise in a total", "signal to noise",
        "institutions", "rounds x steps", "seconds",
    ]  # fmt: skip
    rows = [
        [
            TITLES[cell.dataset],
            cell.model,
            cell.mode,
            f"{cell.epsilon:g}",
            f"{cell.score.mean:.4f} +- {cell.score.reach:.4f}",
            f"{cell.noise:.1f}",
            "" if cell.signal_to_noise is None else f"{cell.signal_to_noise:.2f}",
            str(cell.institutions),
            f"{cell.rounds} x {cell.steps}",
            f"{cell.score.seconds:.0f}",
        ]
        for cell in found.cells
    ]
    return (
        f"{markdown(heads, rows)}\n\nMean test AUC of {len(found.cells[0].score.auc)} noise seeds "
        "with its 95 % interval (Student). Epsilon at delta 1e-6: of one person at one institution "
        "(add or remove that person) against the coordinator and one institution in joint mode and "
        "against everybody else in local mode; in institution mode of one institution's update "
        "(replaced by zero). The noise is a standard deviation, in people for scorecards and in "
        "clip norms for networks. Seconds of one training in one process, plain integers."
    )


def answer(found: Networks) -> str:
    """Returns one sentence."""
    parts = []
    for dataset in dict.fromkeys(cell.dataset for cell in found.cells):
        means = {}
        for mode in ("joint", "local"):
            at_one = [one for one in found.of(dataset, "network", mode) if one.epsilon == 1]
            means[mode] = at_one[0].score.mean if at_one else float("nan")
        gain = means["joint"] - means["local"]
        parts.append(f"{TITLES[dataset]} {means['joint']:.3f}, {gain:+.3f} to local mode")
    return f"A network in joint mode at epsilon 1: {'; '.join(parts)}"


def plot(found: Networks) -> Figure:
    """AUC against epsilon, one panel a data set."""
    names = list(dict.fromkeys(cell.dataset for cell in found.cells))
    figure = Figure(figsize=(3.2 * len(names), 3.2), layout="constrained")
    styles = {
        ("scorecard", "joint"): ("#0b6e99", "-", "o"),
        ("network", "joint"): ("#0b6e99", "--", "s"),
        ("scorecard", "local"): ("#c2552d", "-", "o"),
        ("network", "local"): ("#c2552d", "--", "s"),
        ("scorecard", "institution"): ("#555555", ":", "^"),
    }
    for number, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), number + 1)
        for (model, mode), (color, line, marker) in styles.items():
            cells = found.of(name, model, mode)
            if not cells:
                continue
            axes.errorbar(
                [cell.epsilon for cell in cells],
                [cell.score.mean for cell in cells],
                yerr=np.nan_to_num([cell.score.reach for cell in cells], posinf=0.0),
                color=color,
                linestyle=line,
                marker=marker,
                label=f"{model}, {mode}",
            )
        axes.set_xscale("log")
        shown = sorted({cell.epsilon for cell in found.cells})
        axes.set_xticks(shown, [f"{one:g}" for one in shown])
        axes.minorticks_off()
        axes.set_title(TITLES[name])
        axes.set_xlabel("epsilon")
        axes.set_ylabel("test AUC")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
