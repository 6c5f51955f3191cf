"""All experiments, in the order in which they are best read."""

from typing import Any, Final

from experiments import (
    broken_builds_report,
    flower_simulation,
    gradient_steps,
    lira_report,
    live_report,
    mask_report,
    membership_report,
    networks,
    plots,
    tables,
)
from experiments.bank_results import Banks
from experiments.banks import run_banks
from experiments.broken_builds import BrokenBuilds, run_broken_builds
from experiments.comparison import Comparison, run_comparison
from experiments.confirmation import Confirmation, run_confirmation
from experiments.datasets import GMSC, TAIWAN
from experiments.experiment import NO_EPSILON, PERSON, Experiment
from experiments.flower_simulation import FlowerSimulation, run_flower_simulation
from experiments.gradient_steps import GradientSteps, run_gradient_steps
from experiments.lira import Lira, run_lira
from experiments.live_rounds import LiveRounds, run_live_rounds
from experiments.masks import MaskCosts, run_masks
from experiments.membership import PROMISE as OF_EVERY_MODE
from experiments.membership import Membership, run_membership
from experiments.networks import Networks, run_networks
from experiments.rounds import Rounds, run_rounds
from experiments.scale import Scale, run_scale
from experiments.sources import Sources, run_sources
from experiments.thin_files import ThinFiles, run_thin_files

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
    question="How long does it take with hundreds of institutions?",
    promise=NO_EPSILON,
    minutes=3,
    kind=Scale,
    run=run_scale,
    answer=tables.answer_of_scale,
    tables={"scale": tables.scale},
    plot=plots.scale,
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

NETWORKS: Final = Experiment(
    name="networks",
    question="What do networks and the other two modes of privacy give?",
    promise=networks.PROMISE,
    minutes=25,
    kind=Networks,
    run=run_networks,
    answer=networks.answer,
    tables={"networks": networks.table},
    plot=networks.plot,
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
        SOURCES,
        MASKS,
        LIVE_ROUNDS,
        NETWORKS,
        MEMBERSHIP,
        LIRA,
        BROKEN_BUILDS,
        FLOWER_SIMULATION,
        GRADIENT_STEPS,
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
    answer: str = one.answer(one.load())
    return answer
