"""Where a long-running institution keeps what is its own, and how that is opened."""

import stat
from dataclasses import dataclass
from pathlib import Path

from clients.configuration import DaemonConfiguration
from federation.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Premises:
    """The private directories of an institution, and its keys if they lie elsewhere.

    Attributes:
        directory: of its state.
        elsewhere: for snapshots, where they are not part of the state.
        identity_key: the file of that key; None: in the state.
        node_key: likewise.
    """

    directory: Path
    elsewhere: Path | None = None
    identity_key: Path | None = None
    node_key: Path | None = None

    @property
    def identity(self) -> Path:
        """Its Ed25519 key, PEM: by it the federation knows it."""
        return self.identity_key or self.directory / "identity.key"

    @property
    def node(self) -> Path:
        """The key of its connection, OpenSSH on P-384: it vouches for nothing."""
        return self.node_key or self.directory / "node.key"

    @property
    def ledger(self) -> Path:
        """Its privacy budget."""
        return self.directory / "ledger.sqlite"

    @property
    def records(self) -> Path:
        """What it has said in sessions."""
        return self.directory / "records.sqlite"

    @property
    def decisions(self) -> Path:
        """Which plans its people approved or refused."""
        return self.directory / "decisions"

    @property
    def releases(self) -> Path:
        """The scorecards that came of its plans, numbered."""
        return self.directory / "releases"

    @property
    def snapshots(self) -> Path:
        """Its table in codes, while a plan is awaited or under way."""
        return self.directory / "snapshots" if self.elsewhere is None else self.elsewhere

    @property
    def withdrawals(self) -> Path:
        """Who has withdrawn, in keyed hashes."""
        return self.directory / "withdrawn"

    @property
    def socket(self) -> Path:
        """Where it is reached without a network, in a directory that can be shown alone."""
        return self.directory / "socket" / "daemon"

    def require_private(self) -> None:
        """Returns only if nobody else may look into the directories or read a key.

        Raises:
            ConfigurationError: one is missing, or others may.
        """
        _require_private(
            self.directory, "state", "Restore it; only a new institution makes a new one."
        )
        if self.elsewhere is not None:
            advice = f"Run `mkdir -m 700 {self.elsewhere}`."
            _require_private(self.elsewhere, "snapshots", advice)
        for key in (self.identity, self.node):
            _require_secret(key)


def _require_secret(key: Path) -> None:
    """Returns only if nobody else may read a key; whoever needs it says whether it is there."""
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"Cannot read the key {key}: {error.strerror}.") from error
    if mode & 0o077:
        raise ConfigurationError(f"Others may read a private key: run `chmod 600 {key}`.")


def _require_private(directory: Path, what: str, advice: str) -> None:
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the {what} directory {directory}: {error.strerror}. {advice}"
        ) from error
    if mode & 0o077:
        raise ConfigurationError(f"Others may look in: run `chmod 700 {directory}`.")


def premises_of(configuration: DaemonConfiguration) -> Premises:
    """Returns the private directories that a configuration names.

    Raises:
        ConfigurationError: one is missing, or others may look into it or read a key.
    """
    premises = premises_named_by(configuration)
    premises.require_private()
    return premises


def premises_named_by(configuration: DaemonConfiguration) -> Premises:
    """Returns what a configuration names, in whatever state it is."""
    return Premises(
        Path(configuration.state),
        elsewhere=Path(configuration.snapshots) if configuration.snapshots else None,
        identity_key=Path(configuration.identity_key) if configuration.identity_key else None,
        node_key=Path(configuration.node_key) if configuration.node_key else None,
    )
