"""`institution run` as a process: how it starts and ends, what it says, its exit codes."""

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from clients.ledger import Ledger
from fedscore.machine import system_clock
from tests.federations import small_table
from tests.flower_processes import CHECKOUT, free_port
from tests.integration.test_doctor import (  # fixtures among them
    CONFIG,
    HOME,
    STATE,
    built,
    configure,
    damage_ledger,
    fedscore,
    nation,
    other_roster,
    place,
)

__all__ = ["built", "fedscore", "nation", "place"]

pytestmark = pytest.mark.slow

RUN = [sys.executable, "-m", "fedscore.command", "institution", "run", CONFIG]
PATIENCE_SECONDS = 60


@contextmanager
def daemon(**settings):
    """Yields a running daemon; it is killed if the test has not ended it."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), **settings.pop("env", {})}
    with (
        Path("daemon.log").open("wb") as log,
        subprocess.Popen(
            RUN, stdout=subprocess.PIPE, stderr=log, env=environment, **settings
        ) as it,
    ):
        try:
            yield it
        finally:
            it.kill()


def ended(process) -> tuple[int, list[dict[str, str]]]:
    """Returns exit code and log of a daemon that ends by itself or was told to."""
    out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert out == b""
    return process.returncode, logged()


def logged() -> list[dict[str, str]]:
    lines = [json.loads(line) for line in Path("daemon.log").read_bytes().split(b"\n") if line]
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    return lines


def until(condition) -> None:
    """Returns once it holds; other processes are at work meanwhile."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, Path("daemon.log").read_text()
        time.sleep(0.05)


def answer_of(port: int, path: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if path != "/metrics" else {"text": body.decode()}
    except ConnectionRefusedError:
        return 0, {}
    finally:
        connection.close()


def spend_disk():
    """Files of this process end at 64 KiB, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))


def large_table():
    small_table(Path("table.parquet"), 90_000, 0)
    configure("most_people = 1000", "most_people = 100000")


def nothing() -> None:
    pass


FAILURES = {
    "bad configuration": (78, lambda: configure("least_quorum", "lowest"), nothing, "lowest"),
    "unsigned roster": (
        76,
        lambda: (HOME / "roster.toml").write_bytes(other_roster()),
        nothing,
        "signature",
    ),
    "corrupt ledger": (74, damage_ledger, nothing, "ledger"),
    "table without its columns": (
        65,
        lambda: Path("table.parquet").write_bytes(b"PAR1"),
        nothing,
        "cannot be read as Parquet",
    ),
    "too many people": (65, lambda: configure("1000", "299"), nothing, "most_people"),
    "full disk": (78, large_table, spend_disk, "state/snapshots"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_stops_a_daemon_has_an_exit_code_and_one_clear_line(place, case):
    code, spoil, limit, told = FAILURES[case]
    spoil()
    with daemon(preexec_fn=limit) as it:
        found, lines = ended(it)
    assert found == code, lines
    assert lines[-1]["level"] == "error"
    assert told in lines[-1]["event"]
    assert not any("trace" in line for line in lines)
    assert not list((STATE / "snapshots").iterdir())


def test_a_second_daemon_on_one_state_ends_and_the_first_goes_on(place):
    with Ledger.open(STATE / "ledger.sqlite", system_clock) as first:
        with daemon() as it:
            code, lines = ended(it)
        assert code == 78
        assert "One daemon owns a ledger" in lines[-1]["event"]
        assert first.head()[0] == 0


def test_a_taken_health_address_is_said_at_the_start(place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        configure("[policy]", f'health_address = "127.0.0.1:{port}"\n[policy]')
        with daemon() as it:
            code, lines = ended(it)
    assert code == 78
    assert "cannot be listened on" in lines[-1]["event"]


def test_a_daemon_tells_probes_and_systemd_how_it_is_from_start_to_end(place):
    # the coordinator's address answers 401 to all: the daemon is alive, and not ready
    port = free_port()
    configure("[policy]", f'health_address = "127.0.0.1:{port}"\n[policy]')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("notify")
        manager.settimeout(PATIENCE_SECONDS)
        told = []

        def heard(word: bytes) -> bool:
            told.append(manager.recv(1000))
            return word in told[-1]

        environment = {"NOTIFY_SOCKET": "notify", "WATCHDOG_USEC": "2000000"}
        with daemon(env=environment) as it:
            until(lambda: heard(b"READY=1"))
            until(lambda: heard(b"WATCHDOG=1"))
            until(lambda: answer_of(port, "/livez")[0] == 200)
            status, verdict = answer_of(port, "/readyz")
            assert status == 503
            assert verdict["reasons"] == ["the coordinator has not been reached yet"]
            text = answer_of(port, "/metrics")[1]["text"]
            assert "fedscore_connected 0.0" in text
            assert 'fedscore_budget_units{people="trained",what="charged_ever"} 0.0' in text
            until(lambda: any("401" in line["event"] for line in logged()))
            it.send_signal(signal.SIGTERM)
            it.send_signal(signal.SIGTERM)  # an operator who cannot wait
            until(lambda: heard(b"STOPPING=1"))
            it.send_signal(signal.SIGTERM)
            code, lines = ended(it)
    assert code == 0
    events = [line["event"] for line in lines]
    assert events[-1] == "stopped"
    assert any("401: not admitted" in event for event in events), events
    assert not list((STATE / "snapshots").iterdir())
    with Ledger.open(STATE / "ledger.sqlite", system_clock) as ledger:
        ledger.verify()


def run_as(patch: str) -> tuple[int, dict[str, object]]:
    """Returns exit code and the only line of the log of a daemon that something was done to."""
    script = (
        f"{patch}\nimport sys; sys.argv = ['fedscore', 'institution', 'run', {CONFIG!r}]\n"
        "from fedscore.command import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    (line,) = [json.loads(one) for one in done.stderr.splitlines()]
    return done.returncode, line


def test_flower_that_is_missing_is_a_line_of_the_log_as_well(place):
    code, line = run_as(
        "import importlib.util; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'flwr' else real(name, *a)"
    )
    assert code == 78
    assert "fedscore[live]" in line["event"]


def test_a_mistake_of_ours_is_one_line_that_quotes_nothing(place):
    code, line = run_as(
        "import clients.daemon\n"
        "def fails(*_, **__): raise ValueError('income 4711')\n"
        "clients.daemon.run_daemon = fails"
    )
    assert code == 1
    assert line["level"] == "critical"
    assert line["trace"][-1] == "ValueError"
    assert "4711" not in json.dumps(line)
