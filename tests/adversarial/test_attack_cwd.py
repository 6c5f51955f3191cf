"""What another user of the machine could read, or put where we are started from."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from federation.errors import ConfigurationError
from fedscore.coordinator_files import Front, make_coordinator, open_office, settings_for
from server import superlink
from server.superlink import SuperLink


class Started(Exception):  # noqa: N818  not an error
    """The process would run now."""


def test_a_superlink_imports_nothing_from_the_directory_that_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def popen(command: list[str], **_: Any) -> None:
        commands.append(command)
        raise Started

    monkeypatch.setattr(superlink.subprocess, "Popen", popen)
    process = SuperLink(
        tmp_path,
        host="127.0.0.1",
        port=0,
        certificate=tmp_path,
        private_key=tmp_path,
        root_certificates=tmp_path,
        entropy=lambda: bytes(32),
    )
    with pytest.raises(Started):
        process.start()
    monkeypatch.undo()
    ((interpreter, *flags),) = commands
    (tmp_path / "flwr.py").write_text("raise SystemExit(99)")
    flags = flags[: flags.index("-c")]
    found = subprocess.run([interpreter, *flags, "-c", "import flwr"], cwd=tmp_path, check=False)
    assert interpreter == sys.executable
    assert found.returncode == 0


def test_a_coordinator_does_not_work_in_a_directory_that_others_may_look_into(
    tmp_path: Path,
) -> None:
    office = tmp_path / "office"
    settings = settings_for("test", "localhost:9092", listen="", front=Front.OWN)
    make_coordinator(office, settings)
    open_office(office)
    office.chmod(0o750)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        open_office(office)
