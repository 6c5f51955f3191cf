"""Experiments: seconds, bytes and memory."""

from typing import Any, Final

from experiments.experiment import NO_EPSILON, Experiment
from experiments.speed import (
    flower_simulation,
    gradient_steps,
    live_report,
    mask_report,
    scale_report,
    source_report,
)
from experiments.speed.flower_simulation import FlowerSimulation, run_flower_simulation
from experiments.speed.gradient_steps import GradientSteps, run_gradient_steps
from experiments.speed.live_rounds import LiveRounds, run_live_rounds
from experiments.speed.masks import MaskCosts, run_masks
from experiments.speed.scale import Scale, run_scale
from experiments.speed.sources import Sources, run_sources

SCALE: Final = Experiment(
    name="scale",
    question="How long does it take with hundreds of institutions, or a billion people?",
    promise=scale_report.PROMISE,
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

MASKS: Final = Experiment(
    name="masks",
    question="What do masks cost, beside other systems and beside what the machine allows?",
    promise=NO_EPSILON,
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

LIVE_ROUNDS: Final = Experiment(
    name="live_rounds",
    question="How fast is a round of real processes, beside Flower's own nodes?",
    promise=NO_EPSILON,
    kind=LiveRounds,
    run=run_live_rounds,
    answer=live_report.answer,
    tables={"live_rounds": live_report.rounds, "live_parts": live_report.parts},
    plot=live_report.plot,
)

FLOWER_SIMULATION: Final = Experiment(
    name="flower_simulation",
    question="How fast is a simulated round, beside Flower's simulation engine?",
    promise=NO_EPSILON,
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
    kind=GradientSteps,
    run=run_gradient_steps,
    answer=gradient_steps.answer,
    tables={"gradient_steps": gradient_steps.table},
    plot=gradient_steps.plot,
)

SOURCES: Final = Experiment(
    name="sources",
    question="How fast is a table read, and in how much memory?",
    promise=NO_EPSILON,
    kind=Sources,
    run=run_sources,
    answer=source_report.answer_of_sources,
    tables={"sources": source_report.sources},
    plot=source_report.plot_of_sources,
)

# Experiments differ in the type of their result, which their own functions agree on.
EXPERIMENTS: Final[tuple[Experiment[Any], ...]] = (
    LIVE_ROUNDS,
    SCALE,
    MASKS,
    FLOWER_SIMULATION,
    GRADIENT_STEPS,
    SOURCES,
)
