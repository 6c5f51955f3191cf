"""Adds plain integers instead of running secure aggregation: for experiments and tests only.

A masked round of hundreds of institutions in one process costs each of them a signature check for
each of the others. What is opened is the same integer sum, which a test proves: with the same
noise, the release of a masked training has the same bytes (tests/integration/test_masks_cancel.py).
Results that were made this way say so. Plans, policies, ledgers, snapshots and the door up to the
noise are the product's; no command leads here. In local mode nothing is masked: what is added are
the very numbers that institutions would send, without their signatures.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clients.audit import sample_key
from clients.blocks import Block
from clients.institution import Institution
from clients.local_training import local_release
from clients.packed_people import numbers_of, packed_people, packing_of
from clients.taking import Taking
from federation import door
from federation.asking import sum_for
from federation.door import Brought
from federation.errors import ProtocolError
from federation.learning import Local
from federation.messages import Accept, Close, Invite, Model, decode_reply, encode
from federation.model.scorecard import AdditiveCard
from federation.model.step import Packing, Step
from federation.plan import Plan, plan_toml
from federation.pricing import stddev_of_total
from federation.privacy.entropy import Entropy
from federation.query import BoundedSum, Question
from federation.schema import Schema
from fedscore.simulation import PlainSums
from server.training import Progress, Sums, Total


def plain_sums(noise_entropy: Entropy, *, charged: bool = True) -> PlainSums:
    """Returns what `simulate` takes to add plain integers.

    Args:
        noise_entropy: 32 fresh bytes a call, the same that institutions would draw noise from.
        charged: whether each answer is written to its institution's ledger, as the product always
            does. Without, a plan is reserved as a whole and its rounds are arithmetic: the people
            of all institutions are added up at once, which gives the same integers.
    """

    def made(
        plan: Plan,
        schema: Schema,
        institutions: Mapping[str, Institution],
        watch: Callable[[Progress], None],
    ) -> Sums:
        return _Plain(plan, schema, institutions, watch, noise_entropy, charged=charged)

    return made


class _Plain(Sums):
    def __init__(
        self,
        plan: Plan,
        schema: Schema,
        institutions: Mapping[str, Institution],
        watch: Callable[[Progress], None],
        noise_entropy: Entropy,
        *,
        charged: bool,
    ) -> None:
        self._plan = plan
        self._digest = plan.digest
        self._schema = schema
        self._institutions = institutions
        self._watch = watch
        self._noise_entropy = noise_entropy
        self._charged = charged
        self._pools: tuple[_Pool, ...] = ()
        self._accepted: tuple[Institution, ...] = ()
        self.fewest_answers = len(plan.participation.invited)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.close(release=b"")

    def begin(self) -> None:
        invitation = encode(Invite(plan=plan_toml(self._plan)))
        self._accepted = tuple(
            institution
            for name, institution in sorted(self._institutions.items())
            if isinstance(decode_reply(institution.handle(invitation)), Accept)
        )
        accepted, invited = len(self._accepted), len(self._plan.participation.invited)
        self._watch(Progress(step="accepted", number=accepted, of=invited, answers=accepted))
        self.fewest_answers = accepted
        if accepted < self._plan.participation.quorum:
            raise ProtocolError(f"{accepted} of {invited} institutions take part.")

    def ask(self, question: Question, *, round_: int, model: Model | None) -> Total:
        query = sum_for(self._plan, self._schema, question, model)
        if self._charged:
            for institution in self._accepted:
                institution.taking.pay((question, round_, 0), query)
        total = np.zeros(query.length, dtype=np.int64)
        if isinstance(self._plan.mode, Local):
            for institution in self._accepted:
                total += local_release(
                    institution.taking, query, model, noise_entropy=self._noise_entropy
                ).numbers
        else:
            total += self._noised(query, model)
        return Total(
            values=total / question.bound,
            stddev=stddev_of_total(self._plan, question, len(self._accepted)),
            answers=len(self._accepted),
        )

    def _noised(self, query: BoundedSum, model: Model | None) -> NDArray[np.int64]:
        """Returns the sum over everybody with each institution's own share of the noise."""
        keys = [self._noise_entropy() for _ in self._accepted]
        if (
            isinstance(model, AdditiveCard)
            and query.question is Question.STEP
            and not self._charged
        ):
            total = door.sum_of(query, self._everybody(model)).total.copy()
        else:
            total = self._one_by_one(query, model, keys)
        nobody = door.Gridded(total=np.zeros(query.length, dtype=np.int64))
        for key in keys:
            total += door.add_noise(nobody, query, noise_key=key).total
        return total

    def _one_by_one(
        self, query: BoundedSum, model: Model | None, keys: list[bytes]
    ) -> NDArray[np.int64]:
        """Returns the exact sum over everybody, each institution's own first."""
        total = np.zeros(query.length, dtype=np.int64)
        for institution, key in zip(self._accepted, keys, strict=True):
            people = institution.taking.people(query.question, model, sample_key=sample_key(key))
            total += door.sum_of(query, people).total
        return total

    def _everybody(self, card: AdditiveCard) -> Iterator[Brought]:
        """Yields what everybody brings to the question STEP, as few large blocks."""
        if not self._pools or self._pools[0].packing.bin_of_cell != card.bin_of_cell:
            self._pools = _pools(self._schema, card, [one.taking for one in self._accepted])
        for pool in self._pools:
            yield Step.at(card, pool.packing).contribution(pool.numbers, pool.bad, pool.starts)

    def close(self, *, release: bytes) -> None:
        closing = encode(Close(plan=self._digest, release=release, coins=None))
        for institution in self._institutions.values():
            institution.handle(closing)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """People of institutions that hold the same features, packed for one card's bins."""

    packing: Packing
    numbers: NDArray[np.uint16]
    bad: NDArray[np.uint8]
    starts: NDArray[np.int64] | None


def _pools(schema: Schema, card: AdditiveCard, takings: Sequence[Taking]) -> tuple[_Pool, ...]:
    """Returns everybody, in blocks of at most `MOST_ROWS` rows."""
    held: dict[Packing, list[Block]] = {}
    for taking in takings:
        packing = packing_of(schema, taking.snapshot, card)
        held.setdefault(packing, []).extend(
            packed_people(schema, taking.snapshot, packing).blocks()
        )
    pools = []
    for packing, blocks in held.items():
        waiting: list[Block] = []
        for block in [*blocks, None]:
            rows = sum(one.bad.size for one in waiting)
            if waiting and (block is None or rows + block.bad.size > door.MOST_ROWS):
                pools.append(_pool(packing, waiting))
                waiting = []
            if block is not None:
                waiting.append(block)
    return tuple(pools)


def _pool(packing: Packing, blocks: list[Block]) -> _Pool:
    first = np.cumsum([0, *(block.bad.size for block in blocks[:-1])])
    starts = [
        start + block.person_starts
        for start, block in zip(first, blocks, strict=True)
        if block.person_starts is not None
    ]
    return _Pool(
        packing=packing,
        numbers=np.concatenate([numbers_of(block) for block in blocks], axis=1),
        bad=np.concatenate([block.bad for block in blocks]),
        starts=np.concatenate(starts) if starts else None,
    )
