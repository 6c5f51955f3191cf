"""SBA loans as institutions hold them: who holds which, and columns made of others in a row."""

import hashlib
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NAMED: Final = 8
OTHERS: Final = 10
IDS: Final = (
    *(f"bank-{number}" for number in range(NAMED)),
    *(f"others-{number}" for number in range(OTHERS)),
)


def features_of(rows: pa.Table) -> pa.Table:
    """Returns the table with the columns that an institution makes of others in the same row."""
    sector = pc.cast(pc.floor(pc.divide(rows.column("NAICS"), 10_000.0)), pa.int64())
    franchise = pc.cast(pc.greater(rows.column("FranchiseCode"), 1), pa.int8())
    guaranteed = pc.divide(rows.column("SBA_Appv"), rows.column("GrAppv"))
    return (
        rows.append_column("sector", sector)
        .append_column("franchise", franchise)
        .append_column("guaranteed", guaranteed)
    )


def institutions_of(banks: pa.ChunkedArray) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Returns int64[rows], the number of each row's institution, and the titles of the named ones.

    Args:
        banks: the bank's name in each row; rows without one are counted as a bank of no name.
    """
    names = pc.fill_null(banks, "").to_pylist()
    counts = dict.fromkeys(sorted(set(names) - {""}), 0)
    for name in names:
        if name:
            counts[name] += 1
    largest = sorted(counts, key=lambda name: (-counts[name], name))[:NAMED]
    place = {name: number for number, name in enumerate(largest)}
    for name in {*names} - {*largest}:
        place[name] = NAMED + hashlib.sha256(name.encode()).digest()[0] % OTHERS
    return np.array([place[name] for name in names], np.int64), tuple(largest)


def synthetic_loans(loans: int) -> pa.Table:
    """Returns made-up loans with the columns of the real ones, for small versions and tests."""
    generator = np.random.default_rng(0)
    weight = np.where(np.arange(120) < NAMED, 14.0, 1.0)
    bank = generator.choice(120, loans, p=weight / weight.sum())
    amount = np.round(np.exp(generator.normal(11, 1, loans)))
    share = generator.choice([0.5, 0.75, 0.85], loans)
    employees = generator.integers(0, 60, loans)
    year = generator.integers(1995, 2011, loans)
    risk = 1 / (1 + np.exp(1.6 - 1.5 * (share < 0.6) + 0.03 * employees - 0.8 * (year > 2005)))
    return pa.table(
        {
            "State": pa.array(generator.choice(["CA", "NY", "TX"], loans)),
            "Bank": pa.array([f"BANK {number}" for number in bank.tolist()]),
            "NAICS": pa.array(generator.choice([0, 236220, 445110, 722511], loans)),
            "ApprovalFY": pa.array(year),
            "NoEmp": pa.array(employees),
            "NewExist": pa.array(generator.integers(1, 3, loans)),
            "CreateJob": pa.array(generator.integers(0, 9, loans)),
            "RetainedJob": pa.array(generator.integers(0, 30, loans)),
            "FranchiseCode": pa.array(generator.choice([0, 1, 7_000], loans)),
            "UrbanRural": pa.array(generator.integers(0, 3, loans)),
            "RevLineCr": pa.array(generator.choice(["N", "Y"], loans)),
            "LowDoc": pa.array(generator.choice(["N", "Y"], loans)),
            "DisbursementGross": pa.array(amount),
            "GrAppv": pa.array(amount),
            "SBA_Appv": pa.array(amount * share),
            "bad": pa.array((generator.uniform(size=loans) < risk).astype(np.int8)),
        }
    )
