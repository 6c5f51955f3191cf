"""How an institution's configuration says that its table is read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clients.configuration import Configuration
from clients.left_out import LeftOut
from clients.snapshot import Snapshot, take_snapshot
from clients.sources import opened
from clients.table import CodedBatch, ContractReader
from clients.withdrawals import Withdrawals
from federation.population import Split
from federation.schema import ROW_AS_KEY, Schema

_SECONDS_A_DAY: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Takes snapshots of one institution's table.

    Attributes:
        configuration: its own.
        schema: that the table keeps.
        split: of the federation.
        clock: whole seconds since 1970; its day decides which rows are too old.
        withdrawals: who has withdrawn; None where nobody can, as in a simulation.
    """

    configuration: Configuration
    schema: Schema
    split: Split
    clock: Callable[[], int]
    withdrawals: Withdrawals | None

    def __call__(self, directory: Path) -> Snapshot:
        """Returns a new snapshot.

        Args:
            directory: where it shall be; must not exist, its parent must.

        Raises:
            ConfigurationError: as `take_snapshot`, or who has withdrawn cannot be read.
            DataError: the table breaks its contract, or nobody is left.
        """
        found = self.configuration
        return take_snapshot(
            self.schema,
            found.source,
            not_held=frozenset(found.not_held),
            split=self.split,
            directory=directory,
            mapping=found.columns,
            left_out=self._left_out(),
        )

    def batches(self, scratch: Path) -> Iterator[CodedBatch]:
        """Yields what a snapshot would hold; the table is sound if this ends without an error.

        Args:
            scratch: an existing private directory, left as it was found.

        Raises:
            ConfigurationError: as for a snapshot.
            DataError: likewise.
        """
        found, key = self.configuration, self.schema.person_key
        order_by = None if key == ROW_AS_KEY else found.columns.get(key, key)
        with opened(found.source, order_by) as table:
            yield from ContractReader(
                self.schema,
                table,
                not_held=frozenset(found.not_held),
                split=self.split,
                mapping=found.columns,
                left_out=self._left_out(),
            ).batches(scratch)

    def _left_out(self) -> LeftOut:
        found = self.configuration
        return LeftOut(
            consent=found.consent,
            retention=found.retention,
            withdrawn=None if self.withdrawals is None else self.withdrawals.read(),
            today=self.clock() // _SECONDS_A_DAY,
        )
