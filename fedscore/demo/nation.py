"""The demo's nation: 30,000 real people dealt to a payment platform and seven banks.

The people are real (UCI "default of credit card clients", see data/ATTRIBUTION.md); the
institutions are staged. Who is whose customer follows from age, limit and education and the hash
of a number, never from the outcome. The weights were chosen so that the institutions differ in
size and risk.
"""

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DATA: Final = Path(__file__).parent / "data"
TABLE: Final = DATA / "taiwan.parquet"
SCHEMA: Final = DATA / "schema.toml"

EPSILON_PER_PLAN: Final = 1.0
EPSILON_PER_YEAR: Final = 2.0
EPSILON_LIFETIME: Final = 5.0
"""What each staged institution's policy allows."""

_SALT: Final = "fedscore demo split 1"
_RECENT_PAYMENTS: Final = ("pay_amt1", "pay_amt2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One staged institution.

    Attributes:
        id: its identifier.
        title: for people.
        not_held: columns it does not have.
    """

    id: str
    title: str
    not_held: tuple[str, ...]


def _bank(identifier: str, title: str) -> Holder:
    return Holder(id=identifier, title=title, not_held=_RECENT_PAYMENTS)


HOLDERS: Final = (
    Holder(
        id="payment-platform",
        title="Payment platform",
        not_held=("education", "limit_bal", "bill_amt1"),
    ),
    _bank("national-bank", "National bank"),
    _bank("salary-bank", "Salary bank"),
    _bank("savings-bank", "Savings bank"),
    _bank("city-bank", "City bank"),
    _bank("consumer-bank", "Consumer bank"),
    _bank("private-bank", "Private bank"),
    _bank("farmers-bank", "Farmers' bank"),
)


def holder_of(*, person: int, age: int, limit_bal: int, education: int) -> str:
    """Returns the identifier of the one institution that knows the person."""
    bounds = tuple(accumulate(_weights(age=age, limit_bal=limit_bal, education=education)))
    drawn = int.from_bytes(hashlib.sha256(f"{_SALT}:{person}".encode()).digest(), "big")
    return HOLDERS[bisect_right(bounds, drawn % bounds[-1])].id


def _weights(*, age: int, limit_bal: int, education: int) -> tuple[int, ...]:
    """Returns how likely such people are to be customers of each of `HOLDERS`."""
    if age <= 32 and limit_bal <= 200_000:
        platform = 800
    elif age <= 40 and limit_bal <= 300_000:
        platform = 40
    else:
        platform = 2
    salaried = 150 if education == 1 else 30
    small_limit = 60 if limit_bal <= 50_000 else 1
    return (
        platform,
        95,
        salaried if limit_bal >= 120_000 else 3,
        70 if age >= 40 else 6,
        25,
        200 if limit_bal <= 30_000 else small_limit,
        70 if limit_bal >= 300_000 else 1,
        65 if education == 3 and limit_bal <= 100_000 else 3,
    )


class Columns(StrEnum):
    """Which columns institutions hold: as staged, or one of two federations to compare with."""

    AS_STAGED = "as-staged"
    SHARED_ONLY = "shared-only"
    EVERYTHING = "everything"


def not_held(holder: Holder, columns: Columns) -> tuple[str, ...]:
    """Returns the columns that an institution does not have."""
    match columns:
        case Columns.AS_STAGED:
            return holder.not_held
        case Columns.SHARED_ONLY:
            return tuple(sorted({name for one in HOLDERS for name in one.not_held}))
        case Columns.EVERYTHING:
            return ()


def deal_tables(directory: Path, columns: Columns) -> dict[str, Path]:
    """Writes each institution's own table, without the columns it does not hold.

    Returns:
        The table of each institution, by identifier.
    """
    people = pq.read_table(TABLE)
    deciding = ("person", "age", "limit_bal", "education")
    owners = pa.array(
        holder_of(person=person, age=age, limit_bal=limit_bal, education=education)
        for person, age, limit_bal, education in zip(
            *(people[name].to_pylist() for name in deciding), strict=True
        )
    )
    tables = {}
    for holder in HOLDERS:
        own = people.filter(pc.equal(owners, holder.id)).drop_columns(
            list(not_held(holder, columns))
        )
        tables[holder.id] = directory / f"{holder.id}.parquet"
        pq.write_table(own, tables[holder.id])
    return tables
