"""The coordinator's private directory: keys, certificates, roster, cards, trainings."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from federation.canonical import public_key_of
from federation.card import Card, card_toml, load_card
from federation.errors import ConfigurationError
from federation.secure_aggregation.roster import Roster, load_roster, roster_toml
from fedscore import files
from fedscore.machine import system_clock, system_entropy
from server.admission import admitted, revoked
from server.certificates import make_certificates

SETTINGS_FILE: Final = "coordinator.toml"
KEY: Final = "coordinator.key"
ROSTER: Final = "roster.toml"
AUTHORITY: Final = "ca.pem"
SERVER: Final = "server.pem"
SERVER_KEY: Final = "server.key"
CARDS: Final = "cards"
TRAININGS: Final = "trainings"
CARRIER: Final = "superlink"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coordinator's TOML.

    Attributes:
        federation: identifier.
        host: loopback address that the SuperLink listens on.
        port: in [1, 65535].
    """

    federation: str
    host: str
    port: int

    def __post_init__(self) -> None:
        if not self.federation:
            raise ConfigurationError("Expected a federation's identifier that is not empty.")
        if not 1 <= self.port <= 65535:
            raise ConfigurationError(f"Expected port={self.port} in [1, 65535].")
        try:
            is_loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            is_loopback = False
        if not is_loopback:
            raise ConfigurationError(
                f"Expected host={self.host!r} to be a loopback address, 127.0.0.1 for example: "
                "institutions may reach Flower's fleet path only, and there is no front yet that "
                "keeps them from the others."
            )


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
    certificates = make_certificates(settings.federation, settings.host, now)
    with files.new_directory(directory) as draft:
        for private in (CARDS, TRAININGS, CARRIER):
            (draft / private).mkdir(mode=0o700)
        (draft / SETTINGS_FILE).write_text(tomli_w.dumps(msgspec.to_builtins(settings)))
        files.write_private(draft / KEY, files.key_pem(key))
        files.write_private(draft / "ca.key", files.key_pem(certificates.authority_key))
        files.write_private(draft / SERVER_KEY, files.key_pem(certificates.server_key))
        (draft / AUTHORITY).write_bytes(certificates.authority.public_bytes(Encoding.PEM))
        (draft / SERVER).write_bytes(certificates.server.public_bytes(Encoding.PEM))
        roster = Roster(federation=settings.federation, members=(), signature="").signed(key)
        (draft / ROSTER).write_text(roster_toml(roster))
    return public_key_of(key)


def open_office(directory: Path) -> Office:
    """Returns what a coordinator's directory holds, every signature checked.

    Raises:
        ConfigurationError: a file is missing or malformed.
        ProtocolError: a roster or card was changed.
    """
    try:
        settings = msgspec.toml.decode(files.read_text(directory / SETTINGS_FILE), type=Settings)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigurationError(f"{directory / SETTINGS_FILE}: {error}.") from error
    key = files.read_key(directory / KEY)
    roster = load_roster(files.read_text(directory / ROSTER))
    roster.require_signed_by(public_key_of(key))
    cards = [
        load_card(files.read_text(path)) for path in sorted((directory / CARDS).glob("*.toml"))
    ]
    return Office(directory, settings, key, roster, {card.institution: card for card in cards})


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
