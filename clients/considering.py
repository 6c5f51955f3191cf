"""What an institution would say to a plan, and why: computed without a connection or a write."""

from datetime import datetime
from pathlib import Path

import msgspec

from clients.configuration import Approval, DaemonConfiguration
from clients.decisions import Decision
from clients.policy import Rule, consider, fits, runs_here
from federation.errors import ConfigurationError
from federation.plan import Plan
from federation.pricing import price_of
from federation.privacy.ledger_rules import Balance
from federation.privacy.units import BudgetUnits, Delta, Population
from federation.schema import Schema
from federation.secure_aggregation.roster import Roster, load_roster


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """The plan's price to one population; epsilons at the policy's delta.

    Attributes:
        population: trained or held-out people.
        epsilon: of this plan.
        units: of this plan, in budget units.
        left_before: budget units that could be reserved now.
        left_afterwards: those that could be reserved then, 0 if the plan does not fit.
        epsilon_left_afterwards: the same, as a plan with this plan's questions would state it.
    """

    population: Population
    epsilon: float
    units: int
    left_before: int
    left_afterwards: int
    epsilon_left_afterwards: float


class Consideration(msgspec.Struct, frozen=True, kw_only=True):
    """A plan held against an institution's policy and budget.

    Attributes:
        plan: its digest.
        name: what people call it.
        purpose: what the score may be used for.
        delta: at which the epsilons are stated.
        sides: price and budget of each population.
        rules: all of them, those that are not kept included.
        approval: who lets the institution take part.
        decision: what was decided about this plan.
        takes_part: whether the daemon would accept an invitation now.
    """

    plan: str
    name: str
    purpose: str
    delta: float
    sides: tuple[Side, ...]
    rules: tuple[Rule, ...]
    approval: Approval
    decision: Decision
    takes_part: bool


def pinned_roster(configuration: DaemonConfiguration) -> Roster:
    """Returns the roster that the configuration names.

    Raises:
        ConfigurationError: unreadable, no roster, or another federation's.
        ProtocolError: the coordinator that the policy trusts has not signed it.
    """
    path = Path(configuration.roster)
    try:
        roster = load_roster(path.read_text())
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the roster {path}: {error.strerror}. The coordinator hands it over when "
            "it has admitted you."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a text file in UTF-8.") from error
    roster.require_signed_by(configuration.policy.coordinator)
    if roster.federation != configuration.federation:
        raise ConfigurationError(f"{path} is the roster of another federation.")
    return roster


def consideration(
    plan: Plan,
    *,
    configuration: DaemonConfiguration,
    schema: Schema,
    roster: Roster,
    balance: Balance,
    decision: Decision,
    space: Rule,
    now: datetime,
) -> Consideration:
    """Returns what the daemon would say to an invitation, by the very rules by which it would.

    Args:
        plan: as the coordinator published it.
        configuration: the institution's own.
        schema: that its table keeps.
        roster: that it has pinned.
        balance: of its ledger, under its policy's limits.
        decision: what its people have said of this plan.
        space: whether the disk has room for its snapshot.
        now: with time zone.

    Raises:
        ProtocolError: the plan is not signed by the coordinator that it names.
        ConfigurationError: the plan was made for another schema.
        PrivacyError: its noise does not keep what it promises.
    """
    plan.require_signed()
    fitting = fits(
        plan,
        identifier=configuration.id,
        schema=schema,
        roster=roster,
        approved_peers=configuration.policy.approved_peers,
        split=configuration.split,
        most_people=configuration.most_people,
        now=now,
    )
    price = price_of(plan, schema)
    policy = configuration.policy
    rules = (*fitting, *consider(plan, price, policy, balance), space)
    if all(rule.holds for rule in rules):
        rules = (*rules, *runs_here(plan, schema))
    delta = Delta(policy.delta)

    def side(population: Population) -> Side:
        units, left = price.price.of(population), balance.of(population).left
        afterwards = BudgetUnits(max(0, left - units))
        return Side(
            population=population,
            epsilon=price.epsilon_of(units, delta),
            units=units,
            left_before=left,
            left_afterwards=afterwards,
            epsilon_left_afterwards=price.epsilon_of(afterwards, delta),
        )

    return Consideration(
        plan=plan.digest,
        name=plan.name,
        purpose=plan.purpose,
        delta=policy.delta,
        sides=tuple(side(population) for population in Population),
        rules=rules,
        approval=configuration.approval,
        decision=decision,
        takes_part=decision.lets_in(configuration.approval) and all(rule.holds for rule in rules),
    )
