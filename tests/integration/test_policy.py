"""The institution's policy: one rule broken at a time, what its people read and the coordinator."""

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from clients import weighing
from clients.configuration import load_configuration, load_daemon_configuration
from clients.policy import Peers, Policy, consider, fits, rate
from federation.canonical import digest
from federation.errors import ConfigurationError
from federation.messages import Invite, RefusalCode, Refuse
from federation.plan import plan_toml
from federation.pricing import price_of
from federation.privacy.ledger_entries import Reserved, Spent
from federation.privacy.ledger_rules import HOUR_SECONDS, Account, balance_of, following, record
from federation.privacy.units import BudgetUnits, Population, Price
from federation.query import Question
from federation.secure_aggregation.upload import Upload
from tests.federations import (
    NOW,
    clock,
    federation,
    open_policy,
    roster_of,
    signed_plan,
    small_schema,
)
from tests.integration.test_institution_command import (  # noqa: F401  fixtures
    BANKS,
    CONFIG,
    built,
    fedscore,
    init,
    nation,
)
from tests.sessions import card, room

OTHER = digest("test/other schema")

# One change of an open policy, what its people read, and what the coordinator is told.
BROKEN = (
    ({"coordinator": "ab" * 32}, "is not the one we trust", RefusalCode.SIGNATURE),
    ({"approved_peers": ("bank-01", "bank-03")}, "but not bank-02", RefusalCode.PARTICIPANTS),
    ({"approved_peers": ()}, "but not bank-01, bank-02, bank-03", RefusalCode.PARTICIPANTS),
    ({"purposes": ("research",)}, "is not one of this policy's purposes", RefusalCode.POLICY),
    ({"modes": ("local", "institution")}, "mode 'joint' is not one of", RefusalCode.POLICY),
    ({"schemas": (OTHER,)}, "is not one of this policy's schemas", RefusalCode.SCHEMA),
    ({"least_participants": 5}, "participants 4 is below", RefusalCode.PARTICIPANTS),
    ({"least_quorum": 5}, "quorum 4 is below", RefusalCode.PARTICIPANTS),
    ({"least_threshold": 4}, "threshold 3 is below", RefusalCode.PARTICIPANTS),
    ({"least_colluders": 2}, "colluders 1 is below", RefusalCode.PARTICIPANTS),
    (
        {"least_audited_share": 1.0},
        "is below this policy's least_audited",
        RefusalCode.PARTICIPANTS,
    ),
    ({"longest_validity_days": 1}, "2.0 days exceeds", RefusalCode.POLICY),
    ({"delta": 1e-7, "epsilon_per_plan": 8.0}, "exceeds this policy's delta", RefusalCode.POLICY),
    ({"epsilon_per_plan": 3.9}, "exceeds this policy's epsilon_per_plan", RefusalCode.PRICE),
)


def plan_of_two_days(schema, **changes):
    return signed_plan(schema, days=2, **changes)


def rules_of(plan, policy, *, schema=None, roster=None, split=None, most_people=100, now=None):
    schema = schema or small_schema()
    balance = balance_of(Account(), NOW, policy.limits)
    return (
        *fits(
            plan,
            identifier="bank-00",
            schema=schema,
            roster=roster or roster_of(plan),
            approved_peers=policy.approved_peers,
            split=split or plan.people.split,
            most_people=most_people,
            now=now or plan.valid_from,
        ),
        *consider(plan, price_of(plan, small_schema()), policy, balance),
    )


@pytest.mark.parametrize(("changes", "told", "code"), BROKEN, ids=str)
def test_each_line_of_a_policy_is_a_rule_that_fails_alone_and_says_why(changes, told, code):
    plan = plan_of_two_days(small_schema())
    assert all(rule.holds for rule in rules_of(plan, open_policy(plan)))
    broken = [rule for rule in rules_of(plan, open_policy(plan, **changes)) if not rule.holds]
    assert {rule.code for rule in broken} == {code}
    assert all(told in rule.text for rule in broken), broken
    assert len(broken) == (2 if code is RefusalCode.PRICE else 1), "trained and held-out people"


def test_a_plan_that_breaks_a_rule_does_not_get_as_far_as_its_module(tmp_path, monkeypatch):
    loaded = []

    def runs_here(plan, _schema):
        loaded.append(plan.name)
        yield from ()

    monkeypatch.setattr(weighing, "runs_here", runs_here)
    for changes, taken in (({"purposes": ("research",)}, False), ({}, True)):
        where = tmp_path / str(taken)
        where.mkdir()
        found = federation(where, policy=changes)
        with found.seats() as seats:
            reply = seats["bank-00"].send(Invite(plan=plan_toml(found.plan)))
        assert isinstance(reply, Refuse) != taken
        assert loaded == [found.plan.name] * taken


@pytest.mark.parametrize(("changes", "told", "code"), BROKEN[1:], ids=str)
def test_the_daemon_refuses_by_the_same_rule_logs_the_words_and_sends_the_code(
    tmp_path, changes, told, code
):
    found = federation(tmp_path, policy=changes, days=2)
    with found.seats() as seats:
        seat = seats["bank-00"]
        reply = seat.send(Invite(plan=plan_toml(found.plan)))
        assert reply == Refuse(code=code, peer="")
        assert told in seat.log[-1]
        assert seat.ledger.head()[0] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"approved_peers": ("bank-01", "bank-02", "bank-03", "bank-77")},
        {"approved_peers": Peers.ROSTER},
        {"schemas": (OTHER, small_schema().digest)},
        {"least_participants": 4},
        {"least_quorum": 4},
        {"least_threshold": 3},
        {"least_audited_share": 0.02},
        {"longest_validity_days": 2},
        {"rounds_per_hour": 1},
    ],
    ids=str,
)
def test_a_plan_that_just_keeps_a_line_is_taken(tmp_path, changes):
    found = federation(tmp_path, policy=changes, days=2)
    assert found.plan.participation.audited_share == 0.02
    with found.seats() as seats:
        seats["bank-00"].accept(found.plan)


def test_a_plan_of_another_federation_is_refused(tmp_path):
    found = federation(tmp_path)
    foreign = signed_plan(found.schema, federation="elsewhere")
    with found.seats() as seats:
        seat = seats["bank-00"]
        reply = seat.send(Invite(plan=plan_toml(foreign)))
        assert reply == Refuse(code=RefusalCode.POLICY, peer="")
        assert "federation 'elsewhere' is not ours, 'test-federation'" in seat.log[-1]


def test_what_does_not_fit_this_institution_is_said_in_words_that_are_true():
    plan = signed_plan(small_schema())
    other = replace(plan.people.split, salt="ab" * 32)
    fewer = msgspec.structs.replace(roster_of(plan), members=roster_of(plan).members[:2])
    late = plan.valid_until + timedelta(seconds=1)
    uninvited = signed_plan(small_schema(), invited=("bank-01", "bank-02", "bank-03"))
    policy = open_policy(plan)
    cases = (
        (rules_of(plan, policy, now=late), "now is not between"),
        (rules_of(plan, policy, schema=small_schema(rows="many")), "is not ours"),
        (rules_of(plan, policy, roster=fewer), "but not bank-02, bank-03"),
        (rules_of(plan, policy, split=other), "holds out other people than our"),
        (rules_of(plan, policy, most_people=2001), "for 2,000 people of an institution, we"),
        (rules_of(uninvited, policy), "we, bank-00, are not invited"),
    )
    for rules, told in cases:
        (broken,) = (rule.text for rule in rules if not rule.holds)
        assert told in broken


# How often.


def answers(*seconds: int) -> Account:
    """The account of a ledger with one answer at each time."""
    account, plan = Account(), digest("test/plan")
    price = Price(trained=BudgetUnits(10**6), held_out=BudgetUnits(1))
    entries = [Reserved(plan=plan, price=price, alone=price, split=digest("test/split"))]
    entries += [
        Spent(
            plan=plan,
            question="step",
            round=number,
            attempt=0,
            population=Population.TRAINED,
            units=BudgetUnits(1),
        )
        for number in range(len(seconds))
    ]
    for entry, time in zip(entries, (seconds[0], *seconds), strict=True):
        record(account, following(account, NOW + time, entry))
    return account


@pytest.mark.parametrize(
    ("times", "now", "within"),
    [
        ((0,), 0, 1),
        ((0,), HOUR_SECONDS, 1),
        ((0,), HOUR_SECONDS + 1, 0),
        ((0, 1, 2, HOUR_SECONDS + 1), HOUR_SECONDS + 1, 3),
        ((0, 1, 2, 9000), 9000, 1),
        ((5, 5, 5), 0, 3),
    ],
)
def test_answers_are_counted_within_any_60_minutes(times, now, within):
    policy = open_policy(signed_plan(small_schema()), rounds_per_hour=2)
    balance = balance_of(answers(*times), NOW + now, policy.limits)
    assert balance.answers_last_hour == within
    rule = rate(balance, policy)
    assert rule.holds is (within < 2)
    assert f"last hour: {within}, of at most this policy's rounds_per_hour = 2" in rule.text


def test_a_question_beyond_the_rate_is_refused_before_it_is_noted_or_paid_and_later_answered(
    tmp_path,
):
    with room(tmp_path) as found:
        found.join()
        seat = found.seat(0)
        once = msgspec.structs.replace(seat.policy, rounds_per_hour=1)
        seat.institution._weighing = replace(seat.institution._weighing, policy=once)
        bins = found.opening(Question.BINS)
        step = found.opening(Question.STEP, card=card())
        upload = seat.handle(bins)
        seat.require_refused(step, RefusalCode.UNAVAILABLE)
        assert "rounds_per_hour = 1" in seat.log[-1]
        assert seat.handle(bins) == upload, "what was answered is said again at any rate"
        seat.ledger._clock = lambda: clock() + HOUR_SECONDS
        seat.require_refused(step, RefusalCode.UNAVAILABLE)
        seat.ledger._clock = lambda: clock() + HOUR_SECONDS + 1
        assert isinstance(seat.send(step), Upload), "the very same question"


# The configuration file.

POLICY = """
[policy]
coordinator = "abababababababababababababababababababababababababababababababab"
approved_peers = "roster"
purposes = ["credit-scoring"]
least_participants = 3
least_quorum = 3
least_threshold = 3
least_colluders = 1
least_audited_share = 0.0
longest_validity_days = 31
rounds_per_hour = 600
delta = 1e-6
epsilon_per_plan = 1.0
epsilon_per_year = 2.0
epsilon_lifetime = 5.0
"""
FILE = 'id = "bank"\ntitle = "Bank"\nmost_people = 9\ntable = "t.parquet"\n' + POLICY


def loaded(tmp_path: Path, text: str):
    (tmp_path / "institution.toml").write_text(text)
    return load_configuration(tmp_path / "institution.toml")


def test_every_line_of_a_policy_must_be_there_but_the_lists_of_schemas_and_modes(tmp_path):
    policy = loaded(tmp_path, FILE).policy
    assert policy.approved_peers is Peers.ROSTER
    assert policy.schemas == ()
    assert policy.modes == ("joint",)
    for name in Policy.__struct_fields__:
        if name not in ("schemas", "modes"):
            with pytest.raises(ConfigurationError, match=f"missing required field `{name}`"):
                loaded(tmp_path, re.sub(rf"(?m)^{name} = .*\n", "", FILE))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('coordinator = "abc"', "coordinator of 64"),
        ('coordinator = "' + "AB" * 32 + '"', "coordinator of 64"),
        ('schemas = ["mine"]', "schemas by digest"),
        ('modes = ["joint", "open"]', "modes"),
        ('approved_peers = "everybody"', "approved_peers"),
        ("approved_peers = true", "approved_peers"),
        ("approved_peers = [1]", "approved_peers"),
        ("least_participants = 2", "least_participants >= 3"),
        ("least_quorum = 2", "least_quorum >= 3"),
        ("least_threshold = 2", "least_threshold >= 3"),
        ("least_colluders = 0", "least_colluders >= 1"),
        ("least_audited_share = 1.01", "in \\[0, 1\\]"),
        ("least_audited_share = -0.01", "in \\[0, 1\\]"),
        ("least_audited_share = nan", "in \\[0, 1\\]"),
        ("longest_validity_days = 0", "in \\[1, 3650\\]"),
        ("longest_validity_days = 3651", "in \\[1, 3650\\]"),
        ("longest_validity_days = 1.5", "longest_validity_days"),
        ("rounds_per_hour = 0", "rounds_per_hour >= 1"),
        ("rounds_per_hour = true", "rounds_per_hour"),
        ("most_rounds = 1", "most_rounds"),
    ],
)
def test_a_line_out_of_its_range_or_type_is_named(tmp_path, line, told):
    name = line.partition(" ")[0]
    text = re.sub(rf"(?m)^{name} = .*$", line, FILE)
    with pytest.raises(ConfigurationError, match=told):
        loaded(tmp_path, text if text != FILE else FILE + line)


def test_what_init_writes_names_every_line_of_a_policy_and_waits_for_a_person(nation):  # noqa: F811
    text = Path(CONFIG).read_text()
    policy = text[text.index("[policy]") :]
    for name in Policy.__struct_fields__:
        assert re.search(rf"(?m)^(# )?{name} = ", policy), name
    assert len(policy.splitlines()) <= 25, "one reads it in a minute"
    assert load_daemon_configuration(Path(CONFIG)).policy.schemas == ()
    assert load_daemon_configuration(Path(CONFIG)).policy.modes == ("joint",)
    assert 'approval = "person"' in text


# Considering.


def listed(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Returns size, mode, time of change and content of every file and directory below."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        status = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_size, status.st_mode, status.st_mtime_ns, content)
    return found


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_considering_opens_no_connection_and_writes_nothing(
    nation,  # noqa: F811
    fedscore,  # noqa: F811
    monkeypatch,
    more,
):
    class NoSocket(socket.socket):
        def __new__(cls, *_, **__):
            raise AssertionError("a connection was opened")

    before = listed(nation)
    monkeypatch.setattr(socket, "socket", NoSocket)
    monkeypatch.setattr(socket, "create_connection", NoSocket)
    monkeypatch.setattr(socket, "getaddrinfo", NoSocket)
    code, out, err = fedscore("institution", "consider", CONFIG, "plan.toml", *more)
    assert (code, err) == (0, "")
    assert listed(nation) == before
    if more:
        rules = json.loads(out)["rules"]
        assert all(rule["holds"] for rule in rules)
        said = " ".join(rule["text"] for rule in rules)
        for name in Policy.__struct_fields__:
            words = {"coordinator": "we trust", "approved_peers": "our roster", "schemas": "schema"}
            words |= {"epsilon_per_year": "(year", "epsilon_lifetime": "lifetime"}
            assert words.get(name, name) in said, name


# What the environment overrides is said.


def test_every_command_says_what_the_environment_overrides(nation, fedscore, monkeypatch):  # noqa: F811
    moved = Path(BANKS[0], "state").rename("moved").resolve()
    assert fedscore("institution", "status", CONFIG)[0] == 78
    monkeypatch.setenv("FEDSCORE_STATE", str(moved))
    said = f"FEDSCORE_STATE overrides the file: state = '{moved}'"
    for command in (("status", CONFIG), ("consider", CONFIG, "plan.toml")):
        code, _, err = fedscore("institution", *command)
        assert (code, said in err) == (0, True)
    monkeypatch.setenv("FEDSCORE_POLICY__EPSILON_LIFETIME", "99")
    code, _, err = fedscore("institution", "status", CONFIG)
    assert (code, "What people decide" in err) == (78, True)


def test_init_makes_what_it_is_told_whatever_the_environment_says(
    nation,  # noqa: F811
    fedscore,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setenv("FEDSCORE_STATE", "/elsewhere")
    assert init(fedscore, "bank-77")[0] == 0
    assert Path("bank-77", "state", "ledger.sqlite").exists()


@pytest.mark.slow
def test_a_daemon_logs_what_the_environment_overrides_and_then_why_it_stops(nation):  # noqa: F811
    done = subprocess.run(
        [sys.executable, "-m", "fedscore.command", "institution", "run", CONFIG],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "FEDSCORE_TABLE": "/nowhere.parquet", "FEDSCORE_STATE": "/nowhere"},
    )
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 78
    assert [line["level"] for line in told] == ["warning", "warning", "error"]
    assert "FEDSCORE_STATE overrides the file" in told[0]["event"]
    assert "FEDSCORE_TABLE overrides the file" in told[1]["event"]
