"""The files of one population in a snapshot: blocks of codes, and a keyed hash for each person."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients.blocks import BlockWriter
from clients.person_keys import create_private
from clients.table import CodedBatch
from federation.privacy.units import Population

_HASHES_AT_ONCE: Final = 2**20


class Contents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One population in the header of a snapshot.

    Attributes:
        people: in the population.
        rows: of these people.
        block_rows: rows of each block.
        sha256: of the blocks.
        people_sha256: of the keyed hashes; empty where nobody can withdraw.
        rewritten: how often people were taken out; it is in the names of the files.
    """

    people: int
    rows: int
    block_rows: tuple[int, ...]
    sha256: str
    people_sha256: str
    rewritten: int


class PopulationWriter:
    """Writes the files of one population."""

    def __init__(
        self,
        directory: Path,
        population: Population,
        *,
        rewritten: int,
        many: bool,
        keyed: bool,
        files: ExitStack,
    ) -> None:
        def create(suffix: str) -> IO[bytes]:
            path = path_of(directory, population, rewritten, suffix)
            path.unlink(missing_ok=True)  # left by a process that was killed
            return files.enter_context(create_private(path))

        self._rewritten = rewritten
        self._blocks = create(".blocks")
        self._writer = BlockWriter(self._blocks, many=many)
        self._people = create(".people") if keyed else None
        self._people_sha256 = hashlib.sha256()
        self._count = 0

    def add(
        self,
        codes: NDArray[np.uint8],
        bad: NDArray[np.uint8],
        starts: NDArray[np.bool_],
        people: NDArray[np.uint64] | None,
    ) -> None:
        """Appends rows, and the keyed hashes of the people who start in them."""
        self._count += int(np.count_nonzero(starts))
        self._writer.add(codes, bad, starts)
        if self._people is not None and people is not None:
            content = people.astype("<u8").tobytes()
            self._people.write(content)
            self._people_sha256.update(content)

    def finish(self) -> Contents:
        """Returns the population's place in the header once its files are durable."""
        block_rows, sha256 = self._writer.finish()
        make_durable(self._blocks)
        if self._people is not None:
            make_durable(self._people)
        return Contents(
            people=self._count,
            rows=sum(block_rows),
            block_rows=block_rows,
            sha256=sha256,
            people_sha256="" if self._people is None else self._people_sha256.hexdigest(),
            rewritten=self._rewritten,
        )


def write_populations(
    batches: Iterable[CodedBatch], directory: Path, *, many: bool, keyed: bool
) -> dict[Population, Contents]:
    """Divides rows into trained and held-out people and writes both.

    Args:
        batches: of the table.
        directory: exists, empty of such files.
        many: whether a person may have many rows.
        keyed: whether people can be taken out later; then the batches bring keyed hashes.
    """
    with ExitStack() as files:
        writers = {
            population: PopulationWriter(
                directory, population, rewritten=0, many=many, keyed=keyed, files=files
            )
            for population in Population
        }
        for batch in batches:
            for population, chosen in (
                (Population.TRAINED, ~batch.held_out),
                (Population.HELD_OUT, batch.held_out),
            ):
                rows = np.flatnonzero(chosen)
                people = None if batch.people is None else batch.people[chosen[batch.starts]]
                writers[population].add(
                    batch.codes[:, rows], batch.bad[rows], batch.starts[rows], people
                )
        return {population: writer.finish() for population, writer in writers.items()}


def hashes_in(path: Path) -> Iterator[NDArray[np.uint64]]:
    """Yields the keyed hashes in a file, some at a time."""
    with path.open("rb") as file:
        while (hashes := np.fromfile(file, "<u8", _HASHES_AT_ONCE)).size:
            yield hashes


def path_of(directory: Path, population: Population, rewritten: int, suffix: str) -> Path:
    """Returns where a file of a population is.

    Args:
        directory: of the snapshot.
        population: trained or held-out people.
        rewritten: how often people were taken out of it.
        suffix: ".blocks" or ".people".
    """
    number = f".{rewritten}" if rewritten else ""
    return directory / f"{population}{number}{suffix}"


def make_durable(file: IO[bytes]) -> None:
    """Returns once a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())
