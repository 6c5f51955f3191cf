"""What systemd is told, and that it does not matter whether it listens."""

import socket
import threading
from contextlib import contextmanager

import pytest

from clients.ledger import Ledger
from clients.service_manager import ServiceManager
from clients.watching import watching
from federation.privacy.ledger_rules import Limits
from federation.privacy.units import BudgetUnits, Delta
from tests.federations import clock


@pytest.fixture
def told(tmp_path):
    """A socket as systemd makes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(5)
        yield end


def manager(told, **environment):
    return ServiceManager({"NOTIFY_SOCKET": told.getsockname(), **environment}, 42)


def test_assignments_go_as_one_datagram(told):
    manager(told).tell(READY="1", STATUS="fine\nREADY=0")
    assert told.recv(1000) == b"READY=1\nSTATUS=fine READY=0"


def test_an_abstract_socket_is_reached():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0fedscore-test-notify")
        end.settimeout(5)
        ServiceManager({"NOTIFY_SOCKET": "@fedscore-test-notify"}, 42).tell(READY="1")
        assert end.recv(100) == b"READY=1"


@pytest.mark.parametrize("path", ["", "/nowhere/at/all", "@nobody", "x" * 300])
def test_nobody_who_listens_changes_nothing(path):
    ServiceManager({"NOTIFY_SOCKET": path}, 42).tell(READY="1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "43"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_a_watchdog_is_for_the_process_that_it_names(environment, seconds):
    assert ServiceManager(environment, 42).watchdog_seconds == seconds


@contextmanager
def watched(tmp_path, service, stop, now):
    path = tmp_path / "ledger.sqlite"
    opened = Ledger.open if path.exists() else Ledger.create
    with (
        opened(path, clock) as ledger,
        watching(
            health_address="",
            delta=Delta(1e-6),
            limits=Limits(lifetime=BudgetUnits(9), yearly=BudgetUnits(9)),
            ledger=ledger,
            snapshot=tmp_path,
            service=service,
            now=now,
            stop=stop,
        ) as watch,
    ):
        yield watch


def heard(told, word: bytes) -> list[bytes]:
    """Returns what is told up to the first datagram with a word in it."""
    found = []
    while not found or word not in found[-1]:
        found.append(told.recv(1000))
    return found


def test_a_service_tells_that_it_starts_is_ready_lives_and_ends(told, tmp_path):
    stop = threading.Event()
    service = manager(told, WATCHDOG_USEC="20000")
    with watched(tmp_path, service, stop, lambda: 0.0) as watch:
        starting = heard(told, b"WATCHDOG=1")
        assert b"STATUS=it is starting: opening its state" in starting
        heard(told, b"EXTEND_TIMEOUT_USEC=60000000")
        watch.ready()
        assert heard(told, b"READY=1")[-1] == b"READY=1\nSTATUS=waiting for the coordinator"
        watch.turned(True)
        heard(told, b"STATUS=ready")
        since = heard(told, b"WATCHDOG=1")
        assert not any(b"EXTEND" in one for one in since)
        stop.set()
        heard(told, b"STOPPING=1")
        heard(told, b"WATCHDOG=1")  # until the very end


def test_a_loop_that_stands_still_gives_no_sign_of_life(told, tmp_path):
    at = [0.0]
    stop = threading.Event()
    service = manager(told, WATCHDOG_USEC="20000")
    with watched(tmp_path, service, stop, lambda: at[0]) as watch:
        watch.ready()
        heard(told, b"WATCHDOG=1")
        at[0] = 1000.0
        heard(told, b"STATUS=the main loop has not turned for 1000 seconds")
        told.settimeout(0.1)
        rest = []
        try:
            while True:
                rest.append(told.recv(1000))
        except TimeoutError:
            pass
        assert b"WATCHDOG=1" not in rest
