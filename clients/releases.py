"""The releases that an institution was given: signed by the coordinator it trusts, and kept."""

from pathlib import Path

from clients.ledger_file import errors_of, replace_durably
from federation.model.release import AnyRelease, load_release
from federation.outcome import require_outcome
from federation.plan import Plan


def trusted_release(data: bytes, plan: Plan) -> AnyRelease:
    """Returns a release that a plan may end with.

    Raises:
        ConfigurationError: it is none.
        ProtocolError: somebody else signed it, it is another plan's, or it fails the plan's gate.
    """
    found = load_release(data)
    require_outcome(found, plan)
    return found


class Releases:
    """A private directory that exists: 0001.json, 0002.json, ... None is ever overwritten."""

    def __init__(self, directory: Path) -> None:
        """Names the directory; nothing is read."""
        self._directory = directory

    def keep(self, release: bytes) -> None:
        """Keeps a release, durably; one that is there already is not kept again.

        Raises:
            ConfigurationError: the disk refuses.
        """
        with errors_of(self._directory):
            kept = [one for one in self._directory.glob("*.json") if one.stem.isdigit()]
            if any(one.read_bytes() == release for one in kept):
                return
            number = 1 + max((int(one.stem) for one in kept), default=0)
            replace_durably(self._directory / f"{number:04d}.json", release)
