"""The trained people once more, as the packed bins of one training: what its rounds stream.

Made from the snapshot when a question STEP first names the bins, and kept in its directory as
`<digest of the bins>.packed`, private and deleted with it. Other bins replace it. It has the
snapshot's blocks; the codes are 2 bytes for each pack of features (`federation.model.step`). It is
never synchronised with the disk: a process that starts again makes it anew.

**Every byte is legal** here too: whatever a number is, it names at most one cell of each column.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients.blocks import Block, BlockFile
from clients.person_keys import create_private
from clients.snapshot import Snapshot
from federation.canonical import digest
from federation.door import Contribution
from federation.errors import DataError
from federation.grid import Role
from federation.model.scorecard import AdditiveCard
from federation.model.step import Packing, Step
from federation.privacy.units import Population
from federation.schema import Schema

_SUFFIX: Final = ".packed"


def step_contributions(
    schema: Schema, snapshot: Snapshot, card: AdditiveCard
) -> Iterator[Contribution]:
    """Yields what the trained people bring to the question STEP, block by block.

    Args:
        schema: of the snapshot.
        snapshot: packed people are made in its directory if it has none for the card's bins.
        card: fits the schema; at which the residuals are asked.

    Raises:
        DataError: a file was damaged, or there is no room for the packed people.
    """
    packing = packing_of(schema, snapshot, card)
    step = Step.at(card, packing)
    for block in packed_people(schema, snapshot, packing).blocks():
        yield step.contribution(numbers_of(block), block.bad, block.person_starts)


def packing_of(schema: Schema, snapshot: Snapshot, card: AdditiveCard) -> Packing:
    """Returns how the card's bins are packed for the features that the snapshot has."""
    scored = [grid.name for grid in schema.scored_grids]
    not_held = (place for place, name in enumerate(scored) if name in snapshot.not_held)
    return Packing.of(card, frozenset(not_held))


def packed_people(schema: Schema, snapshot: Snapshot, packing: Packing) -> BlockFile:
    """Returns the trained people's packed bins, made anew unless they are there already.

    Raises:
        DataError: the snapshot is damaged, or there is no room on the disk.
    """
    name = digest("fedscore/packed/1", msgspec.json.encode(packing))
    trained = snapshot.file(Population.TRAINED)
    packed = BlockFile(
        path=snapshot.directory / f"{name}{_SUFFIX}",
        block_rows=trained.block_rows,
        width=2 * len(packing.packs),
        many=trained.many,
    )
    if packed.is_whole():
        return packed
    scored = schema.places(Role.SCORED)
    forget_packed(snapshot)  # of other bins
    unfinished = packed.path.with_suffix(f"{_SUFFIX}.unfinished")
    try:
        _write(unfinished, (_packed(block, scored, packing) for block in trained.blocks()))
        unfinished.rename(packed.path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise DataError(
            f"Cannot keep {packed.size:,} bytes of packed people in {snapshot.directory}: "
            f"{error.strerror}."
        ) from error
    return packed


def forget_packed(snapshot: Snapshot) -> None:
    """Deletes packed people that an earlier process left: a crash may have left half of them.

    Raises:
        OSError: the disk refuses.
    """
    for old in snapshot.directory.glob(f"*{_SUFFIX}*"):
        old.unlink()


def numbers_of(block: Block) -> NDArray[np.uint16]:
    """Returns uint16[packs, rows], the numbers of a block of packed people."""
    return block.codes.reshape(-1).view(np.uint16).reshape(-1, block.bad.size)


def _packed(block: Block, scored: list[int], packing: Packing) -> bytes:
    numbers = packing.pack(block.codes[scored])
    codes = numbers.reshape(-1).view(np.uint8).reshape(-1, block.bad.size)
    return Block(codes=codes, bad=block.bad, person_starts=block.person_starts).to_bytes()


def _write(path: Path, blocks: Iterator[bytes]) -> None:
    with create_private(path) as file:
        for block in blocks:
            file.write(block)
