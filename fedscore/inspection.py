"""Exact figures of single institutions, which nobody outside a simulation may know."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients.configuration import Configuration
from clients.home_report import scored_at_home
from clients.ledger import Ledger
from clients.reading import Reading
from federation.errors import DataError
from federation.model.evaluation import Figure
from federation.model.exact_auc import auc_difference, auc_of
from federation.model.release import AnyRelease
from federation.plan import Plan
from federation.pricing import price_of
from federation.privacy.units import Population
from federation.schema import Schema


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation knows of one institution. Simulation only.

    Attributes:
        id: as in the plan.
        title: for people.
        trained: number of trained people.
        held_out: number of held-out people.
        bad_rate: share of bad people among all.
        not_held: features it does not have.
        alone: AUC on its own held-out people of the card it trained at home.
        national: AUC on the same people of the released card.
        gain: national - alone, paired.
        charged_trained: epsilon that its ledger was charged for a trained person.
        charged_held_out: epsilon that its ledger was charged for a held-out person.
        ledger_entries: entries in its ledger.
    """

    id: str
    title: str
    trained: int
    held_out: int
    bad_rate: float
    not_held: tuple[str, ...]
    alone: Figure | None
    national: Figure | None
    gain: Figure | None
    charged_trained: float
    charged_held_out: float
    ledger_entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Held-out people of one institution: the released card's scores, and outcomes."""

    national: NDArray[np.int64]
    bad: NDArray[np.bool_]


def inspect_institution(
    configuration: Configuration,
    ledger: Ledger,
    *,
    plan: Plan,
    schema: Schema,
    release: AnyRelease,
    clock: Callable[[], int],
    directory: Path,
) -> tuple[Member, HeldOut]:
    """Reads an institution's table once more, as only a simulation can, and measures.

    Args:
        configuration: of the institution.
        ledger: of the institution, open.
        plan: that was run.
        schema: of the plan.
        release: that came of it.
        clock: whole seconds since 1970.
        directory: for a snapshot that is deleted again; does not exist yet.
    """
    read_table = Reading(
        configuration=configuration,
        schema=schema,
        split=plan.people.split,
        clock=clock,
        withdrawals=None,
    )
    snapshot = read_table(directory)
    try:
        scores = scored_at_home(schema, snapshot, release)
        national, alone, bad = scores.national, scores.alone, scores.bad
        everyone = np.concatenate([scores.trained_bad, bad])
        comparable = bool(bad.any() and not bad.all())
        balance = ledger.balance(configuration.policy.limits)
        price = price_of(plan, schema)
        member = Member(
            id=configuration.id,
            title=configuration.title,
            trained=snapshot.people(Population.TRAINED),
            held_out=snapshot.people(Population.HELD_OUT),
            bad_rate=float(everyone.mean()),
            not_held=configuration.not_held,
            alone=auc_of(alone, bad) if comparable else None,
            national=auc_of(national, bad) if comparable else None,
            gain=auc_difference(national, alone, bad) if comparable else None,
            charged_trained=price.epsilon_of(balance.trained.charged_lifetime, price.delta),
            charged_held_out=price.epsilon_of(balance.held_out.charged_lifetime, price.delta),
            ledger_entries=ledger.head()[0],
        )
        return member, HeldOut(national=national, bad=bad)
    finally:
        snapshot.delete()


def pooled(parts: list[HeldOut]) -> Figure | None:
    """Returns the AUC over the people of all institutions, None if there is none."""
    if not parts:
        return None
    try:
        return auc_of(
            np.concatenate([part.national for part in parts]),
            np.concatenate([part.bad for part in parts]),
        )
    except DataError:
        return None
