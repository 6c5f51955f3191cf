"""`fedscore bench step` runs, says what it should and leaves nothing behind; nothing is timed."""

import tempfile
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from federation.errors import ConfigurationError
from fedscore import bench
from fedscore.bench import Bench, Cost, StepBench, StepSplit
from fedscore.command import app


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary files go to a directory that is looked at afterwards; copies are small."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(bench, "_COPIED", 2**20)
    return tmp_path


def run(*options: str) -> str:
    result = CliRunner().invoke(app, ["bench", "step", *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_ten_thousand_people_are_timed_and_nothing_is_left(directory: Path) -> None:
    found = msgspec.json.decode(run("--people", "10000", "--json"), type=Bench)
    (one,) = found.sizes
    assert (one.people, one.features, one.bins, one.numbers) == (10_000, 24, 16, 8)
    assert one.bytes_read == 10_000 * 17
    assert one.step.cpu > 0
    assert one.from_parquet is None
    assert found.law is None
    assert list(directory.iterdir()) == []


@pytest.mark.slow
def test_people_may_come_from_parquet_and_more_bins_need_more_numbers(directory: Path) -> None:
    options = ("--people", "1000", "--features", "4", "--bins", "64", "--parquet", "--json")
    (one,) = msgspec.json.decode(run(*options), type=Bench).sizes
    assert one.numbers == 2
    assert one.from_parquet is not None
    assert list(directory.iterdir()) == []


def test_a_law_is_fitted_to_several_sizes_and_told() -> None:
    said = run("--people", "20000", "--features", "2", "--law")
    assert "10,000" in said
    assert "20,000" in said
    assert "ns a person" in " ".join(said.split())


def test_the_law_finds_a_straight_line() -> None:
    nothing = StepSplit(read=0.0, scores=0.0, residuals=0.0, sums=0.0, noise=0.0)
    sizes = [
        StepBench(
            people=people,
            features=1,
            bins=1,
            numbers=1,
            step=Cost(cpu=0.5 + 1e-6 * people, wall=1.0),
            split=nothing,
            bytes_read=1,
            first_pass=Cost(cpu=1.0, wall=1.0),
            from_parquet=None,
            peak_bytes=1,
        )
        for people in (10_000, 100_000, 1_000_000)
    ]
    law = bench._law(sizes)
    assert law.fixed == pytest.approx(0.5)
    assert law.each == pytest.approx(1e-6)
    assert law.largest_error < 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        {"people": 0},
        {"features": 0},
        {"bins": 0},
        {"bins": 65},
        {"people": 10_000, "law": True},
        {"people": 10**15},
    ],
)
def test_sizes_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    right = {"people": 100, "features": 2, "bins": 4, "law": False, "parquet": False}
    with pytest.raises(ConfigurationError):
        bench.bench_step(**{**right, **wrong})
