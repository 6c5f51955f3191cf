"""All experiments, in the order in which they are best read."""

from collections.abc import Iterable
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
        [one.question, f"`python -m experiments run {one.name}`", *_said(one)]
        for one in EXPERIMENTS.values()
    ]
    made = [result.made for one in EXPERIMENTS.values() if (result := one.result()) and result.made]
    hours = sum(one.seconds for one in made) / 3600
    cores = _span(one.cores for one in made)
    return (
        f"{markdown(['question', 'command', 'minutes', 'answer'], rows)}\n\nMinutes are of the run "
        f"that made the result, on {cores} cores, without steps that were in the cache already; "
        f'those of all together are {hours:.1f} hours. "?": older than this record.'
    )


def _span(values: Iterable[int]) -> str:
    listed = sorted(set(values))
    return " to ".join(map(str, dict.fromkeys((listed[0], listed[-1])))) if listed else "no"


def _said(one: Experiment[Any]) -> tuple[str, str]:
    """Returns the minutes that a result took, and its answer."""
    result = one.result()
    return ("", "not run yet") if result is None else (result.minutes, one.answer(result.found))
