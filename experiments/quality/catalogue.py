"""Experiments: what a score is worth, and who gains."""

from typing import Any, Final

from experiments.datasets import GMSC, TAIWAN
from experiments.experiment import PERSON, Experiment
from experiments.quality import bank_report, comparison_report, gain_report, utility, utility_tables
from experiments.quality.bank_results import Banks
from experiments.quality.banks import run_banks
from experiments.quality.comparison import Comparison, run_comparison
from experiments.quality.confirmation import Confirmation, run_confirmation
from experiments.quality.gains import Gains, run_gains
from experiments.quality.rounds import Rounds, run_rounds
from experiments.quality.thin_files import ThinFiles, run_thin_files
from experiments.quality.utility import Utility, run_utility

COMPARISON: Final = Experiment(
    name="comparison",
    question="How far behind or ahead is it of what a user would pick instead?",
    promise=PERSON,
    kind=Comparison,
    run=run_comparison,
    answer=comparison_report.answer_of_comparison,
    tables={
        "taiwan": lambda found: comparison_report.comparison(found, TAIWAN),
        "gmsc": lambda found: comparison_report.comparison(found, GMSC),
    },
    plot=comparison_report.plot_of_comparison,
)

CONFIRMATION: Final = Experiment(
    name="confirmation",
    question="Does that hold on splits that nobody had looked at?",
    promise=PERSON,
    kind=Confirmation,
    run=run_confirmation,
    answer=comparison_report.answer_of_confirmation,
    tables={"confirmation": comparison_report.confirmation},
    plot=comparison_report.plot_of_confirmation,
    once=True,
)

ROUNDS: Final = Experiment(
    name="rounds",
    question="What do fewer rounds cost?",
    promise=PERSON,
    kind=Rounds,
    run=run_rounds,
    answer=comparison_report.answer_of_rounds,
    tables={"rounds": comparison_report.rounds, "bins_share": comparison_report.bins_share},
    plot=comparison_report.plot_of_rounds,
)

UTILITY: Final = Experiment(
    name="utility",
    question="What does each epsilon cost in every model and mode, beside peers?",
    promise=utility.PROMISE,
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

BANKS: Final = Experiment(
    name="banks",
    question="Do real banks gain, the small ones above all?",
    promise=PERSON,
    kind=Banks,
    run=run_banks,
    answer=bank_report.answer_of_banks,
    tables={
        "banks": lambda found: bank_report.banks(found, year=True),
        "banks_without_year": lambda found: bank_report.banks(found, year=False),
        "banks_by_time": bank_report.banks_by_time,
    },
    plot=bank_report.plot_of_banks,
)

NATION: Final = Experiment(
    name="nation",
    question="What do people gain whom only the platform knows?",
    promise=PERSON,
    kind=ThinFiles,
    run=run_thin_files,
    answer=bank_report.answer_of_thin_files,
    tables={"nation": bank_report.thin_files, "common_card": bank_report.common_card},
    plot=bank_report.plot_of_thin_files,
)

GAINS: Final = Experiment(
    name="gains",
    question="Who gains: by size, by risk, by columns held, thin files and bank customers?",
    promise=PERSON,
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

# Experiments differ in the type of their result, which their own functions agree on.
EXPERIMENTS: Final[tuple[Experiment[Any], ...]] = (
    COMPARISON,
    CONFIRMATION,
    ROUNDS,
    UTILITY,
    BANKS,
    NATION,
    GAINS,
)
