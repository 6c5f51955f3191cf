"""Where people begin in a stream of rows, who is held out, and whether anybody stands twice.

Keys are compared as text, so a number in Parquet and its digits in CSV are the same person. Memory
stays bounded for any number of people: 8-byte hashes of the keys wait until the whole table has
been seen, those of more than a million people on disk, divided by their first bits.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from federation.population import Split, held_out_hashes, key_hashes
from federation.schema import RowsPerPerson

LARGEST_PERSON: Final = 10_000
"""Most rows of one person."""

_PART_BITS = 6
_MOST_IN_MEMORY = 2**20
_MOST_CANDIDATES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleOfBatch:
    """The people of one batch of rows.

    Attributes:
        starts: bool[rows], true where a person's first row stands.
        held_out: bool[rows].
        hashes: uint64[rows], `key_hashes` of each row's person.
        too_long: bool[rows], true for the rows of a person after the first 10,000.
    """

    starts: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    hashes: NDArray[np.uint64]
    too_long: NDArray[np.bool_]


class PeopleStream:
    """Divides rows, in the order of the table, into people. One per read of a table."""

    def __init__(self, split: Split, rows_per_person: RowsPerPerson, hashes: "HashSpill") -> None:
        self._split = split
        self._many = rows_per_person is RowsPerPerson.MANY
        self._hashes = hashes
        self._last_key: str | None = None
        self._last_hash = np.uint64(0)
        self._rows_of_last = 0

    def rows_are_people(self, first_row: int, rows: int) -> PeopleOfBatch:
        """Returns the people of a table whose key is the 0-based row number."""
        hashes = key_hashes(self._split, range(first_row, first_row + rows))
        return self._one_row_each(hashes)

    def take(self, keys: pa.Array) -> PeopleOfBatch:
        """Returns the people of the next rows.

        Args:
            keys: text, no nulls.
        """
        if not self._many:
            hashes = key_hashes(self._split, keys.to_pylist())
            self._hashes.add(hashes)
            return self._one_row_each(hashes)
        starts = person_starts(keys, self._last_key)
        of_starts = key_hashes(self._split, keys.filter(pa.array(starts)).to_pylist())
        self._hashes.add(of_starts)
        hashes = np.append(self._last_hash, of_starts)
        held_out = held_out_hashes(self._split, hashes)
        person = np.cumsum(starts)
        position = self._positions(starts)
        if len(keys):
            self._last_key = keys[-1].as_py()
            self._last_hash = hashes[-1]
            self._rows_of_last = int(position[-1]) + 1
        return PeopleOfBatch(
            starts=starts,
            held_out=held_out[person],
            hashes=hashes[person],
            too_long=position >= LARGEST_PERSON,
        )

    def _one_row_each(self, hashes: NDArray[np.uint64]) -> PeopleOfBatch:
        return PeopleOfBatch(
            starts=np.ones(hashes.size, np.bool_),
            held_out=held_out_hashes(self._split, hashes),
            hashes=hashes,
            too_long=np.zeros(hashes.size, np.bool_),
        )

    def _positions(self, starts: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Returns each row's 0-based position among the rows of its person."""
        rows = np.arange(starts.size)
        first = np.where(starts, rows, -self._rows_of_last)
        positions: NDArray[np.int64] = rows - np.maximum.accumulate(first)
        return positions


def person_starts(keys: pa.Array, last_key: str | None) -> NDArray[np.bool_]:
    """Returns bool[rows], true where the key differs from the row before.

    Args:
        keys: text, no nulls.
        last_key: the key of the row before the first; None where there is none.
    """
    starts = np.ones(len(keys), np.bool_)
    if len(keys):
        starts[0] = keys[0].as_py() != last_key
        starts[1:] = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return starts


class HashSpill:
    """Key hashes: up to a million in memory, more of them on disk in 64 parts by their first bits.

    One part fits in memory: a billion people are 8 GB on disk and 125 MB in memory.
    """

    def __init__(self, directory: Path, *, most_in_memory: int = _MOST_IN_MEMORY) -> None:
        """Starts empty; writes to an existing private directory only if there are more than fit."""
        self._paths = [directory / f"keys.{part:02d}" for part in range(2**_PART_BITS)]
        self._files: list[IO[bytes]] = []
        bounds = np.arange(1, 2**_PART_BITS, dtype=np.uint64)
        self._bounds = bounds << np.uint64(64 - _PART_BITS)
        self._most_in_memory = most_in_memory
        self._waiting: list[NDArray[np.uint64]] = []
        self._count_waiting = 0

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Appends the hashes of people."""
        self._waiting.append(hashes)
        self._count_waiting += hashes.size
        if self._count_waiting > self._most_in_memory:
            self._spill()

    def _spill(self) -> None:
        if not self._files:
            self._files = [create_private(path) for path in self._paths]
        ordered = np.sort(self._taken())
        parts = np.split(ordered, np.searchsorted(ordered, self._bounds))
        for file, part in zip(self._files, parts, strict=True):
            file.write(part.tobytes())

    def _taken(self) -> NDArray[np.uint64]:
        """Returns the hashes in memory, and forgets them."""
        taken = np.concatenate([np.empty(0, np.uint64), *self._waiting])
        self._waiting, self._count_waiting = [], 0
        return taken

    def _parts(self) -> Iterator[NDArray[np.uint64]]:
        """Yields all hashes: equal ones lie in the same part, and parts are in their order."""
        if not self._files:
            yield self._taken()
            return
        self._spill()
        for file, path in zip(self._files, self._paths, strict=True):
            file.flush()
            yield np.fromfile(path, np.uint64)

    def repeated(self) -> tuple[int, NDArray[np.uint64]]:
        """Returns how often a hash came again, and up to 100,000 of such hashes, ascending."""
        times, found, kept = 0, [np.empty(0, np.uint64)], 0
        for hashes in self._parts():
            hashes.sort()
            again = hashes[1:][hashes[1:] == hashes[:-1]]
            times += again.size
            found.append(np.unique(again)[: _MOST_CANDIDATES - kept])
            kept += found[-1].size
        return times, np.concatenate(found)

    def close(self) -> None:
        """Closes and deletes the parts."""
        for file in self._files:
            file.close()
        for path in self._paths[: len(self._files)]:
            path.unlink()


def repeated_rows(
    batches: Iterable[pa.Array],
    split: Split,
    rows_per_person: RowsPerPerson,
    candidates: NDArray[np.uint64],
) -> Iterator[int]:
    """Yields the 0-based rows at which a person comes again, comparing keys, not hashes.

    Args:
        batches: the keys of the table once more, text, no nulls.
        split: whose salt the hashes were made with.
        rows_per_person: with many, adjacent rows are one person.
        candidates: hashes that came more than once, ascending.
    """
    seen: set[str] = set()
    first_row, last_key = 0, None
    for keys in batches:
        starts = np.ones(len(keys), np.bool_)
        if rows_per_person is RowsPerPerson.MANY:
            starts = person_starts(keys, last_key)
        rows = np.flatnonzero(starts)
        hashes = key_hashes(split, keys.take(pa.array(rows)).to_pylist())
        for row in rows[np.isin(hashes, candidates)]:
            key = keys[int(row)].as_py()
            if key in seen:
                yield first_row + int(row)
            seen.add(key)
        first_row += len(keys)
        last_key = keys[-1].as_py() if len(keys) else last_key


def create_private(path: Path) -> IO[bytes]:
    """Returns a new file, open for writing, that only this user can read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
