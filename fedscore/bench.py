"""How long one training step takes here: the institution's own functions over people made up.

Figures are CPU seconds of this process, medians of repeated steps; other programs on the machine
hardly change them. What is timed is what an institution does once it has paid: everything but the
ledger and the wire. It is one thread: numpy holds Python's lock in look-ups and counts, and two
threads took as long as one.
"""

import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.table import Table

from clients.blocks import BLOCK_ROWS
from clients.packed_people import numbers_of, packed_people, packing_of, step_contributions
from clients.snapshot import Snapshot, take_snapshot, write_snapshot
from clients.table import CodedBatch
from federation.door import add_noise, clip, sum_of, to_grid
from federation.errors import ConfigurationError
from federation.model.scorecard import AdditiveCard
from federation.model.step import Step, residuals
from federation.population import Split
from federation.query import BoundedSum, Question
from federation.schema import Schema, load_schema

REPEATS: Final = 5
CELLS: Final = 64
"""Fine cells of each feature, the most that a schema gives to a number."""

LEAST_PEOPLE: Final = 10_000
"""Where the law of growth begins; fewer people than this are timed by the clock's own grain."""

_EVERYBODY_TRAINED: Final = Split(salt="0" * 64, held_out_fraction=0.0)
_COPIED: Final = 2**27
_SCHEMA: Final = """
format = 1
name = "Bench"
person_key = "{person_key}"
rows_per_person = "one"
[outcome]
column = "bad"
window = "made up"
"""
_FEATURE: Final = """
[[feature]]
name = "f{number}"
role = "scored"
kind = "number"
unit = "1"
reason = "Made up"
lower = 0
upper = 1
cells = {cells}
"""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What something takes.

    Attributes:
        cpu: seconds of this process's CPU time.
        wall: seconds on the clock.
    """

    cpu: float
    wall: float


class StepSplit(msgspec.Struct, frozen=True, kw_only=True):
    """Where the CPU seconds of one step go.

    Attributes:
        read: packed bins from disk or its cache into memory.
        scores: look-ups of weights.
        residuals: look-ups of probabilities.
        sums: the door's clip and exact sums.
        noise: the share of discrete Gaussian noise.
    """

    read: float
    scores: float
    residuals: float
    sums: float
    noise: float


class StepBench(msgspec.Struct, frozen=True, kw_only=True):
    """One size.

    Attributes:
        people: how many, one row each.
        features: scored features of 64 fine cells.
        bins: of each feature.
        numbers: 2-byte numbers a row after packing.
        step: one training step, median.
        split: of that, one part timed after the other.
        bytes_read: by one step.
        first_pass: from the snapshot's fine cells to packed bins, once a training.
        from_parquet: from a Parquet file to a snapshot, contract checked; None if not asked for.
        peak_bytes: most memory that this process ever held, its libraries included.
    """

    people: int
    features: int
    bins: int
    numbers: int
    step: Cost
    split: StepSplit
    bytes_read: int
    first_pass: Cost
    from_parquet: Cost | None
    peak_bytes: int


class Law(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds of a step = fixed + each * people, by least squares of relative errors.

    Attributes:
        fixed: seconds.
        each: seconds a person.
        largest_error: of the law at any size, relative to what was measured.
    """

    fixed: float
    each: float
    largest_error: float


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What `fedscore bench step` found.

    Attributes:
        sizes: in ascending order of people.
        law: None for a single size.
        bandwidth: bytes a second read and written by one core copying a large array.
    """

    sizes: tuple[StepBench, ...]
    law: Law | None
    bandwidth: float


def bench_step(*, people: int, features: int, bins: int, law: bool, parquet: bool) -> Bench:
    """Returns what a training step costs on this machine.

    Args:
        people: at least 1; with `law`, the largest size, above 10,000.
        features: at least 1.
        bins: of each feature, 1 to 64.
        law: also time 10^4, 10^5, ... people and fit the growth.
        parquet: also time the way from a Parquet file of the same people to a snapshot.

    Raises:
        ConfigurationError: the numbers make no sense, or there is no room on the disk.
    """
    if people < 1 or features < 1 or not 1 <= bins <= CELLS:
        raise ConfigurationError("Expected at least 1 person and 1 feature, and 1 to 64 bins.")
    if law and people <= LEAST_PEOPLE:
        raise ConfigurationError(f"A law of growth needs --people above {LEAST_PEOPLE:,}.")
    sizes = [people]
    if law:
        powers = (10**exponent for exponent in range(4, 10))
        sizes = [*(size for size in powers if size < people), people]
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="fedscore-bench-") as directory:
            found.append(_one_size(Path(directory), size, features, bins, parquet))
    return Bench(
        sizes=tuple(found), law=_law(found) if law else None, bandwidth=_memory_bandwidth()
    )


def made_up_schema(features: int, *, person_key: str) -> Schema:
    """Returns a schema of so many scored features f0, f1 and so on, each of 64 fine cells.

    Args:
        features: at least one.
        person_key: column that names a person, or "row".
    """
    listed = (_FEATURE.format(number=number, cells=CELLS) for number in range(features))
    return load_schema(_SCHEMA.format(person_key=person_key) + "".join(listed))


def _one_size(directory: Path, people: int, features: int, bins: int, parquet: bool) -> StepBench:
    # A snapshot byte and at most two packed ones for each feature, eight in a Parquet file.
    needed = people * (3 * features + 2) + people * (9 * features + 9) * parquet
    if shutil.disk_usage(directory).free < needed:
        raise ConfigurationError(f"{directory} has no room for {needed:,} bytes: fewer --people.")
    schema = made_up_schema(features, person_key="row")
    from_parquet = _parquet_pass(schema, directory, people) if parquet else None
    snapshot = write_snapshot(
        schema,
        lambda _: _people(people, features),
        not_held=frozenset(),
        split=_EVERYBODY_TRAINED,
        directory=directory / "snapshot",
    )
    card = _card(features, bins)
    query = BoundedSum(question=Question.STEP, columns=(*card.bins, 1), share_variance=2**40)
    packing = packing_of(schema, snapshot, card)
    first_pass = _cost(lambda: packed_people(schema, snapshot, packing))
    packed = packed_people(schema, snapshot, packing)

    def step() -> object:
        total = sum_of(query, step_contributions(schema, snapshot, card))
        return add_noise(total, query, noise_key=bytes(32))

    costs = [_cost(step) for _ in range(REPEATS)]
    return StepBench(
        people=people,
        features=features,
        bins=bins,
        numbers=len(packing.packs),
        step=Cost(cpu=median(c.cpu for c in costs), wall=median(c.wall for c in costs)),
        split=_split(schema, snapshot, card, query),
        bytes_read=packed.size,
        first_pass=first_pass,
        from_parquet=from_parquet,
        peak_bytes=peak_bytes(),
    )


def _split(schema: Schema, snapshot: Snapshot, card: AdditiveCard, query: BoundedSum) -> StepSplit:
    """Returns the time of the parts of `step_contributions` and of the door, block by block."""
    packing = packing_of(schema, snapshot, card)
    step = Step.at(card, packing)
    read = scored = looked_up = summed = 0.0
    blocks = packed_people(schema, snapshot, packing).blocks()
    start = time.process_time()
    for block in blocks:
        after_read = time.process_time()
        scores = step.scores(numbers_of(block))
        after_scores = time.process_time()
        residuals(scores, block.bad)
        after_residuals = time.process_time()
        people = step.contribution(numbers_of(block), block.bad, block.person_starts)
        before_sums = time.process_time()
        total = to_grid(clip(people, query), query)
        end = time.process_time()
        read += after_read - start
        scored += after_scores - after_read
        looked_up += after_residuals - after_scores
        summed += end - before_sums
        start = time.process_time()
    noise = _cost(lambda: add_noise(total, query, noise_key=bytes(32))).cpu
    return StepSplit(read=read, scores=scored, residuals=looked_up, sums=summed, noise=noise)


def _people(people: int, features: int) -> Iterator[CodedBatch]:
    """Yields made-up people, every fine cell equally likely: the hardest case for a cache."""
    generator = np.random.default_rng(1)
    for first in range(0, people, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, people - first)
        codes = generator.integers(0, CELLS, (features, rows), dtype=np.uint8)
        yield CodedBatch(
            codes=codes,
            bad=(codes[0] < CELLS // 10).astype(np.uint8),
            starts=np.ones(rows, dtype=np.bool_),
            held_out=np.zeros(rows, dtype=np.bool_),
        )


def _card(features: int, bins: int) -> AdditiveCard:
    generator = np.random.default_rng(2)
    cells = tuple(cell * bins // CELLS for cell in range(CELLS))
    return AdditiveCard(
        base=-8000,
        bin_of_cell=(cells,) * features,
        weights=tuple(
            tuple(generator.integers(-2000, 2000, bins).tolist()) for _ in range(features)
        ),
    )


def _parquet_pass(schema: Schema, directory: Path, people: int) -> Cost:
    """Returns the time from a Parquet file of doubles to a snapshot; both are deleted again."""
    path = directory / "people.parquet"
    names = [grid.name for grid in schema.grids]
    fields = [pa.field(name, pa.float64()) for name in names]
    with pq.ParquetWriter(path, pa.schema([pa.field("bad", pa.int64()), *fields])) as writer:
        for batch in _people(people, len(names)):
            columns = [pa.array(batch.bad.astype(np.int64))]
            columns += [pa.array(_middle(codes)) for codes in batch.codes]
            writer.write_table(pa.table(columns, names=["bad", *names]))
    taken: list[Snapshot] = []
    cost = _cost(
        lambda: taken.append(
            take_snapshot(
                schema,
                path,
                not_held=frozenset(),
                split=_EVERYBODY_TRAINED,
                directory=directory / "from_parquet",
            )
        )
    )
    taken[0].delete()
    path.unlink()
    return cost


def _middle(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns values in the fine cells, no two rows in a block alike, as in a table of amounts."""
    within = (np.arange(codes.size) + 0.5) / codes.size
    return (codes + within) / CELLS


def _cost(run: Callable[[], object]) -> Cost:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Cost(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)


def _law(sizes: list[StepBench]) -> Law:
    people = np.array([one.people for one in sizes], dtype=np.float64)
    seconds = np.array([one.step.cpu for one in sizes])
    terms = np.column_stack((np.ones_like(people), people)) / seconds[:, np.newaxis]
    (fixed, each), *_ = np.linalg.lstsq(terms, np.ones_like(people))
    error = np.abs(terms @ (fixed, each) - 1.0).max()
    return Law(fixed=float(fixed), each=float(each), largest_error=float(error))


def _memory_bandwidth() -> float:
    source = np.ones(_COPIED, dtype=np.uint8)
    target = np.empty_like(source)
    walls = [_cost(lambda: np.copyto(target, source)).wall for _ in range(2 * REPEATS)]
    return 2 * _COPIED / min(walls)


def peak_bytes() -> int:
    """Returns the most memory that this process ever held, its libraries included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def bench_tables(bench: Bench) -> list[Table]:
    """Returns the figures for people."""
    steps = Table(title="One training step: medians, this process alone")
    for heading in ("People", "CPU s", "Wall s", "Peak MB", "MB read", "Of memory speed"):
        steps.add_column(heading, justify="right")
    steps.add_column("First pass, CPU s", justify="right")
    steps.add_column("From Parquet, CPU s", justify="right")
    for one in bench.sizes:
        steps.add_row(
            f"{one.people:,}",
            f"{one.step.cpu:.3f}",
            f"{one.step.wall:.3f}",
            f"{one.peak_bytes / 1e6:,.0f}",
            f"{one.bytes_read / 1e6:,.1f}",
            f"{one.bytes_read / one.step.wall / bench.bandwidth:.1%}",
            f"{one.first_pass.cpu:.3f}",
            f"{one.from_parquet.cpu:.3f}" if one.from_parquet else "-",
        )
    largest = bench.sizes[-1]
    parts = msgspec.structs.asdict(largest.split)
    whole = sum(parts.values())
    limits = Table(title=f"Where a step over {largest.people:,} people spends its CPU time")
    for name, seconds in parts.items():
        limits.add_row(name, f"{seconds:.3f} s", f"{seconds / whole:.0%}")
    said = (
        f"{largest.features} features of {largest.bins} bins as {largest.numbers} numbers a row. "
        f"Memory: {bench.bandwidth / 1e9:.1f} GB/s, copying on one core."
    )
    if bench.law is not None:
        said += (
            f" Law: {bench.law.fixed:.2g} s + {bench.law.each * 1e9:.1f} ns a person, "
            f"within {bench.law.largest_error:.0%}."
        )
    steps.caption = said
    return [steps, limits]
