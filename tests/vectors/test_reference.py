"""The second implementation keeps the standards it cites, and makes every frozen vector again."""

from typing import Any

import pytest

from tests.reference import primitives, protocol, sharing
from tests.vectors.freezing import load


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


@pytest.mark.parametrize(
    ("scalar", "point", "expected"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_the_ladder_is_that_of_rfc_7748(scalar: str, point: str, expected: str) -> None:
    """Section 5.2."""
    assert primitives.x25519(unhex(scalar), unhex(point)) == unhex(expected)


def test_the_ladder_applied_to_its_own_result_is_that_of_rfc_7748() -> None:
    """Section 5.2, after one iteration."""
    nine = (9).to_bytes(32, "little")
    assert primitives.x25519(nine, nine) == unhex(
        "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    )


def test_a_shared_secret_is_that_of_rfc_7748() -> None:
    """Section 6.1."""
    bob = unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice = unhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert primitives.public_key(bob) == unhex(
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    )
    assert primitives.x25519(bob, alice) == unhex(
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    )


def test_hkdf_is_that_of_rfc_5869() -> None:
    """Appendix A.1, the first 32 bytes."""
    key = primitives.extract(bytes(range(13)), b"\x0b" * 22)
    assert key == unhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    assert primitives.expand(key, bytes(range(0xF0, 0xFA))) == unhex(
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    )


def test_sealing_is_aes_gcm_of_the_standard() -> None:
    """McGrew and Viega 2005, test cases 13 and 14."""
    zeros = bytes(32)
    assert primitives.sealed(zeros, b"", b"") == unhex("530f8afbc74536b9a963b4f1c4cb738b")
    assert primitives.sealed(zeros, bytes(16), b"") == unhex(
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    )


@pytest.mark.parametrize("vector", load("sessions.json"), ids=lambda vector: vector["name"])
def test_the_reference_derives_the_frozen_sessions(vector: dict[str, Any]) -> None:
    assert protocol.session(vector["given"]) == vector["expected"]


@pytest.mark.parametrize("vector", load("attempts.json"), ids=lambda vector: vector["name"])
def test_the_reference_says_and_opens_the_same_in_frozen_attempts(vector: dict[str, Any]) -> None:
    assert protocol.attempt(vector["given"]) == vector["expected"]


@pytest.mark.parametrize("vector", load("attempts.json"), ids=lambda vector: vector["name"])
def test_a_frozen_total_is_the_sum_of_the_survivors_modulo_the_word(vector: dict[str, Any]) -> None:
    given = vector["given"]
    here = [v for place, v in enumerate(given["vectors"]) if place not in given["dropped"]]
    half = 2 ** (given["bits"] - 1)
    plain = [(sum(cell) + half) % (2 * half) - half for cell in zip(*here, strict=True)]
    assert vector["expected"]["total"] == plain
    assert any(not -half <= sum(cell) < half for cell in zip(*here, strict=True))


@pytest.mark.parametrize("vector", load("contexts.json"))
def test_the_reference_finds_word_and_context_of_a_question(vector: dict[str, Any]) -> None:
    assert protocol.asked(vector["given"]) == vector["expected"]


@pytest.mark.parametrize("vector", load("local_answers.json"))
def test_the_reference_signs_the_same_questions_and_answers_of_local_mode(
    vector: dict[str, Any],
) -> None:
    assert protocol.asked_locally(vector["given"]) == vector["expected"]


@pytest.mark.parametrize("vector", load("shamir.json"), ids=lambda vector: vector["name"])
def test_the_reference_shares_the_frozen_secrets(vector: dict[str, Any]) -> None:
    secret, shares = bytes.fromhex(vector["secret"]), list(map(bytes.fromhex, vector["shares"]))
    threshold, key = vector["threshold"], bytes.fromhex(vector["key"])
    assert sharing.shares_of(secret, threshold, len(shares), key) == shares
    last = dict(list(enumerate(shares))[-threshold:])
    assert sharing.secret_of(last) == secret


@pytest.mark.parametrize("vector", load("merkle.json"), ids=lambda v: f"{len(v['leaves'])} leaves")
def test_the_reference_builds_the_frozen_trees(vector: dict[str, Any]) -> None:
    leaves = [bytes.fromhex(one) for one in vector["leaves"]]
    assert sharing.root(leaves).hex() == vector["root"]
    paths = [b"".join(sharing.path(leaves, place)).hex() for place in range(len(leaves))]
    assert paths == vector["paths"]


@pytest.mark.parametrize("vector", load("votes.json"), ids=lambda vector: vector["context"][:8])
def test_the_reference_casts_the_frozen_votes(vector: dict[str, str]) -> None:
    identity, context = bytes.fromhex(vector["identity"]), bytes.fromhex(vector["context"])
    assert protocol.vote(identity, context).hex() == vector["signature"]


@pytest.mark.parametrize("vector", load("coins.json"), ids=lambda vector: vector["own_mask"][:8])
def test_the_reference_throws_the_frozen_coins(vector: dict[str, Any]) -> None:
    coin = protocol.coin(bytes.fromhex(vector["own_mask"]))
    assert coin.hex() == vector["coin"]
    assert protocol.commitment(coin).hex() == vector["commitment"]
    for one in vector["falls_on"]:
        fallen = [place for place in range(8) if protocol.falls_on(coin, place, one["share"])]
        assert fallen == one["members"]
