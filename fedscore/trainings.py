"""The coordinator's trainings on disk: numbered, none used twice, each resumable to its end."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from federation.errors import ConfigurationError
from federation.messages import SeenHeader
from federation.plan import Plan, plan_toml
from federation.schema import Schema
from federation.secure_aggregation.roster import Roster, load_roster, roster_toml
from federation.transcript import Transcript
from fedscore import files
from fedscore.simulation import PLAN_FILE, RELEASE_FILE, ROSTER_FILE, TRANSCRIPT_FILE
from server.past import Past

SCHEMA_FILE: Final = "schema.toml"


@dataclass(frozen=True, slots=True)
class Training:
    """One training's directory: plan, schema, roster; a transcript that grows; the release."""

    directory: Path

    @property
    def number(self) -> int:
        """Which one it is, from 1."""
        return int(self.directory.name)

    def plan(self) -> Plan:
        """Returns the plan that it runs."""
        return files.read_plan(self.directory / PLAN_FILE)

    def schema(self) -> Schema:
        """Returns the schema that the plan names."""
        return files.read_schema(self.directory / SCHEMA_FILE)

    def roster(self) -> Roster:
        """Returns the roster as it was when the training began."""
        return load_roster(files.read_text(self.directory / ROSTER_FILE))

    def release(self) -> bytes | None:
        """Returns the release, None if there is none yet."""
        path = self.directory / RELEASE_FILE
        return files.read_bytes(path) if path.exists() else None

    def keep_release(self, release: bytes) -> None:
        """Makes the release durable; one that is there is never overwritten.

        Raises:
            ConfigurationError: another one is there, or the disk refuses.
        """
        path, draft = self.directory / RELEASE_FILE, self.directory / f"{RELEASE_FILE}.new"
        kept = self.release()
        if kept is None:
            draft.unlink(missing_ok=True)
            files.write_private(draft, release)
            try:
                draft.rename(path)
                files.settle(self.directory)
            except OSError as error:
                raise ConfigurationError(f"Cannot write {path}: {error.strerror}.") from error
        elif kept != release:
            raise ConfigurationError(f"{self.directory} holds another release already.")

    def past(self) -> Past:
        """Returns how far it came, by its whole lines; nothing is written."""
        path = self.directory / TRANSCRIPT_FILE
        content = files.read_bytes(path) if path.exists() else b""
        whole, _ = _whole_lines(content)
        return Past.of(_read(path, whole))

    @contextmanager
    def transcript(self) -> Iterator[Transcript]:
        """Yields the transcript, each line of which is durable once it is written.

        A line that was cut when a process was killed was never acted upon: it goes.

        Raises:
            ConfigurationError: it cannot be read or written.
        """
        path = self.directory / TRANSCRIPT_FILE
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "r+b", buffering=0) as file:
                whole, is_cut = _whole_lines(file.read())
                if is_cut:
                    file.truncate(len(whole))
                files.settle(self.directory)  # the file itself may be new

                def append(line: bytes) -> None:
                    try:
                        _append(file.fileno(), line)
                    except OSError as error:
                        raise ConfigurationError(
                            f"Cannot write {path}: {error.strerror}. The training stops here; "
                            "`fedscore coordinator resume` goes on with it."
                        ) from error

                yield _read(path, whole, append)
        except OSError as error:
            raise ConfigurationError(f"Cannot open {path}: {error.strerror}.") from error


class Trainings:
    """All trainings of a coordinator, in a private directory that exists."""

    def __init__(self, directory: Path) -> None:
        """Names the directory; nothing is read."""
        self._directory = directory

    def all(self) -> tuple[Training, ...]:
        """Returns them in order."""
        found = (one for one in self._directory.iterdir() if one.name.isdigit())
        return tuple(Training(one) for one in sorted(found, key=lambda one: int(one.name)))

    def under_way(self) -> Training | None:
        """Returns the one of which somebody may have heard and which has not ended, if any."""
        found = self.all()
        if not found:
            return None
        past = found[-1].past()
        return found[-1] if past.was_told and not past.has_ended else None

    def new(self, plan: Plan, schema: str, roster: Roster) -> Training:
        """Returns a new one, numbered after all that are there, whole or not at all.

        Args:
            plan: signed.
            schema: the text that the plan names, TOML.
            roster: signed.

        Raises:
            ConfigurationError: another one has not ended, or the disk refuses.
        """
        if (left := self.under_way()) is not None:
            raise ConfigurationError(
                f"Training {left.number} has not ended: `fedscore coordinator resume` takes it up "
                "again, or ends it with --give-up."
            )
        number = max((one.number for one in self.all()), default=0) + 1
        directory = self._directory / f"{number:04d}"
        with files.new_directory(directory) as draft:
            files.write_private(draft / PLAN_FILE, plan_toml(plan).encode())
            files.write_private(draft / SCHEMA_FILE, schema.encode())
            files.write_private(draft / ROSTER_FILE, roster_toml(roster).encode())
        return Training(directory)

    def forget_untold(self, training: Training) -> None:
        """Removes a training of which nobody has heard: it failed before anybody was asked."""
        if not training.past().was_told:
            shutil.rmtree(training.directory)

    def seen_before(self, training: Training, names: tuple[str, ...]) -> dict[str, SeenHeader]:
        """Returns the latest header of each of these institutions from earlier trainings.

        The latest training with one has it: an institution answers there only if its ledger holds
        what it signed before. So no more are read than it takes to meet everybody, however many
        there are.
        """
        seen: dict[str, SeenHeader] = {}
        for one in reversed(self.all()):
            if one.number < training.number:
                seen = {**one.past().seen, **seen}
            if seen.keys() >= set(names):
                break
        return {name: seen[name] for name in names if name in seen}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the lock of the one coordinator.

        Raises:
            ConfigurationError: another process has it.
        """
        path = self._directory.with_name("trainings.lock")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"Cannot open {path}: {error.strerror}.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise ConfigurationError(
                "Another process runs a training of this coordinator: wait for it, or stop it."
            ) from error
        finally:
            os.close(handle)


def _append(handle: int, line: bytes) -> None:
    before = os.fstat(handle).st_size
    try:
        if os.write(handle, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, before)
        raise


def _whole_lines(content: bytes) -> tuple[bytes, bool]:
    """Returns the lines that end with a line feed, and whether there was more."""
    end = content.rfind(b"\n") + 1
    return content[:end], end != len(content)


def _read(
    path: Path, content: bytes, append: Callable[[bytes], None] = lambda _: None
) -> Transcript:
    try:
        return Transcript(content, append=append)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is damaged: {error}.") from error
