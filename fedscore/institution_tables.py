"""Tables for an institution's people; nothing of the coordinator is loaded for them."""

from rich.table import Table

from clients.considering import Consideration
from federation.privacy.ledger_rules import Balance
from federation.privacy.units import Population


def consideration_tables(considered: Consideration) -> list[Table]:
    """Returns the price and the budget of a plan, and every rule with yes or no."""
    budget = Table(title=f"What plan {considered.name!r} would cost, at delta {considered.delta:g}")
    for heading in ("People", "Epsilon", "Units", "Left before", "Left afterwards", "as epsilon"):
        budget.add_column(heading, justify="left" if heading == "People" else "right")
    for side in considered.sides:
        budget.add_row(
            str(side.population),
            f"{side.epsilon:.4g}",
            f"{side.units:,}",
            f"{side.left_before:,}",
            f"{side.left_afterwards:,}",
            f"{side.epsilon_left_afterwards:.4g}",
        )
    said = "would take part" if considered.takes_part else "would refuse"
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
            str(population),
            f"{side.charged_lifetime:,}",
            f"{side.charged_in_window:,}",
            f"{side.left_lifetime:,}",
            f"{side.left:,}",
        )
    return table
