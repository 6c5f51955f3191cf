"""One consistent, checked read of an institution's table, kept as codes until the plan ends.

Rounds stream a snapshot, never the table: blocks of at most 65,536 rows, one byte a value, read in
order so that memory stays bounded. A snapshot holds no person keys. Its directory holds

    snapshot.json       the header: what was read, how many, the rows of each block, SHA-256s
    trained.blocks      the blocks of the trained people, one after the other
    trained.people      8 bytes for each of them: a keyed hash (`clients.withdrawals`)
    held_out.blocks     the same of the held-out people
    held_out.people

The codes of a block (`clients.blocks`) are those of the first feature for all rows, of the second,
and so on; a code that names no cell contributes nothing. Where nobody can withdraw there are no
hashes. Beside these files stands what a training makes of them for its rounds
(`clients.packed_people`).

A withdrawal rewrites the files of a population under new names (`trained.1.blocks`) and then
replaces the header, which names them: a process that is killed leaves the old snapshot or the new.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients.blocks import BLOCK_ROWS, Block, BlockFile, damaged
from clients.left_out import NOBODY_LEFT_OUT, LeftOut
from clients.person_keys import create_private
from clients.population_files import (
    Contents,
    PopulationWriter,
    hashes_in,
    make_durable,
    path_of,
    write_populations,
)
from clients.sources import TableSource, opened
from clients.table import CodedBatch, ContractReader
from clients.withdrawals import Withdrawals, Withdrawn
from federation.canonical import Digest, canonical_json, digest
from federation.errors import ConfigurationError
from federation.population import Split
from federation.privacy.units import Population
from federation.schema import ROW_AS_KEY, RowsPerPerson, Schema

_HEADER_NAME: Final = "snapshot.json"
_SAME_NAMES: Final[Mapping[str, str]] = MappingProxyType({})


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in snapshot.json."""

    format: int
    schema_digest: str
    split_digest: str
    not_held: tuple[str, ...]
    withdrawn: str
    contents: dict[Population, Contents]


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
    _header: _Header

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
        if header.format != 2 or set(header.contents) != set(Population):
            raise damaged(directory, "its header is not complete")
        if header.schema_digest != schema.digest:
            raise ConfigurationError(
                f"The snapshot in {directory} was taken under schema {header.schema_digest[:16]}, "
                f"this is schema {schema.digest[:16]}: take a new snapshot."
            )
        snapshot = Snapshot(
            directory=directory,
            digest=_digest_of(header_bytes),
            not_held=frozenset(header.not_held),
            split_digest=Digest(header.split_digest),
            _features=len(schema.grids),
            _many=schema.rows_per_person is RowsPerPerson.MANY,
            _header=header,
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
        return self._header.contents[population].people

    def rows(self, population: Population) -> int:
        """Returns how many rows a population has. Exact: never leaves the institution."""
        return self._header.contents[population].rows

    def file(self, population: Population) -> BlockFile:
        """Returns a population's blocks, codes in the order of `Schema.grids`.

        A code from the number of the grid's cells on contributes nothing; 255 is NOT_HELD.
        """
        return BlockFile(
            path=self._path(population, ".blocks"),
            block_rows=self._header.contents[population].block_rows,
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
        for population, contents in self._header.contents.items():
            self._verify(self._path(population, ".blocks"), contents.sha256)
            if contents.people_sha256:
                self._verify(self._path(population, ".people"), contents.people_sha256)

    def _verify(self, path: Path, expected: str) -> None:
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise damaged(self.directory, f"{path.name} cannot be read") from error
        if found != expected:
            raise damaged(self.directory, f"{path.name} has changed")

    def is_without(self, withdrawals: Withdrawals) -> bool:
        """Returns whether nobody has withdrawn since it was taken or last rewritten.

        Raises:
            ConfigurationError: who has withdrawn cannot be read.
        """
        return withdrawals.read().digest == self._header.withdrawn

    def after(self, withdrawals: Withdrawals) -> "Snapshot":
        """Returns the snapshot without anybody who has withdrawn by now, on disk as well.

        To be asked before each question: it costs next to nothing unless somebody has withdrawn
        since the last time. A process that is killed leaves the old snapshot or the new one, and
        asking again completes what it left.

        Raises:
            ConfigurationError: who has withdrawn cannot be read, this snapshot cannot take people
                out, or the disk refused. Answer nothing.
            DataError: the snapshot is damaged.
        """
        withdrawn = withdrawals.read()
        if withdrawn.digest == self._header.withdrawn:
            self._clear()
            return self
        if not self._header.withdrawn:
            raise ConfigurationError(
                f"The snapshot in {self.directory} was taken without regard to withdrawals: take "
                "a new one."
            )
        try:
            after = self._rewritten(withdrawn)
            after._clear()
        except OSError as error:
            raise ConfigurationError(
                f"Cannot take people out of the snapshot in {self.directory}: {error.strerror}. "
                "Free some space; until then no question is answered."
            ) from error
        return after

    def _rewritten(self, withdrawn: Withdrawn) -> "Snapshot":
        try:
            contents = {
                population: self._population_without(population, withdrawn.people)
                for population in Population
            }
        except OSError:
            self._clear()  # what was written so far: it may be all the space there was
            raise
        for packed in self.directory.glob("*.packed*"):  # made from people who may go now
            packed.unlink()
        header = msgspec.structs.replace(
            self._header, contents=contents, withdrawn=withdrawn.digest
        )
        return replace(self, digest=_write_header(self.directory, header), _header=header)

    def _population_without(
        self, population: Population, withdrawn: NDArray[np.uint64]
    ) -> Contents:
        """Writes a population anew if anybody of it goes; returns its place in the header."""
        contents = self._header.contents[population]
        if not contents.people_sha256:
            return contents
        people = self._path(population, ".people")
        self._verify(people, contents.people_sha256)
        if not any(np.isin(hashes, withdrawn).any() for hashes in hashes_in(people)):
            return contents
        self._verify(self._path(population, ".blocks"), contents.sha256)
        with ExitStack() as files:
            writer = PopulationWriter(
                self.directory,
                population,
                rewritten=contents.rewritten + 1,
                many=self._many,
                keyed=True,
                files=files,
            )
            file = files.enter_context(people.open("rb"))
            for block in self.blocks(population):
                starts = _starts(block)
                hashes = np.fromfile(file, "<u8", int(np.count_nonzero(starts)))
                goes = np.isin(hashes, withdrawn)
                rows = np.flatnonzero(~goes[np.cumsum(starts) - 1])
                writer.add(block.codes[:, rows], block.bad[rows], starts[rows], hashes[~goes])
            return writer.finish()

    def _clear(self) -> None:
        """Deletes files that a withdrawal left behind."""
        named = {_HEADER_NAME} | {
            self._path(population, suffix).name
            for population in Population
            for suffix in (".blocks", ".people")
        }
        for path in self.directory.iterdir():
            if path.name not in named and path.suffix in (".blocks", ".people", ".new"):
                path.unlink()

    def _path(self, population: Population, suffix: str) -> Path:
        rewritten = self._header.contents[population].rewritten
        return path_of(self.directory, population, rewritten, suffix)

    def delete(self) -> None:
        """Deletes the snapshot from disk; done when its plan ends or consent is withdrawn."""
        shutil.rmtree(self.directory)


def take_snapshot(
    schema: Schema,
    table: TableSource,
    *,
    not_held: frozenset[str],
    split: Split,
    directory: Path,
    mapping: Mapping[str, str] = _SAME_NAMES,
    left_out: LeftOut = NOBODY_LEFT_OUT,
) -> Snapshot:
    """Reads a table once, checks its contract, and returns it as a snapshot.

    Args:
        schema: the contract.
        table: a .parquet or .csv file, or a table of PostgreSQL.
        not_held: features that this institution does not have.
        split: the federation's division of people.
        directory: where the snapshot shall be; must not exist, its parent must.
        mapping: schema column -> table column, where the names differ.
        left_out: who of the table does not enter.

    Returns:
        The snapshot. Its directory appears complete or not at all.

    Raises:
        ConfigurationError: the directory is taken, has no parent or no space, `not_held` or
            `mapping` do not fit, or the database refuses or is gone.
        DataError: the table breaks its contract, or nobody is left. Nothing is left on disk.
    """
    key = None if schema.person_key == ROW_AS_KEY else schema.person_key
    with opened(table, key and mapping.get(key, key)) as found:
        reader = ContractReader(
            schema, found, not_held=not_held, split=split, mapping=mapping, left_out=left_out
        )
        return write_snapshot(
            schema,
            reader.batches,
            not_held=not_held,
            split=split,
            directory=directory,
            withdrawn=left_out.withdrawn,
        )


def write_snapshot(
    schema: Schema,
    batches: Callable[[Path], Iterable[CodedBatch]],
    *,
    not_held: frozenset[str],
    split: Split,
    directory: Path,
    withdrawn: Withdrawn | None = None,
) -> Snapshot:
    """Writes rows that are codes already, and returns them as a snapshot.

    Args:
        schema: the contract that they keep.
        batches: called once with a private scratch directory.
        not_held: features that are not held.
        split: by which the rows were divided.
        directory: as in `take_snapshot`.
        withdrawn: who was left out; None where nobody can withdraw.

    Raises:
        ConfigurationError: the directory is taken, has no parent or no space.
    """
    if directory.exists():
        raise ConfigurationError(f"There already is a snapshot in {directory}.")
    if not directory.parent.is_dir():
        raise ConfigurationError(f"There is no directory {directory.parent} to hold the snapshot.")
    unfinished = directory.with_name(directory.name + ".unfinished")
    try:
        with ExitStack() as on_failure:
            shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
            unfinished.mkdir(mode=0o700)
            on_failure.callback(shutil.rmtree, unfinished)
            header = _Header(
                format=2,
                schema_digest=schema.digest,
                split_digest=split.digest,
                not_held=tuple(sorted(not_held)),
                withdrawn="" if withdrawn is None else withdrawn.digest,
                contents=write_populations(
                    batches(unfinished),
                    unfinished,
                    many=schema.rows_per_person is RowsPerPerson.MANY,
                    keyed=withdrawn is not None and schema.person_key != ROW_AS_KEY,
                ),
            )
            _write_header(unfinished, header)
            unfinished.rename(directory)
            on_failure.pop_all()
    except OSError as error:
        raise ConfigurationError(f"Cannot write {directory}: {error.strerror}.") from error
    return Snapshot.open(directory, schema)


def _write_header(directory: Path, header: _Header) -> Digest:
    """Puts a header in the place of another in one step; returns the snapshot's digest."""
    content = canonical_json(msgspec.to_builtins(header))
    draft = directory / f"{_HEADER_NAME}.new"
    draft.unlink(missing_ok=True)  # left by a process that was killed
    with create_private(draft) as file:
        file.write(content)
        make_durable(file)
    draft.replace(directory / _HEADER_NAME)
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return _digest_of(content)


def _starts(block: Block) -> NDArray[np.bool_]:
    """Returns bool[rows], true where a person's first row stands."""
    if block.person_starts is None:
        return np.ones(block.bad.size, np.bool_)
    starts = np.zeros(block.bad.size, np.bool_)
    starts[block.person_starts] = True
    return starts


def _digest_of(header: bytes) -> Digest:
    return digest("fedscore/snapshot/2", header)
