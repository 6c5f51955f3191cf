"""Blocks of coded rows on disk, streamed in order, one in memory at a time.

A block of R rows and width W is W R bytes of codes, R bytes of outcomes and, where people may have
many rows, R bytes that are 1 where a person's first row stands. Blocks end where a person ends.

**Every byte of a block is legal.** Any outcome is read by its lowest bit, a block always starts a
person: no damaged bit can stop a round.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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


def damaged(directory: Path, what: str) -> DataError:
    """Returns the error of a snapshot whose files are not what was written."""
    return DataError(
        f"The snapshot in {directory} is damaged: {what}. Delete it and take a new one."
    )
