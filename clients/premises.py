"""Where a long-running institution keeps what is its own, and how that is opened."""

import stat
from dataclasses import dataclass
from pathlib import Path

from clients.configuration import DaemonConfiguration
from federation.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Premises:
    """The private state directory of an institution."""

    directory: Path

    @property
    def identity(self) -> Path:
        """Its Ed25519 key, PEM: by it the federation knows it."""
        return self.directory / "identity.key"

    @property
    def node(self) -> Path:
        """The key of its connection, OpenSSH on P-384: it vouches for nothing."""
        return self.directory / "node.key"

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
        return self.directory / "snapshots"

    def require_private(self) -> None:
        """Returns only if nobody else may look into the directory.

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


def premises_of(configuration: DaemonConfiguration) -> Premises:
    """Returns the private state directory that a configuration names.

    Raises:
        ConfigurationError: it is missing, or others may look into it.
    """
    premises = Premises(Path(configuration.state))
    premises.require_private()
    return premises
