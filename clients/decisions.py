"""What the institution's people have decided about plans, durable: one small file a plan."""

from enum import StrEnum
from pathlib import Path

from clients.configuration import Approval
from clients.ledger_file import errors_of, replace_durably
from federation.canonical import Digest
from federation.errors import ConfigurationError


class Decision(StrEnum):
    """What people said of a plan; the daemon reads it when the plan arrives."""

    APPROVED = "approved"
    REFUSED = "refused"
    UNDECIDED = "undecided"

    def lets_in(self, approval: Approval) -> bool:
        """Returns whether the institution takes part in a plan that its policy allows.

        A refusal always holds; where nobody has decided, the configuration does.
        """
        match self:
            case Decision.APPROVED:
                return True
            case Decision.REFUSED:
                return False
            case Decision.UNDECIDED:
                return approval is Approval.AUTOMATIC


class Decisions:
    """The decisions in a private directory that exists, by the plan's digest."""

    def __init__(self, directory: Path) -> None:
        """Names the directory; nothing is read."""
        self._directory = directory

    def of(self, plan: Digest) -> Decision:
        """Returns what was decided last.

        Raises:
            ConfigurationError: the file cannot be read, or holds something else.
        """
        path = self._directory / plan
        try:
            return Decision(path.read_text())
        except FileNotFoundError:
            return Decision.UNDECIDED
        except OSError as error:
            raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error
        except ValueError as error:
            raise ConfigurationError(
                f"{path} holds no decision: approve or refuse the plan again."
            ) from error

    def note(self, plan: Digest, decision: Decision) -> None:
        """Notes a decision in place of an earlier one; returns once it is durable.

        Raises:
            ConfigurationError: it cannot be written; an earlier one still holds.
        """
        path = self._directory / plan
        with errors_of(path):
            replace_durably(path, decision.encode())
