"""`institution doctor`: each thing is broken, found, and mended by the advice that is given.

In every case exactly one check fails: what rests on it is skipped, and nothing else is blamed.
"""

import importlib.metadata
import json
import os
import re
import shutil
import sqlite3
import ssl
import subprocess
import sys
import threading
import tomllib
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clients import coordinator_check, disk_space
from clients.doctoring import CHECKS, Tools, examine
from clients.flower_version import FLOWER
from clients.health import HealthServer, pages_of
from clients.ledger import Ledger
from clients.metrics import Metrics
from clients.pulse import Pulse
from clients.records import Records
from federation.plan import load_plan
from federation.pricing import price_of
from federation.privacy.units import Delta, Price
from federation.secure_aggregation.roster import load_roster, roster_toml
from fedscore import files
from fedscore.machine import system_clock
from server.certificates import issue, make_authority
from tests.federations import OTHER_KEY, small_schema, small_table
from tests.flower_processes import CHECKOUT, free_port
from tests.integration.test_institution_command import (  # fixtures among them
    BANKS,
    CONFIG,
    built,
    everything_below,
    fedscore,
    nation,
)

__all__ = ["built", "fedscore", "nation"]

HOME = Path(BANKS[0])
STATE = HOME / "state"


class Coordinator(ThreadingHTTPServer):
    """What answers at the coordinator's address: as Flower does, to somebody without a name."""

    status = 401
    skew_seconds = 0
    daemon_threads = True

    def __init__(self, port: int, certificate: Path) -> None:
        super().__init__(("127.0.0.1", port), _Refusing)
        self.asked: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)  # its key is in the same file
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request, client_address):
        """A handshake that failed is the test's own doing."""


class _Refusing(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.asked.append(self.path)
        self.send_error(self.server.status)

    def date_time_string(self, timestamp=None):
        return super().date_time_string(system_clock() + self.server.skew_seconds)

    def log_message(self, *_):
        pass


class Place:
    """An institution that has all it needs, and a coordinator that answers."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.server: Coordinator | None = None

    def serve(self):
        self.stop()
        self.server = Coordinator(self.port, Path("coordinator/server.pem"))
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


@pytest.fixture
def place(nation):
    found = Place(free_port())
    shutil.copy("coordinator/ca.pem", HOME / "ca.pem")
    configure("127.0.0.1:9092", f"127.0.0.1:{found.port}")
    configure(tomllib.loads(Path(CONFIG).read_text())["table"], str(nation / "table.parquet"))
    found.serve()
    yield found
    found.stop()


def configure(old: str, new: str) -> None:
    text = Path(CONFIG).read_text()
    assert old in text
    Path(CONFIG).write_text(text.replace(old, new))


@pytest.fixture
def doctor(fedscore):
    def examine() -> dict[str, dict[str, str]]:
        code, out, err = fedscore("institution", "doctor", CONFIG, "--json")
        found = {one["check"]: one for one in json.loads(out)}
        assert tuple(found) == CHECKS
        broken = failing(found)
        assert code == (78 if broken else 0), err
        assert all(one["advice"] for one in found.values() if one["verdict"] in ("fail", "warn"))
        return found

    return examine


def failing(found) -> list[str]:
    return [check for check, one in found.items() if one["verdict"] == "fail"]


def follow(advice: str) -> None:
    """Does what an advice says in backticks, as a person in a shell would."""
    for command in re.findall("`([^`]+)`", advice):
        subprocess.run(command, shell=True, check=True)  # noqa: S602  that is what is tested


def test_a_sound_institution_passes_and_nothing_is_changed_by_looking(place, doctor):
    before = everything_below(Path.cwd())
    found = doctor()
    assert {check for check, one in found.items() if one["verdict"] != "pass"} == {"daemon"}
    assert found["daemon"]["verdict"] == "warn"
    assert everything_below(Path.cwd()) == before
    assert place.server.asked == [coordinator_check.FLEET_PATH]


def test_people_see_a_table(place, fedscore):
    code, out, _ = fedscore("institution", "doctor", CONFIG)
    assert code == 0
    assert all(check.split()[0] in out for check in CHECKS)


# What a command in the advice mends.

BY_COMMAND = {
    "state that others see": ("state", lambda: STATE.chmod(0o755)),
    "snapshots that others see": ("state", lambda: (STATE / "snapshots").chmod(0o750)),
    "no decisions": ("state", (STATE / "decisions").rmdir),
    "no snapshots": ("state", (STATE / "snapshots").rmdir),
    "identity that others see": ("identity key", lambda: (STATE / "identity.key").chmod(0o640)),
    "node key that others see": ("node key", lambda: (STATE / "node.key").chmod(0o604)),
    "ledger that others see": ("ledger", lambda: (STATE / "ledger.sqlite").chmod(0o644)),
    "withdrawals that others see": ("withdrawals", lambda: (STATE / "withdrawn").chmod(0o644)),
    "records that others see": ("records", lambda: (STATE / "records.sqlite").chmod(0o644)),
}


@pytest.mark.parametrize("case", BY_COMMAND)
def test_the_command_in_the_advice_mends_it(place, doctor, case):
    check, spoil = BY_COMMAND[case]
    spoil()
    found = doctor()
    assert failing(found) == [check]
    follow(found[check]["advice"])
    assert failing(doctor()) == []


# What a person mends by putting a file back, or correcting it, as the advice says.


def exchange(path: Path, content: bytes):
    def spoil():
        path.write_bytes(content)

    return spoil


def other_roster():
    roster = load_roster((HOME / "roster.toml").read_text())
    return roster_toml(roster.signed(OTHER_KEY)).encode()


def roster_with(change):
    def spoil():
        path = HOME / "roster.toml"
        key = files.read_key(Path("coordinator/coordinator.key"))
        members = change(load_roster(path.read_text()).members)
        changed = msgspec.structs.replace(load_roster(path.read_text()), members=members)
        path.write_text(roster_toml(changed.signed(key)))

    return spoil


def without_us(members):
    return tuple(one for one in members if one.id != BANKS[0])


def with_another_key(members):
    return tuple(
        msgspec.structs.replace(one, key="ab" * 32) if one.id == BANKS[0] else one
        for one in members
    )


def damage_ledger():
    with sqlite3.connect(STATE / "ledger.sqlite") as connection:
        connection.execute("DROP TRIGGER entry_is_never_deleted")
    connection.close()


def expired_authority():
    made = make_authority("test", datetime.now(UTC) - timedelta(days=4000))
    (HOME / "ca.pem").write_bytes(made.certificate_pem)


RESTORED = {
    "no configuration": (
        "configuration",
        CONFIG,
        lambda: Path(CONFIG).unlink(),
        "institution init",
    ),
    "a setting that is none": (
        "configuration",
        CONFIG,
        lambda: configure("least_quorum", "lowest_quorum"),
        "Correct",
    ),
    "a health address for all": (
        "configuration",
        CONFIG,
        lambda: configure("[policy]", 'health_address = "0.0.0.0:1"\n[policy]'),
        "Correct",
    ),
    "no identity": (
        "identity key",
        STATE / "identity.key",
        (STATE / "identity.key").unlink,
        "Restore",
    ),
    "another identity": (
        "identity key",
        STATE / "identity.key",
        lambda: (STATE / "identity.key").write_bytes(files.key_pem(OTHER_KEY)),
        "Restore the key",
    ),
    "another's card": (
        "identity key",
        HOME / "card.toml",
        lambda: shutil.copy(f"{BANKS[1]}/card.toml", HOME / "card.toml"),
        "Restore the key",
    ),
    "no node key": ("node key", STATE / "node.key", (STATE / "node.key").unlink, "Restore"),
    "a node key that is none": (
        "node key",
        STATE / "node.key",
        exchange(STATE / "node.key", b"x"),
        "Restore",
    ),
    "another node key": (
        "node key",
        STATE / "node.key",
        lambda: shutil.copy(f"{BANKS[1]}/state/node.key", STATE / "node.key"),
        "Restore",
    ),
    "no roster": ("roster", HOME / "roster.toml", (HOME / "roster.toml").unlink, "newest"),
    "a roster of others": (
        "roster",
        HOME / "roster.toml",
        lambda: (HOME / "roster.toml").write_bytes(other_roster()),
        "is `coordinator`",
    ),
    "a roster without us": ("roster", HOME / "roster.toml", roster_with(without_us), "Hand card"),
    "a roster with another key": (
        "roster",
        HOME / "roster.toml",
        roster_with(with_another_key),
        "Compare fingerprints",
    ),
    "no schema": ("schema", HOME / "schema.toml", (HOME / "schema.toml").unlink, "Put"),
    "a feature that nobody knows": (
        "schema",
        CONFIG,
        lambda: configure("not_held = []", 'not_held = ["x"]'),
        "not_held",
    ),
    "no authority": ("authority", HOME / "ca.pem", (HOME / "ca.pem").unlink, "ca.pem"),
    "an authority that is none": (
        "authority",
        HOME / "ca.pem",
        exchange(HOME / "ca.pem", b"x"),
        "ca.pem",
    ),
    "another authority": (
        "coordinator",
        HOME / "ca.pem",
        lambda: (HOME / "ca.pem").write_bytes(
            make_authority("test", datetime.now(UTC)).certificate_pem
        ),
        "newest ca.pem",
    ),
    "a name that the certificate has not": (
        "coordinator",
        CONFIG,
        lambda: configure("127.0.0.1:", "localhost:"),
        "coordinator_address",
    ),
    "a host that is none": (
        "coordinator",
        CONFIG,
        lambda: configure("127.0.0.1:", "nobody.invalid:"),
        "coordinator_address",
    ),
    "no ledger": ("ledger", STATE / "ledger.sqlite", (STATE / "ledger.sqlite").unlink, "restore"),
    "a damaged ledger": ("ledger", STATE / "ledger.sqlite", damage_ledger, "restore"),
    "no records": (
        "records",
        STATE / "records.sqlite",
        (STATE / "records.sqlite").unlink,
        "restore",
    ),
    "records that are none": (
        "records",
        STATE / "records.sqlite",
        exchange(STATE / "records.sqlite", b"x" * 9000),
        "restore",
    ),
    "no withdrawals": ("withdrawals", STATE / "withdrawn", (STATE / "withdrawn").unlink, "newest"),
    "damaged withdrawals": (
        "withdrawals",
        STATE / "withdrawn",
        exchange(STATE / "withdrawn", b"x" * 72),
        "newest",
    ),
    "no table": (
        "table",
        "table.parquet",
        lambda: Path("table.parquet").unlink(),
        "Correct the table",
    ),
    "too many people": (
        "table",
        CONFIG,
        lambda: configure("most_people = 1000", "most_people = 299"),
        "`most_people`",
    ),
}


@pytest.mark.parametrize("case", RESTORED)
def test_what_the_advice_names_put_right_mends_it(place, doctor, case):
    check, path, spoil, told = RESTORED[case]
    sound, mode = Path(path).read_bytes(), Path(path).stat().st_mode
    spoil()
    found = doctor()
    assert failing(found) == [check]
    assert told in found[check]["advice"]
    skipped = [one for one in found.values() if one["verdict"] == "skipped"]
    assert all(one["found"] for one in skipped)
    Path(path).write_bytes(sound)
    Path(path).chmod(mode)
    assert failing(doctor()) == []


def test_a_broken_configuration_lets_the_rest_be_skipped_with_a_reason(place, doctor):
    Path(CONFIG).write_text("id = [")
    found = doctor()
    assert found["flower"]["verdict"] == "pass"
    rest = [found[check] for check in CHECKS[2:]]
    assert {(one["verdict"], one["found"]) for one in rest} == {
        ("skipped", "the configuration cannot be read")
    }


def test_a_lost_state_directory_is_restored(place, doctor):
    STATE.rename("elsewhere")
    found = doctor()
    assert set(failing(found)) == {
        "state",
        "identity key",
        "node key",
        "ledger",
        "records",
        "withdrawals",
    }
    assert "Restore" in found["state"]["advice"]
    Path("elsewhere").rename(STATE)
    assert failing(doctor()) == []


def test_who_is_not_the_daemons_user_is_told_so(place, doctor, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("os.geteuid", lambda: 4711)
        found = doctor()
    assert failing(found) == ["state"]
    assert "you are user 4711" in found["state"]["found"]
    assert "Run this as the user" in found["state"]["advice"]
    assert found["table"]["verdict"] == found["disk"]["verdict"] == "skipped"


@pytest.mark.slow
def test_doctor_and_report_load_nothing_of_coordinator_flower_or_torch(place):
    script = (
        "import sys; from fedscore.command import app\n"
        f"app(['institution', 'doctor', {CONFIG!r}, '--json'], standalone_mode=False)\n"
        "import clients.home_report\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "sys.exit(bool(loaded & {'server', 'flwr', 'torch', 'dp_accounting'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert done.returncode == 0, done.stderr


def test_a_table_that_breaks_the_contract_is_told_without_a_value(place, doctor):
    sound = pq.read_table("table.parquet")
    at = sound.column_names.index("bad")
    values = pa.array([4711, *sound["bad"].to_pylist()[1:]])
    pq.write_table(sound.set_column(at, "bad", values), "table.parquet")
    found = doctor()
    assert failing(found) == ["table"]
    assert "the outcome must be" in found["table"]["found"]
    assert "4711" not in json.dumps(found)
    assert found["disk"]["verdict"] == "skipped"
    pq.write_table(sound, "table.parquet")
    assert failing(doctor()) == []


def test_a_full_disk_is_found_before_the_daemon_meets_it(place, doctor, monkeypatch):
    real = shutil.disk_usage
    with monkeypatch.context() as patch:
        patch.setattr(disk_space.shutil, "disk_usage", lambda path: real(path)._replace(free=1000))
        found = doctor()
    assert failing(found) == ["disk"]
    assert "Free some space" in found["disk"]["advice"]
    assert failing(doctor()) == []


def test_a_ledger_of_another_federation_is_named(place, doctor):
    plan = load_plan(Path("plan.toml").read_text())
    price = price_of(plan, small_schema())
    with Ledger.open(STATE / "ledger.sqlite", system_clock) as ledger:
        limits = policy_limits()
        ledger.reserve(
            plan.digest, price.price, alone=price.alone, split=plan.people.split.digest,
            limits=limits,
        )  # fmt: skip
    found = doctor()
    assert failing(found) == []
    assert "1 open plans" in found["ledger"]["found"]
    configure("held_out_fraction = 0.25", "held_out_fraction = 0.3")
    found = doctor()
    assert failing(found) == ["ledger"]
    assert "held_out_fraction" in found["ledger"]["advice"]
    configure("held_out_fraction = 0.3", "held_out_fraction = 0.25")
    assert failing(doctor()) == []


def policy_limits():
    from clients.configuration import load_daemon_configuration

    return load_daemon_configuration(Path(CONFIG)).policy.limits


def test_a_ledger_that_is_older_than_a_signed_header_is_found(place, doctor):
    with Records(STATE / "records.sqlite") as records:
        records.note_own_head(3, "ab" * 32)
    found = doctor()
    assert failing(found) == ["ledger"]
    assert "older than a head seen before" in found["ledger"]["found"]
    assert "ledger recover" in found["ledger"]["advice"]


def test_a_spent_budget_is_a_warning(place, doctor):
    plan = load_plan(Path("plan.toml").read_text())
    with Ledger.open(STATE / "ledger.sqlite", system_clock) as ledger:
        limits = policy_limits()
        price = price_of(plan, small_schema())
        ledger.reserve(
            plan.digest, Price(trained=limits.yearly, held_out=0), alone=price.alone,
            split=plan.people.split.digest, limits=limits,
        )  # fmt: skip
    found = doctor()
    assert found["ledger"]["verdict"] == "warn"
    assert "nothing is left for trained people" in found["ledger"]["found"]


# The way to the coordinator.


def test_a_coordinator_that_does_not_run_is_told_and_fails_nothing(place, doctor):
    place.stop()
    found = doctor()
    assert failing(found) == []
    assert found["coordinator"]["verdict"] == "warn"
    assert "only while a training runs" in found["coordinator"]["advice"]
    assert "firewall" in found["coordinator"]["advice"]
    assert found["clock"]["verdict"] == found["server certificate"]["verdict"] == "skipped"
    place.serve()
    assert failing(doctor()) == []


@pytest.mark.parametrize(
    ("status", "told"), [(200, "must sign"), (404, "right port"), (403, "right port")]
)
def test_something_else_at_the_coordinators_address_is_found(place, doctor, status, told):
    place.server.status = status
    found = doctor()
    assert failing(found) == ["coordinator"]
    assert told in found["coordinator"]["advice"]


def test_a_proxy_with_nobody_behind_it_is_told_and_fails_nothing(place, doctor):
    place.server.status = 502
    found = doctor()
    assert failing(found) == []
    assert found["coordinator"]["verdict"] == "warn"
    assert "nobody is behind its proxy now" in found["coordinator"]["found"]


def test_a_server_without_tls_is_found(place, doctor):
    place.stop()
    plain = ThreadingHTTPServer(("127.0.0.1", place.port), BaseHTTPRequestHandler)
    threading.Thread(target=plain.serve_forever, args=(0.01,), daemon=True).start()
    found = doctor()
    plain.shutdown()
    plain.server_close()
    assert failing(found) == ["coordinator"]
    assert "does not speak TLS" in found["coordinator"]["found"]


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [(0, "pass"), (-3, "pass"), (20, "warn"), (-20, "warn"), (70, "fail"), (-400, "fail")],
)
def test_a_clock_that_is_off_is_found(place, doctor, seconds, verdict):
    place.server.skew_seconds = seconds
    found = doctor()
    assert found["clock"]["verdict"] == verdict
    assert failing(found) == (["clock"] if verdict == "fail" else [])


def certificate_of_age(days: int) -> None:
    """Replaces authority and certificate by such as were made some days ago."""
    then = datetime.now(UTC) - timedelta(days=days)
    made = make_authority("test", then)
    (HOME / "ca.pem").write_bytes(made.certificate_pem)
    Path("coordinator/server.pem").write_bytes(issue(made, ("127.0.0.1",), then))


def test_a_certificate_that_ends_soon_is_a_warning(place, doctor):
    certificate_of_age(345)
    place.serve()
    found = doctor()
    assert found["server certificate"]["verdict"] == "warn"
    assert "20 days" in found["server certificate"]["found"]


def test_a_certificate_that_has_ended_is_found_and_renewing_it_mends_it(place, doctor):
    certificate_of_age(366)
    place.serve()
    found = doctor()
    assert failing(found) == ["coordinator"]
    assert "renew" in found["coordinator"]["advice"]
    certificate_of_age(0)
    place.serve()
    assert failing(doctor()) == []


def test_an_authority_that_ends_is_found(place, doctor):
    certificate_of_age(3640)
    assert doctor()["authority"]["verdict"] == "warn"
    certificate_of_age(4000)
    assert "authority" in failing(doctor())


# Flower and the daemon.


@pytest.mark.parametrize("there", ["1.40.0", None])
def test_another_flower_is_named_with_the_one_that_is_needed(place, doctor, monkeypatch, there):
    real = importlib.metadata.version

    def version(name):
        if name != "flwr":
            return real(name)
        if there is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return there

    with monkeypatch.context() as patch:
        patch.setattr("clients.flower_version.version", version)
        found = doctor()
    assert failing(found) == ["flower"]
    assert f"pip install flwr=={FLOWER}" in found["flower"]["advice"]
    assert failing(doctor()) == []


def test_the_flower_that_the_doctor_wants_is_the_one_that_is_installed_for_us():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert f"flwr=={FLOWER}" in project["project"]["optional-dependencies"]["live"]


def test_a_daemon_at_work_is_seen_and_not_disturbed(place, doctor):
    with Ledger.open(STATE / "ledger.sqlite", system_clock):
        found = doctor()
        assert failing(found) == []
        assert found["daemon"]["verdict"] == "pass"
        assert "runs" in found["daemon"]["found"]


def test_a_daemon_says_by_its_health_address_whether_it_is_ready(place, doctor):
    port = free_port()
    configure("[policy]", f'health_address = "127.0.0.1:{port}"\n[policy]')
    pulse = Pulse(lambda: 0.0)
    with Ledger.open(STATE / "ledger.sqlite", system_clock):
        found = doctor()["daemon"]
        assert found["verdict"] == "warn"
        assert "nothing of ours answers" in found["found"]
        pages = pages_of(pulse, Metrics(pulse, Delta(1e-6)))
        with HealthServer(f"127.0.0.1:{port}", pages):
            found = doctor()["daemon"]
    assert found["verdict"] == "warn"
    assert found["found"] == "runs, not ready: it is starting: opening its state"


def test_a_table_is_read_to_its_end_and_progress_is_told(place):
    small_table(Path("table.parquet"), 900, 3)
    seen: list[int] = []
    tools = Tools(
        clock=system_clock,
        read_key=files.read_key,
        read_schema=files.read_schema,
        on_rows=seen.append,
    )
    found = {one.check: one.found for one in examine(Path(CONFIG), tools)}
    assert found["table"] == "keeps the contract; 900 rows enter"
    assert seen[-1] == 900
