"""An institution and its coordinator by their commands: what is made, what is refused, and why."""

import contextlib
import io
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clients.configuration import Approval, load_daemon_configuration
from clients.decisions import Decision, Decisions
from clients.ledger import Ledger
from federation.canonical import Digest
from federation.card import Card, card_toml, fingerprint_of, load_card
from federation.plan import load_plan, plan_toml
from federation.pricing import price_of
from federation.secure_aggregation.roster import load_roster, roster_toml
from federation.transcript import Planned
from fedscore import command, files
from fedscore.coordinator_files import open_office
from fedscore.machine import system_clock
from fedscore.trainings import Training, Trainings
from tests.federations import _SMALL, OTHER_KEY, SALT, names, small_schema, small_table
from tests.integration.test_command import run

BANKS = names(3)
CONFIG = f"{BANKS[0]}/institution.toml"


@pytest.fixture
def fedscore(monkeypatch, capsys):
    return lambda *arguments: run(monkeypatch, capsys, *map(str, arguments))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a schema and a table, and the current directory in it."""
    monkeypatch.chdir(tmp_path)
    Path("schema.toml").write_text(_SMALL.format(rows="one"))
    small_table(tmp_path / "table.parquet", 300, 0)
    return tmp_path


def init(fedscore, name=BANKS[0], **changes):
    settings = {
        "--id": name,
        "--title": f"Bank {name}",
        "--table": "table.parquet",
        "--most-people": "1000",
        "--federation": "test",
        "--salt": SALT,
        "--held-out": "0.25",
        "--coordinator": "ab" * 32,
        "--address": "127.0.0.1:9092",
        "--purpose": "credit-scoring",
        "--delta": "1e-4",
        "--epsilon-per-plan": "8.0",
        "--epsilon-per-year": "8.0",
        "--epsilon-lifetime": "20.0",
    }
    settings |= {f"--{key.replace('_', '-')}": value for key, value in changes.items()}
    return fedscore("institution", "init", name, *(x for pair in settings.items() for x in pair))


def fingerprint_in(out: str) -> str:
    return out.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Three institutions that a coordinator has admitted, and a signed plan for them."""
    directory = tmp_path_factory.mktemp("built")

    def fedscore(*arguments):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            command.app([str(one) for one in arguments], standalone_mode=False)
        return 0, said.getvalue(), ""

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        Path("schema.toml").write_text(_SMALL.format(rows="one"))
        small_table(directory / "table.parquet", 300, 0)
        _, out, _ = fedscore(
            *("coordinator", "init", "coordinator", "--federation", "test"),
            *("--address", "127.0.0.1:9092"),
        )
        key = fingerprint_in(out).replace(" ", "")
        for name in BANKS:
            _, out, _ = init(fedscore, name, coordinator=key)
            fedscore(
                *("coordinator", "admit", "coordinator", f"{name}/card.toml"),
                *("--fingerprint", fingerprint_in(out)),
            )
        for name in BANKS:
            for public in ("coordinator/roster.toml", "schema.toml"):
                Path(name, Path(public).name).write_bytes(Path(public).read_bytes())
        draft(fedscore, key, "plan.toml")
    return directory


@pytest.fixture
def nation(built, tmp_path, monkeypatch):
    """A copy of that, with the current directory in it."""
    place = tmp_path / "nation"
    shutil.copytree(built, place)
    monkeypatch.chdir(place)
    return place


def draft(fedscore, key, path, **changes):
    settings = {
        "--schema": "schema.toml",
        "--coordinator": key,
        "--name": "first",
        "--federation": "test",
        "--purpose": "credit-scoring",
        "--invite": ",".join(BANKS),
        "--quorum": "3",
        "--colluders": "1",
        "--people": "1000",
        "--most-per-institution": "1000",
        "--epsilon": "8",
        "--delta": "1e-4",
        "--salt": SALT,
        "--rounds": "3",
    }
    settings |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    code, out, err = fedscore("plan", "new", *(x for pair in settings.items() for x in pair))
    assert code == 0, err
    Path(path).write_text(out)
    assert fedscore("plan", "sign", path, "--key", "coordinator/coordinator.key")[0] == 0


def everything_below(path: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def decision_of(plan: str) -> Decision:
    digest = load_plan(Path(plan).read_text()).digest
    return Decisions(Path(BANKS[0], "state", "decisions")).of(Digest(digest))


def test_init_makes_a_private_institution_that_waits_for_a_person(place, fedscore):
    code, out, err = init(fedscore, not_held="late")
    assert (code, err) == (0, "")
    found = load_daemon_configuration(Path(CONFIG))
    assert found.approval is Approval.PERSON
    assert found.not_held == ("late",)
    assert Path(found.table) == place / "table.parquet"
    state = Path(found.state)
    assert stat.S_IMODE(Path(BANKS[0]).stat().st_mode) == 0o700
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    secret = ("identity.key", "node.key", "ledger.sqlite", "records.sqlite")
    assert {stat.S_IMODE((state / name).stat().st_mode) for name in secret} == {0o600}
    card = load_card(Path(BANKS[0], "card.toml").read_text())
    assert fingerprint_in(out).replace(" ", "") == card.key
    identity = files.read_key(state / "identity.key")
    assert (
        Card.of(federation="test", institution=BANKS[0], identity=identity, node=card.node) == card
    )
    with Ledger.open_read_only(state / "ledger.sqlite", system_clock) as ledger:
        assert ledger.head()[0] == 0
    assert {path.name for path in place.iterdir()} == {"schema.toml", "table.parquet", BANKS[0]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "no spaces", "id": "no spaces"}, "letters, digits and hyphens"),
        ({"salt": "abc"}, "64 lower-case hexadecimal digits"),
        ({"held_out": "0.9"}, "held_out_fraction"),
        ({"address": "nowhere"}, "host:port"),
        ({"address": "host:port"}, "host:port"),
        ({"most_people": "0"}, "at least 1"),
        ({"epsilon_per_plan": "9"}, "epsilon_per_plan <= epsilon_per_year"),
        ({"epsilon_lifetime": "nan"}, "epsilon"),
        ({"delta": "0"}, "delta"),
    ],
)
def test_init_with_a_setting_out_of_range_leaves_nothing(place, fedscore, changes, told):
    before = set(place.iterdir())
    code, _, err = init(fedscore, **changes)
    assert code in (77, 78), err
    assert told in err
    assert set(place.iterdir()) == before


def test_init_takes_the_coordinators_key_as_it_was_read_out(place, fedscore):
    assert init(fedscore, coordinator=fingerprint_of("ab" * 32).upper())[0] == 0
    assert f'coordinator = "{"ab" * 32}"' in Path(CONFIG).read_text()


def test_init_never_touches_what_is_there(place, fedscore):
    assert init(fedscore)[0] == 0
    before = everything_below(place)
    code, _, err = init(fedscore)
    assert code == 78
    assert "exists already" in err
    assert everything_below(place) == before


def test_consider_shows_price_budget_and_every_rule_and_writes_nothing(nation, fedscore):
    before = everything_below(nation)
    code, out, err = fedscore("institution", "consider", CONFIG, "plan.toml", "--json")
    assert code == 0, err
    found = json.loads(out)
    price = price_of(load_plan(Path("plan.toml").read_text()), small_schema())
    trained, held_out = found["sides"]
    assert (trained["units"], held_out["units"]) == (price.price.trained, price.price.held_out)
    assert trained["left_before"] - trained["units"] == trained["left_afterwards"]
    assert all(rule["holds"] for rule in found["rules"])
    assert len(found["rules"]) == 23
    assert (found["decision"], found["takes_part"]) == ("undecided", False)
    code, out, _ = fedscore("institution", "consider", CONFIG, "plan.toml")
    assert code == 0
    assert "The daemon refuses until it is approved" in " ".join(out.split())
    assert "held out" in out
    assert everything_below(nation) == before


def test_a_rule_that_is_not_kept_is_named_and_nobody_can_approve_past_it(nation, fedscore):
    path = Path(CONFIG)
    path.write_text(path.read_text().replace('purposes = ["credit-scoring"]', 'purposes = ["x"]'))
    code, out, err = fedscore("institution", "consider", CONFIG, "plan.toml", "--json")
    assert code == 77
    assert [one["text"] for one in json.loads(out)["rules"] if not one["holds"]] == [
        "purpose 'credit-scoring' is not one of this policy's purposes: x"
    ]
    assert "refuses this plan: purpose" in err
    before = everything_below(nation)
    assert fedscore("institution", "approve", CONFIG, "plan.toml")[0] == 77
    assert everything_below(nation) == before


def test_a_person_approves_refuses_and_thinks_again(nation, fedscore):
    assert fedscore("institution", "approve", CONFIG, "plan.toml")[0] == 0
    assert decision_of("plan.toml") is Decision.APPROVED
    _, out, _ = fedscore("institution", "consider", CONFIG, "plan.toml", "--json")
    assert json.loads(out)["takes_part"]
    assert fedscore("institution", "refuse", CONFIG, "plan.toml")[0] == 0
    assert decision_of("plan.toml") is Decision.REFUSED
    _, out, _ = fedscore("institution", "consider", CONFIG, "plan.toml", "--json")
    assert not json.loads(out)["takes_part"]


def test_a_refusal_holds_though_the_policy_is_enough(nation, fedscore):
    path = Path(CONFIG)
    path.write_text(path.read_text().replace('approval = "person"', 'approval = "automatic"'))
    code, out, _ = fedscore("institution", "consider", CONFIG, "plan.toml", "--json")
    assert (code, json.loads(out)["takes_part"]) == (0, True)
    code, _, err = fedscore("institution", "approve", CONFIG, "plan.toml")
    assert code == 78
    assert "Nothing to approve" in err
    assert fedscore("institution", "refuse", CONFIG, "plan.toml")[0] == 0
    _, out, _ = fedscore("institution", "consider", CONFIG, "plan.toml", "--json")
    assert not json.loads(out)["takes_part"]
    assert fedscore("institution", "approve", CONFIG, "plan.toml")[0] == 0


def test_a_refusal_reaches_a_plan_that_was_entered_and_an_approval_comes_too_late(nation, fedscore):
    plan = load_plan(Path("plan.toml").read_text())
    price = price_of(plan, small_schema())
    limits = load_daemon_configuration(Path(CONFIG)).policy.limits
    with Ledger.open(Path(BANKS[0], "state", "ledger.sqlite"), system_clock) as ledger:
        ledger.reserve(
            plan.digest,
            price.price,
            alone=price.alone,
            split=plan.people.split.digest,
            limits=limits,
        )
    assert fedscore("institution", "approve", CONFIG, "plan.toml")[0] != 0
    assert decision_of("plan.toml") is Decision.UNDECIDED
    code, out, _ = fedscore("institution", "refuse", CONFIG, "plan.toml")
    assert code == 0
    assert "nothing more of it is answered" in out
    assert decision_of("plan.toml") is Decision.REFUSED
    code, out, _ = fedscore("institution", "status", CONFIG, "--json")
    assert code == 0
    assert json.loads(out)["open_plans"] == [plan.digest]
    assert plan.digest[:16] in fedscore("institution", "status", CONFIG)[1]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda: Path(BANKS[0], "roster.toml").unlink(), "Cannot read the roster"),
        (lambda: Path(BANKS[0], "roster.toml").write_bytes(b"\xff"), "UTF-8"),
        (lambda: Path(BANKS[0], "roster.toml").write_text("x = 1"), "not a roster"),
        (lambda: Path(BANKS[0], "schema.toml").unlink(), "schema.toml"),
        (lambda: Path(BANKS[0], "state").chmod(0o755), "chmod 700"),
        (lambda: Path(BANKS[0], "state", "ledger.sqlite").unlink(), "No ledger"),
        (lambda: Path("plan.toml").write_text("format = 3"), "not a plan"),
        (lambda: Path("plan.toml").write_bytes(b"\x00\xff"), "UTF-8"),
        (lambda: Path(CONFIG).write_text("id = "), "configuration"),
        (lambda: Path(CONFIG).write_bytes(b"\xff\xfe"), "configuration"),
        (lambda: Path(CONFIG).write_text(Path(CONFIG).read_text() + "more = 1\n"), "more"),
        (lambda: Path(CONFIG).unlink(), "Cannot read"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_nothing_is_written(nation, fedscore, spoil, told):
    spoil()
    before = everything_below(nation)
    for verb in ("consider", "approve"):
        code, _, err = fedscore("institution", verb, CONFIG, "plan.toml")
        assert code in (76, 78), err
        assert told in err
    assert everything_below(nation) == before


def test_a_plan_that_nobody_signed_is_not_considered(nation, fedscore):
    plan = load_plan(Path("plan.toml").read_text())
    Path("plan.toml").write_text(plan_toml(msgspec.structs.replace(plan, signature="")))
    code, _, err = fedscore("institution", "consider", CONFIG, "plan.toml")
    assert code == 76
    assert "not signed" in err


def test_a_roster_that_another_coordinator_signed_is_not_trusted(nation, fedscore):
    path = Path(BANKS[0], "roster.toml")
    roster = load_roster(path.read_text()).signed(OTHER_KEY)
    path.write_text(tomli_w.dumps(msgspec.to_builtins(roster)))
    code, _, err = fedscore("institution", "consider", CONFIG, "plan.toml")
    assert code == 76
    assert "signature" in err


def daemon_that_fails() -> tuple[int, dict[str, str]]:
    """Returns a daemon's exit code and the last line of its log."""
    done = subprocess.run(
        [sys.executable, "-m", "fedscore.command", "institution", "run", CONFIG],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    return done.returncode, json.loads(done.stderr.strip().splitlines()[-1])


@pytest.mark.slow
def test_a_daemon_says_in_its_log_why_it_cannot_start(nation):
    Path(BANKS[0], "state", "ledger.sqlite").unlink()
    code, line = daemon_that_fails()
    assert code == 78
    assert line["level"] == "error"
    assert "No ledger" in line["event"]


@pytest.mark.slow
def test_two_daemons_on_one_state_are_refused(nation, fedscore):
    with Ledger.open(Path(BANKS[0], "state", "ledger.sqlite"), system_clock):
        code, line = daemon_that_fails()
        assert fedscore("institution", "status", CONFIG)[0] == 0
    assert code == 78
    assert "One daemon owns a ledger" in line["event"]


@pytest.mark.slow
def test_an_institutions_commands_load_nothing_of_the_coordinator(nation):
    script = (
        "import sys; from fedscore.command import app;"
        f"app(['institution', 'consider', {CONFIG!r}, 'plan.toml'], standalone_mode=False);"
        "import clients.daemon;"
        "sys.exit(any(name.partition('.')[0] == 'server' for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


# The coordinator.


def test_the_roster_names_all_who_were_admitted(nation):
    office = open_office(Path("coordinator"))
    assert [member.id for member in office.roster.members] == sorted(BANKS)
    assert set(office.cards) == set(BANKS)
    secret = ("coordinator.key", "ca.key", "server.pem")
    modes = {stat.S_IMODE(Path("coordinator", name).stat().st_mode) for name in secret}
    assert modes == {0o600}


def card_with(**changes: str) -> str:
    """Writes a card that its own key has signed, changed; returns its fingerprint."""
    card = load_card(Path(BANKS[0], "card.toml").read_text())
    fields = {"federation": "test", "institution": "new-bank", "node": card.node, **changes}
    found = Card.of(identity=OTHER_KEY, **fields)
    Path("card.toml").write_text(card_toml(found))
    return found.key


def weak_node_key() -> str:
    key = generate_private_key(SECP256R1()).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: card_with(node="ssh-ed25519 AAAA")[::-1], "another fingerprint"),
        (lambda: card_with()[:-1], "another fingerprint"),
        (lambda: card_with().replace("0", "1"), "another fingerprint"),
        (lambda: card_with(federation="other"), "is for the federation 'other'"),
        (lambda: card_with(institution="../../etc"), "letters, digits and hyphens"),
        (lambda: card_with(institution=""), "letters, digits and hyphens"),
        (lambda: card_with(institution=BANKS[1]), "admitted already"),
        (card_with, f"has a key of {BANKS[0]}"),
        (lambda: card_with(node="ssh-rsa AAAA"), "no OpenSSH public key"),
        (lambda: card_with(node=weak_node_key()), "P-384"),
    ],
)
def test_a_card_that_is_not_what_was_told_is_not_admitted(nation, fedscore, make, told):
    fingerprint = make()
    before = everything_below(nation)
    code, _, err = fedscore(
        "coordinator", "admit", "coordinator", "card.toml", "--fingerprint", fingerprint
    )
    assert code == 78, err
    assert told in err
    assert everything_below(nation) == before


@pytest.mark.parametrize("text", ["", "key = 1", "\x00", "[[["])
def test_what_is_no_card_is_not_admitted(nation, fedscore, text):
    Path("card.toml").write_text(text)
    before = everything_below(nation)
    code, _, err = fedscore(
        "coordinator", "admit", "coordinator", "card.toml", "--fingerprint", "ab" * 32
    )
    assert code == 78
    assert "not an institution's card" in err
    assert everything_below(nation) == before


def test_a_card_that_was_changed_after_it_was_signed_is_not_admitted(nation, fedscore):
    fingerprint = card_with()
    Path("card.toml").write_text(Path("card.toml").read_text().replace("new-bank", "old-bank"))
    code, _, err = fedscore(
        "coordinator", "admit", "coordinator", "card.toml", "--fingerprint", fingerprint
    )
    assert code == 76
    assert "signature" in err


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("0.0.0.0:9092", "what institutions reach"),
        ("[::]:9092", "what institutions reach"),
        ("example..org:9092", "name or an address"),
        (":9092", "host:port"),
        ("127.0.0.1", "host:port"),
        ("127.0.0.1:0", "port=0"),
        ("127.0.0.1:70000", "port=70000"),
    ],
)
def test_an_address_that_nobody_could_reach_makes_no_coordinator(place, fedscore, address, told):
    before = set(place.iterdir())
    code, _, err = fedscore(
        "coordinator", "init", "coordinator", "--federation", "test", "--address", address
    )
    assert code == 78
    assert told in err
    assert set(place.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"invite": f"{','.join(BANKS)},stranger", "quorum": "4"}, "Not admitted, but invited"),
        ({"federation": "other"}, "for the federation 'other'"),
    ],
)
def test_a_plan_for_others_is_not_started(nation, fedscore, monkeypatch, changes, told):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    draft(fedscore, files_key(), "other.toml", **changes)
    code, _, err = fedscore(
        "coordinator", "start", "coordinator", "other.toml", "--schema", "schema.toml"
    )
    assert code == 78
    assert told in err
    assert list(Path("coordinator/trainings").iterdir()) == []


def files_key() -> str:
    return load_plan(Path("plan.toml").read_text()).coordinator


@pytest.mark.parametrize("deadline", ["0", "nan", "1e9"])
def test_a_deadline_out_of_range_is_refused(nation, fedscore, deadline):
    code, _, err = fedscore(
        "coordinator", "start", "coordinator", "plan.toml", "--schema", "schema.toml",
        "--deadline", deadline,
    )  # fmt: skip
    assert code == 78
    assert "--deadline" in err


def test_trainings_are_numbered_and_never_used_twice(nation):
    office = open_office(Path("coordinator"))
    trainings = Trainings(office.directory / "trainings")
    plan, schema = files.read_plan(Path("plan.toml")), Path("schema.toml").read_text()

    def another() -> Training:
        training = trainings.new(plan, schema, office.roster)
        with training.transcript() as transcript:
            transcript.write(Planned(plan=plan_toml(plan), roster=roster_toml(office.roster)))
            transcript.end("", OTHER_KEY)
        return training

    assert [another().number for _ in range(2)] == [1, 2]
    shutil.rmtree("coordinator/trainings/0001")
    third = trainings.new(plan, schema, office.roster)
    assert third.number == 3
    assert trainings.under_way() is None, "nobody has heard of it"
    with third.transcript() as transcript:
        transcript.write(Planned(plan=plan_toml(plan), roster=roster_toml(office.roster)))
    with pytest.raises(files.ConfigurationError, match="Training 3 has not ended"):
        trainings.new(plan, schema, office.roster)
    third.keep_release(b"first")
    third.keep_release(b"first")
    with pytest.raises(files.ConfigurationError, match="holds another release"):
        third.keep_release(b"second")
    assert third.release() == b"first"


@pytest.mark.parametrize("told", [False, True])
def test_a_training_that_is_stopped_says_how_it_goes_on(nation, fedscore, monkeypatch, told):
    from fedscore import coordinating

    def stopped(office, _, training, **__):
        if told:
            with training.transcript() as transcript:
                plan, roster = training.plan(), training.roster()
                transcript.write(Planned(plan=plan_toml(plan), roster=roster_toml(roster)))
        raise KeyboardInterrupt

    monkeypatch.setattr(coordinating, "run_over_flower", stopped)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    start = ("coordinator", "start", "coordinator", "plan.toml", "--schema", "schema.toml")
    _, _, err = fedscore(*start)
    assert ("`fedscore coordinator resume coordinator` goes on" in err) is told
    assert bool(list(Path("coordinator/trainings").iterdir())) is told
