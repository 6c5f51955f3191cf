"""Experiments: what an epsilon means, what is paid for what, and how to plan it."""

from typing import Any, Final

from experiments.budget import (
    accounting,
    accounting_report,
    advice_report,
    dropouts_report,
    unit_report,
    units,
)
from experiments.budget.accounting import Accounting, run_accounting
from experiments.budget.advice import Advised, run_advice
from experiments.budget.dropouts import Dropouts, run_dropouts
from experiments.budget.units import Units, run_units
from experiments.experiment import PERSON, Experiment

ACCOUNTANTS: Final = Experiment(
    name="accountants",
    question="What do other accountants say, and what does a ledger charge for many plans?",
    promise=accounting.PROMISE,
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

DROPOUTS: Final = Experiment(
    name="dropouts",
    question="What do quorum, tolerated colluders, spare attempts and stragglers cost?",
    promise=dropouts_report.PROMISE,
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

ADVICE: Final = Experiment(
    name="advice",
    question="Does `fedscore plan advise` say beforehand what the noise costs?",
    promise=f"{PERSON} Above 100,000 people delta is 1 / (10 people).",
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

# Experiments differ in the type of their result, which their own functions agree on.
EXPERIMENTS: Final[tuple[Experiment[Any], ...]] = (ACCOUNTANTS, UNITS, DROPOUTS, ADVICE)
