"""A training over real processes: the SuperLink, sealed envelopes over it, and the rounds."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from federation.errors import ProtocolError
from federation.model.release import load_release
from federation.plan import Plan
from federation.schema import Schema
from federation.sealed import SealedTransport
from fedscore.carrying import running_superlink
from fedscore.coordinator_files import Office
from fedscore.machine import system_clock, system_entropy
from fedscore.progress import Step, Trained
from fedscore.trainings import Training, Trainings
from server.admission import cards_of_invited
from server.flower_driver import FlowerTransport
from server.running import Running
from server.sums import sums_of
from server.training import Progress, Sums, run_training

_VALID_LONGER_SECONDS: Final = 60
_log = logging.getLogger(__name__)


def run_over_flower(
    office: Office,
    trainings: Trainings,
    training: Training,
    *,
    deadline_seconds: float,
    give_up: bool,
    watch: Callable[[Progress], None],
) -> Trained:
    """Runs a training to its end with institutions that are processes of their own.

    Args:
        office: the coordinator's.
        trainings: all of its trainings; the lock is held.
        training: new, or one that an earlier process began.
        deadline_seconds: after which an institution counts as silent.
        give_up: only end it, so that what institutions have reserved returns to their budgets.
        watch: told about progress.

    Raises:
        ConfigurationError: somebody invited is not admitted (any more) and too few are left, or the
            SuperLink does not start.
        FedscoreError: whatever stopped the training; how far it came is kept.
    """
    plan, schema = training.plan(), training.schema()
    plan.require_signed()
    past = training.past()
    has_begun = past.group is not None or past.cut is not None or bool(past.answers)
    cards = cards_of_invited(plan, office.roster, office.cards, has_begun=has_begun)
    steps: list[Step] = []

    def report(name: str, error: ProtocolError) -> None:
        _log.warning("a reply of %s was not opened: %s", name, error)

    with (
        training.transcript() as transcript,
        running_superlink(office, [card.node for card in cards.values()]) as superlink,
        FlowerTransport(
            superlink,
            nodes={name: card.node for name, card in cards.items()},
            deadline_seconds=deadline_seconds,
        ) as carrier,
    ):
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

        sums = sums_of(
            Running(
                plan=plan,
                schema=schema,
                roster=training.roster(),
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
                transcript=transcript,
                seen=trainings.seen_before(training, plan.participation.invited),
                keep_release=training.keep_release,
                watch=timed,
            )
        )
        release = _released(office, training, sums, plan, schema, give_up=give_up, watch=timed)
    return Trained(
        directory=str(training.directory),
        release=load_release(release).digest if release else "",
        seconds=time.monotonic() - started,
        steps=tuple(steps),
    )


def _released(
    office: Office,
    training: Training,
    sums: Sums,
    plan: Plan,
    schema: Schema,
    *,
    give_up: bool,
    watch: Callable[[Progress], None],
) -> bytes:
    """Returns the release; everybody has heard of it, or that there is none."""
    known = training.release()
    if known is not None or give_up:
        with sums:
            sums.close(release=known or b"")
        return known or b""
    return run_training(
        plan=plan,
        schema=schema,
        sums=sums,
        key=office.key,
        now=datetime.fromtimestamp(system_clock(), UTC),
        watch=watch,
    )
