"""A test that lacks an outside program is named, or fails where the program is required."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import outside

ROOT = Path(outside.__file__).parent.parent

_TWO_TESTS = """
from tests import outside
outside._PROGRAMS["nginx"] = ("no-such-program", ("/no/such/place",))

def test_that_needs_the_program():
    outside.require("nginx")

def test_that_needs_nothing():
    pass
"""


def _run(directory: Path, required: str, *options: str) -> tuple[int, str]:
    (directory / "test_two.py").write_text(_TWO_TESTS, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FEDSCORE_REQUIRE": required}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.conftest",
         *options, "test_two.py"],
        cwd=directory, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "workers"])
def test_what_was_skipped_is_named_in_the_last_lines(tmp_path, options):
    code, shown = _run(tmp_path, "postgresql", *options)

    assert code == 0
    last = [line.strip("= ") for line in shown.splitlines() if line]
    assert last[-4:-1] == [
        "not tested on this machine",
        "nginx is not installed:",
        "test_two.py::test_that_needs_the_program",
    ]


@pytest.mark.slow
def test_a_lack_of_something_required_is_a_failure(tmp_path):
    code, shown = _run(tmp_path, "postgresql, nginx", "-n", "2")

    assert code == 1
    assert "nginx is not installed, but FEDSCORE_REQUIRE names it." in shown
    assert "1 failed, 1 passed" in shown


def test_a_misspelt_requirement_is_refused_before_any_test():
    with pytest.raises(pytest.UsageError, match="to name some of nginx, postgresql, got postgres"):
        outside.required({"FEDSCORE_REQUIRE": "postgres"})
    assert outside.required({}) == frozenset()
