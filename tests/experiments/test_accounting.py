"""Accountants stand in their order on the product's events, and are shown as they are."""

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant

from experiments.budget import accountants
from experiments.budget.accountants import (
    ACCOUNTANTS,
    LEDGER,
    LIMIT,
    MICROSOFT,
    OPACUS,
    PLAIN,
    PLD,
    PRV_ERROR,
    RDP,
    TIGHT,
    composed,
    counted,
    plain_zcdp,
    pld_alone,
    rdp_alone,
    rho_of,
    tight_zcdp,
)
from experiments.budget.accounting import Sum, merged
from experiments.budget.accounting_report import _allowed
from experiments.budget.priced_plans import DELTA, priced, trained_events, update_events
from federation.privacy.events import GaussianEvents
from federation.privacy.sampled import SampledEvents

SAMPLED = (
    GaussianEvents(sensitivity_squared=2**32, variance=2**32 * 400, times=1),
    SampledEvents(
        sensitivity_squared=2**48, variance=2**48 * 16 + 4, sampling_rate=0.2, times=60
    ),
)  # fmt: skip


def everybody(kind: str, epsilon: float):
    plan, price = priced(kind, epsilon)
    return update_events(plan) if kind == "institution" else trained_events(price)


@pytest.mark.parametrize("kind", ["card", "network", "local card", "local network", "institution"])
@pytest.mark.parametrize("epsilon", [0.5, 1.0, 4.0])
def test_over_everybody_exact_is_below_pld_below_rdp_and_below_both_conversions_of_zcdp(
    kind: str, epsilon: float
) -> None:
    events = everybody(kind, epsilon)
    found = {name: counted(name, events, DELTA) for name in (LEDGER, PLD, RDP, TIGHT, PLAIN, LIMIT)}
    assert not any(one.said for one in found.values())
    exact = found[LEDGER].epsilon
    assert exact == pytest.approx(epsilon, rel=1e-5)
    assert exact <= found[PLD].epsilon * (1 + 2e-9) <= found[RDP].epsilon
    assert exact < found[TIGHT].epsilon < found[PLAIN].epsilon
    assert found[TIGHT].epsilon <= found[RDP].epsilon * (1 + 1e-9)  # the same, at its best order
    assert found[LIMIT].epsilon == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("events", [everybody("card", 1.0), everybody("card", 4.0), SAMPLED])
def test_microsofts_prv_holds_pld_within_its_stated_error(events) -> None:
    said = counted(MICROSOFT, events, DELTA)
    assert not said.said
    assert said.epsilon - said.least < 2.5 * PRV_ERROR
    assert said.least <= counted(PLD, events, DELTA).epsilon <= said.epsilon


@pytest.mark.slow
@pytest.mark.parametrize("events", [everybody("card", 1.0), SAMPLED])
def test_opacus_prv_agrees_with_its_authors_and_its_warning_is_shown(events) -> None:
    ours, theirs = counted(OPACUS, events, DELTA), counted(MICROSOFT, events, DELTA)
    assert ours.epsilon == pytest.approx(theirs.epsilon, abs=1e-5)
    assert ours.least == pytest.approx(theirs.least, abs=1e-5)
    assert any("divide by zero" in one for one in ours.said)


def test_sampled_the_ledger_is_above_pld_the_limit_below_and_zcdp_does_not_gain() -> None:
    found = {name: counted(name, SAMPLED, DELTA).epsilon for name in ACCOUNTANTS if name != OPACUS}
    assert found[LIMIT] < found[PLD] < found[LEDGER] < found[RDP] < found[TIGHT] < found[PLAIN]
    alone = replace(SAMPLED[1], sampling_rate=1.0)
    assert rho_of(SAMPLED) == rho_of((SAMPLED[0], alone))


def test_the_accountants_that_are_timed_say_what_the_product_is_told() -> None:
    for events in (everybody("card", 1.0), SAMPLED):
        assert pld_alone(events, DELTA) == counted(PLD, events, DELTA).epsilon
        assert rdp_alone(events, DELTA) == counted(RDP, events, DELTA).epsilon


@pytest.mark.parametrize("rho", [1e-3, 0.02, 0.5])
def test_the_best_order_of_zcdp_is_the_best_of_many(rho: float) -> None:
    event = accountants.dp_accounting.GaussianDpEvent((2 * rho) ** -0.5)
    dense = 1 + np.exp(np.linspace(-1, 8, 4000))
    many = RdpAccountant(list(dense)).compose(event).get_epsilon(DELTA)
    assert tight_zcdp(rho, DELTA) <= many * (1 + 1e-9)
    assert tight_zcdp(rho, DELTA) == pytest.approx(many, rel=1e-4)
    assert plain_zcdp(rho, DELTA) == pytest.approx(
        rho + 2 * math.sqrt(rho * 13.815510558), rel=1e-9
    )


def test_an_accountant_that_refuses_or_fails_is_shown_with_its_words(monkeypatch) -> None:
    refused = counted(LEDGER, SAMPLED, 1e-10)
    assert refused.epsilon is None
    assert "state a larger one" in refused.said[0]

    def fails(*_):
        raise RuntimeError("cannot compute " + "x" * 200)

    monkeypatch.setattr(accountants, "ACCOUNTANTS", {PLD: fails, RDP: lambda *_: (None, math.inf)})
    failed = counted(PLD, SAMPLED, DELTA)
    assert failed.epsilon is None
    assert failed.said[0].startswith("cannot compute")
    assert len(failed.said[0]) == 90
    assert counted(RDP, SAMPLED, DELTA).said == ("says inf",)


def test_equal_sums_counted_together_are_the_same_sums() -> None:
    twice = merged((*SAMPLED, *SAMPLED))
    assert [one.times for one in twice] == [2, 120]
    assert pld_alone(twice, DELTA) == pytest.approx(
        pld_alone((*SAMPLED, *SAMPLED), DELTA), rel=1e-6
    )
    assert len(composed(twice).events) == 2


def test_plans_that_were_refused_a_figure_are_not_counted_as_fitting_more() -> None:
    sums = tuple(
        Sum(plans=count, headlines=count, ledger=count, pld=count, rdp=None)
        for count in range(1, 8)
    )
    assert _allowed(sums, "pld") == "4"
    assert _allowed(sums[:3], "pld") == "3 or more"
    assert _allowed(sums, "rdp") == "0"
