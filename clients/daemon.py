"""The institution as a process: one daemon on one state, from start to a stop between messages."""

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.configuration import Carrier, DaemonConfiguration
from clients.considering import pinned_roster
from clients.decisions import Decisions
from clients.institution import Institution
from clients.ledger import Ledger
from clients.ledger_file import errors_of
from clients.node_key import load_node_key
from clients.premises import Premises
from clients.reading import Reading
from clients.records import Records
from clients.releases import Releases
from clients.service_manager import ServiceManager
from clients.socket_carrier import serve_socket
from clients.watching import watching
from clients.withdrawals import Withdrawals
from federation.envelope import LARGEST_ENVELOPE
from federation.privacy.entropy import Entropy
from federation.privacy.units import Delta
from federation.schema import Schema
from federation.sealed import SealedHandler

_log = logging.getLogger(__name__)


def run_daemon(
    configuration: DaemonConfiguration,
    premises: Premises,
    *,
    identity: Ed25519PrivateKey,
    schema: Schema,
    clock: Callable[[], int],
    noise_entropy: Entropy,
    mask_entropy: Entropy,
    stop: threading.Event,
) -> None:
    """Answers the coordinator until `stop` is set; what was begun is answered.

    Args:
        configuration: of the institution.
        premises: its private state.
        identity: its key.
        schema: the federation's data contract.
        clock: whole seconds since 1970.
        noise_entropy: 32 fresh secret bytes a call, for noise.
        mask_entropy: likewise, for keys, masks and envelopes.
        stop: set by whoever wants this to end.

    Raises:
        ConfigurationError: a file is missing or does not fit, or another daemon has this state.
        DataError: the table breaks its contract.
        LedgerCorrupt: the ledger cannot be trusted.
    """
    serve = _carrier(configuration, premises)
    roster = pinned_roster(configuration)
    decisions = Decisions(premises.decisions)
    snapshot = premises.snapshots / "snapshot"
    with (
        Ledger.open(premises.ledger, clock) as ledger,
        Records(premises.records) as records,
        watching(
            health_address=configuration.health_address,
            delta=Delta(configuration.policy.delta),
            limits=configuration.policy.limits,
            ledger=ledger,
            snapshot=snapshot,
            service=ServiceManager(os.environ, os.getpid()),
            now=time.monotonic,
            stop=stop,
        ) as watch,
    ):
        institution = Institution(
            identifier=configuration.id,
            identity=identity,
            roster=roster,
            schema=schema,
            read_table=Reading(
                configuration=configuration,
                schema=schema,
                split=configuration.split,
                clock=clock,
                withdrawals=Withdrawals(premises.withdrawals),
            ),
            most_people=configuration.most_people,
            split=configuration.split,
            policy=configuration.policy,
            ledger=ledger,
            records=records,
            workspace=premises.snapshots,
            is_approved=lambda plan: decisions.of(plan).lets_in(configuration.approval),
            keep_release=Releases(premises.releases).keep,
            withdrawals=Withdrawals(premises.withdrawals),
            clock=clock,
            noise_entropy=noise_entropy,
            mask_entropy=mask_entropy,
            log=watch.log,
        )

        def rest() -> None:
            with watch.working("reading the table"), errors_of(premises.snapshots):
                institution.rest()

        try:
            with watch.working("reading the table"), errors_of(premises.snapshots):
                institution.resume()
            watch.ready()
            _log.info("ready, at ledger sequence %d", ledger.head()[0])
            serve(
                handle=watch.opening(
                    SealedHandler(
                        watch.answering(institution.handle),
                        institution=configuration.id,
                        federation=configuration.federation,
                        identity=identity,
                        coordinator=configuration.policy.coordinator,
                        clock=clock,
                        entropy=mask_entropy,
                    )
                ),
                idle=rest,
                stop=stop,
                turned=watch.turned,
            )
        finally:
            institution.leave()
    _log.info("stopped")


class _Serve(Protocol):
    def __call__(
        self,
        *,
        handle: Callable[[bytes], bytes],
        idle: Callable[[], None],
        stop: threading.Event,
        turned: Callable[[bool], None],
    ) -> None: ...


def _carrier(configuration: DaemonConfiguration, premises: Premises) -> _Serve:
    """Returns what brings requests to this daemon until it is stopped."""
    match configuration.carrier:
        case Carrier.SOCKET:
            return partial(serve_socket, premises.socket, largest_bytes=LARGEST_ENVELOPE)
        case Carrier.NODE:
            # imported here: who is reached by a socket needs no Flower in the daemon
            from clients.flower_node import serve  # noqa: PLC0415

            return partial(
                serve,
                configuration.coordinator_address,
                root_certificates=Path(configuration.root_certificates),
                node_key=load_node_key(premises.node),
            )
        case unknown:
            assert_never(unknown)
