"""A transcript that was honestly written passes; each lie in it is found, and who told it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from federation import canonical
from federation.errors import ConfigurationError
from federation.messages import Open, decode_request
from federation.model.network_release import NetworkRelease
from federation.model.release import Release, load_release
from federation.query import Question
from federation.schema import Schema
from federation.transcript import (
    TRANSCRIPT_LABEL,
    Attempted,
    Ended,
    Joint,
    Line,
    Planned,
    ended_body,
    read_line,
)
from federation.transcript_audit import COORDINATOR, Audit, audit
from fedscore import simulation
from fedscore.simulation import InProcess
from tests.federations import KEY, OTHER_KEY, federation, wide_schema
from tests.networks import KINDS


class _Dropping(InProcess):
    """Loses one institution's upload of one training round, and one round's altogether."""

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        kept = {}
        for name, data in requests.items():
            request = decode_request(data)
            asked = isinstance(request, Open) and request.question is Question.STEP
            if asked and request.round == 1 and name == "bank-03":
                continue
            if asked and (request.round, request.attempt) == (2, 0) and name != "bank-00":
                continue
            kept[name] = data
        return super().exchange(kept)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Line], Schema, Release]:
    """The lines of a training with a dropout and a retry, its schema, and its release."""
    directory = tmp_path_factory.mktemp("transcript")
    made = federation(directory, institutions=4, quorum=3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(simulation, "InProcess", _Dropping)
        made.run()
    lines = (directory / "out" / "transcript.jsonl").read_bytes().splitlines()
    release = load_release((directory / "out" / "release.json").read_bytes())
    return [read_line(line) for line in lines], made.schema, release


def _content(lines: list[Line], *, signed: bool = True) -> bytes:
    """Returns the file of these lines; as a coordinator that lies and signs, if `signed`."""
    encoded = [msgspec.json.encode(line, order="deterministic") for line in lines]
    if signed and isinstance(lines[-1], Ended):
        body = ended_body(encoded[:-1], lines[-1].release)
        last = Ended(
            release=lines[-1].release, signature=canonical.sign(KEY, TRANSCRIPT_LABEL, body)
        )
        encoded[-1] = msgspec.json.encode(last, order="deterministic")
    return b"".join(one + b"\n" for one in encoded)


def _places(lines: list[Line]) -> dict[tuple[Question, int, int], int]:
    return {
        (line.question, line.round, line.attempt): number
        for number, line in enumerate(lines)
        if isinstance(line, Attempted)
    }


def _attempted(lines: list[Line], number: int) -> Attempted:
    line = lines[number]
    assert isinstance(line, Attempted)
    return line


def test_an_honest_transcript_is_found_whole_and_its_models_follow(
    told: tuple[list[Line], Schema, Release],
) -> None:
    lines, schema, release = told
    found = audit(_content(lines), schema, release)
    assert found == Audit(plan=release.plan, attempts=6, opened=5, models=True, findings=())
    assert audit(_content(lines, signed=False), schema, release) == found
    assert not audit(_content(lines), None, None).models


def test_the_dropout_and_the_attempt_that_failed_are_told(
    told: tuple[list[Line], Schema, Release],
) -> None:
    lines, _, _ = told
    places = _places(lines)
    short = _attempted(lines, places[Question.STEP, 1, 0])
    assert short.uploaded == (0, 1, 2)
    assert short.signers == (0, 1, 2)
    failed = _attempted(lines, places[Question.STEP, 2, 0])
    assert failed.total == ()
    assert failed.uploaded == (0,)
    assert _attempted(lines, places[Question.STEP, 2, 1]).total


_STEP = (Question.STEP, 0, 0)


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def _other_total(line: Attempted) -> dict[str, Any]:
    return {"total": (line.total[0] + 2**20, *line.total[1:])}


LIES: dict[str, tuple[Callable[[Attempted], dict[str, Any]], str]] = {
    "another model": (lambda line: {"model": _flipped(line.model)}, "signature"),
    "an unsigned opening": (lambda line: {"signature": "0" * 128}, "signature"),
    "another question's columns": (lambda line: {"columns": line.columns[1:]}, "signature"),
    "another attempt's number": (lambda line: {"attempt": 1}, "signature"),
    "a round that the plan lacks": (lambda line: {"round": 99}, "no such round"),
    "a header less": (lambda line: {"headers": line.headers[1:]}, "belong together"),
    "headers of another order": (
        lambda line: {"headers": (line.headers[1], line.headers[0], *line.headers[2:])},
        "somebody else",
    ),
    "a changed header": (
        lambda line: {
            "headers": (
                msgspec.structs.replace(
                    line.headers[0], ledger_sequence=line.headers[0].ledger_sequence + 1
                ),
                *line.headers[1:],
            )
        },
        "signature",
    ),
    "an upload left out": (
        lambda line: {"uploaded": line.uploaded[:-1], "headers": line.headers[:-1]},
        "signature",
    ),
    "too few signatures of the set": (
        lambda line: {"signers": line.signers[:2], "set_signatures": line.set_signatures[:2]},
        "threshold",
    ),
    "a signature counted twice": (
        lambda line: {
            "signers": line.signers[:1] * 4,
            "set_signatures": line.set_signatures[:1] * 4,
        },
        "threshold",
    ),
    "somebody else's signature": (
        lambda line: {"set_signatures": line.set_signatures[::-1]},
        "signature",
    ),
    "a vote that nobody cast": (
        lambda line: {"voters": (0,), "votes": (bytes(64),)},
        "signature",
    ),
    "another coin": (
        lambda line: {"coins": (_flipped(line.coins[0]), *line.coins[1:])},
        "coins",
    ),
    "no coins": (lambda line: {"coins": ()}, "coins"),
    "another total": (_other_total, "does not follow"),
    "a total of another length": (lambda line: {"total": line.total[1:]}, "length"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_an_attempt_is_found_and_laid_at_the_coordinators_door(
    lie: str, told: tuple[list[Line], Schema, Release]
) -> None:
    lines, schema, release = told
    change, expected = LIES[lie]
    number = _places(lines)[_STEP]
    lied = list(lines)
    line = _attempted(lines, number)
    lied[number] = msgspec.structs.replace(line, **change(line))
    try:
        findings = audit(_content(lied), schema, release).findings
    except ValueError:  # a total that no model can be computed from
        pytest.fail("a lie stopped the audit")
    assert findings
    assert findings[0].who == COORDINATOR
    assert any(expected in one.what for one in findings), findings


def test_a_lost_line_is_found(told: tuple[list[Line], Schema, Release]) -> None:
    lines, schema, release = told
    for number in range(1, len(lines)):
        lost = lines[:number] + lines[number + 1 :]
        assert audit(_content(lost, signed=False), schema, release).findings, number


def test_an_attempt_or_a_question_that_was_left_out_is_found(
    told: tuple[list[Line], Schema, Release],
) -> None:
    lines, schema, release = told
    places = _places(lines)
    for gone, expected in (
        ((Question.STEP, 2, 0), "before this one is missing"),
        ((Question.EVALUATION, 0, 0), "not every question"),
        ((Question.STEP, 2, 1), "not every question"),
    ):
        left = [line for number, line in enumerate(lines) if number != places[gone]]
        found = audit(_content(left), schema, release).findings
        assert any(expected in one.what for one in found), (gone, found)


def test_a_total_beyond_its_word_is_no_transcript(
    told: tuple[list[Line], Schema, Release],
) -> None:
    lines, schema, release = told
    number = _places(lines)[_STEP]
    line = _attempted(lines, number)
    lied = list(lines)
    lied[number] = msgspec.structs.replace(line, total=(2**63, *line.total[1:]))
    with pytest.raises(ConfigurationError, match="not a transcript"):
        audit(_content(lied), schema, release)


def test_an_opened_question_that_is_opened_again_is_found(
    told: tuple[list[Line], Schema, Release],
) -> None:
    lines, schema, release = told
    number = _places(lines)[_STEP]
    again = [*lines[: number + 1], lines[number], *lines[number + 1 :]]
    found = audit(_content(again), schema, release).findings
    assert any("opened before" in one.what for one in found)
    assert any("not after the last" in one.what for one in found)


def test_a_set_below_the_quorum_is_found(told: tuple[list[Line], Schema, Release]) -> None:
    lines, schema, release = told
    number = _places(lines)[Question.STEP, 1, 0]
    line = _attempted(lines, number)
    lied = list(lines)
    lied[number] = msgspec.structs.replace(
        line,
        uploaded=line.uploaded[:2],
        headers=line.headers[:2],
        signers=(),
        set_signatures=(),
        coins=line.coins[:2],
    )
    assert any("quorum" in one.what for one in audit(_content(lied), schema, release).findings)


def test_a_ledger_that_does_not_grow_is_its_institutions_fault(
    told: tuple[list[Line], Schema, Release],
) -> None:
    lines, _, _ = told
    places = _places(lines)
    first, second = places[_STEP], places[Question.BINS, 0, 0]
    swapped = list(lines)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    found = audit(_content(swapped), None, None).findings
    assert {one.who for one in found if "did not grow" in one.what} == {
        "bank-00",
        "bank-01",
        "bank-02",
        "bank-03",
    }


def test_what_the_coordinator_says_of_others_is_told_as_its_word(
    told: tuple[list[Line], Schema, Release],
) -> None:
    lines, schema, release = told
    number = _places(lines)[_STEP]
    lied = list(lines)
    fault = {"institution": "bank-01", "accuser": "bank-02", "what": "a seed differs."}
    lied[number] = msgspec.convert(
        msgspec.to_builtins(lines[number]) | {"faults": [fault]}, type=Attempted
    )
    (found,) = audit(_content(lied), schema, release).findings
    assert (found.who, found.proven) == ("bank-01", False)
    assert "bank-02" in found.what


def test_a_session_of_forged_announcements_is_found(
    told: tuple[list[Line], Schema, Release],
) -> None:
    lines, schema, release = told
    joint = lines[1]
    assert isinstance(joint, Joint)
    forged = msgspec.structs.replace(
        joint.announcements[0], key=_flipped(joint.announcements[0].key)
    )
    lied = [
        lines[0],
        msgspec.structs.replace(joint, announcements=(forged, *joint.announcements[1:])),
        *lines[2:],
    ]
    found = audit(_content(lied), schema, release).findings
    assert found[0].what.startswith("the session")
    assert any("outside any valid session" in one.what for one in found)
    twice = [lines[0], lines[1], lines[1], *lines[2:]]
    assert any(
        "begun before" in one.what for one in audit(_content(twice), schema, release).findings
    )


def test_a_plan_or_roster_or_end_that_another_key_signed_is_found(
    told: tuple[list[Line], Schema, Release],
) -> None:
    lines, schema, release = told
    first, last = lines[0], lines[-1]
    assert isinstance(first, Planned)
    assert isinstance(last, Ended)
    changed = msgspec.structs.replace(
        first,
        plan=first.plan.replace("test-plan", "best-plan"),
        roster=first.roster.replace("bank-03", "bank-04"),
    )
    found = audit(_content([changed, *lines[1:]]), schema, release).findings
    assert [one.what.split(":")[0] for one in found[:2]] == ["the plan", "the roster"]
    encoded = [msgspec.json.encode(line, order="deterministic") for line in lines[:-1]]
    body = ended_body(encoded, last.release)
    other = msgspec.structs.replace(
        last, signature=canonical.sign(OTHER_KEY, TRANSCRIPT_LABEL, body)
    )
    found = audit(_content([*lines[:-1], other], signed=False), schema, release).findings
    assert [one.what.split(":")[0] for one in found] == ["the end of the transcript"]


def test_a_release_that_does_not_follow_from_the_totals_is_found(
    told: tuple[list[Line], Schema, Release],
) -> None:
    lines, schema, release = told
    other = msgspec.structs.replace(release, base=release.base + 1).signed(KEY)
    assert any("not the one" in one.what for one in audit(_content(lines), schema, other).findings)
    last = lines[-1]
    assert isinstance(last, Ended)
    lied = [*lines[:-1], msgspec.structs.replace(last, release=other.digest)]
    assert any(
        "released model" in one.what for one in audit(_content(lied), schema, other).findings
    )


def test_what_is_no_transcript_is_refused(
    told: tuple[list[Line], Schema, Release], tmp_path: Path
) -> None:
    lines, _, _ = told
    for content in (b"", b"\n", b"{}\n", b"\xff\xfe", _content(lines[1:], signed=False)):
        with pytest.raises(ConfigurationError, match="not a transcript"):
            audit(content, None, None)
    other = wide_schema(features=1, cells=3)
    with pytest.raises(ConfigurationError, match="another schema"):
        audit(_content(lines), other, None)


# Networks.


@pytest.fixture(scope="module", params=["a network, joint, sampled", "a network, institution"])
def told_of_a_network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Line], Schema, NetworkRelease]:
    """The lines of a training of a network, its schema, and its release."""
    directory = tmp_path_factory.mktemp("network")
    made = federation(directory, institutions=4, **KINDS[request.param])
    made.run()
    lines = (directory / "out" / "transcript.jsonl").read_bytes().splitlines()
    release = load_release((directory / "out" / "release.json").read_bytes())
    assert isinstance(release, NetworkRelease)
    return [read_line(line) for line in lines], made.schema, release


def test_an_honest_transcript_of_a_network_is_found_whole_and_its_models_follow(
    told_of_a_network: tuple[list[Line], Schema, NetworkRelease],
) -> None:
    lines, schema, release = told_of_a_network
    asked = len(_places(lines))
    found = audit(_content(lines), schema, release)
    assert found == Audit(plan=release.plan, attempts=asked, opened=asked, models=True, findings=())
    assert not audit(_content(lines), None, None).models


@pytest.mark.parametrize("cell", [0, -1])
def test_a_network_that_does_not_follow_from_the_totals_is_found(
    told_of_a_network: tuple[list[Line], Schema, NetworkRelease], cell: int
) -> None:
    """Whoever changes a total must ask about another network next, or release another."""
    lines, schema, release = told_of_a_network
    training = [
        number
        for (question, _, _), number in _places(lines).items()
        if question in (Question.GRADIENT, Question.UPDATE)
    ]
    assert len(training) == release.rounds
    for number in training:
        line = _attempted(lines, number)
        total = list(line.total)
        total[cell] += 2**40
        lied = [
            *lines[:number],
            msgspec.structs.replace(line, total=tuple(total)),
            *lines[number + 1 :],
        ]
        found = audit(_content(lied), schema, release).findings
        assert found
        assert {one.who for one in found} == {COORDINATOR}
        assert all("does not follow" in one.what for one in found)
        assert not audit(_content(lied), None, None).findings  # the totals are not signed


def test_a_released_network_that_was_changed_is_found(
    told_of_a_network: tuple[list[Line], Schema, NetworkRelease],
) -> None:
    lines, schema, release = told_of_a_network
    first, *others = release.arrays
    values = np.frombuffer(first.data, dtype="<f4").copy()
    values[0] += 0.5
    other = msgspec.structs.replace(
        release, arrays=(msgspec.structs.replace(first, data=values.tobytes()), *others)
    ).signed(KEY)
    assert any("not the one" in one.what for one in audit(_content(lines), schema, other).findings)
    last = lines[-1]
    assert isinstance(last, Ended)
    lied = [*lines[:-1], msgspec.structs.replace(last, release=other.digest)]
    assert [one.what for one in audit(_content(lied), schema, other).findings] == [
        "the released model does not follow from the totals"
    ]
