"""The coordinator's private directory: keys, certificates, roster, cards, trainings."""

import ipaddress
import re
import socket
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.canonical import public_key_of
from federation.card import Card, card_toml, load_card
from federation.errors import ConfigurationError
from federation.secure_aggregation.roster import Roster, load_roster, roster_toml
from fedscore import files
from fedscore.machine import system_clock, system_entropy
from server.admission import admitted, revoked
from server.certificates import (
    WARNING_DAYS,
    days_left,
    install,
    issue,
    load_authority,
    make_authority,
)

SETTINGS_FILE: Final = "coordinator.toml"
KEY: Final = "coordinator.key"
ROSTER: Final = "roster.toml"
AUTHORITY: Final = "ca.pem"
AUTHORITY_KEY: Final = "ca.key"
SERVER: Final = "server.pem"
CARDS: Final = "cards"
TRAININGS: Final = "trainings"
CARRIER: Final = "superlink"
LOOPBACK: Final = "127.0.0.1"
_PRIVILEGED: Final = 1023
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


class Front(StrEnum):
    """What institutions connect to; the SuperLink itself listens on loopback, always."""

    OWN = "own"
    PROXY = "proxy"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coordinator's TOML.

    Attributes:
        federation: identifier.
        host: name or address that institutions reach; the server's certificate is for it.
        port: that they reach, in [1, 65535].
        listen: address of this machine that the front listens on, 0.0.0.0 or :: for all of them.
        front: "own", or "proxy" where the operator's own stands before the SuperLink.
        superlink_port: that the SuperLink listens on, on 127.0.0.1; in [1, 65535].
    """

    federation: str
    host: str
    port: int
    listen: str
    front: Front
    superlink_port: int

    def __post_init__(self) -> None:
        if not self.federation:
            raise ConfigurationError("Expected a federation's identifier that is not empty.")
        for name, port in (("port", self.port), ("superlink_port", self.superlink_port)):
            if not 1 <= port <= 65535:
                raise ConfigurationError(f"Expected {name}={port} in [1, 65535].")
        address = _address(self.host)
        if address is None and not _HOST.fullmatch(self.host):
            raise ConfigurationError(f"Expected host={self.host!r} as a name or an address.")
        if address is not None and address.is_unspecified:
            raise ConfigurationError(
                f"Expected host={self.host!r} to be what institutions reach; `listen` says where "
                "on this machine the front listens."
            )
        if _address(self.listen) is None:
            raise ConfigurationError(
                f"Expected listen={self.listen!r} as an address of this machine, 0.0.0.0 for all."
            )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def settings_for(federation: str, address: str, *, listen: str, front: Front) -> Settings:
    """Returns the settings of a new coordinator.

    Args:
        federation: identifier.
        address: host:port that institutions reach.
        listen: address of this machine; if empty, the host's if that is one, otherwise all.
        front: what institutions connect to.

    Raises:
        ConfigurationError: something is out of range.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]").lower()
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5:
        raise ConfigurationError(f"Expected --address {address!r} as host:port.")
    found = Settings(
        federation=federation,
        host=host,
        port=int(port),
        listen=listen or (host if _address(host) is not None else "0.0.0.0"),  # noqa: S104  behind a name may be any of the machine's addresses
        front=front,
        superlink_port=1,
    )
    return msgspec.structs.replace(
        found, superlink_port=_free_port_after(max(found.port, _PRIVILEGED))
    )


def _free_port_after(port: int) -> int:
    """Returns the next free port of loopback; it is a setting, so that a proxy can be told it."""
    for candidate in range(port + 1, 65536):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, candidate))
            except OSError:
                continue
            return candidate
    raise ConfigurationError(f"There is no free port above {port} for the SuperLink.")


@dataclass(frozen=True, slots=True)
class Office:
    """An open coordinator's directory."""

    directory: Path
    settings: Settings
    key: Ed25519PrivateKey
    roster: Roster
    cards: dict[str, Card]


def make_coordinator(directory: Path, settings: Settings) -> str:
    """Makes the directory of a new coordinator, whole or not at all; returns its public key.

    Raises:
        ConfigurationError: the directory exists, or the disk refuses.
    """
    key = Ed25519PrivateKey.from_private_bytes(system_entropy())
    now = datetime.fromtimestamp(system_clock(), UTC)
    authority = make_authority(f"fedscore {settings.federation}", now)
    with files.new_directory(directory) as draft:
        for private in (CARDS, TRAININGS, CARRIER):
            (draft / private).mkdir(mode=0o700)
        (draft / SETTINGS_FILE).write_text(tomli_w.dumps(msgspec.to_builtins(settings)))
        files.write_private(draft / KEY, files.key_pem(key))
        files.write_private(draft / AUTHORITY_KEY, authority.key_pem)
        (draft / AUTHORITY).write_bytes(authority.certificate_pem)
        files.write_private(draft / SERVER, issue(authority, (settings.host,), now))
        roster = Roster(federation=settings.federation, members=(), signature="").signed(key)
        (draft / ROSTER).write_text(roster_toml(roster))
    return public_key_of(key)


def open_office(directory: Path) -> Office:
    """Returns what a coordinator's directory holds, every signature checked.

    Raises:
        ConfigurationError: a file is missing or malformed, or others may look in: its key signs all
            that institutions do.
        ProtocolError: a roster or card was changed.
    """
    try:
        if stat.S_IMODE(directory.stat().st_mode) & 0o077:
            raise ConfigurationError(f"Others may look in: run `chmod 700 {directory}`.")
    except OSError as error:
        raise ConfigurationError(f"Cannot read {directory}: {error.strerror}.") from error
    try:
        settings = msgspec.toml.decode(files.read_text(directory / SETTINGS_FILE), type=Settings)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{directory / SETTINGS_FILE}: {error}.") from error
    key = files.read_key(directory / KEY)
    roster = load_roster(files.read_text(directory / ROSTER))
    roster.require_signed_by(public_key_of(key))
    cards = [
        load_card(files.read_text(path)) for path in sorted((directory / CARDS).glob("*.toml"))
    ]
    return Office(directory, settings, key, roster, {card.institution: card for card in cards})


def renew(office: Office, certificate: bytes | None) -> int:
    """Replaces the server's certificate; a front that runs shows the new one within seconds.

    Args:
        office: the coordinator's.
        certificate: PEM of a key and certificates that an authority of the operator's own issued;
            if None, the coordinator's issues one.

    Returns:
        The days that it lasts.

    Raises:
        ConfigurationError: institutions would not accept it, or the authority's key is not here.
    """
    now = datetime.fromtimestamp(system_clock(), UTC)
    own, host = office.directory, office.settings.host
    if certificate is None:
        certificate = issue(load_authority(own / AUTHORITY, own / AUTHORITY_KEY), (host,), now)
    install(own / SERVER, certificate, authorities=own / AUTHORITY, host=host)
    return days_left(own / SERVER, now)


def expiring(office: Office) -> tuple[str, ...]:
    """Returns what to do about certificates that end within thirty days, nothing if none does.

    Raises:
        ConfigurationError: a certificate cannot be read.
    """
    own = office.directory
    now = datetime.fromtimestamp(system_clock(), UTC)
    server, authority = days_left(own / SERVER, now), days_left(own / AUTHORITY, now)
    told = []
    if server < WARNING_DAYS:
        told.append(
            f"The server's certificate lasts {server} more days: run `fedscore coordinator renew "
            f"{own}`."
        )
    if authority < WARNING_DAYS:
        told.append(
            f"The authority in {own / AUTHORITY} lasts {authority} more days: every institution "
            "needs the certificate of another one beside it before that."
        )
    return tuple(told)


def admit(office: Office, card: Card, fingerprint: str) -> Roster:
    """Returns the roster with one more institution; card and roster are kept.

    Raises:
        ConfigurationError: the card is not let in, or the disk refuses.
    """
    names = {member.id for member in office.roster.members}
    known = {name: one for name, one in office.cards.items() if name in names}
    roster = admitted(office.roster, known, card, fingerprint=fingerprint, key=office.key)
    path = office.directory / CARDS / f"{card.institution}.toml"
    files.replace(path, card_toml(card).encode())  # first: a card that no roster names is no member
    files.replace(office.directory / ROSTER, roster_toml(roster).encode())
    return roster


def revoke(office: Office, name: str) -> Roster:
    """Returns the roster without an institution; its card goes after its name.

    Raises:
        ConfigurationError: it is not admitted, or the disk refuses.
    """
    roster = revoked(office.roster, name, key=office.key)
    files.replace(office.directory / ROSTER, roster_toml(roster).encode())
    card = office.directory / CARDS / f"{name}.toml"
    try:
        card.rename(card.with_suffix(".revoked"))
    except OSError as error:
        raise ConfigurationError(f"Cannot rename {card}: {error.strerror}.") from error
    return roster
