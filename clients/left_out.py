"""Who never enters a snapshot: people without consent, rows that are too old, who has withdrawn.

Consent must stand in **every** row of a person, also in rows that are too old; one row without it
leaves the whole person out. A row that is too old, or has no date, is left out alone. Whatever the
rules do not foresee, such as a third answer or a date to come, is an error, never a guess. How many
were left out is counted nowhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.columns import CheckedColumns, Holds, nulls
from clients.table_file import is_text
from clients.withdrawals import Withdrawn
from federation.errors import ConfigurationError

_CONSENT: Final = "[consent] column"
_DATE: Final = "[retention] column"
_CSV_DATE: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?$"

_UNKNOWN_NUMBER: Final = "consent must be true, false, 1, 0 or missing"
_UNKNOWN_TEXT: Final = "consent is none of the texts in given and refused"
_IN_FUTURE: Final = "the date lies in the future"
_NO_DATE: Final = "expected a date as 2026-01-31"


class Consent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the table says that a person agreed. A missing value is no consent.

    Attributes:
        column: of the table; booleans, or 1 and 0, unless texts are listed.
        given: texts that mean consent, letter by letter.
        refused: texts that mean none; any other is an error.
    """

    column: str
    given: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.refused and not self.given:
            raise ConfigurationError("consent: refused lists texts, so given must as well.")
        if "" in self.given or set(self.given) & set(self.refused):
            raise ConfigurationError(
                "consent: expected given without an empty text, and no text in given and refused."
            )


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How old a row may be on the day of the snapshot, in UTC.

    Attributes:
        column: of the table; dates or times. In CSV text that begins as 2026-01-31.
        days: a row that is older is left out; so is one without a date.
    """

    column: str
    days: int

    def __post_init__(self) -> None:
        if self.days < 0:
            raise ConfigurationError(f"retention: expected days={self.days} of at least 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What leaves people and rows out of one snapshot.

    Attributes:
        consent: None where the table has people's consent as a whole.
        retention: None where every row may be used.
        withdrawn: None where nobody can withdraw, as in a simulation.
        today: whole days since 1970.
    """

    consent: Consent | None
    retention: Retention | None
    withdrawn: Withdrawn | None
    today: int

    @property
    def columns(self) -> dict[str, str]:
        """What the reader calls the columns -> the table's columns."""
        named = {}
        if self.consent is not None:
            named[_CONSENT] = self.consent.column
        if self.retention is not None:
            named[_DATE] = self.retention.column
        return named


NOBODY_LEFT_OUT: Final = LeftOut(consent=None, retention=None, withdrawn=None, today=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows in the order of a table, coded, with what decides whether they enter.

    Attributes:
        codes: uint8[features, rows].
        bad: uint8[rows].
        starts: bool[rows], true where a person's first row stands.
        held_out: bool[rows].
        people: uint64[rows], the hash of each row's person (`federation.population.key_hashes`).
        consents: bool[rows].
        recent: bool[rows].
    """

    codes: NDArray[np.uint8]
    bad: NDArray[np.uint8]
    starts: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    people: NDArray[np.uint64]
    consents: NDArray[np.bool_]
    recent: NDArray[np.bool_]

    def __len__(self) -> int:
        """Returns how many there are."""
        return self.bad.size

    def take(self, rows: slice | NDArray[np.intp]) -> "Rows":
        """Returns some of the rows, in their order."""
        return Rows(
            codes=self.codes[:, rows],
            bad=self.bad[rows],
            starts=self.starts[rows],
            held_out=self.held_out[rows],
            people=self.people[rows],
            consents=self.consents[rows],
            recent=self.recent[rows],
        )

    def followed_by(self, other: "Rows") -> "Rows":
        """Returns these rows, then the others."""
        return Rows(
            codes=np.concatenate([self.codes, other.codes], axis=1),
            bad=np.concatenate([self.bad, other.bad]),
            starts=np.concatenate([self.starts, other.starts]),
            held_out=np.concatenate([self.held_out, other.held_out]),
            people=np.concatenate([self.people, other.people]),
            consents=np.concatenate([self.consents, other.consents]),
            recent=np.concatenate([self.recent, other.recent]),
        )


def those_who_enter(batches: Iterator[Rows], left_out: LeftOut, *, many: bool) -> Iterator[Rows]:
    """Yields the rows that enter a snapshot; no person's rows stand in two batches.

    Args:
        batches: the rows of a table; a person's rows are adjacent.
        left_out: the rules.
        many: whether a person may have many rows.

    Returns:
        Rows whose `people` are keyed hashes, as a withdrawal names them, if anybody can withdraw.
    """
    for rows in _whole_people(batches) if many else batches:
        person = np.cumsum(rows.starts) - 1
        first = np.flatnonzero(rows.starts)
        enters = np.logical_and.reduceat(rows.consents, first)
        people = rows.people
        if left_out.withdrawn is not None:
            keyed = left_out.withdrawn.keyed(people[first])
            enters &= ~np.isin(keyed, left_out.withdrawn.people)
            people = keyed[person]
        entering = np.flatnonzero(enters[person] & rows.recent)
        if entering.size == len(rows):
            yield replace(rows, people=people)
        elif entering.size:
            starts = np.diff(person[entering], prepend=-1) != 0
            yield replace(replace(rows, people=people).take(entering), starts=starts)


def _whole_people(batches: Iterator[Rows]) -> Iterator[Rows]:
    """Yields the rows again, each batch but the last without its last person, who may go on."""
    waiting: Rows | None = None
    for batch in batches:
        rows = batch if waiting is None else waiting.followed_by(batch)
        last = int(np.flatnonzero(rows.starts)[-1]) if len(rows) else 0
        if last:
            yield rows.take(slice(None, last))
        waiting = rows.take(slice(last, None))
    if waiting is not None and len(waiting):
        yield waiting


class RowRules:
    """Reads what a table says of consent and age, beside its other columns."""

    def __init__(self, columns: CheckedColumns, left_out: LeftOut) -> None:
        """Requires the columns that the rules name."""
        self._columns = columns
        self._consent, self._retention = left_out.consent, left_out.retention
        self._today = left_out.today
        if self._consent is not None:
            texts = bool(self._consent.given)
            columns.require(_CONSENT, Holds.TEXT if texts else Holds.NUMBERS_OR_BOOLEANS)
        if self._retention is not None:
            columns.require(_DATE, Holds.DATES)

    def consents(self, batch: pa.RecordBatch, first_row: int) -> NDArray[np.bool_]:
        """Returns bool[rows], true where consent stands; notes values that are not foreseen."""
        if self._consent is None or _CONSENT not in self._columns:
            return np.ones(batch.num_rows, np.bool_)
        if self._consent.given:
            return self._texts(self._consent, batch, first_row)
        values, null = self._columns.quantities(batch, _CONSENT, 0.0, first_row)
        unknown = ~((values == 0.0) | (values == 1.0))
        given: NDArray[np.bool_] = values == 1.0
        if null is not None:
            unknown &= ~null
            given &= ~null
        self._note(_CONSENT, _UNKNOWN_NUMBER, unknown, first_row)
        return given

    def _texts(self, consent: Consent, batch: pa.RecordBatch, first_row: int) -> NDArray[np.bool_]:
        answers = pc.fill_null(pc.cast(self._columns.take(batch, _CONSENT), pa.string()), "")
        given = _is_in(answers, consent.given)
        unknown = ~(given | _is_in(answers, (*consent.refused, "")))
        self._note(_CONSENT, _UNKNOWN_TEXT, unknown, first_row)
        return given

    def recent(self, batch: pa.RecordBatch, first_row: int) -> NDArray[np.bool_]:
        """Returns bool[rows], true where the row is not too old; notes what is no past date."""
        if self._retention is None or _DATE not in self._columns:
            return np.ones(batch.num_rows, np.bool_)
        dates = self._dates(self._columns.take(batch, _DATE), first_row)
        null = nulls(dates)
        filled = pc.fill_null(pc.cast(dates, pa.int32()), self._today)
        days: NDArray[np.int64] = filled.to_numpy(zero_copy_only=False).astype(np.int64)
        # Where clocks are ahead of UTC it may be tomorrow already.
        self._note(_DATE, _IN_FUTURE, days > self._today + 1, first_row)
        recent: NDArray[np.bool_] = days >= self._today - self._retention.days
        if null is not None:
            recent &= ~null
        return recent

    def _dates(self, column: pa.Array, first_row: int) -> pa.Array:
        """Returns a column as days since 1970 in UTC."""
        if is_text(column.type):  # CSV
            empty = nulls(column)
            shaped = pc.if_else(pc.match_substring_regex(column, _CSV_DATE), column, None)
            text = pc.utf8_slice_codeunits(shaped, 0, 10)
            parsed = pc.strptime(text, format="%Y-%m-%d", unit="s", error_is_null=True)
            parsed = pc.cast(parsed, pa.date32())
            same = pc.fill_null(pc.equal(pc.cast(parsed, pa.string()), text), False)
            wrong = ~same.to_numpy(zero_copy_only=False)  # 30 February is read as 1 March
            wrong = wrong if empty is None else wrong & ~empty
            self._note(_DATE, _NO_DATE, wrong, first_row)
            column = parsed
        elif pa.types.is_timestamp(column.type):
            column = pc.cast(column, pa.timestamp(column.type.unit))  # drops the zone: UTC
        return pc.cast(column, pa.date32(), safe=False)

    def _note(self, name: str, rule: str, rows: NDArray[np.bool_], first_row: int) -> None:
        self._columns.violations.add_rows(self._columns.shown(name), rule, rows, first_row)


def _is_in(column: pa.Array, texts: tuple[str, ...]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.is_in(column, value_set=pa.array(texts, pa.string())).to_numpy(
        zero_copy_only=False
    )
    return found
