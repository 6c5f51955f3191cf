"""The directory in which an institution keeps the releases it was given."""

from pathlib import Path

from clients.releases import Releases


def test_no_release_is_overwritten_also_beyond_four_digits(tmp_path: Path) -> None:
    kept = Releases(tmp_path)
    for number in (9999, 10_000):
        (tmp_path / f"{number:04d}.json").write_bytes(b"an earlier one")
    kept.keep(b"another")
    assert (tmp_path / "10000.json").read_bytes() == b"an earlier one"
    assert (tmp_path / "10001.json").read_bytes() == b"another"


def test_the_same_release_is_kept_once(tmp_path: Path) -> None:
    kept = Releases(tmp_path)
    for _ in range(2):
        kept.keep(b"the release")
    assert [one.name for one in tmp_path.iterdir()] == ["0001.json"]
