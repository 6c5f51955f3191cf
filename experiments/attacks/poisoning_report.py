"""What `run poisoning` found, for people."""

from typing import Final

import numpy as np
from matplotlib.figure import Figure

from experiments.attacks import poison
from experiments.attacks.poisoned_training import LEAST_AUC
from experiments.attacks.poisoning import Case, Poisoning
from experiments.audit.one_run_audit import CONFIDENCE
from experiments.division import INSTITUTIONS, reach
from experiments.tables import exact_interval, markdown

ATTACKS: Final = {
    "none": "nobody",
    "labels": "turns its outcomes round",
    "feature": "turns one feature round",
    "cells": "makes up everybody's values and outcomes",
    "vectors": "own code, as much as its people may",
    "unbounded": f"own code, {poison.BEYOND:,} times that",
}
BUILDS: Final = {
    "product": "the product",
    "no cap": "no cap on sums",
    "plain steps": "no Adam",
}


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    return f"{np.mean(values):.3f} +-{reach(values):.3f}"


def counted(hits: int, of: int) -> str:
    """Returns a count with the exact 95 % interval of its share."""
    low, high = exact_interval(hits, of, CONFIDENCE)
    return f"{hits:,} of {of:,} ({low:.1%} to {high:.1%})"


def table(found: Poisoning) -> str:
    """What each poisoner does, and which gate would have closed."""
    heads = [
        "model", "poisoner", "build", "its people", "test AUC", "at the others",
        "their own cards", "AUC in the release", "refused by the gate",
        "honest institutions that see it at home",
    ]  # fmt: skip
    rows = []
    for case in found.cases:
        outcomes = case.outcomes
        reported = [one.reported for one in outcomes if one.reported is not None]
        rows.append(
            [
                case.model,
                ATTACKS[case.attack],
                BUILDS[case.build],
                f"{case.share:.0%}",
                _mean([one.auc for one in outcomes]),
                _mean([one.others for one in outcomes]),
                _mean([one.alone for one in outcomes[:1]]),
                _mean(reported) if reported else "none",
                counted(sum(one.refused for one in outcomes), len(outcomes)),
                counted(
                    sum(one.worse for one in outcomes), len(outcomes) * (len(INSTITUTIONS) - 1)
                ),
            ]
        )
    return (
        f"{markdown(heads, rows)}\n\nTaiwan credit cards, ten institutions. Means over noise seeds "
        "with 95 % intervals (Student); shares with exact ones, which take institutions for "
        "independent, though one model is behind nine of them. The gate is that of a plan with "
        f"least_auc {LEAST_AUC:g}: it refuses a release whose 95 % interval lies below. An "
        "institution sees it at home if the paired 95 % interval of the national model less its "
        "own card lies below 0. The AUC of own cards is exact: the same in every run. Who "
        "makes up a table calls every other person bad and gives the bad the values at which its "
        "true people repay, the good the others, feature by feature; it needs no code of its own."
    )


def answer(found: Poisoning) -> str:
    """One sentence."""

    def cases(attack: str) -> list[Case]:
        return [
            one
            for one in found.cases
            if (one.model, one.attack, one.build) == ("scorecard", attack, "product")
        ]

    def auc(case: Case) -> str:
        return _mean([one.auc for one in case.outcomes])

    parts = [
        f"{lie.share:.0%} of all people: {auc(lie)} by outcomes turned round, {auc(made_up)} by a "
        f"made-up table, {auc(code)} by code of its own"
        for lie, made_up, code in zip(
            cases("labels"), cases("cells"), cases("vectors"), strict=True
        )
    ]
    worst = [outcome for case in cases("vectors") for outcome in case.outcomes]
    others = len(worst) * (len(INSTITUTIONS) - 1)
    return (
        f"a scorecard's test AUC is {auc(cases('none')[0])} without a poisoner, and with one that "
        f"holds {'; '.join(parts)}; the gate refuses {sum(one.refused for one in worst)} of the "
        f"{len(worst)} last-named, and {sum(one.worse for one in worst):,} of {others:,} honest "
        "institutions see them at home"
    )


def plot(found: Poisoning) -> Figure:
    """Test AUC against the poisoner's share of people."""
    models = list(dict.fromkeys(one.model for one in found.cases))
    figure = Figure(figsize=(4.2 * len(models), 3.8), layout="constrained")
    styles = {
        ("none", "product"): ("o", "-"),
        ("labels", "product"): ("s", "--"),
        ("feature", "product"): ("^", ":"),
        ("cells", "product"): ("*", "--"),
        ("vectors", "product"): ("D", "-."),
        ("unbounded", "product"): ("v", "-"),
        ("vectors", "no cap"): ("d", ":"),
        ("unbounded", "no cap"): ("<", "--"),
        ("none", "plain steps"): ("P", ":"),
        ("unbounded", "plain steps"): ("X", "--"),
    }
    for place, model in enumerate(models):
        axes = figure.add_subplot(1, len(models), place + 1)
        for (attack, build), (marker, line) in styles.items():
            cases = [
                one
                for one in found.cases
                if (one.model, one.attack, one.build) == (model, attack, build)
            ]
            if not cases:
                continue
            aucs = [[one.auc for one in case.outcomes] for case in cases]
            axes.errorbar(
                [100 * case.share for case in cases],
                [float(np.mean(of)) for of in aucs],
                yerr=[reach(of) if len(of) > 1 else 0.0 for of in aucs],
                color="black",
                marker=marker,
                fillstyle="none",
                linestyle=line,
                markersize=5,
                linewidth=0.9,
                label=f"{ATTACKS[attack]}; {BUILDS[build]}",
            )
        axes.set_xlabel("poisoner's share of all people, %")
        axes.set_ylabel("test AUC")
        axes.set_title(model)
        axes.legend(frameon=False, fontsize=6)
    return figure
