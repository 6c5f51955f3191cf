"""Tables for an institution's people; nothing of the coordinator is loaded for them."""

from rich.table import Table
from rich.text import Text

from clients.configuration import Approval
from clients.considering import Consideration
from clients.decisions import Decision
from clients.finding import Finding, Verdict
from clients.home_report import HomeReport
from federation.model.evaluation import Figure
from federation.privacy.ledger_rules import Balance
from federation.privacy.units import Population


def consideration_tables(considered: Consideration) -> list[Table]:
    """Returns the price and the budget of a plan, and every rule with yes or no."""
    budget = Table(title=f"What plan {considered.name!r} would cost, at delta {considered.delta:g}")
    for heading in ("People", "Epsilon", "Units", "Left before", "Left afterwards", "as epsilon"):
        budget.add_column(heading, justify="left" if heading == "People" else "right")
    for side in considered.sides:
        budget.add_row(
            _people(side.population),
            f"{side.epsilon:.4g}",
            f"{side.units:,}",
            f"{side.left_before:,}",
            f"{side.left_afterwards:,}",
            f"{side.epsilon_left_afterwards:.4g}",
        )
    said = "would take part" if considered.takes_part else "would refuse"
    if considered.decision is Decision.UNDECIDED and considered.approval is Approval.PERSON:
        said = "refuses until it is approved"
    rules = Table(
        title="Every rule",
        caption=f"Approval: {considered.approval}; this plan: {considered.decision}. "
        f"The daemon {said}.",
    )
    rules.add_column("Holds")
    rules.add_column("Rule")
    for rule in considered.rules:
        rules.add_row("yes" if rule.holds else "NO", rule.text)
    return [budget, rules]


def balance_table(balance: Balance, title: str) -> Table:
    """Returns what a ledger was charged and what is left, in budget units, and open plans."""
    plans = ", ".join(f"{plan[:16]}..." for plan in balance.open_plans) or "none"
    table = Table(title=f"Budget of {title}, in budget units", caption=f"Open plans: {plans}")
    if balance.recovered:
        table.caption = f"{table.caption}. Missing entries were charged: see `ledger show`."
    for heading in ("People", "Charged ever", "Charged in 365 days", "Left ever", "Left now"):
        table.add_column(heading, justify="left" if heading == "People" else "right")
    for population in Population:
        side = balance.of(population)
        table.add_row(
            _people(population),
            f"{side.charged_lifetime:,}",
            f"{side.charged_in_window:,}",
            f"{side.left_lifetime:,}",
            f"{side.left:,}",
        )
    return table


def home_report_tables(found: HomeReport) -> list[Table]:
    """Returns the cards side by side, and the calibration of each."""
    cards = Table(
        title=Text(f"Release {found.release[:16]}... of plan {found.plan_name!r} on our people"),
        caption="Private to this institution: exact figures of its own people, without noise. "
        "Do not pass them on." + "".join(f"\n{remark}" for remark in found.remarks),
    )
    for heading in ("Card", "AUC", "Brier score", "Observed : expected bad"):
        cards.add_column(heading, justify="left" if heading == "Card" else "right")
    of_cards = (
        ("national", found.national),
        ("trained at home", found.alone),
        ("national, corrected at home", found.corrected),
    )
    for name, card in of_cards:
        cards.add_row(name, _said(card.auc), _said(card.brier), _said(card.calibration_ratio))
    cards.add_row("the national one gains", _said(found.gain), "", "")
    cards.add_row("local gain", _said(found.local_gain), "", "")
    cards.add_section()
    cards.add_row(f"{found.trained:,} people trained on, {found.held_out:,} held out", "", "", "")
    tables = [cards]
    for name, card in of_cards[: 3 if found.penalty is not None else 2]:
        bands = Table(title=f"Calibration: {name}")
        for heading in ("Points", "People", "Expected bad", "Observed bad, 95 %"):
            bands.add_column(heading, justify="right")
        for band in card.calibration:
            bad = band.observed_bad_rate
            bands.add_row(
                f"{band.least} to {band.most}",
                f"{band.people:,}",
                f"{band.expected_bad_rate:.2%}",
                f"{bad.value:.2%} ({bad.low:.2%} to {bad.high:.2%})",
            )
        if card.calibration:
            tables.append(bands)
    return tables


def _people(population: Population) -> str:
    return population.replace("_", " ")


def _said(figure: Figure | None) -> str:
    if figure is None:
        return "too few people"
    return f"{figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})"


def finding_table(findings: tuple[Finding, ...]) -> Table:
    """Returns what the doctor found, one line a check, and what to do."""
    table = Table(title="What the daemon needs")
    for heading in ("Check", "Verdict", "Found", "What to do"):
        table.add_column(heading, overflow="fold")
    for one in findings:
        said = one.verdict.upper() if one.verdict is Verdict.FAIL else one.verdict
        table.add_row(one.check, said, Text(one.found), Text(one.advice))
    return table
