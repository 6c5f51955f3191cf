"""Whatever is summed, whoever drops out and when: what is opened is the survivors' plain sum."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import canonical, door
from federation.door import Contribution, one_column_each
from federation.errors import ProtocolError
from federation.privacy.discrete_gaussian import sample
from federation.query import UNITS_PER_ONE, BoundedSum, Question
from federation.secure_aggregation.attempt import Signed, Undecided, on_signatures, on_survivors
from federation.secure_aggregation.opening import require_fits
from federation.secure_aggregation.session import Session, at_round
from federation.secure_aggregation.survivors import (
    SET_LABEL,
    Reveal,
    Revealed,
    reveal,
    valid_signers,
)
from federation.secure_aggregation.upload import draw_masks
from federation.secure_aggregation.words import masked, word_bits
from tests.attempts import Played, context, identity, secret, sessions, wide_sessions


@dataclass(frozen=True)
class Story:
    """A federation, its numbers, and who leaves it when.

    Attributes:
        quorum: m; also n, t and c follow the plan's rules.
        vectors: a number for each member and cell.
        before: for each attempt, who is gone before the upload.
        after: for each attempt, who is gone after it.
    """

    members: int
    threshold: int
    quorum: int
    bits: int
    vectors: list[list[int]]
    before: list[set[int]]
    after: list[set[int]]

    def sum_over(self, places: tuple[int, ...]) -> list[int]:
        """Returns the plain sum, which wraps only if it leaves the word."""
        half = 2 ** (self.bits - 1)
        cells = zip(*(self.vectors[place] for place in places), strict=True)
        return [(sum(cell) + half) % (2 * half) - half for cell in cells]


@st.composite
def stories(draw: st.DrawFn, *, most: int) -> Story:
    members = draw(st.integers(4 if most < 10 else 3, most))
    colluders = draw(st.integers(1, max(1, (members - 1) // 3)))
    threshold = (members + colluders) // 2 + 1
    least = max(threshold, colluders + 2)
    quorum = draw(st.sampled_from((least, least, (least + members) // 2, members)))
    bits = draw(st.sampled_from((32, 64)))
    half = 2 ** (bits - 1)
    number = st.one_of(
        st.integers(-(2**20), 2**20),
        st.integers(-half, half - 1),
        st.sampled_from((0, half - 1, -half, -1)),
    )
    length = draw(st.integers(1, 4))
    vectors = draw(
        st.lists(
            st.lists(number, min_size=length, max_size=length), min_size=members, max_size=members
        )
    )
    somebody = st.sets(st.integers(0, members - 1), min_size=1, max_size=max(1, members - least))
    gone = st.one_of(somebody, somebody, st.just(set()))
    there = st.one_of(st.just(set()), st.just(set()), somebody)
    attempts = draw(st.integers(1, 3 if most < 10 else 2))
    before = draw(st.lists(gone, min_size=attempts, max_size=attempts))
    after = draw(st.lists(there, min_size=attempts, max_size=attempts))
    return Story(members, threshold, quorum, bits, vectors, before, after)


def tell(story: Story, found: tuple[Session, ...]) -> None:
    """Tries attempt after attempt; each one opens exactly when it must, to the survivors' sum."""
    vectors = [np.array(vector, dtype=np.int64) for vector in story.vectors]
    for attempt, (before, after) in enumerate(zip(story.before, story.after, strict=True)):
        round_ = attempt // 2  # the second attempt is a retry, the third another round
        played = Played.of(
            found,
            vectors,
            bits=story.bits,
            dropped=before,
            round_=round_,
            attempt=attempt,
        )
        survivors = played.survivors
        if len(survivors) < story.quorum:
            continue
        nbytes = len(vectors[0]) * story.bits // 8
        for place, upload in played.collected.uploads.items():
            require_fits(played.collected.group, played.context, place, upload, nbytes)
        assert played.collected.disagreements() == ()
        there = [place for place in survivors if place not in after]
        revealed = answers(story, played, there)
        opens = len(there) >= story.threshold and (not before or len(there) == len(survivors))
        if not opens:
            with pytest.raises(ProtocolError):
                played.collected.opened(revealed)
            continue
        for place, one in revealed.items():
            played.collected.require_reveals(place, one)
        assert played.collected.opened(revealed).total.tolist() == story.sum_over(survivors)


def answers(story: Story, played: Played, there: list[int]) -> dict[int, Revealed]:
    """Returns what those who are still there release, each by its own rules."""
    checked = {place: played.checked(place) for place in there}
    standing = {
        place: on_survivors(
            Undecided(),
            played.survivors,
            members=story.members,
            quorum=story.quorum,
            place=place,
        )
        for place in there
    }
    signatures = {
        place: bytes.fromhex(canonical.sign(identity(place), SET_LABEL, one.body))
        for place, one in checked.items()
    }
    asked = Reveal(
        context=played.context,
        signers=tuple(signatures),
        signatures=tuple(signatures.values()),
    )
    found = {}
    for place, one in checked.items():
        if isinstance(standing[place], Signed):
            signers = valid_signers(played.collected.group, one.body, asked)
            if signers < story.threshold:
                with pytest.raises(ProtocolError, match="fewer than the threshold"):
                    on_signatures(standing[place], signers, threshold=story.threshold)
                continue
            on_signatures(standing[place], signers, threshold=story.threshold)
        found[place] = reveal(one, signatures[place])
    return found


@settings(max_examples=10, deadline=None, derandomize=True)
@given(stories(most=6))
def test_what_a_few_institutions_open_is_their_plain_sum(story: Story) -> None:
    tell(story, sessions(story.members, threshold=story.threshold, quorum=story.quorum))


@pytest.mark.parametrize("bits", [32, 64])
def test_whoever_of_four_leaves_at_whatever_stage_the_sum_is_plain_or_none(bits: int) -> None:
    stages = [set(), {0}, {1}, {2}, {3}]
    both = [(before, after) for before in stages for after in stages]
    story = Story(
        members=4,
        threshold=3,
        quorum=3,
        bits=bits,
        vectors=[[2 ** (bits - 1) - 1, -place, 10**place] for place in range(4)],
        before=[before for before, _ in both],
        after=[after for _, after in both],
    )
    tell(story, sessions(4, threshold=3, quorum=3))


@pytest.mark.slow
@settings(max_examples=10, deadline=None, derandomize=True)
@given(stories(most=40))
def test_what_up_to_forty_institutions_open_is_their_plain_sum(story: Story) -> None:
    tell(story, wide_sessions(story.members, threshold=story.threshold, quorum=story.quorum))


@pytest.mark.slow
def test_forty_with_six_gone_open_the_sum_of_thirty_four() -> None:
    generator = np.random.default_rng(40)
    vectors = [generator.integers(-(2**40), 2**40, 50) for _ in range(40)]
    gone = {0, 7, 8, 21, 38, 39}
    found = wide_sessions(40, threshold=21, quorum=30)
    opened = Played.of(found, vectors, bits=64, dropped=gone).opened()
    plain = sum(vector for place, vector in enumerate(vectors) if place not in gone)
    assert opened.total.tolist() == plain.tolist()


@pytest.mark.parametrize("bits", [32, 64])
def test_a_total_is_exact_up_to_the_ends_of_the_word(bits: int) -> None:
    half = 2 ** (bits - 1)
    shares = [[half // 2, -half // 2], [half // 2 - 2, -half // 2], [1, 0]]
    found = sessions(3, threshold=3, quorum=3)
    vectors = [np.array(vector, dtype=np.int64) for vector in shares]
    assert Played.of(found, vectors, bits=bits).opened().total.tolist() == [half - 1, -half]


@pytest.mark.parametrize("bits", [32, 64])
def test_the_sum_of_all_that_is_sent_is_not_the_total(bits: int) -> None:
    """The own masks stay on until they are opened; the masks of pairs are gone."""
    found = sessions(5, threshold=4, quorum=4)
    played = Played.of(found, [np.zeros(2, dtype=np.int64)] * 5, bits=bits)
    kind = f"<u{bits // 8}"
    sent = [np.frombuffer(one.words, dtype=kind) for one in played.collected.uploads.values()]
    assert len({one.tobytes() for one in sent}) == 5
    summed = np.sum(sent, axis=0, dtype=kind)
    for sharing in played.sharings.values():
        assert summed.any()
        own = masked(
            np.zeros(2, dtype=np.int64),
            draw_masks(
                sharing.masking.session,
                context=played.context,
                bits=bits,
                own_mask=sharing.masking.own_mask,
            ).masks,
        )
        summed = summed - own
    assert not summed.any()


@pytest.mark.parametrize("dropped", [set(), {1}])
def test_a_retry_has_other_masks_and_the_same_sum(dropped: set[int]) -> None:
    found = sessions(5, threshold=4, quorum=4)
    vectors = [np.array([place, -place]) for place in range(5)]
    first, second = (
        Played.of(found, vectors, bits=64, dropped=dropped, attempt=attempt) for attempt in range(2)
    )
    for place in first.survivors:
        one, other = first.collected.uploads[place], second.collected.uploads[place]
        assert one.words != other.words
        assert one.header.own_mask != other.header.own_mask
        assert not set(first.sharings[place].masking.seeds) & set(
            second.sharings[place].masking.seeds
        ) - {b""}
    assert first.opened().total.tolist() == second.opened().total.tolist()


def test_a_member_in_another_round_makes_a_total_of_garbage_and_is_found_out() -> None:
    found = list(sessions(5, threshold=4, quorum=4))
    found[2] = replace(found[2], chains=at_round(found[2], 1).chains)
    vectors = [np.zeros(4, dtype=np.int64)] * 5
    at = context(found[0].group, bits=64, length=4)
    played = Played.of(found, vectors, bits=64, at=at)
    assert played.collected.disagreements() == ((0, 2), (1, 2), (2, 3), (2, 4))
    with pytest.raises(ProtocolError):
        played.checked(0)


def test_what_the_door_sends_is_opened_to_people_and_noise() -> None:
    """The whole way of one question: rows, clipped sums, noise, masks, total."""
    query = BoundedSum(question=Question.BINS, columns=(3, 2), share_variance=10**9)
    found = sessions(4, threshold=3, quorum=3)
    bits = word_bits(query, most_people=50, institutions=4)
    at = context(found[0].group, bits=bits, length=query.length)
    noise = [secret("noise", place) for place in range(4)]

    def people(place: int) -> list[Contribution]:
        codes = [np.arange(10, dtype=np.uint8) % (3 - column) for column in range(2)]
        values = np.full(10, UNITS_PER_ONE * (place + 1), dtype=np.int64)  # clipped to one
        return [Contribution(values=values, cells=one_column_each(codes), person_starts=None)]

    noised = [
        door.add_noise(door.sum_of(query, people(place)), query, noise_key=noise[place]).total
        for place in range(4)
    ]
    played = Played.of(found, noised, bits=bits, at=at, dropped={3})
    for place, sharing in played.sharings.items():
        sent = door.answer(
            query, people(place), noise_key=noise[place], masks=sharing.masking.masks
        )
        assert sent.words.tobytes() == played.collected.uploads[place].words
    expected = sum(
        np.array([4, 3, 3, 5, 5]) * UNITS_PER_ONE
        + sample(variance=10**9, count=5, key=noise[place])
        for place in range(3)
    )
    assert played.opened().total.tolist() == np.asarray(expected).tolist()
