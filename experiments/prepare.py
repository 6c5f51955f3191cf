"""Makes the Parquet file of a data set from its public original, and checks what can be checked.

Nothing is fetched: the user downloads the original under its own terms. Every column is read as
text and turned into the type that its schema expects; a row whose fields do not fit is an error,
except where the original is known to hold broken rows.
"""

import gzip
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from experiments.datasets import (
    GERMAN,
    GMSC,
    PAKDD,
    SBA,
    TAIWAN,
    VARIABLE,
    Dataset,
    record,
    sha256_of,
)
from experiments.restore_taiwan import SCHEMA as TAIWAN_TYPES
from federation.errors import ConfigurationError, DataError
from fedscore.demo.nation import TABLE

WHOLE: Final = pa.int64()
REAL: Final = pa.float64()
TEXT: Final = pa.string()

_GMSC: Final[Mapping[str, pa.DataType]] = MappingProxyType(
    {
        "id": WHOLE,
        "SeriousDlqin2yrs": WHOLE,
        "RevolvingUtilizationOfUnsecuredLines": REAL,
        "age": WHOLE,
        "NumberOfTime30-59DaysPastDueNotWorse": WHOLE,
        "DebtRatio": REAL,
        "MonthlyIncome": REAL,
        "NumberOfOpenCreditLinesAndLoans": WHOLE,
        "NumberOfTimes90DaysLate": WHOLE,
        "NumberRealEstateLoansOrLines": WHOLE,
        "NumberOfTime60-89DaysPastDueNotWorse": WHOLE,
        "NumberOfDependents": REAL,
    }
)
_GERMAN: Final[Mapping[str, pa.DataType]] = MappingProxyType(
    {
        "status_checking": TEXT,
        "duration_months": WHOLE,
        "credit_history": TEXT,
        "purpose": TEXT,
        "credit_amount": WHOLE,
        "savings": TEXT,
        "employment_since": TEXT,
        "installment_rate": WHOLE,
        "personal_status_sex": TEXT,
        "other_debtors": TEXT,
        "residence_since": WHOLE,
        "property": TEXT,
        "age": WHOLE,
        "other_installment_plans": TEXT,
        "housing": TEXT,
        "existing_credits": WHOLE,
        "job": TEXT,
        "people_liable": WHOLE,
        "telephone": TEXT,
        "foreign_worker": TEXT,
        "class": WHOLE,
    }
)
_PAKDD: Final[Mapping[str, pa.DataType]] = MappingProxyType(
    {
        "ID_SHOP": WHOLE,
        "SEX": TEXT,
        "MARITAL_STATUS": TEXT,
        "AGE": WHOLE,
        "FLAG_RESIDENCIAL_PHONE": TEXT,
        "AREA_CODE_RESIDENCIAL_PHONE": WHOLE,
        "PAYMENT_DAY": WHOLE,
        "SHOP_RANK": WHOLE,
        "RESIDENCE_TYPE": TEXT,
        "MONTHS_IN_RESIDENCE": WHOLE,
        "FLAG_MOTHERS_NAME": TEXT,
        "FLAG_FATHERS_NAME": TEXT,
        "FLAG_RESIDENCE_TOWN_eq_WORKING_TOWN": TEXT,
        "FLAG_RESIDENCE_STATE_eq_WORKING_STATE": TEXT,
        "MONTHS_IN_THE_JOB": WHOLE,
        "PROFESSION_CODE": WHOLE,
        "MATE_INCOME": REAL,
        "FLAG_RESIDENCIAL_ADDRESS_eq_POSTAL_ADDRESS": TEXT,
        "FLAG_OTHER_CARD": TEXT,
        "QUANT_BANKING_ACCOUNTS": WHOLE,
        "FLAG_MOBILE_PHONE": TEXT,
        "FLAG_CONTACT_PHONE": TEXT,
        "PERSONAL_NET_INCOME": REAL,
        "COD_APPLICATION_BOOTH": WHOLE,
        "QUANT_ADDITIONAL_CARDS_IN_THE_APPLICATION": WHOLE,
        "FLAG_CARD_INSURANCE_OPTION": TEXT,
        "TARGET_LABEL_BAD": WHOLE,
    }
)
# What a bank knows when it lends. Left out: who borrows, the term (it was shortened when a loan
# failed), and all that happens afterwards: dates and amounts of charge-off, balances.
_SBA: Final[Mapping[str, pa.DataType]] = MappingProxyType(
    {
        "State": TEXT,
        "Bank": TEXT,
        "BankState": TEXT,
        "NAICS": WHOLE,
        "ApprovalFY": WHOLE,
        "NoEmp": WHOLE,
        "NewExist": WHOLE,
        "CreateJob": WHOLE,
        "RetainedJob": WHOLE,
        "FranchiseCode": WHOLE,
        "UrbanRural": WHOLE,
        "RevLineCr": TEXT,
        "LowDoc": TEXT,
        "DisbursementGross": REAL,
        "GrAppv": REAL,
        "SBA_Appv": REAL,
    }
)
_STATUS: Final = "MIS_Status"
_PAID, _CHARGED_OFF = "P I F", "CHGOFF"


def prepare(dataset: Dataset, original: Path) -> str:
    """Writes a data set's file into the directory of FEDSCORE_DATA and returns what was done.

    Args:
        dataset: which one.
        original: the file that its publishers give.

    Raises:
        ConfigurationError: FEDSCORE_DATA names no directory, or there is no such original.
        DataError: the original is another file, or its columns or rows are not the known ones.
    """
    directory = os.environ.get(VARIABLE)
    if not directory or not Path(directory).is_dir():
        raise ConfigurationError(f"Set {VARIABLE} to an existing directory.")
    if not original.is_file():
        raise ConfigurationError(f"There is no {original}. Get {dataset.original}.")
    known = dataset.original_sha256
    if known is not None and sha256_of(original) != known:
        raise DataError(f"{original.name} is another file than {dataset.original}.")
    rows = _READERS[dataset.name](original)
    target = Path(directory) / dataset.file
    pq.write_table(rows, target, compression="zstd")
    digest = record(target)
    return f"{target}: {rows.num_rows:,} rows, {rows.num_columns} columns, sha256 {digest}"


def _gmsc(original: Path) -> pa.Table:
    rows = _read(original, ",")
    return _typed(rows.rename_columns(["id", *rows.column_names[1:]]), _GMSC)


def _german(original: Path) -> pa.Table:
    return _typed(_read(original, " ", names=list(_GERMAN)), _GERMAN)


def _taiwan(original: Path) -> pa.Table:
    """Returns the table as the demo ships it, and refuses one that says something else."""
    rows = _read(original, ",")
    names = {"id": "person", "default.payment.next.month": "default"}
    lower = [names.get(name.lower(), name.lower()) for name in rows.column_names]
    rows = rows.rename_columns(lower)
    found = _typed(rows, {field.name: field.type for field in TAIWAN_TYPES})
    shipped = pq.read_table(TABLE).select(found.column_names)
    if not found.equals(shipped.cast(found.schema)):
        raise DataError("The file holds other people than the table that the demo ships.")
    return found


def _pakdd(original: Path) -> pa.Table:
    """Returns the rows whose fields fit: twelve of the original are shifted by a column."""
    rows = _read(original, "\t")
    # Its last column is called TARGET_LABEL_BAD=1, and a tab ends every line.
    rows = rows.rename_columns([name.removesuffix("=1") for name in rows.column_names])
    _require(rows, tuple(_PAKDD))
    fits = None
    for name, kind in _PAKDD.items():
        if kind is not TEXT:
            own = pc.fill_null(pc.match_substring_regex(rows[name], _NUMBER), False)
            fits = own if fits is None else pc.and_(fits, own)
    return _typed(rows.filter(fits), _PAKDD)


def _sba(original: Path) -> pa.Table:
    """Returns all loans with a known outcome, at their natural rate."""
    rows = _read(original, ",")
    _require(rows, (*_SBA, _STATUS))
    status = pc.utf8_trim_whitespace(rows[_STATUS])
    rows = rows.set_column(rows.column_names.index(_STATUS), _STATUS, status)
    rows = rows.filter(pc.is_in(status, value_set=pa.array([_PAID, _CHARGED_OFF])))
    for name in ("DisbursementGross", "GrAppv", "SBA_Appv"):
        plain = pc.replace_substring_regex(rows[name], r"[$, ]", "")
        rows = rows.set_column(rows.column_names.index(name), name, plain)
    # Some years carry a letter; yes-or-no columns hold stray codes.
    year = pc.replace_substring_regex(rows["ApprovalFY"], "[A-Z]", "")
    rows = rows.set_column(rows.column_names.index("ApprovalFY"), "ApprovalFY", year)
    for name in ("RevLineCr", "LowDoc"):
        known = pc.is_in(rows[name], value_set=pa.array(["N", "Y"]))
        cleaned = pc.if_else(known, rows[name], pa.scalar(None, TEXT))
        rows = rows.set_column(rows.column_names.index(name), name, cleaned)
    bad = pc.cast(pc.equal(rows[_STATUS], _CHARGED_OFF), pa.int8())
    return _typed(rows, _SBA).append_column("bad", bad)


_NUMBER: Final = r"^-?[0-9]+(\.[0-9]*)?$"
_READERS: Final[Mapping[str, Callable[[Path], pa.Table]]] = MappingProxyType(
    {
        GMSC.name: _gmsc,
        TAIWAN.name: _taiwan,
        SBA.name: _sba,
        PAKDD.name: _pakdd,
        GERMAN.name: _german,
    }
)


def _read(original: Path, delimiter: str, *, names: list[str] | None = None) -> pa.Table:
    """Returns a CSV file with every column as text, null where empty or NA.

    Raises:
        DataError: it is no such file.
    """
    try:
        content = original.read_bytes()
        if original.suffix == ".gz":
            content = gzip.decompress(content)
        parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        head = content.split(b"\n", 1)[0].decode().rstrip("\r").replace('"', "").split(delimiter)
        columns = names or head
        return pacsv.read_csv(
            pa.BufferReader(content),
            read_options=pacsv.ReadOptions(column_names=columns, skip_rows=0 if names else 1),
            parse_options=parse,
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(columns, TEXT),
                null_values=["", "NA"],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise DataError(f"{original.name} cannot be read as the file that is known.") from error


def _require(rows: pa.Table, names: tuple[str, ...]) -> None:
    lacking = [name for name in names if name not in rows.column_names]
    if lacking:
        raise DataError(f"The original lacks the columns {', '.join(lacking)}.")


def _typed(rows: pa.Table, kinds: Mapping[str, pa.DataType]) -> pa.Table:
    """Returns the columns in their types. Whole numbers may be written as 24.0."""
    _require(rows, tuple(kinds))
    columns = []
    for name, kind in kinds.items():
        column = rows[name]
        try:
            if pa.types.is_integer(kind):
                column = pc.cast(pc.cast(column, REAL), WHOLE)
            columns.append(pc.cast(column, kind))
        except pa.ArrowInvalid:
            raise DataError(f"Column {name} of the original does not hold {kind}.") from None
    return pa.Table.from_arrays(columns, names=list(kinds))
