"""A daemon whose time is measured: python -m experiments.speed.live_daemon CONFIG TRACE.

It is `fedscore institution run` with clocks around some functions; TRACE is written at the end.
"""

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from clients import daemon, institution, ledger, records, sessions
from clients.configuration import Carrier, load_daemon_configuration
from clients.premises import premises_of
from experiments.speed.live_trace import Mark, Trace
from federation import door, sealed
from fedscore import files
from fedscore.machine import system_clock, system_entropy

DISK: Final = "ledger and records on disk"
ENVELOPES: Final = "envelopes"
LOOKING: Final = "asking for messages"
CARRYING: Final = "carrying messages"
WAITING: Final = "waiting until it asks again"
MASKS: Final = "masks and shares"
NOISE: Final = "noise"
SUM: Final = "the sum over its people"
CHECKS: Final = "checks, encoding, the rest of an answer"


def measure(trace: Trace, carrier: Carrier) -> None:
    """Puts clocks around what an institution does."""
    for name in ("draw_masks", "share", "checked", "reveal"):
        trace.wrap(sessions, name, MASKS)
    trace.wrap(door, "mask", MASKS)
    trace.wrap(door, "add_noise", NOISE)
    trace.wrap(door, "sum_of", SUM)
    trace.wrap(ledger.Ledger, "spend", DISK)
    trace.wrap(records.Records, "_write", DISK)
    trace.wrap(sealed, "open_request", ENVELOPES)
    trace.wrap(sealed, "seal_reply", ENVELOPES)
    trace.wrap(institution.Institution, "handle", CHECKS)
    if carrier is Carrier.NODE:
        from flwr.supernode.fleet_http_client import FleetHttpClient  # noqa: PLC0415  heavy

        trace.wrap(
            FleetHttpClient,
            "_unary_unary",
            lambda *_, path, **__: LOOKING if path.endswith("/pull-messages") else CARRYING,
        )
    answer = sealed.SealedHandler.__call__

    def marked(handler: sealed.SealedHandler, envelope: bytes) -> bytes:
        trace.mark()  # once for each request, before anything of it is done
        return answer(handler, envelope)

    sealed.SealedHandler.__call__ = marked  # type: ignore[assignment]  # for the life of this process


class _Stop(threading.Event):
    """Told to stop by a signal; what the node waits on between its looks."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def wait(self, timeout: float | None = None) -> bool:
        with self._trace.part(WAITING):
            return super().wait(timeout)


def main(config: Path, written: Path) -> None:
    """Runs the daemon until SIGTERM."""
    logging.basicConfig(level=logging.INFO)
    trace = Trace()
    stop = _Stop(trace)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    configuration = load_daemon_configuration(config)
    measure(trace, configuration.carrier)
    premises = premises_of(configuration)
    daemon.run_daemon(
        configuration,
        premises,
        identity=files.read_key(premises.identity),
        schema=files.read_schema(Path(configuration.schema)),
        clock=system_clock,
        noise_entropy=system_entropy,
        mask_entropy=system_entropy,
        stop=stop,
    )
    written.write_bytes(msgspec.json.encode(trace.marks))


def read_marks(path: Path) -> tuple[Mark, ...]:
    """Returns what a daemon has measured."""
    return msgspec.json.decode(path.read_bytes(), type=tuple[Mark, ...])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
