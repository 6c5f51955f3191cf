"""Words wrap, masks are AES-256 keystreams that cancel, and no total can leave its word."""

from math import isqrt

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation.errors import PrivacyError
from federation.privacy.discrete_gaussian import LARGEST_VARIANCE, _staircase, sample
from federation.privacy.events import LEAST_SHARE_VARIANCE
from federation.query import UNITS_PER_ONE, BoundedSum, Question
from federation.secure_aggregation.words import (
    Masks,
    apply_masks,
    from_words,
    masked,
    to_words,
    word_bits,
    word_type,
)
from tests.attempts import secret
from tests.reference import protocol
from tests.reference.primitives import block

BITS = st.sampled_from((32, 64))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(
    [0, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32, 2**63 - 1, -(2**63)]
)
KEYS = st.lists(st.binary(min_size=32, max_size=32), max_size=4)


def vector(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(NUMBERS, max_size=6), BITS)
def test_words_are_numbers_modulo_two_to_the_bits(numbers: list[int], bits: int) -> None:
    words = to_words(vector(numbers), bits)
    assert words.tolist() == [number % 2**bits for number in numbers]
    assert words.dtype.str == ("<u4" if bits == 32 else "<u8")
    half = 2 ** (bits - 1)
    back = from_words(words)
    assert back.dtype == np.int64
    assert back.tolist() == [(number + half) % (2 * half) - half for number in numbers]


@pytest.mark.parametrize("bits", [32, 64])
def test_the_ends_of_a_word_come_back_and_one_beyond_wraps(bits: int) -> None:
    end = 2 ** (bits - 1)
    inside = vector([-end, -1, 0, end - 1])
    assert from_words(to_words(inside, bits)).tolist() == inside.tolist()
    words = to_words(vector([end - 1, -end]), bits)
    assert from_words(words + words.dtype.type(1)).tolist() == [-end, -end + 1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(NUMBERS, max_size=20), KEYS, KEYS, BITS)
def test_masking_is_that_of_the_reference(
    numbers: list[int], added: list[bytes], subtracted: list[bytes], bits: int
) -> None:
    own = secret("own")
    masks = Masks(bits=bits, added=(own, *added), subtracted=tuple(subtracted))
    words = masked(vector(numbers), masks)
    assert words.tobytes() == protocol.masked(numbers, [own, *added], subtracted, bits)
    apply_masks(words, added=subtracted, subtracted=(own, *added))
    assert words.tobytes() == to_words(vector(numbers), bits).tobytes()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_long_vectors_have_one_keystream_from_end_to_end(bits: int, beyond: int) -> None:
    """Vectors are masked in pieces of 2^18 bytes."""
    length = 2**18 // (bits // 8) + beyond
    masks = Masks(bits=bits, added=(secret("own"),), subtracted=(secret("peer"),))
    found = masked(np.zeros(length, dtype=np.int64), masks)
    last = slice(16 * (length * bits // 8 // 16 - 3), None)
    assert len(found.tobytes()) == length * bits // 8
    for part in (slice(0, 48), last):
        both = [stream(key, length * bits // 8)[part] for key in (*masks.added, *masks.subtracted)]
        plus, minus = (np.frombuffer(one, dtype=word_type(bits)) for one in both)
        assert found.tobytes()[part] == (plus - minus).tobytes()


def stream(key: bytes, length: int) -> bytes:
    """Returns the first and the last four blocks of a keystream, zeros between."""
    blocks = -(-length // 16)
    found = bytearray(16 * blocks)
    for number in {*range(min(4, blocks)), *range(max(0, blocks - 5), blocks)}:
        found[16 * number : 16 * number + 16] = block(key, number.to_bytes(16, "big"))
    return bytes(found[:length])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(2, 12), st.integers(1, 5), BITS)
def test_the_masks_of_all_pairs_add_up_to_zero(members: int, length: int, bits: int) -> None:
    total = np.zeros(length, dtype=word_type(bits))
    for place in range(members):
        seeds = [secret("pair", *sorted((place, peer))) for peer in range(members)]
        apply_masks(total, added=seeds[place + 1 :], subtracted=seeds[:place])
        if place < members - 1:
            assert total.any()
    assert not total.any()


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_mask_of_another_key_length_is_refused(length: int) -> None:
    for added, subtracted in (((bytes(length),), ()), ((bytes(32),), (bytes(length),))):
        with pytest.raises(PrivacyError, match="32 bytes"):
            masked(vector([1]), Masks(bits=32, added=added, subtracted=subtracted))


def test_a_total_does_not_leave_without_a_mask_of_its_own_or_in_other_words() -> None:
    with pytest.raises(PrivacyError, match="under a mask"):
        masked(vector([1]), Masks(bits=32, added=(), subtracted=(bytes(32),)))
    for bits in (0, 8, 16, 33, 128):
        with pytest.raises(PrivacyError, match="32- or 64-bit"):
            masked(vector([1]), Masks(bits=bits, added=(bytes(32),), subtracted=()))


def test_masks_are_never_shown() -> None:
    masks = Masks(bits=32, added=(b"\x07" * 32,), subtracted=(b"\x08" * 32, bytes(32)))
    assert repr(masks) == "Masks(1 added, 2 subtracted)"


def test_masking_leaves_the_total_it_was_given() -> None:
    total = vector([5, -5])
    masked(total, Masks(bits=64, added=(bytes(32),), subtracted=()))
    assert total.tolist() == [5, -5]


# Which word.


def question(share_variance: int) -> BoundedSum:
    return BoundedSum(question=Question.STEP, columns=(3, 1), share_variance=share_variance)


VARIANCES = st.integers(LEAST_SHARE_VARIANCE, LARGEST_VARIANCE) | st.integers(12, 80).flatmap(
    lambda power: st.sampled_from([2**power, min(2**power + 1, 2**80)])
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(VARIANCES, st.integers(1, 10**10), st.integers(3, 400))
@example(LEAST_SHARE_VARIANCE, 1, 3)
@example(LARGEST_VARIANCE, 10**10, 400)
def test_a_word_is_32_bits_exactly_if_no_total_can_leave_them(
    variance: int, most_people: int, institutions: int
) -> None:
    bits = word_bits(question(variance), most_people=most_people, institutions=institutions)
    assert bits == protocol.word_bits(most_people * UNITS_PER_ONE, institutions, variance)
    worst = institutions * (most_people * UNITS_PER_ONE + largest_draw(variance))
    assert worst < 2 ** (bits - 1)


def largest_draw(variance: int) -> int:
    """Returns the largest number that the sampler can return, from its own table."""
    steps = _staircase(variance)
    return ((len(steps.thresholds) + 1) << steps.bits) - 1


@pytest.mark.parametrize("variance", [LEAST_SHARE_VARIANCE, 10**6, 2**40 + 1, 2**63, 2**80])
def test_no_draw_is_farther_out_than_a_word_has_room_for(variance: int) -> None:
    room = 14 * (isqrt(variance) + 1)
    assert largest_draw(variance) <= room
    assert np.abs(sample(variance=variance, count=4000, key=secret(variance))).max() <= room


def test_the_word_grows_at_the_first_person_who_may_not_fit() -> None:
    of = question(LEAST_SHARE_VARIANCE)
    each = 14 * 65
    most = ((2**31 - 1) // 4 - each) // UNITS_PER_ONE
    assert word_bits(of, most_people=most, institutions=4) == 32
    assert word_bits(of, most_people=most + 1, institutions=4) == 64


def test_the_word_grows_at_the_first_draw_that_may_not_fit() -> None:
    """2^16 units are left for noise: 14 deviations of 4681 fit, but one is counted more."""
    for deviation, bits in ((4680, 32), (4681, 64)):
        assert word_bits(question(deviation**2), most_people=2**13 - 1, institutions=4) == bits


def dense(kind: Question, share_variance: int) -> BoundedSum:
    return BoundedSum(question=kind, columns=(5,), share_variance=share_variance)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from((Question.GRADIENT, Question.UPDATE)),
    VARIANCES,
    st.integers(1, 10**8),
    st.integers(3, 400),
)
@example(Question.UPDATE, LEAST_SHARE_VARIANCE, 10**8, 3)
@example(Question.GRADIENT, LARGEST_VARIANCE, 10**8, 400)
def test_the_word_of_whole_vectors_holds_the_clip_norm_of_everybody_who_is_bounded(
    kind: Question, variance: int, most_people: int, institutions: int
) -> None:
    """Of each person in a gradient; of the institution in an update, however many people it has."""
    bits = word_bits(dense(kind, variance), most_people=most_people, institutions=institutions)
    most = protocol.bound(kind.value, most_people)
    assert most == (2**24 if kind is Question.UPDATE else most_people * 2**24)
    assert bits == protocol.word_bits(most, institutions, variance)
    assert institutions * (most + largest_draw(variance)) < 2 ** (bits - 1)


def test_an_update_needs_no_wider_word_for_more_people_and_a_gradient_does() -> None:
    update, gradient = (
        dense(kind, LEAST_SHARE_VARIANCE) for kind in (Question.UPDATE, Question.GRADIENT)
    )
    for most_people in (1, 100, 10**10):
        assert word_bits(update, most_people=most_people, institutions=4) == 32
    assert word_bits(gradient, most_people=31, institutions=4) == 32
    assert word_bits(gradient, most_people=32, institutions=4) == 64
    assert word_bits(update, most_people=1, institutions=127) == 32
    assert word_bits(update, most_people=1, institutions=128) == 64


def test_gradients_that_may_not_fit_64_bits_are_refused() -> None:
    fits = (2**63 - 1) // 4 // 2**24 - 1
    gradient = dense(Question.GRADIENT, LEAST_SHARE_VARIANCE)
    assert word_bits(gradient, most_people=fits, institutions=4) == 64
    with pytest.raises(PrivacyError, match="64-bit"):
        word_bits(gradient, most_people=fits + 2, institutions=4)


def test_a_sum_that_may_not_fit_64_bits_is_refused() -> None:
    fits = (2**63 - 1) // 4 // UNITS_PER_ONE - 1
    assert word_bits(question(LEAST_SHARE_VARIANCE), most_people=fits, institutions=4) == 64
    with pytest.raises(PrivacyError, match="64-bit"):
        word_bits(question(LEAST_SHARE_VARIANCE), most_people=fits + 2, institutions=4)
