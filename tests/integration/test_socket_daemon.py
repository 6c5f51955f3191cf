"""A whole daemon that is reached by its socket only."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clients.configuration import Carrier, load_daemon_configuration
from clients.daemon import run_daemon
from clients.premises import premises_of
from clients.socket_carrier import ask
from federation.canonical import public_key_of
from federation.card import Card, fingerprint_of
from federation.envelope import open_reply, seal_request
from federation.errors import ConfigurationError
from federation.messages import RefusalCode, Refuse, decode_reply
from federation.schema import load_schema
from fedscore import files
from fedscore.coordinator_files import Front, admit, make_coordinator, open_office, settings_for
from fedscore.institution_making import make_institution
from fedscore.machine import system_clock, system_entropy
from tests.federations import _SMALL, SALT, small_table

BANK = "bank-1"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An admitted institution whose configuration says that it is reached by a socket."""
    office = tmp_path / "c"
    settings = settings_for("test", "127.0.0.1:9092", listen="127.0.0.1", front=Front.OWN)
    key = make_coordinator(office, settings)
    small_table(tmp_path / "table.parquet", 300, 0)
    _, card = make_institution(
        tmp_path / "b",
        id=BANK,
        title="A bank",
        most_people=1000,
        table=str(tmp_path / "table.parquet"),
        not_held=[],
        federation="test",
        salt=SALT,
        held_out_fraction=0.25,
        address="127.0.0.1:9092",
        coordinator=key,
        purposes=["credit-scoring"],
        delta=1e-4,
        epsilon_per_plan=1.0,
        epsilon_per_year=1.0,
        epsilon_lifetime=1.0,
    )
    admit(open_office(office), card, fingerprint_of(card.key))
    found = tmp_path / "b"
    (found / "roster.toml").write_bytes((office / "roster.toml").read_bytes())
    (found / "schema.toml").write_text(_SMALL.format(rows="one"))
    config = found / "institution.toml"
    config.write_text('carrier = "socket"\n' + config.read_text())
    return found


def run(home: Path, stop: threading.Event) -> None:
    configuration = load_daemon_configuration(home / "institution.toml")
    premises = premises_of(configuration)
    run_daemon(
        configuration,
        premises,
        identity=files.read_key(premises.identity),
        schema=load_schema((home / "schema.toml").read_text()),
        clock=system_clock,
        noise_entropy=system_entropy,
        mask_entropy=system_entropy,
        stop=stop,
    )


def sealed_hello(home: Path, card: Card) -> Refuse:
    office = open_office(home.parent / "c")
    asked = seal_request(
        b"hello",
        coordinator=office.key,
        receiver=card,
        expires_at=int(time.time()) + 60,
        entropy=system_entropy,
    )
    reply = decode_reply(
        open_reply(ask(home / "state" / "socket" / "daemon", asked.envelope), asked)
    )
    assert isinstance(reply, Refuse)
    return reply


def test_a_daemon_behind_a_socket_answers_sealed_requests_and_is_the_only_one(home):
    configuration = load_daemon_configuration(home / "institution.toml")
    assert configuration.carrier is Carrier.SOCKET
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(home, stop))
    thread.start()
    try:
        socket = home / "state" / "socket" / "daemon"
        deadline = time.monotonic() + 30
        while not socket.exists():
            assert thread.is_alive()
            assert time.monotonic() < deadline
            thread.join(0.01)
        office = open_office(home.parent / "c")
        assert sealed_hello(home, office.cards[BANK]).code is RefusalCode.OUT_OF_ORDER
        assert ask(socket, b"no envelope") == b""
        with pytest.raises(ConfigurationError, match="One daemon owns a ledger"):
            run(home, stop)
        assert sealed_hello(home, office.cards[BANK])  # the other did not take the socket away
        assert public_key_of(office.key) == configuration.policy.coordinator
    finally:
        stop.set()
        thread.join(30)
    assert not socket.exists()


@pytest.mark.slow  # an interpreter of its own
def test_a_daemon_behind_a_socket_needs_no_flower():
    code = "import clients.daemon, sys; sys.exit('flwr' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
