"""What is deployed names commands, options, paths and limits that exist."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer
from click import UsageError

pytest.importorskip("flwr")  # it brings uvicorn, and that brings yaml

import yaml

from federation import errors
from fedscore.command import app
from server.front import PATHS
from server.front_process import LARGEST_BODY

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def require_command(words: list[str]) -> None:
    """Parses a command line as fedscore would, without running it."""
    command, context = typer.main.get_command(app), None
    while True:
        context = command.make_context(words[0] if words else "", list(words), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        words = [*context._protected_args, *context.args]
        _, command, words = command.resolve_command(context, words)
        assert command is not None


def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())


def settings_of(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_command_that_there_is(unit):
    (started,) = settings_of(unit)["ExecStart"]
    program, *words = shlex.split(started)
    assert (
        Path(program).name
        in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    )
    require_command(words)


def test_a_command_that_there_is_not_would_be_noticed():
    for words in (["coordinator", "stop", "x"], ["institution", "run"], ["coordinator", "renew"]):
        with pytest.raises(UsageError):
            require_command(words)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_is_hardened_and_writes_one_directory(unit):
    settings = settings_of(unit)
    for name, value in {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "PrivateTmp": "yes",
        "MemoryDenyWriteExecute": "yes",
        "CapabilityBoundingSet": "",
        "LimitCORE": "0",
    }.items():
        assert settings[name] == [value]
    (written,) = settings["ReadWritePaths"]
    assert written in settings["ExecStart"][0]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_a_unit(unit, tmp_path):
    there = tmp_path / unit.name.replace("@", "@plan")
    there.write_text(unit.read_text().replace("/opt/fedscore/bin/fedscore", "/bin/true"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", there], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, unit.name.partition(".")[0] in ran.stderr) == (0, False), ran.stderr


def test_a_training_is_resumed_as_it_was_started():
    started, resumed = (
        settings_of(DEPLOY / "systemd" / f"fedscore-coordinator{name}.service")
        for name in ("@", "-resume")
    )
    differ = {name for name in started | resumed if started.get(name) != resumed.get(name)}
    assert differ == {"Description", "ExecStart"}


def test_the_daemon_is_not_started_again_where_a_person_has_to_look_first():
    (told,) = settings_of(DEPLOY / "systemd" / "fedscore-institution.service")[
        "RestartPreventExitStatus"
    ]
    tree = [
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.FedscoreError)
    ]
    assert {int(code) for code in told.split()} == set(tree) - {errors.FedscoreError.exit_code}


def test_compose_runs_commands_that_there_are_in_containers_that_are_hardened():
    services = compose()["services"]
    assert set(services) == {"institution", "coordinator"}
    for service in services.values():
        require_command(service["command"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert (DEPLOY / "compose" / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        own = [volume for volume in service["volumes"] if not volume.endswith(":ro")]
        assert len(own) == 1
        assert own[0].partition(":")[2] in " ".join(service["command"])
    assert "ports" not in services["institution"]


def test_the_image_is_made_of_what_is_here():
    text = (DEPLOY / "compose" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in packages["packages"]["find"]["include"]:
        assert f"COPY {package.removesuffix('*')} {package.removesuffix('*')}\n" in text


def test_nginx_passes_the_paths_and_sizes_that_the_front_passes():
    text = (DEPLOY / "nginx" / "fedscore.conf").read_text()
    names = re.search(r"\^/v1/fleet/\(\?:(.*)\)\\z", text)
    assert names is not None
    assert {f"/v1/fleet/{name}".encode() for name in names[1].split("|")} == PATHS
    most = re.search(r"client_max_body_size (\d+)m;", text)
    assert most is not None
    assert 0 <= int(most[1]) * 2**20 - LARGEST_BODY < 2**21
