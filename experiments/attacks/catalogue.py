"""Experiments: what those may try who want to learn more, or to spoil the score."""

from typing import Any, Final

from experiments.attacks import (
    differencing,
    differencing_report,
    different_models_report,
    inversion_report,
    lira_report,
    poisoning,
    poisoning_report,
)
from experiments.attacks.differencing import Differencing, run_differencing
from experiments.attacks.different_models import DifferentModels, run_different_models
from experiments.attacks.inversion import Inversion, run_inversion
from experiments.attacks.lira import Lira, run_lira
from experiments.attacks.poisoning import Poisoning, run_poisoning
from experiments.experiment import PERSON, Experiment

LIRA: Final = Experiment(
    name="lira",
    question="Can whoever has nothing but the release tell who was trained on?",
    promise=f"{PERSON} What is allowed here is less: the release alone, against nobody inside.",
    kind=Lira,
    run=run_lira,
    answer=lira_report.answer,
    tables={"lira": lira_report.table},
    plot=lira_report.plot,
)

INVERSION: Final = Experiment(
    name="inversion",
    question="What can a coordinator read off an answer about few people?",
    promise=PERSON,
    kind=Inversion,
    run=run_inversion,
    answer=inversion_report.answer,
    tables={"inversion": inversion_report.table},
    plot=inversion_report.plot,
)

DIFFERENCING: Final = Experiment(
    name="differencing",
    question="Does opening a round over two sets of institutions give one of them away?",
    promise=differencing.PROMISE,
    kind=Differencing,
    run=run_differencing,
    answer=differencing_report.answer,
    tables={"differencing": differencing_report.table},
    plot=differencing_report.plot,
)

DIFFERENT_MODELS: Final = Experiment(
    name="different_models",
    question="Can a coordinator single out one institution by a model of its own?",
    promise=PERSON,
    kind=DifferentModels,
    run=run_different_models,
    answer=different_models_report.answer,
    tables={"different_models": different_models_report.table},
    plot=different_models_report.plot,
)

POISONING: Final = Experiment(
    name="poisoning",
    question="What can one lying institution do to everybody's model, and who would notice?",
    promise=poisoning.PROMISE,
    kind=Poisoning,
    run=run_poisoning,
    answer=poisoning_report.answer,
    tables={"poisoning": poisoning_report.table},
    plot=poisoning_report.plot,
)

# Experiments differ in the type of their result, which their own functions agree on.
EXPERIMENTS: Final[tuple[Experiment[Any], ...]] = (
    LIRA,
    INVERSION,
    DIFFERENCING,
    DIFFERENT_MODELS,
    POISONING,
)
