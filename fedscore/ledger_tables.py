"""A ledger as its people read it, plan by plan."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec
from rich.table import Table

from federation.privacy.accountant import epsilon_of
from federation.privacy.ledger_entries import (
    Closed,
    Recorded,
    Recovered,
    Refunded,
    Reserved,
    Spent,
)
from federation.privacy.units import BudgetUnits, Delta, Population


class LedgerPlan(msgspec.Struct, kw_only=True):
    """One plan in a ledger, in budget units of 10^-12 mu^2.

    Attributes:
        plan: digest.
        reserved_trained: set aside for trained people.
        reserved_held_out: set aside for held-out people.
        alone_trained: what was set aside, if no institution conspires with the coordinator.
        alone_held_out: likewise.
        spent_trained: answered.
        spent_held_out: answered.
        answers: attempts that were answered.
        refunds: of these, how many were given up and refunded.
        is_open: whether the reservation still counts in full.
        latest_time: of its last entry, seconds since 1970.
    """

    plan: str
    reserved_trained: int
    reserved_held_out: int
    alone_trained: int
    alone_held_out: int
    spent_trained: int = 0
    spent_held_out: int = 0
    answers: int = 0
    refunds: int = 0
    is_open: bool = True
    latest_time: int = 0

    def add(self, population: Population, units: int) -> None:
        """Adds to what was spent."""
        if population is Population.TRAINED:
            self.spent_trained += units
        else:
            self.spent_held_out += units

    def lose(self, time: int) -> None:
        """Counts an open reservation as spent in full: nobody knows what was."""
        if self.is_open:
            self.spent_trained, self.spent_held_out = self.reserved_trained, self.reserved_held_out
            self.is_open, self.latest_time = False, time


class LedgerRecovery(msgspec.Struct, frozen=True, kw_only=True):
    """Missing entries that a person had charged at their worst, in budget units.

    Attributes:
        sequence: of the entry that charges them.
        time: of that entry, seconds since 1970.
        seen_sequence: of the signed header whose entry is missing.
        seen_head: of that header.
        missing_since: seconds since 1970, as a person said; 0 if nobody knew.
        trained: charged to trained people.
        held_out: charged to held-out people.
    """

    sequence: int
    time: int
    seen_sequence: int
    seen_head: str
    missing_since: int
    trained: int
    held_out: int


class LedgerSheet(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger: its plans in the order of reservation, and what was recovered."""

    plans: list[LedgerPlan]
    recovered: list[LedgerRecovery]


def ledger_sheet(entries: Iterable[Recorded]) -> LedgerSheet:
    """Returns a ledger's entries summed by plan."""
    plans: dict[str, LedgerPlan] = {}
    recovered: list[LedgerRecovery] = []
    spent: dict[tuple[str, str, int, int], Spent] = {}
    for recorded in entries:
        match recorded.entry:
            case Reserved(plan=plan, price=price, alone=alone):
                plans[plan] = LedgerPlan(
                    plan=plan,
                    reserved_trained=price.trained,
                    reserved_held_out=price.held_out,
                    alone_trained=alone.trained,
                    alone_held_out=alone.held_out,
                )
            case Spent() as paid:
                spent[paid.plan, paid.question, paid.round, paid.attempt] = paid
                plans[paid.plan].answers += 1
                plans[paid.plan].add(paid.population, paid.units)
            case Refunded(plan=plan, question=question, round=round_, attempt=attempt):
                paid = spent[plan, question, round_, attempt]
                plans[plan].refunds += 1
                plans[plan].add(paid.population, -paid.units)
            case Closed(plan=plan):
                plans[plan].is_open = False
            case Recovered() as found:
                recovered.append(
                    LedgerRecovery(
                        sequence=recorded.sequence,
                        time=recorded.time,
                        seen_sequence=found.seen_sequence,
                        seen_head=found.seen_head,
                        missing_since=found.missing_since,
                        trained=found.price.trained,
                        held_out=found.price.held_out,
                    )
                )
                for row in plans.values():
                    row.lose(recorded.time)
                continue
        plans[recorded.entry.plan].latest_time = recorded.time
    return LedgerSheet(plans=list(plans.values()), recovered=recovered)


def ledger_tables(sheet: LedgerSheet, delta: Delta) -> list[Table]:
    """Returns a ledger plan by plan, in epsilon at a delta that the reader chose."""

    def epsilon(units: int) -> str:
        return f"{epsilon_of(BudgetUnits(units), delta):.4g}"

    tables = [_plans_table(sheet.plans, epsilon)]
    tables[0].title = f"Privacy budget of a person: epsilon at delta {delta:g}"
    tables[0].caption = "Epsilon does not add: the ledger adds budget units, which --json shows."
    if sheet.recovered:
        table = Table(title="Missing entries, charged at their worst")
        for heading in ("Sequence", "When", "Seen", "Head", "Missing since", "Trained", "Held out"):
            table.add_column(heading)
        for one in sheet.recovered:
            table.add_row(
                str(one.sequence),
                _day(one.time),
                str(one.seen_sequence),
                one.seen_head[:16],
                _day(one.missing_since) if one.missing_since else "unknown",
                epsilon(one.trained),
                epsilon(one.held_out),
            )
        tables.append(table)
    return tables


def _day(time: int) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d}"


def _plans_table(rows: list[LedgerPlan], epsilon: Callable[[int], str]) -> Table:
    table = Table()
    headings = ("Plan", "State", "Last entry", "People", "Answers")
    for heading in (*headings, "Reserved", "Coordinator alone", "Spent"):
        table.add_column(heading, justify="left" if heading in headings[:4] else "right")
    for row in rows:
        table.add_row(
            row.plan[:16],
            "open" if row.is_open else "closed",
            _day(row.latest_time),
            "trained",
            f"{row.answers}" + (f", {row.refunds} refunded" if row.refunds else ""),
            epsilon(row.reserved_trained),
            epsilon(row.alone_trained),
            epsilon(row.spent_trained),
        )
        table.add_row(
            "",
            "",
            "",
            "held out",
            "",
            epsilon(row.reserved_held_out),
            epsilon(row.alone_held_out),
            epsilon(row.spent_held_out),
            end_section=True,
        )
    return table
