"""The institution's own rules: what it takes part in, and what it never spends more than."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from federation.errors import ConfigurationError, PrivacyError
from federation.learning import Mode, ScorecardModel
from federation.messages import RefusalCode
from federation.plan import Plan
from federation.population import Split
from federation.pricing import PlanPrice
from federation.privacy.accountant import require_target, units_within
from federation.privacy.ledger_rules import Balance, Limits
from federation.privacy.units import Delta, Epsilon, Population
from federation.schema import Schema
from federation.secure_aggregation.roster import Roster

_HEX64: Final = re.compile(r"[0-9a-f]{64}")


class Peers(StrEnum):
    """Who may take part beside us, where they are not listed."""

    ROSTER = "roster"


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an institution's people have decided, in its own configuration file.

    Attributes:
        coordinator: the only Ed25519 key whose plans are considered, 64 hexadecimal digits.
        approved_peers: the only institutions that a plan may invite beside us, by id; "roster":
            all whom our pinned roster names.
        purposes: the purposes that are allowed, compared letter by letter.
        least_participants: a plan must invite at least this many, ourselves included: n, >= 3.
        least_quorum: answers in every total that is opened: m, >= 3.
        least_threshold: institutions whose shares open a total: t, >= 3.
        least_colluders: institutions that may conspire with the coordinator: c, >= 1.
        least_audited_share: of the answers computed again inside institutions, in [0, 1].
        longest_validity_days: of a plan, for its price is set aside as long; >= 1.
        rounds_per_hour: questions that are answered within any 60 minutes at most, >= 1.
        delta: every epsilon below is stated at this delta; a plan's may not be larger.
        epsilon_per_plan: largest epsilon of one plan.
        epsilon_per_year: largest epsilon of all that falls in a sliding year.
        epsilon_lifetime: largest epsilon ever; never renewed.
        schemas: digests of the only data contracts that are answered about. A plan's must always be
            that of the schema file which the configuration names; a list keeps also that file from
            being replaced by another than people have read. Empty: whatever it holds.
    """

    coordinator: str
    approved_peers: Peers | tuple[str, ...]
    purposes: tuple[str, ...]
    least_participants: int
    least_quorum: int
    least_threshold: int
    least_colluders: int
    least_audited_share: float
    longest_validity_days: int
    rounds_per_hour: int
    delta: float
    epsilon_per_plan: float
    epsilon_per_year: float
    epsilon_lifetime: float
    schemas: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = (Mode.JOINT,)

    def __post_init__(self) -> None:
        ranges = (
            (bool(_HEX64.fullmatch(self.coordinator)), "coordinator of 64 hexadecimal digits"),
            (all(map(_HEX64.fullmatch, self.schemas)), "schemas by digest, 64 hexadecimal digits"),
            (self.least_participants >= 3, "least_participants >= 3"),
            (self.least_quorum >= 3, "least_quorum >= 3"),
            (self.least_threshold >= 3, "least_threshold >= 3"),
            (self.least_colluders >= 1, "least_colluders >= 1"),
            (0 <= self.least_audited_share <= 1, "least_audited_share in [0, 1]"),
            (1 <= self.longest_validity_days <= 3650, "longest_validity_days in [1, 3650]"),
            (self.rounds_per_hour >= 1, "rounds_per_hour >= 1"),
        )
        for holds, rule in ranges:
            if not holds:
                raise ConfigurationError(f"policy: expected {rule}.")
        for epsilon in (self.epsilon_per_plan, self.epsilon_per_year, self.epsilon_lifetime):
            require_target(epsilon, self.delta)
        if not self.epsilon_per_plan <= self.epsilon_per_year <= self.epsilon_lifetime:
            raise ConfigurationError(
                "policy: expected epsilon_per_plan <= epsilon_per_year <= epsilon_lifetime."
            )

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
        text: what is found and what is wanted, in words that are true if the rule holds or not.
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
    approved_peers: Peers | tuple[str, ...],
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
        approved_peers: of its policy.
        split: of its federation.
        most_people: the public figure that its table never exceeds.
        now: with time zone.
    """
    return (
        *_occasion(plan, now, roster, schema),
        *_company(plan, identifier, roster, approved_peers),
        *_own_people(plan, split, most_people),
        *_module(plan, schema),
    )


def _occasion(plan: Plan, now: datetime, roster: Roster, schema: Schema) -> Iterator[Rule]:
    in_time = plan.valid_from <= now <= plan.valid_until
    yield Rule(
        text=f"now is {_not(in_time)}between {plan.valid_from:%Y-%m-%d %H:%M} and "
        f"{plan.valid_until:%Y-%m-%d %H:%M %Z}",
        holds=in_time,
        code=RefusalCode.VALIDITY,
    )
    at_home = plan.federation == roster.federation
    yield Rule(
        text=f"federation {plan.federation!r} is {_not(at_home)}ours, {roster.federation!r}",
        holds=at_home,
        code=RefusalCode.POLICY,
    )
    known = plan.schema == schema.digest
    yield Rule(
        text=f"schema {plan.schema[:16]}... is {_not(known)}ours, {schema.digest[:16]}...",
        holds=known,
        code=RefusalCode.SCHEMA,
    )


def _company(
    plan: Plan, identifier: str, roster: Roster, approved: Peers | tuple[str, ...]
) -> Iterator[Rule]:
    invited = plan.participation.invited
    yield Rule(
        text=f"we, {identifier}, are {_not(identifier in invited)}invited",
        holds=identifier in invited,
        code=RefusalCode.PARTICIPANTS,
    )
    strangers = [one for one in invited if roster.key_of(one) is None]
    yield Rule(
        text="our roster names everybody invited"
        + (f", but not {', '.join(strangers)}" if strangers else ""),
        holds=not strangers,
        code=RefusalCode.PARTICIPANTS,
    )
    if not isinstance(approved, Peers):
        others = [one for one in invited if one not in (identifier, *approved)]
        yield Rule(
            text="this policy's approved_peers name everybody else invited"
            + (f", but not {', '.join(others)}" if others else ""),
            holds=not others,
            code=RefusalCode.PARTICIPANTS,
        )


def _own_people(plan: Plan, split: Split, most_people: int) -> Iterator[Rule]:
    same = plan.people.split == split
    yield Rule(
        text=f"the plan holds out {'the same' if same else 'other'} people "
        f"{'as' if same else 'than'} our federation",
        holds=same,
        code=RefusalCode.POLICY,
    )
    room = plan.people.most_per_institution
    yield Rule(
        text=f"the plan has room for {room:,} people of an institution, we may have "
        f"{most_people:,}",
        holds=room >= most_people,
        code=RefusalCode.POLICY,
    )


def _module(plan: Plan, schema: Schema) -> Iterator[Rule]:
    if isinstance(plan.model, ScorecardModel) or plan.model.module is None:
        return
    if plan.schema != schema.digest:  # said above
        return
    # imported here: whoever only reads a policy needs no snapshots
    from clients.dense import require_trainable  # noqa: PLC0415

    text, holds = f"the network's module {plan.model.module.name!r} is installed here", True
    try:
        require_trainable(schema, plan.model)
    except (ConfigurationError, PrivacyError) as error:
        text, holds = str(error), False
    yield Rule(text=text, holds=holds, code=RefusalCode.POLICY)


def consider(plan: Plan, price: PlanPrice, policy: Policy, balance: Balance) -> tuple[Rule, ...]:
    """Returns every rule with pass or fail; the institution takes part only if all hold.

    Args:
        plan: signed, valid now, for this institution's schema: checked before.
        price: of the plan.
        policy: the institution's own.
        balance: of its ledger, under `policy.limits`.
    """
    fine = plan.privacy.delta <= policy.delta
    return (
        *_people_and_purpose(plan, policy),
        *_participation(plan, policy),
        rate(balance, policy),
        Rule(
            text=f"delta {plan.privacy.delta:g} {_within(fine)} this "
            f"policy's delta = {policy.delta:g}",
            holds=fine,
            code=RefusalCode.POLICY,
        ),
        *(
            rule
            for population in Population
            for rule in _affordable(population, price, policy, balance)
        ),
    )


def rate(balance: Balance, policy: Policy) -> Rule:
    """Returns the rule that a question keeps if it may still be answered in this hour.

    Args:
        balance: of the ledger, now.
        policy: the institution's own.
    """
    return Rule(
        text=f"answers in the last hour: {balance.answers_last_hour}, of at most this policy's "
        f"rounds_per_hour = {policy.rounds_per_hour}",
        holds=balance.answers_last_hour < policy.rounds_per_hour,
        code=RefusalCode.UNAVAILABLE,  # for now: whoever asks may ask again
    )


def _people_and_purpose(plan: Plan, policy: Policy) -> Iterator[Rule]:
    trusted = plan.coordinator == policy.coordinator
    yield Rule(
        text=f"coordinator {plan.coordinator[:16]}... is {_not(trusted)}the one we trust",
        holds=trusted,
        code=RefusalCode.SIGNATURE,
    )
    allowed = plan.purpose in policy.purposes
    yield Rule(
        text=f"purpose {plan.purpose!r} is {_not(allowed)}one of this policy's purposes: "
        f"{', '.join(policy.purposes) or 'none'}",
        holds=allowed,
        code=RefusalCode.POLICY,
    )
    wanted = plan.mode_name in policy.modes
    yield Rule(
        text=f"mode {plan.mode_name.value!r} is {_not(wanted)}one of this policy's modes: "
        f"{', '.join(policy.modes) or 'none'}",
        holds=wanted,
        code=RefusalCode.POLICY,
    )
    if policy.schemas:
        read = plan.schema in policy.schemas
        yield Rule(
            text=f"schema {plan.schema[:16]}... is {_not(read)}one of this policy's schemas",
            holds=read,
            code=RefusalCode.SCHEMA,
        )
    validity = plan.valid_until - plan.valid_from
    longest = timedelta(days=policy.longest_validity_days)
    yield Rule(
        text=f"validity of {validity / timedelta(days=1):.1f} days {_within(validity <= longest)} "
        f"this policy's longest_validity_days = {policy.longest_validity_days}",
        holds=validity <= longest,
        code=RefusalCode.POLICY,
    )


def _participation(plan: Plan, policy: Policy) -> Iterator[Rule]:
    who = plan.participation
    least = (
        ("participants", len(who.invited), policy.least_participants),
        ("quorum", who.quorum, policy.least_quorum),
        ("threshold", who.threshold, policy.least_threshold),
        ("colluders", who.colluders, policy.least_colluders),
        ("audited_share", who.audited_share, policy.least_audited_share),
    )
    for name, found, wanted in least:
        yield Rule(
            text=f"{name.replace('_', ' ')} {found:g} {'keeps' if found >= wanted else 'is below'} "
            f"this policy's least_{name} = {wanted:g}",
            holds=found >= wanted,
            code=RefusalCode.PARTICIPANTS,
        )


def _affordable(
    population: Population, price: PlanPrice, policy: Policy, balance: Balance
) -> Iterator[Rule]:
    units, people = price.price.of(population), population.replace("_", " ")
    epsilon = price.epsilon_of(units, Delta(policy.delta))
    cheap = math.isfinite(epsilon) and epsilon <= policy.epsilon_per_plan
    yield Rule(
        text=f"{people}: epsilon {epsilon:.4g} {_within(cheap)} this "
        f"policy's epsilon_per_plan = {policy.epsilon_per_plan:g}",
        holds=cheap,
        code=RefusalCode.PRICE,
    )
    left = balance.of(population)
    yield Rule(
        text=f"{people}: {units:,} budget units {'fit' if units <= left.left else 'exceed'} the "
        f"{left.left:,} that are left (year {left.left_in_window:,}, lifetime "
        f"{left.left_lifetime:,})",
        holds=units <= left.left,
        code=RefusalCode.PRICE,
    )


def _not(holds: bool) -> str:
    return "" if holds else "not "


def _within(holds: bool) -> str:
    return "keeps" if holds else "exceeds"
