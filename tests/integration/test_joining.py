"""JOINING.md is true: every command in it is run as it stands, and what it promises comes about.

The blocks of its two parts are typed on machines of their own: directories that exchange nothing
but the files which the guide sends. Three banks and a coordinator train one card by real processes.
`fedscore` itself is installed by the guide's first command; only its dependencies are lent by the
environment that runs the tests, so that nothing is fetched.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.main import get_command

from clients.configuration import load_daemon_configuration
from federation.errors import FedscoreError
from federation.messages import RefusalCode
from federation.secure_aggregation.roster import load_roster
from fedscore.command import app
from tests.federations import _SMALL, small_table
from tests.flower_processes import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
GUIDE = (CHECKOUT / "JOINING.md").read_text()
BANK, COORDINATOR = "At the bank", "At the coordinator"
NAMES = ("bank-a", "bank-b", "bank-c")
PEOPLE = 2000
WITHDRAWN = 3
SECONDS = 240.0

OTHERWISE = {
    "fedscore ledger recover bank-a/institution.toml": 78,
    "fedscore coordinator resume coordinator": 78,
    "fedscore coordinator resume coordinator --give-up": 78,
}
"""Commands that end with another exit code than 0 here, as the guide says they do."""

DOCTOR = "fedscore institution doctor bank-a/institution.toml"

CHANGE_THE_SHELL = (". ", "umask ")
"""Commands whose effect lasts for those that are typed after them in the same terminal."""


@dataclass(frozen=True)
class Section:
    part: str
    title: str
    commands: tuple[str, ...]
    settings: tuple[str, ...]


def sections_of(text: str) -> tuple[Section, ...]:
    """Returns the guide's sections; raises on a block that is neither commands nor settings."""
    found = []
    for chapter in re.split(r"(?m)^# ", text)[1:]:
        part, *rest = re.split(r"(?m)^## ", chapter)
        blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", chapter)
        assert {kind for kind, _ in blocks} <= {"sh", "toml"}
        assert "```" not in part
        for section in rest:
            own = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", section)
            lines = "".join(content for kind, content in own if kind == "sh").replace("\\\n", " ")
            found.append(
                Section(
                    part=part.splitlines()[0],
                    title=re.sub(r"^\d+\. ", "", section.splitlines()[0]),
                    commands=tuple(" ".join(line.split()) for line in lines.splitlines()),
                    settings=tuple(content for kind, content in own if kind == "toml"),
                )
            )
    return tuple(found)


SECTIONS = sections_of(GUIDE)


def commands_of(part: str) -> list[str]:
    return [one for section in SECTIONS if section.part == part for one in section.commands]


@dataclass
class Done:
    code: int
    out: str
    err: str


@dataclass
class Machine:
    """A directory on which somebody types the guide's commands.

    Attributes:
        part: of the guide.
        home: where they are typed.
        filled: what stands in the guide -> what a person puts there.
        shell: commands that changed the terminal so far.
        typed: what was run, as it stands in the guide.
        seen: what each of these printed last.
        running: the one that runs in a terminal of its own.
    """

    part: str
    home: Path
    filled: dict[str, str]
    shell: list[str] = field(default_factory=list)
    typed: list[str] = field(default_factory=list)
    seen: dict[str, Done] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def play(self, title: str, *, again: dict[str, str] | None = None) -> Done:
        """Types all commands of a section; returns what the last of them printed."""
        (section,) = [one for one in SECTIONS if (one.part, one.title) == (self.part, title)]
        assert section.commands, title
        for command in section.commands:
            self._type(command, self.filled | (again or {}))
        return self.seen[section.commands[-1]]

    def _type(self, command: str, filled: dict[str, str]) -> None:
        self.typed.append(command)
        done = self.run(_put_into(command, filled))
        self.seen[command] = done
        assert done.code == OTHERWISE.get(command, 0), f"{command}: {done.out}{done.err}"
        assert "Traceback" not in done.err
        if command.startswith(CHANGE_THE_SHELL):
            self.shell.append(command)

    def run(self, command: str) -> Done:
        """Runs one command, of the guide or not."""
        done = subprocess.run(
            ["bash", "-c", "\n".join(["set -eu", *self.shell, command])],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.home,
            env=environment(),
            stdin=subprocess.DEVNULL,
            timeout=SECONDS,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def begin(self, title: str) -> None:
        """Types the only command of a section into a terminal of its own, and does not wait."""
        (section,) = [one for one in SECTIONS if (one.part, one.title) == (self.part, title)]
        (command,) = section.commands
        self.typed.append(command)
        whole = "\n".join(["set -eu", *self.shell, f"exec {_put_into(command, self.filled)}"])
        with (self.home / "out.log").open("w") as out, (self.home / "err.log").open("w") as err:
            self.running[command] = subprocess.Popen(
                ["bash", "-c", whole],
                cwd=self.home,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
            )

    def log(self) -> str:
        return (self.home / "err.log").read_text()

    def end(self, number: int | None = None) -> Done:
        """Waits for what runs, after sending a signal if one is given."""
        ((command, process),) = self.running.items()
        if number is not None:
            process.send_signal(number)
        process.wait(SECONDS)
        del self.running[command]
        self.seen[command] = Done(
            process.returncode, (self.home / "out.log").read_text(), self.log()
        )
        return self.seen[command]

    def is_running(self) -> bool:
        return all(process.poll() is None for process in self.running.values())

    def kill(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def _put_into(command: str, filled: dict[str, str]) -> str:
    for found, wanted in filled.items():
        command = command.replace(found, wanted)
    return command


def environment() -> dict[str, str]:
    """Returns that of a terminal on a bare machine to which our dependencies are lent."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FEDSCORE_", "PIP_", "PYTHON")) and name != "VIRTUAL_ENV"
    }
    return kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # as pip reads it: none
        "OPENBLAS_NUM_THREADS": "1",
    }


def repository(directory: Path) -> None:
    """Puts what a fresh clone has, as far as it is installed, into a new directory."""
    directory.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, directory / name)
    for package in ("fedscore", "federation", "clients", "server"):
        shutil.copytree(
            CHECKOUT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__")
        )


def wait_for(what: str, is_there, machine: Machine) -> None:
    """Waits for something that a running command of a machine brings about."""
    until = time.monotonic() + SECONDS
    while not is_there():
        assert machine.is_running(), f"{what}: {machine.log()}"
        assert time.monotonic() < until, f"{what}: {machine.log()}"
        time.sleep(0.05)


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@dataclass
class Joined:
    """What happened when the whole guide was typed."""

    banks: dict[str, Machine]
    coordinator: Machine
    doctor_before: Done
    rows_after: int

    @property
    def bank(self) -> Machine:
        return self.banks[NAMES[0]]


def rows_that_enter(doctor: Done) -> int:
    return int(re.search(r"contract; ([\d,]+) rows enter", doctor.out)[1].replace(",", ""))


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    place = tmp_path_factory.mktemp("joining")
    address = f"127.0.0.1:{free_port()}"
    everywhere = {"score.example.org:9092": address}

    def machine(part: str, name: str) -> Machine:
        (place / name).mkdir(mode=0o700)
        return Machine(part, place / name, dict(everywhere))

    coordinator = machine(COORDINATOR, "coordinator-machine")
    banks = {name: machine(BANK, f"machine-of-{name}") for name in NAMES}
    first = banks[NAMES[0]]
    with ExitStack() as ends:
        for one in (coordinator, *banks.values()):
            ends.callback(one.kill)
        yield _joined(coordinator, banks, first, address)


def _joined(
    coordinator: Machine, banks: dict[str, Machine], first: Machine, address: str
) -> Joined:
    """Types the whole guide, the two parts by turns, as its sections refer to each other."""
    others = [one for one in banks.values() if one is not first]
    repository(first.home / "fedscore")
    first.play("Install")
    for one in (coordinator, *others):  # installed likewise
        one.shell += ["umask 077", f". {first.home}/environment/bin/activate"]

    (coordinator.home / "schema.toml").write_text(_SMALL.format(rows="one"))
    salt = coordinator.play("Found a federation").out.strip()
    fingerprint = coordinator.seen[commands_of(COORDINATOR)[0]].out.splitlines()[-1]
    coordinator.filled["SALT-OF-THE-FEDERATION"] = salt
    for number, (name, bank) in enumerate(banks.items()):
        send(coordinator, "schema.toml", bank)
        send(coordinator, "coordinator/ca.pem", bank)
        table = bank.home / "people.parquet"
        small_table(table, PEOPLE, number, first_person=number * PEOPLE)
        bank.filled |= {
            "bank-a": name,
            "Bank A": name.title(),
            "SALT-OF-THE-FEDERATION": salt,
            "FINGERPRINT-OF-THE-COORDINATOR": fingerprint,
            "127.0.0.1:9464": f"127.0.0.1:{free_port()}",
        }
    first.play("Hold the table against the schema")
    for name, bank in banks.items():
        read_out = bank.play("Make the institution").out.splitlines()[-1]
        shutil.copy(bank.home / name / "card.toml", coordinator.home / f"{name}-card.toml")
        coordinator.play("Admit", again={"bank-a": name, "FINGERPRINT-OF-BANK-A": read_out})
    for bank in banks.values():
        send(coordinator, "coordinator/roster.toml", bank)
        bank.play("Exchange cards")
    first.play("Say where the table is")
    doctor_before = first.play("See the doctor")

    coordinator.play("Make a plan")
    for bank in banks.values():
        send(coordinator, "first.toml", bank)
        bank.play("Decide about a plan")
    *early, last = banks.values()
    for bank in early:
        bank.begin("Run the daemon")
        wait_for("ready", lambda bank=bank: '"ready, at' in bank.log(), bank)
    coordinator.begin("Train")  # it waits for the last one, and so runs while the doctor looks
    wait_for("the coordinator", lambda: listens(address), coordinator)
    wait_for("a connection", lambda: "connected to" in first.log(), first)
    first.play("While a training runs")
    last.begin("Run the daemon")
    assert coordinator.end().code == 0, coordinator.log()

    coordinator.play("See what came of it")
    for bank in banks.values():
        wait_for("the release", lambda bank=bank: "signature valid" in bank.log(), bank)
    first.play("Use the release")
    (first.home / "withdrawn-keys.txt").write_text("".join(f"{n}\n" for n in range(WITHDRAWN)))
    first.play("People who withdraw")
    rows_after = rows_that_enter(first.run(DOCTOR))
    for bank, number in zip(banks.values(), (signal.SIGINT, *2 * [signal.SIGTERM]), strict=True):
        assert bank.end(number).code == 0, bank.log()
    first.play("Upgrade, back up, restore")
    coordinator.play("After a crash")
    coordinator.play("Keep it running")
    return Joined(banks, coordinator, doctor_before, rows_after)


def send(sender: Machine, name: str, receiver: Machine) -> None:
    """Plays the mail."""
    shutil.copy(sender.home / name, receiver.home / Path(name).name)


def test_every_placeholder_is_one_that_is_filled_in_here():
    found = set(re.findall(r"\b[A-Z]+(?:-[A-Z]+){2,}\b", "\n".join(map(str, SECTIONS))))
    assert found == {
        "SALT-OF-THE-FEDERATION", "FINGERPRINT-OF-THE-COORDINATOR", "FINGERPRINT-OF-BANK-A",
    }  # fmt: skip


def test_the_tables_name_every_exit_code_and_every_refusal():
    codes = {int(one) for one in re.findall(r"(?m)^\| (\d+) \|", GUIDE)}
    assert codes == {0, 2} | exit_codes(FedscoreError)
    refusals = GUIDE.split("| refusal |")[1].split("\n\n")[0]
    assert set(re.findall(r"(?m)^\| `([\w-]+)` \|", refusals)) == set(RefusalCode)


def exit_codes(kind: type[FedscoreError]) -> set[int]:
    return {kind.exit_code}.union(*map(exit_codes, kind.__subclasses__()))


def test_every_option_of_init_is_explained():
    table = GUIDE.split("| option |")[1].split("\n\n")[0]
    init = get_command(app).commands["institution"].commands["init"]
    options = {name for one in init.params for name in one.opts if name.startswith("--")}
    assert set(re.findall(r"`(--[\w-]+)`", table)) == options - {"--help"}


@pytest.mark.slow
def test_every_command_of_the_guide_was_run_in_the_order_in_which_it_stands_there(joined):
    assert joined.bank.typed == commands_of(BANK)
    assert list(dict.fromkeys(joined.coordinator.typed)) == commands_of(COORDINATOR)
    assert set(OTHERWISE) <= set(commands_of(BANK)) | set(commands_of(COORDINATOR))


@pytest.mark.slow
def test_what_was_installed_is_what_ran(joined):
    told = joined.bank.run(
        "command -v fedscore; python3 -c 'import clients; print(clients.__file__)'"
    )
    assert all(
        Path(line).is_relative_to(joined.bank.home / "environment")
        for line in told.out.splitlines()
    )


@pytest.mark.slow
def test_every_bank_has_the_coordinators_release_and_can_verify_it(joined):
    released = (joined.coordinator.home / "coordinator/trainings/0001/release.json").read_bytes()
    for name, bank in joined.banks.items():
        assert (bank.home / name / "state/releases/0001.json").read_bytes() == released
    verified = [command for command in joined.bank.seen if "release verify" in command]
    assert "comes from plan 'first'" in joined.bank.seen[verified[0]].out
    assert (joined.bank.home / "scores.parquet").is_file()
    assert (joined.bank.home / "corrected.parquet").is_file()


@pytest.mark.slow
def test_the_doctor_warns_of_two_things_before_and_of_nothing_while_a_training_runs(joined):
    before, during = joined.doctor_before.out, joined.bank.seen[DOCTOR].out
    assert (before.count("│ warn "), before.count("│ FAIL ")) == (2, 0)
    assert (during.count("│ warn "), during.count("│ FAIL ")) == (0, 0), during


@pytest.mark.slow
def test_the_round_log_has_the_steps_that_the_guide_explains(joined):
    ((_, log),) = [
        (command, done)
        for command, done in joined.coordinator.seen.items()
        if "coordinator start" in command
    ]
    explained = re.findall(r"(?m)^\| `(\w+)` \|", GUIDE.split("| step |")[1].split("\n\n")[0])
    assert list(dict.fromkeys(re.findall(r"(?m)^│ (\w+) ", log.out))) == explained
    assert len(re.findall(r"(?m)^│ round ", log.out)) == 3


@pytest.mark.slow
def test_a_report_is_printed_and_status_shows_who_released(joined):
    reports = [done for command, done in joined.bank.seen.items() if " report " in command]
    assert len(reports) == 2
    assert all("trained at home" in one.out and "local gain" in one.out for one in reports)
    status = joined.coordinator.seen["fedscore coordinator status coordinator"].out
    assert re.search(r"│ 1 +│ first │ 3 of 3 │ \d+ +│ released ", status)
    assert all(name in status for name in NAMES)


@pytest.mark.slow
def test_who_withdraws_enters_no_more_without_a_restart(joined):
    assert (rows_that_enter(joined.doctor_before), joined.rows_after) == (
        PEOPLE,
        PEOPLE - WITHDRAWN,
    )
    assert not (joined.bank.home / "withdrawn-keys.txt").exists()


@pytest.mark.slow
def test_nothing_is_missing_and_nothing_is_under_way(joined):
    assert "nothing is missing" in joined.bank.seen[next(iter(OTHERWISE))].err
    for command in list(OTHERWISE)[1:]:
        assert "No training is under way" in joined.coordinator.seen[command].err


@pytest.mark.slow
def test_who_is_revoked_is_in_the_roster_no_more(joined):
    roster = load_roster((joined.coordinator.home / "coordinator/roster.toml").read_text())
    assert [member.id for member in roster.members] == ["bank-a", "bank-b"]


@pytest.mark.slow
def test_every_setting_that_the_guide_shows_is_one(joined, tmp_path):
    written = (joined.bank.home / "bank-a/institution.toml").read_text()
    postgresql, rows = (text for section in SECTIONS for text in section.settings)
    written = re.sub(r"(?m)^table = .*\n", postgresql, written) + rows
    path = tmp_path / "institution.toml"
    path.write_text(written)
    found = load_daemon_configuration(path, {})
    assert found.source.table == "public.people"
    assert (found.columns, found.retention.days) == ({"income": "inc_gross_m"}, 730)
    assert found.consent.refused == ("no",)
    assert found.health_address == joined.bank.filled["127.0.0.1:9464"]
    policy = set(tomllib.loads(written)["policy"]) | {"schemas"}
    explained = GUIDE.split("| line |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", explained)) == policy
