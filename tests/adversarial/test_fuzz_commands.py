"""Bad input to every command: no trace reaches a person, and what fails has changed nothing."""

import shlex
import shutil
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from clients import flower_node
from federation.errors import ConfigurationError
from server.superlink import SuperLink
from tests.federations import _SMALL, SALT, names, small_table
from tests.fuzzing import Command, misread_all, spoil_all, typed

BANKS = names(3)
BANK = BANKS[0]
CONFIG = f"{BANK}/institution.toml"
STATE = f"{BANK}/state"
POLICY = (
    CONFIG,
    "plan.toml",
    f"{BANK}/schema.toml",
    f"{BANK}/roster.toml",
    f"{STATE}/ledger.sqlite",
)

COMMANDS = (
    Command(words="schema draft table.parquet", reads=("table.parquet",), times=12),
    Command(words="schema draft table.csv", reads=("table.csv",), times=12),
    Command(words="schema check schema.toml table.parquet", reads=("schema.toml", "table.parquet")),
    Command(words="schema check schema.toml table.csv", reads=("table.csv",), times=12),
    Command(words="plan price plan.toml --schema schema.toml", reads=("plan.toml", "schema.toml")),
    Command(words="plan advise --schema schema.toml --people 1000 --institutions 4 --quorum 4 "
            "--colluders 1 --epsilon 8 --delta 1e-6 --held-out 0.25 --spare-attempts 1 "
            "--bad-rate 0.1 --auc 0.7", reads=("schema.toml",), times=6),
    Command(words="plan sign plan.toml --key coordinator/coordinator.key --schema schema.toml",
            reads=("plan.toml", "schema.toml", "coordinator/coordinator.key"), times=4),
    Command(words="plan new --schema schema.toml --key coordinator/coordinator.key --name n "
            f"--federation test --purpose p --invite {','.join(BANKS)} --quorum 3 --colluders 1 "
            f"--people 1000 --most-per-institution 1000 --epsilon 8 --salt {SALT} --rounds 3",
            reads=("schema.toml", "coordinator/coordinator.key"), times=3),
    Command(words="score out/release.json table.parquet --out scores.csv",
            reads=("out/release.json", "table.parquet")),
    Command(words="score out/release.json table.csv --out scores.parquet", reads=("table.csv",)),
    Command(words=f"ledger show {STATE}/ledger.sqlite", reads=(f"{STATE}/ledger.sqlite",)),
    Command(words=f"ledger verify {STATE}/ledger.sqlite", reads=(f"{STATE}/ledger.sqlite",)),
    Command(words="ledger show out/ledgers/bank-00.sqlite --json",
            reads=("out/ledgers/bank-00.sqlite",)),
    Command(words="release show out/release.json", reads=("out/release.json",), times=12),
    Command(words="release verify out/release.json --plan out/plan.toml",
            reads=("out/release.json", "out/plan.toml")),
    Command(words="transcript audit out/transcript.jsonl --schema schema.toml --release "
            "out/release.json",
            reads=("out/transcript.jsonl", "schema.toml", "out/release.json"), times=4),
    Command(words=f"institution status {CONFIG}", reads=(CONFIG, f"{STATE}/ledger.sqlite")),
    Command(words=f"institution consider {CONFIG} plan.toml --json", reads=POLICY, times=3),
    Command(words=f"institution approve {CONFIG} plan.toml", reads=POLICY, times=3),
    Command(words=f"institution refuse {CONFIG} plan.toml",
            reads=(CONFIG, "plan.toml", f"{STATE}/ledger.sqlite"), times=3),
    Command(words=f"coordinator admit coordinator card.toml --fingerprint {'ab' * 32}",
            reads=("card.toml", "coordinator/coordinator.toml", "coordinator/coordinator.key",
                   "coordinator/roster.toml", f"coordinator/cards/{BANK}.toml"), times=3),
)  # fmt: skip
"""Every command that reads: one line more, and it is fuzzed too."""

WRITERS = (
    Command(words="institution init new --id new --title New --table table.parquet --most-people "
            f"1000 --federation test --salt {SALT} --held-out 0.25 --coordinator {'ab' * 32} "
            "--address 127.0.0.1:9092 --purpose p --delta 1e-4 --epsilon-per-plan 8 "
            "--epsilon-per-year 8 --epsilon-lifetime 20", reads=(), times=20),
    Command(words="coordinator init new --federation test --address 127.0.0.1:9092", reads=(),
            times=10),
    Command(words="simulate plan.toml --schema schema.toml --key coordinator/coordinator.key --out "
            "new --deal table.parquet", reads=(), times=6),
    Command(words="plan new --schema schema.toml --key coordinator/coordinator.key --name n "
            f"--federation test --purpose p --invite {','.join(BANKS)} --quorum 3 --colluders 1 "
            f"--people 1000 --most-per-institution 1000 --epsilon 8 --salt {SALT} --rounds 3 "
            "--spare-attempts 1 --days 3 --held-out 0.25 --delta 1e-6 --out new.toml", reads=(),
            times=20),
    Command(words="schema draft table.parquet --out new.toml", reads=()),
)  # fmt: skip
"""Those that make something new: only their words are spoilt."""

PROCESSES = (
    Command(words=f"institution run {CONFIG}",
            reads=(*(name for name in POLICY if name != "plan.toml"), f"{BANK}/ca.pem",
                   f"{STATE}/identity.key", f"{STATE}/node.key", f"{STATE}/records.sqlite",
                   "table.parquet"), times=2),
    Command(words="coordinator start coordinator plan.toml --schema schema.toml",
            reads=("plan.toml", "schema.toml", "coordinator/coordinator.toml",
                   "coordinator/coordinator.key", "coordinator/roster.toml",
                   f"coordinator/cards/{BANK}.toml"), times=2),
)  # fmt: skip
"""Those that would not end: they are stopped where they would begin to speak."""


def must(words: str) -> str:
    ended = typed(shlex.split(words))
    assert ended.code == 0, ended
    return ended.out


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation by its commands: three institutions, a plan, a simulated training."""
    place = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("schema.toml").write_text(_SMALL.format(rows="one"))
        small_table(Path("table.parquet"), 300, 0)
        small_csv(Path("table.csv"))
        out = must("coordinator init coordinator --federation test --address 127.0.0.1:9092")
        key = out.strip().splitlines()[-1].replace(" ", "")
        for name in BANKS:
            out = must(
                f"institution init {name} --id {name} --title {name} --table table.parquet "
                f"--most-people 1000 --federation test --salt {SALT} --held-out 0.25 "
                f"--coordinator {key} --address 127.0.0.1:9092 --purpose p --delta 1e-4 "
                "--epsilon-per-plan 8 --epsilon-per-year 8 --epsilon-lifetime 20"
            )
            told = out.strip().splitlines()[-1]
            must(f"coordinator admit coordinator {name}/card.toml --fingerprint '{told}'")
        for name in BANKS:
            for public in ("coordinator/roster.toml", "coordinator/ca.pem", "schema.toml"):
                shutil.copy(public, Path(name, Path(public).name))
        shutil.copy(f"{BANK}/card.toml", "card.toml")
        new = next(one for one in COMMANDS if one.words.startswith("plan new"))
        must(f"{new.words} --delta 1e-4 --out plan.toml")
        must("plan sign plan.toml --key coordinator/coordinator.key")
        must(
            "simulate plan.toml --schema schema.toml --key coordinator/coordinator.key --out out "
            "--deal table.parquet"
        )
    return place


def small_csv(path: Path) -> None:
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    pc.write_csv(pq.read_table("table.parquet"), path)


@pytest.fixture
def place(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that, with the current directory in it."""
    found = tmp_path / "place"
    shutil.copytree(original, found)
    monkeypatch.chdir(found)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.name)
def test_a_spoilt_file_is_refused_and_nothing_changes(
    place: Path, original: Path, command: Command
) -> None:
    tried, complaints = spoil_all(command, place, original)
    assert complaints == {}
    assert tried >= 8 * len(command.reads)


@pytest.mark.slow
@pytest.mark.parametrize("command", [*COMMANDS, *WRITERS], ids=lambda one: one.name)
def test_a_word_that_nobody_would_type_is_refused_and_nothing_changes(
    place: Path, original: Path, command: Command
) -> None:
    tried, complaints = misread_all(command, place, original)
    assert complaints == {}
    assert tried >= 3 * command.times


@pytest.mark.slow
@pytest.mark.parametrize("command", PROCESSES, ids=lambda one: one.name)
def test_a_process_with_a_spoilt_file_does_not_begin(
    place: Path, original: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = flower_node.serve

    def serve(address: str, **settings: object) -> None:
        settings["stop"].set()  # type: ignore[attr-defined]
        real(address, **settings)  # type: ignore[arg-type]

    def start(_: SuperLink) -> None:
        raise ConfigurationError("this far and no further")

    monkeypatch.setattr(flower_node, "serve", serve)
    monkeypatch.setattr(SuperLink, "start", start)
    tried, complaints = spoil_all(command, place, original)
    assert complaints == {}
    assert tried >= 8 * len(command.reads)


def test_a_key_of_a_kind_that_nobody_knows_is_refused(place: Path) -> None:
    path = Path("coordinator/coordinator.key")
    path.write_bytes(path.read_bytes().replace(b"MC4CAQAwBQYDK2Vw", b"MC4CAQAwBQYDK2Vs"))
    ended = typed(["plan", "sign", "plan.toml", "--key", str(path)])
    assert ended.code == ConfigurationError.exit_code
    assert "not an unencrypted private key" in ended.err


def test_what_a_file_holds_is_shown_as_text_and_not_to_the_terminal(place: Path) -> None:
    Path("plan.toml").write_text('"\\u001b[2J" = 1\n')
    ended = typed(["plan", "price", "plan.toml", "--schema", "schema.toml"])
    assert ended.code == ConfigurationError.exit_code
    assert "\x1b" not in ended.err
    assert "\\x1b[2J" in ended.err
