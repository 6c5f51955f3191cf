"""Where a long-running institution keeps what is its own, and how that is opened."""

import stat
from dataclasses import dataclass
from pathlib import Path

from clients.configuration import DaemonConfiguration
from federation.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Premises:
    """The private state directory of an institution, and its keys if they lie elsewhere.

    Attributes:
        directory: of everything.
        identity_key: the file of that key; None: in the directory.
        node_key: likewise.
    """

    directory: Path
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
    def seen_head(self) -> Path:
        """The head of a signed header that the ledger lacks, if the daemon stopped for one."""
        return self.directory / "seen_head.json"

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
        return self.directory / "snapshots"

    def require_private(self) -> None:
        """Returns only if nobody else may look into the directory or read a key.

        Raises:
            ConfigurationError: it is missing, or others may.
        """
        try:
            mode = stat.S_IMODE(self.directory.stat().st_mode)
        except OSError as error:
            raise ConfigurationError(
                f"Cannot read the state directory {self.directory}: {error.strerror}. Restore it; "
                "only a new institution makes a new one."
            ) from error
        if mode & 0o077:
            raise ConfigurationError(f"Others may look in: run `chmod 700 {self.directory}`.")
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


def premises_of(configuration: DaemonConfiguration) -> Premises:
    """Returns the private state directory that a configuration names.

    Raises:
        ConfigurationError: it is missing, or others may look into it or read a key.
    """
    premises = premises_named_by(configuration)
    premises.require_private()
    return premises


def premises_named_by(configuration: DaemonConfiguration) -> Premises:
    """Returns what a configuration names, in whatever state it is."""
    return Premises(
        Path(configuration.state),
        identity_key=Path(configuration.identity_key) if configuration.identity_key else None,
        node_key=Path(configuration.node_key) if configuration.node_key else None,
    )
