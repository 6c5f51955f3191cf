"""What LiRA found, beside what is allowed, as a table, a sentence and a plot."""

import math
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from scipy import special

from experiments.attacks.likelihood import Rate
from experiments.attacks.lira import FALSE_POSITIVES, Attack, Lira
from experiments.audit.membership_crowd import DELTA
from experiments.tables import markdown

NO_POWER: Final = 0.5
"""The AUC of a coin."""


def allowed(mu: float | None, rate: float | None) -> float:
    """Returns the AUC, or the true positives at a rate, that mu allows; 1 without noise."""
    if mu is None:
        return 1.0
    if rate is None:
        return float(special.ndtr(mu / math.sqrt(2)))
    return float(special.ndtr(special.ndtri(rate) + mu))


def allowed_by_epsilon(epsilon: float | None, rate: float) -> float:
    """Returns the true positives that (epsilon, delta) alone allows at a rate."""
    if epsilon is None:
        return 1.0
    return min(
        1.0,
        math.exp(epsilon) * rate + DELTA,
        1 - math.exp(-epsilon) * (1 - rate - DELTA),
    )


def table(found: Lira) -> str:
    """AUC and true positives of each attack, beside what is allowed."""
    rows = []
    for one in found.attacks:
        cells = [
            one.model,
            "none: no noise" if one.epsilon is None else f"{one.epsilon:g}",
            one.who,
            f"{_shown(one.auc, 3)} / {allowed(one.mu, None):.3f}",
            "" if one.ideal is None else _shown(one.ideal, 3),
        ]
        for rate, of in zip(FALSE_POSITIVES, one.true_positives, strict=True):
            seen = "too few" if of is None else _percent(of)
            limits = (allowed(one.mu, rate), allowed_by_epsilon(one.epsilon, rate))
            cells.append(" / ".join([seen, *(f"{limit:.2%}" for limit in limits)]))
        rows.append(cells)
    heads = [
        "model",
        "epsilon",
        "targets",
        "AUC / allowed by mu",
        "AUC an ideal score would reach",
        *(
            f"TPR at FPR {rate:.1%} / allowed by mu / by epsilon and delta"
            for rate in FALSE_POSITIVES
        ),
    ]
    weak = sum(one.ideal is not None and one.ideal.low <= NO_POWER for one in found.attacks)
    return (
        f"{markdown(heads, rows)}\n\nAn ideal score gives away all that mu allows, as Gaussians mu "
        f"apart; the same attack, with as many trainings of its own ({found.shadows}), of others "
        f"({found.attacked}) and targets, reaches on average what stands there, and 95 % of its "
        f"repetitions lie in the brackets. Where they reach {NO_POWER}, in {weak} rows, the attack "
        "may well miss all of that: no better than a coin is weak evidence there. Other brackets: "
        "95 % over attacked trainings, drawn again (bootstrap), targets and the attacker's own "
        "trainings as they are. The variances of scores with and without a target are pooled."
    )


def answer(found: Lira) -> str:
    """One sentence with the strongest attack at epsilon 1 and without noise."""

    def strongest(epsilon: float | None) -> Attack:
        chosen = [one for one in found.attacks if one.epsilon == epsilon]
        return max(chosen, key=lambda one: one.auc.value)

    private, silent = strongest(1.0), strongest(None)
    beyond = sum(
        one.auc.low > allowed(one.mu, None)
        or any(
            of is not None and of.low > allowed(one.mu, rate)
            for rate, of in zip(FALSE_POSITIVES, one.true_positives, strict=True)
        )
        for one in found.attacks
    )
    return (
        f"at epsilon 1 the largest of four AUCs from the release alone is {_shown(private.auc, 3)} "
        f"({private.model}, {private.who}), where {allowed(private.mu, None):.3f} is allowed"
        f"{_power(private)}; "
        f"without noise {_shown(silent.auc, 3)} ({silent.model}, {silent.who}); "
        f"the interval of {beyond} of {len(found.attacks)} attacks lies beyond what mu allows"
    )


def _power(attack: Attack) -> str:
    if attack.ideal is None:
        return ""
    return f" and an ideal score would reach {_shown(attack.ideal, 3)}"


def plot(found: Lira) -> Figure:
    """AUC by epsilon, beside what is allowed."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    styles = {"scorecard": "-", "network": "--"}
    markers = {"ordinary": "o", "outliers": "s"}
    epsilons = list(dict.fromkeys(one.epsilon for one in found.attacks))
    for model, style in styles.items():
        for who, marker in markers.items():
            chosen = [one for one in found.attacks if (one.model, one.who) == (model, who)]
            values = np.array([one.auc.value for one in chosen])
            reach = [
                values - [one.auc.low for one in chosen],
                [one.auc.high for one in chosen] - values,
            ]
            axes.errorbar(
                np.arange(len(chosen)),
                values,
                yerr=reach,
                fmt=style + marker,
                color="black",
                fillstyle="none",
                capsize=2,
                label=f"{model}, {who}",
            )
    limits = [one for one in found.attacks if (one.model, one.who) == ("scorecard", "ordinary")]
    axes.plot([allowed(one.mu, None) for one in limits], ":", color="black", label="allowed")
    axes.set_xticks(
        range(len(epsilons)), ["no noise" if one is None else f"{one:g}" for one in epsilons]
    )
    axes.set_xlabel("epsilon at delta 1e-6")
    axes.set_ylabel("AUC of LiRA")
    axes.legend(fontsize="small")
    return figure


def _shown(rate: Rate, digits: int) -> str:
    return f"{rate.value:.{digits}f} ({rate.low:.{digits}f} to {rate.high:.{digits}f})"


def _percent(rate: Rate) -> str:
    return f"{rate.value:.2%} ({rate.low:.2%} to {rate.high:.2%})"
