"""Blocks of coded rows on disk, streamed in order, one in memory at a time.

A block of R rows and width W is W R bytes of codes, R bytes of outcomes and, where people may have
many rows, R bytes that are 1 where a person's first row stands. Blocks end where a person ends.

**Every byte of a block is legal.** Any outcome is read by its lowest bit, a block always starts a
person: no damaged bit can stop a round.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import DataError

BLOCK_ROWS: Final = 65_536
"""Most rows of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Up to 65,536 rows of one population; people are whole.

    Attributes:
        codes: uint8[width, rows], contiguous.
        bad: uint8[rows], 1 where the outcome is bad, else 0.
        person_starts: int64[people], ascending from 0, the first row of each person; None where
            each row is a person.
    """

    codes: NDArray[np.uint8]
    bad: NDArray[np.uint8]
    person_starts: NDArray[np.int64] | None

    def to_bytes(self) -> bytes:
        """Returns what stands on disk."""
        parts = [self.codes.tobytes(), self.bad.tobytes()]
        if self.person_starts is not None:
            starts = np.zeros(self.bad.size, dtype=np.uint8)
            starts[self.person_starts] = 1
            parts.append(starts.tobytes())
        return b"".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFile:
    """A file of blocks of known lengths.

    Attributes:
        path: in a directory that is private to the institution.
        block_rows: the rows of each block.
        width: bytes of codes of a row.
        many: whether people may have many rows.
    """

    path: Path
    block_rows: tuple[int, ...]
    width: int
    many: bool

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(self.block_rows) * self._row_bytes

    def is_whole(self) -> bool:
        """Returns whether the file is there, in its length."""
        return self.path.is_file() and self.path.stat().st_size == self.size

    def blocks(self) -> Iterator[Block]:
        """Yields the blocks in order, one in memory at a time.

        Raises:
            DataError: the file was shortened or deleted.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                for rows in self.block_rows:
                    size = rows * self._row_bytes
                    content = np.fromfile(file, np.uint8, size)
                    if content.size != size:
                        raise damaged(
                            self.path.parent, f"the rows of {self.path.name} end too early"
                        )
                    yield self._block(content.reshape(-1, rows))
        except OSError as error:
            raise damaged(self.path.parent, f"{self.path.name} cannot be read") from error

    @property
    def _row_bytes(self) -> int:
        return self.width + 1 + self.many

    def _block(self, content: NDArray[np.uint8]) -> Block:
        starts = None
        if self.many:
            content[-1, 0] = 1
            starts = np.flatnonzero(content[-1]).astype(np.int64)
        codes, bad = content[: self.width], content[self.width] & 1
        return Block(codes=codes, bad=bad, person_starts=starts)


class BlockWriter:
    """Cuts rows into blocks at the same places however they arrive."""

    def __init__(self, file: IO[bytes], *, many: bool) -> None:
        """Starts a file that is open for writing and empty."""
        self._file = file
        self._many = many
        self._sha256 = hashlib.sha256()
        self._block_rows: list[int] = []
        self._waiting: list[NDArray[np.uint8]] = []
        self._rows_waiting = 0

    def add(
        self, codes: NDArray[np.uint8], bad: NDArray[np.uint8], starts: NDArray[np.bool_]
    ) -> None:
        """Appends rows.

        Args:
            codes: uint8[width, rows].
            bad: uint8[rows].
            starts: bool[rows], true where a person's first row stands.
        """
        parts = [codes, bad[np.newaxis]]
        if self._many:
            parts.append(starts.astype(np.uint8)[np.newaxis])
        self._waiting.append(np.concatenate(parts))
        self._rows_waiting += bad.size
        if self._rows_waiting > BLOCK_ROWS:
            self._write_full_blocks()

    def finish(self) -> tuple[tuple[int, ...], str]:
        """Writes what is left; returns the rows of each block and the SHA-256 of the file."""
        if self._rows_waiting:
            self._write(np.concatenate(self._waiting, axis=1))
        return tuple(self._block_rows), self._sha256.hexdigest()

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


def damaged(directory: Path, what: str) -> DataError:
    """Returns the error of a snapshot whose files are not what was written."""
    return DataError(
        f"The snapshot in {directory} is damaged: {what}. Delete it and take a new one."
    )
