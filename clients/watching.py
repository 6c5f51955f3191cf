"""Everybody who watches a running institution: probes, a monitoring system, the service manager.

The daemon tells a `Watch` what it does; nothing here changes what it answers, or when.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import msgspec

from clients import audit
from clients.health import HealthServer, pages_of
from clients.ledger import Ledger
from clients.metrics import Metrics
from clients.pulse import Pulse, Standing
from clients.service_manager import ServiceManager
from federation.errors import FedscoreError, ProtocolError
from federation.messages import RefusalCode, Reply, Request
from federation.privacy.ledger_rules import Limits
from federation.privacy.units import Delta

_LOOK_SECONDS: Final = 1.0
_TELL_SECONDS: Final = 1.0
_EXTENSION: Final = str(60_000_000)
"""Microseconds that the start may take from each sign of life on; a table may be long to read."""

_KINDS: Final = frozenset(one.__name__ for one in (*Request.__args__, *Reply.__args__))
_OTHER: Final = "other"

_log = logging.getLogger(__name__)


class _Tagged(msgspec.Struct):
    """The part of every message that says what it is; the rest is skipped."""

    type: str
    code: str = ""


class Watch:
    """What the daemon tells about itself, from its one main thread."""

    def __init__(
        self,
        *,
        pulse: Pulse,
        metrics: Metrics,
        service: ServiceManager,
        ledger: Ledger,
        limits: Limits,
        snapshot: Path,
        now: Callable[[], float],
    ) -> None:
        """Starts watching.

        Args:
            pulse: of the process.
            metrics: of the process.
            service: who started it.
            ledger: open.
            limits: of the policy.
            snapshot: directory that is there while one is prepared.
            now: seconds on a clock that never goes back.
        """
        self._pulse = pulse
        self._metrics = metrics
        self._service = service
        self._ledger = ledger
        self._limits = limits
        self._snapshot = snapshot
        self._now = now
        self._look_at = now()

    def log(self, text: str) -> None:
        """Logs a line of the institution's, and counts the audits in it."""
        if text.endswith((audit.PASSED, audit.FAILED)):
            self._metrics.audited(text.endswith(audit.PASSED))
        _log.info("%s", text)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Keeps what takes long from being taken for a standstill."""
        with self._pulse.working(what):
            yield

    def ready(self) -> None:
        """Says that the institution will answer from now on."""
        self._look()
        self._service.tell(READY="1", STATUS="waiting for the coordinator")

    def answering(self, handle: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        """Returns a handler of requests that counts and times what `handle` answers."""

        def answer(request: bytes) -> bytes:
            started = self._now()
            asked = _tag_of(request).type
            with self._pulse.working(f"answering {asked}"):
                reply = handle(request)
            said = _tag_of(reply)
            self._metrics.answered(asked, said.code or said.type, self._now() - started)
            self._look()
            return reply

        return answer

    def opening(self, handle: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        """Returns a handler of envelopes that counts those that `handle` does not answer."""

        def answer(envelope: bytes) -> bytes:
            try:
                return handle(envelope)
            except ProtocolError:
                self._metrics.not_opened()
                raise

        return answer

    def turned(self, reached: bool) -> None:
        """Notes a turn of the main loop."""
        self._pulse.turned(reached)
        if self._now() >= self._look_at:
            self._look()

    def _look(self) -> None:
        """Looks at ledger and snapshot; only the main thread does."""
        self._look_at = self._now() + _LOOK_SECONDS
        sequence, balance, trouble = 0, None, ""
        try:
            sequence, balance = self._ledger.head()[0], self._ledger.balance(self._limits)
        except FedscoreError as error:
            trouble = str(error)
        self._pulse.stands(
            Standing(
                sequence=sequence,
                balance=balance,
                trouble=trouble,
                is_prepared=self._snapshot.is_dir(),
            )
        )


def _tag_of(message: bytes) -> _Tagged:
    """Returns what a message calls itself, from fixed lists whatever its bytes are."""
    try:
        found = msgspec.msgpack.decode(message, type=_Tagged)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _Tagged(type=_OTHER)
    return _Tagged(
        type=found.type if found.type in _KINDS else _OTHER,
        code=found.code if found.code in set(RefusalCode) else "",
    )


@contextmanager
def watching(
    *,
    health_address: str,
    delta: Delta,
    limits: Limits,
    ledger: Ledger,
    snapshot: Path,
    service: ServiceManager,
    now: Callable[[], float],
    stop: threading.Event,
) -> Iterator[Watch]:
    """Yields a watch whose pages are served and whose service manager hears of it.

    Args:
        health_address: loopback host and port; empty: nothing is served.
        delta: of the policy.
        limits: of the policy.
        ledger: open.
        snapshot: directory that is there while one is prepared.
        service: who started this process.
        now: seconds on a clock that never goes back.
        stop: set when the process is told to end.

    Raises:
        ConfigurationError: the address is not this machine's alone, or is taken.
    """
    pulse = Pulse(now)
    metrics = Metrics(pulse, delta)
    watch = Watch(
        pulse=pulse,
        metrics=metrics,
        service=service,
        ledger=ledger,
        limits=limits,
        snapshot=snapshot,
        now=now,
    )
    ended = threading.Event()
    signs = threading.Thread(
        target=_give_signs, args=(pulse, service, stop, ended), name="signs-of-life", daemon=True
    )
    pages = HealthServer(health_address, pages_of(pulse, metrics)) if health_address else None
    with pages or nullcontext():
        signs.start()
        try:
            yield watch
        finally:
            ended.set()
            signs.join()


def _give_signs(
    pulse: Pulse, service: ServiceManager, stop: threading.Event, ended: threading.Event
) -> None:
    """Tells the service manager how it goes until the process ends."""
    interval = min(_TELL_SECONDS, service.watchdog_seconds / 2 or _TELL_SECONDS)
    status = ""
    while not (stop.is_set() or ended.is_set()):
        why = "; ".join(pulse.why_not_ready()) or "ready"
        if why != status:
            status = why
            service.tell(STATUS=status)
        if pulse.standing is None:
            service.tell(EXTEND_TIMEOUT_USEC=_EXTENSION)
        _live(pulse, service)
        ended.wait(interval)
    pulse.stops()
    service.tell(STOPPING="1", STATUS="ending after what is under way")
    while not ended.wait(interval):
        _live(pulse, service)


def _live(pulse: Pulse, service: ServiceManager) -> None:
    if service.watchdog_seconds and not pulse.why_dead():
        service.tell(WATCHDOG="1")
