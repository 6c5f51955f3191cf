"""The audit coin, and the opening of an attempt inside the institution that answered it.

A header commits its institution to the noise key and to its own mask. Once a total is opened, each
survivor's part of a coin is known; no part can be changed after the header was signed, so nobody
who cheats knows beforehand whether this attempt will be looked at. If the coin falls on an
institution, what it uploaded is computed again from the snapshot and the committed keys. The
opening never leaves: an inspector reads the outcome, or runs `repeats` from independent code.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from federation import door
from federation.canonical import hash_of
from federation.door import Brought
from federation.errors import ProtocolError
from federation.messages import Model
from federation.query import BoundedSum, Question
from federation.secure_aggregation.session import place_bytes
from federation.secure_aggregation.upload import (
    Header,
    Masking,
    coin_of,
    commitment_to,
    masked_digest,
)

NOISE_LABEL: Final = "fedscore/noise/2"

PASSED: Final = "gives the upload again"
"""How the log line of an audit ends that found nothing; what watches the daemon counts it."""

FAILED: Final = "DOES NOT GIVE THE UPLOAD AGAIN"
"""How it ends if somebody must look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """All that one upload was made of, kept until the coin is drawn. Never leaves.

    Attributes:
        header: as signed.
        masking: masks of the attempt.
        query: what was asked.
        question: of the plan.
        model: that it was about; None for bins.
        noise_key: 32 bytes.
    """

    header: Header
    masking: Masking
    query: BoundedSum
    question: Question
    model: Model | None
    noise_key: bytes = field(repr=False)


def sample_key(noise_key: bytes) -> bytes:
    """Returns the key that decides who takes part, where people are sampled, 32 bytes.

    A retry has another noise key, and so a fresh sample.
    """
    return hash_of("fedscore/sample/1", noise_key)


def noise_commitment(noise_key: bytes) -> bytes:
    """Returns what a header says of the key that noise was expanded from."""
    return hash_of(NOISE_LABEL, noise_key)


def coin_of_attempt(context: bytes, headers: Sequence[Header], coins: Sequence[bytes]) -> bytes:
    """Returns the coin that the survivors threw together, 32 bytes.

    Uniform as long as one survivor's own mask is: nobody's part can depend on another's.

    Raises:
        ProtocolError: a part is not what its header committed to.
    """
    if len(coins) != len(headers) or any(
        commitment_to(coin) != header.own_mask for coin, header in zip(coins, headers, strict=True)
    ):
        raise ProtocolError("These are not the coins that the survivors' headers committed to.")
    return hash_of("fedscore/audit-coin/2", context, *coins)


def falls_on(coin: bytes, place: int, share: float) -> bool:
    """Returns whether a member is audited: with probability `share`, each for itself.

    Args:
        coin: of the attempt.
        place: of the member.
        share: in [0, 1].
    """
    drawn = int.from_bytes(hash_of("fedscore/audited/2", coin, place_bytes(place))[:8], "little")
    return drawn < share * 2**64


def repeats(opening: Opening, people: Iterable[Brought]) -> bool:
    """Returns whether the committed keys and these people give the very upload that was signed.

    Args:
        opening: of the attempt.
        people: of the snapshot, as the question takes them.
    """
    words = door.answer(
        opening.query, people, noise_key=opening.noise_key, masks=opening.masking.masks
    ).words
    header = opening.header
    return (
        masked_digest(words.tobytes()) == header.masked
        and noise_commitment(opening.noise_key) == header.noise
        and commitment_to(coin_of(opening.masking.own_mask)) == header.own_mask
    )
