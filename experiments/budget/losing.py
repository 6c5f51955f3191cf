"""Whole masked trainings over a wire that loses what a stated share of institutions send.

The product runs as it is, with secure aggregation, ledgers and records; only the transport between
coordinator and institutions is wrapped, by what `simulate` lets experiments hand in. Who is lost
when follows from a seed.
"""

import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.institution import Institution
from clients.ledger import Ledger
from experiments.entropy import SeededEntropy
from federation.canonical import public_key_of
from federation.errors import ProtocolError
from federation.messages import Close, Open, decode_request
from federation.model.release import require_scorecard
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan
from federation.pricing import PlanPrice, price_of
from federation.privacy.ledger_entries import Refunded, Spent
from federation.privacy.units import BudgetUnits, Population
from federation.schema import Schema
from federation.secure_aggregation.roster import load_roster
from federation.transcript import Attempted, Joint, Transcript
from fedscore.dealing import deal_table
from fedscore.machine import system_clock
from fedscore.planning import new_plan
from fedscore.simulation import LEDGERS, ROSTER_FILE, InProcess, simulate
from server.running import Running
from server.sums import sums_of
from server.training import Progress, Sums

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
DELTA: Final = 1e-6
_SALT: Final = "0" * 64
_RUN: Final = "run"


class Loss(StrEnum):
    """How an institution is lost.

    LATE: it answers, and has paid, but its upload comes after the deadline; then it is there again.
    LOST: any message may be lost, on the way to it or, once it has acted on it, on the way back.
    GONE: it leaves during the training and never comes back.
    """

    LATE = "late"
    LOST = "lost"
    GONE = "gone"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan says about who must answer.

    Attributes:
        institutions: n, invited.
        quorum: m.
        colluders: c.
        spare_attempts: R.
    """

    institutions: int
    quorum: int
    colluders: int
    spare_attempts: int


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """What a training under losses came to.

    Attributes:
        card: in points; None if the training did not end with one.
        retries: spare attempts that were used.
        attempts: at all questions.
        sessions: that were joined.
        answers: institutions in each total that was opened, in order.
        reserved: epsilon of a trained person, as the plan promises it.
        spent: epsilon of a trained person at the institution that had paid most when the plan was
            closed, from its ledger.
    """

    card: AdditiveCard | None
    retries: int
    attempts: int
    sessions: int
    answers: tuple[int, ...]
    reserved: float
    spent: float

    @property
    def ended(self) -> bool:
        """Whether there is a card."""
        return self.card is not None


def plan_for(
    schema: Schema,
    choice: Choice,
    *,
    rounds: int,
    people: int,
    epsilon: float,
    most_per_institution: int,
) -> Plan:
    """Returns an unsigned plan; nobody is held out.

    Args:
        schema: of all tables.
        choice: who must answer.
        rounds: of training.
        people: N, public.
        epsilon: of a trained person, bins and spare attempts included, at delta 1e-6, against the
            coordinator and c institutions.
        most_per_institution: public.
    """
    return new_plan(
        schema=schema,
        name="dropouts",
        federation="dropouts",
        purpose="dropouts",
        coordinator=public_key_of(KEY),
        invited=tuple(f"bank-{number:03}" for number in range(choice.institutions)),
        quorum=choice.quorum,
        colluders=choice.colluders,
        spare_attempts=choice.spare_attempts,
        rounds=rounds,
        people=people,
        most_per_institution=most_per_institution,
        held_out_fraction=0.0,
        epsilon=epsilon,
        delta=DELTA,
        valid_from=datetime.fromtimestamp(system_clock(), UTC),
        days=1,
        salt=_SALT,
    )


class Wire:
    """A transport in one process that loses messages by the draws of a seed.

    Attributes:
        spent: budget units of a trained person, the most of all ledgers when the plan closed.
    """

    def __init__(
        self,
        institutions: Mapping[str, Institution],
        ledgers: Path,
        *,
        loss: Loss,
        rate: float,
        questions: int,
        seed: int,
    ) -> None:
        """Connects institutions.

        Args:
            institutions: by identifier.
            ledgers: the directory of their ledgers.
            loss: how they are lost.
            rate: of each institution: at each attempt (LATE), at each message (LOST), or once in
                the whole training (GONE).
            questions: of the plan, over which those that leave are spread.
            seed: of the draws.
        """
        self._inner = InProcess(institutions)
        self._ledgers = ledgers
        self._loss = loss
        self._rate = rate
        self._draws = np.random.default_rng(seed)
        self._attempts = 0
        self._leaves = {
            name: int(self._draws.integers(1, questions + 1))
            for name in sorted(institutions)
            if loss is Loss.GONE and self._draws.random() < rate
        }
        self.spent = BudgetUnits(0)

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns the replies that are not lost."""
        kinds = {name: type(decode_request(data)) for name, data in requests.items()}
        if Open in kinds.values():
            self._attempts += 1
        unheard, unanswered = self._lost(kinds)
        heard = {name: data for name, data in requests.items() if name not in unheard}
        if Close in kinds.values():
            self._read_ledgers()
        replies = self._inner.exchange(heard)
        return {name: reply for name, reply in replies.items() if name not in unanswered}

    def _lost(self, kinds: Mapping[str, type]) -> tuple[set[str], set[str]]:
        """Returns who does not hear a request, and whose reply to it does not arrive."""
        names = sorted(kinds)
        if self._loss is Loss.GONE:
            return {n for n in names if self._attempts >= self._leaves.get(n, 10**9)}, set()
        drawn = {name: self._draws.random(2) for name in names}
        lost = {name for name in names if drawn[name][0] < self._rate}
        if self._loss is Loss.LATE:
            return set(), {name for name in lost if kinds[name] is Open}
        on_the_way = {name for name in lost if drawn[name][1] < 1 / 2}
        return on_the_way, lost - on_the_way

    def _read_ledgers(self) -> None:
        """Notes what the institution that paid most has paid, its given up attempts taken off."""
        most = 0
        for path in sorted(self._ledgers.glob("*.sqlite")):
            paid: dict[tuple[str, int, int], int] = {}
            with Ledger.open_read_only(path, system_clock) as ledger:
                for recorded in ledger.entries():
                    entry = recorded.entry
                    if isinstance(entry, Spent) and entry.population is Population.TRAINED:
                        paid[entry.question, entry.round, entry.attempt] = entry.units
                    elif isinstance(entry, Refunded):
                        paid.pop((entry.question, entry.round, entry.attempt), None)
            most = max(most, sum(paid.values()))
        self.spent = BudgetUnits(most)


def train_losing(
    plan: Plan, schema: Schema, table: Path, *, loss: Loss, rate: float, seed: int
) -> Lost:
    """Runs a whole masked training over a wire that loses messages.

    Args:
        plan: unsigned; its institutions are dealt the people of the table.
        schema: of the table.
        table: Parquet.
        loss: how institutions are lost.
        rate: see `Wire`.
        seed: of the losses and of the noise.
    """
    signed = plan.signed(KEY)
    wires: list[Wire] = []
    transcript = Transcript()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        (directory / "dealt").mkdir()
        out = directory / _RUN
        unfinished = directory / f"{_RUN}.unfinished"  # where a simulation's files are meanwhile

        def over_the_wire(
            plan: Plan,
            schema: Schema,
            institutions: Mapping[str, Institution],
            watch: Callable[[Progress], None],
        ) -> Sums:
            wires.append(
                Wire(
                    institutions,
                    unfinished / LEDGERS,
                    loss=loss,
                    rate=rate,
                    questions=1 + plan.rounds,
                    seed=seed,
                )
            )
            return sums_of(
                Running(
                    plan=plan,
                    schema=schema,
                    roster=load_roster((unfinished / ROSTER_FILE).read_text()),
                    transport=wires[0],
                    key=KEY,
                    entropy=SeededEntropy(f"sessions {seed}"),
                    transcript=transcript,
                    seen={},
                    keep_release=lambda _: None,
                    watch=watch,
                )
            )

        try:
            done = simulate(
                plan=signed,
                schema=schema,
                members=deal_table(signed, schema, table, directory / "dealt"),
                key=KEY,
                out=out,
                watch=_nobody,
                inspect=False,
                noise_entropy=SeededEntropy(f"noise {seed}"),
                plain=over_the_wire,
            )
            card: AdditiveCard | None = require_scorecard(done.release).card
        except ProtocolError:
            card = None
    return _lost(transcript, card, price_of(signed, schema), wires[0].spent if wires else 0)


def _nobody(_: Progress) -> None:
    """Watches nothing."""


def _lost(transcript: Transcript, card: AdditiveCard | None, price: PlanPrice, spent: int) -> Lost:
    lines = transcript.lines()
    attempts = [line for line in lines if isinstance(line, Attempted)]
    return Lost(
        card=card,
        retries=sum(line.attempt > 0 for line in attempts),
        attempts=len(attempts),
        sessions=sum(isinstance(line, Joint) for line in lines),
        answers=tuple(len(line.uploaded) for line in attempts if line.total),
        reserved=price.trained,
        spent=price.epsilon_of(BudgetUnits(spent), price.delta),
    )
