"""Rules about the code itself that no linter here knows."""

import ast
import functools
import inspect
from pathlib import Path

import msgspec
import pytest

from federation import door, messages
from federation.door import Clipped, Contribution, Gridded, Masked, Noised

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for package in ("federation", "clients", "server", "fedscore")
    for path in (CHECKOUT / package).rglob("*.py")
)

RUN_CODE_OF_OTHERS = ("clients/installed_modules.py", "clients/module_gradients.py")
"""A modeller's module may raise anything, which becomes our error, or one row's zero vector."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_check_is_an_assert_and_no_error_is_swallowed(path):
    for node in nodes(path):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise, do not assert"
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            if caught == "Exception" and str(path.relative_to(CHECKOUT)) in RUN_CODE_OF_OTHERS:
                continue
            assert caught not in ("everything", "Exception", "BaseException"), (
                f"line {node.lineno} catches {caught}"
            )


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Returns all that a source file is made of."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def calls(ending: str) -> list[tuple[str, str]]:
    """Returns file and arguments of every call of a name that ends so."""
    return [
        (
            str(path.relative_to(CHECKOUT)),
            ", ".join(map(ast.unparse, [*node.args, *(word.value for word in node.keywords)])),
        )
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.Call) and f".{ast.unparse(node.func)}".endswith(f".{ending}")
    ]


def test_only_masked_sums_have_an_encoding():
    # An upload is made in one place, from words; and words are made by the door alone, masked.
    ((made, _),) = calls("Upload")
    assert made == "federation/secure_aggregation/upload.py"
    shared = [call for call in calls("share") if "masking" in call[1]]
    ((shares, arguments),) = shared
    assert shares == "clients/sessions.py"
    assert "masked.words" in arguments.split(", ")
    assert inspect.signature(door.answer).return_annotation is Masked
    assert [path for path, _ in calls("Masked")] == ["federation/door.py"]
    assert [path for path, _ in calls("masked")] == ["federation/door.py"]
    for message in (*messages.Request.__args__, *messages.Reply.__args__):
        types = {field.type for field in msgspec.structs.fields(message)}
        assert not types & {Contribution, Clipped, Gridded, Noised, Masked}


def test_an_answer_is_made_in_one_place_and_noted_and_paid_just_before():
    source = (CHECKOUT / "clients" / "sessions.py").read_text()
    order = ["begin_attempt(", "self.taking.pay(", "door.answer(", "self._say(UPLOAD"]
    assert [source.count(step) for step in order] == [1, 1, 1, 1]
    assert sorted(order, key=source.index) == order
    # Only the audit answers a question again, with the same key and masks, and sends nothing.
    assert sorted(path for path, _ in calls("door.answer")) == [
        "clients/audit.py",
        "clients/sessions.py",
    ]
    audit = ast.parse((CHECKOUT / "clients" / "audit.py").read_text())
    returned = {
        node.name: ast.unparse(node.returns)
        for node in ast.walk(audit)
        if isinstance(node, ast.FunctionDef) and "door.answer(" in ast.unparse(node)
    }
    assert returned == {"repeats": "bool"}


def test_everything_an_institution_says_in_an_attempt_is_noted_before_it_is_returned():
    tree = ast.parse((CHECKOUT / "clients" / "sessions.py").read_text())
    said = {"open": 1, "survivors": 2, "reveal": 1, "abort": 1}
    for method in ast.walk(tree):
        if isinstance(method, ast.FunctionDef) and method.name in said:
            names = [
                ast.unparse(node.func) for node in ast.walk(method) if isinstance(node, ast.Call)
            ]
            assert names.count("self._say") == said.pop(method.name)
            assert sum(isinstance(node, ast.Return) for node in ast.walk(method)) == 1
    assert said == {}


def test_no_command_leads_to_sums_without_masks():
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom | ast.Import):
                assert "experiments" not in ast.unparse(node), path
    given = [arguments for _, arguments in calls("simulate")]
    assert given
    assert not any("plain" in arguments for arguments in given)


def test_no_file_is_longer_than_a_reader_will_read():
    long = {str(p.relative_to(CHECKOUT)): len(p.read_text().splitlines()) for p in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > 430} == {}
