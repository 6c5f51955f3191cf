"""Certificates: what institutions accept, what replaces what, and how long it lasts."""

import datetime as dt
import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from federation.errors import ConfigurationError
from server.certificates import (
    AUTHORITY_DAYS,
    days_left,
    install,
    issue,
    load_authority,
    make_authority,
    require_accepted,
)

NOW = dt.datetime.now(dt.UTC)  # a handshake reads the machine's clock
DAY = dt.timedelta(days=1)
HOST = "score.example.org"


@pytest.fixture
def authority(tmp_path):
    made = make_authority("nation", NOW)
    (tmp_path / "ca.pem").write_bytes(made.certificate_pem)
    (tmp_path / "ca.key").write_bytes(made.key_pem)
    return made


def put(tmp_path, content, host=HOST):
    install(tmp_path / "server.pem", content, authorities=tmp_path / "ca.pem", host=host)


def test_what_an_authority_issues_is_accepted_for_its_hosts_and_no_others(tmp_path, authority):
    put(tmp_path, issue(authority, (HOST, "127.0.0.1"), NOW))
    assert stat.S_IMODE((tmp_path / "server.pem").stat().st_mode) == 0o600
    for host in (HOST, "127.0.0.1"):
        require_accepted(tmp_path / "server.pem", authorities=tmp_path / "ca.pem", host=host)
    for host in ("example.org", "127.0.0.2"):
        with pytest.raises(ConfigurationError, match=f"not accept this certificate for {host}"):
            require_accepted(tmp_path / "server.pem", authorities=tmp_path / "ca.pem", host=host)


def test_it_is_accepted_where_certificates_are_read_strictly(tmp_path, authority, monkeypatch):
    strict = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    strict.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 does by itself
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: strict)
    put(tmp_path, issue(authority, (HOST,), NOW))


def refused(authority):
    other = make_authority("other", NOW)
    good = issue(authority, (HOST,), NOW)
    key, _, certificate = good.partition(b"-----BEGIN CERTIFICATE")
    locked = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    return {
        "issued by others": (issue(other, (HOST,), NOW), "would not accept"),
        "for others": (issue(authority, ("example.org",), NOW), "would not accept"),
        "over": (issue(authority, (HOST,), NOW - 400 * DAY), "expired"),
        "not yet": (issue(authority, (HOST,), NOW + 2 * DAY), "not yet valid"),
        "without key": (b"-----BEGIN CERTIFICATE" + certificate, "no certificate with its key"),
        "without certificate": (key, "no certificate with its key"),
        "another's key": (
            issue(other, (HOST,), NOW).partition(b"-----BEGIN CERT")[0]
            + b"-----BEGIN CERTIFICATE"
            + certificate,
            "no certificate with its key",
        ),
        "another kind of key": (
            locked + b"-----BEGIN CERTIFICATE" + certificate,
            "no certificate with its key",
        ),
        "half": (good[: len(good) // 2], "no certificate with its key"),
        "nothing": (b"", "no certificate with its key"),
    }


@pytest.mark.parametrize("what", list(refused(make_authority("names", NOW))))
def test_what_institutions_would_not_accept_replaces_nothing(tmp_path, authority, what):
    good = issue(authority, (HOST,), NOW)
    put(tmp_path, good)
    content, told = refused(authority)[what]
    with pytest.raises(ConfigurationError, match=told):
        put(tmp_path, content)
    assert (tmp_path / "server.pem").read_bytes() == good
    assert {path.name for path in tmp_path.iterdir()} == {"ca.pem", "ca.key", "server.pem"}


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path, authority):
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        load_pem_private_key,
    )

    key, _, certificate = issue(authority, (HOST,), NOW).partition(b"-----BEGIN CERTIFICATE")
    locked = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    with pytest.raises(ConfigurationError, match="no certificate with its key"):
        put(tmp_path, locked + b"-----BEGIN CERTIFICATE" + certificate)


def test_what_was_left_by_a_kill_is_no_obstacle(tmp_path, authority):
    (tmp_path / "server.pem.unfinished").write_bytes(b"half")
    put(tmp_path, issue(authority, (HOST,), NOW))
    assert not (tmp_path / "server.pem.unfinished").exists()


def test_days_left_are_those_of_the_first_certificate(tmp_path, authority):
    path = tmp_path / "server.pem"
    path.write_bytes(issue(authority, (HOST,), NOW, days=30) + authority.certificate_pem)
    assert days_left(path, NOW) in {29, 30}  # a certificate's time has no fractions of a second
    assert days_left(path, NOW + 30 * DAY) in {-1, 0}
    assert days_left(path, NOW + 32 * DAY) < 0
    assert days_left(tmp_path / "ca.pem", NOW) in {AUTHORITY_DAYS - 1, AUTHORITY_DAYS}
    with pytest.raises(ConfigurationError, match="holds no certificate"):
        days_left(tmp_path / "ca.key", NOW)
    with pytest.raises(ConfigurationError, match="Cannot read"):
        days_left(tmp_path / "none", NOW)


def test_nothing_outlives_its_authority(tmp_path, authority):
    late = NOW + dt.timedelta(days=AUTHORITY_DAYS - 10)
    shown = x509.load_pem_x509_certificates(issue(authority, (HOST,), late))[0]
    assert shown.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_an_authority_is_read_back_with_its_own_key_only(tmp_path, authority):
    found = load_authority(tmp_path / "ca.pem", tmp_path / "ca.key")
    put(tmp_path, issue(found, (HOST,), NOW))
    (tmp_path / "ca.key").write_bytes(make_authority("other", NOW).key_pem)
    with pytest.raises(ConfigurationError, match="is not the key of"):
        load_authority(tmp_path / "ca.pem", tmp_path / "ca.key")
    (tmp_path / "ca.key").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="no certificate and key"):
        load_authority(tmp_path / "ca.pem", tmp_path / "ca.key")
    (tmp_path / "ca.key").unlink()
    with pytest.raises(ConfigurationError, match="kept elsewhere"):
        load_authority(tmp_path / "ca.pem", tmp_path / "ca.key")
