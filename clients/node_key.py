"""The key of an institution's connection: the carrier knows it, and it vouches for nothing."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from federation.errors import ConfigurationError


def load_node_key(path: Path) -> EllipticCurvePrivateKey:
    """Returns the key by which the SuperLink knows this connection.

    Raises:
        ConfigurationError: the file is no OpenSSH private key on P-384 without a passphrase.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path} is no OpenSSH private key: {error}.") from error
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise ConfigurationError(f"{path}: expected a key on the curve P-384.")
    return key
