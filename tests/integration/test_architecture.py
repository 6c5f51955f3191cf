"""Rules about the code itself that no linter here knows."""

import ast
from pathlib import Path

import msgspec
import pytest

from federation import messages
from federation.door import Clipped, Contribution, Gridded, Masked, Noised

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for package in ("federation", "clients", "server", "fedscore")
    for path in (CHECKOUT / package).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_check_is_an_assert_and_no_error_is_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise, do not assert"
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), (
                f"line {node.lineno} catches {caught}"
            )


def test_only_masked_sums_have_an_encoding():
    encoders = [
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Answer")
    ]
    assert len(encoders) == 1  # in federation.messages.answered, whose argument is a Masked
    assert messages.answered.__annotations__["masked"] is Masked
    for message in (*messages.Request.__args__, *messages.Reply.__args__):
        types = {field.type for field in msgspec.structs.fields(message)}
        assert not types & {Contribution, Clipped, Gridded, Noised, Masked}


def test_an_answer_is_made_in_one_place_and_paid_just_before():
    source = (CHECKOUT / "clients" / "institution.py").read_text()
    assert source.count("door.answer(") == 1
    assert source.index("self._ledger.spend(") < source.index("door.answer(")
    uses = [p for p in SOURCES if "door.answer" in p.read_text() and "institution" not in p.name]
    assert uses == []


def test_no_file_is_longer_than_a_reader_will_read():
    long = {str(p.relative_to(CHECKOUT)): len(p.read_text().splitlines()) for p in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > 430} == {}
