"""Originals are made up here: a few rows with the structure of the real files."""

import csv
import gzip
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from experiments import prepare as preparing
from experiments.datasets import GERMAN, GMSC, PAKDD, SBA, TAIWAN, VARIABLE, locate, sha256_of
from experiments.prepare import prepare
from federation.errors import ConfigurationError, DataError
from fedscore.demo.nation import TABLE

GMSC_TEXT = """\
,SeriousDlqin2yrs,RevolvingUtilizationOfUnsecuredLines,age,\
NumberOfTime30-59DaysPastDueNotWorse,DebtRatio,MonthlyIncome,NumberOfOpenCreditLinesAndLoans,\
NumberOfTimes90DaysLate,NumberRealEstateLoansOrLines,NumberOfTime60-89DaysPastDueNotWorse,\
NumberOfDependents
1,1,7.66E-05,45,2,0.803,9120,13,0,6,0,2
2,0,0.957,40,0,0.122,NA,4,0,0,98,NA
"""
SBA_TEXT = """\
LoanNr_ChkDgt,Name,City,State,Zip,Bank,BankState,NAICS,ApprovalDate,ApprovalFY,Term,NoEmp,\
NewExist,CreateJob,RetainedJob,FranchiseCode,UrbanRural,RevLineCr,LowDoc,ChgOffDate,\
DisbursementDate,DisbursementGross,BalanceGross,MIS_Status,ChgOffPrinGr,GrAppv,SBA_Appv
1,"A, Inc.",X,IN,47711,"FIFTH BANK, N.A.",OH,451120,28-Feb-97,1997,84,4,2,0,0,1,0,N,Y,,28-Feb-99,\
"$60,000.00 ",$0.00 ,P I F,$0.00 ,"$60,000.00 ","$48,000.00 "
2,B,Y,TX,1,BANK,TX,722410,1-Oct-76,1976A,60,2,1,0,0,1,1,T,0,24-Jun-91,31-May-77,\
"$40,000.00 ",$0.00 ,CHGOFF,"$9,000.00 ","$40,000.00 ","$32,000.00 "
3,C,Z,TX,1,BANK,TX,722410,1-Oct-06,2006,60,2,,0,0,1,1,Y,N,,31-May-07,\
"$1,000.00 ",$0.00 ,,$0.00 ,"$1,000.00 ",$500.00
"""
GERMAN_TEXT = """\
A11 6 A34 A43 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 1
A12 48 A32 A43 5951 A61 A73 2 A92 A101 2 A121 22 A143 A152 1 A173 1 A191 A201 2
"""


@pytest.fixture
def data(monkeypatch, tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    monkeypatch.setenv(VARIABLE, str(directory))
    return directory


def known(dataset, original):
    """Returns the data set as if this original were the published one."""
    return replace(dataset, original_sha256=sha256_of(original))


def test_give_me_some_credit_gets_its_person_key_and_keeps_codes_and_gaps(data, tmp_path):
    original = tmp_path / "cs-training.csv"
    original.write_text(GMSC_TEXT, newline="\r\n")
    said = prepare(known(GMSC, original), original)
    rows = pq.read_table(data / GMSC.file).to_pylist()
    assert "2 rows, 12 columns" in said
    assert rows[0]["id"] == 1
    assert rows[0]["MonthlyIncome"] == 9120.0
    assert rows[1]["MonthlyIncome"] is None
    assert rows[1]["NumberOfTime60-89DaysPastDueNotWorse"] == 98
    assert locate(GMSC) == data / GMSC.file


def test_another_original_is_refused(data, tmp_path):
    original = tmp_path / "cs-training.csv"
    original.write_text(GMSC_TEXT)
    with pytest.raises(DataError, match="another file than Kaggle"):
        prepare(GMSC, original)
    assert list(data.iterdir()) == []


def test_loans_keep_their_natural_rate_and_lose_what_comes_after_lending(data, tmp_path):
    original = tmp_path / "SBAnational.csv"
    original.write_text(SBA_TEXT)
    prepare(SBA, original)
    rows = pq.read_table(data / SBA.file).to_pylist()
    assert [row["bad"] for row in rows] == [0, 1]  # the third has no outcome
    assert rows[0]["Bank"] == "FIFTH BANK, N.A."
    assert rows[0]["SBA_Appv"] == 48_000.0
    assert [row["ApprovalFY"] for row in rows] == [1997, 1976]
    assert (rows[1]["RevLineCr"], rows[1]["LowDoc"]) == (None, None)
    assert not {"Name", "Term", "ChgOffDate", "ChgOffPrinGr", "MIS_Status"} & set(rows[0])


def test_german_credit_gets_column_names(data, tmp_path):
    original = tmp_path / "german.data"
    original.write_text(GERMAN_TEXT)
    prepare(known(GERMAN, original), original)
    rows = pq.read_table(data / GERMAN.file).to_pylist()
    assert rows[1]["credit_amount"] == 5951
    assert [row["class"] for row in rows] == [1, 2]


def test_shop_rows_whose_fields_are_shifted_are_dropped(data, tmp_path):
    names = [*list(preparing._PAKDD)[:-1], "TARGET_LABEL_BAD=1", ""]
    good = ["7" if kind != preparing.TEXT else "Y" for kind in preparing._PAKDD.values()] + [""]
    shifted = ["7", "", *good[1:-1]]
    original = tmp_path / "creditscoring2.csv.gz"
    lines = "\n".join("\t".join(row) for row in (names, good, shifted, good))
    original.write_bytes(gzip.compress(lines.encode()))
    prepare(known(PAKDD, original), original)
    rows = pq.read_table(data / PAKDD.file).to_pylist()
    assert [row["TARGET_LABEL_BAD"] for row in rows] == [7, 7]


@pytest.mark.slow
def test_the_taiwan_original_must_say_what_the_demo_ships(data, tmp_path):
    shipped = pq.read_table(TABLE)
    names = {"person": "ID", "default": "default.payment.next.month"}
    original = tmp_path / "UCI_Credit_Card.csv"
    rows = shipped.to_pylist()
    for change, accepted in ((0, True), (1, False)):
        rows[5]["limit_bal"] += change
        with original.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([names.get(name, name.upper()) for name in shipped.column_names])
            writer.writerows([*row.values()] for row in rows)
        if accepted:
            prepare(TAIWAN, original)
            assert pq.read_table(data / TAIWAN.file).num_rows == 30_000
        else:
            with pytest.raises(DataError, match="other people"):
                prepare(TAIWAN, original)


def test_columns_that_are_lacking_are_named(data, tmp_path):
    original = tmp_path / "SBAnational.csv"
    original.write_text(SBA_TEXT.replace("NAICS", "INDUSTRY"))
    with pytest.raises(DataError, match="lacks the columns NAICS"):
        prepare(SBA, original)


def test_no_error_quotes_a_value(data, tmp_path):
    original = tmp_path / "german.data"
    original.write_text(GERMAN_TEXT.replace("5951", "secret"))
    with pytest.raises(DataError) as raised:
        prepare(known(GERMAN, original), original)
    assert "credit_amount" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_directory_and_an_original_are_needed(monkeypatch, data, tmp_path):
    with pytest.raises(ConfigurationError, match="There is no"):
        prepare(GMSC, tmp_path / "nothing.csv")
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ConfigurationError, match="FEDSCORE_DATA"):
        prepare(GMSC, tmp_path / "nothing.csv")
