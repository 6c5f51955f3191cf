import importlib
import sys

import pytest

from experiments.cache import (
    Cache,
    digest_of_files,
    digest_of_imports,
    digest_of_module,
    digest_of_product,
)


def test_what_was_kept_is_recalled_by_what_it_was_made_from(tmp_path):
    Cache(tmp_path / "cache").keep({"data": "a", "seed": 1}, 0.125)
    assert Cache(tmp_path / "cache").recall({"seed": 1, "data": "a"}, float) == 0.125


def test_what_would_be_made_from_something_else_is_not_recalled(tmp_path):
    Cache(tmp_path).keep({"seed": 1}, 7)
    assert Cache(tmp_path).recall({"seed": 2}, int) is None


def test_a_digest_of_files_sees_names_and_contents(tmp_path):
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_text("x")
    two.write_text("y")
    digest = digest_of_files([one, two])
    assert digest_of_files([two, one]) == digest
    two.write_text("z")
    assert digest_of_files([one, two]) != digest


FILES = {
    "studied/__init__.py": "",
    "studied/start.py": "from studied.inner import top\n\ndef late():\n    import studied.lazy\n",
    "studied/lazy.py": "from . import beside\n",
    "studied/beside.py": "",
    "studied/inner/__init__.py": "from studied.inner import named\n",
    "studied/inner/top.py": "import helping.there\n",
    "studied/inner/named.py": "",
    "studied/apart.py": "import studied.start\n",
    "helping/__init__.py": "",
    "helping/there.py": "import numpy\n",
    "helping/alone.py": "",
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("studied", "helping")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def digest():
    return digest_of_imports("studied.start", ("studied", "helping"))


@pytest.mark.parametrize(
    "name", [name for name in FILES if name not in ("studied/apart.py", "helping/alone.py")]
)
def test_a_change_in_anything_that_a_module_imports_changes_its_digest(name, packages):
    before = digest()
    (packages / name).write_text(FILES[name] + "# another line\n")
    assert digest() != before


@pytest.mark.parametrize("name", ["studied/apart.py", "helping/alone.py"])
def test_a_change_in_what_it_does_not_import_leaves_it(name, packages):
    before = digest()
    (packages / name).write_text("changed = True\n")
    assert digest() == before


def test_another_version_of_a_library_changes_the_digest(packages, monkeypatch):
    before = digest()
    monkeypatch.setattr("experiments.cache.version", lambda name: "0")
    assert digest() != before


def test_a_daemon_takes_no_part_in_a_training_in_one_process():
    # `clients.daemon` may change without throwing results away; the door may not.
    import grimp

    graph = grimp.build_graph(
        "federation", "clients", "server", "fedscore", "experiments", cache_dir=None
    )
    needed = graph.find_upstream_modules("experiments.trial")
    assert "clients.daemon" not in needed
    assert {"federation.door", "clients.institution", "server.training"} <= needed
    of_experiments = [name for name in needed if name.startswith("experiments.")]
    assert not any(name.endswith(("_report", "catalogue", "tables")) for name in of_experiments)


def test_the_product_is_what_a_trial_runs_through():
    assert digest_of_product() == digest_of_module("experiments.trial")
    assert digest_of_product() != digest_of_module("experiments.quality.peers")


def test_the_code_of_a_function_is_its_module_with_all_it_imports_and_every_schema(monkeypatch):
    from functools import partial

    from experiments import cache
    from experiments.quality import gains

    code = cache.digest_of_code(gains.gains_of_nation)
    assert code == digest_of_module("experiments.quality.gains")
    assert cache.digest_of_code(partial(gains.gains_of_nation, 1)) == code
    assert cache.digest_of_code(max) != cache.digest_of_code(min)
    monkeypatch.setattr(cache, "SCHEMAS", cache.ROOT / "experiments" / "results")
    digest_of_module.cache_clear()
    assert digest_of_module("experiments.quality.gains") != code
    digest_of_module.cache_clear()
