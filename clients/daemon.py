"""The institution as a process: one daemon on one state, from start to a stop between messages."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.configuration import DaemonConfiguration
from clients.considering import pinned_roster
from clients.decisions import Decisions
from clients.flower_node import load_node_key, serve
from clients.institution import Institution
from clients.ledger import Ledger
from clients.premises import Premises
from clients.reading import Reading
from clients.records import Records
from clients.releases import Releases
from clients.withdrawals import Withdrawals
from federation.privacy.entropy import Entropy
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
    entropy: Entropy,
    stop: threading.Event,
) -> None:
    """Answers the coordinator until `stop` is set; what was begun is answered.

    Args:
        configuration: of the institution.
        premises: its private state.
        identity: its key.
        schema: the federation's data contract.
        clock: whole seconds since 1970.
        entropy: 32 fresh secret bytes a call.
        stop: set by whoever wants this to end.

    Raises:
        ConfigurationError: a file is missing or does not fit, or another daemon has this state.
        DataError: the table breaks its contract.
        LedgerCorrupt: the ledger cannot be trusted.
    """
    node_key = load_node_key(premises.node)
    roster = pinned_roster(configuration)
    decisions = Decisions(premises.decisions)
    with Ledger.open(premises.ledger, clock) as ledger, Records(premises.records) as records:
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
            clock=clock,
            noise_entropy=entropy,
            mask_entropy=entropy,
            log=_log.info,
        )
        institution.resume()
        _log.info("ready, at ledger sequence %d", ledger.head()[0])
        serve(
            configuration.coordinator_address,
            root_certificates=Path(configuration.root_certificates),
            node_key=node_key,
            handle=SealedHandler(
                institution.handle,
                institution=configuration.id,
                federation=configuration.federation,
                identity=identity,
                coordinator=configuration.policy.coordinator,
                clock=clock,
                entropy=entropy,
            ),
            idle=institution.rest,
            stop=stop,
        )
        institution.leave()
    _log.info("stopped")
