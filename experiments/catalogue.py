"""All experiments, in the order in which they are best read."""

from typing import Any, Final

from experiments.attacks import catalogue as attacks
from experiments.audit import catalogue as audit
from experiments.budget import catalogue as budget
from experiments.experiment import Experiment
from experiments.quality import catalogue as quality
from experiments.speed import catalogue as speed
from experiments.tables import markdown

EXPERIMENTS: Final[dict[str, Experiment[Any]]] = {
    one.name: one for group in (quality, speed, budget, audit, attacks) for one in group.EXPERIMENTS
}


def questions() -> str:
    """Returns a table of all experiments with their answers, for experiments/README.md."""
    rows = [
        [one.question, f"`python -m experiments run {one.name}`", str(one.minutes), _answer(one)]
        for one in EXPERIMENTS.values()
    ]
    return markdown(["question", "command", "minutes", "answer"], rows)


def _answer(one: Experiment[Any]) -> str:
    result = one.result()
    return "not run yet" if result is None else str(one.answer(result.found))
