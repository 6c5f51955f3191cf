"""The building blocks from their standards: framing, HKDF, X25519, AES modes, MessagePack."""

import hashlib
import hmac
import struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

CURVE = 2**255 - 19


def framed(label: str, *parts: bytes) -> bytes:
    found = b""
    for part in (label.encode(), *parts):
        found += struct.pack("<Q", len(part)) + part
    return found


def hashed(label: str, *parts: bytes) -> bytes:
    return hashlib.sha256(framed(label, *parts)).digest()


def signed(secret: bytes, label: str, body: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(secret).sign(framed(label, body))


def public_identity(secret: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def extract(salt: bytes, secret: bytes) -> bytes:
    """RFC 5869, 2.2."""
    return hmac.new(salt, secret, hashlib.sha256).digest()


def expand(key: bytes, info: bytes) -> bytes:
    """RFC 5869, 2.3, for 32 bytes: one block."""
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()


def x25519(scalar: bytes, point: bytes) -> bytes:
    """RFC 7748, section 5: the Montgomery ladder."""
    clamped = bytearray(scalar)
    clamped[0] &= 248
    clamped[31] = (clamped[31] & 127) | 64
    k = int.from_bytes(clamped, "little")
    u = int.from_bytes(point, "little") % 2**255 % CURVE
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for bit in range(254, -1, -1):
        swap ^= k >> bit & 1
        if swap:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = k >> bit & 1
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % CURVE, u * (da - cb) ** 2 % CURVE
        x2, z2 = aa * bb % CURVE, e * (aa + 121665 * e) % CURVE
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, CURVE - 2, CURVE) % CURVE).to_bytes(32, "little")


def public_key(scalar: bytes) -> bytes:
    return x25519(scalar, (9).to_bytes(32, "little"))


def block(key: bytes, plain: bytes) -> bytes:
    """AES-256 on 16 bytes (FIPS 197)."""
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(plain)  # noqa: S305  one block


def keystream(key: bytes, length: int) -> bytes:
    """NIST SP 800-38A, 6.5: AES of a big-endian counter from 0."""
    blocks = [block(key, number.to_bytes(16, "big")) for number in range(-(-length // 16))]
    return b"".join(blocks)[:length]


def _gf_times(x: int, y: int) -> int:
    """NIST SP 800-38D, 6.3."""
    found = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            found ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return found


def sealed(key: bytes, plain: bytes, data: bytes) -> bytes:
    """NIST SP 800-38D, 7.1: AES-GCM with twelve zero bytes as nonce; the tag last."""
    found = b""
    for number, start in enumerate(range(0, len(plain), 16), 2):
        part = plain[start : start + 16]
        mask = block(key, number.to_bytes(16, "big"))
        found += bytes(a ^ b for a, b in zip(part, mask, strict=False))
    padded = b"".join(part + bytes(-len(part) % 16) for part in (data, found))
    padded += struct.pack(">QQ", 8 * len(data), 8 * len(found))
    multiplier = int.from_bytes(block(key, bytes(16)), "big")
    tag = 0
    for start in range(0, len(padded), 16):
        tag = _gf_times(tag ^ int.from_bytes(padded[start : start + 16], "big"), multiplier)
    tag ^= int.from_bytes(block(key, (1).to_bytes(16, "big")), "big")
    return found + tag.to_bytes(16, "big")


def packed(value: Any) -> bytes:
    """MessagePack, each value in its shortest form; maps keep the order they have."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return _packed_int(value)
        case str():
            data = value.encode()
            return _head(len(data), 0xA0, 31, (0xD9, 0xDA, 0xDB)) + data
        case bytes():
            return _head(len(value), None, 0, (0xC4, 0xC5, 0xC6)) + value
        case dict():
            inner = b"".join(packed(k) + packed(v) for k, v in value.items())
            return _head(len(value), 0x80, 15, (None, 0xDE, 0xDF)) + inner
        case _:
            return _head(len(value), 0x90, 15, (None, 0xDC, 0xDD)) + b"".join(map(packed, value))


def _head(size: int, fixed: int | None, most: int, tags: tuple[int | None, ...]) -> bytes:
    if fixed is not None and size <= most:
        return bytes([fixed + size])
    for tag, code in zip(tags, ("B", "H", "I"), strict=True):
        if tag is not None and size < 256 ** struct.calcsize(code):
            return struct.pack(f">B{code}", tag, size)
    raise ValueError("too long")


def _packed_int(value: int) -> bytes:
    if -32 <= value < 128:
        return struct.pack("b" if value < 0 else "B", value)
    codes = "bhiq" if value < 0 else "BHIQ"
    for tag, code in enumerate(codes, 0xD0 if value < 0 else 0xCC):
        size = 8 * struct.calcsize(code) - (value < 0)
        if -(2**size) <= value < 2**size:
            return struct.pack(f">B{code}", tag, value)
    raise ValueError("too large")
