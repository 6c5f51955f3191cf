import json
import math
import sys

import msgspec
import pytest
from matplotlib.figure import Figure

from experiments import experiment, provenance
from experiments.cache import Cache, digest_of_code, digest_of_product
from experiments.experiment import NO_EPSILON, Experiment, Setting, Work
from experiments.provenance import Made, Steps, grouped


class Roots(msgspec.Struct, frozen=True, kw_only=True):
    roots: tuple[float, ...]


def of_roots(run):
    return Experiment(
        name="roots",
        question="Which roots?",
        promise=NO_EPSILON,
        kind=Roots,
        run=run,
        answer=lambda found: f"{len(found.roots)} roots",
        tables={},
        plot=lambda found: Figure(),
    )


@pytest.fixture
def directory(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    monkeypatch.setattr(experiment, "OUTPUT", tmp_path / "output")
    return tmp_path


def test_a_run_that_was_broken_off_goes_on_where_it_stopped(directory):
    computed = []

    def run(setting, stop_at=None):
        def root(number):
            if number == stop_at:
                raise KeyboardInterrupt
            computed.append(number)
            return math.sqrt(number)

        return Roots(
            roots=tuple(
                setting.step({"of": number}, float, lambda number=number: root(number))
                for number in (1, 4, 9)
            )
        )

    cache = Cache(directory / "cache")
    with pytest.raises(KeyboardInterrupt):
        of_roots(lambda setting: run(setting, stop_at=9)).execute(quick=False, cache=cache)
    assert not (directory / "roots.json").exists()
    found, _ = of_roots(run).execute(quick=False, cache=cache)
    assert found.roots == (1.0, 2.0, 3.0)
    assert computed == [1, 4, 9]
    made = of_roots(run).result().made
    assert (made.computed, made.recalled) == (1, 2)


def test_a_step_is_kept_by_the_code_that_computes_it(directory, monkeypatch):
    computed = []

    def run(setting):
        alone = setting.step({"of": 4}, float, lambda: computed.append(1) or 2.0)
        return Roots(roots=(alone, *setting.steps(float, works(9))))

    cache = Cache(directory / "cache")
    counts = []
    for code in ("a", "a", "b"):
        monkeypatch.setattr(experiment, "digest_of_code", lambda _, code=code: code)
        of_roots(run).execute(quick=True, cache=cache)
        made = json.loads((directory / "output" / "quick" / "roots.json").read_text())["made"]
        counts.append((made["computed"], made["recalled"]))
    assert counts == [(2, 0), (0, 2), (2, 0)]
    assert computed == [1, 1]


def works(*numbers):
    return [
        Work(made_from={"of": number}, compute=math.sqrt, arguments=(number,)) for number in numbers
    ]


def recalled(cache, number):
    return cache.recall({"of": number, "code": digest_of_code(math.sqrt)}, float)


@pytest.mark.slow
def test_work_on_all_cores_that_fails_keeps_what_is_done(directory):
    cache = Cache(directory / "cache")
    setting = Setting(name="roots", quick=False, cache=cache)
    with setting, pytest.raises(ValueError, match="math domain"):
        setting.steps(float, works(1, 4, 9, -1))
    assert [recalled(cache, number) for number in (1, 4, 9)] == [1.0, 2.0, 3.0]
    again = Setting(name="roots", quick=False, cache=cache)
    with again:
        assert again.steps(float, works(9, 4, 1, 16)) == [3.0, 2.0, 1.0, 4.0]


def test_a_small_version_starts_no_process_and_keeps_what_is_done(directory, monkeypatch):
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", None)
    cache = Cache(directory / "cache")
    with (
        Setting(name="roots", quick=True, cache=cache) as setting,
        pytest.raises(ValueError, match="math domain"),
    ):
        setting.steps(float, works(1, -1, 4))
    assert recalled(cache, 1) == 1.0
    with Setting(name="roots", quick=True, cache=cache) as again:
        assert again.steps(float, works(4, 1)) == [2.0, 1.0]


def test_a_result_says_how_it_came_about(directory):
    def run(setting):
        plan = {"rounds": 3, "noise": 1.5}
        roots = [
            setting.step(
                {"plan": plan, "federation": "f" * 64, "seed": seed}, float, lambda: math.sqrt(2)
            )
            for seed in range(3)
        ]
        return Roots(roots=tuple(roots))

    of_roots(run).execute(quick=False, cache=Cache(directory / "cache"))
    made = of_roots(run).result().made
    assert made.commit is None or len(made.commit) == 40
    assert made.product == digest_of_product()
    assert made.python == ".".join(str(part) for part in sys.version_info[:3])
    assert {"numpy", "scipy", "pyarrow"} <= set(made.libraries)
    assert made.cores >= 1
    assert made.seconds > 0
    assert (made.computed, made.recalled) == (3, 0)
    (steps,) = made.steps
    assert steps.seeds == (0, 1, 2)
    assert steps.of["federation"] == "f" * 64
    assert steps.of["plan"].startswith("sha256:")


def test_steps_that_differ_in_more_than_the_seed_stand_apart():
    steps = [{"noise": noise, "seed": seed} for noise in (0.5, 1.0) for seed in ("a", "b")]
    assert grouped([*steps, {"what": "alone"}]) == (
        Steps(of={"noise": 0.5}, seeds=("a", "b")),
        Steps(of={"noise": 1.0}, seeds=("a", "b")),
        Steps(of={"what": "alone"}, seeds=()),
    )


def test_what_is_kept_of_an_earlier_result_is_named(directory, monkeypatch):
    first = of_roots(lambda _: Roots(roots=(1.0,)))
    second = of_roots(lambda setting: setting.last(Roots))
    first.execute(quick=False, cache=Cache(directory / "cache"))
    commit = first.result().made.commit
    second.execute(quick=False, cache=Cache(directory / "cache"))
    assert second.result().made.kept_from == (commit or "unknown")
    monkeypatch.setattr(provenance, "head", lambda: "f" * 40)
    second.execute(quick=False, cache=Cache(directory / "cache"))
    second.execute(quick=False, cache=Cache(directory / "cache"))
    assert second.result().made.kept_from == (commit or "unknown")


def test_code_that_changes_during_a_run_is_noted(directory, monkeypatch):
    said = iter(["", "M federation/door.py"])
    monkeypatch.setattr(provenance, "head", lambda: "f" * 40)
    monkeypatch.setattr(provenance, "changes", lambda: next(said))
    one = of_roots(lambda _: Roots(roots=(1.0,)))
    one.execute(quick=False, cache=Cache(directory / "cache"))
    assert one.result().made.changed is True
    heads = iter(["a" * 40, "b" * 40])
    monkeypatch.setattr(provenance, "head", lambda: next(heads))
    monkeypatch.setattr(provenance, "changes", lambda: "")
    one.execute(quick=False, cache=Cache(directory / "cache"))
    assert one.result().made.changed is True


def test_minutes_of_a_run_that_recalled_steps_are_a_least(directory):
    run = of_roots(lambda setting: Roots(roots=tuple(setting.steps(float, works(4)))))
    run.execute(quick=False, cache=Cache(directory / "cache"))
    assert run.result().minutes == "0.0"
    run.execute(quick=False, cache=Cache(directory / "cache"))
    assert run.result().minutes == "at least 0.0"


def test_a_result_from_before_the_record_has_none(directory):
    (directory / "roots.json").write_text(json.dumps({"made": None, "found": {"roots": [1.0]}}))
    result = of_roots(lambda _: Roots(roots=())).result()
    assert result.made is None
    assert result.found == Roots(roots=(1.0,))


def test_outside_a_git_checkout_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    made = provenance.begun()
    assert isinstance(made, Made)
    assert made.commit is None
    assert made.changed is None
