"""The releases that an institution was given: signed by the coordinator it trusts, and kept."""

from pathlib import Path

from clients.ledger_file import errors_of, replace_durably
from federation.errors import ProtocolError
from federation.model.release import AnyRelease, load_release


def trusted_release(data: bytes, *, plan: str, coordinator: str) -> AnyRelease:
    """Returns a release that the coordinator signed for a plan.

    Raises:
        ConfigurationError: it is none.
        ProtocolError: somebody else signed it, or it is another plan's.
    """
    found = load_release(data)
    found.require_signed_by(coordinator)
    if found.plan != plan:
        raise ProtocolError("it names another plan")
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
