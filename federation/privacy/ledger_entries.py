"""The entries of a privacy-budget ledger, each valid if it exists, and their hash chain."""

import re
from dataclasses import dataclass

import msgspec

from federation.canonical import Digest, Json, canonical_json, digest
from federation.errors import ConfigurationError, PrivacyError
from federation.privacy.units import LARGEST_UNITS, BudgetUnits, Population, Price

LATEST_TIME = 2**34
"""The year 2514. A clock that counts milliseconds is beyond it and refused."""

GENESIS = Digest("0" * 64)
"""The head of an empty ledger, and the previous hash of the first entry."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_QUESTION = re.compile(r"[a-z0-9-]{1,40}")


# To add a kind: its class, and one case each in `ledger_rules._check_rules` and `._apply`.


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """The full price of a plan, all its rounds and retries, is set aside.

    Attributes:
        plan: the plan's digest. It can be reserved once in the life of a ledger.
        price: budget units set aside for each population, against coordinator and c institutions.
        alone: what it would be against the coordinator alone: for the reader, never charged.
        split: digest of the federation's public salt and held-out fraction. One ledger knows one
            split: under another, people trained on would become held out, and their totals add.
    """

    plan: Digest
    price: Price
    alone: Price
    split: Digest

    def __post_init__(self) -> None:
        _require_digest("plan", self.plan)
        _require_digest("split", self.split)
        if not isinstance(self.price, Price) or not isinstance(self.alone, Price):
            raise PrivacyError("Expected the price to be a Price.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """One attempt at one round of a question is charged, before its noise is drawn.

    Attributes:
        plan: digest of a plan with an open reservation.
        question: name of the question within the plan, 1 to 40 characters of [a-z0-9-].
        round: number of the round, >= 0.
        attempt: number of the attempt at this round, >= 0.
        population: whom the question is about.
        units: the charge, > 0, in budget units.
    """

    plan: Digest
    question: str
    round: int
    attempt: int
    population: Population
    units: BudgetUnits

    def __post_init__(self) -> None:
        _require_attempt(self)
        if not isinstance(self.population, Population):
            raise PrivacyError("Expected the population to be a Population.")
        require_whole("units", self.units, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refunded:
    """An attempt was given up by enough votes: its sum was never opened and never can be.

    Attributes:
        plan: digest of a plan with an open reservation.
        question: as it was spent.
        round: likewise.
        attempt: likewise. It stays used: it is never spent again.
    """

    plan: Digest
    question: str
    round: int
    attempt: int

    def __post_init__(self) -> None:
        _require_attempt(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The plan ended: what it reserved and never spent is released, and nothing more is spent."""

    plan: Digest

    def __post_init__(self) -> None:
        _require_digest("plan", self.plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """Entries are missing, and the worst that they could have been is charged, by a person's will.

    A header signed by this institution names an entry that this ledger does not hold. The next
    entry's sequence is above that header's, so that this is the only kind that leaves a gap.

    Attributes:
        seen_sequence: of that header, in [1, 2^62].
        seen_head: of that header.
        missing_since: seconds since 1970; a person says that nothing older is missing. 0: unknown.
        price: what is charged to each population for the missing entries, never released.
    """

    seen_sequence: int
    seen_head: Digest
    missing_since: int
    price: Price

    def __post_init__(self) -> None:
        require_whole("seen_sequence", self.seen_sequence, 1)
        _require_digest("seen_head", self.seen_head)
        require_time(self.missing_since)
        if not isinstance(self.price, Price):
            raise PrivacyError("Expected the price to be a Price.")


Entry = Reserved | Spent | Refunded | Closed | Recovered

KINDS: dict[str, type[Reserved] | type[Spent] | type[Refunded] | type[Closed] | type[Recovered]] = {
    "reserved": Reserved,
    "spent": Spent,
    "refunded": Refunded,
    "closed": Closed,
    "recovered": Recovered,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An entry with its place in the chain.

    Attributes:
        sequence: 1 for the first entry, then one more each; after a gap more than that.
        time: seconds since 1970 by the institution's clock, in [0, LATEST_TIME].
        previous: hash of the entry before, GENESIS for the first.
        entry: what happened.
    """

    sequence: int
    time: int
    previous: Digest
    entry: Entry

    def __post_init__(self) -> None:
        require_time(self.time)

    @property
    def kind(self) -> str:
        """The name of the entry's kind, a key of KINDS."""
        return type(self.entry).__name__.lower()

    def body(self) -> bytes:
        """Returns the canonical JSON of the entry alone."""
        return canonical_json(msgspec.to_builtins(self.entry))

    def hash(self) -> Digest:
        """Returns the digest of the entry, its kind, time, sequence and previous hash."""
        place: dict[str, Json] = {
            "kind": self.kind,
            "previous": self.previous,
            "sequence": self.sequence,
            "time": self.time,
        }
        return digest("fedscore/ledger-entry/1", canonical_json(place), self.body())


def require_time(time: int) -> None:
    """Returns only if `time` is whole seconds since 1970 that a clock may say."""
    if type(time) is not int or not 0 <= time <= LATEST_TIME:
        raise ConfigurationError(
            f"Expected the clock to say whole seconds since 1970 in [0, 2^34], got {time!r}. "
            "Correct the clock of this machine."
        )


def _require_attempt(entry: Spent | Refunded) -> None:
    _require_digest("plan", entry.plan)
    if type(entry.question) is not str or not _QUESTION.fullmatch(entry.question):
        raise PrivacyError("Expected a question named by 1 to 40 characters of [a-z0-9-].")
    require_whole("round", entry.round, 0)
    require_whole("attempt", entry.attempt, 0)


def _require_digest(name: str, value: Digest) -> None:
    if type(value) is not str or not _DIGEST.fullmatch(value):
        raise PrivacyError(f"Expected the {name} as 64 lower-case hexadecimal digits.")


def require_whole(name: str, value: int, lowest: int) -> None:
    """Returns only if `value` is a whole number in [lowest, 2^62]."""
    if type(value) is not int or not lowest <= value <= LARGEST_UNITS:
        raise PrivacyError(f"Expected {name} as a whole number in [{lowest}, 2^62], got {value!r}.")
