"""A transcript of local mode that was honestly written passes; each lie in it is found."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from experiments.entropy import SeededEntropy
from federation import canonical
from federation.asking import asking_locally_of
from federation.messages import AnswerHeader
from federation.model.release import Release, load_release
from federation.plan import Plan, load_plan
from federation.query import BoundedSum, Question
from federation.schema import Schema
from federation.transcript import (
    TRANSCRIPT_LABEL,
    Answers,
    Ended,
    Joint,
    Line,
    Planned,
    ended_body,
    read_line,
)
from federation.transcript_audit import COORDINATOR, Finding, audit
from tests.federations import KEY
from tests.local_mode import CARD, local

Told = tuple[list[Line], Schema, Release]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The lines of a training, its schema, and its release."""
    directory = tmp_path_factory.mktemp("transcript")
    made = local(directory, CARD, quorum=3)
    made.run()
    lines = (directory / "out" / "transcript.jsonl").read_bytes().splitlines()
    release = load_release((directory / "out" / "release.json").read_bytes())
    assert isinstance(release, Release)
    return [read_line(line) for line in lines], made.schema, release


def content(lines: list[Line]) -> bytes:
    """Returns the file of these lines, as a coordinator that lies and signs writes it."""
    encoded = [msgspec.json.encode(line, order="deterministic") for line in lines]
    last = lines[-1]
    if isinstance(last, Ended):
        signature = canonical.sign(KEY, TRANSCRIPT_LABEL, ended_body(encoded[:-1], last.release))
        encoded[-1] = msgspec.json.encode(
            Ended(release=last.release, signature=signature), order="deterministic"
        )
    return b"".join(one + b"\n" for one in encoded)


def place_of(lines: list[Line], question: Question, round_: int = 0) -> int:
    (found,) = (
        number
        for number, line in enumerate(lines)
        if isinstance(line, Answers) and (line.question, line.round) == (question, round_)
    )
    return found


def answers_at(lines: list[Line], number: int) -> Answers:
    line = lines[number]
    assert isinstance(line, Answers)
    return line


def findings(told: Told, lines: list[Line]) -> tuple[Finding, ...]:
    return audit(content(lines), told[1], told[2]).findings


def test_an_honest_transcript_is_found_whole_and_its_models_follow(told: Told) -> None:
    lines, schema, release = told
    found = audit(content(lines), schema, release)
    assert (found.attempts, found.opened, found.models, found.findings) == (5, 5, True, ())


def test_nothing_that_one_institution_answered_is_in_it(told: Told) -> None:
    lines, _, _ = told
    assert set(AnswerHeader.__struct_fields__) == {
        "institution", "numbers", "ledger_sequence", "ledger_head", "signature",
    }  # fmt: skip
    for header in answers_at(lines, place_of(lines, Question.STEP)).headers:
        assert len(header.numbers) == 32, "a digest"


def with_header(line: Answers, **changes: Any) -> dict[str, Any]:
    return {"headers": (msgspec.structs.replace(line.headers[0], **changes), *line.headers[1:])}


LIES: dict[str, tuple[Callable[[Answers], dict[str, Any]], str]] = {
    "another model": (lambda line: {"model": bytes(32)}, "signature"),
    "an unsigned question": (lambda line: {"signature": "0" * 128}, "signature"),
    "another question's columns": (lambda line: {"columns": line.columns[1:]}, "signature"),
    "another question": (lambda line: {"question": Question.BINS}, "columns"),
    "a round that the plan lacks": (lambda line: {"round": 99}, "no such round"),
    "another round": (lambda line: {"round": 1}, "signature"),
    "a changed total": (
        lambda line: {"total": (line.total[0] + 2**20, *line.total[1:])},
        "does not follow",
    ),
    "a total of another length": (lambda line: {"total": line.total[1:]}, "length"),
    "no total of enough answers": (lambda line: {"total": ()}, "none of enough"),
    "a total of too few": (lambda line: {"headers": line.headers[:2]}, "quorum"),
    "an answer with other numbers": (
        lambda line: with_header(line, numbers=bytes(32)),
        "signature",
    ),
    "an answer of somebody else": (
        lambda line: with_header(line, institution="bank-99"),
        "not invited",
    ),
    "an answer counted twice": (
        lambda line: {"headers": (line.headers[0], *line.headers)},
        "not in order",
    ),
    "answers in another order": (
        lambda line: {"headers": line.headers[::-1]},
        "not in order",
    ),
    "an answer that nobody signed": (
        lambda line: with_header(line, signature=bytes(64)),
        "signature",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_a_question_is_found_and_laid_at_the_coordinators_door(
    lie: str, told: Told
) -> None:
    lines, _, _ = told
    change, expected = LIES[lie]
    number = place_of(lines, Question.STEP)
    line = answers_at(lines, number)
    lied = list(lines)
    lied[number] = msgspec.structs.replace(line, **change(line))
    found = findings(told, lied)
    assert found[0].who == COORDINATOR
    assert any(expected in one.what for one in found), found


def test_a_lost_or_a_repeated_line_is_found(told: Told) -> None:
    lines, _, _ = told
    for number in range(1, len(lines)):
        assert findings(told, lines[:number] + lines[number + 1 :]), number
    number = place_of(lines, Question.STEP)
    again = [*lines[: number + 1], *lines[number - 1 : number + 1], *lines[number + 1 :]]
    assert any("does not follow in the plan" in one.what for one in findings(told, again))


def test_rounds_in_another_order_are_found(told: Told) -> None:
    lines, _, _ = told
    first, second = place_of(lines, Question.STEP, 0), place_of(lines, Question.STEP, 1)
    swapped = list(lines)
    swapped[first - 1 : first + 1], swapped[second - 1 : second + 1] = (
        lines[second - 1 : second + 1],
        lines[first - 1 : first + 1],
    )
    found = audit(content(swapped), None, None).findings
    assert any("does not follow in the plan" in one.what for one in found)
    assert {one.who for one in found if "did not grow" in one.what} == {
        f"bank-0{number}" for number in range(4)
    }


def test_a_ledger_that_does_not_grow_is_its_institutions_fault(told: Told) -> None:
    lines, _, _ = told
    number = place_of(lines, Question.STEP, 1)
    line, earlier = answers_at(lines, number), answers_at(lines, place_of(lines, Question.STEP))
    first = lines[0]
    assert isinstance(first, Planned)
    plan: Plan = load_plan(first.plan)
    query = BoundedSum(question=line.question, columns=line.columns, share_variance=plan.noise.step)
    context = asking_locally_of(plan, query, round_=1, model=line.model).context
    bank = Ed25519PrivateKey.from_private_bytes(SeededEntropy("masks")())  # as `simulate` makes it
    old = msgspec.structs.replace(
        line.headers[0], ledger_sequence=earlier.headers[0].ledger_sequence
    ).signed(bank, context)
    lied = list(lines)
    lied[number] = msgspec.structs.replace(line, headers=(old, *line.headers[1:]))
    (found,) = findings(told, lied)
    assert (found.who, "did not grow" in found.what) == ("bank-00", True)


def test_a_session_in_a_plan_without_any_is_found(told: Told) -> None:
    lines, _, _ = told
    session = Joint(session=bytes(32), announcements=())
    found = findings(told, [lines[0], session, *lines[1:]])
    assert any("in local mode" in one.what for one in found)


def test_a_release_that_does_not_follow_from_the_totals_is_found(told: Told) -> None:
    lines, schema, release = told
    other = msgspec.structs.replace(release, base=release.base + 1).signed(KEY)
    last = lines[-1]
    assert isinstance(last, Ended)
    lied = [*lines[:-1], msgspec.structs.replace(last, release=other.digest)]
    found = audit(content(lied), schema, other).findings
    assert any("does not follow from the totals" in one.what for one in found)
