"""An institution's table for training: people, outcome and features, streamed and coded.

The whole table is looked at before anything is refused, and one error lists every broken rule
with its count and the first few rows. **No message quotes a value.** Columns that the schema does
not name are not read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clients.columns import (
    ROWS_NAMED,
    CheckedColumns,
    FeatureColumns,
    Holds,
    Table,
    check_not_held,
    key_text,
)
from clients.left_out import LeftOut, RowRules, Rows, those_who_enter
from clients.person_keys import HashSpill, PeopleOfBatch, PeopleStream, repeated_rows
from federation.errors import ConfigurationError
from federation.population import Split
from federation.schema import ROW_AS_KEY, RowsPerPerson, Schema

_OUTCOME_NULL = "the outcome must not be null"
_OUTCOME_NOT_BINARY = "the outcome must be 1 (bad) or 0 (good)"
_OUTCOME_ONE_CLASS = "the outcome is the same in every row: nothing can be learned from it"
_NOBODY_LEFT = "consent, retention and withdrawals together leave nobody"
_ONE_CLASS_LEFT = (
    "the outcome is the same for everybody whom consent and retention do not leave out"
)
_PERSON_TWICE = "a person has a second row, but the schema says rows_per_person = one"
_NOT_ADJACENT = (
    "a person's rows are not next to each other: sort the table by the person key and take a new "
    "snapshot"
)
_TOO_MANY_ROWS = "a person has more than 10,000 rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedBatch:
    """Rows of a table as the codes of the public grids.

    Attributes:
        codes: uint8[features, rows], features in the order of `Schema.grids`.
        bad: uint8[rows], 1 where the outcome is bad.
        starts: bool[rows], true where a person's first row stands.
        held_out: bool[rows], equal for all rows of a person.
        people: uint64[people], keyed hashes (`clients.withdrawals`) of the persons who start in
            these rows; None where nobody can withdraw.
    """

    codes: NDArray[np.uint8]
    bad: NDArray[np.uint8]
    starts: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    people: NDArray[np.uint64] | None = None


class ContractReader:
    """Reads one table once, checked and coded. `batches` is the main path."""

    def __init__(
        self,
        schema: Schema,
        table: Table,
        *,
        not_held: frozenset[str],
        split: Split,
        mapping: Mapping[str, str],
        left_out: LeftOut,
    ) -> None:
        """Looks at the columns of a table.

        Args:
            schema: the contract.
            table: open.
            not_held: features that this institution does not have; they are not read.
            split: the federation's division of people.
            mapping: schema column -> table column, where the names differ.
            left_out: who does not enter; the contract is checked for all rows.

        Raises:
            ConfigurationError: `not_held` or `mapping` do not fit the schema.
        """
        check_not_held(schema, not_held)
        _check_mapping(schema, not_held, mapping)
        self._schema = schema
        self._split = split
        self._left_out = left_out
        self._columns = CheckedColumns(table, {**mapping, **left_out.columns})
        if schema.person_key != ROW_AS_KEY:
            self._columns.require(schema.person_key, Holds.TEXT_OR_INTEGERS)
        self._columns.require(schema.outcome.column, Holds.NUMBERS_OR_BOOLEANS)
        self._features = FeatureColumns(self._columns, schema.grids, not_held)
        self._rules = RowRules(self._columns, left_out)

    def batches(self, scratch: Path) -> Iterator[CodedBatch]:
        """Yields all who enter, in order. Valid only once it has ended without an error.

        A person's rows stand in one batch.

        Args:
            scratch: an existing private directory; hashes of keys wait in it, and it is left as it
                was found.

        Raises:
            DataError: after the last row, if any rule was broken anywhere.
        """
        hashes = HashSpill(scratch)
        try:
            yield from self._batches(hashes)
        finally:
            hashes.close()

    def _batches(self, hashes: HashSpill) -> Iterator[CodedBatch]:
        outcome, violations = self._schema.outcome.column, self._columns.violations
        rows_entered, bad_entered = 0, 0
        many = self._schema.rows_per_person is RowsPerPerson.MANY
        for rows in those_who_enter(self._rows(hashes), self._left_out, many=many):
            rows_entered += len(rows)
            bad_entered += int(rows.bad.sum())
            can_withdraw = self._left_out.withdrawn is not None and not self._people_are_rows
            yield CodedBatch(
                codes=rows.codes,
                bad=rows.bad,
                starts=rows.starts,
                held_out=rows.held_out,
                people=rows.people[rows.starts] if can_withdraw else None,
            )
        if not violations and rows_entered == 0:
            violations.add_column("table", _NOBODY_LEFT)
        elif not violations and bad_entered in (0, rows_entered):
            violations.add_column(outcome, _ONE_CLASS_LEFT)
        violations.raise_if_any(self._columns.table.name)

    def _rows(self, hashes: HashSpill) -> Iterator[Rows]:
        """Yields the whole table up to the first batch that breaks a rule, but checks all of it."""
        people = PeopleStream(self._split, self._schema.rows_per_person, hashes)
        outcome, violations = self._schema.outcome.column, self._columns.violations
        rows_seen, bad_seen = 0, 0
        for first_row, batch in self._columns.batches():
            codes = self._features.codes(batch, first_row)
            bad = self._outcome(batch, first_row)
            of_batch = self._people(people, batch, first_row)
            consents = self._rules.consents(batch, first_row)
            recent = self._rules.recent(batch, first_row)
            rows_seen += batch.num_rows
            bad_seen += int(bad.sum())
            if not violations:
                yield Rows(
                    codes=codes,
                    bad=bad,
                    starts=of_batch.starts,
                    held_out=of_batch.held_out,
                    people=of_batch.hashes,
                    consents=consents,
                    recent=recent,
                )
        if rows_seen and outcome in self._columns and bad_seen in (0, rows_seen):
            violations.add_column(outcome, _OUTCOME_ONE_CLASS)
        self._find_repeated(hashes)

    def _outcome(self, batch: pa.RecordBatch, first_row: int) -> NDArray[np.uint8]:
        """Returns uint8[rows], 1 where bad; notes broken rules."""
        name = self._schema.outcome.column
        if name not in self._columns:
            return np.zeros(batch.num_rows, np.uint8)
        shown, violations = self._columns.shown(name), self._columns.violations
        values, null = self._columns.quantities(batch, name, 0.0, first_row)
        is_binary = (values == 0.0) | (values == 1.0)
        if null is not None:
            violations.add_rows(shown, _OUTCOME_NULL, null, first_row)
            is_binary |= null
        violations.add_rows(shown, _OUTCOME_NOT_BINARY, ~is_binary, first_row)
        bad: NDArray[np.uint8] = (values == 1.0).astype(np.uint8)
        return bad

    def _people(self, people: PeopleStream, batch: pa.RecordBatch, first_row: int) -> PeopleOfBatch:
        key = self._schema.person_key
        if key not in self._columns:
            return people.rows_are_people(first_row, batch.num_rows)
        found = people.take(self._columns.key_text(batch, key, first_row))
        shown = self._columns.shown(key)
        self._columns.violations.add_rows(shown, _TOO_MANY_ROWS, found.too_long, first_row)
        return found

    @property
    def _people_are_rows(self) -> bool:
        return self._schema.person_key == ROW_AS_KEY

    def _find_repeated(self, hashes: HashSpill) -> None:
        """Looks for people who come again; reads the keys once more only if a hash came again."""
        key, rows_per_person = self._schema.person_key, self._schema.rows_per_person
        times, candidates = hashes.repeated()
        if times == 0:
            return
        again_read = self._columns.table.batches([self._columns.column_of(key)])
        keys = (key_text(self._columns.take(batch, key)) for batch in again_read)
        again = repeated_rows(keys, self._split, rows_per_person, candidates)
        rows = list(islice(again, ROWS_NAMED))
        if rows:
            rule = _PERSON_TWICE if rows_per_person is RowsPerPerson.ONE else _NOT_ADJACENT
            self._columns.violations.add_counted(self._columns.shown(key), rule, times, rows)


def _check_mapping(schema: Schema, not_held: frozenset[str], mapping: Mapping[str, str]) -> None:
    """Returns only if a mapping renames columns that are read, each to a column of its own."""
    key = [] if schema.person_key == ROW_AS_KEY else [schema.person_key]
    held = [grid.name for grid in schema.grids if grid.name not in not_held]
    names = [*key, schema.outcome.column, *held]
    unknown = set(mapping) - set(names)
    if unknown:
        raise ConfigurationError(
            "The mapping names columns that are not read from this table: "
            f"{', '.join(sorted(unknown))}."
        )
    taken = [mapping.get(name, name) for name in names]
    twice = sorted({column for column in taken if taken.count(column) > 1})
    if twice:
        raise ConfigurationError(
            f"Several columns of the schema are mapped to one table column: {', '.join(twice)}."
        )
