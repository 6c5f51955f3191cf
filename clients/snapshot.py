"""One consistent, checked read of an institution's table, kept as codes until the plan ends.

Rounds stream a snapshot, never the table: blocks of at most 65,536 rows, one byte a value, read in
order so that memory stays bounded. A snapshot holds no person keys. Its directory holds

    snapshot.json       the header: what was read, how many, the rows of each block, SHA-256s
    trained.blocks      the blocks of the trained people, one after the other
    held_out.blocks     the blocks of the held-out people

The codes of a block (`clients.blocks`) are those of the first feature for all rows, of the second,
and so on; a code that names no cell contributes nothing. Beside these files stands what a training
makes of them for its rounds (`clients.packed_people`).
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients.blocks import BLOCK_ROWS, Block, BlockFile, damaged
from clients.ledger_file import errors_of
from clients.person_keys import create_private
from clients.table import CodedBatch, ContractReader
from federation.canonical import Digest, canonical_json, digest
from federation.errors import ConfigurationError
from federation.population import Split
from federation.privacy.units import Population
from federation.schema import RowsPerPerson, Schema

_HEADER_NAME = "snapshot.json"
_SAME_NAMES: Final[Mapping[str, str]] = MappingProxyType({})


class _Contents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One population in the header."""

    people: int
    rows: int
    block_rows: tuple[int, ...]
    sha256: str


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in snapshot.json."""

    format: int
    schema_digest: str
    split_digest: str
    not_held: tuple[str, ...]
    contents: dict[Population, _Contents]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A finished snapshot on disk. Counts of people are exact: they stay in local logs.

    Attributes:
        directory: private to the institution.
        digest: SHA-256 over the header, and so over the contents.
        not_held: the features that were declared as not held.
        split_digest: of the division of people that was used.
    """

    directory: Path
    digest: Digest
    not_held: frozenset[str]
    split_digest: Digest
    _features: int
    _many: bool
    _contents: Mapping[Population, _Contents]

    @staticmethod
    def open(directory: Path, schema: Schema) -> "Snapshot":
        """Returns the snapshot in a directory.

        Raises:
            ConfigurationError: there is none, or it was taken under another schema.
            DataError: header or sizes are damaged: delete it and take a new one.
        """
        try:
            header_bytes = (directory / _HEADER_NAME).read_bytes()
        except FileNotFoundError as error:
            raise ConfigurationError(f"There is no snapshot in {directory}.") from error
        try:
            header = msgspec.json.decode(header_bytes, type=_Header)
        except msgspec.DecodeError as error:
            raise damaged(directory, "its header cannot be read") from error
        if header.format != 1 or set(header.contents) != set(Population):
            raise damaged(directory, "its header is not complete")
        if header.schema_digest != schema.digest:
            raise ConfigurationError(
                f"The snapshot in {directory} was taken under schema {header.schema_digest[:16]}, "
                f"this is schema {schema.digest[:16]}: take a new snapshot."
            )
        snapshot = Snapshot(
            directory=directory,
            digest=digest("fedscore/snapshot/1", header_bytes),
            not_held=frozenset(header.not_held),
            split_digest=Digest(header.split_digest),
            _features=len(schema.grids),
            _many=schema.rows_per_person is RowsPerPerson.MANY,
            _contents=MappingProxyType(header.contents),
        )
        for population, contents in header.contents.items():
            if any(not 0 < rows <= BLOCK_ROWS for rows in contents.block_rows) or (
                sum(contents.block_rows) != contents.rows
            ):
                raise damaged(directory, "the index of its blocks contradicts itself")
            file = snapshot.file(population)
            if not file.is_whole():
                raise damaged(directory, f"{file.path.name} is not {file.size} bytes")
        return snapshot

    def people(self, population: Population) -> int:
        """Returns how many people a population has. Exact: never leaves the institution."""
        return self._contents[population].people

    def rows(self, population: Population) -> int:
        """Returns how many rows a population has. Exact: never leaves the institution."""
        return self._contents[population].rows

    def file(self, population: Population) -> BlockFile:
        """Returns a population's blocks, codes in the order of `Schema.grids`.

        A code from the number of the grid's cells on contributes nothing; 255 is NOT_HELD.
        """
        return BlockFile(
            path=_blocks_path(self.directory, population),
            block_rows=self._contents[population].block_rows,
            width=self._features,
            many=self._many,
        )

    def blocks(self, population: Population) -> Iterator[Block]:
        """Yields the blocks of a population in order, one in memory at a time.

        Raises:
            DataError: the file was shortened or deleted since the snapshot was opened.
        """
        return self.file(population).blocks()

    def verify(self) -> None:
        """Returns only if the contents are, byte for byte, what was read from the table.

        Raises:
            DataError: they are not.
        """
        for population, contents in self._contents.items():
            with _blocks_path(self.directory, population).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != contents.sha256:
                    raise damaged(self.directory, f"{population} people have changed")

    def delete(self) -> None:
        """Deletes the snapshot from disk; done when its plan ends or consent is withdrawn.

        Raises:
            ConfigurationError: the disk refuses.
        """
        with errors_of(self.directory):
            shutil.rmtree(self.directory)


def take_snapshot(
    schema: Schema,
    table_path: Path,
    *,
    not_held: frozenset[str],
    split: Split,
    directory: Path,
    mapping: Mapping[str, str] = _SAME_NAMES,
) -> Snapshot:
    """Reads a table once, checks its contract, and returns it as a snapshot.

    Args:
        schema: the contract.
        table_path: a .parquet or .csv file.
        not_held: features that this institution does not have.
        split: the federation's division of people.
        directory: where the snapshot shall be; must not exist, its parent must.
        mapping: schema column -> table column, where the names differ.

    Returns:
        The snapshot. Its directory appears complete or not at all.

    Raises:
        ConfigurationError: the directory is taken or has no parent, or `not_held` or `mapping`
            do not fit, or the disk refuses.
        DataError: the table breaks its contract. Nothing is left on disk.
    """
    reader = ContractReader(schema, table_path, not_held=not_held, split=split, mapping=mapping)
    return write_snapshot(
        schema, reader.batches, not_held=not_held, split=split, directory=directory
    )


def write_snapshot(
    schema: Schema,
    batches: Callable[[Path], Iterable[CodedBatch]],
    *,
    not_held: frozenset[str],
    split: Split,
    directory: Path,
) -> Snapshot:
    """Writes rows that are codes already, and returns them as a snapshot.

    Args:
        schema: the contract that they keep.
        batches: called once with a private scratch directory.
        not_held: features that are not held.
        split: by which the rows were divided.
        directory: as in `take_snapshot`.

    Raises:
        ConfigurationError: the directory is taken or has no parent, or the disk refuses.
    """
    if directory.exists():
        raise ConfigurationError(f"There already is a snapshot in {directory}.")
    if not directory.parent.is_dir():
        raise ConfigurationError(f"There is no directory {directory.parent} to hold the snapshot.")
    unfinished = directory.with_name(directory.name + ".unfinished")
    with errors_of(directory), ExitStack() as on_failure:
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
        unfinished.mkdir(mode=0o700)
        on_failure.callback(shutil.rmtree, unfinished)
        header = _Header(
            format=1,
            schema_digest=schema.digest,
            split_digest=split.digest,
            not_held=tuple(sorted(not_held)),
            contents=_write_blocks(schema, batches(unfinished), unfinished),
        )
        with create_private(unfinished / _HEADER_NAME) as file:
            file.write(canonical_json(msgspec.to_builtins(header)))
            _make_durable(file)
        unfinished.rename(directory)
        on_failure.pop_all()
    return Snapshot.open(directory, schema)


def _write_blocks(
    schema: Schema, batches: Iterable[CodedBatch], directory: Path
) -> dict[Population, _Contents]:
    many = schema.rows_per_person is RowsPerPerson.MANY
    with ExitStack() as files:
        writers = {
            population: _BlockWriter(
                files.enter_context(create_private(_blocks_path(directory, population))), many
            )
            for population in Population
        }
        for batch in batches:
            writers[Population.TRAINED].add(batch, ~batch.held_out)
            writers[Population.HELD_OUT].add(batch, batch.held_out)
        return {population: writer.finish() for population, writer in writers.items()}


class _BlockWriter:
    """Cuts the rows of one population into blocks at the same places however they arrive."""

    def __init__(self, file: IO[bytes], many: bool) -> None:
        self._file = file
        self._many = many
        self._sha256 = hashlib.sha256()
        self._block_rows: list[int] = []
        self._people = 0
        self._waiting: list[NDArray[np.uint8]] = []
        self._rows_waiting = 0

    def add(self, batch: CodedBatch, chosen: NDArray[np.bool_]) -> None:
        """Appends the rows of a batch that are true in bool[rows]."""
        rows = np.flatnonzero(chosen)
        starts = batch.starts[rows]
        self._people += int(np.count_nonzero(starts))
        parts = [batch.codes[:, rows], batch.bad[rows][np.newaxis]]
        if self._many:
            parts.append(starts.astype(np.uint8)[np.newaxis])
        self._waiting.append(np.concatenate(parts))
        self._rows_waiting += rows.size
        if self._rows_waiting > BLOCK_ROWS:
            self._write_full_blocks()

    def finish(self) -> _Contents:
        """Writes what is left, makes it durable, and returns the population's index."""
        if self._rows_waiting:
            self._write(np.concatenate(self._waiting, axis=1))
        _make_durable(self._file)
        return _Contents(
            people=self._people,
            rows=sum(self._block_rows),
            block_rows=tuple(self._block_rows),
            sha256=self._sha256.hexdigest(),
        )

    def _write_full_blocks(self) -> None:
        rows = np.concatenate(self._waiting, axis=1)
        while rows.shape[1] > BLOCK_ROWS:
            end = BLOCK_ROWS
            if self._many:  # the last person that starts up to here may not end here
                end = int(np.flatnonzero(rows[-1, : BLOCK_ROWS + 1])[-1])
            self._write(rows[:, :end])
            rows = rows[:, end:]
        self._waiting = [rows.copy()]
        self._rows_waiting = rows.shape[1]

    def _write(self, rows: NDArray[np.uint8]) -> None:
        content = rows.tobytes()
        self._file.write(content)
        self._sha256.update(content)
        self._block_rows.append(rows.shape[1])


def _blocks_path(directory: Path, population: Population) -> Path:
    return directory / f"{population}.blocks"


def _make_durable(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
