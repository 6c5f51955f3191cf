"""The wheel works in an empty environment outside the checkout, and brings only what is ours."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import clients
import federation
import fedscore
import server

CHECKOUT = Path(__file__).resolve().parents[2]
UV = Path(sys.prefix) / "bin" / "uv"
PACKAGES = ("clients", "federation", "fedscore", "server")

SIMULATE = f"""
import importlib, importlib.metadata, json, pathlib, sys
from tests_federations import federation
done = federation(pathlib.Path(sys.argv[1])).run()
owners = importlib.metadata.packages_distributions()
ours = [name for name in sys.modules if name.partition(".")[0] in {PACKAGES}]
print(json.dumps({{
    "against": done.release.statement.against,
    "owners": {{name: owners[name] for name in {PACKAGES}}},
    "files": sorted({{str(pathlib.Path(sys.modules[name].__file__).parent) for name in ours}}),
}}))
"""


@pytest.mark.parametrize("package", [clients, federation, fedscore, server])
def test_our_generic_package_names_are_not_shadowed(package):
    assert Path(package.__file__).resolve().is_relative_to(CHECKOUT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([UV, "build", "--quiet", "--out-dir", out, CHECKOUT], check=True, timeout=300)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_our_four_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
    tops = {name.partition("/")[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert "fedscore/demo/data/taiwan.parquet" in files
    assert any(name.endswith("licenses/LICENSE") for name in files)


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout_in_an_empty_environment(wheel, tmp_path):
    environment = tmp_path / "environment"
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run(
        [UV, "venv", "--quiet", "--python", sys.executable, environment], check=True, timeout=120
    )
    python = environment / "bin" / "python"
    subprocess.run(
        [UV, "pip", "install", "--quiet", "--python", python, "--constraint",
         CHECKOUT / "constraints.txt", wheel],
        check=True, timeout=300, env=clean,
    )  # fmt: skip
    outside = tmp_path / "outside"
    outside.mkdir()
    # The helpers that build a small federation come along as one file, under other names.
    helpers = (CHECKOUT / "tests" / "federations.py").read_text()
    helpers = helpers.replace("from experiments.entropy", "from tests_entropy")
    (outside / "tests_federations.py").write_text(helpers)
    entropy = (CHECKOUT / "experiments" / "entropy.py").read_text()
    (outside / "tests_entropy.py").write_text(entropy)
    told = subprocess.run(
        [environment / "bin" / "fedscore", "--help"],
        check=True, capture_output=True, text=True, cwd=outside, env=clean, timeout=60,
    )  # fmt: skip
    assert "simulate" in told.stdout
    done = subprocess.run(
        [python, "-c", SIMULATE, outside],
        check=False, capture_output=True, text=True, cwd=outside, env=clean, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["against"] == "the coordinator together with any 1 of the institutions"
    assert found["owners"] == {name: ["fedscore"] for name in PACKAGES}
    assert all(Path(file).is_relative_to(environment) for file in found["files"])
