"""Whatever bytes arrive, a decoder returns what encodes to these very bytes, or says why not."""

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clients.ledger import Ledger
from federation.canonical import digest
from federation.errors import ConfigurationError, FedscoreError, LedgerCorrupt, ProtocolError
from federation.fits import Fit
from federation.messages import Request, decode_reply, decode_request, encode
from federation.model.release import load_release, release_json
from federation.model.scorecard import AdditiveCard
from federation.plan import load_plan, plan_toml
from federation.pricing import price_of
from federation.privacy.ledger_rules import Limits
from federation.privacy.units import LARGEST_UNITS, BudgetUnits
from federation.secure_aggregation.roster import load_roster, roster_toml
from federation.secure_aggregation.session import Announcement
from federation.transcript import Joint, Planned, Transcript, read_line
from server.release_making import make_release
from tests.federations import KEY, NOW, clock, signed_plan, small_schema
from tests.vectors.freezing import MESSAGES, load
from tests.vectors.refusals import STEPS

VALID: dict[str, bytes] = {name: encode(message) for name, message in MESSAGES.items()}
NOT_UTF8 = b"\x82\xa4type\xa5\xff\xfe\xfd\xfc\xfb\xa7version\x02"


@st.composite
def damaged(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """Returns bytes with one to three pieces flipped, inserted, deleted or duplicated."""
    found = draw(st.sampled_from(contents))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(found)))
        to = min(len(found), at + draw(st.integers(1, 40)))
        match draw(st.sampled_from(("flip", "byte", "insert", "delete", "double", "move"))):
            case "flip" if at < len(found):
                changed = bytes([found[at] ^ 1 << draw(st.integers(0, 7))])
                found = found[:at] + changed + found[at + 1 :]
            case "byte" if at < len(found):
                found = found[:at] + draw(st.binary(min_size=1, max_size=1)) + found[at + 1 :]
            case "insert":
                found = found[:at] + draw(st.binary(min_size=1, max_size=9)) + found[at:]
            case "delete":
                found = found[:at] + found[to:]
            case "double":
                found = found[:to] + found[at:]
            case _:
                piece = found[at:to]
                rest = found[:at] + found[to:]
                there = draw(st.integers(0, len(rest)))
                found = rest[:there] + piece + rest[there:]
    return found


def exactly(decode: Callable[[bytes], Any], data: bytes, *errors: type[Exception]) -> Any:
    """Returns what bytes decode to, None if they are refused as they may be."""
    try:
        return decode(data)
    except errors:
        return None


# Messages.


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=300) | damaged(list(VALID.values())))
@example(NOT_UTF8)
@example(NOT_UTF8.replace(b"\xff\xfe\xfd\xfc\xfb", b"Begin") + b"\xa1\xff\x00")
@example(b"\x81\xa0" + b"\x91" * 10**5)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
def test_bytes_are_one_message_or_a_protocol_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        message = exactly(decode, data, ProtocolError)
        assert message is None or encode(message) == data


TREES = [msgspec.msgpack.decode(data) for data in VALID.values()]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from((0, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.binary(max_size=70),
    st.just([]),
    st.just({}),
)


@st.composite
def misshapen(draw: st.DrawFn) -> bytes:
    """Returns a message one value of which is another, in canonical MessagePack."""
    tree = draw(st.sampled_from(TREES))
    return msgspec.msgpack.encode(replaced(draw, tree))


def replaced(draw: st.DrawFn, value: Any) -> Any:
    """Returns a value in which one value, some levels down, is another."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        return value | {key: replaced(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], replaced(draw, value[at]), *value[at + 1 :]]
    return draw(LEAVES)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(misshapen())
def test_a_value_of_another_kind_or_size_is_a_message_or_a_protocol_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        message = exactly(decode, data, ProtocolError)
        assert message is None or encode(message) == data


STEP_OF = {
    "Join": "join",
    "Upload": "collect",
    "Survivors": "check",
    "SetSigned": "sign",
    "Reveal": "release",
    "Revealed": "reveal",
    "Voted": "vote",
}
SAID = [
    msgspec.msgpack.decode(bytes.fromhex(vector["bytes"]))
    for vector in load("refusals.json")
    if vector["error"] is None
]


@st.composite
def misshapen_steps(draw: st.DrawFn) -> bytes:
    return msgspec.msgpack.encode(replaced(draw, draw(st.sampled_from(SAID))))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(misshapen_steps())
def test_a_message_that_decodes_is_accepted_or_refused_by_its_step(data: bytes) -> None:
    """Numbers beyond a machine's, empty keys, missing places: never another kind of error."""
    for decode in (decode_request, decode_reply):
        message = exactly(decode, data, ProtocolError)
        if message is not None:
            _, judge = STEPS[STEP_OF[type(message).__name__]]
            exactly(judge, message, ProtocolError)


@pytest.mark.parametrize("name", VALID)
def test_every_shorter_and_longer_message_is_refused(name: str) -> None:
    decode = decode_request if isinstance(MESSAGES[name], Request) else decode_reply
    data = VALID[name]
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            decode(data[:end])
    for extra in (b"\x00", b"\xc0", data):
        with pytest.raises(ProtocolError):
            decode(data + extra)


@pytest.mark.parametrize("name", VALID)
def test_a_field_more_at_any_depth_is_refused(name: str) -> None:
    decode = decode_request if isinstance(MESSAGES[name], Request) else decode_reply
    tree = msgspec.msgpack.decode(VALID[name])
    for at in dictionaries(tree):
        at["zz"] = 1
        with pytest.raises(ProtocolError, match="unknown field"):
            decode(msgspec.msgpack.encode(tree))
        del at["zz"]
    decode(msgspec.msgpack.encode(tree))


def dictionaries(tree: Any) -> list[dict[str, Any]]:
    """Returns a tree's dictionaries, itself among them."""
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    found = [one for value in inner for one in dictionaries(value)]
    return [tree, *found] if isinstance(tree, dict) else found


# Plans and rosters.

PLANS = [vector["toml"].encode() for vector in load("plans.json")]
ROSTERS = [vector["toml"].encode() for vector in load("rosters.json")]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | damaged(PLANS))
@example(b"x = " + b"[" * 10**4)
@example(PLANS[0].replace(b"step = 3", b"step = 3" + b"0" * 400))
@example(PLANS[0].replace(b"points = 660", b"points = 66" + b"0" * 5000))
@example(PLANS[0].replace(b"22:13:20+00:00", b"22:13:20.1+23:59"))
@example(PLANS[0].replace(b"delta = 1e-06", b"delta = 1e-400"))
def test_a_text_is_one_plan_or_an_error_of_ours(data: bytes) -> None:
    plan = exactly(load_plan, data.decode(errors="replace"), FedscoreError)  # type: ignore[arg-type]
    if plan is not None:
        assert load_plan(plan_toml(plan)) == plan
        assert len(plan.digest) == 64
        exactly(lambda schema: price_of(plan, schema), small_schema(), FedscoreError)  # type: ignore[arg-type]
        exactly(lambda _: plan.require_signed(), b"", ProtocolError)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | damaged(ROSTERS))
def test_a_text_is_one_roster_or_a_configuration_error(data: bytes) -> None:
    roster = exactly(load_roster, data.decode(errors="replace"), ConfigurationError)  # type: ignore[arg-type]
    if roster is not None:
        assert load_roster(roster_toml(roster)) == roster
        assert len(roster.digest) == 64


# Releases and transcripts.


@lru_cache
def release() -> bytes:
    """Returns a release of a plan that was never run: its figures are of no people."""
    schema = small_schema()
    plan = signed_plan(schema)
    grids = schema.scored_grids
    counts = np.concatenate([np.tile([90.0, 10.0], len(grid.labels)) for grid in grids])
    fit = Fit.begin(plan, schema, counts, 4)
    for _ in range(plan.rounds):
        card = fit.to_ask()
        assert isinstance(card, AdditiveCard)
        fit = fit.after(np.zeros(sum(card.bins) + 1), 4)
    return release_json(
        make_release(
            schema=schema,
            price=price_of(plan, schema),
            fit=fit,
            histogram=None,
            histogram_stddev=0.0,
            institutions=4,
            now=datetime.fromtimestamp(NOW, UTC),
        ).signed(KEY)
    )


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_bytes_are_one_release_or_an_error_of_ours(data: st.DataObject) -> None:
    content = data.draw(st.binary(max_size=100) | damaged([release()]))
    found = exactly(load_release, content, ConfigurationError, ProtocolError)
    if found is not None:
        assert load_release(release_json(found)) == found


@pytest.mark.parametrize("wrong", [b"\xff", b'{"format": "\xc0\xaf"}', b"[" * 10**5, b""])
def test_a_broken_file_is_no_release(wrong: bytes) -> None:
    with pytest.raises(ConfigurationError, match="not a whole release"):
        load_release(wrong)


def test_a_release_one_digit_of_which_was_changed_is_refused() -> None:
    assert load_release(release()).base == json.loads(release())["base"]
    for old, new in (
        (b'"institutions": 4', b'"institutions": 5'),
        (b'"rounds": 3', b'"rounds": 2'),
    ):
        assert old in release()
        with pytest.raises(ProtocolError, match="not valid"):
            load_release(release().replace(old, new))


@lru_cache
def lines() -> list[bytes]:
    written = Transcript()
    plan, roster = load("plans.json")[0]["toml"], load("rosters.json")[0]["toml"]
    announcement = Announcement(institution="bank-00", key=bytes(32), signature=bytes(64))
    written.write(Planned(plan=plan, roster=roster))
    written.write(Joint(session=bytes(32), announcements=(announcement,)))
    written.end("ab" * 32, KEY)
    return written.content().splitlines()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_bytes_are_one_line_of_a_transcript_or_do_not_decode(data: st.DataObject) -> None:
    content = data.draw(st.binary(max_size=100) | damaged(lines()))
    exactly(read_line, content, msgspec.DecodeError)


@pytest.mark.parametrize("wrong", [b"", b"\xff", b'{"type": "\xc0\xaf"}', b"[" * 10**5, b"{}"])
def test_a_broken_line_of_a_transcript_does_not_decode(wrong: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_line(wrong)


# Ledgers.


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_row_of_a_ledger_is_an_entry_or_the_ledger_is_corrupt(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "ledger.sqlite"
    path.unlink(missing_ok=True)
    with Ledger.create(path, clock):
        pass
    body = data.draw(st.text(max_size=60) | st.just('{"plan":"' + "ab" * 32 + '"}'))
    kind = data.draw(st.sampled_from(("closed", "spent", "reserved", "refunded", "other")))
    time = data.draw(st.integers(-(2**63), 2**63 - 1))
    connection = sqlite3.connect(path)
    connection.executescript(
        "".join(
            f"DROP TRIGGER {name};"
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='trigger'")
        )
    )
    connection.execute(
        "INSERT INTO entry (sequence, time, previous, hash, kind, body) VALUES (1, ?, ?, ?, ?, ?)",
        (time, "0" * 64, digest("x"), kind, body),
    )
    connection.commit()
    connection.close()
    limits = Limits(lifetime=BudgetUnits(LARGEST_UNITS), yearly=BudgetUnits(LARGEST_UNITS))
    with pytest.raises(LedgerCorrupt), Ledger.open(path, clock) as ledger:
        ledger.balance(limits)
