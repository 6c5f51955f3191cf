"""One consistent, checked read of an institution's table, kept as codes until the plan ends.

Rounds stream a snapshot, never the table: blocks of at most 65,536 rows, one byte a value, read in
order so that memory stays bounded. A snapshot holds no person keys. Its directory holds

    snapshot.json       the header: what was read, how many, the rows of each block, SHA-256s
    trained.blocks      the blocks of the trained people, one after the other
    held_out.blocks     the blocks of the held-out people

A block of R rows and F features is (F + 1) R bytes: the codes of the first feature for all rows,
of the second, ..., then the outcome (1 = bad). Where people may have many rows, R bytes follow,
1 where a person's first row stands, and blocks end where a person ends.

**Every byte of a block is legal.** Codes that name no cell contribute nothing, any outcome is read
by its lowest bit, a block always starts a person: nothing that a row holds, and no damaged bit, can
stop a round.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients.person_keys import create_private
from clients.table import CodedBatch, ContractReader
from federation.canonical import Digest, canonical_json, digest
from federation.errors import ConfigurationError, DataError
from federation.population import Split
from federation.privacy.units import Population
from federation.schema import RowsPerPerson, Schema

BLOCK_ROWS: Final = 65_536
"""Most rows of a block."""

_HEADER_NAME = "snapshot.json"
_SAME_NAMES: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Up to 65,536 rows of one population; people are whole.

    Attributes:
        codes: uint8[features, rows], in the order of `Schema.grids`. A code from the number of
            the grid's cells on contributes nothing; 255 is NOT_HELD.
        bad: uint8[rows], 1 where the outcome is bad, else 0.
        person_starts: int64[people], ascending from 0, the first row of each person; None where
            each row is a person.
    """

    codes: NDArray[np.uint8]
    bad: NDArray[np.uint8]
    person_starts: NDArray[np.int64] | None


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
            raise _damaged(directory, "its header cannot be read") from error
        if header.format != 1 or set(header.contents) != set(Population):
            raise _damaged(directory, "its header is not complete")
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
                raise _damaged(directory, "the index of its blocks contradicts itself")
            path = _blocks_path(directory, population)
            expected = contents.rows * snapshot._row_bytes
            if not path.is_file() or path.stat().st_size != expected:
                raise _damaged(directory, f"{path.name} is not {expected} bytes")
        return snapshot

    def people(self, population: Population) -> int:
        """Returns how many people a population has. Exact: never leaves the institution."""
        return self._contents[population].people

    def rows(self, population: Population) -> int:
        """Returns how many rows a population has. Exact: never leaves the institution."""
        return self._contents[population].rows

    def blocks(self, population: Population) -> Iterator[Block]:
        """Yields the blocks of a population in order, one in memory at a time.

        Raises:
            DataError: the file was shortened or deleted since the snapshot was opened.
        """
        path = _blocks_path(self.directory, population)
        try:
            with path.open("rb", buffering=0) as file:
                for rows in self._contents[population].block_rows:
                    size = rows * self._row_bytes
                    content = np.fromfile(file, np.uint8, size)
                    if content.size != size:
                        raise _damaged(self.directory, f"{population} people end too early")
                    yield self._block(content.reshape(-1, rows))
        except OSError as error:
            raise _damaged(self.directory, f"{population} people cannot be read") from error

    def verify(self) -> None:
        """Returns only if the contents are, byte for byte, what was read from the table.

        Raises:
            DataError: they are not.
        """
        for population, contents in self._contents.items():
            with _blocks_path(self.directory, population).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != contents.sha256:
                    raise _damaged(self.directory, f"{population} people have changed")

    def delete(self) -> None:
        """Deletes the snapshot from disk; done when its plan ends or consent is withdrawn."""
        shutil.rmtree(self.directory)

    @property
    def _row_bytes(self) -> int:
        return self._features + 1 + self._many

    def _block(self, content: NDArray[np.uint8]) -> Block:
        starts = None
        if self._many:
            content[-1, 0] = 1
            starts = np.flatnonzero(content[-1]).astype(np.int64)
        codes, bad = content[: self._features], content[self._features] & 1
        return Block(codes=codes, bad=bad, person_starts=starts)


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
            do not fit.
        DataError: the table breaks its contract. Nothing is left on disk.
    """
    if directory.exists():
        raise ConfigurationError(f"There already is a snapshot in {directory}.")
    if not directory.parent.is_dir():
        raise ConfigurationError(f"There is no directory {directory.parent} to hold the snapshot.")
    reader = ContractReader(schema, table_path, not_held=not_held, split=split, mapping=mapping)
    unfinished = directory.with_name(directory.name + ".unfinished")
    with ExitStack() as on_failure:
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
        unfinished.mkdir(mode=0o700)
        on_failure.callback(shutil.rmtree, unfinished)
        header = _Header(
            format=1,
            schema_digest=schema.digest,
            split_digest=split.digest,
            not_held=tuple(sorted(not_held)),
            contents=_write_blocks(schema, reader, unfinished),
        )
        with create_private(unfinished / _HEADER_NAME) as file:
            file.write(canonical_json(msgspec.to_builtins(header)))
            _make_durable(file)
        unfinished.rename(directory)
        on_failure.pop_all()
    return Snapshot.open(directory, schema)


def _write_blocks(
    schema: Schema, reader: ContractReader, directory: Path
) -> dict[Population, _Contents]:
    many = schema.rows_per_person is RowsPerPerson.MANY
    with ExitStack() as files:
        writers = {
            population: _BlockWriter(
                files.enter_context(create_private(_blocks_path(directory, population))), many
            )
            for population in Population
        }
        for batch in reader.batches(directory):
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


def _damaged(directory: Path, what: str) -> DataError:
    return DataError(
        f"The snapshot in {directory} is damaged: {what}. Delete it and take a new one."
    )
