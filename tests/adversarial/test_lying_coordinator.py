"""Every lie that a coordinator and c colluding institutions can tell in one attempt.

Honest institutions do what the real functions of `federation.secure_aggregation.attempt` say. The
adversary does the rest: it shows any honest member any set of survivors, also malformed ones, in
any order, asks anybody for a vote at any time, and its c members sign every set, vote to give up,
and hold their shares of everything. Whatever can be reached from the start is visited, for up to
five members. What an honest member once released, signed or voted the adversary knows for good.

A total over some honest members (and any colluders, whose own masks and seeds it knows anyhow) can
be **opened** once the adversary knows t shares of each one's own mask and, for each honest pair of
which one is in the total and the other is not, the seed of their masks.

Two signed sets that differ in a colluder's header only count as the same set here: that lends the
adversary more signatures than it has.
"""

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import Any, Final

import pytest

from federation.errors import PrivacyError, ProtocolError
from federation.plan import Participation
from federation.secure_aggregation import attempt
from federation.secure_aggregation.attempt import Aborted, Released, Signed, Standing, Undecided

Places = tuple[int, ...]
MOST_MEMBERS: Final = 5
MOST_COLLUDERS: Final = 2


class Broken(StrEnum):
    """A sentence that no reachable state may make false."""

    TWO_TOTALS = "all totals that can be opened are over the same honest members"
    FEW_HONEST = "every total that can be opened is over at least m - c honest members"
    VOTED_DOWN = "t votes to give up mean that no total can be opened"
    OUTSIDER = "nobody releases anything for a set without himself"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The numbers of a session."""

    members: int
    colluders: int
    threshold: int
    quorum: int

    @property
    def honest(self) -> range:
        """Places of the honest members; the last c are the colluders'."""
        return range(self.members - self.colluders)

    @property
    def follows_the_rule(self) -> bool:
        """Whether 2t > n + c."""
        return 2 * self.threshold > self.members + self.colluders


@dataclass(frozen=True, slots=True)
class Known:
    """One honest member: where it stands, and what the adversary has of it for good."""

    standing: Standing = field(default_factory=Undecided)
    signed: frozenset[Places] = frozenset()
    released: frozenset[Places] = frozenset()
    voted: bool = False

    def after(self, standing: Standing) -> "Known":
        """Returns the member after it answered and so came to stand somewhere else."""
        signed, released = self.signed, self.released
        if isinstance(standing, Signed | Released):
            signed |= {standing.survivors}
        if isinstance(standing, Released):
            released |= {standing.survivors}
        return Known(standing, signed, released, self.voted or isinstance(standing, Aborted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Visited:
    """What was found in all that can be reached.

    Attributes:
        states: different joint states of the honest members.
        broken: each sentence that one of them makes false, with the first such state.
    """

    states: int
    broken: dict[Broken, tuple[Known, ...]]


@dataclass(slots=True)
class Model:
    """All joint states of the honest members of one session in one attempt."""

    setting: Setting
    _openable: dict[tuple[frozenset[Places], ...], frozenset[Places]] = field(default_factory=dict)
    _answers: dict[tuple[int, Known, int], tuple[Known, ...]] = field(default_factory=dict)

    def visit(self, *, enough: frozenset[Broken] = frozenset(Broken)) -> Visited:
        """Visits every state that can be reached, or stops once all of `enough` are broken."""
        start = (Known(),) * len(self.setting.honest)
        seen, waiting = {start}, [start]
        broken: dict[Broken, tuple[Known, ...]] = {}
        while waiting and not enough <= broken.keys():
            state = waiting.pop()
            for kind in self._broken_in(state):
                broken.setdefault(kind, state)
            for following in self._following(state):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return Visited(states=len(seen), broken=broken)

    # What the adversary can bring about.

    def _following(self, state: tuple[Known, ...]) -> Iterator[tuple[Known, ...]]:
        signatures: dict[Places, int] = {}
        for one in state:
            for survivors in one.signed:
                signatures[survivors] = signatures.get(survivors, 0) + 1
        for place, one in enumerate(state):
            mine = getattr(one.standing, "survivors", None)
            signers = signatures.get(mine, 0) + self.setting.colluders
            for answered in self._answered(place, one, signers):
                yield (*state[:place], answered, *state[place + 1 :])

    def _answered(self, place: int, one: Known, signers: int) -> tuple[Known, ...]:
        """Returns all that one member can become by answering one message."""
        key = (place, one, signers)
        if key not in self._answers:
            found = {one.after(standing) for standing in self._standings(place, one, signers)}
            self._answers[key] = tuple(found - {one})
        return self._answers[key]

    def _standings(self, place: int, one: Known, signers: int) -> Iterator[Standing]:
        setting = self.setting
        for survivors in shown(setting):
            yield from reached(
                lambda survivors=survivors: attempt.on_survivors(
                    one.standing,
                    survivors,
                    members=setting.members,
                    quorum=setting.quorum,
                    place=place,
                )
            )
        yield from reached(
            lambda: attempt.on_signatures(one.standing, signers, threshold=setting.threshold)
        )
        yield from reached(lambda: attempt.on_abort(one.standing))

    # What it knows then.

    def _broken_in(self, state: tuple[Known, ...]) -> Iterator[Broken]:
        setting = self.setting
        openable = self._opened_by(tuple(one.released for one in state))
        if len(openable) > 1:
            yield Broken.TWO_TOTALS
        if any(len(total) < setting.quorum - setting.colluders for total in openable):
            yield Broken.FEW_HONEST
        votes = sum(one.voted for one in state) + setting.colluders
        if openable and votes >= setting.threshold:
            yield Broken.VOTED_DOWN
        if any(place not in s for place, one in enumerate(state) for s in one.released):
            yield Broken.OUTSIDER

    def _opened_by(self, released: tuple[frozenset[Places], ...]) -> frozenset[Places]:
        """Returns the honest members of each total that can be opened, if it has any."""
        if released not in self._openable:
            self._openable[released] = frozenset(self._openable_totals(released))
        return self._openable[released]

    def _openable_totals(self, released: tuple[frozenset[Places], ...]) -> Iterator[Places]:
        setting, honest = self.setting, self.setting.honest
        shares = {
            owner: sum(any(owner in s for s in sets) for sets in released) + setting.colluders
            for owner in honest
        }
        seeds = {
            frozenset((holder, other))
            for holder, sets in enumerate(released)
            for survivors in sets
            for other in honest
            if other not in survivors and other != holder
        }
        unmasked = [owner for owner in honest if shares[owner] >= setting.threshold]
        for total in subsets(unmasked):
            outside = [place for place in honest if place not in total]
            if all(frozenset((u, v)) in seeds for u in total for v in outside):
                yield total


def subsets(of: list[int] | range) -> Iterator[Places]:
    """Yields every subset that is not empty."""
    for size in range(1, len(of) + 1):
        yield from combinations(of, size)


def shown(setting: Setting) -> Iterator[Places]:
    """Yields each set of survivors that may be shown, and each filled up by naming one twice."""
    for survivors in subsets(range(setting.members)):
        yield survivors
        for size in {setting.quorum, setting.members}:
            if len(survivors) < size:
                yield (*survivors, *survivors[-1:] * (size - len(survivors)))


def reached(answer: Callable[[], Standing]) -> Iterator[Standing]:
    """Yields where an honest member stands after it answered, nothing if it refuses."""
    try:
        yield answer()
    except ProtocolError:
        return


def settings() -> Iterator[Setting]:
    """Yields all numbers with m >= t and m - c >= 2."""
    for colluders in range(1, MOST_COLLUDERS + 1):
        for members in range(colluders + 2, MOST_MEMBERS + 1):
            for threshold in range(1, members + 1):
                for quorum in range(max(threshold, colluders + 2), members + 1):
                    yield Setting(
                        members=members, colluders=colluders, threshold=threshold, quorum=quorum
                    )


SMALL: Final = Setting(members=4, colluders=1, threshold=3, quorum=3)
STRICT: Final = Setting(members=4, colluders=1, threshold=3, quorum=4)
LARGE: Final = Setting(members=5, colluders=1, threshold=4, quorum=4)
EVERY: Final = tuple(settings())


def found(setting: Setting, *kinds: Broken) -> set[Broken]:
    """Returns which of these sentences the adversary can make false."""
    return set(kinds) & Model(setting).visit(enough=frozenset(kinds)).broken.keys()


@pytest.mark.parametrize("setting", [one for one in EVERY if one.follows_the_rule], ids=str)
def test_no_lie_opens_a_second_total_or_one_that_was_given_up(setting):
    assert Model(setting).visit().broken == {}


def test_the_model_is_not_empty():
    visited = Model(LARGE).visit()

    assert visited.states == 16_226
    assert sum(one.follows_the_rule for one in EVERY) == 11


def test_an_honest_coordinator_opens_a_total_with_and_without_a_dropout():
    everybody, without_the_last = (0, 1, 2, 3), (0, 1, 3)
    model = Model(SMALL)
    fast = tuple(Known().after(Released(everybody)) for _ in range(2))
    slow = tuple(Known().after(Released(without_the_last)) for _ in range(2))

    assert model._opened_by(tuple(one.released for one in (*fast, Known()))) == {(0, 1, 2)}
    assert model._opened_by(tuple(one.released for one in (*slow, Known()))) == {(0, 1)}


def test_votes_and_a_total_coexist_whenever_the_rule_is_broken():
    broken = [one for one in EVERY if not one.follows_the_rule]

    assert len(broken) == 24
    for setting in broken:
        assert found(setting, Broken.VOTED_DOWN), setting


@pytest.mark.slow
def test_two_totals_can_be_opened_exactly_when_quorum_and_threshold_leave_room_for_both():
    """The rule is a little more than this half needs: m >= t, so 2t > n + c gives m + t > n + c."""
    for one in EVERY:
        room = one.quorum + one.threshold <= one.members + one.colluders
        expected = room and one.quorum < one.members  # else there is one set: everybody
        assert bool(found(one, Broken.TWO_TOTALS)) == expected, one


@pytest.mark.parametrize(
    ("members", "colluders"), [(4, 1), pytest.param(5, 1, marks=pytest.mark.slow), (5, 2)]
)
def test_with_a_threshold_one_too_small_both_halves_fail(members, colluders):
    threshold = (members + colluders) // 2
    setting = Setting(
        members=members,
        colluders=colluders,
        threshold=threshold,
        quorum=max(threshold, colluders + 2),
    )
    both = {Broken.TWO_TOTALS, Broken.VOTED_DOWN}

    assert found(setting, *both) == both


def test_the_numbers_that_break_a_rule_make_no_plan():
    for setting in EVERY:
        numbers = {
            "invited": tuple(f"bank-{place}" for place in range(setting.members)),
            "quorum": setting.quorum,
            "threshold": setting.threshold,
            "colluders": setting.colluders,
            "spare_attempts": 0,
            "audited_share": 0.0,
        }
        if setting.follows_the_rule:
            Participation(**numbers)
        else:
            with pytest.raises(PrivacyError, match="2 threshold > institutions"):
                Participation(**numbers)


def test_a_quorum_of_one_more_than_the_colluders_opens_one_institutions_own_total():
    setting = Setting(members=3, colluders=2, threshold=3, quorum=3)
    model = Model(setting)

    model.visit()

    assert frozenset({(0,)}) in model._openable.values()
    with pytest.raises(PrivacyError, match="at least colluders"):
        Participation(
            invited=("a", "b", "c"),
            quorum=3,
            threshold=3,
            colluders=2,
            spare_attempts=0,
            audited_share=0.0,
        )


# Each guard of attempt.py is needed.


def without(function: Callable[..., Standing], number: int) -> Callable[..., Standing]:
    """Returns the function with one of its guards (from 0) deleted from its source."""
    (tree,) = ast.parse(inspect.getsource(function)).body
    assert isinstance(tree, ast.FunctionDef)
    guards = [one for one in tree.body if isinstance(one, ast.If)]
    tree.body.remove(guards[number])
    scope = dict(vars(attempt))
    exec(compile(ast.unparse(tree), "a guard less", "exec"), scope)  # noqa: S102  our own source
    return scope[function.__name__]


def forgetting(function: Callable[..., Standing], kind: type[Standing]) -> Callable[..., Standing]:
    """Returns the function as if an institution that stands so had said nothing yet."""

    def forgetful(standing: Standing, *rest: Any, **named: Any) -> Standing:
        return function(Undecided() if isinstance(standing, kind) else standing, *rest, **named)

    return forgetful


@pytest.mark.parametrize(
    ("function", "number", "setting", "kind"),
    [
        pytest.param("on_survivors", 0, SMALL, Broken.TWO_TOTALS, id="a second set"),
        pytest.param("on_survivors", 1, SMALL, Broken.FEW_HONEST, id="a name twice"),
        pytest.param("on_survivors", 2, STRICT, Broken.FEW_HONEST, id="a set below the quorum"),
        pytest.param("on_survivors", 3, SMALL, Broken.OUTSIDER, id="a set without us"),
        pytest.param("on_signatures", 1, LARGE, Broken.FEW_HONEST, id="too few signatures"),
        pytest.param("on_abort", 0, SMALL, Broken.VOTED_DOWN, id="a vote after a release"),
    ],
)
def test_without_one_guard_the_model_finds_an_attack(monkeypatch, function, number, setting, kind):
    monkeypatch.setattr(attempt, function, without(getattr(attempt, function), number))

    assert found(setting, kind) == {kind}


@pytest.mark.parametrize(
    ("function", "forgotten", "kind"),
    [
        pytest.param("on_survivors", Signed, Broken.TWO_TOTALS, id="another set after a signature"),
        pytest.param("on_survivors", Released, Broken.TWO_TOTALS, id="another set after a release"),
        pytest.param("on_survivors", Aborted, Broken.VOTED_DOWN, id="a release after a vote"),
        pytest.param("on_abort", Released, Broken.VOTED_DOWN, id="a vote after a release"),
    ],
)
def test_whoever_forgets_what_he_said_is_attacked(monkeypatch, function, forgotten, kind):
    monkeypatch.setattr(attempt, function, forgetting(getattr(attempt, function), forgotten))

    assert found(SMALL, kind) == {kind}


@dataclass(frozen=True, slots=True)
class VotedAndSigned(Aborted):
    """Voted, and still holds the set that it signed before."""

    survivors: Places


def test_a_release_for_a_set_that_was_signed_before_the_vote_is_an_attack(monkeypatch):
    on_abort, on_signatures = attempt.on_abort, attempt.on_signatures

    def keeping(standing: Standing) -> Aborted:
        voted = on_abort(standing)
        return VotedAndSigned(standing.survivors) if isinstance(standing, Signed) else voted

    def not_asking_for_votes(standing: Standing, signers: int, *, threshold: int) -> Released:
        if isinstance(standing, VotedAndSigned):
            standing = Signed(standing.survivors)
        return on_signatures(standing, signers, threshold=threshold)

    monkeypatch.setattr(attempt, "on_abort", keeping)
    assert not found(SMALL, Broken.VOTED_DOWN)

    monkeypatch.setattr(attempt, "on_signatures", not_asking_for_votes)
    assert found(SMALL, Broken.VOTED_DOWN)


def test_every_guard_is_in_the_tests_above():
    guards = {
        function.__name__: ast.unparse(ast.parse(inspect.getsource(function))).count("raise ")
        for function in (attempt.on_survivors, attempt.on_signatures, attempt.on_abort)
    }

    assert guards == {"on_survivors": 4, "on_signatures": 2, "on_abort": 1}
