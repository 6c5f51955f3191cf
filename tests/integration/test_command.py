"""The command line as a person meets it: what works, and what each mistake is answered with."""

import importlib.metadata
import itertools
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from federation.canonical import public_key_of
from federation.messages import Open
from federation.model.evaluation import Figure
from federation.plan import plan_toml
from federation.pricing import price_of
from federation.privacy.accountant import epsilon_of
from federation.privacy.units import Population
from fedscore import command, machine, simulation, tables
from tests.exchanges import Wire, silent, train
from tests.federations import (
    _SMALL,
    KEY,
    OTHER_KEY,
    federation,
    names,
    small_schema,
    small_table,
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a schema, a table, keys, and the current directory in it."""
    monkeypatch.chdir(tmp_path)
    Path("schema.toml").write_text(_SMALL.format(rows="one"))
    small_table(tmp_path / "table.parquet", 900, 0)
    for name, key in (("coordinator.key", KEY), ("other.key", OTHER_KEY)):
        Path(name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return tmp_path


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Runs the command in this process; returns exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["fedscore", *arguments])
    try:
        command.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    return code, found.out, found.err


@pytest.fixture
def fedscore(monkeypatch, capsys):
    return lambda *arguments: run(monkeypatch, capsys, *arguments)


def draft_plan(fedscore, **changes) -> str:
    """Writes plan.toml, unsigned; returns what the command answered if it failed."""
    settings = {
        "--schema": "schema.toml",
        "--key": "coordinator.key",
        "--name": "first",
        "--federation": "test",
        "--purpose": "credit-scoring",
        "--invite": ",".join(names(4)),
        "--quorum": "4",
        "--colluders": "1",
        "--people": "1000",
        "--most-per-institution": "1000",
        "--epsilon": "8",
        "--rounds": "3",
    }
    settings.update({f"--{name.replace('_', '-')}": value for name, value in changes.items()})
    code, out, err = fedscore("plan", "new", *(part for pair in settings.items() for part in pair))
    if code == 0:
        Path("plan.toml").write_text(out)
    return err


def signed_plan(fedscore, **changes) -> None:
    assert draft_plan(fedscore, **changes) == ""
    code, out, _ = fedscore("plan", "sign", "plan.toml", "--key", "coordinator.key")
    assert code == 0
    assert "Signed" in out


def simulated(fedscore, *more: str) -> tuple[int, str, str]:
    return fedscore(
        "simulate", "plan.toml", "--schema", "schema.toml", "--key", "coordinator.key",
        "--out", "out", "--deal", "table.parquet", *more,
    )  # fmt: skip


def left() -> set[str]:
    return {path.name for path in Path().iterdir()}


def test_a_newcomer_gets_from_schema_to_scores_by_the_commands_alone(place, fedscore):
    assert fedscore("schema", "check", "schema.toml", "table.parquet")[0] == 0
    signed_plan(fedscore)
    code, out, _ = fedscore("plan", "price", "plan.toml", "--schema", "schema.toml", "--json")
    price = json.loads(out)
    assert code == 0
    assert price["populations"][0]["epsilon"] <= 8
    code, out, err = simulated(fedscore, "--json")
    assert code == 0, err
    simulation = json.loads(out)
    against = "the coordinator together with any 1 of the institutions"
    assert simulation["release"]["statement"]["against"] == against
    assert len(simulation["members"]) == 4
    assert {path.name for path in Path("out").iterdir()} == {
        "plan.toml", "release.json", "roster.toml", "transcript.jsonl", "ledgers", "records",
    }  # fmt: skip
    for ledger in sorted(Path("out/ledgers").glob("*.sqlite")):
        assert fedscore("ledger", "verify", str(ledger))[0] == 0
    code, out, _ = fedscore("ledger", "show", "out/ledgers/bank-00.sqlite", "--json")
    row = json.loads(out)["plans"][0]
    assert row["reserved_trained"] == price["populations"][0]["units"]
    assert 0 < row["alone_trained"] < row["reserved_trained"]
    assert (row["answers"], row["refunds"]) == (5, 0)
    assert not row["is_open"]
    release = "out/release.json"
    assert fedscore("release", "verify", release, "--plan", "plan.toml")[0] == 0
    shown = " ".join(fedscore("release", "show", release)[1].split())
    assert against in shown
    assert "Against the coordinator alone" in shown
    audit = ("transcript", "audit", "out/transcript.jsonl", "--schema", "schema.toml")
    code, out, err = fedscore(*audit, "--release", release, "--json")
    assert code == 0, err
    assert json.loads(out)["findings"] == []
    code, out, err = fedscore("score", release, "table.parquet", "--out", "scores.parquet")
    assert code == 0, err
    assert pq.read_metadata("scores.parquet").num_rows == 900


def test_tables_for_people_name_epsilon_with_delta_unit_neighbours_and_adversary(place, fedscore):
    signed_plan(fedscore)
    code, out, err = simulated(fedscore)
    assert code == 0, err
    for words in (
        "delta",
        "one person at one institution",
        "add or remove",
        "the coordinator together with any 1 of the institutions",
        "Against the coordinator alone",
        "secure aggregation",
    ):
        assert words in " ".join(out.replace("│", " ").split())


def test_a_price_names_the_chances_of_getting_to_the_end(place, fedscore):
    signed_plan(fedscore)
    arguments = ("plan", "price", "plan.toml", "--schema", "schema.toml")
    code, out, err = fedscore(*arguments)
    assert code == 0, err
    assert "Chance of getting to the end" in out
    assert "Coordinator alone" in out
    chances = json.loads(fedscore(*arguments, "--json")[1])["chances"]
    assert [one["silent"] for one in chances] == [0.001, 0.01, 0.05]
    for earlier, later in itertools.pairwise(chances):
        assert 1 > earlier["attempt"] > later["attempt"] > 0
        assert 1 > earlier["training"] > later["training"] > 0
    for one in chances:
        assert f"{one['attempt']:.2%}" in out
        assert f"{one['training']:.2%}" in out


def test_a_ledger_shows_what_was_answered_refunded_and_would_be_owed_to_the_coordinator_alone(
    place, fedscore
):
    built = federation(place)
    with built.seats() as seats:
        train(built, Wire(seats, unheard=silent("bank-02", to=Open, at=1)))
    path = str(place / "seats" / "bank-00" / "ledger.sqlite")
    (row,) = json.loads(fedscore("ledger", "show", path, "--json")[1])["plans"]
    price = price_of(built.plan, built.schema)
    assert (row["answers"], row["refunds"]) == (6, 1)
    assert row["alone_trained"] == price.alone.trained
    assert row["alone_held_out"] == price.alone.held_out
    step = price.events[Population.TRAINED][1].units_each()
    assert row["spent_trained"] == price.price.trained - step  # the spare attempt is not charged
    code, out, _ = fedscore("ledger", "show", path)
    assert code == 0
    last = datetime.fromtimestamp(row["latest_time"], UTC)
    epsilon = f"{epsilon_of(price.price.trained, 1e-6):.4g}"
    for figure in ("delta 1e-06", f"{last:%Y-%m-%d}", "1 refunded", epsilon):
        assert figure in out
    spent = row["spent_trained"]
    code, out, _ = fedscore("ledger", "show", path, "--delta", "1e-9")
    assert code == 0
    for units in (price.price.trained, price.alone.trained, spent):
        assert f"{epsilon_of(units, 1e-9):.4g}" in out
    code, _, err = fedscore("ledger", "show", path, "--delta", "0")
    assert (code, "delta=0.0" in err) == (77, True)
    assert fedscore("ledger", "verify", path)[0] == 0


def test_a_draft_schema_does_not_load_before_a_person_has_confirmed_it(place, fedscore):
    code, out, _ = fedscore("schema", "draft", "table.parquet")
    assert code == 0
    Path("draft.toml").write_text(out)
    code, _, err = fedscore("schema", "check", "draft.toml", "table.parquet")
    assert code == 78
    assert "A person has not confirmed" in err


BROKEN = {
    "wrong type": ({"income": pa.array(["much"] * 60)}, "income: expected numbers"),
    "out of bounds": ({"income": pa.array([100.5] + [1.0] * 59)}, "income: "),
    "negative count": ({"late": pa.array([-1] + [1] * 59)}, "late: "),
    "NaN": ({"income": pa.array([float("nan")] + [1.0] * 59)}, "income: "),
    "infinity": ({"income": pa.array([float("inf")] + [1.0] * 59)}, "income: "),
    "null where none may be": ({"late": pa.array([None] + [1] * 59)}, "late: "),
    "one-class outcome": ({"bad": pa.array([1] * 60)}, "bad: the outcome is the same in every"),
    "outcome of another code": ({"bad": pa.array([0, 1, 2] + [0] * 57)}, "bad: the outcome must"),
    "second row of a person": ({"person": pa.array([7, 7, *range(100, 158)])}, "second row"),
    "person without a key": ({"person": pa.array([None, *range(1, 60)])}, "must not be null"),
    "missing column": ({"late": None}, "late: the table has no such column"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_table_is_refused_by_column_and_rule_and_nothing_is_written(
    place, fedscore, fault
):
    changes, said = BROKEN[fault]
    table = pq.read_table(small_table(place / "good.parquet", 60, 1))
    for name, column in changes.items():
        at = table.schema.get_field_index(name)
        table = table.remove_column(at)
        if column is not None:
            table = table.append_column(name, column)
    pq.write_table(table, "table.parquet")
    before = left()
    code, out, err = fedscore("schema", "check", "schema.toml", "table.parquet")
    assert (code, out) == (65, "")
    assert said in err
    assert left() == before
    # In a training the owner hears of it before any plan is considered.
    signed_plan(fedscore)
    before = left()
    code, _, err = simulated(fedscore)
    assert code == 65
    assert "bank-0" in err
    assert left() == before


def test_an_empty_table_is_refused(place, fedscore):
    pq.write_table(pq.read_table("table.parquet").slice(0, 0), "table.parquet")
    code, _, err = fedscore("schema", "check", "schema.toml", "table.parquet")
    assert code == 65
    assert "no rows" in err


def test_unsorted_people_are_refused_with_the_way_to_sort_them(place, fedscore):
    Path("schema.toml").write_text(_SMALL.format(rows="many"))
    table = pq.read_table(small_table(place / "many.parquet", 30, 0, rows_each=2))
    order = np.concatenate([np.arange(0, 60, 2), np.arange(1, 60, 2)])
    pq.write_table(table.take(order), "table.parquet")
    code, _, err = fedscore("schema", "check", "schema.toml", "table.parquet")
    assert code == 65
    assert "sort the table by the person key" in err


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf", "101"])
def test_an_epsilon_that_is_no_promise_is_refused_when_a_plan_is_drafted(place, fedscore, epsilon):
    before = left()
    assert "epsilon" in draft_plan(fedscore, epsilon=epsilon)
    assert left() == before


@pytest.mark.parametrize(
    ("line", "replacement", "said"),
    [
        ("epsilon = 8.0", "epsilon = 0.0", "epsilon"),
        ("epsilon = 8.0", "epsilon = -1.0", "epsilon"),
        ("epsilon = 8.0", "epsilon = nan", "epsilon"),
        ("epsilon = 8.0", "epsilon = inf", "epsilon"),
        ("epsilon = 8.0", "epsilon = 7.9", "more than the 7.9 that it promises"),
        ("epsilon = 8.0", 'epsilon = "8"', "epsilon"),
        ("quorum = 4", "quorum = 2", "quorum"),
        ("threshold = 3", "threshold = 2", "2 threshold > institutions + colluders"),
        ("threshold = 3", "threshold = 5", "a quorum of at least the threshold 5"),
        ("colluders = 1", "colluders = 0", "at least 1 colluder"),
        ("colluders = 1", "colluders = 3", "institutions + colluders"),
        ("rounds = 3", "rounds = 0", "rounds"),
        ("rounds = 3", "rounds = 4", "more than the 8 that it promises"),
        ("rounds = 3", "turns = 3", "turns"),
        ("delta = 1e-06", "delta = 0.5", "at most 1 / people.national"),
        ("national = 1000", "national = 10", "people.national"),
        ('salt = "', 'salt = "x', "salt"),
        ("format = 3", "format = 2", "format"),
        ("format = 3", "format = 4", "format"),
        ("audited_share = 0.02", "audited_share = 1.5", "an audited share in [0, 1]"),
        ("epsilon_coordinator_alone = ", "epsilon_coordinator_alone = 9", "at most epsilon"),
        ("epsilon_coordinator_alone = ", "epsilon_coordinator_alone = 0.1 # ", "coordinator alone"),
    ],
)
def test_an_edited_plan_is_refused_by_every_command_that_reads_it(
    place, fedscore, line, replacement, said
):
    signed_plan(fedscore)
    text = Path("plan.toml").read_text()
    assert line in text
    Path("plan.toml").write_text(text.replace(line, replacement))
    before = left()
    code, _, err = fedscore("plan", "price", "plan.toml", "--schema", "schema.toml")
    assert code != 0
    assert said in err
    code, _, err = simulated(fedscore)
    assert code != 0
    assert left() == before


def test_an_unsigned_plan_and_one_that_was_edited_after_signing_are_not_run(place, fedscore):
    draft_plan(fedscore)
    before = left()
    code, _, err = simulated(fedscore)
    assert (code, "not signed" in err) == (76, True)
    signed_plan(fedscore)
    text = Path("plan.toml").read_text()
    Path("plan.toml").write_text(text.replace('name = "first"', 'name = "forged"'))
    code, _, err = simulated(fedscore)
    assert (code, "not valid for the key" in err) == (76, True)
    assert left() == before


def test_an_expired_plan_is_not_run(place, fedscore, monkeypatch):
    signed_plan(fedscore, days="1")
    late = machine.system_clock() + 3 * 86_400
    monkeypatch.setattr(simulation.time, "time", lambda: late)
    before = left()
    monkeypatch.setattr(simulation.simulate, "__kwdefaults__", {
        **simulation.simulate.__kwdefaults__, "clock": lambda: late,
    })  # fmt: skip
    code, _, err = simulated(fedscore)
    assert (code, "expired" in err) == (76, True)
    assert left() == before


def test_a_plan_for_another_schema_is_not_run(place, fedscore):
    signed_plan(fedscore)
    Path("schema.toml").write_text(_SMALL.format(rows="many"))
    code, _, err = fedscore("plan", "price", "plan.toml", "--schema", "schema.toml")
    assert (code, "was made for schema" in err) == (78, True)
    assert simulated(fedscore)[0] == 78


def test_another_key_can_neither_sign_the_plan_nor_the_release(place, fedscore):
    draft_plan(fedscore)
    code, _, err = fedscore("plan", "sign", "plan.toml", "--key", "other.key")
    assert (code, "another public key" in err) == (78, True)
    assert 'signature = ""' in Path("plan.toml").read_text()


@pytest.mark.parametrize("file", ["plan.toml", "schema.toml", "coordinator.key", "table.parquet"])
@pytest.mark.parametrize("fault", ["absent", "empty", "binary", "directory"])
def test_a_file_that_cannot_be_read_is_named(place, fedscore, file, fault):
    signed_plan(fedscore)
    Path(file).unlink()
    if fault == "empty":
        Path(file).touch()
    elif fault == "binary":
        Path(file).write_bytes(bytes(range(256)))
    elif fault == "directory":
        Path(file).mkdir()
    before = left()
    code, _, err = simulated(fedscore)
    assert code in (65, 70, 76, 78)
    assert err.strip()
    assert left() == before


def test_an_existing_result_is_never_overwritten(place, fedscore):
    signed_plan(fedscore)
    Path("out").mkdir()
    Path("out/mine").write_text("kept")
    code, _, err = simulated(fedscore)
    assert (code, "exists already" in err) == (78, True)
    assert Path("out/mine").read_text() == "kept"


def test_a_truncated_or_edited_release_is_refused_wherever_it_is_read(place, fedscore):
    signed_plan(fedscore)
    simulated(fedscore, "--no-inspect")
    whole = Path("out/release.json").read_bytes()
    edited = whole.replace(b'"points": ', b'"points": 1', 1)
    assert edited != whole
    for broken in (whole[:-200], edited, b"", b"{}", whole + b"{}"):
        Path("broken.json").write_bytes(broken)
        before = left()
        for arguments in (
            ("release", "verify", "broken.json"),
            ("release", "show", "broken.json"),
            ("score", "broken.json", "table.parquet", "--out", "scores.parquet"),
        ):
            code, _, err = fedscore(*arguments)
            assert code in (76, 78)
            assert "release" in err
        assert left() == before


def test_a_release_of_another_plan_is_refused(place, fedscore):
    signed_plan(fedscore)
    simulated(fedscore, "--no-inspect")
    signed_plan(fedscore, name="second")
    code, _, err = fedscore("release", "verify", "out/release.json", "--plan", "plan.toml")
    assert (code, "another plan" in err) == (76, True)


def test_institutions_from_configuration_files_take_part_by_their_own_policies(place, fedscore):
    signed_plan(fedscore)
    Path("members").mkdir()
    plan = msgspec.toml.decode(Path("plan.toml").read_text())
    for number, name in enumerate(names(4)):
        small_table(place / f"{name}.parquet", 150, number, first_person=150 * number)
        Path(f"members/{name}.toml").write_text(
            f'id = "{name}"\ntitle = "Bank {number}"\nmost_people = 500\n'
            f'table = "../{name}.parquet"\n'
            f'[policy]\ncoordinator = "{plan["coordinator"]}"\npurposes = ["credit-scoring"]\n'
            'approved_peers = "roster"\nleast_participants = 3\nleast_threshold = 3\n'
            "least_audited_share = 0.0\nlongest_validity_days = 40\nrounds_per_hour = 100\n"
            "least_quorum = 4\nleast_colluders = 1\ndelta = 1e-4\nepsilon_per_plan = 8.0\n"
            f"epsilon_per_year = 8.0\nepsilon_lifetime = {8.0 if number else 9.0}\n"
        )
    arguments = (
        "simulate", "plan.toml", "--schema", "schema.toml", "--key", "coordinator.key",
        "--out", "out", "--institutions", "members",
    )  # fmt: skip
    code, _, err = fedscore(*arguments)
    assert code == 0, err
    unwilling = Path("members/bank-01.toml")
    unwilling.write_text(unwilling.read_text().replace("credit-scoring", "research"))
    code, _, err = fedscore(*arguments[:-4], "--out", "again", *arguments[-2:])
    assert code == 76
    assert "bank-01: policy" in err
    assert not Path("again").exists()
    unwilling.write_text(unwilling.read_text().replace("least_quorum", "most_quorum"))
    code, _, err = fedscore(*arguments[:-4], "--out", "again", *arguments[-2:])
    assert (code, "most_quorum" in err) == (78, True)


def test_help_is_there_for_every_command_and_imports_nothing_heavy():
    script = (
        "import sys, fedscore.command; sys.argv = ['fedscore', '--help']\n"
        "try: fedscore.command.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'opacus', 'pyarrow', 'numpy', 'dp_accounting', 'scipy', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for noun in ("schema", "plan", "simulate", "score", "ledger", "release"):
        assert noun in done.stdout


def test_a_plan_survives_its_own_toml(place, fedscore):
    from federation.plan import load_plan

    signed_plan(fedscore)
    plan = load_plan(Path("plan.toml").read_text())
    assert load_plan(plan_toml(plan)) == plan
    assert plan.schema == small_schema().digest


def test_files_are_written_whole_and_never_over_others(place, fedscore):
    code, out, _ = fedscore("schema", "draft", "table.parquet", "--out", "draft.toml")
    assert (code, out) == (0, "Wrote draft.toml.\n")
    before = Path("draft.toml").read_text()
    assert before == fedscore("schema", "draft", "table.parquet")[1]
    code, _, err = fedscore("schema", "draft", "table.parquet", "--out", "draft.toml")
    assert (code, "draft.toml exists already" in err) == (78, True)
    assert Path("draft.toml").read_text() == before
    code, _, err = fedscore("schema", "draft", "none.parquet", "--out", "other.toml")
    assert (code, left() & {"other.toml", "other.toml.unfinished"}) == (65, set())
    code, _, err = fedscore("schema", "draft", "table.parquet", "--out", "no/where.toml")
    assert (code, "There is no directory no" in err) == (78, True)


def test_the_price_says_what_the_signature_is_worth(place, fedscore):
    draft_plan(fedscore)
    price = ("plan", "price", "plan.toml", "--schema", "schema.toml")
    assert "'first', unsigned" in fedscore(*price)[1]
    assert fedscore("plan", "sign", "plan.toml", "--key", "coordinator.key")[0] == 0
    assert json.loads(fedscore(*price, "--json")[1])["signature"] == "signed"
    text = Path("plan.toml").read_text()
    Path("plan.toml").write_text(text.replace('name = "first"', 'name = "other"'))
    assert "signature broken" in fedscore(*price)[1]


def test_a_plan_that_has_expired_or_costs_more_than_it_promises_is_not_signed(
    place, fedscore, monkeypatch
):
    draft_plan(fedscore)
    sign = ("plan", "sign", "plan.toml", "--key", "coordinator.key")
    text = Path("plan.toml").read_text()
    Path("plan.toml").write_text(re.sub(r"epsilon = 8\.0", "epsilon = 4.0", text))
    code, _, err = fedscore(*sign, "--schema", "schema.toml")
    assert code != 0
    assert "Signed" not in Path("plan.toml").read_text()
    Path("plan.toml").write_text(text)
    later = machine.system_clock() + 31 * 86_400
    monkeypatch.setattr(machine, "system_clock", lambda: later)
    code, _, err = fedscore(*sign)
    assert (code, "The plan expired on" in err) == (78, True)
    assert Path("plan.toml").read_text() == text


def test_a_plan_of_no_use_is_warned_of_and_one_of_use_is_not(place, fedscore):
    assert "warning" not in draft_plan(fedscore)
    warned = draft_plan(fedscore, epsilon="0.1")
    assert "too few people for this epsilon" in warned
    assert fedscore("plan", "price", "plan.toml", "--schema", "schema.toml")[2] == warned


def test_hidden_groups_are_one_line_and_hopeless_intervals_a_dash(place, fedscore):
    signed_plan(fedscore)
    code, out, _ = simulated(fedscore)
    assert code == 0
    assert "hidden by the noise." in out
    assert "| hidden by the noise" not in out
    assert tables.with_interval(Figure(value=0.0, low=-1.1, high=1.1)) == "-"
    assert tables.with_interval(Figure(value=0.5, low=0.4, high=0.6)) == "0.500 +-0.100"


def configured(directory: Path, *ids: str, **changes: str) -> None:
    """Writes configurations of institutions with a table each, some lines of them changed."""
    directory.mkdir()
    for number, name in enumerate(ids):
        small_table(directory / f"{name}-{number}.parquet", 200, number, first_person=200 * number)
        text = (
            f'id = "{name}"\ntitle = "Bank {number}"\nmost_people = 1000\n'
            f'table = "{name}-{number}.parquet"\nnot_held = []\n[policy]\n'
            f'coordinator = "{public_key_of(KEY)}"\npurposes = ["credit-scoring"]\n'
            'approved_peers = "roster"\nleast_participants = 3\nleast_threshold = 3\n'
            "least_audited_share = 0.0\nlongest_validity_days = 40\nrounds_per_hour = 100\n"
            "least_quorum = 3\nleast_colluders = 1\ndelta = 1e-6\nepsilon_per_plan = 8.0\n"
            "epsilon_per_year = 16.0\nepsilon_lifetime = 16.0\n"
        )
        for line, new in changes.items():
            text = re.sub(rf"(?m)^{line} = .*$", f"{line} = {new}", text)
        (directory / f"{number}.toml").write_text(text)


def of_files(fedscore) -> tuple[int, str, str]:
    return fedscore(
        "simulate", "plan.toml", "--schema", "schema.toml", "--key", "coordinator.key",
        "--out", "out", "--institutions", "banks", "--no-inspect",
    )  # fmt: skip


def test_who_is_not_invited_or_has_no_file_is_named_before_the_run(place, fedscore):
    signed_plan(fedscore, invite=",".join(names(5)), quorum="4")
    invited = names(5)
    configured(place / "banks", *invited[:3], "stranger")
    code, _, err = of_files(fedscore)
    assert (code, "not invited by the plan: stranger" in err) == (78, True)
    (place / "banks" / "3.toml").unlink()
    code, _, err = of_files(fedscore)
    assert code == 78
    assert f"no configuration of {', '.join(invited[3:])}" in err
    shutil.rmtree("banks")
    configured(place / "banks", *invited[:4], invited[0])
    code, _, err = of_files(fedscore)
    assert (code, f"several files have the id {invited[0]}" in err) == (78, True)
    (place / "banks" / "4.toml").unlink()
    code, _, err = of_files(fedscore)
    assert code == 0, err
    assert f"{invited[4]} is invited and has no file" in err


def test_errors_in_a_configuration_name_the_file_or_the_institution(place, fedscore):
    signed_plan(fedscore)
    configured(place / "banks", *names(4), epsilon_per_year="1.0")
    code, _, err = of_files(fedscore)
    assert (code, "banks/0.toml: policy: expected" in err) == (78, True)
    shutil.rmtree("banks")
    configured(place / "banks", *names(4), not_held='["nonsense"]')
    code, _, err = of_files(fedscore)
    assert (code, "Bank 0 (bank-00): Declared as not held" in err) == (78, True)


def test_a_refusal_by_policy_says_which_figure_and_nothing_false_follows(place, fedscore):
    signed_plan(fedscore)
    configured(place / "banks", *names(4), epsilon_per_plan="1.0")
    code, _, err = of_files(fedscore)
    assert code == 76
    assert "exceeds this policy's epsilon_per_plan = 1" in err
    assert err.count("refused (") == 4  # one each: the Close that follows is no fault


def test_too_many_people_dealt_to_one_speak_of_the_plan(place, fedscore):
    signed_plan(fedscore, most_per_institution="100")
    code, _, err = simulated(fedscore)
    assert (code, "--most-per-institution" in err) == (78, True)


def test_a_name_given_twice_is_refused(place, fedscore):
    assert "Named twice: bank-00" in draft_plan(fedscore, invite="bank-00,bank-01,bank-00,bank-02")


def test_help_is_plain_and_the_version_is_told(fedscore):
    code, out, _ = fedscore("schema", "check", "--help")
    assert (code, "\\" in out, "[required]" in out) == (0, False, True)
    code, out, _ = fedscore("--version")
    assert (code, out) == (0, f"fedscore {importlib.metadata.version('fedscore')}\n")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it is empty"),
        (b"person,bad\n1,0\n2\n", "line 3 has 1 fields, the header has 2"),
        (b"person,bad\n1,\xff\n", "not text in UTF-8"),
        (b"pers\xff,bad\n1,0\n", "not text in UTF-8"),
        (b"person;bad\n1;0\n", "separator looks like ';'"),
    ],
    ids=["empty", "fields", "bytes", "bytes in the header", "separator"],
)
def test_a_csv_that_cannot_be_read_is_told_why(place, fedscore, content, cause):
    Path("table.csv").write_bytes(content)
    code, _, err = fedscore("schema", "draft", "table.csv")
    assert code == 65
    assert cause in err


def test_an_error_tells_the_bounds_the_one_row_and_the_allowed_values(place, fedscore):
    people = pq.read_table("table.parquet").slice(0, 60)
    incomes = pa.array([1.0] * 7 + [100.5] + [1.0] * 52)
    at = people.column_names.index("income")
    pq.write_table(people.set_column(at, "income", incomes), "wrong.parquet")
    code, _, err = fedscore("schema", "check", "schema.toml", "wrong.parquet")
    assert code == 65
    assert re.search(r"income: outside the public bounds of the schema, \S+ to \S+ \(row 8\)", err)
    text = Path("schema.toml").read_text()
    Path("schema.toml").write_text(text.replace('role = "scored"', 'role = "used"', 1))
    code, _, err = fedscore("schema", "check", "schema.toml", "table.parquet")
    assert (code, "(allowed: scored, protected, ignored)" in err) == (78, True)
