"""Who has withdrawn, for good: keyed hashes of their person keys in one private file.

    32 bytes    the key, drawn when the institution was made
    8 bytes     for each person who has withdrawn, ascending: their keyed hash, little-endian
    32 bytes    SHA-256 of all before

A keyed hash is the first 8 bytes of AES-256 under the key of the federation's hash of the person
key (`federation.population.key_hashes`): without the file nobody can tell from a snapshot who is in
it. Two people share one with probability 2^-64; then both are left out.

The file is replaced as a whole, so that whoever reads it sees all of a withdrawal or nothing. It
never loses a person: nobody who has withdrawn comes back with a new snapshot.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from clients.ledger_file import beside, errors_of, replace_durably
from federation.canonical import Digest, digest
from federation.errors import ConfigurationError
from federation.population import Split, key_hashes

_KEY_BYTES: Final = 32
_HASH_BYTES: Final = 8
_SUM_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """The people who have withdrawn up to a moment.

    Attributes:
        people: uint64[people], keyed hashes, ascending.
        digest: of the people; snapshots name it.
    """

    people: NDArray[np.uint64]
    digest: Digest
    _key: bytes = field(repr=False)

    def keyed(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Returns uint64[people], keyed hashes, given `key_hashes` of person keys."""
        blocks = np.zeros((hashes.size, 2), "<u8")
        blocks[:, 0] = hashes
        # Each block is one person's hash, encrypted alone: a permutation under the key, not a mode.
        cipher = Cipher(algorithms.AES(self._key), modes.ECB())  # noqa: S305
        encrypted = cipher.encryptor().update(blocks.tobytes())
        return np.frombuffer(encrypted, "<u8")[::2].astype(np.uint64)


@dataclass(frozen=True, slots=True)
class Withdrawals:
    """The file of an institution."""

    path: Path

    @staticmethod
    def create(path: Path, key: bytes) -> "Withdrawals":
        """Makes a file in which nobody has withdrawn.

        Args:
            path: of no file yet.
            key: 32 fresh secret bytes.

        Raises:
            ConfigurationError: it exists, or cannot be written.
        """
        if path.exists():
            raise ConfigurationError(f"{path} exists already: it is never made anew.")
        _replace(path, key, np.empty(0, np.uint64))
        return Withdrawals(path)

    def read(self) -> Withdrawn:
        """Returns who has withdrawn.

        Raises:
            ConfigurationError: the file is missing or damaged; go on without it and people who
                have withdrawn would be asked about.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"Cannot read who has withdrawn, {self.path}: {error.strerror}. Restore it: "
                "without it they would be asked about again."
            ) from error
        body, said = content[:-_SUM_BYTES], content[-_SUM_BYTES:]
        size = len(body) - _KEY_BYTES
        if hashlib.sha256(body).digest() != said or size < 0 or size % _HASH_BYTES:
            raise ConfigurationError(
                f"{self.path} is damaged. Restore it: without it people who have withdrawn would "
                "be asked about again."
            )
        people = body[_KEY_BYTES:]
        return Withdrawn(
            people=np.frombuffer(people, "<u8").astype(np.uint64),
            digest=digest("fedscore/withdrawn/1", people),
            _key=body[:_KEY_BYTES],
        )

    def add(self, split: Split, keys: Iterable[str]) -> int:
        """Notes that people have withdrawn; returns how many had not before, once it is durable.

        Args:
            split: of the federation; its salt is in the hashes.
            keys: person keys as the table has them, numbers in digits.

        Raises:
            ConfigurationError: the file is missing, damaged or cannot be written; then nobody was
                added.
        """
        with _alone(self.path):
            before = self.read()
            added = before.keyed(key_hashes(split, keys))
            people = np.union1d(before.people, added)
            if people.size > before.people.size:
                _replace(self.path, before._key, people)
        return int(people.size - before.people.size)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process adds people."""
    with errors_of(path):
        handle = os.open(beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, key: bytes, people: NDArray[np.uint64]) -> None:
    body = key + people.astype("<u8").tobytes()
    with errors_of(path):
        replace_durably(path, body + hashlib.sha256(body).digest())
