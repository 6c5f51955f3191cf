"""A synthetic nation of any size whose true odds of default are known.

Nobody's data: every person is drawn from a seed. A person has two hidden traits, thrift and luck
with income, and a true probability of defaulting within a year:

    log-odds = BASE - 0.9 thrift - 0.5 luck + 0.35 max(0, -thrift)^2 - 0.02 (age - 40)

Columns are noisy views of the traits. **Common** ones (age, income, years at the address) everybody
holds; **behaviour** (orders, bills paid late, returned goods, nights) only the payment platform;
**repayment** (payments past due, use of credit lines, age of the oldest account) only banks.
Repayment tells most, as in the real data sets.

People overlap: most who have a bank also use the platform, and some have two banks. Young people
and those with little income often have no bank: their file is thin. A person defaults or not, once,
and everybody who knows the person sees it: one outcome, several rows, one at each institution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BLOCK: Final = 50_000
"""People that are drawn together; each block has a seed of its own, so memory is bounded."""

BANKS: Final = 9
PLATFORM: Final = "platform"
BANK_NAMES: Final = tuple(f"bank-{number}" for number in range(BANKS))

COMMON: Final = ("age", "income", "years_at_address")
BEHAVIOUR: Final = ("orders", "bills_late", "returns", "nights")
REPAYMENT: Final = ("past_due", "utilisation", "oldest_account")

_BASE: Final = -3.1

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some people of the nation.

    Attributes:
        first: number of the first person.
        columns: float64[people] for each column, common, behaviour and repayment.
        odds: float64[people], the true probability of default. Nobody in the nation knows it.
        bad: bool[people], what happened.
        at_platform: bool[people].
        at_bank: bool[banks, people].
    """

    first: int
    columns: dict[str, Array]
    odds: Array
    bad: NDArray[np.bool_]
    at_platform: NDArray[np.bool_]
    at_bank: NDArray[np.bool_]

    @property
    def people(self) -> int:
        """How many people."""
        return len(self.odds)

    @property
    def thin(self) -> NDArray[np.bool_]:
        """bool[people]: known to the platform and to no bank."""
        return self.at_platform & ~self.at_bank.any(axis=0)

    def table(self, chosen: NDArray[np.bool_], columns: tuple[str, ...]) -> pa.Table:
        """Returns the rows of the chosen people as an institution holds them."""
        held = {name: pa.array(self.columns[name][chosen]) for name in columns}
        person = pa.array((self.first + np.flatnonzero(chosen)).astype(np.int64))
        outcome = pa.array(self.bad[chosen].astype(np.int8))
        return pa.table({"person": person, "bad": outcome, **held})


def nation(people: int, seed: int) -> Iterator[Block]:
    """Yields a nation block by block; equal seeds give equal people, whatever the nation's size.

    Args:
        people: how many, at least 1.
        seed: of the whole nation.
    """
    for number, first in enumerate(range(0, people, BLOCK)):
        block = _block(first, np.random.default_rng([seed, number]))
        yield block if first + BLOCK <= people else _first(block, people - first)


def _block(first: int, generator: np.random.Generator) -> Block:
    people = BLOCK
    thrift, luck = generator.normal(size=people), generator.normal(size=people)
    age = np.clip(np.floor(18 + generator.gamma(2.2, 11.0, people)), 18, 90)
    seen = {
        "age": age,
        "income": np.round(np.exp(7.9 + 0.45 * luck + 0.35 * generator.normal(size=people))),
        "years_at_address": np.floor(
            generator.exponential(np.exp(0.7 + 0.25 * thrift + 0.015 * (age - 18)))
        ),
        "orders": generator.poisson(np.exp(1.6 - 0.15 * thrift + 0.2 * luck)),
        "bills_late": generator.poisson(np.exp(-1.1 - 0.45 * thrift)),
        "returns": generator.binomial(20, _logistic(-2.0 - 0.25 * thrift)),
        "nights": np.round(_logistic(-1.2 - 0.3 * thrift + 0.8 * generator.normal(size=people)), 3),
        "past_due": generator.poisson(np.exp(-1.4 - 0.95 * thrift - 0.3 * luck)),
        "utilisation": np.round(
            _logistic(-0.4 - 0.8 * thrift - 0.3 * luck + 0.9 * generator.normal(size=people)), 3
        ),
        "oldest_account": np.floor((age - 18) * generator.beta(1.5, 2.5, people)),
    }
    log_odds = (
        _BASE - 0.9 * thrift - 0.5 * luck + 0.35 * np.maximum(0.0, -thrift) ** 2 - 0.02 * (age - 40)
    )
    odds = _logistic(log_odds)
    at_bank = _banks(generator, age, luck)
    banked = at_bank.any(axis=0)
    young = _logistic(1.0 - 0.06 * (age - 30))
    at_platform = generator.uniform(size=people) < np.where(banked, 0.2 + 0.6 * young, 0.95)
    return Block(
        first=first,
        columns={name: np.asarray(values, np.float64) for name, values in seen.items()},
        odds=odds,
        bad=generator.uniform(size=people) < odds,
        at_platform=at_platform,
        at_bank=at_bank,
    )


def _banks(generator: np.random.Generator, age: Array, luck: Array) -> NDArray[np.bool_]:
    """Returns bool[banks, people]: none for thin files, one for most, two for some.

    Banks differ in size: each next one has about three quarters of the customers of the last.
    """
    people = len(age)
    has_one = generator.uniform(size=people) < _logistic(-0.2 + 0.07 * (age - 25) + 0.6 * luck)
    has_two = has_one & (generator.uniform(size=people) < 0.25)
    share = 0.75 ** np.arange(BANKS)
    first, second = generator.choice(BANKS, (2, people), p=share / share.sum())
    at_bank = np.zeros((BANKS, people), np.bool_)
    at_bank[first[has_one], np.flatnonzero(has_one)] = True
    at_bank[second[has_two], np.flatnonzero(has_two)] = True
    return at_bank


def _first(block: Block, people: int) -> Block:
    return Block(
        first=block.first,
        columns={name: values[:people] for name, values in block.columns.items()},
        odds=block.odds[:people],
        bad=block.bad[:people],
        at_platform=block.at_platform[:people],
        at_bank=block.at_bank[:, :people],
    )


def _logistic(log_odds: Array) -> Array:
    odds: Array = 1 / (1 + np.exp(-log_odds))
    return odds
