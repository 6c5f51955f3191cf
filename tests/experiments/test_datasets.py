import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.datasets import (
    DATASETS,
    GERMAN,
    GMSC,
    TAIWAN,
    VARIABLE,
    is_here,
    locate,
    record,
    sha256_of,
)
from federation.errors import ConfigurationError, DataError


def test_the_shipped_table_is_always_there_and_is_the_known_one(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert is_here(TAIWAN)
    assert sha256_of(locate(TAIWAN)) == TAIWAN.sha256
    assert pq.read_table(locate(TAIWAN)).num_rows == 30_000


def test_without_the_directory_the_error_says_where_to_get_the_data(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not is_here(GMSC)
    with pytest.raises(ConfigurationError, match=r"Set FEDSCORE_DATA.*Kaggle.*prepare gmsc"):
        locate(GMSC)


def test_a_file_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"german_credit\.parquet.*UCI 144"):
        locate(GERMAN)


def test_another_file_under_the_name_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    pq.write_table(pa.table({"class": [1, 2]}), tmp_path / GERMAN.file)
    assert is_here(GERMAN)
    with pytest.raises(DataError, match="not the file that is known"):
        locate(GERMAN)


def test_a_prepared_file_is_taken_until_somebody_changes_it(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    path = tmp_path / GERMAN.file
    pq.write_table(pa.table({"class": [1, 2]}), path)
    record(path)
    assert locate(GERMAN) == path
    pq.write_table(pa.table({"class": [2, 2]}), path)
    with pytest.raises(DataError):
        locate(GERMAN)


def test_every_data_set_says_where_it_is_from_and_on_what_terms():
    for dataset in DATASETS.values():
        assert dataset.original
        assert dataset.terms
        assert len(dataset.sha256) == 64
