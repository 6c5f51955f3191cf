"""Reads and writes what the command line names, with errors that say which file is wrong."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from clients.configuration import Configuration
    from federation.plan import Plan
    from federation.schema import Schema


def read_bytes(path: Path) -> bytes:
    """Returns a file's content, or says why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error


def read_text(path: Path) -> str:
    """Returns a file's content as UTF-8 text."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a text file in UTF-8.") from error


def read_schema(path: Path) -> "Schema":
    """Returns the schema in a file."""
    from federation.schema import load_schema

    return load_schema(read_text(path))


def read_plan(path: Path) -> "Plan":
    """Returns the plan in a file."""
    from federation.plan import load_plan

    return load_plan(read_text(path))


def read_release(path: Path, coordinator: str) -> Any:  # noqa: ANN401  named where it is imported
    """Returns the release in a file; if a coordinator is named, only one that it has signed."""
    from federation.model.release import load_release

    release = load_release(read_bytes(path))
    if coordinator:
        release.require_signed_by(coordinator)
    return release


def read_key(path: Path) -> "Ed25519PrivateKey":
    """Returns the Ed25519 private key in a PEM file."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_bytes(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path} is not an unencrypted private key in PEM.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} is not an Ed25519 key.")
    return key


def read_configurations(directory: Path) -> "tuple[Configuration, ...]":
    """Returns the institutions' configurations in a directory."""
    from clients.configuration import load_configuration

    found = sorted(directory.glob("*.toml"))
    if not found:
        raise ConfigurationError(f"{directory} holds no institution's configuration (*.toml).")
    return tuple(load_configuration(path) for path in found)


def require_invited(
    members: "tuple[Configuration, ...]", plan: "Plan", directory: Path
) -> tuple[str, ...]:
    """Returns who is invited and has no configuration; they will not answer.

    Raises:
        ConfigurationError: an institution is not invited or stands twice, or too few are left.
    """
    found = [one.id for one in members]
    invited = plan.participation.invited
    strangers = sorted(set(found) - set(invited))
    twice = sorted({name for name in found if found.count(name) > 1})
    absent = tuple(name for name in invited if name not in found)
    if strangers:
        raise ConfigurationError(
            f"{directory}: not invited by the plan: {', '.join(strangers)}. It invites "
            f"{', '.join(invited)}."
        )
    if twice:
        raise ConfigurationError(f"{directory}: several files have the id {', '.join(twice)}.")
    if len(found) < plan.participation.quorum:
        raise ConfigurationError(
            f"{directory}: no configuration of {', '.join(absent)}, and {len(found)} institutions "
            f"are fewer than the quorum of {plan.participation.quorum}."
        )
    return absent


def names_in(text: str) -> frozenset[str]:
    """Returns the names in a list that commas separate.

    Raises:
        ConfigurationError: a name stands twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"Named twice: {', '.join(twice)}.")
    return frozenset(names)


def write_new(path: Path, text: str) -> None:
    """Writes a file that does not exist yet, whole or not at all."""
    if not path.name:
        raise ConfigurationError(f"{path} is a directory. Name a new file.")
    if not path.parent.is_dir():
        raise ConfigurationError(f"There is no directory {path.parent} to hold {path.name}.")
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        try:
            path.hardlink_to(unfinished)  # unlike a rename, never over what is there
        finally:
            unfinished.unlink()
    except FileExistsError as error:
        raise ConfigurationError(f"{path} exists already. Name a new file.") from error
    except OSError as error:
        raise ConfigurationError(f"Cannot write {path}: {error.strerror}.") from error


def replace(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise ConfigurationError(f"Cannot write {path}: {error.strerror}.") from error


def write_private(path: Path, content: bytes) -> None:
    """Writes a new file that only this user may read, once it is on the disk."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
    except OSError as error:
        raise ConfigurationError(f"Cannot write {path}: {error.strerror}.") from error


def settle(directory: Path) -> None:
    """Returns once the names in a directory are on the disk, not only what they name.

    Raises:
        OSError: the disk refuses.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yields a private draft of a directory, which takes its name once all of it is there.

    Raises:
        ConfigurationError: something has that name already, or it cannot be written.
    """
    if path.exists():
        raise ConfigurationError(f"{path} exists already. Name a new directory.")
    draft = path.with_name(path.name + ".unfinished")
    try:
        draft.mkdir(mode=0o700)
    except FileExistsError as error:
        raise ConfigurationError(f"{draft} was left by a run that was killed: remove it.") from (
            error
        )
    except OSError as error:
        raise ConfigurationError(f"Cannot make {draft}: {error.strerror}.") from error
    try:
        yield draft
        settle(draft)
        draft.rename(path)
        settle(path.parent)
    except OSError as error:
        raise ConfigurationError(f"Cannot write {error.filename}: {error.strerror}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def key_pem(key: "Ed25519PrivateKey | EllipticCurvePrivateKey") -> bytes:
    """Returns a private key as PEM, without a passphrase."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def require_flower() -> None:
    """Returns only if Flower is installed, which carries the bytes between processes."""
    from importlib.util import find_spec

    if find_spec("flwr") is None:
        raise ConfigurationError(
            "Real processes need Flower: install fedscore with its extra, `fedscore[live]`."
        )
