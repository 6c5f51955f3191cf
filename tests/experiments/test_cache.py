import pytest

from experiments.cache import Cache, digest_of_files, digest_of_product


def test_what_was_computed_from_the_same_is_not_computed_again(tmp_path):
    cache, calls = Cache(tmp_path / "cache"), []

    def compute() -> float:
        calls.append(1)
        return 0.125

    first = cache.remember({"data": "a", "seed": 1}, float, compute)
    again = Cache(tmp_path / "cache").remember({"seed": 1, "data": "a"}, float, compute)
    assert (first, again, len(calls)) == (0.125, 0.125, 1)


def test_what_was_computed_from_something_else_is_computed(tmp_path):
    cache = Cache(tmp_path)
    found = [cache.remember({"seed": seed}, int, lambda seed=seed: seed) for seed in (1, 2)]
    assert found == [1, 2]


def test_a_computation_that_fails_leaves_nothing(tmp_path):
    def fail() -> int:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        Cache(tmp_path).remember({}, int, fail)
    assert Cache(tmp_path).remember({}, int, lambda: 7) == 7


def test_a_digest_of_files_sees_names_and_contents(tmp_path):
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_text("x")
    two.write_text("y")
    digest = digest_of_files([one, two])
    assert digest_of_files([two, one]) == digest
    two.write_text("z")
    assert digest_of_files([one, two]) != digest


def test_the_product_has_one_digest():
    assert digest_of_product() == digest_of_product()
