"""A training over real processes: the SuperLink, sealed envelopes over it, and the rounds."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from federation.errors import ProtocolError
from federation.model.release import load_release
from federation.plan import Plan, plan_toml
from federation.schema import Schema
from federation.sealed import SealedTransport
from federation.secure_aggregation.roster import roster_toml
from fedscore import files
from fedscore.carrying import running_superlink
from fedscore.coordinator_files import (
    Office,
    new_training,
)
from fedscore.machine import system_clock, system_entropy
from fedscore.progress import Step, Training
from fedscore.simulation import (
    PLAN_FILE,
    RELEASE_FILE,
    ROSTER_FILE,
    TRANSCRIPT_FILE,
)
from server.admission import cards_of_invited
from server.flower_driver import FlowerTransport
from server.rounds import MaskedSums
from server.training import Progress, run_training

_VALID_LONGER_SECONDS: Final = 60
_log = logging.getLogger(__name__)


def run_over_flower(
    office: Office,
    plan: Plan,
    schema: Schema,
    *,
    deadline_seconds: float,
    watch: Callable[[Progress], None],
) -> Training:
    """Runs one plan with institutions that are processes of their own.

    Args:
        office: the coordinator's.
        plan: signed by it.
        schema: that the plan names.
        deadline_seconds: after which an institution counts as silent.
        watch: told about progress.

    Raises:
        ConfigurationError: somebody invited is not admitted, or the SuperLink does not start.
        FedscoreError: whatever stopped the training; the transcript of it is kept.
    """
    plan.require_signed()
    cards = cards_of_invited(plan, office.roster, office.cards)
    steps: list[Step] = []

    def report(name: str, error: ProtocolError) -> None:
        _log.warning("a reply of %s was not opened: %s", name, error)

    with (
        running_superlink(office, [card.node for card in cards.values()]) as superlink,
        FlowerTransport(
            superlink,
            nodes={name: card.node for name, card in cards.items()},
            deadline_seconds=deadline_seconds,
        ) as carrier,
    ):
        directory = new_training(office)
        files.write_private(directory / PLAN_FILE, plan_toml(plan).encode())
        files.write_private(directory / ROSTER_FILE, roster_toml(office.roster).encode())
        started = latest = time.monotonic()

        def timed(progress: Progress) -> None:
            nonlocal latest
            now = time.monotonic()
            steps.append(
                Step(
                    step=progress.step,
                    number=progress.number,
                    answers=progress.answers,
                    seconds=now - latest,
                )
            )
            latest = now
            watch(progress)

        sums = MaskedSums(
            plan=plan,
            schema=schema,
            roster=office.roster,
            transport=SealedTransport(
                carrier=carrier,
                cards=cards,
                key=office.key,
                validity_seconds=int(deadline_seconds) + _VALID_LONGER_SECONDS,
                clock=system_clock,
                entropy=system_entropy,
                report=report,
            ),
            key=office.key,
            entropy=system_entropy,
            watch=timed,
        )
        try:
            release = run_training(
                plan=plan,
                schema=schema,
                sums=sums,
                key=office.key,
                now=datetime.fromtimestamp(system_clock(), UTC),
                watch=timed,
            )
            files.write_private(directory / RELEASE_FILE, release)
        finally:
            files.write_private(directory / TRANSCRIPT_FILE, sums.transcript.content())
    return Training(
        directory=str(directory),
        release=load_release(release).digest,
        seconds=time.monotonic() - started,
        steps=tuple(steps),
    )
