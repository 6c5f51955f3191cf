"""What holds for every run of the tests: what was not tested is named in the last lines."""

import os

import pytest

from tests.outside import required


def pytest_configure(config: pytest.Config) -> None:
    required(os.environ)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    untested: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        untested.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    if untested:
        terminalreporter.section("not tested on this machine", sep="=", yellow=True)
    for reason, tests in sorted(untested.items()):
        terminalreporter.line(f"{reason}:")
        for test in sorted(tests):
            terminalreporter.line(f"  {test}")
