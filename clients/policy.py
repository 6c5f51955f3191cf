"""The institution's own rules: what it takes part in, and what it never spends more than."""

import math
from dataclasses import dataclass
from datetime import datetime

import msgspec

from federation.errors import ConfigurationError
from federation.messages import RefusalCode
from federation.plan import Plan
from federation.population import Split
from federation.pricing import PlanPrice
from federation.privacy.accountant import require_target, units_within
from federation.privacy.ledger_rules import Balance, Limits
from federation.privacy.units import Delta, Epsilon, Population
from federation.schema import Schema
from federation.secure_aggregation.roster import Roster


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an institution's people have decided, in its own configuration file.

    Attributes:
        coordinator: the only Ed25519 key whose plans are considered, 64 hexadecimal digits.
        purposes: the purposes that are allowed, compared letter by letter.
        least_quorum: m of a plan must be at least this.
        least_colluders: c of a plan must be at least this, >= 1.
        delta: every epsilon below is stated at this delta; a plan's may not be larger.
        epsilon_per_plan: largest epsilon of one plan.
        epsilon_per_year: largest epsilon of all that falls in a sliding year.
        epsilon_lifetime: largest epsilon ever; never renewed.
    """

    coordinator: str
    purposes: tuple[str, ...]
    least_quorum: int
    least_colluders: int
    delta: float
    epsilon_per_plan: float
    epsilon_per_year: float
    epsilon_lifetime: float

    def __post_init__(self) -> None:
        for epsilon in (self.epsilon_per_plan, self.epsilon_per_year, self.epsilon_lifetime):
            require_target(epsilon, self.delta)
        if not self.epsilon_per_plan <= self.epsilon_per_year <= self.epsilon_lifetime:
            raise ConfigurationError(
                "policy: expected epsilon_per_plan <= epsilon_per_year <= epsilon_lifetime."
            )
        if self.least_quorum < 3 or self.least_colluders < 1:
            raise ConfigurationError("policy: expected least_quorum >= 3, least_colluders >= 1.")

    @property
    def limits(self) -> Limits:
        """The ledger's limits: yearly and lifetime epsilon as mu^2, rounded down."""
        delta = Delta(self.delta)
        return Limits(
            lifetime=units_within(Epsilon(self.epsilon_lifetime), delta),
            yearly=units_within(Epsilon(self.epsilon_per_year), delta),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the policy held against one plan.

    Attributes:
        text: what was found, with both figures, for the institution's own people.
        holds: whether the plan keeps it.
        code: what the coordinator is told if it does not.
    """

    text: str
    holds: bool
    code: RefusalCode


def fits(
    plan: Plan,
    *,
    identifier: str,
    schema: Schema,
    roster: Roster,
    split: Split,
    most_people: int,
    now: datetime,
) -> tuple[Rule, ...]:
    """Returns every rule that a plan keeps if it is for this institution, now; before any price.

    Args:
        plan: signed: checked before.
        identifier: of the institution.
        schema: that its table keeps.
        roster: that it has pinned.
        split: of its federation.
        most_people: the public figure that its table never exceeds.
        now: with time zone.
    """
    invited = plan.participation.invited
    strangers = [one for one in invited if roster.key_of(one) is None]
    return (
        Rule(
            text=f"now is between {plan.valid_from:%Y-%m-%d %H:%M} and "
            f"{plan.valid_until:%Y-%m-%d %H:%M %Z}",
            holds=plan.valid_from <= now <= plan.valid_until,
            code=RefusalCode.VALIDITY,
        ),
        Rule(
            text=f"schema {plan.schema[:16]}... is ours, {schema.digest[:16]}...",
            holds=plan.schema == schema.digest,
            code=RefusalCode.SCHEMA,
        ),
        Rule(
            text=f"we, {identifier}, are invited",
            holds=identifier in invited,
            code=RefusalCode.PARTICIPANTS,
        ),
        Rule(
            text="our roster names everybody invited"
            + (f", but not {', '.join(strangers)}" if strangers else ""),
            holds=not strangers,
            code=RefusalCode.PARTICIPANTS,
        ),
        Rule(
            text="the plan holds out the same people as our federation",
            holds=plan.people.split == split,
            code=RefusalCode.POLICY,
        ),
        Rule(
            text=f"the plan has room for {plan.people.most_per_institution:,} people, we may have "
            f"{most_people:,}",
            holds=plan.people.most_per_institution >= most_people,
            code=RefusalCode.POLICY,
        ),
    )


def consider(plan: Plan, price: PlanPrice, policy: Policy, balance: Balance) -> tuple[Rule, ...]:
    """Returns every rule with pass or fail; the institution takes part only if all hold.

    Args:
        plan: signed, valid now, for this institution's schema: checked before.
        price: of the plan.
        policy: the institution's own.
        balance: of its ledger, under `policy.limits`.
    """
    delta = Delta(policy.delta)
    who, most = plan.participation, plan.privacy.delta
    trusted = plan.coordinator == policy.coordinator
    allowed = plan.purpose in policy.purposes
    enough, careful = who.quorum >= policy.least_quorum, who.colluders >= policy.least_colluders
    rules = [
        Rule(
            text=f"coordinator {plan.coordinator[:16]}... is {_not(trusted)}the one we trust",
            holds=trusted,
            code=RefusalCode.SIGNATURE,
        ),
        Rule(
            text=f"purpose {plan.purpose!r} is {_not(allowed)}one of this policy's purposes: "
            f"{', '.join(policy.purposes) or 'none'}",
            holds=allowed,
            code=RefusalCode.POLICY,
        ),
        Rule(
            text=f"quorum {who.quorum} {'keeps' if enough else 'is below'} this policy's "
            f"least_quorum = {policy.least_quorum}",
            holds=enough,
            code=RefusalCode.PARTICIPANTS,
        ),
        Rule(
            text=f"colluders {who.colluders} {'keeps' if careful else 'is below'} this policy's "
            f"least_colluders = {policy.least_colluders}",
            holds=careful,
            code=RefusalCode.PARTICIPANTS,
        ),
        Rule(
            text=f"delta {most:g} {'keeps' if most <= policy.delta else 'exceeds'} this policy's "
            f"delta = {policy.delta:g}",
            holds=most <= policy.delta,
            code=RefusalCode.POLICY,
        ),
    ]
    for population in Population:
        units = price.price.of(population)
        epsilon = price.epsilon_of(units, delta)
        fits = math.isfinite(epsilon) and epsilon <= policy.epsilon_per_plan
        left = balance.of(population)
        affordable = units <= left.left
        rules.append(
            Rule(
                text=f"{population}: epsilon {epsilon:.4g} {'keeps' if fits else 'exceeds'} this "
                f"policy's epsilon_per_plan = {policy.epsilon_per_plan:g}",
                holds=fits,
                code=RefusalCode.PRICE,
            )
        )
        rules.append(
            Rule(
                text=f"{population}: {units} budget units {'fit' if affordable else 'exceed'} the "
                f"{left.left} that are left "
                f"(year {left.left_in_window}, lifetime {left.left_lifetime})",
                holds=affordable,
                code=RefusalCode.PRICE,
            )
        )
    return tuple(rules)


def _not(holds: bool) -> str:
    return "" if holds else "not "
