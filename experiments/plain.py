"""Adds plain integers instead of running secure aggregation: for experiments and tests only.

A masked round of hundreds of institutions in one process costs each of them a signature check for
each of the others. What is opened is the same integer sum, which a test proves: with the same
noise, the release of a masked training has the same bytes (tests/integration/test_masks_cancel.py).
Results that were made this way say so. Plans, policies, ledgers, snapshots and the door up to the
noise are the product's; no command leads here.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import numpy as np

from clients.audit import sample_key
from clients.institution import Institution
from federation import door
from federation.asking import sum_for
from federation.errors import ProtocolError
from federation.messages import Accept, Close, Invite, Model, decode_reply, encode
from federation.plan import Plan, plan_toml
from federation.pricing import stddev_of_total
from federation.privacy.entropy import Entropy
from federation.query import Question
from federation.schema import Schema
from fedscore.simulation import PlainSums
from server.training import Progress, Sums, Total


def plain_sums(noise_entropy: Entropy) -> PlainSums:
    """Returns what `simulate` takes to add plain integers.

    Args:
        noise_entropy: 32 fresh bytes a call, the same that institutions would draw noise from.
    """

    def made(
        plan: Plan,
        schema: Schema,
        institutions: Mapping[str, Institution],
        watch: Callable[[Progress], None],
    ) -> Sums:
        return _Plain(plan, schema, institutions, watch, noise_entropy)

    return made


class _Plain(Sums):
    def __init__(
        self,
        plan: Plan,
        schema: Schema,
        institutions: Mapping[str, Institution],
        watch: Callable[[Progress], None],
        noise_entropy: Entropy,
    ) -> None:
        self._plan = plan
        self._digest = plan.digest
        self._schema = schema
        self._institutions = institutions
        self._watch = watch
        self._noise_entropy = noise_entropy
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
        total = np.zeros(query.length, dtype=np.int64)
        for institution in self._accepted:
            taking = institution.taking
            taking.pay((question, round_, 0), query)
            noise_key = self._noise_entropy()
            people = taking.people(question, model, sample_key=sample_key(noise_key))
            summed = door.sum_of(query, people)
            total += door.add_noise(summed, query, noise_key=noise_key).total
        return Total(
            values=total / question.bound,
            stddev=stddev_of_total(self._plan, question, len(self._accepted)),
            answers=len(self._accepted),
        )

    def close(self, *, release: bytes) -> None:
        closing = encode(Close(plan=self._digest, release=release, coins=None))
        for institution in self._institutions.values():
            institution.handle(closing)
