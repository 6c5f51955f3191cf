"""All experiments, in the order in which they are best read."""

from typing import Any, Final

from experiments import (
    accounting,
    accounting_report,
    advice_report,
    broken_builds_report,
    differencing,
    different_models,
    dropouts_report,
    flower_simulation,
    gain_report,
    gradient_steps,
    inversion_report,
    lira_report,
    live_report,
    mask_report,
    membership_report,
    plots,
    poisoning,
    poisoning_report,
    scale_report,
    tables,
    unit_report,
    units,
    utility,
    utility_tables,
)
from experiments.accounting import Accounting, run_accounting
from experiments.advice import Advised, run_advice
from experiments.bank_results import Banks
from experiments.banks import run_banks
from experiments.broken_builds import BrokenBuilds, run_broken_builds
from experiments.comparison import Comparison, run_comparison
from experiments.confirmation import Confirmation, run_confirmation
from experiments.datasets import GMSC, TAIWAN
from experiments.differencing import Differencing, run_differencing
from experiments.different_models import DifferentModels, run_different_models
from experiments.dropouts import Dropouts, run_dropouts
from experiments.experiment import NO_EPSILON, PERSON, Experiment
from experiments.flower_simulation import FlowerSimulation, run_flower_simulation
from experiments.gains import Gains, run_gains
from experiments.gradient_steps import GradientSteps, run_gradient_steps
from experiments.inversion import Inversion, run_inversion
from experiments.lira import Lira, run_lira
from experiments.live_rounds import LiveRounds, run_live_rounds
from experiments.masks import MaskCosts, run_masks
from experiments.membership import PROMISE as OF_EVERY_MODE
from experiments.membership import Membership, run_membership
from experiments.poisoning import Poisoning, run_poisoning
from experiments.rounds import Rounds, run_rounds
from experiments.scale import Scale, run_scale
from experiments.sources import Sources, run_sources
from experiments.thin_files import ThinFiles, run_thin_files
from experiments.units import Units, run_units
from experiments.utility import Utility, run_utility

COMPARISON: Final = Experiment(
    name="comparison",
    question="How far behind or ahead is it of what a user would pick instead?",
    promise=PERSON,
    minutes=3,
    kind=Comparison,
    run=run_comparison,
    answer=tables.answer_of_comparison,
    tables={
        "taiwan": lambda found: tables.comparison(found, TAIWAN),
        "gmsc": lambda found: tables.comparison(found, GMSC),
    },
    plot=plots.comparison,
)
CONFIRMATION: Final = Experiment(
    name="confirmation",
    question="Does that hold on splits that nobody had looked at?",
    promise=PERSON,
    minutes=10,
    kind=Confirmation,
    run=run_confirmation,
    answer=tables.answer_of_confirmation,
    tables={"confirmation": tables.confirmation},
    plot=plots.confirmation,
)
ROUNDS: Final = Experiment(
    name="rounds",
    question="What do fewer rounds cost?",
    promise=PERSON,
    minutes=10,
    kind=Rounds,
    run=run_rounds,
    answer=tables.answer_of_rounds,
    tables={"rounds": tables.rounds, "bins_share": tables.bins_share},
    plot=plots.rounds,
)
BANKS: Final = Experiment(
    name="banks",
    question="Do real banks gain, the small ones above all?",
    promise=PERSON,
    minutes=15,
    kind=Banks,
    run=run_banks,
    answer=tables.answer_of_banks,
    tables={
        "banks": lambda found: tables.banks(found, year=True),
        "banks_without_year": lambda found: tables.banks(found, year=False),
        "banks_by_time": tables.banks_by_time,
    },
    plot=plots.banks,
)
NATION: Final = Experiment(
    name="nation",
    question="What do people gain whom only the platform knows?",
    promise=PERSON,
    minutes=4,
    kind=ThinFiles,
    run=run_thin_files,
    answer=tables.answer_of_thin_files,
    tables={"nation": tables.thin_files, "common_card": tables.common_card},
    plot=plots.thin_files,
)
MASKS: Final = Experiment(
    name="masks",
    question="What do masks cost, beside other systems and beside what the machine allows?",
    promise=NO_EPSILON,
    minutes=10,
    kind=MaskCosts,
    run=run_masks,
    answer=mask_report.answer,
    tables={
        "masks_upload": mask_report.uploads,
        "masks_opening": mask_report.openings,
        "masks_schemes": mask_report.schemes,
        "masks_rounds": mask_report.rounds,
        "masks_demo": mask_report.demo,
    },
    plot=mask_report.plot,
)

SCALE: Final = Experiment(
    name="scale",
    question="How long does it take with hundreds of institutions, or a billion people?",
    promise=scale_report.PROMISE,
    minutes=8,
    kind=Scale,
    run=run_scale,
    answer=scale_report.answer,
    tables={
        "scale_nation": scale_report.nation,
        "scale_people": scale_report.people,
        "scale_institutions": scale_report.institutions,
        "scale_rounds": scale_report.rounds,
        "scale_noise": scale_report.noise,
        "scale": scale_report.whole,
    },
    plot=scale_report.plot,
)

DROPOUTS: Final = Experiment(
    name="dropouts",
    question="What do quorum, tolerated colluders, spare attempts and stragglers cost?",
    promise=dropouts_report.PROMISE,
    minutes=6,
    kind=Dropouts,
    run=run_dropouts,
    answer=dropouts_report.answer,
    tables={
        "dropouts_choices": dropouts_report.choices,
        "dropouts_cheapest": dropouts_report.cheapest,
        "dropouts_trained": dropouts_report.trained,
        "dropouts_lost": dropouts_report.lost,
    },
    plot=dropouts_report.plot,
)

SOURCES: Final = Experiment(
    name="sources",
    question="How fast is a table read, and in how much memory?",
    promise=NO_EPSILON,
    minutes=1,
    kind=Sources,
    run=run_sources,
    answer=tables.answer_of_sources,
    tables={"sources": tables.sources},
    plot=plots.sources,
)

LIVE_ROUNDS: Final = Experiment(
    name="live_rounds",
    question="How fast is a round of real processes, beside Flower's own nodes?",
    promise=NO_EPSILON,
    minutes=8,
    kind=LiveRounds,
    run=run_live_rounds,
    answer=live_report.answer,
    tables={"live_rounds": live_report.rounds, "live_parts": live_report.parts},
    plot=live_report.plot,
)

MEMBERSHIP: Final = Experiment(
    name="membership",
    question="Can whoever sees every noised sum tell who took part?",
    promise=OF_EVERY_MODE,
    minutes=6,
    kind=Membership,
    run=run_membership,
    answer=membership_report.answer,
    tables={
        "membership": membership_report.table,
        "membership_power": membership_report.table_of_power,
    },
    plot=membership_report.plot,
)

LIRA: Final = Experiment(
    name="lira",
    question="Can whoever has nothing but the release tell who was trained on?",
    promise=f"{PERSON} What is allowed here is less: the release alone, against nobody inside.",
    minutes=3,
    kind=Lira,
    run=run_lira,
    answer=lira_report.answer,
    tables={"lira": lira_report.table},
    plot=lira_report.plot,
)

BROKEN_BUILDS: Final = Experiment(
    name="broken_builds",
    question="Does a named test notice each way in which the noise may be broken?",
    promise=NO_EPSILON,
    minutes=1,
    kind=BrokenBuilds,
    run=run_broken_builds,
    answer=broken_builds_report.answer,
    tables={
        "broken_builds": broken_builds_report.table,
        "broken_builds_tests": broken_builds_report.table_of_tests,
    },
    plot=broken_builds_report.plot,
)

FLOWER_SIMULATION: Final = Experiment(
    name="flower_simulation",
    question="How fast is a simulated round, beside Flower's simulation engine?",
    promise=NO_EPSILON,
    minutes=6,
    kind=FlowerSimulation,
    run=run_flower_simulation,
    answer=flower_simulation.answer,
    tables={"flower_simulation": flower_simulation.table},
    plot=flower_simulation.plot,
)

GRADIENT_STEPS: Final = Experiment(
    name="gradient_steps",
    question="What does a step of training a network cost, beside one without privacy?",
    promise=NO_EPSILON,
    minutes=2,
    kind=GradientSteps,
    run=run_gradient_steps,
    answer=gradient_steps.answer,
    tables={"gradient_steps": gradient_steps.table},
    plot=gradient_steps.plot,
)

UTILITY: Final = Experiment(
    name="utility",
    question="What does each epsilon cost in every model and mode, beside peers?",
    promise=utility.PROMISE,
    minutes=21,
    kind=Utility,
    run=run_utility,
    answer=utility_tables.answer,
    tables={
        "utility": utility_tables.table,
        "utility_promises": utility_tables.promises,
        "utility_settings": utility_tables.settings,
        "utility_without": utility_tables.without,
        "utility_trainings": utility_tables.trainings,
    },
    plot=utility_tables.plot,
)

ADVICE: Final = Experiment(
    name="advice",
    question="Does `fedscore plan advise` say beforehand what the noise costs?",
    promise=f"{PERSON} Above 100,000 people delta is 1 / (10 people).",
    minutes=4,
    kind=Advised,
    run=run_advice,
    answer=advice_report.answer,
    tables={
        "advice": advice_report.table,
        "advice_by_data": advice_report.by_data,
        "advice_whole": advice_report.whole,
    },
    plot=advice_report.plot,
)

GAINS: Final = Experiment(
    name="gains",
    question="Who gains: by size, by risk, by columns held, thin files and bank customers?",
    promise=PERSON,
    minutes=2,
    kind=Gains,
    run=run_gains,
    answer=gain_report.answer,
    tables={
        "gain_by_size": gain_report.by_size,
        "gain_by_risk": gain_report.by_risk,
        "gain_by_columns": gain_report.by_columns,
        "gain_by_institution": gain_report.by_institution,
        "gain_by_history": gain_report.by_history,
    },
    plot=gain_report.plot,
)

ACCOUNTANTS: Final = Experiment(
    name="accountants",
    question="What do other accountants say, and what does a ledger charge for many plans?",
    promise=accounting.PROMISE,
    minutes=3,
    kind=Accounting,
    run=run_accounting,
    answer=accounting_report.answer,
    tables={
        "accountants": accounting_report.at_one,
        "accountants_targets": accounting_report.targets,
        "accountants_deltas": accounting_report.deltas,
        "accountants_years": accounting_report.years,
        "accountants_seconds": accounting_report.seconds,
    },
    plot=accounting_report.plot,
)

UNITS: Final = Experiment(
    name="units",
    question="What does an epsilon become for a row, a person of several banks, a whole bank?",
    promise=units.PROMISE,
    minutes=1,
    kind=Units,
    run=run_units,
    answer=unit_report.answer,
    tables={
        "units": unit_report.units,
        "units_modes": unit_report.modes,
        "units_against": unit_report.against,
        "units_printed": unit_report.printed,
        "units_sums": unit_report.sums,
    },
    plot=unit_report.plot,
)

INVERSION: Final = Experiment(
    name="inversion",
    question="What can a coordinator read off an answer about few people?",
    promise=PERSON,
    minutes=1,
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
    minutes=1,
    kind=Differencing,
    run=run_differencing,
    answer=differencing.answer,
    tables={"differencing": differencing.table},
    plot=differencing.plot,
)

DIFFERENT_MODELS: Final = Experiment(
    name="different_models",
    question="Can a coordinator single out one institution by a model of its own?",
    promise=PERSON,
    minutes=2,
    kind=DifferentModels,
    run=run_different_models,
    answer=different_models.answer,
    tables={"different_models": different_models.table},
    plot=different_models.plot,
)

POISONING: Final = Experiment(
    name="poisoning",
    question="What can one lying institution do to everybody's model, and who would notice?",
    promise=poisoning.PROMISE,
    minutes=3,
    kind=Poisoning,
    run=run_poisoning,
    answer=poisoning_report.answer,
    tables={"poisoning": poisoning_report.table},
    plot=poisoning_report.plot,
)

# Experiments differ in the type of their result, which their own functions agree on.
EXPERIMENTS: Final[dict[str, Experiment[Any]]] = {
    one.name: one
    for one in (
        COMPARISON,
        CONFIRMATION,
        ROUNDS,
        BANKS,
        NATION,
        SCALE,
        DROPOUTS,
        SOURCES,
        MASKS,
        LIVE_ROUNDS,
        UTILITY,
        MEMBERSHIP,
        INVERSION,
        DIFFERENCING,
        DIFFERENT_MODELS,
        POISONING,
        LIRA,
        BROKEN_BUILDS,
        FLOWER_SIMULATION,
        GRADIENT_STEPS,
        ADVICE,
        GAINS,
        ACCOUNTANTS,
        UNITS,
    )
}


def questions() -> str:
    """Returns a table of all experiments with their answers, for experiments/README.md."""
    rows = [
        [one.question, f"`python -m experiments run {one.name}`", str(one.minutes), _answer(one)]
        for one in EXPERIMENTS.values()
    ]
    return tables.markdown(["question", "command", "minutes", "answer"], rows)


def _answer(one: Experiment[Any]) -> str:
    result = one.result()
    return "not run yet" if result is None else str(one.answer(result.found))
