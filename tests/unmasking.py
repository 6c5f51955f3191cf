"""Masks that tests know, to take them off again: for what the door says under them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.door import Masked
from federation.secure_aggregation.words import Masks, apply_masks, from_words

MASKS: Final = Masks(bits=64, added=(b"\x01" * 32, b"\x02" * 32), subtracted=(b"\x03" * 32,))
"""As if of an institution with two peers, one before and one after it."""


def unmasked(answer: Masked) -> NDArray[np.int64]:
    """Returns int64[length]: what `MASKS` are on."""
    words = answer.words.copy()
    apply_masks(words, added=MASKS.subtracted, subtracted=MASKS.added)
    return from_words(words)
