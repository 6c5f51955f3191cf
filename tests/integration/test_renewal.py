"""A coordinator's settings and certificates by its commands, and the ones of loopback."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from fedscore import carrying, coordinator_files, files
from fedscore.carrying import renew_loopback
from fedscore.coordinator_files import expiring, open_office
from fedscore.machine import system_clock
from server.certificates import days_left, issue, load_authority, make_authority
from tests.integration.test_command import run

DAY_SECONDS = 86_400


@pytest.fixture
def fedscore(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run(monkeypatch, capsys, *map(str, arguments))


def init(fedscore, *options):
    return fedscore("coordinator", "init", "coordinator", "--federation", "nation", *options)


def later(monkeypatch, days: float) -> None:
    for module in (coordinator_files, carrying):
        monkeypatch.setattr(
            module, "system_clock", lambda: system_clock() + int(days * DAY_SECONDS)
        )


@pytest.mark.parametrize(
    ("options", "host", "listen", "front"),
    [
        (("--address", "score.example.org:9092"), "score.example.org", "0.0.0.0", "own"),  # noqa: S104
        (("--address", "192.0.2.7:443"), "192.0.2.7", "192.0.2.7", "own"),
        (("--address", "[2001:db8::7]:9092"), "2001:db8::7", "2001:db8::7", "own"),
        (
            ("--address", "192.0.2.7:9092", "--listen", "10.0.0.7", "--front", "proxy"),
            *("192.0.2.7", "10.0.0.7", "proxy"),
        ),
    ],
)
def test_settings_name_what_institutions_reach_apart_from_the_superlinks_port(
    fedscore, options, host, listen, front
):
    assert init(fedscore, *options)[0] == 0
    settings = open_office(Path("coordinator")).settings
    assert (settings.host, f":{settings.port}") == (host, options[1][-len(f":{settings.port}") :])
    assert (settings.listen, settings.front) == (listen, front)
    assert settings.superlink_port > max(settings.port, 1023)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--listen", "example.org"), "listen='example.org'"),
        (("--front", "none"), "one of own, proxy"),
    ],
)
def test_settings_out_of_range_make_no_coordinator(fedscore, tmp_path, options, told):
    code, _, err = init(fedscore, "--address", "127.0.0.1:9092", *options)
    assert code == 78
    assert told in err
    assert not list(tmp_path.iterdir())


def test_renew_replaces_the_servers_certificate_and_nothing_else(fedscore, monkeypatch):
    init(fedscore, "--address", "score.example.org:9092")
    own = Path("coordinator")
    before = {path: path.read_bytes() for path in own.iterdir() if path.is_file()}
    code, out, _ = fedscore("coordinator", "renew", own)
    assert code == 0
    assert "lasts 365 days" in out or "lasts 364 days" in out
    after = {path: path.read_bytes() for path in own.iterdir() if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} == {"server.pem"}


def test_certificates_that_end_soon_are_told_of_and_what_to_do(fedscore, monkeypatch):
    init(fedscore, "--address", "score.example.org:9092")
    office = open_office(Path("coordinator"))
    later(monkeypatch, 333.5)
    assert expiring(office) == ()
    later(monkeypatch, 335.5)
    (told,) = expiring(office)
    assert "coordinator renew coordinator" in told
    code, out, _ = fedscore("coordinator", "status", "coordinator", "--json")
    assert (code, json.loads(out)["certificates"]) == (0, [told])
    assert "renew" in fedscore("coordinator", "status", "coordinator")[1]
    later(monkeypatch, 3629.5)
    assert len(expiring(office)) == 2


def test_an_authority_of_the_operators_own_issues_as_well(fedscore):
    init(fedscore, "--address", "score.example.org:9092")
    office = open_office(Path("coordinator"))
    now = datetime.now(UTC)
    other = make_authority("bank", now)
    Path("own.pem").write_bytes(issue(other, ("score.example.org",), now, days=90))
    code, _, err = fedscore("coordinator", "renew", "coordinator", "--certificate", "own.pem")
    assert code == 78
    assert "which pin coordinator/ca.pem" in err
    (office.directory / "ca.pem").write_bytes(other.certificate_pem)
    code, out, _ = fedscore("coordinator", "renew", "coordinator", "--certificate", "own.pem")
    assert code == 0
    assert "lasts 89 days" in out or "lasts 90 days" in out
    (office.directory / "ca.key").unlink()
    code, _, err = fedscore("coordinator", "renew", "coordinator")
    assert code == 78
    assert "bring it back" in err


def test_the_certificates_of_loopback_are_made_once_and_again_before_they_end(
    tmp_path, monkeypatch, caplog
):
    renew_loopback(tmp_path)
    first = (tmp_path / "server.pem").read_bytes()
    renew_loopback(tmp_path)
    assert (tmp_path / "server.pem").read_bytes() == first
    later(monkeypatch, 3630)
    with pytest.raises(files.ConfigurationError, match="not yet valid"):
        renew_loopback(tmp_path)  # a handshake has the machine's clock, which this test cannot set
    assert not (tmp_path / "server.pem").exists()
    assert "has to be reloaded" in caplog.text
    monkeypatch.undo()
    renew_loopback(tmp_path)
    assert days_left(tmp_path / "server.pem", datetime.now(UTC)) > 3600
    assert {path.name for path in tmp_path.iterdir()} == {"ca.pem", "server.pem"}


def test_settings_survive_being_written_and_read(fedscore):
    init(fedscore, "--address", "score.example.org:9092")
    path = Path("coordinator/coordinator.toml")
    found = msgspec.toml.decode(path.read_bytes())
    assert set(found) == {"federation", "host", "port", "listen", "front", "superlink_port"}
    path.write_text(path.read_text().replace('"own"', '"nobody"'))
    code, _, err = fedscore("coordinator", "renew", "coordinator")
    assert code == 78
    assert "coordinator.toml" in err


def test_the_authoritys_key_is_that_of_its_certificate(fedscore):
    init(fedscore, "--address", "score.example.org:9092")
    authority = load_authority(Path("coordinator/ca.pem"), Path("coordinator/ca.key"))
    assert authority.certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=3600)
