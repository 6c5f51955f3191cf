import dataclasses
import json
import subprocess
import sys

import pytest

from experiments import __main__ as command
from experiments import experiment
from experiments.cache import Cache, digest_of_product
from experiments.catalogue import EXPERIMENTS
from experiments.datasets import VARIABLE
from tests import outside


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    code = 0
    try:
        code = command.main()
    except SystemExit as stop:
        code = stop.code or 0
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_list_names_every_experiment_and_data_set(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(monkeypatch, capsys, "list")
    assert code == 0
    for name in (*EXPERIMENTS, "gmsc", "taiwan", "sba", "pakdd", "german"):
        assert name in out


def test_an_unknown_name_is_answered_with_the_known_ones(monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "run", "everything")
    assert code == 1
    assert "comparison" in err


def test_an_experiment_whose_data_are_not_here_says_what_to_do(monkeypatch, capsys):
    monkeypatch.delenv(VARIABLE, raising=False)
    code, _, err = run(monkeypatch, capsys, "run", "banks")
    assert code == 1
    assert "prepare sba" in err


def test_without_a_name_nothing_runs(monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "run")
    assert code == 1
    assert "--all" in err


def test_several_experiments_run_in_order_and_one_that_fails_stops_no_other(monkeypatch, capsys):
    ran = []

    def ended(words, check):
        ran.append(words[1:])
        return subprocess.CompletedProcess(words, returncode=int("rounds" in words))

    monkeypatch.setattr(command.subprocess, "run", ended)
    code, out, err = run(monkeypatch, capsys, "run", "--all", "--quick")
    assert ran == [["-m", "experiments", "run", name, "--quick"] for name in EXPERIMENTS]
    assert code == 1
    assert f"{len(EXPERIMENTS) - 1} of {len(EXPERIMENTS)} experiments ran" in out
    assert "minutes" in out
    assert "Failed, see above: rounds." in err
    ran.clear()
    code, out, err = run(monkeypatch, capsys, "run", "nation", "banks")
    assert ran == [["-m", "experiments", "run", name] for name in ("nation", "banks")]
    assert (code, err) == (0, "")


def test_what_may_be_looked_at_once_is_kept_by_all_and_run_by_its_name(
    monkeypatch, tmp_path, capsys
):
    ran = []
    monkeypatch.setattr(command, "_run_here", lambda name, quick: ran.append(name))
    monkeypatch.setattr(
        command.subprocess,
        "run",
        lambda words, check: ran.append(words[4]) or subprocess.CompletedProcess(words, 0),
    )
    assert [one.name for one in EXPERIMENTS.values() if one.once] == ["confirmation"]
    code, out, _ = run(monkeypatch, capsys, "run", "--all")
    assert code == 0
    assert set(EXPERIMENTS) - set(ran) == {"confirmation"}
    assert "confirmation: kept" in out
    ran.clear()
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    (tmp_path / "confirmation.json").write_text("damaged")
    assert run(monkeypatch, capsys, "run", "--all")[0] == 0
    assert "confirmation" not in ran
    (tmp_path / "confirmation.json").unlink()
    run(monkeypatch, capsys, "run", "--all")
    assert "confirmation" in ran
    ran.clear()
    run(monkeypatch, capsys, "run", "confirmation")
    assert ran == ["confirmation"]


def test_a_small_version_keeps_its_steps_apart(monkeypatch, tmp_path, capsys):
    kept = []
    monkeypatch.setattr(command, "CACHE", tmp_path)
    monkeypatch.setattr(command, "Cache", lambda *of: kept.append(of))
    monkeypatch.setattr(
        type(EXPERIMENTS["units"]), "execute", lambda *_, **__: (None, tmp_path), raising=True
    )
    monkeypatch.setattr(
        command, "EXPERIMENTS", {"units": dataclasses.replace(EXPERIMENTS["units"], tables={})}
    )
    run(monkeypatch, capsys, "run", "units", "--quick")
    run(monkeypatch, capsys, "run", "units")
    assert kept == [(tmp_path / "quick",), ()]


def test_a_result_of_another_version_says_what_to_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    for content in ('{"versions": {}}', '{"made": null, "found": {"versions": {}}}'):
        (tmp_path / "comparison.json").write_text(content)
        code, _, err = run(monkeypatch, capsys, "report")
        assert code == 1
        assert "run comparison" in err


def test_the_report_says_where_its_page_is(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "PAGE", tmp_path / "report.html")
    code, out, _ = run(monkeypatch, capsys, "report")
    assert code == 0
    assert f"0 of {len(EXPERIMENTS)} experiments have a result" in out
    assert (tmp_path / "report.html").read_text().count("Not run yet.") == len(EXPERIMENTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        # Real processes: `make soak` runs it, and test_live.py has such a round. Ray: an extra that
        # only this experiment needs.
        pytest.param(
            name, marks=pytest.mark.soak if name in ("live_rounds", "flower_simulation") else ()
        )
        for name in EXPERIMENTS
    ],
)
def test_a_small_version_of_every_experiment_runs_without_any_data(
    name, monkeypatch, tmp_path, capsys
):
    if name == "sources":
        outside.require("postgresql")
    if name == "flower_simulation":
        pytest.importorskip("ray")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(experiment, "OUTPUT", tmp_path)
    found, plot = EXPERIMENTS[name].execute(quick=True, cache=Cache(tmp_path / "cache"))
    assert plot.read_text().startswith("<?xml")
    written = json.loads((tmp_path / "quick" / f"{name}.json").read_text())
    assert written["made"]["product"] == digest_of_product()
    assert written["found"]
    assert EXPERIMENTS[name].answer(found)
    shown = [block for block in EXPERIMENTS[name].tables if block != "gmsc"]
    assert all(EXPERIMENTS[name].tables[block](found).count("\n| ") > 1 for block in shown)
