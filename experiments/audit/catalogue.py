"""Experiments: whether the noise is what it is said to be."""

from typing import Any, Final

from experiments.audit import broken_builds_report, membership_report
from experiments.audit.broken_builds import BrokenBuilds, run_broken_builds
from experiments.audit.membership import PROMISE as OF_EVERY_MODE
from experiments.audit.membership import Membership, run_membership
from experiments.experiment import NO_EPSILON, Experiment

MEMBERSHIP: Final = Experiment(
    name="membership",
    question="Can whoever sees every noised sum tell who took part?",
    promise=OF_EVERY_MODE,
    kind=Membership,
    run=run_membership,
    answer=membership_report.answer,
    tables={
        "membership": membership_report.table,
        "membership_power": membership_report.table_of_power,
    },
    plot=membership_report.plot,
)

BROKEN_BUILDS: Final = Experiment(
    name="broken_builds",
    question="Does a named test notice each way in which the noise may be broken?",
    promise=NO_EPSILON,
    kind=BrokenBuilds,
    run=run_broken_builds,
    answer=broken_builds_report.answer,
    tables={
        "broken_builds": broken_builds_report.table,
        "broken_builds_tests": broken_builds_report.table_of_tests,
    },
    plot=broken_builds_report.plot,
)

# Experiments differ in the type of their result, which their own functions agree on.
EXPERIMENTS: Final[tuple[Experiment[Any], ...]] = (MEMBERSHIP, BROKEN_BUILDS)
